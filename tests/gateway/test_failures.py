"""Services that fail in every way, on real sockets: what the client gets, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.defer import gatherResults

from apigw.downstream.h1_channel import H1Channel
from tests.gateway.running import Gateway, request, route, running, upstream
from tests.origins import (
    BODY,
    CLOSE,
    END,
    NEVER,
    RESET,
    Origin,
    RawClient,
    chunked,
    deferred,
    refusing_port,
    reply,
    silent_port,
)

LENIENT = """
    retry.attempts = 1
    timeout.connect = 300ms
    timeout.response = 300ms
    timeout.idle = 300ms
"""
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def to(port: int) -> str:
    return upstream(port, more=LENIENT) + route("/")


def targets(gateway: Gateway) -> list[Any]:
    return [target for one in gateway.service.generation.upstreams.values() for target in one.targets.targets]


async def gateway_idle(gateway: Gateway) -> None:
    """Wait until no client is connected."""
    while gateway.service.listening["public"].site.connections:
        await asyncio.sleep(0.01)


def watched(gateway: Gateway) -> int:
    """How many things on the wheel are still to be looked at."""
    buckets = gateway.service.shared.wheel._buckets.values()
    return sum(thing.next_check > 0 for bucket in buckets for thing in bucket)


async def clean(gateway: Gateway) -> None:
    """Wait until no connection to a service is at work, and nobody waits for one."""
    pools = [target.pool for target in targets(gateway)]
    for _ in range(400):
        if all(pool.open == len(pool.idle) and not pool.waiting for pool in pools) and all(
            target.active == 0 for target in targets(gateway)
        ):
            return
        await asyncio.sleep(0.01)
    raise AssertionError([(pool.open, len(pool.idle), pool.waiting) for pool in pools])


ANSWERED = [
    ("closes without an answer", [CLOSE], 502, "upstream_reset"),
    ("resets without an answer", [RESET], 502, "upstream_reset"),
    ("sends half a head and closes", [b"HTTP/1.1 200 OK\r\nX", CLOSE], 502, "upstream_reset"),
    ("sends nonsense", [b"SSH-2.0-OpenSSH_9.2p1\r\n", NEVER], 502, "upstream_protocol_error"),
    ("sends nothing", [NEVER], 504, "upstream_timeout"),
    ("sends half a head and stops", [b"HTTP/1.1 200 OK\r\nX", NEVER], 504, "upstream_timeout"),
    ("ends its side without an answer", [END, NEVER], 502, "upstream_reset"),
]
BROKEN_OFF = [
    ("closes in the middle", [HALF, CLOSE], "upstream_aborted"),
    ("resets in the middle", [HALF, RESET], "upstream_aborted"),
    ("stops in the middle", [HALF, NEVER], "upstream_timeout"),
    ("closes between two chunks", [*chunked(b"half")[:-1], CLOSE], "upstream_aborted"),
    ("resets where only its end would tell", [b"HTTP/1.1 200 OK\r\n\r\nhalf", RESET], "upstream_aborted"),
]


@pytest.mark.parametrize(("steps", "status", "reason"), [case[1:] for case in ANSWERED], ids=[c[0] for c in ANSWERED])
async def test_a_service_that_does_not_answer(tmp_path: Path, steps: Sequence[Any], status: int, reason: str) -> None:
    origin = await Origin([steps]).start()
    async with running(tmp_path, to(origin.port)) as gateway:
        response = await gateway.get("/x")
        assert response.status == status
        assert json.loads(response.body)["reason"] == reason
        await clean(gateway)
        assert gateway.logged()[-1]["reason"] == reason
    await origin.stop()


@pytest.mark.parametrize(("steps", "reason"), [case[1:] for case in BROKEN_OFF], ids=[case[0] for case in BROKEN_OFF])
async def test_a_service_that_breaks_off(tmp_path: Path, steps: Sequence[Any], reason: str) -> None:
    origin = await Origin([steps]).start()
    async with running(tmp_path, to(origin.port)) as gateway:
        client = await gateway.connect()
        client.send(request("/x"))
        await client.until_closed()
        assert b"half" in client.received
        assert not client.received.endswith(b"0\r\n\r\n"), "as if it were complete"
        assert isinstance(client.error, ConnectionResetError)
        await clean(gateway)
        assert gateway.logged()[-1]["reason"] == reason
    await origin.stop()


async def test_a_service_that_refuses(tmp_path: Path) -> None:
    with refusing_port() as port:
        async with running(tmp_path, to(port)) as gateway:
            response = await gateway.get("/x")
            assert response.status == 502
            assert json.loads(response.body)["reason"] == "upstream_refused"


async def test_a_service_that_cannot_be_reached(tmp_path: Path) -> None:
    with silent_port() as port:
        async with running(tmp_path, to(port)) as gateway:
            response = await gateway.get("/x")
            assert response.status == 504
            assert json.loads(response.body)["reason"] == "upstream_connect_timeout"


async def test_a_service_that_comes_back_is_served_at_once(tmp_path: Path) -> None:
    origin = await Origin([reply(200, b"one")]).start()
    async with running(tmp_path, to(origin.port)) as gateway:
        assert (await gateway.get("/x")).body == b"one"
        await origin.stop()
        assert (await gateway.get("/x")).status == 502
        again = await Origin([reply(200, b"two")]).start(origin.port)
        assert (await gateway.get("/x")).body == b"two"
        await again.stop()


async def test_a_request_that_arrives_as_the_keep_alive_time_ends_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path, route("/", "respond = 200")) as gateway:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", gateway.port())) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, request("/"))
            assert b" 200 " in await loop.sock_recv(client, 4096)
            (site,) = (listening.site for listening in gateway.service.listening.values())
            (channel,) = cast("set[H1Channel]", site.connections)
            client.send(request("/"))  # the loop has not come to it yet
            late = site.clock() + site.limits.keepalive
            channel.check(late)
            channel.drain()
            assert b" 200 " in await loop.sock_recv(client, 4096)
            channel.check(late + site.limits.keepalive)
            assert await loop.sock_recv(client, 4096) == b""


async def test_a_client_that_leaves_ends_its_request(tmp_path: Path) -> None:
    origin = await Origin([[NEVER]]).start()
    async with running(tmp_path, to(origin.port)) as gateway:
        client = await gateway.connect()
        client.send(request("/x"))
        connection = await origin.connection()
        await origin.request()
        client.reset()
        await connection.until_closed()
        await clean(gateway)
        assert gateway.logged()[-1]["reason"] == "client_gone"
    await origin.stop()


async def test_what_a_half_closed_client_asked_before_is_answered(tmp_path: Path) -> None:
    origin = await Origin([reply(200, b"hello")]).start()
    async with running(tmp_path, to(origin.port)) as gateway:
        client = await gateway.connect()
        client.send(request("/1") + request("/2") + request("/3"))
        client.send_end()
        bodies = [(await client.read_response()).body for _ in range(3)]
        assert bodies == [b"hello"] * 3
        await client.until_closed()
    await origin.stop()


async def test_a_refusal_arrives_although_the_client_still_sends(tmp_path: Path) -> None:
    origin = await Origin([reply()]).start()
    async with running(tmp_path, upstream(origin.port) + route("/", "max_body = 1KiB")) as gateway:
        client = await gateway.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000000)
        response = await client.read_response()
        assert response.status == 413
        assert response.values(b"connection") == [b"close"]
    await origin.stop()


@deferred
async def ask(port: int, count: int, payload: bytes) -> list[int]:
    """One request after the other, each on the connection of the last if that still stands."""
    statuses = []
    client: RawClient | None = None
    for _ in range(count):
        if client is None or client.closed:
            if client is not None:
                client.transport.abort()
            client = await RawClient.connect(port)
        client.send(payload)
        try:
            response = await client.read_response()
            statuses.append(response.status)
        except (EOFError, ConnectionError):
            statuses.append(0)
            client.transport.abort()
            client = None
    if client is not None:
        client.close()
    return statuses


@pytest.mark.time_limit(200)
async def test_ten_thousand_failures_leave_nothing_behind(tmp_path: Path) -> None:
    scripts: list[Any] = [[CLOSE], [RESET], [b"nonsense\r\n\r\n", CLOSE], [HALF, RESET], [BODY, HALF, CLOSE]]
    origins = [await Origin([steps]).start() for steps in scripts]
    with refusing_port() as refusing:
        ports = [origin.port for origin in origins] + [refusing]
        text = "".join(
            upstream(port, f"u{number}", "retry.attempts = 1") + route(f"/{number}", name=f"r{number}", to=f"u{number}")
            for number, port in enumerate(ports)
        )
        async with running(tmp_path, text) as gateway:
            for number in range(len(ports)):  # what is made once is made
                await ask(gateway.port(), 2, request(f"/{number}"))
            await clean(gateway)
            await gateway_idle(gateway)
            before = descriptors()
            each = 10_000 // (2 * len(ports)) + 1
            payloads = [
                request(f"/{n}", method=m, body=b)
                for n in range(len(ports))
                for m, b in (("GET", b""), ("POST", b"x" * 500))
            ]
            results = await gatherResults([ask(gateway.port(), each, payload) for payload in payloads])
            assert sum(map(len, results)) >= 10_000
            assert {status for statuses in results for status in statuses} == {0, 502}
            await clean(gateway)
            await gateway_idle(gateway)
            for _ in range(200):  # the services' ends are in this process too
                if descriptors() <= before:
                    break
                await asyncio.sleep(0.01)
            assert descriptors() <= before
            for target in targets(gateway):
                assert target.pool.open == 0
            assert watched(gateway) <= len(ports) + 1
    for origin in origins:
        await origin.stop()
