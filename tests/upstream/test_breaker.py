"""The circuit breaker: opossum's published behaviours in our terms, and none of its defects."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from apigw.upstream.breaker import Breaker
from apigw.upstream.breaker_states import TRANSITIONS, Event, State
from apigw.upstream.settings import BreakerSettings


def breaker(now: float = 0.0, **options: object) -> Breaker:
    chosen = {"volume_threshold": 0, "reset_timeout": 30.0, "reset_jitter": 0.0, **options}
    return Breaker(BreakerSettings.model_validate(chosen), now, rng=Random(1))


def fail(circuit: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        circuit.failure(circuit.enter(now), now)


def succeed(circuit: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        circuit.success(circuit.enter(now), now)


def is_(circuit: Breaker, state: State) -> bool:
    return circuit.state is state


# ---- what opossum's README promises ----------------------------------------------------------------------------------


def test_a_closed_circuit_lets_requests_pass_and_counts_fire_and_success() -> None:
    circuit = breaker()
    succeed(circuit, 0, 3)
    assert is_(circuit, State.CLOSED)
    assert (circuit.counts()["fire"], circuit.counts()["success"]) == (3, 3)


def test_it_opens_when_the_error_rate_reaches_the_threshold() -> None:
    circuit = breaker(error_threshold=0.5)
    succeed(circuit, 0, 2)
    fail(circuit, 0)
    assert is_(circuit, State.CLOSED)
    fail(circuit, 0)
    assert is_(circuit, State.OPEN)
    assert circuit.counts()["open"] == 1


def test_with_opossums_volume_threshold_of_0_the_first_failure_opens_it() -> None:
    circuit = breaker()
    fail(circuit, 0)
    assert is_(circuit, State.OPEN)


def test_it_does_not_open_below_the_volume_threshold() -> None:
    circuit = breaker(volume_threshold=5)
    fail(circuit, 0, 4)
    assert is_(circuit, State.CLOSED)
    fail(circuit, 0)
    assert is_(circuit, State.OPEN)


def test_an_open_circuit_rejects_at_once_with_a_reason_and_the_time_to_come_back() -> None:
    circuit = breaker()
    fail(circuit, 0)
    assert circuit.enter(1.0) == 0
    refusal = circuit.refusal(1.0)
    assert (refusal.status, refusal.reason, refusal.headers) == (503, "circuit_open", ((b"Retry-After", b"29"),))
    assert circuit.counts()["reject"] == 1


def test_after_the_reset_time_one_request_passes_and_all_others_are_rejected() -> None:
    circuit = breaker()
    fail(circuit, 0)
    assert not circuit.enter(29.9)
    probe = circuit.enter(30.0)
    assert probe
    assert is_(circuit, State.HALF_OPEN)
    assert not circuit.enter(30.0)
    circuit.success(probe, 30.1)
    assert is_(circuit, State.CLOSED)
    assert circuit.counts()["half_open"] == circuit.counts()["close"] == 1


def test_a_failing_probe_opens_it_again_whatever_the_volume_threshold() -> None:
    circuit = breaker(volume_threshold=3)
    fail(circuit, 0, 3)
    circuit.failure(circuit.enter(30.0), 30.0)
    assert is_(circuit, State.OPEN)
    assert circuit.counts()["open"] == 2


def test_a_time_out_counts_and_opens() -> None:
    circuit = breaker()
    circuit.timed_out(circuit.enter(0), 0)
    assert is_(circuit, State.OPEN)
    assert (circuit.counts()["timeout"], circuit.counts()["failure"]) == (1, 0)


def test_results_older_than_the_rolling_window_are_forgotten() -> None:
    circuit = breaker(volume_threshold=4, rolling_window=10.0, rolling_buckets=10)
    fail(circuit, 0.0, 3)
    fail(circuit, 11.0)
    assert is_(circuit, State.CLOSED)
    assert circuit.error_rate(11.0) == (1.0, 1)


def test_the_window_moves_on_in_buckets() -> None:
    circuit = breaker(volume_threshold=100, rolling_window=10.0, rolling_buckets=10)
    for second in range(10):
        fail(circuit, second + 0.5)
    assert circuit.error_rate(9.9)[1] == 10
    assert circuit.error_rate(10.5)[1] == 9
    assert circuit.error_rate(12.5)[1] == 7


def test_during_the_warm_up_failures_never_open_it() -> None:
    circuit = breaker(allow_warm_up=True, rolling_window=10.0)
    fail(circuit, 9.9, 50)
    assert is_(circuit, State.CLOSED)
    fail(circuit, 10.0)
    assert is_(circuit, State.OPEN)


def test_capacity_limits_requests_in_flight() -> None:
    circuit = breaker(capacity=2)
    first = circuit.enter(0)
    assert first
    assert circuit.enter(0)
    assert circuit.enter(0) == 0
    assert circuit.refusal(0).reason == "breaker_capacity"
    circuit.success(first, 0)
    assert circuit.enter(0)


def test_statuses_that_fail_can_be_chosen() -> None:
    assert [status for status in (404, 429, 499, 500, 503, 599) if breaker().fails[status]] == [500, 503, 599]
    assert [status for status in (404, 429, 500) if breaker(failure_status="429").fails[status]] == [429]


@pytest.mark.parametrize("wanted", ["open", "close"])
def test_an_operator_can_force_it_and_let_go(wanted: str) -> None:
    circuit = breaker()
    circuit.force(wanted, 0)
    if wanted == "open":
        assert circuit.enter(10**6) == 0
    else:
        fail(circuit, 0, 100)
        assert circuit.enter(0)
    circuit.force("auto", 10.0)
    assert is_(circuit, State.CLOSED)
    fail(circuit, 10.0)
    assert is_(circuit, State.OPEN)


def test_forcing_to_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="open, close or auto"):
        breaker().force("ajar", 0)


def test_every_change_of_state_is_told_once() -> None:
    circuit = breaker()
    seen: list[tuple[str, str]] = []
    circuit.listen(lambda changed, before: seen.append((before.value, changed.state.value)))
    fail(circuit, 0)
    circuit.success(circuit.enter(30.0), 30.0)
    assert seen == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


# ---- its defects are not copied --------------------------------------------------------------------------------------


def test_rejections_do_not_dilute_the_error_rate() -> None:
    circuit = breaker(volume_threshold=2)
    fail(circuit, 0, 2)
    for _ in range(1000):
        circuit.enter(1.0)
    assert circuit.error_rate(1.0) == (1.0, 2)


def test_a_threshold_of_100_per_cent_can_be_reached() -> None:
    circuit = breaker(error_threshold=1.0)
    fail(circuit, 0)
    assert is_(circuit, State.OPEN)


def test_a_silent_probe_has_failed_when_its_time_is_over() -> None:
    circuit = breaker(timeout=5.0)
    fail(circuit, 0)
    probe = circuit.enter(30.0)
    assert circuit.next_change == 35.0
    assert circuit.look(34.9) is State.HALF_OPEN
    assert circuit.look(35.0) is State.OPEN
    circuit.success(probe, 35.1)
    assert is_(circuit, State.OPEN)


def test_a_late_success_from_before_the_opening_does_not_close_it() -> None:
    circuit = breaker()
    slow = circuit.enter(0)
    fail(circuit, 0)
    circuit.success(slow, 1.0)
    assert is_(circuit, State.OPEN)
    probe = circuit.enter(30.0)
    assert probe
    circuit.success(slow, 30.0)
    assert is_(circuit, State.HALF_OPEN)


def test_a_late_failure_from_before_the_opening_does_not_end_the_probes() -> None:
    circuit = breaker()
    slow = circuit.enter(0)
    fail(circuit, 0)
    circuit.enter(30.0)
    circuit.failure(slow, 30.0)
    assert is_(circuit, State.HALF_OPEN)


def test_a_full_capacity_trips_nothing() -> None:
    circuit = breaker(capacity=1)
    circuit.enter(0)
    for _ in range(100):
        assert circuit.enter(0) == 0
    assert is_(circuit, State.CLOSED)
    assert circuit.counts()["capacity"] == 100
    assert circuit.error_rate(0) == (0.0, 0)


def test_requests_whose_client_went_away_count_for_nothing_and_free_their_place() -> None:
    circuit = breaker(capacity=1)
    circuit.ignore(circuit.enter(0))
    assert circuit.error_rate(0)[1] == 0
    assert circuit.enter(0)


def test_a_probe_whose_client_went_away_makes_room_for_another() -> None:
    circuit = breaker()
    fail(circuit, 0)
    circuit.ignore(circuit.enter(30.0))
    assert is_(circuit, State.HALF_OPEN)
    assert circuit.enter(30.0)


def test_counts_start_afresh_when_it_closes() -> None:
    circuit = breaker(volume_threshold=2, rolling_window=100.0)
    fail(circuit, 0, 2)
    succeed(circuit, 30.0)
    assert circuit.error_rate(30.0) == (0.0, 0)


def test_several_probes_must_all_succeed() -> None:
    circuit = breaker(half_open_requests=3)
    fail(circuit, 0)
    probes = [circuit.enter(30.0) for _ in range(5)]
    assert [bool(probe) for probe in probes] == [True, True, True, False, False]
    circuit.success(probes[0], 30.0)
    circuit.success(probes[1], 30.0)
    assert is_(circuit, State.HALF_OPEN)
    assert circuit.enter(30.0) == 0
    circuit.success(probes[2], 30.0)
    assert is_(circuit, State.CLOSED)


def test_the_reset_time_grows_to_its_limit_and_starts_again_after_closing() -> None:
    circuit = breaker(reset_timeout=5.0, max_reset_timeout=15.0)
    now, waits = 0.0, []
    fail(circuit, now)
    for _ in range(4):
        waits.append(circuit.retry_at - now)
        now = circuit.retry_at
        circuit.failure(circuit.enter(now), now)
    assert waits == [5.0, 10.0, 15.0, 15.0]
    now = circuit.retry_at
    succeed(circuit, now)
    fail(circuit, now)
    assert circuit.retry_at - now == 5.0


def test_jitter_only_makes_the_wait_longer() -> None:
    waits = set()
    for seed in range(50):
        chosen = BreakerSettings(volume_threshold=0, reset_timeout=10.0, reset_jitter=0.1)
        circuit = Breaker(chosen, 0.0, rng=Random(seed))
        fail(circuit, 0)
        waits.add(circuit.retry_at)
    assert len(waits) == 50
    assert 10.0 <= min(waits) < max(waits) <= 11.0


def test_the_services_retry_after_is_the_least_wait() -> None:
    circuit = breaker(reset_timeout=5.0)
    circuit.failure(circuit.enter(0), 0, retry_after=20.0)
    assert circuit.retry_at == 20.0
    circuit = breaker(reset_timeout=5.0)
    circuit.failure(circuit.enter(0), 0, retry_after=1.0)
    assert circuit.retry_at == 5.0


def test_an_absurd_retry_after_is_cut_to_an_hour() -> None:
    circuit = breaker()
    circuit.failure(circuit.enter(0), 0, retry_after=1e9)
    assert circuit.retry_at == 3600.0


def test_a_health_check_that_succeeds_again_ends_the_wait() -> None:
    circuit = breaker()
    fail(circuit, 0)
    circuit.cool_down(3.0)
    assert is_(circuit, State.HALF_OPEN)


def test_it_needs_no_timer_to_come_back() -> None:
    circuit = breaker()
    fail(circuit, 0)
    assert circuit.next_change == 30.0
    assert circuit.has_room(10**9)
    assert is_(circuit, State.HALF_OPEN)


def test_it_is_on_as_soon_as_one_option_is_set() -> None:
    assert not BreakerSettings().on
    assert BreakerSettings(reset_timeout=5.0).on
    assert BreakerSettings(enabled=True).on
    assert not BreakerSettings(enabled=False, reset_timeout=5.0).on


def test_no_state_is_a_trap() -> None:
    for state in State:
        assert TRANSITIONS[state], state
        assert Event.FORCED_CLOSED in TRANSITIONS[state]


# ---- any sequence at all ---------------------------------------------------------------------------------------------


class AnySequence(RuleBasedStateMachine):
    """Against a model: every token, when it was given, and what the states may do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.circuit = breaker(
            volume_threshold=3, half_open_requests=2, capacity=8, reset_timeout=5.0, timeout=4.0, rolling_window=10.0
        )
        self.epoch = 0
        self.tokens: list[tuple[int, int]] = []
        self.given: set[int] = set()
        self.moves: list[tuple[State, State]] = []
        self.circuit.listen(self.moved)

    def moved(self, circuit: Breaker, before: State) -> None:
        assert circuit.state in TRANSITIONS[before].values()
        self.moves.append((before, circuit.state))
        self.epoch += 1

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 4.0, 5.0, 11.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def enter(self) -> None:
        token = self.circuit.enter(self.now)
        if not token:
            return
        assert self.circuit.state in (State.CLOSED, State.HALF_OPEN, State.FORCED_CLOSED)
        self.tokens.append((token, self.epoch))
        if self.circuit.state is State.HALF_OPEN:
            assert token not in self.given
            assert sum(epoch == self.epoch for _, epoch in self.tokens) <= 2
        self.given.add(token)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), how=st.sampled_from(["success", "failure", "timed_out", "ignore"]))
    def end(self, data: st.DataObject, how: str) -> None:
        token, epoch = self.tokens.pop(data.draw(st.integers(0, len(self.tokens) - 1)))
        before, moves, counts = self.circuit.state, len(self.moves), self.circuit.counts()
        if how == "ignore":
            self.circuit.ignore(token)
        else:
            getattr(self.circuit, how)(token, self.now)
        if epoch != self.epoch or how == "ignore":
            late = epoch < self.epoch and len(self.moves) == moves
            if late or how == "ignore":
                assert self.circuit.state is before
                assert self.circuit.counts() == counts

    @rule(wanted=st.sampled_from(["open", "close", "auto"]))
    def force(self, wanted: str) -> None:
        self.circuit.force(wanted, self.now)

    @rule()
    def look(self) -> None:
        state = self.circuit.look(self.now)
        assert self.circuit.next_change > self.now or math.isinf(self.circuit.next_change) or state is State.HALF_OPEN

    @invariant()
    def nothing_is_negative(self) -> None:
        assert 0 <= self.circuit.active <= 8
        rate, results = self.circuit.error_rate(self.now)
        assert 0 <= rate <= 1
        assert results >= 0
        assert all(count >= 0 for count in self.circuit.counts().values())


AnySequence.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnySequence = AnySequence.TestCase
