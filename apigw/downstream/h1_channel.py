"""
``H1Channel``: one HTTP/1 connection from a client (RFC 9112): requests in, responses out, one exchange after the other.

The way of a request: ``data_received`` finds a head, ``_begin`` makes a ``Request`` of it and hands it to the resource
tree; whatever answers calls ``respond``; ``_finish`` writes the exchange into log and metrics and goes on with what the
client sent meanwhile (pipelining: answered in order, because nothing is read ahead).

Back-pressure: a client that reads slowly pauses the response's source; a service that reads slowly pauses this
connection. A client that goes away cancels what was begun for it.

Not here: parsing (``apigw.http``), TLS (``apigw.net.tls`` stands between the socket and this), HTTP/2.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from contextlib import suppress

from apigw.downstream.h1_requests import DRAIN_GRACE, EOF_GRACE, FAR_AHEAD, LINGER, SLOW_READER, TURN
from apigw.downstream.h1_responses import ResponseWriter
from apigw.exchange.body import Body
from apigw.exchange.errors import ClientFault, ClientGone, UpstreamFault
from apigw.exchange.request import Request

SLOW_HEAD = 1.0
"""Seconds after which a client whose head is not complete counts as idle, if its place is needed."""
EOF_SILENCE = 5.0
"""Seconds that an answer which was begun may be silent then."""


class H1Channel(ResponseWriter):
    """One connection. Its transport is a uvloop (or asyncio) transport, or TLS over one."""

    __slots__ = ()

    # The end of an exchange

    def _finish(self) -> None:
        """The response is written: log it, and go on."""
        request = self._request
        if request is not None:  # `_ended`, without the call
            self._request = None
            request._cancellers = None
            self._activity = now = self.site.clock()
            self.site.finished(request, self._status, self._bytes_out, now)
        transport = self._transport
        if transport is None:
            return
        if self._close:
            if self._linger or self._body is not None:
                self._body = None
                self._linger_on(transport)
            else:
                transport.close()
            return
        if (self._pause_reasons or self._buffer or self._eof_at) and not self._looping:
            self._go_on(transport)

    def _go_on(self, transport: asyncio.Transport) -> None:
        """Serve what was pipelined; close if there is nothing and nothing more will come."""
        if self._eof_at:
            self._eof_at = self._activity
            if not self._buffer:
                transport.close()
        if self._pause_reasons & TURN:
            return
        if self._buffer and not self._write_paused:
            self._serve(*self._taken())
        elif self._pause_reasons:
            self._read_on()

    def _ended(self) -> None:
        request = self._request
        if request is None:
            return
        self._request = None
        request._cancellers = None
        self._activity = now = self.site.clock()
        self.site.finished(request, self._status, self._bytes_out, now)

    def _linger_on(self, transport: asyncio.Transport) -> None:
        """Half-close, read on for a moment, then close (RFC 9112 9.6): a reset could destroy the answer on its way."""
        self._linger = self.site.clock() + LINGER
        self._taken_in = 0
        self._buffer = b""
        self._resume(SLOW_READER | FAR_AHEAD)
        if transport.can_write_eof():
            transport.write_eof()
        self.site.wheel.watch(self, self._linger)

    def _client_gone(self) -> None:
        request = self._request
        body, self._body = self._body, None
        if request is not None:
            if not request.reason:
                request.reason = "client_gone"
            if not self._status:
                self._status = 499
            self._ended_while_working(request)
        if body is not None:
            body.fail(ClientGone("the client closed the connection before its content was complete"))

    def _ended_while_working(self, request: Request) -> None:
        cancellers, request._cancellers = request._cancellers, None
        response_body, self._response_body = self._response_body, None
        self._headless = None
        self._ended()
        if response_body is not None:
            response_body.cancel()
        request._cancellers = cancellers
        request.cancel()

    def check(self, now: float) -> float:
        """The wheel's look: end what takes too long; when to look again."""
        transport = self._transport
        if transport is None:
            return 0.0
        request = self._request
        if request is None:
            return self._check_between(transport, now)
        limits = self.site.limits
        again = now + limits.keepalive
        if self._eof_at:
            until = self._eof_at + (EOF_SILENCE if self._status else EOF_GRACE)
            if now >= until and not self._write_paused:
                self._client_gone()
                transport.abort()
                return 0.0
            again = min(again, max(until, now))
        if request.deadline:
            if now >= request.deadline:
                self._fail(
                    request, UpstreamFault("the time for this request is up", status=504, reason="deadline_exceeded")
                )
                return now + 1.0
            again = min(again, request.deadline)
        if self._body is not None and not self._pause_reasons:
            until = self._content_due(self._body, request, now)
            if now >= until:
                slow = now < self._activity + limits.body
                fault = ClientFault(
                    "the content comes too slowly" if slow else "the content took too long",
                    status=408,
                    reason="body_too_slow" if slow else "body_timeout",
                )
                self._give_up_on_body(self._body, fault)
                return now + 1.0
            again = min(again, until)
        if self._write_paused:
            until = self._reading_due(transport, now)
            if now >= until:
                request.reason = "client_too_slow"
                self._cut(transport)
                return 0.0
            again = min(again, until)
        return again

    def _content_due(self, body: Body, request: Request, now: float) -> float:
        """
        When more of the content must have come.

        Each byte gives the client ``1 / min_rate`` seconds more, up to ``timeout.body`` from now: a stall after a fast
        beginning is nothing bad, a drip is.
        """
        patience = self.site.limits.body
        if self._min_rate and not request.expects_continue:
            came = body.received - self._counted
            self._counted = body.received
            self._due = min(self._due + came / self._min_rate, now + patience)
            return min(self._due, self._activity + patience)
        return self._activity + patience

    def _reading_due(self, transport: asyncio.Transport, now: float) -> float:
        """When the client must have taken more of what was written: by the same rule, from the whole time-out on."""
        patience = self.site.limits.body
        unsent = transport.get_write_buffer_size()
        if unsent < self._unsent:
            rate = self.site.limits.min_rate
            earned = (self._unsent - unsent) / rate if rate else patience
            self._read_by = min(self._read_by + earned, now + patience)
        self._unsent = unsent
        return self._read_by

    def _check_between(self, transport: asyncio.Transport, now: float) -> float:
        """The same between two exchanges, and after the last one."""
        limits = self.site.limits
        if self._write_paused or transport.is_closing():  # the client does not take what was written
            until = self._reading_due(transport, now) if self._write_paused else self._activity + limits.body
            until = max(until, self._linger)
            if now >= until:
                self._cut(transport)
                return 0.0
            return min(until, now + DRAIN_GRACE) if self.site.draining else until
        if self._linger:
            if now >= self._linger:
                transport.abort()
                return 0.0
            return self._linger
        if self._head_since:
            if now >= self._head_since + limits.head:
                fault = ClientFault("the head took too long", status=408, reason="head_timeout")
                self._refuse(fault, self._buffer, self._at)
                return self._linger
            return self._head_since + limits.head
        # Before the first request it is its head that is waited for; an answer to nothing would only confuse.
        patience = limits.keepalive if self._status else limits.head
        until = self._activity + (DRAIN_GRACE if self.site.draining else patience)
        if now >= until:
            return now + limits.body if self._close_idle(transport) else now
        return until

    def _close_idle(self, transport: asyncio.Transport) -> bool:
        """
        Close between two requests; False if the client has sent something that the loop did not come to yet.

        The FIN goes out at once: ``close()`` waits for all that the loop has to do before, and a request that comes in
        that time would be answered by a reset. Not if a part of the last answer is still to be sent: ``close()`` sends
        it, and ``check`` ends that if the client does not read.
        """
        if self._pause_reasons & TURN:
            return False
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            with socket.socket(fileno=os.dup(sock.fileno())) as ours:
                poll = select.poll()
                poll.register(ours, select.POLLIN)
                if poll.poll(0):
                    return False
                if self.site.scheme == b"http" and not transport.get_write_buffer_size():  # TLS says goodbye before
                    with suppress(OSError):
                        ours.shutdown(socket.SHUT_WR)
        transport.close()
        return True

    # Going away

    @property
    def idle_since(self) -> float:
        """Since when it waits for a request, or for a head that takes more than a moment; 0.0 if it does not."""
        transport = self._transport
        if self._request is not None or self._linger or transport is None or self._at_work(transport):
            return 0.0
        if self._head_since > self.site.clock() - SLOW_HEAD or transport.is_closing():
            return 0.0
        return self._head_since or self._activity

    def _at_work(self, transport: asyncio.Transport) -> bool:
        """Whether there are requests that wait for their turn, or answers that the client has not received."""
        return bool(self._pause_reasons & TURN or self._write_paused or transport.get_write_buffer_size())

    def close_idle(self) -> bool:
        """Close it if it is idle; whether it was."""
        transport = self._transport
        return bool(transport is not None and self.idle_since and self._close_idle(transport))

    def drain(self) -> None:
        """
        Close now if idle, else after the exchange at work.

        A client that was just answered may be sending its next request: closing on it would be a reset. It gets
        ``DRAIN_GRACE`` seconds, and its answer says that the connection closes.
        """
        if self._transport is None:
            return
        if self._request is not None:
            self._close = True
        elif not self._linger and not self._head_since:
            until = self._activity + DRAIN_GRACE
            busy = self.site.clock() < until or self._at_work(self._transport)
            if busy or not self._close_idle(self._transport):
                self.site.wheel.watch(self, until)

    def abort(self) -> None:
        """Cut the connection: the gateway ends, and an exchange that is at work had its time."""
        request = self._request
        if request is not None and not request.reason:
            request.reason = "gateway_stopped"
            self._status = self._status or 503
        if self._transport is not None:
            if self._response_body is not None:
                self._cut(self._transport)
            else:
                self._transport.abort()
