"""Balancing: the shares that were asked for, and who moves when targets come and go."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apigw.config.text import Wrong, written
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.upstream.attempt import Attempt
from apigw.upstream.balance_spec import BalanceSpec, KeySpec, parse_balance
from apigw.upstream.balancing.balancer import Balancer
from apigw.upstream.balancing.hashing import Rendezvous, ranked
from apigw.upstream.balancing.kinds import BALANCERS, balancer, plain_balancer
from apigw.upstream.balancing.least_request import LeastRequest
from apigw.upstream.balancing.round_robin import RoundRobin, smooth_cycle
from apigw.upstream.settings import ResilienceSettings
from apigw.upstream.target import Target
from apigw.upstream.target_spec import TargetSpec

ANY = Request(b"GET", b"/")


def some(*weights: int) -> list[Target]:
    return [Target(TargetSpec("http", "10.0.0.1", 8000 + at, weight=weight)) for at, weight in enumerate(weights)]


def using(chosen: Balancer, targets: list[Target]) -> Balancer:
    chosen.use(targets, 0.0)
    return chosen


def asking(**headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(b"GET", b"/", headers=Headers(pairs))


def counted(chosen: Balancer, targets: list[Target], times: int = 10_000) -> list[float]:
    found = Counter(chosen.choose(ANY, 0.0) for _ in range(times))
    return [found[target] / times for target in targets]


@given(
    kind=st.sampled_from(list(BALANCERS)),
    weights=st.lists(st.integers(1, 100), min_size=1, max_size=12),
    seed=st.integers(0, 2**32),
)
@hypothesis_settings(max_examples=80, deadline=None)
def test_weights_hold_within_1_per_cent_over_10000_choices(kind: str, weights: list[int], seed: int) -> None:
    targets = some(*weights)
    shares = counted(using(plain_balancer(BalanceSpec(kind), Random(seed)), targets), targets)
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - weight / sum(weights)) < 0.01


@pytest.mark.parametrize("kind", ["least_request", "round_robin", "random", "ewma"])
def test_weights_hold_while_requests_are_in_flight(kind: str) -> None:
    targets = some(3, 2, 1)
    chosen = using(plain_balancer(BalanceSpec(kind), Random(3)), targets)
    flying: list[Target] = []
    random, found = Random(4), Counter[Target]()
    for _ in range(30_000):
        if len(flying) >= 30:
            flying.pop(random.randrange(len(flying))).active -= 1
        target = chosen.choose(ANY, 0.0)
        target.active += 1
        target.latency = 0.01
        flying.append(target)
        found[target] += 1
    assert [found[target] / 30_000 for target in targets] == pytest.approx([3 / 6, 2 / 6, 1 / 6], abs=0.03)


def test_round_robin_mixes_evenly() -> None:
    assert "".join("abc"[index] for index in smooth_cycle([5, 1, 1])) == "aabacaa"


def test_round_robins_of_two_workers_do_not_send_in_step() -> None:
    targets = some(1, 1, 1, 1, 1, 1, 1, 1)
    firsts = {using(RoundRobin(Random(seed)), targets).choose(ANY, 0.0).name for seed in range(40)}
    assert len(firsts) > 4


def test_enormous_weights_cost_no_enormous_cycle() -> None:
    targets = some(65535, 65534, 1)
    shares = counted(using(RoundRobin(Random(0)), targets), targets)
    assert shares == pytest.approx([0.5, 0.5, 0.0], abs=0.001)
    assert shares[2] > 0


def test_least_request_keeps_away_from_the_target_that_is_slow() -> None:
    targets = some(1, 1, 1)
    slow = targets[1]
    chosen = using(LeastRequest(Random(1)), targets)
    flying: list[Target] = []
    found = Counter[Target]()
    for _ in range(3000):
        target = chosen.choose(ANY, 0.0)
        found[target] += 1
        target.active += 1
        if target is not slow:
            flying.append(target)
        if len(flying) > 10:
            flying.pop(0).active -= 1
    assert found[slow] < 30


def test_ewma_prefers_the_quicker_target_and_forgives_in_time() -> None:
    targets = some(1, 1)
    slow, quick = targets
    slow.latency, quick.latency = 1.0, 0.01
    chosen = using(plain_balancer(BalanceSpec("ewma"), Random(1)), targets)
    found = Counter(chosen.choose(ANY, 0.0) for _ in range(1000))
    assert found[slow] < found[quick] / 2
    quick.seen_at = 1000.0
    later = Counter(chosen.choose(ANY, 1000.0) for _ in range(1000))
    assert later[slow] > later[quick]


def test_peak_ewma_jumps_up_at_once_and_comes_down_slowly() -> None:
    (target,) = some(1)

    def answer_after(latency: float, now: float) -> None:
        attempt = Attempt(target, 0, now - latency)
        attempt.answered(200, now)
        attempt.end()

    answer_after(0.01, 0.0)
    answer_after(1.0, 1.0)
    assert target.latency == 1.0
    answer_after(0.01, 1.1)
    assert 0.9 < target.latency < 1.0
    answer_after(0.01, 60.0)
    assert target.latency < 0.05


# ---- hashing ---------------------------------------------------------------------------------------------------------

KEYS = [b"key-%d" % number for number in range(4000)]


@given(weights=st.lists(st.integers(1, 5), min_size=2, max_size=9), data=st.data())
@hypothesis_settings(max_examples=12, deadline=None)
def test_taking_one_target_away_moves_its_keys_only(weights: list[int], data: st.DataObject) -> None:
    targets = some(*weights)
    gone = data.draw(st.sampled_from(targets))
    rest = [target for target in targets if target is not gone]
    before = {key: ranked(targets, key)[0] for key in KEYS}
    moved = [key for key in KEYS if ranked(rest, key)[0] is not before[key]]
    assert all(before[key] is gone for key in moved)
    assert len(moved) / len(KEYS) == pytest.approx(gone.weight / sum(weights), abs=0.04)


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=6))
@hypothesis_settings(max_examples=15, deadline=None)
def test_hashed_keys_are_spread_by_weight(weights: list[int]) -> None:
    targets = some(*weights)
    found = Counter(ranked(targets, key)[0] for key in KEYS)
    for target in targets:
        assert found[target] / len(KEYS) == pytest.approx(target.weight / sum(weights), abs=0.04)


@pytest.mark.parametrize(
    ("spec", "one", "two"),
    [
        ("hash:header:X-Tenant", asking(X_Tenant="a"), asking(x_tenant="a")),
        ("hash:cookie:sid", asking(Cookie="a=1; sid=s7"), asking(Cookie="sid=s7; b=2")),
        ("hash:query:user", Request(b"GET", b"/a", b"x=1&user=7"), Request(b"GET", b"/b", b"user=7")),
        ("hash:ip", Request(b"GET", b"/a", client="10.1.1.1"), Request(b"GET", b"/b", client="10.1.1.1")),
        ("hash:path", Request(b"GET", b"/a", b"x"), Request(b"GET", b"/a", b"y")),
    ],
)
def test_equal_keys_get_the_same_target(spec: str, one: Request, two: Request) -> None:
    chosen = using(plain_balancer(parse_balance(written(spec)), Random(1)), some(*[1] * 50))
    assert {chosen.choose(one, 0.0), chosen.choose(two, 0.0)} == {chosen.choose(one, 0.0)}
    others = {chosen.choose(Request(b"GET", b"/%d" % n, b"user=%d" % n, client=str(n)), 0.0).name for n in range(9)}
    assert len(others) > 1


def test_a_request_without_the_key_goes_anywhere_evenly() -> None:
    targets = some(1, 1)
    chosen = using(Rendezvous(KeySpec("header", "X-None"), Random(1)), targets)
    assert counted(chosen, targets, 1000) == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_hot_key_overflows_to_its_next_best_when_loads_are_bounded() -> None:
    targets = some(1, 1, 1, 1)
    chosen = using(Rendezvous(KeySpec("path"), Random(1), load_factor=1.25), targets)
    for _ in range(100):
        chosen.choose(ANY, 0.0).active += 1
    assert max(target.active for target in targets) <= 1.25 * 25 + 1
    order = ranked(targets, b"/")
    assert [target.active for target in order] == sorted((t.active for t in targets), reverse=True)


def test_without_a_bound_a_hot_key_stays_where_it_is() -> None:
    targets = some(1, 1, 1, 1)
    chosen = using(Rendezvous(KeySpec("path"), Random(1)), targets)
    for _ in range(100):
        chosen.choose(ANY, 0.0).active += 1
    assert sorted(target.active for target in targets) == [0, 0, 0, 100]


def test_a_million_different_keys_cost_no_memory() -> None:
    chosen = Rendezvous(KeySpec("path"), Random(1))
    chosen.use(some(1, 1), 0.0)
    for number in range(20_000):
        chosen.choose(Request(b"GET", b"/%d" % number), 0.0)
    assert len(chosen._orders) <= 8192


# ---- sticky sessions -------------------------------------------------------------------------------------------------

STICKY = {
    "targets": "http://10.0.0.1:8000\nhttp://10.0.0.1:8001\nhttp://10.0.0.1:8002",
    "sticky": {"cookie": "srv", "secret": "s3cret"},
}


def sticky(upstream: str = "orders", **options: str) -> Balancer:
    section = {**STICKY, "sticky": {**STICKY["sticky"], **options}}  # type: ignore[dict-item]
    return balancer(ResilienceSettings.model_validate(section), upstream, Random(1))


def test_a_client_comes_back_to_its_target_by_cookie() -> None:
    targets = some(1, 1, 1)
    chosen = using(sticky(), targets)
    for target in targets:
        cookie = chosen.set_cookie(ANY, target)
        assert cookie is not None
        value = cookie.partition(b";")[0].decode()
        assert {chosen.choose(asking(Cookie=value), 0.0) for _ in range(20)} == {target}
        assert chosen.set_cookie(asking(Cookie=value), target) is None


def test_the_cookie_does_not_tell_the_address_and_has_the_attributes_asked_for() -> None:
    targets = some(1)
    cookie = using(sticky(max_age="1h", domain="shop.example", same_site="strict"), targets).set_cookie(ANY, targets[0])
    assert cookie is not None
    value, _, attributes = cookie.partition(b"; ")
    assert b"10.0" not in value
    assert b"8000" not in value
    assert len(value) == len("srv=") + 22
    assert attributes == b"Path=/; Domain=shop.example; Max-Age=3600; Secure; HttpOnly; SameSite=Strict"


def test_a_made_up_cookie_is_worth_nothing_and_is_replaced() -> None:
    targets = some(1, 1, 1)
    chosen = using(sticky(), targets)
    forged = asking(Cookie="srv=http://10.0.0.1:8000")
    assert {chosen.choose(forged, 0.0).name for _ in range(30)} == {target.name for target in targets}
    assert chosen.set_cookie(forged, targets[0]) is not None


def test_one_upstreams_cookie_is_worth_nothing_at_another_nor_with_another_secret() -> None:
    targets = some(1)
    cookies = {
        using(each, targets).set_cookie(ANY, targets[0])
        for each in (sticky("orders"), sticky("users"), sticky("orders", secret="other"))
    }
    assert len(cookies) == 3


def test_a_client_whose_target_is_gone_gets_another_and_a_new_cookie() -> None:
    targets = some(1, 1, 1)
    chosen = using(sticky(), targets)
    cookie = chosen.set_cookie(ANY, targets[0])
    assert cookie is not None
    chosen.use(targets[1:], 0.0)
    request = asking(Cookie=cookie.partition(b";")[0].decode())
    target = chosen.choose(request, 0.0)
    assert target in targets[1:]
    assert chosen.set_cookie(request, target) is not None


def test_sticky_sessions_need_a_secret() -> None:
    with pytest.raises(ValueError, match=r"sticky\.cookie needs sticky\.secret"):
        ResilienceSettings.model_validate({"targets": "http://a:1", "sticky": {"cookie": "srv"}})


# ---- the option ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["least", "hash", "hash:", "hash:header", "hash:ip:x", "random:1", ""])
def test_a_balance_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(Wrong):
        parse_balance(written(text))


@pytest.mark.parametrize("text", ["round_robin", "hash:header:X-A", "hash:query:q", "hash:ip"])
def test_a_balance_is_shown_as_it_is_written(text: str) -> None:
    assert str(parse_balance(written(text))) == text
