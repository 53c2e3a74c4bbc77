"""
``RequestReader``: the reading side of one HTTP/1 connection from a client: bytes in, requests out.

``data_received`` finds a head, ``_begin`` makes a ``Request`` of it and hands it to the resource tree; content is fed
to the request's ``Body`` as it comes. What can't be understood is refused, and the connection closed.

Not here: responses (``h1_responses``), the end of an exchange and time-outs (``h1_channel``), parsing (``apigw.http``).
"""

from __future__ import annotations

import asyncio
from functools import partial

from apigw.downstream.site import MOST_LINES, GatewaySite
from apigw.exchange.body import Body
from apigw.exchange.errors import BodyTooLarge, ClientFault, GatewayError
from apigw.exchange.headers import Pair
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.http.chunked import ChunkedReader, MalformedChunks
from apigw.http.forwarded import Forwarding
from apigw.http.h1_heads import RequestHead, RequestLine, check_line_so_far
from apigw.http.targets import split_target, valid_host

LINGER = 2.0
"""Seconds that a connection is read on after a refusal, so that the client gets the answer before a reset."""
LINGER_BYTES = 4 * 1024 * 1024
EOF_GRACE = 0.5
"""Seconds that an answer may take after the client's end of sending: who half-closed waits, who left does not."""
DRAIN_GRACE = 1.0
"""Seconds that a connection that was just in use is kept when the gateway goes away."""
AHEAD = 64 * 1024
"""Bytes of pipelined requests that are kept while one is answered."""

Parsed = tuple[bytes, bytes, bytes, bytes | None, bytes | None, bytes]
"""A request line: method, target, path, query, authority, version."""


class RequestReader(asyncio.Protocol):
    """A connection's reading side, and all of its state."""

    __slots__ = (
        "_activity",
        "_body",
        "_buffer",
        "_bytes_out",
        "_chunked_in",
        "_chunked_out",
        "_close",
        "_eof_at",
        "_head_since",
        "_headless",
        "_last",
        "_left_in",
        "_linger",
        "_looping",
        "_pause_reasons",
        "_peer",
        "_request",
        "_response_body",
        "_status",
        "_taken_in",
        "_transport",
        "_write_paused",
        "next_check",
        "site",
    )

    def __init__(self, site: GatewaySite) -> None:
        self.site = site
        self.next_check = 0.0
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._request: Request | None = None
        # The request's content
        self._body: Body | None = None  # while it is still being received
        self._left_in = 0
        self._chunked_in: ChunkedReader | None = None
        self._taken_in = 0
        self._pause_reasons = 0  # 1: the body's reader is slow; 2: too much is pipelined
        # The response
        self._status = 0  # once its head was written
        self._response_body: Body | None = None
        self._chunked_out = False
        self._headless: list[bytes] | None = None  # the head, while it waits for the first piece of the body
        self._write_paused = False
        # The connection
        self._close = False
        self._linger = 0.0
        self._eof_at = 0.0
        self._head_since = 0.0
        self._activity = 0.0
        self._looping = False
        # The last head: its bytes (empty if more came with them), the site's epoch, and what was found in it.
        self._last: tuple[bytes, object, Parsed, RequestHead, Forwarding] | None = None
        self._peer = ""
        self._bytes_out = 0

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        site = self.site
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) and peer else "unix:"
        site.connections.add(self)
        self._activity = now = site.clock()
        # While draining: it was in the queue, and what it asks for is answered.
        site.wheel.watch(self, now + (DRAIN_GRACE if site.draining else min(site.limits.head, site.limits.keepalive)))

    def data_received(self, data: bytes) -> None:
        if self._request is None and not self._linger and not self._write_paused:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            self._serve(data)
        elif self._body is not None:
            self._take_body(data)
        elif self._linger:
            self._taken_in += len(data)
            if self._taken_in > LINGER_BYTES and self._transport is not None:
                self._transport.abort()
        else:
            self._keep_for_later(data)

    def eof_received(self) -> bool:
        """The client sends no more. True: keep the connection for the answers to what it sent."""
        if self._body is not None:
            self._client_gone()
            return False
        if self._request is None and not (self._buffer and self._write_paused):
            return False
        self._eof_at = now = self.site.clock()
        if not self._buffer:
            self._close = True
        self.site.wheel.watch(self, now + EOF_GRACE)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.site.connections.discard(self)
        self.site.wheel.forget(self)
        self._transport = None
        self._client_gone()

    def pause_writing(self) -> None:
        self._write_paused = True
        self._activity = self.site.clock()
        self.site.wheel.watch(self, self._activity + self.site.limits.body)
        if self._response_body is not None:
            self._response_body.pause()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._response_body is not None:
            self._response_body.resume()
        elif self._request is None and self._buffer:
            self._resume(2)
            data, self._buffer = self._buffer, b""
            self._serve(data)

    # Requests

    def _serve(self, data: bytes) -> None:
        """Begin exchanges with what the client sent, until one has to wait for something."""
        self._looping = True
        try:
            while data:
                rest = self._begin(data)
                if rest is None:
                    return
                if self._request is not None:
                    if rest:
                        self._buffer = rest
                    return
                if self._close or self._transport is None:
                    return
                data = self._buffer or rest
                self._buffer = b""
                if self._write_paused and data:  # it does not read its answers: no more of them
                    self._keep_for_later(data)
                    return
        finally:
            self._looping = False
        if self._eof_at and self._transport is not None:
            self._transport.close()

    def _keep_for_later(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > AHEAD:
            self._pause(2)

    def _begin(self, data: bytes) -> bytes | None:
        """
        Begin the exchange whose head ``data`` starts with.

        :return: what follows the request; None if the head is not complete, or was refused.
        """
        site = self.site
        last = self._last
        if last is not None and data == last[0] and site.epoch is last[1]:  # the same again, to the byte
            _, _, parsed, head, facts = last
            rest = b""
        else:
            end = data.find(b"\r\n\r\n")
            if end < 0 or data[:2] == b"\r\n":
                return self._no_head(data)
            found: Parsed | None = None
            try:
                line_end = data.find(b"\r\n")
                line = data[:line_end]
                parsed = found = site.lines.get(line) or self._parse_line(line)
                if end > site.limits.max_head:
                    self._check_fields_so_far(data, line_end)
                block = data[line_end + 2 : end + 2]
                head = site.heads.known.get(block) or site.heads.get(block)
                if (
                    last is not None
                    and last[3] is head
                    and last[2][4] is parsed[4]  # the authority
                    and last[2][5] == parsed[5]  # the version
                    and site.epoch is last[1]
                ):
                    facts = last[4]
                else:
                    facts = self._forward(head, parsed[4], parsed[5])
            except GatewayError as error:
                self._refuse(error, found)
                return None
            rest = data[end + 4 :]
            self._last = (b"" if rest else data, site.epoch, parsed, head, facts)
        method, target, path, query, _, version = parsed
        request = Request.__new__(Request)
        request.method = method
        request.target = target
        request.path = path
        request.query = query
        if version != b"1.1":
            request.version = version
        request.headers = head.headers
        request.lines = head.lines
        request.forwarding = facts
        request.host = facts.host
        request.client = facts.client
        request.peer = self._peer
        request.scheme = facts.scheme
        request.connection = self
        request.id = facts.request_id or site.next_id()
        request.started = site.clock()
        if facts.trusted:
            request.trusted = True
            if facts.timeout:
                request.deadline = request.started + facts.timeout
                request.impatient = True
                site.wheel.watch(self, request.deadline)
        self._head_since = 0.0
        self._request = request
        self._status = 0
        self._bytes_out = 0
        self._close = head.close or (version == b"1.0" and not head.keep_alive) or site.draining
        if head.plain:
            request.body = None
            site.root.route(request, partial(self.respond, request))
            return rest
        if head.content_length > 0 or head.chunked:
            return self._begin_with_body(request, head, rest)
        request.body = None
        if head.upgrade is not None and b"websocket" in head.upgrade.lower():
            self._respond_error(
                request, ClientFault("WebSocket is not supported here", status=501, reason="upgrade_not_supported")
            )
            return rest
        site.root.route(request, partial(self.respond, request))
        return rest

    def _begin_with_body(self, request: Request, head: RequestHead, rest: bytes) -> bytes | None:
        """The same for a request with content: what of it is here already is there before anybody asks for it."""
        site = self.site
        limit = site.limits.max_body
        length = None if head.chunked else head.content_length
        body = request.body = Body(self, length)
        fault: ClientFault | None = None
        if limit:
            if length is not None and length > limit:
                fault = BodyTooLarge(f"at most {limit} bytes of content are taken")
            body.limit = limit
        if request.method == b"TRACE":  # RFC 9110 9.3.8: a service that expects none would take it for a request
            fault = ClientFault("TRACE has no content", reason="invalid_framing")
        if fault is not None:
            self._close = True
            self._linger = request.started + LINGER
            self._respond_error(request, fault)
            return None
        request.expects_continue = head.expect_continue and request.version == b"1.1"
        self._body = body
        self._left_in = length or 0
        self._chunked_in = ChunkedReader() if head.chunked else None
        self._taken_in = 0
        self._activity = request.started
        if rest:
            self._take_body(rest)
            if self._request is None:
                return None  # it was malformed, and is answered
            if body.error is not None:
                self._respond_error(request, body.error)
                return None
        site.root.route(request, partial(self.respond, request))
        if self._body is not None:
            site.wheel.watch(self, request.started + site.limits.body)
        return b""

    def _parse_line(self, line: bytes) -> Parsed:
        site = self.site
        parsed = RequestLine(line, site.limits.max_target)
        target = split_target(parsed.method, parsed.target)
        path = target.path if target.path == b"*" else site.normalise(target.path)
        result = (parsed.method, parsed.target, path, target.query, target.authority, parsed.version)
        if len(site.lines) >= MOST_LINES:
            site.lines.clear()
        if len(line) < 1024:
            site.lines[line] = result
        return result

    def _forward(self, head: RequestHead, authority: bytes | None, version: bytes) -> Forwarding:
        """What is to be said of this client, remembered while head and host stay the same."""
        if head.host is None:
            if version == b"1.1":
                raise ClientFault("there is no Host", reason="invalid_host")
            host = authority or b""
        else:
            host = valid_host(head.host) if head.host or authority is None else b""
            if authority is not None:
                host = authority
        if head.chunked and version == b"1.0":
            raise ClientFault("HTTP/1.0 has no Transfer-Encoding", reason="invalid_framing")
        return Forwarding(
            head, self._peer, scheme=self.site.scheme, host=host, trusted=self.site.trusted, version=version
        )

    def _take_body(self, data: bytes) -> None:
        """More of the request's content arrived."""
        body = self._body
        assert body is not None
        self._activity = self.site.clock()
        if self._chunked_in is None:
            left = self._left_in - len(data)
            if left > 0:
                self._left_in = left
                body.feed(data)
                return
            self._body = None
            if left:
                self._buffer, data = data[left:] + self._buffer, data[:left]
            body.feed(data)
            body.end()
        else:
            try:
                content, rest = self._chunked_in.feed(data)
            except MalformedChunks as error:
                self._give_up_on_body(body, ClientFault(str(error), reason="invalid_chunks"))
                return
            if self._chunked_in.ended:
                self._body = None
                self._buffer = rest + self._buffer
                if content:
                    body.feed(content)
                body.end(self._chunked_in.trailers)
            elif content:
                body.feed(content)
        if self._body is None and self._request is None and not self._looping and self._buffer:
            data, self._buffer = self._buffer, b""
            self._serve(data)

    def _give_up_on_body(self, body: Body, fault: ClientFault) -> None:
        """The content will not be complete, by the client's own fault."""
        request = self._request
        self._body = None
        self._close = True
        self._linger = self.site.clock() + LINGER
        body.fail(fault)
        if request is not None and self._request is request:
            self._fail(request, fault)  # nobody was reading, or who does is not able to answer

    def _no_head(self, data: bytes) -> bytes | None:
        """There is no complete head at the beginning of ``data``: keep it, if it can still become one."""
        at = 0
        while data[at : at + 2] == b"\r\n":  # empty lines before a request are ignored (RFC 9112 2.2)
            at += 2
        if at:
            return self._begin(data[at:]) if len(data) > at else b""
        limits = self.site.limits
        parsed = None
        try:
            line_end = data.find(b"\r\n")
            if line_end >= 0:
                line = data[:line_end]
                parsed = self.site.lines.get(line) or self._parse_line(line)
                self._check_fields_so_far(data, line_end)
            elif data != b"\r":
                check_line_so_far(data.removesuffix(b"\r"), limits.max_target)
        except GatewayError as error:
            self._refuse(error, parsed)
            return None
        if self._eof_at and self._transport is not None:
            self._transport.close()  # the rest will never come
            return None
        self._buffer = data
        if not self._head_since:
            self._head_since = now = self.site.clock()
            self.site.wheel.watch(self, now + limits.head)
        return None

    def _check_fields_so_far(self, data: bytes, line_end: int) -> None:
        """Refuse what can't become a head, however it goes on, or is too long for one."""
        longest = self.site.limits.max_head
        fields = data[line_end:longest]
        if fields.count(b"\n") != fields.count(b"\r\n"):
            raise ClientFault("a line ends without CR", reason="malformed_head")
        if len(data) > longest + 3:
            raise ClientFault(f"the head has more than {longest} bytes", status=431, reason="head_too_large")

    def _refuse(self, error: GatewayError, parsed: Parsed | None = None) -> None:
        """Answer a request that can't be understood, and close: what follows can't be told from an attack."""
        request = Request(b"-", b"-", started=self.site.clock(), client=self._peer)
        if parsed is not None:
            request.method, request.target, request.path, request.query, _, _ = parsed
        request.id = self.site.next_id()
        request.connection = self
        self._request = request
        self._buffer = b""
        self._head_since = 0.0
        self._bytes_out = 0
        self._status = 0
        self._close = True
        self._linger = self.site.clock() + LINGER
        self._respond_error(request, error)

    # The request's body asks

    def body_wanted(self) -> None:
        request = self._request
        if request is not None and request.expects_continue and not self._status:
            request.expects_continue = False
            self.send_informational(100, [])

    def pause_body(self) -> None:
        self._pause(1)

    def resume_body(self) -> None:
        self._activity = self.site.clock()
        self._resume(1)

    def cancel_body(self) -> None:
        """Nobody reads the rest of the content. The connection ends with this exchange."""
        self._body = None
        self._close = True
        self._linger = self.site.clock() + LINGER
        self._taken_in = 0
        self._resume(1)

    def _pause(self, reason: int) -> None:
        if not self._pause_reasons and self._transport is not None:
            self._transport.pause_reading()
        self._pause_reasons |= reason

    def _resume(self, reason: int) -> None:
        if self._pause_reasons & reason:
            self._pause_reasons &= ~reason
            if not self._pause_reasons and self._transport is not None:
                self._transport.resume_reading()

    # What the sides above this one do

    def respond(self, request: Request, response: Response) -> None:
        """Write the response to ``request``. The ``done`` of all responders."""
        raise NotImplementedError

    def send_informational(self, status: int, headers: list[Pair]) -> None:
        """Send a 1xx response ahead of the final one."""
        raise NotImplementedError

    def check(self, now: float) -> float:
        """The wheel's look: end what takes too long; when to look again."""
        raise NotImplementedError

    def drain(self) -> None:
        """Close now if idle, else after the exchange at work."""
        raise NotImplementedError

    def abort(self) -> None:
        """Cut the connection."""
        raise NotImplementedError

    def watch_deadline(self) -> None:
        """The request got a deadline."""
        raise NotImplementedError

    def _respond_error(self, request: Request, error: GatewayError) -> None:
        raise NotImplementedError

    def _fail(self, request: Request, error: GatewayError) -> None:
        raise NotImplementedError

    def _client_gone(self) -> None:
        raise NotImplementedError
