"""The examples of docs/aggregation.md are true."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import jwt
import pytest

from apigw.aggregation.settings import AggregateSettings, BatchSettings, CallSettings
from apigw.gateway.catalogue import load
from apigw.testing.origins import Origin, reply
from tests.aggregation.services import UPSTREAMS
from tests.gateway.running import running, upstream

MANUAL = (Path(__file__).parents[2] / "docs" / "aggregation.md").read_text()
SECRET = "demo-secret-demo-secret-demo-secret!"
JWT = f"\n[jwt main]\nalgorithms = HS256\nsecret = {SECRET}\n"
EXAMPLES: list[str] = re.findall(r"```ini\n(.*?)```", MANUAL, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_a_configuration(tmp_path: Path, example: str) -> None:
    (tmp_path / "gw.ini").write_text(UPSTREAMS + JWT + example.replace("mypkg.pages", "tests.aggregation.pages"))
    load(str(tmp_path / "gw.ini"))


async def test_the_dashboard_answers_what_is_said(tmp_path: Path) -> None:
    expected = re.findall(r"```json\n(.*?)```", MANUAL, re.DOTALL)[0].strip()
    users = await Origin([reply(200, b'{"id": 7, "name": "Ada"}')]).start()
    orders = await Origin([reply(200, json.dumps([{"id": number} for number in range(1, 8)]).encode())]).start()
    products = await Origin([reply(503)]).start()
    text = JWT + textwrap.dedent(EXAMPLES[0])
    for name, origin in (("users", users), ("orders", orders), ("products", products)):
        text += upstream(origin.port, name)
    assert len(EXAMPLES[0].strip().splitlines()) == 12
    async with running(tmp_path, text) as gateway:
        token = jwt.encode({"sub": "7"}, SECRET, "HS256")
        response = await gateway.get("/api/dashboard", ("Authorization", f"Bearer {token}"))
        assert response.body.decode() == expected
        assert response.value(b"apigw-missing") == b"recommendations"
        assert users.requests[0].line == b"GET /users/7 HTTP/1.1"
        assert orders.requests[0].line == b"GET /orders?userId=7 HTTP/1.1"
        assert (await gateway.get("/api/dashboard")).status == 401
    for origin in (users, orders, products):
        await origin.stop()


def _example(part: str) -> str:
    return next(example for example in EXAMPLES if part in example)


async def test_the_order_in_full_asks_what_is_said_in_that_order(tmp_path: Path) -> None:
    items = [{"productId": 5}, {"productId": 6}, {"productId": 5}]
    orders = await Origin([reply(200, json.dumps({"userId": 7, "items": items}).encode())]).start()
    users = await Origin([reply(200, b'{"name": "Ada"}')]).start()
    products = await Origin([reply(200, b'{"id": 5, "name": "lamp", "price": 3}')] * 2).start()
    text = _example("[aggregate order]")
    for name, origin in (("users", users), ("orders", orders), ("products", products)):
        text += upstream(origin.port, name)
    async with running(tmp_path, text) as gateway:
        response = await gateway.get("/api/orders/3/full")
        lamp = {"id": 5, "name": "lamp"}
        answer = json.loads(response.body)
        assert (answer["customer"], answer["products"], answer["reviews"]) == ({"name": "Ada"}, [lamp] * 3, [])
        assert orders.requests[0].line == b"GET /orders/3 HTTP/1.1"
        assert users.requests[0].line == b"GET /users/7 HTTP/1.1"
        lines = sorted(each.line for each in products.requests)
        assert lines == [b"GET /products/5 HTTP/1.1", b"GET /products/6 HTTP/1.1"]
    for origin in (users, orders, products):
        await origin.stop()


async def test_the_checkout_takes_back_what_was_done(tmp_path: Path) -> None:
    orders = await Origin([reply(201, b'{"id": 9, "total": 19.5}'), reply(204)]).start()
    users = await Origin([reply(201, b'{"id": 4}'), reply(200, b"{}")]).start()
    products = await Origin([reply(409)]).start()
    text = JWT + _example("[aggregate checkout]")
    for name, origin in (("users", users), ("orders", orders), ("products", products)):
        text += upstream(origin.port, name)
    async with running(tmp_path, text) as gateway:
        token = "Bearer " + jwt.encode({"sub": "7"}, SECRET, "HS256")
        fields = ("Authorization", token), ("Content-Type", "application/json")
        response = await gateway.get("/api/checkout", *fields, method="POST", body=b'{"items": [1]}')
        calls = json.loads(response.body)["calls"]
        assert (response.status, calls["order"]["undo"], calls["payment"]["undo"]) == (409, "undone", "undone")
        assert [(each.line.split(b" HTTP")[0], each.body) for each in users.requests] == [
            (b"POST /payments", b'{"order":9,"amount":19.5}'),
            (b"POST /refunds", b'{"payment":4}'),
        ]
        assert [each.line for each in orders.requests] == [b"POST /orders HTTP/1.1", b"DELETE /orders/9 HTTP/1.1"]
        assert orders.requests[0].body == b'{"user":"7","items":[1]}'
    for origin in (users, orders, products):
        await origin.stop()


def test_every_option_is_in_the_manual() -> None:
    known = {*AggregateSettings.model_fields, *BatchSettings.model_fields}
    as_in_a_route = {"path", "hosts", "methods", "header", "query", "priority", "policies", "auth", "class_"}
    as_in_a_route.add("allow_encoded_slashes")
    known -= as_in_a_route | {"call", "undo"}
    assert [name for name in known if name not in MANUAL] == []
    assert [name for name in CallSettings.model_fields if name != "request" and name not in MANUAL] == []
