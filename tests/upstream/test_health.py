"""Active checks, and the questions that bring an ejected target back."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock

from apigw.upstream.attempt import Attempt
from apigw.upstream.balance_spec import BalanceSpec
from apigw.upstream.balancing.kinds import plain_balancer
from apigw.upstream.breaker import Breaker
from apigw.upstream.health import Prober
from apigw.upstream.settings import BreakerSettings, HealthSettings, OutlierSettings
from apigw.upstream.target import Target
from apigw.upstream.target_set import TargetSet
from apigw.upstream.target_spec import TargetSpec


class Answer:
    def __init__(self, code: int, body: bytes) -> None:
        self.code = code
        self.body = body

    def content(self) -> Deferred[bytes]:
        return succeed(self.body)


class Checked:
    """Two targets, a prober, and what the targets say."""

    def __init__(self, **health: Any) -> None:
        self.clock = Clock()
        self.says: dict[str, object] = {"t0": 200, "t1": 200}
        self.body = b"ok"
        self.asked: list[tuple[str, str, str]] = []
        self.cancelled = 0
        outlier = OutlierSettings(**health.pop("outlier", {}))
        chosen = health.pop("breaker", None)
        new_breaker = None
        if chosen is not None:
            settings = BreakerSettings(**chosen)
            new_breaker = lambda target, now: Breaker(settings, now, rng=Random(1))  # noqa: E731
        self.targets = TargetSet(
            "x",
            plain_balancer(BalanceSpec("round_robin"), Random(1)),
            0.0,
            outlier=outlier,
            new_breaker=new_breaker,
        )
        self.targets.update([TargetSpec("http", "t0", 80), TargetSpec("http", "t1", 80)], 0.0)
        checks = HealthSettings.model_validate({"jitter": 0.0, **health})
        self.prober = Prober(
            self.targets, checks, outlier, self.fetch, self.dial, self.clock, self.clock.seconds, Random(1)
        )
        self.prober.start()
        self.clock.advance(0)

    def _answer(self, target: Target) -> Deferred[Any]:
        says = self.says[target.host]
        if says == "refused":
            return fail(Refused())
        if says == "silent":

            def cancelled(_: Deferred[Any]) -> None:
                self.cancelled += 1

            return Deferred(cancelled)
        assert isinstance(says, int)
        return succeed(Answer(says, self.body))

    def fetch(self, target: Target, method: str, path: str, timeout: float) -> Deferred[Any]:
        self.asked.append((target.host, method, path))
        return self._answer(target)

    def dial(self, target: Target, timeout: float) -> Deferred[Any]:
        self.asked.append((target.host, "dial", ""))
        return self._answer(target)

    @property
    def states(self) -> list[str]:
        return [target.state for target in self.targets.targets]

    def lose(self) -> Target:
        target = self.targets.targets[0]
        Attempt(target, 0, self.clock.seconds()).failed("connect", self.clock.seconds())
        return target

    def eject(self) -> Target:
        target = self.targets.targets[0]
        for _ in range(5):
            Attempt(target, 0, self.clock.seconds()).answered(500, self.clock.seconds(), whole=True)
        return target


def test_every_target_is_checked_at_once_and_again_after_the_interval() -> None:
    checked = Checked(path="/health", method="HEAD", interval="2s")
    assert checked.asked == [("t0", "HEAD", "/health"), ("t1", "HEAD", "/health")]
    checked.clock.advance(1.9)
    assert len(checked.asked) == 2
    checked.clock.advance(0.1)
    assert len(checked.asked) == 4


def test_a_target_that_is_down_at_the_start_is_unhealthy_at_once() -> None:
    checked = Checked(path="/health")
    checked.prober.stop()
    other = Checked(path="/health")
    other.says["t0"] = "refused"
    other.prober.stop()
    fresh = Prober(
        other.targets, HealthSettings(path="/health"), OutlierSettings(), other.fetch, other.dial, other.clock,
        other.clock.seconds, Random(1),
    )  # fmt: skip
    fresh.start()
    other.clock.advance(0)
    assert other.states == ["unhealthy", "healthy"]


@pytest.mark.parametrize("says", [500, 404, "refused", "silent"])
def test_bad_checks_in_a_row_make_it_unhealthy_and_good_ones_healthy_again(says: object) -> None:
    checked = Checked(path="/health", interval="2s", fast_interval="500ms", timeout="250ms", unhealthy=3, healthy=2)
    checked.says["t0"] = says
    checked.clock.pump([0.25] * 9)  # the check at 2.0 begins the count
    assert checked.states == ["healthy", "healthy"]
    checked.clock.pump([0.25] * 8)
    assert checked.states == ["unhealthy", "healthy"]
    checked.says["t0"] = 200
    checked.clock.pump([0.25] * 5)
    assert checked.states == ["healthy", "healthy"]


def test_one_bad_check_in_between_changes_nothing() -> None:
    checked = Checked(path="/health", interval="1s", unhealthy=2)
    for says in (500, 200, 500, 200, 500, 200):
        checked.says["t0"] = says
        checked.clock.advance(1.0)
        assert checked.states[0] == "healthy"
    assert checked.prober.failures == 3


def test_only_expected_statuses_and_bodies_are_healthy() -> None:
    checked = Checked(path="/health", interval="1s", unhealthy=1, healthy=1, expect="204", expect_body='"up":\\s*true')
    assert checked.states == ["unhealthy", "unhealthy"]
    assert checked.targets.targets[0].why == "the check was answered 200"
    checked.says.update(t0=204, t1=204)
    checked.clock.advance(1.0)
    assert checked.targets.targets[0].why == "the check's body is not what is expected"
    checked.body = b'{"up":  true}'
    checked.clock.advance(1.0)
    assert checked.states == ["healthy", "healthy"]


def test_a_tcp_check_only_connects() -> None:
    checked = Checked(type="tcp", interval="1s", unhealthy=1)
    assert checked.asked == [("t0", "dial", ""), ("t1", "dial", "")]
    checked.says["t1"] = "refused"
    checked.clock.advance(1.0)
    assert checked.states == ["healthy", "unhealthy"]
    assert checked.targets.targets[1].probe_silent


def test_a_silent_check_is_cancelled_when_its_time_is_over() -> None:
    checked = Checked(path="/health", interval="1s", timeout="500ms", unhealthy=1)
    checked.says["t0"] = "silent"
    checked.clock.pump([1.0, 0.5])
    assert checked.cancelled == 1
    assert checked.targets.targets[0].why == "the check had no answer within 0.5 s"


def test_jitter_spreads_the_checks() -> None:
    checked = Checked(path="/health", interval="10s", jitter=0.5)
    times = [call.getTime() for call in checked.clock.getDelayedCalls()]
    assert len(set(times)) == 2
    assert all(5.0 <= time <= 15.0 for time in times)


def test_without_active_checks_nothing_is_asked_while_all_is_well() -> None:
    checked = Checked()
    checked.clock.advance(100.0)
    assert checked.asked == []
    assert checked.clock.getDelayedCalls() == []


def test_a_target_that_gave_no_answer_is_asked_until_it_does_and_is_back_at_once() -> None:
    checked = Checked()
    target = checked.lose()
    checked.says["t0"] = "refused"
    checked.targets.tick(0.0)
    checked.clock.pump([0.0, 0.1, 0.2, 0.4, 0.8] + [1.0] * 60)
    assert checked.asked == [("t0", "OPTIONS", "/")] * 65
    assert target.state == "unreachable"
    checked.says["t0"] = 405
    checked.clock.advance(1.0)
    assert target.state == "healthy"
    assert checked.clock.getDelayedCalls() == []


def test_a_target_ejected_for_bad_answers_is_not_asked() -> None:
    checked = Checked()
    target = checked.targets.targets[0]
    for _ in range(5):
        attempt = Attempt(target, 0, 0.0)
        attempt.answered(500, 0.0)
        attempt.end()
    checked.clock.advance(10.0)
    assert target.state == "ejected"
    assert checked.asked == []


@pytest.mark.parametrize("options", [{"outlier": {"probe": False}}, {"type": "tcp"}, {"outlier": {"enabled": False}}])
def test_a_dead_target_comes_back_without_any_request_whatever_is_configured(options: dict[str, Any]) -> None:
    checked = Checked(**options)
    checked.says["t0"] = "refused"
    target = checked.lose()
    checked.targets.tick(0.0)
    checked.clock.pump([0.1] * 20)
    assert target.state in {"unreachable", "unhealthy"}
    checked.says["t0"] = 200
    checked.clock.pump([0.1] * 30)
    assert target.state == "healthy"
    asks = "OPTIONS" if "enabled" in str(options) else "dial"
    assert {how for host, how, _ in checked.asked if host == "t0"} == {asks}


def test_a_connection_alone_is_no_sign_that_a_target_no_longer_hangs() -> None:
    checked = Checked(outlier={"probe": False})
    target = checked.targets.targets[0]
    for _ in range(5):
        Attempt(target, 0, 0.0)
    checked.targets.tick(1.0)
    checked.clock.pump([1.0] * 10)
    assert (target.state, {how for _, how, _ in checked.asked}) == ("ejected", {"dial"})
    checked.targets.tick(31.0)
    checked.clock.pump([0.1] * 12)
    assert target.state == "healthy"


@pytest.mark.parametrize("path", ["/health", None])
def test_a_good_check_ends_an_outage_and_a_probation(path: str | None) -> None:
    checked = Checked(path=path, interval="60s", fast_interval="1s")
    target = checked.lose()
    assert target.state == "unreachable"
    checked.targets.tick(0.0)
    checked.clock.advance(0.1)
    assert target.state == "healthy"
    checked.eject()
    assert target.state == "ejected"
    checked.targets.tick(40.0)
    checked.clock.advance(1.0)
    assert target.state == "healthy"


@pytest.mark.parametrize(("says", "state"), [(200, "closed"), (404, "closed"), (501, "closed"), (500, "half_open")])
def test_a_half_open_circuit_is_tried_by_the_gateway_itself(says: int, state: str) -> None:
    checked = Checked(breaker={"half_open_requests": 2})
    target = checked.targets.targets[0]
    assert target.breaker is not None
    for _ in range(10):
        target.breaker.failure(target.breaker.enter(0.0), 0.0)
    checked.says["t0"] = says
    checked.targets.tick(0.0)
    checked.clock.advance(0)  # whether it is dead
    checked.targets.tick(40.0)
    checked.clock.pump([0.1] * 3)
    assert target.breaker.state.value == state
    assert target.state == "healthy"
    if state == "closed":  # no client has proved it yet
        target.breaker.failure(target.breaker.enter(41.0), 41.0)
        assert target.breaker.state.value == "open"
        assert target.breaker.retry_at >= 41.0 + 60.0
    else:
        target.breaker.success(target.breaker.enter(41.0), 41.0)
        target.breaker.success(target.breaker.enter(41.0), 41.0)
        assert target.breaker.state.value == "closed"


def test_a_circuit_that_opens_because_its_target_died_does_not_wait_when_that_is_back() -> None:
    checked = Checked(breaker={})
    target = checked.targets.targets[0]
    checked.says["t0"] = "refused"
    assert target.breaker is not None
    for _ in range(10):
        Attempt(target, target.breaker.enter(0.0), 0.0).failed("reset", 0.0)
    assert target.breaker.state.value == "open"
    checked.targets.tick(0.0)
    checked.clock.advance(0)
    assert target.state == "unreachable"
    checked.says["t0"] = 200
    checked.clock.pump([0.1] * 2)
    assert (target.state, target.breaker.state.value) == ("healthy", "closed")


def test_targets_that_come_and_go_are_checked_and_forgotten() -> None:
    checked = Checked(path="/health", interval="2s")
    checked.says["t2"] = 200
    checked.targets.update([TargetSpec("http", "t1", 80), TargetSpec("http", "t2", 80)], 1.0)
    checked.clock.advance(0)
    assert checked.asked[-1][0] == "t2"
    checked.asked.clear()
    checked.clock.advance(2.0)
    assert {host for host, _, _ in checked.asked} == {"t1", "t2"}


def test_stopping_leaves_no_timer_and_no_request() -> None:
    checked = Checked(path="/health", interval="1s")
    checked.says["t0"] = "silent"
    checked.clock.advance(1.0)
    checked.prober.stop()
    assert checked.cancelled == 1
    assert checked.clock.getDelayedCalls() == []
