"""A blocked reactor is measured, and the log says who blocked it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher

from apigw.observability.metrics import HistogramCell
from apigw.observability.reactor_lag import ReactorLag


@pytest.fixture
def told() -> Iterator[list[str]]:
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(cast("ILogObserver", observe))
    yield lines
    globalLogPublisher.removeObserver(cast("ILogObserver", observe))


def test_lags_are_observed_and_long_ones_are_told(told: list[str]) -> None:
    clock, seen = Clock(), HistogramCell((0.01, 0.1, 1.0))
    late = 0.0
    lag = ReactorLag(clock, seen.observe, monotonic=lambda: clock.seconds() + late, watch=False)
    lag.start()
    clock.advance(0.1)
    late += 0.05
    clock.advance(0.1)
    late += 0.25
    clock.advance(0.1)
    clock.advance(0.1)
    assert seen.counts == [2, 1, 1, 0]
    assert (round(lag.worst, 3), lag.long_blocks) == (0.25, 1)
    assert told == ["the reactor was blocked for 250 ms"]
    lag.stop()
    assert clock.getDelayedCalls() == []


def test_the_place_that_blocks_is_named(told: list[str]) -> None:
    """The watcher thread looks while this thread stands in a function that does not return to the reactor."""
    clock = Clock()
    seen: list[float] = []
    blocked = False
    lag = ReactorLag(clock, seen.append, monotonic=lambda: clock.seconds() + 0.3 * blocked, interval=0.001)

    def a_policy_that_computes() -> None:
        nonlocal blocked
        blocked = True
        pause = threading.Event()
        for _ in range(10_000):
            if lag._place:
                return
            pause.wait(0.001)

    lag.start()
    a_policy_that_computes()
    clock.advance(0.001)
    lag.stop()
    assert len(told) == 1
    assert told[0].startswith("the reactor was blocked for 300 ms, in ")
    assert "test_reactor_lag.py" in told[0]
    assert "a_policy_that_computes" in told[0]


def test_its_thread_ends_with_it() -> None:
    lag = ReactorLag(Clock(), lambda _: None, interval=0.001)
    lag.start()
    (watcher,) = [thread for thread in threading.enumerate() if thread.name == "reactor lag"]
    lag.stop()
    watcher.join(10)
    assert not watcher.is_alive()
