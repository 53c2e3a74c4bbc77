from __future__ import annotations

import ssl
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.net.client_hello import LIMIT, ClientHello, ClientHelloError, ClientHelloReader, NotTLS


def real_hello(
    name: str | None = "shop.example", alpn: tuple[str, ...] = ("h2", "http/1.1"), version: int = 3
) -> bytes:
    """What OpenSSL sends."""
    context = ssl.create_default_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2 if version == 2 else ssl.TLSVersion.TLSv1_3
    if alpn:
        context.set_alpn_protocols(list(alpn))
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


HELLO = real_hello()
EXPECTED = ClientHello("shop.example", (b"h2", b"http/1.1"))


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def record(content: bytes, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    return bytes((kind,)) + version + u16(len(content)) + content


def message(extensions: bytes, head: bytes = b"") -> bytes:
    body = head or b"\x03\x03" + bytes(32) + b"\0" + u16(2) + b"\x13\x01" + b"\x01\0"
    body += u16(len(extensions)) + extensions
    return b"\x01" + len(body).to_bytes(3, "big") + body


def extension(kind: int, content: bytes) -> bytes:
    return u16(kind) + u16(len(content)) + content


def names(*entries: bytes, kind: bytes = b"\0") -> bytes:
    listed = b"".join(kind + u16(len(name)) + name for name in entries)
    return extension(0, u16(len(listed)) + listed)


def protocols(*entries: bytes) -> bytes:
    listed = b"".join(bytes((len(name),)) + name for name in entries)
    return extension(16, u16(len(listed)) + listed)


def read(data: bytes) -> ClientHello | None:
    return ClientHelloReader().feed(data)


@pytest.mark.parametrize("version", [2, 3])
def test_what_openssl_sends_is_read(version: int) -> None:
    assert read(real_hello(version=version)) == EXPECTED
    assert read(real_hello(None, (), version)) == ClientHello(None, ())


def test_a_name_is_lower_case_and_without_its_last_dot() -> None:
    assert read(record(message(names(b"Shop.Example.")))) == ClientHello("shop.example", ())


def test_a_message_without_extensions_is_whole() -> None:
    body = b"\x03\x03" + bytes(32) + b"\0" + u16(2) + b"\x13\x01" + b"\x01\0"
    assert read(record(b"\x01" + len(body).to_bytes(3, "big") + body)) == ClientHello(None, ())


def test_byte_by_byte_it_is_complete_with_the_last_one() -> None:
    reader = ClientHelloReader()
    for byte in HELLO[:-1]:
        assert reader.feed(bytes((byte,))) is None
    assert reader.feed(HELLO[-1:]) == EXPECTED
    assert reader.raw == HELLO


@given(st.lists(st.integers(0, len(HELLO)), max_size=8), st.lists(st.integers(1, len(HELLO) - 6), max_size=8))
def test_however_it_is_split_into_pieces_and_records_it_says_the_same(cuts: list[int], record_cuts: list[int]) -> None:
    content = HELLO[5:]
    edges = sorted({0, *record_cuts, len(content)})
    data = b"".join(record(content[a:b]) for a, b in pairwise(edges))
    reader = ClientHelloReader()
    found = None
    edges = sorted({0, *cuts, len(data)})
    for a, b in pairwise(edges):
        assert found is None
        found = reader.feed(data[a:b])
    assert found == EXPECTED
    assert reader.raw == data


def test_what_comes_after_the_message_in_its_own_record_is_kept_for_openssl() -> None:
    reader = ClientHelloReader()
    assert reader.feed(HELLO + record(b"\x01", kind=20)) == EXPECTED
    assert reader.raw == HELLO + record(b"\x01", kind=20)


@pytest.mark.parametrize("first", [b"G", b"GET / HTTP/1.1\r\n", b"POST", b"PRI * HTTP/2.0"])
def test_plain_http_is_known_by_its_first_byte(first: bytes) -> None:
    with pytest.raises(NotTLS) as caught:
        read(first)
    assert caught.value.looks_like_http


@pytest.mark.parametrize("first", [b"\x80\x2e\x01", b"SSH"[1:].lower(), b"\0", b"\x15\x03\x03", b"\x16\x02"], ids=repr)
def test_other_protocols_are_known_at_once(first: bytes) -> None:
    with pytest.raises(NotTLS) as caught:
        read(first)
    assert not caught.value.looks_like_http


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (record(b"\x02\0\0\0"), "no ClientHello"),
        (record(b""), "empty record"),
        (record(message(b"") + b"\x01"), "more follows the ClientHello"),
        (record(message(b"")[:8]) + record(b"x", kind=23), "cut by another record"),
        (record(message(b"")[:8]) + record(b"x", version=b"\x02\0"), "another version"),
        (record(message(names(b"a") + names(b"b"))), "stands twice"),
        (record(message(extension(99, b"") * 2)), "stands twice"),
        (record(message(names(b"a", b"b"))), "a server name that is none"),
        (record(message(names())), "past the end"),
        (record(message(names(b""))), "a server name that is none"),
        (record(message(names(b"."))), "a server name that is none"),
        (record(message(names(b"a\0b"))), "a server name that is none"),
        (record(message(names(b"a b"))), "a server name that is none"),
        (record(message(names(b"\xff"))), "a server name that is none"),
        (record(message(names(b"a" * 256))), "a server name that is none"),
        (record(message(names(b"a", kind=b"\x01"))), "unknown kind"),
        (record(message(protocols())), "a list of protocols that is none"),
        (record(message(protocols(b"h2", b""))), "a list of protocols that is none"),
        (record(message(extension(16, u16(9) + b"\x02h2"))), "past the end"),
        (record(message(b"", head=b"\x03\x03")), "past the end"),
        (record(b"\x01\xff\xff\xff"), "too long"),
        (b"\x16\x03\x01\xff\xff", "too long"),
    ],
)
def test_what_is_broken_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(ClientHelloError, match=text) as caught:
        read(data)
    assert not isinstance(caught.value, NotTLS)


def test_more_than_the_limit_is_not_kept() -> None:
    """One-byte records would make a small message cost six times its length."""
    content = message(extension(21, bytes(4000)))
    reader = ClientHelloReader()
    with pytest.raises(ClientHelloError, match="too long"):
        for byte in content:
            reader.feed(record(bytes((byte,))))
    assert len(reader.raw) <= LIMIT + 6


def test_a_message_as_long_as_the_limit_allows_is_read() -> None:
    room = LIMIT - 5 - len(message(names(b"a"))) - 4
    data = record(message(names(b"a") + extension(21, bytes(room))))
    assert len(data) == LIMIT
    assert read(data) == ClientHello("a", ())


@given(st.binary(max_size=600), st.integers(1, 50))
def test_no_bytes_make_it_fail_otherwise(data: bytes, step: int) -> None:
    for fed in (data, b"\x16\x03\x01" + data, record(b"\x01" + len(data).to_bytes(3, "big") + data)):
        reader = ClientHelloReader()
        try:
            for at in range(0, len(fed), step):
                if reader.feed(fed[at : at + step]) is not None:
                    break
        except ClientHelloError:
            pass


@given(st.lists(st.tuples(st.integers(5, len(HELLO) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_message_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(HELLO)
    for position, value in changes:
        damaged[position] = value
    try:
        read(bytes(damaged))
    except ClientHelloError:
        pass
