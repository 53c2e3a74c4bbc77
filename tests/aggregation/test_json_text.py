"""JSON: exact integers, limited depth."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.aggregation.json_text import InvalidJson, decode, encode

TEXTS = st.text(st.sampled_from('[]{}"\\a'), max_size=6)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=30,
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@pytest.mark.parametrize("number", [0, -1, 2**63, 2**64, -(2**63) - 1, 10**40 + 1])
def test_integers_of_any_size_come_out_as_they_went_in(number: int) -> None:
    assert encode(decode(b"[%d]" % number, 4)) == b"[%d]" % number


@given(VALUES, st.integers(1, 5))
def test_what_is_deeper_is_refused_and_nothing_else(value: Any, most: int) -> None:
    text = json.dumps(value).encode()
    if depth(value) > most:
        with pytest.raises(InvalidJson, match="deeper"):
            decode(text, most)
    else:
        assert decode(text, most) == value


@pytest.mark.parametrize("string", [b'"]"', b'"\\"]"', b'"[", "]]"'])
def test_brackets_within_texts_do_not_hide_the_depth(string: bytes) -> None:
    opposite = string.translate(bytes.maketrans(b"[]", b"]["))
    for depth_of_it, most in ((9, 9), (9, 8)):
        text = (b"[" + string + b",") * 8 + b"[]" + (b"," + opposite + b"]") * 8
        if depth_of_it > most:
            with pytest.raises(InvalidJson, match="deeper"):
                decode(text, most)
        else:
            decode(text, most)


@pytest.mark.parametrize(
    "text",
    [b"", b" ", b"NaN", b"{'a': 1}", b"[1,]", b"<html>", b'"\xff"', b"1e999", b"[" * 100000, b'{"a": 1} x', b"[" * 70],
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidJson):
        decode(text, 64)


def test_what_json_has_no_form_for_is_an_error() -> None:
    with pytest.raises(ValueError):
        encode({"a": object()})


def test_a_byte_order_mark_is_passed_over() -> None:
    assert decode(b'\xef\xbb\xbf{"a": 1}', 5) == {"a": 1}
