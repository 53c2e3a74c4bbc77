"""The demo shop's services answer as services should, so that what the gateway shows of them is its own doing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from twisted.internet.defer import maybeDeferred

from examples.shop import data
from examples.shop.services import PORTS, chosen, sites
from tests.origins import RawClient, RawResponse


@asynccontextmanager
async def serving(*names: str) -> AsyncIterator[list[int]]:
    from twisted.internet import reactor as running

    reactor = cast("Any", running)
    ports = [reactor.listenTCP(0, site, interface="127.0.0.1") for site in sites(names, reactor)]
    try:
        yield [port.getHost().port for port in ports]
    finally:
        for port in ports:
            await maybeDeferred(port.stopListening)


async def asked(port: int, target: str, method: str = "GET", document: object = None, **fields: str) -> RawResponse:
    client = await RawClient.connect(port)
    body = b"" if document is None else json.dumps(document).encode()
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    head = f"{method} {target} HTTP/1.1\r\nHost: shop\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    client.send(head.encode() + body)
    response = await client.read_response(method.encode())
    client.close()
    await client.until_closed()
    return response


def test_the_data_holds_together() -> None:
    users, products = {user["id"] for user in data.USERS}, {product["id"] for product in data.PRODUCTS}
    assert set(data.RECOMMENDED) <= products
    for order in data.ORDERS:
        assert order["userId"] in users
        assert {line["productId"] for line in order["lines"]} <= products
    assert data.ORDERS[1]["total"] == "72.20", "42.50 + 3 x 9.90"


async def test_users_are_listed_found_made_and_missed() -> None:
    async with serving("users") as (port,):
        assert [user["id"] for user in json.loads((await asked(port, "/users")).body)] == ["1", "2", "3"]
        assert json.loads((await asked(port, "/users/2")).body)["name"] == "Grace Hopper"
        missing = await asked(port, "/users/99")
        assert (missing.status, missing.value(b"content-type")) == (404, b"application/problem+json")
        assert json.loads(missing.body)["status"] == 404
        made = await asked(port, "/users", "POST", {"name": "Edsger", "email": "e@shop.example"})
        assert (made.status, made.value(b"location")) == (201, b"/users/4")
        assert json.loads((await asked(port, "/users/4")).body)["email"] == "e@shop.example"
        assert (await asked(port, "/users", "POST", {"name": "Again", "email": "e@shop.example"})).status == 409
        assert (await asked(port, "/users", "POST", {"name": 1})).status == 422
        assert (await asked(port, "/users", "POST", [])).status == 400
        deleted = await asked(port, "/users/1", "DELETE")
        assert (deleted.status, deleted.value(b"allow")) == (405, b"GET, HEAD, POST")
        head = await asked(port, "/users/1", "HEAD")
        assert (head.status, head.body) == (200, b"")


async def test_orders_are_those_of_a_user_and_both_ports_have_the_same() -> None:
    async with serving("orders", "orders") as (first, second):
        assert [order["id"] for order in json.loads((await asked(first, "/orders?userId=1")).body)] == [
            "o4",
            "o2",
            "o1",
        ]
        lines = [{"productId": "p2", "quantity": 2}]
        made = await asked(first, "/orders", "POST", {"userId": "3", "lines": lines}, X_User_Id="2")
        assert made.status == 201
        order = json.loads(made.body)
        assert (order["userId"], order["total"]) == ("2", "85.00"), "the gateway knows better who asks"
        assert json.loads((await asked(second, cast("bytes", made.value(b"location")).decode())).body) == order
        unknown = {"userId": "1", "lines": [{"productId": "p99", "quantity": 1}]}
        assert (await asked(first, "/orders", "POST", unknown)).status == 422
        assert (await asked(first, "/orders", "POST", {"userId": "1", "lines": []})).status == 422


async def test_products_may_be_kept_and_are_revalidated() -> None:
    async with serving("products") as (port,):
        response = await asked(port, "/products/recommendations")
        assert response.value(b"cache-control") == b"public, max-age=60"
        tag = cast("bytes", response.value(b"etag")).decode()
        assert (await asked(port, "/products/recommendations", If_None_Match=tag)).status == 304
        assert [one["id"] for one in json.loads((await asked(port, "/products?category=writing")).body)] == ["p2", "p3"]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/health", 200),
        ("/status/503", 503),
        ("/users/status/418", 418),
        ("/status/204", 204),
        ("/status/99", 404),
        ("/status", 404),
        ("/slow?seconds=0", 200),
        ("/users/slow?seconds=0", 200),
        ("/slow?seconds=x", 400),
        ("/slow?seconds=999", 400),
        ("/", 404),
        ("/nothing/here", 404),
        ("/users/", 200),
    ],
)
async def test_pages_that_show_the_gateway_at_work(target: str, status: int) -> None:
    async with serving("users") as (port,):
        assert (await asked(port, target)).status == status


async def test_events_come_at_once_and_end_with_the_client() -> None:
    async with serving("products") as (port,):
        client = await RawClient.connect(port)
        client.send(b"GET /products/events HTTP/1.1\r\nHost: shop\r\n\r\n")
        assert (await client.read_head()).value(b"content-type") == b"text/event-stream"
        assert b"id: 1" in await client.read_until(b"\n\n")
        client.reset()
        await client.until_closed()


def test_services_and_ports_are_chosen_on_the_command_line() -> None:
    assert chosen([]) == list(PORTS)
    assert chosen(["users=1", "orders=2", "orders=3"]) == [("users", 1), ("orders", 2), ("orders", 3)]
    with pytest.raises(SystemExit, match="SERVICE=PORT"):
        chosen(["invoices=1"])
