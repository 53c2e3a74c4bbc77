"""
A simulated outage: 1,000 requests a second over three targets, one is killed, another hangs, both come back.

Time is a number here, so that minutes pass in a second and every run is the same.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock

from apigw.exchange.errors import UpstreamFault
from apigw.exchange.request import Request
from apigw.upstream.attempt import Attempt
from apigw.upstream.balance_spec import BalanceSpec
from apigw.upstream.balancing.kinds import BALANCERS, plain_balancer
from apigw.upstream.breaker import Breaker
from apigw.upstream.health import Prober
from apigw.upstream.retries import Retries, RetryBudget
from apigw.upstream.settings import BreakerSettings, HealthSettings, OutlierSettings, RetrySettings
from apigw.upstream.target import Target
from apigw.upstream.target_set import TargetSet
from apigw.upstream.target_spec import TargetSpec

RATE = 1000
TIMEOUT = 5.0


class Answer:
    code = 200

    def content(self) -> Deferred[bytes]:
        return succeed(b"ok")


class World:
    """Three targets, a gateway's decisions about them, and clients that never wait for each other."""

    def __init__(self, kind: str, *, active: bool, breaker: bool) -> None:
        self.now = 0.0
        self.random = Random(7)
        self.state = {"t0": "up", "t1": "up", "t2": "up"}
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = 0
        self.outcomes: list[tuple[float, bool]] = []
        self.hits: Counter[tuple[int, str]] = Counter()
        retry = RetrySettings.model_validate({"attempts": 3, "on": "connect, reset, timeout"})
        budget = RetryBudget(retry, 0.0)
        chosen = BreakerSettings(reset_timeout=5.0, volume_threshold=20)
        self.targets = TargetSet(
            "orders",
            plain_balancer(BalanceSpec(kind), Random(1)),
            0.0,
            outlier=OutlierSettings(),
            new_breaker=(lambda target, now: Breaker(chosen, now, rng=self.random)) if breaker else None,
            budget=budget.counts,
        )
        self.targets.update([TargetSpec("http", name, 80) for name in self.state], 0.0)
        self.retries = Retries(retry, budget, self.random, lambda: len(self.targets.eligible))
        self.clock = Clock()
        health = HealthSettings(path="/health", interval=2.0) if active else HealthSettings()
        self.prober = Prober(
            self.targets, health, OutlierSettings(), self.fetch, self.dial, self.clock, lambda: self.now, self.random
        )
        self.prober.start()

    def fetch(self, target: Target, method: str, path: str, timeout: float) -> Deferred[Any]:
        state = self.state[target.host]
        if state == "up":
            return succeed(Answer())
        answer: Deferred[Any] = Deferred()
        if state == "killed":
            answer.errback(Refused())
        return answer

    def dial(self, target: Target, timeout: float) -> Deferred[Any]:
        raise AssertionError("not asked for")

    def at(self, when: float, act: Callable[[], None]) -> None:
        self.serial += 1
        heapq.heappush(self.events, (when, self.serial, act))

    def send(self, request: Request, began: float, tried: list[Target]) -> None:
        try:
            attempt = self.targets.begin(request, self.now, tried)
        except UpstreamFault:
            self.outcomes.append((began, False))
            return
        host = attempt.target.host
        self.hits[int(self.now), host] += 1
        latency = self.random.uniform(0.002, 0.02)
        if self.state[host] == "up":
            self.at(self.now + latency, lambda: self.end(attempt, request, began, tried))
        elif self.state[host] == "killed":
            self.fail(attempt, "connect", request, began, tried)
        else:
            self.at(self.now + TIMEOUT, lambda: self.fail(attempt, "timeout", request, began, tried))

    def end(self, attempt: Attempt, request: Request, began: float, tried: list[Target]) -> None:
        state = self.state[attempt.target.host]
        if state == "killed":
            self.fail(attempt, "reset", request, began, tried)
        elif state == "hanging":
            self.at(self.now + TIMEOUT, lambda: self.fail(attempt, "timeout", request, began, tried))
        else:
            attempt.answered(200, self.now)
            attempt.end()
            self.outcomes.append((began, True))

    def fail(self, attempt: Attempt, kind: str, request: Request, began: float, tried: list[Target]) -> None:
        attempt.failed(kind, self.now)
        tried = [*tried, attempt.target]
        delay = self.retries.delay(request, kind, 0, replayable=True, now=self.now, tries=len(tried))
        if delay is None:
            self.outcomes.append((began, False))
        else:
            self.at(self.now + delay, lambda: self.send(request, began, tried))

    def run(self, until: float) -> None:
        request = Request(b"GET", b"/")
        tick = self.now
        while self.now < until:
            self.now += 1 / RATE
            if self.now >= tick:
                tick += 0.25
                self.targets.tick(self.now)
            self.clock.advance(1 / RATE)
            while self.events and self.events[0][0] <= self.now:
                heapq.heappop(self.events)[2]()
            self.send(request, self.now, [])

    def failures(self, since: float = 0.0, until: float = 1e9) -> int:
        return sum(not good for began, good in self.outcomes if since <= began < until)


@pytest.mark.parametrize("active", [True, False], ids=["active checks", "passive only"])
@pytest.mark.parametrize("breaker", [False, True], ids=["no breaker", "breaker"])
@pytest.mark.parametrize("kind", list(BALANCERS))
def test_one_target_is_killed_another_hangs_and_both_return(kind: str, breaker: bool, active: bool) -> None:
    world = World(kind, active=active, breaker=breaker)
    world.run(5.0)
    world.state["t0"] = "killed"
    world.run(10.0)
    world.state["t1"] = "hanging"
    world.run(30.0)
    assert {host for second, host in world.hits if second == 29} == {"t2"}
    world.state["t0"] = world.state["t1"] = "up"
    world.run(50.0)
    # At most 0.1 % fail, and none that began after the hang was found out.
    assert world.failures() <= len(world.outcomes) / 1000
    assert world.failures(since=12.0) == 0
    # Within 10 s of their return the load is balanced again, by itself.
    last = [sum(world.hits[second, host] for second in range(40, 50)) for host in ("t0", "t1", "t2")]
    assert last == pytest.approx([sum(last) / 3] * 3, rel=0.15)


@pytest.mark.parametrize("breaker", [False, True], ids=["no breaker", "breaker"])
def test_no_client_has_to_find_out_that_a_target_still_hangs(breaker: bool) -> None:
    world = World("round_robin", active=False, breaker=breaker)
    world.run(1.0)
    world.state["t1"] = "hanging"
    world.run(120.0)
    assert world.failures() == 0
    assert sum(world.hits[second, "t1"] for second in range(3, 120)) == 0


def test_nothing_is_left_when_the_prober_stops() -> None:
    world = World("round_robin", active=True, breaker=False)
    world.state["t1"] = "hanging"
    world.run(3.5)
    assert world.clock.getDelayedCalls()
    world.prober.stop()
    assert world.clock.getDelayedCalls() == []
    assert world.targets._listeners == []
    assert world.targets._on_update == []
