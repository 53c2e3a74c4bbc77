"""
``Prober``: asks targets how they are, whether clients ask or not.

    health.path = /health
    health.interval = 2s

Two reasons to ask:

- active checks (``health.path``, or ``health.type = tcp``): every target, all the time, more often while the verdict
  is in question. The first check of a target is made at once and decides alone; later ones need their thresholds.
- trials of targets in doubt (``TargetSet.in_doubt``): asked at once, then after ``FIRST_AGAIN`` and twice as long each
  time up to ``outlier.probe_interval``, until the doubt is over. So targets and circuits recover without any client.

A trial is the active check, if there is one; else a plain ``OPTIONS /``, or with ``outlier.probe = no`` a connection.
What it proves:

- any answer: an unreachable or suspect target is there. (A connection alone does not prove that it no longer hangs.)
- the check is as it should be, or ``OPTIONS`` is answered by anything but a 5xx (501 will do: it only says that the
  service knows no OPTIONS): a probation ends, and it is one of the circuit's ``half_open_requests``.
- a 5xx to ``OPTIONS`` proves nothing, as services exist that answer that always: the next client's request decides.

Verdicts go to ``TargetSet.probed``, ``seen_alive`` and ``trial_passed``. Not here: the requests: the upstream's own
client makes them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure

from apigw.config.regex import Regex
from apigw.upstream.settings import HealthSettings, OutlierSettings
from apigw.upstream.target import Target
from apigw.upstream.target_set import TargetSet

log = Logger()

FIRST_AGAIN = 0.1
"""Seconds between the first two trials of a target in doubt."""

BODY_LIMIT = 64 * 1024
"""Bytes of a check's body that are searched."""


class Answer(Protocol):
    """As much of treq's response as a check needs."""

    @property
    def code(self) -> int: ...

    def content(self) -> Awaitable[bytes]: ...


Fetch = Callable[[Target, str, str, float], Awaitable[Any]]
"""``fetch(target, method, path, timeout)``: treq's ``request`` on that target, past balancer, breaker and retries."""

Dial = Callable[[Target, float], Awaitable[object]]
"""``dial(target, timeout)``: connect, and close again."""

Now = Callable[[], float]


class Verdict:
    """
    How one check ended.

    :ivar ok: as it should. :ivar answered: there was an answer, good or bad. :ivar why: one clause for a person.
    :ivar only_connected: it was asked nothing.
    """

    __slots__ = ("answered", "ok", "only_connected", "why")

    def __init__(self, ok: bool, answered: bool, why: str, *, only_connected: bool = False) -> None:
        self.ok = ok
        self.answered = answered
        self.why = why
        self.only_connected = only_connected


class Prober:
    """
    The checks of one upstream.

    :ivar checks: how many were made. :ivar failures: how many of them were not as they should be.
    """

    def __init__(  # noqa: PLR0917 - whoever builds it has all of these
        self,
        targets: TargetSet,
        health: HealthSettings,
        outlier: OutlierSettings,
        fetch: Fetch,
        dial: Dial,
        reactor: IReactorTime,
        now: Now,
        rng: Random,
    ) -> None:
        """
        :param now: the clock that the targets are judged by (monotonic seconds); ``reactor`` only wakes us up.
        """
        self.targets = targets
        self.health = health
        self.checks = 0
        self.failures = 0
        self._always = health.enabled
        self._asks = outlier.probe and health.type != "tcp"
        self._trial_interval = outlier.probe_interval
        self._fetch = fetch
        self._dial = dial
        self._reactor = reactor
        self._now = now
        self._rng = rng
        self._watched: dict[Target, _Watched] = {}
        self._unlisten: list[Callable[[], None]] = []
        self._running = False

    def start(self) -> None:
        """Begin. Active checks ask every target at once."""
        if self._running:
            return
        self._running = True
        self._unlisten = [
            self.targets.listen(self._changed),
            self.targets.on_update(self.look),
            self.targets.on_doubt(self._doubted, verified=self._asks or self.health.path is not None),
        ]
        self.look()

    def look(self) -> None:
        """The targets may be others now: watch those that need it, and no others."""
        if not self._running:
            return
        current = set(self.targets.targets)
        for target in [*self._watched]:
            if target not in current:
                self._watched.pop(target).stop()
        for target in self.targets.targets:
            if target not in self._watched and self._always:
                watched = self._watched[target] = _Watched(self, target)
                watched.wait(0.0)

    def stop(self) -> None:
        """End: no timer and no request of ours is left."""
        self._running = False
        for unlisten in self._unlisten:
            unlisten()
        self._unlisten = []
        for watched in self._watched.values():
            watched.stop()
        self._watched.clear()

    # What the watched say.

    def judged(self, watched: _Watched, verdict: Verdict) -> None:
        """A check has ended: count it, tell the target set, and go on."""
        target, now = watched.target, self._now()
        self.checks += 1
        if not verdict.ok:
            self.failures += 1
        target.trial_until = 0.0
        if not self._always:
            self._tried(watched, verdict, now)
            if self.targets.in_doubt(target) and not target.gone:
                watched.wait(watched.pause(self._trial_interval))
            else:
                self._watched.pop(target, None)
            return
        first = watched.streak == 0
        if verdict.ok == watched.last_ok and not first:
            watched.streak += 1
        else:
            watched.last_ok, watched.streak = verdict.ok, 1
        needed = 1 if first else self.health.healthy if verdict.ok else self.health.unhealthy
        if watched.streak >= needed and (target.probe_failed or not verdict.ok):
            self.targets.probed(target, verdict.ok, now, unreachable=not verdict.answered, why=verdict.why)
        self._tried(watched, verdict, now)
        settled = verdict.ok and not (target.probe_failed or target.ejected_until or self.targets.in_doubt(target))
        interval = self.health.interval if settled else min(self.health.fast_interval, self.health.interval)
        if self.targets.in_doubt(target):
            interval = min(interval, watched.pause(interval))
        else:
            watched.again = 0.0
        watched.wait(interval * (1 + self.health.jitter * (2 * self._rng.random() - 1)))

    def _tried(self, watched: _Watched, verdict: Verdict, now: float) -> None:
        """What the check says of a target in doubt."""
        target = watched.target
        if not verdict.answered:
            self._keep_out(target, now, self.health.interval if self._always else self._trial_interval)
            self.targets.silent(target, verdict.why, now)
            return
        if target.suspect and not watched.for_suspect:
            return  # it was asked before there was a suspicion
        self.targets.seen_alive(target, now, only_connected=verdict.only_connected)
        if verdict.ok and not target.probe_failed:
            self.targets.trial_passed(target, now)

    async def check(self, target: Target) -> Verdict:
        """
        Make one check.

        :raises Exception: whatever the client raises: there was no answer.
        """
        health = self.health
        if not (self._asks or health.path is not None):
            await self._dial(target, health.timeout)
            return Verdict(True, True, "", only_connected=True)
        if not self._always:
            answer = await self._fetch(target, "OPTIONS", "/", health.timeout)
            await answer.content()
            return Verdict(answer.code < 500 or answer.code == 501, True, f"OPTIONS was answered {answer.code}")
        answer = await self._fetch(target, health.method, health.path or "/", health.timeout)
        body: bytes = await answer.content()
        if answer.code not in health.expect:
            return Verdict(False, True, f"the check was answered {answer.code}")
        wanted = health.expect_body
        if wanted is not None and not await _found(wanted, body[:BODY_LIMIT]):
            return Verdict(False, True, "the check's body is not what is expected")
        return Verdict(True, True, "")

    def _keep_out(self, target: Target, now: float, interval: float) -> None:
        # Until two checks from now: its time doesn't run out while it is known to be silent, but it comes back by
        # itself should the checks ever stop.
        self.targets.outlier.keep_out(target, now + 2 * interval + self.health.timeout)

    def _changed(self, target: Target, before: str, now: float) -> None:
        watched = self._watched.get(target)
        if target.gone and watched is not None:
            self._watched.pop(target).stop()

    def _doubted(self, targets: list[Target]) -> None:
        """These are in doubt: ask those that are not being asked already."""
        for target in targets:
            watched = self._watched.get(target)
            if watched is None:
                watched = self._watched[target] = _Watched(self, target)
                watched.wait(0.0)
            elif watched.again:
                continue
            else:
                watched.hurry(0.0)
            watched.again = FIRST_AGAIN
            target.trial_until = self._now() + self.health.timeout


async def _found(wanted: Regex, body: bytes) -> bool:
    if len(body) <= wanted.longest:
        return wanted.search(body)
    return await deferToThread(wanted.search, body, bounded=False)


class _Watched:
    """One target: the wait for its next check, or the check that is under way."""

    def __init__(self, prober: Prober, target: Target) -> None:
        self.target = target
        self.streak = 0
        self.last_ok = True
        self.for_suspect = False
        self.again = 0.0  # seconds until the next trial, while the target is in doubt
        self._prober = prober
        self._timer: IDelayedCall | None = None
        self._check: Deferred[Verdict] | None = None
        self._stopped = False

    def wait(self, delay: float) -> None:
        """Make the next check in ``delay`` seconds."""
        if not self._stopped:
            self._timer = self._prober._reactor.callLater(delay, self._begin)

    def pause(self, longest: float) -> float:
        """Seconds until the next trial: twice as many each time."""
        again = min(self.again or FIRST_AGAIN, longest)
        self.again = 2 * again
        return again

    def hurry(self, delay: float) -> None:
        """Make it in ``delay`` seconds at the latest."""
        timer = self._timer
        if timer is not None and timer.getTime() - self._prober._reactor.seconds() > delay:
            timer.reset(delay)

    def stop(self) -> None:
        """Make none any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._check is not None:
            self._check.cancel()

    def _begin(self) -> None:
        self._timer = None
        self.for_suspect = self.target.suspect
        prober = self._prober
        check = self._check = Deferred.fromCoroutine(prober.check(self.target))
        # The client has its own time-outs; this one also holds for a body that never ends.
        check.addTimeout(prober.health.timeout, prober._reactor)
        check.addCallbacks(self._ended, self._failed)
        check.addErrback(lambda failure: log.failure("a health check failed to be judged", failure))

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        assert error is not None
        verdict = self._silence(error)
        # Its frames refer to it: without this, thousands of them wait for the collector, which stops the loop.
        failure.cleanFailure()
        while error is not None:
            error.__traceback__, error = None, error.__context__
        self._ended(verdict)

    def _ended(self, verdict: Verdict) -> None:
        self._check = None
        if not self._stopped:
            self._prober.judged(self, verdict)

    def _silence(self, error: BaseException) -> Verdict:
        if isinstance(error, (TimedOut, CancelledError)):
            return Verdict(False, False, f"the check had no answer within {self._prober.health.timeout:g} s")
        return Verdict(False, False, f"the check had no answer: {type(error).__name__} {error}".rstrip())
