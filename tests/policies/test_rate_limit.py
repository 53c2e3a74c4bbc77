"""rate_limit: what is let through, what is told, what it costs in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Awaitable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.internet.defer import Deferred

from apigw.exchange.headers import Headers
from apigw.exchange.request import Identity, Request
from apigw.exchange.response import Response
from apigw.policies import rate_limit
from apigw.policies.policy import layer
from apigw.stores.limits import ROUND, MemoryLimiter, MemoryLimits
from tests.policies.surroundings import Outcome, World, request, run


class Limit:
    """A rate_limit in a world of its own."""

    def __init__(self, world: World | None = None, **options: str) -> None:
        self.world = world or World()
        self.settings = rate_limit.Settings.model_validate(options)
        self.environment = self.world.environment("rate_limit", "visitors")
        self.policy = rate_limit.RateLimit(self.settings, self.environment)

    def ask(self, asked: Request | None = None, **about: Any) -> Outcome:
        return run(layer(self.policy, self.settings, self.environment), asked or request(**about))

    def granted(self, number: int, **about: Any) -> int:
        return sum(self.ask(**about).status == 200 for _ in range(number))


def test_a_burst_is_let_through_and_then_the_rate() -> None:
    limit = Limit(rate="10/s", burst="5")
    assert limit.granted(20) == 5
    limit.world.advance(0.1)
    assert limit.granted(20) == 1
    limit.world.advance(0.35)
    assert limit.granted(20) == 3
    limit.world.advance(100)
    assert limit.granted(20) == 5


def test_without_a_burst_as_many_as_the_limit_come_at_once() -> None:
    assert Limit(rate="10/s").granted(30) == 10


def test_who_asks_for_too_much_is_told_when_to_come_back() -> None:
    limit = Limit(rate="60/m", burst="2", legacy_headers="yes")
    limit.granted(2)
    outcome = limit.ask()
    assert outcome.passed == []
    assert (outcome.status, outcome.reason) == (429, "rate_limited")
    headers = outcome.response.headers
    assert headers.get(b"retry-after") == b"1"
    assert headers.get(b"ratelimit-policy") == b'"visitors";q=60;w=60'
    assert headers.get(b"ratelimit") == b'"visitors";r=0;t=2'
    assert headers.get(b"x-ratelimit-limit") == b"60"
    assert headers.get(b"x-ratelimit-remaining") == b"0"
    assert headers.get(b"x-ratelimit-reset") == b"2"
    assert b'"retry_after": 1' in bytes(outcome.response.body)  # type: ignore[arg-type]


def test_every_answer_says_what_is_left_and_keeps_its_ready_lines() -> None:
    limit = Limit(rate="100/s", burst="200")
    shared = Headers([(b"Content-Type", b"text/plain")])

    def service(_asked: Request, done: Any) -> None:
        response = Response(200, shared, b"x")
        response.lines = b"Content-Type: text/plain\r\n"
        done(response)

    for left in (b"199", b"198"):
        response = run(limit.policy, request(), service).response
        assert response.lines == (
            b'Content-Type: text/plain\r\nRateLimit-Policy: "visitors";q=100;w=1\r\n'
            b'RateLimit: "visitors";r=%b;t=1\r\n' % left
        )
        assert [name for name, _ in response.headers] == [b"Content-Type", b"RateLimit-Policy", b"RateLimit"]
    assert shared.pairs == [(b"Content-Type", b"text/plain")]


def test_of_several_windows_all_must_agree_and_the_tightest_is_told() -> None:
    limit = Limit(rate="10/s, 15/m")
    first = limit.ask().response.headers
    assert first.get(b"ratelimit-policy") == b'"visitors-second";q=10;w=1, "visitors-minute";q=15;w=60'
    assert first.get(b"ratelimit") == b'"visitors-second";r=9;t=1'
    assert limit.granted(20) == 9
    limit.world.advance(1)
    assert limit.granted(20) == 5  # what the minute leaves
    refused = limit.ask().response.headers
    assert refused.get(b"ratelimit") == b'"visitors-minute";r=0;t=60'
    assert refused.get(b"retry-after") == b"3"
    # What one window refused was not taken from the other.
    limit.world.advance(4)
    assert limit.granted(20) == 1


def test_ipv6_addresses_of_one_network_count_together() -> None:
    limit = Limit(rate="10/s", burst="1")
    assert limit.granted(1, client="2001:db8:1:1::1") == 1
    assert limit.granted(1, client="2001:db8:1:1:ffff::2") == 0
    assert limit.granted(1, client="2001:db8:1:2::1") == 1


def test_an_ipv4_address_in_ipv6_form_is_the_same_client() -> None:
    limit = Limit(rate="10/s", burst="1")
    assert limit.granted(1, client="192.0.2.7") == 1
    assert limit.granted(1, client="::ffff:192.0.2.7") == 0


def by(limit: Limit, identity: Identity | None) -> int:
    asked = request()
    asked.identity = identity
    return limit.ask(asked).status


def test_by_consumer() -> None:
    limit = Limit(rate="10/s", burst="1", by="consumer")
    assert by(limit, Identity("x", "api_key", "acme")) == 200
    assert by(limit, Identity("y", "jwt", "acme")) == 429
    assert by(limit, Identity("acme", "jwt")) == 200
    assert by(limit, None) == 403
    assert limit.policy.needs_identity


def test_by_claim() -> None:
    limit = Limit(rate="10/s", burst="1", by="jwt:tenant")
    assert by(limit, Identity("x", "jwt", claims={"tenant": 7})) == 200
    assert by(limit, Identity("y", "jwt", claims={"tenant": 7})) == 429
    assert by(limit, Identity("y", "jwt", claims={"tenant": 8})) == 200


@pytest.mark.parametrize(("missing", "statuses"), [("deny", [403, 403]), ("allow", [200, 200]), ("ip", [200, 429])])
def test_what_becomes_of_a_request_without_the_key(missing: str, statuses: list[int]) -> None:
    limit = Limit(rate="10/s", burst="1", by="header:X-Tenant", missing=missing)
    assert limit.ask(headers={"x-tenant": "192.0.2.1"}).status == 200
    assert limit.ask(headers={"x-tenant": "192.0.2.1"}).status == 429
    assert [limit.ask().status for _ in range(2)] == statuses


def test_long_keys_are_kept_short() -> None:
    limit = Limit(rate="10/s", burst="1", by="header:X-Tenant")
    assert limit.granted(2, headers={"x-tenant": "a" * 5000}) == 1
    assert limit.granted(2, headers={"x-tenant": "a" * 4999 + "b"}) == 1


def test_by_all() -> None:
    limit = Limit(rate="10/s", burst="1", by="all")
    assert [limit.ask(client=f"192.0.2.{n}").status for n in (1, 2)] == [200, 429]


def test_a_request_may_cost_more() -> None:
    limit = Limit(rate="10/s", burst="10", cost="header:X-Cost")
    assert limit.ask(headers={"x-cost": "8"}).status == 200
    assert limit.ask(headers={"x-cost": "3"}).status == 429
    assert limit.ask().status == 200
    refused = limit.ask(headers={"x-cost": "4"}).response.headers
    assert refused.get(b"ratelimit") == b'"visitors";r=1;t=1'
    for wrong in ("11", "0", "-1", "1e9", "²", "9" * 30):
        assert limit.ask(headers={"x-cost": wrong}).reason == "cost_refused"


def test_in_shadow_nobody_is_refused_and_it_is_counted() -> None:
    limit = Limit(rate="10/s", burst="1", mode="shadow")
    outcomes = [limit.ask() for _ in range(3)]
    assert {outcome.status for outcome in outcomes} == {200}
    assert all(b"ratelimit" not in outcome.response.headers for outcome in outcomes)
    assert limit.world.counts == {"would_deny": 2}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rate": "10/s, 20/s"},
        {"rate": "10/s", "burst": "0"},
        {"rate": "10/s", "burst": "1, 2"},
        {"rate": "10/s", "by": "headers:X"},
        {"rate": "10/s", "by": "header:"},
        {"rate": "10/s", "by": "ip:x"},
        {"rate": "10/s", "cost": "2"},
    ],
)
def test_settings_that_can_not_work(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        rate_limit.Settings.model_validate(options)


class Shared:
    """Limits that somebody else keeps: the answer comes later."""

    def __init__(self) -> None:
        self.asked: list[Deferred[tuple[int, float]]] = []

    def limiter(self, name: str, windows: Any, max_keys: int) -> Shared:
        return self

    def take(self, key: object, cost: int = 1) -> Awaitable[tuple[int, float]]:
        self.asked.append(Deferred())
        return self.asked[-1]

    def stop(self) -> None:
        pass


def test_a_limit_that_is_shared_may_answer_later() -> None:
    import dataclasses

    shared = Shared()
    environment = dataclasses.replace(World().environment("rate_limit"), limits=shared)
    policy = rate_limit.RateLimit(rate_limit.Settings.model_validate({"rate": "10/s"}), environment)
    first, second = run(policy, request()), run(policy, request())
    assert first.responses == second.responses == []
    shared.asked[0].callback((0, 0.1))
    shared.asked[1].callback((0, -2.5))
    assert first.status == 200
    assert second.response.headers.get(b"retry-after") == b"3"


# ---- the store -------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    limit=st.integers(1, 2000),
    burst=st.integers(1, 50),
    steps=st.lists(st.floats(0, 0.02), min_size=50, max_size=400),
)
def test_never_more_than_rate_times_time_and_burst_in_any_window(limit: int, burst: int, steps: list[float]) -> None:
    world = World()
    limiter = MemoryLimiter(world.clock, world.later, [(limit, 1.0, burst)])
    times = []
    for step in steps:
        world.advance(step)
        if limiter.take("k")[1] >= 0:
            times.append(world.time)
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= (times[last] - times[first]) * limit + burst + 1e-6


@given(steps=st.lists(st.tuples(st.floats(0, 0.1), st.sampled_from("abc")), max_size=200), burst=st.integers(1, 5))
def test_one_window_is_decided_the_same_without_the_windows_number(steps: list[tuple[float, str]], burst: int) -> None:
    world = World()
    limiter, other = (MemoryLimiter(world.clock, world.later, [(20, 1.0, burst)]) for _ in range(2))
    assert other.take_one is not None
    for step, key in steps:
        world.advance(step)
        assert (0, other.take_one(key)) == limiter.take(key)
    assert MemoryLimiter(world.clock, world.later, [(20, 1.0, 1), (9, 60.0, 9)]).take_one is None


def test_all_of_the_rate_is_given_to_who_asks_for_more() -> None:
    world = World()
    limiter = MemoryLimiter(world.clock, world.later, [(1000, 1.0, 10)])
    granted = 0
    for _ in range(50_000):
        world.advance(0.0002)
        granted += limiter.take("k")[1] >= 0
    assert 10_000 <= granted <= 10_010


def test_a_million_clients_cost_little_and_are_forgotten() -> None:
    world = World()
    limiter = MemoryLimits(world.clock, world.later).limiter("x", [(100, 1.0, 200)], 10_000_000)
    number = 200_000
    tracemalloc.start()
    try:
        for index in range(number):
            limiter.take(f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}")
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(limiter) == number
    assert used / number < 200
    world.advance(ROUND + 1)
    assert len(limiter) == 0
    assert world.timers == []


def test_nobody_is_forgotten_who_still_owes() -> None:
    world = World()
    limiter = MemoryLimiter(world.clock, world.later, [(1, 1.0, 100)])
    assert all(limiter.take("k")[1] >= 0 for _ in range(100))
    for second in range(99):
        world.advance(1.0)
        assert limiter.take("k")[1] >= 0, second
        assert limiter.take("k")[1] < 0, second


@pytest.mark.parametrize("windows", [[(1, 60.0, 10)], [(1, 60.0, 10), (10, 3600.0, 20)]])
def test_as_many_clients_as_may_be_are_remembered_and_beyond_that_who_owes_the_least_starts_afresh(
    windows: list[tuple[int, float, int]],
) -> None:
    world = World()
    limiter = MemoryLimiter(world.clock, world.later, windows, max_keys=10_000)
    for _ in range(10):
        limiter.take("busy")
    for index in range(9_999):
        limiter.take(str(index))
    assert (len(limiter), limiter.forgotten) == (10_000, 0)
    for index in range(20_000):
        world.advance(0.0001)
        limiter.take(str(-index))
    assert 9_000 < len(limiter) <= 10_000
    assert limiter.forgotten > 0
    assert limiter.take("busy")[1] < 0


def test_a_client_of_an_hourly_limit_is_forgotten_as_soon_as_it_owes_nothing() -> None:
    world = World()
    limiter = MemoryLimiter(world.clock, world.later, [(10, 1.0, 10), (360, 3600.0, 360)])
    for index in range(5000):
        limiter.take(str(index))
    limiter.take("much", 10)
    world.advance(10 + 1.5 * ROUND)
    assert len(limiter) == 1
    world.advance(90)
    assert len(limiter) == 0
    assert world.timers == []


def test_of_high_rates_what_a_late_request_may_bring_too_much_is_kept_back() -> None:
    assert Limit(rate="100/s").granted(200) == 100
    assert Limit(rate="1000/s").granted(2000) == 992
    assert Limit(rate="1000/s", burst="10").granted(20) == 9
    assert Limit(rate="1000/s", burst="9").granted(20) == 9
    limit = Limit(rate="1000/s", burst="100")
    assert limit.granted(200) == 92
    limit.world.advance(0.0101)
    assert limit.granted(200) == 10


def test_a_rate_may_be_over_several_units() -> None:
    limit = Limit(rate="3/15m, 100/h")
    assert limit.granted(5) == 3
    outcome = limit.ask()
    assert outcome.status == 429
    policies = b'"visitors-15-minutes";q=3;w=900, "visitors-hour";q=100;w=3600'
    assert outcome.response.headers.get(b"ratelimit-policy") == policies
    assert b"15 minutes" in bytes(outcome.response.body)  # type: ignore[arg-type]
    limit.world.advance(300)
    assert limit.granted(5) == 1
