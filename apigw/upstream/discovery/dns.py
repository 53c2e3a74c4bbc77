"""
``dns:NAME:PORT``: every A and AAAA record of a name is a target, asked for again when its time to live is over.

    targets = dns:orders.internal:9102
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.names import dns
from twisted.names.error import AuthoritativeDomainError, DomainError
from twisted.python.failure import Failure

from apigw.upstream.discovery.source import Source, Unusable
from apigw.upstream.target_spec import SourceSpec, TargetSpec

SHORTEST_TTL = 1.0
"""Seconds: records that may not be kept at all are asked for once a second."""

LONGEST_TTL = 300.0
"""Seconds: longer than this, a mistake in a zone would hold for too long."""

TIMEOUTS = (1, 2, 4)
"""Seconds for each try of a question."""


def no_such_name(failure: Failure) -> tuple[list[Any], list[Any], list[Any]]:
    """The name has none of these records: no error, if it has others."""
    failure.trap(DomainError, AuthoritativeDomainError)
    return [], [], []


def ttl_of(records: Iterable[Any], interval: float) -> float:
    """Seconds until the first of the records is too old."""
    shortest = min((float(record.ttl) for record in records), default=interval)
    return min(max(shortest, SHORTEST_TTL), LONGEST_TTL)


async def addresses(resolver: Any, name: str) -> list[tuple[str, Any]]:
    """
    The addresses of a name with their records, IPv4 first.

    :raises Unusable: when it has none, or nobody could say.
    """
    lookups: list[Deferred[Any]] = [
        resolver.lookupAddress(name, TIMEOUTS).addErrback(no_such_name),
        resolver.lookupIPV6Address(name, TIMEOUTS).addErrback(no_such_name),
    ]
    found: list[tuple[str, Any]] = []
    try:
        answers = await gatherResults(lookups, consumeErrors=True)
    except FirstError as error:
        raise Unusable(f"{name} can't be looked up: {error.subFailure.value!r}") from None
    for answer, _, _ in answers:
        found += [(_address(record), record) for record in answer if record.type in (dns.A, dns.AAAA)]
    if not found:
        raise Unusable(f"{name} has no address")
    return found


def _address(record: Any) -> str:
    if record.type == dns.A:
        return str(record.payload.dottedQuad())
    return str(IPv6Address(record.payload.address))


class DNSSource(Source):
    """The addresses of one name."""

    def __init__(self, spec: SourceSpec, reactor: IReactorTime, interval: float, resolver: Any) -> None:
        """
        :param resolver: ``IResolver`` that gives records with their ttl, such as ``twisted.names.client.Resolver``.
        """
        super().__init__(spec, reactor, interval)
        self._resolver = resolver

    async def look(self) -> tuple[Sequence[TargetSpec] | None, float]:
        spec = self.spec
        found = await addresses(self._resolver, spec.where)
        # Sorted: servers turn their answers round, and that is no news.
        targets = {
            TargetSpec(spec.scheme, address, spec.port, weight=spec.weight, backup=spec.backup, found_as=spec.where)
            for address, _ in found
        }
        return sorted(targets, key=lambda target: target.name), ttl_of((record for _, record in found), self.interval)
