"""
Policies that run twice, that can't fill their templates, or whose logins and redirects lead nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from apigw.config.configuration import Configuration
from apigw.config.problems import Problem
from apigw.gateway.rules import Section, answering
from apigw.policies.catalogue import POLICIES
from apigw.routing.patterns import PathPattern, path_pattern


def listed_twice(configuration: Configuration) -> Iterator[Problem]:
    """A policy that a route lists twice, or again after [defaults]: a limit counts each request twice then."""
    defaults = configuration.defaults
    before = [*defaults.policies, *([defaults.auth] if defaults.auth else ())]
    for section, settings in answering(configuration):
        own = getattr(settings, "policies", ())
        auth = getattr(settings, "auth", None)
        if len(own) + len(before) + (auth is not None) < 2:
            continue
        every = [*before, *own, *([auth] if auth is not None else ())]
        if len(set(every)) == len(every):
            continue
        listed = configuration.policies_of(settings)
        twice = next((item for place, item in enumerate(listed) if item in listed[:place]), None)
        if twice is not None:
            hint = "[defaults] lists it, too" if twice in before else "once is enough"
            what = f"`{twice}` runs twice on this route"
            yield configuration.problem(*section, "policies" if own else "auth", what, hint=hint, warning=True)


def waits_for_itself(configuration: Configuration) -> Iterator[Problem]:
    """A [batch] that holds a place of a ``concurrency`` limit, in which its own requests need places, too."""
    batches = [
        (name, item)
        for name, settings in configuration.of("batch").items()
        for item in configuration.policies_of(settings)
        if item.kind == "concurrency"
    ]
    if not batches:
        return
    of_routes = {
        item
        for (kind, _), settings in answering(configuration)
        if kind not in {"batch", "health"}
        for item in configuration.policies_of(settings)
        if item.kind == "concurrency"
    }
    for name, item in batches:
        if item in of_routes:
            what = f"each batch holds a place of `{item}` while its requests, whose routes list it, need places as well"
            hint = f"did you mean policies = -{item.name or item.kind}?"
            yield configuration.problem("batch", name, "policies", what, hint=hint, warning=True)


_PLACE = re.compile(r"\{path\.([^{}]+)\}")


def unfilled(configuration: Configuration) -> Iterator[Problem]:
    """Templates of policies with ``{path.NAME}``, which no route captures that lists them."""
    asked = {
        (kind, name): places
        for (kind, name), section in configuration.written.items()
        if kind in POLICIES and kind != "python" and (places := list(_places(section)))
    }
    if not asked:
        return
    captured: dict[tuple[str, str], set[str]] = {}
    for _, settings in answering(configuration):
        wanted = [policy for item in configuration.policies_of(settings) if (policy := (item.kind, item.name)) in asked]
        pattern = _pattern(settings) if wanted else None
        for policy in wanted:
            captured.setdefault(policy, set()).update(pattern.captures if pattern is not None else ())
    for policy, places in asked.items():
        for option, name in places:
            if name not in captured.get(policy, {name}):  # that nothing lists it is told
                what = f"no route that lists this policy captures {{{name}}} in its path, so there is never a value"
                hint = f"did you mean {{{name}}} in a path?"
                yield configuration.problem(*policy, option, what, hint=hint, warning=True)


def _places(section: Any) -> Iterator[tuple[str, str]]:
    for option in section.options.values():
        if "{path." in option.value:
            for found in _PLACE.finditer(option.value.replace("{{", "").replace("}}", "")):
                yield option.name, found[1]


def _pattern(settings: Any) -> PathPattern | None:
    try:
        return path_pattern(settings.path)
    except (ValueError, AttributeError):
        return None


def logins(configuration: Configuration) -> Iterator[Problem]:
    """``oidc`` whose ``callback_path`` no route with this policy takes: nobody could ever log in."""
    for name, settings in configuration.of("oidc").items():
        routes = _listing(configuration, ("oidc", name))
        for option in ("callback_path", "logout_path"):
            path = getattr(settings, option).encode()
            if routes and not any(pattern.matches(path) for _, pattern in routes):
                what = f"no route that lists this policy takes {path.decode()}"
                hint = f"did you mean a path below {routes[0][1].text}?"
                yield configuration.problem("oidc", name, option, what, hint=hint, warning=True)
                break


def _listing(configuration: Configuration, policy: tuple[str, str]) -> list[tuple[Section, PathPattern]]:
    found = []
    for section, settings in answering(configuration):
        for item in configuration.policies_of(settings):
            alternatives = f"{item.kind} {item.name}".split(" | ") if item.kind == "auth" else [str(item)]
            names = {each.removeprefix("auth ").strip() for each in alternatives}
            if " ".join(policy).strip() in names or item.kind == "auth":
                pattern = _pattern(settings)
                if pattern is not None:
                    found.append((section, pattern))
                break
    return found


_WHOLE = re.compile(r"(https|http)://\{request\.host(?:name)?\}(?::[0-9]+)?\{request\.target\}")
_PORT = re.compile(r"\{request\.host\}:[0-9{]")


def redirect_loops(configuration: Configuration) -> Iterator[Problem]:
    """[redirect] to what was asked for, and with a port behind a host that may have one."""
    for name, settings in configuration.of("redirect").items():
        location = settings.location.source
        whole = _WHOLE.fullmatch(location)
        if whole is not None and settings.scheme in {None, whole[1]}:
            other = "http" if whole[1] == "https" else "https"
            what = f"requests that came by {whole[1]} are sent to themselves, round and round"
            yield configuration.problem("redirect", name, "location", what, hint=f"scheme = {other}", warning=True)
        if _PORT.search(location):
            what = "{request.host} has the port that the client used, so this may give two ports"
            hint = "did you mean {request.hostname}?"
            yield configuration.problem("redirect", name, "location", what, hint=hint, warning=True)
