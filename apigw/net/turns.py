"""
Turns of the loop: what one connection has left to do waits, so that no connection holds up the others.

A connection handles a bounded part of what it has received (bytes, and requests, chunks or TLS records), pauses
reading, and calls ``TURNS.wait(self)``. The loop then serves everybody else; afterwards it calls ``take_turn``, and
the connection handles the next part. All connections that wait share ``SHARE`` seconds of each turn, one part each,
first in, first out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

log = Logger()

SHARE: Final = 0.004
"""Seconds of one turn of the loop that all waiting connections together may take."""
LARGEST_READ: Final = 256 * 1024
"""Bytes that uvloop reads at a time. After so many more may be there, and it would go on reading in the same turn."""


class Waiting(Protocol):
    """A connection that has more to do."""

    def take_turn(self) -> None:
        """Handle the next part."""

    def abort(self) -> None:
        """Cut the connection: its turn failed."""


class Turns:
    """
    The connections that wait for their next turn.

    :param soon: calls something in the loop's next turn; None takes the running loop's ``call_soon``.
    """

    def __init__(self, soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._soon = soon
        self._waiting: deque[Waiting] = deque()
        self._scheduled = False

    def wait(self, connection: Waiting) -> None:
        """Call ``connection.take_turn`` once, in the next turn of the loop or a later one."""
        self._waiting.append(connection)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            (self._soon or asyncio.get_running_loop().call_soon)(self._run)
            self._scheduled = True

    def _run(self) -> None:
        self._scheduled = False
        waiting = self._waiting
        until = monotonic() + SHARE
        for _ in range(len(waiting)):  # those that wait again have their next turn after the others
            connection = waiting.popleft()
            try:
                connection.take_turn()
            except Exception:
                log.failure("a turn of {connection!r} failed", connection=connection)
                connection.abort()
            if monotonic() >= until:
                break
        if waiting:
            self._schedule()


TURNS: Final = Turns()
"""Those of this process's loop."""


class _Later:
    """Work of a coroutine that waits for its turn."""

    def __init__(self) -> None:
        self.reached: Deferred[None] = Deferred()

    def take_turn(self) -> None:
        if not self.reached.called:
            self.reached.callback(None)

    def abort(self) -> None:
        """What failed tells those who wait for the coroutine."""


def turn() -> Deferred[None]:
    """Await it before work that many may begin at the same moment, so that all of it isn't done in one turn."""
    later = _Later()
    TURNS.wait(later)
    return later.reached
