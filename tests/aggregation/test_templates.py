"""Templates: values stay what they are, and where they are."""

from __future__ import annotations

import json
import re
from typing import Any
from unicodedata import normalize
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.aggregation.templates import BATCH_REFERENCE, BodyTemplate, HeaderTemplate, PathTemplate, ValueFault, filling

NASTY = st.one_of(
    st.text(),
    st.text("/.\\?#%&=;:@ +\r\n\0\"'{}[],<>|é\u2028"),
    st.sampled_from(
        [
            "%c0%ae",
            "%252e%252e",
            "\uff0e\uff0e",
            "\uff0f",
            "\u2025",
            "%2f",
            "%5c..",
            ".%2e",
            ";",
            "..",
            ".",
            "../..",
            "a/../b",
            "..;x",
            "%2e%2e",
            "a\r\nX: y",
            "\0",
            'a"b',
            "a?b#c",
            "",
            "a b",
            "💥",
        ]
    ),
)


def test_a_value_is_percent_encoded_where_it_stands() -> None:
    template = PathTemplate("/users/{query.id}/orders?page={query.page}&q={query.q|all}")
    values = {"query": {"id": "a b?c", "page": "1&admin=1/.."}}
    assert template.fill(values) == (b"/users/a%20b%3Fc/orders", b"page=1%26admin%3D1%2F..&q=all")


@pytest.mark.parametrize(
    ("value", "written"),
    [("x", b"x"), (7, b"7"), (12345678901234567890123, b"12345678901234567890123"), (1.5, b"1.5"), (True, b"true")],
)
def test_numbers_and_booleans_are_written_as_json_writes_them(value: Any, written: bytes) -> None:
    assert PathTemplate("/x/{user.id}").fill({"user": {"id": value}}) == (b"/x/" + written, None)


def test_a_field_of_an_item_of_an_answer() -> None:
    values = {"orders": [{"items": [{"sku": "a"}, {"sku": "b"}]}]}
    assert PathTemplate("/p/{orders[0].items[-1].sku}").fill(values)[0] == b"/p/b"


def test_a_claim_with_other_signs_stands_in_quotes() -> None:
    values = {"jwt": {"https://x.example/role": "boss"}}
    assert PathTemplate('/r/{jwt."https://x.example/role"}?a=1').fill(values) == (b"/r/boss", b"a=1")


def test_a_list_in_a_query_becomes_its_items() -> None:
    assert PathTemplate("/p?ids={user.ids}").fill({"user": {"ids": ["a,b", 2]}}) == (b"/p", b"ids=a%2Cb,2")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("..", "is `.` or `..`"),
        (".", "is `.` or `..`"),
        ("../admin", "is `.` or `..`"),
        ("a/../b", "is `.` or `..`"),
        ("..;x", "is `.` or `..`"),
        ("..\\x", "is `.` or `..`"),
        ("%2e%2e", "is `.` or `..`"),
        ("%252e%252E", "is `.` or `..`"),
        ("\uff0e\uff0e", "is `.` or `..`"),
        ("\u2025", "is `.` or `..`"),
        (".. ", "is `.` or `..`"),
        ("a%2F..", "is `.` or `..`"),
        ("a\\..", "is `.` or `..`"),
        ("a\uff0f..", "is `.` or `..`"),
        ("/", "is empty"),
        ("/a", "is empty"),
        ("%2Fa", "is empty"),
        (";x", "is empty"),
        (" ", "is empty"),
        ("%00", "control character"),
        ("%250d", "control character"),
        ("%c0%ae%c0%ae", "no text"),
        ("", "is empty"),
        ("a\0", "control character"),
        ("a\r\nb", "control character"),
        ({"a": 1}, "is no text or number"),
        (None, "has no value"),
        ("\ud800", "UTF-8"),
    ],
)
def test_what_could_change_a_path_is_refused(value: Any, what: str) -> None:
    with pytest.raises(ValueFault, match=what) as caught:
        PathTemplate("/users/{query.id}/x").fill({"query": {"id": value}})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("value", "sent"),
    [("a b/c", b"a%20b%2Fc"), ("a\\b", b"a%5Cb"), ("a%2Fb", b"a%252Fb"), ("https://x/", b"https%3A%2F%2Fx%2F")],
)
def test_slashes_are_sent_percent_encoded(value: str, sent: bytes) -> None:
    filled = PathTemplate("/files/{path.rest}/{path.n}").fill({"path": {"rest": value, "n": "7"}})
    assert filled == (b"/files/" + sent + b"/7", None)


def test_a_value_within_quotes_can_not_end_them() -> None:
    template = HeaderTemplate('x={query.a}, name="{query.a}"; y={query.a}')
    assert template.fill({"query": {"a": 'b"\\'}}) == b'x=b"\\, name="b\\"\\\\"; y=b"\\'


def test_dots_that_two_values_make_together_are_refused() -> None:
    with pytest.raises(ValueFault):
        PathTemplate("/x/{query.a}{query.b}").fill({"query": {"a": ".", "b": "."}})


def test_what_is_missing_in_an_answer_is_the_services_fault() -> None:
    with pytest.raises(ValueFault, match=r"\{user.id\} has no value") as caught:
        PathTemplate("/x/{user.id}").fill({"user": {}})
    assert (caught.value.status, caught.value.reason) == (502, "call_value_missing")


def test_json_keeps_types_outside_of_quotes_and_has_text_within_them() -> None:
    template = BodyTemplate('{"id": {body.id}, "text": "{body.id}", "all": {body}, "say": "no {body.n} of {x y}"}')
    filled = json.loads(template.fill({"body": {"id": 12345678901234567890123, "n": True}}))
    assert filled == {
        "id": 12345678901234567890123,
        "text": "12345678901234567890123",
        "all": {"id": 12345678901234567890123, "n": True},
        "say": "no true of {x y}",
    }


def test_a_default_has_a_type_in_json_where_values_have_one() -> None:
    text = '[{body.a|0}, {body.a|[]}, {body.a|text}, {body.a|"7"}, {body.a|null}, {query.a|1}, "{body.a|1.10}"]'
    assert BodyTemplate(text).fill({}) == b'[0,[],"text","7",null,"1","1.10"]'
    assert PathTemplate("/x/{body.a|1.10}?q={body.a|007}").fill({}) == (b"/x/1.10", b"q=007")


def test_null_is_a_value_in_json() -> None:
    assert BodyTemplate("{body.x}").fill({"body": {"x": None}}) == b"null"


@pytest.mark.parametrize("text", ["{", "hello", '{"a": }', "<a>{body.x}</a>", '{"a": {body.x}'])
def test_content_that_is_neither_json_nor_a_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        BodyTemplate(text)


@pytest.mark.parametrize(
    "text",
    ["/50%", "/a%zz", "/a?b=%4", "x", "{query.x}", "/a b", "/a#b", "/a/../b", "/{query x}", "/a/{query.x", "http://x/"],
)
def test_a_path_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        PathTemplate(text)


@given(NASTY, NASTY)
def test_no_value_changes_the_shape_of_a_path_or_query(first: str, second: str) -> None:
    template = PathTemplate("/users/{query.a}/orders/{query.b}?x={query.a}&y={query.b}")
    try:
        path, query = template.fill({"query": {"a": first, "b": second}})
    except ValueFault:
        return
    assert query is not None
    segments = path.decode("ascii").split("/")
    assert [unquote(each) for each in segments] == ["", "users", first, "orders", second]
    assert "" not in segments[1:]
    # A service that decodes before it looks, decodes twice, or makes full-width signs plain, is not led out of them.
    for reading in (unquote(path.decode()), unquote(unquote(path.decode())), normalize("NFKC", unquote(path.decode()))):
        seen = [each.partition(";")[0] for each in reading.replace("\\", "/").split("/")]
        assert not {".", ".."} & set(seen[1:])
        assert seen[:2] == ["", "users"]
        assert seen[2]
    assert not {0, 10, 13} & set(unquote_to_bytes(unquote_to_bytes(path)))
    assert not any(overlong in unquote_to_bytes(unquote_to_bytes(path)) for overlong in (b"\xc0\xae", b"\xc0\xaf"))
    assert parse_qsl(query.decode("ascii"), keep_blank_values=True) == [("x", first), ("y", second)]


@given(NASTY)
def test_no_value_changes_the_shape_of_a_header(value: str) -> None:
    try:
        filled = HeaderTemplate("Bearer {query.a}").fill({"query": {"a": value}})
    except ValueFault:
        return
    assert filled == b"Bearer " + value.encode()
    assert not set(filled) & {0, 10, 13}


@given(NASTY)
def test_no_value_ends_a_quoted_text_in_a_header(value: str) -> None:
    try:
        filled = HeaderTemplate('a="{query.a}", b="c"').fill({"query": {"a": value}}).decode()
    except ValueFault:
        return
    found = re.fullmatch(r'a="((?:[^"\\]|\\.)*)", b="c"', filled)
    assert found is not None
    assert re.sub(r"\\(.)", r"\1", found[1]) == value


@given(NASTY, NASTY)
def test_no_value_changes_the_shape_of_json_or_a_form(first: str, second: str) -> None:
    values = {"query": {"a": first, "b": second}}
    try:
        written = BodyTemplate('{"a": {query.a}, "b": ["x{query.b}y"]}').fill(values)
        form = BodyTemplate("a={query.a}&b={query.b}").fill(values)
    except (ValueFault, ValueError):
        assert any(0xD800 <= ord(sign) < 0xE000 for sign in first + second)
        return
    assert json.loads(written) == {"a": first, "b": [f"x{second}y"]}
    assert parse_qsl(form.decode("ascii"), keep_blank_values=True) == [("a", first), ("b", second)]


@given(NASTY)
def test_a_batchs_own_braces_mean_nothing(value: str) -> None:
    fill = filling({"a": value, "b": "{$0.x}", "c": "id {$0.x}"}, [], BATCH_REFERENCE)
    filled = fill({"$0": {"x": 7}})
    assert filled["b"] == 7
    assert filled["c"] == "id 7"
    if "{$" not in value:
        assert filled["a"] == value
