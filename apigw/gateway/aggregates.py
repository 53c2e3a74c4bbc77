"""
``[aggregate NAME]`` and ``[batch NAME]``: their kinds of sections, their mistakes, and what answers for them.

Not here: what they do (``apigw.aggregation``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any
from weakref import ref

from apigw.aggregation.aggregate import Aggregate, aggregate
from apigw.aggregation.batch import Batch
from apigw.aggregation.batch_items import Callers, Limits
from apigw.aggregation.plan import mistakes
from apigw.aggregation.python_class import PythonAggregate
from apigw.aggregation.settings import AggregateSettings, BatchSettings
from apigw.config.configuration import Configuration
from apigw.config.kinds import Kind, Kinds
from apigw.config.listen import ListenSettings
from apigw.config.problems import Problem
from apigw.exchange.responder import Responder
from apigw.gateway.environment import Shared
from apigw.routing.patterns import path_pattern
from apigw.routing.tree import GatewayResource

KINDS: Kinds = {"aggregate": Kind(AggregateSettings), "batch": Kind(BatchSettings)}


def wrong_aggregates(configuration: Configuration) -> Iterator[Problem]:
    """Names that nothing stands for, calls that wait for each other, options that do nothing."""
    for name, settings in configuration.of("aggregate").items():
        try:
            captures = path_pattern(settings.path).captures
        except ValueError:
            continue  # which is told as such
        anybody = bool(configuration.policies_of(settings))
        for found in mistakes(settings, captures, anybody=anybody):
            what, expected, hint, warning = found[1:]
            yield configuration.problem(
                "aggregate", name, found.option, what, expected=expected, hint=hint, warning=warning
            )


def aggregate_route(settings: Any, route: Any, shared: Shared, upstreams: Any) -> Responder:
    """What an ``[aggregate]`` does."""
    clients: Mapping[str, Any] = upstreams.clients
    return aggregate(route.name, settings, clients, shared.wheel, shared.side_work)


def batch_route(settings: Any, route: Any, shared: Shared, upstreams: Any) -> Responder:
    """What a ``[batch]`` does, once it was shown the tree."""
    return Batch(settings, shared.wheel, shared.side_work)


def show_tree(
    responders: Iterable[Responder],
    root: GatewayResource,
    shared: Shared,
    policies: Iterable[Any],
    listeners: Collection[ListenSettings],
) -> None:
    """
    Let batches ask all routes; each request of one is counted and logged like any other.

    :param policies: all policies, which know the fields that say who a caller is. :param listeners: those that requests
        come by; a request of a batch may be as large as at the one that takes the largest.
    """
    batches = [responder for responder in responders if isinstance(responder, Batch)]
    if not batches:
        return
    # The tree holds the batch; what is held in a circle would not go with the last request to it.
    tree = ref(root)

    def route() -> Responder:
        mine = tree() or shared.root
        assert mine is not None
        return mine.route

    policies = list(policies)
    callers = Callers(_fields(policies, "identity_headers"), _fields(policies, "credential_headers"))
    limits = Limits(
        max((each.max_target for each in listeners), default=Limits().target),
        max((each.max_headers for each in listeners), default=Limits().fields),
        max((each.max_head for each in listeners), default=Limits().head),
    )
    for batch in batches:
        batch.use(route, root.normalise, shared.finished, callers, limits)


def tell_identity(responder: Responder, policies: Iterable[Any]) -> None:
    """Let the calls of an aggregate have the identity fields that its policies set, as plain routes do."""
    if isinstance(responder, Aggregate | PythonAggregate):
        responder.identify(_fields(policies, "identity_headers"))


def _fields(policies: Iterable[Any], attribute: str) -> frozenset[bytes]:
    return frozenset[bytes]().union(*(getattr(policy, attribute, ()) for policy in policies))


def keep_answers(
    former: Mapping[str, Responder], responders: Mapping[str, Responder], old: Configuration, new: Configuration
) -> None:
    """Let aggregates go on with the answers that they kept before a reload, where nothing changed for them."""
    if not any(isinstance(responder, Aggregate) for responder in responders.values()):
        return
    unchanged = {name for name in (*new.upstreams, *new.of("split")) if _same(name, old, new)}
    for name, responder in responders.items():
        before = former.get(name)
        if isinstance(responder, Aggregate) and isinstance(before, Aggregate):
            responder.place.take_over(before.place, unchanged)


def _same(name: str, old: Configuration, new: Configuration) -> bool:
    if name in new.upstreams:
        return bool(old.upstreams.get(name) == new.upstreams[name])
    split = new.of("split").get(name)
    return bool(split == old.of("split").get(name)) and all(
        _same(each, old, new) for each in getattr(split, "upstreams", ())
    )
