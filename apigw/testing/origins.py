r"""
Both ends of the wire for tests of the whole gateway: scripted origins behind it, and a raw client before it.

    origin = await Origin([reply(200, b"hello")]).start()
    ...                                          # a gateway whose upstream is http://127.0.0.1:{origin.port}
    client = await RawClient.connect(gateway_port)
    client.send(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
    response = await client.read_response()
    assert response.status == 200
    assert origin.requests[0].head == b"GET / HTTP/1.1\r\nHost: ...\r\n\r\n"
    await origin.stop()

An origin answers each request with the next *answer* of its script; the last one serves all further requests. An answer
is a list of steps, or a function of the request that returns one. A step is

    bytes                sent as they are, in one write
    a Deferred           goes on when it fires: the test decides when; nothing sleeps
    BODY                 goes on when the request's body is complete. An answer that doesn't name it begins with it,
                         so put it where an answer begins before the body has come: [CONTINUE, BODY, reply(200)]
    CLOSE                closes after what was sent (FIN)
    END                  closes our sending side only
    RESET                resets the connection (RST)
    NEVER                goes no further, and holds the connection

Everything that has to be waited for is a Deferred. Time limits are the test's own (`apigw.testing.plugin`).

Not here: the gateway under test, certificates, clocks.
"""

from __future__ import annotations

import asyncio
import enum
import re
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

Pair = tuple[bytes, bytes]
P = ParamSpec("P")
T = TypeVar("T")


class Act(enum.Enum):
    """The steps that are neither bytes nor a Deferred; the module's docstring says what each does."""

    BODY = enum.auto()
    CLOSE = enum.auto()
    END = enum.auto()
    RESET = enum.auto()
    NEVER = enum.auto()


BODY, CLOSE, END, RESET, NEVER = Act.BODY, Act.CLOSE, Act.END, Act.RESET, Act.NEVER
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Step = bytes | Deferred[Any] | Act
Steps = Sequence[Step]
Answer = Steps | bytes | Callable[["Received"], "Steps | bytes"]


def reply(status: int = 200, body: bytes = b"", *fields: Pair, phrase: bytes = b"OK") -> bytes:
    """The bytes of a response with a Content-Length."""
    lines = b"".join(b"%s: %s\r\n" % pair for pair in fields)
    return b"HTTP/1.1 %d %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, phrase, lines, len(body), body)


def chunked(*pieces: bytes, fields: Sequence[Pair] = (), trailers: Sequence[Pair] = ()) -> list[bytes]:
    """A chunked 200: the head, each piece, and the end, as steps of their own."""
    head = b"HTTP/1.1 200 OK\r\n" + _lines(fields) + b"Transfer-Encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n" + _lines(trailers) + b"\r\n"]


def deferred(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Deferred[T]]:
    """Make a coroutine function return a Deferred: it may be awaited, gathered and timed out."""

    @wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> Deferred[T]:
        return Deferred.fromCoroutine(function(*args, **named))

    return call


def _lines(fields: Sequence[Pair]) -> bytes:
    return b"".join(b"%s: %s\r\n" % pair for pair in fields)


def _values(fields: Sequence[Pair], name: bytes) -> list[bytes]:
    return [value for key, value in fields if key.lower() == name]


def _reset(transport: asyncio.Transport) -> None:
    # A zero linger time makes close() send RST (socket(7)).
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Wire(asyncio.Protocol):
    """
    One connection, seen raw.

    :ivar received: every byte that arrived, in order.
    :ivar closed: the peer has closed its side, or the connection is lost.
    :ivar lost: the connection is gone altogether.
    :ivar error: why it was lost; None for a clean end.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.received = bytearray()
        self.closed = False
        self.lost = False
        self.error: Exception | None = None
        self._waiting: list[Deferred[None]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._tell()

    def eof_received(self) -> bool:
        self.closed = True
        self._tell()
        return not isinstance(self.transport.get_extra_info("sslcontext"), ssl.SSLContext)  # stay half open if we can

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = self.lost = True
        self.error = exc
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            changed.callback(None)

    def changed(self) -> Deferred[None]:
        """Fires at the next thing that happens here: bytes, the end."""
        changed: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(changed)
        return changed

    @deferred
    async def until_closed(self) -> None:
        """Fires when the peer has closed or reset; ``error`` then says which."""
        while not self.closed:
            await self.changed()

    @deferred
    async def until_received(self, data: bytes) -> None:
        """Fires when ``data`` is somewhere in ``received``; EOFError if the connection ends without."""
        while data not in self.received:
            if self.closed:
                raise EOFError(f"{data!r} is not in {bytes(self.received)!r}")
            await self.changed()

    def pause(self) -> None:
        """Read nothing for now: the peer will feel it."""
        self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        self.transport.resume_reading()

    def close(self) -> None:
        """Close after what was sent (FIN)."""
        self.transport.close()

    def reset(self) -> None:
        """Reset the connection (RST)."""
        _reset(self.transport)


# ---- the origin -----------------------------------------------------------------------------------------------------


@dataclass
class Received:
    """
    A request as an origin got it.

    :ivar head: its bytes up to and with the empty line.
    :ivar body: its content so far, without chunked framing.
    :ivar raw_body: the same as it came, with framing and trailers.
    :ivar complete: the whole body is there.
    """

    connection: OriginConnection
    head: bytes
    body: bytes = b""
    raw_body: bytes = b""
    complete: bool = False

    @property
    def line(self) -> bytes:
        """The request line."""
        return self.head.split(b"\r\n", 1)[0]

    @property
    def fields(self) -> list[Pair]:
        """The header fields in order."""
        return [_pair(line) for line in self.head[:-4].split(b"\r\n")[1:]]

    def values(self, name: bytes) -> list[bytes]:
        """The values of the field ``name`` (lower case)."""
        return _values(self.fields, name)


class OriginConnection(Wire):
    """A connection that an origin accepted. Its ``received`` holds the exact bytes."""

    def __init__(self, origin: Origin) -> None:
        super().__init__()
        self.origin = origin
        self.requests: list[Received] = []
        self._read = 0  # how much of ``received`` belongs to requests

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.origin.connections.append(self)
        Deferred.fromCoroutine(self._serve()).addErrback(self._script_failed)
        self.origin._tell()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.origin._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.origin._tell()

    def _script_failed(self, failure: Failure) -> None:
        assert failure.value is not None
        self.origin.failures.append(failure.value)
        self.reset()

    async def _serve(self) -> None:
        if not await self._run(self.origin.on_connect, None):
            return
        while True:
            while (end := self.received.find(b"\r\n\r\n", self._read)) < 0:
                if self.closed:
                    self.close()
                    return
                await self.changed()
            request = Received(self, bytes(self.received[self._read : end + 4]))
            self._read = end + 4
            self.requests.append(request)
            answer = self.origin._next_answer(request)
            steps: Steps = [answer] if isinstance(answer, bytes) else answer
            if not await self._run(steps if BODY in steps else [BODY, *steps], request):
                return
            if not request.complete and not await self._body(request):
                return

    async def _run(self, steps: Steps, request: Received | None) -> bool:
        """True when the connection can take another request."""
        for step in steps:
            if isinstance(step, bytes):
                if self.transport.is_closing():
                    return False
                self.transport.write(step)
            elif isinstance(step, Deferred):
                gone_on: Deferred[None] = Deferred()
                step.addBoth(_pass_on, gone_on)  # several requests may wait for one Deferred
                await gone_on
            elif step is BODY:
                if request is not None and not await self._body(request):
                    return False
            elif step is END:
                self.transport.write_eof()
            else:
                if step is CLOSE:
                    self.close()
                elif step is RESET:
                    self.reset()
                return False
        return True

    async def _body(self, request: Received) -> bool:
        """Wait for the body; False if it never comes whole."""
        start = self._read
        while (end := self._body_end(request, start)) < 0:
            if self.closed:
                self.close()
                return False
            await self.changed()
        self._read = end
        request.raw_body = bytes(self.received[start:end])
        request.complete = True
        self.origin._tell()
        return True

    def _body_end(self, request: Received, start: int) -> int:
        """Where the body ends, or -1; what is there of it is put into ``request``."""
        if request.values(b"transfer-encoding"):
            request.body, end = _dechunk(self.received, start)[:2]
            return end
        length = int((request.values(b"content-length") or [b"0"])[0])
        request.body = bytes(self.received[start : start + length])
        return start + length if len(request.body) == length else -1


def _pass_on(result: T, waiting: Deferred[None]) -> T:
    waiting.callback(None)
    return result


class Origin:
    """
    A scripted server on 127.0.0.1, or on a unix socket.

    :param script: the answers, in order over all connections; the last one serves all further
        requests. Empty: an empty 200 for each.
    :param on_connect: steps that run when a connection is made, before it is read.
    :ivar connections: all that were accepted, also those that are gone.
    :ivar failures: exceptions of the script itself; ``stop`` raises the first.
    """

    def __init__(self, script: Sequence[Answer] = (), *, on_connect: Steps = ()) -> None:
        self.script: list[Answer] = list(script) or [reply()]
        self.on_connect = on_connect
        self.connections: list[OriginConnection] = []
        self.requests: list[Received] = []
        self.failures: list[BaseException] = []
        self.port = 0
        self._server: asyncio.AbstractServer | None = None
        self._waiting: list[Deferred[None]] = []

    @deferred
    async def start(
        self, port: int = 0, *, path: str = "", tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> Origin:
        """
        Listen on ``port`` (0: a free one, to be found in ``port``) of ``host``, or on the unix socket ``path``.

        :return: the origin itself.
        """
        loop = asyncio.get_running_loop()
        if path:
            opening: Coroutine[Any, Any, Any] = loop.create_unix_server(lambda: OriginConnection(self), path, ssl=tls)
        else:
            opening = loop.create_server(lambda: OriginConnection(self), host, port, ssl=tls, backlog=1024)
        server = await Deferred.fromFuture(asyncio.ensure_future(opening))
        self._server = server
        if not path:
            self.port = server.sockets[0].getsockname()[1]
        return self

    @deferred
    async def stop(self) -> None:
        """Listen no more, and reset what is open. ``start(origin.port)`` brings it back."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self.open:
            connection.transport.abort()
        while self.open:
            await self.changed()
        if self.failures:
            raise self.failures[0]

    @property
    def open(self) -> list[OriginConnection]:
        """The connections that are open now."""
        return [one for one in self.connections if not one.lost]

    def changed(self) -> Deferred[None]:
        """Fires at the next thing that happens here: a connection, bytes, an end."""
        changed: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(changed)
        return changed

    @deferred
    async def connection(self, number: int = 0) -> OriginConnection:
        """The connection ``number`` (from 0), as soon as it is made."""
        while len(self.connections) <= number:
            await self.changed()
        return self.connections[number]

    @deferred
    async def request(self, number: int = 0, *, complete: bool = False) -> Received:
        """The request ``number`` (from 0, over all connections), as soon as its head (or all of it) is there."""
        while len(self.requests) <= number or (complete and not self.requests[number].complete):
            await self.changed()
        return self.requests[number]

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            changed.callback(None)

    def _next_answer(self, request: Received) -> Steps | bytes:
        self.requests.append(request)
        answer = self.script[min(len(self.requests), len(self.script)) - 1]
        self._tell()
        return answer(request) if callable(answer) else answer


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else can get meanwhile: bound, but not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def silent_port() -> Iterator[int]:
    """A port whose connections are never established: its queue is full, so Linux drops the SYNs."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        try:
            yield sock.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()


# ---- the client -----------------------------------------------------------------------------------------------------


class MalformedResponseError(Exception):
    """What came is not a strictly well-formed HTTP/1.1 response."""


@dataclass
class RawResponse:
    """
    A response, checked strictly.

    :ivar raw: all its bytes, without those of ``informational``.
    :ivar informational: the 1xx heads that went ahead.
    :ivar pieces: the chunks as they were cut, when it was chunked.
    """

    status: int
    phrase: bytes
    fields: list[Pair]
    body: bytes = b""
    trailers: list[Pair] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    informational: list[RawResponse] = field(default_factory=list)
    raw: bytes = b""

    def values(self, name: bytes) -> list[bytes]:
        """The values of the field ``name`` (lower case)."""
        return _values(self.fields, name)

    def value(self, name: bytes) -> bytes | None:
        """The only value of the field ``name`` (lower case), or None; AssertionError if there are several."""
        values = self.values(name)
        assert len(values) <= 1, f"{name!r} came {len(values)} times: {values!r}"
        return values[0] if values else None


class RawClient(Wire):
    """A client that sends exactly what it is told, and reads strictly. One read at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._read = 0

    @classmethod
    def connect(
        cls,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        path: str = "",
        source: str | None = None,
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> Deferred[RawClient]:
        """
        Connect to ``port``, or to the unix socket ``path``.

        :param source: the address to come from, like ``127.0.0.2``.
        :param server_name: the SNI to send over TLS.
        :raises OSError: when nobody listens there.
        """
        loop = asyncio.get_running_loop()
        name = (server_name or host) if tls is not None else None
        if path:
            opening: Coroutine[Any, Any, Any] = loop.create_unix_connection(cls, path, ssl=tls, server_hostname=name)
        else:
            local = (source, 0) if source is not None else None
            opening = loop.create_connection(cls, host, port, ssl=tls, server_hostname=name, local_addr=local)
        made: Deferred[Any] = Deferred.fromFuture(asyncio.ensure_future(opening))
        return made.addCallback(lambda both: both[1])

    def send(self, data: bytes) -> None:
        """Send these bytes, in one write."""
        self.transport.write(data)

    def send_end(self) -> None:
        """Close our sending side only."""
        self.transport.write_eof()

    @property
    def unread(self) -> bytes:
        """What arrived and was not read yet."""
        return bytes(self.received[self._read :])

    async def _more(self) -> None:
        if self.closed:
            if self.error is not None:
                raise self.error
            raise EOFError(f"the connection ended; unread: {self.unread!r}")
        await self.changed()

    def _take(self, end: int) -> bytes:
        taken = bytes(self.received[self._read : end])
        self._read = end
        return taken

    @deferred
    async def read_exactly(self, size: int) -> bytes:
        """
        The next ``size`` bytes.

        :raises EOFError: when the peer closes before; OSError when it resets. (All reads do.)
        """
        while len(self.received) - self._read < size:
            await self._more()
        return self._take(self._read + size)

    @deferred
    async def read_until(self, end: bytes) -> bytes:
        """All bytes up to and with ``end``."""
        while (at := self.received.find(end, self._read)) < 0:
            await self._more()
        return self._take(at + len(end))

    @deferred
    async def read_to_end(self) -> bytes:
        """All bytes until the peer closes; OSError if it resets instead."""
        while not self.closed:
            await self.changed()
        if self.error is not None:
            raise self.error
        return self._take(len(self.received))

    @deferred
    async def read_head(self) -> RawResponse:
        """The next head, 1xx or final, without its body: for streams and for 1xx."""
        raw = await self.read_until(b"\r\n\r\n")
        line, *lines = raw[:-4].split(b"\r\n")
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise MalformedResponseError(f"status line {line!r}")
        return RawResponse(int(match[1]), match[2], [_pair(one) for one in lines], raw=raw)

    @deferred
    async def read_response(self, method: bytes = b"GET") -> RawResponse:
        """
        The next final response, whole. A 101 is final.

        :param method: of its request: the answer to HEAD has no body.
        :raises MalformedResponseError: when its framing is not exactly what RFC 9112 allows.
        """
        informational = []
        while (head := await self.read_head()).status < 200 and head.status != 101:
            informational.append(head)
        head.informational = informational
        lengths, codings = head.values(b"content-length"), head.values(b"transfer-encoding")
        if len(lengths) + len(codings) > 1:
            raise MalformedResponseError(f"framed more than once: {head.raw!r}")
        if (head.status < 200 or head.status == 204) and lengths + codings:
            raise MalformedResponseError(f"a {head.status} with framing: {head.raw!r}")  # RFC 9110 8.6, RFC 9112 6.1
        if method == b"HEAD" or head.status in (101, 204, 304):
            return head
        start = self._read
        if codings:
            if codings != [b"chunked"]:
                raise MalformedResponseError(f"Transfer-Encoding {codings[0]!r}")
            while (found := _dechunk(self.received, start))[1] < 0:
                await self._more()
            head.body, end, head.pieces, head.trailers = found
            self._read = end
        elif lengths:
            if not lengths[0].isdigit():
                raise MalformedResponseError(f"Content-Length {lengths[0]!r}")
            head.body = await self.read_exactly(int(lengths[0]))
        else:
            head.body = await self.read_to_end()
        head.raw += bytes(self.received[start : self._read])
        return head


_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([\t \x21-\x7e\x80-\xff]*)")
_FIELD_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*"
    rb"((?:[\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;[\t \x21-\x7e\x80-\xff]*)?")


def _pair(line: bytes) -> Pair:
    match = _FIELD_LINE.fullmatch(line)
    if match is None:
        raise MalformedResponseError(f"field line {line!r}")
    return match[1], match[2]


def _dechunk(data: bytearray, start: int) -> tuple[bytes, int, list[bytes], list[Pair]]:
    """The content so far, where it ends (-1: not yet), its chunks, its trailers. RFC 9112 7.1."""
    pieces: list[bytes] = []
    while (line_end := data.find(b"\r\n", start)) >= 0:
        match = _CHUNK_SIZE.fullmatch(data, start, line_end)
        if match is None:
            raise MalformedResponseError(f"chunk size {bytes(data[start:line_end])!r}")
        size = int(match[1], 16)
        start = line_end + 2
        if size == 0:
            trailers: list[Pair] = []
            while (line_end := data.find(b"\r\n", start)) >= 0:
                if line_end == start:
                    return b"".join(pieces), line_end + 2, pieces, trailers
                trailers.append(_pair(bytes(data[start:line_end])))
                start = line_end + 2
            break
        pieces.append(bytes(data[start : start + size]))
        after = bytes(data[start + size : start + size + 2])
        if after and not b"\r\n".startswith(after):
            raise MalformedResponseError(f"a chunk of {size} bytes is followed by {after!r}")
        if len(after) < 2:
            break
        start += size + 2
    return b"".join(pieces), -1, pieces, []
