"""
Time limits that are all equally long: what began first is due first, so one place on the wheel serves all of them, and
nothing is kept for longer than it lives.
"""

from __future__ import annotations

from typing import Protocol

from apigw.net.timers import Wheel


class Limited(Protocol):
    """What has a time limit."""

    def overdue(self) -> None:
        """Its time is up; it is no longer watched."""


class Deadlines:
    """
    Watches things for ``seconds`` each.

    :ivar next_check: the wheel's.
    """

    def __init__(self, wheel: Wheel, seconds: float) -> None:
        self._wheel = wheel
        self.seconds = seconds
        self._due: dict[Limited, float] = {}
        self.next_check = 0.0

    def __len__(self) -> int:
        return len(self._due)

    def add(self, thing: Limited, now: float) -> float:
        """Watch ``thing`` from now on; the monotonic time when it will be overdue."""
        at = now + self.seconds
        self._due[thing] = at
        if not self.next_check:
            self._wheel.watch(self, at)
        return at

    def remove(self, thing: Limited) -> None:
        """``thing`` is done, or gone."""
        self._due.pop(thing, None)

    def check(self, now: float) -> float:
        """The wheel's look."""
        while self._due:
            thing, at = next(iter(self._due.items()))
            if at > now:
                return at
            del self._due[thing]
            thing.overdue()
        return 0.0
