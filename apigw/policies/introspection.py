"""
Lets in who shows a token that its issuer says is active (RFC 7662), for tokens that only the issuer can read.

    [introspection partners]
    url = https://login.partners.example/oauth2/introspect
    client_id = gateway
    client_secret = ${INTROSPECTION_SECRET:-change-me}
    scopes = orders:read
    claims_to_headers = sub: X-User-Id

The issuer's answer is remembered by the token's hash, at most until the token ends. Requests with the same token wait
for one question. If the issuer can't be asked, the answer is 503.

Not here: tokens that can be verified without asking (``jwt``).
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Mapping
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import quote_plus, urlencode

from pydantic import Field, SecretStr

from apigw.config.values import URL, Count, Duration, Secret, StrList
from apigw.exchange.errors import GatewayError, GatewayFault
from apigw.exchange.request import Request
from apigw.policies.asked_once import AskedOnce
from apigw.policies.bearer import BearerPolicy, BearerSettings, Caller
from apigw.policies.policy import Environment
from apigw.policies.signed_tokens import BadToken, check_claims
from apigw.policies.tokens import Remembered, json_object, without_query


class Settings(BearerSettings):
    """Who shows a token that its issuer says is active comes in."""

    url: URL
    """The issuer's introspection endpoint."""
    client_id: str = ""
    """Who we are to the issuer."""
    client_secret: Secret = SecretStr("")
    """Our password there, sent by HTTP Basic."""
    timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """For one question."""
    at_once: Annotated[Count, Field(ge=1)] = 100
    """How many questions may be under way; while so many are, unknown tokens get 503."""
    cache_ttl: Duration = 30.0
    """How long an active token is not asked about again; it may be revoked meanwhile."""
    negative_ttl: Duration = 5.0
    """How long an inactive one is not asked about again."""
    audience: StrList = ("*",)
    """One of these must be in the token's ``aud``; ``*`` is any."""
    consumer_claim: str = "client_id"
    """The claim that names a ``[consumer X]``, if there is one."""


class _Refused:
    """
    A token that its issuer, or what we ask for, does not let in.

    :ivar why: for the log.
    """

    __slots__ = ("until", "why")

    def __init__(self, until: float, why: str) -> None:
        self.until = until
        self.why = why


class Introspection(BearerPolicy[Settings]):
    """The policy ``introspection``."""

    kind = "introspection"

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._known: Remembered[Caller | _Refused] = Remembered(settings.remember)
        self._asking: AskedOnce[Caller | _Refused] = AskedOnce()
        self._failing = False
        self._shown_url = without_query(settings.url)
        self._fields = [(b"Content-Type", b"application/x-www-form-urlencoded"), (b"Accept", b"application/json")]
        if settings.client_id:
            # Both are form-encoded first (RFC 6749 2.3.1).
            secret = settings.client_secret.get_secret_value()
            pair = f"{quote_plus(settings.client_id)}:{quote_plus(secret)}"
            self._fields.append((b"Authorization", b"Basic " + base64.b64encode(pair.encode())))

    def on_request(self, request: Request) -> Awaitable[None] | None:
        _, token = self._shown(request, request.headers.get_all(self._header))
        if len(token) > self.settings.max_token_size:
            raise self._refusal(request, "it is too long")
        key = sha256(token).digest()
        known = self._known.get(key)
        if known is None or self._now() >= known.until:
            return self._asked(request, key, token)
        self._decided(request, known)
        return None

    def _decided(self, request: Request, answer: Caller | _Refused) -> None:
        if isinstance(answer, _Refused):
            raise self._refusal(request, answer.why)
        self._let_in(request, answer)

    async def _asked(self, request: Request, key: bytes, token: bytes) -> None:
        if key not in self._asking and len(self._asking) >= self.settings.at_once:
            # Whoever makes tokens up must not make us flood the issuer.
            self._goes_on(request, "too many questions are under way")
            raise GatewayFault(
                "too many tokens wait to be checked", status=503, reason="busy", headers=((b"Retry-After", b"1"),)
            )
        try:
            answer = await self._asking.ask(key, lambda: self._answer(key, token))
        except GatewayError as error:
            self._goes_on(request, error.reason)
            raise
        self._decided(request, answer)

    async def _answer(self, key: bytes, token: bytes) -> Caller | _Refused:
        """
        What the issuer says of a token; it is remembered.

        :raises GatewayFault: if it can't be asked.
        """
        try:
            claims = await self._ask(token)
        except (GatewayError, ValueError) as error:
            self.environment.count("introspection_failed")
            if not self._failing:
                self._failing = True
                self.environment.log.error("{url} can't be asked: {why}", url=self._shown_url, why=str(error))
            raise GatewayFault(
                "the token's issuer can't be asked", status=503, reason="introspection_unavailable"
            ) from None
        if self._failing:
            self._failing = False
            self.environment.log.info("{url} can be asked again", url=self._shown_url)
        answer = self._judged(claims)
        self._known.put(key, answer)
        return answer

    async def _ask(self, token: bytes) -> dict[str, Any]:
        """
        :raises ValueError: if the answer is none.
        """
        settings = self.settings
        body = urlencode({"token": token, "token_type_hint": "access_token"}).encode()
        answer = await self.environment.fetch("POST", settings.url, self._fields, body, settings.timeout)
        if answer.status != 200:
            raise ValueError(f"it was answered with {answer.status}")
        return json_object(answer.body)

    def _judged(self, claims: dict[str, Any]) -> Caller | _Refused:
        settings = self.settings
        now = self._now()
        if claims.get("active") is not True:
            return _Refused(now + settings.negative_ttl, "it is not active")
        try:
            until = check_claims(
                claims,
                now=now,
                leeway=settings.leeway,
                require=settings.require,
                issuers=settings.issuer,
                audiences=settings.audience,
            )
        except BadToken as bad:
            return _Refused(now + settings.negative_ttl, str(bad))
        return self._caller(claims, min(until, now + settings.cache_ttl))

    def _name(self, claims: Mapping[str, Any]) -> str:
        name = super()._name(claims) or claims.get("username") or claims.get("client_id")
        return name if isinstance(name, str) else ""
