"""
The admin listener: what its site shows of the gateway, and what its levers do.

Not here: how it is shown, and who may look (``apigw.admin``).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from apigw.admin.access import Access
from apigw.admin.site import AdminSite
from apigw.admin.views import ConfigStatus
from apigw.config.addresses import EndpointAddress
from apigw.config.gateway import AdminSettings
from apigw.config.reader import read
from apigw.gateway.build import Generation
from apigw.gateway.environment import Shared
from apigw.gateway.levers import levers
from apigw.gateway.listening import take_over
from apigw.gateway.revoking import revoking
from apigw.net.sockets import remove_path
from apigw.observability.metrics import Snapshot
from apigw.routing.rule import Rule


class Running(Protocol):
    """The service, as far as it is looked at."""

    generation: Generation
    shared: Shared
    applied_at: float
    last_error: tuple[float, list[str]] | None

    @property
    def reloading(self) -> bool: ...

    def reload(self) -> None: ...


class ServiceViews:
    """The gateway as the admin site sees it."""

    def __init__(self, service: Running) -> None:
        self._service = service

    def routes(self) -> Sequence[Mapping[str, Any]]:
        """Every route in the order of choice, with the policies that run on it."""
        generation = self._service.generation
        described = []
        for rule in sorted(generation.root.table.rules, key=_place):
            facts: Any = rule.value.route
            one = facts.describe()
            if hasattr(facts.settings, "policies") and (run := generation.configuration.policies_of(facts.settings)):
                one["policies"] = [str(item) for item in run]
            described.append(one)
        return described

    def upstreams(self) -> Sequence[Mapping[str, Any]]:
        """Every upstream with its targets, their state and pools."""
        return [upstream.describe() for upstream in self._service.generation.upstreams.values()]

    def config_status(self) -> ConfigStatus:
        """Which configuration is in force."""
        service = self._service
        configuration = service.generation.configuration
        document = read(configuration.path, os.environ)  # no more: this is asked for often, and requests wait meanwhile
        error = service.last_error
        return {
            "file": configuration.path,
            "running_hash": configuration.digest,
            "disk_hash": document.digest if document.files else None,
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

        views = ServiceViews(self._service)

        async def reload(_parameters: Mapping[str, Any]) -> ConfigStatus:
            self._service.reload()
            while self._service.reloading:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            return views.config_status()

        site = self._site = AdminSite(
            views,
            Access(self.settings.token.get_secret_value()),
            {
                "config/reload": reload,
                **levers(lambda: self._service.generation.upstreams, self._service.shared.clock),
                **revoking(lambda: self._service.generation.revocations),
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


def _place(rule: Rule[Any]) -> tuple[object, ...]:
    host_rank = min(pattern.rank for pattern in rule.host_patterns)
    return (-rule.priority, host_rank, rule.specificity, rule.order)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
