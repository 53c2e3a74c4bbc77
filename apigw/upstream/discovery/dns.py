"""
``dns:NAME:PORT``: every A and AAAA record of a name is a target, asked for again when its time to live is over.

    targets = dns:orders.internal:9102

``resolve`` of the upstream says which of the two kinds. The resolver keeps what was found of one kind while only the
other can be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from twisted.internet.interfaces import IReactorTime

from apigw.net.dns_queries import Unanswered
from apigw.net.resolver import Families, Resolver
from apigw.net.system_names import Addresses
from apigw.upstream.discovery.source import Source, Unusable
from apigw.upstream.target_spec import SourceSpec, TargetSpec


class Lookups(NamedTuple):
    """
    What DNS sources look names up with.

    :ivar families: the addresses that count: ``any``, ``ipv4`` or ``ipv6``.
    """

    resolver: Resolver
    families: Families

    async def addresses(self, name: str) -> tuple[Addresses, float]:
        """
        The addresses of a name, and the seconds until it should be looked up again.

        :raises Unusable: when it has none, or nobody could say.
        """
        try:
            return await self.resolver.addresses(name, self.families)
        except Unanswered as error:
            raise Unusable(str(error)) from None

    async def services(self, name: str) -> tuple[tuple[Any, ...], float]:
        """
        The SRV records of a name, and the seconds until it should be looked up again.

        :raises Unusable: when nobody could say.
        """
        try:
            return await self.resolver.services(name)
        except Unanswered as error:
            raise Unusable(str(error)) from None


class DNSSource(Source):
    """The addresses of one name."""

    def __init__(self, spec: SourceSpec, reactor: IReactorTime, interval: float, lookups: Lookups) -> None:
        super().__init__(spec, reactor, interval)
        self._lookups = lookups

    async def look(self) -> tuple[Sequence[TargetSpec] | None, float]:
        spec = self.spec
        found, wait = await self._lookups.addresses(spec.where)
        # Sorted: servers turn their answers round, and that is no news.
        targets = {
            TargetSpec(spec.scheme, address, spec.port, weight=spec.weight, backup=spec.backup, found_as=spec.where)
            for address in found
        }
        return sorted(targets, key=lambda target: target.name), wait
