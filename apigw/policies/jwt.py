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
header. A token that comes again is remembered until it ends or the keys change, and then costs next to nothing.

Not here: keys (``key_sets``), what makes a token good (``signed_tokens``), what follows from it (``bearer``).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from apigw.config.text import Text, Wrong
from apigw.config.values import Duration, FilePath, Form, Secret, Several, one_line, parse_file, parse_url
from apigw.exchange.errors import GatewayError
from apigw.exchange.request import Request
from apigw.policies.bearer import BearerPolicy, BearerSettings, Caller
from apigw.policies.key_sets import (
    ALGORITHMS,
    HMAC,
    FileKeySet,
    KeySet,
    RemoteKeySet,
    VerifyingKey,
    algorithms_of,
)
from apigw.policies.policy import Environment
from apigw.policies.signed_tokens import (
    MOST_AT_ONCE,
    BadToken,
    Parsed,
    WrongSignature,
    check_claims,
    parse,
    verified_by,
)
from apigw.policies.tokens import RememberedAgain

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    "ES256", "ES384", "ES512", "ES256K", "EdDSA",
]  # fmt: skip


def parse_key_source(text: Text) -> str | Path:
    """A URL as it is, anything else as a file that is there."""
    value = one_line(text)
    if re.match(r"https?://", value, re.IGNORECASE):
        return parse_url(text)
    if "://" in value:
        raise Wrong("{shown} is neither an http(s) URL nor a file")
    return parse_file(text)


KeySource = Annotated[str | Path, Form("URL or file", "an http(s) URL or a file that can be read", parse_key_source)]


class Settings(BearerSettings):
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


class JWT(BearerPolicy[Settings]):
    """The policy ``jwt``."""

    kind = "jwt"

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._keys = self._key_set()
        self._algorithms = frozenset[str](settings.algorithms) or ALGORITHMS
        self._known: RememberedAgain[Caller] = RememberedAgain(settings.remember)

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

    def on_request(self, request: Request) -> Awaitable[None] | None:
        values = request.headers.get_all(self._header)
        if len(values) == 1:
            known = self._known.get(values[0])
            if known is not None and known.generation == self._keys.generation and self._now() < known.until:
                self._let_in(request, known)
                return None
        value, token = self._shown(request, values)
        known = self._known.get(value) if self._place.hides else None
        if known is None or known.generation != self._keys.generation or self._now() >= known.until:
            try:
                parsed = parse(token, self._algorithms, self.settings.max_token_size)
                keys = self._keys.candidates(parsed.algorithm, parsed.kid)
                if not keys or len(keys) > MOST_AT_ONCE:
                    return self._look_again(request, value, parsed)
                generation = self._keys.generation
                known = self._good(value, parsed.verified(keys), generation)
            except WrongSignature as bad:
                if self._keys.may_change:
                    return self._look_again(request, value, parsed, generation)
                raise self._refusal(request, str(bad)) from None
            except BadToken as bad:
                raise self._refusal(request, str(bad)) from None
        self._let_in(request, known)
        return None

    async def _look_again(self, request: Request, value: bytes, parsed: Parsed, tried: int | None = None) -> None:
        try:
            caller = await self._caller_of(value, parsed, tried)
        except BadToken as bad:
            raise self._refusal(request, str(bad)) from None
        except GatewayError as error:
            self._goes_on(request, error.reason)
            raise
        self._let_in(request, caller)

    async def _caller_of(self, value: bytes, parsed: Parsed, tried: int | None) -> Caller:
        """
        :param tried: the generation of which no key verified it.
        :raises BadToken: if it can't be taken.
        """
        while True:
            keys = await self._keys.find(parsed.algorithm, parsed.kid, tried)
            if not keys:
                if tried is None:
                    raise BadToken("no key fits it")
                raise WrongSignature("its signature is wrong")
            generation = self._keys.generation
            try:
                claims = await verified_by(parsed, keys, self.environment)
            except WrongSignature:
                if tried is not None or not self._keys.may_change:
                    raise
                tried = generation
            else:
                return self._good(value, claims, generation)

    def _good(self, value: bytes, claims: dict[str, Any], generation: int) -> Caller:
        """
        Check what a token with the right signature says, and remember it.

        :raises BadToken: if it can't be taken.
        """
        settings = self.settings
        until = check_claims(
            claims,
            now=self._now(),
            leeway=settings.leeway,
            require=settings.require,
            issuers=settings.issuer,
            audiences=settings.audience,
        )
        caller = self._caller(claims, until, generation)
        self._known.put(value, caller)
        return caller
