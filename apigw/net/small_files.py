"""
``SmallFile``: a small local text file of the system (``/etc/hosts``), parsed again when it changes.

Not here: files that the configuration names, which may be large or on a disk that hangs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.logger import Logger

log = Logger()

LOOK_AGAIN = 5.0
"""Seconds between two looks at a file."""
LARGEST = 1024 * 1024
"""Bytes of a file that is read."""

T = TypeVar("T")


class SmallFile(Generic[T]):
    """
    What a file says. A file that doesn't exist is an empty one; one that can't be read changes nothing.

    Only regular files of up to 1 MiB are read: a pipe or device in their place could block the reactor.
    """

    def __init__(self, path: str, parse: Callable[[str], T], clock: Callable[[], float]) -> None:
        self._path = path
        self._parse = parse
        self._clock = clock
        self._looked = float("-inf")
        self._seen: tuple[int, ...] | None = None
        self._failed = False
        self._value = parse("")

    def get(self) -> T:
        """The parsed content; the file is looked at if that was not done in the last 5 s."""
        now = self._clock()
        if now >= self._looked + LOOK_AGAIN:
            self._looked = now
            try:
                self._look()
                self._failed = False
            except (OSError, ValueError) as error:
                if not self._failed:
                    log.warn("{path} can't be read: {error}", path=self._path, error=str(error))
                self._failed = True
        return self._value

    def _look(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self._seen = None
            self._value = self._parse("")
            return
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is not a regular file")
            if status.st_size > LARGEST:
                raise ValueError(f"it has more than {LARGEST} bytes")
            seen = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
            if seen != self._seen:
                self._value = self._parse(os.read(descriptor, LARGEST).decode("utf-8", "replace"))
                self._seen = seen
        finally:
            os.close(descriptor)
