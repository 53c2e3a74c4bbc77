"""
``Body``: the content of a message as a once-only stream with back-pressure and cancellation.

Whoever receives a message (a connection) *feeds* the body; whoever sends it on *reads* it, by ``subscribe`` (callbacks,
no waiting, what the data path uses), by ``collect`` (all of it, never more than a limit) or by ``async for``.
Until there is a reader, pieces are kept, and the source is paused as soon as more than ``HIGH_WATER`` bytes wait.

Not here: framing (``apigw.http``). A message without content has no Body at all, but ``None``.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred

from apigw.exchange.errors import BodyTooLarge, GatewayError
from apigw.exchange.headers import Pair

HIGH_WATER = 64 * 1024
"""Bytes that may wait for a reader before the source is paused (nginx's proxy buffers hold 8 x 4-8 KiB)."""


SMALL = 1024
"""Bytes up to which pieces are joined while they are kept: each object costs 33 bytes more than its content."""


def keep(pieces: list[bytes], data: bytes) -> None:
    """Append ``data`` to ``pieces``; small pieces become one."""
    if pieces and len(pieces[-1]) + len(data) <= SMALL:
        pieces[-1] += data
    else:
        pieces.append(data)


class Source(Protocol):
    """Who feeds a body: a connection that can be told to wait or to give up."""

    def body_wanted(self) -> None:
        """Somebody here reads the content: a client that waits for 100 (Continue) may begin."""

    def pause_body(self) -> None: ...

    def resume_body(self) -> None: ...

    def cancel_body(self) -> None:
        """Nobody wants the rest any more."""


class Sink(Protocol):
    """Who reads a body."""

    def body_data(self, data: bytes) -> None: ...

    def body_end(self, trailers: list[Pair] | None) -> None: ...

    def body_failed(self, error: GatewayError) -> None:
        """The rest will never come: what was sent on must be aborted, never ended as if complete."""


class Body:
    """
    A once-only stream of bytes.

    :ivar length: the number of bytes announced (Content-Length), or None when it is not known.
    :ivar limit: bytes; a longer body fails with BodyTooLarge.
    :ivar received: bytes fed so far.
    """

    __slots__ = (
        "_paused",
        "_sink",
        "_source",
        "_waiting",
        "_waiting_size",
        "ended",
        "error",
        "length",
        "limit",
        "received",
        "trailers",
    )

    def __init__(self, source: Source | None, length: int | None = None) -> None:
        self._source = source
        self._sink: Sink | None = None
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._paused = False
        self.length = length
        self.limit = sys.maxsize
        self.received = 0
        self.ended = False
        self.error: GatewayError | None = None
        self.trailers: list[Pair] | None = None

    # Feeding: for the connection that receives the message.

    def feed(self, data: bytes) -> None:
        """One more piece arrived."""
        self.received += len(data)
        if self.received > self.limit:
            self._too_large()
            return
        sink = self._sink
        if sink is not None:
            sink.body_data(data)
            return
        keep(self._waiting, data)
        self._waiting_size += len(data)
        if not self._paused and self._waiting_size > HIGH_WATER:
            self.pause()

    def _too_large(self) -> None:
        source, self._source = self._source, None
        self._waiting.clear()
        if source is not None:
            source.cancel_body()
        self.ended = False
        self.fail(BodyTooLarge(f"at most {self.limit} bytes of content are taken"))

    def end(self, trailers: list[Pair] | None = None) -> None:
        """The body is complete."""
        if self.error is not None:
            return
        self.ended = True
        self.trailers = trailers
        self._source = None
        if self._sink is not None:
            self._sink.body_end(trailers)

    def fail(self, error: GatewayError) -> None:
        """The body will never be complete."""
        if self.ended or self.error is not None:
            return
        self.error = error
        self._source = None
        if self._sink is not None:
            self._sink.body_failed(error)

    # Reading: for whoever sends it on.

    @property
    def read(self) -> bool:
        """Whether somebody read it, or gave it up: it can't be sent on any more."""
        return self._sink is not None

    def want(self) -> None:
        """Say that somebody here reads the content, to a client that waits for 100 (Continue)."""
        if self._source is not None:
            self._source.body_wanted()

    def subscribe(self, sink: Sink) -> None:
        """
        Hand every piece to ``sink`` from now on, beginning with those that wait.

        :raises RuntimeError: when there is a reader already: a body is read once.
        """
        if self._sink is not None:
            raise RuntimeError("a body is read once")
        if self.received > self.limit and self.error is None:  # the limit was set after the bytes had come
            self._too_large()
        # The source waits until the sink has what is here already, and then if the sink wants it to. Until then
        # ``_sink`` is not set, so that nothing that arrives meanwhile overtakes what waits.
        held, self._paused = self._paused, False
        while self._waiting and self._sink is None:
            sink.body_data(self._waiting.pop(0))
        if self._sink is not None:
            return  # it was cancelled
        self._sink = sink
        if self.ended:
            sink.body_end(self.trailers)
        elif self.error is not None:
            sink.body_failed(self.error)
        elif held and not self._paused and self._source is not None:
            self._source.resume_body()

    def pause(self) -> None:
        """Ask the source to wait."""
        if not self._paused:
            self._paused = True
            if self._source is not None:
                self._source.pause_body()

    def resume(self) -> None:
        """Let the source go on."""
        if self._paused:
            self._paused = False
            if self._source is not None:
                self._source.resume_body()

    def cancel(self) -> None:
        """Nobody wants the rest: the source frees what it holds, and no reader is told anything more."""
        source, self._source = self._source, None
        self._sink = _NOBODY
        self._waiting.clear()
        if source is not None:
            source.cancel_body()

    async def collect(self, limit: int) -> bytes:
        """
        The whole body.

        :param limit: bytes; a longer body is cancelled.
        :raises BodyTooLarge: when the body is longer than ``limit``.
        :raises GatewayError: when the body fails.
        """
        if self.length is not None and self.length > limit:
            self.cancel()
            raise BodyTooLarge(f"the body has {self.length} bytes; at most {limit} are taken")
        collected = _Collected(self, limit)
        self.want()
        self.subscribe(collected)
        return await collected.done

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = _Pieces(self)
        self.want()
        self.subscribe(pieces)
        try:
            while (data := await pieces.next()) is not None:
                yield data
        finally:
            if not self.ended and self.error is None:
                self.cancel()  # the loop was left


class _Nobody:
    """Takes what still arrives after a body was cancelled."""

    def body_data(self, data: bytes) -> None:
        pass

    def body_end(self, trailers: list[Pair] | None) -> None:
        pass

    def body_failed(self, error: GatewayError) -> None:
        pass


_NOBODY = _Nobody()


class _Collected:
    """Gathers a body up to a limit."""

    def __init__(self, body: Body, limit: int) -> None:
        self._body = body
        self._limit = limit
        self._size = 0
        self._pieces: list[bytes] = []
        self.done: Deferred[bytes] = Deferred(lambda _: body.cancel())

    def body_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            self._body.cancel()
            self._pieces.clear()
            if not self.done.called:
                self.done.errback(BodyTooLarge(f"the body has more than the {self._limit} bytes that are taken"))
            return
        keep(self._pieces, data)

    def body_end(self, trailers: list[Pair] | None) -> None:
        if not self.done.called:
            self.done.callback(b"".join(self._pieces))

    def body_failed(self, error: GatewayError) -> None:
        if not self.done.called:
            self.done.errback(error)


class _Pieces:
    """Hands a body out piece by piece, and pauses its source while a piece is being worked on."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._pieces: list[bytes] = []
        self._ended = False
        self._error: GatewayError | None = None
        self._wanted: Callable[[], None] | None = None

    def _tell(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted()

    def body_data(self, data: bytes) -> None:
        keep(self._pieces, data)
        self._body.pause()
        self._tell()

    def body_end(self, trailers: list[Pair] | None) -> None:
        self._ended = True
        self._tell()

    def body_failed(self, error: GatewayError) -> None:
        self._error = error
        self._tell()

    async def next(self) -> bytes | None:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            arrived: Deferred[None] = Deferred(lambda _: self._body.cancel())
            self._wanted = partial(arrived.callback, None)
            self._body.resume()
            await arrived
        return self._pieces.pop(0)
