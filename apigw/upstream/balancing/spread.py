"""
``Spread``: draws targets by their shares, so evenly that the shares hold after a few draws already.

Independent random draws would be off by several per cent after a thousand. This walks the unit interval in steps of
the golden ratio (a Weyl sequence: n draws miss a share by about log(n) / n), from a random start, so that gateways
and workers don't walk in step. It is what ``random`` draws by, and the first candidate of ``least_request`` and
``ewma``.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from random import Random

from apigw.upstream.target import Target

GOLDEN = 0.6180339887498949
SILVER = 0.41421356237309515
"""The square root of two, less one: for second draws, which must not go in step with the first."""


class Spread:
    """Draws from targets in proportion to their shares."""

    __slots__ = ("_at", "_bounds", "_count", "_step", "_targets")

    def __init__(self, rng: Random, step: float = GOLDEN) -> None:
        self._step = step
        self._at = rng.random()
        self._targets: list[Target] = []
        self._bounds: list[float] | None = None
        self._count = 0

    def use(self, targets: list[Target]) -> None:
        """Draw from these."""
        self._targets = targets
        self._count = len(targets)
        shares = [target.share for target in targets]
        if min(shares) == max(shares):
            self._bounds = None
        else:
            total = sum(shares)
            self._bounds = [bound / total for bound in accumulate(shares)]
            self._bounds[-1] = 1.0  # whatever rounding made of it

    def draw(self) -> Target:
        """The next target."""
        self._at = at = (self._at + self._step) % 1.0
        bounds = self._bounds
        if bounds is None:
            return self._targets[int(at * self._count)]
        return self._targets[bisect_right(bounds, at)]
