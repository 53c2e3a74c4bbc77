"""
``Listening``: one ``[listen X]`` alive: its socket, what stands between it and HTTP (PROXY protocol, TLS), its site.

A reload keeps a listener whose socket stays the same; its other options change for connections from then on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from apigw.config.addresses import EndpointAddress
from apigw.config.gateway import GatewaySettings
from apigw.config.listen import ListenSettings
from apigw.downstream.h1_channel import H1Channel
from apigw.downstream.site import Finished, GatewaySite, Limits
from apigw.exchange.responder import drive
from apigw.gateway.environment import Shared, trusted
from apigw.net.certificate_files import CertificateError
from apigw.net.certificates import CIPHERS, CertificateStore
from apigw.net.listeners import Listener
from apigw.net.proxy_protocol import ProxyRules
from apigw.net.sockets import open_socket, remove_path
from apigw.net.tls import HandshakeFailure, TLSServer
from apigw.routing.tree import GatewayResource

log = Logger()

SLOW = 1.0
"""Seconds after which a client that has not begun is taken for idle, if room is needed."""

REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b"
)
_BODY = (
    b'{"type": "urn:apigw:problem:too_many_connections", "title": "Service Unavailable", "status": 503, '
    b'"detail": "the gateway has all the connections that it may have", "reason": "too_many_connections"}'
)


class Listening:
    """
    A listener.

    :ivar site: the factory of its connections. :ivar socket: it listens.
    :ivar handshake_failures: how many TLS handshakes came to nothing, by reason.
    :raises CannotListen: from the constructor, which binds.
    """

    def __init__(
        self,
        name: str,
        settings: ListenSettings,
        shared: Shared,
        *,
        root: GatewayResource,
        gateway: GatewaySettings,
        finished: Finished,
        leaving: Mapping[EndpointAddress, socket.socket] | None = None,
    ) -> None:
        """
        :param leaving: the sockets of listeners that leave when this one is there. With the same endpoint, the socket
            is taken over: so no client is refused in between.
        """
        self.name = name
        self.settings = settings
        self._room = shared.room
        self.store: CertificateStore | None = None
        if settings.tls is not None:
            self.store = CertificateStore(
                list(settings.tls.certificates),
                minimum=settings.tls.minimum,
                ciphers=settings.tls.ciphers or CIPHERS,
                alpn=settings.tls.alpn,
            )
        self.site = GatewaySite(
            root,
            limits=_limits(settings),
            wheel=shared.wheel,
            trusted=trusted(gateway),
            forwarded_by=gateway.forwarded_by,
            finished=finished,
            scheme=b"https" if settings.tls is not None else b"http",
            clock=shared.clock,
        )
        self._files = shared.files
        self._looking = False
        self.handshake_failures: dict[str, int] = {}
        self._tls_server: TLSServer | None = None
        self._proxy_rules: ProxyRules | None = None
        self.socket = take_over(settings.endpoint, leaving or {})
        self._listener: Listener | None = None

    async def start(self) -> None:
        """Accept."""
        self._listener = Listener(
            self.socket,
            self._factory(),
            max_connections=self.settings.max_connections,
            connections=lambda: self.connections,
            room=self._room.take,
            refusal=b"" if self.store is not None else REFUSAL % (len(_BODY), _BODY),
        )
        if self._room.most:
            self._listener.backlog = min(self._listener.backlog, self._room.spare)
            self._listener.most_refusals = min(self._listener.most_refusals, self._room.spare // 4)
        await self._listener.start()

    def _factory(self) -> Any:
        site = self.site

        def channel() -> asyncio.BaseProtocol:
            return H1Channel(site)

        made: Any = channel
        if self.store is not None and self.settings.tls is not None:
            made = self._tls_server = TLSServer(
                self.store,
                channel,  # type: ignore[arg-type]
                asyncio.get_running_loop(),
                handshake_timeout=self.settings.tls.handshake_timeout,
                failed=self._handshake_failed,
            )
        if self.settings.proxy_protocol:
            self._proxy_rules = ProxyRules(self._trusts, self.settings.timeout.head)
            made = self._proxy_rules.wrap(made)
        return made

    def _trusts(self, peer: str) -> bool:
        return self.site.trusted(peer)  # a reload changes it

    @property
    def address(self) -> str:
        """Its endpoint, as it is written."""
        return str(self.settings.endpoint)

    @property
    def connections(self) -> int:
        """Connections, those that are still shaking hands or announcing a client included."""
        count = len(self.site.connections)
        if self._tls_server is not None:
            count += len(self._tls_server.waiting)
        if self._proxy_rules is not None:
            count += len(self._proxy_rules.waiting)
        return count

    def idle(self) -> Iterable[tuple[float, Callable[[], bool]]]:
        """Of each idle client, or one that is slow to begin: since when, and what closes it if it still is idle."""
        for channel in self.site.connections:
            if since := channel.idle_since:
                yield since, channel.close_idle
        now = self.site.clock()
        for group in (self._tls_server, self._proxy_rules):
            for waiting in group.waiting if group is not None else ():
                if now - waiting.since >= SLOW:
                    yield waiting.since, waiting.give_way

    def _handshake_failed(self, failure: HandshakeFailure) -> None:
        reasons = self.handshake_failures
        reasons[failure.reason] = reasons.get(failure.reason, 0) + 1
        log.debug("listen {name}: {reason}: {detail}", name=self.name, reason=failure.reason, detail=failure.detail)

    def may_become(self, settings: ListenSettings) -> bool:
        """Whether this listener can go on with other settings: those of its socket and protocols are the same."""
        mine = self.settings
        return (mine.endpoint, mine.proxy_protocol, mine.tls) == (
            settings.endpoint,
            settings.proxy_protocol,
            settings.tls,
        )

    def become(self, settings: ListenSettings, root: GatewayResource, gateway: GatewaySettings) -> None:
        """Go on with other settings and another tree."""
        self.settings = settings
        self.site.use_root(root)
        self.site.use_limits(_limits(settings))
        self.site.use_proxies(trusted(gateway), gateway.forwarded_by)
        if self._listener is not None:
            self._listener.max_connections = settings.max_connections
        if self._proxy_rules is not None:
            self._proxy_rules.timeout = settings.timeout.head

    def look_at_certificates(self) -> None:
        """Take certificates that were replaced. The files are read beside the loop, one look at a time."""
        if self.store is not None and not self._looking:
            self._looking = True
            drive(self._look(self.store), lambda _: None, self._not_looked)

    async def _look(self, store: CertificateStore) -> None:
        path, user = str(store.sources[0]), f"listen {self.name}"
        try:
            found = await self._files.beside(f"{path} of {user}", store.look)
        except TimeoutError as error:
            self._files.failed(path, error, user, log)
            return
        finally:
            self._looking = False
        if found is not None and store.take(found):
            log.info("listen {name}: certificates were replaced", name=self.name)
        wrong = store.last_error
        if wrong is None:
            self._files.good(path, user, log)
        elif found is not None and self._files.failed(path, CertificateError(wrong), user, None):
            log.warn("listen {name}: a certificate can't be used: {why}", name=self.name, why=wrong)

    def _not_looked(self, error: BaseException) -> None:
        self._looking = False
        log.failure("listen {name}: certificates can't be looked at", Failure(error), name=self.name)

    async def leave(self, *, shared: bool = False) -> None:
        """
        Accept no more; connections end with the exchange they are at.

        :param shared: another listener goes on with the same socket.
        """
        if self._listener is not None:
            await self._listener.stop_accepting(shared=shared)
        self._forget_files()
        self.site.drain()

    def _forget_files(self) -> None:
        if self.store is not None:
            self._files.forget(str(self.store.sources[0]), f"listen {self.name}")

    def abort(self, *, shared: bool = False) -> None:
        """
        Cut everything.

        :param shared: another listener goes on with the same socket.
        """
        if self._proxy_rules is not None:
            self._proxy_rules.abort()
        if self._tls_server is not None:
            self._tls_server.abort()
        self.site.abort()
        self.close(shared=shared)

    def close(self, *, shared: bool = False) -> None:
        """Close the socket."""
        self._forget_files()
        if not shared and self.socket.fileno() >= 0:
            remove_path(self.socket)
        if self._listener is not None:
            self._listener.close()
        else:
            self.socket.close()


def take_over(endpoint: EndpointAddress, leaving: Mapping[EndpointAddress, socket.socket]) -> socket.socket:
    """
    A socket for an endpoint: the one that a leaving listener has there, or a new one.

    :raises CannotListen: it can't be made.
    """
    if endpoint in leaving:
        return leaving[endpoint].dup()
    return open_socket(endpoint, [sock for other, sock in leaving.items() if other.overlaps(endpoint)])


def _limits(settings: ListenSettings) -> Limits:
    return Limits(
        max_head=settings.max_head,
        max_headers=settings.max_headers,
        max_target=settings.max_target,
        max_body=settings.max_body or 0,
        head=settings.timeout.head,
        body=settings.timeout.body,
        keepalive=settings.timeout.keepalive,
        min_rate=settings.min_rate,
        underscores=settings.underscores_in_headers,
    )
