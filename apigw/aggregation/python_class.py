"""
``class = mypkg.pages:dashboard``: an aggregate in Python.

    from apigw.aggregation import gather

    async def dashboard(request, client):
        user_id = request.identity.claims["sub"]
        user, orders = await gather(
            client.users.get(f"/users/{user_id}"), client.orders.get("/orders", params={"userId": user_id})
        )
        return {"user": await user.json(), "recentOrders": (await orders.json())[:5]}

``client`` has an attribute (and ``client["name"]``, for names that are none) for each upstream: treq's own ``get``,
``post`` and ``request``, over the gateway's pools. Trace, request id, forwarding fields (X-Forwarded-*) and the
identity fields of the aggregate's policies go with each request. Deferreds, coroutines and asyncio futures may all be
awaited, and a function with ``inlineCallbacks`` does as well. What is returned becomes JSON; a ``Response`` goes out as
it is.

When the client leaves, or the time is up, what is awaited is cancelled, and with it every request in flight.

Not here: aggregates of calls (``aggregate``).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed

from apigw.aggregation.asking import TRACE, Client
from apigw.aggregation.deadlines import Deadlines
from apigw.aggregation.settings import AggregateSettings
from apigw.exchange.body import Body
from apigw.exchange.errors import BodyTooLarge, GatewayError, UpstreamFault
from apigw.exchange.headers import Headers
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, drive, failed
from apigw.exchange.response import Response
from apigw.json_text import write


def gather(*awaitables: Awaitable[Any]) -> Deferred[list[Any]]:
    """
    Wait for all of them at once; the results in their order.

    The first that fails makes the whole fail with its error and cancels the others; cancelling the whole cancels all.
    """
    results: list[Any] = [None] * len(awaitables)
    cancels: list[Callable[[], object]] = []
    whole: Deferred[list[Any]] = Deferred(lambda _: stop())
    left = len(awaitables)

    def stop() -> None:
        pending, cancels[:] = cancels[:], []
        for cancel in pending:
            cancel()

    def finished(place: int, result: Any) -> None:
        nonlocal left
        results[place] = result
        left -= 1
        if not left and not whole.called:
            whole.callback(results)

    def broke(error: BaseException) -> None:
        if not whole.called:
            whole.errback(error)
            stop()

    async def wait(awaitable: Awaitable[Any]) -> Any:
        return await awaitable

    for place, each in enumerate(awaitables):
        cancel = drive(wait(each), lambda result, place=place: finished(place, result), broke)  # type: ignore[misc]
        if cancel is not None:
            cancels.append(cancel)
    if whole.called and left:
        stop()
    elif not awaitables:
        whole.callback(results)
    return whole


PASSED = (b"x-request-id", *TRACE)
"""Fields of the client's request that go with every request of an aggregate."""


class Clients(Mapping[str, "BoundClient"]):
    """Upstreams' clients for one request, by name or attribute."""

    def __init__(
        self, clients: Mapping[str, Client], request: Request, max_answer: int, passed: tuple[bytes, ...] = PASSED
    ) -> None:
        self._clients = clients
        self._request = request
        self._max_answer = max_answer
        self._passed = passed

    def __getitem__(self, name: str) -> BoundClient:
        return BoundClient(self._clients[name], self._request, self._max_answer, self._passed)

    def __getattr__(self, name: str) -> BoundClient:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no upstream {name}; there are {', '.join(self._clients)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)


class BoundClient:
    """
    treq's client for one upstream, within one request of a client.

    :param passed: fields of the client's request that go with each.
    """

    def __init__(self, client: Client, request: Request, max_answer: int, passed: tuple[bytes, ...] = PASSED) -> None:
        self._client = client
        self._request = request
        self._max_answer = max_answer
        self._passed = passed

    def _limited(self, response: Any) -> Any:
        """An answer of at most so many bytes, as they come over the wire."""
        inner = response
        while (original := getattr(inner, "original", None)) is not None:
            inner = original
        body = inner._response.body
        if isinstance(body, Body):
            body.limit = min(body.limit, self._max_answer)
            if body.received > body.limit or (body.length or 0) > body.limit:
                body.cancel()
                raise _too_large()
        elif len(body) > self._max_answer:
            raise _too_large()
        return response

    def request(self, method: str, url: Any, *, headers: Any = None, **arguments: Any) -> Deferred[Any]:
        """As treq's ``request``: https://treq.readthedocs.io/en/latest/api.html."""
        request = self._request
        given = {name.lower() if isinstance(name, str) else name.lower().decode() for name in headers or ()}
        sent: dict[Any, Any] = dict(headers or {})
        own = request.headers
        for name in self._passed:
            value = request.id if name == b"x-request-id" else own.joined(name)
            if value and name.decode() not in given:
                sent[name.decode()] = value.decode("latin-1")
        for line in request.forwarding.lines.split(b"\r\n") if request.forwarding is not None else ():
            name, _, value = line.partition(b": ")
            if name and name.lower().decode() not in given:
                sent[name.decode()] = value.decode("latin-1")
        answer = cast("Deferred[Any]", self._client.request(method, url, headers=sent, **arguments))
        return answer.addCallback(self._limited)

    def get(self, url: Any, **arguments: Any) -> Deferred[Any]:
        """As treq's."""
        return self.request("GET", url, **arguments)

    def head(self, url: Any, **arguments: Any) -> Deferred[Any]:
        """As treq's."""
        return self.request("HEAD", url, **arguments)

    def post(self, url: Any, data: Any = None, **arguments: Any) -> Deferred[Any]:
        """As treq's."""
        return self.request("POST", url, data=data, **arguments)

    def put(self, url: Any, data: Any = None, **arguments: Any) -> Deferred[Any]:
        """As treq's."""
        return self.request("PUT", url, data=data, **arguments)

    def patch(self, url: Any, data: Any = None, **arguments: Any) -> Deferred[Any]:
        """As treq's."""
        return self.request("PATCH", url, data=data, **arguments)

    def delete(self, url: Any, **arguments: Any) -> Deferred[Any]:
        """As treq's."""
        return self.request("DELETE", url, **arguments)


class PythonAggregate:
    """The responder of an aggregate that is a function."""

    def __init__(
        self,
        settings: AggregateSettings,
        clients: Mapping[str, Client],
        deadlines: Deadlines,
        clock: Callable[[], float],
    ) -> None:
        self._function = cast("Callable[[Request, Clients], Any]", settings.class_)
        self._clients = clients
        self._deadlines = deadlines
        self._clock = clock
        self._max_body = settings.max_body
        self._max_answer = settings.max_answer
        self._passed: tuple[bytes, ...] = PASSED

    def identify(self, fields: frozenset[bytes]) -> None:
        """As ``Aggregate.identify``."""
        self._passed = (*PASSED, *sorted(fields))

    def __call__(self, request: Request, done: Done) -> None:
        """Answer ``request``."""
        if request.body is not None:
            request.body.limit = min(self._max_body, request.body.limit)
        working = _Working(self._deadlines, request, done)
        self._deadlines.add(working, self._clock())
        working.run(self._answer(request))

    async def _answer(self, request: Request) -> Response:
        result = self._function(request, Clients(self._clients, request, self._max_answer, self._passed))
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, Response):
            return result
        return Response(200, Headers([(b"Content-Type", b"application/json")]), write(result))


class _Working:
    """One request being worked on, until it is answered, its time is up, or the client is gone."""

    def __init__(self, deadlines: Deadlines, request: Request, done: Done) -> None:
        self._deadlines = deadlines
        self._request = request
        self._done = done
        self._cancel: Callable[[], None] | None = None
        self._gone = self._late = False

    def run(self, work: Coroutine[Any, Any, Response]) -> None:
        self._cancel = drive(work, self._finished, self._broke)
        if self._cancel is not None:
            self._request.on_cancel(self._left)

    def overdue(self) -> None:
        """The time is up."""
        self._late = True
        if self._cancel is not None:
            self._cancel()

    def _left(self) -> None:
        self._gone = True
        if self._cancel is not None:
            self._cancel()

    def _finished(self, response: Response) -> None:
        self._deadlines.remove(self)
        if self._gone:
            response.discard()
        else:
            self._done(response)

    def _broke(self, error: BaseException) -> None:
        self._deadlines.remove(self)
        if self._gone:
            return
        if self._late and isinstance(error, CancelledError):
            fault = UpstreamFault("the time for this request is up", status=504, reason="deadline_exceeded")
            self._done(problem(self._request, fault))
            return
        self._done(failed(self._request, _cause(error)))


def _cause(error: BaseException) -> BaseException:
    """The gateway's own error, where treq has wrapped one that broke an answer off."""
    if isinstance(error, ResponseFailed):
        for reason in error.reasons:
            inner = reason.value if isinstance(reason, Failure) else reason
            if isinstance(inner, BodyTooLarge):
                return _too_large()
            if isinstance(inner, GatewayError):
                return inner
    return error


def _too_large() -> UpstreamFault:
    return UpstreamFault("a service's answer has more bytes than are taken", reason="call_answer_too_large")
