"""Patterns of paths and hosts, conditions, and the words for those that are wrong."""

from __future__ import annotations

import pytest

from apigw.exchange.errors import ClientFault
from apigw.routing.patterns import bare_host, condition, host_pattern, path_pattern


@pytest.mark.parametrize(
    ("pattern", "fits", "misses"),
    [
        ("/api/users", ["/api/users", "/api/users/", "/api/users/1"], ["/api/usersx", "/api", "/", "/API/users"]),
        ("/api/users/", ["/api/users/", "/api/users/1"], ["/api/users"]),
        ("/", ["/", "/a", "/a/b"], []),
        ("=/api", ["/api"], ["/api/", "/api/x", "/"]),
        ("=/", ["/"], ["/a"]),
        ("/users/{id}", ["/users/1", "/users/a%20b"], ["/users/", "/users", "/users/1/", "/users/1/x"]),
        ("/users/{id}/", ["/users/1/"], ["/users/1"]),
        ("/users/{id}/orders/{order}", ["/users/1/orders/2"], ["/users//orders/2", "/users/1/order/2"]),
        ("/files/{rest*}", ["/files/", "/files/a/b"], ["/files", "/filesx/a"]),
        ("/{rest*}", ["/", "/a/b"], []),
        ("~/v[12]/.*", ["/v1/", "/v2/x/y"], ["/v3/", "/x/v1/"]),
        ("/café", ["/caf%C3%A9", "/caf%C3%A9/x"], ["/cafe"]),
        ("/a%7eb", ["/a~b"], []),
    ],
)
def test_a_path_pattern_takes_what_it_says(pattern: str, fits: list[str], misses: list[str]) -> None:
    parsed = path_pattern(pattern)
    assert [path for path in fits if not parsed.matches(path.encode())] == []
    assert [path for path in misses if parsed.matches(path.encode())] == []


@pytest.mark.parametrize(
    ("pattern", "path", "captures"),
    [
        ("/users/{id}", "/users/a%20b", {"id": "a b"}),
        ("/u/{a}/x/{b}", "/u/1/x/%C3%A9", {"a": "1", "b": "é"}),
        ("/files/{rest*}", "/files/a/b%3F", {"rest": "a/b?"}),
        ("/files/{rest*}", "/files/", {"rest": ""}),
        ("/{tenant}/files/{rest*}", "/t/files/a/b", {"tenant": "t", "rest": "a/b"}),
        ("~/v(?P<v>[0-9]+)(?:/(?P<x>.*))?", "/v12", {"v": "12"}),
    ],
)
def test_names_capture_decoded_values(pattern: str, path: str, captures: dict[str, str]) -> None:
    assert path_pattern(pattern).capture(path.encode()) == captures


def test_a_captured_value_that_is_not_text_is_the_clients_fault() -> None:
    with pytest.raises(ClientFault, match="UTF-8"):
        path_pattern("/users/{id}").capture(b"/users/%E9")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("api", "begins with none of"),
        ("", "begins with none of"),
        ("/a?b=1", "query.NAME"),
        ("/a/../b", "dot segments"),
        ("/a//b", "empty segments"),
        ("/a%zz", "percent-encoding"),
        ("/a\\b", None),
        ("/users/{id}.json", "whole segment"),
        ("/users/{}", "whole segment"),
        ("/users/{1d}", "whole segment"),
        ("/{a}/{a}", "twice"),
        ("/a;x=1/b", "without their parameters"),
        ("=/a/{b};x", "without their parameters"),
        ("/{rest*}/x", "at the end"),
        ("~/(", "not a regular expression"),
        ("~/(?=a)", "lookahead"),
    ],
)
def test_a_wrong_pattern_is_explained(pattern: str, words: str | None) -> None:
    if words is None:
        assert path_pattern(pattern).matches(b"/a%5Cb")  # only reachable where encoded slashes are allowed
        return
    with pytest.raises(ValueError, match=words):
        path_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["~/files(?:/[^/]+)*", "~/(a+)+b", "~/((?:ab*)+c*)+", "~/[a-z]+/[0-9]+", "~/(?:[a-z]{2,4}-)*x"]
)
def test_repetitions_within_repetitions_are_taken(pattern: str) -> None:
    path_pattern(pattern)


def test_hosts() -> None:
    assert host_pattern("Shop.Example").matches(b"shop.example")
    assert not host_pattern("shop.example").matches(b"www.shop.example")
    wildcard = host_pattern("*.shop.example")
    assert wildcard.matches(b"a.b.shop.example")
    assert not wildcard.matches(b"shop.example")
    assert not wildcard.matches(b"ashop.example")
    assert host_pattern("bücher.example").matches(b"xn--bcher-kva.example")
    for wrong in ("a.*.example", "shop.example:80", "*", "http://x", "", "a b"):
        if wrong == "*":
            assert host_pattern(wrong).matches(b"anything")
        else:
            with pytest.raises(ValueError, match=r"host|port"):
                host_pattern(wrong)


def test_a_host_is_matched_without_port_and_final_dot() -> None:
    assert [bare_host(host) for host in (b"a.b:80", b"a.b.", b"a.b.:80", b"[::1]:80", b"[::1]", b"")] == [
        b"a.b", b"a.b", b"a.b", b"[::1]", b"[::1]", b""
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fits", "misses"),
    [
        ("beta", [[b"beta"], [b"x", b"beta"]], [[], [b"Beta"], [b"beta2"]]),
        ("~b.ta[0-9]*", [[b"beta2"]], [[], [b"xbeta"]]),
        ("*", [[b""], [b"x"]], [[]]),
        ("!", [[]], [[b""]]),
    ],
)
def test_conditions(text: str, fits: list[list[bytes]], misses: list[list[bytes]]) -> None:
    parsed = condition("x", text)
    assert all(parsed.holds(values) for values in fits)
    assert not any(parsed.holds(values) for values in misses)
