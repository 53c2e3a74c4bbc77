"""``lenient = yes``: what some old services send is taken from them, and reaches clients in its strict form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apigw.exchange.headers import Pair
from apigw.http.chunked import ChunkedReader, MalformedChunks
from apigw.http.lenient import LenientChunkedReader
from tests.gateway.running import request, route, running, upstream
from tests.origins import Origin

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

TAKEN = {
    "blanks behind a chunk size": CHUNKED + b"5  \r\nhello\r\n0 \t\r\n\r\n",
    "blanks before a chunk size": CHUNKED + b" 5\r\nhello\r\n  0\r\n\r\n",
    "blanks before an extension": CHUNKED + b" 5 ;a=b\r\nhello\r\n0;x\r\n\r\n",
    "lf in chunks": CHUNKED + b"5\nhello\n0\n\n",
    "lf in trailers": CHUNKED + b"5\nhello\n0\nX-Sum: 1\n\n",
    "lf in the head": b"HTTP/1.1 200 OK\nContent-Length: 5\nX-A: b\n\nhello",
    "lf at the end of the head alone": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello",
    "lf in all": b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n",
    "an informational head with lf": b"HTTP/1.1 103 Early Hints\nX-H: 1\n\nHTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "a length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a length as a list": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    "strict": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
}

REFUSED = {
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "two lengths in a list": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!",
    "a length that is no number": b"HTTP/1.1 200 OK\r\nContent-Length: 5,\r\n\r\nhello",
    "length and chunks": b"HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n",
    "two codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "cr in a value": b"HTTP/1.1 200 OK\nX-A: b\rc\nContent-Length: 5\n\nhello",
    "cr before crlf": b"HTTP/1.1 200 OK\r\nX-A: b\r\r\nContent-Length: 5\r\n\r\nhello",
    "a folded line": b"HTTP/1.1 200 OK\nX-A: b\n c\nContent-Length: 5\n\nhello",
    "a blank within a size": CHUNKED + b"1 0\r\nhello\r\n0\r\n\r\n",
    "a sign": CHUNKED + b" +5\r\nhello\r\n0\r\n\r\n",
    "a chunk that is longer than it says": CHUNKED + b"4\nhello\n0\n\n",
    "cr alone behind a chunk": CHUNKED + b"5\r\nhello\r0\r\n\r\n",
    "no http": b"hello\n\n",
}


async def answered(folder: Path, answer: bytes, option: str, *, pieces: bool = False) -> tuple[Any, list[Pair], bytes]:
    """What a client gets of this answer: the status, the fields and the bytes; it is sent whole, or byte by byte."""
    steps: list[Any] = [answer[at : at + 1] for at in range(len(answer))] if pieces else [answer]
    origin = await Origin([steps]).start()
    async with running(folder, upstream(origin.port, more=option) + route("/")) as gateway:
        client = await gateway.connect()
        for _ in range(2):  # the connection can be used again
            client.send(request("/"))
            response = await client.read_response()
            if response.status != 200:
                return json.loads(response.body)["reason"], response.fields, bytes(client.received)
            assert response.body == b"hello"
        assert len(origin.connections) == 1
    await origin.stop()
    return 200, response.fields, bytes(client.received)


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("answer", TAKEN.values(), ids=TAKEN.keys())
async def test_it_is_taken_and_sent_on_in_its_strict_form(tmp_path: Path, answer: bytes, pieces: bool) -> None:
    status, fields, received = await answered(tmp_path, answer, "lenient = yes", pieces=pieces)
    assert status == 200
    assert received.count(b"\n") == received.count(b"\r\n")
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    assert lengths in ([], [b"5"])


@pytest.mark.parametrize("answer", [each for name, each in TAKEN.items() if name != "strict"])
async def test_otherwise_it_is_a_broken_answer(tmp_path: Path, answer: bytes) -> None:
    origin = await Origin([[answer]]).start()
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        response = await gateway.get("/")
        assert (response.status, json.loads(response.body)["reason"]) == (502, "upstream_protocol_error")
    await origin.stop()


@pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED.keys())
async def test_what_could_be_read_in_two_ways_is_refused_all_the_same(tmp_path: Path, answer: bytes) -> None:
    reason, _, _ = await answered(tmp_path, answer, "lenient = yes")
    assert reason == "upstream_protocol_error"


async def test_clients_are_not_read_leniently(tmp_path: Path) -> None:
    origin = await Origin().start()
    async with running(tmp_path, upstream(origin.port, more="lenient = yes") + route("/")) as gateway:
        for sent in (
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
        ):
            client = await gateway.connect()
            client.send(sent)
            assert (await client.read_response()).status == 400
    assert all(b"POST" not in each.line or not each.complete for each in origin.requests)
    await origin.stop()


def test_both_readers_read_the_same_at_any_split() -> None:
    content = b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nX-A: b\r\n\r\nrest"
    loose = content.replace(b"\r\n", b"\n")
    for kind, data in ((ChunkedReader, content), (LenientChunkedReader, content), (LenientChunkedReader, loose)):
        for split in range(len(data) - 4):
            reader = kind()
            first, end = reader.feed(data[:split])
            if reader.ended:
                continue
            second, end = reader.feed(data, split)
            assert first + second == b"abc0123456789abcdef"
            assert (reader.ended, reader.trailers, data[end:]) == (True, [(b"X-A", b"b")], b"rest")


def test_a_line_without_an_end_is_bounded() -> None:
    reader = LenientChunkedReader()
    with pytest.raises(MalformedChunks):
        reader.feed(b" " * 300)
    reader = LenientChunkedReader()
    with pytest.raises(MalformedChunks):
        reader.feed(b"0\nX-A: " + b"a" * 9000)
