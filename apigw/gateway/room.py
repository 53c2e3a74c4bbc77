"""
``Room``: how many clients may be connected, so that descriptors are left for services, files and administrators.

Each client may need a connection to a service, so clients get half of what the process itself does not use. When all
places are taken, the clients that have been idle longest are closed to make room (nginx does the same); if none is
idle, a new client is refused as with ``max_connections``.

Not here: the limit of open files (``apigw.net.sockets``), a listener's own ``max_connections``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import Protocol

from twisted.logger import Logger

log = Logger()

MANY = 32 * 1024
"""With room for so many clients, connections to services are not counted each second."""
PAUSE = 0.1
"""Seconds until idle clients are looked for again when there was none."""


class Crowd(Protocol):
    """A listener's connections."""

    @property
    def connections(self) -> int:
        """How many there are."""

    def idle(self) -> Iterable[tuple[float, Callable[[], bool]]]:
        """Of each idle client: since when, and what closes it if it still is idle."""


class Idle(Protocol):
    """A pool of connections to a service."""

    @property
    def open(self) -> int:
        """How many there are."""

    def close_idle(self, most: int) -> int:
        """Close the oldest of the idle ones; how many that were."""


class Room:
    """
    One a process.

    :ivar most: clients that may be connected; 0: as many as come. :ivar spare: descriptors for everything else.
    :ivar crowds: gives all listeners. :ivar pools: gives all pools.
    :ivar closed: idle clients that were closed to make room.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.most = 0
        self.spare = 0
        self.crowds: Callable[[], Iterable[Crowd]] = tuple
        self.pools: Callable[[], Iterable[Idle]] = tuple
        self.closed = 0
        self._clock = clock
        self._left = 0
        self._full_until = 0.0
        self._told = 0

    def take(self) -> bool:
        """Whether one more client may come in; idle ones are closed for it if they must be."""
        self._left -= 1  # those that left since the last count only make more room
        if self._left >= 0 or not self.most:
            return True
        crowds = [*self.crowds()]
        self._left = self.most - 1 - sum(crowd.connections for crowd in crowds)
        if self._left >= 0:
            return True
        now = self._clock()
        if now < self._full_until:
            return False
        closed = 0
        # Several at a time: to look for them takes a while, and whoever needs one will need more.
        for _, close in nsmallest(1 + self.most // 64, _idle(crowds), key=_since):
            closed += close()
        self.closed += closed
        self._left = closed - 1
        if not closed:
            self._full_until = now + PAUSE
        return closed > 0

    def check(self) -> None:
        """
        Close idle connections to services if all together are too many, and log what was closed. Call it every second
        or so.
        """
        if self.closed > self._told:
            log.warn(
                "{count} idle clients were closed to make room for others; by the limit of open files, at most {most}"
                " can be connected",
                count=self.closed - self._told,
                most=self.most,
            )
            self._told = self.closed
        if not 0 < self.most < MANY:
            return
        pools = [*self.pools()]
        surplus = sum(pool.open for pool in pools) - self.most - self.spare // 2
        for pool in pools:
            if surplus <= 0:
                return
            surplus -= pool.close_idle(surplus)


def _idle(crowds: Iterable[Crowd]) -> Iterable[tuple[float, Callable[[], bool]]]:
    for crowd in crowds:
        yield from crowd.idle()


def _since(idle: tuple[float, Callable[[], bool]]) -> float:
    return idle[0]
