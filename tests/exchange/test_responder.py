"""Responders, policies around them, and what becomes of errors and cancellation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed

from apigw.exchange.body import Body
from apigw.exchange.errors import ClientFault, GatewayError
from apigw.exchange.headers import Headers
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, awaitable, drive, respond_by, stack
from apigw.exchange.response import Response


def request() -> Request:
    made = Request(b"GET", b"/")
    made.id = b"id"
    return made


def says(status: int) -> Callable[[Request, Done], None]:
    return lambda request, done: done(Response(status))


def answer(responder: Any, asked: Request | None = None) -> list[Response]:
    answers: list[Response] = []
    responder(asked or request(), answers.append)
    return answers


# drive


async def test_what_waits_for_nothing_ends_at_once() -> None:
    async def work() -> int:
        total = 0
        for number in range(10_000):
            total += await succeed(number)
        return total

    outcome: list[Any] = []
    assert drive(work(), outcome.append, outcome.append) is None
    assert outcome == [49995000]


async def test_deferreds_and_futures_and_other_peoples_turns() -> None:
    first: Deferred[int] = Deferred()
    second = asyncio.get_running_loop().create_future()

    async def work() -> int:
        a = await first
        await asyncio.sleep(0)
        b: int = await second
        return a + b

    outcome: Deferred[int] = Deferred()
    assert drive(work(), outcome.callback, outcome.errback) is not None
    first.callback(1)
    second.set_result(2)
    assert await outcome == 3


async def test_errors_of_what_is_awaited_arrive_in_the_coroutine() -> None:
    waiting: Deferred[int] = Deferred()

    async def work() -> str:
        try:
            await waiting
        except ValueError:
            return "caught"
        return "missed"

    outcome: list[Any] = []
    drive(work(), outcome.append, outcome.append)
    waiting.errback(ValueError())
    assert outcome == ["caught"]


@pytest.mark.parametrize("make", [Deferred, lambda: asyncio.get_running_loop().create_future()])
async def test_cancelling(make: Callable[[], Awaitable[None]]) -> None:
    waiting = make()
    outcome: list[Any] = []

    async def work() -> None:
        await waiting

    cancel = drive(work(), outcome.append, outcome.append)
    assert cancel is not None
    cancel()
    while not outcome:
        await asyncio.sleep(0)
    assert isinstance(outcome[0], CancelledError | asyncio.CancelledError)
    cancel()
    assert len(outcome) == 1


# stack


class Phases:
    def __init__(self, name: str, log: list[str], early: Any = None) -> None:
        self.name, self.log, self.early = name, log, early

    def on_request(self, request: Request) -> Any:
        self.log.append(f"{self.name}>")
        return self.early

    def on_response(self, request: Request, response: Response) -> Any:
        self.log.append(f"<{self.name}")
        return response


def test_without_policies_there_is_nothing_around_a_responder() -> None:
    inner = says(200)
    assert stack([], inner) is inner


def test_the_first_policy_is_the_outermost() -> None:
    log: list[str] = []
    answers = answer(stack([Phases("a", log), Phases("b", log)], says(200)))
    assert log == ["a>", "b>", "<b", "<a"]
    assert [response.status for response in answers] == [200]


def test_an_early_answer_passes_those_outside_only() -> None:
    log: list[str] = []
    answers = answer(stack([Phases("a", log), Phases("b", log, Response(403)), Phases("c", log)], says(200)))
    assert log == ["a>", "b>", "<a"]
    assert answers[0].status == 403


async def test_a_phase_may_wait() -> None:
    waiting: Deferred[Response | None] = Deferred()
    answers = answer(stack([Phases("a", [], waiting)], says(200)))
    assert answers == []
    waiting.callback(None)
    assert [response.status for response in answers] == [200]


async def test_a_phase_that_waits_is_cancelled_with_its_request() -> None:
    waiting: Deferred[None] = Deferred()
    asked = request()
    answers = answer(stack([Phases("a", [], waiting)], says(200)), asked)
    asked.cancel()
    assert [response.status for response in answers] == [499]
    assert waiting.called


async def test_around() -> None:
    class Around:
        async def respond(self, request: Request, next_: Any) -> Response:
            response: Response = await next_(request)
            response.status += 1
            return response

    assert answer(stack([Around(), Around()], says(200)))[0].status == 202


def test_errors_become_problems() -> None:
    class Refusing:
        def on_request(self, request: Request) -> None:
            raise ClientFault("not so", status=418, reason="teapot", headers=((b"X", b"1"),))

    asked = request()
    [response] = answer(stack([Refusing()], says(200)), asked)
    assert response.status == 418
    assert response.headers.get(b"x") == b"1"
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["reason"] == asked.reason == "teapot"


def test_bugs_become_500_and_do_not_show() -> None:
    class Broken:
        def on_response(self, request: Request, response: Response) -> Response:
            raise ValueError("secret")

    asked = request()
    [response] = answer(stack([Broken()], says(200)), asked)
    assert response.status == 500
    assert asked.reason == "internal_error"
    assert isinstance(response.body, bytes)
    assert b"secret" not in response.body


def test_a_response_that_is_replaced_frees_its_stream() -> None:
    cancelled: list[bool] = []

    class Source:
        def body_wanted(self) -> None: ...
        def pause_body(self) -> None: ...
        def resume_body(self) -> None: ...
        def cancel_body(self) -> None:
            cancelled.append(True)

    class Broken:
        def on_response(self, request: Request, response: Response) -> Response:
            raise ValueError

    answer(stack([Broken()], lambda request, done: done(Response(200, None, Body(Source())))))
    assert cancelled == [True]


async def test_a_response_for_somebody_who_stopped_waiting_is_dropped() -> None:
    kept: list[Done] = []
    waiting = awaitable(lambda request, done: kept.append(done))(request())
    waiting.addErrback(lambda failure: None)
    waiting.cancel()
    body = Body(None)
    kept[0](Response(200, None, body))
    assert body.read


async def test_a_coroutine_as_responder() -> None:
    async def work(request: Request) -> Response:
        raise GatewayError("no", status=503, reason="busy")

    assert answer(respond_by(work))[0].status == 503


# Small things


def test_cancelling_stops_what_was_begun_last_first() -> None:
    stopped: list[str] = []
    asked = request()
    for name in "abc":
        asked.on_cancel(lambda name=name: stopped.append(name))  # type: ignore[misc]
    asked.cancel()
    asked.cancel()
    assert stopped == ["c", "b", "a"]


def test_editing_makes_a_copy_and_only_one() -> None:
    shared = Headers([(b"X", b"1")])
    response = Response(200, shared)
    response.lines = b"X: 1\r\n"
    response.edit_headers().set(b"x", b"2")
    response.edit_headers().add(b"Y", b"3")
    assert response.lines is None
    assert list(shared) == [(b"X", b"1")]
    assert list(response.headers) == [(b"x", b"2"), (b"Y", b"3")]


def test_headers_are_found_in_any_case_and_keep_their_own() -> None:
    headers = Headers([(b"Set-Cookie", b"a"), (b"set-COOKIE", b"b")])
    assert headers.get(b"set-cookie") == b"a"
    assert headers.get_all(b"set-cookie") == [b"a", b"b"]
    assert headers.joined(b"set-cookie") == b"a, b"
    assert headers.remove(b"set-cookie")
    assert not headers.remove(b"set-cookie")
    assert len(headers) == 0
    assert b"secret" not in repr(Headers([(b"A", b"secret")])).encode()


def test_a_problem_has_further_members() -> None:
    response = problem(request(), ClientFault("no"), allowed=["GET"])
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["allowed"] == ["GET"]
    assert response.headers.get(b"content-type") == b"application/problem+json"
