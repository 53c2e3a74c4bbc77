"""
``RequestReader``: the reading side of one HTTP/1 connection from a client: bytes in, requests out.

``data_received`` finds a head, ``_begin`` makes a ``Request`` of it and hands it to the resource tree; content is fed
to the request's ``Body`` as it comes. What can't be understood is refused, and the connection closed.

A connection handles a bounded part of what it has received in one turn of the loop (``ANSWERED`` requests,
``chunked.MOST_CHUNKS`` chunks, ``LARGEST_READ`` bytes); then it stops reading and waits for its next turn.

Not here: responses (``h1_responses``), the end of an exchange and time-outs (``h1_channel``), parsing (``apigw.http``).
"""

from __future__ import annotations

import asyncio
import re
from functools import partial

from apigw.downstream.site import MOST_LINES, GatewaySite
from apigw.exchange.addresses import peer_address
from apigw.exchange.body import Body
from apigw.exchange.errors import BodyTooLarge, ClientFault, GatewayError
from apigw.exchange.headers import Pair
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.http.chunked import ChunkedReader, MalformedChunks
from apigw.http.fields import is_token
from apigw.http.forwarded import Forwarding
from apigw.http.h1_heads import RequestHead, RequestLine, check_line_so_far
from apigw.http.targets import split_target, valid_host
from apigw.net.turns import LARGEST_READ

LINGER = 2.0
"""Seconds that a connection is read on after a refusal, so that the client gets the answer before a reset."""
LINGER_BYTES = 4 * 1024 * 1024
EOF_GRACE = 0.5
"""Seconds that an answer may take after the client's end of sending: who half-closed waits, who left does not."""
DRAIN_GRACE = 1.0
"""Seconds that a connection that was just in use is kept when the gateway goes away."""
LONGEST_METHOD = 32
"""Bytes in which a method is looked for in a request line that is refused."""
AHEAD = 64 * 1024
"""Bytes of pipelined requests beyond which nothing more is read."""
ANSWERED = 8
"""Pipelined requests of a connection that are answered in one turn of the loop."""
ANSWERED_BYTES = 8 * 1024
"""Bytes of their heads after which the turn ends, too: large heads are more work."""
GRACE = 5.0
"""Seconds before the content of a request must come at ``min_rate`` (Kestrel's default)."""

# Why reading is paused:
SLOW_READER = 1
"""The reader of the request's content is slow."""
FAR_AHEAD = 2
"""More than AHEAD bytes of pipelined requests are kept."""
TURN = 4
"""This connection has had its part of a turn of the loop."""

_EMPTY_LINES = re.compile(rb"(?:\r\n){1,64}")
"""Empty lines that are ignored in front of a request (RFC 9112 2.2: at least one; the bound is ours)."""

Parsed = tuple[bytes, bytes, bytes, bytes | None, bytes | None, bytes]
"""A request line: method, target, path, query, authority, version."""


class RequestReader(asyncio.Protocol):
    """A connection's reading side, and all of its state."""

    __slots__ = (
        "_activity",
        "_at",
        "_body",
        "_buffer",
        "_bytes_out",
        "_chunked_in",
        "_chunked_out",
        "_close",
        "_counted",
        "_due",
        "_eof_at",
        "_head_since",
        "_headless",
        "_last",
        "_left_in",
        "_linger",
        "_looping",
        "_min_rate",
        "_pause_reasons",
        "_paused_at",
        "_peer",
        "_read_by",
        "_refusals",
        "_request",
        "_response_body",
        "_seen",
        "_status",
        "_taken_in",
        "_transport",
        "_unsent",
        "_write_paused",
        "next_check",
        "site",
    )

    def __init__(self, site: GatewaySite) -> None:
        self.site = site
        self.next_check = 0.0
        self._transport: asyncio.Transport | None = None
        self._buffer = b""  # what was received and is not handled yet: from `_at` on
        self._at = 0
        self._seen = 0  # bytes of an incomplete head in the buffer that were looked at
        self._request: Request | None = None
        # The request's content
        self._body: Body | None = None  # while it is still being received
        self._left_in = 0
        self._chunked_in: ChunkedReader | None = None
        self._taken_in = 0
        self._pause_reasons = 0
        self._paused_at = 0.0
        self._min_rate = 0  # bytes a second
        self._due = 0.0  # when the next byte must have come, by `_min_rate`
        self._counted = 0  # bytes of the content that `_due` takes into account
        # The response
        self._status = 0  # once its head was written
        self._response_body: Body | None = None
        self._chunked_out = False
        self._headless: list[bytes] | None = None  # the head, while it waits for the first piece of the body
        self._write_paused = False
        self._unsent = 0  # bytes that the client had not taken when it was last looked
        self._read_by = 0.0  # when it must have taken more
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
        self._refusals = 0  # requests refused in a row

    # The transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        site = self.site
        self._peer = peer_address(transport.get_extra_info("peername"))
        site.connections.add(self)
        self._activity = now = site.clock()
        # While draining: it was in the queue, and what it asks for is answered.
        site.wheel.watch(self, now + (DRAIN_GRACE if site.draining else min(site.limits.head, site.limits.keepalive)))

    def data_received(self, data: bytes) -> None:
        if self._request is None and not self._linger and not self._write_paused:
            if self._buffer:
                self._continue(data)
            else:
                self._serve(data)
        elif self._body is not None and not self._buffer:
            self._take_body(data)
        elif self._linger:
            self._taken_in += len(data)
            if self._taken_in > LINGER_BYTES and self._transport is not None:
                self._transport.abort()
            elif len(data) >= LARGEST_READ:
                self._wait_turn()
        else:
            self._keep(data)

    def eof_received(self) -> bool:
        """The client sends no more. True: keep the connection for the answers to what it sent."""
        if self._body is not None and not self._buffer:
            self._client_gone()
            return False
        if self._request is None and not (self._buffer and (self._write_paused or self._pause_reasons & TURN)):
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
        self._read_by = self._activity + self.site.limits.body
        if self._transport is not None:
            self._unsent = self._transport.get_write_buffer_size()
        self.site.wheel.watch(self, self._read_by)
        if self._response_body is not None:
            self._response_body.pause()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._response_body is not None:
            self._response_body.resume()
        elif self._request is None and self._buffer and not self._pause_reasons & TURN:
            self._serve(*self._taken())

    def take_turn(self) -> None:
        """Handle the next part of what was received: the others had their turn."""
        self._pause_reasons &= ~TURN
        if self._transport is None:
            return
        if self._buffer:
            if self._body is not None:
                if not self._pause_reasons & SLOW_READER:
                    self._take_body(*self._taken())
            elif self._request is None and not self._write_paused:
                self._serve(*self._taken())
        self._read_on()

    # What is received and not handled yet

    def _keep(self, data: bytes, at: int = 0) -> None:
        """Keep ``data`` from ``at`` on for later."""
        if self._buffer:
            data = self._buffer[self._at :] + data[at:]
            at = 0
        elif at > len(data) // 2:  # not each time: that would copy all of it for each request
            data = data[at:]
            at = 0
        self._buffer = data
        self._at = at
        self._seen = 0
        if len(data) - at > AHEAD:
            self._pause(FAR_AHEAD)

    def _taken(self) -> tuple[bytes, int]:
        """Take out what is kept, and where it begins."""
        data, at = self._buffer, self._at
        self._buffer = b""
        self._at = self._seen = 0
        return data, at

    def _continue(self, data: bytes) -> None:
        """More arrived after what could not be served yet."""
        if self._pause_reasons & TURN:
            self._keep(data)
            return
        seen = self._seen
        kept, at = self._taken()
        data = kept[at:] + data
        if seen and data.find(b"\r\n\r\n", max(seen - 3, 0)) < 0:  # a head that comes byte by byte is read once
            self._no_head(data, 0, seen)
        else:
            self._serve(data)

    def _wait_turn(self) -> None:
        """Stop reading until the others have had their turn."""
        if not self._pause_reasons & TURN:
            self._pause(TURN)
            self.site.wheel.turns.wait(self)

    # Requests

    def _serve(self, data: bytes, at: int = 0) -> None:
        """Begin exchanges with what the client sent, until one has to wait for something."""
        self._looping = True
        answered, begun = 0, at
        try:
            while True:
                at = self._begin(data, at)
                if at < 0:
                    return
                if self._request is not None:
                    if at < len(data):
                        self._keep(data, at)
                    return
                if self._close or self._transport is None:
                    return
                if self._buffer:  # what follows the request's content
                    data, at = self._taken()
                    begun = at
                if at == len(data):
                    break
                answered += 1
                if self._write_paused:  # it does not read its answers: no more of them
                    self._keep(data, at)
                    return
                if answered == ANSWERED or at - begun >= ANSWERED_BYTES:
                    self._keep(data, at)
                    self._wait_turn()
                    return
        finally:
            self._looping = False
            if self._pause_reasons:
                self._read_on()
        if self._eof_at and self._transport is not None:
            self._transport.close()

    def _begin(self, data: bytes, at: int) -> int:
        """
        Begin the exchange whose head starts at ``at``.

        :return: where the request ends; -1 if the head is not complete, or was refused.
        """
        site = self.site
        last = self._last
        if last is not None and data == last[0] and site.epoch is last[1]:  # the same again, to the byte
            _, _, parsed, head, facts = last
            after = len(data)
        else:
            end = data.find(b"\r\n\r\n", at)
            if end < 0 or data[at : at + 2] == b"\r\n":
                return self._no_head(data, at)
            found: Parsed | None = None
            try:
                line_end = data.find(b"\r\n", at)
                line = data[at:line_end]
                parsed = found = site.lines.get(line) or self._parse_line(line)
                if end - at > site.limits.max_head:
                    self._check_fields_so_far(data, at, line_end)
                block = data[line_end + 2 : end + 2]
                head = site.heads.known.get(block) or site.heads.get(block)
                if head.stripped is not None and not site.vouches(self._peer):
                    head = head.stripped
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
                self._refuse(error, data, at, found)
                return -1
            after = end + 4
            self._last = (data if not at and after == len(data) else b"", site.epoch, parsed, head, facts)
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
            return after
        if head.content_length > 0 or head.chunked:
            return self._begin_with_body(request, head, data, after)
        request.body = None
        if head.upgrade is not None and b"websocket" in head.upgrade.lower():
            self._respond_error(
                request, ClientFault("WebSocket is not supported here", status=501, reason="upgrade_not_supported")
            )
            return after
        site.root.route(request, partial(self.respond, request))
        return after

    def _begin_with_body(self, request: Request, head: RequestHead, data: bytes, at: int) -> int:
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
            return -1
        request.expects_continue = head.expect_continue and request.version == b"1.1"
        self._resume(SLOW_READER)  # it was the reader of the content before
        self._body = body
        self._left_in = length or 0
        self._chunked_in = ChunkedReader() if head.chunked else None
        self._taken_in = 0
        self._activity = request.started
        self._min_rate = site.limits.min_rate
        self._due = request.started + GRACE
        self._counted = 0
        if at < len(data):
            self._take_body(data, at)
            if self._request is None:
                return -1  # it was malformed, and is answered
            if body.error is not None:
                self._respond_error(request, body.error)
                return -1
        site.root.route(request, partial(self.respond, request))
        if self._body is not None:
            site.wheel.watch(self, request.started + min(site.limits.body, GRACE))
        return len(data)

    def _parse_line(self, line: bytes) -> Parsed:
        site = self.site
        parsed = RequestLine(line, site.limits.max_target)
        target = split_target(parsed.method, parsed.target)
        path = target.path if target.path == b"*" else site.normalise(target.path)
        result = (parsed.method, parsed.target, path, target.query, target.authority, parsed.version)
        if len(site.lines) >= site.most_lines:
            site.lines.clear()
        if len(line) < (1024 if len(site.lines) < MOST_LINES else 256):
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
        site = self.site
        return Forwarding(
            head,
            self._peer,
            scheme=site.scheme,
            host=host,
            trusted=site.trusted,
            version=version,
            family=site.forwarded_by,
        )

    def _take_body(self, data: bytes, at: int = 0) -> None:
        """More of the request's content arrived: ``data`` from ``at`` on. What follows it is kept."""
        body = self._body
        assert body is not None
        self._activity = self.site.clock()
        size = len(data)
        if self._chunked_in is None:
            end = at + self._left_in
            if end > size:
                self._left_in = end - size
                if size >= LARGEST_READ:
                    self._wait_turn()
                body.feed(data[at:] if at else data)
                return
            self._body = None
            if end < size:
                self._keep(data, end)
                data = data[at:end]
            elif at:
                data = data[at:]
            body.feed(data)
            self._stop_waiting()
            body.end()
            return
        try:
            content, end = self._chunked_in.feed(data, at)
        except MalformedChunks as error:
            self._give_up_on_body(body, ClientFault(str(error), reason="invalid_chunks"))
            return
        if end < size:
            self._keep(data, end)
        if self._chunked_in.ended:
            self._body = None
            trailers = self._chunked_in.trailers
            if content:
                body.feed(content)
            self._stop_waiting()
            body.end(trailers)
            return
        if end < size or size >= LARGEST_READ:
            self._wait_turn()
        if content:
            body.feed(content)

    def _stop_waiting(self) -> None:
        """The content is complete: its reader, who may be slow, asks for nothing more, nor does it resume."""
        if self._body is None:
            self._resume(SLOW_READER)

    def _give_up_on_body(self, body: Body, fault: ClientFault) -> None:
        """The content will not be complete, by the client's own fault."""
        request = self._request
        self._body = None
        self._buffer = b""
        self._close = True
        self._linger = self.site.clock() + LINGER
        body.fail(fault)
        if request is not None and self._request is request:
            self._fail(request, fault)  # nobody was reading, or who does is not able to answer

    def _no_head(self, data: bytes, at: int, seen: int = 0) -> int:
        """
        There is no complete head at ``at``: keep what is there, if it can still become one.

        :param seen: how many of the bytes were looked at before. :return: see ``_begin``.
        """
        limits = self.site.limits
        parsed = None
        try:
            empty = _EMPTY_LINES.match(data, at)
            if empty is not None:
                at = empty.end()
                if at == len(data):
                    self._head_since = 0.0
                    return at
                if data[at : at + 2] == b"\r\n":
                    raise ClientFault("there are too many empty lines", reason="malformed_request_line")
                return self._begin(data, at)
            line_end = data.find(b"\r\n", at)
            if line_end >= 0:
                if line_end + 2 > seen:
                    line = data[at:line_end]
                    parsed = self.site.lines.get(line) or self._parse_line(line)
                self._check_fields_so_far(data, at, max(line_end, seen - data.endswith(b"\r", 0, seen)))
            elif data[at:] != b"\r":
                check_line_so_far(data[at:].removesuffix(b"\r"), limits.max_target)
        except GatewayError as error:
            self._refuse(error, data, at, parsed)
            return -1
        if self._eof_at and self._transport is not None:
            self._transport.close()  # the rest will never come
            return -1
        self._buffer = data[at:]
        self._at = 0
        self._seen = len(self._buffer)
        if not self._head_since:
            self._head_since = now = self.site.clock()
            self.site.wheel.watch(self, now + limits.head)
        return -1

    def _check_fields_so_far(self, data: bytes, at: int, fields_at: int) -> None:
        """Refuse what can't become a head, however it goes on, or is too long for one."""
        longest = self.site.limits.max_head
        fields = data[fields_at : at + longest]
        if fields.count(b"\n") != fields.count(b"\r\n"):
            raise ClientFault("a line ends without CR", reason="malformed_head")
        if len(data) - at > longest + 3:
            raise ClientFault(f"the head has more than {longest} bytes", status=431, reason="head_too_large")

    def _refuse(self, error: GatewayError, data: bytes, at: int, parsed: Parsed | None = None) -> None:
        """
        Answer a request that can't be understood, and close: what follows can't be told from an attack.

        Its method is needed nevertheless: the answer to HEAD has no content, whatever is wrong with the rest.
        """
        request = Request(b"-", b"-", started=self.site.clock(), client=self._peer)
        if parsed is not None:
            request.method, request.target, request.path, request.query, _, _ = parsed
        else:
            method, space, _ = data[at : at + LONGEST_METHOD].partition(b" ")
            if space and is_token(method):
                request.method = method
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
        self._pause(SLOW_READER)

    def resume_body(self) -> None:
        self._activity = self.site.clock()
        if self._buffer and self._body is not None:
            self._wait_turn()  # what is here already comes first
            self._pause_reasons &= ~SLOW_READER
        else:
            self._resume(SLOW_READER)

    def cancel_body(self) -> None:
        """Nobody reads the rest of the content. The connection ends with this exchange."""
        self._body = None
        self._buffer = b""
        self._close = True
        self._linger = self.site.clock() + LINGER
        self._taken_in = 0
        self._resume(SLOW_READER)

    def use_min_rate(self, rate: int) -> None:
        """Expect the request's content at ``rate`` bytes a second instead of the listener's ``min_rate``; 0: at any."""
        self._min_rate = rate

    def _pause(self, reason: int) -> None:
        if not self._pause_reasons and self._transport is not None:
            self._transport.pause_reading()
            self._paused_at = self.site.clock()
        self._pause_reasons |= reason

    def _resume(self, reason: int) -> None:
        if self._pause_reasons & reason:
            self._pause_reasons &= ~reason
            self._read_on()

    def _read_on(self) -> None:
        """Read again, unless there still is a reason to wait."""
        reasons = self._pause_reasons
        if reasons & FAR_AHEAD and len(self._buffer) - self._at <= AHEAD:
            reasons &= ~FAR_AHEAD
        if reasons & SLOW_READER and self._body is None:
            reasons &= ~SLOW_READER
        self._pause_reasons = reasons
        transport = self._transport
        if reasons or transport is None or transport.is_closing():
            return
        transport.resume_reading()
        if self._body is not None:
            now = self.site.clock()
            self._due += now - self._paused_at  # the gateway did not read: that is not the client's time
            self.site.wheel.watch(self, min(self._due, self._activity + self.site.limits.body))

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

    @property
    def idle_since(self) -> float:
        """Since when it waits for a request, or for the rest of its head; 0.0 if it does not."""
        raise NotImplementedError

    def close_idle(self) -> bool:
        """Close it if it is idle; whether it was."""
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
