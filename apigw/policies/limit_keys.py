"""
By what a limit counts: ``by = ip | consumer | jwt:CLAIM | header:NAME | route | all``; and what becomes of a request
that does not have it: ``missing = deny | allow | ip``.

Not here: the limits themselves.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Literal

from apigw.config.problems import did_you_mean
from apigw.config.text import Text, Wrong
from apigw.config.values import Form, one_line
from apigw.exchange.claims import claim_at
from apigw.exchange.errors import ClientFault
from apigw.exchange.request import Request
from apigw.http.fields import is_token
from apigw.json_text import write

LONGEST = 40
"""Bytes of a key that are kept as they are; of longer ones a digest is, or clients could fill the memory."""

_MAPPED = bytes(10) + b"\xff\xff"

Missing = Literal["deny", "allow", "ip"]


@dataclass(frozen=True, slots=True)
class By:
    """``header:X-Tenant``: what of a request is counted."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


_PLAIN = ("ip", "consumer", "route", "all")
_NAMED = ("jwt", "header")


def parse_by(text: Text) -> By:
    """``ip``, ``consumer``, ``route``, ``all``, ``jwt:CLAIM`` or ``header:NAME``."""
    kind, colon, name = one_line(text).partition(":")
    if kind in _PLAIN and not colon:
        return By(kind)
    if kind in _NAMED and name and (kind == "jwt" or is_token(name.encode())):
        return By(kind, name)
    raise Wrong("{shown} is nothing that can be counted by", hint=did_you_mean(kind, (*_PLAIN, *_NAMED)))


Key = Annotated[By, Form("key", "ip, consumer, jwt:CLAIM, header:NAME, route or all", parse_by)]


class KeyMissing(ClientFault):
    """The request has not what the limit counts by, and must have it."""

    status = 403
    reason = "limit_key_missing"


def needs_identity(by: By, missing: Missing) -> bool:
    """Whether a limit can't be decided before anyone is authenticated."""
    return by.kind in {"consumer", "jwt"} and missing != "ip"


def key_reader(by: By, missing: Missing) -> Callable[[Request], object]:
    """
    Make what gives the key of a request; None for one that is not limited.

    What is given raises KeyMissing if ``missing`` says so.
    """
    if by.kind == "ip":
        return ip_key
    if by.kind == "all":
        return lambda _request: ""
    if by.kind == "route":
        return lambda request: request.route.name if request.route is not None else ""
    find = {"consumer": _consumer, "jwt": _claim, "header": _header}[by.kind](by.name)

    def key(request: Request) -> object:
        value = find(request)
        if value:
            return value if len(value) <= LONGEST else blake2b(value, digest_size=16).digest()
        if missing == "ip":
            address = ip_key(request)
            return address if isinstance(address, str) else address.hex()  # as text it is nobody's header or claim
        if missing == "deny":
            raise KeyMissing(f"this route counts requests by {by}, and the request has none")
        return None

    return key


def ip_key(request: Request) -> str | bytes:
    """The client's address; of an IPv6 address the network of 64 bits, which is what one customer gets."""
    client = request.client
    if ":" not in client:
        return client
    try:
        packed = socket.inet_pton(socket.AF_INET6, client.partition("%")[0])
    except OSError:
        return client
    return socket.inet_ntoa(packed[12:]) if packed.startswith(_MAPPED) else packed[:8]


def _consumer(_name: str) -> Callable[[Request], bytes]:
    def find(request: Request) -> bytes:
        identity = request.identity
        if identity is None:
            return b""
        return (identity.consumer or f"{identity.method}:{identity.name}").encode("utf-8", "surrogatepass")

    return find


def _claim(name: str) -> Callable[[Request], bytes]:
    def find(request: Request) -> bytes:
        value = claim_at(request.identity.claims, name) if request.identity is not None else None
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        # The number 1 is not the string "1": no string begins with a byte that UTF-8 does not have.
        return b"" if value is None or isinstance(value, (dict, list)) else b"\xff" + write(value)

    return find


def _header(name: str) -> Callable[[Request], bytes]:
    field = name.lower().encode()

    def find(request: Request) -> bytes:
        return request.headers.joined(field) or b""

    return find
