"""
``Outside``: asks services that are not routes' upstreams (key sets, introspection, discovery) for policies.

A URL whose host is the name of an ``[upstream X]`` goes through that upstream, with its balancer and breaker; any other
gets pools of its own, by authority.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from apigw.exchange.body import keep
from apigw.exchange.errors import BodyTooLarge, GatewayError, UpstreamFault
from apigw.exchange.headers import Headers, Pair
from apigw.http.h1_heads import ResponseHeads
from apigw.net.timers import Wheel
from apigw.net.tls_client import ClientTLS
from apigw.policies.policy import FetchedResponse
from apigw.upstream.authority import host_field
from apigw.upstream.client import UpstreamClient
from apigw.upstream.cluster import Cluster, OneTarget
from apigw.upstream.dialling import Dialling
from apigw.upstream.forward import Forward
from apigw.upstream.pool import Pool
from apigw.upstream.target import Target
from apigw.upstream.target_spec import TargetSpec, parse_target_line

MOST_FETCHED = 1024 * 1024
"""Bytes of an answer that is taken."""
MOST_AUTHORITIES = 256


class Outside:
    """
    Clients by authority.

    :ivar upstreams: clients of configured upstreams, by name; the gateway puts those in force here.
    """

    def __init__(
        self, wheel: Wheel, later: Callable[[float, Callable[[], None]], Callable[[], None]], dialling: Dialling
    ) -> None:
        self.upstreams: Mapping[str, UpstreamClient] = {}
        self._wheel = wheel
        self._later = later
        self._dialling = dialling
        self._clients: dict[str, tuple[UpstreamClient, Pool]] = {}
        self._tls: ClientTLS | None = None

    async def fetch(
        self,
        method: str,
        url: str,
        headers: Sequence[Pair] = (),
        body: bytes = b"",
        timeout: float = 5.0,  # noqa: ASYNC109 - policies' contract has it
    ) -> FetchedResponse:
        """
        One request, its whole answer.

        :param timeout: seconds for all of it.
        :raises GatewayError: when there is no whole answer of at most 1 MiB in time.
        """
        whole = Deferred.fromCoroutine(self._fetched(method, url, headers, body))
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            whole.cancel()

        stop = self._later(timeout, give_up)
        try:
            return await whole
        except CancelledError:
            if not late:
                raise
            host = urlsplit(url).hostname
            raise UpstreamFault(
                f"{host} gave no whole answer within {timeout:g} s", status=504, reason="upstream_timeout"
            ) from None
        finally:
            stop()

    async def _fetched(self, method: str, url: str, headers: Sequence[Pair], body: bytes) -> FetchedResponse:
        fields: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            fields.setdefault(name, []).append(value)
        content = _Content()
        try:
            response = await self._client(url).request(method, url, headers=fields, data=body or None, unbuffered=True)
            response.deliverBody(content)
            whole = await content.whole
        except (GatewayError, CancelledError):
            raise
        except Exception as error:
            raise UpstreamFault(f"{urlsplit(url).hostname} gave no whole answer: {type(error).__name__}") from error
        pairs = [(name, value) for name, values in response.headers.getAllRawHeaders() for value in values]
        return FetchedResponse(response.code, Headers(pairs), whole)

    def get(self, url: str, headers: Mapping[bytes, bytes]) -> Deferred[Any]:
        """Ask like treq's ``get``, within 5 s."""
        response: Deferred[Any] = self._client(url).get(url, headers=dict(headers), timeout=5.0)
        return response

    def close(self) -> None:
        """Close what is kept open."""
        for _, pool in self._clients.values():
            pool.abort()
        self._clients.clear()

    def _client(self, url: str) -> Any:
        parts = urlsplit(url)
        known = self.upstreams.get(parts.hostname or "")
        if known is not None:
            return known
        authority = f"{parts.scheme}://{parts.netloc}"
        entry = self._clients.get(authority)
        if entry is None:
            if len(self._clients) >= MOST_AUTHORITIES:
                self._clients.pop(next(iter(self._clients)))[1].close()
            entry = self._clients[authority] = self._made(authority)
        return entry[0]

    def _made(self, authority: str) -> tuple[UpstreamClient, Pool]:
        spec = parse_target_line(authority)
        assert isinstance(spec, TargetSpec)
        target = Target(spec)
        if spec.scheme == "https" and self._tls is None:
            self._tls = ClientTLS()
        dial = self._dialling.dialler(
            host=spec.host, port=spec.port, tls=self._tls if spec.scheme == "https" else None, timeout=3.0
        )
        pool = target.pool = Pool(
            dial,
            self._wheel,
            ResponseHeads(),
            host=host_field(spec),
            watch=dial.watch if dial.named else None,
        )
        cluster = Cluster(spec.name, OneTarget(target), self._wheel, self._later)
        return UpstreamClient(spec.name, Forward(cluster), clock=self._wheel.clock), pool


class _Content(Protocol):
    """
    Takes an answer's content, decoded by treq.

    :ivar whole: all of it; fails with BodyTooLarge. Cancelling it cuts the answer off.
    """

    transport: Any

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self.transport.stopProducing())
        self._pieces: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MOST_FETCHED:
            keep(self._pieces, data)
        elif not self.whole.called:
            self._pieces.clear()
            self.transport.stopProducing()
            self.whole.errback(BodyTooLarge(f"the answer has more than {MOST_FETCHED} bytes", status=502))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone):
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(reason)
