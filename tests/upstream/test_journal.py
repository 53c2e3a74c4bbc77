"""What an operator reads about targets and breakers."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from twisted.logger import formatEvent, globalLogPublisher

from apigw.upstream.balance_spec import BalanceSpec
from apigw.upstream.balancing.kinds import plain_balancer
from apigw.upstream.breaker import Breaker
from apigw.upstream.journal import log_breaker, log_targets
from apigw.upstream.settings import BreakerSettings
from apigw.upstream.target_set import TargetSet
from apigw.upstream.target_spec import TargetSpec


@pytest.fixture
def lines() -> Iterator[list[str]]:
    heard: list[str] = []

    def observe(event: Any) -> None:
        if event.get("log_namespace") == "apigw.upstream.journal":
            heard.append(f"{event['log_level'].name} {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    yield heard
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


def test_a_change_of_a_target_is_one_line_with_its_reason(lines: list[str]) -> None:
    targets = TargetSet("orders", plain_balancer(BalanceSpec("random"), Random(1)), 0.0)
    targets.update([TargetSpec("http", "a", 80)], 0.0)
    targets.listen(log_targets("orders"))
    targets.probed(targets.targets[0], False, 1.0, why="the check was answered 500")
    targets.probed(targets.targets[0], False, 2.0, why="the check was answered 500")
    targets.probed(targets.targets[0], True, 3.0)
    assert lines == [
        "warn upstream orders: http://a:80 is unhealthy, was healthy: the check was answered 500",
        "info upstream orders: http://a:80 is healthy, was unhealthy",
    ]


def test_a_change_of_a_circuit_is_one_line(lines: list[str]) -> None:
    breaker = Breaker(BreakerSettings(volume_threshold=1), 0.0, name="orders http://a:80")
    breaker.listen(log_breaker)
    breaker.failure(breaker.enter(0.0), 0.0)
    breaker.look(1000.0)
    assert lines == [
        "warn circuit of orders http://a:80 is open, was closed",
        "info circuit of orders http://a:80 is half_open, was open",
    ]
