"""
START HERE for how a gateway is put together: settings to objects, in the order in which a request meets them.

``build`` makes a ``Generation``: all that follows from one configuration. It opens no socket and starts nothing, so a
configuration can be built whole before anything of the old one is touched. What did not change is taken over from
the generation before: clusters with their pools and breakers, policies with their counters.

Not here: listeners and life cycle (``service``), one upstream (``clusters``), one route's responders (``routes``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from apigw.config.configuration import Configuration
from apigw.exchange.responder import Responder
from apigw.gateway.aggregates import aggregate_route, batch_route, keep_answers, show_tree, tell_identity
from apigw.gateway.clusters import Upstream, build_upstream
from apigw.gateway.environment import Shared
from apigw.gateway.policies import BuiltPolicy, build_policies
from apigw.gateway.routes import RouteFacts, mounted, resource_of, upstream_route
from apigw.gateway.rules import table_of, takes_parameters
from apigw.gateway.upstreams import Upstreams
from apigw.net.slices import at_once
from apigw.observability.health import Health
from apigw.policies.revocation import Revocations
from apigw.routing.table import RouteTable
from apigw.routing.tree import GatewayResource, PrefixResource


@dataclass(slots=True)
class Generation:
    """
    What one configuration became.

    :ivar root: the resource tree. :ivar revocations: the list of revoked tokens, if there is one.
    :ivar facts: what is known of each route, in the order of the file.
    :ivar resources: what was mounted, by class and path. :ivar aggregates: what answers for each ``[aggregate]``.
    """

    configuration: Configuration
    upstreams: Upstreams
    policies: dict[tuple[str, str], BuiltPolicy]
    root: GatewayResource
    revocations: Revocations | None = None
    facts: list[RouteFacts] = field(default_factory=list)
    resources: dict[tuple[Any, str], Responder] = field(default_factory=dict)
    aggregates: dict[str, Responder] = field(default_factory=dict)

    def pieces(self) -> Generator[None, None, list[Any]]:
        """What it consists of, in small pieces, for ``apigw.net.slices.release``."""
        configuration, table = self.configuration, self.root.table
        pieces: list[Any] = []
        for some in (
            self.upstreams.values(),
            self.policies.values(),
            self.facts,
            self.resources.values(),
            self.aggregates.values(),
            (rule.value for rule in table.rules),
            table.rules,
            table.nodes(),
            (each for sections in configuration.sections.values() for each in sections.values()),
            configuration.policies.values(),
            configuration.written.values(),
        ):
            for each in some:
                pieces.append(each)
                yield
        return pieces


def build(configuration: Configuration, shared: Shared, before: Generation | None) -> Generation:
    """``build_steps``, all at once."""
    return at_once(build_steps(configuration, shared, before))


def build_steps(
    configuration: Configuration, shared: Shared, before: Generation | None
) -> Generator[None, None, Generation]:
    """
    Make everything that ``configuration`` asks for; once only, because the compiled rules that come with it go into
    what is made. It is work in steps, for ``apigw.net.slices``: what is in force stays as it is all the while.

    :param before: the generation in force, whose unchanged parts are taken over; None at start.
    :raises ValueError: what no check of the configuration could see. ``shared.remember()`` undoes what was done so far.
    """
    upstreams = yield from _upstreams(configuration, shared, before.upstreams if before is not None else {})
    shared.outside.upstreams = upstreams.clients
    shared.names.use(configuration.gateway.name_servers)
    policies: dict[tuple[str, str], BuiltPolicy] = configuration.worked_out.pop("policies", {})
    unusable = yield from build_policies(configuration, shared, before.policies if before else {}, policies)
    if unusable:
        raise unusable[0]

    facts: list[RouteFacts] = []
    tree: dict[Hashable, PrefixResource] = {}
    responders: list[Responder] = []
    resources: dict[tuple[Any, str], Responder] = {}
    aggregates: dict[str, Responder] = {}
    sticky = any(each.sticky.cookie for each in configuration.upstreams.values())
    for section in configuration.order:
        kind, name = section
        build_route = _ROUTES.get(kind)
        if build_route is None:
            continue
        yield
        settings: Any = configuration.sections[kind][name]
        route = RouteFacts(kind, name, settings, configuration.origin(kind, name), shared.metrics.route(name or kind))
        responder = None
        if kind == "resource":  # a resource may hold a state of its own
            responder = before.resources.get((settings.class_, settings.path)) if before is not None else None
        if responder is None:
            responder = build_route(settings, route, shared, upstreams)
        if kind == "resource":
            resources[settings.class_, settings.path] = responder
        elif kind == "aggregate":
            aggregates[name] = responder
        responders.append(responder)
        facts.append(route)
        listed = configuration.policies_of(settings) if kind != "health" else ()
        if kind == "aggregate":
            tell_identity(responder, [policies[item.kind, item.name].policy for item in listed])
        tree[section] = resource_of(
            settings,
            route,
            responder,
            policies=policies,
            listed=listed,
            parameters=takes_parameters(settings, configuration),
            cookies=sticky,
        )
    table: RouteTable[PrefixResource] = table_of(configuration)
    configuration.worked_out.clear()  # the table is this generation's own from here on
    yield from table.use_values(tree)
    root = GatewayResource(table)
    yield
    listeners = configuration.of("listen").values()
    show_tree(responders, root, shared, [built.policy for built in policies.values()], listeners)
    if before is not None:
        keep_answers(before.aggregates, aggregates, before.configuration, configuration)
    revocations = shared.revocations(configuration.of("revocation").get(""))
    return Generation(configuration, upstreams, policies, root, revocations, facts, resources, aggregates)


def _upstreams(
    configuration: Configuration, shared: Shared, former: Mapping[str, Upstream]
) -> Generator[None, None, Upstreams]:
    made: dict[str, Upstream] = {}
    moved = 0
    for name, settings in configuration.upstreams.items():
        before = former.get(name)
        if before is not None and before.moves(settings):
            moved += 1
            if moved > MOST_MOVED:
                before = None
        made[name] = build_upstream(name, settings, shared, before)
        yield
    return Upstreams(made, configuration.of("split"), shared)


def _health(settings: Any, route: RouteFacts, shared: Shared, upstreams: Upstreams) -> Responder:
    async def states() -> dict[str, dict[str, str]]:
        found = await gatherResults([Deferred.fromCoroutine(each.seen()) for each in upstreams.values()])
        return dict(zip(upstreams, found, strict=True))

    return Health(settings.path, states, ready=lambda: shared.ready)


MOST_MOVED = 100
"""Upstreams that go on with other targets in one reload. Further ones are made anew, beside what is in force."""

_ROUTES: dict[str, Callable[[Any, RouteFacts, Shared, Upstreams], Responder]] = {
    "route": upstream_route,
    "resource": mounted,
    "health": _health,
    "aggregate": aggregate_route,
    "batch": batch_route,
}
"""What answers requests, by kind of section. Each makes the innermost responder; policies go around it."""
