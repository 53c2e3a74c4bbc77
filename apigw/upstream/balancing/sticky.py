"""
Sticky sessions: a client comes back to the target that it had, by a cookie; ``balance`` chooses for new clients.

    balance = least_request
    sticky.cookie = session_target
    sticky.secret = ${file:sticky.key}

The cookie's value is an HMAC of the target's address with the secret. So it can't be made up, does not tell the
address, and is worth the same to all gateways and after every restart. If the target is gone or not well, another is
chosen,
and the client gets a new cookie. A target that an operator drains keeps its old clients.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256

from apigw.exchange.request import Request
from apigw.upstream.balancing.balancer import Balancer
from apigw.upstream.balancing.hashing import cookie_value
from apigw.upstream.settings import StickySettings
from apigw.upstream.target import Target


class Sticky(Balancer):
    """Another balancer, for clients without a valid cookie."""

    always_asked = True
    sets_cookie = True

    def __init__(self, inner: Balancer, settings: StickySettings, upstream: str) -> None:
        super().__init__()
        assert settings.cookie is not None
        self._inner = inner
        self._name = settings.cookie.encode()
        # With the upstream's name: one upstream's cookies are worth nothing at another.
        self._secret = settings.secret.get_secret_value().encode()
        self._upstream = upstream.encode()
        self._attributes = _attributes(settings)
        self._values: dict[bytes, Target] = {}

    def value(self, target: Target) -> bytes:
        """The cookie's value for ``target``: 22 letters."""
        digest = hmac.digest(self._secret, b"apigw-sticky\0" + self._upstream + b"\0" + target.key, sha256)
        return urlsafe_b64encode(digest[:16]).rstrip(b"=")

    def use(self, targets: list[Target], now: float) -> None:
        self._inner.use(targets, now)
        self._values = {self.value(target): target for target in (*self.draining(), *targets)}

    def choose(self, request: Request, now: float) -> Target:
        return self._known(request) or self._inner.choose(request, now)

    def choose_among(self, targets: Sequence[Target], request: Request, now: float) -> Target:
        return self._inner.choose_among(targets, request, now)

    def may_try(self, request: Request, target: Target) -> bool:
        known = self._known(request)
        return known is None or known is target

    def set_cookie(self, request: Request, target: Target) -> bytes | None:
        if self._known(request) is target:
            return None
        return self._name + b"=" + self.value(target) + self._attributes

    def _known(self, request: Request) -> Target | None:
        value = cookie_value(request, self._name)
        return self._values.get(value) if value is not None else None


def _attributes(settings: StickySettings) -> bytes:
    words = [f"; Path={settings.path}"]
    if settings.domain:
        words.append(f"; Domain={settings.domain}")
    if settings.max_age is not None:
        words.append(f"; Max-Age={int(settings.max_age)}")
    if settings.secure:
        words.append("; Secure")
    if settings.http_only:
        words.append("; HttpOnly")
    words.append(f"; SameSite={settings.same_site.capitalize()}")
    return "".join(words).encode()
