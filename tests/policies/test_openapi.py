"""openapi: requests against a document."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from apigw import cli
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


UPLOADS = """
openapi: 3.1.0
paths:
  /upload:
    post:
      requestBody:
        content:
          multipart/form-data:
            schema:
              type: object
              required: [count, photo]
              additionalProperties: false
              properties:
                count: {type: integer, minimum: 1}
                tags: {type: array, items: {type: string, minLength: 2}}
                about: {type: object, required: [name]}
                photo: {type: string, maxLength: 8}
                note: {type: string}
            encoding:
              photo: {contentType: "image/png, image/jpeg"}
          application/x-www-form-urlencoded: {schema: {type: object, properties: {n: {type: integer}}}}
          text/plain: {schema: {type: string, maxLength: 4}}
          application/xml: {schema: {type: object}}
          application/octet-stream: {schema: {type: string, format: binary}}
          image/*: {}
      responses: {}
"""
PHOTO = ("photo", b"\x89PNG\xff", "; filename=a.png", "image/png")
FORM = "multipart/form-data; boundary=X"


def parts(*fields: tuple[str, ...] | tuple[str, bytes] | tuple[str, bytes, str, str]) -> bytes:
    made = b""
    for name, value, *more in fields:
        extra, kind = more or ("", "")
        made += f'--X\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n'.encode()
        made += (f"Content-Type: {kind}\r\n".encode() if kind else b"") + b"\r\n"
        made += (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return made + b"--X--\r\n"


def uploaded(tmp_path: Path, body: bytes, kind: str, world: World | None = None, **options: Any) -> Outcome:
    (tmp_path / "uploads.yaml").write_text(UPLOADS)
    policy = make(openapi, "OpenAPI", world, file=str(tmp_path / "uploads.yaml"), **options)
    headers = {"content-type": kind}
    if kind.endswith("; gzip"):
        headers = {"content-type": kind.removesuffix("; gzip"), "content-encoding": "gzip"}
    return run(policy, request("POST", "/upload", headers=headers, body=body))


def test_the_parts_of_a_form_are_checked(tmp_path: Path) -> None:
    good = parts(("count", "3"), ("tags", "aa"), ("tags", "bb"), ("about", '{"name": "x"}'), PHOTO)
    outcome = uploaded(tmp_path, good, FORM)
    assert (outcome.status, content(outcome)) == (200, good)
    assert uploaded(tmp_path, gzip.compress(good), FORM + "; gzip").status == 200


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ([("count", "0"), PHOTO], ["/count"]),
        ([("count", "x"), PHOTO], ["/count"]),
        ([("count", "1")], [""]),
        ([("count", "1"), ("tags", "a"), PHOTO], ["/tags/0"]),
        ([("count", "1"), ("about", "{}"), PHOTO], ["/about"]),
        ([("count", "1"), ("about", "no JSON"), PHOTO], ["/about"]),
        ([("count", "1"), ("about", "[]", "", "application/json"), PHOTO], ["/about"]),
        ([("count", "1"), ("more", "x"), PHOTO], [""]),
        ([("count", "1"), ("count", "0"), PHOTO], ["/count"]),
        ([("count", "1"), ("photo", b"x" * 9, "; filename=a", "image/png")], ["/photo"]),
        ([("count", "1"), ("photo", b"x", "; filename=a", "text/html")], ["/photo"]),
    ],
)
def test_what_is_wrong_in_a_form_is_told(tmp_path: Path, fields: list[Any], where: list[str]) -> None:
    outcome = uploaded(tmp_path, parts(*fields), FORM)
    assert [pointer for _, _, pointer in violations(outcome)] == where


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (parts(PHOTO)[:-8], FORM, "form_invalid"),
        (b"", FORM, "form_invalid"),
        (parts(PHOTO), "multipart/form-data", "form_invalid"),
        (parts(PHOTO), "multipart/form-data; boundary=Y", "form_invalid"),
        (b"--X\r\nContent-Type: text/plain\r\n\r\na\r\n--X--\r\n", FORM, "form_invalid"),
        (parts(*[("note", "x")] * 300), FORM, "form_too_large"),
        (parts(("note", "x", "; a=" + "y" * 5000, "text/plain")), FORM, "form_too_large"),
        (b"n=1&" * 2000, "application/x-www-form-urlencoded", "form_too_large"),
        (parts(("note", b"x" * 2_000_000)), FORM, "body_too_large"),
    ],
    ids=range(9),
)
def test_forms_that_are_malformed_or_too_large(tmp_path: Path, body: bytes, kind: str, reason: str) -> None:
    outcome = uploaded(tmp_path, body, kind)
    assert (outcome.reason, outcome.passed) == (reason, [])
    assert outcome.status in {400, 413}


def test_a_form_in_a_coding_is_decoded_and_a_field_twice_is_refused(tmp_path: Path) -> None:
    form = "application/x-www-form-urlencoded"
    assert uploaded(tmp_path, gzip.compress(b"n=x"), form + "; gzip").reason == "schema_violated"
    assert uploaded(tmp_path, gzip.compress(b"n=1"), form + "; gzip").status == 200
    assert violations(uploaded(tmp_path, b"n=1&n=x", form)) == [("body", "", "/n")]


def test_text_is_checked(tmp_path: Path) -> None:
    assert uploaded(tmp_path, b"four", "text/plain; charset=utf-8").status == 200
    assert violations(uploaded(tmp_path, b"five!", "text/plain")) == [("body", "", "")]


def test_what_cannot_be_looked_into_is_counted_or_refused(tmp_path: Path) -> None:
    world = World()
    assert uploaded(tmp_path, b"<a/>", "application/xml", world).status == 200
    assert world.counts == {"unchecked": 1}
    refused = uploaded(tmp_path, b"<a/>", "application/xml", world, unchecked="deny")
    assert (refused.status, refused.reason) == (415, "content_unchecked")
    for kind in ("application/octet-stream", "image/png"):
        assert uploaded(tmp_path, b"x", kind, world, unchecked="deny").status == 200
    assert world.counts == {"unchecked": 2}


def test_the_check_warns_of_what_cannot_be_looked_into(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "uploads.yaml").write_text(UPLOADS)
    (tmp_path / "gw.ini").write_text(
        "[openapi x]\nfile = uploads.yaml\n[route a]\npath = /\nrespond = 200\npolicies = openapi x\n"
    )
    cli.main(["check", str(tmp_path / "gw.ini")])
    told = capsys.readouterr()
    words = "content that can't be looked into passes unchecked: POST /upload: application/xml"
    assert words in told.out + told.err
