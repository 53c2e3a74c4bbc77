"""What a service is told of the client, and what clients can't say of themselves: through the whole gateway."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted

from apigw.http.fields import CLAIMS, FORWARDING, OTHER_CLAIM
from apigw.testing.origins import Origin, RawClient, Received, reply
from tests.gateway.running import Gateway, request, route, running, upstream


@pytest_twisted.async_yield_fixture()
async def origin() -> AsyncIterator[Origin]:
    origin = await Origin([reply(200, b"hello")]).start()
    yield origin
    await origin.stop()


def gateway_section(*options: str) -> str:
    return "\n".join(["\n[gateway]", *options, ""])


TRUSTING = gateway_section("trusted_proxies = 127.0.0.1")
NAMES = [
    *sorted((CLAIMS | FORWARDING) - {OTHER_CLAIM, b"via", b"x-request-id", b"x-request-timeout"}),
    b"x-forwarded-ssl",
    b"x-forwarded-scheme",
    b"x-forwarded-user",
    b"x-forwarded-client-cert",
    b"x-forwarded-anything",
]
OVERRIDES = (b"x-forwarded-uri", b"x-forwarded-method", b"x-original-url", b"x-rewrite-url", b"x-real-ip", b"proxy")


def values(received: Received) -> set[bytes]:
    return {value for _, value in received.fields}


async def test_no_field_of_the_family_passes_from_a_client(tmp_path: Path, origin: Origin) -> None:
    text = upstream(origin.port) + route("/") + gateway_section("trusted_proxies = 10.0.0.0/8")
    spellings = [spelling for name in NAMES for spelling in (name.title(), name.replace(b"-", b"_"), name.upper())]
    async with running(tmp_path, text) as gateway:
        client = await gateway.connect()
        for at in range(0, len(spellings), 30):
            client.send(request("/", *((name.decode(), "evil") for name in spellings[at : at + 30]), ("X-Own", "good")))
            assert (await client.read_response()).status == 200
    assert len(origin.requests) > 5
    for received in origin.requests:
        assert b"good" in values(received)
        assert b"evil" not in b" ".join(values(received))


async def test_trailers_do_not_bring_them_back(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/") + TRUSTING) as gateway:
        client = await gateway.connect()
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        fields = b"X-Forwarded-User: evil\r\nX-Original-URL: evil\r\nTrue-Client-IP: evil\r\nX-Own: good\r\n"
        client.send(head + b"1\r\na\r\n0\r\n" + fields + b"\r\n")
        assert (await client.read_response()).status == 200
    assert b"X-Own: good" in origin.requests[0].raw_body
    assert b"evil" not in origin.requests[0].raw_body


async def test_a_trusted_proxys_are_passed_on_but_no_other_path_or_method(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/") + TRUSTING) as gateway:
        await gateway.get("/", *((name.decode(), "said") for name in OVERRIDES), ("X-Forwarded-User", "anna"))
        await gateway.get("/", ("CF-Connecting-IP", "192.0.2.1"), ("X_Forwarded_User", "evil"))
        await gateway.reload(upstream(origin.port) + route("/") + gateway_section("trusted_proxies = 10.0.0.0/8"))
        await gateway.get("/", ("X-Forwarded-User", "anna"))
        await gateway.reload(upstream(origin.port) + route("/") + TRUSTING + "forwarded_by = forwarded\n")
        await gateway.get("/", ("X-Forwarded-User", "anna"), ("X-Forwarded-For", "1.1.1.1"))
    first, second, third, fourth = origin.requests
    assert first.values(b"x-forwarded-user") == [b"anna"]
    assert b"said" not in values(first)
    assert second.values(b"cf-connecting-ip") == [b"192.0.2.1"]
    assert b"evil" not in values(second)
    assert third.values(b"x-forwarded-user") == fourth.values(b"x-forwarded-user") == []
    assert fourth.values(b"x-forwarded-for") == [b"127.0.0.1"]


async def test_a_policy_can_set_what_clients_can_not(tmp_path: Path, origin: Origin) -> None:
    text = upstream(origin.port) + route("/", "policies = request_headers own")
    text += "[request_headers own]\nset.X-Real-IP = {client.ip}\nset.X-Forwarded-User = gateway\n"
    async with running(tmp_path, text + gateway_section()) as gateway:
        await gateway.get("/", ("X-Real-IP", "6.6.6.6"), ("X-Forwarded-User", "root"))
    assert origin.requests[0].values(b"x-real-ip") == [b"127.0.0.1"]
    assert origin.requests[0].values(b"x-forwarded-user") == [b"gateway"]


@pytest.mark.parametrize(
    ("family", "status", "client"),
    [("both", 400, ""), ("x-forwarded", 200, "1.1.1.1"), ("forwarded", 200, "2.2.2.2")],
)
async def test_families_that_disagree(tmp_path: Path, origin: Origin, family: str, status: int, client: str) -> None:
    text = upstream(origin.port) + route("/") + TRUSTING + f"forwarded_by = {family}\n"
    async with running(tmp_path, text) as gateway:
        response = await gateway.get("/", ("X-Forwarded-For", "1.1.1.1"), ("Forwarded", "for=2.2.2.2"))
        assert response.status == status
        if status == 400:
            assert json.loads(response.body)["reason"] == "forwarding_conflict"
            return
        assert gateway.logged()[-1]["client"] == client
    assert origin.requests[0].values(b"x-forwarded-for") == [f"{client}, 127.0.0.1".encode()]
    assert origin.requests[0].values(b"forwarded") == [
        f"for={client}, for=127.0.0.1;host=shop.example;proto=http".encode()
    ]


async def test_two_gateways_in_a_row_agree(tmp_path: Path, origin: Origin) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "outer").mkdir()
    text = route("/") + TRUSTING
    async with (
        running(tmp_path / "inner", upstream(origin.port) + text) as inner,
        running(tmp_path / "outer", upstream(inner.port()) + text) as outer,
    ):
        for fields in (
            (),
            (("X-Forwarded-For", "1.1.1.1"),),
            (("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "x.example")),
            (("X-Forwarded-For", "1.1.1.1"), ("Forwarded", "proto=https;host=y.example")),
            (("Forwarded", "for=_hidden;proto=https"),),
        ):
            assert (await outer.get("/", *fields)).status == 200, fields


DUAL = "\n[listen public]\nendpoint = tcp:0:interface=::\n"


async def test_ipv4_inside_ipv6_is_ipv4(tmp_path: Path, origin: Origin) -> None:
    text = upstream(origin.port) + route("/", "policies = ip_filter near") + DUAL + TRUSTING
    text += "[ip_filter near]\nallow = 127.0.0.1, 1.1.1.1\n"
    async with running(tmp_path, text) as gateway:
        assert (await gateway.get("/")).status == 200  # to 127.0.0.1, on a socket of IPv6
        assert gateway.logged()[-1]["client"] == "127.0.0.1"
        assert (await gateway.get("/", ("X-Forwarded-For", "::ffff:1.1.1.1"))).status == 200
        assert gateway.logged()[-1]["client"] == "1.1.1.1"
    assert origin.requests[0].values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert origin.requests[0].values(b"forwarded") == [b"for=127.0.0.1;host=shop.example;proto=http"]
    assert origin.requests[1].values(b"x-forwarded-for") == [b"1.1.1.1, 127.0.0.1"]


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24"
        + socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.7")
        + socket.inet_pton(socket.AF_INET6, "::1")
        + b"\0\1\0\2",
    ],
)
async def test_ipv4_inside_ipv6_of_the_proxy_protocol(tmp_path: Path, origin: Origin, header: bytes) -> None:
    text = upstream(origin.port) + route("/") + DUAL + "proxy_protocol = yes\n" + TRUSTING
    async with running(tmp_path, text) as gateway:
        client = await gateway.connect()
        client.send(header + request("/"))
        assert (await client.read_response()).status == 200
        assert gateway.logged()[-1]["client"] == "192.0.2.7"
    assert origin.requests[0].values(b"x-forwarded-for") == [b"192.0.2.7"]


async def over_unix(gateway: Gateway, path: Path, *fields: tuple[str, str]) -> int:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_unix_connection(RawClient, str(path))
    gateway.clients.append(client)
    client.send(request("/", *fields))
    return (await client.read_response()).status


@pytest.mark.parametrize("trust", ["yes", "no"])
async def test_peers_of_unix_sockets(tmp_path: Path, origin: Origin, trust: str) -> None:
    path = tmp_path / "s"
    text = upstream(origin.port) + route("/") + f"\n[listen public]\nendpoint = unix:{path}\n"
    text += gateway_section(f"trust_unix = {trust}")
    async with running(tmp_path, text) as gateway:
        assert await over_unix(gateway, path) == 200
        assert await over_unix(gateway, path, ("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-User", "anna")) == 200
        believed = trust == "yes"
        assert [line["client"] for line in gateway.logged()] == ["unix:", "1.1.1.1" if believed else "unix:"]
    for received in origin.requests:
        assert b"unix:" not in b" ".join(values(received))
    first, second = origin.requests
    assert first.values(b"x-forwarded-for") == []
    assert first.values(b"forwarded") == [b"for=unknown;host=shop.example;proto=http"]
    assert second.values(b"x-forwarded-for") == ([b"1.1.1.1"] if believed else [])
    assert second.values(b"x-forwarded-user") == ([b"anna"] if believed else [])


async def test_http_1_0_without_host_names_none(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.read_response()).status == 200
    assert origin.requests[0].values(b"x-forwarded-host") == []
    assert origin.requests[0].values(b"forwarded") == [b"for=127.0.0.1;proto=http"]
