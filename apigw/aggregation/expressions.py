"""
JMESPath, parsed at load: fields, indexes, slices, projections and multi-selects become closures, the rest is left to
the library's interpreter. The results are the library's; a projection of fifty items takes a fifth of the time.

Not here: what the expressions are for (``settings``), the names that they may use (``plan``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError, JMESPathTypeError
from jmespath.functions import Functions
from jmespath.visitor import TreeInterpreter

from apigw.config.problems import did_you_mean

Evaluate = Callable[[Any], Any]
Reads = frozenset[tuple[str, str | None]]
_interpreter = TreeInterpreter()


class ExpressionFailed(ValueError):
    """An expression met values that it can't work on, like ``length`` of a number."""


class Expression:
    """
    One JMESPath expression.

    :ivar roots: names that it reads of the value that it is given; None if it may read any.
    :ivar members: those names, each with the name behind it; with None where it may read all that is below.
    :raises ValueError: from the constructor; the words say what is wrong with the expression.
    """

    __slots__ = ("_evaluate", "members", "roots", "text")

    def __init__(self, text: str) -> None:
        try:
            tree = jmespath.compile(text).parsed
        except JMESPathError as error:
            what = " ".join(str(error).splitlines()[0].split())
            raise ValueError(what.removesuffix(", for expression:").removesuffix(":")) from None
        _check_functions(tree)
        self.text = text
        reads = _reads(tree)
        self.members: Reads = frozenset() if reads is None else reads
        self.roots = None if reads is None else frozenset(root for root, _ in reads)
        self._evaluate = _compiled(tree)

    def __call__(self, value: Any) -> Any:
        """
        What the expression finds in ``value``, which is not changed, but may be a part of the result.

        :raises ExpressionFailed: a function was given what it can't take.
        """
        try:
            return self._evaluate(value)
        except JMESPathTypeError as error:
            # The library's words have the value, which is not for everybody's eyes.
            takes = " or ".join(error.expected_types)
            raise ExpressionFailed(f"{error.function_name}() takes {takes}, and got {error.actual_type}") from None
        except (JMESPathError, TypeError, ValueError, ArithmeticError, RecursionError):
            raise ExpressionFailed("a function got values that it can't work on") from None

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def holds(value: Any) -> bool:
    """Whether JMESPath takes a value for true: all but null, false, and what is empty."""
    return not (value is None or value is False or value in ("", [], {}))


def _check_functions(node: Any) -> None:
    """The library finds out when it calls one whether there is such a function, and how many arguments it takes."""
    if node["type"] == "function_expression":
        name, given = node["value"], len(node["children"])
        known = Functions.FUNCTION_TABLE.get(name)
        if known is None:
            hint = did_you_mean(name, Functions.FUNCTION_TABLE)
            raise ValueError(f"there is no function {name}()" + (f"; {hint}" if hint else ""))
        wanted = known["signature"]
        more = bool(wanted) and bool(wanted[-1].get("variadic"))
        if given < len(wanted) or (given > len(wanted) and not more):
            number = f"{len(wanted)} or more" if more else str(len(wanted))
            raise ValueError(f"{name}() takes {number} argument{'' if number == '1' else 's'}, and has {given}")
    for child in node["children"]:
        if isinstance(child, dict):
            _check_functions(child)


def _reads(node: Any) -> Reads | None:
    kind, children = node["type"], node["children"]
    if kind == "field":
        return frozenset(((node["value"], None),))
    if kind in {"literal", "expref", "index", "slice"}:
        return frozenset()
    if kind in {"current", "identity"}:
        return None
    if kind in {"subexpression", "pipe", "index_expression"}:
        # What stands to the right sees what the left one gave: the whole value only after `@`.
        first, *rest = children
        while rest and _reads(first) is None:
            first, *rest = rest
        if kind == "subexpression" and first["type"] == "field" and rest and rest[0]["type"] == "field":
            return frozenset(((first["value"], rest[0]["value"]),))
        return _reads(first)
    if kind in {"projection", "value_projection", "filter_projection", "flatten"}:
        return _reads(children[0])
    found: Reads = frozenset()
    for child in children:
        reads = _reads(child)
        if reads is None:
            return None
        found |= reads
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
