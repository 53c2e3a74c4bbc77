"""
The admin listener: what its site shows of the gateway, and what its levers do.

Not here: how it is shown, and who may look (``apigw.admin``).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Generator, Mapping, Sequence
from datetime import UTC, datetime
from heapq import merge
from operator import itemgetter
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
from apigw.net.slices import beside_requests, in_slices
from apigw.net.sockets import remove_path
from apigw.net.threads import in_daemon
from apigw.observability.metrics import Snapshot
from apigw.routing.rule import Rule

SORTED_AT_ONCE = 500
"""Routes that are put in order in one go: about a millisecond."""


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

    async def routes(self) -> Sequence[Mapping[str, Any]]:
        """Every route in the order of choice, with the policies that run on it."""
        return await in_slices(_routes(self._service.generation))

    async def upstreams(self) -> Sequence[Mapping[str, Any]]:
        """Every upstream with its targets, their state and pools."""
        return await in_slices(_upstreams(self._service.generation))

    async def config_status(self) -> ConfigStatus:
        """Which configuration is in force."""
        service = self._service
        configuration = service.generation.configuration
        with beside_requests():
            digest = await in_daemon(lambda: _digest(configuration.path), "apigw configuration status")
        error = service.last_error
        return {
            "file": configuration.path,
            "running_hash": configuration.digest,
            "disk_hash": digest,
            "applied_at": _time(service.applied_at),
            "last_error": None if error is None else {"at": _time(error[0]), "problems": error[1]},
        }

    def ready(self) -> bool:
        """False before the listeners are open and while the gateway drains."""
        return self._service.shared.ready

    async def metrics(self) -> Sequence[Snapshot]:
        """The metrics of this process."""
        return [await in_slices(self._service.shared.metrics.snapshot_steps())]


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
            return await views.config_status()

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


def _digest(path: str) -> str | None:
    """Of the configuration on disk. What was read is let go of in pieces: all of it at once would hold the loop."""
    document = read(path, os.environ)
    while document.sections:
        document.sections.popitem()
    return document.digest if document.files else None


def _routes(generation: Generation) -> Generator[None, None, list[Mapping[str, Any]]]:
    some: list[tuple[tuple[object, ...], Rule[Any]]] = []
    sorted_parts = [some]
    for rule in generation.root.table.rules:
        some.append((_place(rule), rule))
        if len(some) >= SORTED_AT_ONCE:
            some.sort(key=itemgetter(0))
            some = []
            sorted_parts.append(some)
        yield
    some.sort(key=itemgetter(0))
    described: list[Mapping[str, Any]] = []
    for _, rule in merge(*sorted_parts, key=itemgetter(0)):
        facts: Any = rule.value.route
        one = facts.describe()
        if hasattr(facts.settings, "policies") and (run := generation.configuration.policies_of(facts.settings)):
            one["policies"] = [str(item) for item in run]
        described.append(one)
        yield
    return described


def _upstreams(generation: Generation) -> Generator[None, None, list[Mapping[str, Any]]]:
    described: list[Mapping[str, Any]] = []
    for upstream in generation.upstreams.values():
        described.append(upstream.describe())
        yield
    return described


def _place(rule: Rule[Any]) -> tuple[object, ...]:
    host_rank = min(pattern.rank for pattern in rule.host_patterns)
    return (-rule.priority, host_rank, rule.specificity, rule.order)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
