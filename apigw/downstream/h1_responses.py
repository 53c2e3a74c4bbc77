"""
``ResponseWriter``: the writing side of one HTTP/1 connection: responses to bytes, paced by the client.

Framing and connection fields are decided here alone, whatever a policy or a service said of them.

Not here: requests (``h1_requests``), the end of an exchange (``h1_channel``).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from http import HTTPStatus

from apigw.downstream.h1_requests import GRACE, LINGER, RequestReader
from apigw.exchange.body import Body
from apigw.exchange.errors import GatewayError, GatewayFault
from apigw.exchange.headers import Pair
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.http.chunked import chunk, last_chunk
from apigw.http.dates import http_date
from apigw.http.fields import HOP_BY_HOP, serialise

STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
MOST_REFUSED = 100
"""Requests refused in a row (4xx made by the gateway) after which a connection is closed."""
_NO_LINGER = struct.pack("ii", 1, 0)


class ResponseWriter(RequestReader):
    """A connection's writing side."""

    __slots__ = ()

    # Responses

    def send_informational(self, status: int, headers: list[Pair]) -> None:
        """Send a 1xx response ahead of the final one, to those who know them (HTTP/1.1)."""
        request = self._request
        transport = self._transport
        if request is None or self._status or transport is None or request.version == b"1.0" or self._write_paused:
            return
        line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        transport.write(line + serialise(headers) + b"\r\n")
        if status == 100:  # only now the client begins to send
            self._due = self.site.clock() + GRACE
            self.site.wheel.watch(self, self._due)

    def watch_deadline(self) -> None:
        """The request got a deadline."""
        if self._request is not None:
            self.site.wheel.watch(self, self._request.deadline)

    def _respond_error(self, request: Request, error: GatewayError) -> None:
        self.respond(request, problem(request, error))

    def _fail(self, request: Request, error: GatewayError) -> None:
        """Answer the exchange at work with ``error``, or break its response off; then stop what is done for it."""
        # In this order: a coroutine that is cancelled answers too, and that answer comes too late.
        cancellers, request._cancellers = request._cancellers, None
        if self._status:
            body, self._response_body = self._response_body, None
            self.body_failed(error)
            if body is not None:
                body.cancel()
        else:
            self._respond_error(request, error)
        request._cancellers = cancellers
        request.cancel()

    def respond(self, request: Request, response: Response) -> None:
        """Write the response to ``request``. The ``done`` of all responders."""
        transport = self._transport
        if self._request is not request or transport is None or self._status:
            response.discard()  # the client went away, or the time was up
            return
        status = response.status
        body = response.body
        lines = response.lines
        if lines is None:
            try:
                lines = self._lines(request, response)
            except ValueError:
                response.discard()
                response = problem(
                    request, GatewayFault("a header field of the response can't be sent", reason="invalid_response")
                )
                status, body = response.status, response.body
                lines = self._lines(request, response)
        self._status = status
        if response.error is not None:
            self._count_refusal(status)
        elif self._refusals:
            self._refusals = 0
        if self._body is not None or self._linger:
            self._close = True  # the request's content was not read to its end, and won't be
        if self._close:
            connection = b"Connection: close\r\n\r\n"
        elif request.version == b"1.0":
            connection = b"Connection: keep-alive\r\n\r\n"
        else:
            connection = b"\r\n"
        no_content = request.method == b"HEAD" or status in {204, 304}
        if type(body) is bytes and not no_content:
            self._bytes_out = size = len(body)
            origin = response.origin
            if (
                origin is not None
                and lines is origin.lines
                and size == origin.content_length
                and status == origin.status
            ):
                transport.write(origin.block + connection + body)
                self._finish()
                return
        line = STATUS_LINES.get(status) if not response.phrase else None
        if line is None:
            line = b"HTTP/1.1 %d %b\r\n" % (status, response.phrase)
        if type(body) is bytes:
            if no_content:
                if request.method == b"HEAD" and body and b"content-length" not in response.headers:
                    lines += b"Content-Length: %d\r\n" % len(body)
                head = line + lines + connection
            else:
                head = b"%b%bContent-Length: %d\r\n%b%b" % (line, lines, len(body), connection, body)
            transport.write(head)
            self._finish()
            return
        assert isinstance(body, Body)
        if no_content:
            body.cancel()
            head = line + lines + connection
            transport.write(head)
            self._finish()
            return
        if body.length is not None:
            self._chunked_out = False
            lines += b"Content-Length: %d\r\n" % body.length
        elif request.version == b"1.0":
            self._chunked_out = False
            self._close = True
            connection = b"Connection: close\r\n\r\n"
        else:
            self._chunked_out = True
            lines += b"Transfer-Encoding: chunked\r\n"
        self._response_body = body
        self._headless = [line, lines, connection]
        body.subscribe(self)
        if self._headless is not None:  # nothing was there yet: a stream's head does not wait for its first piece
            self._flush_head(b"")
        if self._write_paused and self._response_body is not None:
            self._response_body.pause()

    def _count_refusal(self, status: int) -> None:
        """Close the connection of a client of which nothing but refused requests comes."""
        if status < 500:
            self._refusals += 1
            if self._refusals >= MOST_REFUSED:
                self._linger = self.site.clock() + LINGER  # more requests are on their way

    def _lines(self, request: Request, response: Response) -> bytes:
        """
        The field lines of a response that the gateway made or changed.

        :raises ValueError: when one of them can't be written.
        """
        lines = serialise(response.headers.pairs)
        lower = lines.lower()
        if b"content-length:" in lower or b"connection:" in lower or b"transfer-encoding:" in lower:
            # Framing is ours alone: what a policy says of it could make one response look like two.
            bodiless = request.method == b"HEAD" or response.status == 304
            lines = serialise(
                pair
                for pair in response.headers.pairs
                if (name := pair[0].lower()) not in HOP_BY_HOP and (bodiless or name != b"content-length")
            )
        if b"date:" not in lower or b"date" not in response.headers:
            lines += http_date(self.site.clock())
        return lines

    def _flush_head(self, data: bytes) -> None:
        head = self._headless
        assert head is not None
        self._headless = None
        head.append(data)
        self._write(b"".join(head))

    def _write(self, data: bytes) -> None:
        if self._eof_at:
            self._eof_at = self.site.clock()
        if self._transport is not None:
            self._transport.write(data)

    # The response's body says

    def body_data(self, data: bytes) -> None:
        self._bytes_out += len(data)
        if self._chunked_out:
            if not data:
                return
            data = chunk(data)
        if self._headless is not None:
            self._flush_head(data)
        else:
            self._write(data)

    def body_end(self, trailers: list[Pair] | None) -> None:
        self._response_body = None
        end = last_chunk(trailers) if self._chunked_out else b""
        if self._headless is not None:
            self._flush_head(end)
        elif end:
            self._write(end)
        self._finish()

    def body_failed(self, error: GatewayError) -> None:
        """The response can't be completed: cut the connection, so that the client sees that it is not whole."""
        self._response_body = None
        request = self._request
        if request is None:
            return
        if self._headless is not None:  # nothing of it was sent: the client can still be told
            self._headless = None
            self._status = 0
            self._respond_error(request, error)
            return
        request.reason = error.reason
        self._close = True
        self._ended()
        if self._transport is not None:
            self._cut(self._transport)

    def _cut(self, transport: asyncio.Transport) -> None:
        """
        Reset the connection in the middle of a response.

        A clean close would make a response that its end delimits look complete, and abort() alone is one: the loop
        drops what is not written and closes. With a linger time of zero it is a reset (socket(7)).
        """
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()

    # What the side above this one does

    def _finish(self) -> None:
        """The response is written: log it, and go on."""
        raise NotImplementedError

    def _ended(self) -> None:
        raise NotImplementedError
