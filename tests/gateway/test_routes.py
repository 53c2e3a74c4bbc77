"""``[route]``, ``[resource]`` and ``[health]`` through the whole gateway: what the service sees, and the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Request

from tests.gateway.running import route, running, upstream
from tests.origins import BODY, Origin, reply


@pytest_twisted.async_yield_fixture()
async def origin() -> AsyncIterator[Origin]:
    origin = await Origin([reply(200, b"hello")]).start()
    yield origin
    await origin.stop()


TARGETS = [
    ("/api", ["strip_prefix = /api"], "/api/users/1?x=%20y", "/users/1?x=%20y"),
    ("/api", ["strip_prefix = /api"], "/api", "/"),
    ("/api", ["add_prefix = /v1"], "/api/users", "/v1/api/users"),
    ("/api", ["strip_prefix = /api", "add_prefix = /v1"], "/api/users", "/v1/users"),
    ("/api", [r"rewrite = ^/api/(\w+)/(\d+)$ -> /\2/\1"], "/api/users/7?q=1", "/7/users?q=1"),
    ("/u/{id}", ["rewrite = ^.*$ -> /users/{id}"], "/u/a%20b", "/users/a%20b"),
    ("/api", [], "/api/%7euser/./a/../b", "/api/~user/b"),
    ("/f", ["allow_encoded_slashes = yes"], "/f/a%2fb/c", "/f/a%2Fb/c"),
    ("~^/x/[0-9]+$", [], "/x/123", "/x/123"),
    ("=/x", [], "/x?", "/x?"),
]


@pytest.mark.parametrize(("path", "options", "asked", "seen"), TARGETS)
async def test_the_target_path(
    tmp_path: Path, origin: Origin, path: str, options: list[str], asked: str, seen: str
) -> None:
    async with running(tmp_path, upstream(origin.port) + route(path, *options)) as gateway:
        assert (await gateway.get(asked)).status == 200
        assert origin.requests[0].line == f"GET {seen} HTTP/1.1".encode()


async def test_the_host_is_the_targets_unless_it_is_preserved(tmp_path: Path, origin: Origin) -> None:
    routes = route("/theirs") + route("/ours", "preserve_host = yes", name="b")
    async with running(tmp_path, upstream(origin.port) + routes) as gateway:
        await gateway.get("/theirs", host="shop.example:81")
        await gateway.get("/ours", host="shop.example:81")
        nameless = await gateway.connect()
        nameless.send(b"GET /ours HTTP/1.0\r\n\r\n")
        assert (await nameless.read_response()).status == 200
    assert origin.requests[0].values(b"host") == [b"127.0.0.1:%d" % origin.port]
    assert origin.requests[0].values(b"x-forwarded-host") == [b"shop.example:81"]
    assert origin.requests[1].values(b"host") == [b"shop.example:81"]
    assert origin.requests[2].values(b"host") == origin.requests[0].values(b"host")


async def test_what_a_service_says_of_itself_is_turned_into_what_the_client_knows(
    tmp_path: Path, origin: Origin
) -> None:
    origin.script = [
        reply(
            302,
            b"",
            (b"Location", b"http://127.0.0.1:%d/v1/users/9?a=b" % origin.port),
            (b"Set-Cookie", b"s=1; Domain=internal.example; Path=/v1; HttpOnly"),
            (b"Set-Cookie", b"t=2; Path=/other"),
        )
    ]
    options = (
        "strip_prefix = /api",
        "add_prefix = /v1",
        "rewrite_cookie_domain = internal.example: shop.example",
        "rewrite_cookie_path = /v1: /api",
    )
    routes = route("/api", *options) + route(
        "/raw", "rewrite_location = no", "strip_prefix = /raw", "add_prefix = /v1", name="b"
    )
    async with running(tmp_path, upstream(origin.port) + routes) as gateway:
        response = await gateway.get("/api/users")
        assert response.value(b"location") == b"http://shop.example/api/users/9?a=b"
        assert response.values(b"set-cookie") == [
            b"s=1; Domain=shop.example; Path=/api; HttpOnly",
            b"t=2; Path=/other",
        ]
        response = await gateway.get("/raw/users")
        assert response.value(b"location") == b"http://127.0.0.1:%d/v1/users/9?a=b" % origin.port


async def test_redirects_and_fixed_answers(tmp_path: Path, origin: Origin) -> None:
    routes = (
        route("/", "redirect = 308 https://shop.example")
        + route("=/old", "redirect = 301 https://shop.example/new", name="b")
        + route("=/closed", "respond = 503 back soon", name="c")
        + route("=/json", 'respond = 200 {"a": 1}', name="d")
        + route("=/nothing", "respond = 204", name="e")
    )
    async with running(tmp_path, routes) as gateway:
        moved = await gateway.get("/a/b?c=%20d")
        assert (moved.status, moved.value(b"location")) == (308, b"https://shop.example/a/b?c=%20d")
        assert (await gateway.get("/old?x")).value(b"location") == b"https://shop.example/new"
        closed = await gateway.get("/closed")
        assert (closed.status, closed.body) == (503, b"back soon")
        assert (await gateway.get("/closed", method="HEAD")).value(b"content-length") == b"9"
        assert (await gateway.get("/json")).value(b"content-type") == b"application/json"
        nothing = await gateway.get("/nothing")
        assert (nothing.status, nothing.values(b"content-length")) == (204, [])
        assert (await gateway.get("/closed", method="POST", body=b"x" * 100_000)).status == 503
        assert [line["status"] for line in gateway.logged()][-1] == 503


async def test_routes_are_chosen_by_host_method_header_query_and_priority(tmp_path: Path, origin: Origin) -> None:
    def answers(name: str, path: str, *options: str) -> str:
        return route(path, *options, f"respond = 200 {name}", name=name)

    routes = (
        answers("any", "/")
        + answers("exact", "=/a")
        + answers("shop", "/a", "hosts = shop.example")
        + answers("wild", "/a", "hosts = *.shop.example")
        + answers("post", "/m", "methods = POST")
        + answers("get", "/m", "methods = GET, PUT")
        + answers("header", "/h", "header.X-Version = 2")
        + answers("query", "/q", "query.beta = 1")
        + answers("urgent", "~^/q", "priority = 10", "query.urgent = yes")
        + answers("only", "/only", "methods = PUT, DELETE", "hosts = only.example")
    )
    async with running(tmp_path, routes) as gateway:

        async def chosen(path: str, *fields: tuple[str, str], **how: str) -> str:
            return (await gateway.get(path, *fields, **how)).body.decode()  # type: ignore[arg-type]

        assert await chosen("/a", host="other.example") == "exact"
        assert await chosen("/a/b", host="other.example") == "any"
        assert await chosen("/a/b", host="SHOP.example:8080") == "shop"
        assert await chosen("/a/b", host="x.shop.example") == "wild"
        assert await chosen("/m", method="POST") == "post"
        assert await chosen("/m", method="PUT") == "get"
        assert await chosen("/m", method="DELETE") == "any"
        assert await chosen("/h", ("x-version", "2")) == "header"
        assert await chosen("/h", ("X-Version", "3")) == "any"
        assert await chosen("/q?beta=1") == "query"
        assert await chosen("/q?beta=2") == "any"
        assert await chosen("/q?beta=1&urgent=yes") == "urgent"
        assert (await gateway.get("/m", method="HEAD")).value(b"content-length") == b"3"


async def test_404_and_405_say_what_there_is(tmp_path: Path, origin: Origin) -> None:
    routes = route("/m", "methods = POST, PUT") + route("/n", "methods = GET", name="b")
    async with running(tmp_path, upstream(origin.port) + routes) as gateway:
        missing = await gateway.get("/x")
        assert missing.status == 404
        assert b'"reason": "no_route"' in missing.body
        refused = await gateway.get("/m")
        assert refused.status == 405
        assert set((refused.value(b"allow") or b"").split(b", ")) == {b"POST", b"PUT"}
        refused = await gateway.get("/n", method="DELETE")
        assert set((refused.value(b"allow") or b"").split(b", ")) == {b"GET", b"HEAD"}
    assert origin.requests == []


async def test_a_routes_limit_of_bodies(tmp_path: Path, origin: Origin) -> None:
    origin.script = [lambda _: [BODY, reply(200, b"taken")]]
    async with running(tmp_path, upstream(origin.port) + route("/", "max_body = 1KiB")) as gateway:
        assert (await gateway.get("/", method="POST", body=b"x" * 1024)).body == b"taken"
        refused = await gateway.get("/", method="POST", body=b"x" * 1025)
        assert refused.status == 413
        client = await gateway.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        client.send(b"1\r\nx\r\n")
        assert (await client.read_response()).status == 413
        reasons = [line.get("reason") for line in gateway.logged()]
        assert reasons == [None, "body_too_large", "body_too_large"]


async def test_the_total_time_of_an_exchange(tmp_path: Path, origin: Origin) -> None:
    late: Deferred[None] = Deferred()
    origin.script = [[late], [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", late]]
    async with running(tmp_path, upstream(origin.port) + route("/", "timeout.total = 200ms")) as gateway:
        response = await gateway.get("/")
        assert response.status == 504
        assert b'"reason": "deadline_exceeded"' in response.body
        client = await gateway.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.read_head()).status == 200
        await client.until_closed()  # cut off, never ended as if it were complete
        assert client.unread == b"12345"
        for connection in origin.connections:
            await connection.until_closed()
    late.callback(None)


async def test_encoded_slashes_are_refused_where_they_are_not_allowed(tmp_path: Path, origin: Origin) -> None:
    routes = route("/strict") + route("/free", "allow_encoded_slashes = yes", name="b")
    async with running(tmp_path, upstream(origin.port) + routes) as gateway:
        assert (await gateway.get("/strict/a%2Fb")).status == 400
        assert (await gateway.get("/free/a%2Fb")).status == 200
        assert (await gateway.get("/free/a%00b")).status == 400
        assert (await gateway.get("/free/a%5Cb")).status in {200, 400}


class Counting(Resource):
    """A resource of a user's own."""

    made = 0
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        type(self).made += 1
        self.asked = 0

    def render_GET(self, request: Request) -> bytes:
        self.asked += 1
        return b"%d %s %s" % (self.asked, request.uri, b"/".join(request.postpath or []))

    def render_POST(self, request: Request) -> bytes:
        assert request.content is not None
        return bytes(request.content.read())


async def test_a_resource_of_twisted_web_is_mounted(tmp_path: Path) -> None:
    text = f"[resource counting]\npath = /count\nclass = {__name__}:Counting\n"
    async with running(tmp_path, text) as gateway:
        assert (await gateway.get("/count/a/b?c=d")).body == b"1 /count/a/b?c=d a/b"
        assert (await gateway.get("/count", method="POST", body=b"content")).body == b"content"
        assert (await gateway.get("/other")).status == 404
        made = Counting.made
        await gateway.reload()
        assert (await gateway.get("/count/x")).body == b"2 /count/x x"  # what did not change keeps its state
        assert Counting.made == made


async def test_health_is_503_while_an_upstream_has_nobody(tmp_path: Path, origin: Origin) -> None:
    text = upstream(origin.port, more="health.path = /h\nhealth.interval = 50ms\n") + route("/") + "[health]\n"
    async with running(tmp_path, text) as gateway:
        assert (await gateway.get("/health")).status == 200
        assert (await gateway.get("/health/ready")).status == 200
        assert (await gateway.get("/health/live")).status == 200
        origin.script = [reply(500)]
        while (await gateway.get("/health")).status != 503:
            await asyncio.sleep(0.02)
        assert (await gateway.get("/health/ready")).status == 200


async def test_hosts_with_sub_delimiters_are_routed(tmp_path: Path, origin: Origin) -> None:
    routes = route("/", "respond = 204") + route("/", "hosts = 0.0.0.0=5000, shop.example", "respond = 202", name="b")
    async with running(tmp_path, routes) as gateway:
        assert (await gateway.get("/", host="0.0.0.0=5000")).status == 202
        assert (await gateway.get("/", host="0.0.0.0=5000:80")).status == 202
        assert (await gateway.get("http://0.0.0.0=5000/", host="x")).status == 202
        assert (await gateway.get("/", host="sh%6Fp.example")).status == 202  # another spelling is no other host
        assert (await gateway.get("/", host="a'b&c")).status == 204
        for wrong in ("a@b", "a=b@c", "a%40b", "a b", "a%20b", "a%2Fb"):
            assert (await gateway.get("/", host=wrong)).status == 400
