"""
``Names``: who is asked for the names of `dns:` and `srv:` targets: /etc/hosts first, then name servers.

Not here: what becomes of the answers (``apigw.upstream.discovery``); `http://NAME` targets, which the system resolves.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.names.hosts import Resolver as Hosts
from twisted.names.hosts import searchFileForAll
from twisted.python.filepath import FilePath

HOSTS_TTL = 30
"""Seconds after which the file is looked at again."""

Servers = tuple[tuple[str, int], ...]


class Names:
    """
    One a process. It has those of the lookups of twisted's ``IResolver`` that discovery needs.

    :ivar servers: address and port of each name server; none: those of the system's file.
    """

    def __init__(self, *, hosts: str = "/etc/hosts", system: str = "/etc/resolv.conf") -> None:
        self.servers: Servers = ()
        self._system = system
        self._file: Any = FilePath(hosts)
        self._hosts: Any = Hosts(hosts, HOSTS_TTL)
        self._client: Any = None

    def ask(self, servers: Servers) -> None:
        """Ask these from now on."""
        if servers != self.servers:
            self.close()
            self.servers = servers

    def lookupAddress(self, name: str, timeout: Any = None) -> Deferred[Any]:
        """The IPv4 addresses."""
        found: Deferred[Any] = self._who_knows(name).lookupAddress(name, timeout)
        return found

    def lookupIPV6Address(self, name: str, timeout: Any = None) -> Deferred[Any]:
        """The IPv6 addresses."""
        found: Deferred[Any] = self._who_knows(name).lookupIPV6Address(name, timeout)
        return found

    def lookupService(self, name: str, timeout: Any = None) -> Deferred[Any]:
        """The services: no file has these."""
        found: Deferred[Any] = self._asked().lookupService(name, timeout)
        return found

    def close(self) -> None:
        """Let go of the timer that looks at the system's file."""
        if self._client is not None and self._client.resolv is not None:
            self._client._parseCall.cancel()
        self._client = None

    def _who_knows(self, name: str) -> Any:
        # A name that the file has in one family is not asked for elsewhere in the other, as with getaddrinfo.
        return self._hosts if searchFileForAll(self._file, name.encode()) else self._asked()

    def _asked(self) -> Any:
        if self._client is None:
            from twisted.names.client import Resolver

            chosen = {"servers": list(self.servers)} if self.servers else {"resolv": self._system}
            self._client = Resolver(**chosen)
        return self._client
