"""
Stops requests that another site's page makes a browser send (cross-site request forgery), without tokens.

    [csrf pages]
    origins = https://shop.example

A browser says in ``Sec-Fetch-Site`` where a request came from, or at least in ``Origin``. Requests that could change
something pass if they came from the same origin, from nowhere (typed in, a bookmark), from one of ``origins``, or from
something that is no browser and says neither.

Not here: which pages may read answers (``cors``).
"""

from __future__ import annotations

from apigw.config.values import Flag, Method, Several
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.policies.origins import Origin, OriginSet
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.tokens import Forbidden, note_refusal


class Settings(PolicySettings):
    """Requests that another site's page makes a browser send are stopped."""

    origins: Several[Origin] = ()
    """Origins whose pages may send requests as well."""
    same_site: Flag = False
    """Whether other hosts of the same site (``a.example.org`` for ``b.example.org``) may."""
    safe_methods: Several[Method] = ("GET", "HEAD", "OPTIONS", "TRACE")
    """Methods that change nothing, and always pass (RFC 9110 9.2.1)."""


class CSRF(Policy[Settings]):
    """The policy ``csrf``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._safe = frozenset(method.encode() for method in settings.safe_methods)
        self._trusted = OriginSet(settings.origins)
        self._sites = {b"same-origin", b"none"} | ({b"same-site"} if settings.same_site else set())

    def on_request(self, request: Request) -> Response | None:
        if request.method in self._safe:
            return None
        headers = request.headers
        origin = headers.get(b"origin")
        site = headers.get(b"sec-fetch-site")
        if site is None:
            if origin is None:
                return None
            came_from = origin.partition(b"://")[2].lower()
            if came_from and came_from == request.host:
                return None
        elif site in self._sites:
            return None
        if origin is not None and origin in self._trusted:
            return None
        note_refusal(request, self.environment.label, "it came from another site")
        raise Forbidden("this request came from another site's page", reason="cross_site")
