"""
Claims: what a token, or an identity provider, says of a caller. How they are found, compared, and written.

They are compared as the JSON values that they are. Written into a header field, no two strings and no two lists of
strings look alike:

- a string is UTF-8, percent-encoded (RFC 3986 2.1) where a byte is not printable ASCII, and where it is ``%``, a comma,
  a space at the start or end, or a bracket at the start;
- numbers, true, false and null are JSON;
- a list of these is its items with commas between; anything deeper is JSON, with ``%`` percent-encoded.

So a service splits at commas, and percent-decodes what it gets.

Not here: which policy asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from apigw.json_text import InvalidJSON, read, show

_PLAIN = bytes(each for each in range(0x20, 0x7F) if each not in b"%,")


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by the way to it with dots (``realm_access.roles``); None if it isn't there."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for step in path.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


def words(value: Any) -> frozenset[str]:
    """Scopes or groups: a list of strings, or one string separated by spaces (RFC 6749 3.3, RFC 8693 4.2)."""
    if isinstance(value, str):
        return frozenset(value.split(" ")) - {""}
    if isinstance(value, list):
        return frozenset(each for each in value if isinstance(each, str))
    return frozenset()


class Wanted:
    """
    The values of a claim that fit, as a configuration writes them.

    :param texts: each fits the string that is the same, and the number, true or false of which it is the JSON text;
        ``*`` fits everything.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._strings = frozenset(texts)
        self._any = "*" in self._strings
        self._others = {_typed(value) for text in self._strings if not isinstance(value := _scalar(text), str)}

    def fits(self, value: Any) -> bool:
        """Whether ``value`` is one of them; of a list, whether one of its items is."""
        values = value if isinstance(value, list) else [] if value is None else [value]
        if self._any:
            return bool(values)
        return any(
            each in self._strings if isinstance(each, str) else _typed(each) in self._others
            for each in values
            if isinstance(each, str | int | float)
        )


def _typed(value: Any) -> tuple[bool, Any]:
    return isinstance(value, bool), value  # 1 == True for Python


def _scalar(text: str) -> Any:
    try:
        value = read(text.encode("utf-8", "surrogatepass"))
    except InvalidJSON:
        return text
    return value if isinstance(value, int | float) else text


def field_value(value: Any, separator: str = ",") -> bytes:
    """
    A claim as a field's value.

    :param separator: a space for scopes: a string is then a list already.
    """
    if isinstance(value, str):
        return _encoded(value, "," if separator == "," else "")
    if isinstance(value, list) and all(each is None or isinstance(each, str | int | float) for each in value):
        return separator.encode().join([_item(each, separator) for each in value])
    return show(value, compact=True).replace("%", "%25").encode()


def _item(value: Any, separator: str) -> bytes:
    return _encoded(value, separator) if isinstance(value, str) else show(value).encode()


def _encoded(text: str, separator: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    if not raw.translate(None, _PLAIN) and separator != " " and raw[:1] not in b" [{" and raw[-1:] not in b" ":
        return raw
    last = len(raw) - 1
    return b"".join([
        b"%%%02X" % each
        if each not in _PRINTABLE
        or chr(each) == separator
        or (each == 0x20 and at in (0, last))
        or (each in b"[{" and at == 0)
        else bytes((each,))
        for at, each in enumerate(raw)
    ])  # fmt: skip


_PRINTABLE = _PLAIN + b","


def url_value(value: Any, quoted: Any) -> bytes:
    """
    A claim as a part of a URL.

    :param quoted: percent-encodes text.
    """
    if isinstance(value, list) and all(each is None or isinstance(each, str | int | float) for each in value):
        return b",".join([url_value(each, quoted) for each in value])
    text = value if isinstance(value, str) else show(value, compact=True)
    made: str = quoted(text.encode("utf-8", "surrogatepass"))
    return made.encode()
