"""
``Metrics``: the numbers of one process, as cells that the data path holds in its hand.

A route or target gets its cells when the configuration is loaded, so counting looks nothing up by label: measured,
0.15 us for a request with its duration, where ``prometheus_client``'s ``labels(...).inc()`` and ``observe()`` take
2.5 us. Cells are found by name, so they go on counting after a reload; what nobody names any more is forgotten.

``snapshot()`` is plain data, so that the snapshots of several workers can be sent over a pipe and be added up by
``apigw.observability.exposition``, which also writes the text for Prometheus.

Not here: which metrics there are (``apigw.observability.instruments``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from collections.abc import Set as AbstractSet
from http import HTTPStatus
from typing import Any, TypedDict

from prometheus_client import ProcessCollector
from twisted.logger import Logger

from apigw.net.slices import at_once
from apigw.observability import instruments
from apigw.observability.instruments import Instrument

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of duration buckets, in seconds: Prometheus' defaults, and finer where a proxy's own time shows."""

METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"QUERY"))
"""Methods with a label of their own; all others are ``OTHER``, because clients can make them up."""

OTHER = b"OTHER"

STATUSES = frozenset({0, *map(int, HTTPStatus), 499})
"""Statuses with a label of their own: those that are registered, 499 of clients that went away, 0 if none was sent."""


def bounded_status(status: int) -> int:
    """The status, or 299, 399, ... or 999 for all of its class that are not registered: services can make them up."""
    if status in STATUSES:
        return status
    return status // 100 * 100 + 99 if 200 <= status < 600 else 999


def status_label(status: int) -> str:
    """``404``; ``2xx`` to ``5xx``, or ``other``, for a status that is not registered."""
    if status in STATUSES:
        return str(status)
    return f"{status // 100}xx" if 200 <= status < 600 else "other"


log = Logger()


class Histogram(TypedDict):
    """``counts[i]`` observations were at most ``bounds[i]`` and more than the bound before; the last had no bound."""

    bounds: list[float]
    counts: list[int]
    sum: float


class Family(TypedDict):
    """One metric with all its series: label values, and a number or a histogram."""

    name: str
    kind: str
    help: str
    labels: list[str]
    merge: str
    samples: list[tuple[list[str], float | Histogram]]


Snapshot = list[Family]
Reading = Iterable[tuple[tuple[str, ...], float]]


class Counter:
    """One series that only grows: ``counter.value += 1``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class HistogramCell:
    """One series of a histogram."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def read(self) -> Histogram:
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.sum}


class RouteCells:
    """What is counted of one route; the route ``""`` is that of requests which none matched."""

    __slots__ = ("bounds", "buckets", "reasons", "route", "statuses", "sum")

    def __init__(self, route: str, bounds: tuple[float, ...]) -> None:
        self.route = route
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.statuses: dict[tuple[bytes, int], int] = {}
        self.reasons: dict[str, int] = {}

    def observe(self, method: bytes, status: int, seconds: float) -> None:
        """An exchange ended. This is called once per request, so it is one call and holds no other."""
        try:
            self.statuses[method, status] += 1
        except KeyError:
            key = (method if method in METHODS else OTHER, bounded_status(status))
            self.statuses[key] = self.statuses.get(key, 0) + 1
        self.buckets[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def ended_by_gateway(self, reason: str) -> None:
        """The gateway answered by itself, or gave up: ``reason`` is the request's reason code."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


class TargetCells:
    """
    What is counted of one target of one upstream.

    :ivar statuses: how often a try ended with a status; 0 if no response came (refused, reset, timed out).
    """

    __slots__ = ("statuses", "target", "upstream")

    def __init__(self, upstream: str, target: str) -> None:
        self.upstream = upstream
        self.target = target
        self.statuses: defaultdict[int, int] = defaultdict(int)


class Metrics:
    """
    All cells of one process. There is one, made at start; it outlives every reload.

    :param bounds: upper bounds of the buckets of request durations, in seconds, ascending.
    :ivar settle: called before the numbers are read: whoever counts in batches counts what is left.
    """

    def __init__(self, bounds: tuple[float, ...] = BUCKETS) -> None:
        self._bounds = bounds
        self.settle: Callable[[], None] = lambda: None
        self._routes: dict[str, RouteCells] = {}
        self._targets: dict[tuple[str, str], TargetCells] = {}
        # By name: to hash an instrument would hash its whole text.
        self._instruments: dict[str, Instrument] = {}
        self._counters: dict[str, dict[tuple[str, ...], Counter]] = {}
        self._histograms: dict[str, dict[tuple[str, ...], HistogramCell]] = {}
        self._gauges: dict[str, Callable[[], Reading]] = {}
        self._process = ProcessCollector(registry=None)
        self.route("")

    def route(self, name: str) -> RouteCells:
        """The cells of a route, new or as they were before the reload."""
        cells = self._routes.get(name)
        if cells is None:
            cells = self._routes[name] = RouteCells(name, self._bounds)
        return cells

    def target(self, upstream: str, target: str) -> TargetCells:
        """The cells of a target, new or as they were before the reload."""
        cells = self._targets.get((upstream, target))
        if cells is None:
            cells = self._targets[upstream, target] = TargetCells(upstream, target)
        return cells

    def counter(self, instrument: Instrument, *labels: str) -> Counter:
        """One series of any other counter; ``labels`` in the instrument's order."""
        try:
            return self._counters[instrument.name][labels]
        except KeyError:
            self._instruments[instrument.name] = instrument
            cell = self._counters.setdefault(instrument.name, {})[labels] = Counter()
            return cell

    def histogram(self, instrument: Instrument, *labels: str, bounds: tuple[float, ...] = BUCKETS) -> HistogramCell:
        """One series of any other histogram."""
        self._instruments[instrument.name] = instrument
        return self._histograms.setdefault(instrument.name, {}).setdefault(labels, HistogramCell(bounds))

    def gauge(self, instrument: Instrument, read: Callable[[], Reading]) -> None:
        """
        Something that is asked for its value when metrics are read; the last one given for an instrument holds.

        :param read: returns pairs of label values and number.
        """
        self._instruments[instrument.name] = instrument
        self._gauges[instrument.name] = read

    def reloaded(self, success: bool, loaded_at: float) -> None:
        """
        A configuration was loaded, or refused.

        :param loaded_at: time of day, in seconds, at which the configuration now in force was loaded.
        """
        self.gauge(instruments.CONFIG_SUCCESS, lambda: [((), float(success))])
        self.gauge(instruments.CONFIG_TIMESTAMP, lambda: [((), loaded_at)])

    def keep_only(self, routes: AbstractSet[str], targets: AbstractSet[tuple[str, str]]) -> None:
        """Forget routes and targets (upstream, target) that are no longer configured, so that series don't pile up."""
        self._routes = {name: cells for name, cells in self._routes.items() if name == "" or name in routes}
        self._targets = {key: cells for key, cells in self._targets.items() if key in targets}

    def forget_target(self, upstream: str, target: str) -> None:
        """Forget one target: discovery may bring and take them all day."""
        self._targets.pop((upstream, target), None)

    def snapshot(self) -> Snapshot:
        """All numbers of this moment as plain data (JSON-able)."""
        return at_once(self.snapshot_steps())

    def snapshot_steps(self) -> Generator[None, None, Snapshot]:
        """The same in steps, for ``apigw.net.slices``: with thousands of routes it takes a while."""
        self.settle()
        families = yield from self._of_routes()
        families.append((yield from self._of_targets()))
        known = self._instruments
        for name, cells in [*self._counters.items()]:
            families.append(_family(known[name], [(list(labels), cell.value) for labels, cell in cells.items()]))
            yield
        for name, series in [*self._histograms.items()]:
            families.append(_family(known[name], [(list(labels), cell.read()) for labels, cell in series.items()]))
            yield
        for name, read in [*self._gauges.items()]:
            samples = []
            try:
                for labels, value in read():
                    samples.append((list(labels), value))
                    yield
            except Exception:
                # One that can't be read must not hide all the others.
                log.failure("metric {name} can't be read", name=name)
            else:
                families.append(_family(known[name], samples))
        return families + self._of_process()

    def _of_routes(self) -> Generator[None, None, list[Family]]:
        requests: list[tuple[list[str], float | Histogram]] = []
        durations: list[tuple[list[str], float | Histogram]] = []
        reasons: list[tuple[list[str], float | Histogram]] = []
        for route, cells in [*self._routes.items()]:
            for (method, status), count in cells.statuses.items():
                requests.append(([route, method.decode("ascii"), status_label(status)], count))
            durations.append(([route], {"bounds": list(cells.bounds), "counts": list(cells.buckets), "sum": cells.sum}))
            reasons += [([route, reason], count) for reason, count in cells.reasons.items()]
            yield
        return [
            _family(instruments.REQUESTS, requests),
            _family(instruments.REQUEST_DURATION, durations),
            _family(instruments.GATEWAY_RESPONSES, reasons),
        ]

    def _of_targets(self) -> Generator[None, None, Family]:
        samples: list[tuple[list[str], float | Histogram]] = []
        for (upstream, target), cells in [*self._targets.items()]:
            by_label: dict[str, float] = {}
            for status, count in cells.statuses.items():
                label = status_label(status) if status else "none"
                by_label[label] = by_label.get(label, 0) + count
            samples += [([upstream, target, label], count) for label, count in by_label.items()]
            yield
        return _family(instruments.UPSTREAM_REQUESTS, samples)

    def _of_process(self) -> list[Family]:
        """CPU, memory and descriptors, under the names that every Prometheus client uses."""
        families: list[Family] = []
        for metric in self._process.collect():
            merge = "min" if metric.name in {"process_start_time_seconds", "process_max_fds"} else "sum"
            families += [
                {
                    "name": sample.name,
                    "kind": metric.type,
                    "help": metric.documentation,
                    "labels": [],
                    "merge": merge,
                    "samples": [([], sample.value)],
                }
                for sample in metric.samples
            ]
        return families


def _family(instrument: Instrument, samples: list[Any]) -> Family:
    return {
        "name": instrument.name,
        "kind": instrument.kind,
        "help": instrument.help,
        "labels": list(instrument.labels),
        "merge": instrument.merge,
        "samples": samples,
    }
