"""
``UpstreamClient``: treq over the gateway's own pools.

Its ``request()``, ``get()``, ``post()``, ... are treq's own, for everything that *asks* an upstream: aggregation,
GraphQL, health checks, key sets, forward-auth. Its ``forward()`` sends a client's request on untouched and streams both
ways, for the prefix resources: as a proxy treq would be wrong (it adds Accept-Encoding and decodes, keeps cookies,
follows redirects, writes URLs anew). Both draw on the same pools, balancers, breakers and limits.

Not here: the pools (``pool``), the way of a forwarded request (``forward``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from hyperlink import DecodedURL, EncodedURL
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers as TwistedHeaders
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from apigw.exchange.body import Body
from apigw.exchange.errors import GatewayError, GatewayFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import Responder, awaitable
from apigw.exchange.response import Response


class UpstreamClient(HTTPClient):
    """
    A treq client for one upstream.

    :param name: of the upstream; URLs may be paths (``/users/1``), and then stand for ``http://NAME/users/1``.
    :param forward: the responder that sends requests on (``Forward``).
    """

    def __init__(self, name: str, forward: Responder, *, clock: Callable[[], float]) -> None:
        super().__init__(PooledAgent(forward, clock=clock))
        self.name = name
        self.forward = forward
        """``forward(request, done)``: send a client's request on untouched, stream both ways."""

    def request(self, method: str, url: Any, **arguments: Any) -> Deferred[Any]:
        """As treq's; see there for ``params``, ``headers``, ``data``, ``json``, ``timeout`` and what else it takes."""
        if isinstance(url, str) and url.startswith("/"):
            url = f"http://{self.name}{url}"
        elif isinstance(url, bytes) and url.startswith(b"/"):
            url = b"http://%b%b" % (self.name.encode(), url)
        elif isinstance(url, DecodedURL | EncodedURL) and not url.host:
            url = url.replace(scheme="http", host=self.name)
        arguments.setdefault("allow_redirects", False)
        # treq keeps one jar a client: cookies that a service sets for one caller would go with the next one's.
        self._cookiejar = IndexableCookieJar()
        return super().request(method, url, **arguments)


@implementer(IAgent)
class PooledAgent:
    """
    An ``IAgent`` whose connections are the gateway's.

    The URL's authority is ignored: an upstream's targets are chosen by its balancer. A request made here has no
    client, so nothing is said of one (Host, X-Forwarded-*) beyond what the caller says.

    Failures arrive as ``GatewayError``: the caller sees the same reasons as a client of a route would.
    """

    def __init__(self, forward: Responder, *, clock: Callable[[], float]) -> None:
        self._ask = awaitable(forward)
        self._clock = clock

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: TwistedHeaders | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """A request; the Deferred has an ``IResponse``, or fails with a ``GatewayError``; to cancel it cuts it off."""
        parts = urlsplit(uri)
        pairs: list[Pair] = []
        for name, values in headers.getAllRawHeaders() if headers is not None else ():
            lower = name.lower()
            if lower not in _OWN:
                pairs.extend((name, value) for value in values)
        request = Request(
            method,
            parts.path or b"/",
            parts.query or None,
            Headers(pairs),
            host=b"",
            started=self._clock(),
        )
        request_id = headers.getRawHeaders(b"x-request-id") if headers is not None else None
        request.id = request_id[0] if request_id else b"-"
        if bodyProducer is not None and bodyProducer.length != 0:
            request.body = _feed(bodyProducer, request)
        over = False

        def cancel(_: object) -> None:
            nonlocal over
            over = True
            request.cancel()
            if request.body is not None:
                request.body.cancel()

        response: Deferred[IResponse] = Deferred(cancel)

        def answered(answer: Response) -> None:
            if over:
                answer.discard()
            elif answer.error is not None:
                answer.discard()
                response.errback(answer.error)
            else:
                response.callback(ClientResponse(answer, request))

        def failed(failure: Failure) -> None:
            if not over:
                response.errback(failure)

        self._ask(request).addCallbacks(answered, failed)
        return response


_OWN = frozenset({b"host", b"content-length", b"connection", b"transfer-encoding"})
_OWN |= {b"x-request-id", b"x-request-timeout"}


def _feed(producer: IBodyProducer, request: Request) -> Body:
    """A body that a treq body producer feeds."""
    source = _Producing(producer)
    length = producer.length
    body = source.body = Body(source, None if length is UNKNOWN_LENGTH else length)
    producer.startProducing(source).addCallbacks(lambda _: body.end(), source.failed)
    return body


class _Producing:
    """A body producer's consumer, and its body's source."""

    body: Body

    def __init__(self, producer: IBodyProducer) -> None:
        self._producer = producer
        self._paused = False  # some producers count how often they were paused

    def write(self, data: bytes) -> None:
        self.body.feed(data)

    def failed(self, failure: Failure) -> None:
        self.body.fail(GatewayFault(f"the content could not be produced: {type(failure.value).__name__}"))

    def body_wanted(self) -> None:
        pass

    def pause_body(self) -> None:
        if not self._paused:
            self._paused = True
            self._producer.pauseProducing()

    def resume_body(self) -> None:
        if self._paused:
            self._paused = False
            self._producer.resumeProducing()

    def cancel_body(self) -> None:
        self._producer.stopProducing()


@implementer(IResponse)
class ClientResponse:
    """A ``Response`` as twisted.web's clients know one."""

    def __init__(self, response: Response, request: Request) -> None:
        self._response = response
        self.request = request
        self.previousResponse: IResponse | None = None
        self.version = (b"HTTP", 1, 1)
        self.code = response.status
        self.phrase = response.phrase
        self.headers = TwistedHeaders()
        for name, value in response.headers.pairs:
            self.headers.addRawHeader(name, value)
        body = response.body
        length = len(body) if isinstance(body, bytes) else body.length
        self.length = UNKNOWN_LENGTH if length is None else length

    def setPreviousResponse(self, response: IResponse) -> None:
        """Remember the response that redirected here."""
        self.previousResponse = response

    def deliverBody(self, protocol: IProtocol) -> None:
        """Give the content to ``protocol``, with back-pressure by its transport."""
        body = self._response.body
        if isinstance(body, bytes):
            protocol.makeConnection(_Transport(None))  # type: ignore[arg-type]
            if body:
                protocol.dataReceived(body)
            protocol.connectionLost(Failure(ResponseDone()))
            return
        protocol.makeConnection(_Transport(body))  # type: ignore[arg-type]
        body.subscribe(_Delivery(protocol))


class _Delivery:
    def __init__(self, protocol: IProtocol) -> None:
        self._protocol = protocol

    def body_data(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def body_end(self, trailers: list[Pair] | None) -> None:
        self._protocol.connectionLost(Failure(ResponseDone()))

    def body_failed(self, error: GatewayError) -> None:
        self._protocol.connectionLost(Failure(ResponseFailed([Failure(error)])))


@implementer(IPushProducer)
class _Transport:
    """What a body's receiver may ask: to wait, or to stop."""

    disconnecting = False

    def __init__(self, body: Body | None) -> None:
        self._body = body

    def pauseProducing(self) -> None:
        if self._body is not None:
            self._body.pause()

    def resumeProducing(self) -> None:
        if self._body is not None:
            self._body.resume()

    def stopProducing(self) -> None:
        if self._body is not None:
            self._body.cancel()

    loseConnection = abortConnection = stopProducing
