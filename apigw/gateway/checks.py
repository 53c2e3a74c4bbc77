"""
Mistakes that only several rooms together can see: asked for at each load, with the sections that are right so far.

Not here: mistakes of one option (its type finds them), and of names (``apigw.config.resolving``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from apigw.config.configuration import Configuration
from apigw.config.problems import Problem
from apigw.gateway.aggregates import wrong_aggregates
from apigw.gateway.environment import Shared
from apigw.gateway.policies import build_policies
from apigw.gateway.rules import Section, answering, rule_of
from apigw.net.certificates import CIPHERS
from apigw.net.certificates import check as check_certificates
from apigw.policies.policy import order_warnings
from apigw.routing.patterns import condition, host_pattern, path_pattern
from apigw.routing.rule import Rule, ambiguities
from apigw.routing.table import RouteTable
from apigw.routing.target_path import compile_target


def wrong_patterns(configuration: Configuration) -> Iterator[Problem]:
    """Paths, hosts, conditions and target paths that don't mean anything."""
    for section, settings in answering(configuration):
        for option, what in _wrong(settings):
            yield configuration.problem(*section, option, what)


def _wrong(settings: Any) -> Iterator[tuple[str, str]]:
    if what := _refused(lambda: path_pattern(settings.path)):
        yield "path", what
    for host in getattr(settings, "hosts", ()):
        if what := _refused(lambda host=host: host_pattern(host)):
            yield "hosts", what
    for group in ("header", "query"):
        for name, text in getattr(settings, group, {}).items():
            if what := _refused(lambda name=name, text=text: condition(name, text)):
                yield f"{group}.{name}", what
    if _refused(lambda: path_pattern(settings.path)):
        return
    pattern = path_pattern(settings.path)
    slashes = getattr(settings, "allow_encoded_slashes", False)
    for option in ("strip_prefix", "add_prefix", "rewrite"):
        value = getattr(settings, option, None)
        if value is not None and (
            what := _refused(
                lambda option=option, value=value: compile_target(
                    pattern=pattern, encoded_slashes=slashes, **{option: value}
                )
            )
        ):
            yield option, what


def _refused(parse: Any) -> str:
    try:
        parse()
    except ValueError as error:
        return str(error)
    return ""


def ambiguous_routes(configuration: Configuration) -> Iterator[Problem]:
    """Two routes that match the same requests with equal rank; each pair is told once, at the later one."""
    rules = _rules(configuration)
    for first, second in ambiguities(rules):
        kind, name = first.value
        yield configuration.problem(
            *second.value,
            "path",
            f"{first.path} takes the same requests as [{' '.join(filter(None, (kind, name)))}]"
            f" at {configuration.origin(kind, name, 'path')}, with equal rank",
            expected="another path, host, method or condition",
            hint="or give one of them a priority",
        )
    try:
        RouteTable(rules)
    except ValueError as error:
        yield Problem(configuration.path, 0, "", "", str(error))


def _rules(configuration: Configuration) -> list[Rule[Section]]:
    """Those that mean something; the others are ``wrong_patterns``."""
    rules: list[Rule[Section]] = []
    for order, (section, settings) in enumerate(answering(configuration)):
        if not any(True for _ in _wrong(settings)):
            rules.append(rule_of(settings, section, order, section))
    return rules


def certificates(configuration: Configuration) -> Iterator[Problem]:
    """Every pair of every listener is opened: does it match, is it valid, does it name the hosts that routes want?"""
    hosts = sorted({host for _, settings in answering(configuration) for host in getattr(settings, "hosts", ())})
    for name, listen in configuration.listens.items():
        if listen.tls is None:
            continue
        found = check_certificates(
            listen.tls.certificates, minimum=listen.tls.minimum, ciphers=listen.tls.ciphers or CIPHERS, hosts=hosts
        )
        for severity, text in found:
            yield configuration.problem("listen", name, "tls.certificates", text, warning=severity == "warning")


def processes(configuration: Configuration) -> Iterator[Problem]:
    """What this version can't do yet must not look as if it did it."""
    workers = configuration.gateway.workers
    if workers != 1:
        what = f"{workers} is not possible: this version serves with one process"
        yield configuration.problem("gateway", "", "workers", what, expected="1")


def upstreams(configuration: Configuration) -> Iterator[Problem]:
    """Splits of splits, and upstreams that fall back on themselves."""
    splits = configuration.of("split")
    for name, split in splits.items():
        for inner in split.upstreams:
            if inner in splits:
                what = f"{inner} is a split itself"
                yield configuration.problem("split", name, "upstreams", what, expected="names of upstreams")
    for name, upstream in configuration.upstreams.items():
        other = upstream.breaker.fallback_upstream
        if other == name or (other in splits and name in splits[other].upstreams):
            what = f"{other} is no other upstream: it leads back here"
            yield configuration.problem(
                "upstream", name, "breaker.fallback_upstream", what, expected="another upstream"
            )


def access_log(configuration: Configuration) -> Iterator[Problem]:
    """The folder of the access log is there, and its path is no folder."""
    path = configuration.gateway.access_log
    if path in {"-", "off"}:
        return
    if not os.path.isdir(os.path.dirname(path)):
        yield configuration.problem("gateway", "", "access_log", f"there is no folder {os.path.dirname(path)}")
    elif os.path.isdir(path):
        yield configuration.problem("gateway", "", "access_log", f"{path} is a folder", expected="the path of a file")


def policies(configuration: Configuration) -> Iterator[Problem]:
    """Each policy is made, and each route's order looked at: a limit by consumer before anybody is authenticated."""
    made: dict[tuple[str, str], Any] = {}
    for failure in build_policies(configuration, Shared(), {}, made):
        yield configuration.problem(*failure.section, "", str(failure))
    for section, settings in answering(configuration):
        listed = configuration.policies_of(getattr(settings, "policies", ()))
        known = [(str(item), made[item.kind, item.name].policy) for item in listed if (item.kind, item.name) in made]
        for warning in order_warnings(known):
            yield configuration.problem(*section, "policies", warning, warning=True)


CHECKS = (wrong_patterns, ambiguous_routes, wrong_aggregates, upstreams, certificates, processes, access_log, policies)
"""All of them, for ``load``."""
