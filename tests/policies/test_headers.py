"""request_headers, response_headers, security_headers, and the templates in their values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from apigw.config.text import Wrong
from apigw.exchange.headers import Headers
from apigw.exchange.request import Identity, Request
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response
from apigw.http.fields import is_field_value, serialise
from apigw.policies import request_headers, response_headers, security_headers
from apigw.policies.templates import compile_template
from tests.policies.surroundings import Outcome, World, request, run


def to_service(asked: Request, **options: Any) -> Outcome:
    settings = request_headers.Settings.model_validate(options)
    return run(request_headers.RequestHeaders(settings, World().environment("request_headers")), asked)


def sent(asked: Request, **options: Any) -> list[str]:
    """The field lines that the service gets."""
    passed = to_service(asked, **options).passed[0]
    assert passed.lines is None or passed.lines == serialise(passed.headers.pairs)
    return [f"{name.decode()}: {value.decode()}" for name, value in passed.headers]


FIELDS = [("X-A", "1"), ("x-b", "2"), ("X-A", "3")]


@pytest.mark.parametrize(
    ("options", "result"),
    [
        ({"remove": "x-a"}, ["x-b: 2"]),
        ({"rename": "X-B: X-C"}, ["X-A: 1", "X-C: 2", "X-A: 3"]),
        ({"rename": "X-B: X-A"}, ["X-A: 2"]),
        ({"rename": "X-None: X-A"}, ["X-A: 1", "x-b: 2", "X-A: 3"]),
        ({"replace": {"X-A": "new", "X-None": "new"}}, ["x-b: 2", "X-A: new"]),
        ({"set": {"X-A": "new", "X-None": "new"}}, ["x-b: 2", "X-A: new", "X-None: new"]),
        ({"add": {"X-A": "new", "X-None": "new"}}, ["X-A: 1", "x-b: 2", "X-A: 3", "X-None: new"]),
        ({"append": {"X-B": "new"}}, ["X-A: 1", "x-b: 2", "X-A: 3", "X-B: new"]),
        (
            {"remove": "x-a", "rename": "X-B: X-A", "replace": {"X-A": "r"}, "add": {"X-A": "n"}, "append": {"x": "y"}},
            ["X-A: r", "x: y"],
        ),
    ],
)
def test_the_changes_and_their_order(options: dict[str, Any], result: list[str]) -> None:
    assert sent(request(headers=FIELDS), **options) == result


def test_the_same_head_again_costs_nothing_and_another_is_not_taken_for_it() -> None:
    settings = request_headers.Settings.model_validate({"set": {"X-User": "{jwt.sub}"}})
    policy = request_headers.RequestHeaders(settings, World().environment("request_headers"))
    shared = request(headers=FIELDS)
    results = []
    for name in ("anna", "anna", "bert"):
        asked = request()
        asked.headers, asked.lines = shared.headers, shared.lines
        asked.identity = Identity(name, "jwt", claims={"sub": name})
        results.append(run(policy, asked).passed[0])
    assert results[0].lines is results[1].lines
    assert [passed.headers.get(b"x-user") for passed in results] == [b"anna", b"anna", b"bert"]
    assert shared.headers.pairs == [(b"X-A", b"1"), (b"x-b", b"2"), (b"X-A", b"3")]


def test_what_the_client_claims_does_not_survive_a_value_that_can_not_be_made() -> None:
    assert sent(request(headers={"x-user": "admin"}), set={"X-User": "{jwt.sub}"}) == []


def test_nor_does_what_a_service_may_take_for_it() -> None:
    fields = {"X_User": "admin", "x.user": "admin", "X-Users": "1"}
    assert sent(request(headers=fields), set={"X-User": "{jwt.sub}"}) == ["X-Users: 1"]
    assert sent(request(headers=fields), remove="X-User") == ["X-Users: 1"]


def asked_by_anna() -> Request:
    asked = request("POST", "/shops/7", query="a=1&b=x%20y", headers={"x-b": "2"}, client="192.0.2.9")
    asked.identity = Identity(
        "anna", "jwt", "acme", claims={"sub": "anna", "roles": ["a", "b"], "org": {"id": 7}, "a.b": "flat", "ok": True}
    )
    asked.captures = {"id": "7"}
    return asked


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", b"plain"),
        ("{{{jwt.sub}}}", b"{anna}"),
        ("{jwt.roles}", b"a,b"),
        ("{jwt.org}", b'{"id":7}'),
        ("{jwt.org.id}", b"7"),
        ("{jwt.a.b}", b"flat"),
        ("{jwt.ok}", b"true"),
        ("{jwt.none}", None),
        ("{jwt.sub.x}", None),
        ("u-{consumer.name}-{path.id}", b"u-acme-7"),
        ("{query.b}/{query.a}", b"x y/1"),
        ("{header.X-B}{header.x-c}", None),
        ("{client.ip} {request.id}", b"192.0.2.9 r1"),
        ("{request.method} {request.target} {request.scheme}", b"POST /shops/7?a=1&b=x%20y http"),
    ],
)
def test_templates(template: str, value: bytes | None) -> None:
    assert compile_template(template).render(asked_by_anna()) == value


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"shop.example", b"shop.example"),
        (b"shop.example:8080", b"shop.example"),
        (b"[2001:db8::1]:8080", b"[2001:db8::1]"),
        (b"[2001:db8::1]", b"[2001:db8::1]"),
    ],
)
def test_a_hostname_has_no_port(host: bytes, name: bytes) -> None:
    asked = request()
    asked.host = host
    template = compile_template("https://{request.hostname}:8443{request.target}")
    assert template.render_url(asked) == b"https://" + name + b":8443" + asked.path


@pytest.mark.parametrize("template", ["{jwt}", "{nothing}", "{", "}", "{jwt.sub", "{headers.X}", "a\nb"])
def test_templates_that_can_not_be(template: str) -> None:
    with pytest.raises(Wrong):
        compile_template(template)


@pytest.mark.parametrize("evil", ["a\r\nX-Admin: yes", "a\nb", "a\0b", "a\x1bb", "a\rb"])
def test_line_ends_never_get_into_a_header(evil: str) -> None:
    asked = asked_by_anna()
    asked.captures = {"id": evil}
    outcome = to_service(asked, set={"X-Id": "{path.id}"})
    assert (outcome.status, outcome.reason, outcome.passed) == (400, "header_value_refused", [])
    settings = response_headers.Settings.model_validate({"set": {"X-Id": "{path.id}"}})
    outcome = run(response_headers.ResponseHeaders(settings, World().environment("response_headers")), asked)
    assert (outcome.status, outcome.reason, outcome.passed) == (400, "header_value_refused", [])


@given(st.text())
def test_whatever_comes_either_is_a_field_value_or_is_refused(text: str) -> None:
    asked = asked_by_anna()
    asked.captures = {"id": text}
    asked.identity = Identity("x", "jwt", claims={"sub": text})
    outcome = to_service(asked, set={"X-Id": "{path.id}", "X-User": "{jwt.sub}"})
    if outcome.status == 200:
        assert all(is_field_value(value) for _, value in outcome.passed[0].headers)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"remove": "Content-Length"},
        {"set": {"Transfer-Encoding": "x"}},
        {"rename": "X-A: Connection"},
        {"add": {"X A": "x"}},
        {"rename": "X-A: X B"},
    ],
)
def test_changes_that_can_not_be_made(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        request_headers.Settings.model_validate(options)


# ---- responses -------------------------------------------------------------------------------------------------------

SHARED = Headers([(b"Server", b"old"), (b"X-A", b"1")])


def answering(headers: Headers) -> Responder:
    def service(_asked: Request, done: Done) -> None:
        response = Response(200, headers, b"x")
        response.lines = serialise(headers.pairs) + b"Date: now\r\n"
        done(response)

    return service


def test_what_is_only_put_in_keeps_the_ready_lines() -> None:
    settings = response_headers.Settings.model_validate({"add": {"X-Id": "{request.id}", "x-a": "no"}})
    policy = response_headers.ResponseHeaders(settings, World().environment("response_headers"))
    response = run(policy, request(), answering(SHARED)).response
    assert response.lines == b"Server: old\r\nX-A: 1\r\nDate: now\r\nX-Id: r1\r\n"
    assert response.headers.get(b"x-id") == b"r1"
    assert len(SHARED) == 2


def test_what_is_taken_out_is_gone() -> None:
    settings = response_headers.Settings.model_validate({"remove": "server", "replace": {"X-A": "2"}})
    policy = response_headers.ResponseHeaders(settings, World().environment("response_headers"))
    response = run(policy, request(), answering(SHARED)).response
    assert response.lines is None
    assert response.headers.pairs == [(b"X-A", b"2")]
    assert len(SHARED) == 2


def test_the_same_head_again_is_not_edited_twice() -> None:
    settings = response_headers.Settings.model_validate({"remove": "server", "set": {"X-User": "{client.ip}"}})
    policy = response_headers.ResponseHeaders(settings, World().environment("response_headers"))
    dated = Headers([*SHARED.pairs, (b"Date", b"now")])
    seen = []
    for client in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        response = run(policy, request(client=client), answering(dated)).response
        assert response.lines == serialise(response.headers.pairs)
        assert response.headers.get(b"x-user") == client.encode()
        seen.append(response.headers)
    assert seen[0] is seen[1]
    assert len(dated) == 3


def secured(headers: Headers, scheme: str = "https", **options: str) -> Response:
    settings = security_headers.Settings.model_validate(options)
    policy = security_headers.SecurityHeaders(settings, World().environment("security_headers"))
    return run(policy, request(scheme=scheme), answering(headers)).response


def test_the_default_bundle() -> None:
    response = secured(SHARED)
    assert response.headers.pairs[2:] == [
        (b"Strict-Transport-Security", b"max-age=31536000; includeSubDomains"),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"X-Frame-Options", b"SAMEORIGIN"),
        (b"Referrer-Policy", b"strict-origin-when-cross-origin"),
        (b"Permissions-Policy", b"camera=(), geolocation=(), microphone=()"),
        (b"Cross-Origin-Opener-Policy", b"same-origin"),
    ]
    assert response.lines == serialise(SHARED.pairs) + b"Date: now\r\n" + serialise(response.headers.pairs[2:])


def test_hsts_is_for_https_only() -> None:
    assert b"strict-transport-security" not in secured(SHARED, "http").headers


def test_each_can_be_changed_or_left_out() -> None:
    headers = secured(SHARED, frame_options="DENY", referrer_policy="off", content_security_policy="default-src 'self'")
    assert headers.headers.get(b"x-frame-options") == b"DENY"
    assert b"referrer-policy" not in headers.headers
    assert headers.headers.get(b"content-security-policy") == b"default-src 'self'"


@pytest.mark.parametrize(("override", "value"), [("no", [b"ALLOWALL"]), ("yes", [b"SAMEORIGIN"])])
def test_what_the_service_says_itself(override: str, value: list[bytes]) -> None:
    response = secured(Headers([(b"x-frame-options", b"ALLOWALL")]), override=override)
    assert response.headers.get_all(b"x-frame-options") == value
    assert response.headers.get_all(b"x-content-type-options") == [b"nosniff"]


def test_changes_are_remembered_for_many_heads_and_bounded() -> None:
    settings = request_headers.Settings.model_validate({"set": {"X-Who": "{header.X-Name}"}})
    policy = request_headers.RequestHeaders(settings, World().environment("request_headers"))
    for number in range(2):
        for name in ("anna", "bert"):
            asked = request(headers={"x-name": name})
            passed = run(policy, asked).passed[0]
            assert passed.headers.get(b"x-who") == name.encode(), number
    for many in range(1000):
        run(policy, request(headers={"x-name": str(many), "x-long": "y" * 5000 if many % 2 else ""}))
    assert len(policy._known) <= request_headers.MOST_KNOWN
