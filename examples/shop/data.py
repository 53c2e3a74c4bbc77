"""The shop's data: ids hold together over the services, as they would over three databases."""

from __future__ import annotations

from typing import Any

Item = dict[str, Any]

USERS: list[Item] = [
    {"id": "1", "name": "Ada Lovelace", "email": "ada@shop.example", "city": "London"},
    {"id": "2", "name": "Grace Hopper", "email": "grace@shop.example", "city": "New York"},
    {"id": "3", "name": "Alan Turing", "email": "alan@shop.example", "city": "Manchester"},
]

PRODUCTS: list[Item] = [
    {"id": "p1", "name": "Mechanical keyboard", "price": "119.00", "currency": "EUR", "category": "computers"},
    {"id": "p2", "name": "Fountain pen", "price": "42.50", "currency": "EUR", "category": "writing"},
    {"id": "p3", "name": "Notebook, dotted, A5", "price": "9.90", "currency": "EUR", "category": "writing"},
    {"id": "p4", "name": "Desk lamp", "price": "64.00", "currency": "EUR", "category": "home"},
    {"id": "p5", "name": "Tea, Assam, 250 g", "price": "12.80", "currency": "EUR", "category": "home"},
]

RECOMMENDED = ("p2", "p5", "p4")


def _order(number: int, user: str, status: str, placed: str, *lines: tuple[str, int]) -> Item:
    return {
        "id": f"o{number}",
        "userId": user,
        "status": status,
        "placed": placed,
        "lines": [{"productId": product, "quantity": quantity} for product, quantity in lines],
        "total": total(lines),
        "currency": "EUR",
    }


def total(lines: tuple[tuple[str, int], ...] | list[tuple[str, int]]) -> str:
    """What these products cost, as a decimal. Prices are kept in cents while they are added up."""
    cents = {product["id"]: int(product["price"].replace(".", "")) for product in PRODUCTS}
    whole = sum(cents[product] * quantity for product, quantity in lines)
    return f"{whole // 100}.{whole % 100:02}"


ORDERS: list[Item] = [
    _order(1, "1", "delivered", "2026-01-12T09:30:00Z", ("p1", 1)),
    _order(2, "1", "delivered", "2026-02-03T17:05:00Z", ("p2", 1), ("p3", 3)),
    _order(3, "2", "delivered", "2026-02-20T11:48:00Z", ("p4", 2)),
    _order(4, "1", "sent", "2026-03-15T08:12:00Z", ("p5", 4)),
    _order(5, "3", "sent", "2026-03-16T20:00:00Z", ("p3", 10), ("p2", 2)),
    _order(6, "2", "placed", "2026-03-18T13:37:00Z", ("p1", 1), ("p5", 1)),
]
