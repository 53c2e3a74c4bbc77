"""How many clients may be connected, and who must go when there are more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from apigw.gateway.room import Room
from tests.certificates import Authority
from tests.gateway.running import Gateway, request, route, running, upstream
from tests.gateway.test_listeners import listen
from tests.origins import Origin, RawClient, reply

GET = request("/")


@pytest_twisted.async_yield_fixture()
async def origin() -> AsyncIterator[Origin]:
    origin = await Origin([reply(200, b"hello")]).start()
    yield origin
    await origin.stop()


async def served(gateway: Gateway) -> RawClient:
    client = await gateway.connect()
    client.send(GET)
    assert (await client.read_response()).status == 200
    return client


async def test_the_client_that_is_idle_longest_makes_room(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        first, second = await served(gateway), await served(gateway)
        first.send(GET)
        assert (await first.read_response()).status == 200
        gateway.service.shared.room.most = 2
        gateway.service.shared.room._left = 0
        third = await served(gateway)
        await second.until_closed()
        for client in (first, third):
            client.send(GET)
            assert (await client.read_response()).status == 200
        assert gateway.service.shared.room.closed == 1


async def test_clients_that_connect_and_say_nothing_make_room(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        gateway.service.shared.room.most = 5
        gateway.service.shared.room._left = 0
        for _ in range(20):
            await gateway.connect()
        for _ in range(20):
            assert (await gateway.get("/")).status == 200
        assert gateway.service.listening["public"].connections <= 6


async def test_clients_at_work_stay_and_the_next_one_is_refused(tmp_path: Path, origin: Origin) -> None:
    never: Deferred[None] = Deferred()
    origin.script = [[never, reply(200, b"late")], [never, reply(200, b"late")]]
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        gateway.service.shared.room.most = 2
        gateway.service.shared.room._left = 0
        clients = [await gateway.connect() for _ in range(2)]
        for number, client in enumerate(clients):
            client.send(GET)
            await origin.request(number)
        for method in ("GET", "HEAD"):
            refused = await gateway.connect()
            refused.send(request("/", method=method))
            response = await refused.read_response(method.encode())
            assert (response.status, response.value(b"retry-after")) == (503, b"1")
            await refused.until_closed()
            assert refused.unread == b""
        never.callback(None)
        for client in clients:
            assert (await client.read_response()).body == b"late"


@pytest.mark.parametrize("options", [("tls.certificates = shop.pem",), ("proxy_protocol = yes",)])
async def test_clients_that_do_not_begin_make_room(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.setattr("apigw.gateway.listening.SLOW", 0.0)
    Authority().issue("shop.example").write(tmp_path / "shop.pem")
    async with running(tmp_path, upstream(origin.port) + route("/") + listen(*options)) as gateway:
        gateway.service.shared.room.most = 3
        gateway.service.shared.room._left = 0
        clients = []
        for _ in range(6):
            clients.append(await gateway.connect())
            while gateway.service.listening["public"].connections == 0:
                await asyncio.sleep(0.001)
        for client in clients[:2]:
            await client.until_closed()
        assert gateway.service.listening["public"].connections <= 3


async def test_a_low_limit_of_open_files_is_warned_of(tmp_path: Path, origin: Origin) -> None:
    text = upstream(origin.port) + route("/") + listen("max_connections = 100000")
    async with running(tmp_path, text) as gateway:
        gateway.service._descriptors.limit = 1024
        with capturedLogs() as captured:
            gateway.service._keep_room(1024)
        room = gateway.service.shared.room
        assert 100 < room.most < 448
        assert room.spare == 128
        assert [event["log_level"].name for event in captured] == ["warn", "warn"]
        assert all(event["most"] == room.most for event in captured)


async def test_a_head_refused_on_the_tls_port_has_no_content(tmp_path: Path, origin: Origin) -> None:
    Authority().issue("shop.example").write(tmp_path / "shop.pem")
    async with running(tmp_path, upstream(origin.port) + route("/") + listen("tls.certificates = shop.pem")) as gateway:
        plain = await gateway.connect()
        plain.send(request("/", method="HEAD"))
        assert (await plain.read_response(b"HEAD")).status == 400
        await plain.until_closed()
        assert plain.unread == b""


class Pool:
    def __init__(self, connections: int, idle: int) -> None:
        self.open = connections
        self.idle = idle

    def close_idle(self, most: int) -> int:
        closed = min(most, self.idle)
        self.idle -= closed
        self.open -= closed
        return closed


def test_idle_connections_to_services_are_closed_when_all_are_too_many() -> None:
    room = Room(lambda: 0.0)
    room.most, room.spare = 100, 20
    pools = [Pool(60, 10), Pool(90, 50), Pool(10, 10)]
    room.pools = lambda: pools
    room.check()
    assert [pool.open for pool in pools] == [50, 50, 10]
    room.check()
    assert [pool.open for pool in pools] == [50, 50, 10]


class Busy:
    connections = 10

    def __init__(self) -> None:
        self.asked = 0

    def idle(self) -> list[tuple[float, Callable[[], bool]]]:
        self.asked += 1
        return []


def test_idle_clients_are_not_looked_for_again_and_again() -> None:
    now = 0.0
    room, crowd = Room(lambda: now), Busy()
    room.most = 10
    room.crowds = lambda: [crowd]
    assert not any(room.take() for _ in range(100))
    assert crowd.asked == 1
    now = 1.0
    assert not room.take()
    assert crowd.asked == 2
    crowd.connections = 9
    now = 2.0
    assert room.take()


# The rate at which content comes


async def test_a_route_may_want_another_rate_than_the_listener(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apigw.downstream.h1_requests.GRACE", 0.1)
    text = upstream(origin.port) + route("/") + route("/slow", "min_rate = 0", name="slow")
    async with running(tmp_path, text + listen("min_rate = 1KiB")) as gateway:
        slow, dripping = await gateway.connect(), await gateway.connect()
        for client, path in ((slow, "/slow"), (dripping, "/")):
            client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345".encode())
        response = await dripping.read_response()
        assert (response.status, response.value(b"connection")) == (408, b"close")
        assert gateway.logged()[-1]["reason"] == "body_too_slow"
        slow.send(b"67890")
        assert (await slow.read_response()).status == 200


async def unsent_answer(gateway: Gateway, page: bytes) -> tuple[RawClient, bytes]:
    """A client that does not read, after as many requests as it takes to leave a part of an answer unsent."""
    client = await gateway.connect()
    client.transport.pause_reading()
    answered = 0
    channel: Any = next(iter(gateway.service.listening["public"].site.connections))
    while not channel._transport.get_write_buffer_size():
        client.send(GET)
        answered += 1
        while len(gateway.logged()) < answered:
            await asyncio.sleep(0.001)
    assert not channel._write_paused
    return client, page * answered


PAGE = b"x" * 60_000
RESPOND = "[route a]\npath = /\npolicies = respond\nupstream = a\n[respond]\nfile = page.txt\n"


async def test_a_client_that_has_not_received_its_answer_is_not_idle(tmp_path: Path, origin: Origin) -> None:
    (tmp_path / "page.txt").write_bytes(PAGE)
    async with running(tmp_path, upstream(origin.port) + RESPOND) as gateway:
        client, expected = await unsent_answer(gateway, PAGE)
        gateway.service.shared.room.most = 1
        gateway.service.shared.room._left = 0
        refused = await gateway.connect()
        refused.send(GET)
        assert (await refused.read_response()).status == 503
        client.transport.resume_reading()
        for _ in range(len(expected) // len(PAGE)):
            assert (await client.read_response()).body == PAGE


async def test_draining_sends_answers_to_their_end(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apigw.downstream.h1_channel.DRAIN_GRACE", 0.0)
    (tmp_path / "page.txt").write_bytes(PAGE)
    async with running(tmp_path, upstream(origin.port) + RESPOND) as gateway:
        client, expected = await unsent_answer(gateway, PAGE)
        stopped = gateway.service.stopService()
        await asyncio.sleep(0.15)
        client.transport.resume_reading()
        for _ in range(len(expected) // len(PAGE)):
            assert (await client.read_response()).body == PAGE
        await client.until_closed()
        await stopped
