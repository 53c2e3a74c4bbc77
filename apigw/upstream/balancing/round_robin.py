"""
``round_robin``: one after the other, each as often as its weight says, evenly mixed (nginx's smooth weighted round
robin).

    balance = round_robin

Weights 5, 1, 1 give a a b a c a a, and not a a a a a b c.
"""

from __future__ import annotations

from math import gcd
from random import Random

from apigw.exchange.request import Request
from apigw.upstream.balancing.balancer import Balancer
from apigw.upstream.target import Target

LONGEST_CYCLE = 2048
"""Turns that are worked out ahead at most; weights whose cycle is longer are reduced to it."""


def smooth_cycle(weights: list[int]) -> list[int]:
    """
    The indices of one whole cycle.

    Each turn every weight is added to its own score; the highest score wins and loses the sum of all weights.
    """
    total = sum(weights)
    scores = [0] * len(weights)
    cycle = []
    for _ in range(total):
        best = 0
        for index, weight in enumerate(weights):
            scores[index] += weight
            if scores[index] > scores[best]:
                best = index
        scores[best] -= total
        cycle.append(best)
    return cycle


def whole_weights(shares: list[float]) -> list[int]:
    """Shares as the smallest whole numbers in the same proportion, whose sum is at most about ``LONGEST_CYCLE``."""
    # Shares of warming targets are fractions: a twentieth is as fine as slow start goes.
    wholes = [round(share * 20) for share in shares]
    divisor = gcd(*wholes)
    wholes = [max(1, whole // divisor) for whole in wholes] if divisor else [1] * len(shares)
    total = sum(wholes)
    if total > LONGEST_CYCLE:
        wholes = [max(1, round(whole * LONGEST_CYCLE / total)) for whole in wholes]
    return wholes


class RoundRobin(Balancer):
    """The cycle is worked out when targets or weights change; a choice takes the next of it."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._rng = rng
        self._cycle: list[Target] = []
        self._next = 0
        self._made_for: tuple[list[Target], list[int]] | None = None

    def use(self, targets: list[Target], now: float) -> None:
        weights = whole_weights([target.share for target in targets])
        if self._made_for == (targets, weights):
            return
        self._made_for = (list(targets), weights)
        self._cycle = [targets[index] for index in smooth_cycle(weights)]
        # Anywhere: workers and gateways that start together must not send in step.
        self._next = self._rng.randrange(len(self._cycle))

    def choose(self, request: Request, now: float) -> Target:
        turn = self._next
        cycle = self._cycle
        if turn >= len(cycle):
            turn = 0
        self._next = turn + 1
        return cycle[turn]
