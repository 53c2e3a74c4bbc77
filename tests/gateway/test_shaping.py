"""Limits and changes of what passes, in the whole gateway, over its own sockets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import brotli
import pytest
from twisted.internet.defer import Deferred

from apigw.policies.codings import decoded
from apigw.testing.gateway import request
from apigw.testing.origins import BODY, NEVER, RESET, RawClient, Received, chunked, reply
from tests.gateway.running import route, upstream

KIND = (b"Content-Type", b"application/json")
TEXT = (b"Content-Type", b"text/plain")


async def test_over_the_limit_the_service_is_not_asked(gateway: Any, origin: Any) -> None:
    service = await origin([reply(200, b"hello")])
    running = await gateway(
        "[rate_limit slow]\nrate = 2/h\n" + upstream(service.port) + route("/", "policies = rate_limit slow")
    )
    answers = [await running.get("/") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [answer.value(b"ratelimit") for answer in answers] == [
        b'"slow";r=1;t=1800',
        b'"slow";r=0;t=3600',
        b'"slow";r=0;t=3600',
    ]
    assert answers[2].value(b"retry-after") == b"1800"
    assert len(service.requests) == 2
    assert running.logged()[-1]["reason"] == "rate_limited"


async def test_a_reload_does_not_give_the_limit_again(gateway: Any, origin: Any) -> None:
    service = await origin()
    text = "[rate_limit slow]\nrate = 2/h\n" + upstream(service.port) + route("/", "policies = rate_limit slow")
    running = await gateway(text)
    for _ in range(2):
        await running.get("/")
    await running.reload(text + route("/more", name="more"))
    assert (await running.get("/")).status == 429


async def test_a_place_is_free_again_when_the_stream_ends_breaks_or_nobody_reads_it(gateway: Any, origin: Any) -> None:
    end: Deferred[None] = Deferred()
    head, piece, last = chunked(b"piece")
    service = await origin([[head, piece, end, last], [head, piece, RESET], [head, piece, NEVER], [NEVER], reply()])
    running = await gateway(
        "[concurrency one]\nlimit = 1\n" + upstream(service.port) + route("/", "policies = concurrency one")
    )
    policy = running.service.generation.policies["concurrency", "one"].policy

    async def begun(number: int) -> RawClient:
        client: RawClient = await running.connect()
        client.send(request("/"))
        await service.request(number)
        return client

    client = await begun(0)
    await client.read_until(b"piece")
    assert (await running.get("/")).status == 503
    end.callback(None)
    await client.read_until(b"0\r\n\r\n")
    assert policy.at_work() == 0

    client = await begun(1)
    await client.until_closed()
    assert policy.at_work() == 0

    client = await begun(2)
    await client.read_until(b"piece")
    assert policy.at_work() == 1
    client.reset()
    await service.connections[-1].until_closed()
    assert policy.at_work() == 0

    client = await begun(3)
    assert policy.at_work() == 1
    client.reset()
    await service.connections[-1].until_closed()
    assert policy.at_work() == 0
    assert (await running.get("/")).status == 200


async def test_headers_both_ways(gateway: Any, origin: Any) -> None:
    service = await origin([reply(200, b"x", (b"Server", b"old"), TEXT)])
    running = await gateway(
        "[request_headers in]\nremove = X-Debug\nset.X-Shop = {path.shop}\n"
        "[response_headers out]\nremove = Server\nadd.X-Id = {request.id}\n[security_headers]\n"
        + upstream(service.port)
        + route("/shops/{shop}", "policies = request_headers in, response_headers out, security_headers")
    )
    response = await running.get("/shops/7", ("X-Debug", "1"), ("X-Shop", "9"))
    assert service.requests[0].values(b"x-shop") == [b"7"]
    assert service.requests[0].values(b"x-debug") == []
    assert response.values(b"server") == []
    assert response.values(b"x-id") == service.requests[0].values(b"x-request-id")
    assert response.value(b"x-content-type-options") == b"nosniff"
    assert (await running.get("/shops/a%0d%0aX-Admin:%20yes")).status == 400
    assert len(service.requests) == 1


async def test_content_is_packed_and_unpacked_as_it_streams(gateway: Any, origin: Any) -> None:
    service = await origin([chunked(b"first " * 500, b"second " * 500, fields=[TEXT])])
    running = await gateway(upstream(service.port) + route("/", "policies = decompress, compress"))
    packed = gzip.compress(b"content " * 1000)
    response = await running.get(
        "/", ("Content-Encoding", "gzip"), ("Accept-Encoding", "br"), method="POST", body=packed
    )
    received: Received = await service.request(0, complete=True)
    assert received.body == b"content " * 1000
    assert response.value(b"content-encoding") == b"br"
    assert brotli.decompress(response.body) == b"first " * 500 + b"second " * 500
    bomb = gzip.compress(b"0" * 30_000_000)
    assert (await running.get("/", ("Content-Encoding", "gzip"), method="POST", body=bomb)).status == 413
    assert (await running.get("/", ("Content-Encoding", "gzip"), method="POST", body=b"junk")).status == 400


async def test_content_is_checked_and_transformed(gateway: Any, origin: Any, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "object", "required": ["id"]}')
    service = await origin([[BODY, reply(200, b'{"a": {"id": 12345678901234567890123}}', KIND)]])
    running = await gateway(
        f"[json_schema s]\nrequest = {tmp_path}/s.json\n[transform t]\nrequest = {{user: id}}\nresponse = a.id\n"
        + upstream(service.port)
        + route("/", "policies = json_schema s, transform t")
    )
    kind = ("Content-Type", "application/json")
    response = await running.get("/", kind, method="POST", body=b'{"id": 7}')
    assert (response.status, response.body) == (200, b"12345678901234567890123")
    assert service.requests[0].body == b'{"user":7}'
    response = await running.get("/", kind, method="POST", body=b"{}")
    assert response.status == 400
    assert json.loads(response.body)["violations"] == [{"pointer": "", "message": '"id" is a required property'}]
    assert running.logged()[-1]["reason"] == "schema_violated"
    response = await running.get("/", kind, method="POST", body=b"[" * 100_000)
    assert (response.status, len(service.requests)) == (400, 1)


async def test_a_browser_gets_a_page_when_the_service_is_away(gateway: Any) -> None:
    running = await gateway(upstream(1) + route("/", "policies = error_pages"))
    response = await running.get("/", ("Accept", "text/html"))
    assert (response.status, response.value(b"content-type")) == (502, b"text/html; charset=utf-8")
    assert b"<h1>502 Bad Gateway</h1>" in response.body


async def test_delays_and_redirects(gateway: Any, origin: Any) -> None:
    service = await origin()
    running = await gateway(
        "[fault f]\ndelay = 200ms\n[redirect r]\nlocation = /there\n"
        + upstream(service.port)
        + route("/slow", "policies = fault f", name="slow")
        + route("/moved", "policies = redirect r", name="moved")
    )
    assert (await running.get("/slow")).status == 200
    assert (await running.get("/moved")).value(b"location") == b"/there"


KINDS = {
    "rate_limit": "rate = 1/d",
    "concurrency": "limit = 1",
    "body_limit": "request = 1\nresponse = 1",
    "json_schema": "request = {folder}/no.json\nresponse = {folder}/no.json",
    "openapi": "file = {folder}/api.yaml",
    "fault": "abort = 500",
    "respond": "status = 503",
    "redirect": "location = /elsewhere",
    "python": "class = tests.policies.own:BadBefore",
}


@pytest.mark.parametrize("kind", KINDS)
async def test_in_shadow_everything_passes_whole(gateway: Any, origin: Any, tmp_path: Path, kind: str) -> None:
    (tmp_path / "no.json").write_text("false")
    (tmp_path / "api.yaml").write_text("openapi: 3.1.0\npaths: {}\n")
    service = await origin([reply(200, b'{"some": "content"}', KIND)])
    running = await gateway(
        f"[{kind} x]\nmode = shadow\n{KINDS[kind].format(folder=tmp_path)}\n"
        + upstream(service.port)
        + route("/", f"policies = {kind} x")
    )
    for number in range(2):
        response = await running.get("/", ("Content-Type", "application/json"), method="POST", body=b'{"a": 1}')
        assert (response.status, response.body) == (200, b'{"some": "content"}')
        assert (await service.request(number, complete=True)).body == b'{"a": 1}'
    if kind != "concurrency":
        line = running.logged()[-1]
        assert "would_deny" in str(line) or "would_answer" in str(line)


async def test_large_content_is_transformed_beside_everything_else(gateway: Any, origin: Any) -> None:
    large = json.dumps({"items": [{"id": number, "more": "x" * 50} for number in range(5000)]}).encode()
    service = await origin([reply(200, gzip.compress(large), KIND, (b"Content-Encoding", b"gzip"))])
    running = await gateway(
        "[transform t]\nresponse = items[].id\n" + upstream(service.port) + route("/", "policies = transform t")
    )
    response = await running.get("/")
    assert json.loads(gzip.decompress(response.body)) == list(range(5000))


LARGE = b"".join(b"%d " % number for number in range(30_000))


@pytest.mark.parametrize("options", ["codings = br", "codings = br\nbr_level = 10", "codings = zstd\nzstd_level = 12"])
@pytest.mark.parametrize("framing", ["length", "chunked", "whole"])
async def test_large_content_is_compressed_in_threads(gateway: Any, origin: Any, options: str, framing: str) -> None:
    body = LARGE[:6000] if framing == "whole" else LARGE
    pieces = [body[at : at + 70_000] for at in range(0, len(body), 70_000)]
    answer = chunked(*pieces, fields=[TEXT]) if framing == "chunked" else [reply(200, body, TEXT)]
    service = await origin([answer] * 6)
    running = await gateway(f"[compress x]\n{options}\n" + upstream(service.port) + route("/", "policies = compress x"))
    coding = options.split()[2]
    for _ in range(3):
        response = await running.get("/", ("Accept-Encoding", coding))
        assert response.value(b"content-encoding") == coding.encode()
        assert decoded(response.body, [coding.encode()], 4 << 20) == body
    assert (await running.get("/", ("Accept-Encoding", coding), method="HEAD")).status == 200


async def test_a_stream_that_breaks_while_it_is_compressed_is_aborted(gateway: Any, origin: Any) -> None:
    head, first, second, _ = chunked(LARGE[:80_000], LARGE[80_000:], fields=[TEXT])
    service = await origin([[head, first, second, RESET], reply(200, b"good", TEXT)])
    running = await gateway("[compress x]\n" + upstream(service.port) + route("/", "policies = compress x"))
    with pytest.raises((EOFError, ConnectionResetError)):
        await running.get("/", ("Accept-Encoding", "br"))
    assert (await running.get("/", ("Accept-Encoding", "br"))).body == b"good"


async def test_a_client_that_leaves_while_content_is_compressed(gateway: Any, origin: Any) -> None:
    service = await origin([[*chunked(LARGE, LARGE, fields=[TEXT])[:-1], NEVER], reply(200, b"good", TEXT)])
    running = await gateway("[compress x]\n" + upstream(service.port) + route("/", "policies = compress x"))
    client = await running.connect()
    client.send(request("/", ("Accept-Encoding", "br")))
    await client.read_until(b"\r\n\r\n")
    client.close()
    assert (await running.get("/")).body == b"good"
