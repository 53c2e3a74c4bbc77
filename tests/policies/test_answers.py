"""body_limit, respond, redirect, fault, error_pages, and what Accept says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from apigw.exchange.body import Body
from apigw.exchange.errors import BodyTooLarge, GatewayError, UpstreamFault
from apigw.exchange.headers import Headers
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response
from apigw.policies import body_limit, error_pages, fault, redirect, respond
from apigw.policies.accept import best_coding, best_media_type
from apigw.policies.policy import layer
from tests.policies.surroundings import World, request, run


def make(module: Any, name: str, world: World | None = None, **options: Any) -> Any:
    settings = module.Settings.model_validate(options)
    environment = (world or World()).environment(module.__name__.rpartition(".")[2])
    return layer(getattr(module, name)(settings, environment), settings, environment)


class Seen:
    """Reads a body."""

    def __init__(self, body: Body) -> None:
        self.data = b""
        self.ended = False
        self.error: GatewayError | None = None
        body.subscribe(self)

    def body_data(self, data: bytes) -> None:
        self.data += data

    def body_end(self, trailers: Any) -> None:
        self.ended = True

    def body_failed(self, error: GatewayError) -> None:
        self.error = error


# ---- body_limit ------------------------------------------------------------------------------------------------------


def test_content_that_is_announced_too_long_is_refused_at_once() -> None:
    outcome = run(make(body_limit, "BodyLimit", request="10"), request("POST", body=b"x" * 11))
    assert (outcome.status, outcome.reason, outcome.passed) == (413, "body_too_large", [])
    assert run(make(body_limit, "BodyLimit", request="10"), request("POST", body=b"x" * 10)).status == 200


def test_content_that_turns_out_too_long_is_cut_off() -> None:
    asked = request("POST")
    asked.body = Body(None)
    outcome = run(make(body_limit, "BodyLimit", request="10"), asked)
    seen = Seen(outcome.passed[0].body)  # type: ignore[arg-type]
    asked.body.feed(b"x" * 10)
    assert seen.error is None
    asked.body.feed(b"x")
    assert isinstance(seen.error, BodyTooLarge)


def streaming(body: Body | bytes) -> Responder:
    def service(_asked: Request, done: Done) -> None:
        done(Response(200, Headers(), body))

    return service


def test_a_response_that_is_too_long() -> None:
    policy = make(body_limit, "BodyLimit", response="10")
    assert run(policy, request(), streaming(b"x" * 10)).status == 200
    assert run(policy, request(), streaming(b"x" * 11)).reason == "response_too_large"
    announced = Body(None, 11)
    assert run(policy, request(), streaming(announced)).status == 502
    stream = Body(None)
    outcome = run(policy, request(), streaming(stream))
    seen = Seen(outcome.response.body)  # type: ignore[arg-type]
    stream.feed(b"x" * 10)
    stream.feed(b"x")
    assert seen.data == b"x" * 10
    assert seen.error is not None
    assert seen.error.reason == "response_too_large"


def test_in_shadow_no_content_is_cut_off() -> None:
    world = World()
    policy = make(body_limit, "BodyLimit", world, request="10", response="10", mode="shadow")
    asked = request("POST")
    content, stream = Body(None), Body(None)
    asked.body = content

    def service(passed: Request, done: Done) -> None:
        assert passed.body is not None
        Seen(passed.body)
        done(Response(200, None, stream))

    outcome = run(policy, asked, service)
    seen = Seen(outcome.response.body)  # type: ignore[arg-type]
    for body in (content, stream):
        body.feed(b"x" * 20)
        body.feed(b"x" * 20)
        body.end()
    assert seen.data == b"x" * 40
    assert seen.ended
    assert world.counts == {"would_deny": 2}


# ---- respond, redirect -----------------------------------------------------------------------------------------------


def test_an_answer_of_its_own(tmp_path: Path) -> None:
    outcome = run(make(respond, "Respond", status="503", text="back soon", header={"Retry-After": "60"}), request())
    assert outcome.passed == []
    assert (outcome.status, outcome.response.body) == (503, b"back soon")
    assert outcome.response.headers.pairs == [
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Retry-After", b"60"),
    ]
    page = tmp_path / "page.html"
    page.write_text("<p>")
    response = run(make(respond, "Respond", file=str(page)), request()).response
    assert (response.body, response.headers.get(b"content-type")) == (b"<p>", b"text/html; charset=utf-8")
    response = run(make(respond, "Respond", text='{"a": 1}'), request()).response
    assert response.headers.get(b"content-type") == b"application/json"


@pytest.mark.parametrize(
    "options",
    [
        {"text": "x", "status": "204"},
        {"status": "100"},
        {"header": {"Content-Length": "1"}},
        {"header": {"X": "{nothing}"}},
    ],
)
def test_answers_that_can_not_be_given(options: Any) -> None:
    with pytest.raises(ValidationError):
        respond.Settings.model_validate(options)


def test_a_redirect_to_https() -> None:
    policy = make(redirect, "Redirect", location="https://{request.host}{request.target}", scheme="http")
    outcome = run(policy, request(path="/a", query="b=1"))
    assert (outcome.status, outcome.passed) == (308, [])
    assert outcome.response.headers.get(b"location") == b"https://localhost/a?b=1"
    assert run(policy, request(scheme="https")).status == 200


def test_a_redirect_whose_places_are_not_there_is_refused() -> None:
    policy = make(redirect, "Redirect", location="https://shop.example/{query.to}", status="302")
    assert run(policy, request()).reason == "redirect_incomplete"
    assert run(policy, request(query="to=x%0d%0aSet-Cookie:%20a=b")).reason == "header_value_refused"


@pytest.mark.parametrize("place", ["{request.host}", "{request.hostname}:8443"])
def test_a_redirect_to_the_same_host_needs_a_host(place: str) -> None:
    policy = make(redirect, "Redirect", location=f"https://{place}{{request.target}}")
    without = request()
    without.host = b""
    assert run(policy, without).reason == "redirect_incomplete"


@pytest.mark.parametrize(
    "location",
    [
        "https://",
        "https:///x",
        "https://shop.example:99999/x",
        "https://shop.example:0/x",
        "https://127.0.0.1:80:443/x",
        "https://{request.hostname}:443:1/x",
        "https://[::1/x",
        "{request.scheme}://:80/x",
    ],
)
def test_a_redirect_leads_to_a_url(location: str) -> None:
    with pytest.raises(ValidationError):
        redirect.Settings.model_validate({"location": location})


@pytest.mark.parametrize(
    "location",
    [
        "/x",
        "/x:y?a={request.target}",
        "https://shop.example",
        "https://[::1]:8443/x",
        "{request.scheme}://{request.hostname}:8443{request.target}",
        "https://{jwt.tenant}.shop.example:443/{path.id}?x=[y",
    ],
)
def test_locations_that_are_urls(location: str) -> None:
    assert redirect.Settings.model_validate({"location": location}).location.source == location


def test_what_is_filled_into_a_location_is_encoded() -> None:
    def location(text: str, query: str) -> bytes | None:
        policy = make(redirect, "Redirect", location=text)
        return run(policy, request(path="/p%20q", query=query)).response.headers.get(b"location")

    assert location("https://shop.example/{query.q}?a={query.q}", "q=a%20/%3Fb%26") == (
        b"https://shop.example/a%20/%3Fb%26?a=a%20/%3Fb%26"
    )
    assert location("https://{query.q}.shop.example{request.path}", "q=evil.example/%23") == (
        b"https://evil.example%2F%23.shop.example/p%20q"
    )


@pytest.mark.parametrize(
    "location",
    [
        *("//{query.x}", "/{query.x}", "{query.x}", "shop.example", "javascript:x", "https://{query.x}/"),
        *("https://shop.example{query.x}", "https://{request.host}{query.x}/", "https://a.{path.x}?b"),
    ],
)
def test_no_redirect_to_wherever_a_client_likes(location: str) -> None:
    with pytest.raises(ValidationError):
        redirect.Settings.model_validate({"location": location})


# ---- fault -----------------------------------------------------------------------------------------------------------


def test_faults_by_share() -> None:
    world = World()
    options = {"delay": "2s", "delay_share": "50%", "abort": "503", "abort_share": "20%"}
    settings = fault.Settings.model_validate(options)
    policy = fault.Fault(settings, world.environment("fault"))
    lots = iter([0.4, 0.9, 0.6, 0.1])
    policy.draw = lambda: next(lots)
    delayed = run(policy, request())
    assert delayed.responses == []
    world.advance(2)
    assert delayed.status == 200
    outcome = run(policy, request())
    assert (outcome.status, outcome.reason, outcome.passed) == (503, "fault_injected", [])
    assert world.counts == {"delayed": 1, "aborted": 1}


def test_a_client_that_leaves_while_it_is_delayed_costs_the_service_nothing() -> None:
    world = World()
    asked = request()
    outcome = run(make(fault, "Fault", world, delay="2s"), asked)
    asked.cancel()
    world.advance(3)
    assert outcome.passed == []


def test_in_shadow_no_trouble_is_made() -> None:
    world = World()
    outcome = run(make(fault, "Fault", world, delay="2s", abort="500", mode="shadow"), request())
    assert outcome.status == 200
    assert world.counts["would_deny"] == 1


@pytest.mark.parametrize("options", [{}, {"delay": "1s", "abort_share": "5%"}, {"abort": "200"}])
def test_faults_that_make_no_sense(options: Any) -> None:
    with pytest.raises(ValidationError):
        fault.Settings.model_validate(options)


# ---- error_pages -----------------------------------------------------------------------------------------------------


def failing(asked: Request, done: Done) -> None:
    headers = ((b"Retry-After", b"5"),)
    done(problem(asked, UpstreamFault("<no> answer", status=503, reason="circuit_open", headers=headers)))


def failed(accept: str | None, service: Responder = failing, world: World | None = None, **options: Any) -> Response:
    headers = {} if accept is None else {"accept": accept}
    return run(make(error_pages, "ErrorPages", world, **options), request(headers=headers), service).response


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def test_a_browser_gets_a_page() -> None:
    response = failed(BROWSER)
    assert response.status == 503
    assert response.headers.pairs == [
        (b"Retry-After", b"5"),
        (b"Content-Type", b"text/html; charset=utf-8"),
        (b"Vary", b"Accept"),
    ]
    assert b"&lt;no&gt; answer" in bytes(response.body)  # type: ignore[arg-type]
    assert b"<h1>503 Service Unavailable</h1>" in bytes(response.body)  # type: ignore[arg-type]


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/problem+json, text/html;q=0.9"])
def test_a_program_gets_the_problem_document(accept: str | None) -> None:
    response = failed(accept)
    assert json.loads(bytes(response.body))["reason"] == "circuit_open"  # type: ignore[arg-type]


def test_a_terminal_gets_text() -> None:
    response = failed("text/plain")
    assert response.body == b"503 Service Unavailable\n<no> answer\nRequest r1\n"


def test_pages_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "any.html").write_text("any {status} {reason} {other}")
    (tmp_path / "5xx.html").write_text("sorry {detail}")
    own: dict[str, Any] = {"html": str(tmp_path / "any.html"), "page": {"5xx": str(tmp_path / "5xx.html")}}
    assert failed(BROWSER, **own).body == b"sorry &lt;no&gt; answer"

    def refusing(asked: Request, done: Done) -> None:
        done(problem(asked, GatewayError("x", status=404, reason="no_route")))

    assert failed(BROWSER, refusing, **own).body == b"any 404 no_route {other}"


def test_what_is_filled_into_a_page_is_escaped_as_its_type_needs(tmp_path: Path) -> None:
    detail = 'say "<no>" & \\'
    for name, accept, shown in (
        ("503.json", "application/json", json.dumps({"why": detail}).encode()),
        ("503.xml", "application/xml", b'{"why": "say &quot;&lt;no&gt;&quot; &amp; \\"}'),
        ("503.txt", "text/plain", b'{"why": "say "<no>" & \\"}'),
    ):
        (tmp_path / name).write_text('{"why": "{detail}"}')

        def refusing(asked: Request, done: Done) -> None:
            done(problem(asked, GatewayError(detail, status=503)))

        assert failed(accept, refusing, page={"503": str(tmp_path / name)}).body == shown


def test_who_prefers_json_gets_the_problem_document_and_caches_are_told() -> None:
    response = failed("application/json, text/html;q=0.5")
    assert response.headers.get(b"content-type") == b"application/problem+json"
    assert response.headers.get(b"vary") == b"Accept"


def test_json_of_a_service_stays_for_who_wants_json() -> None:
    def service(_asked: Request, done: Done) -> None:
        done(Response(422, Headers([(b"Content-Type", b"application/json")]), b'{"field": "x"}'))

    assert failed("application/json", service, services="yes").body == b'{"field": "x"}'
    assert b"<h1>422" in bytes(failed(BROWSER, service, services="yes").body)  # type: ignore[arg-type]


def service_fails(_asked: Request, done: Done) -> None:
    done(Response(502, Headers([(b"Content-Type", b"text/x"), (b"ETag", b'"a"'), (b"X-A", b"1")]), b"their words"))


def test_errors_of_services_get_a_page_only_when_asked_for() -> None:
    assert failed(BROWSER, service_fails).body == b"their words"
    response = failed(BROWSER, service_fails, services="yes")
    assert b"502 Bad Gateway" in bytes(response.body)  # type: ignore[arg-type]
    assert response.headers.pairs[0] == (b"X-A", b"1")
    assert b"etag" not in response.headers
    response = failed("*/*", service_fails, services="yes")
    assert json.loads(bytes(response.body))["status"] == 502  # type: ignore[arg-type]
    assert failed(BROWSER, service_fails, services="yes", statuses="500").body == b"their words"


def test_a_page_that_a_service_makes() -> None:
    world = World()
    world.answers = lambda asked: asked.respond(b"<b>made</b>", headers=[(b"Content-Type", b"text/html")])
    response = failed(BROWSER, world=world, url="http://pages.internal/{status}.html?why={reason}")
    assert world.asked[0].url == "http://pages.internal/503.html?why=circuit_open"
    assert (response.status, response.body) == (503, b"<b>made</b>")


def test_a_page_service_that_fails_costs_nobody_the_answer() -> None:
    world = World()
    world.answers = lambda asked: asked.fail()
    response = failed(BROWSER, world=world, url="http://pages.internal/{status}.html")
    assert b"503 Service Unavailable" in bytes(response.body)  # type: ignore[arg-type]
    assert world.counts == {"page_unavailable": 1}


# ---- what clients would rather have ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        (b"text/html;q=0.1, text/*;q=0.2", b"text/plain"),
        (b"text/html;level=1;q=0.5", b"text/html"),
        (b"text/html;q=x", b"application/json"),
        (b"image/png", b"application/json"),
        (b",,;q=1,", b"application/json"),
        (b"*/*;q=0.1, text/html", b"text/html"),
    ],
)
def test_media_types(accept: bytes, best: bytes) -> None:
    assert best_media_type(accept, [b"application/json", b"text/html", b"text/plain"]) == best


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        (b"gzip", b"gzip"),
        (b"gzip, deflate, br, zstd", b"zstd"),
        (b"gzip;q=1.0, br;q=0.5", b"gzip"),
        (b"*", b"zstd"),
        (b"*, zstd;q=0", b"br"),
        (b"*;q=0", None),
        (b"identity", None),
        (b"identity;q=0.5, gzip;q=0.4", None),
        (b"identity;q=0.5, gzip", b"gzip"),
        (b"x-gzip", b"gzip"),
        (b"gzip;q=0.000", None),
        (b"GZIP ; Q=0.7", b"gzip"),
        (b"", None),
        (None, None),
    ],
)
def test_codings(accept: bytes | None, best: bytes | None) -> None:
    assert best_coding(accept, [b"zstd", b"br", b"gzip"]) == best
