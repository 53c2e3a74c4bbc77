"""What an aggregate asks, when, and what it makes of the answers."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from apigw.exchange.errors import UpstreamFault
from tests.aggregation.services import Stage

DASHBOARD = """
timeout = 3s
call.user = users GET /users/{jwt.sub}
call.orders = orders GET /orders?userId={jwt.sub}
call.recommendations = products GET /products/recommendations
call.recommendations.optional = yes
call.recommendations.default = []
response = {user: user, recentOrders: orders[:5], recommendations: recommendations}
"""


def test_the_dashboard(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DASHBOARD)
    client = stage.ask(claims={"sub": "u 7"})
    assert stage.lines == ["GET /users/u%207", "GET /orders?userId=u%207", "GET /products/recommendations"]
    stage[2].answer([{"id": 1}])
    stage[0].answer({"name": "Ada"})
    assert client.responses == []
    stage[1].answer([{"id": number} for number in range(9)])
    assert client.status == 200
    assert client.field(b"content-type") == b"application/json"
    assert client.field(b"apigw-completed") == b"true"
    assert client.field(b"apigw-missing") is None
    assert client.response.body == (
        b'{"user":{"name":"Ada"},"recentOrders":[{"id":0},{"id":1},{"id":2},{"id":3},{"id":4}],"recommendations":[{"id":1}]}'
    )
    assert stage.at_rest


def test_calls_that_need_nothing_are_all_in_flight_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DASHBOARD)
    stage.ask(claims={"sub": "1"})
    assert len(stage.asked) == 3  # and none of them is answered


def test_a_chain_runs_in_its_order_and_what_can_run_beside_it_does(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path,
        """
        call.c = users GET /c/{b.id}
        call.b = users GET /b/{a.id}
        call.a = users GET /a
        call.d = users GET /d
        """,
    )
    client = stage.ask()
    assert stage.lines == ["GET /a", "GET /d"]
    stage[0].answer({"id": 1})
    assert stage.lines[2:] == ["GET /b/1"]
    stage[2].answer({"id": 2})
    assert stage.lines[3:] == ["GET /c/2"]
    stage[3].answer({"id": 3})
    stage[1].answer("d")
    assert list(client.json) == ["c", "b", "a", "d"]


def test_templates_know_all_of_the_request(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path,
        """
        methods = POST
        call.x = users POST /{path.id}/{query.q}/{consumer.name}/{jwt.realm.roles[1]}/{header.x-tenant}
        call.x.headers = X-Name: {body.name}, X-Fixed: a b
        call.x.body = {"n": {body.n}, "deep": "{body.list[0].x}"}
        """,
    )
    client = stage.ask(
        "POST",
        b"q=a%26b&q=second",
        (b"X-Tenant", b"t1"),
        body=b'{"name": "Ada", "n": 98765432109876543210, "list": [{"x": 1}]}',
        claims={"realm": {"roles": ["a", "b"]}},
        captures={"id": "i d"},
        consumer="shop",
    )
    assert stage.lines == ["POST /i%20d/a%26b/shop/b/t1"]
    assert (stage[0].field(b"x-name"), stage[0].field(b"x-fixed")) == ("Ada", "a b")
    assert stage[0].field(b"content-type") == "application/json"
    assert stage[0].content == b'{"n":98765432109876543210,"deep":"1"}'
    stage[0].answer(None, 204)
    assert client.json == {"x": None}


def test_a_header_cannot_be_injected_by_a_value(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.x = users GET /\ncall.x.headers = X-Name: {query.name}\n")
    client = stage.ask("GET", b"name=a%0d%0aX-Admin:%20yes")
    assert stage.asked == []
    assert (client.status, client.json["reason"]) == (400, "call_value_refused")
    assert client.json["detail"] == "x: {query.name} has a control character, which can't stand in a header"


@pytest.mark.parametrize(
    ("claims", "query", "status", "detail"),
    [
        (None, b"a=1", 400, "x: {jwt.sub} has no value"),
        ({"sub": None}, b"a=1", 400, "x: {jwt.sub} has no value"),
        ({"sub": "1"}, None, 400, "x: {query.a} has no value"),
        ({"sub": ["1"]}, b"a=1", 400, "x: {jwt.sub} is no text or number"),
    ],
)
def test_a_value_that_is_missing_fails_the_call_clearly(
    tmp_path: Path, claims: Any, query: bytes, status: int, detail: str
) -> None:
    stage = Stage(tmp_path, "call.x = users GET /{jwt.sub}/{query.a}\n")
    client = stage.ask("GET", query, claims=claims)
    assert (client.status, client.json["detail"]) == (status, detail)
    assert stage.at_rest


def test_text_that_cannot_be_written_fails_the_call(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.x = users GET /{jwt.sub}\n")
    client = stage.ask(claims={"sub": "\ud800"})
    assert client.json["reason"] == "call_value_refused"
    assert stage.asked == []
    assert stage.at_rest


def test_half_of_a_surrogate_pair_goes_on_in_json(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 'call.x = users POST /\ncall.x.body = {"a": {jwt.sub}}\n')
    stage.ask(claims={"sub": "\ud800"})
    assert stage[0].content == b'{"a":"\\ud800"}'


def test_the_clients_id_and_trace_go_to_each_call(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DASHBOARD + "forward_headers = Accept-Language\n")
    trace = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    stage.ask(
        "GET",
        None,
        trace,
        (b"tracestate", b"a=1"),
        (b"Accept-Language", b"de"),
        (b"Cookie", b"s=1"),
        claims={"sub": "1"},
    )
    for asked in stage.asked:
        assert asked.request.id == b"id-1"
        assert asked.field(b"traceparent") == trace[1].decode()
        assert asked.field(b"tracestate") == "a=1"
        assert asked.field(b"accept-language") == "de"
        assert asked.field(b"cookie") is None
        assert asked.field(b"accept") == "application/json"
        assert asked.request.headers.get(b"accept-language") == b"de"


def test_a_field_of_the_calls_own_takes_the_place_of_the_clients(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path,
        "call.a = users GET /\ncall.a.headers = authorization: service\ncall.b = users GET /\n"
        "forward_headers = Authorization\n",
    )
    stage.ask("GET", None, (b"Authorization", b"client"))
    assert [stage[0].field(b"authorization"), stage[1].field(b"authorization")] == ["service", "client"]
    assert (stage[0].request.lines or b"").lower().count(b"authorization") == 1


def test_a_call_is_made_only_when_its_condition_holds(tmp_path: Path) -> None:
    options = """
    call.user = users GET /me
    call.offers = products GET /offers
    call.offers.when = user.vip && query.full == 'yes'
    call.offers.default = "none"
    """
    for query, vip, made in ((b"full=yes", True, True), (b"full=no", True, False), (None, False, False)):
        stage = Stage(tmp_path, options)
        client = stage.ask("GET", query)
        stage[0].answer({"vip": vip})
        if made:
            stage[1].answer("some")
        assert client.json["offers"] == ("some" if made else "none")
        assert client.field(b"apigw-completed") == b"true"


FOREACH = """
call.orders = orders GET /orders
call.products = products GET /products/{item}
call.products.foreach = orders[].product
call.products.concurrency = 2
call.products.select = name
response = products
"""


def test_foreach_asks_the_same_once_and_keeps_the_order(tmp_path: Path) -> None:
    stage = Stage(tmp_path, FOREACH)
    client = stage.ask()
    stage[0].answer([{"product": number} for number in (3, 1, 3, 2, 1)])
    assert stage.lines[1:] == ["GET /products/3", "GET /products/1"]  # two at once
    stage[2].answer({"name": "one"})
    assert stage.lines[3:] == ["GET /products/2"]
    stage[3].answer({"name": "two"})
    stage[1].answer({"name": "three"})
    assert client.json == ["three", "one", "three", "two", "one"]
    assert stage.at_rest


def test_foreach_over_nothing_is_an_empty_list(tmp_path: Path) -> None:
    stage = Stage(tmp_path, FOREACH)
    client = stage.ask()
    stage[0].answer([])
    assert client.json == []


def test_an_item_that_fails_gets_the_default_if_the_call_is_optional(tmp_path: Path) -> None:
    stage = Stage(tmp_path, FOREACH + 'call.products.optional = yes\ncall.products.default = "?"\n')
    client = stage.ask()
    stage[0].answer([{"product": 1}, {"product": {"no": "name"}}, {"product": 2}])
    stage[1].answer({}, 404)
    stage[2].answer({"name": "two"})
    assert client.json == ["?", "?", "two"]
    assert client.field(b"apigw-missing") == b"products"


def test_an_item_that_fails_fails_a_required_call_and_cancels_the_rest(tmp_path: Path) -> None:
    stage = Stage(tmp_path, FOREACH)
    client = stage.ask()
    stage[0].answer([{"product": 1}, {"product": 2}, {"product": 3}])
    stage[1].answer({}, 500)
    assert client.status == 502
    assert stage[2].cancelled
    assert len(stage.asked) == 3
    assert stage.at_rest


def test_foreach_cannot_make_more_calls_than_are_allowed(tmp_path: Path) -> None:
    stage = Stage(tmp_path, FOREACH + "max_calls = 4\n")
    client = stage.ask()
    stage[0].answer([{"product": number} for number in range(4)])
    assert (client.status, client.json["reason"]) == (502, "call_too_many")
    assert len(stage.asked) == 1


def test_foreach_asks_again_for_each_item_if_it_writes(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.x = users POST /{item}\ncall.x.foreach = body\n")
    client = stage.ask("POST", body=b"[1, 2, 1]")
    for asked in stage.asked:
        asked.answer(asked.line)
    assert client.json == {"x": ["POST /1", "POST /2", "POST /1"]}


@pytest.mark.parametrize("items", [b"[" + b"7," * 10_000 + b"7]", json.dumps([*range(60)] * 150).encode()])
def test_foreach_has_a_limit_for_items_and_one_for_requests(tmp_path: Path, items: bytes) -> None:
    stage = Stage(tmp_path, "call.x = users GET /{item}\ncall.x.foreach = body\n")
    client = stage.ask("GET", body=items)
    assert (client.status, client.json["reason"]) == (400, "call_too_many")
    assert stage.asked == []
    assert stage.at_rest


def test_no_item_is_asked_for_after_the_deadline(tmp_path: Path) -> None:
    options = "call.x = users GET /{item}\ncall.x.foreach = body\ncall.x.concurrency = 2\ncall.x.optional = yes\n"
    stage = Stage(tmp_path, options + "timeout = 1s\n")
    client = stage.ask("GET", body=b"[1, 2, 3, 4, 5]")
    stage.pass_time(1.1)
    assert client.json == {"x": [None] * 5}
    assert [(asked.line, asked.cancelled) for asked in stage.asked] == [("GET /1", True), ("GET /2", True)]
    assert stage.at_rest


@pytest.mark.parametrize(
    ("options", "body"),
    [
        ("call.x = users GET /{item.id}\ncall.x.foreach = body.items\n", b'{"items": [{}]}'),
        ("call.x = users GET /{item.id}\ncall.x.foreach = body.items\n", b'{"items": 7}'),
        ("call.x = users GET /\ncall.x.when = length(body.items) > `1`\n", b'{"items": 7}'),
    ],
)
def test_content_that_a_call_can_not_use_is_the_clients_fault(tmp_path: Path, options: str, body: bytes) -> None:
    client = Stage(tmp_path, options).ask("GET", body=body)
    assert client.status == 400
    assert client.outcomes == {"x": "failed"}


def test_items_of_an_answer_that_a_call_can_not_use_are_the_services_fault(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /\ncall.x = users GET /{item.id}\ncall.x.foreach = a\n")
    client = stage.ask()
    stage[0].answer([{}])
    assert client.status == 502


def test_select_takes_a_part_of_an_answer(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.x = users GET /\ncall.x.select = items[?n > `1`].n\n")
    client = stage.ask()
    stage[0].answer({"items": [{"n": 1}, {"n": 2}, {"n": 3}]})
    assert client.json == {"x": [2, 3]}


def test_statuses_that_are_expected_are_answers(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.x = users GET /\ncall.x.expect = 200, 404\n")
    client = stage.ask()
    stage[0].answer({"error": "unknown"}, 404)
    assert (client.status, client.json) == (200, {"x": {"error": "unknown"}})


def test_an_answer_is_kept_for_the_same_request(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.x = users GET /{query.a}\ncall.x.cache = 30s\n")
    stage.ask("GET", b"a=1")
    stage[0].answer({"n": 1}, 200, (b"Cache-Control", b"max-age=60"))
    stage.now += 10
    again = stage.ask("GET", b"a=1")
    assert again.json == {"x": {"n": 1}}
    assert again.field(b"cache-control") == b"max-age=50"
    stage.ask("GET", b"a=2")
    assert len(stage.asked) == 2
    stage.now += 21
    stage.ask("GET", b"a=1")
    assert len(stage.asked) == 3


@pytest.mark.parametrize(
    "fields",
    [
        ((b"Set-Cookie", b"sid=1"),),
        ((b"Cache-Control", b"max-age=60, Private"),),
        ((b"Cache-Control", b"no-store"),),
        ((b"Vary", b"Accept, *"),),
    ],
)
def test_an_answer_for_one_caller_is_not_kept(tmp_path: Path, fields: Any) -> None:
    stage = Stage(tmp_path, "call.x = users GET /\ncall.x.cache = 30s\n")
    stage.ask()
    second = stage.ask()
    assert len(stage.asked) == 1
    stage[0].answer({"n": 1}, 200, *fields)
    assert len(stage.asked) == 2
    assert second.responses == []
    stage[1].answer({"n": 2})
    assert second.json == {"x": {"n": 2}}
    assert second.field(b"set-cookie") is None
    assert stage.at_rest


def test_the_same_request_is_made_once_for_all_who_want_it_at_the_same_time(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.x = users GET /{query.a}\ncall.x.cache = 30s\ncall.x.select = n\n")
    clients = [stage.ask("GET", b"a=1") for _ in range(3)]
    other = stage.ask("GET", b"a=2")
    assert stage.lines == ["GET /1", "GET /2"]
    stage[0].answer({"n": [1]})
    assert [client.json for client in clients] == [{"x": [1]}] * 3
    stage[1].answer({"n": [2]})
    assert other.json == {"x": [2]}
    assert stage.at_rest


@pytest.mark.parametrize("how", ["leaves", "fails", "late"])
def test_those_that_wait_for_anothers_request_ask_themselves_if_it_comes_to_nothing(tmp_path: Path, how: str) -> None:
    stage = Stage(tmp_path, "call.x = users GET /\ncall.x.cache = 30s\ntimeout = 3s\n")
    first = stage.ask()
    stage.pass_time(2)
    waiting, gone = stage.ask(), stage.ask()
    gone.request.cancel()
    assert len(stage.asked) == 1
    if how == "leaves":
        first.request.cancel()
    elif how == "fails":
        stage[0].answer({}, 500)
    else:
        stage.pass_time(1.5)
        assert first.status == 504
    assert len(stage.asked) == 2
    stage[1].answer({"n": 1})
    assert waiting.json == {"x": {"n": 1}}
    assert gone.responses == []
    assert stage.at_rest


def test_who_waits_for_anothers_request_has_a_time_limit_as_well(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.x = users GET /\ncall.x.cache = 30s\ncall.x.timeout = 1s\n")
    first = stage.ask()
    stage.pass_time(0.5)
    second = stage.ask()
    stage.pass_time(0.6)
    assert first.status == 504
    stage.pass_time(0.6)
    assert second.status == 504
    assert [each.cancelled for each in stage.asked] == [True, True]
    assert stage.at_rest


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.x = users GET /\ncall.x.cache = 30s\n")
    stage.ask()
    stage[0].answer({}, 500)
    stage.ask()
    assert len(stage.asked) == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"a": {"x": 1, "o": {"p": 1}}, "b": {"x": 2, "o": {"q": 2}}, "c": None}),
        ("merge = shallow\n", {"x": 2, "o": {"q": 2}}),
        ("merge = shallow\nclash = first\n", {"x": 1, "o": {"p": 1}}),
        ("merge = deep\n", {"x": 2, "o": {"p": 1, "q": 2}}),
        ("merge = deep\nclash = first\n", {"x": 1, "o": {"p": 1, "q": 2}}),
        ("merge = concat\n", [{"x": 1, "o": {"p": 1}}, {"x": 2, "o": {"q": 2}}]),
    ],
)
def test_answers_are_merged_in_written_order_whoever_is_first(tmp_path: Path, options: str, expected: Any) -> None:
    stage = Stage(
        tmp_path,
        "call.a = users GET /a\ncall.b = users GET /b\ncall.c = users GET /c\ncall.c.optional = yes\n" + options,
    )
    client = stage.ask()
    stage[1].answer({"x": 2, "o": {"q": 2}})
    stage[2].answer({}, 404)
    stage[0].answer({"x": 1, "o": {"p": 1}})
    assert client.json == expected
    assert list(client.json) == list(expected)


def test_a_clash_can_be_an_error(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\ncall.b = users GET /b\nmerge = deep\nclash = error\n")
    client = stage.ask()
    stage[0].answer({"o": {"x": 1}})
    stage[1].answer({"o": {"x": 2}})
    assert (client.status, client.json["reason"], client.json["detail"]) == (
        502,
        "aggregate_clash",
        "b has a member that an earlier answer has, too",
    )


def test_lists_are_concatenated(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\ncall.b = users GET /b\nmerge = concat\n")
    client = stage.ask()
    stage[1].answer([3, 4])
    stage[0].answer([1, 2])
    assert client.json == [1, 2, 3, 4]


def test_what_is_no_object_cannot_be_merged(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\nmerge = shallow\n")
    client = stage.ask()
    stage[0].answer([1])
    assert (client.status, client.json["reason"]) == (502, "aggregate_not_mergeable")


def test_a_response_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\nresponse = length(a)\n")
    client = stage.ask()
    stage[0].answer(7)
    assert (client.status, client.json["reason"]) == (502, "aggregate_not_shapeable")


def test_big_integers_stay_exact(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\ncall.b = users GET /b/{a.id}\nresponse = a\n")
    client = stage.ask()
    stage[0].answer(b'{"id": 123456789012345678901234567890}')
    assert stage.lines[1] == "GET /b/123456789012345678901234567890"
    stage[1].answer()
    assert client.response.body == b'{"id":123456789012345678901234567890}'


# ---- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((None, None), None),
        ((b"max-age=60", b"max-age=10"), b"max-age=10"),
        ((b"public, max-age=60", b"public, max-age=10"), b"public, max-age=10"),
        ((b"public, max-age=60", b"private, max-age=100"), b"private, max-age=60"),
        ((b"max-age=60", b"no-store"), b"no-store"),
        ((b"max-age=60", b"no-cache"), b"no-cache"),
        ((b"max-age=60", None), b"no-cache, max-age=60"),
        ((b"max-age=60, must-revalidate", b"max-age=60"), b"must-revalidate, max-age=60"),
        ((b"max-age=60, s-maxage=600", b"max-age=100"), b"max-age=60, s-maxage=100"),
        ((b'private="x", max-age=9', b"max-age=9"), b"private, max-age=9"),
    ],
)
def test_cache_control_is_the_strictest_of_the_parts(tmp_path: Path, parts: Any, expected: bytes) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\ncall.b = users GET /b\n")
    client = stage.ask()
    for asked, part in zip(stage.asked, parts, strict=True):
        asked.answer({}, 200, *([(b"Cache-Control", part)] if part else []))
    assert client.field(b"cache-control") == expected


def test_what_a_part_has_spent_in_caches_is_no_longer_fresh(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\n")
    client = stage.ask()
    stage[0].answer({}, 200, (b"Cache-Control", b"max-age=60"), (b"Age", b"45"))
    assert client.field(b"cache-control") == b"max-age=15"


def test_an_answer_for_one_caller_is_private_and_a_partial_one_is_not_kept(tmp_path: Path) -> None:
    options = "call.a = users GET /{jwt.sub}\ncall.b = users GET /b\ncall.b.optional = yes\n"
    for status, expected in ((200, b"private, max-age=60"), (500, b"no-store")):
        stage = Stage(tmp_path, options)
        client = stage.ask(claims={"sub": "1"})
        stage[0].answer({}, 200, (b"Cache-Control", b"public, max-age=60"))
        stage[1].answer({}, status, (b"Cache-Control", b"public, max-age=60"))
        assert client.field(b"cache-control") == expected


def test_cookies_are_all_kept_and_chosen_headers_pass(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\ncall.b = users GET /b\npass_headers = X-Total, X-Shop\n")
    client = stage.ask()
    stage[1].answer({}, 200, (b"Set-Cookie", b"b=1"), (b"X-Total", b"2"), (b"X-Shop", b"s"), (b"X-Other", b"o"))
    stage[0].answer({}, 200, (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"c=1"), (b"X-Total", b"1"))
    headers = client.response.headers
    assert headers.get_all(b"set-cookie") == [b"a=1", b"c=1", b"b=1"]
    assert headers.get_all(b"x-total") == [b"1"]
    assert headers.get(b"x-shop") == b"s"
    assert b"x-other" not in headers


def test_server_timing_has_an_entry_a_call(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\ncall.b = users GET /b\ncall.b.optional = yes\n")
    client = stage.ask()
    stage.now += 0.25
    stage[0].answer({})
    stage.now += 0.25
    stage[1].answer({}, 404)
    assert client.field(b"server-timing") == b'a;dur=250.0, b;dur=500.0;desc="failed"'


def test_vary_names_the_fields_that_the_answer_depends_on(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /{header.x-tenant}\nforward_headers = Accept-Language\n")
    client = stage.ask("GET", None, (b"X-Tenant", b"t"))
    stage[0].answer({})
    assert client.field(b"vary") == b"Accept-Language, x-tenant"


@pytest.mark.parametrize(
    ("options", "vary"),
    [
        ("call.a = users GET /\ncall.a.when = header.\"x-beta\" == 'yes'\n", b"x-beta"),
        ('call.a = users GET /{header.X-Beta}\nresponse = {a: a, l: header."x-beta"}\n', b"x-beta"),
        ("call.a = users GET /\nresponse = {a: a, h: header}\n", b"*"),
        ("call.a = users GET /\nresponse = @\n", b"*"),
        ("call.a = users GET /\nresponse = a[].header.x\n", None),
    ],
)
def test_vary_names_the_fields_that_expressions_read(tmp_path: Path, options: str, vary: bytes | None) -> None:
    stage = Stage(tmp_path, options)
    client = stage.ask("GET", None, (b"X-Beta", b"yes"))
    stage[0].answer([])
    assert client.field(b"vary") == vary


def test_a_failing_expression_says_nothing_of_the_answer(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path, "call.a = users GET /\ncall.b = users GET /\ncall.b.select = abs(@)\nresponse = {n: abs(a)}\n"
    )
    client = stage.ask()
    stage[0].answer("secret")
    stage[1].answer("secret")
    assert client.status == 502
    assert "secret" not in str(client.json)
    assert client.json["detail"] == "b: `select` failed: abs() takes number, and got string"


# ---- failure ---------------------------------------------------------------------------------------------------------


def test_a_required_call_that_fails_cancels_the_others_and_says_what_became_of_all(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DASHBOARD)
    client = stage.ask(claims={"sub": "1"})
    stage[2].answer([])
    stage[0].answer({"secret": "of the service"}, 500)
    assert stage[1].cancelled
    assert client.status == 502
    document = client.json
    assert (document["reason"], document["detail"]) == ("call_unexpected_status", "user: the service answered 500")
    assert client.outcomes == {"user": "failed", "orders": "cancelled", "recommendations": "ok"}
    assert document["calls"]["user"] == {
        "outcome": "failed", "status": 500, "reason": "call_unexpected_status", "detail": "the service answered 500",
    }  # fmt: skip
    assert b"secret" not in client.response.body  # type: ignore[operator]
    assert client.field(b"apigw-completed") == b"false"
    assert client.field(b"apigw-missing") == b"user, orders"
    assert client.field(b"cache-control") == b"no-store"
    assert client.request.reason == "call_unexpected_status"
    stage[1].answer({})  # too late: nobody listens
    assert len(client.responses) == 1
    assert stage.at_rest


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UpstreamFault("refused", reason="upstream_refused"), 502),
        (UpstreamFault("late", status=504, reason="upstream_timeout"), 504),
        (UpstreamFault("open", status=503, reason="circuit_open", headers=((b"Retry-After", b"5"),)), 503),
    ],
)
def test_the_status_says_the_cause(tmp_path: Path, error: UpstreamFault, status: int) -> None:
    stage = Stage(tmp_path, DASHBOARD)
    client = stage.ask(claims={"sub": "1"})
    stage[1].fail(error)
    assert (client.status, client.json["reason"]) == (status, error.reason)
    assert client.field(b"retry-after") == (b"5" if status == 503 else None)


@pytest.mark.parametrize("status", [200, 206])
def test_an_optional_call_that_fails_gives_its_default(tmp_path: Path, status: int) -> None:
    stage = Stage(tmp_path, DASHBOARD + f"partial_status = {status}\n")
    client = stage.ask(claims={"sub": "1"})
    stage[2].fail(UpstreamFault("refused", reason="upstream_refused"))
    stage[0].answer({})
    stage[1].answer([])
    assert client.status == status
    assert client.json == {"user": {}, "recentOrders": [], "recommendations": []}
    assert (client.field(b"apigw-completed"), client.field(b"apigw-missing")) == (b"false", b"recommendations")
    assert client.request.notes == {"missing": ["recommendations"]}


def test_what_an_optional_call_would_have_said_is_missing_for_those_that_need_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\ncall.a.optional = yes\ncall.b = users GET /{a.id}\n")
    client = stage.ask()
    stage[0].answer({}, 500)
    assert (client.status, client.json["reason"]) == (502, "call_value_missing")


def test_one_deadline_holds_for_all(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DASHBOARD)
    client = stage.ask(claims={"sub": "1"})
    stage[0].answer({})
    stage.pass_time(2.9)
    assert client.responses == []
    stage.pass_time(0.2)
    assert (client.status, client.json["reason"]) == (504, "deadline_exceeded")
    assert stage[1].cancelled
    assert stage[2].cancelled
    assert stage.at_rest


def test_at_the_deadline_an_answer_is_given_if_only_optional_calls_are_missing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DASHBOARD)
    client = stage.ask(claims={"sub": "1"})
    stage[0].answer({})
    stage[1].answer([1])
    stage.pass_time(3.1)
    assert client.json == {"user": {}, "recentOrders": [1], "recommendations": []}
    assert client.field(b"apigw-missing") == b"recommendations"
    assert stage[2].cancelled
    assert stage.at_rest


def test_a_call_has_a_time_limit_of_its_own(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DASHBOARD + "call.recommendations.timeout = 200ms\n")
    client = stage.ask(claims={"sub": "1"})
    stage.pass_time(0.3)
    assert stage[2].cancelled
    stage[0].answer({})
    stage[1].answer([])
    assert client.json["recommendations"] == []
    assert stage.at_rest


def test_a_client_that_goes_away_cancels_all(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DASHBOARD)
    client = stage.ask(claims={"sub": "1"})
    stage[0].answer({})
    client.request.cancel()
    assert stage[1].cancelled
    assert stage[2].cancelled
    assert client.responses == []
    assert stage.at_rest


def test_a_client_that_goes_away_cancels_an_answer_that_is_half_there(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\n")
    client = stage.ask()
    body = stage[0].stream()
    body.feed(b"[1,")
    client.request.cancel()
    body.feed(b"2]")
    body.end()
    assert client.responses == []
    assert stage.at_rest


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        (b"gzip", gzip.compress),
        (b"gzip", lambda data: gzip.compress(data[:3]) + gzip.compress(data[3:])),
        (b"deflate", zlib.compress),
        (b"deflate", lambda data: zlib.compress(data)[2:-4]),
    ],
)
def test_compressed_answers_are_read(tmp_path: Path, coding: bytes, pack: Any) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\n")
    client = stage.ask()
    assert stage[0].field(b"accept-encoding") == "gzip"
    stage[0].answer(pack(b'{"x": 1}'), 200, (b"Content-Encoding", coding))
    assert client.json == {"a": {"x": 1}}


def test_what_unpacks_to_more_than_is_allowed_is_too_large(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\nmax_answer = 10KiB\n")
    client = stage.ask()
    stage[0].answer(gzip.compress(json.dumps("x" * 10_000_000).encode()), 200, (b"Content-Encoding", b"gzip"))
    assert (client.status, client.json["reason"]) == (502, "call_answer_too_large")


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"<html>no json</html>", ()),
        (b"[" * 65 + b"]" * 65, ()),
        (b'"\xff"', ()),
        (b"{}", ((b"Content-Encoding", b"br"),)),
        (b"not gzip", ((b"Content-Encoding", b"gzip"),)),
        (gzip.compress(b"{}")[:-3], ((b"Content-Encoding", b"gzip"),)),
    ],
)
def test_an_answer_that_cannot_be_read_is_a_failure(tmp_path: Path, data: bytes, fields: Any) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\n")
    client = stage.ask()
    stage[0].answer(data, 200, *fields)
    assert (client.status, client.json["reason"]) == (502, "call_invalid_answer")
    assert b"html" not in client.response.body  # type: ignore[operator]


def test_text_is_taken_as_text_if_that_is_said(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\ncall.a.answer = text\n")
    client = stage.ask()
    stage[0].answer("grün".encode("latin-1"), 200, (b"Content-Type", b"text/plain; charset=iso-8859-1"))
    assert client.json == {"a": "grün"}


@pytest.mark.parametrize("announced", [True, False])
def test_an_answer_that_is_too_large_is_cut_off(tmp_path: Path, announced: bool) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\nmax_answer = 1KiB\n")
    client = stage.ask()
    body = stage[0].stream(2000 if announced else None)
    if not announced:
        body.feed(b"x" * 600)
        assert client.responses == []
        body.feed(b"x" * 600)
    assert (client.status, client.json["reason"]) == (502, "call_answer_too_large")
    assert stage[0].cancelled


def test_all_answers_together_have_a_limit(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\ncall.b = users GET /b\nmax_answers = 1KiB\n")
    client = stage.ask()
    stage[0].answer("x" * 600)
    stage[1].answer("x" * 600)
    assert (client.status, client.json["reason"]) == (502, "call_answer_too_large")


def test_an_answer_that_breaks_off_is_a_failure(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.a = users GET /a\n")
    client = stage.ask()
    body = stage[0].stream()
    body.feed(b"[1, ")
    body.fail(UpstreamFault("broke off", reason="upstream_aborted"))
    assert (client.status, client.json["reason"]) == (502, "upstream_aborted")


# ---- the client's content --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"{", b"[" * 100 + b"]" * 100, b"\xff"])
def test_content_that_is_no_json_is_the_clients_fault(tmp_path: Path, body: bytes) -> None:
    stage = Stage(tmp_path, "methods = POST\ncall.a = users POST /a\ncall.a.body = {body}\n")
    client = stage.ask("POST", body=body)
    assert (client.status, client.json["reason"]) == (400, "invalid_json")
    assert stage.asked == []


def test_content_that_is_too_long_is_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "methods = POST\ncall.a = users POST /a\ncall.a.body = {body}\nmax_body = 100\n")
    client = stage.ask("POST", body=b'"' + b"x" * 200 + b'"')
    assert client.status == 413


def test_content_that_nothing_asks_for_may_be_anything(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "methods = POST\ncall.a = users GET /a\n")
    client = stage.ask("POST", body=b"not json")
    stage[0].answer(1)
    assert client.json == {"a": 1}
