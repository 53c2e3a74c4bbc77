"""No connection holds up the others: what one has sent is handled a part a turn of the loop."""

from __future__ import annotations

import pytest

from apigw.downstream.h1_requests import AHEAD, ANSWERED, ANSWERED_BYTES
from apigw.downstream.h1_responses import MOST_REFUSED
from apigw.downstream.site import Limits
from apigw.exchange.errors import ClientFault
from apigw.exchange.headers import Headers
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done
from apigw.exchange.response import Response
from apigw.http.chunked import LAST_CHUNK, MOST_CHUNKS, chunk
from apigw.net.turns import LARGEST_READ, Turns
from apigw.upstream.connection import MOST_INFORMATIONAL
from tests.wire.memory import Path
from tests.wire.messages import complete
from tests.wire.requests import get, post

ANSWER = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def ok(request: Request, done: Done) -> None:
    done(Response(200, Headers([(b"Date", b"x")]), b"ok"))


def refuse(request: Request, done: Done) -> None:
    done(problem(request, ClientFault("too many", status=429, reason="rate_limited")))


def statuses(received: bytes) -> list[bytes]:
    return [response[9:12] for response in complete(received)[0]]


# The client's side


def test_a_turn_answers_a_few_of_many_pipelined_requests() -> None:
    path = Path(responder=ok)
    path.by_hand = True
    path.client.send(get() * 50)
    assert path.client.received == ANSWER * ANSWERED
    assert not path.client.reading
    path.turn()
    assert path.client.received == ANSWER * ANSWERED * 2
    path.by_hand = False
    path.settle()
    assert path.client.received == ANSWER * 50
    assert path.client.reading


def test_a_turn_answers_fewer_requests_with_large_heads() -> None:
    path = Path(responder=ok)
    path.by_hand = True
    large = get().replace(b"\r\n\r\n", b"\r\nX: %b\r\n\r\n" % (b"x" * (ANSWERED_BYTES // 2)))
    path.client.send(large * 6)
    assert path.client.received == ANSWER * 2
    path.turn()
    assert path.client.received == ANSWER * 4
    path.by_hand = False
    path.settle()
    assert path.client.received == ANSWER * 6


def test_two_clients_are_served_in_turn() -> None:
    path = Path(responder=ok)
    path.by_hand = True
    other = path.connect()
    path.client.send(get() * 50)
    other.send(get() * 50)
    for number in range(1, 4):
        assert len(path.client.received) == len(other.received) == len(ANSWER) * ANSWERED * number
        path.turn()


def test_pipelined_requests_with_content_share_a_turn_too() -> None:
    path = Path(responder=ok)
    path.by_hand = True
    path.client.send(post(b"Content-Length: 1", content=b"x") * 20)
    assert path.client.received == ANSWER * ANSWERED
    path.by_hand = False
    path.settle()
    assert path.client.received == ANSWER * 20


def test_a_request_that_ends_in_the_next_piece_after_many_others() -> None:
    path = Path(responder=ok)
    path.by_hand = True
    path.client.send(get() * 20 + get()[:10])
    path.by_hand = False
    path.settle()
    path.client.send(get()[10:] + get())
    assert path.client.received == ANSWER * 22


def test_a_client_that_leaves_while_it_waits_for_its_turn() -> None:
    path = Path(responder=ok)
    path.by_hand = True
    path.client.send(get() * 20)
    path.client.reset()
    path.turn()
    assert path.client.received == ANSWER * ANSWERED
    assert not path.waiting


def test_half_closed_clients_get_the_answers_that_wait_for_a_turn() -> None:
    path = Path(responder=ok)
    path.by_hand = True
    path.client.send(get() * 20)
    path.client.hang_up()
    path.by_hand = False
    path.settle()
    assert path.client.received == ANSWER * 20
    assert path.client.closed


def test_small_chunks_are_taken_a_part_a_turn_and_sent_on_as_one() -> None:
    path = Path()
    path.by_hand = True
    path.client.send(post(b"Transfer-Encoding: chunked"))
    path.origin.take()
    path.client.send(chunk(b"x") * 1000 + LAST_CHUNK + get())
    assert path.origin.take() == chunk(b"x" * MOST_CHUNKS)
    assert not path.client.reading
    path.turn()
    assert path.origin.take() == chunk(b"x" * (1000 - MOST_CHUNKS)) + LAST_CHUNK
    path.origin.send(ANSWER)
    assert path.origin.take().startswith(b"GET / HTTP/1.1\r\n")
    path.origin.send(ANSWER)
    assert path.client.received == ANSWER * 2
    assert path.client.reading


def test_chunks_that_came_with_the_head() -> None:
    path = Path()
    path.client.send(post(b"Transfer-Encoding: chunked") + chunk(b"x") * 2000 + LAST_CHUNK)
    path.origin.send(ANSWER)
    assert path.client.received == ANSWER
    assert path.origin.received.count(b"x") == 2000
    assert path.origin.received.endswith(LAST_CHUNK)


def test_chunks_wait_for_a_slow_service_before_they_wait_for_a_turn() -> None:
    path = Path()
    path.by_hand = True
    path.client.send(post(b"Transfer-Encoding: chunked"))
    path.origin.take()
    path.client.send(chunk(b"x") * 1000 + LAST_CHUNK)
    path.origin.take()
    path.origin.protocol.pause_writing()
    path.turn()
    assert path.origin.take() == b""
    assert not path.waiting
    path.origin.protocol.resume_writing()
    assert path.origin.take() == b""
    path.turn()
    assert path.origin.take() == chunk(b"x" * (1000 - MOST_CHUNKS)) + LAST_CHUNK


def test_a_malformed_chunk_in_a_later_part() -> None:
    path = Path()
    path.client.send(post(b"Transfer-Encoding: chunked") + chunk(b"x") * 1000 + b"nonsense\r\n")
    assert statuses(path.client.received) == [b"400"]
    assert path.origin.aborted


def test_an_answer_before_the_content_that_waits_ends_the_connection() -> None:
    path = Path(responder=ok)
    path.by_hand = True
    path.client.send(post(b"Transfer-Encoding: chunked") + chunk(b"x") * 1000 + LAST_CHUNK + get())
    path.by_hand = False
    path.settle()
    assert statuses(path.client.received) == [b"200"]
    assert b"Connection: close" in path.client.received
    assert path.client.ended


def test_after_a_full_read_the_others_come_first() -> None:
    path = Path()
    path.by_hand = True
    path.client.send(post(b"Content-Length: 1000000"))
    path.client.send(b"x" * LARGEST_READ)
    assert not path.client.reading
    path.turn()
    assert path.client.reading


@pytest.mark.parametrize(("lines", "status"), [(1, b"200"), (64, b"200"), (65, b"400"), (100_000, b"400")])
def test_empty_lines_before_a_request_are_bounded(lines: int, status: bytes) -> None:
    path = Path(responder=ok)
    path.client.send(get() + b"\r\n" * lines + get())
    assert statuses(path.client.received) == [b"200", status]


def test_a_head_that_comes_byte_by_byte() -> None:
    path = Path(responder=ok)
    request = get(*[b"X-%d: %d" % (number, number) for number in range(50)])
    path.client.send(request, [*range(1, len(request))])
    assert path.client.received == ANSWER


@pytest.mark.parametrize("bad", [b"X: 1\nY: 2\r\n", b"X: 1\n", b"X: 1\r\n\n"])
def test_a_bad_line_in_a_head_that_comes_byte_by_byte(bad: bytes) -> None:
    path = Path(responder=ok)
    request = b"GET / HTTP/1.1\r\nHost: a\r\n" + bad
    path.client.send(request, [*range(1, len(request))])
    assert statuses(path.client.received) == [b"400"]


# A client that is refused again and again


def test_a_client_of_which_every_request_is_refused_is_disconnected() -> None:
    path = Path(responder=refuse)
    path.client.send(get() * 1000)
    assert statuses(path.client.received) == [b"429"] * MOST_REFUSED
    assert path.client.received.count(b"Connection: close") == 1
    assert path.client.ended


def test_a_request_that_is_not_refused_begins_the_count_anew() -> None:
    path = Path(responder=refuse)
    path.client.send(get() * (MOST_REFUSED - 1))
    path.site.root.responder = ok  # type: ignore[attr-defined]
    path.client.send(get())
    path.site.root.responder = refuse  # type: ignore[attr-defined]
    path.client.send(get() * (MOST_REFUSED - 1))
    assert len(statuses(path.client.received)) == 2 * MOST_REFUSED - 1
    assert not path.client.ended


# A client that does not read


def test_a_pipelining_client_is_not_read_ahead_of() -> None:
    path = Path()
    path.client.send(get() * 10_000)
    held = 0
    for _ in range(2000):
        path.origin.send(ANSWER)
        held = max(held, len(path.client.protocol._buffer))  # type: ignore[attr-defined]
    assert held <= len(get()) * 10_000
    assert not path.client.reading
    path.client.protocol.pause_writing()
    path.origin.send(ANSWER)
    asked = path.origin.received.count(b"GET /")
    path.origin.send(b"")
    assert path.origin.received.count(b"GET /") == asked
    assert len(path.client.protocol._buffer) <= len(get()) * 10_000  # type: ignore[attr-defined]


def test_reading_begins_again_when_little_is_kept() -> None:
    path = Path()
    size = len(get())
    path.client.send(get() * (2 * AHEAD // size))
    while not path.client.reading:
        path.origin.send(ANSWER)
    channel = path.client.protocol
    assert AHEAD - size <= len(channel._buffer) - channel._at <= AHEAD  # type: ignore[attr-defined]


# The rate at which content comes


def test_content_that_drips_is_refused() -> None:
    path = Path(limits=Limits(body=10.0, min_rate=100))
    path.client.send(post(b"Content-Length: 100000"))
    for _ in range(20):
        path.advance(1.0)
        path.client.send(b"x" * 10)
    assert statuses(path.client.received) == [b"408"]
    assert path.finished[-1][:2] == (408, "body_too_slow")
    assert path.origin.aborted


@pytest.mark.parametrize("rate", [0, 100])
def test_content_at_the_rate_that_is_asked_for(rate: int) -> None:
    path = Path(limits=Limits(body=10.0, min_rate=rate))
    path.client.send(post(b"Content-Length: 100000"))
    for _ in range(60):
        path.advance(1.0)
        path.client.send(b"x" * (rate + 10))
    assert path.client.received == b""


def test_a_stall_after_a_fast_beginning_has_the_time_out() -> None:
    path = Path(limits=Limits(body=20.0, min_rate=100))
    path.client.send(post(b"Content-Length: 100000"))
    path.client.send(b"x" * 50_000)
    path.advance(19.0)
    assert path.client.received == b""
    path.advance(2.0)
    assert path.finished[-1][:2] == (408, "body_timeout")


def test_a_fast_beginning_is_no_credit_for_ever() -> None:
    path = Path(limits=Limits(body=20.0, min_rate=100))
    path.client.send(post(b"Content-Length: 100000"))
    path.client.send(b"x" * 50_000)
    for _ in range(40):
        path.advance(1.0)
        path.client.send(b"x")
    assert path.finished[-1][:2] == (408, "body_too_slow")


def test_the_time_in_which_the_gateway_does_not_read_is_not_the_clients() -> None:
    path = Path(limits=Limits(body=60.0, min_rate=100))
    path.client.send(post(b"Content-Length: 100000"))
    path.advance(3.0)
    path.origin.protocol.pause_writing()
    path.advance(30.0)
    path.origin.protocol.resume_writing()
    path.advance(1.0)
    assert path.client.received == b""
    path.advance(2.0)
    assert path.finished[-1][:2] == (408, "body_too_slow")


def test_the_time_before_100_continue_is_not_the_clients() -> None:
    path = Path(limits=Limits(body=60.0, min_rate=100))
    path.client.send(post(b"Content-Length: 100000", b"Expect: 100-continue"))
    path.advance(20.0)
    path.origin.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    path.advance(4.0)
    assert path.client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    path.advance(2.0)
    assert path.finished[-1][:2] == (408, "body_too_slow")


def test_a_request_may_have_a_rate_of_its_own() -> None:
    path = Path(limits=Limits(body=60.0, min_rate=100))
    path.client.send(post(b"Content-Length: 100000"))
    path.client.protocol.use_min_rate(0)  # type: ignore[attr-defined]
    path.advance(50.0)
    assert path.client.received == b""


def test_a_client_that_takes_its_answer_in_drips_is_cut_off() -> None:
    path = Path(limits=Limits(body=10.0, min_rate=100), responder=ok)
    path.client.unsent = 100_000
    path.client.send(get())
    path.client.protocol.pause_writing()
    for _ in range(9):
        path.advance(1.0)
        path.client.unsent -= 50
    assert not path.client.aborted
    for _ in range(12):
        path.advance(1.0)
        path.client.unsent -= 50
    assert path.client.aborted


def test_a_client_that_takes_its_answer_slowly_is_not_cut_off() -> None:
    path = Path(limits=Limits(body=10.0, min_rate=100), responder=ok)
    path.client.unsent = 100_000
    path.client.send(get())
    path.client.protocol.pause_writing()
    for _ in range(100):
        path.advance(1.0)
        path.client.unsent -= 150
    assert not path.client.aborted


# The service's side


def test_small_chunks_of_a_service_are_taken_a_part_a_turn() -> None:
    path = Path()
    path.by_hand = True
    path.client.send(get())
    path.origin.send(CHUNKED + chunk(b"x") * 1000)
    assert path.client.take() == CHUNKED + chunk(b"x" * MOST_CHUNKS)
    assert not path.origin.reading
    path.turn()
    assert path.client.take() == chunk(b"x" * (1000 - MOST_CHUNKS))
    assert path.origin.reading
    path.origin.send(chunk(b"y") * 600 + LAST_CHUNK)
    path.turn()
    assert path.client.take() == chunk(b"y" * MOST_CHUNKS) + chunk(b"y" * (600 - MOST_CHUNKS)) + LAST_CHUNK
    assert path.pool.idle


def test_a_services_chunks_wait_for_a_slow_client_before_they_wait_for_a_turn() -> None:
    path = Path()
    path.by_hand = True
    path.client.send(get())
    path.origin.send(CHUNKED + chunk(b"x") * 1000 + LAST_CHUNK)
    path.client.take()
    path.client.protocol.pause_writing()
    path.turn()
    assert path.client.take() == b""
    assert not path.origin.reading
    path.client.protocol.resume_writing()
    path.turn()
    assert path.client.take() == chunk(b"x" * (1000 - MOST_CHUNKS)) + LAST_CHUNK


def test_a_client_that_leaves_while_the_services_chunks_wait() -> None:
    path = Path()
    path.by_hand = True
    path.client.send(get())
    path.origin.send(CHUNKED + chunk(b"x") * 1000)
    path.client.reset()
    path.turn()
    assert path.origin.aborted


def test_a_malformed_chunk_of_a_service_in_a_later_part() -> None:
    path = Path()
    path.client.send(get())
    path.origin.send(CHUNKED + chunk(b"x") * 1000 + b"nonsense\r\n")
    assert path.origin.aborted
    assert path.client.aborted


@pytest.mark.parametrize("number", [MOST_INFORMATIONAL, MOST_INFORMATIONAL + 1])
def test_a_service_sends_few_1xx(number: int) -> None:
    path = Path()
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    for _ in range(2):
        path.client.take()
        path.client.send(get())
        for _ in range(number):
            path.origin.send(hint)
        if number > MOST_INFORMATIONAL:
            received = path.client.take()
            assert received.startswith(hint * MOST_INFORMATIONAL + b"HTTP/1.1 502 ")
            assert path.origin.aborted
            assert path.finished[-1][:2] == (502, "upstream_protocol_error")
        else:
            path.origin.send(ANSWER)
            assert path.client.take() == hint * number + ANSWER


def test_a_services_head_that_comes_byte_by_byte() -> None:
    path = Path()
    path.client.send(get())
    path.origin.send(ANSWER, [*range(1, len(ANSWER))])
    assert path.client.received == ANSWER


def test_a_bad_line_in_a_services_head_that_comes_byte_by_byte() -> None:
    path = Path()
    path.client.send(get())
    answer = b"HTTP/1.1 200 OK\r\nX: 1\nY: 2\r\n"
    path.origin.send(answer, [*range(1, len(answer))])
    assert statuses(path.client.received) == [b"502"]


# A HEAD that is refused


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"HEAD /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"HEAD / HTTP/1.1\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nX: 1\n",
        b"HEAD /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD /" + b"a" * 9000,
        b"HEAD / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000,
        b"HEAD  / HTTP/1.1\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_the_answer_to_a_head_that_is_refused_has_no_content(request_bytes: bytes, cut: bool) -> None:
    path = Path(responder=ok, limits=Limits(max_body=100))
    path.client.send(request_bytes, [7, 20] if cut else None)
    head, end, rest = path.client.received.partition(b"\r\n\r\n")
    assert head[9:12] >= b"400"
    assert end
    assert rest == b""


def test_the_answer_to_a_head_that_takes_too_long_has_no_content() -> None:
    path = Path(responder=ok, limits=Limits(head=5.0))
    path.client.send(b"HEAD /a")
    path.advance(6.0)
    assert path.client.received.startswith(b"HTTP/1.1 408 ")
    assert path.client.received.endswith(b"\r\n\r\n")


# The turns themselves


class Counting:
    def __init__(self, turns: Turns, times: int = 1000) -> None:
        self.turns = turns
        self.times = times
        self.taken = 0
        self.cut = False

    def take_turn(self) -> None:
        self.taken += 1
        if self.taken == self.times:
            raise RuntimeError("such as a bug")
        self.turns.wait(self)

    def abort(self) -> None:
        self.cut = True


def test_each_connection_has_one_part_of_a_turn() -> None:
    calls: list[object] = []
    turns = Turns(calls.append)
    some = [Counting(turns) for _ in range(3)]
    for each in some:
        turns.wait(each)
    for number in range(1, 5):
        assert len(calls) == 1
        calls.pop()()  # type: ignore[operator]
        assert [each.taken for each in some] == [number] * 3


def test_a_turn_that_fails_ends_its_connection_alone() -> None:
    calls: list[object] = []
    turns = Turns(calls.append)
    bad, good = Counting(turns, times=1), Counting(turns)
    turns.wait(bad)
    turns.wait(good)
    while not good.taken:  # in the next turn, if to log the failure took long
        calls.pop()()  # type: ignore[operator]
    assert bad.cut
    assert good.taken == 1
