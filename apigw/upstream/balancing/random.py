"""
``random``: by chance, in proportion to the weights.

    balance = random

Cheapest of all, and independent of what other gateways choose; it knows nothing of load.
"""

from __future__ import annotations

from random import Random

from apigw.exchange.request import Request
from apigw.upstream.balancing.balancer import Balancer
from apigw.upstream.balancing.spread import Spread
from apigw.upstream.target import Target


class ByChance(Balancer):
    """Weighted random choice, spread evenly (``apigw.upstream.balancing.spread``)."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._spread = Spread(rng)

    def use(self, targets: list[Target], now: float) -> None:
        self._spread.use(targets)

    def choose(self, request: Request, now: float) -> Target:
        return self._spread.draw()
