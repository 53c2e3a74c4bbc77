"""
``file:PATH``: targets from a file, read again when it changes.

    targets = file:/run/orders/targets

It is looked at every ``discover_interval``, beside the reactor. Write it beside and rename it into place, so that it is
never read half written; a file that can't be read or understood changes nothing. An empty file does: it takes all
targets away.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.interfaces import IReactorTime

from apigw.config import files
from apigw.net.files import Files
from apigw.upstream.discovery.source import Source, Unusable, parse_targets
from apigw.upstream.target_spec import SourceSpec, TargetSpec


class FileSource(Source):
    """The lines of one file."""

    def __init__(self, spec: SourceSpec, reactor: IReactorTime, interval: float, disk: Files) -> None:
        """
        :param disk: does the reading.
        """
        super().__init__(spec, reactor, interval)
        self._disk = disk
        self._seen: tuple[int, ...] | None = None

    async def look(self) -> tuple[Sequence[TargetSpec] | None, float]:
        path, user = self.spec.where, f"targets {id(self)}"
        try:
            targets, self._seen = await self._disk.beside(path, self._news)
        except (OSError, Unusable) as error:
            self._disk.failed(path, error, user, None)
            raise
        self._disk.good(path, user, None)
        return targets, self.interval

    def stop(self) -> None:
        super().stop()
        self._disk.forget(self.spec.where, f"targets {id(self)}")

    def _news(self) -> tuple[Sequence[TargetSpec] | None, tuple[int, ...]]:
        """In a thread: the targets, or None if the file is the one of the last time."""
        status = files.status(self.spec.where)
        seen = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
        if seen == self._seen:
            return None, seen
        return parse_targets(files.read(self.spec.where), self.spec), seen
