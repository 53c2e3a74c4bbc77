"""
``MemoryLimits``: how much everybody may still have, in this process's memory, by GCRA (ITU-T I.371, the generic cell
rate algorithm): one float a key, the time at which its bucket will be full again.

It is exact: in any span of t seconds a key gets at most ``limit / seconds * t + burst``, and all of that when it asks
for more.

Keys whose bucket is full again are the same as keys never seen. So the table has two generations; the older one is
dropped once everything in it must be full. It is cut into shards that take turns, so that neither dropping nor growing
ever takes longer than a fraction of a millisecond, however many keys there are.

Not here: what is limited, and what a refused client is told (``apigw.policies.rate_limit``). Limits that processes and
machines share stand behind the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

SHARDS = 64
SHORTEST_TURN = 0.02
"""Seconds between two shards' turns, at least."""

EXACT = 1e-9
"""Seconds by which sums of floats may be off."""

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

        :param max_keys: about as many keys are remembered per window; the least recently used go first.
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
        self.clock = clock
        self._tables = [_Table(clock, later, window, max_keys) for window in windows]
        if len(windows) == 1:
            self.take = self._tables[0].take  # type: ignore[method-assign]

    @property
    def forgotten(self) -> int:
        return sum(table.forgotten for table in self._tables)

    def __len__(self) -> int:
        """How many keys are remembered, over all windows."""
        return sum(map(len, self._tables))

    def take(self, key: object, cost: int = 1) -> tuple[int, float]:
        """
        Take ``cost`` for ``key`` from all windows, or from none.

        :return: (window, seconds). Seconds of 0 and more: it is granted, and the window is full again after so many.
            Below 0: it is refused, and would be granted after so many. The window, by number, is the one that has
            the least left, or that makes the client wait longest. A cost above the burst is never granted.
        """
        now = self.clock()
        tables = self._tables
        debts = [table.debt(key, cost, now) for table in tables]
        longest, at = 0.0, -1
        for index, debt in enumerate(debts):
            wait = debt - tables[index].depth
            if wait > longest:
                longest, at = wait, index
        if at >= 0:
            return at, -longest
        least = float("inf")
        for index, debt in enumerate(debts):
            left = tables[index].granted(key, now, debt)
            if left < least:
                least, at = left, index
        return at, debts[at]

    def stop(self) -> None:
        """Forget everything."""
        for table in self._tables:
            table.stop()


class _Table:
    """One window."""

    __slots__ = (
        "_burst", "_clock", "_interval", "_later", "_most", "_old", "_shard", "_stop", "_turn", "_young",
        "depth", "forgotten",
    )  # fmt: skip

    def __init__(self, clock: Callable[[], float], later: Later, window: Window, max_keys: int) -> None:
        limit, seconds, burst = window
        self._clock = clock
        self._later = later
        self._burst = burst
        self._interval = seconds / limit
        self.depth = self._interval * burst + EXACT
        self._most = max(1, max_keys // (2 * SHARDS))
        self._young: list[dict[object, float]] = [{} for _ in range(SHARDS)]
        self._old: list[dict[object, float]] = [{} for _ in range(SHARDS)]
        # A generation lives for a round: what falls out of the older one was last used a round ago, and is full by now.
        self._turn = max(self.depth / SHARDS, SHORTEST_TURN)
        self._shard = 0
        self._stop: Callable[[], None] | None = None
        self.forgotten = 0

    def __len__(self) -> int:
        return sum(map(len, self._young)) + sum(map(len, self._old))

    def take(self, key: object, cost: int = 1) -> tuple[int, float]:
        """As ``MemoryLimiter.take``."""
        now = self._clock()
        shard = hash(key) & 63
        young = self._young[shard]
        full = young.get(key)
        if full is None:
            full = self._elsewhere(key, shard, young)
        if full < now:  # noqa: PLR1730 - max() would be a call
            full = now
        full += self._interval * cost
        debt = full - now
        if debt > self.depth:
            return 0, self.depth - debt
        young[key] = full
        return 0, debt

    def debt(self, key: object, cost: int, now: float) -> float:
        """Give the seconds until it would be full again; nothing is taken yet."""
        shard = hash(key) & 63
        young = self._young[shard]
        full = young.get(key)
        if full is None:
            full = self._elsewhere(key, shard, young)
        return (full - now if full > now else 0.0) + self._interval * cost

    def granted(self, key: object, now: float, debt: float) -> float:
        """Take it. How many may still come."""
        self._young[hash(key) & 63][key] = now + debt
        return self._burst - debt / self._interval

    def _elsewhere(self, key: object, shard: int, young: dict[object, float]) -> float:
        """The key is not among the young: about to become so."""
        if self._stop is None:
            self._stop = self._later(self._turn, self._next_turn)
        if len(young) >= self._most:
            self.forgotten += sum(full > self._clock() for full in self._old[shard].values())
            self._old[shard] = young.copy()
            young.clear()
        return self._old[shard].get(key, 0.0)

    def _next_turn(self) -> None:
        shard = self._shard
        self._old[shard] = self._young[shard]
        self._young[shard] = {}
        self._shard = (shard + 1) % SHARDS
        self._stop = self._later(self._turn, self._next_turn) if self._shard or len(self) else None

    def stop(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None
        for shards in (self._young, self._old):
            for shard in shards:
                shard.clear()
