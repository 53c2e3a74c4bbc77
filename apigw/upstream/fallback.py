"""
``Fallback``: what a client gets when the circuit breaker lets nothing through, or the service failed after all tries.

    breaker.fallback_upstream = orders-replica       ; this, if it is set, and if it can answer
    breaker.fallback_status = 503                    ; otherwise this
    breaker.fallback_body = {"error": "Service unavailable"}
    breaker.fallback_headers = X-Fallback: yes

As in opossum it answers for every failure that the breaker counts, not only while it is open: rejections, no answer,
time-outs.
A service's own answer, even a 500, goes to the client as it is. Without any of it the client gets the problem document.

Not here: asking the other upstream: it comes in as a responder.
"""

from __future__ import annotations

from collections.abc import Callable

from apigw.config import files
from apigw.exchange.errors import GatewayError, UpstreamFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response
from apigw.json_text import read
from apigw.upstream.settings import BreakerSettings

_TYPES = {
    ".json": b"application/json",
    ".html": b"text/html; charset=utf-8",
    ".xml": b"application/xml",
    ".txt": b"text/plain; charset=utf-8",
}


class Fallback:
    """
    The answers that are given instead, made at load.

    :ivar given: how often an answer was given.
    """

    def __init__(self, settings: BreakerSettings, given: Callable[[], None] = lambda: None) -> None:
        """
        :param given: called each time an answer is given, to count the breaker's event ``fallback``.
        :raises OSError: when ``fallback_file`` can't be read.
        """
        self.given = 0
        self._tell = given
        self._status = settings.fallback_status or (503 if settings.has_fallback_answer else 0)
        self._body, content_type = _body(settings)
        pairs: list[Pair] = [(name.encode(), value.encode()) for name, value in settings.fallback_headers.items()]
        if self._body and not any(name.lower() == b"content-type" for name, _ in pairs):
            pairs.insert(0, (b"Content-Type", content_type))
        self._pairs = pairs
        self._says_when = any(name.lower() == b"retry-after" for name, _ in pairs)

    def __call__(self, request: Request, error: GatewayError) -> Response:
        """The response for ``error``: the configured one for a fault of the service, its problem document otherwise."""
        if not self._status or not isinstance(error, UpstreamFault):
            return problem(request, error)
        self.given += 1
        self._tell()
        request.reason = error.reason
        headers = Headers(self._pairs)
        if not self._says_when and self._status in (429, 503):
            for name, value in error.headers:
                if name.lower() == b"retry-after":
                    headers.add(name, value)
        return Response(self._status, headers, self._body, error=error)


def with_answer(inner: Responder, fallback: Fallback) -> Responder:
    """``inner``, with the fallback's answer in place of its faults."""

    def respond(request: Request, done: Done) -> None:
        def outward(response: Response) -> None:
            error = response.error
            done(fallback(request, error) if isinstance(error, UpstreamFault) else response)

        inner(request, outward)

    return respond


def with_other_upstream(first: Responder, other: Responder, given: Callable[[], None] = lambda: None) -> Responder:
    """
    ``breaker.fallback_upstream``: ask ``other`` when ``first`` ends in a fault of the service.

    A request whose content went to a target already is not asked again: it is gone. If the other one fails as well, the
    client gets the first one's answer.
    """

    def respond(request: Request, done: Done) -> None:
        def outward(response: Response) -> None:
            body = request.body
            gone = body is not None and (body._sink is not None or body.error is not None)
            if gone or not isinstance(response.error, UpstreamFault):
                if response.error is not None and body is not None and not gone:
                    body.cancel()
                done(response)
                return
            reason, upstream = request.reason, request.upstream

            def instead(second: Response) -> None:
                if second.error is not None:
                    request.reason, request.upstream = reason, upstream
                    done(response)
                    return
                given()
                request.reason = reason
                response.discard()
                done(second)

            other(request, instead)

        first(request, outward)

    return respond


def _body(settings: BreakerSettings) -> tuple[bytes, bytes]:
    path = settings.fallback_file
    if path is not None:
        return files.read(path), _TYPES.get(path.suffix.lower(), b"application/octet-stream")
    body = (settings.fallback_body or "").encode()
    try:
        read(body)
    except ValueError:
        return body, b"text/plain; charset=utf-8"
    return body, b"application/json"
