"""
One ``[upstream X]`` alive: targets and who chooses among them, pools, breaker, health checks, discovery, its client.

Not here: how any of these works (``apigw.upstream``, one file each); this is where they are handed to each other.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from treq.response import _Response as TreqResponse
from twisted.internet.defer import Deferred, DeferredList

from apigw.config.addresses import CLIENT_HOST
from apigw.exchange.cookies import add_cookies, give
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response
from apigw.gateway.catalogue import UpstreamSettings
from apigw.gateway.environment import Shared
from apigw.http.h1_heads import ResponseHeads
from apigw.net.tls_client import ClientTLS
from apigw.net.turns import turn
from apigw.observability.health import ANSWERING
from apigw.observability.instruments import HEDGES
from apigw.upstream.authority import host_field, tls_name
from apigw.upstream.balancing.kinds import balancer
from apigw.upstream.breaker import Breaker
from apigw.upstream.candidates import passing
from apigw.upstream.client import UpstreamClient
from apigw.upstream.cluster import Cluster, OneTarget
from apigw.upstream.connection import UpstreamConnection
from apigw.upstream.dialling import Dialler
from apigw.upstream.discovery.discovery import Discovery
from apigw.upstream.discovery.dns import Lookups
from apigw.upstream.fallback import Fallback, with_answer
from apigw.upstream.forward import Forward
from apigw.upstream.health import Prober
from apigw.upstream.hedged import Hedged
from apigw.upstream.hedging import Hedging
from apigw.upstream.journal import log_breaker, log_targets
from apigw.upstream.lenient import LenientConnection
from apigw.upstream.pool import Pool
from apigw.upstream.retries import Retries, RetryBudget
from apigw.upstream.target import Target
from apigw.upstream.target_set import TargetSet
from apigw.upstream.target_spec import TargetSpec

_SOURCES = frozenset(("targets", "discover", "discover_interval"))
"""Options that say only where targets are: they may change while everything else stays."""


REACHED_WITHIN = 1.0
"""Seconds for a connection to a target that is asked for, and that no check knows."""


class Upstream:
    """
    An upstream and all that belongs to it.

    :ivar settings: what it was built from. :ivar client: asks it, by treq or by forwarding.
    :ivar answer: what ``client`` sends its requests by.
    :ivar fallbacks: how often a client got a fallback.
    """

    def __init__(self, name: str, settings: UpstreamSettings, shared: Shared) -> None:
        self.name = name
        self.settings = settings
        self.fallbacks = 0
        self._shared = shared
        self._heads = ResponseHeads(lenient=settings.lenient)
        # Now, if it needs files: later, when discovery finds a target, reading them would hold up the loop.
        self._tls = self._client_tls() if settings.tls.ca or settings.tls.certificate else None
        self._checks: dict[Target, Pool] = {}  # their own connections: a target that is full is not ill
        self.prober: Prober | None = None
        self.discovery: Discovery | None = None
        rng = Random()
        now = shared.clock()
        self._one_breaker: Breaker | None = None
        self.budget = RetryBudget(settings.retry, now)
        repeats = settings.retry.attempts > 1
        self._balancer = balancer(settings, name, rng)
        self.targets = TargetSet(
            name,
            self._balancer,
            now,
            panic_threshold=settings.panic_threshold,
            slow_start=settings.slow_start,
            max_requests=self._most_requests,
            outlier=settings.outlier,
            new_breaker=self._breaker if settings.breaker.on else None,
            budget=self.budget.counts if repeats or settings.hedge.after is not None else None,
        )
        targets = self.targets
        targets.on_gone(self._gone)
        self.targets.on_silent(self._abandon)
        self.targets.listen(log_targets(name))
        self.cluster = Cluster(
            name,
            self.targets,
            shared.wheel,
            shared.later,
            retries=Retries(settings.retry, self.budget, rng, lambda: len(targets.eligible)) if repeats else None,
            replay_limit=settings.retry.max_body if repeats else 0,
        )
        self._copies = Cluster(name, self.targets, shared.wheel, shared.later)
        self._hedgings: dict[str, Hedging] = {}
        self.answer: Responder = self.responder("")
        self.client = UpstreamClient(name, self._ask, clock=shared.clock)
        self._use([spec for spec in settings.targets if isinstance(spec, TargetSpec)])

    @property
    def _most_requests(self) -> int:
        """At one target at a time: on a connection of HTTP/1 there is one; 0 for no limit."""
        limits = (self.settings.max_requests, self.settings.pool.max_connections)
        return min((limit for limit in limits if limit), default=0)

    @property
    def sends_client_host(self) -> bool:
        """Whether services see the client's host whatever the route says."""
        return self.settings.host == CLIENT_HOST

    def responder(self, route: str, **options: Any) -> Responder:
        """
        What sends requests here, with all that this upstream does for them but its fallback.

        :param route: whose latencies hedging goes by. :param options: those of ``Forward``.
        """
        if self.sends_client_host:
            options["preserve_host"] = True
        forward = Forward(self.cluster, **options)
        answer: Responder = forward
        hedge = self.settings.hedge
        if hedge.after is not None:
            hedging = self._hedgings.setdefault(route, Hedging(hedge, self.budget))
            answer = Hedged(forward, Forward(self._copies, **options), hedging, self._elsewhere, self._count_hedge)
        return self._with_cookie(answer) if self._balancer.sets_cookie else answer

    def with_fallback(self, answer: Responder) -> Responder:
        """``answer``, with this upstream's own answer in place of failures, if it is configured."""
        settings = self.settings.breaker
        if not (settings.on and settings.has_fallback_answer):
            return answer
        return with_answer(answer, Fallback(settings, self.count_fallback))

    def count_fallback(self) -> None:
        """A client got a fallback."""
        self.fallbacks += 1
        if self._one_breaker is not None:
            self._one_breaker.fallbacks += 1

    def _ask(self, request: Request, done: Done) -> None:
        self.answer(request, done)

    def start(self, before: Upstream | None = None) -> None:
        """
        Begin to look for targets, and after them. A second call does nothing.

        :param before: whose place it will take: the targets that it has found are there at once.
        """
        if self.prober is not None:
            return
        from twisted.internet import reactor

        settings, shared = self.settings, self._shared
        self._discover(before.discovery if before is not None else None)
        self.prober = Prober(
            self.targets,
            settings.health,
            settings.outlier,
            self._ask_target,
            self._dial_target,
            reactor,
            shared.clock,
            Random(),
        )
        self.prober.start()
        shared.ticks.append(self.targets.tick)

    async def files_read(self) -> None:
        """Wait until the files that have its targets were read, or could not be."""
        if self.discovery is not None:
            await self.discovery.files_read()

    def take_over(self, before: Upstream) -> None:
        """Take the place of one with other settings: what that one knows of the same targets is not forgotten."""
        ours, theirs = self.settings.breaker, before.settings.breaker
        same = ours == theirs and ours.on == theirs.on
        self.targets.take_over(before.targets, breakers=same)
        if same:
            self._one_breaker = before._one_breaker

    def moves(self, settings: UpstreamSettings) -> bool:
        """Whether targets are to be looked for elsewhere."""
        mine = self.settings
        return (settings.targets, settings.discover, settings.discover_interval) != (
            mine.targets,
            mine.discover,
            mine.discover_interval,
        )

    def become(self, settings: UpstreamSettings) -> None:
        """Go on with other ``targets``, the rest being the same: those that stay keep all that they have."""
        if not self.moves(settings):
            return
        self.settings = settings
        former = self.discovery
        if former is not None:
            former.stop()
            self.discovery = None
        self._discover(former)
        if self.discovery is None:
            self._use([spec for spec in settings.targets if isinstance(spec, TargetSpec)])

    def stop(self) -> None:
        """It is no longer configured, or all ends: requests in flight end, nothing is kept."""
        if self.prober is not None:
            self.prober.stop()
            self._shared.ticks.remove(self.targets.tick)
        if self.discovery is not None:
            self.discovery.stop()
        for target in [*self._checks]:
            self._forget_checks(target)
        for target in (*self.targets.targets, *self.targets.leaving):
            target.pool.close()
        self.targets.close()
        # It must go with its last request, and not hold itself in a circle: the collector is kept from much of a large
        # configuration.
        self.prober = self.discovery = None
        self.answer = Forward(self.cluster)
        self._hedgings.clear()
        del self.client

    def _discover(self, former: Discovery | None) -> None:
        from twisted.internet import reactor

        settings, shared = self.settings, self._shared
        if all(isinstance(source, TargetSpec) for source in settings.sources):
            return
        self.discovery = Discovery(
            settings.sources,
            reactor,
            settings.discover_interval,
            Lookups(shared.names, settings.resolve),
            shared.outside.get,
            disk=shared.files,
        )
        if former is not None:
            self.discovery.take_over(former)
        self.discovery.start(self._use)

    def states(self) -> dict[str, str]:
        """
        The state of each target, by name; that of its circuit, if it is all that is wrong with it; and `last_resort` if
        it is asked although it is not well, as no other target is better.
        """
        self.targets.tick(self._shared.clock())
        return {target.name: self._state(target) for target in self.targets.targets}

    def _state(self, target: Target) -> str:
        if target.state in ("ejected", "healthy") and not (target.well and passing(target)):
            if target in self.targets.eligible and self.targets.answers(target):
                return "last_resort"
            if target.well and target.breaker is not None:
                return f"circuit_{target.breaker.state.value}"
        return target.state

    async def seen(self) -> dict[str, str]:
        """
        The same for people who ask: a target that nothing is known of, because nobody checks it, is `unreachable` if
        it takes no connection now.
        """
        states = self.states()
        if self.settings.health.enabled:
            return states
        unknown = [target for target in self.targets.targets if states[target.name] in ANSWERING]
        dials = [self._dial_target(target, REACHED_WITHIN) for target in unknown]
        for target, (reached, _) in zip(unknown, await DeferredList(dials, consumeErrors=True), strict=True):
            if not reached:
                states[target.name] = "unreachable"
        return states

    def describe(self) -> dict[str, Any]:
        """For people and programs; nothing secret."""
        described = self.targets.describe(self._shared.clock())
        pools = {
            target.name: {
                "connections": target.pool.open,
                "idle": len(target.pool.idle),
                "waiting": target.pool.waiting,
            }
            for target in self.targets.targets
        }
        return {"name": self.name, **described, "pools": pools, "fallbacks": self.fallbacks}

    def target(self, name: str) -> Target | None:
        """The target of that name, if there still is one."""
        return next((target for target in self.targets.targets if target.name == name), None)

    def _use(self, specs: list[TargetSpec]) -> None:
        """These are the targets from now on."""
        self.targets.update(specs, self._shared.clock())
        for target in self.targets.targets:
            if target.pool is not None and target.pool.host == host_field(target.spec, self.settings.host):
                target.pool.reopen()
                continue
            if target.pool is not None:
                target.pool.close()  # the same address by another name, which TLS and Host go by
                self._forget_checks(target)
            else:
                target.cells = self._shared.metrics.target(self.name, target.name)
            target.pool = self._pool(target, self._most_requests)

    def _gone(self, target: Target) -> None:
        """The last request of a target that is no longer asked for has ended."""
        target.pool.close()
        self._shared.metrics.forget_target(self.name, target.name)
        self._forget_checks(target)

    def _forget_checks(self, target: Target) -> None:
        if (pool := self._checks.pop(target, None)) is not None:
            pool.abort()

    def _abandon(self, target: Target) -> None:
        """It hangs: what waits for it is sent to others that are well, as far as retries may be."""
        if self._elsewhere(target):
            target.pool.abandon()

    def _breaker(self, target: Target, now: float) -> Breaker:
        if self._one_breaker is not None:
            return self._one_breaker
        settings = self.settings.breaker
        each = settings.scope == "target"
        breaker = Breaker(
            settings,
            now,
            name=f"{self.name} {target.name}" if each else self.name,
            probe_limit=self.settings.timeout.response,
        )
        breaker.listen(log_breaker)
        if not each:
            self._one_breaker = breaker
        return breaker

    def _elsewhere(self, target: Target) -> bool:
        """Whether a request could go to another target."""
        return self.targets.elsewhere(self._shared.clock(), (target,))

    def _count_hedge(self, event: str) -> None:
        self._shared.metrics.counter(HEDGES, self.name, event).value += 1

    def _with_cookie(self, inner: Responder) -> Responder:
        """``inner``, with the cookie that brings the client back to the target that answered."""

        def respond(request: Request, done: Done) -> None:
            def outward(response: Response) -> None:
                if response.error is None and (target := self.target(request.upstream_target)) is not None:
                    cookie = self._balancer.set_cookie(request, target)
                    if cookie is not None:
                        # At once, for calls of aggregates; and again when all policies have had their say.
                        add_cookies(response, [(b"Set-Cookie", cookie)], session=False)
                        give(request, (), session=False)
                done(response)

            inner(request, outward)

        return respond

    def _pool(self, target: Target, most: int, host: str = "") -> Pool:
        """
        :param most: connections at a time. :param host: what Host says, if not what the upstream's ``host`` says.
        """
        settings = self.settings
        if target.scheme == "https" and self._tls is None:
            self._tls = self._client_tls()
        response_timeout = settings.timeout.response
        if settings.breaker.on and settings.breaker.timeout is not None:
            response_timeout = min(response_timeout, settings.breaker.timeout)
        dial = self._dialler(target, settings.timeout.connect, self._tls if target.scheme == "https" else None)
        return Pool(
            dial,
            self._shared.wheel,
            self._heads,
            host=host_field(target.spec, host or settings.host),
            base_path=target.base_path.encode(),
            watch=dial.watch if dial.named else None,
            connection=LenientConnection if settings.lenient else UpstreamConnection,
            max_connections=most,
            max_age=settings.pool.max_age,
            max_uses=settings.pool.max_requests_per_connection,
            max_idle=settings.pool.max_idle,
            max_waiting=settings.pool.queue,
            queue_timeout=settings.pool.queue_timeout,
            connect_timeout=settings.timeout.connect,
            keep_timeout=settings.pool.idle_timeout,
            response_timeout=response_timeout,
            idle_timeout=settings.timeout.idle,
        )

    def _client_tls(self) -> ClientTLS:
        tls = self.settings.tls
        return ClientTLS(
            ca=str(tls.ca) if tls.ca else None,
            certificate=tls.certificate,
            server_name=tls.server_name,
            timeout=self.settings.timeout.connect,
        )

    async def _ask_target(self, target: Target, method: str, path: str, timeout: float) -> TreqResponse:  # noqa: ASYNC109
        """A request to this target, past balancer, breaker, retries and counts."""
        await turn()  # the checks of all upstreams begin at the same moment
        pool = self._checks.get(target)
        if pool is None:
            pool = self._checks[target] = self._pool(target, 0, self.settings.health.host or "")
        asked = Target(target.spec)
        asked.pool = pool
        cluster = Cluster(self.name, OneTarget(asked), self._shared.wheel, self._shared.later)
        client = UpstreamClient(self.name, Forward(cluster), clock=self._shared.clock)
        fields = {name: value.get_secret_value() for name, value in self.settings.health.headers.items()}
        response: TreqResponse = await client.request(method, path, headers=fields, timeout=timeout, unbuffered=True)
        return response

    def _dialler(self, target: Target, timeout: float, tls: ClientTLS | None) -> Dialler:
        return self._shared.dialling.dialler(
            host=target.host,
            port=target.port,
            path=target.path,
            tls=tls,
            server_name=tls_name(target.spec, self.settings.host),
            timeout=timeout,
            resolve=self.settings.resolve,
        )

    def _dial_target(self, target: Target, timeout: float) -> Deferred[None]:
        """Connect to this target, and close."""
        reached: Deferred[None] = Deferred(lambda _: cancel())

        def connected(probe: _Probe) -> None:
            probe.transport.close()
            reached.callback(None)

        cancel = self._dialler(target, timeout, None)(_Probe, connected, reached.errback)
        return reached


class _Probe(asyncio.Protocol):
    """A connection that is only made."""

    transport: asyncio.Transport
    address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream's


def build_upstream(name: str, settings: UpstreamSettings, shared: Shared, before: Upstream | None) -> Upstream:
    """
    The upstream ``name``: the one of before if nothing but its targets changed; it is told of them by ``become``, when
    the new configuration is put in force.
    """
    if before is not None and _alike(before.settings, settings):
        return before
    return Upstream(name, settings, shared)


def _alike(one: UpstreamSettings, other: UpstreamSettings) -> bool:
    options = type(one).model_fields.keys() - _SOURCES
    # That an option is written may count, even if it has its default's value.
    return one.breaker.on == other.breaker.on and all(getattr(one, each) == getattr(other, each) for each in options)
