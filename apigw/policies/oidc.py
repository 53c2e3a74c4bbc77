"""
Lets people log in at an OpenID provider: authorization code flow with PKCE, session in an encrypted cookie.

    [oidc site]
    issuer = https://login.example
    client_id = shop
    client_secret = ${OIDC_SECRET:-change-me}
    cookie_secret = ${OIDC_COOKIE_SECRET:-a-secret-of-thirty-two-bytes-or-more}
    callback_path = /app/oidc/callback
    logout_path = /app/oidc/logout
    claims_to_headers = sub: X-User-Id, email: X-User-Email

A browser without a session is sent to the provider, and comes back by ``callback_path``; other clients get 401. Both
paths must belong to a route with this policy. The cookie is sealed (AES-256-GCM); the service never sees it. Tokens are
renewed ahead of their end. To log out clears the cookie, and ends the session at the provider as well.

Not here: talking to the provider (``oidc_provider``), what a session is (``oidc_sessions``).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

from pydantic import Field, SecretStr, model_validator

from apigw.config.text import Wrong
from apigw.config.values import URL, Duration, Secret, Word
from apigw.exchange.cookies import give
from apigw.exchange.errors import ClientFault, GatewayError
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.http.fields import is_token
from apigw.policies.edits import FieldEdit
from apigw.policies.oidc_provider import LoginRefused, Provider
from apigw.policies.oidc_sessions import Session, Sessions, SessionSettings
from apigw.policies.policy import Environment, Policy
from apigw.policies.sealed import Seal, set_cookie
from apigw.policies.tokens import (
    Ambiguous,
    Refused,
    Remembered,
    challenge,
    cookie,
    cookies_named,
    note_refusal,
)

LOGIN_TIME = 600
"""Seconds that a person may take to log in."""
MOST_LOGINS = 5
"""Logins that a browser may have under way; one more ends the oldest."""
MOST_LOGIN_BYTES = 6000
"""Bytes of the cookies of all but the newest, so that they fit into a request's head together."""
LONGEST_TARGET = 1500
"""Bytes of where a person wanted to go, to fit into a cookie with the rest; from a longer one the query is dropped."""


class Settings(SessionSettings):
    """People log in at an OpenID provider."""

    issuer: URL
    """The provider; its description is at ``/.well-known/openid-configuration`` below it."""
    client_id: Word
    """Who we are to the provider."""
    client_secret: Secret = SecretStr("")
    """Our password there; empty for a public client, which PKCE protects."""
    callback_path: Word = "/oidc/callback"
    """Where the provider sends people back to."""
    logout_path: Word = "/oidc/logout"
    """Where people log out."""
    after_logout: Word = "/"
    """Where they go then."""
    base_url: str = ""
    """How the gateway is reached from outside, like ``https://shop.example``; empty: as the request says."""
    timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """For one question to the provider."""

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        for name in ("callback_path", "logout_path", "after_logout"):
            if not getattr(self, name).startswith("/") or getattr(self, name).startswith("//"):
                raise Wrong("a path begins with one `/`", option=name)
        if "openid" not in self.scopes:
            raise Wrong("without the scope openid there is no ID token", option="scopes")
        return self


class OIDC(Policy[Settings]):
    """The policy ``oidc``."""

    authenticates = True
    gives_cookies = True
    credential_headers = frozenset({b"cookie"})

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._now = environment.now
        self._provider = Provider(
            settings.issuer,
            settings.client_id,
            settings.client_secret.get_secret_value(),
            environment,
            timeout=settings.timeout,
        )
        self._sessions = Sessions(settings, environment, self._provider)
        self._logins = Seal(settings.cookie_keys, f"login {environment.name}")
        self._login_prefix = f"{settings.cookie}_login_"
        self._callback = settings.callback_path.encode()
        self._logout = settings.logout_path.encode()
        self.identity_headers = frozenset(name.lower().encode() for name in settings.claims_to_headers.values())
        self._stripped = FieldEdit(self.identity_headers)
        self._known: Remembered[Session] = Remembered(settings.remember)

    def take_over(self, former: OIDC) -> None:
        self._provider.take_over(former._provider)

    def stop(self) -> None:
        self._provider.stop()

    # ---- the way of a request ----------------------------------------------------------------------------------------

    def on_request(self, request: Request) -> object:
        path = request.path
        if path == self._callback:
            return self._came_back(request)
        if path == self._logout:
            return self._log_out(request)
        sent = request.headers.get_all(b"cookie")
        if len(sent) == 1:
            known = self._known.get(sent[0])
            if known is not None and self._now() < known.renew_at:
                return self._let_in(request, known)
        content, stale = self._sessions.read(request)
        if content is None:
            return self._sent_away(request, "there is no session")
        if stale:
            self._set(request, content)
        session = self._sessions.opened(request, content)
        now = self._now()
        if now >= session.until:
            return self._sent_away(request, "the session is over")
        if self._sessions.revoked(content):
            return self._sent_away(request, "the session is revoked")
        if now < session.renew_at:
            if len(sent) == 1 and not stale:
                self._known.put(sent[0], session)
            return self._let_in(request, session)
        return self._renew(request, session)

    def _let_in(self, request: Request, session: Session) -> object:
        if self._sessions.revoked(session.content):
            return self._sent_away(request, "the session is revoked")
        request.identity = session.identity
        session.edit.apply(request)
        return None

    # ---- logging in --------------------------------------------------------------------------------------------------

    def _sent_away(self, request: Request, why: str) -> object:
        """Send a person to the provider; refuse whatever else has no session."""
        note_refusal(request, self.environment.label, why)
        request.given = None  # a renewed session that is of no use
        self._stripped.apply(request)
        if not _is_person(request):
            realm = self.environment.name or "oidc"
            raise Refused("a login is needed", reason="login_needed", headers=(challenge(b"Bearer", realm),))
        return self._to_provider(request)

    async def _to_provider(self, request: Request) -> Response:
        described = await self._provider.described()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        target = request.path if request.query is None else request.path + b"?" + request.query
        if len(target) > LONGEST_TARGET:
            target = request.path if len(request.path) <= LONGEST_TARGET else b"/"
        sealed = self._logins.seal(
            {
                "state": state,
                "nonce": nonce,
                "verifier": verifier,
                "target": target.decode("latin-1"),
                "until": self._now() + LOGIN_TIME,
            }
        )
        hashed = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self.settings.client_id,
                "redirect_uri": self._base(request) + self.settings.callback_path,
                "scope": " ".join(self.settings.scopes),
                "state": state,
                "nonce": nonce,
                "code_challenge": hashed,
                "code_challenge_method": "S256",
            }
        )
        url = described["authorization_endpoint"]
        stale = [self._login_field(request, each, "", 0) for each in self._stale_logins(request)]
        self._give(request, [self._login_field(request, self._login_cookie(state), sealed, LOGIN_TIME), *stale])
        return _redirect(f"{url}{'&' if '?' in url else '?'}{query}")

    def _login_cookie(self, state: str) -> str:
        # One for each login that is under way: two tabs don't disturb each other.
        return f"{self._login_prefix}{hashlib.sha256(state.encode()).hexdigest()[:12]}"

    def _stale_logins(self, request: Request) -> list[str]:
        """The names of this browser's logins that one more makes too many: the oldest."""
        begun = []
        for name, value in cookies_named(request.headers, self._login_prefix.encode()).items():
            login = self._logins.unseal(value) or {}
            begun.append((float(login.get("until", 0)), name, len(value)))
        begun.sort(reverse=True)
        room = MOST_LOGIN_BYTES
        stale = []
        for position, (_, name, length) in enumerate(begun):
            room -= length
            if (position >= MOST_LOGINS - 1 or room < 0) and is_token(name):
                stale.append(name.decode())
        return stale[:100]

    def _login_field(self, request: Request, name: str, value: str, seconds: int) -> Pair:
        # Not the callback's path: the gateway must see how many there are.
        return set_cookie(name, value, seconds, secure=self._secure(request))

    async def _came_back(self, request: Request) -> Response:
        try:
            query = parse_qs((request.query or b"").decode("latin-1"), max_num_fields=20)
        except ValueError:
            query = {}
        request.target = request.path + b"?***"  # the code is a credential, for a moment
        request.query = None
        state = query.get("state", [""])[0]
        name = self._login_cookie(state)
        try:
            sealed = cookie(request.headers, name.encode())
        except Ambiguous:
            sealed = None
        login = self._logins.unseal(sealed) if sealed else None
        if (
            login is None
            or not hmac.compare_digest(login["state"].encode(), state.encode())
            or self._now() >= login["until"]
        ):
            if (onward := self._sessions.led_to(request, state)) is not None:
                return _redirect(_on_this_site(onward))  # back in the history, after the login
            note_refusal(request, self.environment.label, "it is no login that was begun here")
            raise ClientFault("this login was not begun here, or took too long", reason="login_unknown")
        self._give(request, [self._login_field(request, name, "", 0)])
        try:
            self._provider.check_issuer(query.get("iss", [None])[0])
            if "code" not in query:
                raise LoginRefused("there is no code")
            tokens = await self._provider.token(
                grant_type="authorization_code",
                code=query["code"][0],
                redirect_uri=self._base(request) + self.settings.callback_path,
                code_verifier=login["verifier"],
            )
            claims = await self._provider.id_token(tokens.get("id_token"), login["nonce"])
            content = await self._sessions.begun(request, claims, tokens, state, login["target"])
        except LoginRefused as refused:
            note_refusal(request, self.environment.label, str(refused))
            raise ClientFault("the login failed", status=403, reason="login_failed") from None
        self._give(request, self._sessions.cookies(request, content, secure=self._secure(request)))
        return _redirect(_on_this_site(login["target"]))

    # ---- renewing ----------------------------------------------------------------------------------------------------

    async def _renew(self, request: Request, session: Session) -> Response | None:
        """Let in with new tokens."""
        fresh = await self._sessions.renewed(session.content)
        if fresh is None:
            awaited: Any = self._sent_away(request, "the session could not be renewed")
            response: Response = await awaited
            return response
        if fresh is not session.content:
            self._set(request, fresh)
        awaited = self._let_in(request, self._sessions.opened(request, fresh))
        return None if awaited is None else await awaited

    def _set(self, request: Request, content: dict[str, Any]) -> None:
        """Give the session to the client with the response."""
        request.given = None
        self._give(request, self._sessions.cookies(request, content, secure=self._secure(request)))

    @staticmethod
    def _give(request: Request, fields: list[Pair]) -> None:
        give(request, fields, session=True)

    # ---- logging out -------------------------------------------------------------------------------------------------

    async def _log_out(self, request: Request) -> Response:
        await self._sessions.end(request)
        self._give(request, self._sessions.cleared(request, secure=self._secure(request)))
        url = self.settings.after_logout
        try:
            end = (await self._provider.described()).get("end_session_endpoint")
        except GatewayError:
            end = None
        if isinstance(end, str):
            after = self._base(request) + self.settings.after_logout
            query = urlencode({"client_id": self.settings.client_id, "post_logout_redirect_uri": after})
            url = f"{end}{'&' if '?' in end else '?'}{query}"
        return _redirect(url)

    def _base(self, request: Request) -> str:
        if not self.settings.base_url and not request.host:
            raise ClientFault("there is no Host", reason="invalid_host")
        return self.settings.base_url.rstrip("/") or f"{request.scheme.decode()}://{request.host.decode('latin-1')}"

    def _secure(self, request: Request) -> bool:
        return self.settings.base_url.startswith("https:") if self.settings.base_url else request.scheme == b"https"


def _is_person(request: Request) -> bool:
    """Whether a browser asks for a page, and would follow a redirect to a login."""
    if request.method not in {b"GET", b"HEAD"}:
        return False
    mode = request.headers.get(b"sec-fetch-mode")
    return mode == b"navigate" if mode is not None else b"text/html" in (request.headers.joined(b"accept") or b"")


def _on_this_site(target: str) -> str:
    return "/" if not target.startswith("/") or target.startswith(("//", "/\\")) else target


def _redirect(url: str) -> Response:
    return Response(303, Headers([(b"Location", url.encode()), (b"Cache-Control", b"no-store")]))
