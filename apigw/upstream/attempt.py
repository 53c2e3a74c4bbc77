"""
``Attempt``: one try at one target, from its choice to its end; the one place that tells everybody how it went.

    attempt = targets.begin(request, now, tried)      # raises UpstreamFault: nobody to ask
    attempt.answered(status, now, retry_after)        # the response's head is here
    attempt.failed("timeout", now)                    # or: connect, reset, timeout
    attempt.cancelled()                               # or: the client went away, a hedge's loser
    attempt.end()                                     # the response is over; after failed() and cancelled(), and
                                                      # answered(..., whole=True), it is already

Pure: ``now`` is passed in, in monotonic seconds.
"""

from __future__ import annotations

from apigw.upstream.target import LATENCY_MEMORY, STALL_REQUESTS, Target


class Attempt:
    """
    One try. Making it begins it.

    :ivar target: where it goes. :ivar started: when it was begun.
    :ivar token: the breaker's token, 0 once the breaker was told.
    :ivar open: whether it holds a place at the target.
    """

    __slots__ = ("open", "started", "target", "token")

    def __init__(self, target: Target, token: int, now: float) -> None:
        self.target = target
        self.token = token
        self.started = now
        self.open = True
        target.active += 1
        target.requests += 1
        unanswered = target.unanswered
        target.unanswered = unanswered + 1
        if not unanswered:
            latency = 3 * target.latency
            target.stalls_at = now + (max(target.stall_after, latency))
        elif unanswered >= STALL_REQUESTS and now >= target.stalls_at and target.watch is not None:
            target.watch.stalled(target, now)

    def answered(self, status: int, now: float, retry_after: float | None = None, whole: bool = False) -> None:
        """
        The head of the final response is here.

        :param whole: all of the content too: the try is over.
        :param retry_after: seconds of its ``Retry-After`` field; only looked at when the status is a failure.
        """
        target = self.target
        target.unanswered = 0
        latency = now - self.started
        known = target.latency
        if latency >= known:
            target.latency = latency
        else:
            share = (now - target.seen_at) / LATENCY_MEMORY
            target.latency = known + (latency - known) * share if share < 1.0 else latency
        target.seen_at = now
        if status >= 500 or target.attention:
            if status >= 500:
                target.failures += 1
            if target.watch is not None:
                target.watch.answered(target, status, now)
        token = self.token
        if token:
            self.token = 0
            breaker = target.breaker
            assert breaker is not None
            if breaker.fails[status]:
                breaker.failure(token, now, retry_after, self.started)
            else:
                breaker.success(token, now)
        if whole:  # `end`, without the call
            self.open = False
            target.active -= 1
            if not target.active and target.on_idle is not None:
                target.on_idle(target)

    def failed(self, kind: str, now: float, why: str = "") -> None:
        """
        It ends without a response.

        :param kind: ``connect`` (nothing was sent), ``reset`` (the connection broke before the head), or ``timeout``.
        :param why: one clause for the log.
        """
        token = self.token
        if token:
            self.token = 0
            breaker = self.target.breaker
            assert breaker is not None
            if kind == "timeout":
                breaker.timed_out(token, now, self.started)
            elif kind == "connect":
                breaker.unconnected(token, now)
            else:
                breaker.failure(token, now, None, self.started)
        target = self.target
        if kind == "connect" and target.watch is not None:
            target.failures += 1
            target.watch.unconnected(target, why, now)
            self.end()
        else:
            self.broken(now)

    def broken(self, now: float) -> None:
        """The response broke off midway. Its head was good: it counts for the target's health, not for the breaker."""
        target = self.target
        target.failures += 1
        if target.watch is not None:
            target.watch.failed(target, now)
        self.end()

    def cancelled(self) -> None:
        """
        Nobody wants the answer any more. The breaker does not count it.

        It stays among the target's unanswered requests: of a target that hangs, impatient clients may be the only sign.
        """
        token = self.token
        if token:
            self.token = 0
            breaker = self.target.breaker
            assert breaker is not None
            breaker.ignore(token)
        self.end()

    def end(self) -> None:
        """The response is over. A second call does nothing."""
        if self.open:
            self.open = False
            target = self.target
            target.active -= 1
            if not target.active and target.on_idle is not None:
                target.on_idle(target)
