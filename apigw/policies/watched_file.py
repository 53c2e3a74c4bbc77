"""
A file that is read again when it changes.

Not here: what is in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from apigw.policies.policy import Environment


class WatchedFile:
    """
    Reads a file when it is made, and again after it changed, from ``start`` to ``stop``. A change that can't be read is
    logged, counted as ``file_failed``, and changes nothing.

    :param read: takes the file in. :param every: seconds between two looks at its time stamp.
    :raises ValueError: from the first reading: what is wrong with it, with its path.
    """

    def __init__(self, path: Path, read: Callable[[Path], None], environment: Environment, every: float = 2.0) -> None:
        self._path = path
        self._read = read
        self._environment = environment
        self._every = every
        self._cancel: Callable[[], None] | None = None
        self._seen = self._stamp()
        try:
            read(path)
        except OSError as error:
            raise ValueError(f"{path} can't be read: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def start(self) -> None:
        if self._cancel is None:
            self._cancel = self._environment.later(self._every, self._look)

    def stop(self) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    def _stamp(self) -> tuple[float, int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime, found.st_size, found.st_ino

    def _look(self) -> None:
        self._cancel = self._environment.later(self._every, self._look)
        stamp = self._stamp()
        if stamp is None or stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._read(self._path)
        except (ValueError, OSError) as error:
            self._environment.count("file_failed")
            self._environment.log.error(
                "{path} was changed and can't be used: {why}", path=str(self._path), why=str(error)
            )
