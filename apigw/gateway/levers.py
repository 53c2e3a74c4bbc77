"""
What operators may do to upstreams by the admin listener, with its token:

    POST /upstreams/drain      {"upstream": "orders", "target": "http://10.0.0.1:9102"}
    POST /upstreams/undrain    the same
    POST /upstreams/circuit    {"upstream": "orders", "state": "open"}          open, close or auto; one target, or all

Not here: who may (``apigw.admin.access``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from apigw.admin.views import Action
from apigw.config.problems import did_you_mean
from apigw.exchange.errors import ClientFault
from apigw.gateway.clusters import Upstream
from apigw.gateway.upstreams import Upstreams
from apigw.upstream.target import Target

STATES = ("open", "close", "auto")


def levers(upstreams: Callable[[], Upstreams], clock: Callable[[], float]) -> dict[str, Action]:
    """
    The actions, by path.

    :param upstreams: gives those in force.
    """

    def drain(wanted: bool) -> Action:
        def act(parameters: Mapping[str, Any]) -> object:
            upstream = _upstream(upstreams(), parameters)
            upstream.targets.drain(_target(upstream, parameters), wanted, clock())
            return upstream.describe()

        return act

    def circuit(parameters: Mapping[str, Any]) -> object:
        upstream = _upstream(upstreams(), parameters)
        state = parameters.get("state")
        if state not in STATES:
            raise ClientFault(f"`state` has to be one of {', '.join(STATES)}", reason="admin_bad_parameters")
        chosen = [_target(upstream, parameters)] if "target" in parameters else upstream.targets.targets
        breakers = {target.breaker for target in chosen if target.breaker is not None}
        if not breakers:
            raise ClientFault(f"upstream {upstream.name} has no circuit breaker", reason="admin_bad_parameters")
        for breaker in breakers:
            breaker.force(state, clock())
        return upstream.describe()

    return {"upstreams/drain": drain(True), "upstreams/undrain": drain(False), "upstreams/circuit": circuit}


def _upstream(upstreams: Upstreams, parameters: Mapping[str, Any]) -> Upstream:
    name = parameters.get("upstream")
    if not isinstance(name, str) or name not in upstreams:
        hint = did_you_mean(str(name), list(upstreams)) if name is not None else ""
        raise ClientFault(f"there is no upstream {name!r}. {hint}".rstrip(), reason="admin_bad_parameters")
    return upstreams[name]


def _target(upstream: Upstream, parameters: Mapping[str, Any]) -> Target:
    name = parameters.get("target")
    target = upstream.target(name) if isinstance(name, str) else None
    if target is None:
        names = ", ".join(each.name for each in upstream.targets.targets) or "none"
        raise ClientFault(
            f"upstream {upstream.name} has no target {name!r}, but {names}", reason="admin_bad_parameters"
        )
    return target
