"""
What templates and expressions may know of the client's request: ``jwt``, ``path``, ``query``, ``header``, ``body``,
``consumer``.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from apigw.exchange.request import Request


def scope(request: Request, roots: frozenset[str], body: Any) -> dict[str, Any]:
    """
    The values of ``roots``. What is not known (no token, no content) is not there.

    :param body: the content's JSON value, or None without content.
    """
    values: dict[str, Any] = {}
    identity = request.identity
    for root in roots:
        if root == "jwt":
            if identity is not None and identity.claims:
                values[root] = identity.claims if type(identity.claims) is dict else dict(identity.claims)
        elif root == "path":
            values[root] = dict(request.captures)
        elif root == "query":
            values[root] = _query(request.query)
        elif root == "header":
            values[root] = _headers(request)
        elif root == "consumer":
            if identity is not None and identity.consumer is not None:
                values[root] = {"name": identity.consumer}
        elif body is not None:
            values[root] = body
    return values


def _query(query: bytes | None) -> dict[str, str]:
    """Parameters, decoded as forms are; the first of several with one name."""
    found: dict[str, str] = {}
    if query:
        for name, value in parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True):
            found.setdefault(name, value)
    return found


def _headers(request: Request) -> dict[str, str]:
    found: dict[str, str] = {"host": request.host.decode("latin-1")}
    for name, value in request.headers.pairs:
        key = name.decode("latin-1").lower()
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found
