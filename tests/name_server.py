"""A real DNS server on loopback, over UDP and TCP, whose answers can be made slow or wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.defer import Deferred, fail, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
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
        self.asked: Counter[tuple[str, int]] = Counter()
        self.hanging: set[tuple[str, int]] = set()
        self.failing: set[tuple[str, int]] = set()
        self.slow: dict[tuple[str, int], float] = {}

    def _lookup(
        self,
        name: bytes,
        cls: int,
        type: int,  # noqa: A002 - twisted's
        timeout: Any = None,
    ) -> Deferred[Any]:
        from twisted.internet import reactor
        from twisted.internet.task import deferLater

        question = (name.decode().lower(), type)
        self.asked[question] += 1
        if question in self.hanging:
            return Deferred()
        if question in self.failing:
            return fail(RuntimeError("no answer to be had"))
        found: Deferred[Any] = super()._lookup(name, cls, type, timeout)  # type: ignore[no-untyped-call]
        if question in self.slow:
            return deferLater(reactor, self.slow[question], lambda: found)
        return found


class NameServer:
    """
    A DNS server whose records can be changed, on a port of its own.

    :ivar asked: how often each name was asked for each type.
    """

    def __init__(self) -> None:
        from twisted.internet import reactor

        self.authority = Zone("")  # type: ignore[no-untyped-call]
        self.asked = self.authority.asked
        factory = DNSServerFactory(authorities=[self.authority])
        protocol = dns.DNSDatagramProtocol(factory)
        factory.noisy = protocol.noisy = False
        listening: Any = reactor
        while True:  # until a port is free in both
            tcp = listening.listenTCP(0, factory, interface="127.0.0.1")
            self.port = tcp.getHost().port
            try:
                udp = listening.listenUDP(self.port, protocol, interface="127.0.0.1")
                break
            except CannotListenError:
                tcp.stopListening()
        self._listening = [udp, tcp]

    def say(self, name: str, *records: Any) -> None:
        """These are the records of ``name``, which ends in ``.test``; none: the name exists, but has no record."""
        self.authority.records[name.encode()] = list(records)

    def forget(self, name: str) -> None:
        """There is no such name."""
        self.authority.records.pop(name.encode(), None)

    def hang(self, name: str, *types: int) -> None:
        """Don't answer when asked for these."""
        self.authority.hanging.update((name, each) for each in types)

    def fail(self, name: str, *types: int) -> None:
        """Answer SERVFAIL when asked for these."""
        self.authority.failing.update((name, each) for each in types)

    def delay(self, name: str, seconds: float, *types: int) -> None:
        """Answer late when asked for these."""
        self.authority.slow.update(dict.fromkeys(((name, each) for each in types), seconds))

    def recover(self) -> None:
        """Answer everything at once."""
        for each in (self.authority.hanging, self.authority.failing, self.authority.slow):
            each.clear()

    def stop(self) -> Deferred[Any]:
        """Answer nobody any more."""
        listening, self._listening = self._listening, []
        return gatherResults([maybeDeferred(each.stopListening) for each in listening])
