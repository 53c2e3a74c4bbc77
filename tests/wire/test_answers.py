"""Every answer of the corpus, at every kind of split: the client gets the same, or no whole message."""

from __future__ import annotations

import json

import pytest

from tests.wire.answers import ANSWERS, HEAD, Answer
from tests.wire.memory import Path
from tests.wire.messages import NotAMessageError, complete
from tests.wire.test_requests import pieces, splits


def run(answer: Answer, cuts: list[int]) -> Path:
    path = Path()
    path.client.send(answer.request)
    for piece in pieces(answer.data, cuts):
        path.origin.send(piece)
    if answer.end == "close" and not path.origin.is_closing():
        path.origin.hang_up()
    elif answer.end == "reset" and not path.origin.is_closing():
        path.origin.reset()
    return path


def in_one_piece(answer: Answer, data: bytes) -> bytes:
    """What a client received, with chunked content as one chunk."""

    def bodiless(head: bytes) -> bool:
        return head[9:10] == b"1" or answer.request == HEAD or head[9:12] in {b"204", b"304"}

    if b"Connection: close\r\n\r\n" in data and b"Content-Length" not in data:
        return data
    found, rest = complete(data, bodiless)
    return b"".join(found) + rest


def sized(data: bytes) -> bytes:
    """A chunked message without trailers as one with a length: which it is depends on the split."""
    head, _, content = data.rpartition(b"Transfer-Encoding: chunked\r\n")
    connection, _, content = (
        content.partition(b"\r\n\r\n") if not content.startswith(b"\r\n") else (b"", b"", content[2:])
    )
    if not head or not content.endswith(b"\r\n0\r\n\r\n"):
        return data
    plain = content.partition(b"\r\n")[2].removesuffix(b"\r\n0\r\n\r\n")
    return b"%bContent-Length: %d\r\n%b\r\n%b" % (head, len(plain), connection, plain)


def old(data: bytes) -> bytes:
    """The same for HTTP/1.0: sized if it was all there, else up to the end."""
    return b"".join(line for line in data.splitlines(keepends=True) if not line.startswith(b"Content-Length"))


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.name)
def test_what_the_client_gets(answer: Answer) -> None:
    for cuts in splits(answer.data) if len(answer.data) > 1 else [[]]:
        path = run(answer, cuts)
        client = path.client
        if answer.client is None:
            fails(path, answer, cuts)
            continue
        received = in_one_piece(answer, client.received)
        expected = answer.client
        if cuts and answer.close:
            received, expected = old(received), old(expected)
        elif cuts:
            received, expected = sized(received), sized(expected)
        assert received == expected, cuts
        assert not client.aborted
        assert client.closed == answer.close
        assert (path.origin in [c.transport for c in path.pool.idle]) == answer.reused
        assert path.target.active == 0
        if not answer.close:
            client.take()
            client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
            assert len(path.origins) == (1 if answer.reused else 2)
            path.origin.send(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\n\r\nnext")
            assert client.received == b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 4\r\n\r\nnext"


def fails(path: Path, answer: Answer, cuts: list[int]) -> None:
    client = path.client
    status, reason, _ = path.finished[-1]
    assert reason == answer.reason, cuts
    assert path.target.active == 0
    assert not path.pool.connections
    assert path.origin.is_closing()
    received = client.received
    while received.startswith(b"HTTP/1.1 1"):
        received = received.partition(b"\r\n\r\n")[2]
    if status == 502:
        [problem], rest = complete(received)
        assert rest == b""
        assert problem.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert json.loads(problem.partition(b"\r\n\r\n")[2])["reason"] == answer.reason
        assert not client.aborted
        return
    assert client.aborted, "what was begun is cut off"
    if b"Connection: close" in received:
        return  # up to the end: nothing but the reset tells
    try:
        found, _ = complete(received)
    except NotAMessageError:
        found = []
    assert found == [], "and does not look complete"


def test_the_corpus_has_no_name_twice() -> None:
    names = [answer.name for answer in ANSWERS]
    assert len(names) == len(set(names)) >= 80
