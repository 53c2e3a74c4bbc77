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
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import quote_plus, urlencode

from pydantic import Field, SecretStr
from twisted.internet.defer import Deferred

from apigw.config.values import Count, Duration, Flag, HeaderName, Pairs, Secret, Size, StrList, Word
from apigw.exchange.errors import GatewayError, GatewayFault
from apigw.exchange.request import Identity, Request
from apigw.exchange.responder import drive
from apigw.exchange.response import Response
from apigw.policies.edits import FieldEdit
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.signed_tokens import BadToken, check_claims
from apigw.policies.tokens import (
    Ambiguous,
    Forbidden,
    Place,
    Refused,
    Remembered,
    challenge,
    claim_at,
    field_value,
    json_object,
    note_refusal,
    words,
)


class Settings(PolicySettings):
    """Who shows a token that its issuer says is active comes in."""

    url: Word
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
    remember: Count = 10000
    """How many answers are remembered."""
    issuer: StrList = ()
    """One of these must be the answer's ``iss``; empty: any."""
    audience: StrList = ("*",)
    """One of these must be in the answer's ``aud``; ``*`` is any."""
    scopes: StrList = ()
    """Scopes that the token must all have, else 403."""
    groups_claim: Word = "groups"
    """Where the answer has the caller's groups."""
    claims_to_headers: Pairs[HeaderName] = Field({})
    """``member: Header``: told to the service; whatever the client sends under these names is removed."""
    forward_token: Flag = True
    """Whether the service gets the token as well."""
    header: HeaderName = "Authorization"
    """The field with the token: after ``Bearer`` in Authorization, alone or after ``Bearer`` in others."""
    cookie: str = ""
    """A cookie with the token, looked at if the field has none."""
    query: str = ""
    """A query parameter with the token, looked at last; it is hidden in the access log."""
    realm: str = ""
    """The realm in WWW-Authenticate; empty: the section's name."""
    max_token_size: Size = 8192
    """A longer token is refused without a question."""


class _Answer:
    """What the issuer said of a token: an identity, or why there is none."""

    __slots__ = ("edit", "identity", "until", "why")

    def __init__(
        self, until: float, why: str = "", identity: Identity | None = None, edit: FieldEdit | None = None
    ) -> None:
        self.until = until
        self.why = why
        self.identity = identity
        self.edit = edit


class Introspection(Policy[Settings]):
    """The policy ``introspection``."""

    authenticates = True

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        if not settings.url.lower().startswith(("http://", "https://")):
            raise ValueError("url: an http(s) URL is needed")
        self._now = environment.now
        self._place = Place(settings.header, frozenset({b"bearer"}), settings.cookie, settings.query)
        self._realm = settings.realm or environment.name or "introspection"
        self._scopes = frozenset(settings.scopes)
        self.identity_headers = frozenset(name.lower().encode() for name in settings.claims_to_headers.values())
        self._stripped = FieldEdit(self.identity_headers)
        hidden = frozenset[bytes]() if settings.forward_token else frozenset({self._place.header})
        self._removed = self.identity_headers | hidden
        self._known: Remembered[_Answer] = Remembered(settings.remember)
        self._asking: dict[bytes, list[Deferred[_Answer]]] = {}
        self._fields = [(b"Content-Type", b"application/x-www-form-urlencoded"), (b"Accept", b"application/json")]
        if settings.client_id:
            # Both are form-encoded first (RFC 6749 2.3.1).
            secret = settings.client_secret.get_secret_value()
            pair = f"{quote_plus(settings.client_id)}:{quote_plus(secret)}"
            self._fields.append((b"Authorization", b"Basic " + base64.b64encode(pair.encode())))

    def on_request(self, request: Request) -> object:
        try:
            found = self._place.find(request, request.headers.get_all(self._place.header))
        except Ambiguous:
            raise self._refusal(request, "there is more than one") from None
        if found is None:
            raise self._refusal(request, "there is no token", missing=True)
        token = found[1]
        if len(token) > self.settings.max_token_size:
            raise self._refusal(request, "it is too long")
        key = sha256(token).digest()
        known = self._known.get(key)
        if known is not None and self._now() < known.until:
            return self._decided(request, known)
        return self._asked(request, key, token)

    def _decided(self, request: Request, answer: _Answer) -> Response | None:
        identity = answer.identity
        if identity is None or answer.edit is None:
            raise self._refusal(request, answer.why)
        claims = identity.claims
        revocations = self.environment.revocations
        if revocations is not None and revocations.revoked(claims.get("jti"), claims.get("sub"), claims.get("iat")):
            raise self._refusal(request, "it is revoked")
        if not self._scopes <= identity.scopes:
            note_refusal(request, self.environment.label, "it lacks a scope")
            self._strip(request)
            asked = challenge(b"Bearer", self._realm, error="insufficient_scope", scope=" ".join(self.settings.scopes))
            raise Forbidden("the token lacks a scope", reason="insufficient_scope", headers=(asked,))
        request.identity = identity
        answer.edit.apply(request)
        if self._place.hides:
            self._place.hide(request, forward=self.settings.forward_token)
        return None

    async def _asked(self, request: Request, key: bytes, token: bytes) -> Response | None:
        mine: Deferred[_Answer] = Deferred()
        waiting = self._asking.get(key)
        if waiting is not None:
            waiting.append(mine)
        elif len(self._asking) >= self.settings.at_once:
            # Whoever makes tokens up must not make us flood the issuer.
            note_refusal(request, self.environment.label, "too many questions are under way")
            self._strip(request)
            raise GatewayFault(
                "too many tokens wait to be checked", status=503, reason="busy", headers=((b"Retry-After", b"1"),)
            )
        else:
            self._asking[key] = [mine]
            # On its own, so that a client that goes away does not take the answer from the others.
            drive(self._ask(token), lambda answer: self._tell(key, answer), lambda error: self._fail(key, error))
        try:
            answer = await mine
        except GatewayError as error:
            note_refusal(request, self.environment.label, error.reason)
            self._strip(request)
            raise
        return self._decided(request, answer)

    async def _ask(self, token: bytes) -> _Answer:
        settings = self.settings
        body = urlencode({"token": token, "token_type_hint": "access_token"}).encode()
        answer = await self.environment.fetch("POST", settings.url, self._fields, body, settings.timeout)
        if answer.status != 200:
            raise ValueError(f"it was answered with {answer.status}")
        claims = json_object(answer.body)
        now = self._now()
        if claims.get("active") is not True:
            return _Answer(now + settings.negative_ttl, "it is not active")
        try:
            until = check_claims(claims, now=now, issuers=settings.issuer, audiences=settings.audience)
        except BadToken as bad:
            return _Answer(now + settings.negative_ttl, str(bad))
        return _Answer(min(until, now + settings.cache_ttl), "", *self._identity(claims))

    def _identity(self, claims: dict[str, Any]) -> tuple[Identity, FieldEdit]:
        name = claims.get("sub") or claims.get("username") or claims.get("client_id")
        client = claims.get("client_id")
        consumer = self.environment.consumers.get(client) if isinstance(client, str) else None
        groups = words(claim_at(claims, self.settings.groups_claim))
        identity = Identity(
            name=name if isinstance(name, str) else "",
            method="introspection",
            consumer=client if consumer is not None and consumer.enabled else None,
            groups=groups | (frozenset(consumer.groups) if consumer is not None and consumer.enabled else frozenset()),
            scopes=words(claims.get("scope")),
            claims=claims,
        )
        add = tuple(
            (name.encode(), field_value(value, " " if claim == "scope" else ","))
            for claim, name in self.settings.claims_to_headers.items()
            if (value := claim_at(claims, claim)) is not None
        )
        return identity, FieldEdit(self._removed, add)

    def _tell(self, key: bytes, answer: _Answer) -> None:
        self._known.put(key, answer)
        for each in self._asking.pop(key):
            if not each.called:
                each.callback(answer)

    def _fail(self, key: bytes, error: BaseException) -> None:
        self.environment.count("introspection_failed")
        self.environment.log.error("{url} can't be asked: {why}", url=self.settings.url, why=str(error))
        for each in self._asking.pop(key):
            if not each.called:
                each.errback(
                    GatewayFault("the token's issuer can't be asked", status=503, reason="introspection_unavailable")
                )

    def _strip(self, request: Request) -> None:
        self._stripped.apply(request)
        self._place.hide(request, forward=True)

    def _refusal(self, request: Request, why: str, *, missing: bool = False) -> Refused:
        note_refusal(request, self.environment.label, why)
        self._strip(request)
        if missing:
            return Refused("a token is needed", reason="token_missing", headers=(challenge(b"Bearer", self._realm),))
        asked = challenge(b"Bearer", self._realm, error="invalid_token")
        return Refused("the token can't be taken", reason="token_invalid", headers=(asked,))
