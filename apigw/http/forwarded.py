"""
What a service is told of the client: X-Forwarded-For, -Proto, -Host, -Prefix, Forwarded (RFC 7239), Via, X-Request-Id.

Fields that came in count only if the connection's other end is a trusted proxy. The client is found by walking the
addresses from the right while they are trusted; the left-most one is whatever the client wrote. One answer for all:
routes, policies, limits and logs use the same ``client``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address

from apigw.http.deadline import parse_timeout
from apigw.http.h1_heads import RequestHead

Trusted = Callable[[str], bool]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}")
_FORWARDED_PAIR = re.compile(rb'\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)=("(?:[^"\\]|\\.)*"|[^\s";,]*)\s*', re.ASCII)
_ALPHANUMERIC = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_HOST = _ALPHANUMERIC + b".-:[]_"


class Forwarding:
    """
    What follows from a head, for one connection.

    :ivar client: the client's address. :ivar scheme, host: as the client used them.
    :ivar request_id: a trusted proxy's X-Request-Id, or empty.
    :ivar lines: the fields to send on, less X-Request-Id and X-Forwarded-Prefix.
    :ivar received: the head's own lines. :ivar ready: those, ``lines``, and the name X-Request-Id, to be sent on.
    :ivar prefix: the X-Forwarded-Prefix of a trusted proxy, or empty.
    :ivar timeout: seconds of a trusted proxy's X-Request-Timeout, or 0.0.
    :ivar trusted: whether the connection's other end is a trusted proxy.
    """

    __slots__ = ("client", "host", "lines", "prefix", "ready", "received", "request_id", "scheme", "timeout", "trusted")

    def __init__(
        self, head: RequestHead, peer: str, *, scheme: bytes, host: bytes, trusted: Trusted, version: bytes = b"1.1"
    ) -> None:
        """
        :param version: of HTTP, which the request came by: Via says so (RFC 9110 7.6.3).
        """
        self.client = peer
        self.scheme = scheme
        self.host = host
        self.request_id = b""
        self.prefix = b""
        self.timeout = 0.0
        received = head.forwarding
        self.trusted = trusted(peer)
        hops: list[bytes] = []
        elements: list[bytes] = []
        forwarded_host = host
        if received and self.trusted:
            hops = _members(received.get(b"x-forwarded-for"))
            elements = _members(received.get(b"forwarded"))
            believed = hops or [_pairs(element).get(b"for", b"") for element in elements]
            self.client = _client(peer, believed, trusted)
            nearest = _pairs(elements[0]) if elements and not hops else {}
            proto = _first(received.get(b"x-forwarded-proto")) or nearest.get(b"proto", b"")
            if proto.lower() in (b"http", b"https"):
                self.scheme = proto.lower()
            claimed = _first(received.get(b"x-forwarded-host")) or nearest.get(b"host", b"")
            if claimed and not claimed.translate(None, _HOST):
                forwarded_host = claimed
            request_id = _first(received.get(b"x-request-id"))
            if _REQUEST_ID.fullmatch(request_id):
                self.request_id = request_id
            self.timeout = parse_timeout(_first(received.get(b"x-request-timeout"))) or 0.0
            prefix = _first(received.get(b"x-forwarded-prefix"))
            if prefix[:1] == b"/" and prefix[:2] != b"//":
                self.prefix = prefix.rstrip(b"/")
        via = [*received.get(b"via", ()), version + b" apigw"]
        own = b"for=%b;host=%b;proto=%b" % (_node(peer.encode()), _quoted(host), scheme)
        if hops and not elements:
            elements = [b"for=" + _node(hop) for hop in hops]
        self.lines = (
            b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nForwarded: %b\r\nVia: %b\r\n"
            % (
                b", ".join([*hops, peer.encode()]),
                self.scheme,
                forwarded_host,
                b", ".join([*elements, own]),
                b", ".join(via),
            )
        )
        self.received = head.lines
        self.ready = b"%b%bX-Request-Id: " % (head.lines, self.lines)


def _members(values: list[bytes] | None) -> list[bytes]:
    return [member for value in values or () for part in value.split(b",") if (member := part.strip())]


def _first(values: list[bytes] | None) -> bytes:
    """The left-most member: the value of the proxy nearest to the client, among trusted ones."""
    return values[0].split(b",")[0].strip() if values else b""


def _pairs(element: bytes) -> dict[bytes, bytes]:
    pairs = {}
    for part in element.split(b";"):
        match = _FORWARDED_PAIR.fullmatch(part)
        if match:
            value = match[2]
            pairs[match[1].lower()] = value[1:-1] if value[:1] == b'"' else value
    return pairs


def _client(peer: str, hops: list[bytes], trusted: Trusted) -> str:
    client = peer
    for hop in reversed(hops):
        address = _address(hop)
        if address is None:
            break
        client = address
        if not trusted(client):
            break
    return client


def _address(hop: bytes) -> str | None:
    """The address in an X-Forwarded-For member or ``for=`` value, with or without port; None if it is none."""
    text = hop.decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _node(address: bytes) -> bytes:
    """An address as RFC 7239 6 writes it: IPv6 in brackets and quotes; a UNIX socket has none."""
    if address == b"unix:":
        return b"unknown"
    return b'"[%b]"' % address if address.count(b":") > 1 and not address.startswith(b"[") else _quoted(address)


def _quoted(value: bytes) -> bytes:
    """A value as a token if it can be one, else as a quoted string."""
    if value and not value.translate(None, _ALPHANUMERIC + b".-_"):
        return value
    return b'"%b"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
