"""Connections to targets whose name has several addresses, and many connections at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from apigw.exchange.errors import GatewayError
from apigw.http.h1_heads import ResponseHeads
from apigw.net.connecting import SocketAddress
from apigw.net.resolver import Resolver
from apigw.net.timers import Wheel
from apigw.upstream import pool as pools
from apigw.upstream.connection import UpstreamConnection
from apigw.upstream.dialling import Dialler, Dialling
from apigw.upstream.pool import Pool
from tests.origins import Origin, refusing_port, reply, silent_port


class Known(Resolver):
    """Names whose addresses are known."""

    def __init__(self, addresses: Iterable[str]) -> None:
        super().__init__()
        self.addresses_ = tuple(addresses)

    def find(self, name: str, families: Any, found: Callable[[tuple[str, ...], bool], None]) -> Callable[[], None]:
        assert name == "service.test"
        found(self.addresses_, True)
        return lambda: None


class Ports(Dialler):
    """Dials ports of this machine as if they were addresses."""

    def in_order(self, addresses: tuple[str, ...], now: float) -> list[SocketAddress]:
        return [(socket.AF_INET, ("127.0.0.1", int(each))) for each in addresses]


async def dialled(*ports: int) -> UpstreamConnection:
    """Dial a service that has these ports on this machine for its addresses."""
    dialling = Dialling(Known(map(str, ports)))
    dial = Ports(dialling, "service.test", 80, None, None, 5.0, "service.test", "any")
    pool = Pool(dial, Wheel(lambda: 0.0), ResponseHeads(), host=b"service.test")
    made: Deferred[UpstreamConnection] = Deferred()
    dial(lambda: UpstreamConnection(pool), made.callback, made.errback)
    return await made


async def test_an_address_that_is_silent_or_refuses_is_passed_over() -> None:
    origin = await Origin([reply(200, b"hello")]).start()
    with silent_port() as silent, refusing_port() as refusing:
        for ports in ([origin.port], [silent, origin.port], [refusing, origin.port], [silent, refusing, origin.port]):
            connection = await dialled(*ports)
            assert connection.usable
            connection.abort()
    await origin.stop()


async def test_a_name_whose_addresses_all_refuse() -> None:
    with refusing_port() as one, refusing_port() as other:
        for ports in ([one], [one, other]):
            with pytest.raises(GatewayError) as caught:
                await dialled(*ports)
            assert caught.value.reason == "upstream_refused"


async def test_a_name_without_addresses() -> None:
    with pytest.raises(GatewayError) as caught:
        await dialled()
    assert caught.value.reason == "upstream_unresolved"


def test_addresses_of_both_families_take_turns_and_those_that_failed_come_last() -> None:
    dialler = Dialling(Resolver()).dialler(host="service.test", port=80, timeout=1.0)
    addresses = ("::1", "::2", "10.0.0.1", "10.0.0.2")

    def order(now: float) -> list[str]:
        return [address[0] for _, address in dialler.in_order(addresses, now)]

    assert [order(0.0), order(0.0)] == [["::2", "10.0.0.2", "::1", "10.0.0.1"], ["::1", "10.0.0.1", "::2", "10.0.0.2"]]
    dialler.passed_over(["::2", "::1"], 30.0)
    assert order(0.0) == ["10.0.0.2", "10.0.0.1", "::2", "::1"]
    assert order(30.0)[0] == "::1"


class Waits:
    """Waits for a connection."""

    def __init__(self) -> None:
        self.got: Deferred[UpstreamConnection] = Deferred()

    def connected(self, connection: UpstreamConnection) -> None:
        self.got.callback(connection)

    def unconnected(self, error: GatewayError) -> None:
        self.got.errback(error)

    def abandoned(self) -> None: ...


async def test_of_many_requests_at_once_only_some_dial_and_all_get_their_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "MOST_DIALS", 8)
    origin = await Origin([reply(200)]).start()
    dial = Dialling(Resolver()).dialler(host="127.0.0.1", port=origin.port, timeout=5.0)
    pool = Pool(dial, Wheel(lambda: 0.0), ResponseHeads(), host=b"service.test", max_waiting=1)
    waiting = [Waits() for _ in range(40)]
    for waiter in waiting:
        pool.acquire(waiter, 0.0)
    assert (pool.open, pool.waiting) == (8, 40)
    for waiter in waiting:
        await waiter.got
    assert pool.open == 40
    pool.abort()
    await origin.stop()


async def test_requests_that_wait_for_a_silent_target_are_given_up_after_the_time_for_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pools, "MOST_DIALS", 1)
    monkeypatch.setattr(pools, "A_LOOK", 2)
    time = 0.0
    wheel = Wheel(lambda: time)
    with silent_port() as silent:
        dial = Dialling(Resolver()).dialler(host="127.0.0.1", port=silent, timeout=60.0)
        pool = Pool(dial, wheel, ResponseHeads(), host=b"service.test", connect_timeout=3.0)
        waiting = [Waits() for _ in range(5)]
        for waiter in waiting:
            pool.acquire(waiter, 0.0)
        for now, left in ((3.0, 5), (3.2, 3), (3.3, 1), (3.4, 0)):
            time = now
            wheel.tick()
            assert pool.waiting == left
        for waiter in waiting:
            with pytest.raises(GatewayError) as caught:
                await waiter.got
            assert caught.value.reason == "upstream_connect_timeout"
        pool.abort()


async def test_without_descriptors_a_request_waits_for_a_connection_that_becomes_free() -> None:
    origin = await Origin([reply(200)]).start()
    dial = Dialling(Resolver()).dialler(host="127.0.0.1", port=origin.port, timeout=5.0)
    pool = Pool(dial, Wheel(lambda: 0.0), ResponseHeads(), host=b"service.test")
    first, second, third = Waits(), Waits(), Waits()
    pool.acquire(first, 0.0)
    connection = await first.got

    def none_left(*arguments: Any) -> Any:
        raise OSError(24, "Too many open files")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("apigw.net.connecting.socket.socket", none_left)
        pool.acquire(second, 0.0)
        assert pool.waiting == 1
        pool.release(connection)
        assert await second.got is connection
        connection.abort()
        await asyncio.sleep(0.01)
        assert not pool.connections
        pool.acquire(third, 0.0)
        with pytest.raises(GatewayError) as caught:
            await third.got
    assert (caught.value.reason, caught.value.status) == ("out_of_descriptors", 503)
    await origin.stop()
