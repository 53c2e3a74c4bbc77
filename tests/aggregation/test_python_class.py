"""``class = ...``: an aggregate in Python, over the gateway's own treq."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from apigw.aggregation import gather
from apigw.testing.origins import NEVER, Origin, chunked, reply
from tests.gateway.running import request, running, upstream


def configuration(users: Origin, orders: Origin, name: str) -> str:
    return (
        upstream(users.port, "users", "retry.attempts = 1")
        + upstream(orders.port, "orders", "retry.attempts = 1")
        + f"\n[aggregate it]\npath = /it\nmethods = GET, POST\n"
        f"class = tests.aggregation.pages:{name}\ntimeout = 1h\n"
    )


async def two(users: Any, orders: Any) -> tuple[Origin, Origin]:
    return await Origin([users]).start(), await Origin([orders]).start()


ADA_OUT = b'{"name":"Ada"}'
ADA = reply(200, b'{"name": "Ada"}')
ORDERS = reply(200, b"[1, 2, 3]")


async def test_a_coroutine_asks_several_services_at_once(tmp_path: Path) -> None:
    users, orders = await two(ADA, ORDERS)
    async with running(tmp_path, configuration(users, orders, "dashboard")) as gateway:
        response = await gateway.get("/it", ("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01"))
        assert response.status == 200
        assert json.loads(response.body) == {"user": {"name": "Ada"}, "recentOrders": [1, 2]}
        assert users.requests[0].line == b"GET /users/7 HTTP/1.1"
        assert orders.requests[0].line == b"GET /orders?userId=7 HTTP/1.1"
        ids = users.requests[0].values(b"x-request-id") + orders.requests[0].values(b"x-request-id")
        assert len(ids) == 2
        assert len(set(ids)) == 1
        assert users.requests[0].values(b"traceparent") == [b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"]
    await users.stop()
    await orders.stop()


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [("old", 200, ADA_OUT), ("plain", 201, b"hello"), ("echo", 200, ADA_OUT)],
)
async def test_other_forms(tmp_path: Path, name: str, status: int, body: bytes) -> None:
    users, orders = await two(ADA, ORDERS)
    async with running(tmp_path, configuration(users, orders, name)) as gateway:
        response = await gateway.get("/it", method="POST", body=b"x" * 10)
        assert (response.status, response.body) == (status, body)
        if name == "echo":
            assert users.requests[0].body == b'{"size":10}'
    await users.stop()
    await orders.stop()


async def test_a_defect_is_a_500_and_a_fault_has_its_status(tmp_path: Path) -> None:
    users, orders = await two(reply(404, b"{}"), ORDERS)
    for name, status, reason in (("wrong", 500, "internal_error"), ("dashboard", 404, "bad_request")):
        async with running(tmp_path, configuration(users, orders, name)) as gateway:
            response = await gateway.get("/it")
            assert (response.status, json.loads(response.body)["reason"]) == (status, reason)
    await users.stop()
    await orders.stop()


async def test_a_service_that_refuses_is_a_502(tmp_path: Path) -> None:
    users, orders = await two(ADA, ORDERS)
    text = configuration(users, orders, "dashboard")
    await orders.stop()
    async with running(tmp_path, text) as gateway:
        response = await gateway.get("/it")
        assert (response.status, json.loads(response.body)["reason"]) == (502, "upstream_refused")
    await users.stop()


@pytest.mark.parametrize("announced", [True, False])
async def test_an_answer_that_is_too_large_is_a_502(tmp_path: Path, announced: bool) -> None:
    steps: Any = reply(200, b"x" * 50_000) if announced else chunked(b"[1,", b"x" * 50_000)
    users, orders = await two(steps, ORDERS)
    text = configuration(users, orders, "old") + "max_answer = 10KiB\n"
    async with running(tmp_path, text) as gateway:
        response = await gateway.get("/it")
        assert (response.status, json.loads(response.body)["reason"]) == (502, "call_answer_too_large")
    await users.stop()
    await orders.stop()


async def test_when_the_time_is_up_everything_is_cancelled(tmp_path: Path) -> None:
    users, orders = await two(ADA, [NEVER])
    async with running(tmp_path, configuration(users, orders, "dashboard").replace("1h", "500ms")) as gateway:
        response = await gateway.get("/it")
        assert (response.status, json.loads(response.body)["reason"]) == (504, "deadline_exceeded")
        await (await orders.connection()).until_closed()
    await users.stop()
    await orders.stop()


async def test_when_the_client_leaves_everything_is_cancelled(tmp_path: Path) -> None:
    users, orders = await two(ADA, [NEVER])
    async with running(tmp_path, configuration(users, orders, "dashboard")) as gateway:
        client = await gateway.connect()
        client.send(request("/it"))
        await orders.request()
        client.reset()
        await (await orders.connection()).until_closed()
    await users.stop()
    await orders.stop()


async def test_gather_gives_the_results_in_order() -> None:
    late: Deferred[int] = Deferred()

    async def third() -> int:
        return 3

    whole = gather(late, succeed(2), third())
    assert not whole.called
    late.callback(1)
    assert await whole == [1, 2, 3]
    assert await gather() == []


async def test_gather_fails_with_the_first_failure_and_cancels_the_others() -> None:
    cancelled: list[int] = []
    with pytest.raises(KeyError):
        await gather(Deferred(lambda _: cancelled.append(1)), fail(KeyError("x")))
    assert cancelled == [1]


async def test_cancelling_gather_cancels_all() -> None:
    cancelled: list[int] = []
    waiting: list[Deferred[Any]] = [Deferred(lambda _: cancelled.append(1)), Deferred(lambda _: cancelled.append(2))]
    whole = gather(*waiting)
    whole.cancel()
    assert cancelled == [1, 2]
    with pytest.raises(CancelledError):
        await whole
