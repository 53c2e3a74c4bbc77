"""
``MemoryStore``: values and sets in this process's memory, each with an end, within a bound.

Everything answers at once: the Deferreds that are returned have their results.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed

MOST_VALUES = 100_000
"""Values kept; the oldest goes first. A store that grows with what clients send would be an attack's aim."""


class MemoryStore:
    """
    A store.

    :param now: wall-clock seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._values: dict[bytes, tuple[bytes, float]] = {}
        self._sets: dict[bytes, dict[bytes, float]] = {}

    def get(self, key: bytes) -> Deferred[bytes | None]:
        """The value, or None when there is none (any more)."""
        value, until = self._values.get(key, (None, 0.0))
        if value is not None and until <= self._now():
            del self._values[key]
            value = None
        return succeed(value)

    def put(self, key: bytes, value: bytes, ttl: float) -> Deferred[None]:
        """Keep ``value`` for ``ttl`` seconds."""
        self._values.pop(key, None)
        if len(self._values) >= MOST_VALUES:
            del self._values[next(iter(self._values))]
        self._values[key] = (value, self._now() + ttl)
        return succeed(None)

    def delete(self, key: bytes) -> Deferred[None]:
        """Forget a value."""
        self._values.pop(key, None)
        return succeed(None)

    def set_add(self, key: bytes, member: bytes, until: float) -> Deferred[None]:
        """Put ``member`` into the set ``key`` until the wall-clock time ``until``."""
        self._sets.setdefault(key, {})[member] = until
        return succeed(None)

    def set_discard(self, key: bytes, member: bytes) -> Deferred[None]:
        """Take ``member`` out of the set ``key``."""
        self._sets.get(key, {}).pop(member, None)
        return succeed(None)

    def set_members(self, key: bytes) -> Deferred[list[tuple[bytes, float]]]:
        """The members that have not ended, each with its end."""
        now = self._now()
        members = {member: until for member, until in self._sets.get(key, {}).items() if until > now}
        self._sets[key] = members
        return succeed(list(members.items()))
