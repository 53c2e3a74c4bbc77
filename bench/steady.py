"""
``Steady``: so many requests a second, whatever becomes of those before (an open loop, so that a gateway that hangs is
not spared), each with its number in its path, each answer held against it.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What became of one request.

    :ivar began: monotonic seconds. :ivar took: seconds. :ivar status: 0 if there was no answer.
    :ivar right: whether the answer was its own. :ivar error: why there was none.
    """

    began: float
    took: float
    status: int
    right: bool
    error: str = ""


class _Client(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self.closed = False
        self.idle_since = 0.0  # 0: it was never used
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    @property
    def readable(self) -> bool:
        """Whether there is something to read: between two requests, that is the end."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        mark = head.find(b"content-length:")
        length = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
        if len(self._buffer) - end - 4 < length:
            return
        status, body = int(head[9:12]), self._buffer[end + 4 :]
        self._buffer = b""
        waiting, self.waiting = self.waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result((status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.waiting is not None and not self.waiting.done():
            how = "reset" if exc is not None else "closed"
            kept = f"{monotonic() - self.idle_since:.3f} s after its last answer" if self.idle_since else "new"
            self.waiting.set_exception(ConnectionResetError(f"{how}, {kept}, {len(self._buffer)} bytes"))


@dataclass
class Steady:
    """
    Load on one port.

    :ivar rate: requests a second. :ivar path: in front of the number.
    :ivar patience: seconds after which a client gives up.
    :ivar tls: for connections by TLS.
    """

    port: int
    rate: float
    path: bytes = b"/"
    patience: float = 30.0
    tls: ssl.SSLContext | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._idle: list[_Client] = []
        self._number = 0

    async def run(self, seconds: float) -> None:
        """Send for so long, then wait for what is under way."""
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        start = loop.time()
        sent = 0
        while (now := loop.time()) < start + seconds:
            while sent < (now - start) * self.rate:
                sent += 1
                task = loop.create_task(self._one())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.002)
        while tasks:
            await asyncio.wait([*tasks])

    def close(self) -> None:
        """Close what is kept."""
        for client in self._idle:
            client.transport.close()
        self._idle.clear()

    async def _one(self) -> None:
        self._number += 1
        number = b"%d" % self._number
        began = monotonic()
        status, right, failure = 0, False, ""
        try:
            async with asyncio.timeout(self.patience):
                status, body = await self._ask(number)
                right = body == number
        except (OSError, TimeoutError) as error:
            failure = f"{self.path.decode()}{number.decode()}: {type(error).__name__} {error}"
        self.outcomes.append(Outcome(began, monotonic() - began, status, right, failure))

    async def _ask(self, number: bytes) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        client = None
        while self._idle and client is None:
            kept = self._idle.pop()
            client = None if kept.closed or kept.readable else kept
        if client is None:
            _, client = await loop.create_connection(_Client, "127.0.0.1", self.port, ssl=self.tls)
        waiting = client.waiting = loop.create_future()
        client.transport.write(b"GET %b%b HTTP/1.1\r\nHost: a\r\nX-Number: %b\r\n\r\n" % (self.path, number, number))
        try:
            answer: tuple[int, bytes] = await waiting
        except BaseException:
            client.transport.abort()
            raise
        client.idle_since = monotonic()
        self._idle.append(client)
        return answer

    def statuses(self, since: float = 0.0, until: float = float("inf")) -> Counter[int]:
        """How many of the requests that began in that time got which status."""
        return Counter(each.status for each in self.outcomes if since <= each.began < until)
