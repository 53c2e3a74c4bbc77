"""Mistakes of an aggregate: all of them, each at its line."""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path

import pytest

from apigw.gateway.catalogue import load
from tests.aggregation.services import UPSTREAMS, mistakes


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
        ("call.user = users GTE /\n", ["1 call.user: there is no method `GTE`; expected UPSTREAM METHOD PATH, such as users GET /users/{jwt.sub}; did you mean GET?"]),
        ("call.user = users CONNECT /\n", None),
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
        ("call.a = users GET /{path.nr}\n", ["1 call.a: `path` has no {nr}; expected path = .../{nr}"]),
        ("call.a = users GET /\nresponse = {n: path.nr}\n", ["2 response: `path` has no {nr}; expected path = .../{nr}"]),
        ("call.a = users GET /50%\n", None),
        ("call.a = users GET /\nresponse = lenght(a)\n", ["2 response: `lenght(a)`: there is no function lenght(); did you mean length?; expected a JMESPath expression"]),
        ("call.a = users GET /\ncall.a.select = abs(@, @)\n", ["2 call.a.select: `abs(@, @)`: abs() takes 1 argument, and has 2; expected a JMESPath expression"]),
        ("call.a = users GET /\ncall.a.when = header.\"X-Beta\" == 'yes'\n", ["2 call.a.when: X-Beta finds nothing: here names of fields are in small letters; expected x-beta"]),
        ("call.a = users GET /\nmerge = deep\ncall.a.optional = yes\ncall.a.default = []\n", ["4 call.a.default: merge = deep takes objects alone, and its default is no object; expected merge = namespace"]),
        ("call.a = users GET /{item}\nmerge = shallow\ncall.a.foreach = body.ids\n", ["3 call.a.foreach: merge = shallow takes objects alone, and foreach gives a list; expected merge = namespace"]),
        ("call.a = users GET /\nstream = sse\npartial_status = 206\n", ["3 partial_status: a stream has each call's answer by itself, so partial_status does nothing"]),
        ("class = json:dumps\nmax_calls = 5\n", ["1 class: `class` does all by itself, so max_calls does nothing; expected one of them"]),
        ("timeout = 3s\n", None),
        ("call.a = users GET /\nclass = json:dumps\n", None),
        ("class = json:nothing\n", None),
        ("class = json:dumps\n", ["1 class: `json:dumps` does not take two arguments; expected def page(request, client)"]),
    ],
)  # fmt: skip
def test_each_mistake_is_told_at_its_line(tmp_path: Path, options: str, expected: list[str] | None) -> None:
    found = mistakes(tmp_path, options)
    if expected is None:
        assert len(found) == 1, found
        assert found[0].startswith(f"{options.count(chr(10))} ") or found[0].startswith("-1 "), found
    else:
        assert found == expected


def test_what_is_known_of_a_caller_that_no_policy_knows_is_warned_of(tmp_path: Path) -> None:
    text = UPSTREAMS + "[aggregate it]\npath = /it\ncall.user = users GET /{jwt.sub}\n"
    for more, warned in (
        ("", True),
        ("policies = jwt main\n[jwt main]\nsecret = 0123456789abcdef0123456789abcdef\n", False),
    ):
        (tmp_path / "gw.ini").write_text(text + more)
        warnings = [str(each) for each in load(str(tmp_path / "gw.ini")).warnings]
        assert any("no policy says who the caller is, so `jwt` has no values" in each for each in warnings) is warned


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "call.user = users GET /{x.y}\ncall.orders = orders GET /{y.z}\nresponse = nobody\n")
    assert [line[:2] for line in found] == ["1 ", "2 ", "3 "]


def test_an_aggregate_without_mistakes_is_well(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "call.user = users GET /{jwt.sub}\nresponse = {u: user, who: jwt.sub}\n") == []
