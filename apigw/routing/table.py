"""
All routes as one compiled table: a request's route is found by dict look-ups on its host and its path's segments,
whatever the number of routes.

How: routes are grouped by host pattern. A group's paths are a tree of segments in which every node already knows the
sorted candidates of its path, those of shorter prefixes and regular expressions included; where templates and static
segments overlap, nodes are merged beforehand (as an NFA is made a DFA). So a look-up is one dict access a segment.

Not here: which rule goes first (``rule``), normalising paths and hosts (``apigw.http.targets``).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Generic, TypeVar

from apigw.exchange.headers import Headers
from apigw.exchange.request import NO_CAPTURES
from apigw.http.targets import without_parameters
from apigw.routing.patterns import HostPattern, Kind, PathPattern, bare_host
from apigw.routing.rule import Asked, Rule

V = TypeVar("V")

MOST_HOSTS = 4096
"""Hosts remembered with their groups; when there are more (somebody makes them up), all are forgotten."""
MOST_NODES = 100_000
"""Nodes of a group beyond one for each segment of its patterns: only a table made to hurt has that many."""


@dataclass(slots=True)  # not frozen: making one takes a third of the time
class Match(Generic[V]):
    """The route of a request. :ivar captures: percent-decoded values of the path's names."""

    rule: Rule[V]
    value: V
    captures: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Miss:
    """No route. :ivar allow: methods with which there would have been one, sorted; empty when there is none (404)."""

    allow: tuple[str, ...] = ()


NOTHING = Miss()
_HEAD = frozenset({b"HEAD"})


class _Candidate(Generic[V]):
    """A rule in the form in which it is asked."""

    __slots__ = ("captures", "headers", "match", "methods", "plain", "priority", "query", "regex")

    def __init__(self, rule: Rule[V], methods: frozenset[bytes] | None) -> None:
        self.match = Match(rule, rule.value, NO_CAPTURES)
        self.methods = methods
        self.priority = rule.priority
        self.headers = rule.header_conditions
        self.query = rule.query_conditions
        self.regex = rule.pattern.regex
        self.captures = bool(rule.pattern.captures)
        # Nothing to ask but the method, and nothing to capture.
        self.plain = not (self.headers or self.query or self.regex or self.captures)

    def holds(self, path: bytes, asked: Asked) -> bool:
        """Whether all but the method fits; the tree has seen to the path unless it is a regular expression."""
        if self.regex is not None and not self.regex.fullmatch(path):
            return False
        for condition in self.headers:
            if not condition.holds(asked.headers.get_all(condition.name)):
                return False
        return not self.query or all(
            condition.holds(asked.parameters().get(condition.name, ())) for condition in self.query
        )

    def found(self, path: bytes) -> Match[V]:
        if not self.captures:
            return self.match
        rule = self.match.rule
        return Match(rule, rule.value, rule.pattern.capture(path))


class _Node(Generic[V]):
    """
    A place in the tree of paths.

    :ivar children: by segment; None where a segment leads nowhere although ``other`` would.
    :ivar other: where any further segment leads.
    :ivar here: candidates, best first, of a path that ends here. :ivar beyond: of one that goes on where no child is.
    """

    __slots__ = ("beyond", "children", "here", "other")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node[V] | None] = {}
        self.other: _Node[V] | None = None
        self.here: tuple[_Candidate[V], ...] = ()
        self.beyond: tuple[_Candidate[V], ...] = ()


class _Branch(Generic[V]):
    """The tree before merging: where each pattern's own segments lead."""

    __slots__ = ("any", "below", "ends", "static")

    def __init__(self) -> None:
        self.static: dict[bytes, _Branch[V]] = {}
        self.any: _Branch[V] | None = None
        self.ends: list[int] = []  # positions in the sorted list of rules: of those that take a path that ends here,
        self.below: list[int] = []  # and one that goes on


class _Group(Generic[V]):
    """
    The rules of one host pattern.

    :ivar start: the node before the path's first slash. :ivar highest: the highest priority.
    """

    __slots__ = ("_expressions", "_lists", "_nodes", "_room", "_sorted", "highest", "start")

    def __init__(self, rules: Iterable[Rule[V]]) -> None:
        rules = list(rules)
        # ``listed_methods``: HEAD that only follows from GET is a candidate of its own, behind all equals.
        forms = [(rule, False) for rule in rules] + [(rule, True) for rule in rules if rule.implies_head]
        forms.sort(key=lambda form: (form[0].specificity, form[1], form[0].order))
        self._sorted = [_Candidate(rule, _HEAD if implied else rule.listed_methods or None) for rule, implied in forms]
        self._expressions = [index for index, (rule, _) in enumerate(forms) if rule.pattern.kind is Kind.REGEX]
        self._nodes: dict[tuple[tuple[int, ...], frozenset[int]], _Node[V]] = {}
        self._room = MOST_NODES + sum(len(rule.pattern.segments) for rule in rules)
        self._lists: dict[frozenset[int], tuple[_Candidate[V], ...]] = {}
        self.highest = max(rule.priority for rule in rules)
        root: _Branch[V] = _Branch()
        for index, (rule, _) in enumerate(forms):
            if rule.pattern.kind is not Kind.REGEX:
                _grow(root, index, rule.pattern)
        start: _Node[V] = _Node()
        start.children[b""] = self._merged([root], frozenset())
        self.start = start
        self._nodes.clear()
        self._lists.clear()

    def _merged(self, branches: list[_Branch[V]], outer: frozenset[int]) -> _Node[V]:
        """The node that stands for all of ``branches`` at once; ``outer`` are rules of shorter prefixes."""
        self._room -= 1
        if self._room < 0:
            raise ValueError("the templates of these routes overlap in too many ways")
        node: _Node[V] = _Node()
        below = [branch.below for branch in branches if branch.below]
        ends = [branch.ends for branch in branches if branch.ends]
        beyond = outer.union(*below) if below else outer
        here = beyond if ends == below else outer.union(*ends) if ends else outer
        node.here = self._candidates(here)
        node.beyond = self._candidates(beyond)
        others = [branch.any for branch in branches if branch.any is not None]
        if others:
            node.other = self._shared(others, beyond)
            node.children[b""] = None  # a template's segment is never empty
        if len(branches) == 1 and not others:  # as most are: nothing to merge
            for segment, branch in branches[0].static.items():
                node.children[segment] = self._merged([branch], beyond)
            return node
        for segment in {segment for branch in branches for segment in branch.static}:
            nexts = [branch.static[segment] for branch in branches if segment in branch.static]
            node.children[segment] = self._shared(nexts + (others if segment else []), beyond)
        return node

    def _shared(self, branches: list[_Branch[V]], outer: frozenset[int]) -> _Node[V]:
        key = (tuple(sorted(map(id, branches))), outer)
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = self._merged(branches, outer)
        return node

    def _candidates(self, indices: frozenset[int]) -> tuple[_Candidate[V], ...]:
        """In order, up to the first that takes whatever comes."""
        known = self._lists.get(indices)
        if known is not None:
            return known
        kept = []
        for index in merge(sorted(indices), self._expressions) if self._expressions else sorted(indices):
            candidate = self._sorted[index]
            kept.append(candidate)
            if candidate.methods is None and not (candidate.headers or candidate.query or candidate.regex):
                break
        self._lists[indices] = found = tuple(kept)
        return found


def _grow(branch: _Branch[V], index: int, pattern: PathPattern) -> None:
    for segment in pattern.segments:
        if segment is None:
            if branch.any is None:
                branch.any = _Branch()
            branch = branch.any
        else:
            branch = branch.static.setdefault(segment, _Branch())
    if not pattern.below:
        branch.ends.append(index)
    if pattern.kind is Kind.PREFIX:
        branch.below.append(index)


class RouteTable(Generic[V]):
    """
    Rules, compiled.

    :raises ValueError: the templates overlap in too many ways.
    """

    def __init__(self, rules: Iterable[Rule[V]]) -> None:
        self.rules = tuple(rules)
        by_host: dict[HostPattern, list[Rule[V]]] = {}
        for rule in self.rules:
            for host in {(host.wildcard, host.name): host for host in rule.host_patterns}.values():
                by_host.setdefault(HostPattern("", host.wildcard, host.name), []).append(rule)
        self._groups = [(host, _Group(by_host[host])) for host in sorted(by_host, key=lambda host: host.rank)]
        self._exact = {host.name: group for host, group in self._groups if not host.wildcard}
        self._wild = {host.name: group for host, group in self._groups if host.wildcard}
        self._known: dict[bytes, tuple[_Group[V], ...]] = {}
        # Deeper segments need not be told apart.
        self._depth = max((len(rule.pattern.segments) for rule in self.rules), default=0) + 2

    def use_values(self, values: Mapping[Hashable, V]) -> Iterator[None]:
        """Give each rule, in steps, another value: that which ``values`` has for the one that it had."""
        for rule in self.rules:
            object.__setattr__(rule, "value", values[rule.value])
            yield
        for _, group in self._groups:
            for candidate in group._sorted:
                candidate.match.value = candidate.match.rule.value
                yield

    def nodes(self) -> Iterator[object]:
        """Everything that the tables of paths consist of, in small pieces."""
        for _, group in self._groups:
            yield from group._sorted
            left, seen = [group.start], {group.start}
            while left:
                node = left.pop()
                yield node
                below = {*node.children.values(), node.other} - seen - {None}
                seen |= below  # type: ignore[arg-type]
                left += below  # type: ignore[arg-type]

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods that some route lists, sorted: what ``OPTIONS *`` is told."""
        taken = {method for rule in self.rules for method in rule.listed_methods}
        taken |= _HEAD if b"GET" in taken else set()
        return tuple(sorted(method.decode() for method in taken))

    def lookup(self, host: bytes, method: bytes, path: bytes, query: bytes | None, headers: Headers) -> Match[V] | Miss:
        """
        Find the route of a request.

        :param host: valid and lower case, with or without a port.
        :param path: normalised. Its segments match by their names, without parameters.
        :raises ClientFault: 400 when a value in the path is not UTF-8.
        """
        groups = self._known.get(host)
        if groups is None:
            groups = self._groups_of(host)
        matched = without_parameters(path) if b";" in path else path
        segments = matched.split(b"/", self._depth)
        best: _Candidate[V] | None = None
        asked: Asked | None = None
        for group in groups:
            if best is not None and group.highest <= best.priority:
                continue
            node = group.start
            for segment in segments:
                child = node.children.get(segment, node.other)
                if child is None:
                    candidates = node.beyond
                    break
                node = child
            else:
                candidates = node.here
            for candidate in candidates:
                if candidate.methods is not None and method not in candidate.methods:
                    continue
                if candidate.plain:
                    if best is None or candidate.priority > best.priority:
                        best = candidate
                    break
                if asked is None:
                    asked = Asked(query, headers)
                if candidate.holds(matched, asked):
                    if best is None or candidate.priority > best.priority:
                        best = candidate
                    break
        if best is None:
            return self._miss(groups, matched, segments, query, headers)
        return best.match if best.plain else best.found(path)

    def _groups_of(self, host: bytes) -> tuple[_Group[V], ...]:
        if len(self._known) >= MOST_HOSTS:
            self._known.clear()
        bare = bare_host(host)
        found = [self._exact.get(bare)]
        rest = bare
        while b"." in rest[1:]:
            rest = rest[rest.index(b".", 1) :]
            found.append(self._wild.get(rest))
        found.append(self._wild.get(b""))
        groups = self._known[host] = tuple(group for group in found if group is not None)
        return groups

    def _miss(
        self,
        groups: Iterable[_Group[V]],
        path: bytes,
        segments: Sequence[bytes],
        query: bytes | None,
        headers: Headers,
    ) -> Miss:
        allow: set[bytes] = set()
        asked = Asked(query, headers)
        for group in groups:
            node = group.start
            candidates = None
            for segment in segments:
                child = node.children.get(segment, node.other)
                if child is None:
                    candidates = node.beyond
                    break
                node = child
            for candidate in node.here if candidates is None else candidates:
                if candidate.methods is not None and candidate.holds(path, asked):
                    allow |= candidate.methods
        return Miss(tuple(sorted(method.decode("latin-1") for method in allow))) if allow else NOTHING
