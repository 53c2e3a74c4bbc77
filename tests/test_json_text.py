"""The gateway's JSON: what is taken, what is refused, and that writing never fails for text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.json_text import InvalidJSON, TooManyValues, read, read_exactly, show, write, write_any

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
    assert write(read(b"[%d]" % number)) == b"[%d]" % number


@given(VALUES, st.integers(1, 5))
def test_what_is_deeper_is_refused_and_nothing_else(value: Any, most: int) -> None:
    text = json.dumps(value).encode()
    if depth(value) > most:
        with pytest.raises(InvalidJSON, match="deeper"):
            read(text, depth=most)
    else:
        assert read(text, depth=most) == value


@pytest.mark.parametrize("string", [b'"]"', b'"\\"]"', b'"[", "]]"'])
def test_brackets_within_texts_do_not_hide_the_depth(string: bytes) -> None:
    opposite = string.translate(bytes.maketrans(b"[]", b"]["))
    for depth_of_it, most in ((9, 9), (9, 8)):
        text = (b"[" + string + b",") * 8 + b"[]" + (b"," + opposite + b"]") * 8
        if depth_of_it > most:
            with pytest.raises(InvalidJSON, match="deeper"):
                read(text, depth=most)
        else:
            read(text, depth=most)


@pytest.mark.parametrize(
    "text",
    [b"", b" ", b"NaN", b"{'a': 1}", b"[1,]", b"<html>", b'"\xff"', b"1e999", b"[" * 100000, b'{"a": 1} x', b"[" * 70],
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidJSON):
        read(text, depth=64)


def test_what_json_has_no_form_for_is_an_error() -> None:
    with pytest.raises(ValueError):
        write({"a": object()})


def test_a_byte_order_mark_is_passed_over() -> None:
    assert read(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


LONE = {"\ud83d": ["a\udc00", "\ude00\ud83d", "\U0001f600"]}


def test_half_of_a_surrogate_pair_comes_out_as_it_went_in() -> None:
    text = json.dumps(LONE, separators=(",", ":")).encode()
    for unique in (False, True):
        assert read(text, unique=unique) == LONE
    assert read_exactly(text) == (LONE, False)
    assert json.loads(write(LONE)) == LONE
    assert write(LONE).startswith(b'{"\\ud83d":["a\\udc00"')
    assert json.loads(write_any({"a": LONE, 1: b"x"})) == {"a": LONE, "1": "b'x'"}
    assert json.loads(show(LONE)) == LONE


@pytest.mark.parametrize(
    "text",
    [
        *(b"1e999", b"[-1e400000]", b"NaN", b"[Infinity]", b"-Infinity", b"1" * 4301, b'"\xff"', b'"\xed\xa0\x80"'),
        *('{"a": 1}'.encode("utf-16"), '{"a": 1}'.encode("utf-16-le"), '"a"'.encode("utf-32"), b'"\x01"', b"\x0c1"),
        *(
            b"[" * 257 + b"]" * 257,
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"[" + b"{}," * 170_000 + b"1]",
            b"1" * 1001,
            b"1" * 2000 + b".5",
        ),
    ],
)
@pytest.mark.parametrize("lone", [b"", b', "\\ud83d"'])
def test_every_reader_refuses_the_same(text: bytes, lone: bytes) -> None:
    if lone:
        text = b"[" + text + lone + b"]"
    for reader in (read, lambda data: read(data, unique=True), read_exactly):
        with pytest.raises(InvalidJSON):
            reader(text)


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        (b'{"a": 1, "b": {"a": 1}}', False),
        (b'{"a": 1, "b": {"c": [{"d": 1, "d": 2}]}}', True),
        (b'{"a": 1, "\\u0061": 2}', True),
        (b'{"\\"": 1, "\\\\": "\\\\\\"", "\\\\\\"": 3}', False),
        (b'{"\\\\": 1, "\\u005c": 2}', True),
        (b'{"\\ud83d": 1, "\\ud83e": 2}', False),
        (b'{"\\ud83d": 1, "\\uD83D": 2}', True),
    ],
)
def test_a_name_that_is_there_twice(text: bytes, twice: bool) -> None:
    for padded in (text, text + b" " * 2000):  # two ways to find out
        assert read(padded) == json.loads(text)
        for reader in (read, read_exactly):
            if twice:
                with pytest.raises(InvalidJSON, match="same name twice"):
                    reader(padded, unique=True)
            else:
                reader(padded, unique=True)


@given(VALUES)
def test_reading_for_unique_names_takes_what_has_none_twice(value: Any) -> None:
    text = json.dumps(value).encode() + b" " * 2000
    assert read(text, unique=True) == value


def test_the_number_of_values_is_bounded() -> None:
    assert len(read(b"[" + b"1," * 169_998 + b"1]")) == 169_999
    with pytest.raises(TooManyValues):
        read(b"[" + b"1," * 170_000 + b"1]")
    with pytest.raises(TooManyValues):
        read(b"{" + b",".join(b'"%d":1' % number for number in range(85_001)) + b"}")
    assert len(read(b'["' + b"1" * 5000 + b'"]')[0]) == 5000
    assert read(b'"' + b"[1,]" * 100_000 + b'"') == "[1,]" * 100_000
    with pytest.raises(TooManyValues):
        read(b'["a,b", 1]', most=1)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_are_written_as_null(number: float) -> None:
    assert write({"a": number}) == b'{"a":null}'
    assert write([number, "\ud83d"]) == b'[null,"\\ud83d"]'
    assert json.loads(show({"a": [number], 1: "b"})) == {"a": [None], "1": "b"}


def test_a_string_without_an_end_is_looked_through_once() -> None:
    """By backtracking it would take minutes."""
    for end in (b"", b"\\", b'"'):
        with pytest.raises(InvalidJSON):
            read(b"[" * 100 + b'"' + b'\\"[' * 60_000 + end, depth=64)
