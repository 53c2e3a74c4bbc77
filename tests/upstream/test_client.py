"""The treq client of an upstream, against a service on a socket."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.http_headers import Headers

from apigw.exchange.errors import GatewayError
from apigw.exchange.request import Request
from apigw.http.h1_heads import ResponseHeads
from apigw.net.resolver import Resolver
from apigw.net.timers import Wheel
from apigw.upstream.attempt import Attempt
from apigw.upstream.client import UpstreamClient
from apigw.upstream.cluster import Cluster
from apigw.upstream.dialling import Dialling
from apigw.upstream.forward import Forward
from apigw.upstream.pool import Pool
from apigw.upstream.target import Target
from apigw.upstream.target_spec import parse_target_line
from tests.origins import BODY, CLOSE, NEVER, Origin, chunked, refusing_port, reply


class Cells:
    def __init__(self) -> None:
        self.statuses: defaultdict[int, int] = defaultdict(int)


class Service:
    """A client for one port, with all that it needs."""

    def __init__(self, port: int) -> None:
        self.wheel = Wheel(time.monotonic)
        self.target = Target(parse_target_line(f"http://127.0.0.1:{port}"))
        self.target.cells = Cells()
        dial = Dialling(Resolver()).dialler(host="127.0.0.1", port=port, timeout=2.0)
        self.pool = self.target.pool = Pool(dial, self.wheel, ResponseHeads(), host=b"users.test")
        self.cluster = Cluster("users", self, self.wheel, self._later)
        self.client = UpstreamClient("users", Forward(self.cluster), clock=time.monotonic)

    def elsewhere(self, now: float, tried: Any) -> bool:
        return False

    def begin(self, request: Request, now: float, tried: Any) -> Attempt:
        return Attempt(self.target, 0, now)

    def _later(self, delay: float, call: Callable[[], None]) -> Callable[[], None]:
        return asyncio.get_running_loop().call_later(delay, call).cancel

    async def idle(self) -> None:
        while self.pool.open != len(self.pool.idle) or self.target.active:
            await asyncio.sleep(0.005)


@pytest_twisted.async_yield_fixture()
async def origin() -> AsyncIterator[Origin]:
    origin = await Origin([reply()]).start()
    yield origin
    await origin.stop()


@pytest_twisted.async_yield_fixture()
async def service(origin: Origin) -> AsyncIterator[Service]:
    service = Service(origin.port)
    yield service
    service.pool.abort()


async def test_get(origin: Origin, service: Service) -> None:
    origin.script = [reply(200, b'{"id": 1}', (b"Content-Type", b"application/json"), (b"X", b"1"))]
    response = await service.client.get("/users/1", params={"fields": "a b"}, headers=Headers({"X-Own": ["1"]}))
    assert response.code == 200
    assert response.headers.getRawHeaders("x") == ["1"]
    assert response.length == 9
    assert await treq.json_content(response) == {"id": 1}
    request = origin.requests[0]
    assert request.line == b"GET /users/1?fields=a+b HTTP/1.1"
    assert request.values(b"host") == [b"users.test"]
    assert request.values(b"x-own") == [b"1"]
    assert request.values(b"x-forwarded-for") == []


async def test_connections_are_kept(origin: Origin, service: Service) -> None:
    for _ in range(3):
        response = await service.client.get("/")
        await response.content()
    assert len(origin.connections) == 1
    await service.idle()


async def test_post_json(origin: Origin, service: Service) -> None:
    response = await service.client.post("/users", json={"name": "Ada"})
    assert response.code == 200
    request = await origin.request(complete=True)
    assert json.loads(request.body) == {"name": "Ada"}
    assert request.values(b"content-type") == [b"application/json; charset=UTF-8"]
    assert request.values(b"content-length") == [b"%d" % len(request.body)]


async def test_a_large_upload_waits_for_the_service(origin: Origin, service: Service) -> None:
    data = b"0123456789" * 300_000
    await service.client.put("/users", data=BytesIO(data))
    assert (await origin.request(complete=True)).body == data
    await service.idle()


async def test_gzip_is_decoded(origin: Origin, service: Service) -> None:
    origin.script = [reply(200, gzip.compress(b"hello"), (b"Content-Encoding", b"gzip"))]
    response = await service.client.get("/")
    assert await response.content() == b"hello"
    assert b"gzip" in origin.requests[0].values(b"accept-encoding")[0]


async def test_a_stream(origin: Origin, service: Service) -> None:
    origin.script = [chunked(b"one", b"two", b"x" * 200_000)]
    response = await service.client.get("/")
    pieces: list[bytes] = []
    await response.collect(pieces.append)
    assert b"".join(pieces) == b"onetwo" + b"x" * 200_000
    await service.idle()


async def test_redirects_are_not_followed(origin: Origin, service: Service) -> None:
    origin.script = [reply(302, b"", (b"Location", b"/elsewhere"))]
    response = await service.client.get("/")
    assert response.code == 302
    assert len(origin.requests) == 1


async def test_a_status_is_not_an_error(origin: Origin, service: Service) -> None:
    origin.script = [reply(503, b"busy")]
    response = await service.client.get("/")
    assert (response.code, await response.content()) == (503, b"busy")


async def test_failures_have_their_reasons(origin: Origin, service: Service) -> None:
    origin.script = [[CLOSE], [b"nonsense\r\n\r\n", NEVER]]
    for reason in ("upstream_reset", "upstream_protocol_error"):
        with pytest.raises(GatewayError) as caught:
            await service.client.get("/")
        assert caught.value.reason == reason
    await service.idle()
    with refusing_port() as port, pytest.raises(GatewayError) as caught:
        await Service(port).client.get("/")
    assert caught.value.reason == "upstream_refused"


async def test_content_that_breaks_off(origin: Origin, service: Service) -> None:
    origin.script = [[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", CLOSE]]
    response = await service.client.get("/")
    with pytest.raises(Exception, match=r"upstream_aborted|ResponseFailed|GatewayError|broke off"):
        await response.content()
    await service.idle()


async def test_a_time_limit(origin: Origin, service: Service) -> None:
    origin.script = [[NEVER]]
    with pytest.raises(CancelledError):
        await service.client.get("/", timeout=0.05)
    await (await origin.connection()).until_closed()
    await service.idle()


async def test_a_cancelled_upload_stops_its_producer(origin: Origin, service: Service) -> None:
    origin.script = [[NEVER]]
    content = BytesIO(b"x" * 50_000_000)
    request: Deferred[Any] = service.client.post("/", data=content)
    await origin.request()
    request.cancel()
    with pytest.raises(CancelledError):
        await request
    await service.idle()
    assert content.closed


async def test_content_that_nobody_reads_frees_the_connection(origin: Origin, service: Service) -> None:
    origin.script = [[BODY, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc", b"def"]]
    response = await service.client.get("/")
    assert response.code == 200
    await service.idle()
    assert await response.content() == b"abcdef"
