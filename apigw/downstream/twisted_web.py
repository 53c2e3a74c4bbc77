"""
``Mounted``: any ``twisted.web`` resource as a responder, so that ``[resource X]`` can stand beside routes.

The resource gets a real ``twisted.web.server.Request``; what it writes becomes a ``Response`` with back-pressure (a
registered producer is paused when the client reads slowly). Its request content is received whole before it renders,
as twisted.web does, up to ``max_body``.

Not here: the tree that finds it (``apigw.routing.tree``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.python.failure import Failure
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers as TwistedHeaders
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import Request as WebRequest
from twisted.web.server import Site

from apigw.exchange.body import Body
from apigw.exchange.errors import ClientFault, ClientGone, GatewayFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, drive, failed
from apigw.exchange.response import Response
from apigw.http.fields import HOP_BY_HOP
from apigw.net.turns import LARGEST_READ


class Mounted(Site):
    """
    A responder that lets ``resource`` answer.

    :param prefix: the path under which it stands, like ``/files``; the resource sees what follows as ``postpath``.
    :param max_body: bytes of content that are received for it.
    """

    def __init__(self, resource: IResource, prefix: str, max_body: int = 10 * 1024 * 1024) -> None:
        super().__init__(resource)  # type: ignore[no-untyped-call]
        self._depth = len([segment for segment in prefix.split("/") if segment])
        self._max_body = max_body

    def getResourceFor(self, request: WebRequest) -> IResource:
        """Find the resource below the prefix."""
        request.site = self
        path = request.postpath or []
        request.prepath = path[: self._depth]
        request.postpath = path[self._depth :]
        request.sitepath = list(request.prepath)  # type: ignore[attr-defined]
        found: IResource = getChildForRequest(self.resource, request)
        return found

    def __call__(self, request: Request, done: Done) -> None:
        """Answer ``request``."""
        if request.body is None:
            _Channel(self, request, done).render(b"")
            return
        channel = _Channel(self, request, done)
        cancel = drive(request.body.collect(self._max_body), channel.render, lambda error: done(failed(request, error)))
        if cancel is not None:
            request.on_cancel(cancel)


class _Channel:
    """What twisted.web's Request takes for its connection, and the source of the response's body."""

    factory = None
    _producer: Any = None
    _streaming = False
    _paused = False
    _pulling = False

    def __init__(self, site: Mounted, request: Request, done: Done) -> None:
        self.site = site
        self._request = request
        self._done = done
        self._body: Body | None = None
        self._web: WebRequest | None = None
        self._over = False
        self.transport = self

    def render(self, content: bytes) -> None:
        """Let the resource render, with the request's content."""
        request = self._request
        request.on_cancel(self._client_gone)
        web = self._web = WebRequest(self, False)
        for name, value in request.headers.pairs:
            web.requestHeaders.addRawHeader(name, value)
        web.requestHeaders.setRawHeaders(b"host", [request.host])
        if request.body is not None:
            web.requestHeaders.setRawHeaders(b"content-length", [b"%d" % len(content)])
        web.gotLength(len(content))
        if content:
            web.handleContentChunk(content)
        target = request.path if request.query is None else b"%b?%b" % (request.path, request.query)
        # "HTTP/2", as twisted.web's own streams say: then it leaves framing and connection fields to us.
        web.requestReceived(request.method, target, b"HTTP/2")

    # What twisted.web's Request asks of its channel

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        """Begin the response."""
        pairs: Iterable[Any] = headers.getAllRawHeaders() if isinstance(headers, TwistedHeaders) else headers
        fields: list[Pair] = []
        length = None
        for name, values in pairs:
            lower = name.lower()
            if lower == b"content-length":
                length = int(values[0] if isinstance(values, list) else values)
            elif lower not in HOP_BY_HOP:
                fields.extend((name, value) for value in (values if isinstance(values, list) else [values]))
        status = int(code)
        if self._request.method == b"HEAD" or status in {204, 304}:
            if length is not None and status != 204:
                fields.append((b"Content-Length", b"%d" % length))
            self._done(Response(status, Headers(fields)))
            return
        body = self._body = Body(self, length)
        self._done(Response(status, Headers(fields), body))

    def write(self, data: bytes) -> None:
        body = self._body
        if body is None or not data:
            return
        if body.length is not None:
            data = data[: body.length - body.received]  # more than was announced would look like another response
        if data:
            body.feed(data)

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def requestDone(self, web: WebRequest) -> None:
        """End the response."""
        self._over = True
        body = self._body
        if body is None:
            return
        if body.length is not None and body.received < body.length:
            body.fail(GatewayFault("the resource wrote less than it announced", reason="resource_aborted"))
        else:
            body.end()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer
        self._streaming = streaming
        if not streaming:
            self._pull()
        elif self._paused:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    def _pull(self) -> None:
        """Let a producer that is asked for each piece (``static.File``'s) go on until the client is busy reading."""
        if self._pulling:
            return
        self._pulling = True
        begun = self._body.received if self._body is not None else 0
        try:
            while self._producer is not None and not self._streaming and not self._paused:
                before = self._body.received if self._body is not None else 0
                self._producer.resumeProducing()
                received = self._body.received if self._body is not None else 0
                if self._producer is not None and (received == before or received >= begun + LARGEST_READ):
                    # It has nothing yet, or has had its part of this turn: let others go first.
                    asyncio.get_running_loop().call_soon(self._pull)
                    return
        finally:
            self._pulling = False

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", self._request.client, 0)

    def getHost(self) -> IPv4Address:
        """The port is what the client asks for, so that URLs made of it lead here."""
        port = self._request.host.rpartition(b"]")[2].partition(b":")[2]
        return IPv4Address("TCP", "127.0.0.1", int(port) if port.isdigit() else 443 if self.isSecure() else 80)

    def isSecure(self) -> bool:
        return self._request.scheme == b"https"

    def loseConnection(self) -> None:
        """Break the response off."""
        if self._body is not None:
            self._body.fail(GatewayFault("the resource broke off its answer", reason="resource_aborted"))
        elif not self._over:
            self._over = True
            self._done(failed(self._request, GatewayFault("the resource gave no answer", reason="resource_aborted")))

    abortConnection = loseConnection

    def _respondToBadRequestAndDisconnect(self) -> None:
        if not self._over:
            self._over = True
            self._done(failed(self._request, ClientFault("the content is not what its type says")))

    # What the response's body asks

    def body_wanted(self) -> None:
        pass

    def pause_body(self) -> None:
        if not self._paused:
            self._paused = True
            if self._producer is not None and self._streaming:
                self._producer.pauseProducing()

    def resume_body(self) -> None:
        if self._paused:
            self._paused = False
            if self._producer is None:
                return
            if self._streaming:
                self._producer.resumeProducing()
            else:
                self._pull()

    def cancel_body(self) -> None:
        self._client_gone()

    def _client_gone(self) -> None:
        web, self._web = self._web, None
        self._producer = None
        if web is not None and not self._over:
            self._over = True
            web.connectionLost(Failure(PotentialDataLoss(ClientGone("the client closed the connection"))))
