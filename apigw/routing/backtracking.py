"""
Refuses regular expressions that a client could keep the gateway busy with.

Python's ``re`` backtracks: a repetition within a repetition can need time exponential in the length of the text. What
is refused is an unbounded repetition whose body holds another one, unless the body begins or ends with a literal that
the inner one can't take (``(?:/[^/]+)*`` is safe: each slash begins a new turn).

It is a screen, not a proof: overlapping alternatives (``(a|ab)*``) and several ``.*`` in a row (polynomial, not
exponential; paths are at most ``max_target`` bytes) pass. Templates and prefixes never need it.
"""

from __future__ import annotations

import importlib
from typing import Any

_parser: Any = importlib.import_module("re._parser")
_MAXREPEAT: Any = importlib.import_module("re._constants").MAXREPEAT


def refuse_backtracking(text: str) -> None:
    """
    Look for nested repetitions in an expression that compiles.

    :raises ValueError: if there are some.
    """
    for body in _unbounded(_parser.parse(text)):
        inner = [item for repeated in _unbounded(body) for item in repeated]
        if inner and not any(_separates(edge, inner) for edge in (body[0], body[-1])):
            raise ValueError(
                f"{text!r} has a repetition within a repetition, which a client could make very slow; "
                "possessive quantifiers (++, *+) or a separator at the inner one's start help"
            )


def _unbounded(parsed: Any) -> list[Any]:
    """The bodies of all unbounded, backtracking repetitions, at any depth."""
    found = []
    for operator, argument in parsed:
        name = str(operator)
        if name in {"MAX_REPEAT", "MIN_REPEAT"}:
            if argument[1] is _MAXREPEAT:
                found.append(_without_group(argument[2]))
            found += _unbounded(argument[2])
        elif name == "POSSESSIVE_REPEAT":
            found += _unbounded(argument[2])
        elif name == "SUBPATTERN":
            found += _unbounded(argument[3])
        elif name == "BRANCH":
            for branch in argument[1]:
                found += _unbounded(branch)
        elif name in {"ASSERT", "ASSERT_NOT"}:
            found += _unbounded(argument[1])
    return found


def _without_group(body: Any) -> Any:
    while len(body) == 1 and str(body[0][0]) == "SUBPATTERN":
        body = body[0][1][3]
    return body


def _separates(edge: Any, inner: list[Any]) -> bool:
    operator, argument = edge
    return str(operator) == "LITERAL" and not any(_takes(item, argument) for item in inner)


def _takes(item: Any, code: int) -> bool:
    """Whether an item of an inner repetition could take that character; True when in doubt."""
    name, argument = str(item[0]), item[1]
    if name == "LITERAL":
        return bool(argument == code)
    if name == "NOT_LITERAL":
        return bool(argument != code)
    if name != "IN":
        return True
    negated = str(argument[0][0]) == "NEGATE"
    listed = False
    for kind, value in argument[1:] if negated else argument:
        if str(kind) == "LITERAL":
            listed = listed or value == code
        elif str(kind) == "RANGE":
            listed = listed or value[0] <= code <= value[1]
        else:
            return True
    return listed is not negated
