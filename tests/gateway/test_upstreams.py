"""Options of ``[upstream]`` that are about connections, through the whole gateway."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from tests.certificates import Authority
from tests.gateway.running import Gateway, request, route, running, upstream
from tests.origins import BODY, Origin, refusing_port, reply, silent_port

GET = request("/")


@pytest_twisted.async_yield_fixture()
async def origin() -> AsyncIterator[Origin]:
    origin = await Origin([reply(200, b"hello")]).start()
    yield origin
    await origin.stop()


async def reason(gateway: Gateway, path: str = "/") -> tuple[int, str]:
    """Status and reason code of a request that fails, the same to the client and in the log."""
    response = await gateway.get(path)
    line = gateway.logged()[-1]
    assert line["status"] == response.status
    assert f'"reason": "{line["reason"]}"'.encode() in response.body
    return response.status, line["reason"]


async def test_connections_at_a_time_and_the_queue(tmp_path: Path, origin: Origin) -> None:
    late: Deferred[None] = Deferred()
    origin.script = [[late, reply(200, b"late")], reply(200, b"next")]
    more = "pool.max_connections = 1\npool.queue = 1\npool.queue_timeout = 10s\n"
    async with running(tmp_path, upstream(origin.port, more=more) + route("/")) as gateway:
        clients = [await gateway.connect() for _ in range(2)]
        clients[0].send(GET)
        await origin.request()
        clients[1].send(GET)
        pool = gateway.service.generation.upstreams["a"].targets.targets[0].pool
        while pool.waiting < 1:
            await asyncio.sleep(0)
        overflow = await gateway.get("/")
        assert (overflow.status, overflow.value(b"retry-after")) == (503, b"1")
        assert gateway.logged()[-1]["reason"] == "upstream_overloaded"
        late.callback(None)
        assert (await clients[0].read_response()).body == b"late"
        assert (await clients[1].read_response()).body == b"next"
        assert len(origin.connections) == 1


async def test_who_waits_too_long_in_the_queue(tmp_path: Path, origin: Origin) -> None:
    late: Deferred[None] = Deferred()
    origin.script = [[late]]
    more = "pool.max_connections = 1\npool.queue_timeout = 100ms\n"
    async with running(tmp_path, upstream(origin.port, more=more) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(GET)
        await origin.request()
        assert await reason(gateway) == (503, "upstream_queue_timeout")
    late.callback(None)


async def test_idle_connections_are_bounded_in_number_and_time(tmp_path: Path, origin: Origin) -> None:
    late: Deferred[None] = Deferred()
    origin.script = [lambda _: [late, reply(200, b"late")]]
    more = "pool.max_idle = 1\npool.idle_timeout = 200ms\n"
    async with running(tmp_path, upstream(origin.port, more=more) + route("/")) as gateway:
        clients = [await gateway.connect() for _ in range(3)]
        for number, client in enumerate(clients):
            client.send(GET)
            await origin.request(number)
        late.callback(None)
        for client in clients:
            await client.read_response()
        pool = gateway.service.generation.upstreams["a"].targets.targets[0].pool
        assert len(pool.idle) == 1
        for connection in origin.connections:
            await connection.until_closed()
        assert pool.open == 0


async def test_a_connection_whose_exchange_outlasts_the_idle_time_is_closed_when_it_was_idle_for_that_time(
    tmp_path: Path, origin: Origin
) -> None:
    late: Deferred[None] = Deferred()
    origin.script = [lambda _: [late, reply(200, b"late")]]
    more = "pool.idle_timeout = 200ms\ntimeout.response = 60s\n"
    async with running(tmp_path, upstream(origin.port, more=more) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(GET)
        await origin.request(0)
        await asyncio.sleep(0.5)
        late.callback(None)
        await client.read_response()
        await origin.connections[0].until_closed()


async def test_time_outs_have_their_reason_codes(tmp_path: Path, origin: Origin) -> None:
    late: Deferred[None] = Deferred()
    origin.script = [
        [late],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", late],
    ]
    limits = "timeout.connect = 200ms\ntimeout.response = 200ms\ntimeout.idle = 200ms\n"
    with silent_port() as silent, refusing_port() as refusing:
        text = (
            upstream(origin.port, more=limits)
            + upstream(silent, "silent", more=limits)
            + upstream(refusing, "refusing", more=limits)
            + route("/")
            + route("/silent", name="silent", to="silent")
            + route("/refusing", name="refusing", to="refusing")
        )
        async with running(tmp_path, text) as gateway:
            assert await reason(gateway) == (504, "upstream_timeout")
            client = await gateway.connect()
            client.send(GET)
            await client.until_closed()
            assert client.received.endswith(b"\r\n\r\n12345")
            line = gateway.logged()[-1]
            assert (line["status"], line["reason"]) == (200, "upstream_timeout")
            assert await reason(gateway, "/silent") == (504, "upstream_connect_timeout")
            assert await reason(gateway, "/refusing") == (502, "upstream_refused")
    late.callback(None)


async def test_a_unix_target(tmp_path: Path) -> None:
    origin = await Origin([reply(200, b"hello")]).start(path=str(tmp_path / "origin.sock"))
    text = f"[upstream a]\ntargets = unix:{tmp_path}/origin.sock\n" + route("/")
    async with running(tmp_path, text) as gateway:
        assert (await gateway.get("/")).body == b"hello"
        assert origin.requests[0].values(b"host") != [b""]
    await origin.stop()


@pytest.mark.parametrize("chunked", [False, True])
async def test_content_after_content_that_filled_the_buffer_is_read(
    tmp_path: Path, origin: Origin, chunked: bool
) -> None:
    """The first content is complete, and more than is kept, before there is a connection to the service."""
    content = b"x" * 70_000
    framing = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 70000\r\n\r\n"
    body = b"11170\r\n" + content + b"\r\n0\r\n\r\n" if chunked else content
    post = b"POST / HTTP/1.1\r\nHost: shop.example\r\n" + framing + body
    late: Deferred[None] = Deferred()
    origin.script = [[late, reply(200, b"first")], reply(200, b"hello")]
    text = upstream(origin.port, more="pool.max_connections = 1\npool.queue = 5") + route("/")
    async with running(tmp_path, text) as gateway:
        first, client = [await gateway.connect() for _ in range(2)]
        first.send(GET)
        await origin.request()
        channels: Any = gateway.service.listening["public"].site.connections
        client.send(post[:200])
        while not any(channel._body for channel in channels):
            await asyncio.sleep(0.001)
        client.send(post[200:] + post[:200])
        while not any(channel._buffer for channel in channels):  # what follows the content
            await asyncio.sleep(0.001)
        late.callback(None)
        assert (await client.read_response()).body == b"hello"
        client.send(post[200:])
        assert (await client.read_response()).body == b"hello"
        assert [each.body for each in origin.requests] == [b"", content, content]


async def test_a_client_that_leaves_after_its_content_is_noticed(tmp_path: Path, origin: Origin) -> None:
    late: Deferred[None] = Deferred()
    origin.script = [[late, reply(200, b"first")]]
    text = upstream(origin.port, more="pool.max_connections = 1\npool.queue = 5") + route("/")
    async with running(tmp_path, text) as gateway:
        first, client = [await gateway.connect() for _ in range(2)]
        first.send(GET)
        await origin.request()
        post = request("/", method="POST", body=b"x" * 70_000)
        client.send(post[:200])
        pool = gateway.service.generation.upstreams["a"].targets.targets[0].pool
        while pool.waiting < 1:
            await asyncio.sleep(0)
        client.send(post[200:])
        await asyncio.sleep(0.02)  # all of its content is there
        client.transport.abort()
        while not gateway.logged():
            await asyncio.sleep(0.001)
        assert gateway.logged()[0]["reason"] == "client_gone"
        late.callback(None)
        assert (await first.read_response()).body == b"first"


class Secure:
    """An https origin with a certificate of an authority of its own."""

    def __init__(self, folder: Path, *names: str) -> None:
        authority = Authority()
        authority.write(folder / "ca.pem")
        leaf = authority.issue(*names).write(folder / "origin.pem")
        authority.issue("gateway.example", client=True).write(folder / "client.pem")
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
        self.tls.load_cert_chain(leaf)
        self.origin = Origin([reply(200, b"hello")])


@pytest.mark.parametrize(
    ("names", "options", "status"),
    [
        (["localhost"], "tls.ca = ca.pem", 200),
        (["localhost"], "", 502),  # the system does not know this authority
        (["other.example"], "tls.ca = ca.pem", 502),
        (["other.example"], "tls.ca = ca.pem\ntls.server_name = other.example", 200),
    ],
    ids=["own authority", "unknown authority", "wrong name", "another name"],
)
async def test_an_https_target(tmp_path: Path, names: list[str], options: str, status: int) -> None:
    secure = Secure(tmp_path, *names)
    await secure.origin.start(tls=secure.tls)
    text = f"[upstream a]\ntargets = https://localhost:{secure.origin.port}\n{options}\n" + route("/")
    async with running(tmp_path, text) as gateway:
        if status == 200:
            assert (await gateway.get("/")).body == b"hello"
            assert secure.origin.requests[0].values(b"host") == [b"localhost:%d" % secure.origin.port]
        else:
            events: list[LogEvent] = []
            observer: Any = events.append
            globalLogPublisher.addObserver(observer)
            assert await reason(gateway) == (502, "upstream_tls_failed")
            assert await reason(gateway) == (502, "upstream_tls_failed")
            globalLogPublisher.removeObserver(observer)
            assert secure.origin.requests == []
            said = [text for event in events if "TLS with" in (text := formatEvent(event))]
            assert len(said) == 1, "why, and once"
            assert f"localhost:{secure.origin.port} failed: " in said[0]
    await secure.origin.stop()


async def test_a_certificate_of_our_own_is_shown(tmp_path: Path) -> None:
    secure = Secure(tmp_path, "localhost")
    secure.tls.verify_mode = ssl.CERT_REQUIRED
    await secure.origin.start(tls=secure.tls)
    text = f"[upstream a]\ntargets = https://localhost:{secure.origin.port}\ntls.ca = ca.pem\n"
    async with running(tmp_path, text + route("/")) as gateway:
        assert (await gateway.get("/")).status == 502
        await gateway.reload(text + "tls.certificate = client.pem\n" + route("/"))
        assert (await gateway.get("/")).body == b"hello"
    await secure.origin.stop()


async def test_round_robin_and_the_access_logs_target(tmp_path: Path) -> None:
    origins = [await Origin([reply(200, b"%d" % number)]).start() for number in range(3)]
    targets = ", ".join(f"http://127.0.0.1:{one.port}/base{number}" for number, one in enumerate(origins))
    async with running(tmp_path, f"[upstream a]\ntargets = {targets}\nbalance = round_robin\n" + route("/")) as gateway:
        bodies = [(await gateway.get("/x")).body for _ in range(6)]
        assert sorted(bodies) == [b"0", b"0", b"1", b"1", b"2", b"2"]
        assert bodies[:3] == bodies[3:]
        assert origins[1].requests[0].line == b"GET /base1/x HTTP/1.1"
        line = gateway.logged()[0]
        assert line["target"].startswith("127.0.0.1:") or line["target"].startswith("http://127.0.0.1:")
        assert line["tries"] == 1
    for one in origins:
        await one.stop()


async def test_a_kept_connection_that_turns_out_dead_costs_nobody_a_request(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(GET)
        assert (await client.read_response()).status == 200
        port = origin.port
        await origin.stop()
        await origin.start(port)
        client.send(GET)
        assert (await client.read_response()).status == 200


async def test_an_upload_meets_back_pressure(tmp_path: Path, origin: Origin) -> None:
    go_on: Deferred[None] = Deferred()
    origin.script = [[go_on, BODY, reply(200, b"all of it")]]
    size = 32 * 1024 * 1024
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        await origin.request()
        (await origin.connection()).pause()
        client.send(bytes(size))
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            await asyncio.sleep(0.05)
        assert client.transport.get_write_buffer_size() > size // 2  # it waits at the client
        (await origin.connection()).resume()
        go_on.callback(None)
        assert (await client.read_response()).body == b"all of it"
