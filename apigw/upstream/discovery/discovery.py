"""
``Discovery``: START HERE. All targets of one upstream, from fixed lines and from sources, as one list.

    discovery = Discovery(settings.sources, reactor, settings.discover_interval, lookups, get, disk=files)
    discovery.start(lambda specs: targets.update(specs, now()))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime

from apigw.net.files import Files
from apigw.upstream.discovery.dns import DNSSource, Lookups
from apigw.upstream.discovery.file import FileSource
from apigw.upstream.discovery.http import Get, HTTPSource
from apigw.upstream.discovery.source import Source
from apigw.upstream.discovery.srv import SRVSource
from apigw.upstream.target_spec import SourceSpec, TargetSpec

Update = Callable[[list[TargetSpec]], None]


class Discovery:
    """
    The targets of one upstream, in the order of their lines.

    :ivar sources: those lines that are no address.
    """

    def __init__(
        self,
        lines: Sequence[TargetSpec | SourceSpec],
        reactor: IReactorTime,
        interval: float,
        lookups: Lookups,
        get: Get,
        *,
        disk: Files,
    ) -> None:
        """
        :param lookups: finds names for ``dns`` and ``srv``.
        :param get: asks for ``discover``'s URL.
        :param disk: reads the files of ``file:``.
        """
        self._lines: list[TargetSpec | Source] = []
        for line in lines:
            if isinstance(line, TargetSpec):
                self._lines.append(line)
            elif line.kind == "file":
                self._lines.append(FileSource(line, reactor, interval, disk))
            elif line.kind == "http":
                self._lines.append(HTTPSource(line, reactor, interval, get))
            else:
                kind = DNSSource if line.kind == "dns" else SRVSource
                self._lines.append(kind(line, reactor, interval, lookups))
        self._update: Update | None = None

    @property
    def sources(self) -> list[Source]:
        """The lines that are looked up."""
        return [line for line in self._lines if isinstance(line, Source)]

    @property
    def specs(self) -> list[TargetSpec]:
        """All targets that are known now."""
        found: list[TargetSpec] = []
        for line in self._lines:
            if isinstance(line, TargetSpec):
                found.append(line)
            else:
                found.extend(line.last)
        return found

    def take_over(self, other: Discovery) -> None:
        """Begin with the last answers of the same sources, so that a reload takes no target away."""
        known = {source.spec: source for source in other.sources}
        for source in self.sources:
            if source.spec in known:
                source.last = known[source.spec].last

    def start(self, update: Update) -> None:
        """Call ``update`` with all targets: now, if any are known, and whenever they are others."""
        self._update = update
        if specs := self.specs:
            update(specs)
        for source in self.sources:
            source.start(self._news)

    async def files_read(self) -> None:
        """Wait until the files that are looked at now have been read, or could not be."""
        for source in self.sources:
            if isinstance(source, FileSource):
                await source.looked()

    def stop(self) -> None:
        """Stop looking."""
        self._update = None
        for source in self.sources:
            source.stop()

    def _news(self, _targets: Sequence[TargetSpec]) -> None:
        if self._update is not None:
            self._update(self.specs)
