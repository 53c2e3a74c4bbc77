"""
The gateway as it is run: a twistd process, its output, its signals.

Not here: origins and clients (``tests.origins``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from twisted.internet.threads import deferToThread

TWISTD = Path(sys.executable).with_name("twistd")


def free_port() -> int:
    """A port that nobody has, out of those that the system hands to nobody who asks for any."""
    while True:
        port = random.randrange(20000, 32768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def twistd(folder: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run twistd to its end."""
    return subprocess.run(
        [TWISTD, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **(environ or {})},
    )


class Process:
    """A process in the foreground whose output is kept in files."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder

    @property
    def out(self) -> str:
        """Standard output so far: twistd's log."""
        return (self.folder / "stdout").read_text()

    @property
    def err(self) -> str:
        """Standard error so far."""
        return (self.folder / "stderr").read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end; negative is the signal that ended it."""
        return await deferToThread(self.process.wait, 20)

    async def said(self, words: str, *, times: int = 1) -> None:
        """Wait until the log has ``words``."""
        while self.out.count(words) < times:
            assert self.process.poll() is None, self.out + self.err
            await asyncio.sleep(0.01)

    async def listens(self, port: int) -> None:
        """Wait until the port takes connections."""
        while not takes_connections(port):
            assert self.process.poll() is None, self.out + self.err
            await asyncio.sleep(0.01)


def takes_connections(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def foreground(
    folder: Path, *arguments: str, environ: Mapping[str, str] | None = None, command: tuple[str, ...] = ()
) -> Iterator[Process]:
    """``twistd -n ARGUMENTS`` in ``folder``; killed at the end if it is still there."""
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [*(command or (str(TWISTD), "-n")), *arguments],
            cwd=folder,
            stdout=out,
            stderr=err,
            env={**os.environ, **(environ or {})},
            close_fds=not command,
        )
    try:
        yield Process(process, folder)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def daemon(folder: Path, *arguments: str) -> Iterator[int]:
    """``twistd ARGUMENTS`` in ``folder``: gives the daemon's process id; killed at the end if it is still there."""
    done = twistd(folder, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    pid = int((folder / "twistd.pid").read_text())
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def gone(path: Path) -> None:
    """Wait until a file is removed."""
    end = time.monotonic() + 20
    while path.exists():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
