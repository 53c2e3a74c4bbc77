"""
Sections that nothing names. An unused ``[jwt]`` is a route that stays open.
"""

from __future__ import annotations

from collections.abc import Iterator

from apigw.config.configuration import Configuration
from apigw.config.problems import Problem
from apigw.config.references import POLICY
from apigw.gateway.rules import answering

_ASKS_CONSUMERS = frozenset(("api_key", "jwt", "introspection", "oidc", "basic", "acl", "rate_limit", "python"))
_ASKS_REVOCATIONS = frozenset(("jwt", "introspection", "oidc"))


def unused(configuration: Configuration) -> Iterator[Problem]:
    """Policies that no route lists, upstreams and splits that no route asks, consumers that no policy knows."""
    if configuration.drafts or not answering(configuration):
        return  # what a section with a mistake would name is not known; and a file without any route is only a part
    named = configuration.named
    policies = named.get(POLICY, frozenset())
    kinds_used = {each.split()[0] for each in policies if each and not each.startswith("-")}
    own_code = any(settings.class_ for settings in configuration.of("aggregate").values())
    for section in configuration.order:
        kind, name = section
        title = f"{kind} {name}".rstrip()
        what, hint = "", ""
        if configuration.kinds[kind].policy:
            if title not in policies:
                what = "no route lists this policy, so it does nothing"
                hint = f"did you mean `policies = {title}` in a route, or in [defaults]?"
        elif kind in {"upstream", "split"}:
            if name not in named.get("upstream", ()) and not own_code:
                what = f"nothing sends requests to this {kind}"
                hint = f"did you mean `upstream = {name}` in a route?"
        elif kind == "consumer":
            if not kinds_used & _ASKS_CONSUMERS:
                what, hint = "no route lists a policy that knows consumers", "an api_key or jwt policy does"
        elif kind == "revocation" and not kinds_used & _ASKS_REVOCATIONS:
            what, hint = (
                "no route lists a policy whose tokens could be revoked",
                "jwt, introspection and oidc have such",
            )
        if what:
            yield configuration.problem(kind, name, "", what, hint=hint, warning=True)
