"""What happens between a client and a service besides their bytes: waiting, hurrying, leaving, and going on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from apigw.downstream.h1_requests import AHEAD
from apigw.downstream.site import Limits
from apigw.exchange.body import Body
from apigw.exchange.errors import ClientFault, UpstreamFault
from apigw.exchange.headers import Headers
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, respond_by
from apigw.exchange.response import Response
from apigw.net.tls_transport import TLSBroken
from apigw.policies.edits import FieldAddition
from apigw.upstream.cluster import Cluster
from apigw.upstream.forward import Forward
from tests.wire.memory import Path, Wire
from tests.wire.messages import complete
from tests.wire.requests import POST, chunked, get, post, sent

OK = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"
LENGTH_3 = b"Content-Length: 3\r\n"


def reason_of(response: bytes) -> str:
    return str(json.loads(response.partition(b"\r\n\r\n")[2])["reason"])


def statuses(received: bytes) -> list[bytes]:
    found, rest = complete(received)
    assert rest == b""
    return [response[9:12] for response in found]


def says(text: bytes) -> Any:
    def respond(request: Request, done: Done) -> None:
        done(Response(200, Headers([(b"Date", b"x")]), text))

    return respond


def test_a_request_that_is_the_last_one_again_goes_by_what_a_reload_changed() -> None:
    asked: list[Request] = []

    def respond(request: Request, done: Done) -> None:
        asked.append(request)
        done(Response(200, Headers([(b"Date", b"x")]), b"ok"))

    path = Path(responder=respond)
    request = get(b"X-Forwarded-For: 198.51.100.7", b"X-Two: 2")
    path.client.send(request)
    path.client.send(request)
    path.site.trusted = lambda _: True
    path.site.use_limits(Limits(max_headers=3))
    path.client.send(request)
    path.site.use_limits(Limits(max_headers=2))
    path.client.send(request)
    assert [each.client for each in asked] == ["192.0.2.1", "192.0.2.1", "198.51.100.7"]
    assert len({id(each) for each in asked}) == 3
    assert statuses(path.client.received) == [b"200", b"200", b"200", b"431"]


@pytest.mark.parametrize(
    ("kind", "status", "names"), [("keep", b"200", [b"X_Y"]), ("drop", b"200", []), ("refuse", b"400", None)]
)
def test_names_with_an_underscore(kind: str, status: bytes, names: list[bytes] | None) -> None:
    asked: list[Request] = []

    def respond(request: Request, done: Done) -> None:
        asked.append(request)
        done(Response(200, Headers([(b"Date", b"x")]), b"ok"))

    path = Path(responder=respond, limits=Limits(underscores=kind))
    path.client.send(get(b"X_Y: 1", b"X_Forwarded_For: 2"))
    assert statuses(path.client.received) == [status]
    if names is None:
        assert not asked
        assert reason_of(path.client.received) == "underscore_in_name"
    else:
        assert [name for name, _ in asked[0].headers] == names


# Pipelining


def test_a_thousand_requests_in_one_piece_are_answered_without_deep_recursion() -> None:
    path = Path(responder=says(b"ok"))
    path.client.send(get() * 1000)
    assert path.client.received == OK * 1000


def test_a_thousand_requests_with_content_in_one_piece() -> None:
    async def length(request: Request) -> Response:
        assert request.body is not None
        return Response(200, Headers([(b"Date", b"x")]), await request.body.collect(10))

    path = Path(responder=respond_by(length))
    path.client.send(post(b"Content-Length: 2", content=b"ok") * 1000)
    assert path.client.received == OK * 1000


def test_requests_that_came_before_the_clients_end_are_answered() -> None:
    path = Path()
    path.client.send(get() * 3)
    path.client.hang_up()
    for _ in range(3):
        assert not path.client.closed
        path.advance(0.3)
        path.origin.send(OK)
    assert statuses(path.client.received) == [b"200"] * 3
    assert path.client.closed


def test_requests_before_the_clients_end_that_are_answered_at_once() -> None:
    path = Path(responder=says(b"ok"))
    path.client.send(get() * 3 + b"GET /")
    path.client.hang_up()
    assert path.client.received == OK * 3
    assert path.client.closed


def test_half_a_request_after_those_before_the_clients_end_is_dropped() -> None:
    path = Path()
    path.client.send(get() + b"GET /")
    path.client.hang_up()
    path.origin.send(OK)
    assert statuses(path.client.received) == [b"200"]
    assert path.client.closed


def test_a_client_that_left_is_not_waited_for() -> None:
    path = Path()
    path.client.send(get())
    path.client.hang_up()
    path.advance(1.0)
    assert path.client.aborted
    assert path.origin.aborted
    assert path.finished == [(499, "client_gone", 0)]
    assert path.target.active == 0


def test_a_silent_stream_ends_when_its_client_has_left() -> None:
    path = Path()
    path.client.send(get())
    path.origin.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    path.client.hang_up()
    path.advance(3.0)
    path.origin.send(b"1\r\nb\r\n")
    path.advance(3.0)
    assert not path.client.aborted
    path.advance(3.0)
    assert path.client.aborted
    assert path.origin.aborted


def test_who_pipelines_and_does_not_read_is_not_served_on() -> None:
    asked: list[Request] = []

    def respond(request: Request, done: Done) -> None:
        asked.append(request)
        done(Response(200, Headers([(b"Date", b"x")]), b"ok"))

    path = Path(responder=respond)
    path.client.protocol.pause_writing()
    path.client.send(get() * 10)
    assert path.client.received == b""
    for _ in range(100):
        path.client.send(get() * 100)
    assert not path.client.reading
    assert len(path.client.protocol._buffer) < AHEAD + 10000  # type: ignore[attr-defined]
    path.client.protocol.resume_writing()
    path.settle()
    assert len(asked) == 10010
    assert path.client.reading


def test_who_never_reads_is_cut_off() -> None:
    path = Path(responder=says(b"ok"), limits=Limits(body=10.0))
    path.client.send(get())
    path.client.protocol.pause_writing()
    path.client.send(get())
    path.advance(9.0)
    assert not path.client.is_closing()
    path.advance(70.0)
    assert path.client.aborted


def test_too_much_that_is_pipelined_pauses_the_client() -> None:
    path = Path()
    path.client.send(get())
    path.client.send(get() * 4000)
    assert not path.client.reading
    path.origin.send(OK)
    assert not path.client.reading
    for _ in range(4000 - AHEAD // len(get())):
        path.origin.send(OK)
    assert path.client.reading


# Expect: 100-continue


def expecting(*lines: bytes) -> bytes:
    return post(b"Expect: 100-continue", b"Content-Length: 3", *lines)


def test_100_is_the_services_to_give() -> None:
    path = Path()
    path.client.send(expecting())
    assert path.client.received == b""
    assert path.origin.received == sent(POST, framing=LENGTH_3 + b"Expect: 100-continue\r\n")
    path.origin.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert path.client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    path.client.send(b"abc")
    assert path.origin.received.endswith(b"\r\n\r\nabc")
    path.origin.send(OK)
    assert path.client.received == OK
    assert path.pool.idle


@pytest.mark.parametrize("status", [417, 401])
def test_a_final_answer_instead_of_100(status: int) -> None:
    path = Path()
    path.client.send(expecting())
    path.origin.send(b"HTTP/1.1 %d No\r\nDate: x\r\nContent-Length: 0\r\n\r\n" % status)
    assert (
        path.client.received == b"HTTP/1.1 %d No\r\nDate: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status
    )
    assert path.client.ended
    assert path.origin.is_closing(), "the service still waits for content"


def test_who_reads_the_content_here_gives_100() -> None:
    async def read(request: Request) -> Response:
        assert request.body is not None
        return Response(200, Headers([(b"Date", b"x")]), await request.body.collect(10))

    path = Path(responder=respond_by(read))
    path.client.send(expecting())
    assert path.client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    path.client.send(b"abc")
    assert path.client.received == OK.replace(b"2\r\n\r\nok", b"3\r\n\r\nabc")


def test_content_that_came_with_the_head_needs_no_100() -> None:
    async def read(request: Request) -> Response:
        assert request.body is not None
        return Response(200, Headers([(b"Date", b"x")]), await request.body.collect(10))

    path = Path(responder=respond_by(read))
    path.client.send(expecting() + b"abc")
    assert path.client.received == OK.replace(b"2\r\n\r\nok", b"3\r\n\r\nabc")


# Content that nobody reads


def test_content_that_is_here_already_does_not_cost_the_connection() -> None:
    path = Path(responder=says(b"ok"))
    path.client.send(post(b"Content-Length: 3", content=b"abc") + get())
    assert path.client.received == OK * 2
    assert not path.client.is_closing()


def test_an_answer_before_the_content_closes_gently() -> None:
    path = Path(responder=says(b"ok"))
    path.client.send(post(b"Content-Length: 3"))
    assert b"Connection: close" in path.client.received
    assert path.client.ended
    assert not path.client.is_closing()
    path.client.send(b"abc" + get())
    assert statuses(path.client.received) == [b"200"]
    path.client.hang_up()
    assert path.client.closed


def test_who_sends_on_after_a_refusal_is_cut_off_in_the_end() -> None:
    path = Path(responder=says(b"ok"))
    path.client.send(post(b"Content-Length: 3"))
    path.advance(2.5)
    assert path.client.aborted
    path = Path(responder=says(b"ok"))
    path.client.send(post(b"Content-Length: 999999999"))
    for _ in range(80):
        path.client.send(b"x" * 65536)
    assert path.client.aborted


def test_content_that_is_too_long_is_refused_by_its_length() -> None:
    path = Path(limits=Limits(max_body=3))
    path.client.send(post(b"Content-Length: 4"))
    assert statuses(path.client.received) == [b"413"]
    assert reason_of(path.client.received) == "body_too_large"
    assert path.client.ended
    assert not path.client.is_closing(), "what is on its way is read, or a reset could overtake the answer"
    assert path.origins == []


@pytest.mark.parametrize("size", [1, 100])
def test_content_that_turns_out_too_long_is_cut_off(size: int) -> None:
    path = Path(limits=Limits(max_body=3))
    data = chunked(b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n")
    for at in range(0, len(data), size):
        path.client.send(data[at : at + size])
    assert statuses(path.client.received) == [b"413"]
    assert path.finished[-1][:2] == (413, "body_too_large")
    assert all(origin.aborted and b"cd" not in origin.received for origin in path.origins)
    assert path.target.active == 0


def test_an_upload_that_the_service_does_not_want_ends_its_connection() -> None:
    path = Path()
    path.client.send(post(b"Content-Length: 100", content=b"abc"))
    path.origin.send(b"HTTP/1.1 413 Content Too Large\r\nDate: x\r\nContent-Length: 2\r\n\r\nno")
    assert statuses(path.client.received) == [b"413"]
    assert path.client.ended
    assert path.origin.aborted
    assert not path.pool.connections


def test_an_answer_that_begins_before_the_content_ends_goes_both_ways() -> None:
    path = Path()
    path.client.send(post(b"Content-Length: 6", content=b"abc"))
    path.origin.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\n\r\nab")
    path.client.send(b"def")
    assert path.origin.received.endswith(b"abcdef")
    path.origin.send(b"cd")
    assert path.client.received.endswith(b"\r\n\r\nabcd")
    assert path.pool.idle, "all was sent and all was read"


def test_a_broken_upload_ends_an_answer_that_has_begun() -> None:
    path = Path()
    path.client.send(chunked(b"1\r\na\r\n"))
    path.origin.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\n\r\nab")
    path.client.send(b"nonsense\r\n")
    assert path.client.aborted
    assert path.origin.aborted
    assert path.target.active == 0


def test_a_client_that_leaves_in_the_middle_of_its_content_cancels_it() -> None:
    for leave in (Wire.hang_up, Wire.reset):
        path = Path()
        path.client.send(post(b"Content-Length: 6", content=b"abc"))
        leave(path.client)
        assert path.origin.aborted
        assert path.finished == [(499, "client_gone", 0)]
        assert path.target.active == 0


# Time


def test_a_slow_head() -> None:
    path = Path()
    path.client.send(b"GET / HTTP/1.1\r\n")
    path.advance(5.0)
    path.client.send(b"Host:")
    path.advance(4.8)
    assert path.client.received == b""
    path.advance(0.4)
    assert statuses(path.client.received) == [b"408"]
    assert reason_of(path.client.received) == "head_timeout"


def test_slow_content() -> None:
    path = Path(limits=Limits(body=10.0, min_rate=0))
    path.client.send(post(b"Content-Length: 6", content=b"a"))
    path.advance(8.0)
    path.client.send(b"b")
    path.advance(8.0)
    assert path.client.received == b""
    path.advance(3.0)
    assert statuses(path.client.received) == [b"408"]
    assert path.finished[-1][:2] == (408, "body_timeout")
    assert path.origin.aborted
    assert path.client.ended


def test_an_idle_connection_ends_silently() -> None:
    path = Path(limits=Limits(keepalive=20.0), responder=says(b"ok"))
    path.client.send(get())
    path.client.take()
    path.advance(19.0)
    assert not path.client.is_closing()
    path.advance(2.0)
    assert path.client.closed
    assert path.client.received == b""


def test_a_connection_that_never_sends_anything_ends_silently_when_its_head_is_late() -> None:
    path = Path(limits=Limits(head=5.0, keepalive=20.0), responder=says(b"ok"))
    path.advance(4.0)
    assert not path.client.is_closing()
    path.advance(2.0)
    assert path.client.closed
    assert path.client.received == b""


def test_a_client_that_does_not_read_is_cut_off() -> None:
    path = Path(limits=Limits(body=10.0))
    path.client.send(get())
    path.origin.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\n\r\nab")
    path.client.protocol.pause_writing()
    assert not path.origin.reading
    path.advance(11.0)
    assert path.client.aborted
    assert path.origin.aborted
    assert path.finished[-1][:2] == (200, "client_too_slow")


def test_a_service_that_is_read_slowly_to_its_end_keeps_its_connection() -> None:
    path = Path()
    path.client.send(get())
    path.origin.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\n\r\nab")
    path.origin.protocol.data_received(b"")
    path.client.protocol.pause_writing()
    path.origin.protocol.data_received(b"cd")  # it was on its way
    assert path.pool.idle
    assert path.origin.reading


def deadline(inner: Any) -> Any:
    def respond(request: Request, done: Done) -> None:
        request.deadline = request.started + 1.0
        assert request.connection is not None
        request.connection.watch_deadline()
        inner(request, done)

    return respond


def test_the_time_for_an_answer_that_has_not_begun() -> None:
    path = Path()
    path.site.root.responder = deadline(path.forward)  # type: ignore[attr-defined]
    path.client.send(get())
    path.advance(1.2)
    assert statuses(path.client.received) == [b"504"]
    assert reason_of(path.client.received) == "deadline_exceeded"
    assert path.origin.aborted
    assert not path.client.is_closing()


def test_the_time_for_an_answer_that_has_begun() -> None:
    path = Path()
    path.site.root.responder = deadline(path.forward)  # type: ignore[attr-defined]
    path.client.send(get())
    path.origin.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\n\r\nab")
    path.advance(1.2)
    assert path.client.aborted
    assert path.origin.aborted
    assert path.finished[-1][:2] == (200, "deadline_exceeded")


def test_a_cancelled_coroutines_answer_is_not_what_the_client_gets() -> None:
    waiting: Deferred[Response] = Deferred()

    async def wait(request: Request) -> Response:
        return await waiting

    path = Path(responder=deadline(respond_by(wait)))
    path.client.send(get())
    path.advance(1.2)
    assert statuses(path.client.received) == [b"504"]
    assert path.finished[-1][:2] == (504, "deadline_exceeded")


def test_an_answer_that_comes_too_late_is_nobody_elses() -> None:
    answers: list[Done] = []

    def never(request: Request, done: Done) -> None:
        answers.append(done)

    path = Path(responder=deadline(never))
    path.client.send(get() * 2)
    path.advance(1.2)
    path.client.take()
    assert len(answers) == 2
    answers[0](Response(200, None, b"for the first"))
    assert path.client.received == b""
    answers[1](Response(200, None, b"for the second"))
    answers[1](Response(200, None, b"twice"))
    assert b"for the second" in path.client.received
    assert statuses(path.client.received) == [b"200"]


def test_a_service_that_does_not_answer() -> None:
    path = Path(pool={"response_timeout": 5.0})
    path.client.send(get())
    path.advance(5.2)
    assert statuses(path.client.received) == [b"504"]
    assert reason_of(path.client.received) == "upstream_timeout"
    assert path.origin.aborted
    assert not path.pool.connections


@pytest.mark.parametrize("pieces", [[b"H", b"TT", b"P/"], [b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 3])
def test_a_service_that_never_comes_to_its_answer(pieces: list[bytes]) -> None:
    path = Path(pool={"response_timeout": 5.0})
    path.client.send(get())
    for piece in pieces:
        path.origin.send(piece)
        path.advance(1.5)
    assert path.finished == []
    path.advance(1.0)
    assert path.finished[-1][:2] == (504, "upstream_timeout")
    assert path.origin.aborted


def test_a_service_that_stops_in_the_middle() -> None:
    path = Path(pool={"idle_timeout": 5.0})
    path.client.send(get())
    path.origin.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\n\r\nab")
    path.advance(5.2)
    assert path.client.aborted
    assert path.finished[-1][:2] == (200, "upstream_timeout")


def test_a_service_that_does_not_take_the_content() -> None:
    path = Path(pool={"response_timeout": 5.0})
    path.client.send(post(b"Content-Length: 100", content=b"abc"))
    path.origin.protocol.pause_writing()
    assert not path.client.reading
    path.advance(5.2)
    assert statuses(path.client.received) == [b"504"]


def test_back_pressure_towards_the_client() -> None:
    path = Path()
    path.client.send(post(b"Content-Length: 100", content=b"abc"))
    path.origin.protocol.pause_writing()
    assert not path.client.reading
    path.client.send(b"def")
    assert path.origin.received.endswith(b"\r\n\r\nabc")
    path.origin.protocol.resume_writing()
    assert path.origin.received.endswith(b"\r\n\r\nabcdef")


# Going away


def test_draining_closes_who_is_idle_and_spares_who_is_at_work() -> None:
    path = Path()
    busy = path.connect()
    busy.send(get())
    path.advance(5.0)
    path.site.drain()
    assert path.client.closed
    assert not busy.is_closing()
    path.origin.send(OK)
    assert b"Connection: close" in busy.received
    assert busy.closed


def test_a_request_that_crosses_the_drain_is_answered() -> None:
    path = Path(responder=says(b"ok"))
    path.client.send(get())
    path.client.take()
    path.site.drain()
    assert not path.client.is_closing()
    path.client.send(get())
    assert b"Connection: close" in path.client.received
    assert path.client.closed


def test_who_was_at_work_just_now_and_asks_no_more_is_closed_soon() -> None:
    path = Path(responder=says(b"ok"))
    path.client.send(get())
    path.site.drain()
    path.advance(1.5)
    assert path.client.closed


# Answers of the gateway's own


def test_fields_that_cannot_be_sent_become_a_500() -> None:
    def respond(request: Request, done: Done) -> None:
        done(Response(200, Headers([(b"X", b"a\r\nSet-Cookie: b")]), b"ok"))

    path = Path(responder=respond)
    path.client.send(get())
    assert statuses(path.client.received) == [b"500"]
    assert b"Set-Cookie" not in path.client.received
    assert path.finished[-1][:2] == (500, "invalid_response")


def test_framing_that_a_policy_set_is_not_sent() -> None:
    def respond(request: Request, done: Done) -> None:
        fields = [
            (b"Date", b"x"),
            (b"content-length", b"99"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Connection", b"x"),
        ]
        done(Response(200, Headers(fields), b"ok"))

    path = Path(responder=respond)
    path.client.send(get())
    assert path.client.received == OK


def test_head_keeps_its_length_when_its_fields_are_edited() -> None:
    path = Path()

    def edited(request: Request, done: Done) -> None:
        def outward(response: Response) -> None:
            response.edit_headers().set(b"X", b"1")
            done(response)

        path.forward(request, outward)

    path.site.root.responder = edited  # type: ignore[attr-defined]
    path.client.send(get(line=b"HEAD / HTTP/1.1"))
    path.origin.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\n\r\n")
    assert path.client.received == b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 9\r\nX: 1\r\n\r\n"


def test_edited_request_fields_keep_what_is_said_of_the_client() -> None:
    path = Path()

    def edited(request: Request, done: Done) -> None:
        request.edit_headers().set(b"X", b"1")
        path.forward(request, done)

    path.site.root.responder = edited  # type: ignore[attr-defined]
    path.client.send(get())
    assert path.origin.received == sent(b"GET / HTTP/1.1", b"X: 1")


def test_a_request_field_that_cannot_be_sent_is_no_injection() -> None:
    path = Path()

    def edited(request: Request, done: Done) -> None:
        request.edit_headers().set(b"X", b"1\r\n\r\nGET /evil")
        path.forward(request, done)

    path.site.root.responder = edited  # type: ignore[attr-defined]
    path.client.send(get())
    assert statuses(path.client.received) == [b"500"]
    assert all(b"evil" not in origin.received for origin in path.origins)


def test_a_stream_that_fails_before_its_first_byte_is_an_error_with_a_body() -> None:
    def respond(request: Request, done: Done) -> None:
        body = Body(None)
        body.fail(UpstreamFault("it is gone", reason="upstream_aborted"))
        done(Response(200, None, body))

    path = Path(responder=respond)
    path.client.send(get())
    assert statuses(path.client.received) == [b"502"]
    assert not path.client.is_closing()


def test_a_head_does_not_wait_for_its_first_piece() -> None:
    body = Body(None)
    path = Path(responder=lambda request, done: done(Response(200, Headers([(b"Date", b"x")]), body)))
    path.client.send(get())
    assert path.client.take() == b"HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    body.feed(b"data: 1\n\n")
    assert path.client.take() == b"9\r\ndata: 1\n\n\r\n"
    body.end()
    assert path.client.take() == b"0\r\n\r\n"


def test_a_head_request_frees_the_stream_that_answers_it() -> None:
    cancelled: list[bool] = []

    class Source:
        def body_wanted(self) -> None: ...
        def pause_body(self) -> None: ...
        def resume_body(self) -> None: ...
        def cancel_body(self) -> None:
            cancelled.append(True)

    path = Path(responder=lambda request, done: done(Response(200, None, Body(Source()))))
    path.client.send(get(line=b"HEAD / HTTP/1.1"))
    assert cancelled == [True]
    assert path.client.received.endswith(b"\r\n\r\n")


# Once more


def kept(path: Path) -> None:
    path.client.send(get())
    path.origin.send(OK)
    path.client.take()
    path.origin.take()


def test_a_kept_connection_that_turns_out_dead_costs_nobody_an_answer() -> None:
    path = Path()
    kept(path)
    path.client.send(get())
    path.origins[0].hang_up()
    assert len(path.origins) == 2
    path.origin.send(OK)
    assert path.client.received == OK


def test_a_service_that_refuses_our_certificate_after_the_handshake() -> None:
    path = Path()
    path.client.send(get())
    path.origin.lose(TLSBroken("tlsv13 alert certificate required"))
    assert statuses(path.client.received) == [b"502"]
    assert reason_of(path.client.received) == "upstream_tls_failed"


def test_a_post_on_a_kept_connection_that_turns_out_dead_is_not_sent_twice() -> None:
    path = Path()
    kept(path)
    path.client.send(post(b"Content-Length: 3", content=b"abc"))
    path.origins[0].hang_up()
    assert len(path.origins) == 1
    assert statuses(path.client.received) == [b"502"]
    assert reason_of(path.client.received) == "upstream_reset"


def later(waiting: list[Any]) -> Any:
    """A way to dial that leaves it to the test."""

    def dial(*call: Any) -> Any:
        waiting.append(call)
        return lambda: None

    return dial


def put(*lines: bytes) -> bytes:
    return get(*lines, line=b"PUT / HTTP/1.1")


@pytest.mark.parametrize("limit", [0, 100])
def test_content_that_comes_between_two_tries_is_not_lost(limit: int) -> None:
    path = Path()
    path.forward = Forward(Cluster("u", path, path.wheel, path._later, replay_limit=limit))
    path.site.root.responder = path.forward  # type: ignore[attr-defined]
    kept(path)
    path.client.send(put(b"Content-Length: 6"))
    dial = path.pool._dial
    waiting: list[Any] = []
    path.pool._dial = later(waiting)
    path.origins[0].hang_up()
    path.client.send(b"abc")
    path.client.send(b"def")
    dial(*waiting[0])
    assert path.origin.received == sent(b"PUT / HTTP/1.1", framing=b"Content-Length: 6\r\n", content=b"abcdef")
    path.origin.send(OK)
    assert path.client.received == OK


def test_refused() -> None:
    path = Path(refuse=UpstreamFault("the service refuses connections", reason="upstream_refused"))
    path.client.send(get())
    assert statuses(path.client.received) == [b"502"]
    assert reason_of(path.client.received) == "upstream_refused"
    assert not path.client.is_closing()
    assert path.target.active == 0


def test_when_dialling_fails_those_in_the_queue_are_told_as_well() -> None:
    path = Path(
        refuse=UpstreamFault("the service refuses connections", reason="upstream_refused"), pool={"max_connections": 1}
    )
    dial = path.pool._dial
    waiting: list[Any] = []
    path.pool._dial = later(waiting)
    clients = [path.client, path.connect(), path.connect()]
    for client in clients:
        client.send(get())
    assert len(waiting) == 1
    path.pool._dial = dial
    waiting[0][2](path.refuse)
    assert [reason_of(client.received) for client in clients] == ["upstream_refused"] * 3


def test_a_connection_that_is_lost_before_it_is_used_is_a_failure_like_others() -> None:
    path = Path()
    waiting: list[Any] = []
    path.pool._dial = later(waiting)
    path.client.send(get())
    make, connected, _ = waiting[0]
    connection = make()
    Wire(connection).reset()
    connected(connection)
    assert statuses(path.client.received) == [b"502"]
    assert path.pool.open == 0


def test_a_queue_that_is_full_says_when_to_come_back() -> None:
    path = Path(pool={"max_connections": 1, "max_waiting": 1, "queue_timeout": 2.0})
    first, second, third = path.client, path.connect(), path.connect()
    for client in (first, second, third):
        client.send(get())
    assert statuses(third.received) == [b"503"]
    assert b"\r\nRetry-After: 1\r\n" in third.received
    assert reason_of(third.received) == "upstream_overloaded"
    path.advance(2.2)
    assert reason_of(second.received) == "upstream_queue_timeout"
    path.origin.send(OK)
    assert first.received == OK


def test_who_leaves_the_queue_frees_its_place() -> None:
    path = Path(pool={"max_connections": 1})
    second, third = path.connect(), path.connect()
    for client in (path.client, second, third):
        client.send(get())
    second.reset()
    path.origin.send(OK)
    path.origin.send(OK)
    assert third.received == OK
    assert len(path.origins) == 1


def test_bytes_that_nobody_asked_for_end_an_idle_connection() -> None:
    path = Path()
    kept(path)
    path.origin.send(OK)
    assert path.origin.aborted
    assert not path.pool.idle
    assert not path.pool.connections


def test_a_pool_that_is_cut_tells_those_who_wait() -> None:
    path = Path(pool={"max_connections": 1})
    second = path.connect()
    path.client.send(get())
    second.send(get())
    path.pool.abort()
    assert statuses(path.client.received) == [b"502"]
    assert statuses(second.received) == [b"502"]


def test_the_problem_names_the_request() -> None:
    path = Path(responder=lambda request, done: done(problem(request, ClientFault("no", reason="bad_request"))))
    path.client.send(get())
    document = json.loads(path.client.received.partition(b"\r\n\r\n")[2])
    assert document == {
        "type": "urn:apigw:problem:bad_request", "title": "Bad Request", "status": 400, "detail": "no",
        "reason": "bad_request", "request_id": "id",
    }  # fmt: skip


def test_trailers_do_not_bring_back_what_a_policy_took_out_of_the_header() -> None:
    path = Path()

    def without_user(request: Request, done: Done) -> None:
        request.edit_headers().remove(b"x-user-id")
        path.forward(request, done)

    path.site.root.responder = without_user  # type: ignore[attr-defined]
    path.client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX-User-Id: root\r\n\r\n"
        b"2\r\nhi\r\n0\r\nX-User-Id: root\r\n\r\n"
    )
    received = path.origin.take()
    assert b"X-User-Id" not in received
    assert received.endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n")


def test_fields_that_are_added_to_a_services_answer_stand_before_its_framing_each_time() -> None:
    additions = [FieldAddition((b"X-A", b"1")), FieldAddition((b"X-B", b"2"), (b"X-C", b"3"))]

    def respond(request: Request, done: Done) -> None:
        def outward(response: Response) -> None:
            for addition in additions:
                addition.apply(response)
            done(response)

        path.forward(request, outward)

    path = Path(responder=respond)
    for name in (b"y", b"y", b"z"):
        path.client.send(get())
        path.origin.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nX-N: %b\r\nContent-Length: 2\r\n\r\nok" % name)
        assert path.client.take() == (
            b"HTTP/1.1 200 OK\r\nDate: x\r\nX-N: %b\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\nContent-Length: 2\r\n\r\nok" % name
        )
