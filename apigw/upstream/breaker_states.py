"""
The states of a circuit breaker, and what leads from one to another. Nothing else is in this file.

    closed      requests pass; their results are counted
    open        requests are rejected until the reset time is over
    half_open   a few requests pass as probes; their results decide
    forced_open, forced_closed   an operator decided; results decide nothing until the operator lets go
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """What a breaker does with a request."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    FORCED_CLOSED = "forced_closed"


class Event(Enum):
    """What can happen to a breaker."""

    TRIPPED = "tripped"
    COOLED_DOWN = "cooled_down"
    PROBES_SUCCEEDED = "probes_succeeded"
    PROBE_FAILED = "probe_failed"
    FORCED_OPEN = "forced_open"
    FORCED_CLOSED = "forced_closed"
    RELEASED = "released"


_FORCED = {Event.FORCED_OPEN: State.FORCED_OPEN, Event.FORCED_CLOSED: State.FORCED_CLOSED}

TRANSITIONS: dict[State, dict[Event, State]] = {
    State.CLOSED: {Event.TRIPPED: State.OPEN, **_FORCED},
    State.OPEN: {Event.COOLED_DOWN: State.HALF_OPEN, **_FORCED},
    State.HALF_OPEN: {Event.PROBES_SUCCEEDED: State.CLOSED, Event.PROBE_FAILED: State.OPEN, **_FORCED},
    State.FORCED_OPEN: {Event.RELEASED: State.CLOSED, **_FORCED},
    State.FORCED_CLOSED: {Event.RELEASED: State.CLOSED, **_FORCED},
}
"""An event that is not listed for a state can't happen in it: ``KeyError`` is a bug."""
