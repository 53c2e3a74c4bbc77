"""
``RollingCounts``: two counters over the last seconds, kept in a ring of buckets.

The breaker counts good and bad results with it, the retry budget requests and retries. Buckets are moved on when
somebody looks, so there is no timer.

Pure: no clock, no I/O; ``now`` is passed in, in monotonic seconds.
"""

from __future__ import annotations

from collections import deque


class RollingCounts:
    """
    Two counters, each the sum over the last ``window`` seconds, exact to one bucket.

    To count: ``if now >= counts.until: counts.rotate(now)``, then ``counts.first += 1`` (or ``second``): the two
    lines stand at the caller because a call would cost more than what they do.

    :ivar first: the current bucket's count. :ivar second: likewise.
    :ivar until: when the current bucket ends.
    """

    __slots__ = ("_past", "_past_first", "_past_second", "_width", "first", "second", "until")

    def __init__(self, window: float, buckets: int, now: float = 0.0) -> None:
        self._width = window / buckets
        self._past: deque[tuple[int, int]] = deque(maxlen=buckets - 1)
        self.clear(now)

    def clear(self, now: float) -> None:
        """Forget everything."""
        self._past.clear()
        self._past_first = self._past_second = 0
        self.first = self.second = 0
        self.until = now + self._width

    def rotate(self, now: float) -> None:
        """Begin the bucket that ``now`` is in, and drop those that have left the window."""
        steps = int((now - self.until) / self._width) + 1
        past = self._past
        if steps > (past.maxlen or 0):
            self.clear(now)
            return
        for _ in range(steps):
            if len(past) == past.maxlen:
                gone_first, gone_second = past[0]
                self._past_first -= gone_first
                self._past_second -= gone_second
            past.append((self.first, self.second))
            self._past_first += self.first
            self._past_second += self.second
            self.first = self.second = 0
            self.until += self._width

    def sums(self, now: float) -> tuple[int, int]:
        """Both counts over the window that ends now."""
        if now >= self.until:
            self.rotate(now)
        return self._past_first + self.first, self._past_second + self.second
