"""
An origin that says what it was asked, for tests of failure: ``python -m bench.echo PORT [STATUS [DELAY]]``.

``GET /anything/N`` is answered by STATUS (200) and the body N, so that every answer can be told from every other, after
DELAY seconds.
``/health`` is 200; ``/count`` is how many requests came, those two not counted.

And ``Echo``, which starts, kills, freezes and thaws one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import uvloop

ROOT = Path(__file__).parents[1]


class Answers(asyncio.Protocol):
    """One connection."""

    count = 0
    status = 200
    delay = 0.0

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        self._buffer = data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            path = self._buffer[:end].split(b" ", 2)[1].partition(b"?")[0]
            self._buffer = self._buffer[end + 4 :]
            status, body = self.status, path.rpartition(b"/")[2]
            if path == b"/count":
                status, body = 200, b"%d" % Answers.count
            elif path == b"/health":
                status = 200
            elif path != b"/":
                Answers.count += 1
            answer = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
            if self.delay and path not in {b"/count", b"/health"}:
                asyncio.get_running_loop().call_later(self.delay, self._send, answer)
            else:
                self._transport.write(answer)

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def serve(port: int) -> None:
    """Answer until the process ends."""
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


class Echo:
    """One such process on a port of its own."""

    def __init__(self, port: int, status: int = 200, delay: float = 0.0) -> None:
        self.port = port
        self._arguments = [str(port), str(status), str(delay)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.process = subprocess.Popen([sys.executable, "-m", "bench.echo", *self._arguments], cwd=ROOT)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                self.count()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise TimeoutError("the origin did not start")

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Let it hang: it takes connections and bytes, and answers nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def count(self) -> int:
        """Requests so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/count", timeout=2) as answer:
            return int(answer.read())


if __name__ == "__main__":
    Answers.status = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    Answers.delay = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    uvloop.run(serve(int(sys.argv[1])))
