"""
``ewma``: the quicker of two, by latency and load (Finagle's peak EWMA), in proportion to the weights.

    balance = ewma

A target's cost is its latency, which jumps up at once and comes down slowly (``Target.latency``), and as much again for
every request in flight there, for its share. Both candidates are drawn by weight. A target that was not asked for a
while loses its bad reputation.
"""

from __future__ import annotations

from math import exp
from random import Random

from apigw.exchange.request import Request
from apigw.upstream.balancing.balancer import Balancer
from apigw.upstream.balancing.spread import Pairs
from apigw.upstream.target import LATENCY_MEMORY, Target

UNKNOWN_LATENCY = 1.0
"""Seconds for each request in flight at a target that has not answered yet: one may find out, others wait for it."""


def cost(target: Target, now: float) -> float:
    """What a request is expected to wait for at ``target``, in seconds."""
    latency = target.latency
    if not latency:
        return target.active * UNKNOWN_LATENCY / target.share
    return latency * exp((target.seen_at - now) / LATENCY_MEMORY) * (1 + target.active / target.share)


class PeakEWMA(Balancer):
    """Two weighted candidates; the lower cost wins, an equal one keeps the first."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._pairs = Pairs(rng)

    def use(self, targets: list[Target], now: float) -> None:
        self._pairs.use(targets)

    def choose(self, request: Request, now: float) -> Target:
        first, second = self._pairs.draw()
        return second if cost(second, now) < cost(first, now) else first
