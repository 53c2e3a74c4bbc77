"""
``mirror = UPSTREAM 10%``: sends copies of requests to another upstream, whose answers are only counted.

A copy can't slow down or fail the original: it is sent when the original's answer is on its way, is made of what was
kept of the request, and is dropped when too many copies are waiting or their bodies need too much memory.

Not here: sending: the mirrored upstream is a responder like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Annotated

from apigw.config.references import refer
from apigw.config.text import Text, Wrong
from apigw.config.values import Form, parse_share
from apigw.exchange.body import Body, keep
from apigw.exchange.errors import GatewayError
from apigw.exchange.headers import Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response
from apigw.upstream.balancing.spread import GOLDEN

PENDING = 100
"""Copies that may be under way."""

MEMORY = 16 * 1024 * 1024
"""Bytes of all copies' bodies."""

LARGEST_BODY = 1024 * 1024
"""Bytes of one copy's body; a request with more is not copied."""

MOST_DIFFERENT = 1000
"""Pairs of statuses that are told apart."""


@dataclass(frozen=True, slots=True)
class MirrorSpec:
    """Which upstream gets copies, and of what share (0..1) of the requests."""

    upstream: str
    share: float = 1.0

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.upstream} {self.share * 100:g}%"


def parse_mirror(text: Text) -> MirrorSpec:
    """
    ``UPSTREAM`` or ``UPSTREAM 10%``.

    :raises Wrong: for anything else.
    """
    words = text.split()
    if not 1 <= len(words) <= 2:
        raise Wrong("{shown} is not an upstream and a share")
    refer(text.part(0, len(words[0])), "upstream")
    if len(words) == 1:
        return MirrorSpec(words[0])
    return MirrorSpec(words[0], parse_share(text.part(text.rindex(words[1]))))


MirrorOption = Annotated[
    MirrorSpec, Form("upstream and share", "an upstream and a share, such as next 10%", parse_mirror)
]


class Mirror:
    """
    The copies of one route.

    :ivar sent: copies sent. :ivar dropped: copies that were not, for want of room. :ivar failed: those without an
        answer.
    :ivar same: answers with the original's status. :ivar different: others, by (original's status, copy's status).
    :ivar pending: copies under way. :ivar memory: bytes of content kept for copies.
    """

    def __init__(
        self,
        spec: MirrorSpec,
        upstream: Responder,
        rng: Random,
        count: Callable[[str], None] = lambda _: None,
        differed: Callable[[int, int], None] = lambda _original, _copy: None,
    ) -> None:
        """
        :param count: told ``sent``, ``dropped``, ``failed``, ``same`` and ``different``, for the metrics.
        :param differed: told both statuses, the original's first.
        """
        self.sent = self.dropped = self.failed = self.same = 0
        self.different: dict[tuple[int, int], int] = {}
        self.pending = 0
        self.memory = 0
        self._count = count
        self._differed = differed
        self._share = spec.share
        self._upstream = upstream
        self._at = rng.random()

    def wrap(self, inner: Responder) -> Responder:
        """``inner``, with copies."""

        def respond(request: Request, done: Done) -> None:
            self._at = at = (self._at + GOLDEN) % 1.0
            if at >= self._share:
                inner(request, done)
            elif self.pending >= PENDING:
                self.drop()
                inner(request, done)
            else:
                copy = _Copy(self, request, done)
                inner(request, copy.answered)

        return respond

    def drop(self) -> None:
        """A copy is not sent, for want of room."""
        self.dropped += 1
        self._count("dropped")

    def send(self, request: Request, content: bytes | None, status: int) -> None:
        """Send one copy, and compare its answer's status."""
        self.pending += 1
        self.sent += 1
        self._count("sent")

        def answered(response: Response) -> None:
            self.pending -= 1
            self.memory -= len(content or b"")
            response.discard()
            if response.error is not None:
                self.failed += 1
                self._count("failed")
            elif response.status == status:
                self.same += 1
                self._count("same")
            else:
                pair = (status, response.status)
                if pair in self.different or len(self.different) < MOST_DIFFERENT:  # services can make up statuses
                    self.different[pair] = self.different.get(pair, 0) + 1
                self._count("different")
                self._differed(*pair)

        self._upstream(request, answered)
        if content is not None and request.body is not None:
            if content:
                request.body.feed(content)
            request.body.end()


class _Copy:
    """
    One request that is to be copied: what is kept of it, until it was answered and its content is complete.

    It stands between the request's content and whoever reads that: a source for the one, a sink for the other.
    """

    def __init__(self, mirror: Mirror, request: Request, done: Done) -> None:
        self._mirror = mirror
        self._done = done
        # Before anything is changed further in.
        self._copy = Request(
            request.method, request.path, request.query, request.headers.copy(), host=request.host,
            client=request.client,
            started=request.started,
        )  # fmt: skip
        self._copy.id = request.id
        self._copy.scheme = request.scheme
        self._copy.peer = request.peer
        self._copy.route = request.route
        self._copy.captures = request.captures
        self._copy.forwarding = request.forwarding
        self._status = 0
        self._kept: list[bytes] | None = None
        self._size = 0
        self._whole = request.body is None
        self._dropped = False
        self._body = request.body
        if self._body is not None:
            self._kept = []
            self._onward = Body(self, self._body.length)
            request.body = self._onward
            self._body.subscribe(self)

    def answered(self, response: Response) -> None:
        """The original's answer: it goes on first."""
        self._status = response.status
        ours = response.error is not None and response.error.status == 499
        self._done(response)
        if ours:
            self._drop(count=False)
        else:
            self._send_if_complete()

    def _send_if_complete(self) -> None:
        if not self._status or not self._whole or self._dropped:
            return
        if self._mirror.pending >= PENDING:  # there was room when the original began, and there is none any more
            self._drop()
            return
        self._dropped = True  # it is sent once
        content = None if self._kept is None else b"".join(self._kept)
        if content is not None:
            self._copy.body = Body(None, len(content))
        self._mirror.send(self._copy, content, self._status)

    def _drop(self, *, count: bool = True) -> None:
        if not self._dropped:
            self._dropped = True
            if count:
                self._mirror.drop()
            self._mirror.memory -= self._size
            self._kept = None

    # The request's content passes by.

    def body_data(self, data: bytes) -> None:
        if not self._dropped and self._kept is not None:
            if self._size + len(data) > LARGEST_BODY or self._mirror.memory + len(data) > MEMORY:
                self._drop()
            else:
                keep(self._kept, data)
                self._size += len(data)
                self._mirror.memory += len(data)
        self._onward.feed(data)

    def body_end(self, trailers: list[Pair] | None) -> None:
        self._onward.end(trailers)
        self._whole = True
        self._send_if_complete()

    def body_failed(self, error: GatewayError) -> None:
        self._drop(count=False)
        self._onward.fail(error)

    def body_wanted(self) -> None:
        if self._body is not None and self._body._source is not None:
            self._body._source.body_wanted()

    def pause_body(self) -> None:
        if self._body is not None:
            self._body.pause()

    def resume_body(self) -> None:
        if self._body is not None:
            self._body.resume()

    def cancel_body(self) -> None:
        self._drop(count=False)
        if self._body is not None:
            self._body.cancel()
