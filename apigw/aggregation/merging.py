"""
``merge``: several answers as one, always in the order in which the calls are written, whichever was there first.

Not here: ``response``, which makes the answer by JMESPath.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apigw.exchange.errors import UpstreamFault

Named = Sequence[tuple[str, Any]]


def merge(kind: str, clash: str, answers: Named) -> Any:
    """
    One value of several. The parts are not changed.

    :param kind: ``namespace``, ``shallow``, ``deep`` or ``concat``.
    :param clash: ``last``, ``first`` or ``error``: which of two members of one name stays.
    :raises UpstreamFault: an answer has not the form that is asked for, or members clash.
    """
    if kind == "namespace":
        return dict(answers)
    if kind == "concat":
        items: list[Any] = []
        for _, value in answers:
            if isinstance(value, list):
                items += value
            elif value is not None:
                items.append(value)
        return items
    whole: dict[str, Any] = {}
    for name, value in answers:
        if value is None:
            continue
        if not isinstance(value, dict):
            raise UpstreamFault(
                f"the answer of {name} is no object, and can't be merged", reason="aggregate_not_mergeable"
            )
        _into(whole, value, clash, deep=kind == "deep", at=name)
    return whole


def _into(whole: dict[str, Any], part: dict[str, Any], clash: str, *, deep: bool, at: str) -> None:
    for name, value in part.items():
        if name not in whole:
            whole[name] = value
            continue
        there = whole[name]
        if deep and isinstance(there, dict) and isinstance(value, dict):
            whole[name] = there = dict(there)
            _into(there, value, clash, deep=True, at=at)
        elif clash == "last":
            whole[name] = value
        elif clash == "error":
            # Names of members are the service's words, too.
            raise UpstreamFault(f"{at} has a member that an earlier answer has, too", reason="aggregate_clash")
