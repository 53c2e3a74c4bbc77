"""JMESPath, compiled: the library's results."""

# ruff: noqa: E501

from __future__ import annotations

from typing import Any

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.aggregation.expressions import Expression, ExpressionFailed, holds

EXPRESSIONS = [
    "a", "a.b", "a.b.c", "@", "a[0]", "a[-1]", "a[5]", "a[:2]", "a[::-1]", "a[1:].b", "a[*].b", "a[*].b.c", "a[].b", "a[]",
    "[*]", "[]", "a.*", "*.b", "*", "{x: a, y: b}", "{x: a.b, y: a[0]}.x", "[a, b]", "a[?b == `1`]", "a[?b].c", "a[?b > `0`].b",
    "a[*].{x: b, y: c}", "a[*].[b, c]", "a | b", "a[*].b | [0]", "a || b", "a && b", "!a", "length(a || `[]`)", "keys(a || `{}`)",
    "a[?contains(@.b || `[]`, `1`)]", "sort_by(a[?b].{b: 'x'} || `[]`, &b)", "'literal'", '`{"a": 1}`', "a == b", "a != `1`",
    "a[*][0]", "a[].b[]", "a[*].b[*].c", "@.a", "@ | a.b", "a[0].b.c", '"a"."b"', "a.*.b", "map(&b, a[*] || `[]`)", "a[*].b[0]",
]  # fmt: skip

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "x"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=20,
)


def outcome(evaluate: Any, value: Any) -> Any:
    try:
        return ("ok", evaluate(value))
    except (ExpressionFailed, jmespath.exceptions.JMESPathError, TypeError, ValueError):
        return ("failed", None)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_the_results_are_those_of_the_library(text: str) -> None:
    ours, theirs = Expression(text), jmespath.compile(text)

    @given(VALUES)
    def same(value: Any) -> None:
        assert outcome(ours, value) == outcome(theirs.search, value)

    same()


@pytest.mark.parametrize(
    ("text", "roots"),
    [
        ("user", {"user"}),
        ("user.name", {"user"}),
        ("{u: user, o: orders[:5]}", {"user", "orders"}),
        ("orders[?total > `5`].id | [0]", {"orders"}),
        ("@.user.name", {"user"}),
        ("length(orders[].items[])", {"orders"}),
        ("sort_by(orders, &date)[0]", {"orders"}),
        ("user.vip && query.full == 'yes'", {"user", "query"}),
        ("`[]`", set()),
        ("@", None),
        ("keys(@)", None),
        ("*.name", None),
    ],
)
def test_it_is_known_which_names_an_expression_reads(text: str, roots: set[str] | None) -> None:
    assert Expression(text).roots == roots


@pytest.mark.parametrize("text", ["a[", "a..b", "{a: }", "", "a ] b", "foo(a", "foo(a)"])
def test_an_expression_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Expression(text)


def test_a_function_that_gets_what_it_cannot_take_fails_clearly() -> None:
    with pytest.raises(ExpressionFailed, match="length"):
        Expression("length(a)")({"a": 7})


@pytest.mark.parametrize("text", ["abs(a)", "length(a.b)", "join(',', b)", "max_by(b, &c)", "sum(b)"])
def test_a_failure_says_nothing_of_what_a_service_answered(text: str) -> None:
    with pytest.raises(ExpressionFailed) as caught:
        Expression(text)({"a": "secret-1", "b": ["secret-2", {"c": "secret-3"}, {"c": 1}]})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("lenght(a)", r"there is no function lenght\(\); did you mean length\?"),
        ("a[].{n: sort_by(b, &nosuch(c))}", r"there is no function nosuch"),
        ("abs(a, b)", r"abs\(\) takes 1 argument, and has 2"),
        ("contains(a)", r"contains\(\) takes 2 arguments, and has 1"),
        ("not_null()", r"not_null\(\) takes 1 or more arguments, and has 0"),
    ],
)
def test_a_function_that_there_is_not_is_found_at_load(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Expression(text)


def test_integers_stay_exact() -> None:
    assert Expression("{a: a[0]}")({"a": [2**80 + 1]}) == {"a": 2**80 + 1}


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_what_jmespath_takes_for_false(value: Any) -> None:
    assert not holds(value)


@pytest.mark.parametrize("value", [0, 0.0, True, "x", [None], {"a": None}])
def test_what_jmespath_takes_for_true(value: Any) -> None:
    assert holds(value)
