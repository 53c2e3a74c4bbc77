"""Which targets may be asked: verdicts, ejections, breakers, panic, backups, slow start, draining, discovery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from apigw.exchange.errors import UpstreamFault
from apigw.exchange.request import Request
from apigw.upstream.attempt import Attempt
from apigw.upstream.balance_spec import BalanceSpec
from apigw.upstream.balancing.kinds import balancer, plain_balancer
from apigw.upstream.breaker import Breaker
from apigw.upstream.breaker_states import State
from apigw.upstream.settings import BreakerSettings, OutlierSettings, ResilienceSettings
from apigw.upstream.target import Target
from apigw.upstream.target_set import TargetSet
from apigw.upstream.target_spec import TargetSpec, parse_target_line

ANY = Request(b"GET", b"/")
POST = Request(b"POST", b"/")


def specs(*lines: str) -> list[TargetSpec]:
    return [parse_target_line(line) for line in lines]


def target_set(count: int = 3, *lines: str, now: float = 0.0, outlier: bool = True, **options: object) -> TargetSet:
    settings = OutlierSettings(**options.pop("outlier_options", {})) if outlier else None  # type: ignore[arg-type]
    made = TargetSet(
        "orders",
        plain_balancer(BalanceSpec("round_robin"), Random(1)),
        now,
        outlier=settings,
        **options,  # type: ignore[arg-type]
    )
    made.update(specs(*(lines or [f"http://t{number}:80" for number in range(count)])), now)
    return made


def breakers(**options: object) -> Callable[[Target, float], Breaker]:
    chosen = BreakerSettings.model_validate(
        {"volume_threshold": 1, "reset_jitter": 0.0, "reset_timeout": 5.0, **options}
    )
    return lambda target, now: Breaker(chosen, now, name=target.name, rng=Random(1))


def send(targets: TargetSet, now: float, status: int | str = 200, request: Request = ANY) -> Target:
    """One request that ends at once, with a status or a kind of failure."""
    attempt = targets.begin(request, now)
    if isinstance(status, int):
        attempt.answered(status, now)
        attempt.end()
    else:
        attempt.failed(status, now)
    return attempt.target


def strike(targets: TargetSet, target: Target, now: float, status: int | str, times: int) -> None:
    for _ in range(times):
        attempt = Attempt(target, 0, now)
        if isinstance(status, int):
            attempt.answered(status, now)
            attempt.end()
        else:
            attempt.failed(status, now)


def asked(targets: TargetSet, now: float, times: int = 60) -> Counter[str]:
    return Counter(send(targets, now).host for _ in range(times))


# ---- ejections -------------------------------------------------------------------------------------------------------


def test_five_5xx_in_a_row_eject_a_target_and_its_time_brings_it_back() -> None:
    targets = target_set()
    bad = targets.targets[0]
    strike(targets, bad, 1.0, 500, 4)
    assert bad.state == "healthy"
    strike(targets, bad, 1.0, 500, 1)
    assert (bad.state, bad.ejected_until) == ("ejected", 31.0)
    assert asked(targets, 2.0) == {"t1": 30, "t2": 30}
    assert asked(targets, 30.9)["t0"] == 0
    assert asked(targets, 31.0)["t0"] > 15
    assert bad.state == "healthy"


def test_a_good_answer_in_between_starts_the_count_again() -> None:
    targets = target_set()
    bad = targets.targets[0]
    for _ in range(10):
        strike(targets, bad, 1.0, 500, 4)
        strike(targets, bad, 1.0, 200, 1)
    assert bad.state == "healthy"


def test_it_comes_back_on_probation_and_one_bad_answer_sends_it_out_for_longer() -> None:
    targets = target_set()
    bad = targets.targets[0]
    strike(targets, bad, 0.0, 500, 5)
    targets.refresh(30.0)
    assert bad.state == "probation"
    assert send(targets, 30.0, 500) is bad
    assert bad.ejected_until == 30.0 + 60.0
    assert asked(targets, 31.0)["t0"] == 0


def test_on_probation_it_has_one_request_at_a_time() -> None:
    targets = target_set()
    bad = targets.targets[0]
    strike(targets, bad, 0.0, 500, 5)
    first = targets.begin(ANY, 30.0)
    assert first.target is bad
    assert "t0" not in {targets.begin(ANY, 30.1).target.host for _ in range(20)}
    first.answered(200, 30.2)
    assert bad.state == "healthy"


def test_a_probation_waits_for_a_request_that_can_be_sent_again() -> None:
    targets = target_set()
    bad = targets.targets[0]
    strike(targets, bad, 0.0, 500, 5)
    targets.refresh(30.0)
    assert {send(targets, 31.0, request=POST).host for _ in range(9)} == {"t1", "t2"}
    assert send(targets, 35.0, request=POST) is bad


def test_a_request_that_failed_once_is_no_experiment() -> None:
    targets = target_set()
    bad = targets.targets[0]
    strike(targets, bad, 0.0, 500, 5)
    targets.refresh(30.0)
    assert targets.begin(ANY, 30.0, [targets.targets[1]]).target.host == "t2"


def test_at_most_the_share_that_was_set_is_out_for_bad_answers_but_always_one_may_be() -> None:
    targets = target_set()
    for target in targets.targets:
        strike(targets, target, 0.0, 500, 20)
    assert [target.state for target in targets.targets].count("ejected") == 1
    targets = target_set(30)
    for target in targets.targets:
        strike(targets, target, 0.0, 500, 20)
    assert [target.state for target in targets.targets].count("ejected") == 3


def test_the_only_target_is_never_taken_out() -> None:
    targets = target_set(1)
    strike(targets, targets.targets[0], 0.0, "reset", 100)
    assert targets.targets[0].state == "healthy"
    strike(targets, targets.targets[0], 0.0, "connect", 100)
    assert targets.targets[0].state == "unreachable"
    assert asked(targets, 1.0, 5) == {"t0": 5}
    assert targets.targets[0].state == "healthy"


def test_one_refused_connection_is_enough_and_nobody_else_is_sent_there() -> None:
    targets = target_set(3)
    strike(targets, targets.targets[0], 0.0, "connect", 1)
    assert targets.targets[0].state == "unreachable"
    assert asked(targets, 1000.0) == {"t1": 30, "t2": 30}
    targets.seen_alive(targets.targets[0], 1000.0, only_connected=True)
    assert targets.targets[0].state == "healthy"


def test_a_dead_target_is_never_preferred_to_one_that_answers_badly() -> None:
    targets = target_set(3)
    for dead in targets.targets[:2]:
        strike(targets, dead, 0.0, "connect", 1)
    strike(targets, targets.targets[2], 0.0, 500, 20)
    assert [target.state for target in targets.targets] == ["unreachable", "unreachable", "ejected"]
    assert asked(targets, 1.0, 9) == {"t2": 9}
    assert targets.answers(targets.targets[2])
    assert not targets.elsewhere(1.0, targets.targets[2:])
    assert targets.elsewhere(1.0, targets.targets[:2])


def test_when_no_target_accepts_connections_all_are_asked() -> None:
    targets = target_set(3)
    for dead in targets.targets:
        strike(targets, dead, 0.0, "connect", 1)
    assert {targets.begin(ANY, 1.0).target.host for _ in range(9)} == {"t0", "t1", "t2"}
    assert not any(targets.answers(target) for target in targets.targets)


def test_requests_that_broke_off_are_evidence_of_a_target_only_if_a_trial_gets_no_answer_either() -> None:
    for answered in (True, False):
        targets = target_set(3)
        bad = targets.targets[0]
        doubted: list[Target] = []
        targets.on_doubt(doubted.extend, verified=True)
        strike(targets, bad, 0.0, "reset", 8)
        targets.tick(0.0)
        assert bad in targets.eligible
        assert doubted == [bad]
        if answered:
            targets.seen_alive(bad, 0.1)
            strike(targets, bad, 0.2, "reset", 1)
            assert bad.state == "healthy"
            strike(targets, bad, 0.3, "reset", 1)
            assert bad.state == "ejected"
        else:
            targets.silent(bad, "it is silent", 0.1)
            assert bad.state == "unreachable"


def test_targets_that_do_not_answer_at_all_are_ejected_whatever_their_number() -> None:
    targets = target_set(4)
    for target in targets.targets[:3]:
        strike(targets, target, 0.0, "connect", 5)
    assert asked(targets, 0.0) == {"t3": 60}
    assert not any(target.state == "ejected" for target in targets.targets[3:])


def test_when_none_answers_all_are_asked() -> None:
    targets = target_set(3)
    for target in targets.targets:
        strike(targets, target, 0.0, "connect", 5)
    assert {targets.begin(ANY, 1.0).target.host for _ in range(9)} == {"t0", "t1", "t2"}
    assert targets.panicking


def test_ejections_last_longer_each_time_up_to_the_limit_and_good_behaviour_shortens_them() -> None:
    targets = target_set(2, outlier_options={"max_ejection_time": 100.0, "interval": 10.0})
    bad, now, lengths = targets.targets[0], 0.0, []
    for _ in range(5):
        strike(targets, bad, now, "reset", 5)
        lengths.append(bad.ejected_until - now)
        now = bad.ejected_until
        targets.outlier.readmit(bad, now)
    assert lengths == [30.0, 60.0, 90.0, 100.0, 100.0]
    strike(targets, bad, now, 200, 1)
    for _ in range(4):
        now += 10.0
        targets.tick(now)
    assert bad.ejections == 1


def test_a_target_that_swallows_requests_is_ejected_before_any_time_out() -> None:
    targets = target_set(3)
    hanging = targets.targets[0]
    now = 0.0
    while now < 1.2:
        attempt = targets.begin(ANY, now)
        if attempt.target is not hanging:
            attempt.answered(200, now + 0.005)
            attempt.end()
        now += 0.01
    assert (hanging.state, hanging.unreachable) == ("ejected", True)
    assert "t0" not in asked(targets, now)


def test_a_hang_is_found_by_the_tick_when_nobody_asks_any_more() -> None:
    targets = target_set(3)
    hanging = targets.targets[0]
    for _ in range(5):
        Attempt(hanging, 0, 0.0)
    targets.tick(0.9)
    assert hanging.state == "healthy"
    targets.tick(1.0)
    assert hanging.state == "ejected"


def test_a_slow_service_is_not_taken_for_one_that_hangs() -> None:
    targets = target_set(2)
    slow = targets.targets[0]
    for _ in range(20):
        attempt = Attempt(slow, 0, 0.0)
        attempt.answered(200, 2.0)
        attempt.end()
    for _ in range(20):
        Attempt(slow, 0, 2.0)
    targets.tick(7.9)
    assert slow.state == "healthy"
    targets.tick(8.1)
    assert slow.state == "ejected"


def test_a_late_answer_brings_a_hanging_target_back() -> None:
    targets = target_set(2)
    slow = targets.targets[0]
    attempts = [Attempt(slow, 0, 0.0) for _ in range(6)]
    targets.tick(1.5)
    assert slow.state == "ejected"
    attempts[0].answered(200, 2.0)
    assert slow.state == "probation"


def test_success_rates_far_below_the_others_eject() -> None:
    targets = target_set(6)
    for target in targets.targets:
        for number in range(200):
            bad = number % 2 == 0 if target is targets.targets[0] else False
            strike(targets, target, 1.0, 500 if bad else 200, 1)
    targets.tick(10.0)
    assert [target.state for target in targets.targets] == ["ejected"] + ["healthy"] * 5
    assert targets.outlier is not None
    assert targets.outlier.ejections == {"success_rate": 1}


def test_a_failure_percentage_ejects_when_it_is_set() -> None:
    for share, state in ((0.0, "healthy"), (0.3, "ejected")):
        targets = target_set(5, outlier_options={"failure_percentage": share, "success_rate": False})
        for target in targets.targets:
            for number in range(60):
                strike(targets, target, 1.0, 500 if target is targets.targets[0] and number % 2 else 200, 1)
        targets.tick(10.0)
        assert targets.targets[0].state == state


def test_without_outlier_detection_nobody_is_ejected() -> None:
    targets = target_set(2, outlier_options={"enabled": False})
    ways: list[int | str] = ["reset", "timeout", 500]
    for how in ways:
        strike(targets, targets.targets[0], 0.0, how, 100)
    assert targets.targets[0].state == "healthy"
    strike(targets, targets.targets[0], 0.0, "connect", 1)
    assert asked(targets, 0.0) == {"t1": 60}
    targets.seen_alive(targets.targets[0], 0.0)
    assert asked(targets, 0.0) == {"t0": 30, "t1": 30}


# ---- panic, backups --------------------------------------------------------------------------------------------------


def test_below_the_panic_threshold_health_is_ignored() -> None:
    targets = target_set(5)
    for target in targets.targets[:2]:
        targets.probed(target, False, 0.0)
    assert set(asked(targets, 0.0)) == {"t2", "t3", "t4"}
    targets.probed(targets.targets[2], False, 0.0)
    assert set(asked(targets, 0.0)) == {"t0", "t1", "t2", "t3", "t4"}
    assert targets.panicking


def test_exactly_half_is_no_panic() -> None:
    targets = target_set(2)
    targets.probed(targets.targets[0], False, 0.0)
    assert asked(targets, 0.0) == {"t1": 60}


def test_panic_does_not_bring_back_targets_that_take_no_connections() -> None:
    targets = target_set(3)
    targets.probed(targets.targets[0], False, 0.0, unreachable=True)
    targets.probed(targets.targets[1], False, 0.0, unreachable=True)
    assert asked(targets, 0.0) == {"t2": 60}


def test_with_a_threshold_of_0_there_is_no_panic_but_an_error_at_once() -> None:
    targets = target_set(2, panic_threshold=0.0)
    for target in targets.targets:
        targets.probed(target, False, 0.0)
    with pytest.raises(UpstreamFault) as caught:
        targets.begin(ANY, 0.0)
    assert (caught.value.status, caught.value.reason) == (503, "no_target")


def test_backups_are_asked_only_when_no_other_target_is_well() -> None:
    targets = target_set(0, "http://a:80", "http://b:80", "http://spare:80 backup=yes")
    a, b, spare = targets.targets
    assert set(asked(targets, 0.0)) == {"a", "b"}
    targets.probed(a, False, 0.0)
    assert set(asked(targets, 0.0)) == {"b"}
    targets.probed(b, False, 0.0)
    assert set(asked(targets, 0.0)) == {"spare"}
    targets.probed(a, True, 0.0)
    assert set(asked(targets, 0.0)) == {"a"}
    assert spare.requests == 60


def test_a_request_that_all_others_failed_or_have_no_room_for_goes_to_a_backup() -> None:
    targets = target_set(0, "http://a", "http://b backup=yes", "http://c backup=yes weight=0", max_requests=2)
    first = targets.begin(ANY, 0.0)
    assert first.target.host == "a"
    assert targets.begin(ANY, 0.0, [first.target]).target.host == "b"
    assert targets.begin(ANY, 0.0, targets.targets[:2]).target.host == "a"
    assert targets.begin(ANY, 0.0).target.host == "b"  # a is full
    assert targets.begin(ANY, 0.0).target.host == "a"  # all are: it waits there


def test_a_weight_of_0_gets_nothing() -> None:
    targets = target_set(0, "http://a:80", "http://b:80 weight=0")
    assert set(asked(targets, 0.0)) == {"a"}


# ---- breakers --------------------------------------------------------------------------------------------------------


def test_a_target_with_an_open_breaker_is_passed_over_until_its_probe_succeeds() -> None:
    targets = target_set(2, new_breaker=breakers())
    bad = targets.targets[0]
    bad.breaker.failure(bad.breaker.enter(0.0), 0.0)  # type: ignore[union-attr]
    assert asked(targets, 1.0) == {"t1": 60}
    probe = targets.begin(ANY, 5.0)
    assert probe.target.host == "t0"
    assert {targets.begin(ANY, 5.0).target.host for _ in range(9)} == {"t1"}
    probe.answered(200, 5.1)
    assert asked(targets, 5.2) == {"t0": 30, "t1": 30}


def test_when_all_breakers_are_open_the_refusal_says_when_to_come_back() -> None:
    targets = target_set(2, new_breaker=breakers(), outlier=False)
    for _ in range(2):
        send(targets, 0.0, 500)
    with pytest.raises(UpstreamFault) as caught:
        targets.begin(ANY, 1.0)
    assert caught.value.reason == "circuit_open"
    assert caught.value.headers == ((b"Retry-After", b"4"),)


def test_an_upstream_that_fails_entirely_gets_its_probes_and_nothing_else() -> None:
    targets = target_set(3, new_breaker=breakers(volume_threshold=5, max_reset_timeout=5.0))
    now = 0.0
    while any(target.breaker.state is State.CLOSED for target in targets.targets):  # type: ignore[union-attr]
        send(targets, now, 500)
        now += 0.001
    before = sum(target.requests for target in targets.targets)
    refused = 0
    for _ in range(60_000):  # a minute at 1,000/s
        now += 0.001
        try:
            send(targets, now, 500)
        except UpstreamFault:
            refused += 1
    probes = sum(target.requests for target in targets.targets) - before
    assert 3 * 11 <= probes <= 3 * 12
    assert refused == 60_000 - probes


def test_circuits_of_the_last_targets_that_answer_are_spared_until_these_only_fail() -> None:
    targets = target_set(3, new_breaker=breakers(volume_threshold=4, reset_timeout=60.0))
    dead, *alive = targets.targets
    for target in alive:
        for status in (200, 500, 200, 500):
            token = target.breaker.enter(0.0)  # type: ignore[union-attr]
            Attempt(target, token, 0.0).answered(status, 0.0, whole=True)
        assert target.breaker.state is State.OPEN  # type: ignore[union-attr]
    assert asked(targets, 0.1) == {"t0": 60}
    strike(targets, dead, 0.2, "connect", 1)
    assert asked(targets, 0.2) == {"t1": 30, "t2": 30}
    assert targets.panicking
    for status in (500, 200, 500, 500, 500) * 20:
        send(targets, 0.3, status)  # most are bad: still better than none
    before = sum(target.requests for target in alive)
    with pytest.raises(UpstreamFault, match="circuit is open"):
        for number in range(1000):
            send(targets, 0.3 + number * 0.05, 500)
    assert 2 * 10 < sum(target.requests for target in alive) - before <= 2 * 20
    targets.seen_alive(dead, 0.5)
    assert asked(targets, 0.5) == {"t0": 60}


@pytest.mark.parametrize("why", ["only one target", "no panic", "forced open", "only failures"])
def test_circuits_that_are_not_spared(why: str) -> None:
    count = 1 if why == "only one target" else 2
    threshold = 0.0 if why == "no panic" else 0.5
    targets = target_set(count, new_breaker=breakers(volume_threshold=2), outlier=False, panic_threshold=threshold)
    for target in targets.targets:
        for status in (500 if why == "only failures" else 200, 500):
            Attempt(target, target.breaker.enter(0.0), 0.0).answered(status, 0.0, whole=True)  # type: ignore[union-attr]
        if why == "forced open":
            target.breaker.force("open", 0.0)  # type: ignore[union-attr]
    with pytest.raises(UpstreamFault, match="circuit is open"):
        targets.begin(ANY, 0.1)


def test_requests_that_hung_since_before_the_last_success_are_no_sign_of_a_service_that_only_fails() -> None:
    targets = target_set(2, new_breaker=breakers(volume_threshold=10), outlier=False)
    target = targets.targets[0]
    held = [Attempt(target, target.breaker.enter(0.0), 0.0) for _ in range(40)]  # type: ignore[union-attr]
    Attempt(target, target.breaker.enter(0.5), 0.5).answered(200, 0.5, whole=True)  # type: ignore[union-attr]
    for attempt in held:
        attempt.failed("timeout", 1.0)
    assert target.breaker.state is State.OPEN  # type: ignore[union-attr]
    assert target.breaker.mixed  # type: ignore[union-attr]


def test_one_breaker_for_the_whole_upstream() -> None:
    shared: list[Breaker] = []

    def one(target: Target, now: float) -> Breaker:
        if not shared:
            shared.append(breakers()(target, now))
        return shared[0]

    targets = target_set(3, new_breaker=one, outlier=False)
    send(targets, 0.0, 500)
    with pytest.raises(UpstreamFault, match="circuit is open"):
        targets.begin(ANY, 0.1)
    assert send(targets, 5.0) in targets.targets
    assert set(asked(targets, 5.1)) == {"t0", "t1", "t2"}


@pytest.mark.parametrize("count", [1, 3])
def test_a_request_without_room_is_counted_once(count: int) -> None:
    one = breakers(capacity=2)(Target(specs("http://t")[0]), 0.0)
    targets = target_set(count, new_breaker=lambda target, now: one)
    held = [targets.begin(ANY, 0.0) for _ in range(2)]
    for _ in range(5):
        with pytest.raises(UpstreamFault, match="as many requests"):
            targets.begin(ANY, 0.0)
    assert (one.capacity_rejections, one.rejects, len(held)) == (5, 0, 2)


def test_4xx_and_clients_that_go_away_leave_the_breaker_closed() -> None:
    targets = target_set(1, new_breaker=breakers())
    for _ in range(50):
        send(targets, 0.0, 404)
        targets.begin(ANY, 0.0).cancelled()
    assert targets.targets[0].breaker.state is State.CLOSED  # type: ignore[union-attr]
    assert targets.targets[0].active == 0


def test_a_target_that_a_check_sees_recover_does_not_wait_for_its_breaker() -> None:
    targets = target_set(2, new_breaker=breakers(reset_timeout=60.0))
    bad = targets.targets[0]
    targets.probed(bad, False, 0.0, unreachable=True)
    bad.breaker.failure(bad.breaker.enter(0.0), 0.0)  # type: ignore[union-attr]
    targets.probed(bad, True, 3.0)
    assert send(targets, 3.0) is bad
    assert bad.breaker.state is State.CLOSED  # type: ignore[union-attr]


def test_a_service_whose_health_page_is_fine_but_fails_keeps_its_open_breaker() -> None:
    targets = target_set(2, new_breaker=breakers(reset_timeout=60.0))
    bad = targets.targets[0]
    bad.breaker.failure(bad.breaker.enter(0.0), 0.0)  # type: ignore[union-attr]
    for second in range(1, 30):
        targets.seen_alive(bad, second)
    assert bad.breaker.state is State.OPEN  # type: ignore[union-attr]


# ---- slow start, draining, discovery ---------------------------------------------------------------------------------


def test_slow_start_raises_a_returning_targets_share_step_by_step() -> None:
    targets = target_set(2, slow_start=20.0)
    back = targets.targets[0]
    targets.probed(back, False, 100.0)
    targets.probed(back, True, 100.0)
    shares = [asked(targets, 100.0 + after, 1000)["t0"] / 1000 for after in (0.0, 10.0, 15.0, 20.0)]
    assert shares == pytest.approx([0.1 / 1.1, 0.5 / 1.5, 0.75 / 1.75, 0.5], abs=0.02)
    assert targets._next_change == targets.outlier.next_interval


def test_targets_of_the_start_need_no_warming_up_but_later_ones_do() -> None:
    targets = target_set(2, slow_start=20.0)
    assert asked(targets, 0.0) == {"t0": 30, "t1": 30}
    targets.update(specs("http://t0:80", "http://t1:80", "http://t2:80"), 50.0)
    assert asked(targets, 50.0, 210)["t2"] == 10


def test_a_drained_target_gets_nothing_new_and_can_come_back() -> None:
    targets = target_set(2)
    drained = targets.targets[0]
    targets.drain(drained, True, 0.0)
    assert asked(targets, 0.0) == {"t1": 60}
    assert drained.state == "draining"
    targets.drain(drained, False, 1.0)
    assert asked(targets, 1.0) == {"t0": 30, "t1": 30}


def test_a_drained_target_keeps_its_sticky_sessions() -> None:
    section = {"targets": "http://t0:80\nhttp://t1:80", "sticky": {"cookie": "srv", "secret": "x"}}
    settings = ResilienceSettings.model_validate(section)
    targets = TargetSet("orders", balancer(settings, "orders", Random(1)), 0.0)
    targets.update([spec for spec in settings.targets if isinstance(spec, TargetSpec)], 0.0)
    drained = targets.targets[0]
    cookie = None
    while cookie is None or targets.choose(ANY, 0.0) is not drained:
        cookie = targets.balancer.set_cookie(ANY, drained)
    mine = Request(b"GET", b"/")
    mine.headers.add(b"Cookie", cookie.partition(b";")[0])
    targets.drain(drained, True, 0.0)
    assert targets.choose(mine, 0.0) is drained
    assert targets.choose(ANY, 0.0) is not drained


def test_discovery_keeps_what_stays_and_lets_what_goes_finish() -> None:
    targets = target_set(2, new_breaker=breakers())
    stays, goes = targets.targets
    stays.pool, breaker = object(), stays.breaker
    pool = stays.pool
    closed: list[Target] = []
    targets.on_gone(closed.append)
    goes_on = Attempt(goes, 0, 0.0)
    targets.update(specs("http://t0:80 weight=3", "http://new:80"), 1.0)
    assert targets.targets[0] is stays
    assert (stays.pool, stays.breaker, stays.weight) == (pool, breaker, 3)
    assert set(asked(targets, 1.0)) == {"t0", "new"}
    assert closed == []
    goes_on.answered(200, 2.0)
    goes_on.end()
    assert closed == [goes]
    assert targets.leaving == []


def test_a_target_that_comes_back_before_its_last_request_ended_is_the_same_one() -> None:
    targets = target_set(2)
    goes = targets.targets[1]
    closed: list[Target] = []
    targets.on_gone(closed.append)
    attempt = Attempt(goes, 0, 0.0)
    targets.update(specs("http://t0:80"), 1.0)
    targets.update(specs("http://t0:80", "http://t1:80"), 2.0)
    attempt.end()
    assert targets.targets[1] is goes
    assert closed == []
    assert goes.state == "healthy"


def test_an_address_named_twice_is_one_target() -> None:
    assert len(target_set(0, "http://a:80", "http://a:80 weight=5").targets) == 1


def test_no_targets_at_all_is_an_error_at_once() -> None:
    targets = target_set(2)
    targets.update([], 1.0)
    with pytest.raises(UpstreamFault) as caught:
        targets.begin(ANY, 1.0)
    assert caught.value.reason == "no_target"


# ---- choosing --------------------------------------------------------------------------------------------------------


def test_a_retry_goes_to_another_target_and_to_the_same_only_if_there_is_no_other() -> None:
    targets = target_set(3)
    t0, t1, t2 = targets.targets
    assert targets.choose(ANY, 0.0, [t0, t1]) is t2
    assert targets.choose(ANY, 0.0, [t0, t1, t2]) in targets.targets


def test_targets_with_room_are_preferred() -> None:
    targets = target_set(3, max_requests=2)
    assert Counter(targets.begin(ANY, 0.0).target.host for _ in range(6)) == {"t0": 2, "t1": 2, "t2": 2}
    assert targets.begin(ANY, 0.0).target.active == 3


def test_choices_do_not_work_anything_out_again() -> None:
    targets = target_set(3, new_breaker=breakers(volume_threshold=1000))
    asked(targets, 1.0, 1000)
    changes = targets.changes
    asked(targets, 2.0, 10_000)
    assert targets.changes == changes


def test_every_change_of_state_is_told_once() -> None:
    targets = target_set(2)
    seen: list[tuple[str, str, str]] = []
    stop = targets.listen(lambda target, before, now: seen.append((target.host, before, target.state)))
    targets.probed(targets.targets[0], False, 0.0)
    targets.probed(targets.targets[0], False, 1.0)
    targets.probed(targets.targets[0], True, 2.0)
    stop()
    targets.probed(targets.targets[0], False, 3.0)
    assert seen == [("t0", "healthy", "unhealthy"), ("t0", "unhealthy", "healthy")]


def test_the_description_says_how_everyone_is_and_why() -> None:
    targets = target_set(2, new_breaker=breakers())
    targets.probed(targets.targets[0], False, 0.0, why="the check was answered 500")
    assert targets.describe(0.0) == {
        "status": "degraded",
        "targets": [
            {
                "target": "http://t0:80",
                "status": "unhealthy",
                "reason": "the check was answered 500",
                "circuit": "closed",
                "active": 0,
            },
            {"target": "http://t1:80", "status": "healthy", "circuit": "closed", "active": 0},
        ],
    }
    targets.probed(targets.targets[0], True, 1.0)
    assert targets.describe(1.0)["status"] == "healthy"
    for target in targets.targets:
        targets.probed(target, False, 2.0)
    assert targets.describe(2.0)["status"] == "unhealthy"
