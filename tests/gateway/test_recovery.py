"""Targets and circuits recover without any client, and dead targets cost no client an answer: real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest
import pytest_twisted

from tests.gateway.running import Gateway, route, running
from tests.gateway.test_resilience import ADMIN, asked, pull, several
from tests.origins import CLOSE, Origin, RawResponse, Received, Steps, refusing_port, reply

HEALTH = "\n[health]\npath = /health\n"
QUICK = ("health.interval = 50ms", "health.fast_interval = 50ms", "outlier.probe_interval = 50ms")
TRIPS = ("breaker.volume_threshold = 4", "breaker.reset_timeout = 1h")


@pytest_twisted.async_yield_fixture()
async def origins() -> AsyncIterator[list[Origin]]:
    """Three services that say which they are."""
    started = [await Origin([reply(200, b"%d" % number)]).start() for number in range(3)]
    yield started
    for origin in started:
        await origin.stop()


class Balancer:
    """A balancer in front of the gateway: it sends requests only while ``/health`` is 200."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.up = True

    async def check(self) -> bool:
        self.up = (await self.gateway.get("/health")).status == 200
        return self.up

    async def get(self, path: str) -> RawResponse | None:
        """None: it has nobody to ask."""
        return await self.gateway.get(path) if self.up else None

    async def recovers(self, seconds: float = 10.0) -> float:
        """Seconds until the gateway is up, with checks alone."""
        began = monotonic()
        while not await self.check():
            assert monotonic() - began < seconds, (await self.gateway.get("/health")).body
            await asyncio.sleep(0.02)
        return monotonic() - began


WAYS = {
    "defaults": (),
    "active checks": ("health.path = /health",),
    "active checks and circuits": ("health.path = /health", *TRIPS),
    "tcp checks and circuits": ("health.type = tcp", *TRIPS),
    "circuits": TRIPS,
    "circuits that want three trials": (*TRIPS, "breaker.half_open_requests = 3"),
    "one circuit for all": (*TRIPS, "breaker.scope = upstream"),
    "circuits without passive checks": (*TRIPS, "outlier.enabled = no"),
    "circuits without questions": (*TRIPS, "outlier.probe = no"),
    "no panic": (*TRIPS, "panic_threshold = 0%"),
}


async def test_an_outage_ends_behind_a_balancer_that_obeys_health(tmp_path: Path, origins: list[Origin]) -> None:
    text = several(origins[2:], name="other") + HEALTH
    for number, options in enumerate(WAYS.values()):
        text += several(origins[:2], *QUICK, *options, name=f"u{number}")
        text += route(f"/{number}", name=f"r{number}", to=f"u{number}")
    async with running(tmp_path, text) as gateway:
        balancer = Balancer(gateway)
        await balancer.recovers()
        for origin in origins[:2]:
            await origin.stop()
        for number in range(len(WAYS)):
            for _ in range(12):
                answer = await balancer.get(f"/{number}")
                assert answer is not None
                assert answer.status in (502, 503)
        await asyncio.sleep(1.05)  # the answer is kept for a second
        assert not await balancer.check()
        for origin in origins[:2]:
            await origin.start(origin.port)
        await balancer.recovers()
        for number in range(len(WAYS)):
            assert [(await gateway.get(f"/{number}")).status for _ in range(4)] == [200] * 4


async def test_a_fallback_that_gets_no_traffic_recovers_too(tmp_path: Path, origins: list[Origin]) -> None:
    text = several(origins[:1], *QUICK, *TRIPS, "breaker.fallback_upstream = b")
    text += several(origins[1:2], *QUICK, *TRIPS, name="b") + route("/") + HEALTH
    async with running(tmp_path, text) as gateway:
        for origin in origins[:2]:
            await origin.stop()
        for _ in range(10):
            assert (await gateway.get("/")).status in (502, 503)
        for origin in origins[:2]:
            await origin.start(origin.port)
        balancer = Balancer(gateway)
        await balancer.recovers()
        assert (await gateway.get("/")).body == b"0"


@pytest.mark.parametrize("to_options", [200, 405, 501, 500])
async def test_a_half_open_circuit_is_not_ill_and_is_closed_by_the_gateways_trial_or_the_next_client(
    tmp_path: Path, origins: list[Origin], to_options: int
) -> None:
    broken = True

    def answer(seen: Received) -> Steps | bytes:
        if seen.line.startswith(b"OPTIONS"):
            return reply(to_options)
        return reply(500) if broken else reply(200)

    origins[0].script = [answer]
    text = several(origins[:1], "breaker.volume_threshold = 4", "breaker.reset_timeout = 200ms") + route("/") + HEALTH
    async with running(tmp_path, text) as gateway:
        (target,) = gateway.service.generation.upstreams["a"].targets.targets
        assert [(await gateway.get("/")).status for _ in range(5)] == [500] * 4 + [503]
        broken = False
        before = asked(origins)[0]
        await Balancer(gateway).recovers()
        assert asked(origins)[0] == before
        assert (await gateway.get("/")).status == 200
        assert target.breaker is not None
        assert target.breaker.state.value == "closed"


async def test_what_an_operator_has_opened_stays_open(tmp_path: Path, origins: list[Origin]) -> None:
    text = several(origins[:2], *QUICK, "breaker.enabled = yes", "health.path = /health") + route("/") + HEALTH + ADMIN
    async with running(tmp_path, text) as gateway:
        await pull(gateway, "/upstreams/circuit", upstream="a", state="open")
        await asyncio.sleep(0.3)
        assert (await gateway.get("/")).status == 503
        answer = await gateway.get("/health")
        assert answer.status == 503
        states = [target["status"] for target in json.loads(answer.body)["upstreams"]["a"]["targets"]]
        assert states == ["circuit_forced_open"] * 2


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_that_finds_no_connection_goes_elsewhere_at_once_without_any_retry_policy(
    tmp_path: Path, origins: list[Origin], method: str
) -> None:
    with refusing_port() as one, refusing_port() as other:
        text = several(origins[:1], "balance = round_robin", "retry.attempts = 1", "retry.budget = 0%")
        text = text.replace("targets =", f"targets =\n    http://127.0.0.1:{one}\n    http://127.0.0.1:{other}")
        async with running(tmp_path, text + route("/")) as gateway:
            body = b"content" if method == "POST" else b""
            answers = [await gateway.get("/", method=method, body=body) for _ in range(9)]
            assert {answer.status for answer in answers} == {200}
            assert {seen.body for seen in origins[0].requests} == {body}
            # Each dead target was found once; the gateway's own trials find out when they are back.
            assert sum(line["tries"] for line in gateway.logged()) <= 9 + 2
            states = [target.state for target in gateway.service.generation.upstreams["a"].targets.targets]
            assert states == ["unreachable", "unreachable", "healthy"]


async def test_bad_paths_take_no_target_out_while_it_answers_others(tmp_path: Path, origins: list[Origin]) -> None:
    """Two targets of three are dead; the last one breaks off at half of the requests, and its circuit has opened."""

    def answer(seen: Received) -> Steps | bytes:
        return [CLOSE] if b"/bad" in seen.line else reply(200)

    origins[0].script = [answer]
    options = (*TRIPS, "retry.attempts = 1", "breaker.error_threshold = 40%")
    with refusing_port() as one, refusing_port() as other:
        text = several(origins[:1], *options) + route("/") + HEALTH
        text = text.replace("targets =", f"targets =\n    http://127.0.0.1:{one}\n    http://127.0.0.1:{other}")
        async with running(tmp_path, text) as gateway:
            statuses = [(await gateway.get(path)).status for path in ["/good", "/bad"] * 20]
            assert statuses == [200, 502] * 20
            target = gateway.service.generation.upstreams["a"].targets.targets[2]
            assert target.breaker is not None
            assert target.breaker.state.value == "open"
            answer_ = await gateway.get("/health")
            states = [each["status"] for each in json.loads(answer_.body)["upstreams"]["a"]["targets"]]
            assert (answer_.status, states) == (200, ["unreachable", "unreachable", "last_resort"])
            # When it only fails, the circuit does what it is for.
            statuses = []
            while statuses[-1:] != [503] and len(statuses) < 2000:
                statuses.append((await gateway.get("/bad")).status)
            assert statuses[:-1] == [502] * max(19, len(statuses) - 1)
            assert gateway.logged()[-1]["reason"] == "circuit_open"
