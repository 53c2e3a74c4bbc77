"""openapi: requests against a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apigw.policies import openapi
from tests.policies.surroundings import Outcome, World, request, run
from tests.policies.test_answers import make
from tests.policies.test_content import content

API = str(Path(__file__).parent / "api.yaml")


def asked(
    method: str,
    target: str,
    body: bytes | None = None,
    *,
    kind: str = "application/json",
    world: World | None = None,
    options: Any = None,
    **headers: str,
) -> Outcome:
    path, _, query = target.partition("?")
    fields = {"x-tenant": "acme", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body is not None:
        fields["content-type"] = kind
    policy = make(openapi, "OpenAPI", world, file=API, **(options or {}))
    return run(policy, request(method, path, query=query or None, headers=fields, body=body))


def violations(outcome: Outcome) -> list[tuple[str, str, str]]:
    assert (outcome.status, outcome.reason, outcome.passed) == (400, "schema_violated", [])
    document = json.loads(bytes(outcome.response.body))  # type: ignore[arg-type]
    return [(each["in"], each.get("name", ""), each["pointer"]) for each in document["violations"]]


@pytest.mark.parametrize(
    "target",
    [
        "/v1/orders",
        "/v1/orders?limit=5&dry=true&unknown=1",
        "/v1/orders?state=open,done&id=1&id=2",
        "/v1/orders?filter[price]=1.5",
        "/v1/orders/7",
        "/v1/orders/%37",
        "/v1/orders/latest",
        "/v1;x=1/orders;y",
        "/v1/orders/latest;x",
    ],
)
def test_requests_as_described_pass(target: str) -> None:
    assert asked("GET", target).status == 200
    assert asked("HEAD", target).status == 200


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("/v1/orders?limit=0", [("query", "limit", "")]),
        ("/v1/orders?limit=many&dry=1", [("query", "limit", ""), ("query", "dry", "")]),
        ("/v1/orders?limit=1&limit=2", [("query", "limit", "")]),
        ("/v1/orders?state=open,lost", [("query", "state", "/1")]),
        ("/v1/orders?id=1&id=x", [("query", "id", "/1")]),
        ("/v1/orders?filter[price]=cheap", [("query", "filter", "/price")]),
        ("/v1/orders/seven", [("path", "id", "")]),
    ],
)
def test_parameters_that_are_wrong(target: str, found: list[Any]) -> None:
    assert violations(asked("GET", target)) == found


def test_headers_and_cookies() -> None:
    assert violations(asked("GET", "/v1/orders", x_tenant="ACME")) == [("header", "X-Tenant", "")]
    assert asked("GET", "/v1/orders", cookie="a=b; session=abcd").status == 200
    assert violations(asked("GET", "/v1/orders", cookie="session=abc")) == [("cookie", "session", "")]
    policy = make(openapi, "OpenAPI", file=API)
    assert violations(run(policy, request("GET", "/v1/orders"))) == [("header", "X-Tenant", "")]


def test_paths_methods_and_types_that_there_are_not() -> None:
    assert (asked("GET", "/v1/nothing").status, asked("GET", "/orders").status) == (404, 404)
    assert asked("GET", "/v1/nothing", options={"unknown_paths": "yes"}).status == 200
    outcome = asked("DELETE", "/v1/orders")
    assert (outcome.status, outcome.response.headers.get(b"allow")) == (405, b"GET, POST")
    assert asked("OPTIONS", "/v1/orders").status == 200
    assert asked("POST", "/v1/orders", b"x", kind="text/plain").status == 415
    assert asked("POST", "/v1/orders", b"x", kind="image/png").status == 200
    assert asked("GET", "/orders", options={"base_path": "/"}).status == 200
    assert violations(asked("GET", "/v1/orders?x=1", options={"unknown_query": "no"})) == [("query", "x", "")]


def test_content_as_described_passes_as_it_came() -> None:
    body = b'{"item": {"name": "a", "parts": [{"name": "b"}]}, "note": null, "price": 0.01 }'
    assert content(asked("POST", "/v1/orders", body)) == body


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"item": {"name": 1}}', ["/item/name"]),
        (b'{"item": {"name": "a", "parts": [{}]}}', ["/item/parts/0"]),
        (b'{"item": {"name": "a"}, "price": 0, "note": 3}', ["/note", "/price"]),
        (b"{}", [""]),
        (b'{"item": {"name": "a"}, "more": 1}', [""]),
    ],
)
def test_content_that_is_wrong(body: bytes, found: list[str]) -> None:
    assert sorted(pointer for _, _, pointer in violations(asked("POST", "/v1/orders", body))) == found


def test_all_that_is_wrong_is_told_at_once() -> None:
    outcome = asked("POST", "/v1/orders", b"{}", x_tenant="1")
    assert violations(outcome) == [("header", "X-Tenant", ""), ("body", "", "")]


def test_forms_and_missing_content() -> None:
    form = "application/x-www-form-urlencoded"
    assert asked("POST", "/v1/orders", b"count=3", kind=form).status == 200
    assert violations(asked("POST", "/v1/orders", b"count=x", kind=form)) == [("body", "", "/count")]
    assert violations(asked("POST", "/v1/orders")) == [("body", "", "")]
    assert asked("POST", "/v1/orders", b"{").reason == "json_invalid"
    assert asked("POST", "/v1/orders", b" " * (1 << 21)).status == 413


def test_in_shadow_all_pass_and_the_log_says_what_was_wrong() -> None:
    world = World()
    outcome = asked("POST", "/v1/orders", b"{}", world=world, options={"mode": "shadow"})
    assert content(outcome) == b"{}"
    notes = outcome.passed[0].notes
    assert notes is not None
    assert notes["violations"] == ["body"]
    assert world.counts == {"would_deny": 1}


@pytest.mark.parametrize(
    "text",
    [
        "swagger: '2.0'",
        "openapi: 3.1.0\npaths: {/a: {get: {parameters: [{$ref: 'other.yaml#/x'}]}}}",
        "openapi: 3.1.0\npaths: {/a: {get: {parameters: [{$ref: '#/components/parameters/None'}]}}}",
        "openapi: 3.1.0\npaths: {'/a/{x}': {get: {parameters: [{name: x, in: path, style: form, schema: {}}]}}}",
        "openapi: 3.1.0\npaths: {/a: {post: {requestBody: {content: {application/json: {schema: {type: nothing}}}}}}}",
        "openapi: 3.1.0\npaths: {/a: {post: {requestBody: {content: {application/json: {schema: {$ref: '#/x'}}}}}}}",
        "- {",
    ],
)
def test_documents_that_can_not_be_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "api.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"api\.yaml"):
        make(openapi, "OpenAPI", file=str(tmp_path / "api.yaml"))


@pytest.mark.parametrize(
    ("style", "schema", "good", "bad"),
    [
        ("label", "{type: integer}", ".5", ".x"),
        ("label", "{type: array, items: {type: integer}}", ".3,4", ".3,x"),
        ("label, explode: true", "{type: array, items: {type: integer}}", ".3.4", ".3.x"),
        ("matrix", "{type: integer}", ";id=5", ";id=x"),
        ("matrix", "{type: integer}", ";id=5", ";di=5"),
        ("matrix", "{type: array, items: {type: integer}}", ";id=3,4", ";id=3,x"),
        ("matrix, explode: true", "{type: array, items: {type: integer}}", ";id=3;id=4", ";id=3;id=x"),
        ("matrix, explode: true", "{type: object, properties: {x: {type: integer}}}", ";x=1;y=2", ";x=a;y=2"),
    ],
)
def test_styles_of_path_parameters(tmp_path: Path, style: str, schema: str, good: str, bad: str) -> None:
    parameter = f"{{name: id, in: path, required: true, style: {style}, schema: {schema}}}"
    text = f"openapi: 3.1.0\npaths: {{'/a/{{id}}': {{get: {{parameters: [{parameter}]}}}}}}"
    (tmp_path / "api.yaml").write_text(text)
    policy = make(openapi, "OpenAPI", file=str(tmp_path / "api.yaml"))
    assert run(policy, request(path=f"/a/{good}")).status == 200
    assert run(policy, request(path=f"/a/{bad}")).reason == "schema_violated"
