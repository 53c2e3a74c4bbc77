"""
The contract that every room meets the others by.

A *responder* answers a request by calling ``done`` exactly once, now or later. A plain route, a cache hit, an
aggregate, a GraphQL endpoint and a canned answer are all responders, and a policy wraps one.

    Responder = Callable[[Request, Done], None]
    Done      = Callable[[Response], None]

Why a call-back, and not an awaitable: measured, a coroutine chain that waits once costs 3-4 us however deep it is, a
plain call 0.03 us; most requests' only wait is the upstream's answer, which arrives as a call anyway. So a plain
route is one call in and one call out, and a policy that doesn't wait costs what its work costs.

A policy is written in whichever of three forms suits it:

- phases: ``on_request(request)`` returns None to go on, a Response to answer at once, or an awaitable of either;
  ``on_response(request, response)`` returns the response (or another), or an awaitable of it;
- around: ``async def respond(request, next)``, where ``await next(request)`` is the response of all that is inside;
- ``wrap(responder) -> responder``, when neither is enough.

Errors: a phase or coroutine that raises ``GatewayError`` answers with its problem document; anything else is logged
with its traceback and answered by 500 ``internal_error``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from apigw.exchange.errors import ClientGone, GatewayError, GatewayFault
from apigw.exchange.masking import MaskedFailure
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.response import Response

Done = Callable[[Response], None]
Responder = Callable[[Request, Done], None]
Next = Callable[[Request], Awaitable[Response]]

T = TypeVar("T")
log = Logger()


def failed(request: Request, error: BaseException) -> Response:
    """The response for whatever was raised while ``request`` was worked on."""
    if isinstance(error, GatewayError):
        return problem(request, error)
    if isinstance(error, CancelledError):
        return problem(request, ClientGone("the exchange was cancelled"))
    log.failure(
        "request {id} failed: {error!r}",
        MaskedFailure(error, request),
        id=request.id.decode("latin-1"),
        error=type(error).__name__,
    )
    return problem(request, GatewayFault("the gateway failed; its log has the cause under this request id"))


class _Driver:
    """Runs a coroutine that awaits Deferreds and asyncio futures, without a Task."""

    __slots__ = ("_coroutine", "_failed", "_finished", "_waiting_for", "over")

    def __init__(
        self,
        coroutine: Generator[Any, Any, T] | Coroutine[Any, Any, T],
        finished: Callable[[T], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._coroutine = coroutine
        self._finished = finished
        self._failed = failed
        self._waiting_for: Any = None
        self.over = False

    def step(self, send: Callable[[Any], Any], value: Any) -> None:
        while True:
            try:
                awaited = send(value)
            except StopIteration as stop:
                self.over = True
                self._finished(stop.value)
                return
            except BaseException as error:
                self.over = True
                self._failed(error)
                if not isinstance(error, Exception):
                    raise
                return
            if isinstance(awaited, Deferred):
                self._waiting_for = awaited
                if awaited.called and not awaited.paused:
                    # It has its result: go on in this loop, so that a long chain of ready results needs no stack.
                    outcome: list[Any] = []
                    awaited.addBoth(outcome.append)
                    if outcome:
                        value = outcome[0]
                        if isinstance(value, Failure):
                            send, value = self._coroutine.throw, value.value
                        else:
                            send = self._coroutine.send
                        continue
                    awaited.addBoth(self._deliver_first, outcome)
                    return
                awaited.addBoth(self._deliver)
                return
            if awaited is None:  # asyncio.sleep(0): let others go first
                self._waiting_for = None
                asyncio.get_running_loop().call_soon(self.step, self._coroutine.send, None)
                return
            awaited._asyncio_future_blocking = False
            self._waiting_for = awaited
            awaited.add_done_callback(self._future_done)
            return

    def _deliver(self, result: Any) -> None:
        if isinstance(result, Failure):
            self.step(self._coroutine.throw, result.value)
        else:
            self.step(self._coroutine.send, result)

    def _deliver_first(self, _: Any, outcome: list[Any]) -> None:
        self._deliver(outcome[0])

    def _future_done(self, _future: Any) -> None:
        # The future's __await__ reads its result itself.
        self.step(self._coroutine.send, None)

    def cancel(self) -> None:
        if not self.over and self._waiting_for is not None:
            self._waiting_for.cancel()


def drive(
    coroutine: Coroutine[Any, Any, T], finished: Callable[[T], None], failed: Callable[[BaseException], None]
) -> Callable[[], None] | None:
    """
    Run ``coroutine`` (which may await Deferreds and asyncio futures) and call one of the two when it ends.

    One that has nothing to wait for ends before this returns, and costs neither a Deferred nor a Task.

    :return: what cancels it; None if it has ended.
    """
    driver = _Driver(coroutine, finished, failed)
    driver.step(coroutine.send, None)
    return None if driver.over else driver.cancel


def respond_by(answer: Callable[[Request], Coroutine[Any, Any, Response]]) -> Responder:
    """A responder from an ``async def answer(request) -> Response``."""

    def respond(request: Request, done: Done) -> None:
        cancel = drive(answer(request), done, lambda error: done(failed(request, error)))
        if cancel is not None:
            request.on_cancel(cancel)

    return respond


def awaitable(responder: Responder) -> Callable[[Request], Deferred[Response]]:
    """The other way round: a responder as something to ``await``."""

    def respond(request: Request) -> Deferred[Response]:
        answer: Deferred[Response] = Deferred()

        def done(response: Response) -> None:
            if answer.called:
                response.discard()  # whoever waited was cancelled
            else:
                answer.callback(response)

        responder(request, done)
        return answer

    return respond


def stack(policies: list[Any], responder: Responder) -> Responder:
    """Put policies around a responder; the first is the outermost. Without policies it is the responder itself."""
    for policy in reversed(policies):
        responder = wrapped(policy, responder)
    return responder


def wrapped(policy: Any, inner: Responder) -> Responder:
    """One policy, in whichever form it is written, around ``inner``."""
    wrap: Callable[[Responder], Responder] | None = getattr(policy, "wrap", None)
    if wrap is not None:
        return wrap(inner)
    around = getattr(policy, "respond", None)
    if around is not None:
        next_ = awaitable(inner)
        return respond_by(lambda request: around(request, next_))
    on_request = getattr(policy, "on_request", None)
    on_response = getattr(policy, "on_response", None)
    if on_response is not None:
        inner = _with_response_phase(on_response, inner)
    if on_request is not None:
        inner = _with_request_phase(on_request, inner, on_response)
    return inner


def _with_response_phase(on_response: Callable[[Request, Response], Any], inner: Responder) -> Responder:
    def respond(request: Request, done: Done) -> None:
        def outward(response: Response) -> None:
            try:
                changed = on_response(request, response)
            except Exception as error:
                response.discard()
                changed = failed(request, error)
            if type(changed) is Response:
                done(changed)
                return

            def refused(answer: Response) -> None:
                response.discard()
                done(answer)

            wait_for(request, changed, done, refused)

        inner(request, outward)

    return respond


def _with_request_phase(
    on_request: Callable[[Request], Any], inner: Responder, on_response: Callable[[Request, Response], Any] | None
) -> Responder:
    """A policy's own early answer does not pass through its own response phase: the policy made it as it wants it."""

    def respond(request: Request, done: Done) -> None:
        try:
            early = on_request(request)
        except Exception as error:
            done(failed(request, error))
            return
        if early is None:
            inner(request, done)
        elif type(early) is Response:
            done(early)
        else:
            wait_for(
                request, early, lambda response: inner(request, done) if response is None else done(response), done
            )

    return respond


def wait_for(request: Request, awaited: Awaitable[T], finished: Callable[[T], None], done: Done) -> None:
    """
    Go on with ``finished(result)`` once there is a result. An error becomes the answer, and who leaves cancels it.
    """

    async def result() -> T:
        return await awaited

    cancel = drive(result(), finished, lambda error: done(failed(request, error)))
    if cancel is not None:
        request.on_cancel(cancel)
