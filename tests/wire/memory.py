"""
The data path in memory: a client's connection, a route to one target, and the target's connections, without a socket.

    path = Path()
    path.client.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    assert path.origin.received == b"GET / HTTP/1.1\\r\\n..."
    path.origin.send(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
    assert path.client.received == ...

Everything happens in the call that causes it, so bytes can be fed at any split, and time is what ``path.clock`` says.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from twisted.web.resource import Resource

from apigw.downstream.h1_channel import H1Channel
from apigw.downstream.site import GatewaySite, Limits
from apigw.exchange.errors import GatewayError
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.http.h1_heads import ResponseHeads
from apigw.http.targets import normalise_path
from apigw.net.timers import Wheel
from apigw.net.turns import Turns
from apigw.upstream.attempt import Attempt
from apigw.upstream.cluster import Cluster
from apigw.upstream.connection import UpstreamConnection
from apigw.upstream.forward import Forward
from apigw.upstream.pool import Pool
from apigw.upstream.target import Target
from apigw.upstream.target_spec import parse_target_line


class Wire(asyncio.Transport):
    """
    One end of a connection: a transport for the gateway's protocol, and for the test what is at the other end.

    :ivar received: what the gateway wrote. :ivar closed: it closed cleanly. :ivar aborted: it cut the connection.
    :ivar unsent: bytes that the other end did not take, as the transport counts them.
    :ivar reading: False while the gateway paused reading. :ivar ended: the gateway sends no more (half-close).
    """

    def __init__(
        self, protocol: asyncio.Protocol, peer: str = "192.0.2.1", settle: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__({"peername": (peer, 4711), "sockname": ("192.0.2.9", 80)})
        self.protocol = protocol
        self._settle = settle
        self.received = b""
        self.closed = self.aborted = self.ended = False
        self.reading = True
        self.unsent = 0
        self._lost = False
        self._held: list[bytes] = []
        protocol.connection_made(self)

    # The gateway's side

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._lost, "written to a lost connection"
        self.received += bytes(data)

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        if not self.is_closing():
            self.closed = True
            self._lose(None)

    def abort(self) -> None:
        if not self.is_closing():
            self.aborted = True
            self._lose(None)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        while self._held and self.reading and not self.is_closing():
            self.protocol.data_received(self._held.pop(0))

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self.protocol.connection_lost(error)

    # The test's side

    def send(self, data: bytes, cuts: list[int] | None = None) -> None:
        """Let ``data`` arrive, cut at these places."""
        at = 0
        for cut in [*(cuts or []), len(data)]:
            if self.is_closing():
                return
            if cut > at:
                if self.reading:
                    self.protocol.data_received(data[at:cut])
                else:
                    self._held.append(data[at:cut])
                self._settle()
                at = cut

    def hang_up(self) -> None:
        """Close from this end."""
        if not self.protocol.eof_received():
            self.close()

    def reset(self) -> None:
        """Break the connection."""
        self.lose(ConnectionResetError())

    def lose(self, error: Exception) -> None:
        """Let the connection fail."""
        self.aborted = True
        self._lose(error)

    def take(self) -> bytes:
        """What was received since the last time."""
        data, self.received = self.received, b""
        return data


class Cells:
    """:ivar statuses: how often the target gave each; 0 for no answer."""

    def __init__(self) -> None:
        self.statuses: defaultdict[int, int] = defaultdict(int)


class Path:
    """
    The data path to one target.

    :ivar client: the client's connection. :ivar origins: connections to the target, the first one first.
    :ivar waiting: what is called in the loop's next turn. :ivar by_hand: the test lets the loop turn itself.
    :ivar finished: (status, reason, bytes out) of each exchange that ended.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        responder: Responder | None = None,
        trusted: bool = False,
        scheme: bytes = b"http",
        pool: dict[str, Any] | None = None,
        refuse: GatewayError | None = None,
    ) -> None:
        self.time = 1000.0
        self.wheel = Wheel(lambda: self.time, Turns(self._soon))
        self.waiting: list[Callable[[], None]] = []
        self.by_hand = False
        self.refuse = refuse
        self.origins: list[Wire] = []
        self.finished: list[tuple[int, str, int]] = []
        self.cells = Cells()
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.target = Target(parse_target_line("http://origin.test:8001"))
        self.target.cells = self.cells
        self.target.pool = self.pool = Pool(
            self._dial, self.wheel, ResponseHeads(), host=b"origin.test:8001", **(pool or {})
        )
        self.cluster = Cluster("u", self, self.wheel, self._later)
        self.forward = Forward(self.cluster)
        root = _Root(responder or self.forward)
        self.site = GatewaySite(
            root,
            limits=limits or Limits(),
            wheel=self.wheel,
            trusted=lambda _: trusted,
            finished=self._finished,
            scheme=scheme,
            clock=lambda: self.time,
        )
        self.site.next_id = lambda: b"id"
        self.client = self.connect()

    def connect(self) -> Wire:
        """Another client connection."""
        return Wire(H1Channel(self.site), settle=self.settle)

    @property
    def origin(self) -> Wire:
        """The newest connection to the target."""
        return self.origins[-1]

    def elsewhere(self, now: float, tried: Any) -> bool:
        return False

    def begin(self, request: Request, now: float, tried: Any) -> Attempt:
        """The cluster's choice: there is one target."""
        return Attempt(self.target, 0, now)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        end = self.time + seconds
        while self.time < end:
            self.time = min(end, self.time + 0.05)
            self.wheel.tick()
            due = [timer for timer in self.timers if timer[0] <= self.time]
            self.timers = [timer for timer in self.timers if timer[0] > self.time]
            for _, call in due:
                call()
            self.settle()

    def _soon(self, call: Callable[[], None]) -> None:
        self.waiting.append(call)

    def settle(self) -> None:
        """Give every connection that waits for a turn of the loop its turns, unless ``by_hand``."""
        while self.waiting and not self.by_hand:
            self.turn()

    def turn(self) -> None:
        """Let the loop turn once."""
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()

    def _later(self, delay: float, call: Callable[[], None]) -> Callable[[], None]:
        timer = (self.time + delay, call)
        self.timers.append(timer)
        return lambda: self.timers.remove(timer) if timer in self.timers else None

    def _dial(
        self,
        make: Callable[[], UpstreamConnection],
        connected: Callable[[UpstreamConnection], None],
        failed: Callable[[GatewayError], None],
    ) -> Callable[[], None]:
        if self.refuse is not None:
            self._later(0.0, lambda: failed(self.refuse))  # type: ignore[arg-type]
            self.advance(0.05)
            return lambda: None
        connection = make()
        self.origins.append(Wire(connection, settle=self.settle))
        connected(connection)
        return lambda: None

    def _finished(self, request: Request, status: int, sent: int, now: float) -> None:
        self.finished.append((status, request.reason, sent))


class _Root(Resource):
    normalise = staticmethod(normalise_path)

    def __init__(self, responder: Responder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.responder = responder

    def route(self, request: Request, done: Done) -> None:
        self.responder(request, done)
