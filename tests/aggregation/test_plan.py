"""Mistakes of an aggregate: all of them, each at its line."""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path

import pytest

from tests.aggregation.services import mistakes


def test_a_circle_is_told_with_its_way(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        """
        call.a = users GET /a/{c.id}
        call.b = users GET /b/{a.id}
        call.c = users GET /c/{b.id}
        """,
    )
    assert found == [
        "1 call.a: the calls wait for each other: a -> c -> b -> a; expected an order in which they can run"
    ]


def test_writes_that_need_a_later_write_are_a_circle(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "call.a = users POST /a/{b.id}\ncall.b = users POST /b\n")
    assert found == ["1 call.a: the calls wait for each other: a -> b -> a; expected an order in which they can run"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("call.user = users GET /{usr.id}\n", ["1 call.user: {usr.id} refers to nothing; did you mean user?"]),
        ("call.user = users GET /{jtw.sub}\n", ["1 call.user: {jtw.sub} refers to nothing; did you mean jwt?"]),
        ("call.user = users GET /{jwt}\n", ["1 call.user: {jwt} names no value; expected {jwt.NAME}"]),
        ("call.user = users GET /{item.id}\n", ["1 call.user: {item} stands for an item of foreach, and there is none; expected call.user.foreach = JMESPath"]),
        ("call.user = users GET /{consumer.group}\n", ["1 call.user: {consumer.group} refers to nothing; expected {consumer.name}"]),
        ("call.user = users GET /\nresponse = {u: usr}\n", ["2 response: `usr` is neither a call nor part of the request; did you mean user?"]),
        ("call.user = users GET /\nresponse = {u: user\n", None),
        ("call.user = usres GET /\n", ["1 call.user: there is no upstream `usres`; did you mean users?"]),
        ("call.user = users GET\n", None),
        ("call.user = users get /\n", None),
        ("call.user = users GET users\n", None),
        ("call.user = users GET /{bad ref}\n", None),
        ("call.jwt = users GET /\n", ["1 call.jwt: `jwt` stands for something else in templates; expected another name"]),
        ("call.user-x = users GET /\n", ["1 call.user-x: `user-x` can't be a call's name; expected letters, digits and _"]),
        ("call.user = users GET /\ncall.user.default = []\n", ["2 call.user.default: the call is not optional, so its default is never taken; expected call.user.optional = yes"]),
        ("call.user = users GET /\ncall.user.concurrency = 3\n", ["2 call.user.concurrency: only calls with foreach run more than once"]),
        ("call.user = users POST /\ncall.user.cache = 3s\n", ["2 call.user.cache: the answer to POST can't be kept"]),
        ("call.user = users POST /\nundo.usr = users DELETE /\n", ["2 undo.usr: there is no call usr; did you mean user?"]),
        ("call.user = users GET /\nundo.user = users DELETE /\n", ["2 undo.user: GET does nothing that could be undone"]),
        ("call.user = users GET /\nmerge = deep\nresponse = user\n", ["2 merge: `response` makes the answer, so merge does nothing; expected one of them"]),
        ("call.user = users GET /\nclash = first\n", ["2 clash: only merge = shallow and merge = deep have clashes"]),
        ("call.user = users GET /\nstream = sse\nresponse = user\n", None),
        ("call.user = users GET /\ncall.user.when = usr.vip\n", ["2 call.user.when: `usr` is neither a call nor part of the request; did you mean user?"]),
        ("call.user = users GET /\ncall.user.headers = Content-Length: 5\n", None),
        ("call.user = users GET /\ncall.user.body = hello\n", None),
        ("call.user = users GET /\npartial_status = 207\n", ["2 partial_status: `207` is neither 200 nor 206; expected 200 or 206"]),
        ("call.a = users GET /\ncall.b = users GET /\nmax_calls = 1\n", ["3 max_calls: there are 2 calls; expected at least as many"]),
        ("call.a = users GET /\nforward_headers = Accept-Encoding\n", ["2 forward_headers: Accept-Encoding can't go on: it is set anew; expected other fields"]),
        ("call.a = users GET /\npass_headers = Content-Length\n", ["2 pass_headers: Content-Length can't go on: it is set anew; expected other fields"]),
        ("timeout = 3s\n", None),
        ("call.a = users GET /\nclass = json:dumps\n", None),
        ("class = json:nothing\n", None),
    ],
)  # fmt: skip
def test_each_mistake_is_told_at_its_line(tmp_path: Path, options: str, expected: list[str] | None) -> None:
    found = mistakes(tmp_path, options)
    if expected is None:
        assert len(found) == 1, found
        assert found[0].startswith(f"{options.count(chr(10))} ") or found[0].startswith("-1 "), found
    else:
        assert found == expected


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "call.user = users GET /{x.y}\ncall.orders = orders GET /{y.z}\nresponse = nobody\n")
    assert [line[:2] for line in found] == ["1 ", "2 ", "3 "]


def test_an_aggregate_without_mistakes_is_well(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "call.user = users GET /{jwt.sub}\nresponse = {u: user, who: jwt.sub}\n") == []
