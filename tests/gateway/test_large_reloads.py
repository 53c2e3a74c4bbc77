"""A reload of many routes: requests go on meanwhile, and nothing of the former configuration stays."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from weakref import ref

import pytest

from apigw.net.slices import in_slices
from tests.gateway.running import Gateway, request, running

ADMIN = "[admin]\nendpoint = tcp:0:interface=127.0.0.1\n"


def routes(number: int, version: int, more: str = "", more_of_upstreams: str = "") -> str:
    """Each route with a policy of its own, an upstream for ten of them, and all answers saying the version twice."""
    own = "".join(
        f"[request_headers h{i}]\nset.X-Version = {version}\n[route r{i}]\npath = /s{i % 10}/r{i}/{{id}}\n"
        f"respond = 200 {version}\npolicies = response_headers v, request_headers h{i}\n"
        for i in range(number)
    )
    targets = "".join(
        f"[upstream u{i}]\ntargets = http://127.0.0.1:{1000 + i}\ntimeout.response = {version}s\n{more_of_upstreams}"
        f"[route u{i}]\npath = /u{i}\nupstream = u{i}\n"
        for i in range(number // 10)
    )
    return f"{ADMIN}[response_headers v]\nset.X-Version = {version}\n{own}{targets}{more}"


@asynccontextmanager
async def longest_turn() -> AsyncIterator[list[float]]:
    """The longest time in seconds for which nothing else could run."""
    longest = [0.0]
    loop = asyncio.get_running_loop()
    before = time.monotonic()
    over = False

    def look() -> None:
        nonlocal before
        now = time.monotonic()
        longest[0] = max(longest[0], now - before)
        before = now
        if not over:
            loop.call_later(0.002, look)

    look()
    yield longest
    over = True


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_requests_go_on_and_see_one_configuration_as_a_whole(tmp_path: Path) -> None:
    async with running(tmp_path, routes(1500, 1)) as gateway:
        client = await gateway.connect()
        seen: list[bytes] = []
        gateway.write(routes(1500, 2))
        async with longest_turn() as longest:
            gateway.service.reload()
            while gateway.service.reloading:
                client.send(request(f"/s7/r{10 * (len(seen) % 150) + 7}/x"))
                answer = await client.read_response()
                assert answer.value(b"x-version") == answer.body
                seen.append(answer.body)
        assert gateway.service.last_error is None
        assert seen[0] == b"1"
        assert seen == sorted(seen)
        client.send(request("/s7/r7/x"))
        assert (await client.read_response()).body == b"2"
        assert len(seen) > 20
        assert longest[0] < 0.25  # a reload of these takes 20 times as long


async def test_many_mistakes_hold_up_nothing_and_some_are_told(tmp_path: Path) -> None:
    async with running(tmp_path, routes(10, 1)) as gateway:
        async with longest_turn() as longest:
            await gateway.reload("".join(f"[route r{i}]\npath = /r{i}\nupstream = none{i}\n" for i in range(3000)))
        assert gateway.service.last_error is not None
        problems = gateway.service.last_error[1]
        assert len(problems) == 101
        assert problems[-1].startswith("... and 2900 more")
        assert longest[0] < 0.25
        assert (await gateway.get("/s7/r7/x")).body == b"1"


def parts(gateway: Gateway) -> list[ref[object]]:
    generation = gateway.service.generation
    configuration = generation.configuration
    return [
        ref(each)
        for some in (
            [generation.root, generation.root.table],
            [rule for rule in generation.root.table.rules if rule.name != "kept"],
            [rule.value for rule in generation.root.table.rules],
            [built.policy for reference, built in generation.policies.items() if reference[1] != "kept"],
            list(generation.upstreams.values()),
            [upstream.targets for upstream in generation.upstreams.values()],
            [configuration.of("route")[name] for name in ("r1", "r2")],
        )
        for each in some
    ]


UPSTREAM = """breaker.error_threshold = 50%
retry.attempts = 2
hedge.after = 1s
sticky.cookie = s
sticky.secret = aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
"""

BATCH = """
[batch all]
path = /batch
[cors kept]
origins = https://a.example
[rate_limit several]
rate = 10/s, 100/m
[rate_limit {name}]
rate = 10/s
[route kept]
path = /kept
respond = 200 x
policies = cors kept, rate_limit several, rate_limit {name}
"""


async def test_the_former_configuration_is_freed_without_the_collector(tmp_path: Path) -> None:
    async with running(tmp_path, routes(20, 1, BATCH.format(name="a"), UPSTREAM)) as gateway:
        await gateway.reload(routes(20, 2, BATCH.format(name="b").replace("100/m", "200/m"), UPSTREAM))
        former = parts(gateway)
        with without_collector():
            await gateway.reload(routes(20, 3, BATCH.format(name="c"), UPSTREAM))
            assert gateway.service.last_error is None
            assert [each() for each in former if each() is not None] == []


async def test_a_configuration_that_can_not_be_built_leaves_nothing(tmp_path: Path) -> None:
    broken = "[resource x]\npath = /x\nclass = tests.gateway.test_large_reloads:Broken\n"
    async with running(tmp_path, routes(20, 1)) as gateway:
        series = await gateway.admin("/metrics")
        await gateway.reload(routes(30, 2, broken))
        assert gateway.service.last_error is not None
        assert "can't be made" in gateway.service.last_error[1][0]
        assert (await gateway.get("/s7/r7/x")).body == b"1"
        assert b'route="r29"' not in (await gateway.admin("/metrics")).body
        assert b'route="r9"' in series.body


def Broken() -> None:
    raise ValueError("can't be made")


async def test_work_in_slices_gives_others_a_turn() -> None:
    turns = 0

    def step() -> Iterator[None]:
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            yield

    def count() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(count) if turns < 1000 else None

    asyncio.get_running_loop().call_soon(count)
    await in_slices(step())  # type: ignore[arg-type]
    assert turns > 3


async def test_a_failure_in_a_slice_comes_out() -> None:
    def step() -> Iterator[None]:
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await in_slices(step())  # type: ignore[arg-type]


async def test_what_the_admin_listener_shows_of_many_routes_is_made_in_slices(tmp_path: Path) -> None:
    async with running(tmp_path, routes(1500, 1)) as gateway:
        for path in ("/metrics", "/routes", "/upstreams", "/config/status"):
            async with longest_turn() as longest:
                assert (await gateway.admin(path)).status == 200
            assert longest[0] < 0.25
