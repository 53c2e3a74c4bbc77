"""Retries, hedging and deadlines: when a request is sent again, and how often at most."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.exchange.request import Request
from apigw.http.deadline import parse_timeout, remaining
from apigw.upstream.hedging import Hedging, Quantile
from apigw.upstream.retries import Retries, RetryBudget
from apigw.upstream.settings import HedgeSettings, RetrySettings

GET = Request(b"GET", b"/")
POST = Request(b"POST", b"/")


def policy(targets: int = 3, **options: object) -> Retries:
    settings = RetrySettings.model_validate({"attempts": 3, "min_retries": 2000, **options})
    return Retries(settings, RetryBudget(settings, 0.0), Random(1), lambda: targets)


def delay(chosen: Retries, kind: str, status: int = 0, request: Request = GET, **more: object) -> float | None:
    facts = {"replayable": True, "now": 1.0, "tries": 1, **more}
    return chosen.delay(request, kind, status, **facts)  # type: ignore[arg-type]


def test_a_refused_connection_is_tried_elsewhere_at_once_whatever_the_method() -> None:
    assert delay(policy(), "connect") == 0.0
    assert delay(policy(), "connect", request=POST) == 0.0


def test_a_refused_connection_is_not_tried_at_once_when_there_is_no_other_target() -> None:
    waits = [delay(policy(targets=1), "connect") for _ in range(3)]
    assert all(wait is not None and 0 < wait <= 0.025 for wait in waits)


@pytest.mark.parametrize(
    ("on", "kind", "status", "again"),
    [
        ("connect, reset", "reset", 0, True),
        ("connect", "reset", 0, False),
        ("connect, reset", "timeout", 0, False),
        ("timeout", "timeout", 0, True),
        ("502, 503", "status", 503, True),
        ("502, 503", "status", 500, False),
        ("5xx", "status", 500, True),
        ("429", "status", 429, True),
        ("connect", "queue", 0, False),
    ],
)
def test_only_what_is_listed_is_tried_again(on: str, kind: str, status: int, again: bool) -> None:
    assert (delay(policy(on=on), kind, status) is not None) is again


def test_a_request_that_may_have_had_an_effect_is_not_sent_twice() -> None:
    everything = "connect, reset, timeout, 5xx"
    for kind, status in (("reset", 0), ("timeout", 0), ("status", 503)):
        assert delay(policy(on=everything), kind, status, POST) is None
        assert delay(policy(on=everything, methods="GET, POST"), kind, status, POST) is not None
        for method in (b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"):
            assert delay(policy(on=everything), kind, status, Request(method, b"/")) is not None


def test_a_request_whose_content_is_gone_is_not_sent_again() -> None:
    assert delay(policy(), "connect", replayable=False) is None


def test_attempts_counts_the_first_one_too() -> None:
    chosen = policy(attempts=2)
    assert delay(chosen, "reset", tries=1) is not None
    assert delay(chosen, "reset", tries=2) is None
    assert delay(policy(attempts=1), "reset", tries=1) is None


def test_waits_grow_have_full_jitter_and_a_limit() -> None:
    chosen = policy(attempts=20, backoff="100ms", max_backoff="300ms")
    for tries, longest in ((1, 0.1), (2, 0.2), (3, 0.3), (9, 0.3)):
        waits = [delay(chosen, "reset", tries=tries) for _ in range(200)]
        assert all(wait is not None and 0 <= wait <= longest for wait in waits)
        assert max(waits) > longest * 0.9  # type: ignore[type-var,operator]
        assert min(waits) < longest * 0.1  # type: ignore[type-var,operator]


def test_no_try_begins_after_the_deadline() -> None:
    late = Request(b"GET", b"/")
    late.deadline = 1.0
    assert delay(policy(), "connect", request=late, now=1.0) is None
    assert delay(policy(), "connect", request=late, now=0.9) == 0.0


def test_the_budget_is_a_share_of_the_requests() -> None:
    settings = RetrySettings(min_retries=0)
    budget = RetryBudget(settings, 0.0)
    budget.counts.first = 1000
    assert sum(budget.take(0.5) for _ in range(1000)) == 200
    assert (budget.granted, budget.denied) == (200, 800)


def test_the_budgets_least_is_for_each_second() -> None:
    budget = RetryBudget(RetrySettings(min_retries=3), 0.0)
    granted = [sum(budget.take(second + 0.5) for _ in range(10)) for second in range(5)]
    assert granted == [3, 3, 3, 3, 3]


def test_an_origin_that_fails_every_request_sees_at_most_1_2_times_the_clients_requests() -> None:
    settings = RetrySettings.model_validate({"attempts": 5, "on": "connect, reset, timeout, 5xx"})
    budget = RetryBudget(settings, 0.0)
    chosen = Retries(settings, budget, Random(1), lambda: 3)
    hedging = Hedging(HedgeSettings.model_validate({"after": "10ms"}), budget)
    clients = origin = 0
    now = 0.0
    while now < 60.0:
        now += 0.002
        if now >= budget.counts.until:
            budget.counts.rotate(now)
        budget.counts.first += 1
        clients += 1
        origin += 1
        if hedging.take(now):
            origin += 1
        tries = 1
        while chosen.delay(GET, "status", 500, replayable=True, now=now, tries=tries) is not None:
            tries += 1
            origin += 1
    assert origin <= 1.25 * clients
    assert origin > 1.15 * clients


# ---- hedging ---------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), share=st.sampled_from([0.5, 0.9, 0.95]), scale=st.sampled_from([0.001, 0.1, 10.0]))
def test_the_running_quantile_comes_close_to_the_real_one(seed: int, share: float, scale: float) -> None:
    random = Random(seed)
    values = [random.lognormvariate(0, 0.7) * scale for _ in range(4000)]
    quantile = Quantile(share)
    for value in values:
        quantile.add(value)
    above = sum(value > quantile.value for value in values) / len(values)
    assert above == pytest.approx(1 - share, abs=0.02 + 0.4 * share * (1 - share))


def test_the_quantile_follows_a_service_that_becomes_slower() -> None:
    quantile = Quantile(0.95)
    for _ in range(500):
        quantile.add(0.01)
    for _ in range(500):
        quantile.add(0.1)
    assert 0.08 < quantile.value < 0.13


def hedging(after: str, **options: object) -> Hedging:
    settings = RetrySettings(min_retries=2)
    return Hedging(HedgeSettings.model_validate({"after": after, **options}), RetryBudget(settings, 0.0))


def test_a_hedge_waits_for_as_long_as_was_set_and_only_for_methods_that_may_be_sent_twice() -> None:
    chosen = hedging("50ms")
    assert chosen.delay(b"GET") == 0.05
    assert chosen.delay(b"POST") is None


def test_a_hedge_by_share_waits_until_it_knows_the_routes_latency() -> None:
    chosen = hedging("95%")
    assert chosen.delay(b"GET") is None
    for number in range(200):
        chosen.observe(0.01 + number % 20 * 0.001)
    wait = chosen.delay(b"GET")
    assert wait is not None
    assert 0.02 < wait < 0.04


def test_hedges_come_out_of_the_retry_budget_and_never_after_the_deadline() -> None:
    chosen = hedging("50ms")
    assert not chosen.take(1.0, deadline=0.9)
    assert [chosen.take(1.0) for _ in range(3)] == [True, False, False]
    assert chosen.sent == 1


def test_half_of_the_budget_is_kept_for_first_retries() -> None:
    budget = RetryBudget(RetrySettings(min_retries=0), 0.0)
    budget.counts.first = 100
    assert [budget.take(1.0, optional=True) for _ in range(12)] == [True] * 10 + [False] * 2
    assert [budget.take(1.0) for _ in range(12)] == [True] * 10 + [False] * 2


def test_a_method_that_must_not_be_repeated_cannot_be_hedged() -> None:
    with pytest.raises(ValueError, match="POST is not idempotent"):
        HedgeSettings.model_validate({"after": "50ms", "methods": "GET, POST"})


# ---- deadlines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"2", 2.0),
        (b"2.5", 2.5),
        (b" 250ms ", 0.25),
        (b"5s", 5.0),
        (b"1m", 60.0),
        (b"0", None),
        (b"-1", None),
        (b"soon", None),
        (b"1e9", None),
        (b"", None),
    ],
)
def test_the_timeout_field_is_read(value: bytes, seconds: float | None) -> None:
    assert parse_timeout(value) == seconds


def test_what_is_left_is_passed_on_in_a_form_that_is_read_again() -> None:
    assert remaining(12.0, 10.5) == b"1.500"
    assert remaining(10.0, 10.5) == b"0.001"
    assert parse_timeout(remaining(12.0, 10.5)) == 1.5
