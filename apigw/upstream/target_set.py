"""
``TargetSet``: START HERE. The targets of one upstream, which of them may be asked now, and the choice among them.

Which targets are *eligible* is worked out (``candidates``) when something changes (a verdict, a breaker, discovery) or
when time alone changes something, and never per request: a choice costs one look at the clock and the balancer's own
work.

A target of which it must be found out whether it is well again is *in doubt*: it is unreachable or suspect, or its
circuit is half-open, or it is on probation. The gateway asks it by itself (``health``), so that its return depends on
no client's request; single requests of clients may find it out as well.

Pure: ``now`` is passed in, in monotonic seconds. Not here: connections, and waiting for room (``pool``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from apigw.exchange.errors import UpstreamFault
from apigw.exchange.request import Request
from apigw.upstream.attempt import Attempt
from apigw.upstream.balancing.balancer import Balancer
from apigw.upstream.breaker import Breaker
from apigw.upstream.breaker_states import State
from apigw.upstream.candidates import candidates, half_open, passing
from apigw.upstream.outlier import OutlierDetector
from apigw.upstream.rolling import RollingCounts
from apigw.upstream.settings import OutlierSettings
from apigw.upstream.target import Target
from apigw.upstream.target_spec import TargetSpec

SAFE_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS"))

PROBATION_PATIENCE = 5.0
"""Seconds for which a target on probation waits for a request that can safely be sent again elsewhere."""

SLOW_START_STEPS = 20
"""How often a warming target's share is raised."""

SLOWEST_START = 0.1
"""The least share of its weight that a warming target gets (Envoy's min_weight_percent)."""

_KNOWN = (
    "consecutive_5xx", "consecutive_gateway_failures", "consecutive_local_failures", "attention", "probe_failed",
    "probe_silent", "ejected_until", "ejections", "unreachable", "hung", "on_probation", "probation_since", "draining",
    "why", "latency", "seen_at", "warm_since",
)  # fmt: skip
"""What one target set tells the next of a target."""

Changed = Callable[[Target, str, float], None]
NewBreaker = Callable[[Target, float], Breaker | None]


class TargetSet:
    """
    The targets of one upstream.

    :ivar targets: all that are asked for, in the order of their lines.
    :ivar eligible: those that the balancer chooses from now. :ivar trials: those that get single requests.
    :ivar panicking: whether health is being ignored, because too few are well.
    :ivar changes: how often eligibility was worked out; it grows with events and time, not with requests.
    """

    def __init__(
        self,
        name: str,
        balancer: Balancer,
        now: float,
        *,
        panic_threshold: float = 0.5,
        slow_start: float = 0.0,
        max_requests: int = 0,
        outlier: OutlierSettings | None = None,
        new_breaker: NewBreaker | None = None,
        budget: RollingCounts | None = None,
    ) -> None:
        """
        :param panic_threshold: 0..1; 0 never ignores health.
        :param slow_start: seconds in which a target that is new, or well again, comes up to its weight.
        :param max_requests: in flight at one target; 0 for no limit. Targets with room are preferred.
        :param new_breaker: makes a target's breaker; may return the same one for all (``breaker.scope = upstream``).
        :param budget: where requests are counted for the retry budget (``RetryBudget.counts``).
        """
        self.name = name
        self.balancer = balancer
        self.targets: list[Target] = []
        self.leaving: list[Target] = []
        self.eligible: list[Target] = []
        self.trials: list[Target] = []
        self._backups: list[Target] = []
        self._doubts: Callable[[list[Target]], None] | None = None
        self.panicking = False
        self.changes = 0
        self.outlier = OutlierDetector(
            outlier or OutlierSettings(enabled=False), lambda: self.targets, self.changed, now
        )
        self._choose = balancer.choose
        balancer.draining = lambda: [
            t for t in self.targets if t.draining and not (t.probe_failed or t.ejected_until or t.unreachable)
        ]
        self._panic_threshold = panic_threshold
        self._slow_start = slow_start
        self._limit = max_requests or math.inf
        self._new_breaker = new_breaker
        self._budget = budget
        self._breakers: set[Breaker] = set()
        self._next_change = -math.inf
        self._only: Target | None = None
        self._listeners: list[Changed] = []
        self._on_update: list[Callable[[], None]] = []
        self._on_gone: list[Callable[[Target], None]] = []
        self._on_silent: list[Callable[[Target], None]] = []

    # Choosing.

    def choose(self, request: Request, now: float, tried: Sequence[Target] = ()) -> Target | None:
        """
        The target for one try, or None if there is none to ask (``refusal`` says why).

        :param tried: targets that this request was sent to before; another one is taken if there is any.
        """
        if now >= self._next_change:
            self.refresh(now)
        if self.trials and (trial := self._trial(request, now, tried)) is not None:
            return trial
        if not tried:
            target = self._only
            if target is None:
                if not self.eligible:
                    return None
                target = self._choose(request, now)
            if target.active < self._limit:
                return target
        return self._another(request, now, tried)

    def begin(self, request: Request, now: float, tried: Sequence[Target] | None = None) -> Attempt:
        """
        Choose a target, pass its breaker, and begin the try. A target that is full is only given when all are: its
        pool lets the request wait, or not.

        :raises UpstreamFault: 503: no target (``no_target``), an open circuit, or one without room.
        """
        if not tried:
            budget = self._budget
            if budget is not None:
                if now >= budget.until:
                    budget.rotate(now)
                budget.first += 1
            if self.trials or now >= self._next_change:
                target = self.choose(request, now)
            else:  # as `choose` does it, with a call less
                target = self._only
                if target is None and self.eligible:
                    target = self._choose(request, now)
                if target is not None and target.active >= self._limit:
                    target = self._another(request, now, ())
            if target is not None:
                breaker = target.breaker
                if breaker is None:
                    return Attempt(target, 0, now)
                token = breaker.enter(now)
                if token:
                    return Attempt(target, token, now)
                return self._begin_elsewhere(request, now, (), self._behind(breaker))
        return self._begin_elsewhere(request, now, tried or (), [])

    def _begin_elsewhere(self, request: Request, now: float, tried: Sequence[Target], refused: list[Target]) -> Attempt:
        while True:
            target = self.choose(request, now, (*tried, *refused))
            if target is None or target in refused:
                raise self.refusal(now, counted=bool(refused))
            token = 0 if target.breaker is None else target.breaker.enter(now)
            if token or target.breaker is None:
                return Attempt(target, token, now)
            refused += self._behind(target.breaker)

    def _behind(self, breaker: Breaker) -> list[Target]:
        """Whom it refuses: it is asked, and counts, once a request."""
        return [target for target in self.targets if target.breaker is breaker]

    def refusal(self, now: float, *, counted: bool = True) -> UpstreamFault:
        """
        The error for a request that no target can be found for.

        :param counted: whether a breaker was asked already, and has counted that it rejected the request.
        """
        closed_doors = [
            target.breaker
            for target in self.targets
            if target.breaker is not None and not target.draining and not target.breaker.has_room(now)
        ]
        if closed_doors:
            breaker = min(closed_doors, key=lambda each: each.retry_at)
            if not counted:
                breaker.rejects += 1
            return breaker.refusal(now)
        return UpstreamFault(
            "no target of the upstream can be asked", status=503, reason="no_target", headers=((b"Retry-After", b"1"),)
        )

    def _trial(self, request: Request, now: float, tried: Sequence[Target]) -> Target | None:
        if tried and self.eligible:
            return None  # it failed once already: no experiments
        for target in self.trials:
            if target in tried or not self.balancer.may_try(request, target):
                continue
            breaker = target.breaker
            if breaker is not None and not breaker.has_room(now):
                continue
            if now < target.trial_until and self.eligible:
                continue  # the gateway is just finding it out by itself
            if target.on_probation and (
                target.active
                or not (request.method in SAFE_METHODS or now - target.probation_since >= PROBATION_PATIENCE)
            ):
                continue
            if target.active < self._limit:
                return target
        return None

    def _another(self, request: Request, now: float, tried: Sequence[Target]) -> Target | None:
        eligible = self.eligible
        free = [t for t in eligible if t not in tried and t.active < self._limit]
        if not free:
            # All were tried, or all are full: that is what backups are for, as nginx has it.
            free = [t for t in self._backups if t not in tried and t.active < self._limit]
        if not free:  # the same one again is better than none
            free = [t for t in eligible if t.active < self._limit] or eligible
        return self.balancer.choose_among(free, request, now) if free else None

    # What may be chosen.

    def refresh(self, now: float) -> None:
        """Work out who is eligible. Done by ``choose`` when it is due; a coarse tick may do it for quiet times."""
        if now >= self.outlier.next_interval:
            self.outlier.evaluate(now)
        for breaker in self._breakers:
            breaker.look(now)
        for target in self.targets:
            if target.ejected_until and now >= target.ejected_until:
                self.outlier.readmit(target, now)
            target.share = self._share(target, now)
        self.changes += 1
        found = candidates(self.targets, self._panic_threshold)
        self.trials, self.eligible, self.panicking = found.trials, found.eligible, found.panicking
        self._backups = found.backups
        spared = {target.breaker for target in self.eligible if not passing(target)}
        for breaker in self._breakers:
            breaker.spared = breaker in spared
        if self._doubts is not None and (doubtful := [t for t in self.targets if self.in_doubt(t)]):
            self._doubts(doubtful)
        if self.eligible:
            self.balancer.use(self.eligible, now)
        self._only = self.eligible[0] if len(self.eligible) == 1 and not self.balancer.always_asked else None
        self._next_change = self._next_time(now)

    def tick(self, now: float) -> None:
        """For a coarse timer (about once a second): what time does even while no requests come."""
        self.outlier.check_stalls(now)
        if now >= self._next_change:
            self.refresh(now)

    def elsewhere(self, now: float, tried: Sequence[Target]) -> bool:
        """Whether there is another target than ``tried`` that accepts connections."""
        if now >= self._next_change:
            self.refresh(now)
        return any(t not in tried and not t.down for t in (*self.eligible, *self._backups))

    def in_doubt(self, target: Target) -> bool:
        """Whether it must be found out if the target is well again (or, if it is suspect, still)."""
        return target.unreachable or target.suspect or target.on_probation or half_open(target)

    def answers(self, target: Target) -> bool:
        """Whether clients' requests are sent to it, and it accepts connections as far as is known."""
        if not target.weight or target.draining or target.down or target.probe_failed:
            return False
        return target in self.eligible or target in self.trials

    def _share(self, target: Target, now: float) -> float:
        warm = (now - target.warm_since) / self._slow_start if self._slow_start else 1.0
        return target.weight * min(1.0, max(SLOWEST_START, warm))

    def _next_time(self, now: float) -> float:
        times = [breaker.next_change for breaker in self._breakers]
        times.append(self.outlier.next_interval)
        for target in self.targets:
            if target.ejected_until:
                times.append(target.ejected_until)
            if target.share < target.weight:
                times.append(now + self._slow_start / SLOW_START_STEPS)
        return min(times, default=math.inf)

    # News.

    def update(self, specs: Iterable[TargetSpec], now: float) -> None:
        """
        The targets are these from now on. Those that stay keep their connections, breakers and counters; those that
        are gone finish the requests they have. A new one warms up (``slow_start``), unless all are new.
        """
        known = {target.name: target for target in (*self.leaving, *self.targets)}
        wanted: dict[str, Target] = {}
        for spec in specs:
            if spec.name in wanted:
                continue  # an address named twice is one target; its first line counts
            target = known.get(spec.name)
            if target is None:
                target = self._new_target(spec, now, warm=not known)
            elif target.gone:
                target.gone = target.draining = False
                target.on_idle = None
            target.spec, target.weight, target.backup = spec, spec.weight, spec.backup
            wanted[spec.name] = target
        leaving = [target for name, target in known.items() if name not in wanted]
        self.targets = list(wanted.values())
        self.leaving = []
        for target in leaving:
            before = target.state
            target.draining = target.gone = True
            if target.active:
                target.on_idle = self._let_go
                self.leaving.append(target)
            else:
                self._let_go(target)
            if before != "draining":
                self._tell(target, before, now)
        self._breakers = {target.breaker for target in self.targets if target.breaker is not None}
        for breaker in self._breakers:
            breaker.listen(self._breaker_moved)
        for target in leaving:
            if target.breaker is not None and target.breaker not in self._breakers:
                target.breaker.forget(self._breaker_moved)
        self._next_change = -math.inf
        for updated in [*self._on_update]:
            updated()

    def changed(self, target: Target, before: str, now: float) -> None:
        """Something about ``target`` changed: who is eligible is worked out again at the next choice."""
        self._next_change = -math.inf
        self._tell(target, before, now)

    def drain(self, target: Target, wanted: bool, now: float) -> None:
        """An operator's wish: no new requests for ``target`` (sticky sessions still find it), or requests again."""
        before = target.state
        target.draining = wanted
        if not wanted:
            target.warm_since = now
        if target.state != before:
            self.changed(target, before, now)

    def probed(self, target: Target, ok: bool, now: float, *, unreachable: bool = False, why: str = "") -> None:
        """
        The verdict of the active checks, after their thresholds.

        :param unreachable: it fails by giving no answer.
        """
        before = target.state
        was_down = target.probe_failed
        target.probe_failed = not ok
        target.probe_silent = not ok and unreachable
        if not ok:
            target.why = why
        elif was_down:
            target.warm_since = now
        was_out = target.ejected_until
        if ok:
            self.seen_alive(target, now, edge=was_down)
        told = was_out and not target.ejected_until
        if not told and (was_down == ok or (not ok and unreachable)):
            self.changed(target, before, now)

    def seen_alive(self, target: Target, now: float, *, edge: bool = False, only_connected: bool = False) -> None:
        """
        A trial got an answer. A target that was out for giving none is back; one that answers badly stays out.

        :param edge: whether it was known to be down until now; then an open breaker doesn't wait any longer either.
        :param only_connected: it accepted a connection, and was asked nothing: one that hangs does that too.
        """
        target.suspect = False
        if target.hung:
            if not only_connected:
                self.outlier.readmit(target, now)
                edge = True
        elif target.unreachable:
            self.outlier.reached(target, now)
            edge = True
        if edge and target.breaker is not None:
            if len(self._breakers) > 1 or len(self.targets) == 1:
                target.breaker.forget_results(now)
            target.breaker.cool_down(now)

    def trial_passed(self, target: Target, now: float) -> None:
        """A trial was answered well, by a target that was in doubt."""
        self.outlier.passed(target, now)
        if target.breaker is not None:
            target.breaker.trial_succeeded(now)

    def listen(self, listener: Changed) -> Callable[[], None]:
        """Call ``listener(target, state before, now)`` at every change of state, until what is returned is called."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def on_update(self, updated: Callable[[], None]) -> Callable[[], None]:
        """Call ``updated()`` after every ``update``, until what is returned is called."""
        self._on_update.append(updated)
        return lambda: self._on_update.remove(updated)

    def on_gone(self, close: Callable[[Target], None]) -> None:
        """Call ``close(target)`` when a target is no longer asked for and its last request is over."""
        self._on_gone.append(close)

    def on_silent(self, abandon: Callable[[Target], None]) -> None:
        """Call ``abandon(target)`` when a check of a target that is out for giving no answer got none either."""
        self._on_silent.append(abandon)

    def on_doubt(self, ask: Callable[[list[Target]], None], *, verified: bool) -> Callable[[], None]:
        """
        Call ``ask(targets)`` with those in doubt whenever eligibility is worked out, until what is returned is called.

        :param verified: whether they are sent a request, and not only connected to.
        """

        def forget() -> None:
            self._doubts, self.outlier.verified = None, False

        self._doubts, self.outlier.verified = ask, verified
        self._next_change = -math.inf
        return forget

    def silent(self, target: Target, why: str, now: float) -> None:
        """A trial got no answer: the target is not just slow, and requests to it did not fail by their own fault."""
        if target.suspect:
            self.outlier.unconnected(target, why, now)
        if target.down:
            for abandon in self._on_silent:
                abandon(target)

    def describe(self, now: float) -> dict[str, Any]:
        """The upstream's health, JSON-able: ``healthy``, ``degraded`` (some are not) or ``unhealthy`` (none is)."""
        self.tick(now)
        targets = [
            {
                "target": target.name,
                "status": target.state,
                **({"reason": target.why} if target.state in ("unhealthy", "ejected", "unreachable") else {}),
                **({"circuit": target.breaker.state.value} if target.breaker is not None else {}),
                "active": target.active,
            }
            for target in self.targets
        ]
        judged = [target for target in self.targets if not target.draining]
        well = [t for t in judged if t.well and passing(t)]
        status = "degraded" if well else "unhealthy"
        if judged and len(well) == len(judged):
            status = "healthy"
        return {"status": status, "targets": targets}

    def take_over(self, other: TargetSet, *, breakers: bool) -> None:
        """
        Go on with what another set knew of the same targets: this one takes its place after a reload.

        :param breakers: take over the circuit breakers, with their state; both sets' were made from the same settings.
        """
        others = {each.name: each for each in other.targets}
        for target in self.targets:
            known = others.get(target.name)
            if known is None:
                continue
            for fact in _KNOWN:
                setattr(target, fact, getattr(known, fact))
            if breakers and known.breaker is not None:
                known.breaker.listen(self._breaker_moved)
                target.breaker = known.breaker
        self._breakers = {target.breaker for target in self.targets if target.breaker is not None}
        self._next_change = -math.inf

    def close(self) -> None:
        """
        Only requests that are under way choose from it: nothing that lives on, such as a breaker that was taken over,
        holds it; nor does it hold itself in a circle, so it goes with the last of them.
        """
        for breaker in self._breakers:
            breaker.forget(self._breaker_moved)
        for target in (*self.targets, *self.leaving):
            target.watch = target.on_idle = None
        for listeners in (self._listeners, self._on_update, self._on_gone, self._on_silent):
            listeners.clear()
        self._new_breaker = self._doubts = None
        self.outlier.let_go()
        self.balancer.draining = tuple

    def _new_target(self, spec: TargetSpec, now: float, *, warm: bool) -> Target:
        target = Target(spec, now)
        if not warm:
            target.warm_since = now
        if self._new_breaker is not None:
            target.breaker = self._new_breaker(target, now)
        self.outlier.adopt(target)
        return target

    def _breaker_moved(self, breaker: Breaker, before: State) -> None:
        self._next_change = -math.inf
        if breaker.state is State.OPEN and before is not State.OPEN and self._doubts is not None:
            # It may have opened because the target died. An open circuit sends nobody there who would find that out.
            for target in self.targets:
                if target.breaker is breaker:
                    target.suspect = True

    def _let_go(self, target: Target) -> None:
        if target in self.leaving:
            self.leaving.remove(target)
        target.on_idle = None
        for close in self._on_gone:
            close(target)

    def _tell(self, target: Target, before: str, now: float) -> None:
        if target.state != before:
            for listener in [*self._listeners]:
                listener(target, before, now)
