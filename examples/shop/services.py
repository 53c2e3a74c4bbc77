"""
The three services. Each process keeps its own data, in memory: a restart begins anew.

    python -m examples.shop.services                            all: users 9101, orders 9102 and 9112, products 9103
    python -m examples.shop.services users=9101 orders=9102     only these

A service may be named more than once: then it listens on several ports, over the same data.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.interfaces import IReactorTime
from twisted.web import http
from twisted.web.server import Request, Site

from examples.shop import data
from examples.shop.data import Item
from examples.shop.resources import Collection, Path, Problem, cacheable, posted, root, send

PORTS = (("users", 9101), ("orders", 9102), ("orders", 9112), ("products", 9103))


def _found(items: list[Item], what: str, path: Path) -> Item:
    for item in items:
        if path == [item["id"]]:
            return item
    raise Problem(404, f"there is no {what} {'/'.join(path)}")


def _created(request: Request, where: str, item: Item) -> bytes:
    request.setHeader("location", f"/{where}/{item['id']}")
    return send(request, item, 201)


class Users(Collection):
    """``/users``, ``/users/{id}``; POST ``{"name": ..., "email": ...}``."""

    def __init__(self) -> None:
        super().__init__()
        self._users = copy.deepcopy(data.USERS)

    def get(self, request: Request, path: Path) -> bytes | int:
        return send(request, _found(self._users, "user", path) if path else self._users)

    def post(self, request: Request, path: Path) -> bytes | int:
        if path:
            raise Problem(405, "post to /users", allow="GET, HEAD")
        asked = posted(request, name=str, email=str)
        if any(user["email"] == asked["email"] for user in self._users):
            raise Problem(409, f"{asked['email']} is taken")
        user = {"id": str(len(self._users) + 1), "name": asked["name"], "email": asked["email"], "city": ""}
        self._users.append(user)
        return _created(request, "users", user)


class Orders(Collection):
    """
    ``/orders``, ``/orders?userId=1``, ``/orders/{id}``; POST ``{"lines": [{"productId": "p1", "quantity": 1}]}``.

    The user is who the gateway says it is (``X-User-Id``, from the token); without a gateway, what ``userId`` says.
    """

    def __init__(self) -> None:
        super().__init__()
        self._orders = copy.deepcopy(data.ORDERS)

    def get(self, request: Request, path: Path) -> bytes | int:
        if path:
            return send(request, _found(self._orders, "order", path))
        users = [user.decode("utf-8", "replace") for user in (request.args or {}).get(b"userId", [])]
        newest_first = reversed(self._orders)
        return send(request, [order for order in newest_first if not users or order["userId"] in users])

    def post(self, request: Request, path: Path) -> bytes | int:
        if path:
            raise Problem(405, "post to /orders", allow="GET, HEAD")
        asked = posted(request, lines=list)
        user = request.getHeader("x-user-id") or asked.get("userId")
        if not isinstance(user, str):
            raise Problem(422, "userId has to be a str")
        try:
            lines = [(str(line["productId"]), int(line["quantity"])) for line in asked["lines"]]
            total = data.total(lines)
        except (KeyError, TypeError, ValueError):
            raise Problem(422, "each line has a productId that exists, and a quantity") from None
        if not lines or any(quantity < 1 for _, quantity in lines):
            raise Problem(422, "an order has at least one line, and each a quantity of at least 1")
        order = {
            "id": f"o{len(self._orders) + 1}",
            "userId": user,
            "status": "placed",
            "lines": [{"productId": product, "quantity": quantity} for product, quantity in lines],
            "total": total,
            "currency": "EUR",
        }
        self._orders.append(order)
        return _created(request, "orders", order)


class Products(Collection):
    """``/products``, ``/products?category=home``, ``/products/{id}``, ``/products/recommendations``; all cacheable."""

    def get(self, request: Request, path: Path) -> bytes | int:
        if path == ["recommendations"]:
            shown = [product for product in data.PRODUCTS if product["id"] in data.RECOMMENDED]
            return cacheable(request, shown, max_age=60)
        if path:
            return cacheable(request, _found(data.PRODUCTS, "product", path), max_age=300)
        categories = [one.decode("utf-8", "replace") for one in (request.args or {}).get(b"category", [])]
        shown = [product for product in data.PRODUCTS if not categories or product["category"] in categories]
        return cacheable(request, shown, max_age=30)


_SERVICES: dict[str, Callable[[], Collection]] = {"users": Users, "orders": Orders, "products": Products}


class _Site(Site):
    """Prints a line for each request, but for health checks: those come all the time."""

    def log(self, request: http.Request) -> None:
        if request.path != b"/health":
            print(f"{request.method.decode('latin-1')} {request.uri.decode('latin-1')} {request.code}", flush=True)


def sites(names: Sequence[str], clock: IReactorTime) -> list[Site]:
    """Services, ready to listen: users, orders or products. Those of one name have one set of data."""
    trees = {name: root(name, _SERVICES[name](), clock) for name in names}
    return [_Site(trees[name], timeout=None) for name in names]  # type: ignore[no-untyped-call]


def chosen(arguments: Sequence[str]) -> list[tuple[str, int]]:
    """
    The services and ports that were asked for; all without arguments.

    :raises SystemExit: when an argument is not ``SERVICE=PORT``.
    """
    wanted = []
    for argument in arguments:
        name, _, port = argument.partition("=")
        if name not in _SERVICES or not port.isdigit():
            raise SystemExit(f"{argument!r}: expected SERVICE=PORT, with one of {', '.join(_SERVICES)}")
        wanted.append((name, int(port)))
    return wanted or list(PORTS)


def main(arguments: Sequence[str]) -> None:
    """
    Run services until SIGTERM or SIGINT.

    :raises SystemExit: when a port is taken.
    """
    from twisted.internet import reactor
    from twisted.internet.error import CannotListenError

    wanted = chosen(arguments)
    for (name, port), site in zip(wanted, sites([name for name, _ in wanted], cast("Any", reactor)), strict=True):
        try:
            cast("Any", reactor).listenTCP(port, site, interface="127.0.0.1")
        except CannotListenError as error:
            raise SystemExit(f"{name}: port {port} can't be listened on: {error.socketError}") from None
        print(f"listens on 127.0.0.1:{port}", flush=True)
    cast("Any", reactor).run()


if __name__ == "__main__":
    main(sys.argv[1:])
