"""
Text with places that each request fills: ``user-{jwt.sub}``.

    {header.NAME}  {query.NAME}  {path.NAME}      of the request; NAME of a path is what the route's template calls it
    {jwt.CLAIM}  {consumer.name}                  of who the caller proved to be
    {client.ip}  {route.name}
    {request.id}  .method  .path  .query  .target  .host  .hostname  .scheme      hostname: the host without its port

``{{`` and ``}}`` are braces. A text of which one place can't be filled is not there at all: half a value would mislead.
What clients send never brings line ends or other controls into a value: such a request is refused.

Not here: what the texts are for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote

from apigw.config.problems import did_you_mean
from apigw.config.text import Text, Wrong
from apigw.config.values import Form, one_line
from apigw.exchange.claims import claim_at, field_value, url_value
from apigw.exchange.errors import ClientFault
from apigw.exchange.request import Identity, Request
from apigw.http.fields import is_field_value

Place = Callable[[Request], bytes | None]

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class ValueRefused(ClientFault):
    """What the request brings into a header has line ends or other controls."""

    reason = "header_value_refused"


class Template:
    """
    A compiled text.

    :ivar static: its value, if no request changes it; else None.
    :ivar of_identity: whether it tells who the caller is.
    """

    def __init__(self, source: str, parts: list[bytes | Place], *, of_identity: bool = False) -> None:
        self.source = source
        self.of_identity = of_identity
        self._parts = parts
        fixed = [part for part in parts if isinstance(part, bytes)]
        self.static = b"".join(fixed) if len(fixed) == len(parts) else None

    def render(self, request: Request) -> bytes | None:
        """
        The value for a request; None if a place of it can't be filled.

        :raises ValueRefused: when it can't stand in a header.
        """
        if self.static is not None:
            return self.static
        pieces = []
        for part in self._parts:
            piece = part if isinstance(part, bytes) else part(request)
            if piece is None:
                return None
            pieces.append(piece)
        value = b"".join(pieces)
        if not is_field_value(value):
            raise ValueRefused("the request brings line ends or other controls into a header")
        return value

    def render_url(self, request: Request) -> bytes | None:
        """
        The same, where the text is a URL or a path: what is filled in is percent-encoded, except for parts of the
        request's own target and host.

        :raises ValueRefused: when it can't stand in a header.
        """
        if self.render(request) is None:
            return None
        url = b""
        for part in self._parts:
            if isinstance(part, bytes):
                url += part
            elif part in _OF_URLS:
                url += part(request) or b""
            else:
                host_is_over = b"/" in url.partition(b"://")[2] or url.startswith(b"/")
                safe = "/" if host_is_over else ""
                if isinstance(part, _OfCaller):
                    url += part.in_url(request, safe)
                else:
                    url += quote(part(request) or b"", safe=safe).encode()
        return url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and other.source == self.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __str__(self) -> str:
        return self.source

    __repr__ = __str__


def parse_template(text: Text) -> Template:
    """Compile a text."""
    return compile_template(one_line(text))


def compile_template(source: str) -> Template:
    """
    Compile a text.

    :raises Wrong: for a place that there is not.
    """
    parts: list[bytes | Place] = []
    literal = ""
    at = 0
    of_identity = False
    for found in _PLACE.finditer(source):
        literal += source[at : found.start()]
        at = found.end()
        if found[0] in {"{{", "}}"}:
            literal += found[0][0]
        elif found[1] is None:
            raise Wrong(f"a `{found[0]}` stands alone", "{name}, or {{ and }} for braces")
        else:
            if literal:
                parts.append(literal.encode())
                literal = ""
            parts.append(_place(found[1]))
            of_identity |= found[1].startswith(("jwt.", "consumer."))
    literal += source[at:]
    if literal or not parts:
        parts.append(literal.encode())
    if any(isinstance(part, bytes) and not is_field_value(part) for part in parts):
        raise Wrong("{shown} has control characters")
    return Template(source, parts, of_identity=of_identity)


TemplateText = Annotated[
    Template,
    Form("template", "text, with places such as {jwt.sub}, {header.X-A}, {path.id} or {client.ip}", parse_template),
]


def _place(name: str) -> Place:
    kind, _, member = name.partition(".")
    if name in _FIXED:
        return _FIXED[name]
    if kind in _OPEN and member:
        return _OPEN[kind](member)
    known = [*_FIXED, *(f"{each}.NAME" for each in _OPEN)]
    raise Wrong(f"there is no `{{{name}}}`", "one of " + ", ".join(known), did_you_mean(name, list(_FIXED)))


def _header(name: str) -> Place:
    field = name.lower().encode()
    return lambda request: request.headers.joined(field)


def _query(name: str) -> Place:
    def find(request: Request) -> bytes | None:
        if request.query is None:
            return None
        members = parse_qsl(request.query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
        return next((value.encode("latin-1") for key, value in members if key == name), None)

    return find


def _path(name: str) -> Place:
    def find(request: Request) -> bytes | None:
        value = request.captures.get(name)
        return None if value is None else value.encode("utf-8", "surrogateescape")

    return find


class _OfCaller:
    """
    A place of who the caller is: encoded for headers as ``claims`` says, so that no two values look alike.

    :param find: gives the JSON value, None for none.
    """

    def __init__(self, find: Callable[[Identity], Any]) -> None:
        self._find = find

    def __call__(self, request: Request) -> bytes | None:
        value = self._value(request)
        return None if value is None else field_value(value)

    def in_url(self, request: Request, safe: str) -> bytes:
        """The value as a part of a URL."""
        return url_value(self._value(request), partial(quote, safe=safe))

    def _value(self, request: Request) -> Any:
        return None if request.identity is None else self._find(request.identity)


def _claim(name: str) -> Place:
    return _OfCaller(lambda identity: claim_at(identity.claims, name))


_PORT = re.compile(rb":[0-9]*\Z")

_OPEN: dict[str, Callable[[str], Place]] = {"header": _header, "query": _query, "path": _path, "jwt": _claim}

_FIXED: dict[str, Place] = {
    "consumer.name": _OfCaller(lambda identity: identity.consumer or identity.name),
    "client.ip": lambda request: request.client.encode(),
    "route.name": lambda request: request.route.name.encode() if request.route is not None else None,
    "request.id": lambda request: request.id,
    "request.method": lambda request: request.method,
    "request.path": lambda request: request.path,
    "request.query": lambda request: request.query or b"",
    "request.target": lambda request: request.path if request.query is None else request.path + b"?" + request.query,
    "request.host": lambda request: request.host or None,  # HTTP/1.0 may have none
    "request.hostname": lambda request: _PORT.sub(b"", request.host) or None,
    "request.scheme": lambda request: request.scheme,
}

_OF_URLS = frozenset(place for name, place in _FIXED.items() if name.startswith("request."))
