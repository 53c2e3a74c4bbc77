"""Request targets, paths and hosts: what is taken, what is refused, and the one form that it is brought into."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.exchange.errors import ClientFault
from apigw.http.targets import Target, normalise_path, split_target, valid_host


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        (b"GET", b"/a/b?x=1?y", Target(b"/a/b", b"x=1?y", None)),
        (b"GET", b"/a?", Target(b"/a", b"", None)),
        (b"GET", b"/", Target(b"/", None, None)),
        (b"GET", b'/?q={"a":[1|2]}', Target(b"/", b'q={"a":[1|2]}', None)),
        (b"GET", b"//a", Target(b"//a", None, None)),
        (b"GET", b"http://Shop.Example:80/a?b", Target(b"/a", b"b", b"shop.example:80")),
        (b"GET", b"HTTPS://shop.example?b", Target(b"/", b"b", b"shop.example")),
        (b"OPTIONS", b"*", Target(b"*", None, None)),
        (b"OPTIONS", b"http://shop.example", Target(b"*", None, b"shop.example")),  # RFC 9112 3.2.4
        (b"OPTIONS", b"http://shop.example/", Target(b"/", None, b"shop.example")),
    ],
)
def test_a_target_is_taken_apart(method: bytes, target: bytes, expected: Target) -> None:
    assert split_target(method, target) == expected


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        (b"GET", b"", 400),
        (b"GET", b"*", 400),
        (b"GET", b"a", 400),
        (b"GET", b"/a#b", 400),
        (b"GET", b"/a?b#c", 400),
        (b"GET", b"/a b", 400),
        (b"GET", b"/a?b\x00", 400),
        (b"GET", b"/caf\xc3\xa9", 400),
        (b"GET", b"/a\x7f", 400),
        (b"GET", b"ftp://shop.example/", 400),
        (b"GET", b"http://user@shop.example/", 400),
        (b"GET", b"http:///a", 400),
        (b"GET", b"shop.example:443", 400),
        (b"CONNECT", b"shop.example:443", 501),
        (b"CONNECT", b"/", 501),
    ],
)
def test_a_target_is_refused(method: bytes, target: bytes, status: int) -> None:
    with pytest.raises(ClientFault) as refused:
        split_target(method, target)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a/", b"/a/"),
        (b"/a;v=1/b", b"/a;v=1/b"),
        (b"/a/;v=1", b"/a/;v=1"),
        (b"/a/;v/../b;", b"/a/b;"),
        (b"/%61%7e%2D", b"/a~-"),
        (b"/%c3%a9", b"/%C3%A9"),
        (b"/a/./b/../c", b"/a/c"),
        (b"/a/b/..", b"/a/"),
        (b"/a/b/.", b"/a/b/"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"//a///b//", b"/a/b/"),
        (b"/a//../b", b"/b"),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/...", b"/..."),
        (b"/a|b{c}[d]", b"/a%7Cb%7Bc%7D%5Bd%5D"),
        (b"/%3f%23%25", b"/%3F%23%25"),
        (b"/a..", b"/a.."),
    ],
)
def test_a_path_has_one_spelling(path: bytes, normal: bytes) -> None:
    assert normalise_path(path) == normal


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (b"", "invalid_path"),
        (b"a", "invalid_path"),
        (b"/a%2fb", "encoded_slash"),
        (b"/a%5Cb", "encoded_slash"),
        (b"/a\\b", "invalid_path"),
        (b"/a%00", "invalid_path"),
        (b"/a%0d%0aX:", "invalid_path"),
        (b"/a%7f", "invalid_path"),
        (b"/a%", "invalid_path"),
        (b"/a%4", "invalid_path"),
        (b"/a%zz", "invalid_path"),
        (b"/..", "path_above_root"),
        (b"/a/../../b", "path_above_root"),
        (b"/%2e%2e/", "path_above_root"),
        (b"/public/..;/admin", "invalid_path"),
        (b"/public/..;x=1/admin", "invalid_path"),
        (b"/public/.;/admin", "invalid_path"),
        (b"/public/%2e%2e%3badmin", "invalid_path"),
        (b"/;x/a", "invalid_path"),
        (b"/a//;x//b", "invalid_path"),
        (b"/a\x01", "invalid_path"),
        (b"/\xc3\xa9", "invalid_path"),
    ],
)
def test_a_path_is_refused(path: bytes, reason: str) -> None:
    with pytest.raises(ClientFault) as refused:
        normalise_path(path)
    assert (refused.value.status, refused.value.reason) == (400, reason)


def test_encoded_slashes_are_kept_where_they_are_allowed() -> None:
    assert normalise_path(b"/a%2fb%5cc", allow_encoded_slashes=True) == b"/a%2Fb%5Cc"


@pytest.mark.parametrize("path", [b"/a/..%2fb", b"/%2e%2e%5cb", b"/x%2f..", b"/x%2f..;y%2fz", b"/x%2F.%2Fy"])
def test_encoded_slashes_never_make_dot_segments(path: bytes) -> None:
    with pytest.raises(ClientFault, match="dot segment"):
        normalise_path(path, allow_encoded_slashes=True)


_PIECES = [
    b"/",
    b"//",
    b".",
    b"..",
    b"%2e",
    b"%2F",
    b"%5c",
    b"%41",
    b"%",
    b"a",
    b"Z",
    b";",
    b"%3b",
    b"|",
    b"\\",
    b"%00",
]
_PATHS = st.lists(st.sampled_from(_PIECES), max_size=12).map(lambda pieces: b"/" + b"".join(pieces))


@given(_PATHS | st.binary(max_size=20).map(lambda tail: b"/" + tail), st.booleans())
def test_normalising_twice_changes_nothing_and_no_dot_segment_is_left(path: bytes, slashes: bool) -> None:
    try:
        normal = normalise_path(path, slashes)
    except ClientFault:
        return
    assert normalise_path(normal, slashes) == normal
    decoded = unquote_to_bytes(normal)
    assert not {b".", b".."} & {segment.partition(b";")[0] for segment in decoded.split(b"/")}
    assert b"//" not in normal
    assert normal.startswith(b"/")


@pytest.mark.parametrize(
    ("host", "valid"),
    [
        (b"Shop.Example", b"shop.example"),
        (b"shop.example:8080", b"shop.example:8080"),
        (b"shop.example:", b"shop.example"),
        (b"shop.example:0", b"shop.example:0"),
        (b"shop.example:65535", b"shop.example:65535"),
        (b"shop.example.", b"shop.example."),
        (b"127.0.0.1:80", b"127.0.0.1:80"),
        (b"[::1]", b"[::1]"),
        (b"[2001:DB8::1]:443", b"[2001:db8::1]:443"),
        (b"[::ffff:1.2.3.4]", b"[::ffff:1.2.3.4]"),
        (b"a_b.example", b"a_b.example"),
        (b"0.0.0.0=5000", b"0.0.0.0=5000"),
        (b"A!$&'()*+,;=~b:80", b"a!$&'()*+,;=~b:80"),
        (b"%53hop%2eexample:80", b"shop.example:80"),
        (b"b%C3%BCcher.example", b"xn--bcher-kva.example"),
    ],
)
def test_a_host_is_valid(host: bytes, valid: bytes) -> None:
    assert valid_host(host) == valid


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b":80", b"a b", b"a@b", b"a/b", b"a?b", b"a:65536", b"a:8x", b"a:80:80", b"a:-1", b"a:000080"),
        *(b"[::1", b"::1", b"[1.2.3.4]", b"[zz]", b"[::1]x", b".a", b"a..b", b"a%2fb", b"a\\b", b"a\x00", b"a\n"),
        *(b"\xc3\xa9", b"a" * 263, b"[fe80::1%25eth0]", b"a%", b"a%4", b"%zz", b"a%00", b"a%20b", b"a%40b", b"a%3A80"),
        *(b"%2Ea", b"a%2e.b", b"%FF", b"a%EF%BC%8Fb", b"a=b@c", b"a;b/c", b"a=b:x"),
    ],
)
def test_a_host_is_refused(host: bytes) -> None:
    with pytest.raises(ClientFault) as refused:
        valid_host(host)
    assert (refused.value.status, refused.value.reason) == (400, "invalid_host")
