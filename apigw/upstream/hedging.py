"""
``Hedging``: when a slow request is worth a second copy at another target.

    hedge.after = 95%       ; once it takes longer than 95 of 100 do

The first answer counts, and the other copy is cancelled. It is the cure for a target that is slow now and then (a
collection of garbage, a lost packet), and costs, at 95 %, at most a twentieth more requests; the retry budget caps it.

Pure. Not here: sending the copy and cancelling the loser (``forward``).
"""

from __future__ import annotations

import math

from apigw.upstream.retries import RetryBudget
from apigw.upstream.settings import HedgeSettings

LEARNING = 50
"""Answers that are looked at before the quantile is trusted."""

STEP = 0.02
"""By how much the estimate moves, as a share of itself: about a hundred answers to follow a change."""

SHORTEST = 0.001
"""Seconds: an earlier copy could not win."""


class Quantile:
    """
    A running estimate of one quantile, in constant space and 0.1 us an answer.

    Each value above the estimate moves it up by its share, each one below moves it down, so that it comes to rest
    where the shares balance. Steps are in proportion to the estimate: it works for microseconds and for minutes.

    :ivar value: the estimate, 0.0 until there are ``LEARNING`` values.
    """

    __slots__ = ("_down", "_first", "_share", "_up", "value")

    def __init__(self, share: float) -> None:
        self._share = share
        self._up = math.exp(STEP * share)
        self._down = math.exp(-STEP * (1 - share))
        self._first: list[float] | None = []
        self.value = 0.0

    def add(self, value: float) -> None:
        """One more value, above 0."""
        first = self._first
        if first is not None:
            first.append(value)
            if len(first) >= LEARNING:
                first.sort()
                self.value = max(first[min(int(self._share * LEARNING), LEARNING - 1)], 1e-6)
                self._first = None
        elif value > self.value:
            self.value *= self._up
        else:
            self.value *= self._down


class Hedging:
    """
    The decision of one route.

    :ivar sent: copies sent. :ivar won: copies that answered first; whoever sends them counts it.
    """

    def __init__(self, settings: HedgeSettings, budget: RetryBudget) -> None:
        if settings.after is None:
            raise ValueError("hedge.after is not set")
        kind, amount = settings.after
        self._fixed = amount if kind == "duration" else 0.0
        self._quantile = Quantile(amount) if kind == "share" else None
        self._methods = frozenset(method.encode() for method in settings.methods)
        self._budget = budget
        self.sent = 0
        self.won = 0

    def applies(self, method: bytes) -> bool:
        """Whether requests with this method are ever sent twice."""
        return method in self._methods

    def observe(self, latency: float) -> None:
        """A first copy's response head came after ``latency`` seconds."""
        if self._quantile is not None:
            self._quantile.add(latency)

    def delay(self, method: bytes) -> float | None:
        """Seconds after which a copy may be sent, or None: never."""
        if method not in self._methods:
            return None
        if self._quantile is None:
            return max(self._fixed, SHORTEST)
        value = self._quantile.value
        return max(value, SHORTEST) if value else None

    def take(self, now: float, deadline: float = 0.0) -> bool:
        """The time is over and there is no answer: whether a copy may be sent now, in time and within the budget."""
        if deadline and now >= deadline:
            return False
        if not self._budget.take(now, optional=True):
            return False
        self.sent += 1
        return True
