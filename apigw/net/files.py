"""
``Files``: files that are looked at again and again while the gateway runs.

    found = await files.beside("/etc/apigw/users", lambda: parse(read("/etc/apigw/users")))

The work runs beside the reactor, for at most ``[gateway] file_timeout`` (``apigw.config.files``). A file that can't be
used is counted each time, and logged when that begins, when the reason changes, and every ten minutes; its last good
content stays in use.

Not here: who looks at which file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from apigw.config.files import TIMEOUT, Job, threads, too_late

T = TypeVar("T")

REPEATED: Final = 600.0
"""Seconds after which the same warning is logged again."""

log = Logger()


class _Beside(Generic[T]):
    """One piece of work beside the loop."""

    def __init__(self, path: str, work: Callable[[], T], timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._timer = self._loop.call_later(timeout, self._late)
        self._job = Job(path, work, self._ended)
        self.done: Deferred[T] = Deferred(lambda _: self._timer.cancel())
        try:
            threads.begin(self._job)
        except TimeoutError as error:
            self._timer.cancel()
            self.done.errback(error)

    def _ended(self) -> None:
        """In the thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._timer.cancel()
        if self.done.called:
            return
        if self._job.error is not None:
            self.done.errback(self._job.error)
        else:
            self.done.callback(self._job.result)

    def _late(self) -> None:
        if self.done.called or self._job.over:
            return
        if more := threads.give_up(self._job, self._timeout):
            self._timer = self._loop.call_later(more, self._late)
        elif self._job.given_up:
            self.done.errback(too_late(self._timeout))


def beside(path: str, work: Callable[[], T], timeout: float) -> Deferred[T]:
    """
    Do work on a file, or on several that are one thing, beside the running asyncio loop.

    :param path: what the work is about; of equal ones one runs at a time.
    :param timeout: seconds; then the Deferred fails with TimeoutError, and the work is left to itself.
    """
    return _Beside(path, work, timeout).done


class Files:
    """
    One a process.

    :ivar timeout: seconds for one look at a file. :ivar count: called with the path of a file that can't be used.
    """

    def __init__(self, count: Callable[[str], None] = lambda _: None, clock: Callable[[], float] = monotonic) -> None:
        self.timeout = TIMEOUT
        self.count = count
        self._clock = clock
        self._failing: dict[tuple[str, str], tuple[object, float]] = {}  # by user and path: why, and when it was logged

    def beside(self, path: str, work: Callable[[], T]) -> Deferred[T]:
        """
        Do work on a file in a thread; of equal paths one at a time.

        The Deferred fails with what ``work`` raises, or TimeoutError.
        """
        return beside(path, work, self.timeout)

    def failed(self, path: str, error: BaseException, user: str, logger: Logger | None = log) -> bool:
        """
        Count that a file can't be used, and say so if that is news.

        :param user: what reads it, like ``basic staff``. :param logger: None if the caller logs it.
        :return: whether it is news.
        """
        self.count(path)
        why = getattr(error, "strerror", None) or str(error)
        kind = TimeoutError if isinstance(error, TimeoutError) else why
        former = self._failing.get((user, path))
        if former is not None and former[0] == kind and self._clock() - former[1] < REPEATED:
            return False
        self._failing[user, path] = (kind, self._clock())
        if logger is not None:
            logger.warn(
                "{user}: {path} can't be used: {why}; its last good content stays in use", user=user, path=path, why=why
            )
        return True

    def good(self, path: str, user: str, logger: Logger | None = log) -> None:
        """Say that a file can be used again, if it could not."""
        if self._failing.pop((user, path), None) is not None and logger is not None:
            logger.info("{user}: {path} can be used again", user=user, path=path)

    def failing(self) -> list[str]:
        """The paths of the files that can't be used now."""
        return sorted({path for _, path in self._failing})

    def forget(self, path: str, user: str) -> None:
        """It is not looked at any more."""
        self._failing.pop((user, path), None)
