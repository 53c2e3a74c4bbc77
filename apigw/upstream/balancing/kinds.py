"""The ways to choose a target, by the words of ``balance = ...``."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from apigw.upstream.balance_spec import BalanceSpec
from apigw.upstream.balancing.balancer import Balancer
from apigw.upstream.balancing.ewma import PeakEWMA
from apigw.upstream.balancing.hashing import Rendezvous
from apigw.upstream.balancing.least_request import LeastRequest
from apigw.upstream.balancing.random import ByChance
from apigw.upstream.balancing.round_robin import RoundRobin
from apigw.upstream.balancing.sticky import Sticky
from apigw.upstream.settings import ResilienceSettings

BALANCERS: dict[str, Callable[[Random], Balancer]] = {
    "round_robin": RoundRobin,
    "least_request": LeastRequest,
    "ewma": PeakEWMA,
    "random": ByChance,
}


def plain_balancer(spec: BalanceSpec, rng: Random, load_factor: float = 0.0) -> Balancer:
    """What ``balance = ...`` says."""
    if spec.key is not None:
        return Rendezvous(spec.key, rng, load_factor)
    return BALANCERS[spec.kind](rng)


def balancer(settings: ResilienceSettings, upstream: str, rng: Random) -> Balancer:
    """What an upstream's section says, sticky sessions included."""
    chosen = plain_balancer(settings.balance, rng, settings.hash.load_factor)
    if settings.sticky.cookie is not None:
        return Sticky(chosen, settings.sticky, upstream)
    return chosen
