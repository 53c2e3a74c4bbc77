"""
The admin listener: what its site shows of the gateway, and what its levers do.

Not here: how it is shown, and who may look (``apigw.admin``).
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from apigw.admin.access import Access
from apigw.admin.site import AdminSite
from apigw.admin.views import ConfigStatus
from apigw.config.addresses import EndpointAddress
from apigw.config.gateway import AdminSettings
from apigw.config.problems import ConfigurationError
from apigw.gateway.build import Generation
from apigw.gateway.environment import Shared
from apigw.gateway.levers import levers
from apigw.gateway.listening import take_over
from apigw.net.sockets import remove_path
from apigw.observability.metrics import Snapshot


class Running(Protocol):
    """The service, as far as it is looked at."""

    generation: Generation
    shared: Shared
    applied_at: float
    last_error: tuple[float, list[str]] | None

    def reload(self) -> None: ...


class ServiceViews:
    """The gateway as the admin site sees it."""

    def __init__(self, service: Running) -> None:
        self._service = service

    def routes(self) -> Sequence[Mapping[str, Any]]:
        """Every route in the order of the file."""
        return [facts.describe() for facts in self._service.generation.facts]

    def upstreams(self) -> Sequence[Mapping[str, Any]]:
        """Every upstream with its targets, their state and pools."""
        return [upstream.describe() for upstream in self._service.generation.upstreams.values()]

    def config_status(self) -> ConfigStatus:
        """Which configuration is in force."""
        from apigw.gateway.catalogue import load

        service = self._service
        configuration = service.generation.configuration
        try:
            disk_hash: str | None = load(configuration.path).digest
        except ConfigurationError:
            disk_hash = _digest_of(configuration.files)
        error = service.last_error
        return {
            "file": configuration.path,
            "running_hash": configuration.digest,
            "disk_hash": disk_hash,
            "applied_at": _time(service.applied_at),
            "last_error": None if error is None else {"at": _time(error[0]), "problems": error[1]},
        }

    def ready(self) -> bool:
        """False before the listeners are open and while the gateway drains."""
        return self._service.shared.ready

    def metrics(self) -> Sequence[Snapshot]:
        """The metrics of this process."""
        return [self._service.shared.metrics.snapshot()]


class AdminListening:
    """
    The admin listener. Its connections are Twisted's own: it is not on the way of requests.

    :ivar socket: it listens. Twisted's ports would make a UNIX socket everybody's, and remove the file of one that goes
        over to another listener: so connections are accepted here.
    :raises CannotListen: from the constructor, which binds.
    """

    def __init__(
        self,
        settings: AdminSettings,
        service: Running,
        leaving: Mapping[EndpointAddress, socket.socket] | None = None,
    ) -> None:
        """
        :param leaving: the sockets of listeners that leave when this one is there.
        """
        self.settings = settings
        self.socket = take_over(settings.endpoint, leaving or {})
        self._service = service
        self._site: AdminSite | None = None
        self._waiting: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Accept."""
        reactor: Any
        from twisted.internet import reactor

        site = self._site = AdminSite(
            ServiceViews(self._service),
            Access(self.settings.token.get_secret_value()),
            {
                "config/reload": lambda _parameters: self._service.reload(),
                **levers(lambda: self._service.generation.upstreams, self._service.shared.clock),
            },
            reactor=reactor,
        )
        site.noisy = False
        site.doStart()  # type: ignore[no-untyped-call]
        self._accept_from_now_on()

    def _accept_from_now_on(self) -> None:
        asyncio.get_running_loop().add_reader(self.socket, self._accept)

    def _accept(self) -> None:
        reactor: Any
        from twisted.internet import reactor

        try:
            connection, _ = self.socket.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor is left: it would be asked for at once again
            loop = asyncio.get_running_loop()
            loop.remove_reader(self.socket)
            self._waiting = loop.call_later(1.0, self._accept_from_now_on)
            return
        with connection:  # it makes a copy
            connection.setblocking(False)
            reactor.adoptStreamConnection(connection.fileno(), connection.family, self._site)

    def may_become(self, settings: AdminSettings) -> bool:
        """Whether nothing of it changed, but for the permissions of its socket's file."""
        return settings == self.settings

    def close(self, *, shared: bool = False) -> None:
        """
        Accept no more; connections end with their answer.

        :param shared: another listener goes on with the same socket.
        """
        if self._waiting is not None:
            self._waiting.cancel()
        if self._site is not None:
            asyncio.get_running_loop().remove_reader(self.socket)
            self._site.doStop()  # type: ignore[no-untyped-call]
            self._site = None
        if self.socket.fileno() >= 0:
            if not shared:
                remove_path(self.socket)
            self.socket.close()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _digest_of(files: Sequence[str]) -> str | None:
    """The hash of files that can't be loaded: only good to see that they are others."""
    digest = hashlib.sha256()
    for path in files:
        try:
            with open(path, "rb") as file:
                digest.update(file.read())
        except OSError:
            return None
    return digest.hexdigest()
