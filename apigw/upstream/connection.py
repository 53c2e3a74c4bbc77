"""
``UpstreamConnection``: one HTTP/1.1 connection to a target, one exchange at a time (RFC 9112).

It is reused only if the message before it ended cleanly: no byte unread, none unexpected, both sides keep it alive,
and the request was sent to its end. Everything else ends in a closed connection, never in somebody else's answer.

A bounded part of what it received is handled in one turn of the loop (``chunked.MOST_CHUNKS``, ``LARGEST_READ``).

Not here: which target, whether to try again (``forward``), how many connections (``pool``), how one is made
(``dialling``).
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import ClassVar, Protocol

from apigw.exchange.body import Body
from apigw.exchange.errors import ClientGone, GatewayError, UpstreamFault
from apigw.exchange.headers import Pair
from apigw.http.chunked import ChunkedReader, MalformedChunks, chunk, last_chunk
from apigw.http.h1_heads import LONGEST_RESPONSE_HEAD, ResponseHead, ResponseHeads
from apigw.net.timers import Wheel
from apigw.net.tls_transport import TLSBroken
from apigw.net.turns import LARGEST_READ

MOST_INFORMATIONAL = 8
"""1xx responses before the final one (Caddy: 5)."""


class Exchange(Protocol):
    """Whose request is under way on a connection."""

    request_method: bytes

    def informational(self, head: ResponseHead) -> None:
        """A 1xx response came."""

    def answered(self, head: ResponseHead, body: bytes | Body, now: float) -> None:
        """
        The response came: with a stream of its content, or with all of it as bytes. Then the connection is done with
        this exchange, and does not call ``released``.
        """

    def broke(self, error: GatewayError, *, untouched: bool) -> None:
        """No response will come. ``untouched``: a kept connection ended before a byte of an answer arrived."""

    def released(self, *, aborted: bool = False) -> None:
        """The connection is done with this exchange. ``aborted``: in the middle of the response's content."""

    def abandoned(self) -> None:
        """The target is known to be silent: whoever may ask another does."""

    def upload_paused(self) -> None: ...

    def upload_resumed(self) -> None: ...


class Keeper(Protocol):
    """The pool that a connection goes back to."""

    wheel: Wheel
    heads: ResponseHeads
    response_timeout: float
    idle_timeout: float
    keep_timeout: float
    max_age: float
    max_uses: int

    def release(self, connection: UpstreamConnection) -> None: ...

    def lost(self, connection: UpstreamConnection) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """
    A connection. Its transport is a native one, or TLS over one.

    :ivar uses: how many exchanges were begun on it. :ivar transport: None before it is made, and once it is lost.
    :ivar fault: why it was lost, if TLS says so. :ivar address: the other end's, if the target has a name.
    """

    __slots__ = (
        "_activity",
        "_body",
        "_buffer",
        "_chunked_in",
        "_exchange",
        "_expires",
        "_keep",
        "_left_in",
        "_paused",
        "_pool",
        "_seen",
        "_sending",
        "_touched",
        "_turn",
        "address",
        "chunked_out",
        "fault",
        "next_check",
        "transport",
        "uses",
    )

    chunked_reader: ClassVar[type[ChunkedReader]] = ChunkedReader

    def __init__(self, pool: Keeper) -> None:
        self._pool = pool
        self.transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._buffer = b""  # an incomplete head, or content that waits for the next turn
        self._seen = 0  # bytes of an incomplete head that were looked at
        self._touched = 0  # 1 once a byte of an answer has arrived, and one more for each 1xx response
        self._body: Body | None = None
        self._left_in = -1
        self._chunked_in: ChunkedReader | None = None
        self._keep = True
        self._sending = False
        self._paused = False  # by the reader of the content
        self._turn = False  # paused until the next turn of the loop
        self._activity = 0.0
        self._expires = inf
        self.address = ""
        self.chunked_out = False
        self.fault: UpstreamFault | None = None
        self.next_check = 0.0
        self.uses = 0

    @property
    def usable(self) -> bool:
        """Whether another exchange may begin on it."""
        return self.transport is not None and not self.transport.is_closing() and self._exchange is None

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._body is not None:
            self._activity = self._pool.wheel.clock()
            if self._buffer:
                self._buffer += data
            else:
                self._take(data)
            return
        if self._exchange is None:
            self.abort()  # bytes that nobody asked for
            return
        if not self._touched:
            self._touched = 1
        if self._buffer:
            seen = self._seen
            data = self._buffer + data
            if data.find(b"\r\n\r\n", max(seen - 3, 0)) < 0:  # a head that comes byte by byte is read once
                try:
                    self._incomplete_head(data, seen)
                except UpstreamFault as error:
                    self._break(error)
                return
            self._buffer = b""
            self._seen = 0
        heads = self._pool.heads
        try:
            while True:
                end = data.find(b"\r\n\r\n")
                if end < 0:
                    self._incomplete_head(data)
                    return
                block = data[: end + 2]
                head = heads.known.get(block) or heads.get(block)
                data = data[end + 4 :]
                if head.status >= 200:
                    break
                if head.status == 101:
                    raise UpstreamFault("the service switched protocols unasked", reason="upstream_protocol_error")
                self._touched += 1
                if self._touched > MOST_INFORMATIONAL + 1:
                    raise UpstreamFault("the service sends 1xx without end", reason="upstream_protocol_error")
                self._exchange.informational(head)
                if not data or self._exchange is None:
                    return
        except GatewayError as error:
            self._break(error)
            return
        self._answer(head, data)

    def eof_received(self) -> bool:
        if self._body is not None and self._left_in < 0 and self._chunked_in is None:
            self._keep = False
            self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        while self._buffer and self._body is not None:  # it was received before, and may be all that was missing
            data, self._buffer = self._buffer, b""
            self._take(data)
        self._chunked_in = None
        if isinstance(exc, TLSBroken):  # such as by an alert: TLS 1.3 tells last what it thinks of our certificate
            self.fault = UpstreamFault(f"TLS with the service failed: {exc}", reason="upstream_tls_failed")
        pool = self._pool
        pool.wheel.forget(self)
        body, self._body = self._body, None
        exchange = self._exchange
        if body is not None:
            self._exchange = None
            if exchange is not None:
                exchange.released(aborted=True)
            body.fail(UpstreamFault("the service broke off its answer", reason="upstream_aborted"))
        elif exchange is not None:
            self._exchange = None
            untouched = self.uses > 1 and not self._touched
            exchange.released()
            exchange.broke(
                self.fault
                or UpstreamFault("the service closed the connection without an answer", reason="upstream_reset"),
                untouched=untouched,
            )
        pool.lost(self)

    def made(self, now: float) -> None:
        """It belongs to its pool from now on."""
        pool = self._pool
        if pool.max_age:
            self._expires = now + pool.max_age
        pool.wheel.watch(self, min(now + pool.keep_timeout, self._expires))

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.upload_paused()

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._activity = self._pool.wheel.clock()
            self._exchange.upload_resumed()

    # Sending

    def begin(self, exchange: Exchange, head: bytes, now: float, *, upload: bool) -> None:
        """
        Send a request's head.

        :param upload: content follows, by ``send`` and ``finish_upload``.
        """
        self._exchange = exchange
        self._touched = 0
        if upload:
            self._sending = True
        self.uses += 1
        self._activity = now
        pool = self._pool
        if self.uses == pool.max_uses:
            self._keep = False
        at = now + pool.response_timeout
        if not 0.0 < self.next_check <= at:
            pool.wheel.watch(self, at)
        self.transport.write(head)  # type: ignore[union-attr]

    def send(self, data: bytes) -> None:
        """Send a piece of the request's content."""
        transport = self.transport
        if transport is not None and self._sending and data:
            self._activity = self._pool.wheel.clock()
            transport.write(chunk(data) if self.chunked_out else data)

    def finish_upload(self, trailers: list[Pair] | None) -> None:
        """The request's content is complete."""
        if self._sending:
            self._sending = False
            if self.chunked_out and self.transport is not None:
                self.transport.write(last_chunk(trailers))

    # Receiving

    def take_turn(self) -> None:
        """Handle the next part of the content that was received: the others had their turn."""
        self._turn = False
        if self._buffer and self._body is not None and not self._paused:
            data, self._buffer = self._buffer, b""
            self._take(data)
        self._read_on()

    def _wait_turn(self) -> None:
        """Stop reading until the others have had their turn."""
        transport = self.transport
        if not self._turn and transport is not None:
            self._turn = True
            transport.pause_reading()
            self._pool.wheel.turns.wait(self)

    def _read_on(self) -> None:
        transport = self.transport
        if transport is not None and not self._paused and not self._turn and not transport.is_closing():
            transport.resume_reading()

    def _incomplete_head(self, data: bytes, seen: int = 0) -> None:
        if len(data) > LONGEST_RESPONSE_HEAD + 3:
            raise UpstreamFault("the service's answer has too long a head", reason="upstream_protocol_error")
        at = seen - data.endswith(b"\r", 0, seen)
        if data.count(b"\n", at) != data.count(b"\r\n", at) or not b"HTTP/1.".startswith(data[:7]):
            raise UpstreamFault(
                "the service's answer can't be understood: it is not HTTP/1", reason="upstream_protocol_error"
            )
        self._buffer = data
        self._seen = len(data)

    def _answer(self, head: ResponseHead, rest: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        now = self._activity = self._pool.wheel.clock()  # not before: the time is for the whole head
        if head.close:
            self._keep = False
        status = head.status
        length = head.content_length
        if exchange.request_method == b"HEAD" or status in {204, 304}:
            if rest:
                self._keep = False
            self._free()
            exchange.answered(head, b"", now)
        elif head.chunked:
            reader = self._chunked_in = self.chunked_reader()
            try:
                content, end = reader.feed(rest) if rest else (b"", 0)
            except MalformedChunks as error:
                self._break(UpstreamFault(f"the service's answer is broken: {error}", reason="upstream_protocol_error"))
                return
            if reader.ended and not reader.trailers:
                if end < len(rest):
                    self._keep = False
                self._free()
                exchange.answered(head, content, now)
                return
            if not reader.ended:
                if end < len(rest):
                    self._buffer = rest[end:]
                    self._wait_turn()
                self._stream(exchange, head, None, content)
                return
            if end < len(rest):
                self._keep = False
            body = Body(None)  # a stream for the sake of its trailers
            if content:
                body.feed(content)
            body.end(reader.trailers)
            self._over()
            exchange.answered(head, body, now)
        elif length >= 0:
            size = len(rest)
            if size >= length:
                if size > length:
                    self._keep = False  # more than announced: nothing that follows can be trusted
                    rest = rest[:length]
                self._free()
                exchange.answered(head, rest, now)
                return
            self._left_in = length - size
            self._stream(exchange, head, length, rest)
        else:
            self._keep = False
            self._stream(exchange, head, None, rest)

    def _stream(self, exchange: Exchange, head: ResponseHead, length: int | None, content: bytes) -> None:
        """The answer's head is here, its content only in part."""
        body = self._body = Body(self, length)
        if content:
            body.feed(content)
        pool = self._pool
        pool.wheel.watch(self, self._activity + pool.idle_timeout)
        exchange.answered(head, body, self._activity)

    def _take(self, data: bytes) -> None:
        """More of the response's content."""
        body = self._body
        assert body is not None
        reader = self._chunked_in
        if reader is not None:
            try:
                content, end = reader.feed(data)
            except MalformedChunks as error:
                self._body = None
                self._exchange, exchange = None, self._exchange
                if exchange is not None:
                    exchange.released(aborted=True)
                self.abort()
                body.fail(UpstreamFault(f"the service's answer is broken: {error}", reason="upstream_protocol_error"))
                return
            if reader.ended:
                if end < len(data):
                    self._keep = False
            elif end < len(data):
                self._buffer = data[end:]
                self._wait_turn()
            elif end >= LARGEST_READ:
                self._wait_turn()
            if content:
                body.feed(content)
            if reader.ended:
                self._end(reader.trailers)
            return
        left = self._left_in
        if len(data) >= LARGEST_READ:
            self._wait_turn()
        if left < 0:
            body.feed(data)
            return
        left -= len(data)
        if left > 0:
            self._left_in = left
            body.feed(data)
            return
        if left < 0:
            self._keep = False
            data = data[:left]
        body.feed(data)
        self._end(None)

    def _end(self, trailers: list[Pair] | None) -> None:
        body, self._body = self._body, None
        self._over()
        if body is not None:
            body.end(trailers)

    def _over(self) -> None:
        """The stream to the exchange has ended."""
        exchange = self._exchange
        self._left_in = -1
        if exchange is not None:
            self._exchange = None
            exchange.released()
        self._free()

    def _free(self) -> None:
        """The exchange has all that it gets from here: back to the pool, or close."""
        self._exchange = None
        self._chunked_in = None
        transport = self.transport
        if transport is None:
            return
        if self._sending:
            transport.abort()  # to close is to wait until the service has read what nobody will complete
        elif self._keep:
            if self._paused:  # by whoever was handed the last piece
                self._paused = False
                self._read_on()
            self._pool.release(self)
        else:
            transport.close()

    def _break(self, error: GatewayError) -> None:
        exchange, self._exchange = self._exchange, None
        self.abort()
        if exchange is not None:
            exchange.released()
            exchange.broke(error, untouched=False)

    # The response's body asks

    def body_wanted(self) -> None:
        pass

    def pause_body(self) -> None:
        if not self._paused and self.transport is not None:
            self._paused = True
            if not self._turn:
                self.transport.pause_reading()

    def resume_body(self) -> None:
        if self._paused:
            self._paused = False
            self._activity = self._pool.wheel.clock()
            if self._buffer:
                self._wait_turn()  # what is here already comes first
            else:
                self._read_on()

    def cancel_body(self) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Nobody wants the answer any more: what is still to come can only be cut off."""
        body, self._body = self._body, None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.released()
        self.abort()
        if body is not None:  # whoever reads it must not wait for the rest
            body.fail(ClientGone("the exchange was cancelled"))

    def abandon(self) -> None:
        """The target is known to be silent: an exchange without an answer may go elsewhere."""
        if self._exchange is not None and self._body is None:
            self._exchange.abandoned()

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.abort()

    def retire(self) -> None:
        """Close it: now if it is idle, else at the end of its exchange."""
        self._keep = False
        if self._exchange is None:
            self.close()

    def close(self) -> None:
        """Close the idle connection."""
        if self.transport is not None:
            self.transport.close()

    def check(self, now: float) -> float:
        """The wheel's look: a service that does not answer, or a connection kept long enough."""
        if now >= self._expires:
            self._expires = inf
            self.retire()
            if self._exchange is None:
                return now + self._pool.keep_timeout
        due = self._look(now)
        if not due:
            return due
        # Not only when the exchange is due: it may end before, and the connection must not be kept until then.
        return min(due, self._expires, now + self._pool.keep_timeout)

    def _look(self, now: float) -> float:
        pool = self._pool
        exchange = self._exchange
        if exchange is None:
            transport = self.transport
            if transport is not None and transport.is_closing():
                transport.abort()  # the service does not read what was sent
                return 0.0
            if now >= self._activity + pool.keep_timeout:
                self.close()
                return now + pool.keep_timeout
            return self._activity + pool.keep_timeout
        if self._body is not None:
            if self._paused:
                return now + pool.idle_timeout
            if now >= self._activity + pool.idle_timeout:
                body, self._body = self._body, None
                self._exchange = None
                exchange.released(aborted=True)
                self.abort()
                fault = "the service stopped in the middle of its answer"
                body.fail(UpstreamFault(fault, status=504, reason="upstream_timeout"))
                return 0.0
            return self._activity + pool.idle_timeout
        if now >= self._activity + pool.response_timeout:
            self._break(UpstreamFault("the service did not answer in time", status=504, reason="upstream_timeout"))
            return 0.0
        return self._activity + pool.response_timeout
