"""
What operators read in the log about targets and breakers: one line for every change of state, and none else.

    targets.listen(log_targets("orders"))
    breaker.listen(log_breaker)
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger, LogLevel

from apigw.upstream.breaker import Breaker
from apigw.upstream.breaker_states import State
from apigw.upstream.target import Target

log = Logger()

_BAD = frozenset(("unhealthy", "ejected", "unreachable"))


def log_targets(upstream: str) -> Callable[[Target, str, float], None]:
    """A listener for a target set: logs which target changed, from what to what, and why."""

    def changed(target: Target, before: str, now: float) -> None:
        bad = target.state in _BAD
        log.emit(
            LogLevel.warn if bad else LogLevel.info,
            "upstream {upstream}: {target} is {state}, was {before}{why}",
            upstream=upstream,
            target=target.name,
            state=target.state,
            before=before,
            why=f": {target.why}" if bad and target.why else "",
            seconds=max(0.0, round(target.ejected_until - now, 3)),
        )

    return changed


def log_breaker(breaker: Breaker, before: State) -> None:
    """A listener for a breaker: logs the change, and what was counted until then."""
    if breaker.state is before:
        return
    opened = breaker.state in (State.OPEN, State.FORCED_OPEN)
    log.emit(
        LogLevel.warn if opened else LogLevel.info,
        "circuit of {breaker} is {state}, was {before}",
        breaker=breaker.name,
        state=breaker.state.value,
        before=before.value,
        counts=breaker.counts(),
    )
