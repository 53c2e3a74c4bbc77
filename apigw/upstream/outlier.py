"""
``OutlierDetector``: takes targets out that behave worse than they should, going by the requests they get anyway.

Terms and defaults are Envoy's (outlier detection). Two kinds of evidence are kept apart:

- *of the target*: one connection that could not be made makes it unreachable, also with ``outlier.enabled = no``: no
  request has to find that out again. ``STALL_REQUESTS`` requests in a row begun and none answered for ``stall_time``
  make it unreachable too. Sending requests there helps nobody, so there is no cap on how many are out for this.
- *of its answers*: 5xx in a row, requests that broke off or timed out in a row, a success rate below the others'. The
  fault may be in the paths that were asked for. At most ``max_ejection_percent`` of the targets are ejected for this,
  though always one may be: when all fail alike, the fault is elsewhere.

Several requests in a row without an answer may be either. So the gateway first makes a trial of its own (``suspect``):
without an answer to that, the target is unreachable; else it is ejected only after as many again.

An ejected target comes back when its time is over, *on probation*: one request at a time until one is answered well, or
a trial is. An unreachable one is back as soon as a trial reaches it.

Pure: ``now`` is passed in. Not here: the trials (``apigw.upstream.health``), what being out means (``candidates``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from apigw.upstream.settings import OutlierSettings
from apigw.upstream.target import STALL_REQUESTS, Target

GATEWAY_FAILURES = frozenset((502, 503, 504))

Changed = Callable[[Target, str, float], None]
"""Called with the target, its state before, and now."""


def _nobody(target: Target, before: str, now: float) -> None:
    """Nobody is told."""


class OutlierDetector:
    """
    Watches the targets of one upstream.

    :ivar ejections: how often a target was taken out, by reason, for the metrics.
    :ivar next_interval: when ``evaluate`` is due.
    :ivar verified: whether trials send a request: one that only connects says nothing of why answers don't come.
    """

    def __init__(
        self, settings: OutlierSettings, members: Callable[[], Sequence[Target]], changed: Changed, now: float
    ) -> None:
        self.settings = settings
        self.ejections: dict[str, int] = {}
        self.next_interval = now + settings.interval if settings.enabled else math.inf
        self.verified = False
        self._members = members
        self._changed = changed
        self._before: dict[Target, tuple[int, int]] = {}

    def adopt(self, target: Target) -> None:
        """Watch ``target``."""
        target.watch = self
        target.stall_after = (self.settings.enabled and self.settings.stall_time) or math.inf

    def let_go(self) -> None:
        """Hold no target and nobody who is told any more."""
        self._members = tuple
        self._changed = _nobody
        self._before = {}

    # What a target did.

    def answered(self, target: Target, status: int, now: float) -> None:
        """Anything that isn't the usual good answer of a target in good standing."""
        settings = self.settings
        if target.hung:
            self.readmit(target, now)  # late, but alive
            return
        if target.unreachable:
            self.reached(target, now)
        if target.ejected_until:
            return
        if not settings.enabled:
            target.attention = False
            return
        target.consecutive_local_failures = 0
        if status < 500:
            target.consecutive_5xx = target.consecutive_gateway_failures = 0
            target.attention = target.suspect = False
            self.passed(target, now)
            return
        target.attention = True
        target.consecutive_5xx += 1
        target.consecutive_gateway_failures = (
            target.consecutive_gateway_failures + 1 if status in GATEWAY_FAILURES else 0
        )
        if target.on_probation:
            self._eject(target, "probation", f"answered {status} on probation", now)
        elif settings.consecutive_5xx and target.consecutive_5xx >= settings.consecutive_5xx:
            self._eject(target, "consecutive_5xx", f"{target.consecutive_5xx} answers in a row were 5xx", now)
        elif (
            settings.consecutive_gateway_failure
            and target.consecutive_gateway_failures >= settings.consecutive_gateway_failure
        ):
            count = target.consecutive_gateway_failures
            self._eject(target, "consecutive_gateway_failure", f"{count} answers in a row were 502-504", now)

    def failed(self, target: Target, now: float) -> None:
        """A request was sent, and its answer broke off or did not come in time."""
        if target.ejected_until or target.unreachable or not self.settings.enabled:
            return
        target.attention = True
        count = target.consecutive_local_failures = target.consecutive_local_failures + 1
        limit = self.settings.consecutive_local_origin_failure
        if target.on_probation:
            self._eject(target, "probation", "a request got no answer on probation", now)
        elif limit and self.verified and limit <= count < 2 * limit:
            if count == limit:
                target.suspect = True
                self._changed(target, target.state, now)
        elif limit and count >= limit and not target.suspect:
            why = f"{count} requests in a row got no answer"
            self._eject(target, "consecutive_local_origin_failure", why, now)

    def unconnected(self, target: Target, why: str, now: float) -> None:
        """No connection could be made: nobody has to find that out again, until a trial reaches the target."""
        target.attention = True
        if not target.unreachable:
            before = target.state
            target.unreachable = True
            target.suspect = False
            target.why = why
            self.ejections["unreachable"] = self.ejections.get("unreachable", 0) + 1
            self._changed(target, before, now)

    def reached(self, target: Target, now: float) -> None:
        """It was unreachable, and gave an answer or accepted a connection."""
        before = target.state
        target.unreachable = False
        target.unanswered = target.consecutive_local_failures = 0
        target.warm_since = now
        self._changed(target, before, now)

    def stalled(self, target: Target, now: float) -> None:
        """Requests go in, nothing has come out for too long."""
        if not (target.ejected_until or target.unreachable) and math.isfinite(target.stall_after):
            self._eject(target, "stalled", f"{target.unanswered} requests wait and none is answered", now, hung=True)

    # Time.

    def evaluate(self, now: float) -> None:
        """Compare the targets with each other; due every ``interval``."""
        self.next_interval = now + self.settings.interval
        counts: list[tuple[Target, int, int]] = []
        fresh: dict[Target, tuple[int, int]] = {}
        for target in self._members():
            requests, failures = self._before.get(target, (0, 0))
            counts.append((target, target.requests - requests, target.failures - failures))
            fresh[target] = (target.requests, target.failures)
            if target.ejections and not target.ejected_until:
                target.ejections -= 1
        self._before = fresh
        self._by_success_rate(counts, now)
        self._by_failure_percentage(counts, now)

    def check_stalls(self, now: float) -> None:
        """Find targets that hang although nothing new is sent to them; for a coarse tick."""
        for target in self._members():
            if target.unanswered >= STALL_REQUESTS and now >= target.stalls_at:
                self.stalled(target, now)

    def readmit(self, target: Target, now: float) -> None:
        """Its time is over, or it was seen to answer: it is back, on probation."""
        if not target.ejected_until:
            return
        before = target.state
        target.ejected_until = 0.0
        target.on_probation = True
        target.probation_since = now
        if target.hung:
            target.unreachable = target.hung = False
        target.unanswered = 0
        target.consecutive_5xx = target.consecutive_gateway_failures = target.consecutive_local_failures = 0
        target.attention = True
        self._changed(target, before, now)

    def keep_out(self, target: Target, until: float) -> None:
        """A trial got no answer from a target that hangs: its time is not over before ``until``."""
        if target.hung:
            target.ejected_until = max(target.ejected_until, until)

    def passed(self, target: Target, now: float) -> None:
        """A trial was answered well: the probation is over."""
        if target.on_probation and not target.ejected_until:
            before = target.state
            target.on_probation = False
            target.warm_since = now
            self._changed(target, before, now)

    # Inside.

    def _eject(self, target: Target, reason: str, why: str, now: float, *, hung: bool = False) -> None:
        members = [member for member in self._members() if not member.draining]
        if len(members) < 2:
            return
        if not hung and not target.on_probation:
            out = sum(1 for member in members if member.ejected_until and not member.hung)
            if out + 1 > max(1, int(self.settings.max_ejection_percent * len(members))):
                return
        before = target.state
        target.ejections += 1
        target.ejected_until = now + min(
            self.settings.base_ejection_time * target.ejections, self.settings.max_ejection_time
        )
        target.unreachable = target.hung = hung
        target.on_probation = False
        target.attention = True
        target.why = why
        self.ejections[reason] = self.ejections.get(reason, 0) + 1
        self._changed(target, before, now)

    def _by_success_rate(self, counts: list[tuple[Target, int, int]], now: float) -> None:
        settings = self.settings
        rates = [
            (target, 1 - failures / requests)
            for target, requests, failures in counts
            if requests >= settings.success_rate_request_volume and requests and not target.ejected_until
        ]
        if not settings.success_rate or len(rates) < settings.success_rate_minimum_hosts:
            return
        mean = sum(rate for _, rate in rates) / len(rates)
        deviation = math.sqrt(sum((rate - mean) ** 2 for _, rate in rates) / len(rates))
        lowest = mean - settings.success_rate_stdev_factor * deviation
        for target, rate in rates:
            if rate < lowest:
                self._eject(target, "success_rate", f"succeeds in {rate:.0%}, all of them in {mean:.0%}", now)

    def _by_failure_percentage(self, counts: list[tuple[Target, int, int]], now: float) -> None:
        settings = self.settings
        if not settings.failure_percentage:
            return
        judged = [
            (target, failures / requests)
            for target, requests, failures in counts
            if requests and requests >= settings.failure_percentage_request_volume and not target.ejected_until
        ]
        if len(judged) < settings.failure_percentage_minimum_hosts:
            return
        for target, share in judged:
            if share >= settings.failure_percentage:
                self._eject(target, "failure_percentage", f"fails in {share:.0%}", now)
