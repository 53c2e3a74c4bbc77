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

Not here: talking to the provider (``oidc_provider``), sealing (``sealed``).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode
from weakref import WeakKeyDictionary

from pydantic import Field, SecretStr, model_validator
from twisted.internet.defer import Deferred

from apigw.config.text import Wrong
from apigw.config.values import URL, Count, Duration, Flag, HeaderName, Pairs, Secret, StrList, Word
from apigw.exchange.errors import ClientFault, GatewayError, GatewayFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Identity, Request
from apigw.exchange.responder import drive
from apigw.exchange.response import Response
from apigw.policies.edits import FieldEdit
from apigw.policies.oidc_provider import LoginRefused, Provider
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.sealed import Seal, SessionCookies, set_cookie
from apigw.policies.tokens import (
    Ambiguous,
    Refused,
    Remembered,
    challenge,
    claim_at,
    cookie,
    field_value,
    note_refusal,
    without_cookies,
    words,
)

LOGIN_TIME = 600
"""Seconds that a person may take to log in."""
LONGEST_TARGET = 1500
"""Bytes of where a person wanted to go, to fit into a cookie with the rest; from a longer one the query is dropped."""
AHEAD = 30.0
"""Seconds ahead of its end at which an access token is renewed."""


class Settings(PolicySettings):
    """People log in at an OpenID provider."""

    issuer: URL
    """The provider; its description is at ``/.well-known/openid-configuration`` below it."""
    client_id: Word
    """Who we are to the provider."""
    client_secret: Secret = SecretStr("")
    """Our password there; empty for a public client, which PKCE protects."""
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
    callback_path: Word = "/oidc/callback"
    """Where the provider sends people back to."""
    logout_path: Word = "/oidc/logout"
    """Where people log out."""
    after_logout: Word = "/"
    """Where they go then."""
    base_url: str = ""
    """How the gateway is reached from outside, like ``https://shop.example``; empty: as the request says."""
    identity_claim: Word = "sub"
    """The claim of the ID token that is the person's name."""
    groups_claim: Word = "groups"
    """The claim with the person's groups."""
    claims: StrList = ()
    """Further claims to keep in the session, for policies behind this one."""
    claims_to_headers: Pairs[HeaderName] = Field({})
    """``claim: Header``: told to the service; whatever the client sends under these names is removed."""
    forward_access_token: Flag = False
    """Whether the service gets the access token, as ``Authorization: Bearer``."""
    timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """For one question to the provider."""
    remember: Count = 10000
    """How many opened sessions are remembered."""

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        for name in ("cookie_secret", "previous_cookie_secret"):
            secret: SecretStr = getattr(self, name)
            if (secret or name == "cookie_secret") and len(secret.get_secret_value().encode()) < 32:
                raise Wrong("a cookie's secret has at least 32 bytes", option=name)
        for name in ("callback_path", "logout_path", "after_logout"):
            if not getattr(self, name).startswith("/") or getattr(self, name).startswith("//"):
                raise Wrong("a path begins with one `/`", option=name)
        if "openid" not in self.scopes:
            raise Wrong("without the scope openid there is no ID token", option="scopes")
        return self


class _Session:
    """An opened session: what the cookie holds, and what follows from it."""

    __slots__ = ("content", "edit", "identity", "renew_at", "until")

    def __init__(self, content: dict[str, Any], identity: Identity, edit: FieldEdit, *, renew_at: float) -> None:
        self.content = content
        self.identity = identity
        self.edit = edit
        self.renew_at = renew_at
        self.until = float(content["until"])


class OIDC(Policy[Settings]):
    """The policy ``oidc``."""

    authenticates = True

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
        keys = [each.get_secret_value() for each in (settings.cookie_secret, settings.previous_cookie_secret) if each]
        self._cookies = SessionCookies(settings.cookie, Seal(keys, f"session {environment.name}"))
        self._logins = Seal(keys, f"login {environment.name}")
        self._callback = settings.callback_path.encode()
        self._logout = settings.logout_path.encode()
        self.identity_headers = frozenset(name.lower().encode() for name in settings.claims_to_headers.values())
        self._stripped = FieldEdit(self.identity_headers)
        self._kept = {"sub", settings.identity_claim, settings.groups_claim, *settings.claims}
        self._kept |= set(settings.claims_to_headers)
        self._known: Remembered[_Session] = Remembered(settings.remember)
        self._renewing: dict[str, list[Deferred[dict[str, Any] | None]]] = {}
        # Sessions renewed a moment ago: requests that are under way still carry the old cookie.
        self._renewed: dict[str, tuple[dict[str, Any], float]] = {}
        # By the request itself, not its id(): one that ends without a response must leave nothing for the next.
        self._to_set: WeakKeyDictionary[Request, list[Pair]] = WeakKeyDictionary()

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
        content, stale = self._opened(request)
        if content is None:
            return self._sent_away(request, "there is no session")
        if stale:
            self._set(request, content)
        session = self._session(request, content)
        now = self._now()
        if now >= session.until:
            return self._sent_away(request, "the session is over")
        if self._revoked(content):
            return self._sent_away(request, "the session is revoked")
        if now < session.renew_at:
            if len(sent) == 1 and not stale:
                self._known.put(sent[0], session)
            return self._let_in(request, session)
        return self._renew(request, session)

    def on_response(self, request: Request, response: Response) -> Response:
        if self._to_set:
            fields = self._to_set.pop(request, None)
            if fields:
                headers = response.edit_headers()
                for name, value in fields:
                    headers.add(name, value)
        return response

    def _let_in(self, request: Request, session: _Session) -> object:
        if self._revoked(session.content):
            return self._sent_away(request, "the session is revoked")
        request.identity = session.identity
        session.edit.apply(request)
        return None

    def _revoked(self, content: dict[str, Any]) -> bool:
        # By when the person logged in, not by when that was renewed: to renew a session does not undo its revocation.
        revocations = self.environment.revocations
        return revocations is not None and revocations.revoked(
            content["id"], content["claims"].get("sub"), content.get("since", content["at"])
        )

    def _opened(self, request: Request) -> tuple[dict[str, Any] | None, bool]:
        """What the session cookie holds, or None; and whether that was renewed since, and should be set again."""
        content = self._cookies.read(request)
        if content is not None:
            renewed = self._renewed.get(content["id"])
            if renewed is not None and renewed[0]["at"] > content["at"] and self._now() < renewed[1]:
                return renewed[0], True
        return content, False

    def _session(self, request: Request, content: dict[str, Any]) -> _Session:
        claims = content["claims"]
        settings = self.settings
        name = claim_at(claims, settings.identity_claim)
        identity = Identity(
            name=name if isinstance(name, str) else "",
            method="oidc",
            groups=words(claim_at(claims, settings.groups_claim)),
            scopes=words(content.get("scope")),
            claims=claims,
        )
        rest = Headers(request.headers.pairs)
        without_cookies(rest, self._cookies.names)
        add = [(b"Cookie", value) for value in rest.get_all(b"cookie")]
        add += [
            (name.encode(), field_value(value))
            for claim, name in settings.claims_to_headers.items()
            if (value := claim_at(claims, claim)) is not None
        ]
        removed = self.identity_headers | {b"cookie"}
        ends = content.get("ends")
        if settings.forward_access_token:
            removed |= {b"authorization"}
            add.append((b"Authorization", b"Bearer " + content["access"].encode()))
        renew_at = float(content["until"])
        if ends is not None and ("refresh" in content or settings.forward_access_token):
            renew_at = min(renew_at, ends - AHEAD)
        return _Session(content, identity, FieldEdit(removed, tuple(add)), renew_at=renew_at)

    # ---- logging in --------------------------------------------------------------------------------------------------

    def _sent_away(self, request: Request, why: str) -> object:
        """Send a person to the provider; refuse whatever else has no session."""
        note_refusal(request, self.environment.label, why)
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
        name = self._login_cookie(state)
        fields = [set_cookie(name, sealed, LOGIN_TIME, path=self.settings.callback_path, secure=self._secure(request))]
        return _redirect(f"{url}{'&' if '?' in url else '?'}{query}", fields)

    def _login_cookie(self, state: str) -> str:
        # One for each login that is under way: two tabs don't disturb each other.
        return f"{self.settings.cookie}_login_{hashlib.sha256(state.encode()).hexdigest()[:12]}"

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
            note_refusal(request, self.environment.label, "it is no login that was begun here")
            raise ClientFault("this login was not begun here, or took too long", reason="login_unknown")
        forget = set_cookie(name, "", 0, path=self.settings.callback_path, secure=self._secure(request))
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
        except LoginRefused as refused:
            note_refusal(request, self.environment.label, str(refused))
            raise ClientFault("the login failed", status=403, reason="login_failed", headers=(forget,)) from None
        now = self._now()
        begun = {"id": secrets.token_urlsafe(16), "since": now, "until": now + self.settings.session_timeout}
        content = self._content(claims, tokens, begun)
        target = login["target"]
        if not target.startswith("/") or target.startswith(("//", "/\\")):
            target = "/"
        return _redirect(target, [forget, *self._session_cookies(request, content)])

    def _content(self, claims: dict[str, Any], tokens: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
        """
        What the session cookie will hold.

        :param begun: ``id``, ``since`` and ``until`` of the session.
        """
        roots = {path if path in claims else path.partition(".")[0] for path in self._kept}
        now = self._now()
        content: dict[str, Any] = {
            "id": begun["id"],
            "since": begun.get("since", begun.get("at")),
            "until": begun["until"],
            "at": now,
            "claims": {name: value for name, value in claims.items() if name in roots},
            "scope": tokens.get("scope", " ".join(self.settings.scopes)),
        }
        lifetime = tokens.get("expires_in")
        if isinstance(lifetime, int | float):
            content["ends"] = now + lifetime
        if isinstance(tokens.get("refresh_token"), str):
            content["refresh"] = tokens["refresh_token"]
        if self.settings.forward_access_token:
            if not isinstance(tokens.get("access_token"), str) or not tokens["access_token"].isprintable():
                raise GatewayFault("the login service gave no access token", status=502, reason="login_unavailable")
            content["access"] = tokens["access_token"]
        return content

    # ---- renewing ----------------------------------------------------------------------------------------------------

    async def _renew(self, request: Request, session: _Session) -> Response | None:
        """Get new tokens; one question for all requests of the session."""
        content = session.content
        number = content["id"]
        if "refresh" in content:
            mine: Deferred[dict[str, Any] | None] = Deferred()
            waiting = self._renewing.get(number)
            if waiting is not None:
                waiting.append(mine)
            else:
                self._renewing[number] = [mine]
                drive(
                    self._asked_anew(content),
                    lambda fresh: self._tell(number, fresh),
                    lambda error: self._renewal_failed(number, content, error),
                )
            fresh = await mine
        else:
            fresh = None  # only the access token ends, and the service needs it
        if fresh is None:
            awaited: Any = self._sent_away(request, "the session could not be renewed")
            response: Response = await awaited
            return response
        if fresh is not content:
            self._set(request, fresh)
        awaited = self._let_in(request, self._session(request, fresh))
        return None if awaited is None else await awaited

    async def _asked_anew(self, content: dict[str, Any]) -> dict[str, Any]:
        tokens = await self._provider.token(grant_type="refresh_token", refresh_token=content["refresh"])
        claims = content["claims"]
        if "id_token" in tokens:
            claims = await self._provider.id_token(tokens["id_token"], None)
            if claims["sub"] != content["claims"].get("sub"):
                raise LoginRefused("the new ID token is somebody else's")
        tokens.setdefault("refresh_token", content["refresh"])
        return self._content(claims, tokens, content)

    def _tell(self, number: str, fresh: dict[str, Any] | None) -> None:
        now = self._now()
        if fresh is not None:
            if len(self._renewed) >= 1000:
                self._renewed = {key: each for key, each in self._renewed.items() if each[1] > now}
            self._renewed[number] = (fresh, now + 60.0)
        for each in self._renewing.pop(number):
            if not each.called:
                each.callback(fresh)

    def _renewal_failed(self, number: str, content: dict[str, Any], error: BaseException) -> None:
        self.environment.count("renewal_failed")
        # The provider's "no" ends the session. If it can't be reached, the session goes on as long as its token does.
        goes_on = not isinstance(error, LoginRefused) and self._now() < content["ends"]
        if not isinstance(error, LoginRefused | GatewayError):
            self.environment.log.error("a session could not be renewed: {why}", why=type(error).__name__)
        for each in self._renewing.pop(number):
            if not each.called:
                each.callback(content if goes_on else None)

    def _set(self, request: Request, content: dict[str, Any]) -> None:
        """Give the session to the client with the response."""
        self._to_set[request] = self._session_cookies(request, content)

    def _session_cookies(self, request: Request, content: dict[str, Any]) -> list[Pair]:
        left = max(1, int(content["until"] - self._now()))
        return self._cookies.fields(request, content, left, secure=self._secure(request))

    # ---- logging out -------------------------------------------------------------------------------------------------

    async def _log_out(self, request: Request) -> Response:
        content, _ = self._opened(request)
        revocations = self.environment.revocations
        if content is not None:
            self._renewed.pop(content["id"], None)
            if revocations is not None:
                await revocations.revoke_token(content["id"], content["until"])
        fields = self._cookies.cleared(request, secure=self._secure(request))
        url = self.settings.after_logout
        try:
            end = (await self._provider.described()).get("end_session_endpoint")
        except GatewayError:
            end = None
        if isinstance(end, str):
            after = self._base(request) + self.settings.after_logout
            query = urlencode({"client_id": self.settings.client_id, "post_logout_redirect_uri": after})
            url = f"{end}{'&' if '?' in end else '?'}{query}"
        return _redirect(url, fields)

    def _base(self, request: Request) -> str:
        return self.settings.base_url.rstrip("/") or f"{request.scheme.decode()}://{request.host.decode('latin-1')}"

    def _secure(self, request: Request) -> bool:
        return self._base(request).startswith("https:")


def _is_person(request: Request) -> bool:
    """Whether a browser asks for a page, and would follow a redirect to a login."""
    if request.method not in {b"GET", b"HEAD"}:
        return False
    mode = request.headers.get(b"sec-fetch-mode")
    return mode == b"navigate" if mode is not None else b"text/html" in (request.headers.joined(b"accept") or b"")


def _redirect(url: str, fields: list[Pair]) -> Response:
    return Response(303, Headers([(b"Location", url.encode()), (b"Cache-Control", b"no-store"), *fields]))
