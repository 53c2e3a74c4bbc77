"""
``least_request``: the less busy of two (power of two choices), in proportion to the weights.

    balance = least_request

Both candidates are drawn by weight, and the one with fewer requests in flight for its weight is taken. Looking at
two is enough to keep away from a slow target, and does not send everybody to the same idle one as looking at all would.
While nothing is in flight the first candidate is taken, so the weights hold at every load.
"""

from __future__ import annotations

from random import Random

from apigw.exchange.request import Request
from apigw.upstream.balancing.balancer import Balancer
from apigw.upstream.balancing.spread import Pairs
from apigw.upstream.target import Target


class LeastRequest(Balancer):
    """Two weighted candidates; fewest requests in flight, divided by the share, wins."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._pairs = Pairs(rng)

    def use(self, targets: list[Target], now: float) -> None:
        self._pairs.use(targets)

    def choose(self, request: Request, now: float) -> Target:
        first, second = self._pairs.draw()
        return second if second.active * first.share < first.active * second.share else first
