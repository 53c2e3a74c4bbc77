"""Targets that are found: by DNS (a real server), from a file, from a registry; through the whole gateway."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.names import dns

from tests.gateway.running import Gateway, request, route, running
from tests.name_server import NameServer
from tests.origins import Origin, Received, reply


@pytest_twisted.async_yield_fixture()
async def names() -> AsyncIterator[NameServer]:
    """A name server."""
    server = NameServer()
    yield server
    await server.stop()


@pytest_twisted.async_yield_fixture()
async def origins() -> AsyncIterator[list[Origin]]:
    """Two services that say which they are."""
    started = [await Origin([reply(200, b"%d" % number)]).start() for number in range(2)]
    yield started
    for origin in started:
        await origin.stop()


def asking(names: NameServer, *lines: str) -> str:
    """A configuration with these targets, which asks that server."""
    servers = f"[gateway]\nname_servers = 127.0.0.1:{names.port}\n"
    return servers + "\n".join(["[upstream a]", *lines, "discover_interval = 50ms", ""]) + route("/")


async def until(gateway: Gateway, holds: Callable[[list[str]], bool]) -> list[str]:
    """Wait until it holds for the names of the targets; those."""
    while True:
        found = [target.name for target in gateway.service.generation.upstreams["a"].targets.targets]
        if holds(found):
            return found
        await asyncio.sleep(0.01)


async def failing(gateway: Gateway) -> None:
    """Wait until a source has failed."""
    discovery = gateway.service.generation.upstreams["a"].discovery
    assert discovery is not None
    while not discovery.sources[0].failures:
        await asyncio.sleep(0.01)


async def test_addresses_are_asked_for_again_when_their_time_is_over_and_the_last_ones_outlive_the_server(
    tmp_path: Path, names: NameServer, origins: list[Origin], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apigw.net.dns_queries.ROUNDS", (0.2,))
    names.say("orders.test", dns.Record_A("127.0.0.2", ttl=1))
    port = origins[0].port
    async with running(tmp_path, asking(names, f"targets = dns:orders.test:{port}")) as gateway:
        assert await until(gateway, bool) == [f"http://127.0.0.2:{port}"]
        names.say("orders.test", dns.Record_A("127.0.0.1", ttl=1))
        await until(gateway, lambda found: found == [f"http://127.0.0.1:{port}"])
        assert (await gateway.get("/")).body == b"0"
        await names.stop()
        known = gateway.service.shared.names.kept("orders.test", "ipv4")[0]
        while not known.error:
            await asyncio.sleep(0.01)
        assert (await gateway.get("/")).body == b"0"


async def test_services_have_their_ports_weights_and_backups(
    tmp_path: Path, names: NameServer, origins: list[Origin]
) -> None:
    names.say("host.test", dns.Record_A("127.0.0.1", ttl=1))
    services = [dns.Record_SRV(1, 5, origin.port, "host.test", ttl=1) for origin in origins]
    names.say("_http._tcp.orders.test", *services)
    options = ("targets = srv:_http._tcp.orders.test", "balance = round_robin")
    async with running(tmp_path, asking(names, *options)) as gateway:
        await until(gateway, lambda found: len(found) == 2)
        assert Counter([(await gateway.get("/")).body for _ in range(8)]) == {b"0": 4, b"1": 4}
        services[0] = dns.Record_SRV(1, 15, origins[0].port, "host.test", ttl=1)
        names.say("_http._tcp.orders.test", *services)
        weights = gateway.service.generation.upstreams["a"].targets
        await until(gateway, lambda _: sorted(each.weight for each in weights.targets) == [5, 15])
        assert Counter([(await gateway.get("/")).body for _ in range(8)]) == {b"0": 6, b"1": 2}
        services[0] = dns.Record_SRV(2, 15, origins[0].port, "host.test", ttl=1)
        names.say("_http._tcp.orders.test", *services)
        await until(gateway, lambda _: any(each.backup for each in weights.targets))
        assert {(await gateway.get("/")).body for _ in range(8)} == {b"1"}
        await origins[1].stop()
        assert {(await gateway.get("/")).body for _ in range(8)} == {b"0"}


async def test_a_registry_is_asked_with_its_etag_and_its_failures_change_nothing(
    tmp_path: Path, names: NameServer, origins: list[Origin]
) -> None:
    answer = reply(200, json.dumps({"targets": [f"http://127.0.0.1:{origins[0].port}"]}).encode(), (b"ETag", b'"1"'))

    def registry(asked: Received) -> bytes:
        return reply(304) if asked.values(b"if-none-match") == [b'"1"'] and b'"1"' in answer else answer

    origin = await Origin([registry]).start()
    try:
        lines = f"discover = http://127.0.0.1:{origin.port}/targets.json"
        async with running(tmp_path, asking(names, lines)) as gateway:
            await until(gateway, bool)
            await origin.request(2)
            assert [each.values(b"if-none-match") for each in origin.requests[:3]] == [[], [b'"1"'], [b'"1"']]
            answer = reply(500)
            await failing(gateway)
            assert (await gateway.get("/")).body == b"0"
            answer = reply(200, json.dumps([{"target": f"http://127.0.0.1:{origins[1].port}"}]).encode())
            await until(gateway, lambda found: found == [f"http://127.0.0.1:{origins[1].port}"])
            assert (await gateway.get("/")).body == b"1"
    finally:
        await origin.stop()


async def test_a_target_that_dns_takes_away_ends_its_requests_first(
    tmp_path: Path, names: NameServer, origins: list[Origin]
) -> None:
    names.say("one.test", dns.Record_A("127.0.0.1", ttl=1))
    names.say("_http._tcp.orders.test", dns.Record_SRV(1, 1, origins[0].port, "one.test", ttl=1))
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    late: Deferred[None] = Deferred()
    origins[0].script = [[head + b"in", late, b"!!"]]
    async with running(tmp_path, asking(names, "targets = srv:_http._tcp.orders.test")) as gateway:
        await until(gateway, bool)
        client = await gateway.connect()
        client.send(request("/"))
        await client.until_received(b"in")
        names.say("_http._tcp.orders.test", dns.Record_SRV(1, 1, origins[1].port, "one.test", ttl=1))
        await until(gateway, lambda found: found == [f"http://127.0.0.1:{origins[1].port}"])
        assert (await gateway.get("/")).body == b"1"
        late.callback(None)
        assert (await client.read_response()).body == b"in!!"


async def test_a_reload_may_name_other_servers(tmp_path: Path, names: NameServer, origins: list[Origin]) -> None:
    text = asking(names, f"targets = dns:orders.test:{origins[0].port}")
    async with running(tmp_path, text.replace(str(names.port), "9", 1)) as gateway:
        await gateway.reload(text.replace("orders.test", "elsewhere.test") + "[nonsense]\n")
        assert gateway.service.shared.names.servers == (("127.0.0.1", 9),)
        names.say("orders.test", dns.Record_A("127.0.0.1", ttl=60))
        await gateway.reload(text.replace("50ms", "60ms"))
        await until(gateway, bool)
        assert (await gateway.get("/")).body == b"0"
