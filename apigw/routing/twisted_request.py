"""
``serve``: a responder answers a request that came in by a stock ``twisted.web.server.Site``.

The twisted Request becomes an exchange Request, and the Response is written back, its stream at the client's pace.
twisted.web has received the request's content whole by then. The gateway's own connections don't come this way.

Not here: a twisted.web resource answering the gateway's request (``apigw.downstream``).
"""

from __future__ import annotations

from time import monotonic
from typing import IO

from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.server import Request as WebRequest
from zope.interface import implementer

from apigw.exchange.addresses import plain_address
from apigw.exchange.body import HIGH_WATER, Body
from apigw.exchange.errors import GatewayError
from apigw.exchange.headers import Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import Responder
from apigw.exchange.response import Response
from apigw.http.fields import HOP_BY_HOP, serialise
from apigw.http.forwarded import Forwarding
from apigw.http.h1_heads import RequestHead
from apigw.http.targets import split_target, valid_host


def serve(web: WebRequest, request: Request, responder: Responder) -> None:
    """Let ``responder`` answer ``request``, which stands for ``web``."""
    writer = _Writer(web)
    web.notifyFinish().addErrback(writer.client_gone, request)
    responder(request, writer.done)


def exchange_request(web: WebRequest) -> Request:
    """
    The exchange's view of a twisted Request; its path is not normalised yet.

    :raises ClientFault: it has a target, a Host or fields that the gateway's own connections would refuse, too.
    """
    target = split_target(web.method, web.uri)
    pairs = [(name, value) for name, values in web.requestHeaders.getAllRawHeaders() for value in values]
    head = RequestHead(serialise(pairs))
    head = head.stripped or head
    host = target.authority or valid_host(head.host or b"localhost")
    peer = plain_address(getattr(web.getClientAddress(), "host", "127.0.0.1"))
    request = Request(web.method, target.path, target.query, head.headers, host=host, client=peer, started=monotonic())
    request.lines = head.lines
    request.scheme = b"https" if web.isSecure() else b"http"
    request.version = web.clientproto.removeprefix(b"HTTP/")
    request.forwarding = Forwarding(head, peer, scheme=request.scheme, host=host, trusted=lambda _: False)
    file = web.content
    if file is not None and (head.content_length >= 0 or head.chunked):
        length = file.seek(0, 2)
        file.seek(0)
        content = _Content(file)
        request.body = content.body = Body(content, length)
        # From here on it is read when somebody wants it.
        request.body.pause()
    return request


class _Content:
    """Feeds a body from a file that is there already."""

    body: Body

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._paused = False
        self._feeding = False

    def body_wanted(self) -> None:
        pass

    def pause_body(self) -> None:
        self._paused = True

    def resume_body(self) -> None:
        self._paused = False
        if self._feeding:  # resumed by the piece that is being fed: the loop below goes on
            return
        self._feeding = True
        while not self._paused and not self.body.ended:
            if data := self._file.read(HIGH_WATER):
                self.body.feed(data)
            else:
                self.body.end()
        self._feeding = False

    def cancel_body(self) -> None:
        self._paused = True


@implementer(IPushProducer)
class _Writer:
    """Writes a Response to a twisted Request; a producer while the body streams."""

    def __init__(self, web: WebRequest) -> None:
        self._web = web
        self._body: Body | None = None
        self._gone = False

    def done(self, response: Response) -> None:
        web = self._web
        if self._gone:
            response.discard()
            return
        web.setResponseCode(response.status, response.phrase or None)
        web.defaultContentType = None
        fields: dict[bytes, list[bytes]] = {}
        for name, value in response.headers.pairs:
            if name.lower() not in HOP_BY_HOP:
                fields.setdefault(name, []).append(value)
        for name, values in fields.items():
            web.responseHeaders.setRawHeaders(name, values)
        bodiless = web.method == b"HEAD" or response.status in {204, 304}
        if isinstance(response.body, bytes):
            if not bodiless:
                web.setHeader(b"content-length", b"%d" % len(response.body))
                web.write(response.body)
            web.finish()
            return
        if bodiless:
            response.discard()
            web.finish()
            return
        if response.body.length is not None:
            web.setHeader(b"content-length", b"%d" % response.body.length)
        self._body = response.body
        web.registerProducer(self, True)
        web.write(b"")  # the head leaves now, however long the first piece takes
        response.body.subscribe(self)

    def client_gone(self, _failure: Failure, request: Request) -> None:
        self._gone = True
        request.cancel()
        if self._body is not None:
            self._body.cancel()

    # What the body tells

    def body_data(self, data: bytes) -> None:
        self._web.write(data)

    def body_end(self, trailers: list[Pair] | None) -> None:
        self._body = None
        if not self._gone:
            self._web.unregisterProducer()
            self._web.finish()

    def body_failed(self, error: GatewayError) -> None:
        self._body = None
        if not self._gone:
            # Never ended as if complete: the connection is cut instead.
            self._web.unregisterProducer()
            self._web.transport.abortConnection()  # type: ignore[union-attr]

    # What the client's connection tells

    def pauseProducing(self) -> None:
        if self._body is not None:
            self._body.pause()

    def resumeProducing(self) -> None:
        if self._body is not None:
            self._body.resume()

    def stopProducing(self) -> None:
        if self._body is not None:
            self._body.cancel()
