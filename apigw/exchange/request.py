"""
``Request``: one request as the gateway sees it, and what is learned of it on its way (identity, route, timings).

One object for both: it is made once per request, and every attribute costs time, so there is no second "context".
A policy reads what it needs from it, changes header fields on a copy of its own (``edit_headers``), and leaves its
findings (``identity``, ``notes``) for those behind it and for the access log.

Not here: parsing (``apigw.http``), the connection it came on (``apigw.downstream``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from apigw.exchange.body import Body
from apigw.exchange.headers import Headers, Pair

Given = tuple[tuple[Pair, ...], bool]
"""``Set-Cookie`` fields, and whether they are a session's."""

NO_CAPTURES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Identity:
    """
    Who the caller proved to be.

    :ivar name: the consumer's name, or the token's subject.
    :ivar method: the policy that proved it: ``jwt``, ``api_key``, ``basic``, ...
    :ivar consumer: name of a configured consumer, if it is one.
    """

    name: str
    method: str
    consumer: str | None = None
    groups: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict)


class Route(Protocol):
    """What everyone may know of the route that was chosen."""

    @property
    def name(self) -> str: ...


class Forwarding(Protocol):
    """
    What is said of the client towards services: the fields ready to be sent on, and what to put before a prefix.

    ``ready`` is good while the request's ``lines`` are still ``received``: those, these, and the name X-Request-Id.
    """

    @property
    def lines(self) -> bytes: ...

    @property
    def received(self) -> bytes: ...

    @property
    def ready(self) -> bytes: ...

    @property
    def prefix(self) -> bytes: ...


class Connection(Protocol):
    """What a request may ask of the connection that it came on."""

    def watch_deadline(self) -> None:
        """The request got a deadline: end it with 504 when that has passed."""

    def use_min_rate(self, rate: int) -> None:
        """Expect the request's content at ``rate`` bytes a second instead of the listener's ``min_rate``; 0: at any."""

    def send_informational(self, status: int, headers: list[Pair]) -> None:
        """Send a 1xx response ahead of the final one (RFC 9110 15.2)."""


class Request:
    """
    One request.

    :ivar method: as sent, like ``b"GET"`` (methods are case-sensitive).
    :ivar path: the normalised path that was matched and is sent on, percent-encoded, without query.
    :ivar query: the raw query without ``?``; None when there was no ``?``.
    :ivar target: the request target as it was received, for logs.
    :ivar headers: shared with other requests; change them only by ``edit_headers()``.
    :ivar lines: the end-to-end field lines ready to be sent on, or None once the headers were edited.
    :ivar host: the authority asked for (Host, or that of an absolute target), lower case, with its port if given.
    :ivar scheme: ``b"http"`` or ``b"https"``, as the client sees it (X-Forwarded-Proto of a trusted proxy counts).
    :ivar body: the content as a stream, or None if there is none.
    :ivar peer: address of the socket's other end. :ivar client: address of the client, behind trusted proxies.
    :ivar trusted: whether the peer is one of ``trusted_proxies``.
    :ivar id: the request id, sent on as X-Request-Id.
    :ivar forwarding: X-Forwarded-* and their like for the service; None for requests of the gateway's own.
    :ivar received: header fields before policies changed any; kept for batches alone.
    :ivar expects_continue: the client waits for 100 (Continue) before it sends the content.
    :ivar started: monotonic seconds. :ivar deadline: monotonic seconds, 0.0 for none.
    :ivar impatient: the client itself asked for that deadline.
    :ivar captures: what a template or regex path captured, percent-decoded.
    :ivar identity: who the caller proved to be, or None.
    :ivar reason: reason code of what became of it, for log and metrics; empty for a plain answer.
    :ivar upstream: name of the upstream that was asked. :ivar upstream_target: its target. :ivar tries: how often.
    :ivar upstream_started: monotonic seconds of the last try's start. :ivar upstream_time: seconds to its head.
    :ivar given: cookies for the client, and whether they are a session's (``exchange.cookies``); None without.
    :ivar notes: further facts for the access log (JSON-able), None until somebody has one.
    """

    # Most attributes keep their default on most requests: as class attributes they cost nothing to make.
    lines: bytes | None = None
    received: tuple[Pair, ...] | None = None
    scheme = b"http"
    version = b"1.1"
    trusted = False
    forwarding: Forwarding | None = None
    expects_continue = False
    id = b""
    route: Route | None = None
    captures: Mapping[str, str] = NO_CAPTURES
    identity: Identity | None = None
    deadline = 0.0
    impatient = False
    connection: Connection | None = None
    reason = ""
    upstream = ""
    upstream_target = ""
    tries = 0
    upstream_started = 0.0
    upstream_time = 0.0
    given: Given | None = None
    notes: dict[str, Any] | None = None
    _cancellers: list[Callable[[], None]] | None = None

    def __init__(
        self,
        method: bytes,
        path: bytes,
        query: bytes | None = None,
        headers: Headers | None = None,
        body: Body | None = None,
        *,
        host: bytes = b"localhost",
        client: str = "127.0.0.1",
        started: float = 0.0,
    ) -> None:
        """A request made by the gateway itself, or by a test; connections fill one in field by field."""
        self.method = method
        self.path = path
        self.query = query
        self.target = path if query is None else path + b"?" + query
        self.headers = headers if headers is not None else Headers()
        self.host = host
        self.body = body
        self.peer = client
        self.client = client
        self.started = started

    def edit_headers(self) -> Headers:
        """Headers of this request alone, to be changed; what is sent on follows them."""
        if self.lines is not None:
            self.headers = self.headers.copy()
            self.lines = None
        return self.headers

    def note(self, name: str, value: Any) -> None:
        """Leave a fact for the access log. Never a credential."""
        if self.notes is None:
            self.notes = {}
        self.notes[name] = value

    def on_cancel(self, stop: Callable[[], None]) -> None:
        """Call ``stop`` if the client goes away (or the exchange's time is up) before the answer is complete."""
        if self._cancellers is None:
            self._cancellers = [stop]
        else:
            self._cancellers.append(stop)

    def cancel(self) -> None:
        """Nobody waits for the answer any more: stop the work that was begun for it, last begun first."""
        cancellers, self._cancellers = self._cancellers, None
        for stop in reversed(cancellers or ()):
            stop()

    def __repr__(self) -> str:
        return f"<Request {self.id.decode()} {self.method.decode('latin-1')} {self.path.decode('latin-1')}>"
