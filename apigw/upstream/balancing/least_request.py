"""
``least_request``: the less busy of two (power of two choices), in proportion to the weights.

    balance = least_request

Both candidates are drawn by weight, and the one with fewer requests in flight for its weight is taken. Looking at
two is enough to keep away from a slow target, and does not send everybody to the same idle one as looking at all would.
While nothing is in flight the first candidate is taken, so the weights hold at every load.

Where all shares are equal, as they mostly are, all pairs of targets are gone through in turn: that is drawing without
its cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from random import Random

from apigw.exchange.request import Request
from apigw.upstream.balancing.balancer import Balancer
from apigw.upstream.balancing.spread import SILVER, Spread
from apigw.upstream.target import Target

MOST_PAIRED = 24
"""Targets of which all pairs are kept."""


class LeastRequest(Balancer):
    """Two weighted candidates; fewest requests in flight, divided by the share, wins."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._rng = rng
        self._pairs: Iterator[tuple[Target, Target]] | None = None
        self._firsts = Spread(rng)
        self._seconds = Spread(rng, SILVER)
        self._neighbours: dict[Target, Target] = {}

    def use(self, targets: list[Target], now: float) -> None:
        self._firsts.use(targets)
        self._seconds.use(targets)
        self._neighbours = dict(zip(targets, [*targets[1:], targets[0]], strict=True))
        self._pairs = None
        if len({target.share for target in targets}) == 1 and len(targets) <= MOST_PAIRED:
            count = len(targets)
            start = self._rng.randrange(count)
            turned = targets[start:] + targets[:start]
            self._pairs = cycle(
                [(first, turned[(at + step) % count]) for step in range(1, count) for at, first in enumerate(turned)]
                or [(targets[0], targets[0])]
            )

    def choose(self, request: Request, now: float) -> Target:
        pairs = self._pairs
        if pairs is not None:
            first, second = next(pairs)
            return second if second.active < first.active else first
        first = self._firsts.draw()
        if not first.active:
            return first  # nobody can be less busy
        second = self._seconds.draw()
        if second is first:
            second = self._neighbours[first]
        return second if second.active * first.share < first.active * second.share else first
