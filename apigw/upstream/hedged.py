"""
``Hedged``: sends a second copy of a slow request to another target; the first answer counts, the other is cancelled.

Only requests without content are sent twice. An error of the gateway's own (refused, reset, timed out) is no answer
while the other copy is under way.

Not here: when a copy is worth it (``hedging``), sending (``forward``).
"""

from __future__ import annotations

from collections.abc import Callable

from apigw.exchange.request import Request
from apigw.exchange.responder import Done
from apigw.exchange.response import Response
from apigw.upstream.forward import Exchange, Forward
from apigw.upstream.hedging import Hedging
from apigw.upstream.target import Target


class Hedged:
    """
    The responder of a hedged route.

    :param forward: sends the request. :param copies: sends copies: without retries of their own.
    :param elsewhere: whether there is a target to ask besides this one.
    :param count: told ``sent``, and ``won`` when a copy was first.
    """

    def __init__(
        self,
        forward: Forward,
        copies: Forward,
        hedging: Hedging,
        elsewhere: Callable[[Target], bool],
        count: Callable[[str], None],
    ) -> None:
        self.forward = forward
        self.copies = copies
        self.hedging = hedging
        self.elsewhere = elsewhere
        self.count = count

    def __call__(self, request: Request, done: Done) -> None:
        """Answer ``request`` (``apigw.exchange.responder``)."""
        if request.body is None and self.hedging.applies(request.method):
            _Race(self, request, done).begin()
        else:
            self.forward(request, done)


class _Race:
    """One request, and perhaps its copy."""

    __slots__ = ("_began", "_copy", "_copy_exchange", "_done", "_first", "_hedged", "_held", "_request", "_timer")

    def __init__(self, hedged: Hedged, request: Request, done: Done) -> None:
        self._hedged = hedged
        self._request = request
        self._done: Done | None = done
        self._began = 0.0
        self._first: Exchange | None = None
        self._copy: Request | None = None  # while it is under way
        self._copy_exchange: Exchange | None = None
        self._held: Response | None = None  # the first one's failure, while the copy is under way
        self._timer: Callable[[], None] | None = None

    def begin(self) -> None:
        hedged, request = self._hedged, self._request
        cluster = hedged.forward.cluster
        self._began = cluster.clock()
        request.on_cancel(self._cancel)
        self._first = hedged.forward.send(request, self._answered)
        delay = hedged.hedging.delay(request.method)
        if delay is not None and self._done is not None:
            self._timer = cluster.later(delay, self._send_copy)

    def _send_copy(self) -> None:
        self._timer = None
        hedged, request = self._hedged, self._request
        target = self._first.target if self._first is not None else None
        if target is None or not hedged.elsewhere(target):
            return  # it waits for its next try anyway, or nobody else could be asked
        if not hedged.hedging.take(hedged.forward.cluster.clock(), request.deadline):
            return
        copy = self._copy = Request.__new__(Request)
        copy.__dict__.update(request.__dict__)
        copy.connection = None
        copy._cancellers = None
        copy.tries = 0
        hedged.count("sent")
        exchange = hedged.copies.send(copy, self._copy_answered, (target,))
        if self._copy is not None:
            self._copy_exchange = exchange

    def _answered(self, response: Response) -> None:
        if self._done is None:
            response.discard()
        elif response.error is not None and self._copy is not None:
            self._held = response
        else:
            if response.error is None:
                self._observe()
            self._finish(response, "lost")

    def _copy_answered(self, response: Response) -> None:
        copy, self._copy = self._copy, None
        request = self._request
        if copy is None or self._done is None:
            response.discard()
            return
        request.tries += copy.tries
        if response.error is not None:
            response.discard()
            if self._held is not None:
                self._finish(self._held, "lost")
            return
        # The first one took at least as long: without it, only the quick ones would be learned from.
        self._observe()
        self._hedged.hedging.won += 1
        self._hedged.count("won")
        if self._held is not None:
            self._held.discard()
        elif self._first is not None:
            self._first.cancel()
        request.upstream_target = copy.upstream_target
        request.upstream_started = copy.upstream_started
        request.upstream_time = copy.upstream_time
        request.reason = ""
        request.note("hedge", "won")
        self._finish(response, "")

    def _observe(self) -> None:
        self._hedged.hedging.observe(self._hedged.forward.cluster.clock() - self._began)

    def _finish(self, response: Response, hedge: str) -> None:
        done, self._done = self._done, None
        if self._timer is not None:
            self._timer()
            self._timer = None
        copy, self._copy = self._copy, None
        if copy is not None:
            self._request.tries += copy.tries
            if self._copy_exchange is not None:
                self._copy_exchange.cancel()
        if hedge and (copy is not None or self._copy_exchange is not None):
            self._request.note("hedge", hedge)
        if done is not None:
            done(response)

    def _cancel(self) -> None:
        """The client went away, or its time is up."""
        self._done = None
        if self._timer is not None:
            self._timer()
            self._timer = None
        self._copy = None
        for exchange in (self._copy_exchange, self._first):
            if exchange is not None:
                exchange.cancel()
