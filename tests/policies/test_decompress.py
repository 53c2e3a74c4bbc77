"""decompress: content is decoded part by part, as fast as it is read, and never far beyond its limits."""

from __future__ import annotations

import asyncio
import gzip
import random
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from apigw.exchange.body import Body
from apigw.exchange.headers import Headers
from apigw.exchange.response import Response
from apigw.policies import decompress
from apigw.policies.codings import DECODABLE, PIECE, decoded, encoded
from apigw.testing.origins import BODY, chunked, reply
from tests.gateway.running import route, upstream
from tests.policies.surroundings import World, request, run
from tests.policies.test_answers import Seen, make

ODD = random.Random(5)
TEXT = b"".join(b"%d %s " % (n, ODD.randbytes(n % 40)) for n in range(40_000)) + bytes(1_000_000)
CODINGS = [[coding] for coding in DECODABLE] + [[b"gzip", b"br"], [b"zstd", b"gzip"]]
MOST = decompress.TURN + decompress.AT_ONCE + 8 * PIECE


async def turn() -> None:
    turned: Deferred[None] = Deferred()
    asyncio.get_running_loop().call_soon(turned.callback, None)
    await turned


class Source:
    """Feeds a body, and notes what it is told."""

    def __init__(self) -> None:
        self.body = Body(self)
        self.paused = self.cancelled = False

    def body_wanted(self) -> None:
        pass

    def pause_body(self) -> None:
        self.paused = True

    def resume_body(self) -> None:
        self.paused = False

    def cancel_body(self) -> None:
        self.cancelled = True

    async def feed(self, data: bytes, cut: int) -> None:
        at = 0
        while at < len(data) and not self.cancelled:
            if self.paused:
                await turn()
                continue
            size = ODD.randrange(1, cut)
            self.body.feed(data[at : at + size])
            at += size
        if not self.cancelled:
            self.body.end()


def decoding(source: Source, coding: bytes, **options: Any) -> Body:
    asked = request("POST", headers={"content-encoding": coding.decode()})
    asked.body = source.body
    body = run(make(decompress, "Decompress", **options), asked).passed[0].body
    assert body is not None
    return body


@pytest.mark.parametrize("codings", CODINGS, ids=str)
@pytest.mark.parametrize("cut", [3000, 300_000])
async def test_content_stays_the_same_however_it_is_cut_and_read(codings: list[bytes], cut: int) -> None:
    source = Source()
    body = decoding(source, b", ".join(codings), max_ratio="1000000")
    seen = Seen(body)
    feeding = Deferred.fromCoroutine(source.feed(encoded(TEXT, codings), cut))
    while not seen.ended:
        assert seen.error is None
        if ODD.random() < 0.3:
            body.pause()
            before = len(seen.data)
            for _ in range(3):
                await turn()
            assert len(seen.data) - before <= MOST * len(codings)
            body.resume()
        await turn()
    await feeding
    assert seen.data == TEXT


@pytest.mark.parametrize("coding", DECODABLE)
@pytest.mark.parametrize("options", [{"max_size": "2MiB"}, {"max_ratio": "20"}])
async def test_bombs_are_refused_while_they_are_decoded(coding: bytes, options: dict[str, str]) -> None:
    source = Source()
    seen = Seen(decoding(source, coding, **options))
    source.body.feed(encoded(bytes(50_000_000), [coding]))
    while seen.error is None:
        await turn()
    assert (seen.error.status, seen.error.reason) == (413, "body_too_large")
    assert source.cancelled
    assert len(seen.data) <= 2 << 20


async def test_one_turn_of_the_loop_decodes_a_bounded_part() -> None:
    source = Source()
    seen = Seen(decoding(source, b"gzip", max_ratio="1000000"))
    source.body.feed(gzip.compress(bytes(9_000_000)) + gzip.compress(b"") * 5000)
    assert source.paused
    turns = 0
    while source.paused:
        assert len(seen.data) <= decompress.AT_ONCE + (decompress.TURN + PIECE) * turns * 30  # at most 4 ms each
        await turn()
        turns += 1
    assert turns > 2
    assert seen.data == bytes(9_000_000)


@pytest.mark.parametrize("coding", DECODABLE)
async def test_a_reader_that_waits_makes_the_source_wait(coding: bytes) -> None:
    source = Source()
    body = decoding(source, coding, max_ratio="1000000")
    source.body.feed(encoded(bytes(9_000_000), [coding]))
    for _ in range(100):
        await turn()
    assert source.paused
    assert body.received <= (MOST if coding != b"zstd" else 5 << 20)  # there is no reader yet
    seen = Seen(body)
    source.body.end()
    while not seen.ended:
        await turn()
    assert seen.data == bytes(9_000_000)


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_all_that_the_last_bytes_become_comes_out(coding: bytes) -> None:
    for size in range(9_000_000, 9_130_000, 6553):
        assert len(decoded(encoded(bytes(size), [coding]), [coding], 10_000_000, 0)) == size


@pytest.mark.parametrize("coding", DECODABLE)
async def test_a_reader_that_leaves_ends_the_work(coding: bytes) -> None:
    source = Source()
    body = decoding(source, coding, max_ratio="1000000")
    source.body.feed(encoded(bytes(9_000_000), [coding]))
    body.cancel()
    assert source.cancelled
    received = body.received
    for _ in range(100):
        await turn()
    assert body.received == received


async def test_in_shadow_the_trial_sets_the_pace_and_ends_with_the_body() -> None:
    world = World()
    policy = make(decompress, "Decompress", world, mode="shadow")
    for leaves in (False, True):
        source = Source()
        asked = request("POST", headers={"content-encoding": "gzip"})
        asked.body = source.body
        body = run(policy, asked).passed[0].body
        assert body is not None
        seen = Seen(body)
        packed = gzip.compress(ODD.randbytes(900_000) + bytes(15_000_000))
        source.body.feed(packed)
        assert seen.data == packed
        assert source.paused
        if leaves:
            body.cancel()
        for _ in range(500):
            await turn()
        assert source.paused is leaves
    assert world.counts == {"would_deny": 1}


@pytest.mark.parametrize("coding", DECODABLE)
async def test_large_content_passes_both_ways(gateway: Any, origin: Any, coding: bytes) -> None:
    kind = (b"Content-Encoding", coding)
    packed = encoded(TEXT, [coding])
    pieces = [packed[at : at + 70_000] for at in range(0, len(packed), 70_000)]
    service = await origin([[BODY, reply(200, packed, kind)], [BODY, *chunked(*pieces, fields=[kind])]])
    running = await gateway(
        "[decompress x]\nresponse = yes\n" + upstream(service.port) + route("/", "policies = decompress x")
    )
    for number in range(2):
        field = ("Content-Encoding", coding.decode())
        response = await running.get("/", field, method="POST", body=packed)
        assert response.body == TEXT
        assert response.values(b"content-encoding") == []
        assert service.requests[number].body == TEXT


@pytest.mark.parametrize("coding", DECODABLE)
async def test_clients_that_leave_or_read_late(gateway: Any, origin: Any, coding: bytes) -> None:
    packed = encoded(TEXT, [coding])
    service = await origin([reply(200, packed, (b"Content-Encoding", coding))])
    running = await gateway(
        "[decompress x]\nresponse = yes\n" + upstream(service.port) + route("/", "policies = decompress x")
    )
    leaving, late = await running.connect(), await running.connect()
    head = b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
    leaving.send(head % (coding, len(packed)) + packed[: len(packed) // 2])
    await service.request(0)
    leaving.reset()
    late.pause()
    late.send(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
    await service.request(1)
    for _ in range(200):
        await turn()
    late.resume()
    assert (await late.read_response()).body == TEXT


async def test_a_whole_response_is_decoded() -> None:
    policy = make(decompress, "Decompress", response="yes")
    packed = gzip.compress(TEXT)
    headers = Headers([(b"Content-Encoding", b"gzip")])
    response = run(policy, request(), lambda _asked, done: done(Response(200, headers, packed))).response
    seen = Seen(response.body)  # type: ignore[arg-type]
    while not seen.ended:
        assert seen.error is None
        await turn()
    assert seen.data == TEXT
