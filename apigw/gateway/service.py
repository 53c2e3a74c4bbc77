"""
The gateway's life: bind, serve, reload, drain.

- Start: sockets are bound before privileges are dropped, served once the reactor runs.
- SIGHUP: the file is read and checked whole, everything is built beside what runs, then put in its place between two
  requests. Connections, pools, counters and listeners of what did not change stay. A file with a mistake changes
  nothing; the mistakes are in the log and at ``/config/status``.
- SIGTERM: readiness turns to 503, idle connections close, requests in flight get ``drain_timeout``; a second one ends
  at once.
- SIGUSR1: logs are reopened.

Not here: what is built (``build``), one listener (``listening``), what the admin site shows (``views``).
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Callable, Generator, Mapping
from types import FrameType
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from apigw.config.addresses import EndpointAddress
from apigw.config.configuration import Configuration
from apigw.config.listen import ListenSettings
from apigw.config.problems import ConfigurationError
from apigw.exchange.responder import drive
from apigw.gateway.accounting import Accounting, log_options
from apigw.gateway.build import Generation, build, build_steps
from apigw.gateway.catalogue import load
from apigw.gateway.clusters import Upstream
from apigw.gateway.environment import Shared
from apigw.gateway.listening import Listening
from apigw.gateway.policies import BuiltPolicy
from apigw.gateway.upstream_metrics import measure
from apigw.gateway.upstreams import Upstreams
from apigw.gateway.views import AdminListening
from apigw.net.slices import at_once, beside_requests, in_slices, release, within
from apigw.net.sockets import CannotListen, Descriptors, use_mode
from apigw.net.systemd import Systemd
from apigw.net.threads import in_daemon
from apigw.observability import instruments
from apigw.observability.log_file import LogFile
from apigw.observability.logs import LogLines, Repeats
from apigw.observability.reactor_lag import ReactorLag

log = Logger()
Signal = Callable[[int, FrameType | None], Any] | int | None


LOW_LIMIT = 4096
"""Open files below which the limit is warned of."""
MANY_SECTIONS = 500
"""With so many sections of the configuration, the garbage collector is kept from what is made of them."""
MOST_TOLD = 100
"""Mistakes of a configuration that the log tells."""
POLICIES_A_TURN = 50
"""Policies that are started before requests go on: most have nothing to start."""


class CannotStart(Exception):
    """Something outside is in the way; the words are for whoever starts the gateway."""


class GatewayService(Service):
    """
    The gateway as twistd runs it.

    :ivar generation: what is in force. :ivar applied_at: time of day at which it was put in force.
    :ivar last_error: (time of day, problems) of the last load that failed; None after a good one.
    """

    def __init__(
        self, configuration: Configuration, messages: LogLines | None = None, standard_output: str = "-"
    ) -> None:
        """
        :param messages: where the log for people goes; None leaves that to whoever starts the service.
        :param standard_output: the file that an access log to standard output goes to, in a daemon, which has none.
        """
        self._messages = messages
        self._repeats = Repeats(messages) if messages is not None else None
        self.shared: Shared = configuration.worked_out.get("shared") or Shared()
        self.accounting = Accounting(self.shared.metrics, standard_output)
        self.shared.finished = self.accounting.finished
        self.shared.files.timeout = configuration.gateway.file_timeout
        with configuration.contents:
            self.generation: Generation = build(configuration, self.shared, None)
        self.shared.root = self.generation.root
        self.applied_at = time.time()  # noqa: TID251 - a person reads it
        self.last_error: tuple[float, list[str]] | None = None
        self.listening: dict[str, Listening] = {}
        self._leaving: list[Listening] = []
        self.admin: AdminListening | None = None
        self._systemd = Systemd()
        self._descriptors = Descriptors()
        self._lag: ReactorLag | None = None
        self._former_handlers: dict[int, Signal] = {}
        self._every_second: asyncio.TimerHandle | None = None
        self._drained: Deferred[None] | None = None
        self._drain_timer: IDelayedCall | None = None
        self._reloading = False
        self._reload_again = False
        self._stopped = False

    @property
    def configuration(self) -> Configuration:
        """The configuration in force."""
        return self.generation.configuration

    # Start

    def setServiceParent(self, parent: Any) -> None:
        """Become a part of twistd's application, and take its log over."""
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        if self._repeats is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._repeats)

    def privilegedStartService(self) -> None:
        """
        Bind, while there still are the privileges for it.

        :raises CannotListen: nothing stays bound.
        """
        # Before the first client can see that there is a gateway: a SIGHUP without a handler would end it.
        self._install_signals()
        opened: list[Listening | AdminListening] = []
        try:
            with self.configuration.contents:
                for name, settings in self.configuration.listens.items():
                    self.listening[name] = self._listening(name, settings, self.generation)
                    opened.append(self.listening[name])
            if self.configuration.admin is not None:
                self.admin = AdminListening(self.configuration.admin, self)
                opened.append(self.admin)
        except Exception as error:
            log.critical("{why}", why=str(error))
            for listening in opened:
                listening.close()
            raise

    def _listening(
        self,
        name: str,
        settings: ListenSettings,
        generation: Generation,
        leaving: Mapping[EndpointAddress, socket.socket] | None = None,
    ) -> Listening:
        return Listening(
            name,
            settings,
            self.shared,
            root=generation.root,
            gateway=generation.configuration.gateway,
            finished=self.accounting.finished,
            leaving=leaving,
        )

    def startService(self) -> None:
        """
        Serve, as soon as the reactor runs.

        :raises CannotStart: the access log can't be written.
        """
        from twisted.internet import reactor

        if not self.listening and self.admin is None:
            self.privilegedStartService()  # `twist` has no privileged start
        try:
            self.accounting.use(self.accounting.opened(self.configuration))
        except OSError as error:
            log.critical("{why}", why=str(error))
            raise CannotStart(str(error)) from error
        super().startService()  # type: ignore[no-untyped-call]
        # Not at once: when it says that it runs, the loop does not yet.
        reactor.callWhenRunning(reactor.callLater, 0, lambda: self.spawn(self._begin()))

    def spawn(self, work: Any) -> None:
        """Run a coroutine beside everything else; what it raises goes into the log."""
        drive(work, lambda _: None, _say)

    async def _begin(self) -> None:
        from twisted.internet import reactor

        try:
            await self._start()
        except Exception:
            log.failure("the gateway can't start")
            reactor.stop()  # a process that serves nothing is worse than none: whoever watches it can start another

    async def _start(self) -> None:
        from twisted.internet import reactor

        loop = asyncio.get_running_loop()
        limit = self._descriptors.raise_limit()
        self._keep_room(limit)
        self.shared.start()
        self._begin_measuring(reactor)
        upstreams = self.generation.upstreams
        with self.configuration.contents:
            at_once(upstreams.prepare(self.configuration.upstreams, {}))
        self.configuration.contents.forget()
        upstreams.take_effect()
        await in_slices(_start_upstreams(upstreams, {}))
        for upstream in upstreams.values():
            await upstream.files_read()
        await self._start_policies(None)
        for listening in self.listening.values():
            await listening.start()
        if self.admin is not None:
            await self.admin.start()
        self._tick(loop)
        self.shared.metrics.reloaded(True, self.applied_at)
        gc.freeze()
        if self._drained is not None:  # told to end meanwhile
            return
        if self._lag is not None:
            self._lag.start()  # only now: what the start itself takes is no lag
        self.shared.ready = True
        log.info(
            "apigw serves {routes} routes on {listeners} by {reactor} on {loop}; at most {limit} open files",
            routes=len(self.generation.facts),
            listeners=", ".join(listening.address for listening in self.listening.values()) or "no listener",
            reactor=type(reactor).__name__,
            loop=type(loop).__module__,
            limit=limit,
        )
        _warn(self.configuration)
        self._systemd.ready(f"serving {len(self.generation.facts)} routes")
        if self._reload_again:
            self._reload_again = False
            self.reload()

    def _keep_room(self, limit: int) -> None:
        """Bound how many clients may be connected, by the limit of open files."""
        room = self.shared.room
        room.spare = self._descriptors.spare
        room.most = self._descriptors.clients()
        room.crowds = lambda: [*self.listening.values(), *self._leaving]
        room.pools = lambda: [
            target.pool for upstream in self.generation.upstreams.values() for target in upstream.targets.targets
        ]
        if limit < LOW_LIMIT:
            log.warn(
                "the limit of open files is low ({limit}): at most {most} clients can be connected at a time; raise"
                " it (LimitNOFILE= in systemd, ulimit -Hn)",
                limit=limit,
                most=room.most,
            )
        for name, settings in self.configuration.listens.items():
            if settings.max_connections > room.most:
                log.warn(
                    "listen {name}: max_connections is {wanted}, but the limit of open files ({limit}) leaves room for"
                    " {most} clients",
                    name=name,
                    wanted=settings.max_connections,
                    limit=limit,
                    most=room.most,
                )

    async def _start_policies(self, old: Generation | None, new: Generation | None = None) -> None:
        new = new or self.generation
        if new.revocations is not None and (old is None or old.revocations is not new.revocations):
            await new.revocations.start()
        for number, (reference, policy) in enumerate(new.policies.items()):
            if old is None or old.policies.get(reference) is not policy:
                await policy.start()
            if number % POLICIES_A_TURN == 0:
                await asyncio.sleep(0)

    def _begin_measuring(self, reactor: Any) -> None:
        metrics = self.shared.metrics
        self._lag = ReactorLag(reactor, metrics.histogram(instruments.REACTOR_LAG).observe)
        metrics.gauge(
            instruments.CONNECTIONS,
            lambda: [((name,), len(listening.site.connections)) for name, listening in self.listening.items()],
        )
        metrics.gauge(instruments.POOL_CONNECTIONS, self._pool_connections)
        measure(metrics, lambda: self.generation.upstreams)
        metrics.gauge(
            instruments.HANDSHAKE_FAILURES,
            lambda: [
                ((name, reason), count)
                for name, listening in self.listening.items()
                for reason, count in listening.handshake_failures.items()
            ],
        )
        metrics.gauge(instruments.FILE_STALE, lambda: [((path,), 1.0) for path in self.shared.files.failing()])
        metrics.gauge(instruments.ACCESS_LOG_LOST, lambda: [((), self.accounting.lost)])

    def _pool_connections(self) -> list[tuple[tuple[str, ...], float]]:
        return [
            ((name, target.name, state), number)
            for name, upstream in self.generation.upstreams.items()
            for target in upstream.targets.targets
            for state, number in (
                ("idle", len(target.pool.idle)),
                ("active", len(target.pool.connections) - len(target.pool.idle)),
            )
        ]

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """What is done once a second."""
        if self._stopped:
            return
        self._every_second = loop.call_later(1.0, self._tick, loop)
        self.accounting.flush()
        if self._messages is not None and self._repeats is not None:
            self._repeats.flush(time.time())  # noqa: TID251 - log events carry the time of day
            self._messages.flush()
        self._descriptors.check()
        self.shared.room.check()
        for listening in self.listening.values():
            listening.look_at_certificates()
        self._leaving = [listening for listening in self._leaving if listening.connections]
        if self._systemd.watchdog:
            self._systemd.alive()

    # Signals

    def _install_signals(self) -> None:
        reactor: Any
        from twisted.internet import reactor

        def handle(number: int, act: Callable[[], object]) -> None:
            former = self._former_handlers[number] = signal.getsignal(number)

            def handler(received: int, frame: FrameType | None) -> None:
                reactor.callFromThread(act)
                if number == signal.SIGUSR1 and callable(former) and self._messages is None:
                    former(received, frame)  # twistd's own log

            signal.signal(number, handler)

        if not reactor.running:
            # From the first moment on, and also where a shell ignores it for what it starts in the background: Twisted
            # itself would leave that alone.
            signal.signal(signal.SIGINT, reactor.sigInt)
        handle(signal.SIGHUP, self.reload)
        handle(signal.SIGUSR1, self._reopen_logs)

    def _reopen_logs(self) -> None:
        if self._messages is not None:
            self._messages.reopen()
        self.accounting.reopen()

    # Reload

    @property
    def reloading(self) -> bool:
        """Whether a reload is at work, or asked for."""
        return self._reloading or self._reload_again

    def reload(self) -> None:
        """Read the configuration again and put it in force; a reload that is asked for during one comes after it."""
        if self._stopped or self._drained is not None:
            return
        if self._reloading or not self.shared.ready:  # or not started yet
            self._reload_again = True
            return
        self._reloading = True
        self.spawn(self._reload())

    async def _reload(self) -> None:
        self._systemd.reloading()
        pieces: list[Any] = []
        with beside_requests():
            try:
                path = self.configuration.path
                pieces = await self._replace(await in_daemon(lambda: load(path), "apigw reload"))
            except ConfigurationError as error:
                self._reload_failed([str(each) for each in error.problems])
            except (CannotListen, CannotStart, OSError, ValueError) as error:
                self._reload_failed([str(error)])
            except Exception as error:
                log.failure("the new configuration can't be built")
                self._reload_failed([f"{type(error).__name__} (a defect of apigw; the log has more)"])
            await release(pieces)
            if len(self.configuration.order) >= MANY_SECTIONS:
                gc.freeze()  # to look through so many objects would hold the loop
        self._reloading = False
        self._systemd.ready(f"serving {len(self.generation.facts)} routes")
        if self._reload_again:
            self._reload_again = False
            self.reload()

    def _reload_failed(self, problems: list[str]) -> None:
        if len(problems) > MOST_TOLD:
            more = f"... and {len(problems) - MOST_TOLD} more: `apigw check {self.configuration.path}` tells them all"
            problems = [*problems[:MOST_TOLD], more]
        self.last_error = (time.time(), problems)  # noqa: TID251 - a person reads it
        self.shared.metrics.reloaded(False, self.applied_at)
        log.error(
            "the new configuration is not taken, the old one stays in force:\n{problems}", problems="\n".join(problems)
        )

    async def _replace(self, configuration: Configuration) -> list[Any]:
        """
        Build the new beside the old, open what has to be opened, then swap.

        :return: the pieces of the old.
        """
        old = self.generation
        wanted = configuration.listens
        if self._drained is not None:
            raise CannotStart("the gateway is ending")
        if not wanted and configuration.admin is None:
            raise CannotStart(f"{configuration.path} asks for no listener: there is nothing to serve")
        leaving = [each for name, each in self.listening.items() if not _stays(each, wanted.get(name))]
        former_admin = None if _stays(self.admin, configuration.admin) else self.admin
        free = {each.settings.endpoint: each.socket for each in (*leaving, former_admin) if each is not None}
        opened: dict[str, Listening] = {}
        admin: AdminListening | None = None
        access_log = self.accounting.access_log
        new: Generation | None = None
        put_back = self.shared.remember()
        try:
            new = await in_slices(within(configuration.contents, build_steps(configuration, self.shared, old)))
            with configuration.contents:
                for name, settings in wanted.items():
                    if not _stays(self.listening.get(name), settings):
                        opened[name] = self._listening(name, settings, new, free)
            if configuration.admin is not None and not _stays(self.admin, configuration.admin):
                admin = AdminListening(configuration.admin, self, free)
            if log_options(configuration) != log_options(old.configuration):
                access_log = self.accounting.opened(configuration)
            await in_slices(_start_upstreams(new.upstreams, old.upstreams))
            for upstream in new.upstreams.values():
                await upstream.files_read()
            await self._start_policies(old, new)
            for listening in opened.values():
                await listening.start()
            if admin is not None:
                await admin.start()
            preparing = new.upstreams.prepare(configuration.upstreams, old.upstreams)
            await in_slices(within(configuration.contents, preparing))
            configuration.contents.forget()
            if self._drained is not None:
                raise CannotStart("the gateway is ending")
        except Exception:
            for listening in opened.values():
                listening.abort(shared=listening.settings.endpoint in free)
            if admin is not None:
                admin.close(shared=admin.settings.endpoint in free)
            if access_log is not None and access_log is not self.accounting.access_log:
                access_log.close()
            put_back()
            if new is not None:
                await in_slices(self._retire(new, old))
            self._forget_series(old)
            raise

        # From here on nothing waits: between two requests the gateway is another.
        self.generation = new
        self.shared.files.timeout = configuration.gateway.file_timeout
        self.shared.root = new.root
        new.upstreams.take_effect()
        gateway = configuration.gateway
        for name, listening in self.listening.items():
            if listening not in leaving:
                listening.become(wanted[name], new.root, gateway)
        for listening in (*leaving, *self._leaving):  # connections that are there go on for a while
            listening.become(listening.settings, new.root, gateway)
        self.listening = {name: opened.get(name) or self.listening[name] for name in wanted}
        if admin is not None or former_admin is not None:
            self.admin = admin
        elif self.admin is not None and configuration.admin is not None:
            self.admin.settings = configuration.admin
        self._use_modes()
        if access_log is not self.accounting.access_log:
            self.accounting.use(access_log)
        self.applied_at = time.time()  # noqa: TID251 - a person reads it
        self.last_error = None
        self._forget_series(new)
        self.shared.metrics.reloaded(True, self.applied_at)

        self._leaving += leaving
        taken = {each.settings.endpoint for each in (*opened.values(), admin) if each is not None}
        if former_admin is not None:
            former_admin.close(shared=former_admin.settings.endpoint in taken)
        for listening in leaving:
            await listening.leave(shared=listening.settings.endpoint in taken)
        await in_slices(self._retire(old, new))
        log.info("the new configuration is in force: {routes} routes", routes=len(new.facts))
        _warn(configuration)
        return await in_slices(old.pieces())

    def _use_modes(self) -> None:
        """A UNIX socket stays when only its permissions change."""
        for listening in (*self.listening.values(), *((self.admin,) if self.admin is not None else ())):
            try:
                use_mode(listening.socket, listening.settings.endpoint.mode)
            except OSError as error:
                log.error(
                    "{address} keeps its permissions: {why}", address=listening.settings.endpoint, why=error.strerror
                )

    def _retire(self, old: Generation, new: Generation) -> Generator[None, None, None]:
        """Stop what only ``old`` has."""
        for name, upstream in old.upstreams.items():
            if new.upstreams.get(name) is not upstream:
                upstream.stop()
            yield
        for reference, policy in old.policies.items():
            if new.policies.get(reference) is not policy:
                self.spawn(_stop(reference, policy))
            yield
        if old.revocations is not None and old.revocations is not new.revocations:
            old.revocations.stop()

    def _forget_series(self, generation: Generation) -> None:
        """Drop the metrics of what ``generation`` does not have."""
        self.shared.metrics.keep_only(
            {"", *(facts.name for facts in generation.facts)},
            {(name, each.name) for name, upstream in generation.upstreams.items() for each in upstream.targets.targets},
        )

    # Stop

    def stopService(self) -> Deferred[None]:
        """Drain: the Deferred fires when the last connection is gone, or its time is up."""
        reactor: Any
        from twisted.internet import reactor

        super().stopService()  # type: ignore[no-untyped-call]
        if self._drained is not None:
            return self._drained
        self._drained = Deferred()
        self.shared.ready = False
        self._systemd.stopping("draining")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: reactor.callFromThread(self._end))
        timeout = self.configuration.gateway.drain_timeout
        log.info(
            "draining: {number} connections, at most {timeout} s",
            number=sum(listening.connections for listening in self._all_listening()),
            timeout=timeout,
        )
        self._drain_timer = reactor.callLater(timeout, self._end)
        self.spawn(self._drain())
        return self._drained

    async def _drain(self) -> None:
        for listening in list(self.listening.values()):
            await listening.leave()
        # Connections end in many ways, and nobody else wants to be told.
        while any(each.connections for each in self._all_listening()) and not self._stopped:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        if not self._stopped:
            self._end()

    def _all_listening(self) -> list[Listening]:
        """Those that a reload took away and that still have connections, too."""
        return [*self.listening.values(), *self._leaving]

    def _end(self) -> None:
        """All is over: cut what is left; the second time, wait for nothing more."""
        if self._stopped:
            self._ended()
            return
        self._stopped = True
        if self._drain_timer is not None and self._drain_timer.active():
            self._drain_timer.cancel()
        for listening in self._all_listening():
            listening.abort()
        if self.admin is not None:
            self.admin.close()
        for upstream in self.generation.upstreams.values():
            upstream.stop()
            for target in upstream.targets.targets:
                target.pool.abort()
        if self._lag is not None:
            self._lag.stop()
        if self._every_second is not None:
            self._every_second.cancel()
        for number, former in self._former_handlers.items():
            if signal.getsignal(number) is not None and former is not None:
                signal.signal(number, former)
        self.spawn(self._close())

    async def _close(self) -> None:
        for reference, policy in self.generation.policies.items():
            await _stop(reference, policy)
        if self.generation.revocations is not None:
            self.generation.revocations.stop()
        await asyncio.sleep(0)  # connections that were cut say so in the loop's next turn
        self.shared.stop()
        self.accounting.use(None)
        self._ended()

    def _ended(self) -> None:
        if self._drained is not None and not self._drained.called:
            log.info("stopped")
            self._drained.callback(None)


def _start_upstreams(upstreams: Upstreams, former: Mapping[str, Upstream]) -> Generator[None, None, None]:
    """Let those begin that are new."""
    for name, upstream in upstreams.items():
        if former.get(name) is not upstream:
            upstream.start(former.get(name))
        yield


async def _stop(reference: tuple[str, str], policy: BuiltPolicy) -> None:
    """Stop a policy. It may be a user's own, and what it fails at must hold up nothing."""
    try:
        await policy.stop()
    except Exception:
        log.failure("{policy} can't be stopped", policy=" ".join(filter(None, reference)))


def _stays(listening: Listening | AdminListening | None, settings: Any) -> bool:
    """Whether what listens can go on with these settings."""
    return listening is not None and settings is not None and listening.may_become(settings)


MOST_WARNINGS = 20
"""Warnings of one configuration that are logged."""


def _warn(configuration: Configuration) -> None:
    """Log the warnings of a configuration, as one event: of many of one kind most are left out."""
    warnings = [str(warning) for warning in configuration.warnings[:MOST_WARNINGS]]
    if not warnings:
        return
    more = len(configuration.warnings) - len(warnings)
    if more:
        warnings.append(f"and {more} more: `apigw check` lists all of them")
    log.warn("warnings of {path}:\n{warnings}", path=configuration.path, warnings="\n".join(warnings))


def _say(error: BaseException) -> None:
    log.failure("the gateway failed", Failure(error))


def make_service(configuration: Configuration, messages: str | None = None, *, daemon: bool = False) -> GatewayService:
    """
    The gateway that ``configuration`` describes, not started.

    :param messages: where the log for people goes: a path, ``-`` for standard output, or None: to whoever observes.
    :param daemon: there will be no standard output: an access log that should go there goes where ``messages`` go.
    """
    lines = LogLines(LogFile(messages)) if messages is not None else None
    return GatewayService(configuration, lines, messages if daemon and messages is not None else "-")
