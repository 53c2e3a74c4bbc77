"""Limits and time-outs of ``[listen]`` through the whole gateway; PROXY protocol, UNIX sockets, TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.certificates import Authority
from tests.gateway.running import request, route, running, upstream
from tests.origins import BODY, CLOSE, CONTINUE, Origin, RawClient, chunked, reply

GET = request("/")


def listen(*options: str, gateway: str = "") -> str:
    return "\n".join(["", "[listen public]", "endpoint = tcp:0:interface=127.0.0.1", *options, "", gateway])


@pytest_twisted.async_yield_fixture()
async def origin() -> AsyncIterator[Origin]:
    origin = await Origin([reply(200, b"hello")]).start()
    yield origin
    await origin.stop()


LIMITS = [
    ("max_head = 1KiB", request("/", ("X", "y" * 1100)), 431, "head_too_large"),
    ("max_headers = 3", request("/", ("A", "1"), ("B", "2"), ("C", "3")), 431, "too_many_headers"),
    ("max_target = 64", request("/" + "x" * 64), 414, "target_too_long"),
    ("max_body = 10", request("/", method="POST", body=b"x" * 11), 413, "body_too_large"),
]


@pytest.mark.parametrize(("option", "sent", "status", "reason"), LIMITS)
async def test_a_request_beyond_a_limit(
    tmp_path: Path, origin: Origin, option: str, sent: bytes, status: int, reason: str
) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/") + listen(option)) as gateway:
        assert (await gateway.get("/")).status == 200
        client = await gateway.connect()
        client.send(sent)
        response = await client.read_response()
        assert (response.status, response.value(b"connection")) == (status, b"close")
        assert response.value(b"content-type") == b"application/problem+json"
        assert f'"reason": "{reason}"'.encode() in response.body
        await client.until_closed()
        assert gateway.logged()[-1]["reason"] == reason
        metrics = gateway.service.shared.metrics.snapshot()
        assert len(origin.requests) == 1
        assert any(reason in str(family) for family in metrics)


async def test_a_head_that_is_slow_gets_its_408(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/") + listen("timeout.head = 200ms")) as gateway:
        client = await gateway.connect()
        client.send(GET[:-4])
        response = await client.read_response()
        assert (response.status, response.value(b"connection")) == (408, b"close")
        await client.until_closed()


async def test_a_body_that_is_slow_gets_its_408(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/") + listen("timeout.body = 200ms")) as gateway:
        client = await gateway.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        assert (await client.read_response()).status == 408
        assert gateway.logged()[-1]["reason"] == "body_timeout"
        for connection in origin.connections:
            await connection.until_closed()  # what was begun there is given up


async def test_an_idle_connection_is_closed_after_keepalive(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/") + listen("timeout.keepalive = 200ms")) as gateway:
        client = await gateway.connect()
        client.send(GET)
        assert (await client.read_response()).status == 200
        await client.until_closed()
        assert client.unread == b""
        assert len(gateway.logged()) == 1


async def test_a_connection_too_many_is_told_so_and_the_next_one_is_served(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/") + listen("max_connections = 2")) as gateway:
        clients = [await gateway.connect() for _ in range(2)]
        for client in clients:
            client.send(GET)
            assert (await client.read_response()).status == 200
        refused = await gateway.connect()
        refused.send(GET)
        response = await refused.read_response()
        assert (response.status, response.value(b"retry-after")) == (503, b"1")
        clients[0].close()
        while gateway.service.listening["public"].connections > 1:
            await asyncio.sleep(0)
        assert (await gateway.get("/")).status == 200
        await gateway.reload(upstream(origin.port) + route("/") + listen("max_connections = 1"))
        refused = await gateway.connect()
        refused.send(GET)
        assert (await refused.read_response()).status == 503


async def test_continue_comes_from_the_service_end_to_end(tmp_path: Path, origin: Origin) -> None:
    origin.script = [[CONTINUE, BODY, reply(200, b"done")]]
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.read_head()).status == 100
        client.send(b"body")
        assert (await client.read_response()).body == b"done"


async def test_an_upgrade_that_is_not_supported_is_refused_cleanly(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, foo\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
            b"Connection: Upgrade, HTTP2-Settings\r\n\r\n"
        )
        response = await client.read_response()
        assert response.body == b"hello"  # RFC 9110 7.8: a server may ignore Upgrade
        assert origin.requests[0].values(b"upgrade") == []
        assert origin.requests[0].values(b"http2-settings") == []


V2 = b"\r\n\r\n\x00\r\nQUIT\n"
INET = bytes([192, 0, 2, 7, 198, 51, 100, 2]) + (40000).to_bytes(2, "big") + (80).to_bytes(2, "big")
HEADERS = {
    "v1": b"PROXY TCP4 192.0.2.7 198.51.100.2 40000 80\r\n",
    "v2": V2 + b"\x21\x11\x00\x0c" + INET,
    "v2 with TLVs": V2 + b"\x21\x11\x00\x11" + INET + b"\x04\x00\x02hi",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
async def test_the_proxy_protocol_split_at_every_byte(tmp_path: Path, origin: Origin, header: bytes) -> None:
    text = listen("proxy_protocol = yes", gateway="[gateway]\ntrusted_proxies = 127.0.0.1/32\n")
    async with running(tmp_path, upstream(origin.port) + route("/") + text) as gateway:
        for at in range(len(header)):
            client = await gateway.connect()
            client.send(header[:at])
            await asyncio.sleep(0.001)
            client.send(header[at:] + GET)
            assert (await client.read_response()).status == 200
            assert origin.requests[-1].values(b"x-forwarded-for") == [b"192.0.2.7"]
            client.close()
        assert gateway.logged()[-1]["client"] == "192.0.2.7"


async def test_the_proxy_protocol_is_believed_of_trusted_proxies_only_and_within_time(
    tmp_path: Path, origin: Origin
) -> None:
    options = ("proxy_protocol = yes", "timeout.head = 200ms")
    text = listen(*options, gateway="[gateway]\ntrusted_proxies = 127.0.0.1/32\n")
    async with running(tmp_path, upstream(origin.port) + route("/") + text) as gateway:
        stranger = await RawClient.connect(gateway.port(), source="127.0.0.2")
        gateway.clients.append(stranger)
        stranger.send(HEADERS["v1"] + GET)
        await stranger.until_closed()
        without = await gateway.connect()
        without.send(GET)
        await without.until_closed()
        slow = await gateway.connect()
        slow.send(b"PROXY ")
        await slow.until_closed()
        assert origin.requests == []
        await gateway.reload(upstream(origin.port) + route("/") + text.replace("127.0.0.1/32", "127.0.0.2/32"))
        stranger = await RawClient.connect(gateway.port(), source="127.0.0.2")
        gateway.clients.append(stranger)
        stranger.send(HEADERS["v1"] + GET)
        assert (await stranger.read_response()).status == 200


async def test_forwarded_fields_are_believed_of_trusted_proxies_only_also_after_a_reload(
    tmp_path: Path, origin: Origin
) -> None:
    def text(trusted: str) -> str:
        return upstream(origin.port) + route("/") + f"\n[gateway]\ntrusted_proxies = {trusted}\n"

    async with running(tmp_path, text("127.0.0.1/32")) as gateway:
        client = await gateway.connect()
        sent = request("/", ("X-Forwarded-For", "192.0.2.9"), ("X-Request-Id", "abc-1"))
        client.send(sent)
        response = await client.read_response()
        assert origin.requests[-1].values(b"x-forwarded-for") == [b"192.0.2.9, 127.0.0.1"]
        assert origin.requests[-1].values(b"x-request-id") == [b"abc-1"]
        assert gateway.logged()[-1]["client"] == "192.0.2.9"
        await gateway.reload(text("10.0.0.0/8"))
        client.send(sent)  # on the connection that there was
        assert (await client.read_response()).status == response.status
        assert origin.requests[-1].values(b"x-forwarded-for") == [b"127.0.0.1"]
        assert origin.requests[-1].values(b"x-request-id") != [b"abc-1"]
        assert gateway.logged()[-1]["client"] == "127.0.0.1"


@pytest.fixture
def trust(tmp_path: Path) -> ssl.SSLContext:
    authority = Authority()
    authority.issue("shop.example").write(tmp_path / "shop.pem")
    authority.write(tmp_path / "ca.pem")
    return ssl.create_default_context(cafile=tmp_path / "ca.pem")


async def test_tls_and_plain_http_on_its_port(tmp_path: Path, origin: Origin, trust: ssl.SSLContext) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/") + listen("tls.certificates = shop.pem")) as gateway:
        client = await gateway.connect(tls=trust)
        client.send(GET)
        assert (await client.read_response()).body == b"hello"
        assert origin.requests[0].values(b"x-forwarded-proto") == [b"https"]
        plain = await gateway.connect()
        plain.send(GET)
        response = await plain.read_response()
        assert response.status == 400
        assert b"HTTPS" in response.body or b"TLS" in response.body


async def test_a_handshake_that_is_slow_ends(tmp_path: Path, origin: Origin, trust: ssl.SSLContext) -> None:
    options = ("tls.certificates = shop.pem", "tls.handshake_timeout = 200ms", "max_connections = 1")
    async with running(tmp_path, upstream(origin.port) + route("/") + listen(*options)) as gateway:
        slow = await gateway.connect()
        slow.send(b"\x16\x03\x01")
        await slow.until_closed()
        client = await gateway.connect(tls=trust)
        client.send(GET)
        assert (await client.read_response()).status == 200


async def test_events_stream_at_once(tmp_path: Path, origin: Origin) -> None:
    steps: list[Deferred[None]] = [Deferred() for _ in range(3)]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    origin.script = [[head, steps[0], b"data: 1\n\n", steps[1], b"data: 2\n\n", steps[2]]]
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(GET)
        response = await client.read_head()  # before there is any event
        assert response.value(b"content-type") == b"text/event-stream"
        steps[0].callback(None)
        await client.until_received(b"data: 1\n\n")
        steps[1].callback(None)
        await client.until_received(b"data: 2\n\n")
        client.transport.abort()
        await origin.connections[0].until_closed()
        line = gateway.logged()[-1]
        assert (line["status"], line["reason"]) == (200, "client_gone")
    steps[2].callback(None)


async def test_a_client_that_is_gone_is_logged_as_499(tmp_path: Path, origin: Origin) -> None:
    never: Deferred[None] = Deferred()
    origin.script = [[never]]
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(GET)
        await origin.request()
        client.transport.abort()
        await origin.connections[0].until_closed()
        line = gateway.logged()[-1]
        assert (line["status"], line["reason"], line["route"], line["upstream"]) == (499, "client_gone", "a", "a")
    never.callback(None)


async def test_who_does_not_read_is_cut_off_and_can_tell_where_only_the_end_would(
    tmp_path: Path, origin: Origin
) -> None:
    origin.script = [[b"HTTP/1.1 200 OK\r\n\r\n" + bytes(16 * 1024 * 1024), CLOSE]]
    async with running(tmp_path, upstream(origin.port) + route("/") + listen("timeout.body = 200ms")) as gateway:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", gateway.port()))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while not gateway.logged():
                await asyncio.sleep(0.01)
            assert gateway.logged()[-1]["reason"] == "client_too_slow"
            client.settimeout(5)
            with pytest.raises(ConnectionResetError):  # a clean end would make it look whole
                while client.recv(65536):
                    pass


async def test_pipelined_requests_are_logged_one_by_one(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(request("/1") + request("/2") + request("/3", host="b ad"))
        assert [(await client.read_response()).status for _ in range(3)] == [200, 200, 400]
        await client.until_closed()
        lines = gateway.logged()
        assert [(line["status"], line["path"]) for line in lines] == [(200, "/1"), (200, "/2"), (400, "/3")]
        assert lines[2]["reason"] == "invalid_host"
        assert len({line["id"] for line in lines}) == 3


async def test_the_access_log_counts_content_alone(tmp_path: Path, origin: Origin) -> None:
    origin.script = [
        reply(200, b"hello"),
        chunked(b"x" * 1000, b"y" * 24),
        b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n",
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100000)],
    ]
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        for method in ("GET", "GET", "HEAD", "POST"):
            await gateway.get("/", method=method, body=b"content" if method == "POST" else b"")
        assert [line["bytes_out"] for line in gateway.logged()] == [5, 1024, 0, 100000]
        assert [line["bytes_in"] for line in gateway.logged()] == [0, 0, 0, 7]
