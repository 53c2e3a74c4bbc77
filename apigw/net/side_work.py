"""
``SideWork``: work that holds the interpreter, like parsing a large JSON text, one piece at a time beside the loop.

    document = await side_work(lambda: read(data))

A library that holds Python's global lock for 20 ms holds up the loop, whichever thread it runs in. So there is one
thread for all such work: pieces never add up to one long wait. After a piece the loop has as much time for itself as
the piece took, and while one runs the loop's thread asks for the lock after 0.5 ms and not, as usual, after 5 ms.

Not here: work that releases the lock, like hashing passwords (``twisted.internet.threads``).
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from time import perf_counter
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.python.failure import Failure

from apigw.exchange.errors import GatewayFault

T = TypeVar("T")

MOST_WAITING = 64
"""Pieces that wait for their turn; more are refused."""

LONGEST_PAUSE = 0.05
"""Seconds between two pieces, at most."""

SWITCH = 0.0005
"""Seconds after which another thread gets the lock while a piece runs, if the piece lets go of it."""


Beside = Callable[[Callable[[], Any]], Deferred[Any]]


def at_once(work: Callable[[], T]) -> Deferred[T]:
    """``SideWork`` without a thread."""
    return maybeDeferred(work)


class _Piece:
    __slots__ = ("done", "failed", "result", "seconds", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.done: Deferred[Any] = Deferred(lambda _: None)
        self.result: Any = None
        self.failed = False
        self.seconds = 0.0


class SideWork:
    """One a process. It may be made before there is a loop."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._waiting: deque[_Piece] = deque()
        self._running = False
        self._queue: SimpleQueue[tuple[_Piece, asyncio.AbstractEventLoop]] | None = None

    def __call__(self, work: Callable[[], T]) -> Deferred[T]:
        """
        Run ``work`` when it is its turn. A piece whose Deferred is cancelled before is left out.

        The Deferred fails with GatewayFault (503 ``busy``) when too many wait.
        """
        if len(self._waiting) >= self._most:
            return fail(
                GatewayFault(
                    "too much waits to be worked on", status=503, reason="busy", headers=((b"Retry-After", b"1"),)
                )
            )
        piece = _Piece(work)
        self._waiting.append(piece)
        if not self._running:
            self._begin()
        return piece.done

    def _begin(self) -> None:
        self._running = False
        while self._waiting:
            piece = self._waiting.popleft()
            if not piece.done.called:
                self._running = True
                if self._queue is None:
                    self._queue = SimpleQueue()
                    threading.Thread(target=_run, args=(self, self._queue), name="apigw side work", daemon=True).start()
                self._queue.put((piece, asyncio.get_running_loop()))
                return

    def _over(self, piece: _Piece) -> None:
        """In the loop."""
        asyncio.get_running_loop().call_later(min(piece.seconds, LONGEST_PAUSE), self._begin)
        if not piece.done.called:
            piece.done.callback(piece.result)
        piece.result = None


def _run(owner: SideWork, queue: SimpleQueue[tuple[_Piece, asyncio.AbstractEventLoop]]) -> None:
    while True:
        piece, loop = queue.get()
        usual = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        began = perf_counter()
        try:
            piece.result = piece.work()
        except BaseException:
            piece.result = Failure()
        finally:
            sys.setswitchinterval(usual)
        piece.seconds = perf_counter() - began
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(owner._over, piece)
        del piece, loop
