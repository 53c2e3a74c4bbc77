"""Claims are compared as values, and no two look alike in a header field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.exchange.claims import Wanted, field_value, url_value, words
from apigw.http.fields import is_field_value

TEXTS = st.text(st.sampled_from("a ,%é[{\n\ud83d|2C"), max_size=5) | st.text(max_size=5)


@pytest.mark.parametrize(
    ("wanted", "fits", "fits_not"),
    [
        ("acme", ["acme", ["x", "acme"]], [" acme ", "acme ", [["acme"]], {"acme": 1}, "Acme", None, [], [None]]),
        ("zürich", ["zürich", ["zürich"]], ["z%C3%BCrich", "zurich"]),
        ("z%C3%BCrich", ["z%C3%BCrich"], ["zürich"]),
        ("true", [True, "true", [True]], [1, False, "True"]),
        ("1", [1, "1", 1.0, [1]], [True, "1.0", [[1]]]),
        ("1e3", ["1e3", 1000], ["1000"]),
        ("null", ["null"], [None, [None]]),
        ("*", ["x", 0, False, [0]], [None, []]),
        ('{"a":1}', ['{"a":1}'], [{"a": 1}]),
    ],
)
def test_values_that_fit(wanted: str, fits: list[Any], fits_not: list[Any]) -> None:
    compared = Wanted([wanted, "other"])
    assert [each for each in fits if not compared.fits(each)] == []
    assert [each for each in fits_not if compared.fits(each)] == []


@given(TEXTS | st.lists(TEXTS, min_size=1, max_size=3), TEXTS | st.lists(TEXTS, min_size=1, max_size=3))
def test_no_two_claims_look_alike(one: str | list[str], other: str | list[str]) -> None:
    written = field_value(one)
    assert is_field_value(written)
    assert written == written.strip(b" \t")
    assert written.isascii()
    listed = [[each] if isinstance(each, str) else each for each in (one, other)]
    assert (written == field_value(other)) == (listed[0] == listed[1])


@given(st.lists(TEXTS.filter(bool), max_size=3), st.lists(TEXTS.filter(bool), max_size=3))
def test_no_two_lists_of_scopes_look_alike(one: list[str], other: list[str]) -> None:
    assert (field_value(one, " ") == field_value(other, " ")) == (one == other)


def test_scopes_in_a_string_stay_as_they_are() -> None:
    assert field_value("orders:read orders:write", " ") == b"orders:read orders:write"
    assert field_value(["a b", "c"], " ") == b"a%20b c"


def test_words_are_separated_by_spaces_only() -> None:
    assert words("a  b\u00a0admin\tc") == {"a", "b\u00a0admin\tc"}
    assert words(["a b", 1, ["c"]]) == {"a b"}


def test_in_a_url() -> None:
    def quoted(text: bytes) -> str:
        return text.hex()

    assert url_value(["a", "b"], quoted) == b"61,62"
    assert url_value("a,b", quoted) == b"612c62"
