"""
START HERE for the way to a service: ``Forward``, the responder that ends every plain route.

Chooses a target, gets a connection, sends the client's request on untouched, and streams both ways. A try that fails
is made again if that is safe and allowed: nothing was sent, or the method is idempotent and the content is still
there. Once the response's head went on to the client, there is no second try.

Not here: choosing (``target_set``), the connection (``connection``), the decision to retry (``retries``).
"""

from __future__ import annotations

from collections.abc import Callable

from apigw.exchange.body import Body
from apigw.exchange.errors import GatewayError
from apigw.exchange.headers import Headers
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done
from apigw.exchange.response import Response
from apigw.http.dates import http_date, retry_after
from apigw.http.deadline import remaining
from apigw.http.fields import serialise
from apigw.http.h1_heads import ResponseHead
from apigw.upstream.attempt import Attempt
from apigw.upstream.cluster import Cluster
from apigw.upstream.connection import UpstreamConnection
from apigw.upstream.target import Target
from apigw.upstream.upload import Upload

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE", b"QUERY"))
"""RFC 9110 9.2.2, and QUERY."""

_EXPECT_CONTENT = frozenset((b"POST", b"PUT", b"PATCH"))
"""Methods whose requests say that they have none (RFC 9110 8.6)."""

_KINDS = {
    "upstream_refused": "connect",
    "upstream_unresolved": "connect",
    "upstream_unreachable": "connect",
    "upstream_connect_timeout": "connect",
    "upstream_tls_failed": "connect",
    "upstream_overloaded": "queue",
    "upstream_queue_timeout": "queue",
    "out_of_descriptors": "queue",
    "upstream_timeout": "timeout",
}
"""Reason code to kind of failure; all others broke off (``reset``)."""

TargetPath = Callable[[Request], bytes]
RewriteHead = Callable[[Request, Headers], Headers | None]


class Forward:
    """
    Sends requests on to a cluster.

    :param target_path: makes the path (with query) to ask for; None sends the one that was matched.
    :param prefix: what was cut off the path, said as X-Forwarded-Prefix; empty for nothing.
    :param preserve_host: send the client's Host instead of the target's.
    :param rewrite_head: changes the response's fields (Location, cookies); returns None to leave them alone.
    :param keeps_content: leave content that no target was sent as it is, for another upstream (``fallback``).
    """

    __slots__ = ("_prefix", "_preserve_host", "_rewrite_head", "_target_path", "cluster", "keeps_content")

    def __init__(
        self,
        cluster: Cluster,
        *,
        target_path: TargetPath | None = None,
        prefix: bytes = b"",
        preserve_host: bool = False,
        rewrite_head: RewriteHead | None = None,
        keeps_content: bool = False,
    ) -> None:
        self.cluster = cluster
        self._target_path = target_path
        self._prefix = prefix
        self._preserve_host = preserve_host
        self._rewrite_head = rewrite_head
        self.keeps_content = keeps_content

    def __call__(self, request: Request, done: Done) -> None:
        """Answer ``request`` with what a target says."""
        exchange = Exchange(self, request, done)
        request.upstream = self.cluster.name
        if request._cancellers is None:
            request._cancellers = [exchange.cancel]
        else:
            request._cancellers.append(exchange.cancel)
        exchange.attempt(request.started if request.tries == 0 else self.cluster.clock())

    def send(self, request: Request, done: Done, tried: tuple[Target, ...] = ()) -> Exchange:
        """
        The same for one who cancels it by what is returned, not by way of the request (``hedged``).

        :param tried: targets that the request was sent to already.
        """
        exchange = Exchange(self, request, done)
        exchange._tried = tried
        request.upstream = self.cluster.name
        exchange.attempt(self.cluster.clock())
        return exchange

    def head(self, request: Request, host: bytes, base_path: bytes, framing: bytes = b"") -> bytes:
        """
        The bytes of the request's head.

        :param framing: its last fields and the empty line.
        """
        path = self._target_path
        if path is not None:
            target = path(request)
        elif request.query is None:
            target = request.path
        else:
            target = b"%b?%b" % (request.path, request.query)
        if base_path and target != b"*":
            target = base_path + target
        if self._preserve_host:
            host = request.host or host  # HTTP/1.0 needs none
        lines = request.lines
        facts = request.forwarding
        forwarded = b""
        if facts is not None:
            if lines is facts.received and not (request.deadline or self._prefix or facts.prefix):
                return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n%b" % (
                    request.method,
                    target,
                    host,
                    facts.ready,
                    request.id,
                    framing,
                )
            forwarded = facts.lines
            if self._prefix or facts.prefix:
                forwarded = b"%bX-Forwarded-Prefix: %b%b\r\n" % (forwarded, facts.prefix, self._prefix)
        if request.deadline:
            left = remaining(request.deadline, self.cluster.clock())
            forwarded = b"%bX-Request-Timeout: %b\r\n" % (forwarded, left)
        if lines is None:
            lines = serialise(request.headers.pairs)
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%bX-Request-Id: %b\r\n%b" % (
            request.method,
            target,
            host,
            lines,
            forwarded,
            request.id,
            framing,
        )


class Exchange:
    """One request on its way to a target and back, over as many tries as it takes."""

    __slots__ = (
        "_attempt",
        "_cluster",
        "_connection",
        "_done",
        "_forward",
        "_redirected",
        "_resent",
        "_retry_timer",
        "_tried",
        "_upload",
        "request",
        "request_method",
    )

    def __init__(self, forward: Forward, request: Request, done: Done) -> None:
        self._forward = forward
        self._cluster = forward.cluster
        self.request = request
        self.request_method = request.method
        self._done: Done | None = done
        self._connection: UpstreamConnection | None = None
        self._attempt: Attempt | None = None
        self._upload: Upload | None = None
        self._tried: tuple[Target, ...] = ()
        self._resent = False
        self._redirected = 0
        self._retry_timer: Callable[[], None] | None = None

    def attempt(self, now: float, *, fresh: bool = False) -> None:
        """Try a target."""
        request = self.request
        try:
            attempt = self._attempt = self._cluster.begin(request, now, self._tried)
        except GatewayError as error:
            self._give_up(error)
            return
        target = attempt.target
        request.tries += 1
        request.upstream_target = target.name
        request.upstream_started = now
        pool = target.pool
        idle = pool.idle
        if idle and not fresh:
            connection = idle.pop()
            transport = connection.transport
            if transport is not None and not transport.is_closing():  # it is `usable`, without the call
                self.connected(connection)
                return
        pool.acquire(self, now, fresh=fresh)

    def connected(self, connection: UpstreamConnection) -> None:
        """There is a connection: send the request."""
        request = self.request
        self._connection = connection
        attempt = self._attempt
        assert attempt is not None
        pool = attempt.target.pool
        body = request.body
        if body is None:
            framing = b"Content-Length: 0\r\n\r\n" if request.method in _EXPECT_CONTENT else b"\r\n"
        else:
            length = body.length
            framing = b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length
            framing += b"Expect: 100-continue\r\n\r\n" if request.expects_continue else b"\r\n"
        try:
            head = self._forward.head(request, pool.host, pool.base_path, framing)
        except ValueError:
            self._connection = None
            connection.close()
            attempt.cancelled()
            self._give_up(GatewayError("a field that the gateway set can't be sent", reason="invalid_request_field"))
            return
        if body is None:
            connection.begin(self, head, request.upstream_started, upload=False)
            return
        connection.chunked_out = body.length is None
        connection.begin(self, head, request.upstream_started, upload=True)
        if self._upload is None:
            self._upload = Upload(self, body, self._cluster.replay_limit)
            self._upload.connection = connection
            body.subscribe(self._upload)
        else:
            self._upload.replay(connection)

    def unconnected(self, error: GatewayError) -> None:
        """There is no connection to be had."""
        self.broke(error, untouched=False)

    # The connection says

    def informational(self, head: ResponseHead) -> None:
        request = self.request
        if head.status == 100:
            if not request.expects_continue:
                return
            request.expects_continue = False
        if request.connection is not None:
            request.connection.send_informational(head.status, head.headers.pairs)

    def answered(self, head: ResponseHead, body: bytes | Body, now: float) -> None:
        """A response. Send it on, or try again if the policy says so."""
        request = self.request
        status = head.status
        attempt = self._attempt
        assert attempt is not None
        request.upstream_time = now - request.upstream_started
        upload = self._upload
        if type(body) is bytes:
            self._connection = None
            if upload is not None:
                upload.connection = None
        whole = self._connection is None  # a stream may have ended already, too
        attempt.answered(status, now, _retry_after(head) if status >= 500 or status == 429 else None, whole)
        attempt.target.cells.statuses[status] += 1
        retries = self._cluster.retries
        if retries is not None and status in retries.statuses:
            delay = self._delay("status", status, now)
            if delay is not None:
                if type(body) is not bytes:
                    body.cancel()  # type: ignore[union-attr]
                    attempt.end()
                self._again(attempt, delay, now)
                return
        done, self._done = self._done, None
        if done is None:
            if type(body) is not bytes:
                body.cancel()  # type: ignore[union-attr]
            return
        if upload is not None and whole and not upload.ended:
            upload.stop()
        response = Response.__new__(Response)
        response.status = status
        response.body = body
        response.origin = head
        response.error = None
        response.phrase = head.phrase
        response.headers = head.headers
        lines = head.lines
        if not head.dated:
            lines += http_date(now)
        length = head.content_length
        if not body and length >= 0 and (self.request_method == b"HEAD" or status == 304) and status != 204:
            lines += b"Content-Length: %d\r\n" % length
            response.headers = Headers([*head.headers.pairs, (b"Content-Length", b"%d" % length)])
        response.lines = lines
        if head.addressed:
            rewrite = self._forward._rewrite_head
            changed = rewrite(request, response.headers) if rewrite is not None else None
            if changed is not None:
                response.headers = changed
                response.lines = None
        done(response)

    def broke(self, error: GatewayError, *, untouched: bool) -> None:
        """No response will come from this try."""
        attempt = self._attempt
        if attempt is None or self._done is None:
            return
        now = self._cluster.clock()
        request = self.request
        if untouched and not self._resent and request.method in IDEMPOTENT and self._replayable:
            # A kept connection that the service closed while we sent: the RFC's own case for a second try (9112 9.3.1).
            self._resent = True
            attempt.cancelled()
            self.attempt(now, fresh=True)
            return
        kind = _KINDS.get(error.reason, "reset")
        if kind == "queue":
            attempt.cancelled()
            self._give_up(error)
            return
        attempt.failed(kind, now, error.detail)
        attempt.target.cells.statuses[0] += 1
        delay: float | None
        if kind == "connect" and self._may_redirect(attempt, now):
            delay = 0.0
        elif error.reason == "upstream_tls_failed":
            delay = None
        else:
            delay = self._delay(kind, 0, now)
        if delay is None:
            self._give_up(error)
        else:
            self._again(attempt, delay, now)

    def _may_redirect(self, attempt: Attempt, now: float) -> bool:
        """
        Whether another target accepts connections. Nothing was sent, so it may be asked at once. That is no retry: it
        needs no policy and no budget, as no service sees the request twice.
        """
        deadline = self.request.deadline
        tried = (*self._tried, attempt.target)
        if not self._replayable or (deadline and now >= deadline) or not self._cluster.targets.elsewhere(now, tried):
            return False
        self._redirected += 1
        return True

    def abandoned(self) -> None:
        """The target is known to be silent: go elsewhere, if that is allowed; else wait on, it may come back."""
        attempt, connection = self._attempt, self._connection
        if attempt is None or self._done is None:
            return
        now = self._cluster.clock()
        if connection is None and self._may_redirect(attempt, now):
            delay: float | None = 0.0
        else:
            delay = self._delay("connect" if connection is None else "reset", 0, now)
        if delay is None:
            return
        attempt.failed("timeout", now)
        attempt.target.cells.statuses[0] += 1
        if connection is None:
            attempt.target.pool.withdraw(self)
        else:
            connection.cancel()
        self._again(attempt, delay, now)

    def released(self, *, aborted: bool = False) -> None:
        """The connection is free of us."""
        self._connection = None
        upload = self._upload
        if upload is not None:
            upload.connection = None
        attempt = self._attempt
        if attempt is not None and self._done is None:
            if aborted:
                attempt.broken(self._cluster.clock())
            else:
                attempt.end()

    def upload_paused(self) -> None:
        if self.request.body is not None:
            self.request.body.pause()

    def upload_resumed(self) -> None:
        if self.request.body is not None:
            self.request.body.resume()

    # Trying again, giving up

    @property
    def _replayable(self) -> bool:
        return self.request.body is None or self._upload is None or self._upload.replayable

    def _delay(self, kind: str, status: int, now: float) -> float | None:
        """Seconds until another try may begin, or None if there is none."""
        retries = self._cluster.retries
        request = self.request
        if retries is None or self._done is None:
            return None
        return retries.delay(
            request,
            kind,
            status,
            replayable=self._replayable,
            now=now,
            tries=request.tries - self._resent - self._redirected,
        )

    def _again(self, attempt: Attempt, delay: float, now: float) -> None:
        self._tried = (*self._tried, attempt.target)
        self._attempt = None
        if delay:
            self._retry_timer = self._cluster.later(delay, self._retry)
        else:
            self.attempt(now)

    def _retry(self) -> None:
        self._retry_timer = None
        if self._done is not None:
            self.attempt(self._cluster.clock())

    def _give_up(self, error: GatewayError) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        self._attempt = None
        if self._upload is not None:
            self._upload.stop()
        elif self.request.body is not None and not self._forward.keeps_content:
            self.request.body.cancel()
        done(self._cluster.fallback(self.request, error))

    def client_failed(self, error: GatewayError) -> None:
        """The client's content will never be complete: what was sent of it must not look whole."""
        done, self._done = self._done, None
        self.cancel()
        if done is not None:
            done(problem(self.request, error))

    @property
    def _too_slow(self) -> bool:
        """
        Whether the route's own time for the exchange is over: that is the service's failure. A client's impatience is
        not, however it shows.
        """
        request = self.request
        if not request.deadline or self._done is None or self._cluster.clock() < request.deadline:
            return False
        return not request.impatient

    @property
    def target(self) -> Target | None:
        """Where the try goes that is under way."""
        return self._attempt.target if self._attempt is not None else None

    def cancel(self) -> None:
        """The client went away, or its time is up."""
        attempt, self._attempt = self._attempt, None
        connection, self._connection = self._connection, None
        too_slow = connection is not None and self._too_slow
        self._done = None
        if self._retry_timer is not None:
            self._retry_timer()
            self._retry_timer = None
        if attempt is not None:
            if connection is None:
                attempt.target.pool.withdraw(self)
            if too_slow:
                attempt.failed("timeout", self._cluster.clock())
            else:
                attempt.cancelled()
        if connection is not None:
            connection.cancel()


def _retry_after(head: ResponseHead) -> float | None:
    value = head.headers.get(b"retry-after")
    return None if value is None else retry_after(value)
