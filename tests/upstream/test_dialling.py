"""Connections to targets whose name has several addresses."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from apigw.exchange.errors import GatewayError
from apigw.http.h1_heads import ResponseHeads
from apigw.net.timers import Wheel
from apigw.upstream import dialling
from apigw.upstream.connection import UpstreamConnection
from apigw.upstream.pool import Pool
from tests.origins import Origin, refusing_port, reply, silent_port


async def dialled(monkeypatch: pytest.MonkeyPatch, *ports: int) -> UpstreamConnection:
    """Dial a service that has these ports on this machine for its addresses."""

    async def addresses(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[tuple[int, Any]]:
        assert (host, port) == ("service.test", 80)
        return [(socket.AF_INET, ("127.0.0.1", each)) for each in ports]

    monkeypatch.setattr(dialling, "_addresses", addresses)
    dial = dialling.dialler(host="service.test", port=80, path=None, tls=None, timeout=5.0)
    pool = Pool(dial, Wheel(lambda: 0.0), ResponseHeads(), host=b"service.test")
    made: Deferred[UpstreamConnection] = Deferred()
    dial(lambda: UpstreamConnection(pool), made.callback, made.errback)
    return await made


async def test_an_address_that_is_silent_or_refuses_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    origin = await Origin([reply(200, b"hello")]).start()
    with silent_port() as silent, refusing_port() as refusing:
        for ports in ([origin.port], [silent, origin.port], [refusing, origin.port], [silent, refusing, origin.port]):
            connection = await dialled(monkeypatch, *ports)
            assert connection.usable
            connection.abort()
    await origin.stop()


async def test_a_name_whose_addresses_all_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_port() as one, refusing_port() as other:
        for ports in ([one], [one, other]):
            with pytest.raises(GatewayError) as caught:
                await dialled(monkeypatch, *ports)
            assert caught.value.reason == "upstream_refused"


async def test_a_name_without_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GatewayError) as caught:
        await dialled(monkeypatch)
    assert caught.value.reason == "upstream_unreachable"
