"""What is read of upstreams when metrics are asked for: health, circuits, ejections, budgets, checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from apigw.gateway.upstreams import Upstreams
from apigw.observability import instruments
from apigw.observability.instruments import Instrument
from apigw.observability.metrics import Metrics
from apigw.upstream.breaker import Breaker
from apigw.upstream.breaker_states import State

Reading = tuple[tuple[str, ...], float]


def measure(metrics: Metrics, upstreams: Callable[[], Upstreams]) -> None:
    """Show ``upstreams()``, those in force, in ``metrics``."""
    readings: dict[Instrument, Callable[[Upstreams], Iterator[Reading]]] = {
        instruments.TARGET_HEALTHY: _healthy,
        instruments.BREAKER_STATE: _breaker_states,
        instruments.BREAKER_EVENTS: _breaker_events,
        instruments.EJECTIONS: _ejections,
        instruments.RETRY_BUDGET: _budgets,
        instruments.HEALTH_CHECKS: _checks,
        instruments.DISCOVERY_FAILURES: _discovery,
    }
    for instrument, read in readings.items():
        metrics.gauge(instrument, partial(_read, read, upstreams))


def _read(read: Callable[[Upstreams], Iterator[Reading]], upstreams: Callable[[], Upstreams]) -> Iterator[Reading]:
    return read(upstreams())


def _healthy(upstreams: Upstreams) -> Iterator[Reading]:
    for name, upstream in upstreams.items():
        for target, state in upstream.states().items():
            yield (name, target), float(state == "healthy")


def _breakers(upstreams: Upstreams) -> Iterator[tuple[str, str, Breaker]]:
    """Upstream, target and breaker; the target is empty where one breaker is for all."""
    for name, upstream in upstreams.items():
        each = upstream.settings.breaker.scope == "target"
        seen: set[Breaker] = set()
        for target in upstream.targets.targets:
            if target.breaker is not None and target.breaker not in seen:
                seen.add(target.breaker)
                yield name, target.name if each else "", target.breaker


def _breaker_states(upstreams: Upstreams) -> Iterator[Reading]:
    for name, target, breaker in _breakers(upstreams):
        for state in State:
            yield (name, target, state.value), float(breaker.state is state)


def _breaker_events(upstreams: Upstreams) -> Iterator[Reading]:
    for name, target, breaker in _breakers(upstreams):
        for event, count in breaker.counts().items():
            if event != "fallback":
                yield (name, target, event), float(count)
    for name, upstream in upstreams.items():
        if upstream.settings.breaker.on:
            yield (name, "", "fallback"), float(upstream.fallbacks)


def _ejections(upstreams: Upstreams) -> Iterator[Reading]:
    for name, upstream in upstreams.items():
        for reason, count in upstream.targets.outlier.ejections.items():
            yield (name, reason), float(count)


def _budgets(upstreams: Upstreams) -> Iterator[Reading]:
    for name, upstream in upstreams.items():
        yield (name, "granted"), float(upstream.budget.granted)
        yield (name, "denied"), float(upstream.budget.denied)


def _checks(upstreams: Upstreams) -> Iterator[Reading]:
    for name, upstream in upstreams.items():
        if upstream.prober is not None:
            yield (name, "passed"), float(upstream.prober.checks - upstream.prober.failures)
            yield (name, "failed"), float(upstream.prober.failures)


def _discovery(upstreams: Upstreams) -> Iterator[Reading]:
    for name, upstream in upstreams.items():
        if upstream.discovery is not None:
            for source in upstream.discovery.sources:
                yield (name, str(source.spec)), float(source.failures)
