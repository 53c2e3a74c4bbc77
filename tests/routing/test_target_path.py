"""The path that a service is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.exchange.errors import ClientFault
from apigw.exchange.request import Request
from apigw.http.targets import normalise_path
from apigw.routing.patterns import path_pattern
from apigw.routing.target_path import compile_target, strip_bytes


def target(
    path: str,
    pattern: str = "/",
    *,
    strip: str | None = None,
    add: str | None = None,
    rewrite: tuple[str, str] | None = None,
    query: bytes | None = None,
) -> bytes:
    parsed = path_pattern(pattern)
    compiled = compile_target(strip_prefix=strip, add_prefix=add, rewrite=rewrite, pattern=parsed)
    assert compiled is not None
    request = Request(b"GET", path.encode(), query)
    request.captures = parsed.capture(request.path)
    return compiled(request)


def test_a_route_without_options_costs_nothing() -> None:
    assert compile_target(pattern=path_pattern("/a")) is None
    assert compile_target(strip_prefix="/", add_prefix="/", pattern=path_pattern("/a")) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/api/users/1", b"/users/1"), ("/api", b"/"), ("/api/", b"/"), ("/apix", b"/apix"), ("/v/api", b"/v/api")],
)
def test_a_prefix_is_cut_at_a_segments_end(path: str, expected: bytes) -> None:
    assert target(path, strip="/api") == expected
    assert target(path, strip="/api/") == expected


def test_the_query_stays() -> None:
    assert target("/api/a", strip="/api", query=b"x=%zz?") == b"/a?x=%zz?"
    assert target("/api", strip="/api", query=b"") == b"/?"
    assert target("/a", add="/v2", query=b"x") == b"/v2/a?x"


def test_a_prefix_is_added_after_another_was_cut() -> None:
    assert target("/api/users", strip="/api", add="/v2") == b"/v2/users"
    assert target("/api", strip="/api", add="/v2/") == b"/v2/"
    assert target("/a", add="/café") == b"/caf%C3%A9/a"


def test_captures_go_where_the_template_says_and_stay_one_segment() -> None:
    assert target("/t/a%3Fb/x", "/t/{tenant}/x", add="/by/{tenant}") == b"/by/a%3Fb/t/a%3Fb/x"
    assert target("/u/a;b/x", "/u/{id}/x", rewrite=("^.*$", "/users/{id}")) == b"/users/a%3Bb"
    assert target("/f/a/b%20c", "/f/{rest*}", rewrite=("^.*$", "/files/{rest}")) == b"/files/a/b%20c"
    assert target("/v7/z", "~/v(?P<n>[0-9]+)/z", rewrite=("^.*$", "/{n}")) == b"/7"


@pytest.mark.parametrize(
    ("path", "regex", "template", "expected"),
    [
        ("/old/a/b", "^/old/(.*)$", r"/new/\1", b"/new/a/b"),
        ("/old/a/b", "^/old/(.*)$", "/new/{1}", b"/new/a/b"),
        ("/old/a%2Cb", "^/old/(?P<what>.*)$", "/{what}", b"/a%2Cb"),
        ("/a/x/a/x", "/x", "/y", b"/a/y/a/x"),
        ("/a", "^/b", "/c", b"/a"),
        ("/a/b", "^/a(/c)?", "/x{1}", b"/x/b"),
        ("/a/b", "^/a", "{{x}}", b"/%7Bx%7D/b"),
        ("/a/b", "^/a/", "", b"/b"),
        ("/a", "^.*$", "/{0}/b c", b"//a/b%20c"),
    ],
)
def test_a_rewrite_replaces_the_first_place(path: str, regex: str, template: str, expected: bytes) -> None:
    assert target(path, rewrite=(regex, template)) == expected


@pytest.mark.parametrize(
    ("path", "pattern", "rewrite"),
    [
        ("/x../b", "/", ("^/x", "/")),
        ("/x..", "/", ("^/x(.*)$", "/files/{1}/passwd")),
        ("/q...", "~/q[.](?P<up>.*)", ("^.*$", "/files/{up}/x")),
        ("/x..;a", "/", ("^/x", "/")),
    ],
)
def test_a_rewrite_that_would_climb_is_refused(path: str, pattern: str, rewrite: tuple[str, str]) -> None:
    with pytest.raises(ClientFault) as refused:
        target(path, pattern, rewrite=rewrite)
    assert (refused.value.status, refused.value.reason) == (400, "path_above_root")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strip_prefix": "api"}, "slash"),
        ({"add_prefix": "api"}, "slash"),
        ({"add_prefix": "/{tenant}"}, "nothing captures it; known names: id"),
        ({"add_prefix": "/{id"}, "single brace"),
        ({"rewrite": ("(", "/")}, "not a regular expression"),
        ({"rewrite": ("a(?=b)", "/")}, "lookahead"),
        ({"rewrite": ("^/a", "/{2}")}, "nothing captures it"),
        ({"rewrite": ("^/a", r"/\2")}, "nothing captures it"),
    ],
)
def test_a_wrong_option_is_explained(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compile_target(pattern=path_pattern("/users/{id}"), **options)  # type: ignore[arg-type]


def test_slashes_that_could_not_be_told_apart_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="told apart"):
        compile_target(add_prefix="/{rest}", pattern=path_pattern("/f/{rest*}"), encoded_slashes=True)


def test_what_is_stripped_is_told_in_the_form_of_requests() -> None:
    assert strip_bytes("/café/") == b"/caf%C3%A9"
    assert strip_bytes("/") == strip_bytes(None) == b""


@given(st.text(max_size=12))
def test_no_captured_value_makes_a_further_segment(value: str) -> None:
    from urllib.parse import quote

    try:
        path = normalise_path(b"/u/" + quote(value, safe="").encode())
    except ClientFault:
        return
    pattern = path_pattern("/u/{id}")
    if not pattern.matches(path):
        return
    result = target(path.decode(), "/u/{id}", rewrite=("^.*$", "/x/{id}/y"))
    assert result.count(b"/") == 3
    assert normalise_path(result) == result
