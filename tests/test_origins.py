"""The test tools' own tests: what an origin records and does to a connection, and what the raw client insists on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.origins import (
    BODY,
    CLOSE,
    CONTINUE,
    END,
    NEVER,
    RESET,
    Answer,
    MalformedResponseError,
    Origin,
    RawClient,
    RawResponse,
    Steps,
    chunked,
    refusing_port,
    reply,
    silent_port,
)

GET = b"GET /a HTTP/1.1\r\nHost: shop.example\r\n\r\n"


async def started(*script: Answer, on_connect: Steps = ()) -> tuple[Origin, RawClient]:
    origin = await Origin(script, on_connect=on_connect).start()
    return origin, await RawClient.connect(origin.port)


async def answered(response: bytes, method: bytes = b"GET") -> RawResponse:
    """What the client makes of these bytes, and of the end after them."""
    origin, client = await started([response, CLOSE])
    client.send(GET)
    try:
        return await client.read_response(method)
    finally:
        client.close()
        await origin.stop()


async def test_requests_are_recorded_byte_for_byte_and_answered_in_order() -> None:
    origin, client = await started(reply(200, b"one", (b"X-A", b"1")), chunked(b"t", b"wo", trailers=[(b"X-T", b"2")]))
    post = b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    client.send(GET + post + GET)
    first, second, third = [await client.read_response() for _ in range(3)]
    assert (first.body, first.value(b"x-a")) == (b"one", b"1")
    assert (second.body, second.pieces, second.trailers) == (b"two", [b"t", b"wo"], [(b"X-T", b"2")])
    assert third.raw == second.raw, "the last answer serves all further requests"
    assert bytes(origin.connections[0].received) == GET + post + GET
    assert [request.line for request in origin.requests] == [
        b"GET /a HTTP/1.1",
        b"POST /b HTTP/1.1",
        b"GET /a HTTP/1.1",
    ]
    assert origin.requests[1].body == b"abc"
    assert origin.requests[1].values(b"host") == [b"h"]
    assert len(origin.connections) == 1
    client.close()
    await origin.connections[0].until_closed()
    await origin.stop()


async def test_an_answer_waits_for_the_body_unless_it_says_otherwise() -> None:
    origin, client = await started([CONTINUE, BODY, reply(201)])
    client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await client.read_head()).status == 100
    client.send(b"3\r\nabc\r\n")
    await origin.connections[0].until_received(b"abc")
    assert not origin.requests[0].complete
    client.send(b"2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n")
    assert (await client.read_response()).status == 201
    received = await origin.request(0, complete=True)
    assert received.body == b"abcde"
    assert received.raw_body == b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
    client.close()
    await origin.stop()


async def test_a_deferred_holds_an_answer_until_the_test_lets_it_go() -> None:
    gate: Deferred[None] = Deferred()
    origin, client = await started([gate, reply(200, b"late")], reply())
    second = await RawClient.connect(origin.port)
    client.send(GET)
    await origin.request(0)
    second.send(GET)
    assert (await second.read_response()).body == b""
    assert client.unread == b""
    gate.callback(None)
    assert (await client.read_response()).body == b"late"
    client.close()
    second.close()
    await origin.stop()


async def test_an_answer_may_depend_on_its_request() -> None:
    origin, client = await started(lambda request: reply(200, request.line))
    client.send(GET)
    assert (await client.read_response()).body == b"GET /a HTTP/1.1"
    client.close()
    await origin.stop()


async def test_half_a_body_then_a_close_is_not_a_response() -> None:
    with pytest.raises(EOFError):
        await answered(reply(200, b"whole body")[:-3])


async def test_a_reset_is_told_from_a_close() -> None:
    origin, client = await started([b"HTTP/1.1 200 OK\r\n\r\npart", RESET])
    client.send(GET)
    with pytest.raises(ConnectionResetError):
        await client.read_response()
    closing = await RawClient.connect(origin.port)
    origin.script = [[b"HTTP/1.1 200 OK\r\n\r\nall", END]]
    closing.send(GET)
    assert (await closing.read_response()).body == b"all"
    closing.close()
    await origin.stop()


async def test_a_connection_may_be_reset_or_spoken_to_before_any_request() -> None:
    origin, client = await started(on_connect=[RESET])
    await client.until_closed()
    assert isinstance(client.error, ConnectionResetError)
    assert origin.requests == []
    origin.on_connect = [b"garbage"]
    second = await RawClient.connect(origin.port)
    assert await second.read_exactly(7) == b"garbage"
    second.close()
    await origin.stop()


async def test_an_origin_that_never_answers_sees_the_client_go() -> None:
    origin, client = await started([NEVER])
    client.send(GET)
    connection = (await origin.request()).connection
    client.reset()
    await connection.until_closed()
    assert isinstance(connection.error, ConnectionResetError)
    assert origin.open == []
    await origin.stop()


async def test_a_stopped_origin_comes_back_on_its_port() -> None:
    origin, client = await started()
    await origin.connection()
    await origin.stop()
    await client.until_closed()
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(origin.port)
    await origin.start(origin.port)
    again = await RawClient.connect(origin.port, source="127.0.0.2")
    again.send(GET)
    assert (await again.read_response()).status == 200
    assert len(origin.connections) == 2
    again.close()
    await origin.stop()


async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    origin = await Origin().start(path=str(tmp_path / "o"))
    client = await RawClient.connect(path=str(tmp_path / "o"))
    client.send(GET)
    assert (await client.read_response()).status == 200
    client.close()
    await origin.stop()


async def test_a_script_that_raises_fails_the_test_at_stop() -> None:
    origin, client = await started(lambda request: 1 / 0)  # type: ignore[arg-type,return-value]
    client.send(GET)
    await origin.request()
    with pytest.raises(ZeroDivisionError):
        await origin.stop()
    client.close()


async def test_a_paused_client_makes_the_origin_wait() -> None:
    body = bytes(8 << 20)
    origin, client = await started(reply(200, body))
    client.pause()
    client.send(GET)
    connection = (await origin.request()).connection
    await Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(0)))  # in this turn the answer is written
    assert connection.transport.get_write_buffer_size() > 0
    client.resume()
    assert (await client.read_response()).body == body
    client.close()
    await origin.stop()


async def test_heads_only_where_the_standard_says_so() -> None:
    assert (await answered(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n")).body == b""
    assert (await answered(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HEAD")).body == b""
    early = await answered(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + reply(200, b"x"))
    assert [one.status for one in early.informational] == [103]
    assert (early.status, early.body, early.raw) == (200, b"x", reply(200, b"x"))


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n", id="version"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n", id="space before colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: 1\r\n  2\r\nContent-Length: 0\r\n\r\n", id="folded"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n", id="bare LF"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="both"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", id="signed length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="other coding"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", id="chunk size"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", id="chunk end"),
        pytest.param(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", id="204 with length"),
    ],
)
async def test_the_client_insists_on_exact_framing(response: bytes) -> None:
    with pytest.raises(MalformedResponseError):
        await answered(response)


async def test_a_refusing_port_refuses_and_a_silent_one_says_nothing() -> None:
    with refusing_port() as port, pytest.raises(ConnectionRefusedError):
        await RawClient.connect(port)
    with silent_port() as port:
        connecting = RawClient.connect(port)
        origin, client = await started()
        client.send(GET)
        await client.read_response()  # a whole exchange has passed meanwhile
        assert not connecting.called
        connecting.addErrback(lambda failure: None)
        connecting.cancel()
        client.close()
        await origin.stop()


async def test_many_connections_are_counted() -> None:
    origin = await Origin().start()
    clients = await gatherResults([RawClient.connect(origin.port) for _ in range(20)])
    await origin.connection(19)
    assert len(origin.open) == 20
    for client in clients:
        client.close()
    await origin.stop()
    assert origin.open == []
