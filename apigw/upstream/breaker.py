"""
``Breaker``: stops asking a service that fails, and lets a few probes find out whether it works again.

The model and the option names are opossum's (https://nodeshift.dev/opossum/). What differs, on purpose:

- the error rate is failures of *finished* requests: rejections and requests that were let go count for nothing;
- it opens at the threshold, not only above it, so that 100 % is a threshold that can be reached;
- a result belongs to the state in which its request began: a late one changes nothing;
- a probe always ends: one that is silent for longer than its time limit has failed;
- a full ``capacity`` rejects, but is no failure of the service and trips nothing;
- counts start afresh when it closes; the reset time grows with every failed probe, with jitter, up to a limit;
- a trial that is no client's request (``trial_succeeded``) closes it too, but proves less: the first result of a client
  decides whether it stays closed;
- it remembers whether the failures that opened it were mixed with successes: the fault may then be in some paths of a
  service that works. ``spared`` lets requests pass nevertheless (``candidates`` says when).

Its transitions are the table in ``apigw.upstream.breaker_states``. There is no timer: an open breaker whose time is
over becomes half-open when somebody asks.

Pure: ``now`` is passed in, in monotonic seconds. Not here: what the client gets instead (``apigw.upstream.fallback``).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from apigw.exchange.errors import UpstreamFault
from apigw.upstream.breaker_states import TRANSITIONS, Event, State
from apigw.upstream.rolling import RollingCounts
from apigw.upstream.settings import BreakerSettings

LONGEST_RETRY_AFTER = 3600.0
"""Seconds of a service's own ``Retry-After`` that are believed at most."""

ONLY_FAILURES = 20
"""Failures in a row after which a service is taken to fail entirely, if they go on for ``ONLY_FAILURES_FOR``."""

ONLY_FAILURES_FOR = 1.0
"""Seconds since its last success: connections that all break in one moment are one event."""

Listener = Callable[["Breaker", State], None]
"""Called with the breaker, and the state that it was in. That is the same state if only ``spared`` has changed."""


class Breaker:
    """
    One circuit breaker.

        token = breaker.enter(now)
        if not token:
            raise breaker.refusal(now)
        ...
        breaker.success(token, now)      # or failure(), timed_out(), ignore()

    :ivar state: one of ``State``.
    :ivar active: requests that entered and have not ended.
    :ivar fails: for every status from 0 to 599 whether it counts as a failure.
    :ivar retry_at: while it is open, when the first probe may go.
    :ivar mixed: whether successes, or a trial that passed, came among the failures for which it opened.
    :ivar spared: requests pass although it is open or half-open, and their results are counted. Set from outside; it
        ends when the circuit closes, and after ``ONLY_FAILURES``.
    """

    __slots__ = (
        "_bad_in_a_row",
        "_capacity",
        "_closed",
        "_generation",
        "_good_at",
        "_growth",
        "_jitter",
        "_listeners",
        "_longest_reset",
        "_next_token",
        "_opened_in_a_row",
        "_probe_limit",
        "_probes",
        "_probes_succeeded",
        "_probes_wanted",
        "_random",
        "_reset",
        "_results",
        "_retry_after",
        "_successes_seen",
        "_threshold",
        "_unproven_at",
        "_volume",
        "_warm_at",
        "active",
        "capacity_rejections",
        "closes",
        "fails",
        "failures",
        "fallbacks",
        "fires",
        "half_opens",
        "mixed",
        "name",
        "opens",
        "rejects",
        "retry_at",
        "spared",
        "state",
        "successes",
        "timeout",
        "timeouts",
    )

    def __init__(
        self,
        settings: BreakerSettings,
        now: float,
        *,
        name: str = "",
        probe_limit: float = 10.0,
        rng: random.Random | None = None,
    ) -> None:
        """
        :param name: for log and metrics, like ``orders http://127.0.0.1:9102``.
        :param probe_limit: seconds after which a silent probe has failed, when ``breaker.timeout`` is not set.
        """
        self.name = name
        self.state = State.CLOSED
        self.active = 0
        self.retry_at = 0.0
        self.timeout = settings.timeout
        self.fails = settings.failure_table()
        self.fires = self.successes = self.failures = self.timeouts = self.rejects = self.capacity_rejections = 0
        self.opens = self.half_opens = self.closes = self.fallbacks = 0
        self.mixed = False
        self.spared = False
        self._bad_in_a_row = 0
        self._good_at = 0.0
        self._successes_seen = 0
        self._unproven_at = -1  # successes when a trial of the gateway's own closed it
        self._capacity = settings.capacity or math.inf
        self._threshold = settings.error_threshold
        self._volume = max(settings.volume_threshold, 1)
        self._reset = settings.reset_timeout
        self._longest_reset = max(settings.max_reset_timeout, settings.reset_timeout)
        self._growth = settings.reset_growth
        self._jitter = settings.reset_jitter
        self._probes_wanted = settings.half_open_requests
        self._probe_limit = settings.timeout or probe_limit
        self._results = RollingCounts(settings.rolling_window, settings.rolling_buckets, now)
        self._warm_at = now + settings.rolling_window if settings.allow_warm_up else now
        self._random = rng or random.Random()
        self._listeners: list[Listener] = []
        self._next_token = 1
        self._generation = 1
        self._closed = True  # of requests that are let through and counted: one look instead of two
        self._probes: dict[int, float] = {}
        self._probes_succeeded = 0
        self._opened_in_a_row = 0
        self._retry_after = 0.0

    # A request comes and goes.

    def enter(self, now: float) -> int:
        """A token for one request, or 0: it is rejected (``refusal`` says how)."""
        if self._closed and self.active < self._capacity:
            self.active += 1
            self.fires += 1
            return self._generation
        return self._enter_unusually(now)

    def success(self, token: int, now: float) -> None:
        """The request was answered, and the answer is no failure."""
        if token == self._generation:
            self.active -= 1
            self.successes += 1
            self._good_at = now
            results = self._results
            if now >= results.until:
                results.rotate(now)
            results.first += 1
        elif token in self._probes:
            self._leave_probe(token)
            self.successes += 1
            self._good_at = now
            self._probes_succeeded += 1
            if self._probes_succeeded >= self._probes_wanted:
                self._move(Event.PROBES_SUCCEEDED, now)

    def failure(self, token: int, now: float, retry_after: float | None = None, started: float | None = None) -> None:
        """
        The request failed, or was answered by a ``failure_status``.

        :param retry_after: the answer's, in seconds. :param started: when the request began; without it, now.
        """
        if self._failed(token, now, now if started is None else started, retry_after):
            self.failures += 1

    def unconnected(self, token: int, now: float) -> None:
        """No connection: a failure, but it says nothing of what the service answers (``mixed``)."""
        if self._failed(token, now, -math.inf):
            self.failures += 1

    def timed_out(self, token: int, now: float, started: float | None = None) -> None:
        """The request took too long. Counts as a failure, but as one event: ``timeout``."""
        if self._failed(token, now, now if started is None else started):
            self.timeouts += 1

    def ignore(self, token: int) -> None:
        """The request ended without saying anything about the service: the client went away."""
        if token == self._generation:
            self.active -= 1
        elif token in self._probes:
            self._leave_probe(token)

    def has_room(self, now: float) -> bool:
        """Whether ``enter`` would let a request pass."""
        self.look(now)
        if self.state is State.HALF_OPEN and self._probes_left:
            return True
        return (self._closed or self.spared) and self.active < self._capacity

    def refusal(self, now: float) -> UpstreamFault:
        """The error for a request that was not let in."""
        if self._closed or self.spared:
            detail, reason, wait = "the service has as many requests as it may have", "breaker_capacity", 1.0
        else:
            detail, reason, wait = "the service fails; its circuit is open", "circuit_open", self.retry_at - now
        seconds = max(1, math.ceil(wait))
        return UpstreamFault(detail, status=503, reason=reason, headers=((b"Retry-After", b"%d" % seconds),))

    # Time, other evidence, and the operator.

    def look(self, now: float) -> State:
        """Let time do its work: an open breaker may become half-open, a silent probe fails. The state after that."""
        if self.state is State.OPEN:
            if now >= self.retry_at:
                self._move(Event.COOLED_DOWN, now)
        elif self._probes:
            # In order of entry, and all have the same limit: the first is the first to be over.
            token = next(iter(self._probes))
            if now >= self._probes[token]:
                self.timed_out(token, now)
        return self.state

    @property
    def next_change(self) -> float:
        """When time alone may change something; infinity if it can't."""
        if self.state is State.OPEN:
            return self.retry_at
        if self._probes:
            return next(iter(self._probes.values()))
        return math.inf

    def cool_down(self, now: float) -> None:
        """A target that was down is back: don't wait for the rest of the time."""
        if self.state is State.OPEN:
            self._opened_in_a_row = 0
            self._move(Event.COOLED_DOWN, now)

    def forget_results(self, now: float) -> None:
        """What was counted was of a target that was down: it says nothing of the one that is back."""
        self._bad_in_a_row = 0
        self._results.clear(now)

    def trial_succeeded(self, now: float) -> None:
        """A trial of the gateway's own was answered well: one of ``half_open_requests``."""
        if self.state is not State.HALF_OPEN:
            return
        self._probes_succeeded += 1
        if self._probes_succeeded >= self._probes_wanted:
            self.mixed = True
            self._bad_in_a_row = ONLY_FAILURES // 2
            self._unproven_at = self._successes_seen = self.successes
            self._good_at = now
            self._move(Event.PROBES_SUCCEEDED, now)

    def force(self, wanted: str, now: float) -> None:
        """
        :param wanted: ``open``, ``close``, or ``auto`` to let results decide again.
        :raises ValueError: for anything else.
        """
        self._unproven_at = -1
        if wanted == "open":
            self._move(Event.FORCED_OPEN, now)
        elif wanted == "close":
            self._move(Event.FORCED_CLOSED, now)
        elif wanted == "auto":
            if Event.RELEASED in TRANSITIONS[self.state]:
                self._move(Event.RELEASED, now)
        else:
            raise ValueError(f"a breaker is forced to open, close or auto, not to {wanted!r}")

    def listen(self, listener: Listener) -> None:
        """Call ``listener(breaker, state before)`` after every change of state; once, however often this is called."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def forget(self, listener: Listener) -> None:
        """Call ``listener`` no more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def counts(self) -> dict[str, int]:
        """How often each event happened, since the start."""
        return {
            "fire": self.fires,
            "success": self.successes,
            "failure": self.failures,
            "timeout": self.timeouts,
            "reject": self.rejects,
            "capacity": self.capacity_rejections,
            "open": self.opens,
            "half_open": self.half_opens,
            "close": self.closes,
            "fallback": self.fallbacks,
        }

    def error_rate(self, now: float) -> tuple[float, int]:
        """Share of failures (0..1) among the finished requests of the window, and how many these are."""
        good, bad = self._results.sums(now)
        return (bad / (good + bad) if bad else 0.0), good + bad

    # Inside.

    def _enter_unusually(self, now: float) -> int:
        if self.look(now) is State.HALF_OPEN and self._probes_left:
            token = self._token()
            self._probes[token] = now + self._probe_limit
            self.active += 1
            self.fires += 1
            return token
        if self._closed or self.spared:
            if self.active < self._capacity:
                self.active += 1
                self.fires += 1
                return self._generation
            self.capacity_rejections += 1
            return 0
        self.rejects += 1
        return 0

    @property
    def _probes_left(self) -> bool:
        return len(self._probes) + self._probes_succeeded < self._probes_wanted

    def _failed(self, token: int, now: float, started: float, retry_after: float | None = None) -> bool:
        probe = token in self._probes
        if probe:
            self._leave_probe(token)
        elif token == self._generation:
            self.active -= 1
        else:
            return False  # of an earlier state, or a probe that was given up
        if started >= self._good_at:
            self._count_bad_in_a_row(now)
        if retry_after is not None:
            self._retry_after = max(self._retry_after, now + min(retry_after, LONGEST_RETRY_AFTER))
        if probe:
            self._move(Event.PROBE_FAILED, now)
            return True
        results = self._results
        if now >= results.until:
            results.rotate(now)
        results.second += 1
        if self.state is State.CLOSED and now >= self._warm_at:
            good, bad = results.sums(now)
            unproven = self._unproven_at == self.successes
            if unproven or (good + bad >= self._volume and bad >= self._threshold * (good + bad)):
                known = good > 0 or self._bad_in_a_row < self._volume or (unproven and self.mixed)
                self.mixed = known and not self._only_fails(now)
                self._move(Event.TRIPPED, now)
        return True

    def _only_fails(self, now: float) -> bool:
        return self._bad_in_a_row >= ONLY_FAILURES and now >= self._good_at + ONLY_FAILURES_FOR

    def _count_bad_in_a_row(self, now: float) -> None:
        # Of requests that began after the last success: those that hang end long after others were answered well.
        if self._successes_seen != self.successes:
            self._successes_seen = self.successes
            self._bad_in_a_row = 0
        self._bad_in_a_row += 1
        if not self._closed and self._only_fails(now):
            self.mixed = False
            if self.spared:
                self.spared = False
                self._tell(self.state)

    def _tell(self, before: State) -> None:
        for listener in self._listeners:
            listener(self, before)

    def _leave_probe(self, token: int) -> None:
        del self._probes[token]
        self.active -= 1

    def _token(self) -> int:
        self._next_token += 1
        return self._next_token

    def _move(self, event: Event, now: float) -> None:
        before = self.state
        state = self.state = TRANSITIONS[before][event]
        # Requests of the state that ends are on their own from here: they neither count nor hold a place.
        self._generation = self._token()
        self._probes.clear()
        self._probes_succeeded = 0
        self.active = 0
        self._closed = state is State.CLOSED or state is State.FORCED_CLOSED
        if state is State.OPEN:
            self.opens += 1
            if self._unproven_at >= 0:
                if self._unproven_at != self.successes:
                    self._opened_in_a_row = 0
                self._unproven_at = -1
            grown = self._reset * self._growth ** min(self._opened_in_a_row, 64)
            wait = min(grown, self._longest_reset) * (1 + self._jitter * self._random.random())
            self.retry_at = max(now + wait, self._retry_after)
            self._opened_in_a_row += 1
        elif state is State.HALF_OPEN:
            self.half_opens += 1
        elif self._closed:
            self.closes += 1
            self.spared = False
            if self._unproven_at < 0:
                self._opened_in_a_row = 0
            self._retry_after = 0.0
            self._results.clear(now)
        else:
            self.opens += 1
            self.spared = False
            self.retry_at = now
        if before is not state:
            self._tell(before)

    def __repr__(self) -> str:
        return f"<Breaker {self.name} {self.state.value}>"
