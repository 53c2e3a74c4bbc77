"""What clients get instead, when the service does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from apigw.exchange.body import Body
from apigw.exchange.errors import ClientFault, GatewayError, UpstreamFault
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done
from apigw.exchange.response import Response
from apigw.upstream.fallback import Fallback, with_other_upstream
from apigw.upstream.settings import BreakerSettings

OPEN = UpstreamFault("open", status=503, reason="circuit_open", headers=((b"Retry-After", b"7"),))


def given(error: GatewayError = OPEN, **options: object) -> Response:
    return Fallback(BreakerSettings.model_validate(options))(Request(b"GET", b"/"), error)


def test_the_configured_answer_with_the_type_of_its_body_and_the_breakers_retry_after() -> None:
    response = given(fallback_status="503", fallback_body='{"error": "Service unavailable"}')
    assert response.status == 503
    assert response.body == b'{"error": "Service unavailable"}'
    assert response.headers.pairs == [(b"Content-Type", b"application/json"), (b"Retry-After", b"7")]


def test_headers_of_ones_own_win() -> None:
    response = given(fallback_body="later", fallback_headers="Content-Type: text/x, Retry-After: 99, X-From: fallback")
    assert response.headers.pairs == [
        (b"Content-Type", b"text/x"),
        (b"Retry-After", b"99"),
        (b"X-From", b"fallback"),
    ]


def test_a_file_is_read_once_at_load(tmp_path: Path) -> None:
    page = tmp_path / "sorry.html"
    page.write_text("<p>sorry")
    fallback = Fallback(BreakerSettings.model_validate({"fallback_file": str(page), "fallback_status": "200"}))
    page.unlink()
    response = fallback(Request(b"GET", b"/"), OPEN)
    assert (response.status, response.body) == (200, b"<p>sorry")
    assert response.headers.get(b"content-type") == b"text/html; charset=utf-8"


def test_two_bodies_are_refused(tmp_path: Path) -> None:
    page = tmp_path / "sorry.html"
    page.write_text("x")
    with pytest.raises(ValueError, match="both the body"):
        BreakerSettings.model_validate({"fallback_file": str(page), "fallback_body": "x"})


def test_faults_that_are_not_the_services_get_their_problem_document() -> None:
    response = given(ClientFault("no"), fallback_body="x")
    assert (response.status, response.headers.get(b"content-type")) == (400, b"application/problem+json")


def test_without_a_fallback_the_problem_document_says_what_happened() -> None:
    response = given()
    assert response.status == 503
    assert isinstance(response.body, bytes)
    assert b'"circuit_open"' in response.body


def test_the_reason_stays_in_the_log_and_the_answer_is_counted() -> None:
    told: list[int] = []
    fallback = Fallback(BreakerSettings(fallback_status=200), lambda: told.append(1))
    request = Request(b"GET", b"/")
    fallback(request, OPEN)
    assert (request.reason, fallback.given, told) == ("circuit_open", 1, [1])


# ---- another upstream ------------------------------------------------------------------------------------------------


def failing(request: Request, done: Done) -> None:
    request.upstream = "orders"
    done(problem(request, OPEN))


def other(status: int) -> object:
    def respond(request: Request, done: Done) -> None:
        request.upstream = "replica"
        done(Response(status) if status else problem(request, UpstreamFault("down", reason="upstream_refused")))

    return respond


def answer(first: object, second: object, request: Request | None = None) -> tuple[Response, Request]:
    request = request or Request(b"GET", b"/")
    answers: list[Response] = []
    with_other_upstream(first, second)(request, answers.append)  # type: ignore[arg-type]
    assert len(answers) == 1
    return answers[0], request


def test_another_upstream_is_asked_when_the_first_has_no_answer() -> None:
    response, request = answer(failing, other(200))
    assert (response.status, request.upstream, request.reason) == (200, "replica", "circuit_open")


def test_a_service_that_answers_is_left_alone_even_if_it_answers_500() -> None:
    response, _ = answer(lambda request, done: done(Response(500)), other(200))
    assert response.status == 500


def test_if_both_fail_the_client_gets_the_first_ones_answer() -> None:
    response, request = answer(failing, other(0))
    assert (response.status, request.reason, request.upstream) == (503, "circuit_open", "orders")


def test_a_request_whose_content_is_gone_is_not_asked_again() -> None:
    body = Body(None)
    body.feed(b"x")
    body.cancel()
    response, _ = answer(failing, other(200), Request(b"POST", b"/", body=body))
    assert response.status == 503
    fresh = Body(None)
    fresh.feed(b"x")
    response, _ = answer(failing, other(200), Request(b"POST", b"/", body=fresh))
    assert response.status == 200
