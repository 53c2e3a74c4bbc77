"""
TLS towards clients: a connection's first message, its handshake, and then a transport for the protocol inside.

    store = CertificateStore(["/etc/apigw/certificates"])
    server = TLSServer(store, inner_factory, loop, failed=count)
    await loop.create_server(server, sock=...)

The protocol inside is made, and its ``connection_made`` called, when the handshake is over. What it writes to is a
``TLSTransport``; ``get_extra_info("server_name")`` and ``("alpn")`` say what was agreed.

Why not ``create_server(ssl=...)``: the certificate, and with it the rules for client certificates, must be chosen
before the handshake's state is made (``client_hello``), plain HTTP deserves an answer, and failures should be counted.

Not here: which certificate (``certificates``), the open connection (``tls_transport``), upstreams (``tls_client``).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from apigw.json_text import show
from apigw.net.certificates import CertificateStore
from apigw.net.client_hello import ClientHello, ClientHelloError, ClientHelloReader, NotTLS
from apigw.net.tls_transport import Framing, TLSBroken, TLSTransport
from apigw.net.turns import TURNS

RECORD: Final = 16 * 1024
"""Most plain text of a record (RFC 8446 5.1): a read of this size takes a record whole, so none is ever left over."""

DECODE_ERROR: Final = 50
NO_APPLICATION_PROTOCOL: Final = 120

_PROBLEM: Final = show(
    {
        "type": "urn:apigw:problem:plain_http_on_tls_port",
        "title": "Bad Request",
        "status": 400,
        "detail": "This port speaks HTTPS, and the request came as plain HTTP: use https:// in its URL.",
        "reason": "plain_http_on_tls_port",
    }
).encode()
PLAIN_HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nDate: %b\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b"
)

LINGER: Final = 2.0
"""Seconds in which a plain HTTP client may take its answer. Closing at once would reset what it is still sending."""


@dataclass(frozen=True, slots=True)
class HandshakeFailure:
    """
    A connection that never became one.

    :ivar reason: ``plain_http_on_tls_port``, ``not_tls``, ``client_hello_invalid``, ``no_application_protocol``,
        ``handshake_failed``, ``handshake_timeout`` or ``closed_early``.
    :ivar detail: for the log: what OpenSSL, or the client by its alert, said.
    :ivar peer: the client's address, as ``get_extra_info("peername")`` has it.
    """

    reason: str
    detail: str
    peer: object


class ServerRecords:
    """``Records`` by the standard library's ssl, from the handshake on."""

    __slots__ = ("_incoming", "_outgoing", "ended", "framing", "tls")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.ended = False
        self.framing = Framing()

    def handshake(self, data: bytes) -> bool:
        """
        Take the client's next bytes; whether the handshake is over. ``output`` has what to send.

        :raises TLSBroken: it failed.
        """
        self._incoming.write(data)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TLSBroken(_said(error)) from error
        return True

    def decrypt(self, data: bytes | memoryview) -> bytes:
        incoming = self._incoming
        incoming.write(data)
        read = self.tls.read
        pieces = []
        try:
            while not self.ended:
                piece = read(RECORD)
                if piece:
                    pieces.append(piece)
                    if not incoming.pending:  # saves the exception for most reads
                        break
                else:
                    self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise TLSBroken(_said(error)) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        try:
            done = self.tls.write(data)
            while done < len(data):
                done += self.tls.write(memoryview(data)[done:])
        except ssl.SSLError as error:
            raise TLSBroken(_said(error)) from error
        return self._outgoing.read()

    def end(self) -> bytes:
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # it waits for the other side's mark, which we don't; or all is broken already
        return self._outgoing.read()

    def output(self) -> bytes:
        return self._outgoing.read() if self._outgoing.pending else b""


def _said(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


class TLSServer:
    """
    A listener's TLS: what its connections have in common. Calling it makes the protocol of a new connection.

    :ivar waiting: connections whose handshake is not over; they are not yet the inside's to count or to close.
    """

    def __init__(
        self,
        store: CertificateStore,
        inner_factory: Callable[[], asyncio.Protocol],
        loop: asyncio.AbstractEventLoop,
        *,
        handshake_timeout: float = 10.0,
        failed: Callable[[HandshakeFailure], None] | None = None,
    ) -> None:
        """
        :param inner_factory: makes the protocol inside, after the handshake.
        :param handshake_timeout: seconds from the connection to the handshake's end.
        :param failed: is told of each connection that did not get so far. One that sent no byte at all is none: load
            balancers look in like that.
        """
        self.store = store
        self.inner_factory = inner_factory
        self.loop = loop
        self.handshake_timeout = handshake_timeout
        self.failed = failed
        self.waiting: set[TLSServerProtocol] = set()

    def __call__(self) -> TLSServerProtocol:
        return TLSServerProtocol(self)

    def abort(self) -> None:
        """Cut the connections whose handshake is not over."""
        for protocol in list(self.waiting):
            protocol.abort()


class TLSServerProtocol(asyncio.Protocol):
    """
    A connection until its handshake is over; then ``TLSTransport`` has its place.

    :ivar since: when it was accepted, in the loop's time.
    """

    __slots__ = (
        "_hello",
        "_over",
        "_reader",
        "_records",
        "_server",
        "_timer",
        "_transport",
        "_waiting_hello",
        "since",
    )

    def __init__(self, server: TLSServer) -> None:
        self._server = server
        self._reader: ClientHelloReader | None = ClientHelloReader()
        self._hello: ClientHello
        self._records: ServerRecords | None = None
        self._waiting_hello = b""
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's, always
        self._timer = self._server.loop.call_later(self._server.handshake_timeout, self._timed_out)
        self._server.waiting.add(self)
        self.since = self._server.loop.time()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if self._records is not None:
            self._go_on(self._records, data)
        elif self._reader is not None:
            self._read_hello(self._reader, data)

    def _read_hello(self, reader: ClientHelloReader, data: bytes) -> None:
        try:
            hello = reader.feed(data)
        except NotTLS as error:
            if error.looks_like_http:
                self._answer_plain_http()
            else:
                self._end("not_tls", "the first bytes are no TLS")
            return
        except ClientHelloError as error:
            self._end("client_hello_invalid", str(error), alert=DECODE_ERROR)
            return
        if hello is None:
            return
        store = self._server.store
        if hello.alpn and not any(protocol in store.alpn for protocol in hello.alpn):
            # RFC 7301 3.2. OpenSSL, by way of the standard library, would go on as if nothing had been asked.
            offered = ", ".join(ascii(name.decode("latin-1"))[1:-1] for name in hello.alpn[:5])
            self._end("no_application_protocol", f"the client offers only {offered}", alert=NO_APPLICATION_PROTOCOL)
            return
        self._hello = hello
        self._reader = None
        self._records = ServerRecords(store.choose(hello.server_name))
        # To sign takes up to a millisecond: many that come at once must not hold up the others.
        self._waiting_hello = bytes(reader.raw)
        self._transport.pause_reading()
        TURNS.wait(self)

    def take_turn(self) -> None:
        """Answer the ClientHello."""
        if self._over or self._records is None:
            return
        self._transport.resume_reading()
        data, self._waiting_hello = self._waiting_hello, b""
        self._go_on(self._records, data)

    def _go_on(self, records: ServerRecords, data: bytes) -> None:
        while data and not self._over:
            cut = records.framing.cut(data)
            data, rest = data[:cut], data[cut:]
            self._handshake(records, data, rest)
            data = rest

    def _handshake(self, records: ServerRecords, data: bytes, rest: bytes) -> None:
        """
        :param rest: what came behind ``data``.
        """
        try:
            done = records.handshake(data)
        except TLSBroken as error:
            output = records.output()
            if output:
                self._transport.write(output)
            self._end("handshake_failed", str(error))
            return
        output = records.output()
        if output:
            self._transport.write(output)
        if done:
            self._over = True
            self._stop_timer()
            self._server.waiting.discard(self)
            extra = {
                "server_name": self._hello.server_name,
                "alpn": records.tls.selected_alpn_protocol(),
                "ssl_object": records.tls,
            }
            TLSTransport(self._transport, records, extra).start(self._server.inner_factory(), rest)

    def eof_received(self) -> bool:
        if not self._over:
            self._closed_early()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over:
            self._closed_early()
        self._stop_timer()
        self._server.waiting.discard(self)

    def abort(self) -> None:
        """Cut it; that is no failure of the client's."""
        self._over = True
        self._transport.abort()

    def give_way(self) -> bool:
        """Cut it, because its descriptor is needed; whether it still was there."""
        if self._over:
            return False
        self._server.waiting.discard(self)
        self.abort()
        return True

    def _closed_early(self) -> None:
        if self._records is not None or (self._reader is not None and self._reader.raw):
            self._end("closed_early", "the client left during the handshake")
        else:
            self._over = True

    def _timed_out(self) -> None:
        self._timer = None
        if self._over:
            self._transport.abort()  # it had its time to take the answer
        else:
            self._end("handshake_timeout", f"no handshake within {self._server.handshake_timeout:g} s")

    def _answer_plain_http(self) -> None:
        self._over = True
        self._stop_timer()
        self._report("plain_http_on_tls_port", "plain HTTP on a port that speaks TLS")
        date = formatdate(usegmt=True).encode()
        head = self._reader is not None and self._reader.raw.startswith(b"HEAD ")
        self._transport.write(PLAIN_HTTP_ANSWER % (date, len(_PROBLEM), b"" if head else _PROBLEM))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._timer = self._server.loop.call_later(LINGER, self._timed_out)

    def _end(self, reason: str, detail: str, alert: int | None = None) -> None:
        self._over = True
        self._stop_timer()
        self._report(reason, detail)
        if alert is not None:
            self._transport.write(bytes((21, 3, 3, 0, 2, 2, alert)))  # a fatal alert, in a record of its own
        self._transport.close()

    def _report(self, reason: str, detail: str) -> None:
        if self._server.failed is not None:
            self._server.failed(HandshakeFailure(reason, detail, self._transport.get_extra_info("peername")))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
