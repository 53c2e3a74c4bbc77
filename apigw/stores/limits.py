"""
``MemoryLimits``: how much everybody may still have, in this process's memory, by GCRA (ITU-T I.371, the generic cell
rate algorithm): one float a key and window, the time at which its bucket will be full again.

It is exact: in any span of t seconds a key gets at most ``limit / seconds * t + burst``, and all of that when it asks
for more.

A key whose buckets are full again is the same as one never seen, and is forgotten within about ``ROUND`` seconds. The
table is cut into shards that take turns, so that neither sweeping nor growing takes longer than a fraction of a
millisecond, however many keys there are.

Not here: what is limited, and what a refused client is told (``apigw.policies.rate_limit``). Limits that processes and
machines share stand behind the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

SHARDS = 256
ROUND = 10.0
"""Seconds in which every shard has its turn to forget."""

AT_ONCE = 2048
"""Keys that are looked at in one turn, about."""

EXACT = 1e-9
"""Seconds by which sums of floats may be off."""

_EMPTY: dict[object, Any] = {}
"""Stands in the place of every shard without keys: nothing is ever put into it."""

Window = tuple[int, float, int]
"""(limit, seconds, burst): so many in so many seconds, and so many at once."""

Later = Callable[[float, Callable[[], None]], Callable[[], None]]


class MemoryLimits:
    """
    Makes limiters.

    :param clock: monotonic seconds. :param later: call something after so many seconds; gives what cancels it.
    """

    def __init__(self, clock: Callable[[], float], later: Later) -> None:
        self._clock = clock
        self._later = later

    def limiter(self, name: str, windows: Sequence[Window], max_keys: int) -> MemoryLimiter:
        """
        A limiter of its own. ``name`` matters where limits are shared.

        :param max_keys: so many keys are remembered; beyond that those that owe the least go first.
        """
        return MemoryLimiter(self._clock, self._later, windows, max_keys)


class MemoryLimiter:
    """
    One limit, of one or several windows, for any number of keys.

    :ivar forgotten: keys that were forgotten too early because there were more than ``max_keys``.
    """

    def __init__(
        self, clock: Callable[[], float], later: Later, windows: Sequence[Window], max_keys: int = 1_000_000
    ) -> None:
        self._clock = clock
        self._later = later
        self._intervals = [seconds / limit for limit, seconds, _ in windows]
        self._bursts = [burst for _, _, burst in windows]
        self._depths = [interval * burst + EXACT for interval, burst in zip(self._intervals, self._bursts, strict=True)]
        self._interval = self._intervals[0]
        self._depth = self._depths[0]
        self._most = max_keys
        self._count = 0
        self._shards = [_EMPTY] * SHARDS
        self._turn = 0
        self._stop: Callable[[], None] | None = None
        self.forgotten = 0
        # Of one window a key's value is a float; of several they are packed, or each would cost 24 bytes beside its 8.
        packing = Struct(f"{len(windows)}d")
        self._pack, self._unpack = packing.pack, packing.unpack
        self._full = (0.0,) * len(windows)
        self._several = len(windows) > 1

    def __len__(self) -> int:
        """How many keys are remembered."""
        return self._count

    @property
    def take_one(self) -> Callable[[object], float] | None:
        """``take(key)`` with only the seconds of its result, where there is one window; else None."""
        return None if self._several else self._take_one

    def take(self, key: object, cost: int = 1) -> tuple[int, float]:
        """
        Take ``cost`` for ``key`` from all windows, or from none.

        :return: (window, seconds). Seconds of 0 and more: it is granted, and the window is full again after so many.
            Below 0: it is refused, and would be granted after so many. The window, by number, is the one that has
            the least left, or that makes the client wait longest. A cost above the burst is never granted.
        """
        if self._several:
            return self._take_from_several(key, cost)
        now = self._clock()
        at = hash(key) & 255
        shard = self._shards[at]
        full = shard.get(key)
        debt = self._interval * cost
        if full is not None:
            if full > now:
                debt += full - now
            if debt > self._depth:
                return 0, self._depth - debt
        else:
            if debt > self._depth:
                return 0, self._depth - debt
            shard = self._with_room(at, now)
        shard[key] = now + debt
        return 0, debt

    def _take_one(self, key: object) -> float:
        now = self._clock()
        at = hash(key) & 255
        shard = self._shards[at]
        full = shard.get(key)
        debt = self._interval
        if full is None:
            shard = self._with_room(at, now)
        elif full > now:
            debt += full - now
            if debt > self._depth:
                refused: float = self._depth - debt
                return refused
        shard[key] = now + debt
        return debt

    def _take_from_several(self, key: object, cost: int) -> tuple[int, float]:
        now = self._clock()
        at = hash(key) & 255
        shard = self._shards[at]
        packed = shard.get(key)
        debts = [
            (full - now if full > now else 0.0) + interval * cost
            for full, interval in zip(
                self._full if packed is None else self._unpack(packed), self._intervals, strict=True
            )
        ]
        longest, window = 0.0, -1
        for index, debt in enumerate(debts):
            wait = debt - self._depths[index]
            if wait > longest:
                longest, window = wait, index
        if window >= 0:
            return window, -longest
        if packed is None:
            shard = self._with_room(at, now)
        shard[key] = self._pack(*[now + debt for debt in debts])
        least = float("inf")
        for index, debt in enumerate(debts):
            left = self._bursts[index] - debt / self._intervals[index]
            if left < least:
                least, window = left, index
        return window, debts[window]

    def _with_room(self, at: int, now: float) -> dict[object, Any]:
        """The shard ``at``, which is about to get one more key."""
        if self._stop is None:
            self._stop = self._later(ROUND / SHARDS, self._sweep)
        other = at
        while self._count >= self._most:
            self._shrink(other, now)
            other = (other + 1) % SHARDS
        self._count += 1
        shard = self._shards[at]
        if shard is _EMPTY:
            shard = self._shards[at] = {}
        return shard

    def _shrink(self, at: int, now: float) -> None:
        """Forget those of a shard that are full again, or else the eighth that is so next."""
        shard = self._shards[at]
        if shard:
            ends = sorted(self._ends(shard))
            self._keep(at, max(now, ends[len(ends) // 8]))
            self.forgotten += sum(now < end for end in ends) - len(self._shards[at])

    def _ends(self, shard: dict[object, Any]) -> list[float]:
        return [max(self._unpack(packed)) for packed in shard.values()] if self._several else list(shard.values())

    def _keep(self, at: int, after: float) -> None:
        """Of a shard, what is full again only later."""
        shard = self._shards[at]
        if self._several:
            unpack = self._unpack
            kept = {key: packed for key, packed in shard.items() if max(unpack(packed)) > after}
        else:
            kept = {key: full for key, full in shard.items() if full > after}
        self._count -= len(shard) - len(kept)
        self._shards[at] = kept or _EMPTY

    def _sweep(self) -> None:
        now = self._clock()
        seen = shards = 0
        while shards < SHARDS and seen < AT_ONCE:
            if shard := self._shards[self._turn]:
                seen += len(shard)
                self._keep(self._turn, now)
            self._turn = (self._turn + 1) % SHARDS
            shards += 1
        self._stop = self._later(ROUND * shards / SHARDS, self._sweep) if self._count else None

    def stop(self) -> None:
        """Forget everything."""
        if self._stop is not None:
            self._stop()
            self._stop = None
        self._shards = [_EMPTY] * SHARDS
        self._count = 0
