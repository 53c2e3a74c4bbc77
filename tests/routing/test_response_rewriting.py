"""A service's own addresses, as the client is to see them."""

from __future__ import annotations

import pytest

from apigw.exchange.headers import Headers
from apigw.routing.response_rewriting import (
    Mapping,
    rewrite_headers,
    rewrite_location,
    rewrite_refresh,
    rewrite_set_cookie,
)

MAPPING = Mapping(
    b"https",
    b"shop.example:8443",
    frozenset({(b"http", b"10.0.0.5:9101"), (b"http", b"users.internal")}),
    inside=b"/base",
    outside=b"/api",
)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (b"http://10.0.0.5:9101/base/users/2?x#y", b"https://shop.example:8443/api/users/2?x#y"),
        (b"HTTP://Users.Internal:80/base/a", b"https://shop.example:8443/api/a"),
        (b"http://10.0.0.5:9101/base", b"https://shop.example:8443/api"),
        (b"http://10.0.0.5:9101/base?x", b"https://shop.example:8443/api?x"),
        (b"//10.0.0.5:9101/base/a", b"//shop.example:8443/api/a"),
        (b"/base/a", b"/api/a"),
        (b"/base", b"/api"),
        # outside of what is mapped
        (b"/baseball", b"/baseball"),
        (b"/other", b"/other"),
        (b"http://10.0.0.5:9101/other", b"http://10.0.0.5:9101/other"),
        (b"https://10.0.0.5:443/base/a", b"https://10.0.0.5:443/base/a"),
        (b"http://elsewhere.example/base/a", b"http://elsewhere.example/base/a"),
        (b"http://10.0.0.5:9101.evil.example/base/a", b"http://10.0.0.5:9101.evil.example/base/a"),
        (b"../a", b"../a"),
        (b"?page=2", b"?page=2"),
        (b"", b""),
        (b"mailto:a@b", b"mailto:a@b"),
    ],
)
def test_location(location: bytes, expected: bytes) -> None:
    assert rewrite_location(location, MAPPING) == expected


def test_location_without_prefixes() -> None:
    mapping = Mapping(b"http", b"shop.example", frozenset({(b"http", b"127.0.0.1:9101")}))
    assert rewrite_location(b"http://127.0.0.1:9101", mapping) == b"http://shop.example/"
    assert rewrite_location(b"http://127.0.0.1:9101/a", mapping) == b"http://shop.example/a"
    assert rewrite_location(b"/a", mapping) == b"/a"


def test_a_service_that_believes_the_clients_scheme_or_wants_another() -> None:
    https = Mapping(b"https", b"shop.example", frozenset({(b"http", b"users:9101")}), outside=b"/api")
    assert rewrite_location(b"https://Users:9101/a", https) == b"https://shop.example/api/a"
    http = Mapping(b"http", b"shop.example", frozenset({(b"http", b"users")}))
    assert rewrite_location(b"HTTPS://users/a", http) == b"https://shop.example/a"
    assert rewrite_location(b"https://users:8443/a", http) == b"https://users:8443/a"


@pytest.mark.parametrize(
    ("refresh", "expected"),
    [
        (b"5; url=/base/a", b"5; url=/api/a"),
        (b"0;URL='http://10.0.0.5:9101/base/a'", b"0;URL='https://shop.example:8443/api/a'"),
        (b"5", b"5"),
        (b'5;url="/base/a" ', b'5;url="/api/a" '),
        (b"5;url=/base/a'", b"5;url=/api/a'"),
        (b"5;url='/base/a", b"5;url='/base/a"),
        (b"5;url='", b"5;url='"),
        (b"5;url=", b"5;url="),
        # By backtracking these would take minutes.
        (b" " * 60000 + b"x", b" " * 60000 + b"x"),
        (b"5;url='" + b"' " * 60000 + b"x", b"5;url='" + b"' " * 60000 + b"x"),
    ],
    ids=range(10),
)
def test_refresh(refresh: bytes, expected: bytes) -> None:
    assert rewrite_refresh(refresh, MAPPING) == expected


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        (b"a=1; Domain=.Users.Internal; Path=/base; Secure", b"a=1; Domain=shop.example; Path=/api; Secure"),
        (b"a=1; domain = users.internal", b"a=1; domain =shop.example"),
        (b"a=1; Domain=other.example; Path=/baseball", b"a=1; Domain=other.example; Path=/baseball"),
        (b"a=1; Domain=gone.example; HttpOnly", b"a=1; HttpOnly"),
        (b"a=1;Path=/base/x", b"a=1;Path=/api/x"),
        (b"path=/base; Path=/", b"path=/base; Path=/"),
    ],
)
def test_cookies(cookie: bytes, expected: bytes) -> None:
    domain = ((b"users.internal", b"shop.example"), (b"gone.example", None))
    assert rewrite_set_cookie(cookie, domain=domain, path=((b"/base", b"/api"),)) == expected


def test_any_cookie() -> None:
    assert rewrite_set_cookie(b"a=1; Domain=x; Path=/y", domain=((b"*", None),), path=((b"*", b"/"),)) == b"a=1; Path=/"
    assert rewrite_set_cookie(b"a=1; Path=/y", path=((b"*", None),)) == b"a=1"
    assert rewrite_set_cookie(b"a=1; Path=/y", path=((b"/", b"/api/"),)) == b"a=1; Path=/api/y"


def test_a_response_without_addresses_is_left_alone() -> None:
    assert rewrite_headers(Headers([(b"Content-Type", b"text/plain"), (b"Set-Cookie", b"a=1")]), MAPPING) is None
    headers = Headers([(b"Location", b"/base/a"), (b"X", b"/base/a"), (b"Set-Cookie", b"a=1; Path=/base")])
    changed = rewrite_headers(headers, MAPPING, cookie_path=((b"/base", b"/api"),))
    assert changed is not None
    assert changed.pairs == [(b"Location", b"/api/a"), (b"X", b"/base/a"), (b"Set-Cookie", b"a=1; Path=/api")]
    assert headers.pairs[0] == (b"Location", b"/base/a")
