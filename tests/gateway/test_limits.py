"""A rate limit through the whole gateway, in a time that is set; and what a million clients cost it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from apigw.stores.limits import ROUND, MemoryLimits
from apigw.testing.gateway import request
from apigw.testing.origins import Origin, reply
from bench.limits import most_in_excess, share_of_allowed
from tests.gateway.running import route, running, upstream
from tests.policies.surroundings import World


async def test_the_service_never_gets_more_than_the_limit_nor_less_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("apigw.gateway.environment.monotonic", lambda: now)
    service = await Origin([reply(200, b"ok")]).start()
    text = (
        "[rate_limit all]\nrate = 1000/s\nburst = 50\nby = all\n"
        + upstream(service.port)
        + route("/", "policies = rate_limit all")
    )
    times: list[float] = []
    async with running(tmp_path, text) as gateway:
        client = await gateway.connect()
        for _ in range(400):
            now += 0.005
            client.send(request("/") * 25)  # 5,000/s
            for _ in range(25):
                response = await client.read_response()
                assert response.status in {200, 429}
            times += [now] * (len(service.requests) - len(times))
    await service.stop()
    assert most_in_excess(times, 1000, 50) <= 1e-6
    assert share_of_allowed(times, 1000, 50, 1.995) >= 0.99


def test_the_proof_of_the_benchmark_sees_what_is_too_much() -> None:
    steady = [number / 1000 for number in range(2000)]
    assert most_in_excess(steady, 1000, 1) == pytest.approx(0)
    assert most_in_excess([*steady, 1.999, 1.999], 1000, 1) == pytest.approx(2)
    assert most_in_excess([1.0] * 10, 1000, 10) == pytest.approx(0)
    assert most_in_excess([1.0] * 11, 1000, 10) == pytest.approx(1)
    assert share_of_allowed(steady, 1000, 1, 1.999) == pytest.approx(1, abs=0.001)
    assert share_of_allowed(steady[::2], 1000, 1, 1.999) == pytest.approx(0.5, abs=0.001)


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_million_clients_cost_less_than_200_bytes_each_and_are_forgotten() -> None:
    world = World()
    limiter = MemoryLimits(world.clock, world.later).limiter("x", [(100, 1.0, 200)], 1_000_000)
    before = resident()
    for number in range(1_000_000):
        limiter.take(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}")
    assert len(limiter) == 1_000_000
    assert limiter.forgotten == 0
    assert resident() - before < 200_000_000
    world.advance(ROUND + 1)
    assert len(limiter) == 0
    assert world.timers == []
