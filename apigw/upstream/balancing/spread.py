"""
``Spread``: draws targets by their shares, so evenly that the shares hold after a few draws already.

Independent random draws would be off by several per cent after a thousand. This walks the unit interval in steps of
the golden ratio (a Weyl sequence: n draws miss a share by about log(n) / n), from a random start, so that gateways
and workers don't walk in step. It is what ``random`` draws by.

``Pairs`` draws two different targets, for those who take the better of two: ``least_request`` and ``ewma``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate, cycle
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


MOST_PAIRED = 24
"""Targets of which all pairs are kept."""


class Pairs:
    """
    Draws two targets in proportion to their shares; they differ if there are two.

    Where all shares are equal, as mostly, all pairs are gone through in turn: that is drawing without its cost.

    :ivar draw: gives the next two. ``use`` comes before it, and makes another one.
    """

    def __init__(self, rng: Random) -> None:
        self.draw: Callable[[], tuple[Target, Target]] = self._draw
        self._rng = rng
        self._firsts = Spread(rng)
        self._seconds = Spread(rng, SILVER)
        self._neighbours: dict[Target, Target] = {}

    def use(self, targets: list[Target]) -> None:
        """Draw from these."""
        count = len(targets)
        if count > MOST_PAIRED or len({target.share for target in targets}) > 1:
            self._firsts.use(targets)
            self._seconds.use(targets)
            self._neighbours = dict(zip(targets, [*targets[1:], targets[0]], strict=True))
            self.draw = self._draw
            return
        start = self._rng.randrange(count)
        turned = targets[start:] + targets[:start]
        pairs = [(first, turned[(at + step) % count]) for step in range(1, count) for at, first in enumerate(turned)]
        self.draw = cycle(pairs or [(targets[0], targets[0])]).__next__

    def _draw(self) -> tuple[Target, Target]:
        first, second = self._firsts.draw(), self._seconds.draw()
        return first, self._neighbours[first] if second is first else second
