"""
Web origins (RFC 6454), as ``cors`` and ``csrf`` name them.

Not here: what an origin may do.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated

from apigw.config.regex import Regex
from apigw.config.text import Text, Wrong
from apigw.config.values import Form, one_line

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\*\.)?([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5}|:\*)?", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
REMEMBERED = 1000
"""Origins whose verdict is remembered."""
LONGEST = 300
"""Bytes of an origin: a DNS name has at most 255."""


def parse_origin(text: Text) -> str:
    """``https://shop.example``, ``https://*.shop.example``, ``http://localhost:*``, ``null`` or ``*``."""
    value = one_line(text)
    if value in {"*", "null"}:
        return value
    match = _ORIGIN.fullmatch(value)
    if match is None:
        hint = "an origin has no path" if _ORIGIN.match(value) else "an origin begins with http:// or https://"
        raise Wrong("{shown} is not an origin", hint=hint)
    scheme, port = match[1].lower(), match[4] or ""
    return f"{scheme}://{match[2] or ''}{match[3].lower()}{'' if port == _DEFAULT_PORTS.get(scheme) else port}"


Origin = Annotated[
    str, Form("origin", "an origin such as https://shop.example, https://*.shop.example or *", parse_origin)
]


class OriginSet:
    """Origins: exact ones, ``*.`` for hosts below one, ``:*`` for any port, ``*`` for all."""

    def __init__(self, origins: Collection[str]) -> None:
        self.everybody = "*" in origins
        self._exact = frozenset(origin.encode() for origin in origins if "*" not in origin)
        self._patterns = [_pattern(origin) for origin in origins if "*" in origin and origin != "*"]
        self._known: dict[bytes, bool] = {}

    def __contains__(self, origin: bytes) -> bool:
        if len(origin) > LONGEST:
            return self.everybody
        known = self._known.get(origin)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self.everybody or origin in self._exact or any(each.fullmatch(origin) for each in self._patterns)
            self._known[origin] = known
        return known


def _pattern(origin: str) -> Regex:
    text = re.escape(origin).replace(r"://\*\.", r"://(?:[a-z0-9_-]+\.)+")
    return Regex(re.sub(r":\\\*$", "(?::[0-9]{1,5})?", text))
