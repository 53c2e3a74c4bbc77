"""The wheel: everything that is watched is looked at, not early, at most a tick late, and once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apigw.net.timers import TICK, Wheel


class Thing:
    def __init__(self, clock: Clock, again: float = 0.0) -> None:
        self.next_check = 0.0
        self.looks: list[float] = []
        self.clock = clock
        self.again = again

    def check(self, now: float) -> float:
        self.looks.append(now)
        return now + self.again if self.again else 0.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.wheel = Wheel(lambda: self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + TICK)
            self.wheel.tick()


@given(st.lists(st.floats(0.0, 30.0), max_size=20))
def test_each_is_looked_at_in_its_time(delays: list[float]) -> None:
    clock = Clock()
    things = [Thing(clock) for _ in delays]
    for thing, delay in zip(things, delays, strict=True):
        clock.wheel.watch(thing, 1000.0 + delay)
    clock.run(31.0)
    for thing, delay in zip(things, delays, strict=True):
        [look] = thing.looks
        assert 1000.0 + delay <= look + 1e-6
        assert look <= 1000.0 + delay + 2 * TICK + 1e-6


def test_an_earlier_time_counts_and_a_later_one_does_not() -> None:
    clock = Clock()
    thing = Thing(clock)
    clock.wheel.watch(thing, 1010.0)
    clock.wheel.watch(thing, 1005.0)
    clock.wheel.watch(thing, 1020.0)
    clock.run(30.0)
    assert len(thing.looks) == 1
    assert 1005.0 <= thing.looks[0] < 1005.2


def test_again_and_again() -> None:
    clock = Clock()
    thing = Thing(clock, again=1.0)
    clock.wheel.watch(thing, 1001.0)
    clock.run(10.5)
    assert 8 <= len(thing.looks) <= 10


def test_what_is_gone_is_not_looked_at() -> None:
    clock = Clock()
    thing = Thing(clock)
    clock.wheel.watch(thing, 1001.0)
    clock.wheel.forget(thing)
    clock.wheel.watch(thing, 1002.0)
    clock.run(5.0)
    assert thing.looks == []
    assert clock.wheel._buckets == {}


def test_a_clock_that_jumps() -> None:
    clock = Clock()
    things = [Thing(clock) for _ in range(5)]
    for number, thing in enumerate(things):
        clock.wheel.watch(thing, 1001.0 + number)
    clock.now += 100_000.0
    clock.wheel.tick()
    assert all(thing.looks == [clock.now] for thing in things)


def test_one_that_raises_does_not_take_the_others_along() -> None:
    class Broken(Thing):
        def check(self, now: float) -> float:
            super().check(now)
            raise ValueError("a mistake")

    clock = Clock()
    broken, fine = Broken(clock), Thing(clock)
    clock.wheel.watch(broken, 1001.0)
    clock.wheel.watch(fine, 1001.0)
    clock.run(2.0)
    assert len(broken.looks) == len(fine.looks) == 1
