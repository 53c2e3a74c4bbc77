"""
What a service is told of the client: X-Forwarded-For, -Proto, -Host, -Prefix, Forwarded (RFC 7239), Via, X-Request-Id.

Fields that came in count only if the connection's other end is a trusted proxy, and only those of the family that
trusted proxies write: the others may be the client's own. If they write both families, both must say the same. The
client is found by walking the addresses from the right while they are trusted; the left-most one is whatever the
client wrote. One answer for all: routes, policies, limits and logs use the same ``client``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from apigw.exchange.addresses import UNIX, plain_address
from apigw.exchange.errors import ClientFault
from apigw.http.deadline import parse_timeout
from apigw.http.h1_heads import RequestHead
from apigw.http.targets import valid_host

Trusted = Callable[[str], bool]
Family = Literal["x-forwarded", "forwarded", "both"]
"""The fields that trusted proxies write: X-Forwarded-*, Forwarded, or both."""

MOST_HOPS = 100
"""Members that X-Forwarded-For and Forwarded may have: each takes up to 10 us."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}")
_FORWARDED_PAIR = re.compile(rb'\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)=("(?:[^"\\]|\\.)*"|[^\s";,]*)\s*', re.ASCII)
_ELEMENTS = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*+"?)++')
_PAIRS = re.compile(rb'(?:[^;"]|"(?:[^"\\]|\\.)*+"?)++')
_ALPHANUMERIC = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
        self,
        head: RequestHead,
        peer: str,
        *,
        scheme: bytes,
        host: bytes,
        trusted: Trusted,
        version: bytes = b"1.1",
        family: Family = "both",
    ) -> None:
        """
        :param version: of HTTP, which the request came by: Via says so (RFC 9110 7.6.3).
        :param family: what trusted proxies write; what they don't is dropped.
        :raises ClientFault: 400 ``forwarding_conflict``: a trusted proxy's fields say two things; 400
            ``too_many_hops``: there are more than ``MOST_HOPS`` in one of them.
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
            claims = _Claims(received, family)
            hops, elements = claims.hops, claims.elements
            self.client = _client(peer, hops, trusted)
            if claims.nodes and hops is not claims.nodes and _client(peer, claims.nodes, trusted) != self.client:
                raise _conflict("client")
            if claims.proto in (b"http", b"https"):
                self.scheme = claims.proto
            if claims.host and _is_host(claims.host):
                forwarded_host = claims.host
            request_id = _first(received.get(b"x-request-id"))
            if _REQUEST_ID.fullmatch(request_id):
                self.request_id = request_id
            self.timeout = parse_timeout(_first(received.get(b"x-request-timeout"))) or 0.0
            if claims.prefix[:1] == b"/" and claims.prefix[:2] != b"//":
                self.prefix = claims.prefix.rstrip(b"/")
            if hops and not claims.nodes:
                # What X-Forwarded-* says is said by Forwarded, too: another gateway compares the two.
                first = b";" + elements[0] if elements else b""
                elements = [b"for=" + _node(hop) for hop in hops]
                elements[0] += first
            elif not elements:
                host, scheme = forwarded_host, self.scheme
        via = [*received.get(b"via", ()), version + b" apigw"]
        address = peer.encode()
        addresses = address
        if hops or peer == UNIX:
            addresses = b", ".join(hops if peer == UNIX else [*hops, address])
        if host:
            own = b"for=%b;host=%b;proto=%b" % (_node(address), _quoted(host), scheme)
        else:
            own = b"for=%b;proto=%b" % (_node(address), scheme)
        self.lines = b"%bX-Forwarded-Proto: %b\r\n%bForwarded: %b\r\nVia: %b\r\n" % (
            b"X-Forwarded-For: %b\r\n" % addresses if addresses else b"",
            self.scheme,
            b"X-Forwarded-Host: %b\r\n" % forwarded_host if forwarded_host else b"",
            b", ".join([*elements, own]) if elements else own,
            b", ".join(via),
        )
        self.received = head.lines
        self.ready = b"%b%bX-Request-Id: " % (head.lines, self.lines)


class _Claims:
    """
    What a trusted proxy says of the client.

    :ivar hops: the addresses, the client's first. :ivar elements: those of Forwarded.
    :ivar nodes: the addresses in Forwarded; ``unknown`` for those that are none.
    :ivar proto: lower case. :ivar host, prefix: as they came. All of them empty where nothing is said.
    :raises ClientFault: 400 ``forwarding_conflict``: both families say something else of protocol or host; 400
        ``too_many_hops``.
    """

    __slots__ = ("elements", "hops", "host", "nodes", "prefix", "proto")

    def __init__(self, received: dict[bytes, list[bytes]], family: Family) -> None:
        self.hops: list[bytes] = []
        self.elements: list[bytes] = []
        self.nodes: list[bytes] = []
        self.proto = self.host = self.prefix = b""
        for name in (b"x-forwarded-for", b"forwarded"):
            if sum(value.count(b",") for value in received.get(name, ())) >= MOST_HOPS:
                detail = f"there are more than {MOST_HOPS} proxies in one forwarding field"
                raise ClientFault(detail, reason="too_many_hops")
        if family != "forwarded":
            self.hops = [_plain(hop) for hop in _members(received.get(b"x-forwarded-for"))]
            self.proto = _first(received.get(b"x-forwarded-proto")).lower()
            self.host = _first(received.get(b"x-forwarded-host"))
            self.prefix = _first(received.get(b"x-forwarded-prefix"))
        if family != "x-forwarded" and (forwarded := received.get(b"forwarded")):
            self._take(forwarded)

    def _take(self, forwarded: list[bytes]) -> None:
        self.elements = [
            element for value in forwarded for part in _ELEMENTS.findall(value) if (element := part.strip())
        ]
        pairs = [_pairs(element) for element in self.elements]
        if any(b"for" in each for each in pairs):
            addresses = [_address(each.get(b"for", b"")) for each in pairs]
            self.nodes = [b"unknown" if address is None else address.encode() for address in addresses]
        proto = pairs[0].get(b"proto", b"").lower() if pairs else b""
        host = pairs[0].get(b"host", b"") if pairs else b""
        if self.proto and proto and self.proto != proto:
            raise _conflict("protocol")
        if self.host and host and self.host.lower() != host.lower():
            raise _conflict("host")
        self.proto = self.proto or proto
        self.host = self.host or host
        if not self.hops:
            self.hops = self.nodes


def _conflict(what: str) -> ClientFault:
    detail = f"X-Forwarded-* and Forwarded name another {what}: one of them is not the proxy's (`forwarded_by`)"
    return ClientFault(detail, reason="forwarding_conflict")


def _is_host(text: bytes) -> bool:
    try:
        return bool(valid_host(text))
    except ClientFault:
        return False


def _members(values: list[bytes] | None) -> list[bytes]:
    return [member for value in values or () for part in value.split(b",") if (member := part.strip())]


def _first(values: list[bytes] | None) -> bytes:
    """The left-most member: the value of the proxy nearest to the client, among trusted ones."""
    return values[0].split(b",")[0].strip() if values else b""


def _pairs(element: bytes) -> dict[bytes, bytes]:
    pairs = {}
    for part in _PAIRS.findall(element):
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
        return plain_address(text)
    except ValueError:
        return None


def _plain(hop: bytes) -> bytes:
    """A member of X-Forwarded-For, with IPv4 inside IPv6 as IPv4."""
    if b"ffff:" not in hop.lower():
        return hop
    address = _address(hop)
    return address.encode() if address is not None and "." in address else hop


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
