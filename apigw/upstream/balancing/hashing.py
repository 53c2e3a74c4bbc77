"""
``hash:...``: the same key goes to the same target (weighted rendezvous hashing).

    balance = hash:header:X-Tenant      ; or cookie:NAME, query:NAME, ip, path
    hash.load_factor = 1.25

Every target gets a score from its name and the key; the highest wins. When a target goes, only its own keys move, to
all the others evenly; when one comes, it takes its share of everybody's keys. A request that has no key (no such
header) goes anywhere.

With ``load_factor``, a target that has more than so many times its share of the requests in flight is passed over for
the key's next best (consistent hashing with bounded loads, as Envoy's hash_balance_factor).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import log
from random import Random

from apigw.exchange.request import Request
from apigw.upstream.balance_spec import KeySpec
from apigw.upstream.balancing.balancer import Balancer
from apigw.upstream.balancing.spread import Spread
from apigw.upstream.target import Target

REMEMBERED = 8192
"""Keys whose order of targets is remembered; scores are worked out once for each."""

KeyOf = Callable[[Request], bytes | None]


def fraction(*parts: bytes) -> float:
    """A hash of the parts, evenly spread over 0 < x < 1, and the same in every process and release."""
    digest = blake2b(b"\0".join(parts), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 1) / (2**64 + 2)


def cookie_value(request: Request, name: bytes) -> bytes | None:
    """The value of the cookie ``name`` (RFC 6265 4.2.1), or None."""
    for line in request.headers.get_all(b"cookie"):
        for pair in line.split(b";"):
            key, equals, value = pair.strip().partition(b"=")
            if equals and key == name:
                return value
    return None


def query_value(request: Request, name: bytes) -> bytes | None:
    """The value of the first ``name=`` in the query, as it was sent, or None."""
    for pair in (request.query or b"").split(b"&"):
        key, equals, value = pair.partition(b"=")
        if equals and key == name:
            return value
    return None


def key_of(spec: KeySpec) -> KeyOf:
    """What takes the key out of a request."""
    name = spec.name.encode()
    if spec.kind == "header":
        lower = name.lower()
        return lambda request: request.headers.get(lower)
    if spec.kind == "cookie":
        return lambda request: cookie_value(request, name)
    if spec.kind == "query":
        return lambda request: query_value(request, name)
    if spec.kind == "ip":
        return lambda request: request.client.encode()
    return lambda request: request.path


def ranked(targets: Sequence[Target], key: bytes) -> list[Target]:
    """The targets in the key's order of preference."""
    return sorted(
        targets, key=lambda target: (-target.weight / log(fraction(target.key, key)), target.key), reverse=True
    )


class Rendezvous(Balancer):
    """Weighted rendezvous hashing of a key, with an optional bound on load."""

    def __init__(self, key: KeySpec, rng: Random, load_factor: float = 0.0) -> None:
        super().__init__()
        self._key_of = key_of(key)
        self._without_key = Spread(rng)
        self._load_factor = load_factor
        self._targets: list[Target] = []
        self._total_share = 0.0
        self._orders: dict[bytes, list[Target]] = {}

    def use(self, targets: list[Target], now: float) -> None:
        # Scores go by the configured weights: a target that warms up would otherwise shuffle keys at every step.
        self._without_key.use(targets)
        self._total_share = sum(target.share for target in targets)
        if targets != self._targets:
            self._targets = list(targets)
        self._orders.clear()

    def choose(self, request: Request, now: float) -> Target:
        key = self._key_of(request)
        if key is None:
            return self._without_key.draw()
        order = self._orders.get(key)
        if order is None:
            if len(self._orders) >= REMEMBERED:
                self._orders.clear()
            order = self._orders[key] = ranked(self._targets, key)
        if self._load_factor and order[0].active:
            return self._not_too_busy(order)
        return order[0]

    def choose_among(self, targets: Sequence[Target], request: Request, now: float) -> Target:
        key = self._key_of(request)
        if key is None:
            return super().choose_among(targets, request, now)
        return ranked(targets, key)[0]

    def _not_too_busy(self, order: list[Target]) -> Target:
        # With the one that is being chosen for.
        load = (sum(target.active for target in order) + 1) * self._load_factor / self._total_share
        for target in order:
            if target.active < load * target.share:
                return target
        return order[0]
