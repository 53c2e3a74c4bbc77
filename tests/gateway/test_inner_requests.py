"""Every policy decides on a request of a batch as it does on the same request by itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest

from apigw.policies.catalogue import POLICIES
from apigw.testing.origins import BODY, Received, reply
from tests.gateway.running import route, upstream
from tests.policies.test_asking import BCRYPT

JSON = ("Content-Type", "application/json")
SECRET = "demo-secret-demo-secret-demo-secret!"
TOKEN = ("Authorization", f"Bearer {pyjwt.encode({'sub': 'anna', 'tenant': 't1'}, SECRET)}")
KEY = "0123456789abcdef0123456789abcdef"
CONSUMER = f"[consumer acme]\nkeys = sha256:{hashlib.sha256(KEY.encode()).hexdigest()}\n"
BATCH = "[batch all]\npath = /batch\n"
BROWSER = (("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site"))


@dataclass(frozen=True)
class Ask:
    """A request: ``caller`` are fields that only the batch can have, ``fields`` those of the item."""

    caller: tuple[tuple[str, str], ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    method: str = "GET"
    body: Any = None
    status: int = 200
    path: str = "/x"


@dataclass(frozen=True)
class Case:
    options: str
    asks: tuple[Ask, ...]
    more: str = ""


OK, POST = Ask(), Ask(method="POST", body={"id": 7})
CASES = {
    "acl": Case("allow = group:admins", (Ask(status=403),)),
    "api_key": Case(
        "header = X-Key\nconsumer_header = X-User-Id",
        (Ask((("X-Key", KEY), ("X-User-Id", "root"))), Ask((("X-Key", "wrong"),), status=401), Ask(status=401)),
        CONSUMER,
    ),
    "auth": Case(
        "any = jwt main | api_key keys",
        (Ask((TOKEN,)), Ask((("X-Key", KEY),)), Ask(status=401)),
        f"{CONSUMER}[jwt main]\nsecret = {SECRET}\n[api_key keys]\nheader = X-Key\n",
    ),
    "basic": Case(
        "file = {folder}/users\nuser_header = X-User-Id", (Ask((("Authorization", "Basic YTpi"),), status=401),)
    ),
    "body_limit": Case("request = 20", (POST, Ask(method="POST", body={"id": "x" * 20}, status=413))),
    "compress": Case("min_size = 1", (OK,)),
    "concurrency": Case("limit = 1", (OK,)),
    "cors": Case("origins = https://shop.example", (Ask(BROWSER), Ask((("Origin", "https://shop.example"),)))),
    "csrf": Case(
        "origins = https://shop.example",
        (
            POST,
            Ask(BROWSER, method="POST", status=403),
            Ask((("Origin", "https://shop.example"),), method="POST"),
            Ask((("Origin", "null"),), method="DELETE", status=403),
            Ask(BROWSER),
        ),
    ),
    "decompress": Case("", (POST, Ask(fields=(("Content-Encoding", "rot13"),), method="POST", body="x", status=415))),
    "error_pages": Case("text = {folder}/users\nservices = yes", (OK, Ask(path="/missing", status=404))),
    "fault": Case("abort = 418", (Ask(status=418),)),
    "forward_auth": Case(
        "url = http://127.0.0.1:{far}/\nresponse_headers = X-User-Id",
        (Ask((("Authorization", "yes"),)), Ask((("X-User-Id", "root"),), status=403)),
    ),
    "introspection": Case(
        "url = http://127.0.0.1:{far}/introspect\nclaims_to_headers = sub: X-User-Id",
        (Ask((("Authorization", "Bearer good"),)), Ask(status=401)),
    ),
    "ip_filter": Case("allow = 203.0.113.9", (Ask((("X-Forwarded-For", "203.0.113.9"),)), Ask(status=403))),
    "json_schema": Case(
        "request = {folder}/schema.json", (POST, Ask(method="POST", body={"id": "x"}, status=400), Ask())
    ),
    "jwt": Case(
        f"secret = {SECRET}\nclaims_to_headers = sub: X-User-Id\nforward_token = no",
        (Ask((TOKEN, ("X-User-Id", "root"))), Ask((("Authorization", "Bearer x"),), status=401), Ask(status=401)),
    ),
    "oidc": Case(
        "issuer = http://127.0.0.1:{far}\nclient_id = x\ncookie_secret = demo-secret-demo-secret-demo-secret!",
        (Ask((("Cookie", "apigw_session=x"),), status=401),),
    ),
    "openapi": Case(
        "file = {folder}/api.yaml\nbase_path = {path}",
        (Ask(path="/x?page=1"), Ask(path="/x?page=no", status=400), Ask(path="/unknown", status=404)),
    ),
    "python": Case("class = tests.gateway.test_inner_requests:Tea", (Ask(fields=(("X-Tea", "no"),), status=418), OK)),
    "rate_limit": Case("rate = 2/h\nby = header:X-Tenant", tuple(
        Ask(fields=(("X-Tenant", tenant),), status=status)
        for tenant, status in (("a", 200), ("a", 200), ("b", 200), ("a", 429), ("b", 200), ("b", 429))
    )),
    "redirect": Case("location = /elsewhere", (Ask(status=308),)),
    "request_headers": Case("set.X-Extra = {{header.X-Tenant}}", (Ask(fields=(("X-Tenant", "t1"),)),)),
    "respond": Case("status = 410", (Ask(status=410),)),
    "response_headers": Case("set.X-Extra = 1", (OK,)),
    "security_headers": Case("", (OK,)),
    "transform": Case(
        "request = {{user: id}}", (POST, Ask(fields=(JSON,), method="POST", body="{no", status=400))
    ),
}  # fmt: skip


class Tea:
    """A policy of somebody's own."""

    async def on_request(self, request: Any) -> Any:
        if request.headers.get(b"x-tea"):
            from apigw.exchange.errors import ClientFault

            raise ClientFault("no tea", status=418, reason="no_tea")


def test_every_policy_is_tried() -> None:
    assert set(CASES) == set(POLICIES)


def far(received: Received) -> bytes:
    """Answers as the services that policies ask."""
    if b"/introspect" in received.line:
        return reply(200, b'{"active": true, "sub": "anna"}', (b"Content-Type", b"application/json"))
    return reply(200 if received.values(b"authorization") else 403, b"", (b"X-User-Id", b"anna"))


def written(folder: Path) -> None:
    """The files that the policies read."""
    (folder / "users").write_text(f"anna:{BCRYPT}\n")
    (folder / "schema.json").write_text('{"type": "object", "properties": {"id": {"type": "integer"}}}')
    (folder / "api.yaml").write_text(
        "openapi: 3.0.3\ninfo: {title: t, version: '1'}\npaths:\n  /x:\n    get:\n      parameters:\n"
        "      - {name: page, in: query, schema: {type: integer}}\n      responses: {'200': {description: ok}}\n"
    )


async def directly(running: Any, ask: Ask, prefix: str) -> tuple[int, str]:
    data = (
        b"" if ask.body is None else ask.body.encode() if isinstance(ask.body, str) else json.dumps(ask.body).encode()
    )
    fields = (*ask.caller, *ask.fields)
    if data and not isinstance(ask.body, str):
        fields += (JSON,)
    response = await running.get(prefix + ask.path, *fields, method=ask.method, body=data)
    return response.status, reason_of(response.body)


async def batched(running: Any, ask: Ask, prefix: str, batch: str = "/batch") -> tuple[int, str]:
    item = {"method": ask.method, "path": prefix + ask.path, "headers": dict(ask.fields), "body": ask.body}
    response = await running.get(batch, JSON, *ask.caller, method="POST", body=json.dumps([item]).encode())
    assert response.status == 200, response.body
    [answer] = json.loads(response.body)
    return answer["status"], answer["body"].get("reason", "") if isinstance(answer.get("body"), dict) else ""


def reason_of(body: bytes) -> str:
    try:
        said = json.loads(body)
    except ValueError:
        return ""
    return str(said.get("reason", "")) if isinstance(said, dict) else ""


def seen(received: Received) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    """What a service got, but for what differs between any two requests."""
    differ = {b"x-request-id", b"content-length", b"transfer-encoding", b"via", b"x-forwarded-prefix"}
    fields = sorted((name.lower(), value) for name, value in received.fields if name.lower() not in differ)
    return received.line, received.body.replace(b" ", b""), fields


@pytest.mark.parametrize("batch_policies", [False, True], ids=["plain batch", "batch with the same policy"])
@pytest.mark.parametrize("kind", CASES)
async def test_a_policy_decides_as_for_the_request_by_itself(
    gateway: Any, origin: Any, tmp_path: Path, kind: str, batch_policies: bool
) -> None:
    case = CASES[kind]
    if batch_policies and kind not in {"api_key", "jwt", "auth", "introspection", "forward_auth", "ip_filter"}:
        return  # the others would decide on the batch, too
    written(tmp_path)
    service = await origin(
        [
            lambda got: [
                BODY,
                reply(404 if b"missing" in got.line else 200, b'{"a": 1}', (b"Content-Type", b"text/plain")),
            ]
        ]
    )
    asked = await origin([far])
    text = upstream(service.port) + case.more
    for name in ("direct", "inner"):
        options = case.options.format(folder=tmp_path, far=asked.port, path=f"/{name}")
        text += f"\n[{kind} {name}]\n{options}\n"
        text += route(f"/{name}", f"strip_prefix = /{name}", f"policies = {kind} {name}", name=name)
    text += BATCH + (f"policies = {kind} inner\n" if batch_policies else "")
    running = await gateway(text)
    for ask in case.asks:
        if batch_policies and ask.status >= 400:
            continue
        direct = await directly(running, ask, "/direct")
        count = len(service.requests)
        inner = await batched(running, ask, "/inner")
        assert direct[0] == ask.status, (ask, direct)
        assert inner == direct, ask
        reached = service.requests[count - 1 :] if ask.status in {200, 404} and len(service.requests) > count else []
        if reached:
            assert seen(reached[0]) == seen(reached[1])


def configuration(port: int, more: str = "") -> str:
    return upstream(port) + "[csrf pages]\n" + route("/a", "policies = csrf pages") + BATCH + more


OWN = """
Sec-Fetch-Site sec-fetch-mode Origin Cookie cookie2 Referer Host Authorization Date X-Forwarded-For X_Forwarded_For
X-Forwarded-Uri Forwarded Via X-Real-IP X-Request-Id Connection TE Upgrade Proxy-Authorization Transfer-Encoding
Content-Length Expect X-Key x_key X-User-Id X.User.Id Accept-Encoding Access-Control-Request-Method
"""


@pytest.mark.parametrize("name", OWN.split())
@pytest.mark.parametrize("shared", [False, True])
async def test_an_item_can_not_say_what_the_batch_says(gateway: Any, origin: Any, name: str, shared: bool) -> None:
    service = await origin([reply()])
    running = await gateway(
        configuration(service.port, "[api_key keys]\nheader = X-Key\nconsumer_header = X-User-Id\n") + CONSUMER
    )
    headers = {"headers": {name: "same-origin"}}
    item = {"method": "POST", "path": "/a"}
    batch = {"pipeline": [item], **headers} if shared else [{**item, **headers}]
    response = await running.get("/batch", JSON, *BROWSER, method="POST", body=json.dumps(batch).encode())
    assert (response.status, reason_of(response.body)) == (400, "batch_invalid")
    assert service.requests == []


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (("text/plain",), 415),
        (("application/x-www-form-urlencoded",), 415),
        (("application/jsonp",), 415),
        (("text/plain; a=application/json",), 415),
        (("application/json", "text/plain"), 415),
        (("text/plain", "application/json"), 415),
        (("application/json, text/plain",), 415),
        ((), 415),
        (("application/json; charset=utf-8",), 200),
        (("Application/JSON",), 200),
    ],
)
async def test_a_batch_must_be_json(gateway: Any, origin: Any, kind: tuple[str, ...], status: int) -> None:
    service = await origin([reply()])
    running = await gateway(configuration(service.port))
    fields = [("Content-Type", value) for value in kind]
    response = await running.get("/batch", *fields, method="POST", body=b'[{"path": "/a"}]')
    assert response.status == status
    assert len(service.requests) == (status == 200)
    if status == 415:
        assert reason_of(response.body) == "media_type_refused"


async def test_cookies_go_out_as_fields_and_are_not_in_the_content(gateway: Any, origin: Any) -> None:
    def sets(got: Received) -> bytes:
        return reply(200, b"x" * (9999 if b"big" in got.line else 1), (b"set-cookie", got.line.split()[1][1:]))

    service = await origin([sets])
    far_service = await origin([lambda _: reply(403, b"no", (b"Set-Cookie", b"login=1; HttpOnly"))])
    running = await gateway(
        upstream(service.port)
        + upstream(service.port, "stuck", "sticky.cookie = at\nsticky.secret = 0123456789abcdef0123456789abcdef\n")
        + f"[forward_auth far]\nurl = http://127.0.0.1:{far_service.port}/\n"
        + route("/")
        + route("/refused", "policies = forward_auth far", name="refused")
        + route("/stuck", name="stuck", to="stuck")
        + BATCH
        + "max_answer = 1KiB\n"
    )
    paths = ["/a=1", "/session=s;HttpOnly", "/big=3", "/refused", "/stuck"]
    batch = json.dumps([{"path": path} for path in paths]).encode()
    response = await running.get("/batch", JSON, method="POST", body=batch)
    cookies = response.values(b"set-cookie")
    assert cookies[:4] == [b"a=1", b"session=s;HttpOnly", b"big=3", b"login=1; HttpOnly"]
    assert len(cookies) == 6  # the last route's service sets one, and the gateway its own
    assert response.value(b"cache-control") == b"no-store"
    assert [answer["status"] for answer in json.loads(response.body)] == [200, 200, 502, 403, 200]
    assert b"et-cookie" not in response.body
    assert b"HttpOnly" not in response.body


@pytest.mark.parametrize(
    ("item", "status", "reason"),
    [
        ({"path": "http://elsewhere.example/a"}, 400, "batch_invalid"),
        ({"path": "//elsewhere.example/a"}, 200, "no_route"),
        ({"path": "/a/../admin"}, 400, "batch_invalid"),
        ({"path": "/a/%2e%2e/admin"}, 200, "forbidden"),
        ({"path": "/a/..%2fadmin"}, 200, "encoded_slash"),
        ({"path": "/a#/admin"}, 400, "batch_invalid"),
        ({"path": "*", "method": "OPTIONS"}, 400, "batch_invalid"),
        ({"path": "/a", "method": "CONNECT"}, 400, "batch_invalid"),
        ({"path": "/a", "method": "TRACE"}, 400, "batch_invalid"),
        ({"path": "/batch", "method": "POST", "body": []}, 200, "batch_nested"),
        ({"path": "/ba%74ch", "method": "POST", "body": []}, 200, "batch_nested"),
        ({"path": "/a", "method": "HEAD"}, 200, ""),
        ({"path": "/a", "method": "OPTIONS"}, 200, ""),
    ],
)
async def test_paths_and_methods_of_items(
    gateway: Any, origin: Any, item: dict[str, Any], status: int, reason: str
) -> None:
    service = await origin([lambda got: reply(200, b"" if got.line.startswith(b"HEAD") else b"{}")])
    running = await gateway(
        "[acl nobody]\nallow = group:none\n"
        + configuration(service.port)
        + route("/admin", "policies = acl nobody", name="admin")
    )
    response = await running.get("/batch", JSON, method="POST", body=json.dumps([item]).encode())
    assert response.status == status
    said = json.loads(response.body)
    if status == 200:
        [answer] = said
        assert (answer["body"].get("reason", "") if isinstance(answer.get("body"), dict) else "") == reason
        assert (answer["status"] == 200) == (reason == "")
    else:
        assert said["reason"] == reason
    assert len(service.requests) == (reason == "")


async def test_an_aggregate_within_a_batch_has_the_batchs_fields(gateway: Any, origin: Any) -> None:
    service = await origin([reply(200, b"{}", (b"Set-Cookie", b"a=1; HttpOnly"))])
    running = await gateway(
        upstream(service.port)
        + "[aggregate page]\npath = /page\nforward_headers = Cookie, X-Tenant\ncall.one = a GET /one\n"
        + BATCH
    )
    batch = b'[{"path": "/page", "headers": {"X-Tenant": "t1"}}]'
    response = await running.get("/batch", JSON, ("Cookie", "c=1"), method="POST", body=batch)
    [answer] = json.loads(response.body)
    assert answer["body"] == {"one": {}}
    assert response.values(b"set-cookie") == [b"a=1; HttpOnly"]
    [got] = service.requests
    assert (got.values(b"cookie"), got.values(b"x-tenant")) == ([b"c=1"], [b"t1"])


@pytest.mark.parametrize("option", ["call.one = a GET /one", "class = tests.gateway.test_inner_requests:one"])
async def test_calls_of_an_aggregate_have_the_identity_that_its_policies_prove(
    gateway: Any, origin: Any, option: str
) -> None:
    service = await origin([reply(200, b"{}", (b"Cache-Control", b"max-age=60"))])
    running = await gateway(
        upstream(service.port)
        + f"[jwt main]\nsecret = {SECRET}\nclaims_to_headers = sub: X-User-Id, org: X-Org\n"
        + f"[aggregate page]\npath = /page\npolicies = jwt main\n{option}\n"
        + f"[aggregate open]\npath = /open\n{option}\n"
    )
    fields = (TOKEN, *BROWSER, ("X-User-Id", "root"), ("x_user_id", "root"), ("X-Org", "evil"), ("Cookie", "c=1"))
    response = await running.get("/page", *fields)
    assert response.status == 200
    if option.startswith("call"):
        assert response.value(b"cache-control") == b"private, max-age=60"
    await running.get("/open", *fields)
    proved, unproved = ({name.lower(): value for name, value in got.fields} for got in service.requests)
    assert proved[b"x-user-id"] == b"anna"
    for got in (proved, unproved):
        assert not got.keys() & {b"x-org", b"x_user_id", b"cookie", b"origin", b"sec-fetch-site", b"authorization"}
        assert got[b"x-forwarded-for"] == b"127.0.0.1"
    assert b"x-user-id" not in unproved


async def one(request: Any, client: Any) -> Any:
    """An aggregate in Python."""
    return await (await client.a.get("/one")).json()
