"""
What a route may ask of a request: patterns of paths and hosts, conditions on values. Parsed from their configured text.

    /api/users          prefix: /api/users, /api/users/, /api/users/1; not /api/usersx
    /api/users/         prefix: what is below; not /api/users itself
    =/api/users         exactly this path
    /users/{id}         template: {id} takes one segment, not empty
    /files/{rest*}      template with a tail: takes all that is left, slashes too, maybe nothing
    ~/v[12]/(?P<x>.+)   regular expression (RE2); the whole path must match; named groups are captured

Static text is brought into the normal form that requests' paths have, so ``/café`` may be written as such.

Everything raises ``ValueError`` with a sentence for whoever wrote the configuration.

Not here: choosing between routes (``table``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import quote, unquote_to_bytes

from apigw.config.regex import Regex
from apigw.exchange.errors import ClientFault
from apigw.http.targets import normalise_path, places_in, valid_host, without_parameters

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


_NORMAL = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)+/?")
"""Paths that have the normal form already, as most have."""


class Kind(IntEnum):
    """The forms of a path pattern, the most specific first."""

    EXACT = 0
    TEMPLATE = 1
    PREFIX = 2
    REGEX = 3


@dataclass(frozen=True, slots=True)
class PathPattern:
    """
    A parsed path pattern.

    :ivar text: as it was written.
    :ivar kind: a template with a tail counts as a prefix.
    :ivar segments: what stands between the slashes; None takes any segment that is not empty.
    :ivar names: index into ``segments`` and name of each capture.
    :ivar tail: the name that takes all that is left, or empty.
    :ivar below: a prefix that wants a further slash.
    """

    text: str
    kind: Kind
    segments: tuple[bytes | None, ...] = ()
    names: tuple[tuple[int, str], ...] = ()
    tail: str = ""
    below: bool = False
    regex: Regex | None = None

    @property
    def rank(self) -> tuple[int | tuple[bool, ...], ...]:
        """Sorts the more specific pattern first; patterns with equal rank that overlap are the same, or regexes."""
        shape = tuple([segment is None for segment in self.segments])
        if self.kind is Kind.TEMPLATE:
            return (self.kind, sum(shape) - len(shape), shape)
        if self.kind is Kind.PREFIX:
            return (self.kind, -len(shape), shape, -self.below)
        return (self.kind,)

    @property
    def captures(self) -> frozenset[str]:
        """The names that it captures."""
        if self.regex is not None:
            return frozenset(self.regex.names)
        if not self.names:
            return frozenset({self.tail} if self.tail else ())
        names = {name for _, name in self.names}
        return frozenset(names | {self.tail} if self.tail else names)

    @property
    def long_captures(self) -> frozenset[str]:
        """Those that may hold slashes."""
        if self.regex is not None:
            return self.captures
        return frozenset({self.tail} if self.tail else ())

    def matches(self, path: bytes) -> bool:
        """Whether a normalised path fits. ``RouteTable.lookup`` finds the same without asking each pattern."""
        path = without_parameters(path)
        if self.regex is not None:
            return self.regex.fullmatch(path)
        segments = path.split(b"/")[1:]
        wanted = len(self.segments)
        if len(segments) < wanted + self.below or (self.kind < Kind.PREFIX and len(segments) != wanted):
            return False
        return all(
            segment != b"" if own is None else segment == own
            for own, segment in zip(self.segments, segments, strict=False)
        )

    def capture(self, path: bytes) -> dict[str, str]:
        """
        What a path that fits has in the places of the names, percent-decoded, with the parameters of its segments.

        :raises ClientFault: 400 ``invalid_path`` when that isn't UTF-8.
        """
        try:
            if self.regex is not None:
                return self._captured_by(self.regex, path)
            segments = path.split(b"/", len(self.segments) + 1)
            captures = {name: _decoded(segments[index + 1]) for index, name in self.names}
            if self.tail:
                captures[self.tail] = _decoded(segments[-1])
        except UnicodeDecodeError:
            raise ClientFault("the path is not UTF-8 where it has a value", reason="invalid_path") from None
        return captures

    def _captured_by(self, regex: Regex, path: bytes) -> dict[str, str]:
        found = regex.spans(without_parameters(path), whole=True)
        if found is None:
            return {}
        places = places_in(path) if b";" in path else range(len(path) + 1)
        spans = {name: found[number] for name, number in regex.names.items()}
        return {name: _decoded(path[places[start] : places[end]]) for name, (start, end) in spans.items() if start >= 0}


def _decoded(value: bytes) -> str:
    return (unquote_to_bytes(value) if b"%" in value else value).decode()


def path_pattern(text: str) -> PathPattern:
    """Parse a route's ``path``."""
    if text.startswith("~"):
        return PathPattern(text, Kind.REGEX, regex=Regex(text[1:]))
    exact = text.startswith("=")
    path = text[1:] if exact else text
    if not path.startswith("/"):
        raise ValueError(f"{text!r} is not a path pattern: it begins with none of /, =/ and ~")
    refuse_parameters(path)
    if exact:
        return PathPattern(text, Kind.EXACT, tuple(static_path(path).split(b"/")[1:]))
    parts = path.split("/")[1:]
    if any(brace in path for brace in "{}"):
        return _template(text, parts)
    segments = tuple(static_path(path).split(b"/")[1:])
    below = segments[-1] == b""
    return PathPattern(text, Kind.PREFIX, segments[:-1] if below else segments, below=below)


def _template(text: str, parts: list[str]) -> PathPattern:
    segments: list[bytes | None] = []
    names: list[tuple[int, str]] = []
    tail = ""
    for index, part in enumerate(parts):
        if "{" not in part and "}" not in part:
            last = index == len(parts) - 1
            if not part and not last:
                raise ValueError(f"{text!r} has an empty segment, which no request's path has")
            segments.append(static_path("/" + part)[1:])
            continue
        name = part[1:-1].removesuffix("*")
        if part[0] != "{" or part[-1] != "}" or not _NAME.fullmatch(name):
            raise ValueError(f"{part!r} in {text!r}: a name in braces takes a whole segment, as in /users/{{id}}")
        if name in (known for _, known in names):
            raise ValueError(f"{text!r} has the name {name} twice")
        if part.endswith("*}"):
            if index != len(parts) - 1:
                raise ValueError(f"{part!r} in {text!r}: a tail stands at the end")
            tail = name
        else:
            names.append((index, name))
            segments.append(None)
    kind = Kind.PREFIX if tail else Kind.TEMPLATE
    return PathPattern(text, kind, tuple(segments), tuple(names), tail, below=bool(tail))


def refuse_parameters(path: str) -> None:
    """:raises ValueError: configured text of a path has a parameter, so that no path would match it."""
    if ";" in path:
        raise ValueError(f"{path!r} can't match: paths match without their parameters (`;` and what follows)")


def static_path(path: str) -> bytes:
    """Configured text of a path in the form that requests' paths have."""
    if _NORMAL.fullmatch(path):
        return path.encode()
    if "?" in path:
        raise ValueError(f"{path!r} has a query: ask for parameters by query.NAME")
    try:
        normal = normalise_path(quote(path, safe="%/!$&'()*+,;=:@~").encode(), allow_encoded_slashes=True)
    except ClientFault as fault:
        raise ValueError(f"{path!r} can't match: {fault.detail}") from None
    if normal.count(b"/") != path.count("/"):
        raise ValueError(f"{path!r} can't match: requests' paths have no dot segments and no empty segments")
    return normal


def too_long_to_match() -> ClientFault:
    """What ``TextTooLong`` means for a request."""
    return ClientFault("a path or value is too long for the expression of a route", reason="too_long_to_match")


@dataclass(frozen=True, slots=True)
class HostPattern:
    """``example.com``, ``*.example.com`` (any depth below it, not itself), or ``*`` for any host. Without a port."""

    text: str
    wildcard: bool
    name: bytes

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts exact hosts first, then wildcards with more labels, then any host."""
        if not self.wildcard:
            return (0, 0)
        return (1, -self.name.count(b".")) if self.name else (2, 0)

    def matches(self, host: bytes) -> bool:
        """Whether a host (``bare_host``) fits."""
        return host.endswith(self.name) if self.wildcard else host == self.name


ANY_HOST = HostPattern("*", wildcard=True, name=b"")


def host_pattern(text: str) -> HostPattern:
    """Parse one of a route's ``hosts``. Names beyond ASCII become their IDNA form."""
    if text == "*":
        return ANY_HOST
    wildcard = text.startswith("*.")
    try:
        name = valid_host((text[2:] if wildcard else text).encode("idna" if not text.isascii() else "ascii"))
    except (ClientFault, UnicodeError):
        raise ValueError(f"{text!r} is not a host: expected example.com or *.example.com") from None
    if b"*" in name:
        raise ValueError(f"{text!r} is not a host: expected example.com or *.example.com")
    if bare_host(name) != name.removesuffix(b"."):
        raise ValueError(f"{text!r} has a port: routes match on the name alone")
    return HostPattern(text, wildcard, b"." + bare_host(name) if wildcard else bare_host(name))


def bare_host(host: bytes) -> bytes:
    """A valid authority without its port and a final dot."""
    if not host.endswith(b"]"):
        name, colon, port = host.rpartition(b":")
        if colon and port.isdigit():
            host = name
    return host.removesuffix(b".")


class Test(IntEnum):
    """What a condition wants of a value, the most specific first."""

    EXACT = 0
    REGEX = 1
    PRESENT = 2
    ABSENT = 3


@dataclass(frozen=True, slots=True)
class Condition:
    """
    On a header field or query parameter; one of several values is enough.

    ``text`` wants exactly that value, ``~REGEX`` a value that matches as a whole, ``*`` any value, ``!`` that there is
    none.

    :ivar name: lower case for a header field.
    """

    name: bytes
    test: Test
    text: str
    value: bytes = b""
    regex: Regex | None = None

    def holds(self, values: Sequence[bytes]) -> bool:
        """Whether the values that the request has under this name are what is wanted."""
        if self.test is Test.EXACT:
            return self.value in values
        if self.regex is not None:
            return any(self.regex.fullmatch(value) for value in values)
        return bool(values) is (self.test is Test.PRESENT)

    def disjoint(self, other: Condition) -> bool:
        """Whether surely no single value satisfies both conditions on the same name."""
        tests = {self.test, other.test}
        if Test.ABSENT in tests:
            return len(tests) > 1
        if tests == {Test.EXACT}:
            return self.value != other.value
        if tests == {Test.EXACT, Test.REGEX}:
            expression, exact = (self, other) if self.regex is not None else (other, self)
            return expression.regex is not None and not expression.regex.fullmatch(exact.value)
        # Whether two expressions overlap can't be told; different ones are taken to be meant as different.
        return tests == {Test.REGEX} and self.text != other.text


def condition(name: str, text: str) -> Condition:
    """Parse the condition ``text`` on the value of ``name``."""
    key = name.encode()
    if text == "*":
        return Condition(key, Test.PRESENT, text)
    if text == "!":
        return Condition(key, Test.ABSENT, text)
    if text.startswith("~"):
        return Condition(key, Test.REGEX, text, regex=Regex(text[1:]))
    return Condition(key, Test.EXACT, text, value=text.encode())


def conditions(texts: Mapping[str, str], *, lower: bool) -> tuple[Condition, ...]:
    """The conditions of ``header.NAME`` (``lower``) or ``query.NAME`` options."""
    return tuple([condition(name.lower() if lower else name, text) for name, text in texts.items()])
