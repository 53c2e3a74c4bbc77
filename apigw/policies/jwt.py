"""
Lets in who shows a JSON Web Token that is signed by the right key (RFC 7519, 7515, 8725; answers as RFC 6750).

    [jwt main]
    algorithms = HS256
    secret = ${APIGW_JWT_SECRET:-demo-secret-demo-secret-demo-secret!}
    audience = shop
    issuer = https://auth.shop.example
    claims_to_headers = sub: X-User-Id, scope: X-Scopes

    [jwt partners]
    jwks = https://login.partners.example/.well-known/jwks.json
    audience = shop
    require = exp, sub
    scopes = orders:read
    claims = tenant: acme|globex
    cookie = session_token
    forward_token = no

Only signed tokens in compact form are taken: neither unsigned, nor encrypted, nor nested ones, and none with a ``crit``
header. What was verified is remembered until it ends or the keys change, so the same token again costs next to nothing.

Not here: keys (``key_sets``), what makes a token good (``signed_tokens``), revoked tokens (``revocation``).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from apigw.config.text import Text, Wrong
from apigw.config.values import (
    Count,
    Duration,
    FilePath,
    Flag,
    Form,
    HeaderName,
    Pairs,
    Secret,
    Several,
    Size,
    StrList,
    Word,
    one_line,
    parse_file,
)
from apigw.exchange.errors import GatewayError
from apigw.exchange.request import Identity, Request
from apigw.exchange.response import Response
from apigw.policies.edits import FieldEdit
from apigw.policies.key_sets import (
    ALGORITHMS,
    HMAC,
    FileKeySet,
    KeySet,
    RemoteKeySet,
    VerifyingKey,
    algorithms_of,
)
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.signed_tokens import BadToken, Parsed, check_claims, parse
from apigw.policies.tokens import (
    Ambiguous,
    Forbidden,
    Place,
    Refused,
    Remembered,
    challenge,
    claim_at,
    field_value,
    note_refusal,
    words,
)

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "ES256K", "EdDSA",
]  # fmt: skip


def parse_key_source(text: Text) -> str | Path:
    """A URL as it is, anything else as a file that is there."""
    value = one_line(text)
    if re.match(r"https?://", value, re.IGNORECASE):
        return value
    if "://" in value:
        raise Wrong("{shown} is neither an http(s) URL nor a file")
    return parse_file(text)


KeySource = Annotated[str | Path, Form("URL or file", "an http(s) URL or a file that can be read", parse_key_source)]


class Settings(PolicySettings):
    """Who shows a JSON Web Token signed by the right key comes in."""

    algorithms: Several[Algorithm] = ()
    """Which signatures are taken; empty: all that the keys' types fit. Never ``none``."""
    secret: Secret = SecretStr("")
    """The shared secret of HS256, HS384 or HS512: at least 32, 48 or 64 bytes."""
    previous_secret: Secret = SecretStr("")
    """The secret before it, while tokens signed by it are about."""
    public_key: FilePath | None = None
    """A file of public keys or certificates (PEM), or a JSON Web Key; read again when it changes."""
    jwks: KeySource | None = None
    """A JSON Web Key Set: a URL, or a file, which is read again when it changes."""
    jwks_refresh: Annotated[Duration, Field(ge=30)] = 600.0
    """The set at a URL is fetched again after this time; a shorter max-age of its answer counts."""
    jwks_cooldown: Annotated[Duration, Field(ge=1)] = 10.0
    """After a fetch for an unknown key id there is no other for this time, unless it brought the key."""
    jwks_timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """For one fetch."""
    issuer: StrList = ()
    """One of these must be the token's ``iss``; empty: any."""
    audience: StrList = ()
    """One of these must be in the token's ``aud``; ``*`` is any. Empty: tokens that name an audience are refused."""
    leeway: Duration = 0.0
    """By how much clocks may differ when ``exp``, ``nbf`` and ``iat`` are checked."""
    require: StrList = ()
    """Claims that must be there."""
    scopes: StrList = ()
    """Scopes that the token must all have, else 403."""
    scopes_claim: Word = "scope"
    """Where its scopes are: a list, or a string separated by spaces; dots lead into objects."""
    groups_claim: Word = "groups"
    """Where its groups are, for ``acl``."""
    claims: Pairs[str] = Field({})
    """``name: value|value`` conditions, else 403; ``*`` is any value; a list must hold one of them."""
    claims_to_headers: Pairs[HeaderName] = Field({})
    """``claim: Header``: told to the service; whatever the client sends under these names is removed."""
    identity_claim: Word = "sub"
    """The claim that is the caller's name."""
    consumer_claim: str = ""
    """The claim that names a ``[consumer X]``, if there is one."""
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
    """A longer token is refused unread."""
    remember: Count = 10000
    """How many verified tokens are remembered in each process, about 3 KiB each."""

    @model_validator(mode="after")
    def _keys_fit(self) -> Settings:
        sources = [name for name in ("secret", "public_key", "jwks") if getattr(self, name)]
        if len(sources) != 1:
            here = f", not both {' and '.join(sources)}" if sources else ""
            raise Wrong(f"a token needs something to be verified by: secret, public_key or jwks{here}")
        shared = [name for name in self.algorithms if name in HMAC]
        if sources == ["secret"]:
            for name, secret in (("secret", self.secret), ("previous_secret", self.previous_secret)):
                if not secret:
                    continue
                try:
                    fitting = algorithms_of(secret.get_secret_value().encode())
                except ValueError as error:
                    raise Wrong(str(error), option=name) from None
                for algorithm in self.algorithms:
                    if algorithm not in HMAC:
                        raise Wrong(f"{algorithm} needs a public key, not a secret", option="algorithms")
                    if algorithm not in fitting:
                        raise Wrong(f"the secret is too short for {algorithm} (RFC 7518 3.2)", option=name)
        elif self.previous_secret:
            raise Wrong("there is no secret that it came before", option="previous_secret")
        elif shared and self.public_key is not None and self.public_key.suffix == ".pem":
            raise Wrong(f"{shared[0]} needs a secret, not a public key", option="algorithms")
        return self


class Verified:
    """A token that was taken, as it is remembered."""

    __slots__ = ("edit", "generation", "identity", "issued", "jti", "subject", "until")

    def __init__(self, identity: Identity, generation: int, until: float, edit: FieldEdit | None) -> None:
        claims = identity.claims
        self.identity = identity
        self.generation = generation
        self.until = until
        self.edit = edit
        self.jti: str | None = claims.get("jti")
        self.subject: str | None = claims.get("sub")
        self.issued: float | None = claims.get("iat")


class JWT(Policy[Settings]):
    """The policy ``jwt``."""

    authenticates = True

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self.identity_headers = frozenset(name.lower().encode() for name in settings.claims_to_headers.values())
        self._now = environment.now
        self._revocations = environment.revocations
        self._place = Place(settings.header, frozenset({b"bearer"}), settings.cookie, settings.query)
        self._header = self._place.header
        self._realm = settings.realm or environment.name or "jwt"
        self._keys = self._key_set()
        self._algorithms = frozenset[str](settings.algorithms) or ALGORITHMS
        self._scopes = frozenset(settings.scopes)
        self._conditions = {name: frozenset(value.split("|")) for name, value in settings.claims.items()}
        self._told = [
            (claim, name.encode(), " " if claim == settings.scopes_claim else ",")
            for claim, name in settings.claims_to_headers.items()
        ]
        removed = self.identity_headers
        if not settings.forward_token:
            removed |= {self._header}
        self._removed = removed
        self._stripped = FieldEdit(self.identity_headers) if self.identity_headers else None
        self._known: Remembered[Verified] = Remembered(settings.remember)

    def _key_set(self) -> KeySet:
        settings = self.settings
        if settings.secret:
            keys = []
            for secret in (settings.secret, settings.previous_secret):
                if secret:
                    material = secret.get_secret_value().encode()
                    keys.append(VerifyingKey(algorithms_of(material), material))
            return KeySet(keys)
        source = settings.public_key or settings.jwks
        if isinstance(source, Path):
            return FileKeySet(source, self.environment)
        return RemoteKeySet(
            str(source),
            self.environment,
            refresh=settings.jwks_refresh,
            cooldown=settings.jwks_cooldown,
            timeout=settings.jwks_timeout,
        )

    def take_over(self, former: JWT) -> None:
        self._keys.take_over(former._keys)

    def start(self) -> None:
        self._keys.start()

    def stop(self) -> None:
        self._keys.stop()

    # ---- the way of a request ----------------------------------------------------------------------------------------

    def on_request(self, request: Request) -> Response | Awaitable[Response | None] | None:
        values = request.headers.get_all(self._header)
        if len(values) == 1:
            value = values[0]
            known = self._known.get(value)
            if known is not None and known.generation == self._keys.generation and self._now() < known.until:
                return self._let_in(request, known)
        try:
            found = self._place.find(request, values)
            if found is None:
                raise self._refusal(request, "there is no token", missing=True)
            value, token = found
            known = self._known.get(value)
            if known is not None and known.generation == self._keys.generation and self._now() < known.until:
                return self._let_in(request, known)
            parsed = parse(token, self._algorithms, self.settings.max_token_size)
            keys = self._keys.candidates(parsed.algorithm, parsed.kid)
            if not keys:
                return self._look_again(request, value, parsed)
            return self._let_in(request, self._verified(request, value, parsed, keys))
        except Ambiguous:
            raise self._refusal(request, "there is more than one") from None
        except BadToken as bad:
            raise self._refusal(request, str(bad)) from None

    async def _look_again(self, request: Request, value: bytes, parsed: Parsed) -> Response | None:
        try:
            keys = await self._keys.find(parsed.algorithm, parsed.kid)
            if not keys:
                raise BadToken("no key fits it")
            return self._let_in(request, self._verified(request, value, parsed, keys))
        except BadToken as bad:
            raise self._refusal(request, str(bad)) from None
        except GatewayError as error:
            note_refusal(request, self.environment.label, error.reason)
            self._strip(request)
            raise

    def _let_in(self, request: Request, known: Verified) -> Response | None:
        revocations = self._revocations
        if revocations is not None and revocations.revoked(known.jti, known.subject, known.issued):
            raise self._refusal(request, "it is revoked")
        request.identity = known.identity
        if known.edit is not None:
            known.edit.apply(request)
        if self._place.hides:
            self._place.hide(request, forward=self.settings.forward_token)
        return None

    def _strip(self, request: Request) -> None:
        # In shadow, or beside other ways to authenticate, the request goes on: never with what only we may say.
        if self._stripped is not None:
            self._stripped.apply(request)
        self._place.hide(request, forward=True)

    def _refusal(self, request: Request, why: str, *, missing: bool = False) -> Refused:
        note_refusal(request, self.environment.label, why)
        self._strip(request)
        if missing:
            return Refused("a token is needed", reason="token_missing", headers=(challenge(b"Bearer", self._realm),))
        return Refused(
            "the token can't be taken",
            reason="token_invalid",
            headers=(challenge(b"Bearer", self._realm, error="invalid_token"),),
        )

    # ---- one token ---------------------------------------------------------------------------------------------------

    def _verified(self, request: Request, value: bytes, parsed: Parsed, keys: list[VerifyingKey]) -> Verified:
        """
        Check all of a token, and remember it.

        :raises BadToken: if it can't be taken.
        :raises Forbidden: if it can, but not for this.
        """
        generation = self._keys.generation
        settings = self.settings
        claims = parsed.verified(keys)
        until = check_claims(
            claims,
            now=self._now(),
            leeway=settings.leeway,
            require=settings.require,
            issuers=settings.issuer,
            audiences=settings.audience,
        )
        scopes = words(claim_at(claims, settings.scopes_claim))
        if self._scopes or self._conditions:
            self._allowed(request, claims, scopes)
        add = [
            (name, field_value(claim, separator))
            for path, name, separator in self._told
            if (claim := claim_at(claims, path)) is not None
        ]
        edit = FieldEdit(self._removed, tuple(add)) if self._removed or add else None
        verified = Verified(self._identity(claims, scopes), generation, until, edit)
        self._known.put(value, verified)
        return verified

    def _identity(self, claims: Mapping[str, Any], scopes: frozenset[str]) -> Identity:
        settings = self.settings
        name = claim_at(claims, settings.identity_claim)
        groups = words(claim_at(claims, settings.groups_claim))
        consumer = claim_at(claims, settings.consumer_claim) if settings.consumer_claim else None
        known = self.environment.consumers.get(consumer) if isinstance(consumer, str) else None
        if known is not None and known.enabled:
            groups |= frozenset(known.groups)
        return Identity(
            name=name if isinstance(name, str) else "",
            method="jwt",
            consumer=consumer if known is not None and known.enabled else None,
            groups=groups,
            scopes=scopes,
            claims=claims,
        )

    def _allowed(self, request: Request, claims: Mapping[str, Any], scopes: frozenset[str]) -> None:
        """
        :raises Forbidden: if the token is good, but not for this.
        """
        if not self._scopes <= scopes:
            note_refusal(request, self.environment.label, "it lacks a scope")
            self._strip(request)
            asked = challenge(b"Bearer", self._realm, error="insufficient_scope", scope=" ".join(self.settings.scopes))
            raise Forbidden("the token lacks a scope", reason="insufficient_scope", headers=(asked,))
        for name, wanted in self._conditions.items():
            value = claim_at(claims, name)
            values = value if isinstance(value, list) else [] if value is None else [value]
            if not ("*" in wanted and values) and not any(field_value(each).decode() in wanted for each in values):
                note_refusal(request, self.environment.label, f"its {name} does not fit")
                self._strip(request)
                raise Forbidden("the token does not allow this", reason="claim_refused")
