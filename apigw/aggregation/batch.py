"""
``[batch NAME]``: several requests of a client in one (the form is that of APISIX's batch-requests).

    {"pipeline": [
      {"method": "GET", "path": "/api/users/7"},
      {"id": "order", "method": "POST", "path": "/api/orders", "body": {"userId": 7}},
      {"method": "GET", "path": "/api/orders/{$order.id}", "headers": {"Accept": "application/json"}}
    ]}

A plain array is taken as well. Each request goes the way of a request of its own: it finds its route, with that route's
policies and limits, as the same caller (``batch_items`` says which fields it has). The answer is an array in the same
order, ``[{"status": 200, "reason": "OK", "headers": {...}, "body": ...}]``: JSON as JSON, all else as text. Cookies
are not in it: ``Set-Cookie`` goes out as a field of the batch's own response, where browsers take it and pages can't
read it.

A batch must be ``application/json``: a page of another site can't send that without a CORS preflight.

Requests run at the same time as far as that can't be told from one after the other: one that writes waits for all
before it, and those behind it wait for it. ``{$NAME.field[0].x}`` and, by place from 0, ``{$0.field}`` stand for parts
of earlier answers, in paths, queries, fields and content; within JSON, a text that is nothing but one keeps its type.

Not here: reading and checking a batch (``batch_items``); routes and policies: ``route`` is handed in.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import maybeDeferred
from twisted.python.failure import Failure

from apigw.aggregation.asking import AT_ONCE
from apigw.aggregation.batch_items import Callers, Item, Limits, invalid, read
from apigw.aggregation.deadlines import Deadlines
from apigw.aggregation.settings import BatchSettings
from apigw.aggregation.templates import ValueFault
from apigw.exchange.body import Body, keep
from apigw.exchange.errors import BodyTooLarge, ClientFault, ClientGone, GatewayError, JSONTooLarge, UpstreamFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder, drive, failed
from apigw.exchange.response import Response
from apigw.http.targets import split_target
from apigw.json_text import InvalidJSON, TooManyValues, write
from apigw.json_text import read as read_json
from apigw.net.side_work import Beside, at_once
from apigw.net.timers import Wheel
from apigw.net.turns import TURNS

TURN = 0.002
"""Seconds for which requests are begun before other connections have their turn."""
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_COOKIES = frozenset(("set-cookie", "set-cookie2"))
Normalise = Callable[[bytes], bytes]
Finished = Callable[[Request, int, int, float], None]
Filled = tuple[bytes, bytes | None, list[Pair], str, bytes]
"""The path, the query, the fields, whether there is content ("json", "text", ""), and the content."""


class InnerRequest(Request):
    """A request out of a batch; one of these can't ask for another batch."""


class Batch:
    """The responder. It can answer as soon as it knows all routes, by ``use``."""

    route: Callable[[], Responder]
    normalise: Normalise
    finished: Finished
    callers: Callers
    limits: Limits

    def __init__(self, settings: BatchSettings, wheel: Wheel, beside: Beside = at_once) -> None:
        self.beside = beside
        self.settings = settings
        self.wheel = wheel
        self.clock = wheel.clock
        self.deadlines = Deadlines(wheel, settings.timeout)

    def use(
        self,
        route: Callable[[], Responder],
        normalise: Normalise,
        finished: Finished,
        callers: Callers,
        limits: Limits,
    ) -> None:
        """
        Ask these routes.

        :param route: gives what answers a request as the whole gateway does. :param normalise: brings a path into the
            form that it wants. :param finished: is told of each request when it is over: the status of its answer, the
            bytes of its content, and the time. :param callers: the fields that say who a caller is.
            :param limits: those of each request.
        """
        self.route = route
        self.normalise = normalise
        self.finished = finished
        self.callers = callers
        self.limits = limits

    def __call__(self, request: Request, done: Done) -> None:
        """Answer ``request``."""
        if isinstance(request, InnerRequest):
            done(problem(request, ClientFault("a batch has no batches within it", reason="batch_nested")))
            return
        route = self.route()  # all items go by the configuration that the batch came in by
        cancel = drive(
            self._items(request),
            lambda asked: _Work(self, request, asked[0], asked[1], done, large=asked[2], route=route).start(),
            lambda error: done(failed(request, error)),
        )
        if cancel is not None:
            request.on_cancel(cancel)

    async def _items(self, request: Request) -> tuple[list[Item], Deadlines, bool]:
        settings = self.settings
        kind = (request.headers.joined(b"content-type") or b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ClientFault("a batch must be application/json", status=415, reason="media_type_refused")
        data = b"" if request.body is None else await request.body.collect(settings.max_body)

        def items_of() -> tuple[list[Item], float]:
            whole = read_json(data, depth=settings.max_depth, most=settings.max_json_values, unique=True)
            return read(whole, settings.max_requests, self.callers, self.limits)

        try:
            items, seconds = items_of() if len(data) <= AT_ONCE else await self.beside(items_of)
        except TooManyValues as error:
            raise JSONTooLarge(str(error)) from None
        except InvalidJSON as error:
            raise ClientFault(f"the content can't be read: {error}", reason="invalid_json") from None
        shorter = 0 < seconds < settings.timeout
        return items, Deadlines(self.wheel, seconds) if shorter else self.deadlines, len(data) > AT_ONCE


class _Work:
    """A batch being worked on."""

    def __init__(
        self,
        batch: Batch,
        request: Request,
        items: list[Item],
        deadlines: Deadlines,
        done: Done,
        *,
        large: bool,
        route: Responder,
    ) -> None:
        self._large = large
        self._batch = batch
        self._route = route
        self._deadlines = deadlines
        self._request = request
        self._items = items
        self._done: Done | None = done
        self._values: dict[str, Any] = {}
        self._todo = items.copy()
        self._running: dict[Item, _Collecting] = {}
        self._size = 0
        self._late = self._going = self._waiting = False
        self._fields = batch.callers.fields(request)
        self._cookies: list[list[Pair]] = [[] for _ in items]

    def start(self) -> None:
        self._deadlines.add(self, self._batch.clock())
        self._request.note("batch", len(self._items))
        self._request.on_cancel(self.cancel)
        self._go()

    def cancel(self) -> None:
        """The client is gone."""
        self._done = None
        self._deadlines.remove(self)
        for collecting in list(self._running.values()):
            collecting.cancel()
            collecting.request.reason = ClientGone.reason
            self._over(collecting.request, ClientGone.status, 0)
        self._running.clear()

    def _over(self, inner: Request, status: int, sent: int) -> None:
        if inner.started:  # otherwise there was none
            self._batch.finished(inner, status, sent, self._batch.clock())

    def overdue(self) -> None:
        """The time is up: what is not answered fails."""
        self._late = True
        for item, collecting in list(self._running.items()):
            collecting.cancel()
            self._answered(item, problem(collecting.request, _late()), None)

    def _go(self) -> None:
        if self._going or self._waiting:
            return
        self._going = True
        until = monotonic() + TURN
        begun = True
        while begun:
            begun = False
            for item in self._todo:
                if self._done is None or len(self._running) >= self._batch.settings.concurrency:
                    break
                if all(self._items[before].answer is not None for before in item.needs):
                    self._todo.remove(item)
                    self._begin(item)
                    begun = True
                    break
            if begun and self._todo and monotonic() > until:  # the others' turn
                begun, self._waiting = False, True
                TURNS.wait(self)
        self._going = False
        if not self._todo and not self._running and self._done is not None:
            self._deadlines.remove(self)
            answers = [item.answer for item in self._items]
            if self._size <= AT_ONCE:
                self._respond(write(answers))
            else:
                self._batch.beside(lambda: write(answers)).addCallbacks(self._respond, self._unwritten)

    def take_turn(self) -> None:
        """Go on with those that are to be begun."""
        self._waiting = False
        self._go()

    def abort(self) -> None:
        """A turn failed."""
        done, self._done = self._done, None
        if done is not None:
            self._deadlines.remove(self)
            done(failed(self._request, RuntimeError("a batch's turn failed")))

    def _unwritten(self, failure: Failure) -> None:
        done, self._done = self._done, None
        if done is not None and failure.value is not None:
            done(failed(self._request, failure.value))

    def _respond(self, body: bytes) -> None:
        done, self._done = self._done, None
        if done is not None:
            pairs = [(b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")]
            pairs += [pair for cookies in self._cookies for pair in cookies]
            done(Response(200, Headers(pairs), body))

    def _begin(self, item: Item) -> None:
        collecting = self._running[item] = _Collecting(self, item, self._batch.settings.max_answer)
        # What is filled in may be large, and each of many references may be filled with a large answer.
        if item.references and (self._large or self._size * len(item.references) > AT_ONCE):
            filled = self._batch.beside(lambda: self._filled(item))
        else:
            filled = maybeDeferred(self._filled, item)
        filled.addCallback(partial(self._send, item, collecting))
        filled.addErrback(partial(self._unsent, item, collecting))

    def _send(self, item: Item, collecting: _Collecting, filled: Filled) -> None:
        if self._running.get(item) is not collecting:
            return  # it was cancelled, or the time was up
        if self._late:
            raise _late()
        collecting.request = self._inner(item, filled)
        self._route(collecting.request, collecting.answered)

    def _unsent(self, item: Item, collecting: _Collecting, failure: Failure) -> None:
        error = failure.value
        if self._running.get(item) is not collecting or error is None:
            return
        inner = collecting.request
        self._answered(item, problem(inner, error) if isinstance(error, GatewayError) else failed(inner, error), None)

    def _filled(self, item: Item) -> Filled:
        """The path, the query, the fields and the content of a request."""
        most = self._batch.settings.max_body
        if self._late:
            raise _late()
        try:
            if self._size * len(item.references) > most:
                size = 0
                for reference in item.references:
                    size += len(write(reference.value(self._values)))
                    if size > most:
                        raise BodyTooLarge(f"request {item.place} is filled with more than {most} bytes of answers")
            path, query = item.path.fill(self._values)
            added = [(name, value.fill(self._values)) for name, value in item.query]
            own = [(name, value.fill(self._values)) for name, value in item.fields]
            content = item.content(self._values) if item.content is not None else None
            data = content.encode() if isinstance(content, str) else write(content)
            if added:
                query = b"&".join(filter(None, (query, urlencode(added).encode())))
        except ValueFault as fault:
            raise ClientFault(fault.detail, status=424, reason=fault.reason) from None
        except ValueError:
            raise invalid("a value can't be written", item.place) from None
        kind = "" if content is None else "text" if isinstance(content, str) else "json"
        return path, query, own, kind, data

    def _inner(self, item: Item, filled: Filled) -> InnerRequest:
        path, query, own, kind, data = filled
        outer = self._request
        target = path if query is None else b"%b?%b" % (path, query)
        self._batch.limits.check(len(target), own)
        taken = {name.lower() for name, _ in own}
        pairs: list[Pair] = [(name, value) for name, value in self._fields if name.lower() not in taken]
        pairs += own
        body = None
        if kind:
            if kind == "json" and b"content-type" not in taken:
                pairs.append((b"Content-Type", b"application/json"))
            body = Body(None, len(data))
            if data:
                body.feed(data)
            body.end()
        split_target(item.method, target)
        inner = InnerRequest(
            item.method,
            self._batch.normalise(path),
            query,
            Headers(pairs),
            body,
            host=outer.host,
            client=outer.client,
            started=self._batch.clock(),
        )
        inner.id = b"%b-%d" % (outer.id, item.place)
        inner.scheme, inner.version, inner.trusted = outer.scheme, outer.version, outer.trusted
        inner.peer, inner.forwarding = outer.peer, outer.forwarding
        if outer.deadline:
            inner.deadline, inner.impatient = outer.deadline, outer.impatient
        return inner

    def keep_cookies(self, item: Item, response: Response) -> None:
        """Cookies are the browser's, whatever becomes of the content: no page may read one that is HttpOnly."""
        self._cookies[item.place] = [(b"Set-Cookie", value) for value in response.headers.get_all(b"set-cookie")]

    def _answered(
        self, item: Item, response: Response, data: bytes | None, described: dict[str, Any] | None = None
    ) -> None:
        """
        One of them is answered.

        :param data: its content, where that is not in ``response``.
        :param described: what is answered, if that is known.
        """
        inner, settings = self._running.pop(item).request, self._batch.settings
        if data is None:
            data = response.body if isinstance(response.body, bytes) else b""
        self._size += len(data)
        if self._size > settings.max_answers:
            fault = UpstreamFault("all answers together are too large", reason="call_answer_too_large")
            response, described = problem(inner, fault), None
            data = response.body if isinstance(response.body, bytes) else b""
        self._over(inner, response.status, len(data))
        item.answer = answer = described or _described(response, data, settings.max_depth, settings.max_json_values)
        for name in item.names:
            if "body" in answer:
                self._values[name] = answer["body"]
        self._go()


def _late() -> UpstreamFault:
    return UpstreamFault("the time for this request is up", status=504, reason="deadline_exceeded")


class _Collecting:
    """One request on its way; collects its answer up to a limit."""

    def __init__(self, work: _Work, item: Item, limit: int) -> None:
        self.request = InnerRequest(item.method, b"/")
        self._work: _Work | None = work
        self._item = item
        self._limit = limit
        self._response: Response | None = None
        self._pieces: list[bytes] = []
        self._size = 0

    def answered(self, response: Response) -> None:
        if self._work is None:
            response.discard()
            return
        self._response = response
        self._work.keep_cookies(self._item, response)
        body = response.body
        if isinstance(body, bytes):
            self.body_data(body)
            self.body_end(None)
        else:
            body.subscribe(self)

    def cancel(self) -> None:
        self._work = None
        if self._response is not None:
            self._response.discard()
        self.request.cancel()

    def body_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            fault = f"the answer has more than the {self._limit} bytes that are taken"
            self.body_failed(UpstreamFault(fault, reason="call_answer_too_large"))
        else:
            keep(self._pieces, data)

    def body_end(self, trailers: list[Pair] | None) -> None:
        work, response = self._work, self._response
        if work is None or response is None:
            return
        data, settings = b"".join(self._pieces), work._batch.settings
        described = partial(_described, response, data, settings.max_depth, settings.max_json_values)
        if len(data) <= AT_ONCE:
            self._finish(response, data, described())
        else:
            work._batch.beside(described).addCallbacks(partial(self._finish, response, data), self._unread)

    def _finish(self, response: Response, data: bytes, described: dict[str, Any]) -> None:
        work, self._work = self._work, None
        if work is not None:
            work._answered(self._item, response, data, described)

    def _unread(self, failure: Failure) -> None:
        work, self._work = self._work, None
        if work is not None and failure.value is not None:
            work._answered(self._item, failed(self.request, failure.value), None)

    def body_failed(self, error: GatewayError) -> None:
        work = self._work
        if work is not None:
            self.cancel()
            work._answered(self._item, problem(self.request, error), None)


def _described(response: Response, data: bytes, max_depth: int, most: int) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    for name, value in response.headers.pairs:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        if key.lower() not in _COOKIES:
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
    described: dict[str, Any] = {
        "status": response.status,
        "reason": _PHRASES.get(response.status, ""),
        "headers": headers,
    }
    kind = (response.headers.get(b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind == b"application/json" or kind.endswith(b"+json"):
        try:
            described["body"] = read_json(data, depth=max_depth, most=most) if data else None
            return described
        except InvalidJSON:
            pass  # then it is shown as what it is
    try:
        described["body"] = data.decode()
    except UnicodeDecodeError:
        described["body_base64"] = b64encode(data).decode()
    return described
