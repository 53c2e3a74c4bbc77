"""
Why a request gets which route: every rule is asked by itself, without the compiled table, and says what it misses.

Not here: the look-up that requests go through (``table``); a property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from apigw.config.regex import TextTooLong
from apigw.exchange.request import Request
from apigw.routing.patterns import Condition, Test, bare_host
from apigw.routing.rule import Asked, Rule

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Considered(Generic[V]):
    """
    A route and what became of it for one request.

    :ivar failed: the first condition that the request doesn't meet, in words; empty if it meets all.
    :ivar chosen: whether it is the request's route.
    """

    rule: Rule[V]
    failed: str
    chosen: bool


def trace(rules: Iterable[Rule[V]], request: Request) -> list[Considered[V]]:
    """
    Say of each rule, in the order of choice, why it is not the request's.

    ``RouteTable.lookup`` chooses the same.
    """
    asked = Asked(request.query, request.headers)
    bare = bare_host(request.host)

    def place(rule: Rule[V]) -> tuple[object, ...]:
        # A rule with several hosts stands where the best of those that fit puts it.
        host_rank = min((not pattern.matches(bare), pattern.rank) for pattern in rule.host_patterns)
        return (
            -rule.priority,
            host_rank,
            rule.specificity,
            request.method == b"HEAD" and rule.implies_head,
            rule.order,
        )

    considered: list[Considered[V]] = []
    chosen = False
    for rule in sorted(rules, key=place):
        failed = _failed(rule, bare, request, asked)
        considered.append(Considered(rule, failed, not failed and not chosen))
        chosen = chosen or not failed
    return considered


def _failed(rule: Rule[V], host: bytes, request: Request, asked: Asked) -> str:
    """The first condition that is not met, in words."""
    try:
        return _missed(rule, host, request, asked)
    except TextTooLong:
        return "the path or a value is too long for its expression"


def _missed(rule: Rule[V], host: bytes, request: Request, asked: Asked) -> str:
    if not any(pattern.matches(host) for pattern in rule.host_patterns):
        return f"host {_shown(host)} is not {' or '.join(rule.hosts)}"
    if not rule.pattern.matches(request.path):
        return f"path {_shown(request.path)} does not match {rule.path}"
    if not rule.takes(request.method):
        return f"method {_shown(request.method)} is not {' or '.join(rule.methods)}"
    for condition in rule.header_conditions:
        if not condition.holds(values := asked.headers.get_all(condition.name)):
            return _unmet(f"header {_shown(condition.name)}", condition, values)
    for condition in rule.query_conditions:
        if not condition.holds(values := asked.parameters().get(condition.name, [])):
            return _unmet(f"query parameter {_shown(condition.name)}", condition, values)
    return ""


def _unmet(what: str, condition: Condition, values: list[bytes]) -> str:
    if condition.test is Test.ABSENT:
        return f"{what} is there"
    if not values:
        return f"{what} is missing"
    # Not the value that came: it may be a credential.
    return (
        f"{what} is not {condition.text}" if condition.test is Test.EXACT else f"{what} does not match {condition.text}"
    )


def _shown(value: bytes) -> str:
    return value.decode("latin-1")
