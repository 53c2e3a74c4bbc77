"""
``file:PATH``: targets from a file, read again when it changes.

    targets = file:/run/orders/targets

It is looked at every ``discover_interval``. Write it beside and rename it into place, so that it is never read half
written;
a file that can't be read or understood changes nothing. An empty file does: it takes all targets away.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from twisted.internet.interfaces import IReactorTime

from apigw.upstream.discovery.source import Source, parse_targets
from apigw.upstream.target_spec import SourceSpec, TargetSpec


class FileSource(Source):
    """The lines of one file."""

    def __init__(self, spec: SourceSpec, reactor: IReactorTime, interval: float) -> None:
        super().__init__(spec, reactor, interval)
        self._seen: tuple[int, int, int] | None = None

    async def look(self) -> tuple[Sequence[TargetSpec] | None, float]:
        status = os.stat(self.spec.where)
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen == self._seen:
            return None, self.interval
        with open(self.spec.where, "rb") as file:  # noqa: ASYNC230 - a few lines, and only when it changed
            content = file.read()
        targets = parse_targets(content, self.spec)
        self._seen = seen
        return targets, self.interval
