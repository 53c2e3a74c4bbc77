"""
One coarse timer for all time-outs.

A timer a request would cost 3 us (loop timers) or keep a reference for the length of the time-out (lists by time). So
connections, which live long, stand on a wheel, and say when they are looked at again: changing a deadline to a
later time is an attribute, changing it to an earlier one that matters is rare.

Time-outs therefore end up to ``TICK`` late, never early.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger

from apigw.net.turns import TURNS, Turns

log = Logger()

TICK = 0.05
"""Seconds between two looks at the wheel."""


class Watched(Protocol):
    """What may stand on the wheel. ``next_check`` belongs to the wheel, and is 0.0 while it is not on it."""

    next_check: float

    def check(self, now: float) -> float:
        """Act on what is overdue; the monotonic time of the next look, or 0.0 for never."""


class Wheel:
    """
    Looks at each watched thing when it asked to be looked at. ``tick`` is called every TICK seconds.

    :ivar turns: where the connections on this wheel wait when they have had their part of a turn of the loop.
    """

    def __init__(self, clock: Callable[[], float], turns: Turns = TURNS) -> None:
        self.clock = clock
        self.turns = turns
        self._buckets: dict[int, set[Watched]] = {}
        self._done = int(clock() / TICK)

    def watch(self, thing: Watched, at: float) -> None:
        """Look at ``thing`` at ``at`` (monotonic seconds), if it isn't looked at sooner anyway."""
        if thing.next_check and thing.next_check <= at:
            return
        slot = max(int(at / TICK) + 1, self._done + 1)
        if thing.next_check:
            self._take_off(thing)
        thing.next_check = slot * TICK
        bucket = self._buckets.get(slot)
        if bucket is None:
            self._buckets[slot] = {thing}
        else:
            bucket.add(thing)

    def forget(self, thing: Watched) -> None:
        """``thing`` is gone. The wheel lets it go at once: what lives shortly would pile up until its time came."""
        if thing.next_check > 0.0:
            self._take_off(thing)
        thing.next_check = -1.0

    def _take_off(self, thing: Watched) -> None:
        bucket = self._buckets.get(round(thing.next_check / TICK))
        if bucket is not None:
            bucket.discard(thing)

    def tick(self) -> None:
        """Look at everything that is due."""
        now = self.clock()
        current = int(now / TICK)
        if current - self._done > 4 * len(self._buckets) + 64:  # the clock jumped (a suspended machine)
            due = sorted(slot for slot in self._buckets if slot <= current)
        else:
            due = [slot for slot in range(self._done + 1, current + 1) if slot in self._buckets]
        self._done = current
        for slot in due:
            for thing in self._buckets.pop(slot):
                if thing.next_check == slot * TICK:  # else another of them moved it, or let it go
                    thing.next_check = 0.0
                    try:
                        again = thing.check(now)
                    except Exception:  # it must not take along those that stand beside it
                        log.failure("a look at {thing!r} failed", thing=thing)
                        continue
                    if again and not thing.next_check:
                        self.watch(thing, again)
