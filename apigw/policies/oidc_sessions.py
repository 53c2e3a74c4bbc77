"""
Sessions of people who logged in at an OpenID provider: in an encrypted cookie, and renewed ahead of their tokens' end.

A cookie's content: ``id``, ``since`` (the login), ``at`` (the last renewal) and ``until`` (its end), ``claims``,
``scope``, and what the provider gave: ``ends`` (of the access token), ``refresh``, ``access``. ``bound`` is what
renewed ID tokens must agree with, ``logins`` where the last logins led to.

Not here: logging in and out (``oidc``), sealing (``sealed``).
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated, Any

from pydantic import Field, SecretStr, model_validator

from apigw.config.text import Wrong
from apigw.config.values import Count, Duration, Flag, HeaderName, Pairs, Secret, StrList, Word
from apigw.exchange.claims import claim_at, field_value, words
from apigw.exchange.errors import GatewayError, GatewayFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Identity, Request
from apigw.policies.asked_once import AskedOnce
from apigw.policies.edits import FieldEdit
from apigw.policies.oidc_provider import LoginRefused, Provider, TokenRefused
from apigw.policies.policy import Environment, PolicySettings
from apigw.policies.sealed import Seal, SessionCookies
from apigw.policies.tokens import without_cookies

AHEAD = 30.0
"""Seconds ahead of its end at which an access token is renewed."""
OVERLAP = 60.0
"""Seconds for which a renewed session is given to whoever still shows the old cookie."""
LIFETIME = 3600.0
"""Seconds of an access token of which nothing is said."""
AGAIN = 5.0
"""Seconds after a renewal that failed until the next one is tried."""
MOST_LOGINS = 3
"""Logins whose callback leads on to where they led, should it be visited again."""
LONGEST_TARGET = 300
"""Bytes of where such a login led to; from a longer one the query is dropped."""


class SessionSettings(PolicySettings):
    """What may be said of sessions."""

    scopes: StrList = ("openid",)
    """What is asked for; ``offline_access`` often brings a refresh token."""
    cookie_secret: Secret
    """What the cookie is sealed with, at least 32 bytes; the same in all processes and machines."""
    previous_cookie_secret: Secret = SecretStr("")
    """The one before it, while cookies sealed by it are about."""
    cookie: Word = "apigw_session"
    """The session cookie's name."""
    session_timeout: Annotated[Duration, Field(ge=60)] = 28800.0
    """After this time a person logs in again, whatever the tokens say."""
    identity_claim: Word = "sub"
    """The claim of the ID token that is the person's name."""
    groups_claim: Word = "groups"
    """The claim with the person's groups."""
    claims: StrList = ()
    """Further claims to keep in the session, for policies behind this one."""
    claims_to_headers: Pairs[HeaderName] = Field({})
    """``claim: Header``: told to the service; whatever the client sends under these names is removed."""
    userinfo: Flag = False
    """Whether the provider's UserInfo is asked for further claims, at the login and at each renewal."""
    forward_access_token: Flag = False
    """Whether the service gets the access token, as ``Authorization: Bearer``."""
    remember: Count = 10000
    """How many opened sessions are remembered."""

    @model_validator(mode="after")
    def _secrets_are_long(self) -> SessionSettings:
        for name in ("cookie_secret", "previous_cookie_secret"):
            secret: SecretStr = getattr(self, name)
            if (secret or name == "cookie_secret") and len(secret.get_secret_value().encode()) < 32:
                raise Wrong("a cookie's secret has at least 32 bytes", option=name)
        return self

    @property
    def cookie_keys(self) -> list[str]:
        """What seals, and what else unseals."""
        return [each.get_secret_value() for each in (self.cookie_secret, self.previous_cookie_secret) if each]


class Session:
    """An opened session: what the cookie holds, and what follows from it."""

    __slots__ = ("content", "edit", "identity", "renew_at", "until")

    def __init__(self, content: dict[str, Any], identity: Identity, edit: FieldEdit, *, renew_at: float) -> None:
        self.content = content
        self.identity = identity
        self.edit = edit
        self.renew_at = renew_at
        self.until = float(content["until"])


class Sessions:
    """All sessions of one policy."""

    def __init__(self, settings: SessionSettings, environment: Environment, provider: Provider) -> None:
        self._settings = settings
        self._environment = environment
        self._now = environment.now
        self._provider = provider
        self._cookies = SessionCookies(settings.cookie, Seal(settings.cookie_keys, f"session {environment.name}"))
        self._removed = frozenset(name.lower().encode() for name in settings.claims_to_headers.values()) | {b"cookie"}
        self._kept = {"sub", settings.identity_claim, settings.groups_claim, *settings.claims}
        self._kept |= set(settings.claims_to_headers)
        self._renewing: AskedOnce[dict[str, Any] | None] = AskedOnce()
        # Sessions renewed a moment ago: requests that are under way still carry the old cookie.
        self._renewed: dict[str, tuple[dict[str, Any], float]] = {}
        # Sessions whose renewal failed a moment ago, by id and last renewal: until when no other is tried.
        self._failed: dict[tuple[str, float], float] = {}
        self._login_cookies = f"{settings.cookie}_login_".encode()

    def read(self, request: Request) -> tuple[dict[str, Any] | None, bool]:
        """What the session cookie holds, or None; and whether that was renewed since, and should be set again."""
        content = self._cookies.read(request)
        if content is not None:
            renewed = self._renewed.get(content["id"])
            if renewed is not None and renewed[0]["at"] > content["at"] and self._now() < renewed[1]:
                return renewed[0], True
        return content, False

    def opened(self, request: Request, content: dict[str, Any]) -> Session:
        """The session of a cookie's content, for this request and those with equal cookies."""
        claims = content["claims"]
        settings = self._settings
        name = claim_at(claims, settings.identity_claim)
        identity = Identity(
            name=name if isinstance(name, str) else "",
            method="oidc",
            groups=words(claim_at(claims, settings.groups_claim)),
            scopes=words(content.get("scope")),
            claims=claims,
        )
        rest = Headers(request.headers.pairs)
        without_cookies(rest, self._cookies.names, self._login_cookies)
        add = [(b"Cookie", value) for value in rest.get_all(b"cookie")]
        add += [
            (name.encode(), field_value(value))
            for claim, name in settings.claims_to_headers.items()
            if (value := claim_at(claims, claim)) is not None
        ]
        removed = self._removed
        ends = content.get("ends")
        if settings.forward_access_token:
            removed |= {b"authorization"}
            add.append((b"Authorization", b"Bearer " + content["access"].encode()))
        renew_at = float(content["until"])
        if ends is not None and ("refresh" in content or settings.forward_access_token):
            lifetime = ends - content["at"]
            renew_at = min(renew_at, ends - (AHEAD if lifetime > AHEAD else lifetime / 4))
        return Session(content, identity, FieldEdit(removed, tuple(add)), renew_at=renew_at)

    def revoked(self, content: dict[str, Any]) -> bool:
        """Whether it is on the list of revoked sessions and subjects."""
        # By when the person logged in, not by when that was renewed: to renew a session does not undo its revocation.
        revocations = self._environment.revocations
        return revocations is not None and revocations.revoked(
            content["id"], content["claims"].get("sub"), content.get("since", content["at"])
        )

    async def begun(
        self, request: Request, claims: dict[str, Any], tokens: dict[str, Any], state: str, target: str
    ) -> dict[str, Any]:
        """
        The content of a session that begins now.

        :param claims: of the ID token. :param state: the login's. :param target: where it led to.
        :raises LoginRefused: if UserInfo is about somebody else. :raises GatewayFault: if it can't be asked.
        """
        now = self._now()
        former = self.read(request)[0] or {}
        logins = former.get("logins", [])[: MOST_LOGINS - 1]
        begun = {
            "id": secrets.token_urlsafe(16),
            "since": now,
            "until": now + self._settings.session_timeout,
            "bound": _bound(claims),
            "logins": [[_digest(state), _short(target)], *logins],
        }
        if self._settings.userinfo:
            claims = await self._provider.user_info(claims, tokens.get("access_token"))
        return self._content(claims, tokens, begun)

    def led_to(self, request: Request, state: str) -> str | None:
        """Where the login with this state led to, ``/`` if that is not known, or None if nobody is logged in."""
        content, _ = self.read(request)
        if content is None or self._now() >= content["until"] or self.revoked(content):
            return None
        target: str = dict(content.get("logins", ())).get(_digest(state), "/")
        return target

    def _content(self, claims: dict[str, Any], tokens: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
        """
        What the session cookie will hold.

        :param begun: what stays over renewals: ``id``, ``since``, ``until``, ``bound``, ``logins``.
        """
        roots = {path if path in claims else path.partition(".")[0] for path in self._kept}
        now = self._now()
        content: dict[str, Any] = {name: begun[name] for name in ("id", "until", "bound", "logins") if name in begun}
        content |= {
            "since": begun.get("since", begun.get("at")),
            "at": now,
            "claims": {name: value for name, value in claims.items() if name in roots},
            "scope": tokens.get("scope", " ".join(self._settings.scopes)),
        }
        lifetime = seconds(tokens.get("expires_in"))
        if isinstance(tokens.get("refresh_token"), str):
            content["refresh"] = tokens["refresh_token"]
            if lifetime is None and "id_token" in tokens:
                lifetime = seconds(claims.get("exp", 0) - now)
            lifetime = lifetime or (begun["ends"] - begun["at"] if "ends" in begun else LIFETIME)
        if lifetime is not None:
            content["ends"] = now + lifetime
        if self._settings.forward_access_token:
            if not isinstance(tokens.get("access_token"), str) or not tokens["access_token"].isprintable():
                raise GatewayFault("the login service gave no access token", status=502, reason="login_unavailable")
            content["access"] = tokens["access_token"]
        return content

    async def renewed(self, content: dict[str, Any]) -> dict[str, Any] | None:
        """
        The content with new tokens, asked for once for all requests of the session; or as it was, if it can't be
        renewed and its token has not ended; or None if it is over.
        """
        if "refresh" not in content:
            return None  # only the access token ends, and the service needs it
        if self._now() < self._failed.get((content["id"], content["at"]), 0.0):
            return self._while_good(content)
        return await self._renewing.ask(content["id"], lambda: self._renew(content))

    def _while_good(self, content: dict[str, Any]) -> dict[str, Any] | None:
        return content if self._now() < content["ends"] else None

    async def _renew(self, content: dict[str, Any]) -> dict[str, Any] | None:
        now = self._now()
        try:
            fresh = await self._asked_anew(content)
        except Exception as error:
            self._environment.count("renewal_failed")
            if isinstance(error, LoginRefused) and not isinstance(error, TokenRefused):
                self._environment.log.warn("a session ends at its renewal: {why}", why=str(error))
                return None
            if not isinstance(error, GatewayError | TokenRefused):
                self._environment.log.error("a session could not be renewed: {why}", why=type(error).__name__)
            # Another gateway may have renewed it, and the browser has the new cookie by then: so it is not over yet.
            _put(self._failed, (content["id"], content["at"]), self._wait(content, error), now)
            return self._while_good(content)
        now = self._now()
        if len(self._renewed) >= 1000:
            self._renewed = {key: each for key, each in self._renewed.items() if each[1] > now}
        self._renewed[content["id"]] = (fresh, now + OVERLAP)
        return fresh

    def _wait(self, content: dict[str, Any], error: Exception) -> float:
        """Until when no other renewal is tried: a refused refresh token will be refused again."""
        now = self._now()
        return max(now, content["ends"]) + OVERLAP if isinstance(error, TokenRefused) else now + AGAIN

    async def _asked_anew(self, content: dict[str, Any]) -> dict[str, Any]:
        tokens = await self._provider.token(grant_type="refresh_token", refresh_token=content["refresh"])
        claims = content["claims"]
        tokens.setdefault("refresh_token", content["refresh"])
        try:
            if "id_token" in tokens:
                fresh = await self._provider.id_token(tokens["id_token"], None)
                _check_same(fresh, content)
                claims = fresh
            if self._settings.userinfo:
                claims = await self._provider.user_info(claims, tokens.get("access_token"))
        except GatewayError:
            # The old refresh token may be used up, so the new one must not be lost: the claims can come later.
            claims = content["claims"] | claims
        return self._content(claims, tokens, content)

    async def end(self, request: Request) -> None:
        """Let whoever has the session's cookie come in no more, if there is a list of revoked sessions."""
        content, _ = self.read(request)
        revocations = self._environment.revocations
        if content is not None:
            self._renewed.pop(content["id"], None)
            if revocations is not None:
                await revocations.revoke_token(content["id"], content["until"])

    def cookies(self, request: Request, content: dict[str, Any], *, secure: bool) -> list[Pair]:
        """
        The fields that give a session to the client.

        :raises GatewayFault: if it is too much for cookies.
        """
        left = max(1, int(content["until"] - self._now()))
        return self._cookies.fields(request, content, left, secure=secure)

    def cleared(self, request: Request, *, secure: bool) -> list[Pair]:
        """The fields that take it away."""
        return self._cookies.cleared(request, secure=secure)


def seconds(value: object) -> float | None:
    """A lifetime as a number or, as some providers write it, as text; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 < number < 1e10 else None


def _short(target: str) -> str:
    """A target, or what of it is short enough to be sent with every request."""
    path = target.partition("?")[0]
    return target if len(target) <= LONGEST_TARGET else path if len(path) <= LONGEST_TARGET else "/"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _bound(claims: dict[str, Any]) -> dict[str, Any]:
    """What of an ID token a renewed one must agree with (OpenID Connect Core 12.2)."""
    nonce, party = claims.get("nonce"), claims.get("azp")
    bound = {"aud": _audience(claims)}
    if isinstance(nonce, str):
        bound["nonce"] = hashlib.sha256(nonce.encode()).hexdigest()
    return bound | ({"azp": party} if isinstance(party, str) else {})


def _audience(claims: dict[str, Any]) -> Any:
    audience = claims["aud"]
    return sorted(set(audience)) if isinstance(audience, list) else [audience]


def _check_same(claims: dict[str, Any], content: dict[str, Any]) -> None:
    """
    :raises LoginRefused: if a renewed ID token is not of the login that the session began with.
    """
    if claims["sub"] != content["claims"].get("sub"):
        raise LoginRefused("the new ID token is somebody else's")
    now, bound = _bound(claims), content.get("bound")
    if bound is None:  # a session of an older version
        return
    if now["aud"] != bound["aud"] or now.get("azp", bound.get("azp")) != bound.get("azp", now.get("azp")):
        raise LoginRefused("the new ID token is for somebody else")
    if "nonce" in now and now["nonce"] != bound.get("nonce"):
        raise LoginRefused("the new ID token belongs to another login")


def _put(known: dict[tuple[str, float], float], key: tuple[str, float], until: float, now: float) -> None:
    if len(known) >= 1000:
        for each in [each for each, end in known.items() if end <= now] or [next(iter(known))]:
            del known[each]
    known[key] = until
