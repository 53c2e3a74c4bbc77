"""
Options of upstreams that never do anything: limits above other limits, groups whose main option is missing, several
targets' features with one target.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apigw.config.configuration import Configuration
from apigw.config.problems import Problem
from apigw.config.values import show_duration
from apigw.upstream.target_spec import TargetSpec

Found = Iterator[tuple[str, str, str]]
"""Option, what is wrong, hint."""


def upstreams(configuration: Configuration) -> Iterator[Problem]:
    """All of that."""
    for name, settings in configuration.of("upstream").items():
        section = configuration.written.get(("upstream", name))
        written = frozenset(section.options) if section is not None else frozenset[str]()
        for check in (_targets, _one_target, _out_of_reach, _idle_groups):
            for option, what, hint in check(settings, written):
                yield configuration.problem("upstream", name, option, what, hint=hint, warning=True)
    for name, route in configuration.of("route").items():
        mirror = getattr(route, "mirror", None)
        if mirror is not None and mirror.upstream == route.upstream:
            what = f"{mirror.upstream} gets each of these requests twice: it is the route's own upstream"
            yield configuration.problem("route", name, "mirror", what, hint="another upstream", warning=True)


def _static(settings: Any) -> list[TargetSpec]:
    return [target for target in settings.targets if isinstance(target, TargetSpec)]


def _targets(settings: Any, written: frozenset[str]) -> Found:
    targets = settings.sources
    if targets and all(getattr(target, "weight", 1) == 0 for target in targets):
        yield "targets", "all weights are 0, so no target gets requests as a rule", "a weight of 1 or more"
    elif targets and all(getattr(target, "backup", False) for target in targets):
        yield "targets", "all targets are backups, so there is nothing that they are backups of", "backup=no for one"


def _one_target(settings: Any, written: frozenset[str]) -> Found:
    if len(settings.sources) != 1 or len(_static(settings)) != 1:
        return
    for option, on in (
        ("hedge.after", settings.hedge.after is not None),
        ("sticky.cookie", settings.sticky.cookie is not None),
    ):
        if on:
            yield option, "there is only one target, so this does nothing", "more targets, or without this option"


def _out_of_reach(settings: Any, written: frozenset[str]) -> Found:
    timeout, response = settings.breaker.timeout, settings.timeout.response
    if timeout is not None and timeout > response:
        what = f"timeout.response ends each request after {show_duration(response)} already"
        yield "breaker.timeout", what, f"at most {show_duration(response)}, or a longer timeout.response"
    if settings.hedge.after is not None and settings.hedge.after[0] != "share" and settings.hedge.after[1] >= response:
        what = f"timeout.response ends each request after {show_duration(response)} already"
        yield "hedge.after", what, f"less than {show_duration(response)}, or a longer timeout.response"
    for option, longest, value, limit in (
        (
            "breaker.reset_timeout",
            "max_reset_timeout",
            settings.breaker.reset_timeout,
            settings.breaker.max_reset_timeout,
        ),
        (
            "outlier.base_ejection_time",
            "max_ejection_time",
            settings.outlier.base_ejection_time,
            settings.outlier.max_ejection_time,
        ),
        ("retry.backoff", "max_backoff", settings.retry.backoff, settings.retry.max_backoff),
    ):
        if value > limit:
            group = option.partition(".")[0]
            what = f"{group}.{longest} cuts this to {show_duration(limit)}"
            yield option, what, f"a longer {group}.{longest}"
    most = settings.pool.max_connections
    if most and settings.pool.max_idle > most and "pool.max_idle" in written:
        yield "pool.max_idle", "no target has so many connections: pool.max_connections is lower", f"at most {most}"
    if settings.sticky.same_site == "none" and not settings.sticky.secure:
        yield "sticky.secure", "browsers refuse SameSite=None cookies that are not Secure", "sticky.secure = yes"


_SHARED = frozenset(("retry.attempts", "retry.budget", "retry.min_retries", "retry.max_body"))
"""Options that hold for hedging, too."""


def _idle_groups(settings: Any, written: frozenset[str]) -> Found:
    """Options of a group that is off because its main option is missing."""
    kinds = {getattr(settings.balance, "kind", "")}
    looked_up = settings.discover is not None or len(_static(settings)) < len(settings.targets)
    for group, on, main, hint in (
        ("health.", settings.health.enabled, "there are no active checks", "health.path = /…, or health.type = tcp"),
        ("sticky.", settings.sticky.cookie is not None, "sessions are not sticky", "sticky.cookie = NAME"),
        ("hedge.", settings.hedge.after is not None, "nothing is hedged", "hedge.after = 95%"),
        ("retry.", settings.retry.attempts > 1, "nothing is tried again", "retry.attempts = 2"),
        ("hash.", "hash" in kinds, "targets are not chosen by a hash", "balance = hash:KEY"),
        ("discover_interval", looked_up, "no targets are looked up", "discover = URL, or a target dns:NAME:PORT"),
    ):
        for option in sorted(written) if not on else ():
            if option.startswith(group) and option not in _SHARED:
                yield option, f"{main}, so this does nothing", f"did you mean {hint}, too?"
