"""
What all parts of a running gateway share, and what outlives a reload: clock, wheel, metrics, store, addresses to trust.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.threads import deferToThread

from apigw.config.gateway import GatewaySettings
from apigw.exchange.addresses import UNIX
from apigw.exchange.request import Request
from apigw.gateway.fetching import Outside
from apigw.gateway.room import Room
from apigw.net.files import Files
from apigw.net.resolver import Resolver
from apigw.net.side_work import SideWork
from apigw.net.timers import TICK, Wheel
from apigw.observability.instruments import FILE_FAILURES
from apigw.observability.metrics import Metrics
from apigw.policies.revocation import Revocations, RevocationSettings
from apigw.routing.tree import GatewayResource
from apigw.stores.limits import MemoryLimits
from apigw.stores.memory import MemoryStore
from apigw.upstream.dialling import Dialling

COARSE = 0.25
"""Seconds between two calls of ``ticks``."""


THREADS = max(1, len(os.sched_getaffinity(0)) - 1)
"""Threads that compute at the same time: with more of them than processors the loop's thread would have to wait."""


class Shared:
    """
    One a process.

    :ivar ready: False before the listeners are open, and while the gateway drains.
    :ivar ticks: called with the time every quarter of a second: one timer for all who have something coarse to do.
    :ivar finished: an exchange ended: counts and logs it.
    :ivar root: the routes in force.
    :ivar room: how many clients may be connected.
    :ivar asked: the consumers and the list of revoked tokens that policies were built with.
    """

    def __init__(self) -> None:
        self.clock = monotonic
        self.wheel = Wheel(monotonic)
        self.metrics = Metrics()
        self.store = MemoryStore(time.time)  # noqa: TID251 - what is shared ends at a time of day
        self.limits = MemoryLimits(monotonic, self.later)
        self.names = Resolver(monotonic)
        self.dialling = Dialling(self.names)
        self.outside = Outside(self.wheel, self.later, self.dialling)
        self.files = Files(self._count_file)
        self.side_work = SideWork()
        self._threads = DeferredSemaphore(THREADS)
        self.room = Room(monotonic)
        self.ready = False
        self.finished: Callable[[Request, int, int, float], None] = lambda *_: None
        self.root: GatewayResource | None = None
        self.asked: tuple[dict[str, Any], Revocations | None] | None = None
        self._revocations: Revocations | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self.ticks: list[Callable[[float], None]] = []

    def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Run something in a thread, as soon as fewer than ``THREADS`` are at work."""
        made: Deferred[Any] = self._threads.run(deferToThread, call, *arguments)
        return made

    def later(self, delay: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call something after so many seconds; what is returned cancels it."""
        return asyncio.get_running_loop().call_later(delay, call).cancel

    def revocations(self, settings: RevocationSettings | None) -> Revocations | None:
        """The list of revoked tokens, if there is a ``[revocation]``; the one of before if it is the same."""
        if settings is None:
            self._revocations = None
        elif self._revocations is None or self._revocations.settings != settings:
            now = time.time  # noqa: TID251 - tokens tell the time of day
            self._revocations = Revocations(settings, self.store, self.clock, now, self.later)
        return self._revocations

    def _count_file(self, path: str) -> None:
        self.metrics.counter(FILE_FAILURES, path).value += 1

    def remember(self) -> Callable[[], None]:
        """Note what building another configuration changes here; what is returned puts it back."""
        upstreams, asked, revocations = self.outside.upstreams, self.asked, self._revocations
        servers = self.names.servers

        def put_back() -> None:
            self.outside.upstreams, self.asked, self._revocations = upstreams, asked, revocations
            self.names.use(servers)

        return put_back

    def start(self) -> None:
        """Let the wheel turn."""
        loop = asyncio.get_running_loop()
        coarse = self.clock()

        def tick() -> None:
            nonlocal coarse
            self._ticking = loop.call_later(TICK, tick)
            self.wheel.tick()
            now = self.clock()
            if now >= coarse:
                coarse = now + COARSE
                for each in [*self.ticks]:
                    each(now)

        tick()

    def stop(self) -> None:
        """Stop the wheel, and close what was kept open."""
        self.outside.close()
        self.names.close()
        if self._ticking is not None:
            self._ticking.cancel()


def trusted(settings: GatewaySettings) -> Callable[[str], bool]:
    """Whether an address is that of a trusted proxy. Peers of UNIX sockets are if ``trust_unix`` says so."""
    networks, trust_unix = settings.trusted_proxies, settings.trust_unix

    @lru_cache(maxsize=4096)
    def contains(address: str) -> bool:
        if address == UNIX:
            return trust_unix
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in networks)

    return contains
