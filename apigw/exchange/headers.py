"""
``Headers``: ordered header fields as raw byte pairs, in the order and the case in which they came off the wire.

Names are looked up case-insensitively (RFC 9110 5.1); an index is built the first time somebody asks, and parsed
heads are remembered and shared between requests, so most requests never build one.

Not here: the meaning of any field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Pair = tuple[bytes, bytes]


class Headers:
    """
    Header fields in order. Those of a parsed head are shared: change them only on a ``copy()``
    (``Request.edit_headers`` and ``Response.edit_headers`` make one).

    Names may be given in any case; lower case is a little faster. Names that come out have the sender's case.
    """

    __slots__ = ("_index", "pairs")

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self.pairs: list[Pair] = list(pairs)
        self._index: dict[bytes, list[bytes]] | None = None

    def _lookup(self) -> dict[bytes, list[bytes]]:
        index = self._index
        if index is None:
            index = self._index = {}
            for name, value in self.pairs:
                index.setdefault(name.lower(), []).append(value)
        return index

    def get(self, name: bytes, default: bytes | None = None) -> bytes | None:
        """The first value of the field ``name``, or ``default``."""
        values = self._lookup().get(name)
        if values is None and not name.islower():
            values = self._lookup().get(name.lower())
        return values[0] if values else default

    def get_all(self, name: bytes) -> list[bytes]:
        """All values of the field ``name``, in order; empty if there is none."""
        return list(self._lookup().get(name if name.islower() else name.lower(), ()))

    def joined(self, name: bytes) -> bytes | None:
        """All values of a list-valued field as one, joined by ``, `` (RFC 9110 5.3); None if there is none."""
        values = self._lookup().get(name if name.islower() else name.lower())
        return b", ".join(values) if values else None

    def add(self, name: bytes, value: bytes) -> None:
        """Append a field line."""
        self.pairs.append((name, value))
        self._index = None

    def set(self, name: bytes, value: bytes) -> None:
        """Make ``value`` the only value of ``name``."""
        self.remove(name)
        self.add(name, value)

    def remove(self, name: bytes) -> bool:
        """Remove all lines of ``name``. True if there was one."""
        name = name.lower()
        if name not in self._lookup():
            return False
        self.pairs = [pair for pair in self.pairs if pair[0].lower() != name]
        self._index = None
        return True

    def copy(self) -> Headers:
        """Headers of one's own, to be changed."""
        return Headers(self.pairs)

    def __contains__(self, name: bytes) -> bool:
        return name in self._lookup() or (not name.islower() and name.lower() in self._lookup())

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        # Names only: values may be credentials, and a repr ends in logs.
        return f"<Headers {[name.decode('latin-1') for name, _ in self.pairs]}>"
