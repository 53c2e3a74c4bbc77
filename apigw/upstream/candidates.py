"""
Which targets the balancer may choose from, and in which order they are taken when not all is well.

    1  the well primaries, if they are at least ``panic_threshold`` of the primaries whose circuit is closed
    2  without a well primary, the well backups
    3  panic: the primaries that accept connections, whatever else is said of them. If no primary is well, this includes
       those with an open circuit that answered well in between (``Breaker.mixed``). Then the backups, likewise
    4  if no target accepts connections, all whose circuit is closed: one of them may be back

A target that accepts no connection (``Target.down``) is never taken while another one accepts them. Circuits that an
operator opened stay open, and so do those of targets that only failed. The circuit of an upstream's only target always
means what its threshold says.

Pure. Not here: what a target's facts come from (``outlier``, ``health``, ``breaker``), choosing (``balancing``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from apigw.upstream.breaker_states import State
from apigw.upstream.target import Target

PASSING = (State.CLOSED, State.FORCED_CLOSED)
"""States of a breaker in which it lets everything through."""

_TRIPPED = (State.OPEN, State.HALF_OPEN)


@dataclass(slots=True)
class Candidates:
    """
    What may be done with the targets now.

    :ivar eligible: those that the balancer chooses from.
    :ivar trials: with a half-open breaker or on probation: they get single requests before all others.
    :ivar backups: the well backups: for requests that the eligible failed, or have no room for.
    :ivar panicking: whether targets are eligible that are not well.
    """

    eligible: list[Target] = field(default_factory=list)
    trials: list[Target] = field(default_factory=list)
    backups: list[Target] = field(default_factory=list)
    panicking: bool = False


def passing(target: Target) -> bool:
    """Whether its circuit breaker lets everything through."""
    return target.breaker is None or target.breaker.state in PASSING


def half_open(target: Target) -> bool:
    """Whether its circuit is being tried."""
    return target.breaker is not None and target.breaker.state is State.HALF_OPEN


def candidates(targets: Sequence[Target], panic_threshold: float) -> Candidates:
    """
    Sort ``targets``.

    :param panic_threshold: 0..1; 0 takes the well ones only.
    """
    asked = [t for t in targets if t.weight and not t.draining]
    tried = [t for t in asked if half_open(t)]
    back = [t for t in asked if t.on_probation and passing(t) and not (t.down or t.probe_failed or t.ejected_until)]
    found = Candidates()
    found.backups = [t for t in asked if t.backup and t.well and passing(t)]
    found.eligible, found.panicking = _eligible(asked, back, found.backups, panic_threshold)
    # A half-open target that is known to be ill is no place for a client's request, but for want of any other.
    found.trials = [t for t in tried if not (t.down or t.probe_failed or t.ejected_until)] + back
    if not found.trials and not found.eligible:
        found.trials = tried
    return found


def _eligible(
    asked: list[Target], back: list[Target], well_backups: list[Target], threshold: float
) -> tuple[list[Target], bool]:
    if len(asked) == 1 and not asked[0].probe_failed:  # the only target is never taken out
        return [t for t in asked if passing(t)], False
    primaries = [t for t in asked if not t.backup and passing(t) and t not in back]
    well = [t for t in primaries if t.well]
    if well and len(well) >= threshold * len(primaries):
        return well, False
    if not well and well_backups:
        return well_backups, False
    if not threshold:
        return well or back, False
    if well:
        return [t for t in primaries if not t.down], True
    for group in ([t for t in asked if not t.backup], [t for t in asked if t.backup]):
        reachable = [t for t in group if not t.down and (passing(t) or _mixed(t, asked))]
        if reachable:
            return reachable, any(t not in back for t in reachable)
    if any(not t.down and _tripped(t) for t in asked):
        return [], True
    return primaries or [t for t in asked if passing(t)], True


def _mixed(target: Target, asked: list[Target]) -> bool:
    return len(asked) > 1 and _tripped(target) and target.breaker is not None and target.breaker.mixed


def _tripped(target: Target) -> bool:
    return target.breaker is not None and target.breaker.state in _TRIPPED
