"""
Tells who changed what.

    [python audit]
    class = examples.audit.audit:Audit
    header = X-Audit-Id
    methods = POST, PUT, PATCH, DELETE

Every request that changes something gets an audit number, which the service sees in a header and the client in the
answer. When it has been answered, one line says who did what, and what became of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from apigw.config.values import HeaderName, Method, Several
from apigw.exchange.errors import ClientFault
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.policies.policy import Environment, Policy, PolicySettings


class Audit(Policy["Audit.Settings"]):
    """Gives a number to every change, and writes down what became of it."""

    class Settings(PolicySettings):
        """What ``[python audit]`` may say beside ``class``, ``mode`` and ``on_error``."""

        header: HeaderName = "X-Audit-Id"
        """The header that carries the number."""
        methods: Several[Method] = ("POST", "PUT", "PATCH", "DELETE")
        """The methods that change something."""

    def __init__(self, settings: Audit.Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._header = settings.header.encode()
        self._methods = frozenset(method.encode() for method in settings.methods)
        self._number = 0

    async def respond(self, request: Request, next: Callable[[Request], Awaitable[Response]]) -> Response:  # noqa: A002
        """Around everything that comes behind it in the route's list."""
        if request.method not in self._methods:
            return await next(request)
        if request.headers.get(b"x-reason") == b"":
            raise ClientFault("X-Reason must say something, if it is there", reason="audit_reason_empty")
        self._number += 1
        number = b"%d" % self._number
        request.edit_headers().set(self._header, number)
        response = await next(request)
        response.add_header(self._header, number)
        self.environment.log.info(
            "{number}: {who} {method} {path}: {status}",
            number=self._number,
            who=request.identity.name if request.identity is not None else request.client,
            method=request.method.decode(),
            path=request.path.decode("latin-1"),
            status=response.status,
        )
        return response
