"""A real DNS server on loopback."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.names import dns
from twisted.names.authority import FileAuthority
from twisted.names.server import DNSServerFactory

SOA = dns.Record_SOA(b"ns.test", b"root.test", 1, 60, 60, 3600, 60, 60)


class Zone(FileAuthority):
    """Records in memory."""

    soa: Any
    records: Any

    def loadFile(self, filename: object) -> None:
        self.soa = (b"test", SOA)
        self.records = {b"test": [SOA]}


class NameServer:
    """A DNS server whose records can be changed, on a port of its own."""

    def __init__(self) -> None:
        from twisted.internet import reactor

        self.authority = Zone("")  # type: ignore[no-untyped-call]
        factory = DNSServerFactory(authorities=[self.authority])
        protocol = dns.DNSDatagramProtocol(factory)
        factory.noisy = protocol.noisy = False
        self._listening = reactor.listenUDP(0, protocol, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.port = self._listening.getHost().port

    def say(self, name: str, *records: Any) -> None:
        """These are the records of ``name``, which ends in ``.test``; none: there is no such name."""
        self.authority.records[name.encode()] = list(records)

    def stop(self) -> Deferred[None]:
        """Answer nobody any more."""
        stopped: Deferred[None] = maybeDeferred(self._listening.stopListening)
        return stopped
