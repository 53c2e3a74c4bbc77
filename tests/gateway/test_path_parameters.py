"""Path parameters (``/admin;x=1``) do not lead around the route of the path without them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
import pytest_twisted
from twisted.web.resource import Resource
from twisted.web.server import Request

from apigw.testing.origins import Origin, Received, reply
from tests.gateway.running import Gateway, request, route, running, upstream

PROTECTED = "\n[ip_filter nobody]\nallow = 192.0.2.1\n"
CLOSED = "policies = ip_filter nobody"


def echo(asked: Received) -> bytes:
    return reply(200, json.dumps(asked.line.decode()).encode(), (b"Content-Type", b"application/json"))


@pytest_twisted.async_yield_fixture()
async def origin() -> AsyncIterator[Origin]:
    origin = await Origin([echo]).start()
    yield origin
    await origin.stop()


def served_as(path: bytes) -> bytes | None:
    """What a servlet container takes a path for: parameters dropped, decoded, normalised. None: it refuses it."""
    path = unquote_to_bytes(re.sub(rb";[^/]*", b"", path))
    kept: list[bytes] = []
    segments = re.sub(rb"/+", b"/", path.replace(b"\\", b"/")).split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if not kept:
                return None
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in {b".", b".."}:
        kept.append(b"")
    return b"/" + b"/".join(kept)


NAMES = ["{}", "{}", "{};x", "{};x=1;y", "{};", "{};x,y", "{}%3Bx", "{};%2e%2e", "{};a%3Bb", ";{}", "{}%3bx;y"]
BETWEEN = ["/", "/", "/", "//", "/./", "/%2e/", "/x/../", "/x;y/../", "/;/", "/;x/", "/.;/", "/..;/", "/%2e%2E;/"]
ENDS = ["", "", "/", ";x", "/;x", "/users", ";/users;", "//", "/.", "/x/..", "/..;", "/%3B"]


def spellings(count: int) -> list[str]:
    """Ways to write ``/api/admin`` and paths below it, of which a service may take many for the same."""
    drawn = random.Random(8)
    names = [re.sub("a", encoded, name) for name in ("api", "admin") for encoded in ("a", "%61")]
    made = {f"/api/admin{end}" for end in ENDS} | {"/api;x/admin", "/api/admin;x", "/api/admin;x=1/users"}
    while len(made) < count:
        api = drawn.choice(BETWEEN) + drawn.choice(NAMES).format(drawn.choice(names[:2]))
        admin = drawn.choice(BETWEEN) + drawn.choice(NAMES).format(drawn.choice(names[2:]))
        made.add(api + admin + drawn.choice(ENDS))
    return sorted(made)


@pytest.mark.parametrize(
    ("pattern", "reaches"),
    [
        ("/api/admin", rb"/api/admin(/.*)?"),
        ("=/api/admin", rb"/api/admin"),
        ("/api/{name}", rb"/api/[^/]+"),
        ("/api/{name}/{rest*}", rb"/api/[^/]+/.*"),
        ("~/api/[a-z]+(/.*)?\npriority = 1", rb"/api/[a-z]+(/.*)?"),
    ],
)
async def test_no_spelling_reaches_the_service_by_another_route(
    tmp_path: Path, origin: Origin, pattern: str, reaches: bytes
) -> None:
    routes = route("/") + route(pattern, CLOSED, name="b")
    async with running(tmp_path, PROTECTED + upstream(origin.port) + routes) as gateway:
        statuses = []
        client = None
        for path in spellings(600):
            client = client or await gateway.connect()
            client.send(request(path))
            statuses.append((await client.read_response()).status)
            if statuses[-1] == 400:  # the connection ends with it
                client.close()
                client = None
        assert {400, 403, 200} == set(statuses)
        assert statuses.count(403) > 20
    seen = [each.line.split()[1] for each in origin.requests]
    assert [path for path in seen if re.fullmatch(reaches, served_as(path) or b"")] == []


async def test_captures_and_the_path_that_is_sent_on_stay_as_they_came(tmp_path: Path, origin: Origin) -> None:
    routes = (
        route("/")
        + route("/stripped/v1", "strip_prefix = /stripped/v1", name="b")
        + route("/t/{id}/{rest*}", "rewrite = ^.*$ -> /by/{id}/in/{rest}", name="c")
        + route("/r", r"rewrite = ^/r/([a-z]+)/(.*)$ -> /\2/\1", name="d")
        + route("~/x/(?P<id>[a-z]+)/e", "rewrite = ^.*$ -> /y/{id}", "priority = 1", name="e")
        + route("/u", "strip_prefix = /u", "add_prefix = /v;z", name="f")
    )
    async with running(tmp_path, upstream(origin.port) + routes) as gateway:
        for asked, sent in [
            ("/a;x=1/b;y?q;z", "/a;x=1/b;y?q;z"),
            ("/a/;jsessionid=1", "/a/;jsessionid=1"),
            ("/;jsessionid=1", "/;jsessionid=1"),
            ("/a%3Bx", "/a%3Bx"),
            ("/stripped;a=1/v1;b/c;d/e", "/c;d/e"),
            ("/stripped/v1;b", "/"),
            ("/stripped/v1/;b", "/;b"),
            ("/t/7;x/a;y/b", "/by/7%3Bx/in/a%3By/b"),
            ("/r;a/b;c/d;e/f", "/d;e/f/b;c"),
            ("/x;p/ab;q=1/e;r", "/y/ab%3Bq%3D1"),
            ("/u;a/b;c", "/v;z/b;c"),
        ]:
            response = await gateway.get(asked)
            assert (response.status, json.loads(response.body)) == (200, f"GET {sent} HTTP/1.1"), asked


async def test_parameters_alone_are_no_segment(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        for path in ("/;/a", "/a/;x/b", "/a/;x;y=1/", "/.;x", "/a/..;/b", "/a/%2e%2e;/b", "/a/.%3b"):
            response = await gateway.get(path)
            assert (response.status, json.loads(response.body)["reason"]) == (400, "invalid_path"), path
    assert origin.requests == []


def refusing(gateway: str, *routes: str) -> str:
    return f"[gateway]\ntrusted_proxies = 127.0.0.1\npath_parameters = {gateway}\n{''.join(routes)}"


@pytest.mark.parametrize(
    ("everywhere", "here", "status"),
    [("refuse", "", 400), ("match", "refuse", 400), ("refuse", "match", 200), ("match", "", 200)],
)
async def test_parameters_can_be_refused(
    tmp_path: Path, origin: Origin, everywhere: str, here: str, status: int
) -> None:
    own = [f"path_parameters = {here}"] if here else []
    text = refusing(everywhere, upstream(origin.port), route("/", *own), "[health]\n")
    async with running(tmp_path, text) as gateway:
        for path in ("/a;x/b", "/a;", "/;jsessionid=1"):
            assert (await gateway.get(path)).status == status
        for path in ("/a%3Bx", "/a?b;c", "/a"):
            assert (await gateway.get(path)).status == 200
        assert (await gateway.get("/health;x/live")).status == (400 if everywhere == "refuse" else 200)
        if status == 400:
            assert gateway.logged()[0]["reason"] == "path_parameters"


class Page(Resource):
    """What is mounted; it says what is left of the path for it."""

    isLeaf = True

    def render_GET(self, asked: Request) -> bytes:
        return b"/".join(asked.postpath or [])


async def test_all_that_answers_by_a_path_matches_without_parameters(tmp_path: Path, origin: Origin) -> None:
    text = PROTECTED + upstream(origin.port) + route("/") + route("/api/admin", CLOSED, name="b")
    text += (
        route("=/fixed", "respond = 204", name="c")
        + """
[aggregate page]
path = /pages/{id}
call.a = a GET /a/{path.id}
response = a

[batch all]
path = /batch

[resource files]
path = /files
class = tests.gateway.test_path_parameters:Page

[health]
"""
    )
    async with running(tmp_path, text) as gateway:
        assert (await gateway.get("/fixed;x")).status == 204
        assert (await gateway.get("/health;x")).status == 200
        assert (await gateway.get("/health;x/live;y")).status == 200
        assert (await gateway.get("/files;x/a;y")).body == b"a;y"
        assert json.loads((await gateway.get("/pages;x/7;y")).body) == "GET /a/7%3By HTTP/1.1"
        assert (await gateway.get("/api/admin;x", method="OPTIONS")).status == 403
        asked = [{"path": "/api/admin;x"}, {"path": "/api;x/admin"}, {"path": "/api/;x/admin"}]
        response = await batch(gateway, "/batch;x", asked)
        assert [each["status"] for each in response] == [403, 403, 400]


async def batch(gateway: Gateway, path: str, asked: list[dict[str, str]]) -> list[dict[str, int]]:
    response = await gateway.get(
        path, ("Content-Type", "application/json"), method="POST", body=json.dumps(asked).encode()
    )
    answers: list[dict[str, int]] = json.loads(response.body)
    return answers


async def test_a_reload_changes_it_for_connections_that_are_there(tmp_path: Path, origin: Origin) -> None:
    parts = (upstream(origin.port), route("/"))
    async with running(tmp_path, refusing("match", *parts)) as gateway:
        client = await gateway.connect()
        client.send(request("/a;x"))
        assert (await client.read_response()).status == 200
        await gateway.reload(refusing("refuse", *parts))
        client.send(request("/a;x"))
        assert (await client.read_response()).status == 400
        client.send(request("/a"))
        assert (await client.read_response()).status == 200
