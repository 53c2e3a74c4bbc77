"""The PROXY protocol: byte-exact headers in, the client's address out, and nobody who isn't trusted."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.net.proxy_protocol import LONGEST_V2, SIGNATURE, Header, MalformedHeader, ProxyRules, parse


def v2(command: int, family: int, addresses: bytes, tlvs: bytes = b"") -> bytes:
    body = addresses + tlvs
    return SIGNATURE + bytes((command, family)) + struct.pack("!H", len(body)) + body


TCP4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 40000, 443)
TCP6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "::1")
TCP6 += struct.pack("!HH", 1, 65535)

GOOD = {
    "v1 TCP4": (b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\r\n", ("192.0.2.1", 40000), ("198.51.100.2", 443)),
    "v1 TCP6": (b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", ("2001:db8::1", 1), ("::1", 65535)),
    "v1 longest": (
        b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n",
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
    ),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", None, None),
    "v1 UNKNOWN with whatever": (b"PROXY UNKNOWN ffff::1 a b 1 2 3\r\n", None, None),
    "v1 UNKNOWN of 107 bytes": (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None, None),
    "v2 TCP4": (v2(0x21, 0x11, TCP4), ("192.0.2.1", 40000), ("198.51.100.2", 443)),
    "v2 TCP6": (v2(0x21, 0x21, TCP6), ("2001:db8::1", 1), ("::1", 65535)),
    "v2 with TLVs": (v2(0x21, 0x11, TCP4, b"\x01\x00\x02h2" * 800), ("192.0.2.1", 40000), ("198.51.100.2", 443)),
    "v2 as long as may be": (v2(0x21, 0x11, TCP4, b"x" * (4096 - 12)), ("192.0.2.1", 40000), ("198.51.100.2", 443)),
    "v2 LOCAL": (v2(0x20, 0x00, b""), None, None),
    "v2 LOCAL with addresses": (v2(0x20, 0x11, TCP4), None, None),
    "v2 UNSPEC": (v2(0x21, 0x00, b"abc"), None, None),
    "v2 UNIX": (v2(0x21, 0x31, b"/" * 216), None, None),
    "v2 UDP": (v2(0x21, 0x12, TCP4), None, None),
}

BAD = {
    "HTTP": b"GET / HTTP/1.1\r\n",
    "lower case": b"proxy TCP4 192.0.2.1 198.51.100.2 40000 443\r\n",
    "v1 family": b"PROXY UDP4 192.0.2.1 198.51.100.2 40000 443\r\n",
    "v1 nothing": b"PROXY \r\n",
    "v1 two spaces": b"PROXY TCP4  192.0.2.1 198.51.100.2 40000 443\r\n",
    "v1 trailing space": b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 443 \r\n",
    "v1 a tab": b"PROXY TCP4 192.0.2.1\t198.51.100.2 40000 443\r\n",
    "v1 too few": b"PROXY TCP4 192.0.2.1 198.51.100.2 40000\r\n",
    "v1 family and address differ": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "v1 a name": b"PROXY TCP4 localhost 198.51.100.2 40000 443\r\n",
    "v1 octal": b"PROXY TCP4 192.0.02.1 198.51.100.2 40000 443\r\n",
    "v1 port too large": b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
    "v1 port negative": b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
    "v1 port with zeros": b"PROXY TCP4 192.0.2.1 198.51.100.2 0443 443\r\n",
    "v1 port with underscore": b"PROXY TCP4 192.0.2.1 198.51.100.2 4_4 443\r\n",
    "v1 not ASCII": b"PROXY TCP4 192.0.2.1 198.51.100.2 \xc2\xb2 443\r\n",
    "v1 bare LF": b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\n" + b"x" * 107,
    "v1 108 bytes": b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    "v2 version 1": v2(0x11, 0x11, TCP4),
    "v2 command 2": v2(0x22, 0x11, TCP4),
    "v2 family 4": v2(0x21, 0x41, TCP4),
    "v2 transport 3": v2(0x21, 0x13, TCP4),
    "v2 too short": v2(0x21, 0x11, TCP4[:-1]),
    "v2 too long": v2(0x21, 0x11, TCP4, b"x" * (4097 - 12)),
}


@pytest.mark.parametrize(("data", "client", "server"), GOOD.values(), ids=GOOD)
def test_a_header_is_understood_at_every_split(data: bytes, client: Any, server: Any) -> None:
    for end in range(len(data)):
        assert parse(data[:end]) is None
    assert parse(data) == Header(client, server, len(data))
    assert parse(data + b"GET / HTTP/1.1\r\n\r\n") == Header(client, server, len(data))


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_header_is_refused_at_every_split(data: bytes) -> None:
    def fate(size: int) -> bool:
        try:
            return parse(data[:size]) is not None
        except MalformedHeader:
            return False

    assert not any(fate(size) for size in range(len(data) + 1))
    with pytest.raises(MalformedHeader):
        parse(data)


@given(data=st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda more: SIGNATURE + more)))
def test_any_bytes_are_a_header_or_refused_or_wanted_more_of(data: bytes) -> None:
    try:
        header = parse(data)
    except MalformedHeader:
        return
    assert header is None or header.length <= len(data)
    if header is None:
        with pytest.raises(MalformedHeader):  # more is never wanted without end
            while parse(data) is None:
                data += b"x" * LONGEST_V2
            raise MalformedHeader


class Inner(asyncio.Protocol):
    """Notes what a protocol behind the header gets to see."""

    def __init__(self) -> None:
        self.data = b""
        self.lost = asyncio.get_running_loop().create_future()
        self.made = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.made.set_result(transport.get_extra_info("peername"))

    def data_received(self, data: bytes) -> None:
        self.data += data
        if data.endswith(b"?"):
            self.transport.write(b"answer to " + self.data)

    def eof_received(self) -> bool:
        self.transport.write(b"bye")
        self.transport.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Listening:
    """A listener that wants a PROXY header."""

    def __init__(self, *, trusted: Callable[[str], bool] = lambda _: True, timeout: float = 5.0) -> None:
        self.rules = ProxyRules(trusted, timeout)
        self.inner: list[Inner] = []

    def make(self) -> Inner:
        self.inner.append(Inner())
        return self.inner[-1]

    async def connect(self, host: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            self.server = await asyncio.get_running_loop().create_server(self.rules.wrap(self.make), host, 0)
            return await asyncio.open_connection(*self.server.sockets[0].getsockname()[:2])

        return await asyncio.ensure_future(connected())


V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\r\n"


@pytest.mark.parametrize("header", [V1, v2(0x21, 0x11, TCP4, b"\x04\x00\x01x")], ids=["v1", "v2"])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_the_client_s_address_is_the_header_s(header: bytes, size: int) -> None:
    listening = Listening()
    reader, writer = await listening.connect()
    sent = header + b"early?"
    for at in range(0, len(sent), size):
        writer.write(sent[at : at + size])
        await asyncio.sleep(0.001)
    assert await reader.readexactly(16) == b"answer to early?"
    (inner,) = listening.inner
    assert await inner.made == ("192.0.2.1", 40000)
    assert inner.transport.get_extra_info("proxy_peername")[0] == "127.0.0.1"
    assert inner.transport.get_extra_info("sockname") == listening.server.sockets[0].getsockname()
    assert not listening.rules.waiting
    writer.write(b" more?")
    assert await reader.readexactly(22) == b"answer to early? more?"
    writer.write_eof()
    assert await reader.read() == b"bye"
    assert await inner.lost is None
    listening.server.close()


async def test_a_health_check_of_the_balancer_itself_keeps_its_own_address() -> None:
    listening = Listening()
    _, writer = await listening.connect()
    writer.write(v2(0x20, 0x00, b""))
    while not listening.inner:
        await asyncio.sleep(0.001)
    assert await listening.inner[0].made == writer.get_extra_info("sockname")
    writer.close()
    await listening.inner[0].lost
    listening.server.close()


async def refused(listening: Listening, data: bytes) -> None:
    reader, writer = await listening.connect()
    if data:
        writer.write(data)
    try:
        assert await reader.read() == b""
    except ConnectionResetError:
        pass
    assert not listening.inner
    assert not listening.rules.waiting
    writer.close()
    listening.server.close()


async def test_a_peer_that_is_not_trusted_is_cut_off() -> None:
    asked: list[str] = []

    def trusted(peer: str) -> bool:
        asked.append(peer)
        return False

    await refused(Listening(trusted=trusted), V1)
    assert asked == ["127.0.0.1"]


async def test_a_connection_without_a_header_is_cut_off() -> None:
    await refused(Listening(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


async def test_a_header_that_does_not_come_in_time_is_given_up() -> None:
    await refused(Listening(timeout=0.05), b"PROXY TCP4 ")


async def test_connections_without_their_header_are_cut_when_the_listener_goes() -> None:
    listening = Listening()
    reader, writer = await listening.connect()
    writer.write(b"PROXY")
    while not listening.rules.waiting:
        await asyncio.sleep(0.001)
    listening.rules.abort()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    assert not listening.rules.waiting
    writer.close()
    listening.server.close()
