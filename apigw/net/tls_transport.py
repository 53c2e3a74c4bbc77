"""
An open TLS connection, as the asyncio transport that the protocol inside writes to.

Between the loop's own transport outside (uvloop's native one) and a protocol inside that knows nothing of TLS. The
handshake is over when one of these is made (``tls`` and ``tls_client`` do it), so there is only: open, closing, closed.

Bytes are copied as little as Python allows, and memory is bounded: plain text goes through OpenSSL in ``PIECE``s, and
what the client is too slow to take waits as plain text, not as a second copy in cipher text.

Not here: OpenSSL itself (``Records``, of which there are two), handshakes, whom to trust.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol

from apigw.net.turns import LARGEST_READ, TURNS

PIECE: Final = 64 * 1024
"""
Bytes through OpenSSL at a time. Its buffers keep the size that they once had for as long as the connection lives, and
an idle connection should be small.
"""
MOST_RECORDS: Final = 32
"""
TLS records of a connection that are read in one turn of the loop. A read of uvloop holds 17 full ones; but a record may
hold a single byte, or ask for new keys, which takes OpenSSL 0.1 ms.
"""
MOST_UNSENT: Final = 1024 * 1024
"""Bytes that wait for the other side when TLS itself has to answer it; then the connection is cut."""


class TLSTruncated(ConnectionError):
    """
    The connection ended without TLS's end mark (RFC 8446 6.1): whoever cuts a connection can cut a message short.

    Many clients are as careless when they have nothing more to ask.
    """


class TLSBroken(ConnectionError):
    """What came in was no TLS record under our keys, or the other side sent an alert that ends the connection."""


class Framing:
    """
    Where the records of one direction begin and end (RFC 8446 5.1): fed with all bytes, from the connection's first on.

    OpenSSL can't be told to stop after so many records, so it is given no more of them.
    """

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""  # of a record whose length is not known yet
        self._left = 0  # bytes of the record that was begun

    def cut(self, data: bytes) -> int:
        """How many of these bytes hold ``MOST_RECORDS`` records. The rest, if there is one, must be fed again."""
        size = len(data)
        if not self._left and not self._head and size > 4 and size == 5 + (data[3] << 8 | data[4]):
            return size
        at = self._left
        records = 0
        while at < size:
            if records == MOST_RECORDS:
                self._left = 0
                return at
            missing = 5 - len(self._head)
            head = self._head + data[at : at + missing]
            if len(head) < 5:
                self._head = head
                self._left = 0
                return size
            self._head = b""
            at += missing + (head[3] << 8 | head[4])
            records += 1
        self._left = at - size
        return size


class Records(Protocol):
    """TLS after its handshake, without sockets: cipher text on one side, plain text on the other."""

    ended: bool
    """The other side said that it sends no more (close_notify)."""
    framing: Framing

    def decrypt(self, data: bytes | memoryview) -> bytes:
        """
        Take cipher text; all plain text that it completes.

        :raises TLSBroken: the connection is of no use any more; ``output`` may hold an alert.
        """

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """
        Plain text to cipher text, with whatever TLS had to send besides.

        :raises TLSBroken: the connection is of no use any more.
        """

    def end(self) -> bytes:
        """Our close_notify, as cipher text."""

    def output(self) -> bytes:
        """What TLS has to send of itself: alerts, key updates. Mostly nothing."""


class TLSTransport(asyncio.Transport, asyncio.Protocol):
    """
    Towards the loop a protocol, towards the protocol inside a transport.

    ``get_extra_info`` knows ``server_name``, ``alpn``, ``ssl_object``, and what the outer transport knows. ``close``
    sends the end mark after all that was written; ``write_eof`` does so too, and reading goes on. The inside's
    ``connection_lost`` gets None only after the other side's end mark or our own ``close``, else what went wrong.
    """

    __slots__ = (
        "_closing",
        "_eof_delivered",
        "_eof_written",
        "_failure",
        "_framing",
        "_inner",
        "_inner_paused",
        "_lost",
        "_outer",
        "_outer_full",
        "_reading_paused",
        "_records",
        "_turn",
        "_undelivered",
        "_waiting",
        "_waiting_size",
    )

    _extra: dict[str, Any]

    def __init__(self, outer: asyncio.Transport, records: Records, extra_info: dict[str, Any]) -> None:
        super().__init__(extra_info)
        self._outer = outer
        self._records = records
        self._framing = records.framing
        self._inner: asyncio.Protocol
        self._waiting: deque[bytes | memoryview] | None = None  # plain text that the outer transport has no room for
        self._waiting_size = 0
        # Cipher text that came while the inside did not read, or waits for a turn; None is the connection's end.
        self._undelivered: deque[bytes | None] | None = None
        self._failure: Exception | None = None
        self._outer_full = False
        self._inner_paused = False
        self._reading_paused = False
        self._turn = False  # the outer transport is paused until the next turn of the loop
        self._eof_written = False
        self._eof_delivered = False
        self._closing = False
        self._lost = False

    def start(self, inner: asyncio.Protocol, first: bytes = b"") -> None:
        """
        Take the outer transport over, and show the inside its transport.

        :param first: cipher text that came together with the handshake's end; records may hold some of it already.
        """
        self._inner = inner
        self._outer.set_protocol(self)
        inner.connection_made(self)
        self.data_received(first)

    # -- from the outer transport

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._reading_paused or self._turn:
            # What came together with the handshake's end, to an inside that does not want it yet.
            self._deliver_later(data)
            return
        records = self._records
        size = len(data)
        cut = self._framing.cut(data) if data else 0
        if cut < size:
            self._wait_turn(data[cut:])
        elif size >= LARGEST_READ:
            self._wait_turn()
        try:
            if cut <= PIECE:
                plain = records.decrypt(data if cut == size else data[:cut])
            else:
                view = memoryview(data)
                plain = b"".join([records.decrypt(view[at : min(at + PIECE, cut)]) for at in range(0, cut, PIECE)])
            if cut < size and not plain and not records.ended:
                raise TLSBroken(f"{MOST_RECORDS} records without content")
        except TLSBroken as error:
            self._fail(error)
            return
        if plain:
            self._inner.data_received(plain)
        if records.ended:
            if self._reading_paused:
                self._deliver_later(None)
            else:
                self._deliver_eof()
        reply = records.output()
        if reply and not self._lost and not self._eof_written:
            self._outer.write(reply)
            if self._outer_full and self._outer.get_write_buffer_size() > MOST_UNSENT:
                self.abort()

    def _wait_turn(self, rest: bytes | None = None) -> None:
        """Stop reading until the others have had their turn; then go on with ``rest``."""
        if rest is not None:
            if self._undelivered is None:
                self._undelivered = deque()
            self._undelivered.appendleft(rest)
        if not self._turn:
            self._turn = True
            self._outer.pause_reading()
            TURNS.wait(self)

    def take_turn(self) -> None:
        """Go on with what was received: the others had their turn."""
        self._turn = False
        self._deliver_undelivered()

    def eof_received(self) -> bool:
        if self._undelivered:
            self._deliver_later(None)  # it must not overtake the bytes before it
            return True
        if not self._records.ended and not self._closing:
            self._fail(TLSTruncated("the connection ended without TLS's end mark"))
        return not self._closing or self._waiting is not None

    def _deliver_later(self, data: bytes | None) -> None:
        if self._undelivered is None:
            self._undelivered = deque()
        self._undelivered.append(data)

    def _deliver_undelivered(self) -> None:
        undelivered = self._undelivered
        while undelivered and not (self._reading_paused or self._turn or self._closing):
            data = undelivered.popleft()
            if data is not None:
                self.data_received(data)
            elif self._records.ended:
                self._deliver_eof()
            elif not self.eof_received():
                self._outer.close()
        if not (self._reading_paused or self._turn or self._closing):
            self._undelivered = None
            self._outer.resume_reading()

    def _deliver_eof(self) -> None:
        if self._eof_delivered or self._closing:
            return
        self._eof_delivered = True
        if not self._inner.eof_received():
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        if exc is None and not self._closing and not self._records.ended:
            exc = TLSTruncated("the connection ended without TLS's end mark")
        self._closing = True
        self._waiting = None
        self._waiting_size = 0
        self._undelivered = None
        self._inner.connection_lost(self._failure or exc)

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._closing = True
        self._waiting = None
        self._waiting_size = 0
        alert = self._records.output()
        if alert and not self._eof_written:
            self._outer.write(alert)
            self._outer.close()
        else:
            self._outer.abort()

    def pause_writing(self) -> None:
        self._outer_full = True
        if not self._inner_paused:
            self._inner_paused = True
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._outer_full = False
        self._write_waiting()
        if self._inner_paused and not self._outer_full and not self._waiting:
            self._inner_paused = False
            self._inner.resume_writing()

    # -- for the protocol inside: writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._eof_written:
            return
        if self._waiting is not None or self._outer_full or len(data) > PIECE:
            self._write_later(data)
        elif data:
            try:
                self._outer.write(self._records.encrypt(data))
            except TLSBroken as error:
                self._fail(error)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        # Joined: a head and its body's first bytes then share a record.
        self.write(b"".join(list_of_data))

    def _write_later(self, data: bytes | bytearray | memoryview) -> None:
        if not data:
            return
        if self._waiting is None:
            self._waiting = deque()
        # Who hands us something mutable may change it afterwards.
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        self._waiting.extend(view[at : at + PIECE] for at in range(0, len(view), PIECE))
        self._waiting_size += len(view)
        if not self._outer_full:
            self._write_waiting()
        if self._waiting and not self._inner_paused:
            self._inner_paused = True
            self._inner.pause_writing()

    def _write_waiting(self) -> None:
        """Encrypt as much as the outer transport has room for; then what was asked to come after it."""
        waiting = self._waiting
        if waiting is None:
            return
        try:
            while waiting and not self._outer_full:
                piece = waiting.popleft()
                self._waiting_size -= len(piece)
                self._outer.write(self._records.encrypt(piece))  # may call pause_writing
        except TLSBroken as error:
            self._fail(error)
            return
        if not waiting and self._waiting is waiting:
            self._waiting = None
            if self._closing:
                self._end(close=True)
            elif self._eof_written:
                self._end(close=False)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._eof_written and not self._closing:
            self._eof_written = True
            if self._waiting is None:
                self._end(close=False)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if self._waiting is None:
                self._end(close=True)

    def _end(self, *, close: bool) -> None:
        if not self._eof_written or not close:
            mark = self._records.end()
            if mark:
                self._outer.write(mark)
        if close:
            self._outer.close()
        elif self._outer.can_write_eof():
            self._outer.write_eof()

    def abort(self) -> None:
        self._closing = True
        self._waiting = None
        self._waiting_size = 0
        self._outer.abort()

    def is_closing(self) -> bool:
        return self._closing or self._outer.is_closing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._outer.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._outer.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        return self._waiting_size + self._outer.get_write_buffer_size()

    # -- for the protocol inside: reading, and the rest

    def pause_reading(self) -> None:
        if not self._reading_paused and not self._closing:
            self._reading_paused = True
            self._outer.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading_paused or self._closing:
            return
        self._reading_paused = False
        if self._undelivered:
            self._wait_turn()  # not from in here: whoever resumes is not expecting to be called
        elif not self._turn:
            self._outer.resume_reading()

    def is_reading(self) -> bool:
        return not self._reading_paused and not self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = protocol  # type: ignore[assignment]  # a stream's, always

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name in self._extra:
            return self._extra[name]
        return self._outer.get_extra_info(name, default)
