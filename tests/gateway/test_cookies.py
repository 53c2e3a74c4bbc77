"""A shared cache in front must not hand one client's cookie to another, by whatever way the cookie came to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apigw.testing.origins import RawResponse
from tests.gateway.running import running
from tests.origins import Origin

PUBLIC = [("Cache-Control", "public, max-age=600"), ("Content-Type", "application/json"), ("ETag", '"1"')]
FIELDS = "".join(f"{name}: {value}\r\n" for name, value in PUBLIC).encode()


def public(body: bytes = b'{"a": 1}') -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + FIELDS + b"Content-Length: %d\r\n\r\n" % len(body) + body


UNCHANGED = b"HTTP/1.1 304 Not Modified\r\n" + FIELDS + b"\r\n"
LETS_IN = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=annas\r\nContent-Length: 0\r\n\r\n"


def configuration(origin: Origin, door: Origin) -> str:
    return f"""
        [upstream a]
        targets = http://127.0.0.1:{origin.port}
        sticky.cookie = at
        sticky.secret = a-secret-of-thirty-two-bytes-or-more
        [upstream plain]
        targets = http://127.0.0.1:{origin.port}
        [forward_auth door]
        url = http://127.0.0.1:{door.port}/check
        cookies_to_client = yes
        [response_headers public]
        set.Cache-Control = public
        [route a]
        path = /sticky
        upstream = a
        [route made_public]
        path = /sticky/public
        upstream = a
        policies = response_headers public
        [route door]
        path = /door
        upstream = plain
        auth = forward_auth door
        [route door_public]
        path = /door/public
        upstream = plain
        policies = response_headers public
        auth = forward_auth door
        [route plain]
        path = /plain
        upstream = plain
        [aggregate all]
        path = /all
        call.one = a GET /one
        call.two = plain GET /two
        [aggregate all_public]
        path = /all/public
        policies = response_headers public
        call.one = a GET /one
        [batch many]
        path = /batch
    """


def is_private(response: RawResponse) -> None:
    control = response.values(b"cache-control")
    assert len(control) == 1
    assert b"public" not in control[0]
    assert b"private" in control[0]
    assert b"cookie" in (b", ".join(response.values(b"vary"))).lower()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/sticky", "/sticky/public", "/door", "/door/public"])
async def test_an_answer_with_a_cookie_of_ours_is_private(tmp_path: Path, path: str, method: str) -> None:
    origin = await Origin([public()] * 9).start()
    door = await Origin([LETS_IN] * 9).start()
    async with running(tmp_path, configuration(origin, door)) as gateway:
        response = await gateway.get(path, method=method)
        assert response.value(b"set-cookie")
        is_private(response)
        assert response.value(b"etag") == b'"1"'
        plain = await gateway.get("/plain")
        assert plain.values(b"cache-control") == [b"public, max-age=600"]
    await origin.stop()
    await door.stop()


async def test_the_next_answer_without_a_cookie_is_what_the_service_said(tmp_path: Path) -> None:
    origin = await Origin([public()] * 9).start()
    door = await Origin([]).start()
    async with running(tmp_path, configuration(origin, door)) as gateway:
        first = await gateway.get("/sticky")
        value = (first.value(b"set-cookie") or b"").partition(b";")[0].decode()
        second = await gateway.get("/sticky", ("Cookie", value))
        assert second.values(b"cache-control") == [b"public, max-age=600"]
        assert second.value(b"set-cookie") is None
    await origin.stop()
    await door.stop()


async def test_in_shadow_nothing_is_given(tmp_path: Path) -> None:
    origin = await Origin([public()]).start()
    door = await Origin([LETS_IN]).start()
    text = configuration(origin, door).replace("cookies_to_client", "mode = shadow\n        cookies_to_client")
    async with running(tmp_path, text) as gateway:
        response = await gateway.get("/door")
        assert response.status == 200
        assert response.value(b"set-cookie") is None
        assert response.values(b"cache-control") == [b"public, max-age=600"]
    await origin.stop()
    await door.stop()


async def test_a_304_too(tmp_path: Path) -> None:
    origin = await Origin([UNCHANGED]).start()
    door = await Origin([]).start()
    async with running(tmp_path, configuration(origin, door)) as gateway:
        response = await gateway.get("/sticky", ("If-None-Match", '"1"'))
        assert response.status == 304
        is_private(response)
    await origin.stop()
    await door.stop()


async def test_aggregates_and_batches_too(tmp_path: Path) -> None:
    origin = await Origin([public()] * 9).start()
    door = await Origin([]).start()
    async with running(tmp_path, configuration(origin, door)) as gateway:
        for path in ("/all", "/all/public"):
            whole = await gateway.get(path)
            assert whole.status == 200
            assert whole.value(b"set-cookie")
            is_private(whole)
        asked = json.dumps([{"path": "/sticky"}]).encode()
        batch = await gateway.get("/batch", ("Content-Type", "application/json"), method="POST", body=asked)
        assert batch.status == 200
        assert batch.value(b"set-cookie")
        assert batch.value(b"cache-control") == b"no-store"
    await origin.stop()
    await door.stop()
