"""
An origin that does what the path says: ``/ok``, ``/404``, ``/hang`` (until the connection ends), ``/reset`` (in the
middle of its answer), ``/slow`` (a moment), ...; it counts what is in flight, and how each request ended.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

ANSWERS = {
    b"ok": b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"is":"ok"}',
    b"404": b'HTTP/1.1 404 Not Found\r\nContent-Length: 17\r\n\r\n{"secret":"none"}',
    b"500": b'HTTP/1.1 500 Oops\r\nContent-Length: 17\r\n\r\n{"secret":"oops"}',
    b"invalid": b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n<html>secret</html>"[:-2],
    b"toobig": b"HTTP/1.1 200 OK\r\nContent-Length: 2002\r\n\r\n" + b'"' + b"x" * 2000 + b'"',
}


class Programme:
    """
    The origin.

    :ivar in_flight: requests that have no whole answer and whose connection is there. :ivar most: the most of them.
    :ivar ended: how many requests ended how: ``answered``, ``reset`` by us, ``cut`` by the gateway.
    :ivar seen: request targets, in order.
    """

    def __init__(self) -> None:
        self.in_flight = self.most = 0
        self.ended: Counter[str] = Counter()
        self.seen: list[str] = []
        self.port = 0
        self._server: Any = None
        self._idle: list[asyncio.Future[None]] = []
        self.connections: set[_Connection] = set()

    async def start(self) -> Programme:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        self._server.close()
        for connection in list(self.connections):
            connection.transport.abort()
        while self.connections:
            await asyncio.sleep(0)

    def begun(self) -> None:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)

    def over(self, how: str) -> None:
        self.in_flight -= 1
        self.ended[how] += 1
        if not self.in_flight:
            waiting, self._idle = self._idle, []
            for each in waiting:
                if not each.done():
                    each.set_result(None)

    async def until_idle(self) -> None:
        """Wait until nothing is in flight."""
        while self.in_flight:
            future = asyncio.get_running_loop().create_future()
            self._idle.append(future)
            await future


class _Connection(asyncio.Protocol):
    transport: Any

    def __init__(self, programme: Programme) -> None:
        self._programme = programme
        self._buffer = b""
        self._busy = False
        self._timer: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._programme.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end or self._busy:
            return
        self._buffer = rest
        target = head.split(b" ", 2)[1]
        self._programme.seen.append(target.decode())
        self._programme.begun()
        self._busy = True
        how = target[1:].partition(b"?")[0]
        if how == b"hang":
            return
        if how == b"slow":
            self._timer = asyncio.get_running_loop().call_later(0.005, self._answer, b"ok")
        elif how == b"reset":
            self.transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"is":')
            self._busy = False
            self._programme.over("reset")
            asyncio.get_running_loop().call_later(0.005, self.transport.close)
        else:
            self._answer(how)

    def _answer(self, how: bytes) -> None:
        self._busy = False
        self._programme.over("answered")
        if not self.transport.is_closing():
            self.transport.write(ANSWERS[how])

    def connection_lost(self, exc: Exception | None) -> None:
        self._programme.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._busy:
            self._busy = False
            self._programme.over("cut")
