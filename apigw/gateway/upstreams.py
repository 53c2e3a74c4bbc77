"""
All upstreams of one configuration, and the way of a route's requests to them: split, with another upstream to fall
back on, with copies to a third.

    a mirror          copies what passes, after it was answered
      a split         hands each request to one of several upstreams
        a fallback    another upstream, then a fixed answer, when the upstream fails
          hedging, sticky sessions, retries, the breaker: the upstream itself

Not here: what one upstream does (``clusters``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from random import Random
from typing import Any

from apigw.exchange.responder import Responder
from apigw.gateway.clusters import Upstream
from apigw.gateway.environment import Shared
from apigw.observability.instruments import MIRROR_DIFFERENCES, MIRRORED, SPLIT_REQUESTS
from apigw.observability.metrics import status_label
from apigw.upstream.client import UpstreamClient
from apigw.upstream.fallback import with_other_upstream
from apigw.upstream.mirror import Mirror, MirrorSpec
from apigw.upstream.split import Split, SplitSettings

Way = Callable[[Upstream, bool], Responder]
"""``way(upstream, keeps_content)``: a responder of that upstream, with the route's own options."""


class Upstreams(dict[str, Upstream]):
    """
    Upstreams by name.

    :ivar clients: for all that asks an upstream, by its name or that of a split.
    """

    def __init__(self, upstreams: Mapping[str, Upstream], splits: Mapping[str, SplitSettings], shared: Shared) -> None:
        super().__init__(upstreams)
        self._shared = shared
        self._moving: dict[str, Any] = {}
        self._answers: dict[str, Responder] = {}
        self._splits = {name: Split(settings, Random(), name) for name, settings in splits.items()}
        self.clients = {name: upstream.client for name, upstream in upstreams.items()}
        for name in splits:
            answer = self._split(name, {each: upstreams[each].client.forward for each in self._splits[name].names})
            self.clients[name] = UpstreamClient(name, answer, clock=shared.clock)

    def prepare(self, settings: Mapping[str, Any], former: Mapping[str, Upstream]) -> Generator[None, None, None]:
        """
        Work out, in steps, what ``take_effect`` puts in place; those that are new take over what is known.

        :param settings: of all upstreams. :param former: those that are in force.
        """
        for name, upstream in self.items():
            before = former.get(name)
            if before is upstream:
                if upstream.moves(settings[name]):
                    self._moving[name] = settings[name]
            elif before is not None:
                upstream.take_over(before)
            self._answers[name] = self.responder(
                name, lambda each, keeps_content: each.responder("", keeps_content=keeps_content)
            )
            yield

    def take_effect(self) -> None:
        """What was prepared is in force from now on: targets are those configured, fallbacks those named."""
        for name, settings in self._moving.items():
            self[name].become(settings)
        for name, answer in self._answers.items():
            self[name].answer = answer
        self._moving, self._answers = {}, {}
        self._shared.outside.upstreams = self.clients

    def responder(self, name: str, way: Way) -> Responder:
        """What sends requests to an upstream or split, with its fallbacks."""
        if name in self._splits:
            return self._split(name, {each: self.responder(each, way) for each in self._splits[name].names})
        upstream = self[name]
        breaker = upstream.settings.breaker
        if not breaker.on or breaker.fallback_upstream is None:
            return upstream.with_fallback(way(upstream, False))
        other = self._plain(breaker.fallback_upstream, way)
        return upstream.with_fallback(with_other_upstream(way(upstream, True), other, upstream.count_fallback))

    def mirror(self, spec: MirrorSpec, route: str, inner: Responder, way: Way) -> Responder:
        """``inner``, with copies of its requests for another upstream."""
        metrics = self._shared.metrics
        name = spec.upstream
        mirror = Mirror(
            spec,
            self._plain(name, way),
            Random(),
            lambda event: _count(metrics.counter(MIRRORED, route, name, event)),
            lambda status, copy: _count(
                metrics.counter(MIRROR_DIFFERENCES, route, name, status_label(status), status_label(copy))
            ),
        )
        return mirror.wrap(inner)

    def _plain(self, name: str, way: Way) -> Responder:
        """What sends requests to an upstream or split, without fallbacks."""
        if name in self._splits:
            return self._split(name, {each: self._plain(each, way) for each in self._splits[name].names})
        return way(self[name], False)

    def _split(self, name: str, upstreams: Mapping[str, Responder]) -> Responder:
        metrics = self._shared.metrics
        counted = {
            each: _counting(answer, metrics.counter(SPLIT_REQUESTS, name, each)) for each, answer in upstreams.items()
        }
        return self._splits[name].responder(counted)


def _counting(inner: Responder, cell: Any) -> Responder:
    def respond(request: Any, done: Any) -> None:
        cell.value += 1
        inner(request, done)

    return respond


def _count(cell: Any) -> None:
    cell.value += 1
