"""
``srv:_SERVICE._tcp.NAME``: every SRV record (RFC 2782) is a target with its own port, weight and priority.

    targets = srv:_http._tcp.orders.internal

Records of the lowest priority are the targets, all others are backups. A weight of 0 stands for the least share, 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from apigw.net.resolver import SHORTEST_TTL
from apigw.net.system_names import Addresses
from apigw.upstream.discovery.dns import Lookups
from apigw.upstream.discovery.source import Source, Unusable
from apigw.upstream.target_spec import SourceSpec, TargetSpec

LONGEST_LOOKUP = 1.0
"""Seconds that the targets wait for the addresses of one of their hosts."""


class SRVSource(Source):
    """The services of one name."""

    def __init__(self, spec: SourceSpec, reactor: IReactorTime, interval: float, lookups: Lookups) -> None:
        super().__init__(spec, reactor, interval)
        self._lookups = lookups

    async def look(self) -> tuple[Sequence[TargetSpec] | None, float]:
        spec = self.spec
        records, wait = await self._lookups.services(spec.where)
        # RFC 2782: a single record for the root says that there is no such service.
        services = [record for record in records if record.target.name not in {b"", b"."}]
        if not services:
            raise Unusable(f"{spec.where} has no service")
        first = min(record.priority for record in services)
        found: dict[str, TargetSpec] = {}
        hosts = {record.target.name.decode("latin-1").lower() for record in services}
        known, wait = await self._addresses(hosts, wait)
        for record in services:
            host = record.target.name.decode("latin-1").lower()
            for address in known.get(host, ()):
                target = TargetSpec(
                    spec.scheme,
                    address,
                    record.port,
                    weight=min(max(record.weight, 1) * spec.weight, 65535),
                    backup=spec.backup or record.priority > first,
                    found_as=host,
                )
                found.setdefault(target.name, target)
        return sorted(found.values(), key=lambda target: target.name), wait

    async def _addresses(self, hosts: set[str], wait: float) -> tuple[dict[str, Addresses], float]:
        """
        The addresses of those hosts that have any; a host that nobody knows does not hold up the others.

        :raises Unusable: when none has any.
        """
        names = sorted(hosts)
        lookups = [
            Deferred.fromCoroutine(self._lookups.addresses(f"{name}.")).addTimeout(LONGEST_LOOKUP, self._reactor)
            for name in names
        ]
        known: dict[str, Addresses] = {}
        why = ""
        for name, (_, answer) in zip(names, await DeferredList(lookups, consumeErrors=True), strict=True):
            if not isinstance(answer, Failure):
                known[name] = answer[0]
                wait = min(wait, answer[1])
            else:
                why = str(answer.value) or f"{name} can't be looked up in time"
                wait = min(wait, SHORTEST_TTL)
        if not known:
            raise Unusable(why)
        return known, wait
