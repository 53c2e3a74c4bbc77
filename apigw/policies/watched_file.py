"""
A file that is read again when it changes.

Not here: what is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from apigw.config import files
from apigw.exchange.responder import drive
from apigw.policies.policy import Environment

T = TypeVar("T")
Stamp = tuple[int, ...]


class WatchedFile(Generic[T]):
    """
    Reads a file when it is made, and again after it changed, from ``start`` to ``stop``, beside the reactor. What can't
    be read or parsed is logged, counted as ``file_failed``, and changes nothing.

    :param parse: makes a value of the content, in a thread; raises ValueError. :param take: takes the value.
    :param every: seconds between two looks at the file.
    :raises ValueError: from the first reading: what is wrong with it, with its path.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], T],
        take: Callable[[T], None],
        environment: Environment,
        every: float = 2.0,
    ) -> None:
        self._path = path
        self._parse = parse
        self._take = take
        self._environment = environment
        self._every = every
        self._cancel: Callable[[], None] | None = None
        self._running = False
        try:
            self._seen: Stamp = self._stamp()  # before the content: what changes in between is seen at the next look
            take(parse(files.read(path)))
        except OSError as error:
            raise ValueError(f"{path} can't be read: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def start(self) -> None:
        if not self._running:
            self._running = True
            self._again()

    def stop(self) -> None:
        self._running = False
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        self._environment.files.forget(str(self._path), self._environment.label)

    def _stamp(self) -> Stamp:
        found = files.status(self._path)
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _again(self) -> None:
        self._cancel = self._environment.later(self._every, self._look)

    def _look(self) -> None:
        self._cancel = None
        drive(self._looked(), self._over, self._failed)

    async def _looked(self) -> tuple[Stamp, T | ValueError] | None:
        found: tuple[Stamp, T | ValueError] | None = await self._environment.files.beside(str(self._path), self._news)
        return found

    def _news(self) -> tuple[Stamp, T | ValueError] | None:
        """In a thread: what is in the file, if it changed."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        content = files.read(self._path)
        try:
            return stamp, self._parse(content)
        except ValueError as error:
            return stamp, error

    def _over(self, found: tuple[Stamp, T | ValueError] | None) -> None:
        if not self._running:
            return
        self._again()
        if found is None:
            return
        self._seen, value = found
        if isinstance(value, ValueError):
            self._unusable(value)
        else:
            self._take(value)
            self._environment.files.good(str(self._path), self._environment.label, self._environment.log)

    def _failed(self, error: BaseException) -> None:
        if not self._running:
            return
        self._again()
        self._seen = ()  # when it can be read again, what is in it is looked at
        self._unusable(error if isinstance(error, OSError) else RuntimeError(f"{type(error).__name__} {error}"))

    def _unusable(self, error: Exception) -> None:
        environment = self._environment
        environment.count("file_failed")
        environment.files.failed(str(self._path), error, environment.label, environment.log)
