"""Aggregates over real connections: what services see, and when clients see it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from twisted.internet.defer import Deferred

from apigw.testing.origins import Origin, Received, reply
from tests.aggregation.programme import Programme
from tests.gateway.running import request, running, upstream


async def test_independent_calls_are_all_in_flight_at_the_service_at_once(tmp_path: Path) -> None:
    origin = await Programme().start()
    text = upstream(origin.port) + (
        "\n[aggregate it]\npath = /it\ncall.x = a GET /hang?x\ncall.y = a GET /hang?y\ncall.z = a GET /hang?z\n"
        "timeout = 1s\n"
    )
    async with running(tmp_path, text) as gateway:
        assert (await gateway.get("/it")).status == 504
        assert sorted(origin.seen) == ["/hang?x", "/hang?y", "/hang?z"]
        assert origin.most == 3
        await origin.until_idle()
        assert origin.ended == {"cut": 3}
    await origin.stop()


async def test_a_chain_is_one_after_the_other_at_the_service(tmp_path: Path) -> None:
    origin = await Programme().start()
    text = upstream(origin.port) + (
        "\n[aggregate it]\npath = /it\ncall.z = a GET /{y.is}?z\ncall.y = a GET /{x.is}?y\ncall.x = a GET /slow?x\n"
    )
    async with running(tmp_path, text) as gateway:
        assert json.loads((await gateway.get("/it")).body) == {name: {"is": "ok"} for name in "zyx"}
        assert origin.seen == ["/slow?x", "/ok?y", "/ok?z"]
        assert origin.most == 1
    await origin.stop()


async def test_what_a_service_sees_of_a_write(tmp_path: Path) -> None:
    origin = await Origin([reply(201, gzip.compress(b'{"id": 5}'), (b"Content-Encoding", b"gzip"))]).start()
    text = upstream(origin.port) + (
        "\n[aggregate it]\npath = /it/{id}\nmethods = POST\ncall.x = a POST /x/{path.id}\n"
        'call.x.body = {"n": {body.n}, "t": "{body.t}"}\ncall.x.headers = X-T: {body.t}\n'
    )
    async with running(tmp_path, text) as gateway:
        response = await gateway.get("/it/a%20b", method="POST", body=b'{"n": 1, "t": "\\"}, x"}')
        assert (response.status, response.body) == (200, b'{"x":{"id":5}}')
        seen = await origin.request(complete=True)
        assert seen.line == b"POST /x/a%20b HTTP/1.1"
        assert json.loads(seen.body) == {"n": 1, "t": '"}, x'}
        assert seen.values(b"x-t") == [b'"}, x']
        assert seen.values(b"content-type") == [b"application/json"]
        assert seen.values(b"host") == [f"127.0.0.1:{origin.port}".encode()]
        assert seen.values(b"x-forwarded-for") == [b"127.0.0.1"]
        assert len(seen.values(b"x-request-id")) == 1
        assert seen.values(b"accept-encoding") == [b"gzip"]
        head = await gateway.get("/it/1", method="HEAD")
        assert head.status == 405
    await origin.stop()


async def test_the_first_part_of_a_stream_is_there_while_the_second_is_still_asked_for(tmp_path: Path) -> None:
    second: Deferred[None] = Deferred()

    def answer(received: Received) -> list[object]:
        return [second, reply(200, b"2")] if b"/second" in received.line else [reply(200, b"1")]

    origin = await Origin([answer]).start()  # type: ignore[list-item]
    text = upstream(origin.port) + (
        "\n[aggregate it]\npath = /it\ncall.one = a GET /first\ncall.two = a GET /second\nstream = ndjson\n"
    )
    async with running(tmp_path, text) as gateway:
        client = await gateway.connect()
        client.send(request("/it"))
        await client.until_received(b'"call":"one"')
        assert b'"call":"two"' not in client.received
        second.callback(None)
        response = await client.read_response()
        lines = [json.loads(line) for line in response.body.splitlines()]
        assert [line.get("call") for line in lines] == ["one", "two", None]
        assert lines[-1] == {"completed": True, "missing": []}
        await client.until_received(b"0\r\n\r\n")
    await origin.stop()


async def test_the_access_log_has_the_reason_and_what_was_missing(tmp_path: Path) -> None:
    origin = await Programme().start()
    text = upstream(origin.port, more="breaker.enabled = no") + (
        "\n[aggregate it]\npath = /it\ncall.x = a GET /{query.x}\ncall.y = a GET /404\ncall.y.optional = yes\n"
    )
    async with running(tmp_path, text) as gateway:
        await gateway.get("/it?x=ok")
        await gateway.get("/it?x=500")
        partial, failed = gateway.logged()
        assert (partial["status"], partial["route"]) == (200, "it")
        assert partial["notes"] == {"missing": ["y"]}
        assert (failed["status"], failed["reason"]) == (502, "call_unexpected_status")
        assert failed["notes"]["calls"]["x"] == "failed"
    await origin.stop()


async def test_one_clients_cookies_never_reach_anothers_calls(tmp_path: Path) -> None:
    origin = await Origin([reply(200, b"1", (b"Set-Cookie", b"session=secret; Path=/"))]).start()
    text = upstream(origin.port, "users") + (
        "\n[aggregate calls]\npath = /calls\ncall.x = users GET /users/7\n"
        "\n[aggregate python]\npath = /python\nclass = tests.aggregation.pages:old\n"
    )
    async with running(tmp_path, text) as gateway:
        for path in ("/calls", "/python", "/calls", "/python"):
            assert (await gateway.get(path)).status == 200
        assert [received.values(b"cookie") for received in origin.requests] == [[]] * 4
    await origin.stop()


async def test_answers_that_are_kept_stay_at_a_reload_unless_the_call_or_its_upstream_changes(tmp_path: Path) -> None:
    origin = await Origin([reply(200, b'{"n":1}')] * 4).start()
    calls = "\n[aggregate it]\npath = /it\ncall.x = a GET /x\ncall.x.cache = 1h\ncall.y = b GET /y\ncall.y.cache = 1h\n"
    text = upstream(origin.port) + upstream(origin.port, "b") + calls
    async with running(tmp_path, text) as gateway:
        assert (await gateway.get("/it")).status == 200
        await gateway.reload(text + "pass_headers = X-Other\n")
        assert (await gateway.get("/it")).status == 200
        assert [received.line for received in origin.requests] == [b"GET /x HTTP/1.1", b"GET /y HTTP/1.1"]
        text = upstream(origin.port) + upstream(origin.port, "b", "retry.attempts = 1") + calls
        await gateway.reload(text)
        assert (await gateway.get("/it")).status == 200
        assert [received.line for received in origin.requests[2:]] == [b"GET /y HTTP/1.1"]
        await gateway.reload(text.replace("GET /x", "GET /z"))
        assert (await gateway.get("/it")).status == 200
        assert [received.line for received in origin.requests[3:]] == [b"GET /z HTTP/1.1"]
    await origin.stop()
