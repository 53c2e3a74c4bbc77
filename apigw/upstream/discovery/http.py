"""
``discover = URL``: targets from an HTTP service, asked again every ``discover_interval``, with its ETag.

    discover = http://registry.internal/orders/targets.json

A 304 changes nothing, and so does every answer that isn't 200 or can't be understood.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime

from apigw.upstream.discovery.source import Source, Unusable, parse_targets
from apigw.upstream.target_spec import SourceSpec, TargetSpec

Get = Callable[[str, dict[bytes, bytes]], Awaitable[Any]]
"""``get(url, headers)``: treq's ``get``, with a time-out; its response has ``code``, ``headers`` and ``content()``."""


class HTTPSource(Source):
    """The answers of one URL."""

    def __init__(self, spec: SourceSpec, reactor: IReactorTime, interval: float, get: Get) -> None:
        super().__init__(spec, reactor, interval)
        self._get = get
        self._etag: bytes | None = None

    async def look(self) -> tuple[Sequence[TargetSpec] | None, float]:
        headers = {b"Accept": b"application/json"}
        if self._etag is not None:
            headers[b"If-None-Match"] = self._etag
        response = await self._get(self.spec.where, headers)
        content: bytes = await response.content()
        if response.code == 304 and self._etag is not None:
            return None, self.interval
        if response.code != 200:
            raise Unusable(f"it was answered {response.code}")
        targets = parse_targets(content, self.spec)
        tags = response.headers.getRawHeaders(b"ETag")
        self._etag = tags[0] if tags else None
        return targets, self.interval
