"""Names of services through the whole gateway: a name server that hangs, fails, or says that a service moved."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.names import dns

from tests.gateway.running import Gateway, request, route, running, upstream
from tests.name_server import NameServer
from tests.origins import Origin, reply


@pytest_twisted.async_yield_fixture()
async def names() -> AsyncIterator[NameServer]:
    """A name server."""
    server = NameServer()
    yield server
    await server.stop()


@pytest_twisted.async_yield_fixture()
async def service() -> AsyncIterator[Origin]:
    """A service on 127.0.0.1."""
    origin = await Origin([reply(200, b"one")]).start()
    yield origin
    await origin.stop()


def asking(names: NameServer, *sections: str) -> str:
    """A configuration that asks that server."""
    return "\n".join([f"[gateway]\nname_servers = 127.0.0.1:{names.port}\n", *sections])


def named(name: str, host: str, port: int, *options: str) -> str:
    """An upstream with one target, and its route."""
    lines = [f"[upstream {name}]", f"targets = http://{host}:{port}", *options, ""]
    return "\n".join(lines) + route(f"/{name}", name=name, to=name)


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


def targets(gateway: Gateway) -> list[str]:
    return [target.name for target in gateway.service.generation.upstreams["a"].targets.targets]


async def test_names_that_nobody_answers_for_hold_up_no_other_service(
    tmp_path: Path, names: NameServer, service: Origin
) -> None:
    sections = []
    for number in range(12):
        names.hang(f"dead{number}.test", dns.A, dns.AAAA)
        sections.append(named(f"dead{number}", f"dead{number}.test", 80, "health.path = /", "timeout.connect = 1s"))
    names.say("live.test", dns.Record_A("127.0.0.1", ttl=60))
    sections += [
        named("literal", "127.0.0.1", service.port),
        named("local", "localhost", service.port),
        named("live", "live.test", service.port),
    ]
    async with running(tmp_path, asking(names, *sections)) as gateway:
        waiting = [Deferred.fromCoroutine(gateway.get(f"/dead{number}")) for number in range(12)]
        began = time.monotonic()
        for path in ("/literal", "/local", "/live"):
            assert (await gateway.get(path)).body == b"one"
        assert time.monotonic() - began < 0.7
        for each in waiting:
            response = await each
            assert (response.status, json.loads(response.body)["reason"]) == (504, "upstream_connect_timeout")


async def test_a_name_that_does_not_exist_is_502_at_once(tmp_path: Path, names: NameServer) -> None:
    async with running(tmp_path, asking(names, named("a", "none.test", 80))) as gateway:
        response = await gateway.get("/a")
        assert (response.status, json.loads(response.body)["reason"]) == (502, "upstream_unresolved")


async def test_idle_connections_to_an_address_that_is_gone_are_closed(
    tmp_path: Path, names: NameServer, service: Origin
) -> None:
    other = await Origin([reply(200, b"two")]).start(service.port, host="127.0.0.2")
    names.say("orders.test", dns.Record_A("127.0.0.1", ttl=1))
    async with running(tmp_path, asking(names, named("a", "orders.test", service.port))) as gateway:
        assert (await gateway.get("/a")).body == b"one"
        names.say("orders.test", dns.Record_A("127.0.0.2", ttl=1))
        await until(lambda: service.connections[0].closed)
        assert (await gateway.get("/a")).body == b"two"
        await names.stop()  # without an answer, the last addresses hold
        kept = gateway.service.shared.names.kept("orders.test", "ipv4")[0]
        await until(lambda: kept.error)
        assert (await gateway.get("/a")).body == b"two"
        assert len(other.connections) == 1
    await other.stop()


async def test_a_family_whose_look_up_fails_or_hangs_changes_nothing_of_a_dns_source(
    tmp_path: Path, names: NameServer, service: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apigw.net.dns_queries.ROUNDS", (0.2,))
    names.say("orders.test", dns.Record_A("127.0.0.1", ttl=1), dns.Record_AAAA("fd00::1", ttl=1))
    names.hang("orders.test", dns.AAAA)
    port = service.port
    text = asking(names, "[upstream a]", f"targets = dns:orders.test:{port}", route("/"))
    async with running(tmp_path, text) as gateway:
        await until(lambda: targets(gateway))
        assert targets(gateway) == [f"http://127.0.0.1:{port}"]
        assert (await gateway.get("/")).body == b"one"
        names.recover()
        both = [f"http://127.0.0.1:{port}", f"http://[fd00::1]:{port}"]
        await until(lambda: targets(gateway) == both)
        names.fail("orders.test", dns.A)
        kept = gateway.service.shared.names.kept("orders.test", "ipv4")[0]
        await until(lambda: kept.error)
        names.say("orders.test", dns.Record_AAAA("fd00::2", ttl=1))
        await until(lambda: targets(gateway) == [f"http://127.0.0.1:{port}", f"http://[fd00::2]:{port}"])


@pytest.mark.parametrize("line", ["dns:orders.test:{port}", "srv:_http._tcp.orders.test", "http://orders.test:{port}"])
async def test_resolve_says_which_addresses_are_used(
    tmp_path: Path, names: NameServer, service: Origin, line: str
) -> None:
    names.say("orders.test", dns.Record_A("127.0.0.1", ttl=60), dns.Record_AAAA("fd00::1", ttl=60))
    names.say("_http._tcp.orders.test", dns.Record_SRV(1, 1, service.port, "orders.test", ttl=60))
    target = line.format(port=service.port)
    async with running(
        tmp_path, asking(names, f"[upstream a]\ntargets = {target}\nresolve = ipv4", route("/"))
    ) as gateway:
        await until(lambda: targets(gateway))
        assert (await gateway.get("/")).body == b"one"
        assert len(targets(gateway)) == 1
        assert ("orders.test", dns.AAAA) not in names.asked


async def test_a_host_of_a_service_that_nobody_answers_for_does_not_hold_up_the_others(
    tmp_path: Path, names: NameServer, service: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apigw.upstream.discovery.srv.LONGEST_LOOKUP", 0.1)
    names.say("live.test", dns.Record_A("127.0.0.1", ttl=60))
    names.hang("dead.test", dns.A, dns.AAAA)
    hosts = [dns.Record_SRV(1, 1, service.port, host, ttl=60) for host in ("dead.test", "live.test")]
    names.say("_http._tcp.orders.test", *hosts)
    text = asking(names, "[upstream a]\ntargets = srv:_http._tcp.orders.test", route("/"))
    async with running(tmp_path, text) as gateway:
        await until(lambda: targets(gateway))
        assert (await gateway.get("/")).body == b"one"


async def test_what_policies_and_registries_are_asked_by_has_names_too(
    tmp_path: Path, names: NameServer, service: Origin
) -> None:
    names.say("registry.test", dns.Record_A("127.0.0.1", ttl=60))
    registry = await Origin([reply(200, b'["http://127.0.0.1:%d"]' % service.port)]).start()
    text = asking(names, f"[upstream a]\ndiscover = http://registry.test:{registry.port}/", route("/"))
    async with running(tmp_path, text) as gateway:
        await until(lambda: targets(gateway))
        assert (await gateway.get("/")).body == b"one"
    await registry.stop()


async def test_connections_end_by_age_and_by_requests(tmp_path: Path, service: Origin) -> None:
    port = service.port
    text = upstream(port, more="pool.max_requests_per_connection = 3") + route("/")
    text += upstream(port, "b", "pool.max_age = 200ms") + route("/b", name="b", to="b")
    async with running(tmp_path, text) as gateway:
        client = await gateway.connect()
        for _ in range(7):
            client.send(request("/"))
            assert (await client.read_response()).body == b"one"
        assert [len(each.requests) for each in service.connections] == [3, 3, 1]
        before = len(service.connections)
        client.send(request("/b"))
        await client.read_response()
        old = service.connections[before]
        await until(lambda: old.closed)
        client.send(request("/b"))
        await client.read_response()
        assert len(service.connections) == before + 2
        pool = gateway.service.generation.upstreams["b"].targets.targets[0].pool
        await until(lambda: not pool.connections)


async def test_a_connection_that_is_too_old_ends_its_exchange_first(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    late: Deferred[None] = Deferred()
    origin = await Origin([[head + b"in", late, b"!!"]]).start()
    text = upstream(origin.port, more="pool.max_age = 100ms") + route("/")
    async with running(tmp_path, text) as gateway:
        client = await gateway.connect()
        client.send(request("/"))
        await client.until_received(b"in")
        await asyncio.sleep(0.25)
        late.callback(None)
        assert (await client.read_response()).body == b"in!!"
        await until(lambda: origin.connections[0].closed)
    await origin.stop()


async def test_the_operators_log_has_no_line_for_each_question(
    tmp_path: Path, names: NameServer, service: Origin
) -> None:
    names.say("orders.test", dns.Record_A("127.0.0.1", ttl=1))
    text = asking(names, "[upstream a]", f"targets = dns:orders.test:{service.port}", route("/"))
    events: list[LogEvent] = []
    observer = cast("ILogObserver", events.append)
    globalLogPublisher.addObserver(observer)
    try:
        async with running(tmp_path, text) as gateway:
            await until(lambda: targets(gateway))
            await until(lambda: names.asked["orders.test", dns.A] > 1)
    finally:
        globalLogPublisher.removeObserver(observer)
    # Those of the name server are the test's own.
    assert not [event for event in events if "twisted.names" in str(event.get("log_namespace"))]
    assert len(events) < 10
