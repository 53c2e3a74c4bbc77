"""What ``[upstream]`` and ``[split]`` promise, through the whole gateway: real sockets, one request at a time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from apigw.config.problems import ConfigurationError
from tests.gateway.running import Gateway, request, route, running
from tests.origins import NEVER, Origin, RawResponse, refusing_port, reply

TOKEN = "lever-" * 6
ADMIN = f"\n[admin]\nendpoint = tcp:0:interface=127.0.0.1\ntoken = {TOKEN}\n"


@pytest_twisted.async_yield_fixture()
async def origins() -> AsyncIterator[list[Origin]]:
    """Three services that say which they are."""
    started = [await Origin([reply(200, b"%d" % number)]).start() for number in range(3)]
    yield started
    for origin in started:
        await origin.stop()


def several(origins: list[Origin], *options: str, name: str = "a") -> str:
    targets = "".join(f"    http://127.0.0.1:{origin.port}\n" for origin in origins)
    return "\n".join([f"\n[upstream {name}]", "targets =", targets + "\n".join(options), ""])


def address(origin: Origin) -> str:
    return f"http://127.0.0.1:{origin.port}"


def asked(origins: list[Origin]) -> list[int]:
    return [sum(not each.line.startswith(b"OPTIONS") for each in origin.requests) for origin in origins]


async def pull(gateway: Gateway, lever: str, token: str = TOKEN, **parameters: str) -> RawResponse:
    client = await gateway.connect(port=gateway.admin_port)
    content = json.dumps(parameters).encode()
    fields = (("Authorization", f"Bearer {token}"),)
    client.send(request(lever, *fields, host="127.0.0.1", method="POST", body=content))
    return await client.read_response()


async def metrics(gateway: Gateway) -> dict[str, float]:
    client = await gateway.connect(port=gateway.admin_port)
    client.send(request("/metrics", ("Authorization", f"Bearer {TOKEN}"), host="127.0.0.1"))
    lines = (await client.read_response()).body.decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def refused_with(problem: pytest.ExceptionInfo[ConfigurationError], *words: str) -> None:
    assert all(word in str(problem.value) for word in words)


# ---- circuit breaker, fallbacks --------------------------------------------------------------------------------------

TRIPS = ("breaker.volume_threshold = 2", "breaker.reset_timeout = 1h", "retry.attempts = 1")


async def test_an_open_circuit_asks_nobody_and_gives_the_fallback(tmp_path: Path, origins: list[Origin]) -> None:
    origins[0].script = [reply(500)]
    text = several(origins[:1], *TRIPS, "breaker.fallback_body = {}", "breaker.fallback_headers = X-Fallback: yes")
    async with running(tmp_path, text + route("/") + ADMIN) as gateway:
        statuses = [(await gateway.get("/")).status for _ in range(5)]
        assert statuses == [500, 500, 503, 503, 503]
        answer = await gateway.get("/")
        assert (answer.body, answer.value(b"x-fallback")) == (b"{}", b"yes")
        assert int(answer.value(b"retry-after") or 0) > 3000
        assert asked(origins)[0] == 2
        seen = await metrics(gateway)
        target = f'upstream="a",target="{address(origins[0])}"'
        assert seen[f'apigw_breaker_state{{{target},state="open"}}'] == 1
        assert seen[f'apigw_breaker_state{{{target},state="closed"}}'] == 0
        assert seen[f'apigw_breaker_events_total{{{target},event="failure"}}'] == 2
        assert seen[f'apigw_breaker_events_total{{{target},event="reject"}}'] == 4
        assert seen['apigw_breaker_events_total{upstream="a",target="",event="fallback"}'] == 4
        assert seen[f"apigw_target_healthy{{{target}}}"] == 0
        assert [line["reason"] for line in gateway.logged()[2:]] == ["circuit_open"] * 4


async def test_another_upstream_stands_in_for_one_that_fails_with_its_content(
    tmp_path: Path, origins: list[Origin]
) -> None:
    origins[0].script = [reply(500)]
    text = several(origins[:1], *TRIPS, "breaker.fallback_upstream = b", "breaker.fallback_status = 418")
    text += several(origins[1:2], *TRIPS, "breaker.fallback_upstream = a", name="b")
    async with running(tmp_path, text + route("/")) as gateway:
        for _ in range(2):
            await gateway.get("/")
        assert (await gateway.get("/")).body == b"1"
        assert (await gateway.get("/", method="POST", body=b"content")).status == 200
        assert origins[1].requests[1].body == b"content"
        origins[1].script = [reply(500)]
        assert [(await gateway.get("/")).status for _ in range(3)] == [500, 500, 418]


async def test_breaker_timeout_holds_for_a_try(tmp_path: Path, origins: list[Origin]) -> None:
    origins[0].script = [[NEVER]]
    async with running(tmp_path, several(origins[:1], "breaker.timeout = 100ms", *TRIPS) + route("/")) as gateway:
        answer = await gateway.get("/")
        assert (answer.status, gateway.logged()[0]["reason"]) == (504, "upstream_timeout")
        (target,) = gateway.service.generation.upstreams["a"].targets.targets
        assert target.breaker is not None
        assert target.breaker.timeouts == 1


async def test_the_routes_own_time_being_up_is_the_services_failure_a_clients_impatience_is_not(
    tmp_path: Path, origins: list[Origin]
) -> None:
    origins[0].script = [[NEVER]]
    text = several(origins[:1], "breaker.enabled = yes") + route("/", "timeout.total = 200ms")
    async with running(tmp_path, text) as gateway:
        (target,) = gateway.service.generation.upstreams["a"].targets.targets
        assert target.breaker is not None
        assert (await gateway.get("/", ("X-Request-Timeout", "50ms"))).status == 504
        assert target.breaker.timeouts == 0
        (left,) = origins[0].requests[0].values(b"x-request-timeout")
        assert 0 < float(left) <= 0.05
        assert (await gateway.get("/")).status == 504
        assert target.breaker.timeouts == 1
        assert target.active == 0


async def test_one_circuit_for_all_targets(tmp_path: Path, origins: list[Origin]) -> None:
    for origin in origins:
        origin.script = [reply(503)]
    text = several(origins, *TRIPS, "breaker.scope = upstream") + route("/") + ADMIN
    async with running(tmp_path, text) as gateway:
        assert [(await gateway.get("/")).status for _ in range(4)] == [503] * 4
        assert sum(asked(origins)) == 2
        assert (await metrics(gateway))['apigw_breaker_state{upstream="a",target="",state="open"}'] == 1


# ---- overload --------------------------------------------------------------------------------------------------------


async def test_max_requests_is_hard_a_queue_is_bounded_and_full_means_503_at_once(
    tmp_path: Path, origins: list[Origin]
) -> None:
    late: Deferred[None] = Deferred()
    origins[0].script = [[late, reply(200, b"late")]]
    text = several(origins[:1], "max_requests = 2", "pool.queue = 1") + route("/")
    async with running(tmp_path, text) as gateway:
        clients = [await gateway.connect() for _ in range(3)]
        for client in clients:
            client.send(request("/"))
        await origins[0].request(1)
        while gateway.service.generation.upstreams["a"].targets.targets[0].pool.waiting < 1:
            await asyncio.sleep(0)
        full = await gateway.get("/")
        assert (full.status, full.value(b"retry-after")) == (503, b"1")
        assert json.loads(full.body)["reason"] == "upstream_overloaded"
        assert len(origins[0].requests) == 2
        late.callback(None)
        assert [(await client.read_response()).body for client in clients] == [b"late"] * 3


async def test_a_full_queue_gets_the_fallback(tmp_path: Path, origins: list[Origin]) -> None:
    origins[0].script = [[NEVER]]
    text = several(origins[:1], "max_requests = 1", "pool.queue = 0", "breaker.fallback_status = 203")
    text += several(origins[:1], "max_requests = 1", "pool.queue = 0", "breaker.fallback_upstream = c", name="b")
    text += several(origins[1:2], name="c")
    async with running(tmp_path, text + route("/") + route("/b", name="b", to="b") + ADMIN) as gateway:
        for path in ("/", "/b"):
            client = await gateway.connect()
            client.send(request(path))
        await origins[0].request(1)
        assert (await gateway.get("/")).status == 203
        assert (await gateway.get("/b", method="POST", body=b"content")).body == b"1"
        assert origins[1].requests[0].body == b"content"
        assert [line["reason"] for line in gateway.logged()] == ["upstream_overloaded"] * 2
        seen = await metrics(gateway)
        assert seen['apigw_breaker_events_total{upstream="a",target="",event="fallback"}'] == 1
        assert seen[f'apigw_breaker_events_total{{upstream="a",target="{address(origins[0])}",event="failure"}}'] == 0


async def test_a_target_that_has_all_the_requests_it_may_have_is_not_ill(tmp_path: Path, origins: list[Origin]) -> None:
    origins[0].script = [lambda asked: reply() if b"/health" in asked.line else [NEVER]]
    options = ("max_requests = 1", "pool.queue = 0", "health.path = /health", "health.interval = 10ms")
    async with running(tmp_path, several(origins[:1], *options) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(request("/"))
        await origins[0].request(1)
        prober = gateway.service.generation.upstreams["a"].prober
        assert prober is not None
        checks = prober.checks
        while prober.checks < checks + 4:
            await asyncio.sleep(0.01)
        assert prober.failures == 0
        assert json.loads((await gateway.get("/")).body)["reason"] == "upstream_overloaded"


# ---- retries and hedging ---------------------------------------------------------------------------------------------


async def test_a_slow_request_is_sent_to_another_target_and_the_loser_is_cut(
    tmp_path: Path, origins: list[Origin]
) -> None:
    origins[0].script = [[NEVER]]
    text = several(origins[:2], "balance = round_robin", "hedge.after = 50ms", "retry.attempts = 1")
    async with running(tmp_path, text + route("/") + ADMIN) as gateway:
        answers = [await gateway.get("/") for _ in range(2)]
        assert [answer.body for answer in answers] == [b"1", b"1"]
        hedged = next(line for line in gateway.logged() if line["tries"] == 2)
        assert (hedged["notes"], hedged["target"]) == ({"hedge": "won"}, address(origins[1]))
        await (await origins[0].connection()).until_closed()
        seen = await metrics(gateway)
        assert seen['apigw_hedges_total{upstream="a",event="sent"}'] == 1
        assert seen['apigw_hedges_total{upstream="a",event="won"}'] == 1
        assert seen['apigw_retry_budget_total{upstream="a",result="granted"}'] == 1
        assert [target.active for target in gateway.service.generation.upstreams["a"].targets.targets] == [0, 0]


async def test_the_first_one_may_still_win(tmp_path: Path, origins: list[Origin]) -> None:
    late: list[Deferred[None]] = [Deferred(), Deferred()]
    for number in range(2):
        origins[number].script = [[late[number], reply(200, b"%d" % number)]]
    text = several(origins[:2], "balance = round_robin", "hedge.after = 50ms") + route("/")
    async with running(tmp_path, text) as gateway:
        client = await gateway.connect()
        client.send(request("/"))
        while not any(asked(origins)):
            await asyncio.sleep(0)
        first = asked(origins).index(1)
        await origins[1 - first].request()
        late[first].callback(None)
        assert (await client.read_response()).body == b"%d" % first
        await (await origins[1 - first].connection()).until_closed()
        assert gateway.logged()[0]["notes"] == {"hedge": "lost"}


async def test_a_client_that_leaves_ends_both_copies(tmp_path: Path, origins: list[Origin]) -> None:
    for origin in origins:
        origin.script = [[NEVER]]
    async with running(tmp_path, several(origins[:2], "hedge.after = 50ms") + route("/")) as gateway:
        client = await gateway.connect()
        client.send(request("/"))
        await origins[0].request()
        await origins[1].request()
        client.reset()
        for origin in origins[:2]:
            await (await origin.connection()).until_closed()


async def test_the_only_target_is_not_asked_twice_at_once(tmp_path: Path, origins: list[Origin]) -> None:
    late: Deferred[None] = Deferred()
    origins[0].script = [[late, reply(200)]]
    async with running(tmp_path, several(origins[:1], "hedge.after = 20ms") + route("/")) as gateway:
        client = await gateway.connect()
        client.send(request("/"))
        await origins[0].request()
        await asyncio.sleep(0.1)
        assert asked(origins)[0] == 1
        late.callback(None)
        assert (await client.read_response()).status == 200
        assert "notes" not in gateway.logged()[0]


async def test_requests_with_content_are_not_hedged(tmp_path: Path, origins: list[Origin]) -> None:
    late: Deferred[None] = Deferred()
    for origin in origins[:2]:
        origin.script = [[late, reply(200)]]
    text = several(origins[:2], "hedge.after = 20ms", "hedge.methods = GET, PUT") + route("/")
    async with running(tmp_path, text) as gateway:
        client = await gateway.connect()
        client.send(request("/", method="PUT", body=b"x"))
        await asyncio.sleep(0.1)
        assert sum(asked(origins)) == 1
        late.callback(None)
        assert (await client.read_response()).status == 200


async def test_a_target_that_refuses_costs_nobody_an_answer(tmp_path: Path, origins: list[Origin]) -> None:
    with refusing_port() as port:
        text = several(origins[:1], "retry.min_retries = 10") + route("/")
        text = text.replace("targets =", f"targets =\n    http://127.0.0.1:{port}")
        async with running(tmp_path, text) as gateway:
            answers = [await gateway.get("/", method="POST", body=b"x") for _ in range(6)]
            assert {answer.status for answer in answers} == {200}


# ---- sticky, split, mirror -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("active", [False, True])
async def test_what_a_hanging_target_holds_is_sent_elsewhere_where_that_is_allowed(
    tmp_path: Path, origins: list[Origin], active: bool
) -> None:
    hangs = False
    origins[0].script = [lambda asked: reply() if b"/health" in asked.line and not hangs else [NEVER]]
    options = ["balance = round_robin", "outlier.stall_time = 50ms", "health.timeout = 50ms", "retry.min_retries = 20"]
    if active:
        options += ["health.path = /health", "health.interval = 50ms"]
    async with running(tmp_path, several(origins[:2], *options) + route("/")) as gateway:
        target = gateway.service.generation.upstreams["a"].targets.targets[0]
        clients = [await gateway.connect() for _ in range(12)]
        for number, client in enumerate(clients):
            client.send(request("/", method="POST" if number < 2 else "GET"))
        hangs = True
        assert [(await client.read_response()).body for client in clients[2:]] == [b"1"] * 10
        assert target.active == 1  # the POST may have had its effect: it waits
        assert {line["tries"] for line in gateway.logged()} == {1, 2}


async def test_when_all_targets_hang_requests_stay_where_they_are(tmp_path: Path, origins: list[Origin]) -> None:
    for origin in origins[:2]:
        origin.script = [[NEVER]]
    options = ("balance = round_robin", "outlier.stall_time = 50ms", "health.timeout = 50ms", "retry.min_retries = 20")
    async with running(tmp_path, several(origins[:2], *options) + route("/")) as gateway:
        clients = [await gateway.connect() for _ in range(14)]
        for client in clients:
            client.send(request("/"))
        upstream_a = gateway.service.generation.upstreams["a"]
        while not (upstream_a.prober and upstream_a.prober.failures >= 4):
            await asyncio.sleep(0.01)
        first, second = sorted(asked(origins)[:2])
        assert first == 7
        assert second <= 14  # those of the first target that was found to hang may have moved, once


@pytest.mark.parametrize("when", ["in an hour", "3600"])
async def test_the_circuit_stays_open_for_as_long_as_the_service_says(
    tmp_path: Path, origins: list[Origin], when: str
) -> None:
    if when == "in an hour":
        when = formatdate(time.time() + 3600, usegmt=True)  # noqa: TID251 - the field says it so
    origins[0].script = [reply(503, b"", (b"Retry-After", when.encode()))]
    options = ("breaker.volume_threshold = 2", "breaker.reset_timeout = 1s", "retry.attempts = 1")
    async with running(tmp_path, several(origins[:1], *options) + route("/")) as gateway:
        answers = [await gateway.get("/") for _ in range(3)]
        assert json.loads(answers[2].body)["reason"] == "circuit_open"
        assert int(answers[2].value(b"retry-after") or 0) > 3500


async def test_an_error_of_the_gateway_binds_no_client_to_the_target_that_failed(tmp_path: Path) -> None:
    with refusing_port() as port:
        text = f"\n[upstream a]\ntargets = http://127.0.0.1:{port}\nsticky.cookie = at\nsticky.secret = secret\n"
        async with running(tmp_path, text + route("/")) as gateway:
            answer = await gateway.get("/")
            assert (answer.status, answer.value(b"set-cookie")) == (502, None)


async def test_a_cookie_brings_a_client_back_to_its_target(tmp_path: Path, origins: list[Origin]) -> None:
    text = several(origins, "sticky.cookie = at", "sticky.secret = 0123456789abcdef", "balance = round_robin")
    async with running(tmp_path, text + route("/") + ADMIN) as gateway:
        first = await gateway.get("/")
        cookie = (first.value(b"set-cookie") or b"").decode()
        assert cookie.startswith("at=")
        assert "127.0.0.1" not in cookie
        sent = ("Cookie", cookie.partition(";")[0])
        again = [await gateway.get("/", sent) for _ in range(5)]
        assert {answer.body for answer in again} == {first.body}
        assert all(answer.value(b"set-cookie") is None for answer in again)
        home = origins[int(first.body)]
        assert (await pull(gateway, "/upstreams/drain", upstream="a", target=address(home))).status == 200
        assert (await gateway.get("/", sent)).body == first.body
        assert {(await gateway.get("/")).body for _ in range(6)} == {b"0", b"1", b"2"} - {first.body}
        assert (await gateway.get("/", ("Cookie", "at=forged"))).value(b"set-cookie") is not None


def split(origins: list[Origin], *options: str) -> str:
    return (
        several(origins[:1], name="stable")
        + several(origins[1:2], name="canary")
        + "\n".join(["[split s]", "upstreams = stable 75%, canary 25%", *options, ""])
        + route("/", to="s")
    )


async def test_a_split_gives_each_its_share(tmp_path: Path, origins: list[Origin]) -> None:
    async with running(tmp_path, split(origins, "choose = header:X-Variant") + ADMIN) as gateway:
        for _ in range(40):
            await gateway.get("/")
        assert asked(origins)[1] in (9, 10, 11)
        assert {(await gateway.get("/", ("X-Variant", "canary"))).body for _ in range(5)} == {b"1"}
        assert {line["upstream"] for line in gateway.logged()} == {"stable", "canary"}
        seen = await metrics(gateway)
        assert seen['apigw_split_requests_total{split="s",upstream="canary"}'] == asked(origins)[1]


async def test_a_sticky_split_gives_the_same_key_the_same_upstream(tmp_path: Path, origins: list[Origin]) -> None:
    async with running(tmp_path, split(origins, "sticky = header:X-User")) as gateway:
        given = {user: {(await gateway.get("/", ("X-User", user))).body for _ in range(3)} for user in "abcdefghijkl"}
        assert all(len(bodies) == 1 for bodies in given.values())
        assert len(set().union(*given.values())) == 2


async def test_what_a_split_must_not_be(tmp_path: Path, origins: list[Origin]) -> None:
    text = split(origins) + "\n[split t]\nupstreams = s 50%, canary 50%\n"
    with pytest.raises(ConfigurationError) as problem:
        async with running(tmp_path, text):
            pass
    refused_with(problem, "[split t] upstreams", "s is a split itself")
    with pytest.raises(ConfigurationError) as problem:
        async with running(tmp_path, several(origins[:1], "breaker.fallback_upstream = a") + route("/")):
            pass
    refused_with(problem, "breaker.fallback_upstream", "leads back here")
    with pytest.raises(ConfigurationError) as problem:
        async with running(tmp_path, several(origins[:1], "breaker.fallback_upstream = nobody") + route("/")):
            pass
    refused_with(problem, "nobody")


async def test_copies_go_to_the_mirror_and_differences_are_counted(tmp_path: Path, origins: list[Origin]) -> None:
    origins[1].script = [reply(500)]
    text = several(origins[:1]) + several(origins[1:2], "retry.attempts = 1", name="b")
    text += route("/api", "strip_prefix = /api", "mirror = b") + ADMIN
    async with running(tmp_path, text) as gateway:
        assert (await gateway.get("/api/x?q=1", method="POST", body=b"content")).body == b"0"
        copy = await origins[1].request(complete=True)
        assert (copy.line, copy.body) == (b"POST /x?q=1 HTTP/1.1", b"content")
        assert copy.values(b"x-request-id") == origins[0].requests[0].values(b"x-request-id")
        while (seen := await metrics(gateway)).get(
            'apigw_mirrored_total{route="a",upstream="b",event="different"}'
        ) != 1:
            await asyncio.sleep(0.01)
        assert seen['apigw_mirror_differences_total{route="a",upstream="b",status="200",copy="500"}'] == 1
        assert len(gateway.logged()) == 1


async def test_a_mirror_that_hangs_slows_nobody(tmp_path: Path, origins: list[Origin]) -> None:
    origins[1].script = [[NEVER]]
    text = several(origins[:1]) + several(origins[1:2], name="b") + route("/", "mirror = b") + ADMIN
    async with running(tmp_path, text) as gateway:
        for _ in range(110):
            assert (await gateway.get("/")).status == 200
        seen = await metrics(gateway)
        assert seen['apigw_mirrored_total{route="a",upstream="b",event="sent"}'] == 100
        assert seen['apigw_mirrored_total{route="a",upstream="b",event="dropped"}'] == 10


# ---- operators -------------------------------------------------------------------------------------------------------


async def test_levers_drain_targets_and_force_circuits(tmp_path: Path, origins: list[Origin]) -> None:
    text = several(origins[:2], "breaker.enabled = yes", "balance = round_robin") + route("/") + ADMIN
    async with running(tmp_path, text) as gateway:
        drained = await pull(gateway, "/upstreams/drain", upstream="a", target=address(origins[0]))
        assert [target["status"] for target in json.loads(drained.body)["targets"]] == ["draining", "healthy"]
        assert {(await gateway.get("/")).body for _ in range(4)} == {b"1"}
        await pull(gateway, "/upstreams/undrain", upstream="a", target=address(origins[0]))
        assert {(await gateway.get("/")).body for _ in range(4)} == {b"0", b"1"}
        await pull(gateway, "/upstreams/circuit", upstream="a", target=address(origins[1]), state="open")
        assert {(await gateway.get("/")).body for _ in range(4)} == {b"0"}
        await pull(gateway, "/upstreams/circuit", upstream="a", state="open")
        assert (await gateway.get("/")).status == 503
        await pull(gateway, "/upstreams/circuit", upstream="a", state="auto")
        assert {(await gateway.get("/")).body for _ in range(4)} == {b"0", b"1"}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"upstream": "b", "target": "x"}, "no upstream 'b'"),
    ({"upstream": "a", "target": "x"}, "no target 'x'"),
    ({}, "no upstream None"),
]


@pytest.mark.parametrize(("parameters", "words"), WRONG)
async def test_levers_say_what_is_wrong(
    tmp_path: Path, origins: list[Origin], parameters: dict[str, Any], words: str
) -> None:
    async with running(tmp_path, several(origins[:1]) + route("/") + ADMIN) as gateway:
        answer = await pull(gateway, "/upstreams/drain", **parameters)
        assert answer.status == 400
        assert words in json.loads(answer.body)["detail"]
        wrong = await pull(gateway, "/upstreams/circuit", upstream="a", state="ajar")
        assert "open, close, auto" in json.loads(wrong.body)["detail"]
        none = await pull(gateway, "/upstreams/circuit", upstream="a", state="open")
        assert "no circuit breaker" in json.loads(none.body)["detail"]
        assert (await pull(gateway, "/upstreams/drain", token="x", upstream="a")).status in (401, 403)


async def test_health_tells_of_each_target(tmp_path: Path, origins: list[Origin]) -> None:
    origins[1].script = [reply(503)]
    text = several(origins[:2], "health.path = /health", "health.fast_interval = 20ms")
    text += (
        several(origins[2:], "breaker.enabled = yes", name="b") + route("/") + "\n[health]\npath = /health\n" + ADMIN
    )
    async with running(tmp_path, text) as gateway:
        targets = gateway.service.generation.upstreams["a"].targets.targets
        while targets[1].state != "unhealthy":
            await asyncio.sleep(0.01)
        answer = await gateway.get("/health")
        assert answer.status == 200
        told = json.loads(answer.body)["upstreams"]
        assert [target["status"] for target in told["a"]["targets"]] == ["healthy", "unhealthy"]
        await pull(gateway, "/upstreams/circuit", upstream="b", state="open")
        gateway.service.generation.upstreams["b"].targets.tick(0.0)
        await asyncio.sleep(1.05)  # the answer is kept for a second
        answer = await gateway.get("/health")
        assert answer.status == 503
        assert json.loads(answer.body)["upstreams"]["b"]["targets"][0]["status"] == "circuit_forced_open"
        assert not any(name.startswith("apigw_upstream_requests_total") for name in await metrics(gateway))


async def test_health_tells_of_a_service_that_nobody_checks_and_that_is_gone(
    tmp_path: Path, origins: list[Origin]
) -> None:
    text = several(origins[:1]) + several(origins[1:2], name="b") + route("/") + "\n[health]\npath = /health\n"
    async with running(tmp_path, text) as gateway:
        await origins[1].stop()
        answer = await gateway.get("/health")
        assert answer.status == 503
        told = json.loads(answer.body)
        assert (told["gateway"], told["upstreams"]["a"]["status"]) == ("healthy", "healthy")
        target = {"name": address(origins[1]), "status": "unreachable"}
        assert told["upstreams"]["b"] == {"status": "unhealthy", "targets": [target]}
        await origins[1].start(origins[1].port)
        await asyncio.sleep(1.05)  # the answer is kept for a second
        assert (await gateway.get("/health")).status == 200
        assert asked(origins) == [0, 0, 0]


async def test_tcp_checks(tmp_path: Path, origins: list[Origin]) -> None:
    with refusing_port() as port:
        text = several(origins[:1], "health.type = tcp", "health.fast_interval = 20ms")
        text = text.replace("targets =", f"targets =\n    http://127.0.0.1:{port}") + route("/")
        async with running(tmp_path, text) as gateway:
            targets = gateway.service.generation.upstreams["a"].targets.targets
            while targets[0].state != "unhealthy":
                await asyncio.sleep(0.01)
            assert targets[1].state == "healthy"
            assert origins[0].requests == []


# ---- reload, discovery -----------------------------------------------------------------------------------------------


async def test_a_reload_that_changes_targets_keeps_pools_and_circuits_of_the_others(
    tmp_path: Path, origins: list[Origin]
) -> None:
    origins[0].script = [reply(500)]
    options = (*TRIPS, "balance = round_robin", "outlier.enabled = no", "panic_threshold = 0%")
    async with running(tmp_path, several(origins[:2], *options) + route("/")) as gateway:
        for _ in range(4):
            await gateway.get("/")
        before = gateway.service.generation.upstreams["a"]
        await gateway.reload(several(origins, *options) + route("/") + route("/new", name="new"))
        after = gateway.service.generation.upstreams["a"]
        assert after is before
        assert [target.breaker.state.value for target in after.targets.targets] == ["open", "closed", "closed"]  # type: ignore[union-attr]
        assert {(await gateway.get("/")).body for _ in range(4)} == {b"1", b"2"}
        assert len(origins[1].connections) == 1
        await gateway.reload(several([origins[0], origins[2]], *options) + route("/"))
        assert {(await gateway.get("/")).body for _ in range(4)} == {b"2"}
        await origins[1].connections[0].until_closed()


async def test_a_reload_of_other_options_forgets_no_circuit_no_ejection_and_no_drain(
    tmp_path: Path, origins: list[Origin]
) -> None:
    origins[0].script = [reply(500)]
    async with running(tmp_path, several(origins, *TRIPS, "balance = round_robin") + route("/") + ADMIN) as gateway:
        for _ in range(6):
            await gateway.get("/")
        await pull(gateway, "/upstreams/drain", upstream="a", target=address(origins[1]))
        for number in range(3):
            options = (*TRIPS, "balance = round_robin", f"timeout.response = {number + 1}s")
            await gateway.reload(several(origins, *options) + route("/") + ADMIN)
        first, second, third = gateway.service.generation.upstreams["a"].targets.targets
        assert first.breaker is not None
        assert (first.breaker.state.value, second.state, third.state) == ("open", "draining", "healthy")
        assert len(first.breaker._listeners) == 2  # the log's, and that of the one target set in force
        assert {(await gateway.get("/")).body for _ in range(3)} == {b"2"}
        assert third.breaker is not None
        await gateway.reload(several(origins[:2], *TRIPS) + route("/") + ADMIN)
        assert len(third.breaker._listeners) == 1  # nothing that is out of use is held by what may live on


async def test_a_reload_that_fails_leaves_targets_as_they_are(tmp_path: Path, origins: list[Origin]) -> None:
    async with running(tmp_path, several(origins[:1]) + route("/")) as gateway:
        await gateway.reload(several(origins[1:2]) + route("/") + "\n[route b]\npath = /b\nupstream = nobody\n")
        assert gateway.service.last_error is not None
        assert (await gateway.get("/")).body == b"0"


async def test_targets_from_a_file_come_and_go_and_no_request_in_flight_is_cut(
    tmp_path: Path, origins: list[Origin]
) -> None:
    late: Deferred[None] = Deferred()
    origins[0].script = [[late, reply(200, b"in flight")]]
    file = tmp_path / "targets"
    file.write_text(address(origins[0]) + "\n")
    text = f"[upstream a]\ntargets = file:{file}\ndiscover_interval = 20ms\n" + route("/")
    async with running(tmp_path, text) as gateway:
        upstream_a = gateway.service.generation.upstreams["a"]
        while not upstream_a.targets.targets:
            await asyncio.sleep(0.01)
        client = await gateway.connect()
        client.send(request("/"))
        await origins[0].request()
        file.write_text(address(origins[1]) + "\n")
        while [target.name for target in upstream_a.targets.targets] != [address(origins[1])]:
            await asyncio.sleep(0.01)
        assert (await gateway.get("/")).body == b"1"
        await gateway.reload(text.replace("20ms", "30ms"))
        assert (await gateway.get("/")).body == b"1"  # at once, not only after the first look
        await gateway.reload(text.replace("20ms", "1h\nretry.attempts = 3"))
        assert (await gateway.get("/")).body == b"1"  # although other options made it a new one
        late.callback(None)
        assert (await client.read_response()).body == b"in flight"
        await origins[0].connections[0].until_closed()


async def test_the_client_of_an_upstream_shares_its_fallback_and_its_circuit(
    tmp_path: Path, origins: list[Origin]
) -> None:
    origins[0].script = [reply(500)]
    text = several(origins[:1], *TRIPS, "breaker.fallback_upstream = b") + several(origins[1:2], name="b")
    async with running(tmp_path, text + split(origins).replace("route a", "route s")) as gateway:
        ask = gateway.service.generation.upstreams.clients["a"]
        codes = [(await ask.get("/x")).code for _ in range(3)]
        assert codes == [500, 500, 200]
        assert (await (await gateway.service.generation.upstreams.clients["s"].get("/y")).content()) in (
            b"0",
            b"1",
            b"",
        )
