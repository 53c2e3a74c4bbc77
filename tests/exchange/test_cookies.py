"""Answers with cookies of the gateway are private, whatever the service said of them."""

from __future__ import annotations

import pytest

from apigw.exchange.cookies import add_cookies, give, giving
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.response import Response

COOKIE = (b"Set-Cookie", b"a=1")


def fields(response: Response) -> list[Pair]:
    return [pair for pair in response.headers if pair[0] != b"Set-Cookie"]


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ([], b"private"),
        ([b"public"], b"private"),
        ([b"public, max-age=60"], b"private, max-age=60"),
        ([b"PUBLIC", b"S-MaxAge=9,Max-Age=60"], b"private, Max-Age=60"),
        ([b'private="x-a, x-b", max-age=5'], b"private, max-age=5"),
        ([b'no-cache="Set-Cookie, X"'], b'private, no-cache="Set-Cookie, X"'),
        ([b"no-store"], b"no-store"),
        ([b"no-store, public"], b"private, no-store"),
        ([b"max-age=60, must-revalidate, proxy-revalidate"], b"private, max-age=60, must-revalidate"),
        ([b'max-age="60", public'], b'private, max-age="60"'),
        ([b",, public ,,"], b"private"),
        ([b'x="a, public, \\" b", public'], b'private, x="a, public, \\" b"'),
    ],
)
def test_what_is_said_to_shared_caches_goes(said: list[bytes], becomes: bytes) -> None:
    response = Response(200, Headers((b"Cache-Control", value) for value in said))
    add_cookies(response, [COOKIE], session=False)
    assert response.headers.get_all(b"cache-control") == [becomes]
    assert response.headers.get_all(b"vary") == [b"Cookie"]
    assert response.headers.get_all(b"set-cookie") == [b"a=1"]


@pytest.mark.parametrize("said", [[], [b"public, max-age=60"], [b"private"], [b"max-age=1", b"immutable"]])
def test_no_cache_keeps_a_session(said: list[bytes]) -> None:
    response = Response(200, Headers((b"Cache-Control", value) for value in said))
    add_cookies(response, [COOKIE], session=True)
    assert response.headers.get_all(b"cache-control") == [b"private, no-store"]


def test_fields_that_go_before_cache_control_go() -> None:
    names = [b"Expires", b"Surrogate-Control", b"CDN-Cache-Control", b"Vercel-CDN-Cache-Control", b"X-Accel-Expires"]
    response = Response(200, Headers([*((name, b"max-age=60") for name in names), (b"ETag", b'"1"')]))
    add_cookies(response, [COOKIE], session=False)
    assert fields(response) == [(b"ETag", b'"1"'), (b"Cache-Control", b"private"), (b"Vary", b"Cookie")]


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ([b"Accept"], [b"Accept", b"Cookie"]),
        ([b"Accept, cookie"], [b"Accept, cookie"]),
        ([b"*"], [b"*"]),
        ([b"X-Cookie"], [b"X-Cookie", b"Cookie"]),
    ],
)
def test_it_varies_by_the_cookie(said: list[bytes], becomes: list[bytes]) -> None:
    response = Response(200, Headers((b"Vary", value) for value in said))
    add_cookies(response, [COOKIE], session=False)
    assert response.headers.get_all(b"vary") == becomes


def test_a_head_that_is_shared_stays_as_it_was() -> None:
    shared = Headers([(b"Cache-Control", b"public")])
    response = Response(200, shared)
    response.lines = b"Cache-Control: public\r\n"
    add_cookies(response, [COOKIE], session=False)
    assert shared.pairs == [(b"Cache-Control", b"public")]
    assert response.lines is None


def test_cookies_of_several_makers_go_out_together_and_the_strictest_counts() -> None:
    request = Request(b"GET", b"/")
    answers: list[Response] = []

    def inner(asked: Request, done: object) -> None:
        give(asked, [(b"Set-Cookie", b"a=1")], session=True)
        give(asked, [(b"Set-Cookie", b"b=2")], session=False)
        assert callable(done)
        done(Response(304))

    giving(inner)(request, answers.append)
    assert answers[0].headers.get_all(b"set-cookie") == [b"a=1", b"b=2"]
    assert answers[0].headers.get(b"cache-control") == b"private, no-store"
    assert request.given is None


def test_an_answer_without_cookies_is_left_alone() -> None:
    response = Response(200)
    giving(lambda request, done: done(response))(Request(b"GET", b"/"), lambda _: None)
    assert response.headers.pairs == []
