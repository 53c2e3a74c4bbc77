"""
``Target``: one address of an upstream, and all that is known of it: load, latency, health.

A ``TargetSpec`` is what was asked for (configuration or discovery), a ``Target`` is what lives. The counters are
plain attributes that an ``Attempt`` moves; the verdicts (ejected, unhealthy) are set by ``TargetSet`` and the outlier
detection.

Pure: ``now`` is passed in, in monotonic seconds. Not here: connections (``pool`` is the data path's own).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from apigw.upstream.breaker import Breaker
from apigw.upstream.target_spec import TargetSpec

LATENCY_MEMORY = 10.0
"""Seconds in which the weight of an old latency falls to 1/e (Finagle's peak EWMA; for one that is older, to 0)."""

STALL_REQUESTS = 5
"""So many requests in a row without any answer make a target suspect (Envoy's 5 for its consecutive failures)."""


class Cells(Protocol):
    """Where the answers of a target are counted by status; 0 for none (``apigw.observability.metrics``)."""

    @property
    def statuses(self) -> defaultdict[int, int]: ...


class _Uncounted:
    """Cells that nobody reads."""

    def __init__(self) -> None:
        self.statuses: defaultdict[int, int] = defaultdict(int)


UNCOUNTED = _Uncounted()
"""For what is no client's request: health checks, key sets."""


class Watch(Protocol):
    """Who is told of what is unusual at a target (``apigw.upstream.outlier``)."""

    def answered(self, target: Target, status: int, now: float) -> None: ...

    def failed(self, target: Target, now: float) -> None: ...

    def unconnected(self, target: Target, why: str, now: float) -> None: ...

    def stalled(self, target: Target, now: float) -> None: ...


class Target:
    """
    One address of an upstream.

    :ivar share: the weight that counts now: ``weight``, or less while the target warms up.
    :ivar active: requests that were sent and are not over.
    :ivar latency: seconds until a response's head, as a peak EWMA: jumps up at once, comes down slowly; 0 if unknown.
    :ivar breaker: its circuit breaker, or None. :ivar pool: its connections, the data path's own.
    :ivar cells: its metrics. :ivar index: a number that no other target of the process has had.
    :ivar probe_failed: the active checks say that it is not well. :ivar probe_silent: for they get no answer.
    :ivar ejected_until: the outlier detection took it out until then; 0.0 when it did not.
    :ivar unreachable: it accepts no connection, or hangs. The gateway's own trials find out when it is back.
    :ivar hung: it is unreachable because it is silent: it is also ejected, and an answer after all brings it back.
    :ivar suspect: several requests got no answer: the gateway's own trial decides whether the target is the cause.
    :ivar trial_until: until then the gateway's own trial is given time, before a client's request is used for it.
    :ivar on_probation: it is back from an ejection, and gets one request at a time until one is answered well.
    :ivar draining: it gets nothing new. :ivar gone: and it is no longer asked for: its pool ends with its last request.
    :ivar attention: whether an answer that is no failure says anything new to ``watch``.
    """

    __slots__ = (
        "active",
        "attention",
        "backup",
        "base_path",
        "breaker",
        "cells",
        "consecutive_5xx",
        "consecutive_gateway_failures",
        "consecutive_local_failures",
        "draining",
        "ejected_until",
        "ejections",
        "failures",
        "gone",
        "host",
        "hung",
        "index",
        "key",
        "latency",
        "name",
        "on_idle",
        "on_probation",
        "path",
        "pool",
        "port",
        "probation_since",
        "probe_failed",
        "probe_silent",
        "requests",
        "scheme",
        "seen_at",
        "share",
        "spec",
        "stall_after",
        "stalls_at",
        "suspect",
        "trial_until",
        "unanswered",
        "unreachable",
        "warm_since",
        "watch",
        "weight",
        "why",
    )

    _next_index = 0

    def __init__(self, spec: TargetSpec, now: float = 0.0) -> None:
        self.spec = spec
        self.name = spec.name
        self.key = spec.name.encode()
        self.scheme = spec.scheme
        self.host = spec.host
        self.port = spec.port
        self.path = spec.path
        self.base_path = spec.base_path
        self.weight = spec.weight
        self.backup = spec.backup
        self.share = float(spec.weight)
        self.index = Target._next_index
        Target._next_index += 1

        self.warm_since = -inf
        self.active = 0
        self.requests = 0
        self.failures = 0
        self.latency = 0.0
        self.seen_at = now

        self.consecutive_5xx = 0
        self.consecutive_gateway_failures = 0
        self.consecutive_local_failures = 0
        self.attention = False
        self.unanswered = 0
        self.stall_after = inf
        self.stalls_at = inf

        self.probe_failed = False
        self.probe_silent = False
        self.ejected_until = 0.0
        self.ejections = 0
        self.unreachable = False
        self.hung = False
        self.suspect = False
        self.trial_until = 0.0
        self.on_probation = False
        self.probation_since = 0.0
        self.draining = False
        self.gone = False
        self.why = ""

        self.watch: Watch | None = None
        self.breaker: Breaker | None = None
        self.pool: Any = None
        self.cells: Cells = UNCOUNTED
        self.on_idle: Callable[[Target], None] | None = None

    @property
    def state(self) -> str:
        """``healthy``, ``unhealthy`` (by probes), ``ejected``, ``unreachable``, ``probation`` or ``draining``."""
        if self.draining:
            return "draining"
        if self.ejected_until:
            return "ejected"
        if self.unreachable:
            return "unreachable"
        if self.probe_failed:
            return "unhealthy"
        return "probation" if self.on_probation else "healthy"

    @property
    def well(self) -> bool:
        """Whether nothing speaks against sending requests there, the circuit breaker aside."""
        return not (self.probe_failed or self.ejected_until or self.unreachable or self.draining or self.on_probation)

    @property
    def down(self) -> bool:
        """Whether it is known to accept no connection, or to give no answer at all."""
        return self.unreachable or self.probe_silent

    def __repr__(self) -> str:
        return f"<Target {self.name} {self.state} active={self.active}>"
