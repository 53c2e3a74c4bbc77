"""Bodies: every byte once and in order, and nobody left waiting."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.exchange.body import HIGH_WATER, SMALL, Body
from apigw.exchange.errors import BodyTooLarge, GatewayError, UpstreamFault
from apigw.exchange.responder import drive


class Source:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def body_wanted(self) -> None:
        self.calls.append("wanted")

    def pause_body(self) -> None:
        self.calls.append("pause")

    def resume_body(self) -> None:
        self.calls.append("resume")

    def cancel_body(self) -> None:
        self.calls.append("cancel")


class Sink:
    def __init__(self) -> None:
        self.data = b""
        self.end: Any = None

    def body_data(self, data: bytes) -> None:
        assert self.end is None
        self.data += data

    def body_end(self, trailers: Any) -> None:
        assert self.end is None
        self.end = ("end", trailers)

    def body_failed(self, error: GatewayError) -> None:
        assert self.end is None
        self.end = error


def fault() -> UpstreamFault:
    return UpstreamFault("gone", reason="upstream_aborted")


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.integers(0, 8), st.booleans())
def test_every_piece_arrives_once_whenever_the_reader_comes(pieces: list[bytes], when: int, whole: bool) -> None:
    body, sink = Body(None), Sink()
    for number, piece in enumerate(pieces):
        if number == when:
            body.subscribe(sink)
        body.feed(piece)
    if whole:
        body.end([(b"X", b"1")])
    else:
        body.fail(fault())
    if when >= len(pieces):
        body.subscribe(sink)
    assert sink.data == b"".join(pieces)
    assert body.received == len(sink.data)
    assert sink.end == (("end", [(b"X", b"1")]) if whole else body.error)


def test_the_source_waits_while_there_is_no_reader() -> None:
    source = Source()
    body = Body(source)
    body.feed(b"x" * HIGH_WATER)
    assert source.calls == []
    body.feed(b"x")
    assert source.calls == ["pause"]
    body.subscribe(Sink())
    assert source.calls == ["pause", "resume"]


def test_a_reader_that_is_busy_at_once_keeps_the_source_waiting() -> None:
    class Busy(Sink):
        def body_data(self, data: bytes) -> None:
            super().body_data(data)
            body.pause()

    source = Source()
    body = Body(source)
    body.feed(b"x" * (HIGH_WATER + 1))
    body.subscribe(Busy())
    assert "resume" not in source.calls
    body.resume()
    assert source.calls[-1] == "resume"


def test_what_arrives_while_the_reader_takes_what_waits_does_not_overtake_it() -> None:
    class Asking(Sink):
        def body_data(self, data: bytes) -> None:
            if data == b"1" * SMALL:
                body.feed(b"3")
                body.end()
            super().body_data(data)

    body, sink = Body(None), Asking()
    body.feed(b"1" * SMALL)
    body.feed(b"2")
    body.subscribe(sink)
    assert sink.data == b"1" * SMALL + b"23"
    assert sink.end == ("end", None)


def test_a_reader_that_cancels_hears_nothing_more() -> None:
    class Cancelling(Sink):
        def body_data(self, data: bytes) -> None:
            super().body_data(data)
            body.cancel()

    source = Source()
    body, sink = Body(source), Cancelling()
    body.feed(b"1" * SMALL)
    body.feed(b"2")
    body.subscribe(sink)
    body.feed(b"3")
    body.end()
    assert sink.data == b"1" * SMALL
    assert sink.end is None
    assert source.calls == ["cancel"]


def test_content_that_comes_byte_by_byte_is_kept_in_few_pieces() -> None:
    source = Source()
    body, sink = Body(source), Sink()
    for _ in range(HIGH_WATER + 1):
        body.feed(b"x")
    assert source.calls == ["pause"]
    assert len(body._waiting) <= 1 + HIGH_WATER // SMALL
    body.subscribe(sink)
    assert sink.data == b"x" * (HIGH_WATER + 1)


def test_a_body_is_read_once() -> None:
    body = Body(None)
    assert not body.read
    body.subscribe(Sink())
    assert body.read
    with pytest.raises(RuntimeError):
        body.subscribe(Sink())


def test_a_body_over_its_limit_fails_and_frees_its_source() -> None:
    source = Source()
    body, sink = Body(source), Sink()
    body.limit = 3
    body.subscribe(sink)
    body.feed(b"ab")
    body.feed(b"cd")
    body.feed(b"ef")
    body.end()
    assert sink.data == b"ab"
    assert isinstance(sink.end, BodyTooLarge)
    assert source.calls == ["cancel"]
    assert not body.ended


@pytest.mark.parametrize("ended", [False, True])
def test_a_limit_that_is_set_after_the_bytes_came_holds(ended: bool) -> None:
    body, sink = Body(Source()), Sink()
    body.feed(b"abcd")
    if ended:
        body.end()
    body.limit = 3
    body.subscribe(sink)
    assert sink.data == b""
    assert isinstance(sink.end, BodyTooLarge)


def test_who_fails_first_wins() -> None:
    body, sink = Body(None), Sink()
    body.subscribe(sink)
    first = fault()
    body.fail(first)
    body.fail(fault())
    body.end()
    assert sink.end is first


async def test_collecting() -> None:
    source = Source()
    body = Body(source)
    body.feed(b"ab")
    outcome: list[Any] = []
    drive(body.collect(10), outcome.append, outcome.append)
    assert source.calls == ["wanted"]
    body.feed(b"cd")
    assert outcome == []
    body.end()
    assert outcome == [b"abcd"]


async def test_collecting_too_much() -> None:
    source = Source()
    body = Body(source)
    outcome: list[Any] = []
    drive(body.collect(3), outcome.append, outcome.append)
    body.feed(b"abcd")
    assert isinstance(outcome[0], BodyTooLarge)
    assert source.calls == ["wanted", "cancel"]
    announced = Body(source, 4)
    with pytest.raises(BodyTooLarge):
        await announced.collect(3)


async def test_collecting_what_fails() -> None:
    body = Body(None)
    outcome: list[Any] = []
    drive(body.collect(3), outcome.append, outcome.append)
    body.fail(fault())
    assert isinstance(outcome[0], UpstreamFault)


async def test_cancelling_a_collection_frees_the_source() -> None:
    source = Source()
    body = Body(source)
    outcome: list[Any] = []
    cancel = drive(body.collect(3), outcome.append, outcome.append)
    assert cancel is not None
    cancel()
    assert source.calls == ["wanted", "cancel"]
    assert len(outcome) == 1


async def test_iterating_piece_by_piece() -> None:
    source = Source()
    body = Body(source)
    seen: list[bytes] = []

    async def read() -> str:
        async for piece in body:
            seen.append(piece)  # noqa: PERF401 - as it comes
        return "over"

    outcome: list[Any] = []
    drive(read(), outcome.append, outcome.append)
    for piece in (b"1", b"2", b"3"):
        body.feed(piece)
    assert seen == [b"1", b"2", b"3"]
    body.end()
    assert outcome == ["over"]


async def test_iterating_over_what_fails() -> None:
    body = Body(None)
    seen: list[bytes] = []

    async def read() -> None:
        async for piece in body:
            seen.append(piece)  # noqa: PERF401 - as it comes

    outcome: list[Any] = []
    drive(read(), outcome.append, outcome.append)
    body.feed(b"1")
    body.fail(fault())
    assert seen == [b"1"]
    assert isinstance(outcome[0], UpstreamFault)
