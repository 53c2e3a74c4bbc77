"""
What each section that answers requests asks for, as rules of the routing table; nothing of what answers them.

Not here: the responders and the tree that they end in (``routes``, ``build``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar

from apigw.config.configuration import Configuration
from apigw.config.model import Settings
from apigw.routing.patterns import PathPattern, path_pattern
from apigw.routing.rule import Rule
from apigw.routing.table import RouteTable
from apigw.routing.target_path import TargetPath, compile_target

V = TypeVar("V")

Section = tuple[str, str]
"""Kind and name."""

ANSWERING = ("route", "resource", "health", "aggregate", "batch", "graphql")
"""Kinds of sections that answer requests."""


def rule_of(settings: Any, section: Section, order: int, value: V) -> Rule[V]:
    """
    The rule of one section.

    :raises ValueError: a pattern is wrong.
    """
    return Rule(
        name=section[1] or section[0],
        path=settings.path,
        hosts=getattr(settings, "hosts", ()),
        methods=getattr(settings, "methods", ()),
        headers=getattr(settings, "header", {}),
        query=getattr(settings, "query", {}),
        priority=getattr(settings, "priority", 0),
        order=order,
        value=value,
    )


def takes_parameters(settings: Any, configuration: Configuration) -> bool:
    """Whether a section that answers requests takes paths with parameters (``;x=1``)."""
    own = getattr(settings, "path_parameters", None)
    return (own or configuration.gateway.path_parameters) == "match"


def answering(configuration: Configuration) -> list[tuple[Section, Settings]]:
    """The sections that answer requests and are right by themselves, in the order of the files."""
    found: list[tuple[Section, Settings]] | None = configuration.worked_out.get("answering")
    if found is None:
        right = {kind: configuration.of(kind) for kind in ANSWERING}
        found = configuration.worked_out["answering"] = [
            (section, right[section[0]][section[1]])
            for section in configuration.order
            if section[0] in right and section[1] in right[section[0]]
        ]
    return found


def rules_of(configuration: Configuration) -> Mapping[Section, Rule[Section]]:
    """The rules of all sections that mean something, with the section as value until the gateway is built."""
    rules: dict[Section, Rule[Section]] | None = configuration.worked_out.get("rules")
    if rules is None:
        rules = configuration.worked_out["rules"] = {}
        for order, (section, settings) in enumerate(answering(configuration)):
            with suppress(ValueError):  # which is told where all patterns are looked at
                rule = rule_of(settings, section, order, section)
                if section[0] == "route":
                    target_path(settings, rule.pattern)
                rules[section] = rule
    return rules


def table_of(configuration: Configuration) -> RouteTable[Any]:
    """
    The compiled rules.

    :raises ValueError: their templates overlap in too many ways.
    """
    table: RouteTable[Any] | None = configuration.worked_out.get("table")
    if table is None:
        table = configuration.worked_out["table"] = RouteTable(rules_of(configuration).values())
    return table


def target_path(settings: Any, pattern: PathPattern | None = None) -> TargetPath | None:
    """
    Where a ``[route]`` sends requests on to.

    :param pattern: its path, if that is parsed already.
    :raises ValueError: a template or expression is wrong.
    """
    if settings.strip_prefix is None and settings.add_prefix is None and settings.rewrite is None:
        return None
    return compile_target(
        strip_prefix=settings.strip_prefix,
        add_prefix=settings.add_prefix,
        rewrite=settings.rewrite,
        pattern=pattern or path_pattern(settings.path),
        encoded_slashes=settings.allow_encoded_slashes,
    )
