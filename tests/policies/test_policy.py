from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from apigw.exchange.body import Body
from apigw.exchange.errors import ClientFault
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Next, Responder
from apigw.exchange.response import Response
from apigw.policies.policy import Policy, PolicySettings, layer, order_warnings
from tests.policies.surroundings import Outcome, World, request, run

TEAPOT = ClientFault("no tea", status=418, reason="teapot")


class RefusesBefore:
    def on_request(self, asked: Request) -> Response | None:
        raise TEAPOT

    def on_response(self, asked: Request, response: Response) -> Response:
        raise AssertionError("a refused request has no response phase")


class RefusesBeforeLater:
    async def on_request(self, asked: Request) -> Response | None:
        raise TEAPOT


class RefusesAfter:
    def on_response(self, asked: Request, response: Response) -> Response:
        raise TEAPOT


class RefusesAfterLater:
    async def on_response(self, asked: Request, response: Response) -> Response:
        raise TEAPOT


class RefusesAround:
    async def respond(self, asked: Request, next_: Next) -> Response:
        raise TEAPOT


class RefusesAroundAfter:
    async def respond(self, asked: Request, next_: Next) -> Response:
        await next_(asked)
        raise TEAPOT


class RefusesByWrapping:
    def wrap(self, inner: Responder) -> Responder:
        return lambda _asked, done: done(Response(418, error=TEAPOT))


class RefusesByWrappingAfter:
    def wrap(self, inner: Responder) -> Responder:
        return lambda asked, done: inner(asked, lambda _: done(Response(418, error=TEAPOT)))


class Breaks:
    def on_request(self, asked: Request) -> Response | None:
        raise RuntimeError("a bug")


REFUSING: list[Callable[[], Any]] = [
    RefusesBefore,
    RefusesBeforeLater,
    RefusesAfter,
    RefusesAfterLater,
    RefusesAround,
    RefusesAroundAfter,
    RefusesByWrapping,
    RefusesByWrappingAfter,
]


def through(policy: Any, mode: str, world: World, asked: Request, service: Responder | None = None) -> Outcome:
    settings = PolicySettings.model_validate({"mode": mode})
    return run(layer(policy, settings, world.environment("teapots")), asked, service)


@pytest.mark.parametrize("refusing", REFUSING)
def test_an_enforced_policy_of_any_form_refuses(refusing: Callable[[], Any]) -> None:
    assert through(refusing(), "enforce", World(), request()).status == 418


@pytest.mark.parametrize("refusing", REFUSING)
def test_a_policy_of_any_form_in_shadow_lets_pass_and_says_so(refusing: Callable[[], Any]) -> None:
    world = World()
    asked = request()
    outcome = through(refusing(), "shadow", world, asked)
    assert outcome.status == 200
    assert outcome.response.body == b"the service"
    assert len(outcome.passed) == 1
    assert asked.reason == ""
    assert world.counts == {"would_deny": 1}
    assert asked.notes == {"would_deny": [{"policy": "teapots main", "status": 418, "reason": "teapot"}]}


@pytest.mark.parametrize("refusing", [RefusesAfter, RefusesAfterLater, RefusesAroundAfter, RefusesByWrappingAfter])
def test_a_streamed_response_survives_a_refusal_in_shadow(refusing: Callable[[], Any]) -> None:
    body = Body(None)

    def service(_asked: Request, done: Done) -> None:
        done(Response(200, body=body))

    outcome = through(refusing(), "shadow", World(), request(), service)
    body.feed(b"still ")
    body.feed(b"here")
    body.end()
    pieces: list[bytes] = []
    assert isinstance(outcome.response.body, Body)

    class Sink:
        def body_data(self, data: bytes) -> None:
            pieces.append(data)

        def body_end(self, trailers: object) -> None:
            pieces.append(b".")

        def body_failed(self, error: Exception) -> None:
            raise error

    outcome.response.body.subscribe(Sink())
    assert b"".join(pieces) == b"still here."


def test_a_policy_that_breaks_in_shadow_lets_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apigw.exchange.responder.log.failure", lambda *_, **__: None)
    world = World()
    assert through(Breaks(), "shadow", world, request()).status == 200
    assert world.counts == {"would_deny": 1}


def test_an_answer_of_its_own_is_no_refusal_but_is_withheld_in_shadow() -> None:
    class Answers:
        def on_request(self, asked: Request) -> Response | None:
            return Response(204)

    world = World()
    assert through(Answers(), "shadow", world, request()).status == 200
    assert world.counts == {"would_answer": 1}


@pytest.mark.parametrize("form", ["phases", "around", "wrap"])
def test_what_a_policy_in_shadow_changes_is_changed(form: str) -> None:
    class Phases:
        def on_request(self, asked: Request) -> Response | None:
            asked.edit_headers().add(b"X-Seen", b"1")
            return None

        def on_response(self, asked: Request, response: Response) -> Response:
            response.edit_headers().add(b"X-Was", b"seen")
            return response

    class Around:
        async def respond(self, asked: Request, next_: Next) -> Response:
            Phases().on_request(asked)
            return Phases().on_response(asked, await next_(asked))

    class Wraps:
        def wrap(self, inner: Responder) -> Responder:
            def respond(asked: Request, done: Done) -> None:
                Phases().on_request(asked)
                inner(asked, lambda response: done(Phases().on_response(asked, response)))

            return respond

    world = World()
    outcome = through({"phases": Phases, "around": Around, "wrap": Wraps}[form](), "shadow", world, request())
    assert outcome.passed[0].headers.get(b"x-seen") == b"1"
    assert outcome.response.headers.get(b"x-was") == b"seen"
    assert world.counts == {}


def test_the_error_of_a_service_is_not_a_refusal_of_the_policy() -> None:
    class Passes:
        async def respond(self, asked: Request, next_: Next) -> Response:
            return await next_(asked)

    def service(_asked: Request, done: Done) -> None:
        done(Response(502, Headers(), error=ClientFault("down")))

    world = World()
    assert through(Passes(), "shadow", world, request(), service).status == 502
    assert world.counts == {}


class Authenticates(Policy[PolicySettings]):
    authenticates = True


class Asks(Policy[PolicySettings]):
    needs_identity = True


class Preflights(Policy[PolicySettings]):
    answers_preflights = True


def built(world: World, *classes: type[Policy[PolicySettings]]) -> list[tuple[str, Any]]:
    return [(each.__name__, each(PolicySettings(), world.environment(each.__name__))) for each in classes]


def test_an_order_that_works_has_no_warning() -> None:
    assert order_warnings(built(World(), Preflights, Authenticates, Asks)) == []


def test_asking_who_it_is_before_anyone_is_authenticated_is_warned_of() -> None:
    assert order_warnings(built(World(), Asks, Authenticates)) == [
        "`Asks` asks who the caller is, but `Authenticates` comes only after it"
    ]
    assert order_warnings(built(World(), Asks)) == [
        "`Asks` asks who the caller is, but no policy before it authenticates"
    ]


def test_preflights_behind_authentication_are_warned_of() -> None:
    assert order_warnings(built(World(), Authenticates, Preflights)) == [
        "`Preflights` answers preflights, which carry no credentials: `Authenticates` before it refuses them"
    ]


async def test_waiting_in_shadow_is_cancelled_with_the_request() -> None:
    cancelled: list[object] = []

    class Waits:
        async def on_request(self, asked: Request) -> Response | None:
            await Deferred(cancelled.append)
            return None

    world = World()
    asked = request()
    outcome = through(Waits(), "shadow", world, asked)
    asked.cancel()
    assert len(cancelled) == 1
    assert outcome.passed == []
    assert outcome.reason == "client_gone"
    assert world.counts == {}
