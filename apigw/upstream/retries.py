"""
``Retries``: whether a request that failed may be sent again, and after how long.

    retry.attempts = 3
    retry.on = connect, reset, 502, 503
    retry.budget = 20%

A request is sent again only if nothing of its response went out, and if it can do no harm: nothing of it was sent,
or its
method may be repeated (RFC 9110 9.2.2) and its content is still there. All retries and hedges of an upstream share
one budget: a share of
its requests of the last 10 seconds, so that a service that fails does not also get a multiple of its load. Hedges and
second retries get half of it at most, so that they don't use up what first retries need.

A request that found no connection goes to another target at once, whatever is configured here (``forward``).

Pure: ``now`` is passed in. Not here: sending (``forward``), a second copy of a slow request (``hedging``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from apigw.exchange.request import Request
from apigw.upstream.rolling import RollingCounts
from apigw.upstream.settings import RetrySettings

WINDOW = 10.0
"""Seconds of requests that the budget is a share of (Finagle's and Linkerd's ttl)."""

BUCKETS = 10


class RetryBudget:
    """
    How many further tries an upstream may get.

    :ivar counts: ``first`` are requests, which ``TargetSet`` counts; ``second`` are the tries granted here.
    :ivar granted: since the start. :ivar denied: likewise.
    """

    def __init__(self, settings: RetrySettings, now: float) -> None:
        self.counts = RollingCounts(WINDOW, BUCKETS, now)
        self.granted = 0
        self.denied = 0
        self._share = settings.budget
        self._minimum = settings.min_retries

    def left(self, now: float, *, part: float = 1.0) -> int:
        """
        How many tries it would grant now.

        :param part: 0..1, of the whole budget.
        """
        requests, spent = self.counts.sums(now)
        most = self._share * part * requests
        if spent < most:
            return int(most - spent + 1)
        # The least that is allowed is so much in one second: what is not used is not saved up.
        return math.ceil(self._minimum * part) - self.counts.second

    def take(self, now: float, *, optional: bool = False) -> bool:
        """
        Take one further try out of it. False if there is none.

        :param optional: it is a hedge, or not the request's first retry: half of the budget is kept for first retries,
            because these save the most requests.
        """
        if self.left(now, part=0.5 if optional else 1.0) <= 0:
            self.denied += 1
            return False
        self.counts.second += 1
        self.granted += 1
        return True


class Retries:
    """
    The decision of one upstream.

    :ivar statuses: those after which a try may be made again.
    """

    def __init__(
        self, settings: RetrySettings, budget: RetryBudget, rng: Random, targets: Callable[[], int] = lambda: 1
    ) -> None:
        """
        :param targets: how many targets may be asked at the moment.
        """
        self.statuses = frozenset(status for status in settings.on if isinstance(status, int))
        self.max_body = settings.max_body
        self._kinds = frozenset(kind for kind in settings.on if isinstance(kind, str))
        self._methods = frozenset(method.encode() for method in settings.methods)
        self._attempts = settings.attempts
        self._backoff = settings.backoff
        self._max_backoff = settings.max_backoff
        self._budget = budget
        self._rng = rng
        self._targets = targets

    def delay(
        self, request: Request, kind: str, status: int, *, replayable: bool, now: float, tries: int
    ) -> float | None:
        """
        Seconds until the next try, or None if there is none. A try that is allowed is taken out of the budget.

        :param kind: how the last one failed: ``connect`` (nothing was sent), ``reset``, ``timeout`` or ``status``.
        :param status: of its response, for ``status``.
        :param replayable: whether all of the request's content is still there.
        :param tries: how many were made.
        """
        if tries >= self._attempts or not replayable:
            return None
        if kind == "status":
            if status not in self.statuses:
                return None
        elif kind not in self._kinds:
            return None
        if kind != "connect" and request.method not in self._methods:
            return None
        if kind == "connect" and tries < self._targets():
            wait = 0.0  # it took no time, and another target has no part in it
        else:
            # Full jitter: those that failed together don't come back together.
            wait = self._rng.random() * min(self._max_backoff, self._backoff * 2 ** (tries - 1))
        if request.deadline and now + wait >= request.deadline:
            return None
        return wait if self._budget.take(now, optional=tries > 1) else None
