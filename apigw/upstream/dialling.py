"""
``Dialling``: makes connections to targets: over TCP or a unix socket, with or without TLS, within ``timeout.connect``.

A name's addresses are those that the resolver knows now, so a service that moved is found. They are taken in turn, so
that all get their share; one that failed lately comes last. Each way to fail has its own reason code; all of them mean
that nothing of a request was sent.

Not here: names (``apigw.net.resolver``), trying several addresses (``apigw.net.connecting``), how many connections
(``pool``).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import Any, TypeVar

from twisted.logger import Logger

from apigw.exchange.errors import GatewayError, UpstreamFault
from apigw.exchange.responder import drive
from apigw.net.connecting import OUT_OF_DESCRIPTORS, Connecting, SocketAddress
from apigw.net.resolver import Families, Resolver
from apigw.net.system_names import Addresses
from apigw.net.tls_client import ClientTLS, TLSFailure
from apigw.net.turns import TURNS
from apigw.upstream.pool import connect_timeout

log = Logger()

SAID_AGAIN = 60.0
"""Seconds after which the log says again that a target's TLS fails as it did."""

MOST_SAID = 1000
"""Targets of which the last such line is remembered."""

_SAID: dict[str, tuple[str, float]] = {}
"""What was logged of a target, and when it may be again: clients' requests and checks dial it apart from each other."""

BAD_FOR = 30.0
"""Seconds in which an address that failed is tried after the others of its name."""

P = TypeVar("P", bound=asyncio.Protocol)


class Unresolved(OSError):
    """A name has no address, or nobody could say."""


class Dialling:
    """
    One a process.

    :ivar resolver: who knows the addresses of names.
    """

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver

    def dialler(
        self,
        *,
        host: str,
        port: int,
        path: str | None = None,
        tls: ClientTLS | None = None,
        timeout: float,
        server_name: str = "",
        resolve: Families = "any",
    ) -> Dialler:
        """
        How to dial one target.

        :param path: of a unix socket, instead of host and port.
        :param server_name: whom the certificate must name, if it is not ``host``.
        :param timeout: seconds for the name, the connection and the TLS handshake together.
        :param resolve: which addresses of a name count: ``any``, ``ipv4`` or ``ipv6``.
        """
        return Dialler(self, host, port, path, tls, timeout, server_name or host, resolve)


class Dialler:
    """
    Dials one target.

    :ivar named: the target has a name, whose addresses may change.
    """

    def __init__(  # noqa: PLR0917 - made by ``Dialling.dialler``
        self,
        dialling: Dialling,
        host: str,
        port: int,
        path: str | None,
        tls: ClientTLS | None,
        timeout: float,
        server_name: str,
        resolve: Families,
    ) -> None:
        self.host = host
        self.port = port
        self.path = path
        self.tls = tls
        self.timeout = timeout
        self.server_name = server_name
        self.resolve = resolve
        self.resolver = dialling.resolver
        self.literal = _literal(host, port) if path is None else None
        self.named = path is None and self.literal is None
        self._turn = 0
        self._bad: dict[str, float] = {}

    def __call__(
        self, make: Callable[[], P], connected: Callable[[P], None], failed: Callable[[GatewayError], None]
    ) -> Callable[[], None]:
        """
        Make one connection: call ``connected`` with what ``make`` made, or ``failed``.

        :return: what cancels it; then neither is called.
        """
        dial = _Dial(self, make, connected, failed)
        TURNS.wait(dial)
        return dial.cancel

    def watch(self, changed: Callable[[Addresses], None]) -> Callable[[], None]:
        """Call ``changed`` with the addresses of the name when they are others; what is returned ends that."""
        if not self.named:
            return _nothing
        return self.resolver.watch(self.host, self.resolve, changed)

    def in_order(self, addresses: Addresses, now: float) -> list[SocketAddress]:
        """The addresses as they are to be tried: families in turn, IPv6 first; those that failed lately at the end."""
        self._turn += 1
        six, four = ([each for each in addresses if (":" in each) is kind] for kind in (True, False))
        ordered = [
            each for pair in zip_longest(_turned(six, self._turn), _turned(four, self._turn)) for each in pair if each
        ]
        if self._bad:
            ordered.sort(key=lambda each: self._bad.get(each, 0.0) > now)
        return [_socket_address(each, self.port) for each in ordered]

    def passed_over(self, addresses: Iterable[str], until: float) -> None:
        """These failed, or were slower than others: try them last for a while."""
        if len(self._bad) > 256:
            self._bad.clear()
        self._bad.update(dict.fromkeys(addresses, until))

    def answered(self, address: str) -> None:
        """It works."""
        self._bad.pop(address, None)

    def complain(self, failure: TLSFailure, now: float) -> None:
        """Clients are told only that TLS failed; why is the operator's business."""
        where = self.path or f"{self.host}:{self.port}"
        detail, again = _SAID.get(where, ("", 0.0))
        if failure.detail != detail or now >= again:
            if len(_SAID) >= MOST_SAID:
                _SAID.clear()
            _SAID[where] = failure.detail, now + SAID_AGAIN
            log.warn(
                "TLS with {where} failed: {reason}: {detail}", where=where, reason=failure.reason, detail=failure.detail
            )


class _Dial:
    """
    One connection that is being made.

    Its two steps, to begin and to hand a connection on, wait for their turns of the loop: thousands at once must not
    hold up the others.
    """

    __slots__ = (
        "_connected", "_connecting", "_connection", "_dialler", "_failed", "_loop", "_make", "_over", "_reached",
        "_stop_finding", "_timer", "_transport",
    )  # fmt: skip

    def __init__(
        self,
        dialler: Dialler,
        make: Callable[[], Any],
        connected: Callable[[Any], None],
        failed: Callable[[GatewayError], None],
    ) -> None:
        self._dialler = dialler
        self._make = make
        self._connected = connected
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(dialler.timeout, self._fail, TimeoutError())
        self._connecting: Connecting | None = None
        self._stop_finding: Callable[[], None] = _nothing
        self._reached: tuple[socket.socket, str] | None = None
        self._connection: Any = None
        self._transport: asyncio.BaseTransport | None = None
        self._over = False

    def take_turn(self) -> None:
        """Begin, or hand the connection on that is made."""
        if self._reached is not None:
            self._open(*self._reached)
        elif not self._over:
            self._begin()

    def abort(self) -> None:
        """A turn failed."""
        self._fail(OSError("a defect of the gateway"))

    def _begin(self) -> None:
        dialler = self._dialler
        if dialler.path is not None:
            drive(self._loop.create_unix_connection(self._protocol, dialler.path), self._opened, self._fail)
            return
        connecting = self._connecting = Connecting(self._take, self._fail)
        if dialler.literal is not None:
            connecting.add((dialler.literal,), last=True)
            return
        stop = dialler.resolver.find(dialler.host, dialler.resolve, self._found)
        if self._over:
            stop()
        else:
            self._stop_finding = stop

    def cancel(self) -> None:
        """Let go of everything."""
        self._end()
        if self._transport is not None:
            self._transport.abort()  # type: ignore[attr-defined]

    def _found(self, addresses: Addresses, last: bool) -> None:
        assert self._connecting is not None
        if last and not addresses:
            self._fail(Unresolved("there is no address"))
        else:
            self._connecting.add(self._dialler.in_order(addresses, self._loop.time()), last=last)

    def _take(self, sock: socket.socket, address: Any) -> None:
        dialler = self._dialler
        if self._connecting is not None and self._connecting.passed_over:
            until = self._loop.time() + BAD_FOR
            dialler.passed_over([each[0] for each in self._connecting.passed_over], until)
        dialler.answered(address[0])
        self._stop_finding()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reached = (sock, address[0])
        TURNS.wait(self)

    def _open(self, sock: socket.socket, address: str) -> None:
        if self._over:
            sock.close()
            return

        def opened(made: tuple[asyncio.BaseTransport, asyncio.BaseProtocol]) -> None:
            if self._connection is not None:
                self._connection.address = address
            self._opened(made)

        drive(self._loop.create_connection(self._protocol, sock=sock), opened, self._fail)

    def _protocol(self) -> asyncio.Protocol:
        connection: asyncio.Protocol = self._make()
        self._connection = connection
        tls = self._dialler.tls
        if tls is None:
            return connection

        def inside() -> asyncio.Protocol:
            self._loop.call_soon(self._done)  # when its transport is made
            return connection

        return tls.protocol(inside, self._dialler.server_name, self._fail)

    def _opened(self, made: tuple[asyncio.BaseTransport, asyncio.BaseProtocol]) -> None:
        self._transport = made[0]
        if self._over:
            self._transport.abort()  # type: ignore[attr-defined]
        elif self._dialler.tls is None:
            self._done()

    def _done(self) -> None:
        if not self._over:
            self._end()
            self._connected(self._connection)

    def _fail(self, error: BaseException) -> None:
        if self._over:
            return
        if isinstance(error, TLSFailure):
            self._dialler.complain(error, self._loop.time())
            self._loop.call_soon(self.cancel)  # when the alert is sent
            self._end()
        else:
            self.cancel()
        self._failed(_fault(error))

    def _end(self) -> None:
        self._over = True
        self._timer.cancel()
        self._stop_finding()
        self._stop_finding = _nothing
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None


def _nothing() -> None:
    """Ends nothing."""


def _turned(addresses: list[str], turn: int) -> list[str]:
    if len(addresses) < 2:
        return addresses
    first = turn % len(addresses)
    return addresses[first:] + addresses[:first]


def _literal(host: str, port: int) -> SocketAddress | None:
    """The address, if ``host`` is one as it stands."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return found[0][0], found[0][4]


def _socket_address(address: str, port: int) -> SocketAddress:
    if ":" not in address:
        return socket.AF_INET, (address, port)
    if "%" in address and (found := _literal(address, port)) is not None:
        return found
    return socket.AF_INET6, (address, port, 0, 0)


def _fault(error: BaseException) -> UpstreamFault:
    if isinstance(error, TimeoutError):
        return connect_timeout()
    if isinstance(error, TLSFailure):
        return UpstreamFault(f"the service's TLS can't be trusted: {error.reason}", reason="upstream_tls_failed")
    if isinstance(error, Unresolved):
        return UpstreamFault("the service's name is not known", reason="upstream_unresolved")
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return UpstreamFault("the service refuses connections", reason="upstream_refused")
    if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
        return UpstreamFault(
            "the gateway has no free descriptor or port for a connection",
            status=503,
            reason="out_of_descriptors",
            headers=((b"Retry-After", b"1"),),
        )
    return UpstreamFault("the service can't be reached", reason="upstream_unreachable")
