"""
``GatewaySite``: what all connections of one listener share, as a ``twisted.web.server.Site`` whose channel is ours.

Not here: one connection (``h1_channel``); the resource tree (``apigw.routing.tree``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Protocol

from twisted.web.resource import IResource
from twisted.web.server import Site

from apigw.exchange.request import Request
from apigw.exchange.responder import Done
from apigw.http.forwarded import Family
from apigw.http.h1_heads import RequestHeads
from apigw.net.timers import Wheel

MOST_LINES = 4096
"""Request lines remembered a listener: hot paths are parsed once. With very many routes there are more, short ones."""


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What a client may cost.

    Sizes in bytes, times in seconds, ``min_rate`` in bytes a second; 0 means no limit for ``max_body`` and
    ``min_rate``. ``underscores`` is what becomes of fields with one in their name: ``keep``, ``drop`` or ``refuse``.
    """

    max_head: int = 32 * 1024
    max_headers: int = 100
    max_target: int = 8 * 1024
    max_body: int = 0
    head: float = 10.0
    body: float = 60.0
    keepalive: float = 75.0
    min_rate: int = 240
    underscores: str = "keep"


class Root(Protocol):
    """The resource tree's lean way in."""

    normalise: Callable[[bytes], bytes]

    def route(self, request: Request, done: Done) -> None: ...


class Channel(Protocol):
    """A connection, whichever HTTP it speaks."""

    @property
    def idle_since(self) -> float:
        """Since when it waits for a request, or for the rest of its head; 0.0 if it does not."""

    def close_idle(self) -> bool:
        """Close it if it is idle; whether it was."""

    def drain(self) -> None:
        """Close now if idle, else after the exchange at work."""

    def abort(self) -> None:
        """Cut the connection."""


Finished = Callable[[Request, int, int, float], None]
"""Called with the request, the status sent (0: none), the bytes sent and the monotonic time, once an exchange ended."""


class GatewaySite(Site):
    """
    The factory of a listener's connections.

    :ivar root: the resource tree; a reload puts another in its place between two requests.
    :ivar trusted: whether an address is one of ``trusted_proxies``. :ivar forwarded_by: what those write.
    :ivar next_id: makes a request id: 12 random digits of the process, 8 or more that count.
    :ivar epoch: another object whenever what was found out about a head may no longer hold.
    :ivar draining: set when the gateway goes away: connections close after the exchange that they are at.
    """

    def __init__(
        self,
        root: IResource,
        *,
        limits: Limits,
        wheel: Wheel,
        trusted: Callable[[str], bool],
        finished: Finished,
        scheme: bytes = b"http",
        forwarded_by: Family = "both",
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(root)  # type: ignore[no-untyped-call]
        self.wheel = wheel
        self.use_proxies(trusted, forwarded_by)
        self.finished = finished
        self.scheme = scheme
        self.clock = clock
        self.draining = False
        self.connections: set[Channel] = set()
        numbers = count(int.from_bytes(os.urandom(3), "big"))
        self.next_id: Callable[[], bytes] = map((os.urandom(6).hex().encode() + b"%08x").__mod__, numbers).__next__
        self.use_limits(limits)
        self.use_root(root)  # type: ignore[arg-type]

    def use_limits(self, limits: Limits) -> None:
        """Put other limits in place, for requests from now on."""
        self.limits = limits
        self.epoch = object()
        self.heads = RequestHeads(limits.max_headers, limits.underscores)
        self.lines: dict[bytes, tuple[bytes, bytes, bytes, bytes | None, bytes | None, bytes]] = {}

    def use_root(self, root: Root) -> None:
        """Put another resource tree in place, for requests from now on."""
        self.resource = self.root = root
        self.epoch = object()
        self.normalise = root.normalise
        self.most_lines = max(MOST_LINES, getattr(root, "remembers", 0))
        self.lines.clear()

    def use_proxies(self, trusted: Callable[[str], bool], forwarded_by: Family) -> None:
        """Believe other proxies, for requests from now on."""
        self.trusted = trusted
        self.forwarded_by = forwarded_by
        self.epoch = object()

    def vouches(self, peer: str) -> bool:
        """Whether the further fields are passed on in which a peer says something of the client (``CLAIMS``)."""
        return self.forwarded_by != "forwarded" and self.trusted(peer)

    def drain(self) -> None:
        """Close idle connections, and the others when their exchange ends."""
        self.draining = True
        for channel in list(self.connections):
            channel.drain()

    def abort(self) -> None:
        """Cut every connection."""
        for channel in list(self.connections):
            channel.abort()
