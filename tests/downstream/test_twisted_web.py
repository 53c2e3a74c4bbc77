"""twisted.web resources behind the gateway's own connections."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path as Folder
from typing import Any

import pytest
from twisted.internet.interfaces import IPushProducer
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from apigw.downstream.site import Limits
from apigw.downstream.twisted_web import Mounted
from apigw.net.turns import LARGEST_READ
from tests.wire.memory import Path
from tests.wire.messages import complete, values
from tests.wire.requests import chunked, get, post

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Twisted's own module uses what Twisted deprecates
    from twisted.web.static import File


def mounted(resource: Resource, prefix: str = "/files", **more: Any) -> Path:
    return Path(responder=Mounted(resource, prefix, **more), limits=Limits(body=10.0))


def only(path: Path, *, head: bool = False) -> tuple[bytes, bytes]:
    [response], rest = complete(path.client.take(), lambda _: head)
    assert rest == b""
    start, _, content = response.partition(b"\r\n\r\n")
    return start, content


async def turns() -> None:
    """Let the loop turn: a large file is sent a part a turn."""
    for _ in range(20):
        await asyncio.sleep(0)


class Echo(Resource):
    isLeaf = True

    def render_POST(self, request: Request) -> bytes:
        assert request.content is not None
        assert request.args is not None
        content: bytes = request.content.read()
        query: bytes = request.args[b"q"][0]
        return b"/".join(request.postpath or []) + b" " + query + b" " + content

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"X-Peer", request.getClientAddress().host)
        request.setHeader(b"Connection", b"X-Peer")
        asked: bytes = request.prePathURL() + b" " + request.uri
        return asked


def test_a_page() -> None:
    path = mounted(Echo())  # type: ignore[no-untyped-call]
    path.client.send(get(line=b"GET /files/a?q=1 HTTP/1.1"))
    start, content = only(path)
    assert start.startswith(b"HTTP/1.1 200 OK\r\n")
    assert values(start, b"x-peer") == [b"192.0.2.1"]
    assert values(start, b"connection") == []
    assert content == b"http://a/files /files/a?q=1"
    assert not path.client.is_closing()


def test_urls_that_a_resource_makes_have_the_clients_port() -> None:
    path = mounted(Echo())  # type: ignore[no-untyped-call]
    for host, url in ((b"shop.example:8443", b"http://shop.example:8443/files"), (b"1", b"http://1/files")):
        path.client.send(get(line=b"GET /files HTTP/1.1", host=b"Host: " + host))
        assert only(path)[1].startswith(url + b" ")


def test_content_whole_and_chunked_and_piece_by_piece() -> None:
    for data in (post(b"Content-Length: 3", content=b"abc"), chunked(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")):
        data = data.replace(b"POST /", b"POST /files/x/y?q=1")
        for size in (len(data), 1):
            path = mounted(Echo())  # type: ignore[no-untyped-call]
            for at in range(0, len(data), size):
                path.client.send(data[at : at + size])
            assert only(path)[1] == b"x/y 1 abc"


def test_too_much_content() -> None:
    path = mounted(Echo(), max_body=2)  # type: ignore[no-untyped-call]
    path.client.send(post(b"Content-Length: 3", content=b"abc"))
    assert only(path)[0].startswith(b"HTTP/1.1 413 ")


def test_a_form_that_is_none() -> None:
    path = mounted(Echo())  # type: ignore[no-untyped-call]
    path.client.send(post(b"Content-Type: multipart/form-data; boundary", b"Content-Length: 3", content=b"abc"))
    assert only(path)[0].startswith(b"HTTP/1.1 400 ")


@pytest.mark.filterwarnings("ignore:twisted.web.resource:DeprecationWarning")
def test_a_resource_that_is_not_there() -> None:
    path = mounted(Resource())
    path.client.send(get(line=b"GET /files/none HTTP/1.1"))
    assert only(path)[0].startswith(b"HTTP/1.1 404 ")


def test_a_resource_that_raises() -> None:
    class Broken(Resource):
        isLeaf = True

        def render_GET(self, request: Request) -> bytes:
            raise ValueError("secret")

    path = mounted(Broken())  # type: ignore[no-untyped-call]
    path.client.send(get(line=b"GET /files HTTP/1.1"))
    start, content = only(path)
    assert start.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in content


async def test_files_small_and_large_and_a_part_of_one(tmp_path: Folder) -> None:
    large = bytes(range(256)) * 4096  # 1 MiB: far more than may wait anywhere
    (tmp_path / "small").write_bytes(b"hello")
    (tmp_path / "large").write_bytes(large)
    path = mounted(File(str(tmp_path)))
    path.client.send(get(line=b"GET /files/small HTTP/1.1"))
    assert only(path)[1] == b"hello"
    path.client.send(get(line=b"GET /files/large HTTP/1.1"))
    await turns()
    assert only(path)[1] == large
    path.client.send(get(b"Range: bytes=3-600000", line=b"GET /files/large HTTP/1.1"))
    await turns()
    start, content = only(path)
    assert start.startswith(b"HTTP/1.1 206 ")
    assert content == large[3:600001]
    path.client.send(get(line=b"HEAD /files/large HTTP/1.1"))
    start, _ = only(path, head=True)
    assert values(start, b"content-length") == [b"%d" % len(large)]
    etag = values(start, b"last-modified")[0]
    path.client.send(get(b"If-Modified-Since: " + etag, line=b"GET /files/large HTTP/1.1"))
    assert path.client.take().startswith(b"HTTP/1.1 304 ")
    assert not path.client.is_closing()


async def test_a_large_file_waits_for_a_slow_client(tmp_path: Folder) -> None:
    large = b"x" * 1_000_000
    (tmp_path / "large").write_bytes(large)
    path = mounted(File(str(tmp_path)))
    path.client.protocol.pause_writing()
    resource_reads = path.client
    path.client.send(get(line=b"GET /files/large HTTP/1.1"))
    assert len(resource_reads.received) < 300_000
    path.client.protocol.resume_writing()
    await turns()
    assert only(path)[1] == large


@implementer(IPushProducer)
class Stream(Resource):
    """Writes what the test says, when it says so."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[str] = []
        self.request: Request

    def render_GET(self, request: Request) -> int:
        self.request = request
        request.notifyFinish().addBoth(lambda outcome: self.calls.append("lost" if outcome is not None else "finished"))
        request.registerProducer(self, True)
        request.write(b"first")
        return NOT_DONE_YET

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


def test_a_stream_arrives_as_it_is_written() -> None:
    stream = Stream()
    path = mounted(stream)
    path.client.send(get(line=b"GET /files HTTP/1.1"))
    assert path.client.received.endswith(b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    path.client.protocol.pause_writing()
    path.client.protocol.resume_writing()
    assert stream.calls == ["pause", "resume"]
    stream.request.write(b"second")
    stream.request.unregisterProducer()
    stream.request.finish()
    assert only(path)[1] == b"b\r\nfirstsecond\r\n0\r\n\r\n"
    assert stream.calls == ["pause", "resume", "finished"]
    assert not path.client.is_closing()


def test_a_client_that_leaves_a_stream() -> None:
    stream = Stream()
    path = mounted(stream)
    path.client.send(get(line=b"GET /files HTTP/1.1"))
    path.client.reset()
    assert "lost" in stream.calls
    stream.request.write(b"into the void")
    assert path.finished[0][:2] == (200, "client_gone")


def test_a_client_that_leaves_before_the_answer() -> None:
    class Slow(Resource):
        isLeaf = True
        lost = False

        def render_GET(self, request: Request) -> int:
            request.notifyFinish().addErrback(lambda _: setattr(self, "lost", True))
            return NOT_DONE_YET

    slow = Slow()  # type: ignore[no-untyped-call]
    path = mounted(slow)
    path.client.send(get(line=b"GET /files HTTP/1.1"))
    path.client.reset()
    assert slow.lost
    assert path.finished == [(499, "client_gone", 0)]


class Lying(Resource):
    isLeaf = True

    def __init__(self, content: bytes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.content = content

    def render_GET(self, request: Request) -> int:
        request.setHeader(b"Content-Length", b"5")
        request.write(self.content)
        request.finish()
        return NOT_DONE_YET


def test_a_resource_that_writes_more_than_it_said() -> None:
    path = mounted(Lying(b"abcdefgh"))
    path.client.send(get(line=b"GET /files HTTP/1.1"))
    assert only(path)[1] == b"abcde"


def test_a_resource_that_writes_less_than_it_said() -> None:
    path = mounted(Lying(b"abc"))
    path.client.send(get(line=b"GET /files HTTP/1.1"))
    assert path.client.aborted
    assert path.finished[0][:2] == (200, "resource_aborted")


def test_a_resource_that_breaks_off() -> None:
    stream = Stream()
    path = mounted(stream)
    path.client.send(get(line=b"GET /files HTTP/1.1"))
    assert stream.request.transport is not None
    stream.request.transport.loseConnection()
    assert path.client.aborted


async def test_a_large_file_is_sent_a_part_a_turn_of_the_loop(tmp_path: Folder) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1_000_000)
    path = mounted(File(str(tmp_path)))
    path.client.send(get(line=b"GET /files/large HTTP/1.1"))
    assert LARGEST_READ <= len(path.client.received) < 2 * LARGEST_READ
    before = len(path.client.received)
    turns = 0
    while len(path.client.received) < 1_000_000:
        await asyncio.sleep(0)
        turns += 1
        assert len(path.client.received) - before < 2 * LARGEST_READ
        before = len(path.client.received)
    assert turns >= 2
    assert only(path)[1] == b"x" * 1_000_000
