"""
What each section that answers requests asks for, as rules of the routing table; nothing of what answers them.

Not here: the responders and the tree that they end in (``routes``, ``build``).
"""

from __future__ import annotations

from typing import Any, TypeVar

from apigw.config.configuration import Configuration
from apigw.config.model import Settings
from apigw.routing.patterns import path_pattern
from apigw.routing.rule import Rule
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
    return [
        ((kind, name), configuration.of(kind)[name])
        for kind, name in configuration.order
        if kind in ANSWERING and name in configuration.of(kind)
    ]


def target_path(settings: Any) -> TargetPath | None:
    """
    Where a ``[route]`` sends requests on to.

    :raises ValueError: a template or expression is wrong.
    """
    return compile_target(
        strip_prefix=settings.strip_prefix,
        add_prefix=settings.add_prefix,
        rewrite=settings.rewrite,
        pattern=path_pattern(settings.path),
        encoded_slashes=settings.allow_encoded_slashes,
    )
