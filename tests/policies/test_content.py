"""json_schema, transform, compress, decompress: content that is read, changed, packed and unpacked."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from apigw.exchange.body import Body
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response
from apigw.policies import compress, decompress, json_schema, transform
from apigw.policies.codings import DECODABLE, Bomb, CodingError, Decoder, decoded, encoded
from tests.policies.surroundings import Outcome, World, request, run
from tests.policies.test_answers import Seen, make

JSON = {"content-type": "application/json"}
UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.decompress,
    b"br": brotli.decompress,
    b"zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


def answering(body: bytes | Body, status: int = 200, **fields: str) -> Responder:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]

    def service(_asked: Request, done: Done) -> None:
        response = Response(status, Headers(pairs), body)
        response.lines = b"".join(b"%b: %b\r\n" % pair for pair in pairs)
        done(response)

    return service


def content(outcome: Outcome) -> bytes:
    """What the service got."""
    body = outcome.passed[0].body
    assert body is not None
    seen = Seen(body)
    assert seen.ended, seen.error
    assert body.length in {None, len(seen.data)}
    return seen.data


# ---- codings ---------------------------------------------------------------------------------------------------------


@given(coding=st.sampled_from(DECODABLE), data=st.binary(max_size=5000), size=st.integers(1, 50))
def test_what_was_encoded_is_decoded_however_it_is_cut(coding: bytes, data: bytes, size: int) -> None:
    packed = encoded(data, [coding])
    decoder = Decoder(coding, 10_000)
    out = b"".join(piece for at in range(0, len(packed), size) for piece in decoder.decode(packed[at : at + size]))
    decoder.finish()
    assert out == data


@given(coding=st.sampled_from(DECODABLE), data=st.binary(min_size=1, max_size=300))
def test_garbage_is_refused_or_decoded_and_nothing_else(coding: bytes, data: bytes) -> None:
    try:
        decoded(data, [coding], 100_000)
    except CodingError:
        pass


@pytest.mark.parametrize("coding", DECODABLE)
def test_what_breaks_off_and_what_has_something_behind_it(coding: bytes) -> None:
    packed = encoded(b"some content" * 100, [coding])
    for wrong in (packed[:-1], packed[:3], packed + b"junk"):
        with pytest.raises(CodingError):
            decoded(wrong, [coding], 100_000)


@pytest.mark.parametrize("coding", DECODABLE)
def test_bombs(coding: bytes) -> None:
    bomb = encoded(b"0" * 50_000_000, [coding])
    largest = 0
    with pytest.raises(Bomb):
        for piece in Decoder(coding, 5_000_000).decode(bomb):
            largest = max(largest, len(piece))
    assert largest <= 5_000_000
    with pytest.raises(Bomb):
        list(Decoder(coding, 100_000_000, ratio=100).decode(bomb))


def test_more_codings_than_anybody_honest_applies_are_refused() -> None:
    with pytest.raises(CodingError):
        decoded(encoded(b"x", [b"gzip"] * 3), [b"gzip"] * 3, 100)


def test_several_gzip_members_are_one_content() -> None:
    assert decoded(gzip.compress(b"a") + gzip.compress(b"b"), [b"gzip"], 10) == b"ab"


# ---- json_schema -----------------------------------------------------------------------------------------------------

ORDER = {
    "type": "object",
    "required": ["id"],
    "properties": {"id": {"type": "integer"}, "items": {"type": "array", "items": {"type": "string", "maxLength": 3}}},
}


@pytest.fixture
def order(tmp_path: Path) -> str:
    (tmp_path / "order.json").write_text(json.dumps(ORDER))
    return str(tmp_path / "order.json")


def posted(order: str, body: bytes, headers: dict[str, str] | None = None, **options: Any) -> Outcome:
    policy = make(json_schema, "JSONSchema", options.pop("world", None), request=order, **options)
    return run(policy, request("POST", headers=headers or JSON, body=body))


def test_content_that_fits_goes_on_as_it_came(order: str) -> None:
    assert content(posted(order, b'{"id": 1 }')) == b'{"id": 1 }'


def test_all_that_is_wrong_is_told_at_once(order: str) -> None:
    outcome = posted(order, b'{"id": "x", "items": ["a", "long", 3]}')
    assert (outcome.status, outcome.reason, outcome.passed) == (400, "schema_violated", [])
    document = json.loads(bytes(outcome.response.body))  # type: ignore[arg-type]
    assert {violation["pointer"] for violation in document["violations"]} == {"/id", "/items/1", "/items/2"}


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd"])
def test_content_is_decoded_to_be_checked(order: str, coding: bytes) -> None:
    headers = {**JSON, "content-encoding": coding.decode()}
    packed = encoded(b'{"id": 1}', [coding])
    assert content(posted(order, packed, headers)) == packed
    assert posted(order, encoded(b"{}", [coding]), headers).reason == "schema_violated"
    assert posted(order, b"garbage", headers).reason == "coding_invalid"
    unknown = posted(order, b"garbage", {**JSON, "content-encoding": "compress"})
    assert (unknown.status, unknown.reason) == (415, "coding_unknown")
    assert posted(order, encoded(b" " * 5_000_000, [coding]), headers).status == 413


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "json_invalid"),
        (b"{", "json_invalid"),
        (b"[" * 10_000 + b"]" * 10_000, "json_invalid"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "json_invalid"),
        (b'{"id": NaN}', "json_invalid"),
        (b'{"id": ' + b"9" * 10_000 + b"}", "json_invalid"),
        (b"\xff\xfe", "json_invalid"),
        (b'{"id": "x", "id": 1}', "json_invalid"),
        ('{"id": 1}'.encode("utf-16"), "json_invalid"),
        (b'"' + b"x" * (1 << 20) + b'"', "body_too_large"),
        (b"[" + b"1," * 400_000 + b"1]", "json_too_large"),
    ],
    ids=range(11),
)
def test_bad_content_gets_a_clear_answer(order: str, body: bytes, reason: str) -> None:
    outcome = posted(order, body)
    assert (outcome.reason, outcome.passed) == (reason, [])
    assert outcome.status in {400, 413}


def test_half_of_a_surrogate_pair_is_no_text_that_a_format_allows(tmp_path: Path) -> None:
    (tmp_path / "email.json").write_text('{"format": "email"}')
    assert posted(str(tmp_path / "email.json"), b'"\\ud800"').reason == "schema_violated"


def test_of_many_mistakes_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('{"items": {"type": "string"}}')
    outcome = posted(str(tmp_path / "list.json"), b"[" + b"1," * 90_000 + b"1]")
    document = json.loads(bytes(outcome.response.body))  # type: ignore[arg-type]
    assert [violation["pointer"] for violation in document["violations"]] == ["/0"]


def test_no_content_and_another_type(order: str) -> None:
    policy = make(json_schema, "JSONSchema", request=order)
    assert run(policy, request("POST", headers=JSON)).reason == "schema_violated"
    assert run(policy, request("POST", body=b"{}")).status == 415
    assert run(policy, request("GET")).status == 200


def test_in_shadow_content_goes_on_whatever_it_is(order: str) -> None:
    world = World()
    for body in (b"{}", b"{", b"x" * 2_000_000):
        assert content(posted(order, body, mode="shadow", world=world)) == body
    asked = request("POST", headers=JSON)
    asked.body = stream = Body(None)
    outcome = run(make(json_schema, "JSONSchema", world, request=order, mode="shadow", max_size="10"), asked)
    stream.feed(b"x" * 8)
    assert outcome.passed == []
    stream.feed(b"y" * 8)
    stream.end()
    assert content(outcome) == b"x" * 8 + b"y" * 8
    assert world.counts == {"would_deny": 4}


def test_a_response_that_is_not_as_described_is_not_passed_on(order: str) -> None:
    policy = make(json_schema, "JSONSchema", response=order)
    good = answering(b'{"id": 1}', content_type="application/json")
    assert run(policy, request(), good).response.body == b'{"id": 1}'
    for body in (b"{}", b"{", b"x" * 2_000_000):
        asked = request()
        outcome = run(policy, asked, answering(body, content_type="application/json"))
        assert outcome.status == 502
    assert run(policy, request(), answering(b"sorry", 500)).status == 500
    shadow = make(json_schema, "JSONSchema", response=order, mode="shadow")
    stream = Body(None)
    outcome = run(shadow, request(), answering(stream))
    stream.feed(b"{}")
    stream.end()
    assert Seen(outcome.response.body).data == b"{}"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["{", '{"type": "nothing"}', '{"$ref": "http://127.0.0.1:1/x.json"}', '{"$ref": "#/$defs/none"}']
)
def test_schemas_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError):
        make(json_schema, "JSONSchema", request=str(tmp_path / "bad.json"))


def test_schemas_may_refer_to_other_files_but_nothing_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "order.json").write_text('{"properties": {"to": {"$ref": "parts/address.yaml#/$defs/zip"}}}')
    (tmp_path / "parts/address.yaml").write_text('$defs: {zip: {type: string, $ref: "../pattern.json"}}')
    (tmp_path / "pattern.json").write_text('{"pattern": "^[0-9]+$"}')
    policy = make(json_schema, "JSONSchema", request=str(tmp_path / "order.json"))
    assert policy.files == {tmp_path / name for name in ("order.json", "parts/address.yaml", "pattern.json")}
    assert run(policy, request("POST", headers=JSON, body=b'{"to": "123"}')).status == 200
    assert run(policy, request("POST", headers=JSON, body=b'{"to": "x"}')).reason == "schema_violated"
    (tmp_path / "pattern.json").unlink()
    with pytest.raises(ValueError, match=r"pattern\.json can't be read"):
        make(json_schema, "JSONSchema", request=str(tmp_path / "order.json"))


# ---- transform -------------------------------------------------------------------------------------------------------


def transformed(body: bytes | Body, expression: str, **fields: str) -> Response:
    told: Any = fields or {"content_type": "application/json"}
    return run(make(transform, "Transform", response=expression), request(), answering(body, **told)).response


def test_the_response_becomes_another() -> None:
    response = transformed(b'{"id": 7, "profile": {"name": "\xc3\xa4"}, "x": 1}', "{id: id, name: profile.name}")
    assert response.body == b'{"id":7,"name":"\xc3\xa4"}'


def test_large_integers_stay_exact() -> None:
    number = b"123456789012345678901234567890"
    assert transformed(b'{"id": ' + number + b"}", "id").body == number


@pytest.mark.parametrize("number", [b"1.10", b"0.1234567890123456789012", b"-1E5", b"0.1"])
def test_other_numbers_stay_as_they_were_written(number: bytes) -> None:
    body = b'{"a": [1.5, {"b": ' + number + b'}], "c": "\xc3\xa4"}'
    assert transformed(body, "{a: a, c: c}").body == b'{"a":[1.5,{"b":' + number + b'}],"c":"\xc3\xa4"}'
    assert transformed(body, "sum([a[0], a[0]])").body == b"3.0"


def test_half_of_a_surrogate_pair_stays_an_escape() -> None:
    assert transformed(b'{"id": "\\ud800"}', "id").body == b'"\\ud800"'


def test_a_response_without_content_passes() -> None:
    assert (transformed(b"", "id").status, transformed(b"", "id").body) == (200, b"")


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd"])
def test_it_is_decoded_and_encoded_again(coding: bytes) -> None:
    packed = encoded(b'{"a": [1, 2]}', [coding])
    fields: Any = {
        "content_type": "application/json",
        "content_encoding": coding.decode(),
        "etag": '"x"',
        "digest": "y",
    }
    response = transformed(packed, "a[1]", **fields)
    assert UNPACK[coding](response.body) == b"2"  # type: ignore[arg-type]
    assert response.headers.pairs == [
        (b"content-type", b"application/json"),
        (b"content-encoding", coding),
        (b"ETag", b'W/"x"'),
    ]


def test_what_is_not_json_or_not_a_success_passes() -> None:
    assert transformed(b"<p>", "a", content_type="text/html").body == b"<p>"
    policy = make(transform, "Transform", response="a")
    assert run(policy, request(), answering(b"no", 404, content_type="application/json")).response.body == b"no"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "response_unreadable"),
        (b'{"a": 1}', "transform_refused"),
        (b"[" * 20_000, "response_unreadable"),
        (b" " * 2_000_000, "response_too_large"),
    ],
)
def test_a_response_that_can_not_be_changed_is_not_passed_on(body: bytes, reason: str) -> None:
    response = transformed(body, "length(a)")
    assert response.status == 502
    assert response.error is not None
    assert response.error.reason == reason


def test_no_part_of_the_content_gets_around_it() -> None:
    policy = make(transform, "Transform", response="a")
    outcome = run(policy, request(headers={"range": "bytes=0-5", "if-range": '"x"'}), answering(b"", 204))
    assert len(outcome.passed[0].headers) == 0


def test_the_request_becomes_another() -> None:
    policy = make(transform, "Transform", request="{user: name}")
    asked = request("POST", headers={**JSON, "content-digest": "x"}, body=b'{"name": "anna", "admin": true}')
    outcome = run(policy, asked)
    assert content(outcome) == b'{"user":"anna"}'
    assert b"content-digest" not in outcome.passed[0].headers
    assert run(policy, request("POST", headers=JSON, body=b"{")).reason == "json_invalid"


@pytest.mark.parametrize("options", [{}, {"request": "{"}, {"response": "a b"}])
def test_transformations_that_are_none(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        transform.Settings.model_validate(options)


# ---- compress --------------------------------------------------------------------------------------------------------

TEXT = b"some words that come again and again, " * 100


def compressed(
    accept: str = "gzip", body: bytes | Body = TEXT, method: str = "GET", status: int = 200, **fields: str
) -> Response:
    fields = fields or {"content_type": "text/plain; charset=utf-8"}
    asked = request(method, headers={"accept-encoding": accept})
    return run(make(compress, "Compress"), asked, answering(body, status, **fields)).response


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd"])
def test_the_coding_that_the_client_likes(coding: bytes) -> None:
    response = compressed(f"{coding.decode()}, gzip;q=0.5")
    assert UNPACK[coding](response.body) == TEXT  # type: ignore[arg-type]
    assert response.lines is None
    assert response.headers.pairs[1:] == [(b"Content-Encoding", coding), (b"Vary", b"Accept-Encoding")]


def test_etags_become_weak_and_vary_is_said_once() -> None:
    response = compressed(content_type="text/css", etag='"a"', vary="Accept-Encoding, Origin", accept_ranges="bytes")
    assert response.headers.pairs == [
        (b"content-type", b"text/css"),
        (b"vary", b"Accept-Encoding, Origin"),
        (b"Content-Encoding", b"gzip"),
        (b"ETag", b'W/"a"'),
    ]


def test_a_304_says_the_etag_that_the_client_asked_about() -> None:
    policy = make(compress, "Compress")
    same = answering(b"", 304, etag='"v1"')
    asked = request(headers={"accept-encoding": "gzip", "if-none-match": 'W/"v1"'})
    headers = run(policy, asked, same).response.headers
    assert (headers.get(b"etag"), headers.get(b"vary")) == (b'W/"v1"', b"Accept-Encoding")
    assert run(policy, request(headers={"if-none-match": '"v1"'}), same).response.headers.get(b"etag") == b'"v1"'


def test_who_wants_none_gets_none_but_caches_are_told() -> None:
    response = compressed("identity")
    assert (response.body, response.headers.get(b"vary")) == (TEXT, b"Accept-Encoding")


@pytest.mark.parametrize(
    "fields",
    [
        {"content_type": "text/event-stream"},
        {"content_type": "application/grpc"},
        {"content_type": "image/png"},
        {"content_type": "text/plain", "content_encoding": "br"},
        {"content_type": "text/plain", "cache_control": "public, no-transform"},
        {"content_type": "text/plain", "content_range": "bytes 0-1/2"},
        {"x": "y"},
    ],
)
def test_what_passes_as_it_is(fields: Any) -> None:
    response = compressed(**fields)
    assert response.body == TEXT
    assert response.lines is not None


def test_short_responses_parts_and_nothing_pass() -> None:
    assert compressed(body=b"short").lines is not None
    assert compressed(status=206).lines is not None
    assert compressed(status=304, body=b"").lines is not None
    noise = random.Random(1).randbytes(2000)
    assert compressed(body=noise).body == noise


def test_the_answer_to_head_says_what_get_would_say() -> None:
    response = compressed(body=b"", method="HEAD", content_type="text/plain", content_length="4000")
    assert response.headers.pairs[1:] == [(b"Content-Encoding", b"gzip"), (b"Vary", b"Accept-Encoding")]


def test_a_stream_is_compressed_as_it_comes() -> None:
    stream = Body(None)
    response = compressed(body=stream)
    seen = Seen(response.body)  # type: ignore[arg-type]
    unpack = zlib.decompressobj(31)
    for piece in (b"first", b"second"):
        stream.feed(piece)
        data, seen.data = seen.data, b""
        assert unpack.decompress(data) == piece
    stream.end()
    unpack.decompress(seen.data)
    assert unpack.eof
    assert seen.ended


@pytest.mark.parametrize("options", [{"codings": "deflate"}, {"codings": ""}, {"types": "text"}, {"gzip_level": "9"}])
def test_compressions_that_are_none(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        compress.Settings.model_validate(options)


# ---- decompress ------------------------------------------------------------------------------------------------------


def uploaded(body: bytes, coding: str, **options: Any) -> Outcome:
    asked = request("POST", headers={"content-encoding": coding, "digest": "x"}, body=body)
    return run(make(decompress, "Decompress", **options), asked)


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd", b"deflate"])
def test_requests_reach_the_service_decoded(coding: bytes) -> None:
    outcome = uploaded(encoded(TEXT, [coding]), coding.decode())
    assert content(outcome) == TEXT
    assert len(outcome.passed[0].headers) == 0


def test_two_codings() -> None:
    assert content(uploaded(encoded(TEXT, [b"gzip", b"br"]), "gzip, br")) == TEXT


def test_in_shadow_content_stays_packed_and_what_would_be_refused_is_told() -> None:
    world = World()
    policy = make(decompress, "Decompress", world, mode="shadow", max_size="10")
    for sent, reason in (
        (gzip.compress(b"x" * 10), ""),
        (gzip.compress(b"x" * 11), "body_too_large"),
        (b"no", "coding_invalid"),
    ):
        outcome = run(policy, request("POST", headers={"content-encoding": "gzip"}, body=sent))
        assert content(outcome) == sent
        assert outcome.passed[0].headers.get(b"content-encoding") == b"gzip"
        told = (outcome.passed[0].notes or {}).get("would_deny", [])
        assert [each["reason"] for each in told] == ([reason] if reason else [])
    assert world.counts == {"would_deny": 2}


def test_in_shadow_nothing_is_transformed_but_what_could_not_be_is_told() -> None:
    world = World()
    policy = make(transform, "Transform", world, mode="shadow", request="{a: a}", response="{b: b}")
    service = answering(b'{"b": 1, "c": 2}', content_type="application/json", etag='"x"')
    outcome = run(policy, request("POST", headers={**JSON, "range": "bytes=0-1"}, body=b'{"a": 1, "b": 2}'), service)
    assert content(outcome) == b'{"a": 1, "b": 2}'
    assert outcome.passed[0].headers.get(b"range") == b"bytes=0-1"
    assert (outcome.response.body, outcome.response.headers.get(b"etag")) == (b'{"b": 1, "c": 2}', b'"x"')
    assert world.counts == {}
    assert content(run(policy, request("POST", headers=JSON, body=b"no"))) == b"no"
    assert world.counts == {"would_deny": 1}


def test_what_is_not_decodable() -> None:
    error = Seen(uploaded(b"garbage", "gzip").passed[0].body).error  # type: ignore[arg-type]
    assert error is not None
    assert (error.status, error.reason) == (400, "coding_invalid")
    outcome = uploaded(b"x", "compress")
    assert (outcome.status, outcome.reason) == (415, "coding_unknown")
    assert outcome.response.headers.get(b"accept-encoding") == b"gzip, br, zstd, deflate"


def test_responses_too_when_asked_for() -> None:
    policy = make(decompress, "Decompress", response="yes")
    stream = Body(None)
    response = run(policy, request(), answering(stream, content_encoding="br", etag='"x"')).response
    stream.feed(encoded(TEXT, [b"br"]))
    stream.end()
    assert Seen(response.body).data == TEXT  # type: ignore[arg-type]
    assert response.headers.pairs == [(b"ETag", b'W/"x"')]
