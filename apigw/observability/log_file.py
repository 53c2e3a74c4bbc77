"""
``LogFile``: where log lines go, a file or standard output, written without ever stopping the data path.

A full disk, a reader that went away or one that is slow must not fail or delay a request. So nothing here raises, pipes
and sockets are written without blocking, and what can't be written waits in a bounded buffer; beyond it, whole
pieces are dropped and counted. Each outage is logged once, and once when it is over.

Not here: what the lines say (``apigw.observability.access_log``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
from collections.abc import Callable

from twisted.logger import Logger

MAX_PENDING = 4 * 1024 * 1024
"""Bytes that may wait for a file or reader before lines are dropped."""

PIPE_PIECE = 4096
"""PIPE_BUF of Linux: up to here a write to a pipe is whole or not at all, so lines of several workers never mix."""

WRITE_PIECE = 256 * 1024
"""Bytes handed to one write to a file."""

PIPE_SIZE = 1024 * 1024
"""Bytes asked of the kernel for a pipe's buffer (its default upper limit for unprivileged processes)."""

STANDARD_OUTPUT = "-"

log = Logger()


class LogFile:
    """
    An append-only destination of lines.

    :ivar lost: lines that were dropped since the start.
    """

    def __init__(self, where: str | int) -> None:
        """
        :param where: a path, ``-`` for standard output, or an open file descriptor (which stays its owner's).
        :raises OSError: when the file can't be opened. Later failures are only counted and logged.
        """
        self.where = where
        self.lost = 0
        self._pending = bytearray()
        self._failing = False
        self._lost_before_outage = 0
        self._close: Callable[[], None]
        self._write_some: Callable[[bytearray], int]
        self._fd = -1
        self._open()

    def write(self, data: bytearray) -> None:
        """Write whole lines, now or as soon as there is room. Never raises or waits. ``data`` is ours from now on."""
        if not self._pending:
            self._pending = data
        elif len(self._pending) + len(data) <= MAX_PENDING:
            self._pending += data
        else:
            self.lost += data.count(b"\n")
        self.push()

    def push(self) -> None:
        """Try again to write what waits."""
        pending = self._pending
        if not pending:
            return
        done = 0
        outage: OSError | None = None
        try:
            done = self._write_some(pending)  # as a rule that is all of it
            while done < len(pending):
                done += self._write_some(pending[done : done + WRITE_PIECE])
        except BlockingIOError:
            pass  # a slow reader: the rest waits for the next push
        except OSError as error:
            outage = error
        # Before anything is logged: the log may be this very file.
        del pending[:done]
        if outage is not None:
            self._failed(outage)
        elif self._failing and not pending:
            self._recovered()

    def reopen(self) -> None:
        """Open the path anew, after a log rotation moved the old file. The old file stays if that fails."""
        if not isinstance(self.where, str) or self.where == STANDARD_OUTPUT:
            return
        self.push()
        close = self._close
        try:
            self._open()
        except OSError as error:
            log.error(
                "{where} can't be opened again: {error}; the old file stays in use", where=self.where, error=str(error)
            )
            return
        close()
        # What the old file had no room for goes to the new one.
        self.push()

    def close(self, patience: float = 1.0) -> None:
        """Write what waits, giving a slow reader ``patience`` seconds, and close."""
        self.push()
        if self._pending and not self._failing:
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            for _ in range(10):
                if not self._pending or self._failing:
                    break
                poll.poll(patience * 100)
                self.push()
        self.lost += self._pending.count(b"\n")
        self._pending.clear()
        self._close()
        self._write_some = len  # later lines vanish

    def _open(self) -> None:
        if isinstance(self.where, str) and self.where != STANDARD_OUTPUT:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            # Others may not read it: an access log holds personal data.
            fd = os.open(self.where, flags, 0o640)
        else:
            fd = os.dup(1 if isinstance(self.where, str) else self.where)
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            self._write_some = lambda data: os.write(fd, data)
            self._close = lambda: os.close(fd)
        elif stat.S_ISSOCK(mode):
            # Journald hands out a socket as standard output.
            connection = socket.socket(fileno=fd)
            self._write_some = lambda data: connection.send(_whole_lines(data), socket.MSG_DONTWAIT)
            self._close = connection.close
        else:
            fd = self._open_pipe(fd)
            self._close = lambda: os.close(fd)
        self._fd = fd

    def _open_pipe(self, fd: int) -> int:
        """
        A pipe or terminal. O_NONBLOCK belongs to what the descriptor shares with other processes (a shell, say), so it
        isn't set on it: the same pipe is opened once more for ourselves.
        """
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            # Not ours to open (made before privileges were dropped), or no /proc: ask before each write.
            poll = select.poll()
            poll.register(fd, select.POLLOUT)

            def write_if_ready(data: bytearray) -> int:
                if not poll.poll(0):
                    raise BlockingIOError
                return os.write(fd, _whole_lines(data))

            self._write_some = write_if_ready
            return fd
        os.close(fd)
        with contextlib.suppress(OSError):  # not a pipe, or the user's pages for pipes are used up
            fcntl.fcntl(own, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._write_some = lambda data: os.write(own, _whole_lines(data))
        return own

    def _failed(self, error: OSError) -> None:
        if not self._failing:
            self._failing = True
            self._lost_before_outage = self.lost
            log.error("{where} can't be written: {error}; lines are kept up to {limit} bytes, then dropped",
                      where=self.where, error=str(error), limit=MAX_PENDING)  # fmt: skip

    def _recovered(self) -> None:
        self._failing = False
        log.warn("{where} can be written again; {lost} lines were lost",
                 where=self.where, lost=self.lost - self._lost_before_outage)  # fmt: skip


def _whole_lines(data: bytearray) -> bytearray:
    """As many whole lines as one write to a pipe takes in one piece; a longer line goes in parts."""
    if len(data) <= PIPE_PIECE:
        return data
    return data[: data.rfind(b"\n", 0, PIPE_PIECE) + 1 or PIPE_PIECE]
