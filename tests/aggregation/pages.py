"""Aggregates in Python, as a user would write them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from apigw.aggregation import gather
from apigw.exchange.errors import ClientFault
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.exchange.response import Response


async def dashboard(request: Request, client: Any) -> Any:
    """Two calls at once."""
    user, orders = await gather(client.users.get("/users/7"), client["orders"].get("/orders", params={"userId": 7}))
    if user.code != 200:
        raise ClientFault("there is no such user", status=404, reason="bad_request")
    return {"user": await user.json(), "recentOrders": (await orders.json())[:2]}


@inlineCallbacks
def old(request: Request, client: Any) -> Generator[Deferred[Any], Any, Any]:
    """In the old way."""
    response = yield client.users.get("/users/7")
    return (yield response.json())


def plain(request: Request, client: Any) -> Any:
    """Without waiting."""
    return Response(201, Headers([(b"X-Made", b"here")]), b"hello")


async def wrong(request: Request, client: Any) -> Any:
    """A defect."""
    return await client.nobody.get("/")


async def echo(request: Request, client: Any) -> Any:
    """The client's content."""
    assert request.body is not None
    answer = await client.users.post("/echo", json={"size": len(await request.body.collect(1000))})
    return await answer.json()
