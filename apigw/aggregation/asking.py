"""
One request to a service and its answer as a value.

It goes the way of a route's requests, by the upstream's ``forward`` with its pools, balancer, breaker and limits, and
not by treq's ``request``: that costs more than all the rest of an aggregate. What treq would do, decoding gzip and
collecting up to a limit, is done here.

Not here: which requests are made and when (``run``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from twisted.python.failure import Failure

from apigw.aggregation.expressions import ExpressionFailed
from apigw.aggregation.outcome import CANCELLED, OK, Outcome, failed
from apigw.aggregation.plan import Asking
from apigw.exchange.body import Body, keep
from apigw.exchange.errors import GatewayError, UpstreamFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import Responder
from apigw.exchange.response import Response
from apigw.http.fields import serialise
from apigw.json_text import read
from apigw.net.side_work import Beside

Told = Callable[["Ask", Outcome], None]
TRACE = (b"traceparent", b"tracestate", b"baggage")
"""Fields of a trace that go on to services (W3C Trace Context, Baggage)."""


_PASSED = (b"Retry-After", b"Allow", b"WWW-Authenticate")
"""Fields without which a status that is passed on says too little (RFC 9110 10.2.3, 10.2.1, 11.6.1)."""


class Client(Protocol):
    """An upstream's client (``apigw.upstream.client``): a treq client that also sends requests on."""

    @property
    def forward(self) -> Responder: ...

    def request(self, method: str, url: Any, **arguments: Any) -> Any: ...


class Prepared(NamedTuple):
    """A request, filled in. Two that are equal are the same request."""

    upstream: str
    method: bytes
    path: bytes
    query: bytes | None
    lines: bytes
    pairs: tuple[Pair, ...]
    content: bytes | None


def prepare(asking: Asking, values: Mapping[str, Any], forwarded: tuple[Pair, ...]) -> Prepared:
    """
    Fill in a request.

    :param forwarded: fields of the client's that go on.
    :raises GatewayError: a value is missing, or can't stand where it should.
    """
    path, query = asking.path.fill(values)
    lines, pairs = asking.lines, asking.pairs
    if forwarded or asking.fields:
        if forwarded and asking.names:
            forwarded = tuple(pair for pair in forwarded if pair[0].lower() not in asking.names)
        own = tuple((name, template.fill(values)) for name, template in asking.fields)
        lines += serialise(forwarded + own)
        pairs += forwarded + own
    content = asking.body.fill(values) if asking.body is not None else None
    return Prepared(asking.upstream, asking.method, path, query, lines, pairs, content)


@dataclass(frozen=True, slots=True)
class Services:
    """
    Whom to ask, and how much of an answer is taken.

    :ivar beside: works on what is large (``net.side_work``).
    :ivar forwards: what sends requests on, by name of upstream. :ivar max_answer: bytes.
    :ivar max_depth: of JSON. :ivar max_json_values: names and values in it.
    """

    forwards: Mapping[str, Responder]
    clock: Callable[[], float]
    max_answer: int
    max_depth: int
    max_json_values: int
    beside: Beside


class Ask:
    """
    A request on its way, and its answer on the way back.

    :param told: called exactly once with what became of it, unless it is cancelled.
    :ivar prepared: the request. :ivar request: as it was sent. :ivar started: monotonic seconds.
    """

    __slots__ = (
        "_asking",
        "_body",
        "_pieces",
        "_response",
        "_services",
        "_size",
        "_told",
        "prepared",
        "request",
        "started",
    )

    def __init__(self, services: Services, asking: Asking, prepared: Prepared, told: Told) -> None:
        self._services = services
        self._asking = asking
        self.prepared = prepared
        self.request: Request | None = None
        self.started = services.clock()
        self._told: Told | None = told
        self._response: Response | None = None
        self._body: Body | None = None
        self._pieces: list[bytes] = []
        self._size = 0

    def send(self, client: Request, trace: tuple[Pair, ...], *, in_time: bool = True) -> None:
        """
        Send the request.

        :param client: the client's: its id, address, identity and deadline go on. :param trace: fields that go on.
        :param in_time: the client's deadline holds.
        """
        upstream, method, path, query, lines, pairs, content = self.prepared
        body = None
        if content is not None:
            body = Body(None, len(content))
            if content:
                body.feed(content)
            body.end()
        request = self.request = Request(
            method,
            path,
            query,
            Headers(pairs + trace if trace else pairs),
            body,
            host=client.host,
            client=client.client,
            started=self.started,
        )
        request.lines = lines + serialise(trace) if trace else lines
        request.id = client.id
        request.scheme = client.scheme
        request.forwarding = client.forwarding
        request.identity = client.identity
        request.route = client.route
        if client.deadline and in_time:
            request.deadline = client.deadline
        self._services.forwards[upstream](request, self.answered)

    def overdue(self) -> None:
        """The time of this call is up."""
        self.fail(UpstreamFault("the time for this call is up", status=504, reason="call_timeout"))

    def answered(self, response: Response) -> None:
        """The ``done`` of the upstream's responder."""
        if self._told is None:
            response.discard()
            return
        error = response.error
        status = response.status
        if status not in self._asking.expect or (error is not None and status >= 500):
            response.discard()
            if error is None:
                self._tell(self._refused(response))
            else:
                self._fail(error)
            return
        self._response = response
        body = response.body
        if type(body) is bytes:
            self._whole(body)
            return
        assert isinstance(body, Body)
        self._body = body
        if body.length is not None and body.length > self._services.max_answer:
            self._too_large()
            return
        body.subscribe(self)

    def _refused(self, response: Response) -> Outcome:
        status = response.status
        detail = f"the service answered {status}"
        if status not in self._asking.passed:
            return failed(reason="call_unexpected_status", fault=502, detail=detail, status=status)
        outcome = failed(reason="call_status_passed", fault=status, detail=detail, status=status)
        outcome.fields = tuple((name, value) for name in _PASSED for value in response.headers.get_all(name))
        return outcome

    def fail(self, error: GatewayError) -> None:
        """Give up, for that reason."""
        if self._told is not None:
            self._stop()
            self._fail(error)

    def cancel(self) -> Outcome | None:
        """Nobody wants the answer any more. ``told`` is not called; None if it was already."""
        if self._told is None:
            return None
        self._told = None
        self._stop()
        outcome = Outcome(CANCELLED)
        outcome.seconds = self._services.clock() - self.started
        return outcome

    def body_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._services.max_answer:
            self._too_large()
        else:
            keep(self._pieces, data)

    def body_end(self, trailers: list[Pair] | None) -> None:
        self._body = None
        self._whole(b"".join(self._pieces))

    def body_failed(self, error: GatewayError) -> None:
        self._body = None
        self._fail(error)

    def _stop(self) -> None:
        body, self._body = self._body, None
        self._pieces.clear()
        if body is not None:
            body.cancel()
        if self.request is not None:
            self.request.cancel()

    def _too_large(self) -> None:
        self._stop()
        detail = f"the answer has more than the {self._services.max_answer} bytes that are taken"
        self._tell(failed(reason="call_answer_too_large", fault=502, detail=detail))

    def _fail(self, error: GatewayError) -> None:
        status = error.status if error.status in (400, 503, 504) else 502
        outcome = failed(reason=error.reason, fault=status, detail=error.detail)
        outcome.fields = error.headers
        self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        told, self._told = self._told, None
        if told is not None:
            outcome.at = now = self._services.clock()
            outcome.seconds = now - self.started
            told(self, outcome)

    def _whole(self, data: bytes) -> None:
        """The content is complete."""
        response = self._response
        if response is None or self._told is None:
            return
        services = self._services
        if len(data) > services.max_answer:
            self._too_large()
            return
        coding = response.headers.get(b"content-encoding")
        if len(data) > AT_ONCE or (coding is not None and data):
            services.beside(lambda: self._read(data, response.headers, coding)).addCallbacks(self._valued, self._unread)
            return
        try:
            answer = self._read(data, response.headers, coding)
        except Exception as error:
            self._unread(error)
        else:
            self._valued(answer)

    def _read(self, data: bytes, headers: Headers, coding: bytes | None) -> tuple[Any, int]:
        """The value of the content, and the bytes of its text."""
        services = self._services
        if coding is not None:
            data = _decoded(data, coding, services.max_answer)
        if self._asking.text:
            value: Any = _text(data, headers)
        else:
            value = read(data, depth=services.max_depth, most=services.max_json_values) if data else None
        if self._asking.select is not None:
            value = self._asking.select(value)
        return value, len(data)

    def _valued(self, answer: tuple[Any, int]) -> None:
        response = self._response
        if response is not None:
            value, size = answer
            self._tell(Outcome(OK, value, status=response.status, headers=(response.headers,), size=size))

    def _unread(self, why: Exception | Failure) -> None:
        error = why.value if isinstance(why, Failure) else why
        assert error is not None
        if isinstance(error, _TooLarge):
            self._too_large()
        elif isinstance(error, GatewayError):
            self._fail(error)
        elif isinstance(error, ExpressionFailed):
            self._tell(failed(reason="call_expression_failed", fault=502, detail=f"`select` failed: {error}"))
        elif isinstance(error, ValueError):
            status = self._response.status if self._response is not None else 0
            detail = f"the answer can't be read: {error}"
            self._tell(failed(reason="call_invalid_answer", fault=502, detail=detail, status=status))
        else:
            raise error


AT_ONCE = 32 * 1024
"""Bytes of an answer that are read at once: that takes 2 ms. More is read beside the reactor."""


class _TooLarge(Exception):
    pass


def _decoded(data: bytes, coding: bytes, limit: int) -> bytes:
    """Content without its coding (RFC 9110 8.4.1), never more than ``limit`` bytes of it."""
    name = coding.strip().lower()
    if name == b"identity" or not data:
        return data
    if name not in (b"gzip", b"x-gzip", b"deflate"):
        raise ValueError("it has a Content-Encoding that was not asked for")
    plain = b""
    while data:  # gzip may have several members (RFC 1952 2.2)
        try:
            inflate = zlib.decompressobj(47 if name != b"deflate" or data[:1] == b"\x78" else -15)
            plain += inflate.decompress(data, limit + 1 - len(plain))
        except zlib.error:
            raise ValueError("its compression is broken") from None
        if len(plain) > limit:
            raise _TooLarge
        if not inflate.eof:
            raise ValueError("its compression is broken")
        data = inflate.unused_data if name != b"deflate" else b""
    return plain


def _text(data: bytes, headers: Headers) -> str:
    kind = (headers.get(b"content-type") or b"").lower()
    _, found, rest = kind.partition(b"charset=")
    charset = rest.partition(b";")[0].strip(b' "').decode("ascii", "replace") if found else "utf-8"
    try:
        return data.decode(charset)
    except (ValueError, LookupError):
        raise ValueError(f"it is no text in {charset}") from None
