"""concurrency: how many are at work, who waits, and that every place is given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from apigw.exchange.body import Body
from apigw.exchange.errors import UpstreamFault
from apigw.exchange.request import Request
from apigw.exchange.responder import Done
from apigw.exchange.response import Response
from apigw.policies import concurrency
from apigw.policies.policy import layer
from tests.policies.surroundings import Outcome, World, request, run


class Busy:
    """A concurrency policy before a service that answers when it is told."""

    def __init__(self, **options: str) -> None:
        self.world = World()
        settings = concurrency.Settings.model_validate(options)
        environment = self.world.environment("concurrency")
        self.policy = concurrency.Concurrency(settings, environment)
        self.layer = layer(self.policy, settings, environment)
        self.at_service: list[Done] = []
        self.asked: list[Request] = []

    def ask(self, **about: Any) -> Outcome:
        asked = request(**about)
        self.asked.append(asked)
        return run(self.layer, asked, lambda _request, done: self.at_service.append(done))

    def answer(self, body: bytes | Body = b"done") -> None:
        self.at_service.pop(0)(Response(200, None, body))


def test_the_one_too_many_is_refused_and_told_when_to_come_back() -> None:
    busy = Busy(limit="2")
    first, _, third = busy.ask(), busy.ask(), busy.ask()
    assert (third.status, third.reason) == (503, "concurrency_limited")
    assert third.response.headers.get(b"retry-after") == b"1"
    busy.answer()
    assert first.status == 200
    busy.ask()
    assert len(busy.at_service) == 2


def test_a_limit_of_ones_own_answers_429() -> None:
    busy = Busy(limit="1", by="ip")
    busy.ask(client="192.0.2.1")
    assert busy.ask(client="192.0.2.1").status == 429
    busy.ask(client="192.0.2.2")
    assert len(busy.at_service) == 2


def test_who_waits_is_served_in_order() -> None:
    busy = Busy(limit="1", queue="2")
    outcomes = [busy.ask() for _ in range(4)]
    assert outcomes[3].status == 503
    for number in range(3):
        assert len(busy.at_service) == 1
        busy.answer(b"%d" % number)
        assert outcomes[number].response.body == b"%d" % number
    assert busy.policy.at_work() == 0
    assert busy.world.timers == []


def test_who_waits_too_long_is_refused() -> None:
    busy = Busy(limit="1", queue="2", queue_timeout="2s")
    busy.ask()
    waiting = busy.ask()
    busy.world.advance(1.9)
    assert waiting.responses == []
    busy.world.advance(0.2)
    assert waiting.status == 503
    busy.answer()
    assert busy.policy.at_work() == 0


def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    busy = Busy(limit="1", queue="2")
    busy.ask()
    waiting = busy.ask()
    busy.asked[1].cancel()
    busy.answer()
    assert waiting.responses == []
    assert busy.at_service == []
    assert busy.policy.at_work() == 0
    assert busy.world.timers == []


def test_a_client_that_leaves_frees_its_place() -> None:
    busy = Busy(limit="1")
    busy.ask()
    busy.asked[0].cancel()
    assert busy.policy.at_work() == 0
    busy.answer()  # too late: nothing is freed twice
    assert busy.policy.at_work() == 0


@pytest.mark.parametrize(
    "end",
    [
        lambda body, _outcome: body.end(),
        lambda body, _outcome: body.fail(UpstreamFault("broken off")),
        lambda _body, outcome: outcome.response.discard(),
    ],
    ids=["ends", "breaks off", "is not wanted"],
)
def test_a_stream_holds_its_place_until_it_is_over(end: Callable[[Body, Outcome], None]) -> None:
    busy = Busy(limit="1")
    outcome = busy.ask()
    body = Body(None)
    busy.answer(body)
    body.feed(b"piece")
    assert busy.policy.at_work() == 1
    assert busy.ask().status == 503
    end(body, outcome)
    assert busy.policy.at_work() == 0


def test_in_shadow_nobody_waits_and_nobody_is_refused() -> None:
    busy = Busy(limit="1", queue="5", mode="shadow")
    outcomes = [busy.ask(), busy.ask()]
    assert len(busy.at_service) == 2
    busy.answer()
    busy.answer()
    assert [outcome.status for outcome in outcomes] == [200, 200]
    assert busy.world.counts == {"would_deny": 1}
    assert busy.policy.at_work() == 0


def test_a_long_queue_of_requests_that_are_answered_at_once_needs_no_deep_stack() -> None:
    busy = Busy(limit="1", queue="5000")
    busy.ask()
    waiting = [run(busy.layer, request(), lambda _request, done: done(Response(401))) for _ in range(5000)]
    busy.answer()
    assert {outcome.status for outcome in waiting} == {401}
    assert busy.policy.at_work() == 0
    assert busy.world.timers == []
