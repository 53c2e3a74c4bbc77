"""
``Rule``: what one route asks of a request, and which of two rules goes first.

Of the routes that fit a request, the first in this order is chosen:

1.  the higher ``priority`` (default 0)
2.  exact host, then ``*.x`` with more labels, then any host
3.  exact path; template (more static segments, then the one that is static further left); prefix and template with a
    tail (more segments); regular expression
4.  more conditions (``methods`` is one, each ``header.NAME`` and ``query.NAME`` one), then more of them that want an
    exact value
5.  for HEAD: a route that lists HEAD before one that only lists GET
6.  the order in the file

Only regular expressions, and conditions on different names, leave anything to the last rule; elsewhere two routes that
come down to it are ``ambiguities``. A route with GET takes HEAD too (RFC 9110 9.1).

Not here: finding the rule of a request (``table``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from apigw.exchange.headers import Headers
from apigw.routing.patterns import (
    ANY_HOST,
    Condition,
    HostPattern,
    PathPattern,
    Test,
    conditions,
    host_pattern,
    path_pattern,
)

V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Rule(Generic[V]):
    """
    What one route asks for. Texts are as configured; see ``patterns``.

    :ivar hosts: any one of them; empty for any host.
    :ivar methods: any one of them, upper case; empty for any method.
    :ivar headers, query: conditions by name, all of which must hold.
    :ivar order: the position in the file.
    :ivar value: what a look-up is for.
    :raises ValueError: a text is not what it should be; the message doesn't name the route.
    """

    name: str
    path: str
    hosts: Sequence[str] = ()
    methods: Sequence[str] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    order: int = 0
    value: V = field(kw_only=True)
    pattern: PathPattern = field(init=False)
    host_patterns: tuple[HostPattern, ...] = field(init=False)
    header_conditions: tuple[Condition, ...] = field(init=False)
    query_conditions: tuple[Condition, ...] = field(init=False)
    listed_methods: frozenset[bytes] = field(init=False)
    implies_head: bool = field(init=False)

    def __post_init__(self) -> None:
        listed = frozenset([method.encode() for method in self.methods])
        vars(self).update(  # a frozen class takes no assignments
            pattern=path_pattern(self.path),
            host_patterns=tuple(map(host_pattern, self.hosts)) or (ANY_HOST,),
            header_conditions=conditions(self.headers, lower=True),
            query_conditions=conditions(self.query, lower=False),
            listed_methods=listed,
            implies_head=b"GET" in listed and b"HEAD" not in listed,
        )

    def takes(self, method: bytes) -> bool:
        """Whether it is one of the rule's methods; HEAD is where GET is."""
        return not self.listed_methods or method in self.listed_methods or (method == b"HEAD" and self.implies_head)

    @property
    def specificity(self) -> tuple[object, ...]:
        """Sorts the more specific rule first among those of one host pattern; file order is not in it."""
        wanted = (*self.header_conditions, *self.query_conditions)
        exact = sum([condition.test is Test.EXACT for condition in wanted])
        return (-self.priority, self.pattern.rank, -len(wanted) - bool(self.methods), -exact)


class Asked:
    """The parts of a request that only conditions look at; the query is parsed if one does."""

    __slots__ = ("_parameters", "_query", "headers")

    def __init__(self, query: bytes | None, headers: Headers) -> None:
        self.headers = headers
        self._query = query
        self._parameters: dict[bytes, list[bytes]] | None = None

    def parameters(self) -> dict[bytes, list[bytes]]:
        if self._parameters is None:
            self._parameters = parse_query(self._query)
        return self._parameters


def parse_query(query: bytes | None) -> dict[bytes, list[bytes]]:
    """Parameters of a query by name, decoded as HTML forms are (WHATWG URL 5.1)."""
    parameters: dict[bytes, list[bytes]] = {}
    for part in (query or b"").split(b"&"):
        if part:
            name, _, value = part.replace(b"+", b" ").partition(b"=")
            parameters.setdefault(unquote_to_bytes(name), []).append(unquote_to_bytes(value))
    return parameters


MOST_AMBIGUITIES = 1000
"""Pairs that are told at most."""


def ambiguities(rules: Iterable[Rule[V]]) -> list[tuple[Rule[V], Rule[V]]]:
    """
    Pairs of rules with equal rank that would both take some request, in file order; at most ``MOST_AMBIGUITIES``.

    Regular expressions count only if they are the same text, and conditions only if both rules ask for the same
    names: otherwise it is the file's order that decides, as documented.
    """
    same_place: dict[tuple[object, ...], list[Rule[V]]] = {}
    for rule in rules:
        pattern = rule.pattern
        place = (pattern.kind, pattern.segments, pattern.below, rule.path if pattern.regex is not None else "")
        for host in rule.host_patterns:
            same_place.setdefault((*place, host.wildcard, host.name), []).append(rule)
    found: dict[tuple[int, int], tuple[Rule[V], Rule[V]]] = {}
    for together in same_place.values():
        if len(together) > 1:
            for pair in _ambiguous(sorted(together, key=lambda rule: rule.order)):
                found[pair[0].order, pair[1].order] = pair
                if len(found) >= MOST_AMBIGUITIES:
                    return [found[key] for key in sorted(found)]
    return [found[key] for key in sorted(found)]


def _ambiguous(rules: Iterable[Rule[V]]) -> Iterator[tuple[Rule[V], Rule[V]]]:
    """Of rules for the same host and path. Of those that ask in the same ways, only equal ones can collide."""
    earlier: dict[object, dict[object, dict[object, list[Rule[V]]]]] = {}
    for rule in rules:
        asked = [*sorted(rule.header_conditions, key=_key), None, *sorted(rule.query_conditions, key=_key)]
        names = (rule.specificity, *[each and each.name for each in asked])
        tests = tuple([each and each.test for each in asked])
        texts = tuple([each and each.text for each in asked])
        alike = earlier.setdefault(names, {})
        for others, by_texts in alike.items():
            near = by_texts.get(texts, []) if others == tests else chain.from_iterable(by_texts.values())
            yield from ((first, rule) for first in near if _overlap(first, rule))
        alike.setdefault(tests, {}).setdefault(texts, []).append(rule)


def _key(condition: Condition) -> tuple[bytes, str]:
    return condition.name, condition.text


def _overlap(first: Rule[V], second: Rule[V]) -> bool:
    """Whether two rules for the same host and path would take the same request."""
    # ``listed_methods``: HEAD that only follows from GET gives way to HEAD that is listed, so it makes no ambiguity.
    if first.methods and second.methods and first.listed_methods.isdisjoint(second.listed_methods):
        return False
    others = {condition.name: condition for condition in second.header_conditions}
    parameters = {condition.name: condition for condition in second.query_conditions}
    return not any(condition.disjoint(others[condition.name]) for condition in first.header_conditions) and not any(
        condition.disjoint(parameters[condition.name]) for condition in first.query_conditions
    )
