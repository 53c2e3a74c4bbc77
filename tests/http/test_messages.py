"""Fields, heads and chunks without sockets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.exchange.errors import ClientFault
from apigw.http.chunked import LAST_CHUNK, MOST_CHUNKS, ChunkedReader, MalformedChunks, chunk, last_chunk
from apigw.http.dates import http_date
from apigw.http.fields import TOKEN, MalformedFields, is_field_value, is_token, list_members, parse_fields, serialise
from apigw.http.forwarded import Family, Forwarding
from apigw.http.h1_heads import RequestHead, RequestHeads, RequestLine, ResponseHeads

NAMES = st.text(TOKEN.decode(), min_size=1, max_size=12).map(str.encode)
VALUES = st.binary(max_size=20).filter(is_field_value).map(lambda value: value.strip(b" \t"))
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


@given(FIELDS)
def test_what_is_written_is_read_back(pairs: list[tuple[bytes, bytes]]) -> None:
    assert [(name, value) for name, value, _ in parse_fields(serialise(pairs))] == pairs


@given(st.binary(max_size=40))
def test_whatever_is_read_can_be_written_again(block: bytes) -> None:
    try:
        fields = parse_fields(block + b"\r\n")
    except MalformedFields:
        return
    for name, value, lower in fields:
        assert is_token(name)
        assert is_field_value(value)
        assert lower == name.lower()
    serialise([(name, value) for name, value, _ in fields])


@given(NAMES, st.binary(max_size=20))
def test_no_value_becomes_two_lines(name: bytes, value: bytes) -> None:
    try:
        block = serialise([(name, value)])
    except ValueError:
        assert not is_field_value(value)
        return
    assert block.count(b"\n") == block.count(b"\r") == 1


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"\xc3\xbc"])
def test_no_name_that_is_no_token_is_written(name: bytes) -> None:
    with pytest.raises(MalformedFields):
        serialise([(name, b"1")])


def test_list_members() -> None:
    assert list_members(b"a,,B ,\t c") == [b"a", b"b", b"c"]


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), FIELDS, st.lists(st.integers(0, 400), max_size=6))
def test_chunks_are_read_back_at_any_split(
    pieces: list[bytes], trailers: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    trailers = [(b"X-" + name, value) for name, value in trailers]
    trailers = [pair for pair in trailers if not pair[0].lower().startswith((b"x-forwarded", b"x-re"))]
    data = b"".join(map(chunk, pieces)) + last_chunk(trailers) + b"next"
    reader, content, rest = ChunkedReader(), b"", b""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in pairwise(places):
        if reader.ended:
            rest += data[start:end]
        else:
            more, at = reader.feed(data[:end], start)
            content += more
            rest = data[at:end]
    assert reader.ended
    assert content == b"".join(pieces)
    assert (reader.trailers or []) == trailers
    assert rest == b"next"


@given(st.binary(max_size=60), st.integers(0, 60))
def test_nonsense_is_the_same_nonsense_at_any_split(data: bytes, cut: int) -> None:
    def read(*pieces: bytes) -> tuple[bytes, bool] | None:
        reader, content = ChunkedReader(), b""
        try:
            for piece in pieces:
                if not reader.ended:
                    content += reader.feed(piece)[0]
        except MalformedChunks:
            return None
        return content, reader.ended

    assert read(data) == read(data[:cut], data[cut:])


def test_many_small_chunks_are_read_a_part_at_a_time() -> None:
    data = b"".join(chunk(b"%d" % number) for number in range(2000)) + LAST_CHUNK + b"next"
    reader, content, at, calls = ChunkedReader(), b"", 0, 0
    while not reader.ended:
        more, at = reader.feed(data, at)
        content += more
        calls += 1
    assert content == b"".join(b"%d" % number for number in range(2000))
    assert data[at:] == b"next"
    assert calls == 2000 // MOST_CHUNKS + 1


def test_heads_are_remembered_but_not_without_end() -> None:
    heads = RequestHeads(100)
    first = heads.get(b"Host: a\r\n")
    assert heads.get(b"Host: a\r\n") is first
    for number in range(3000):
        heads.get(b"Host: a\r\nX: %d\r\n" % number)
    assert len(heads.known) <= 1024
    long = b"X: " + b"a" * 5000 + b"\r\n"
    assert heads.get(long) is not heads.get(long)
    answers = ResponseHeads()
    for number in range(3000):
        answers.get(b"HTTP/1.1 200 OK\r\nX: %d\r\n" % number)
    assert len(answers.known) <= 1024


@given(st.binary(max_size=40))
def test_a_request_line_is_good_or_refused(line: bytes) -> None:
    try:
        parsed = RequestLine(line, 100)
    except ClientFault as fault:
        assert fault.status in {400, 414, 505}  # noqa: PT017 - it may also be good
        return
    assert line == b"%b %b HTTP/%b" % (parsed.method, parsed.target, parsed.version)


def test_the_date_is_formatted_once_a_second() -> None:
    first = http_date(5.1)
    assert first.startswith(b"Date: ")
    assert first.endswith(b" GMT\r\n")
    assert http_date(5.9) is first
    assert http_date(6.0) is not first


def forwarding(
    *lines: bytes,
    peer: str = "10.0.0.1",
    trusted: tuple[str, ...] = ("10.0.0.1", "10.0.0.2"),
    host: bytes = b"a",
    family: Family = "both",
) -> Forwarding:
    head = RequestHead(b"".join(line + b"\r\n" for line in lines))
    return Forwarding(head, peer, scheme=b"http", host=host, trusted=lambda address: address in trusted, family=family)


def said(facts: Forwarding) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in facts.lines.decode().split("\r\n") if line)


@pytest.mark.parametrize(
    ("received", "client"),
    [
        (b"X-Forwarded-For: 1.1.1.1", "1.1.1.1"),
        (b"X-Forwarded-For: 6.6.6.6, 1.1.1.1", "1.1.1.1"),
        (b"X-Forwarded-For: 6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
        (b"X-Forwarded-For: 10.0.0.2", "10.0.0.2"),
        (b"X-Forwarded-For: unknown, 10.0.0.2", "10.0.0.2"),
        (b"X-Forwarded-For: 1.1.1.1:4711", "1.1.1.1"),
        (b"X-Forwarded-For: [2001:DB8::1]:47", "2001:db8::1"),
        (b"X-Forwarded-For: 2001:db8::1", "2001:db8::1"),
        (b"X-Forwarded-For: nonsense", "10.0.0.1"),
        (b"X-Forwarded-For:", "10.0.0.1"),
        (b'Forwarded: for="[2001:db8::1]:47"', "2001:db8::1"),
        (b"Forwarded: for=6.6.6.6, proto=http;for=1.1.1.1", "1.1.1.1"),
        (b"Forwarded: for=_hidden", "10.0.0.1"),
        (b"Forwarded: nonsense", "10.0.0.1"),
        (b"X-Forwarded-For: ::ffff:1.1.1.1", "1.1.1.1"),
        (b"X-Forwarded-For: 6.6.6.6, [::FFFF:1.1.1.1]:80, 10.0.0.2", "1.1.1.1"),
        (b"X-Forwarded-For: 1.1.1.1, ::ffff:10.0.0.2", "1.1.1.1"),
        (b'Forwarded: for="[::ffff:101:101]"', "1.1.1.1"),
        (b'Forwarded: for=6.6.6.6;by="x, for=1.1.1.1", for=1.1.1.2', "1.1.1.2"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_not_trusted(received: bytes, client: str) -> None:
    assert forwarding(received).client == client
    assert forwarding(received, peer="9.9.9.9").client == "9.9.9.9"


def test_a_client_of_ipv6_and_one_without_an_address() -> None:
    assert b'Forwarded: for="[2001:db8::1]";' in forwarding(peer="2001:db8::1").lines
    assert b"X-Forwarded-For: 2001:db8::1\r\n" in forwarding(peer="2001:db8::1").lines
    assert b"Forwarded: for=unknown;" in forwarding(peer="unix:").lines


def test_what_is_not_known_of_a_client_is_not_said() -> None:
    assert said(forwarding(peer="unix:")) == {
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "a",
        "Forwarded": "for=unknown;host=a;proto=http",
        "Via": "1.1 apigw",
    }
    assert said(forwarding(peer="9.9.9.9", host=b"")) == {
        "X-Forwarded-For": "9.9.9.9",
        "X-Forwarded-Proto": "http",
        "Forwarded": "for=9.9.9.9;proto=http",
        "Via": "1.1 apigw",
    }
    behind = said(forwarding(b"X-Forwarded-For: 1.1.1.1", peer="unix:", trusted=("unix:",)))
    assert behind["X-Forwarded-For"] == "1.1.1.1"
    assert behind["Forwarded"] == "for=1.1.1.1, for=unknown;host=a;proto=http"


def test_each_family_is_written_from_the_other() -> None:
    facts = said(forwarding(b'Forwarded: for="[2001:db8::1]:4";proto=https;host=shop.example, for=_x'))
    assert facts["X-Forwarded-For"] == "2001:db8::1, unknown, 10.0.0.1"
    assert (facts["X-Forwarded-Proto"], facts["X-Forwarded-Host"]) == ("https", "shop.example")
    assert facts["Forwarded"].startswith('for="[2001:db8::1]:4";proto=https;host=shop.example, for=_x, for=10.0.0.1;')
    facts = said(forwarding(b"X-Forwarded-For: 1.1.1.1, ::ffff:10.0.0.2", b"X-Forwarded-Proto: https"))
    assert facts["X-Forwarded-For"] == "1.1.1.1, 10.0.0.2, 10.0.0.1"
    assert facts["Forwarded"] == "for=1.1.1.1, for=10.0.0.2, for=10.0.0.1;host=a;proto=http"
    facts = said(forwarding(b"X-Forwarded-Proto: https", b"X-Forwarded-Host: shop.example"))
    assert facts["Forwarded"] == "for=10.0.0.1;host=shop.example;proto=https"


FAMILIES = (b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: x", b"X-Forwarded-Prefix: /x")
OTHER = b"Forwarded: for=2.2.2.2;proto=http;host=f"


@pytest.mark.parametrize("line", [b"X-Forwarded-For: 1.1.1.1", b"Forwarded: for=1.1.1.1"])
def test_proxies_on_the_way_are_bounded(line: bytes) -> None:
    member = line.partition(b": ")[2]
    assert forwarding(line + b", " + b", ".join([member] * 99)).client == "1.1.1.1"
    with pytest.raises(ClientFault, match="more than 100") as caught:
        forwarding(line + b", " + b", ".join([member] * 100))
    assert (caught.value.status, caught.value.reason) == (400, "too_many_hops")
    assert forwarding(line + b"," * 200, peer="9.9.9.9").client == "9.9.9.9"


def test_only_what_trusted_proxies_write_counts() -> None:
    facts = forwarding(*FAMILIES, OTHER, family="x-forwarded")
    assert (facts.client, facts.scheme, facts.prefix) == ("1.1.1.1", b"https", b"/x")
    assert said(facts)["Forwarded"] == "for=1.1.1.1, for=10.0.0.1;host=a;proto=http"
    facts = forwarding(*FAMILIES, OTHER, family="forwarded")
    assert (facts.client, facts.scheme, facts.prefix) == ("2.2.2.2", b"http", b"")
    assert said(facts)["X-Forwarded-For"] == "2.2.2.2, 10.0.0.1"
    assert said(facts)["X-Forwarded-Host"] == "f"


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ((b"X-Forwarded-For: 1.1.1.1", b"Forwarded: for=2.2.2.2"), "client"),
        ((b"X-Forwarded-For: 1.1.1.1", b"Forwarded: for=_hidden"), "client"),
        ((b"X-Forwarded-For: 1.1.1.1", b"Forwarded: for=2.2.2.2, for=10.0.0.2"), "client"),
        ((b"X-Forwarded-For: 1.1.1.1", b"Forwarded: for=1.1.1.1, for=2.2.2.2"), "client"),
        ((b"X-Forwarded-Proto: https", b"Forwarded: proto=http"), "protocol"),
        ((b"X-Forwarded-Host: a", b"Forwarded: for=1.1.1.1;host=b"), "host"),
    ],
)
def test_families_that_disagree_are_refused(lines: tuple[bytes, ...], what: str) -> None:
    with pytest.raises(ClientFault, match=f"another {what}") as caught:
        forwarding(*lines)
    assert (caught.value.status, caught.value.reason) == (400, "forwarding_conflict")
    assert forwarding(*lines, peer="9.9.9.9").client == "9.9.9.9"
    for family in ("x-forwarded", "forwarded"):
        forwarding(*lines, family=family)


@pytest.mark.parametrize(
    "lines",
    [
        (b"X-Forwarded-For: 1.1.1.1, 10.0.0.2", b"Forwarded: for=1.1.1.1"),
        (b"X-Forwarded-For: ::ffff:1.1.1.1", b'Forwarded: for="1.1.1.1:80"'),
        (b"X-Forwarded-For: 6.6.6.6, 1.1.1.1", b"Forwarded: for=7.7.7.7, for=1.1.1.1;proto=http"),
        (b"X-Forwarded-For: 1.1.1.1", b"Forwarded: proto=https;host=a"),
        (b"X-Forwarded-Proto: HTTPS", b"Forwarded: PROTO=https"),
        (b"X-Forwarded-Host: Shop.example", b'Forwarded: host="shop.example"'),
    ],
)
def test_families_that_agree_are_taken(lines: tuple[bytes, ...]) -> None:
    facts = forwarding(*lines)
    again = [line.encode() for line in (f"{name}: {value}" for name, value in said(facts).items())]
    assert forwarding(*again, peer="10.0.0.2").client == facts.client  # what a gateway writes agrees with itself


@pytest.mark.parametrize("bad", [b"a b", b"x" * 129, b"a\xff", b"<script>", b""])
def test_a_request_id_that_is_none_is_not_taken(bad: bytes) -> None:
    assert forwarding(b"X-Request-Id: " + bad).request_id == b""
    assert forwarding(b"X-Request-Id: abc-1").request_id == b"abc-1"


def test_claims_are_checked() -> None:
    odd = forwarding(b"X-Forwarded-Proto: gopher", b"X-Forwarded-Host: a/b", b"X-Forwarded-Prefix: //evil")
    assert (odd.scheme, odd.prefix) == (b"http", b"")
    assert b"X-Forwarded-Host: a\r\n" in odd.lines
    good = forwarding(b"X-Forwarded-Proto: HTTPS", b"X-Forwarded-Host: shop.example:81", b"X-Forwarded-Prefix: /x/")
    assert (good.scheme, good.prefix) == (b"https", b"/x")
    assert b"X-Forwarded-Host: shop.example:81\r\n" in good.lines
