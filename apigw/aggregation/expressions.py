"""
JMESPath, parsed at load: fields, indexes, slices, projections and multi-selects become closures, the rest is left to
the library's interpreter. The results are the library's; a projection of fifty items takes a fifth of the time.

Not here: what the expressions are for (``settings``), the names that they may use (``plan``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.visitor import TreeInterpreter

Evaluate = Callable[[Any], Any]
_interpreter = TreeInterpreter()


class ExpressionFailed(ValueError):
    """An expression met values that it can't work on, like ``length`` of a number."""


class Expression:
    """
    One JMESPath expression.

    :ivar roots: names that it reads of the value that it is given; None if it may read any.
    :raises ValueError: from the constructor; the words say what is wrong with the expression.
    """

    __slots__ = ("_evaluate", "roots", "text")

    def __init__(self, text: str) -> None:
        try:
            tree = jmespath.compile(text).parsed
        except JMESPathError as error:
            raise ValueError(" ".join(str(error).splitlines()[0].split())) from None
        self.text = text
        self.roots = _roots(tree)
        self._evaluate = _compiled(tree)

    def __call__(self, value: Any) -> Any:
        """
        What the expression finds in ``value``, which is not changed, but may be a part of the result.

        :raises ExpressionFailed: a function was given what it can't take.
        """
        try:
            return self._evaluate(value)
        except (JMESPathError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise ExpressionFailed(str(error).splitlines()[0] if str(error) else type(error).__name__) from None

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def holds(value: Any) -> bool:
    """Whether JMESPath takes a value for true: all but null, false, and what is empty."""
    return not (value is None or value is False or value in ("", [], {}))


def _roots(node: Any) -> frozenset[str] | None:
    kind, children = node["type"], node["children"]
    if kind == "field":
        return frozenset((node["value"],))
    if kind in {"literal", "expref", "index", "slice"}:
        return frozenset()
    if kind in {"current", "identity"}:
        return None
    if kind in {"subexpression", "pipe", "index_expression"}:
        # What stands to the right sees what the left one gave: the whole value only after `@`.
        seen = _roots(children[0])
        return _roots(children[1]) if seen is None and len(children) > 1 else seen
    if kind in {"projection", "value_projection", "filter_projection", "flatten"}:
        return _roots(children[0])
    found: frozenset[str] = frozenset()
    for child in children:
        roots = _roots(child)
        if roots is None:
            return None
        found |= roots
    return found


def _compiled(node: Any) -> Evaluate:
    made = _FORMS.get(node["type"])
    if made is not None:
        return made(node)
    visit = _interpreter.visit
    return lambda value: visit(node, value)


def _field(node: Any) -> Evaluate:
    name = node["value"]
    return lambda value: value.get(name) if type(value) is dict else None


def _same(node: Any) -> Evaluate:
    return lambda value: value


def _chain(node: Any) -> Evaluate:
    steps = [_compiled(child) for child in node["children"]]
    if len(steps) == 2:
        first, second = steps
        return lambda value: second(first(value))

    def evaluate(value: Any) -> Any:
        for step in steps:
            value = step(value)
        return value

    return evaluate


def _index(node: Any) -> Evaluate:
    at = node["value"]

    def evaluate(value: Any) -> Any:
        if type(value) is not list:
            return None
        try:
            return value[at]
        except IndexError:
            return None

    return evaluate


def _slice(node: Any) -> Evaluate:
    cut = slice(*node["children"])
    return lambda value: value[cut] if type(value) is list else None


def _literal(node: Any) -> Evaluate:
    literal = node["value"]
    return lambda value: literal


def _object(node: Any) -> Evaluate:
    members = [(child["value"], _compiled(child["children"][0])) for child in node["children"]]
    return lambda value: None if value is None else {name: member(value) for name, member in members}


def _array(node: Any) -> Evaluate:
    members = [_compiled(child) for child in node["children"]]
    return lambda value: None if value is None else [member(value) for member in members]


def _projection(node: Any) -> Evaluate:
    base, each = (_compiled(child) for child in node["children"])

    def evaluate(value: Any) -> Any:
        items = base(value)
        if type(items) is not list:
            return None
        return [found for item in items if (found := each(item)) is not None]

    return evaluate


def _flatten(node: Any) -> Evaluate:
    base = _compiled(node["children"][0])

    def evaluate(value: Any) -> Any:
        items = base(value)
        if type(items) is not list:
            return None
        flat: list[Any] = []
        for item in items:
            if type(item) is list:
                flat.extend(item)
            else:
                flat.append(item)
        return flat

    return evaluate


def _filter(node: Any) -> Evaluate:
    base, each, condition = (_compiled(child) for child in node["children"])

    def evaluate(value: Any) -> Any:
        items = base(value)
        if type(items) is not list:
            return None
        return [found for item in items if holds(condition(item)) and (found := each(item)) is not None]

    return evaluate


_FORMS: dict[str, Callable[[Any], Evaluate]] = {
    "field": _field,
    "identity": _same,
    "current": _same,
    "subexpression": _chain,
    "pipe": _chain,
    "index_expression": _chain,
    "index": _index,
    "slice": _slice,
    "literal": _literal,
    "multi_select_dict": _object,
    "multi_select_list": _array,
    "projection": _projection,
    "flatten": _flatten,
    "filter_projection": _filter,
}
