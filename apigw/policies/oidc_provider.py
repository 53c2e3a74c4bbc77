"""
An OpenID provider, as a client sees it (OpenID Connect Core and Discovery, RFC 6749, RFC 7636).

Not here: cookies and redirects (``oidc``).
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote_plus, urlencode

from twisted.internet.defer import Deferred

from apigw.exchange.errors import GatewayError, GatewayFault
from apigw.exchange.headers import Pair
from apigw.exchange.responder import drive
from apigw.policies.key_sets import ALGORITHMS, HMAC, KeySet, RemoteKeySet
from apigw.policies.policy import Environment, FetchedResponse
from apigw.policies.signed_tokens import BadToken, Parsed, WrongSignature, check_claims, parse, verified_by
from apigw.policies.tokens import json_object

_SIGNATURES = ALGORITHMS - HMAC
_LEEWAY = 60.0
"""Seconds by which the provider's clock may differ."""


_LATER = frozenset({408, 425, 429})
"""Statuses by which a request may succeed later: no refusal."""
_OF_THE_TOKEN = frozenset((
    "iss", "sub", "aud", "azp", "exp", "iat", "nbf", "jti", "sid",
    "nonce", "auth_time", "acr", "amr", "at_hash", "c_hash",
))  # fmt: skip
"""Claims that say something of the ID token or the login: only the ID token may say them."""


class LoginRefused(Exception):
    """The provider said no; the session, or the login, is over."""


class TokenRefused(LoginRefused):
    """The token endpoint takes a code or a refresh token no more: perhaps it was used already."""


def unavailable() -> GatewayFault:
    """Nobody can log in at the moment."""
    return GatewayFault("the login service can't be reached", status=503, reason="login_unavailable")


class Provider:
    """
    One provider. Its description is fetched when it is first needed, and again after an hour; a fetch that fails
    changes nothing.
    """

    def __init__(
        self, issuer: str, client_id: str, client_secret: str, environment: Environment, *, timeout: float
    ) -> None:
        self.issuer = issuer
        self.client_id = client_id
        self._secret = client_secret
        self._environment = environment
        self._timeout = timeout
        self._known: dict[str, Any] = {}
        self._fresh_until = float("-inf")
        self._failing = False
        self._waiting: list[Deferred[None]] | None = None
        self.keys: RemoteKeySet | None = None

    def take_over(self, former: Provider) -> None:
        """Begin with what ``former`` knows, if that is the same provider."""
        if former.issuer == self.issuer and former.keys is not None:
            self._take(former._known)
            self._fresh_until = former._fresh_until
            if self.keys is not None:
                self.keys.take_over(former.keys)

    def stop(self) -> None:
        """Stop to keep the keys fresh."""
        if self.keys is not None:
            self.keys.stop()

    async def described(self) -> dict[str, Any]:
        """
        The provider's metadata.

        :raises GatewayFault: if it has never been fetched, and can't be now.
        """
        if self._environment.clock() >= self._fresh_until:
            done: Deferred[None] = Deferred()
            if self._waiting is not None:
                self._waiting.append(done)
            else:
                self._waiting = [done]
                drive(self._fetch(), lambda _: self._tell(), self._failed)
            if not self._known or done.called:
                await done
        if not self._known:
            raise unavailable()
        return self._known

    async def _fetch(self) -> None:
        url = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
        answer = await self._environment.fetch("GET", url, [(b"Accept", b"application/json")], timeout=self._timeout)
        if answer.status != 200:
            raise ValueError(f"it was answered with {answer.status}")
        document = json_object(answer.body)
        if document.get("issuer") != self.issuer:
            raise ValueError("it names another issuer")
        needed = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        missing = [name for name in needed if not isinstance(document.get(name), str)]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        self._take(document)
        if self._failing:
            self._failing = False
            self._environment.log.info("{issuer} can be discovered again", issuer=self.issuer)
        self._fresh_until = self._environment.clock() + 3600.0

    def _take(self, document: dict[str, Any]) -> None:
        if self.keys is None or self._known.get("jwks_uri") != document["jwks_uri"]:
            self.stop()
            self.keys = RemoteKeySet(
                document["jwks_uri"], self._environment, refresh=600.0, cooldown=10.0, timeout=self._timeout
            )
            self.keys.start()
        self._known = document

    def _failed(self, error: BaseException) -> None:
        self._environment.count("discovery_failed")
        if not self._failing:
            self._failing = True
            self._environment.log.error("{issuer} can't be discovered: {why}", issuer=self.issuer, why=str(error))
        self._fresh_until = self._environment.clock() + (10.0 if self._known else 2.0)
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting or [], None
        for each in waiting:
            if not each.called:
                each.callback(None)

    def check_issuer(self, told: str | None) -> None:
        """
        Is a login answered by whom it was begun at (RFC 9207)?

        :param told: the ``iss`` that came back with the code, or None.
        :raises LoginRefused: if it is another one, or is missing although the provider always tells it.
        """
        if told is None and self._known.get("authorization_response_iss_parameter_supported") is not True:
            return
        if told != self.issuer:
            raise LoginRefused("another issuer answered the login")

    async def token(self, **parameters: str) -> dict[str, Any]:
        """
        Ask the token endpoint (RFC 6749 4.1.3, 6).

        :raises TokenRefused: if it says no.
        :raises GatewayFault: if it can't be asked.
        """
        described = await self.described()
        fields: list[Pair] = [
            (b"Content-Type", b"application/x-www-form-urlencoded"),
            (b"Accept", b"application/json"),
        ]
        methods = described.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if not self._secret:
            parameters["client_id"] = self.client_id
        elif isinstance(methods, list) and "client_secret_basic" not in methods:
            parameters |= {"client_id": self.client_id, "client_secret": self._secret}
        else:
            pair = f"{quote_plus(self.client_id)}:{quote_plus(self._secret)}"
            fields.append((b"Authorization", b"Basic " + base64.b64encode(pair.encode())))
        body = urlencode(parameters).encode()
        try:
            answer = await self._environment.fetch("POST", described["token_endpoint"], fields, body, self._timeout)
        except GatewayError:
            raise unavailable() from None
        if 400 <= answer.status < 500 and answer.status not in _LATER:
            raise TokenRefused(f"the token endpoint answered with {answer.status}")
        try:
            if answer.status != 200:
                raise ValueError
            return json_object(answer.body)
        except ValueError:
            raise unavailable() from None

    async def _verified(self, keys: KeySet, parsed: Parsed) -> dict[str, Any]:
        found = await keys.find(parsed.algorithm, parsed.kid)
        tried = keys.generation
        try:
            return await verified_by(parsed, found, self._environment)
        except WrongSignature:
            found = await keys.find(parsed.algorithm, parsed.kid, tried)
            return await verified_by(parsed, found, self._environment)

    async def id_token(self, token: object, nonce: str | None) -> dict[str, Any]:
        """
        The claims of an ID token (OpenID Connect Core 3.1.3.7).

        :param nonce: what it must hold; None after a refresh, when it need not.
        :raises LoginRefused: if it can't be believed.
        """
        if not isinstance(token, str):
            raise LoginRefused("there is no ID token")
        try:
            claims = await self._signed(token.encode(), require=("iss", "sub", "aud", "exp", "iat"))
        except BadToken as bad:
            raise LoginRefused(f"the ID token: {bad}") from None
        if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") != self.client_id:
            raise LoginRefused("the ID token is for somebody else")
        if nonce is not None and claims.get("nonce") != nonce:
            raise LoginRefused("the ID token belongs to another login")
        return claims

    async def user_info(self, claims: dict[str, Any], access_token: object) -> dict[str, Any]:
        """
        The claims with those of UserInfo (OpenID Connect Core 5.3), which go before the ID token's own.

        :param claims: of the ID token.
        :raises LoginRefused: if they are somebody else's.
        :raises GatewayFault: if it can't be asked.
        """
        url = (await self.described()).get("userinfo_endpoint")
        if not isinstance(url, str):
            self._environment.log.error("{issuer} has no UserInfo", issuer=self.issuer)
            raise unavailable()
        if not isinstance(access_token, str) or not access_token.isascii() or not access_token.isprintable():
            raise LoginRefused("there is no access token to ask UserInfo with")
        fields = [(b"Authorization", b"Bearer " + access_token.encode()), (b"Accept", b"application/json")]
        try:
            answer = await self._environment.fetch("GET", url, fields, timeout=self._timeout)
            if answer.status != 200:
                raise ValueError(f"it was answered with {answer.status}")
            told = await self._user_info(answer)
        except (GatewayError, ValueError) as error:
            self._environment.count("userinfo_failed")
            self._environment.log.warn("{issuer}: no UserInfo: {why}", issuer=self.issuer, why=str(error))
            raise unavailable() from None
        if told.get("sub") != claims.get("sub"):
            raise LoginRefused("UserInfo is about somebody else")
        return claims | {name: value for name, value in told.items() if name not in _OF_THE_TOKEN}

    async def _user_info(self, answer: FetchedResponse) -> dict[str, Any]:
        """
        :raises ValueError: if it is neither a JSON object nor a token of the provider.
        """
        kind = (answer.headers.get(b"content-type") or b"").partition(b";")[0].strip().lower()
        if kind != b"application/jwt":
            return json_object(answer.body)
        try:
            return await self._signed(answer.body.strip(), require=("iss", "aud"))
        except BadToken as bad:
            raise ValueError(str(bad)) from None

    async def _signed(self, token: bytes, *, require: tuple[str, ...]) -> dict[str, Any]:
        """
        The claims of a token of the provider for this client.

        :raises BadToken: if it can't be believed.
        """
        if self.keys is None:
            raise BadToken("there are no keys")
        parsed = parse(token, _SIGNATURES, 32 * 1024)
        claims = await self._verified(self.keys, parsed)
        check_claims(
            claims,
            now=self._environment.now(),
            leeway=_LEEWAY,
            require=require,
            issuers=(self.issuer,),
            audiences=(self.client_id,),
        )
        return claims
