"""``[batch X]``: several requests in one, each on the way of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apigw.net.turns import TURNS
from apigw.testing.origins import NEVER, Origin, Received, reply
from tests.gateway.running import Gateway, request, running, upstream

JSON = ("Content-Type", "application/json")
CONFIGURATION = """
[api_key keys]
header = X-Key

[consumer shop]
api_key.keys = secret-key-0123456789

[route users]
path = /api/users
strip_prefix = /api
upstream = a

[route orders]
path = /api/orders
strip_prefix = /api
upstream = a
header.X-Tenant = t1

[batch all]
path = /batch
timeout = 1h
max_requests = 5
max_answer = 2KiB
"""


def echo(request: Received) -> bytes:
    """An answer that says what was asked for."""
    said = {"line": request.line.decode(), "id": 7}
    fields = [(b"Content-Type", b"application/json"), (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]
    return reply(200, json.dumps(said).encode(), *fields)


def configuration(port: int) -> str:
    text = CONFIGURATION
    text = text[text.index("[route users]") :]
    return upstream(port, "a", "retry.attempts = 1") + text


async def sent(gateway: Gateway, batch: Any, *fields: tuple[str, str]) -> Any:
    fields = (JSON, ("X-Tenant", "t1"), *fields)
    response = await gateway.get("/batch", *fields, method="POST", body=json.dumps(batch).encode())
    return response.status, json.loads(response.body)


async def test_each_request_finds_its_route_and_may_refer_to_earlier_answers(tmp_path: Path) -> None:
    origin = await Origin([echo]).start()
    async with running(tmp_path, configuration(origin.port)) as gateway:
        status, answers = await sent(
            gateway,
            [
                {"path": "/api/users/1", "query": {"a": "x&y"}},
                {
                    "id": "order",
                    "method": "POST",
                    "path": "/api/orders",
                    "body": {"user": "{$0.id}", "text": "u{$0.id}"},
                },
                {"path": "/api/orders/{$order.id}?q={$order.line}"},
                {"path": "/nowhere"},
            ],
            ("Authorization", "Bearer t"),
        )
        assert status == 200
        assert [answer["status"] for answer in answers] == [200, 200, 200, 404]
        assert answers[0]["body"]["line"] == "GET /users/1?a=x%26y HTTP/1.1"
        (written,) = (each for each in origin.requests if each.line.startswith(b"POST"))
        assert json.loads(written.body) == {"user": 7, "text": "u7"}
        assert answers[2]["body"]["line"] == "GET /orders/7?q=POST%20%2Forders%20HTTP%2F1.1 HTTP/1.1"
        assert answers[3]["body"]["reason"] == "no_route"
        assert answers[0]["reason"] == "OK"
        assert "Set-Cookie" not in answers[0]["headers"]
        for received in origin.requests:
            assert received.values(b"authorization") == [b"Bearer t"]
            assert received.values(b"host") == [f"127.0.0.1:{origin.port}".encode()]
        assert origin.requests[1].values(b"content-type") == [b"application/json"]
        assert origin.requests[0].values(b"content-type") == []
    await origin.stop()


async def test_a_pipeline_as_apisix_has_it(tmp_path: Path) -> None:
    origin = await Origin([echo]).start()
    async with running(tmp_path, configuration(origin.port)) as gateway:
        batch = {
            "query": {"shared": "1"},
            "headers": {"X-Both": "b"},
            "pipeline": [
                {
                    "method": "POST",
                    "path": "/api/users",
                    "query": {"own": 2},
                    "headers": {"X-Own": "o"},
                    "body": "plain text",
                },
                {"path": "/api/users"},
            ],
        }
        status, answers = await sent(gateway, batch)
        assert status == 200
        assert [answer["body"]["line"] for answer in answers] == [
            "POST /users?shared=1&own=2 HTTP/1.1",
            "GET /users?shared=1 HTTP/1.1",
        ]
        assert origin.requests[0].body == b"plain text"
        assert origin.requests[0].values(b"x-own") == [b"o"]
        assert [received.values(b"x-both") for received in origin.requests] == [[b"b"], [b"b"]]
    await origin.stop()


async def test_each_request_goes_through_its_routes_policies(tmp_path: Path) -> None:
    origin = await Origin([echo]).start()
    text = configuration(origin.port) + "\n[ip_filter local]\ndeny = 127.0.0.0/8\n"
    text = text.replace("path = /api/orders\n", "path = /api/orders\npolicies = ip_filter local\n")
    async with running(tmp_path, text) as gateway:
        _, answers = await sent(gateway, [{"path": "/api/orders"}, {"path": "/api/users"}])
        assert [answer["status"] for answer in answers] == [403, 200]
        assert answers[0]["body"]["reason"] == "address_refused"
        gateway.service.accounting.settle()
        route = gateway.service.shared.metrics.route
        assert route("orders").reasons == {"address_refused": 1}
        assert route("users").statuses[b"GET", 200] == 1
        assert len(origin.requests) == 1
    await origin.stop()


async def test_what_does_not_write_runs_at_once_and_a_write_waits(tmp_path: Path) -> None:
    origin = await Origin([[NEVER]]).start()
    async with running(tmp_path, configuration(origin.port)) as gateway:
        client = await gateway.connect()
        batch = [{"path": "/api/users/1"}, {"path": "/api/users/2"}, {"method": "PUT", "path": "/api/users/3"}]
        client.send(request("/batch", JSON, method="POST", body=json.dumps(batch).encode()))
        await origin.request(1)
        assert sorted(each.line for each in origin.requests) == [b"GET /users/1 HTTP/1.1", b"GET /users/2 HTTP/1.1"]
        client.reset()
        for number in (0, 1):
            await (await origin.connection(number)).until_closed()
        assert len(origin.requests) == 2
    await origin.stop()


async def test_one_deadline_holds_for_all(tmp_path: Path) -> None:
    origin = await Origin([lambda received: echo(received) if b"/users/1 " in received.line else [NEVER]]).start()
    async with running(tmp_path, configuration(origin.port).replace("1h", "1s")) as gateway:
        batch = [{"path": "/api/users/1"}, {"path": "/api/users/2"}, {"path": "/api/users/{$1.id}"}]
        status, answers = await sent(gateway, batch)
        assert status == 200
        assert [answer["status"] for answer in answers] == [200, 504, 504]
        assert answers[1]["body"]["reason"] == "deadline_exceeded"
    await origin.stop()


async def test_an_answer_that_is_not_there_fails_what_refers_to_it(tmp_path: Path) -> None:
    origin = await Origin([echo]).start()
    async with running(tmp_path, configuration(origin.port)) as gateway:
        _, answers = await sent(gateway, [{"path": "/api/users/1"}, {"path": "/api/users/{$0.nothing}"}])
        assert [answer["status"] for answer in answers] == [200, 424]
        assert answers[1]["body"]["reason"] == "call_value_missing"
    await origin.stop()


async def test_an_answer_that_is_too_large_is_left_out_and_binary_is_base64(tmp_path: Path) -> None:
    origin = await Origin(
        [lambda received: reply(200, b"x" * 3000 if b"/big" in received.line else b"\xff\x00")]
    ).start()
    async with running(tmp_path, configuration(origin.port)) as gateway:
        _, answers = await sent(gateway, [{"path": "/api/users/big"}, {"path": "/api/users/small"}])
        assert answers[0]["body"]["reason"] == "call_answer_too_large"
        assert answers[1]["body_base64"] == "/wA="
    await origin.stop()


@pytest.mark.parametrize(
    ("batch", "status", "reason"),
    [
        ({}, 400, "batch_invalid"),
        ([], 400, "batch_invalid"),
        ({"pipeline": [{"path": "/a"}], "max_size": 5}, 400, "batch_invalid"),
        ([7], 400, "batch_invalid"),
        ([{}], 400, "batch_invalid"),
        ([{"path": "/a", "methode": "GET"}], 400, "batch_invalid"),
        ([{"path": "/a", "method": "get"}], 400, "batch_invalid"),
        ([{"path": "/a", "method": "TRACE"}], 400, "batch_invalid"),
        ([{"path": "/a", "method": "\ud83d"}], 400, "batch_invalid"),
        ([{"path": "/a", "headers": {"\ud83d": "1"}}], 400, "batch_invalid"),
        ([{"path": "/a", "headers": {"X-A": "\ud83d"}}], 400, "batch_invalid"),
        ([{"path": "/a", "method": "GET /x HTTP/1.1\r\n"}], 400, "batch_invalid"),
        ([{"path": "no/slash"}], 400, "batch_invalid"),
        ([{"path": "/a b"}], 400, "batch_invalid"),
        ([{"path": "/a\r\nX: y"}], 400, "batch_invalid"),
        ([{"path": "/../admin"}], 400, "batch_invalid"),
        ([{"path": "/a", "headers": {"X": "a\r\nY: b"}}], 400, "batch_invalid"),
        ([{"path": "/a", "headers": {"X Y": "a"}}], 400, "batch_invalid"),
        ([{"path": "/a", "headers": {"Transfer-Encoding": "chunked"}}], 400, "batch_invalid"),
        ([{"path": "/a", "headers": {"X-Forwarded-For": "1.2.3.4"}}], 400, "batch_invalid"),
        ([{"path": "/a", "headers": {"Host": "other"}}], 400, "batch_invalid"),
        ([{"path": "/a/{$0.id}"}], 400, "batch_invalid"),
        ([{"path": "/a/{$later.id}"}, {"path": "/b", "id": "later"}], 400, "batch_invalid"),
        ([{"path": "/a", "id": "x"}, {"path": "/b", "id": "x"}], 400, "batch_invalid"),
        ([{"path": "/a"}] * 6, 413, "batch_too_many"),
    ],
)
async def test_a_batch_that_is_none_is_refused(tmp_path: Path, batch: Any, status: int, reason: str) -> None:
    origin = await Origin([echo]).start()
    async with running(tmp_path, configuration(origin.port)) as gateway:
        assert (await sent(gateway, batch))[0] == status
        assert (await sent(gateway, batch))[1]["reason"] == reason
        assert origin.requests == []
    await origin.stop()


async def test_a_request_is_no_larger_than_listeners_take(tmp_path: Path) -> None:
    origin = await Origin([echo]).start()
    batch = [
        {"path": "/api/users/" + "a" * 9000},
        {"path": "/api/users/1?a=" + "b" * 9000},
        {"path": "/api/users/1", "query": {"a": "b" * 9000}},
        {"path": "/api/users/1", "headers": {f"X-{number}": "1" for number in range(101)}},
        {"path": "/api/users/1", "headers": {"X-A": "a" * 40_000}},
    ]
    async with running(tmp_path, configuration(origin.port)) as gateway:
        status, answers = await sent(gateway, batch)
        assert status == 200
        assert [each["status"] for each in answers] == [414, 414, 414, 431, 431]
        assert [each["body"]["reason"] for each in answers[3:]] == ["too_many_headers", "head_too_large"]
        assert origin.requests == []
        many = [{"path": "/api/users/1", "headers": {f"X-{number}": "1" for number in range(300)}}]
        assert (await sent(gateway, many))[0] == 400
        listen = "[listen public]\nendpoint = tcp:0:interface=127.0.0.1\nmax_target = 10KiB\nmax_headers = 200\n"
        larger = configuration(origin.port).replace("max_answer = 2KiB", "max_answer = 20KiB")
        await gateway.reload(larger + listen + "max_head = 64KiB\n")
        status, answers = await sent(gateway, batch)
        assert [each["status"] for each in answers] == [200] * 5
    await origin.stop()


async def test_others_have_their_turn_between_the_requests_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[object] = []
    monkeypatch.setattr("apigw.aggregation.batch.TURN", -1.0)
    wait = TURNS.wait

    def noted(each: Any) -> None:
        waited.append(each)
        wait(each)

    monkeypatch.setattr(TURNS, "wait", noted)
    origin = await Origin([echo]).start()
    async with running(tmp_path, configuration(origin.port)) as gateway:
        batch = [{"path": "/nowhere"}, {"path": "/api/users/1"}, {"path": "/nowhere"}]
        status, answers = await sent(gateway, batch)
        assert (status, [each["status"] for each in answers]) == (200, [404, 200, 404])
        assert len([each for each in waited if type(each).__name__ == "_Work"]) >= 2
    await origin.stop()


async def test_each_request_has_its_own_line_in_the_access_log_with_the_batchs_id(tmp_path: Path) -> None:
    origin = await Origin([echo]).start()
    async with running(tmp_path, configuration(origin.port)) as gateway:
        batch = [{"path": "/api/users/1?a=b"}, {"path": "/nowhere"}, {"path": "/api/users/{$0.none}"}]
        await sent(gateway, batch, ("X-Request-Id", "from-outside"))
        lines = gateway.logged()
        assert [(line["route"], line["path"], line["status"]) for line in lines] == [
            ("", "/nowhere", 404),
            ("users", "/api/users/1", 200),
            ("all", "/batch", 200),
        ]
        outer = lines[2]["id"]
        assert [line["id"] for line in lines] == [f"{outer}-1", f"{outer}-0", outer]
        assert lines[0]["reason"] == "no_route"
        assert (lines[1]["upstream"], lines[1]["query"]) == ("a", "a=b")
        assert lines[1]["bytes_out"] == len(json.dumps({"line": "GET /users/1?a=b HTTP/1.1", "id": 7}))
        assert origin.requests[0].values(b"x-request-id") == [f"{outer}-0".encode()]
    await origin.stop()


async def test_when_the_client_leaves_each_request_in_flight_is_logged_as_such(tmp_path: Path) -> None:
    origin = await Origin([[NEVER]]).start()
    async with running(tmp_path, configuration(origin.port)) as gateway:
        client = await gateway.connect()
        client.send(request("/batch", JSON, method="POST", body=b'[{"path": "/api/users/1"}]'))
        await origin.request(0)
        client.reset()
        await (await origin.connection(0)).until_closed()
        lines = gateway.logged()
        assert sorted((line["route"], line["status"]) for line in lines) == [("all", 499), ("users", 499)]
        gateway.service.accounting.settle()
        assert gateway.service.shared.metrics.route("users").reasons == {"client_gone": 1}
    await origin.stop()


async def test_a_batch_may_have_less_time_than_is_allowed(tmp_path: Path) -> None:
    origin = await Origin([[NEVER]]).start()
    async with running(tmp_path, configuration(origin.port)) as gateway:
        pipeline = [{"version": 1.1, "ssl_verify": False, "method": "GET", "path": "/api/users/1"}]
        status, answers = await sent(gateway, {"timeout": 50, "pipeline": pipeline})
        assert (status, answers[0]["status"]) == (200, 504)
        for timeout in (0, -5, "5", True, 0.5):
            assert (await sent(gateway, {"timeout": timeout, "pipeline": pipeline}))[1]["reason"] == "batch_invalid"
    await origin.stop()


async def test_writes_go_one_after_the_other_in_their_order_whatever_is_between(tmp_path: Path) -> None:
    origin = await Origin([echo]).start()
    async with running(
        tmp_path, configuration(origin.port).replace("max_requests = 5", "max_requests = 200")
    ) as gateway:
        batch = [{"method": "GET" if number % 3 else "PUT", "path": f"/api/users/{number}"} for number in range(200)]
        _, answers = await sent(gateway, batch)
        assert [answer["status"] for answer in answers] == [200] * 200
        places = {each.line: place for place, each in enumerate(origin.requests)}
        for number in range(0, 200, 3):
            place = places[b"PUT /users/%d HTTP/1.1" % number]
            assert place == number
    await origin.stop()


async def test_a_batch_has_no_batches_within_it(tmp_path: Path) -> None:
    origin = await Origin([echo]).start()
    async with running(tmp_path, configuration(origin.port)) as gateway:
        _, answers = await sent(gateway, [{"method": "POST", "path": "/batch", "body": [{"path": "/api/users"}]}])
        assert answers[0]["body"]["reason"] == "batch_nested"
        assert origin.requests == []
    await origin.stop()


async def test_large_bodies_are_filled_in_and_answers_do_not_multiply_without_end(tmp_path: Path) -> None:
    big = json.dumps({"text": "x" * 150_000, "id": 7}).encode()
    origin = await Origin(
        [
            lambda asked: reply(
                200, big if asked.line.startswith(b"GET") else b"", (b"Content-Type", b"application/json")
            )
        ]
    ).start()
    more = configuration(origin.port).replace("max_answer = 2KiB", "max_answer = 1MiB")
    async with running(tmp_path, more) as gateway:
        many = [{"id": n, "from": "{$0.id}" if n % 10 == 0 else n} for n in range(5000)]
        status, answers = await sent(
            gateway,
            [
                {"path": "/api/users"},
                {"path": "/api/orders", "method": "POST", "body": many},
                {"path": "/api/orders", "method": "POST", "body": ["{$0}"] * 5},
                {"path": "/api/orders", "method": "POST", "body": ["{$0.text}"] * 8},
                {"path": "/api/orders", "method": "POST", "body": "{$0.text}" * 8},
            ],
        )
        assert status == 200
        assert [answer["status"] for answer in answers] == [200, 200, 200, 413, 413]
        posts = [json.loads(each.body) for each in origin.requests if each.line.startswith(b"POST")]
        assert posts[0] == [{"id": n, "from": 7 if n % 10 == 0 else n} for n in range(5000)]
        assert posts[1] == [json.loads(big)] * 5
        assert len(posts) == 2
        too_many = [{"path": "/api/users"}, {"path": "/api/users", "method": "POST", "body": ["{$0.id}"] * 1001}]
        assert (await sent(gateway, too_many))[0] == 400
        divided = [{"path": "/api/users", "method": "POST", "body": ["{$0.id}"] * 501} for _ in range(2)]
        assert (await sent(gateway, [{"path": "/api/users"}, *divided]))[0] == 400
    await origin.stop()
