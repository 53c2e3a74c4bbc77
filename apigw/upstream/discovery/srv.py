"""
``srv:_SERVICE._tcp.NAME``: every SRV record (RFC 2782) is a target with its own port, weight and priority.

    targets = srv:_http._tcp.orders.internal

Records of the lowest priority are the targets, all others are backups. A weight of 0 stands for the least share, 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.names import dns

from apigw.upstream.discovery.dns import TIMEOUTS, addresses, ttl_of
from apigw.upstream.discovery.source import Source, Unusable
from apigw.upstream.target_spec import SourceSpec, TargetSpec


class SRVSource(Source):
    """The services of one name."""

    def __init__(self, spec: SourceSpec, reactor: IReactorTime, interval: float, resolver: Any) -> None:
        super().__init__(spec, reactor, interval)
        self._resolver = resolver

    async def look(self) -> tuple[Sequence[TargetSpec] | None, float]:
        spec = self.spec
        answer, _, _ = await self._resolver.lookupService(spec.where, TIMEOUTS)
        records = [record for record in answer if record.type == dns.SRV]
        # RFC 2782: a single record for the root says that there is no such service.
        services = [record for record in records if record.payload.target.name != b"." and record.payload.target.name]
        if not services:
            raise Unusable(f"{spec.where} has no service")
        first = min(record.payload.priority for record in services)
        found: dict[str, TargetSpec] = {}
        seen = list(records)
        for record in services:
            payload = record.payload
            host = payload.target.name.decode()
            for address, address_record in await addresses(self._resolver, host):
                seen.append(address_record)
                target = TargetSpec(
                    spec.scheme,
                    address,
                    payload.port,
                    weight=min(max(payload.weight, 1) * spec.weight, 65535),
                    backup=spec.backup or payload.priority > first,
                    found_as=host,
                )
                found.setdefault(target.name, target)
        return sorted(found.values(), key=lambda target: target.name), ttl_of(seen, self.interval)
