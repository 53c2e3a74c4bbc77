"""
``Pool``: the connections to one target: reuse, how many, who waits, how long one is kept.

Idle connections are taken last in, first out: the busiest stay warm, the others grow old and are closed. A request that
finds none waits in a bounded queue, and a connection is dialled for it as long as there may be more; whichever is ready
first, the dialled one or one that is given back, serves the request that waits longest.

Not here: the connection itself (``connection``), making one (``dialling``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from apigw.exchange.errors import GatewayError, UpstreamFault
from apigw.http.h1_heads import ResponseHeads
from apigw.net.timers import Wheel
from apigw.upstream.connection import UpstreamConnection


class Waiter(Protocol):
    """Who wants a connection."""

    def connected(self, connection: UpstreamConnection) -> None: ...

    def unconnected(self, error: GatewayError) -> None:
        """There is no connection to be had."""

    def abandoned(self) -> None:
        """The target is known to be silent."""


Dial = Callable[
    [Callable[[], UpstreamConnection], Callable[[UpstreamConnection], None], Callable[[GatewayError], None]],
    Callable[[], None],
]
"""``dial(make_protocol, connected, failed) -> cancel``."""

Watch = Callable[[Callable[[tuple[str, ...]], None]], Callable[[], None]]
"""``watch(changed) -> stop``: ``changed`` gets the target's addresses when they are others."""

MOST_DIALS = 256
"""Connections to one target that are being made at a time; more requests wait for one of these."""

A_LOOK = 64
"""Requests that are given up in one turn of the wheel: each is an answer to a client."""


def connect_timeout() -> UpstreamFault:
    """No connection was made in time."""
    return UpstreamFault("the service could not be reached in time", status=504, reason="upstream_connect_timeout")


def _nothing() -> None:
    """Cancels nothing."""


class Pool:
    """
    Connections to one target. Counts are of connections and requests, times in seconds; 0 for a maximum means none.

    :param watch: tells of other addresses of the target: connections to those that are gone are closed.
    :param connection: the class of the connections.
    :ivar max_age: after which a connection is closed when its exchange ends. :ivar max_uses: exchanges on one.
    :ivar host: the Host field that is sent there. :ivar base_path: goes in front of every path.
    :ivar idle: those that may be used at once, the last one first.
    :ivar open: all, those being dialled included.
    """

    __slots__ = (
        "_closed",
        "_connection",
        "_dial",
        "_dialling",
        "_dials",
        "_no_descriptors",
        "_unwatch",
        "_waiting",
        "_watch",
        "base_path",
        "connect_timeout",
        "connections",
        "heads",
        "host",
        "idle",
        "idle_timeout",
        "keep_timeout",
        "max_age",
        "max_connections",
        "max_idle",
        "max_uses",
        "max_waiting",
        "next_check",
        "queue_timeout",
        "response_timeout",
        "wheel",
    )

    def __init__(
        self,
        dial: Dial,
        wheel: Wheel,
        heads: ResponseHeads,
        *,
        host: bytes,
        base_path: bytes = b"",
        watch: Watch | None = None,
        connection: Callable[[Pool], UpstreamConnection] = UpstreamConnection,
        max_connections: int = 0,
        max_age: float = 0.0,
        max_uses: int = 0,
        max_idle: int = 1024,
        max_waiting: int = 1024,
        queue_timeout: float = 5.0,
        connect_timeout: float = 3.0,
        keep_timeout: float = 60.0,
        response_timeout: float = 60.0,
        idle_timeout: float = 60.0,
    ) -> None:
        self._dial = dial
        self._watch = watch
        self._unwatch: Callable[[], None] = _nothing
        self._connection = connection
        self.max_age = max_age
        self.max_uses = max_uses
        self.connect_timeout = connect_timeout
        self.host = host
        self.base_path = base_path
        self.wheel = wheel
        self.heads = heads
        self.max_connections = max_connections
        self.max_idle = max_idle
        self.max_waiting = max_waiting
        self.queue_timeout = queue_timeout
        self.keep_timeout = keep_timeout
        self.response_timeout = response_timeout
        self.idle_timeout = idle_timeout
        self.idle: list[UpstreamConnection] = []
        self.connections: set[UpstreamConnection] = set()
        self._dialling: dict[int, Callable[[], None]] = {}
        self._dials = 0
        self._waiting: deque[tuple[float, Waiter]] = deque()
        self._closed = False
        self._no_descriptors = False
        self.next_check = 0.0

    @property
    def open(self) -> int:
        """Connections there are, those being dialled included."""
        return len(self.connections) + len(self._dialling)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return len(self._waiting)

    def acquire(self, waiter: Waiter, now: float, *, fresh: bool = False) -> None:
        """
        Give ``waiter`` a connection, now or later.

        :param fresh: never a kept one: the caller just saw one that was dead.
        """
        idle = self.idle
        while idle and not fresh:
            connection = idle.pop()
            if connection.usable:
                waiter.connected(connection)
                return
        places = self.max_connections - len(self.connections)
        if self.max_connections and len(self._waiting) - places >= self.max_waiting:
            waiter.unconnected(
                UpstreamFault(
                    "the service has all the requests that it may have, and the queue is full",
                    status=503,
                    reason="upstream_overloaded",
                    headers=((b"Retry-After", b"1"),),
                )
            )
            return
        self._waiting.append((now, waiter))
        if not self._dial_one():
            self.wheel.watch(self, now + self._patience)

    def withdraw(self, waiter: Waiter) -> None:
        """``waiter`` wants no connection any more."""
        for entry in self._waiting:
            if entry[1] is waiter:
                self._waiting.remove(entry)
                return

    def release(self, connection: UpstreamConnection) -> None:
        """A connection is free."""
        if self._waiting:
            if connection.usable:
                self._waiting.popleft()[1].connected(connection)
            else:
                self.lost(connection)
        elif self._closed or len(self.idle) >= self.max_idle:
            connection.close()
        else:
            self.idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._unwatch()
            self._unwatch = _nothing
        if connection in self.idle:
            self.idle.remove(connection)
        self._dial_more()

    def close(self) -> None:
        """Keep none from now on; those in use end with their exchange."""
        self._closed = True
        for connection in self.idle:
            connection.close()
        self.idle.clear()

    def close_idle(self, most: int) -> int:
        """Close the oldest of the idle connections; how many that were."""
        oldest = self.idle[:most]
        del self.idle[:most]
        for connection in oldest:
            connection.close()
        return len(oldest)

    def reopen(self) -> None:
        """Keep connections again."""
        self._closed = False

    def abandon(self) -> None:
        """The target is known to be silent: requests without an answer may go elsewhere."""
        for connection in [*self.connections]:
            connection.abandon()
        for _, waiter in [*self._waiting]:
            waiter.abandoned()

    def abort(self) -> None:
        """Cut all."""
        self.close()
        for cancel in list(self._dialling.values()):
            cancel()
        self._dialling.clear()
        waiting, self._waiting = self._waiting, deque()
        for connection in list(self.connections):
            connection.abort()
        for _, waiter in waiting:
            waiter.unconnected(UpstreamFault("the service is no longer asked", reason="upstream_unreachable"))

    def _dial_one(self) -> bool:
        """Dial, if there may be one more connection; whether one is being made."""
        if len(self._dialling) >= MOST_DIALS or (self.max_connections and self.open >= self.max_connections):
            return False
        self._dials += 1
        key = self._dials

        def make() -> UpstreamConnection:
            return self._connection(self)

        def connected(connection: UpstreamConnection) -> None:
            self._dialling.pop(key, None)
            if not connection.usable:  # it was lost already
                failed(connection.fault or UpstreamFault("the connection was closed", reason="upstream_reset"))
                return
            self._no_descriptors = False
            if not self.connections and self._watch is not None:
                self._unwatch = self._watch(self._moved)
            self.connections.add(connection)
            connection.made(self.wheel.clock())
            self.release(connection)
            self._dial_more()

        def failed(error: GatewayError) -> None:
            self._dialling.pop(key, None)
            if error.reason == "out_of_descriptors" and self.connections:
                # It is no failure of the target: a connection that becomes free can serve the request.
                self._no_descriptors = True
                self.wheel.watch(self, self.wheel.clock() + self.queue_timeout)
                return
            if self._waiting:
                self._waiting.popleft()[1].unconnected(error)
            self._dial_more()

        self._dialling[key] = _nothing
        cancel = self._dial(make, connected, failed)
        if key in self._dialling:
            self._dialling[key] = cancel
        return True

    def _dial_more(self) -> None:
        """For those that waited for a place, not for a connection."""
        if len(self._waiting) > len(self._dialling):
            self._dial_one()

    def _moved(self, addresses: tuple[str, ...]) -> None:
        """The target has other addresses: let go of connections to those that it has no more."""
        if addresses:  # none is more likely a mistake of the name servers than the end of the service
            for connection in [*self.connections]:
                if connection.address and connection.address not in addresses:
                    connection.retire()

    @property
    def _patience(self) -> float:
        """Seconds that a request may wait: for a connection that becomes free, or for one that is made."""
        if self._no_descriptors or (self.max_connections and len(self.connections) >= self.max_connections):
            return self.queue_timeout
        return self.connect_timeout + 0.1  # a dial that is under way may say better what is wrong

    def check(self, now: float) -> float:
        """The wheel's look: those who wait too long."""
        patience = self._patience
        for _ in range(A_LOOK):
            if not self._waiting:
                return 0.0
            since, waiter = self._waiting[0]
            if now < since + patience:
                return since + patience
            self._waiting.popleft()
            if patience == self.queue_timeout:
                waiter.unconnected(
                    UpstreamFault(
                        "no connection to the service became free in time",
                        status=503,
                        reason="upstream_queue_timeout",
                        headers=((b"Retry-After", b"1"),),
                    )
                )
            else:
                waiter.unconnected(connect_timeout())
        return now
