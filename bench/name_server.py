"""A name server on loopback whose names misbehave, for tests of failure: each name says how."""

from __future__ import annotations

import asyncio
import socket
import struct
from time import monotonic

NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
A = 1
TTL = 1


class Names(asyncio.DatagramProtocol):
    """
    Answers A queries by the first label of the name:

    ``good`` 127.0.0.1; ``hang`` never; ``refused`` REFUSED; ``broken`` SERVFAIL; ``gone`` NXDOMAIN; ``flap`` each of
    these in turn, for two seconds. AAAA is NODATA, and never answered for ``half``, whose A is 127.0.0.1.

    :ivar asked: number of queries by first label.
    """

    def __init__(self) -> None:
        self.asked: dict[bytes, int] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]])
            at += 1 + data[at]
        kind = struct.unpack("!H", data[at + 1 : at + 3])[0]
        first = labels[0].lower()
        self.asked[first] = self.asked.get(first, 0) + 1
        if first == b"flap":
            first = (b"good", b"hang", b"gone", b"broken", b"refused")[int(monotonic() / 2) % 5]
        if first == b"hang" or (first == b"half" and kind != A):
            return
        code = {b"refused": REFUSED, b"broken": SERVFAIL, b"gone": NXDOMAIN}.get(first, NOERROR)
        answers = kind == A and code == NOERROR
        reply = data[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, int(answers), 0, 0) + data[12 : at + 5]
        if answers:
            reply += struct.pack("!HHHIH", 0xC00C, A, 1, TTL, 4) + socket.inet_aton("127.0.0.1")
        if self._transport is not None:
            self._transport.sendto(reply, addr)


async def serve() -> tuple[Names, int]:
    """Answer on a port of its own until the loop ends."""
    transport, names = await asyncio.get_running_loop().create_datagram_endpoint(Names, local_addr=("127.0.0.1", 0))
    return names, transport.get_extra_info("sockname")[1]
