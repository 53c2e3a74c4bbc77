"""
The PROXY protocol, versions 1 and 2, as a balancer in front of the gateway speaks it: who the client really is.

``parse`` understands the header, without sockets. ``ProxyRules`` is one listener's: which peers are believed, and for
how long a header may be on its way. Its ``wrap`` makes a protocol factory that reads the header first and then hands
the connection over: the inner protocol gets uvloop's transport, but for ``get_extra_info("peername")``, which is the
client, and ``"proxy_peername"``, which is the balancer. From then on nothing of this stands between the two.

Source: "The PROXY protocol", versions 1 and 2, of 2020/03/05. Not here: speaking it towards upstreams.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.logger import Logger

from apigw.exchange.addresses import peer_address, plain_address

log = Logger()

LONGEST_V1 = 107
"""Bytes of a version 1 header with its CRLF, at most (section 2.1)."""
LONGEST_V2 = 16 + 4096
"""Bytes of a version 2 header that are accepted. Addresses need up to 232; TLVs may hold a certificate."""
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
TELL_EVERY = 10.0
"""Seconds between two log lines about connections that were refused."""

Address = tuple[str, int]


class MalformedHeader(ValueError):
    """What came first is not a PROXY header as the specification wants it."""


class Header(NamedTuple):
    """
    One header.

    :ivar client: who connected to the balancer, or None when it speaks for itself (LOCAL), doesn't know (UNKNOWN,
        UNSPEC), or names something that is no TCP address: then the connection's own addresses hold.
    :ivar server: what the client connected to; None likewise.
    :ivar length: bytes that the header takes; the client's own begin after them.
    """

    client: Address | None
    server: Address | None
    length: int


def parse(data: bytes) -> Header | None:
    """
    Read the header that ``data`` begins with; version 2's TLVs are skipped.

    :param data: all that was received so far.
    :returns: None if more is needed; it is never needed beyond ``LONGEST_V2`` bytes.
    :raises MalformedHeader: as soon as it can't become a header any more.
    """
    if data.startswith(b"PROXY "[: len(data)]):
        return _parse_v1(data)
    if data.startswith(SIGNATURE[: len(data)]):
        return _parse_v2(data)
    raise MalformedHeader("no PROXY header")


def _parse_v1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, LONGEST_V1)
    if end < 0:
        if len(data) >= LONGEST_V1:
            raise MalformedHeader("the version 1 header does not end")
        return None
    try:
        _, family, *rest = data[:end].decode("ascii").split(" ")
        if family == "UNKNOWN":
            return Header(None, None, end + 2)
        source, destination, source_port, destination_port = rest
        parse_ip = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}[family]
        client = (plain_address(str(parse_ip(source))), _port(source_port))
        server = (str(parse_ip(destination)), _port(destination_port))
    except (ValueError, KeyError) as error:
        raise MalformedHeader("the version 1 header is malformed") from error
    return Header(client, server, end + 2)


def _port(text: str) -> int:
    port = int(text)
    if str(port) != text or port > 65535 or port < 0:  # int() takes signs, spaces, underscores, leading zeros
        raise ValueError(text)
    return port


def _parse_v2(data: bytes) -> Header | None:
    if len(data) > 12 and data[12] not in (0x20, 0x21):
        raise MalformedHeader("neither LOCAL nor PROXY of version 2")
    if len(data) > 13 and (data[13] >> 4 > 3 or data[13] & 15 > 2):
        raise MalformedHeader("an unassigned address family or transport")
    if len(data) < 16:
        return None
    length = 16 + int.from_bytes(data[14:16], "big")
    if length > LONGEST_V2:
        raise MalformedHeader("the version 2 header is too long")
    if len(data) < length:
        return None
    local, family = data[12] == 0x20, data[13]
    if local or family not in _TCP:
        return Header(None, None, length)
    kind, form = _TCP[family]
    if length < 16 + form.size:
        raise MalformedHeader("the version 2 header is too short for its addresses")
    source, destination, source_port, destination_port = form.unpack_from(data, 16)
    client = (plain_address(socket.inet_ntop(kind, source)), source_port)
    return Header(client, (socket.inet_ntop(kind, destination), destination_port), length)


_TCP = {
    0x11: (socket.AF_INET, struct.Struct("!4s4sHH")),
    0x21: (socket.AF_INET6, struct.Struct("!16s16sHH")),
}


class ProxyRules:
    """
    What the PROXY protocol is on one listener.

    :param trusted: whether the peer with this IP address, or ``unix:``, may say who the client is. The connections of
        others are cut before a byte is read: without a header nobody could tell who they are.
    :param timeout: seconds until the header must be complete.
    :ivar waiting: connections whose header is not complete; they belong to no site yet.
    """

    def __init__(self, trusted: Callable[[str], bool], timeout: float = 5.0) -> None:
        self.trusted = trusted
        self.timeout = timeout
        self.waiting: set[ProxyProtocol] = set()
        self._told = float("-inf")
        self._refused = 0

    def wrap(self, factory: Callable[[], asyncio.BaseProtocol]) -> Callable[[], ProxyProtocol]:
        """A protocol factory whose connections begin with a header, and go on as one of ``factory``."""
        return lambda: ProxyProtocol(self, factory)

    def abort(self) -> None:
        """Cut the connections that have not sent their header."""
        for protocol in list(self.waiting):
            protocol.abort()

    def refused(self, peer: str, why: str, now: float) -> None:
        """Log a refused connection, with a count in place of a flood."""
        self._refused += 1
        if now - self._told >= TELL_EVERY:
            log.warn(
                "PROXY protocol: the connection of {peer} was refused: {why} ({count} since the last such line)",
                peer=peer,
                why=why,
                count=self._refused,
            )
            self._told = now
            self._refused = 0


class ProxyProtocol(asyncio.Protocol):
    """
    A connection until its PROXY header is complete.

    :ivar since: when it was accepted, in the loop's time.
    """

    __slots__ = ("_data", "_factory", "_loop", "_peer", "_rules", "_timer", "_transport", "since")

    _transport: asyncio.Transport

    def __init__(self, rules: ProxyRules, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self._rules = rules
        self._factory = factory
        self._data = b""
        self._peer = ""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._loop = asyncio.get_running_loop()
        self._peer = peer_address(transport.get_extra_info("peername"))
        self._rules.waiting.add(self)
        self.since = self._loop.time()
        if self._rules.trusted(self._peer):
            self._timer = self._loop.call_later(self._rules.timeout, self._refuse, "its header did not come in time")
        else:
            self._refuse("it is not one of trusted_proxies")

    def data_received(self, data: bytes) -> None:
        if self not in self._rules.waiting:
            return
        self._data += data
        try:
            header = parse(self._data)
        except MalformedHeader as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._hand_over(header)

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()

    def abort(self) -> None:
        """Cut the connection."""
        self._done()
        self._transport.abort()

    def give_way(self) -> bool:
        """Cut it, because its descriptor is needed; whether it still was there."""
        if self not in self._rules.waiting:
            return False
        self.abort()
        return True

    def _refuse(self, why: str) -> None:
        self._rules.refused(self._peer, why, self._loop.time())
        self.abort()

    def _done(self) -> None:
        self._rules.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hand_over(self, header: Header) -> None:
        self._done()
        inner: Any = self._factory()
        transport = self._transport
        transport.set_protocol(inner)
        inner.connection_made(_Introduced(transport, header) if header.client else transport)
        rest = self._data[header.length :]
        if rest and not transport.is_closing():
            # The inner protocol may have put another in its place by now.
            receiver: Any = transport.get_protocol()
            receiver.data_received(rest)


class _Introduced(asyncio.Transport):
    """uvloop's transport with another peer's name. Its methods are the transport's own: no call more."""

    def __init__(self, transport: asyncio.Transport, header: Header) -> None:
        super().__init__()
        self._transport = transport
        self._header = header
        for name in _METHODS:
            setattr(self, name, getattr(transport, name))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            return self._header.client
        if name == "proxy_peername":
            return self._transport.get_extra_info("peername", default)
        return self._transport.get_extra_info(name, default)


_METHODS = (
    "abort",
    "can_write_eof",
    "close",
    "get_protocol",
    "get_write_buffer_limits",
    "get_write_buffer_size",
    "is_closing",
    "is_reading",
    "pause_reading",
    "resume_reading",
    "set_protocol",
    "set_write_buffer_limits",
    "write",
    "write_eof",
    "writelines",
)
