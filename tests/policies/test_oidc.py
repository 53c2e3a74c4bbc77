from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from apigw.exchange.errors import GatewayFault
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.exchange.responder import Done
from apigw.exchange.response import Response
from apigw.policies import auth, jwt
from apigw.policies.oidc import OIDC, Settings
from apigw.policies.policy import Shadow, layer
from apigw.policies.revocation import Revocations, RevocationSettings
from apigw.policies.sealed import Seal
from tests.policies.surroundings import Asked, Outcome, World, request, run

ISSUER = "https://login.example"
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
COOKIE_SECRET = "a cookie secret of thirty-two bytes!"
DESCRIPTION = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize?tenant=1",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/jwks",
    "userinfo_endpoint": f"{ISSUER}/userinfo",
    "end_session_endpoint": f"{ISSUER}/logout",
}


class Provider:
    """A provider that answers as it should, or as it is told."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.answers = self.answer
        self.key = KEY
        self.claims: dict[str, Any] = {}
        self.tokens: dict[str, Any] = {}
        self.status = 200
        self.info: Any = None
        self.kid: str | None = None
        self.without: set[str] = set()
        self.nonce = ""
        self.away: set[str] = set()
        self.questions: list[dict[str, str]] = []

    def answer(self, asked: Asked) -> None:
        path = urlsplit(asked.url).path
        if path in self.away:
            asked.fail()
        elif path == "/.well-known/openid-configuration":
            asked.respond(json.dumps(DESCRIPTION).encode())
        elif path == "/jwks":
            key = json.loads(pyjwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
            asked.respond(json.dumps({"keys": [key]}).encode())
        elif path == "/userinfo":
            signed = isinstance(self.info, str)
            body = self.info.encode() if signed else json.dumps(self.info).encode()
            asked.respond(body, 200, [(b"Content-Type", b"application/jwt" if signed else b"application/json")])
        else:
            assert path == "/token"
            self.questions.append({name: value[0] for name, value in parse_qs(asked.body.decode()).items()})
            now = int(self.world.now())
            claims = {"iss": ISSUER, "sub": "u1", "aud": "shop", "iat": now, "exp": now + 300, "nonce": self.nonce}
            claims |= {"email": "a@b", "groups": ["staff"], **self.claims}
            number = len(self.questions)
            tokens = {
                "id_token": pyjwt.encode(claims, self.key, "ES256", {"kid": self.kid} if self.kid else None),
                "access_token": f"access{number}",
                "refresh_token": f"refresh{number}",
                "expires_in": 300,
                **self.tokens,
            }
            for name in self.without:
                del tokens[name]
            asked.respond(json.dumps(tokens).encode(), self.status)


class RotatingProvider(Provider):
    """Takes each refresh token once."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.used: set[str] = set()

    def answer(self, asked: Asked) -> None:
        shown = parse_qs(asked.body.decode()).get("refresh_token", [""])[0]
        if shown in self.used:
            asked.respond(b'{"error": "invalid_grant"}', 400)
            return
        if shown:
            self.used.add(shown)
        super().answer(asked)


class Browser:
    """Keeps cookies, and follows nowhere by itself."""

    def __init__(self, guard: Any, *, scheme: str = "https") -> None:
        self.guard = guard
        self.scheme = scheme
        self.cookies: dict[str, str] = {}
        self.attributes: list[str] = []

    def get(self, path: str, query: str | None = None, **headers: str) -> Outcome:
        fields = {"Sec-Fetch-Mode": "navigate", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookies:
            fields["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        outcome = run(self.guard, request(path=path, query=query, headers=fields, scheme=self.scheme))
        self.keep(outcome.response)
        return outcome

    def keep(self, response: Response) -> None:
        for line in response.headers.get_all(b"set-cookie"):
            pair, _, attributes = line.decode().partition("; ")
            self.attributes.append(attributes)
            name, _, value = pair.partition("=")
            if "Max-Age=0" in attributes:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value

    def log_in(self, provider: Provider, path: str = "/app", query: str | None = None) -> Outcome:
        sent = location(self.get(path, query))
        provider.nonce = sent["nonce"]
        return self.get("/oidc/callback", f"code=c0de&state={sent['state']}")


def location(outcome: Outcome) -> dict[str, str]:
    assert outcome.status == 303
    url = outcome.response.headers.get(b"location") or b""
    return {name: values[0] for name, values in parse_qs(urlsplit(url.decode()).query).items()}


def policy(world: World, **more: Any) -> OIDC:
    needed = {"issuer": ISSUER, "client_id": "shop", "client_secret": "pssst", "cookie_secret": COOKIE_SECRET}
    settings = Settings.model_validate(needed | more)
    return OIDC(settings, world.environment("oidc", "site"))


def test_a_person_logs_in_and_the_service_hears_who_it_is() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world, claims_to_headers={"sub": "X-User-Id", "email": "X-Email"}))
    away = browser.get("/app/page", "a=1")
    url = urlsplit((away.response.headers.get(b"location") or b"").decode())
    assert (url.scheme, url.netloc, url.path) == ("https", "login.example", "/authorize")
    sent = location(away)
    assert sent["tenant"] == "1"
    assert (sent["response_type"], sent["client_id"], sent["scope"]) == ("code", "shop", "openid")
    assert sent["redirect_uri"] == "https://localhost/oidc/callback"
    assert sent["code_challenge_method"] == "S256"
    assert away.response.headers.get(b"cache-control") == b"no-store"
    provider.nonce = sent["nonce"]
    back = browser.get("/oidc/callback", f"code=c0de&state={sent['state']}")
    assert back.response.headers.get(b"location") == b"/app/page?a=1"
    [question] = provider.questions
    assert question["grant_type"] == "authorization_code"
    assert (question["code"], question["redirect_uri"]) == ("c0de", sent["redirect_uri"])
    challenge = base64.urlsafe_b64encode(hashlib.sha256(question["code_verifier"].encode()).digest()).rstrip(b"=")
    assert challenge.decode() == sent["code_challenge"]
    asked = next(each for each in world.asked if each.url.endswith("/token"))
    assert asked.headers.get(b"authorization") == b"Basic " + base64.b64encode(b"shop:pssst")
    assert list(browser.cookies) == ["apigw_session"]  # the login's own cookie is gone
    assert all("HttpOnly; SameSite=Lax; Secure" in each for each in browser.attributes)
    browser.cookies["theme"] = "dark"
    for _ in range(2):
        passed = browser.get("/app/page", X_User_Id="root").passed[0]
        assert passed.headers.get_all(b"x-user-id") == [b"u1"]
        assert passed.headers.get_all(b"x-email") == [b"a@b"]
        assert passed.headers.get_all(b"cookie") == [b"theme=dark"]
        assert passed.identity is not None
        assert (passed.identity.name, passed.identity.method, sorted(passed.identity.groups)) == (
            "u1",
            "oidc",
            ["staff"],
        )


def test_without_a_host_there_is_no_login_but_sessions_hold() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    asked = request(headers={"Sec-Fetch-Mode": "navigate"})
    asked.host = b""  # HTTP/1.0
    assert run(browser.guard, asked).reason == "invalid_host"
    assert run(policy(world, base_url="https://shop.example"), asked).status == 303
    browser.log_in(provider)
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    within = request(headers={"Cookie": cookies}, scheme="https")
    within.host = b""
    world.advance(280)  # it is renewed
    assert run(browser.guard, within).status == 200


def test_what_is_no_person_gets_401_and_no_redirect() -> None:
    world = World()
    Provider(world)
    guard = policy(world)
    for asked in (
        request("POST", headers={"Sec-Fetch-Mode": "navigate"}),
        request(headers={"Sec-Fetch-Mode": "cors", "Accept": "text/html"}),
        request(headers={"Accept": "application/json"}),
    ):
        outcome = run(guard, asked)
        assert (outcome.status, outcome.reason) == (401, "login_needed")
    assert run(guard, request(headers={"Accept": "text/html,*/*"})).status == 303


@pytest.mark.parametrize(
    "query", [None, "", "state=x&code=y", "code=y", "state=%FF%FE&code=y", "&".join(f"a{n}=1" for n in range(50))]
)
def test_a_callback_that_nobody_began_is_refused(query: str | None) -> None:
    world = World()
    Provider(world)
    browser = Browser(policy(world))
    browser.get("/app")
    outcome = browser.get("/oidc/callback", query)
    assert (outcome.status, outcome.reason) == (400, "login_unknown")


def test_a_login_can_not_be_finished_by_another_browser_nor_too_late() -> None:
    world = World()
    provider = Provider(world)
    guard = policy(world)
    mine, other = Browser(guard), Browser(guard)
    sent = location(mine.get("/app"))
    provider.nonce = sent["nonce"]
    assert other.get("/oidc/callback", f"code=c&state={sent['state']}").status == 400
    world.advance(600)
    assert mine.get("/oidc/callback", f"code=c&state={sent['state']}").status == 400
    assert provider.questions == []


def test_two_tabs_can_log_in_at_once() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    first, second = location(browser.get("/one")), location(browser.get("/two"))
    provider.nonce = first["nonce"]
    one = browser.get("/oidc/callback", f"code=c&state={first['state']}")
    provider.nonce = second["nonce"]
    two = browser.get("/oidc/callback", f"code=c&state={second['state']}")
    assert (one.response.headers.get(b"location"), two.response.headers.get(b"location")) == (b"/one", b"/two")


@pytest.mark.parametrize(
    "change",
    [
        {"claims": {"nonce": "other"}},
        {"claims": {"iss": "https://evil.example"}},
        {"claims": {"aud": "other"}},
        {"claims": {"aud": ["shop", "other"]}},
        {"claims": {"exp": 1}},
        {"claims": {"sub": None}},
        {"key": OTHER_KEY},
        {"tokens": {"id_token": None}},
        {"tokens": {"id_token": pyjwt.encode({"sub": "u1"}, "k" * 32, "HS256")}},
        {"status": 400},
    ],
)
def test_a_login_whose_proof_does_not_hold_fails(change: dict[str, Any]) -> None:
    world = World()
    provider = Provider(world)
    for name, value in change.items():
        setattr(provider, name, value)
    browser = Browser(policy(world))
    outcome = browser.log_in(provider)
    assert (outcome.status, outcome.reason) == (403, "login_failed")
    assert browser.cookies == {}


def test_a_person_who_refuses_is_not_let_in() -> None:
    world = World()
    Provider(world)
    browser = Browser(policy(world))
    sent = location(browser.get("/app"))
    assert browser.get("/oidc/callback", f"error=access_denied&state={sent['state']}").status == 403


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example"])
def test_nobody_is_sent_to_another_site_after_the_login(path: str) -> None:
    world = World()
    provider = Provider(world)
    outcome = Browser(policy(world)).log_in(provider, path)
    assert outcome.response.headers.get(b"location") == b"/"


def test_a_forged_or_foreign_cookie_is_no_session() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    good = browser.cookies["apigw_session"]
    other = Seal(["x" * 32], "session main").seal({"claims": {"sub": "root"}})
    first = "B" if good[0] == "A" else "A"
    for bad in ("", "x", good[:-4] + "AAAA", first + good[1:], good + "A", other, "\xe9"):
        browser.cookies = {"apigw_session": bad}
        assert browser.get("/app").status == 303, bad
    browser.cookies = {"apigw_session": good}
    assert browser.get("/app").status == 200
    twice = f"apigw_session={good}; apigw_session=x"
    assert run(browser.guard, request(headers={"Sec-Fetch-Mode": "navigate", "Cookie": twice})).status == 303


def test_the_cookies_secret_can_be_exchanged() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    browser.guard = policy(world, previous_cookie_secret=COOKIE_SECRET, cookie_secret="n" * 32)
    assert browser.get("/app").status == 200
    browser.guard = policy(world, cookie_secret="n" * 32)
    assert browser.get("/app").status == 303


def test_a_session_ends() -> None:
    world = World()
    provider = Provider(world)
    provider.tokens = {"refresh_token": None}
    browser = Browser(policy(world, session_timeout=3600))
    browser.log_in(provider)
    world.advance(3599)
    assert browser.get("/app").status == 200
    world.advance(1)
    assert browser.get("/app").status == 303


def test_tokens_are_renewed_ahead_once_for_all_requests() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world, forward_access_token=True))
    browser.log_in(provider)
    assert browser.get("/app").passed[0].headers.get(b"authorization") == b"Bearer access1"
    old = dict(browser.cookies)
    world.advance(270)
    world.answers = None
    outcomes = []
    for _ in range(5):
        cookies = "; ".join(f"{name}={value}" for name, value in old.items())
        outcomes.append(run(browser.guard, request(path="/app", headers={"Cookie": cookies})))
    asked = world.asked[-1]
    assert sum(each.url.endswith("/token") for each in world.asked) == 2
    provider.answer(asked)
    assert provider.questions[-1] == {"grant_type": "refresh_token", "refresh_token": "refresh1"}
    for outcome in outcomes:
        assert outcome.passed[0].headers.get(b"authorization") == b"Bearer access2"
        assert outcome.response.headers.get(b"set-cookie") is not None
    # One that was under way with the old cookie gets the new one as well; the new one is what is used from now on.
    late = browser.get("/app")
    assert late.passed[0].headers.get(b"authorization") == b"Bearer access2"
    assert browser.cookies != old
    quiet = browser.get("/app")
    assert quiet.passed[0].headers.get(b"authorization") == b"Bearer access2"
    assert b"set-cookie" not in quiet.response.headers
    assert len(provider.questions) == 2


def test_no_cache_may_keep_an_answer_with_a_renewed_session() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    world.advance(280)

    def service(_request: Request, done: Done) -> None:
        done(Response(200, Headers([(b"Cache-Control", b"public, s-maxage=60"), (b"Expires", b"tomorrow")])))

    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    outcome = run(browser.guard, request(path="/app", headers={"Cookie": cookies}), service)
    assert b"set-cookie" in outcome.response.headers
    assert outcome.response.headers.get_all(b"cache-control") == [b"private, no-store"]
    assert outcome.response.headers.get_all(b"vary") == [b"Cookie"]
    assert b"expires" not in outcome.response.headers


def test_a_provider_that_says_no_to_a_renewal_ends_the_session_when_its_token_ends() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    world.advance(280)
    provider.status = 400
    assert browser.get("/app").status == 200
    world.advance(19)
    assert browser.get("/app").status == 200
    world.advance(1)
    assert browser.get("/app").status == 303
    assert len(provider.questions) == 2  # what was refused once is not asked for again


def test_of_two_gateways_with_one_secret_both_let_in_while_one_renews() -> None:
    world = World()
    provider = RotatingProvider(world)
    guards = [policy(world, forward_access_token=True), policy(world, forward_access_token=True)]
    browser = Browser(guards[0])
    browser.log_in(provider)
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    world.advance(280)
    outcomes = [run(guard, request(path="/app", headers={"Cookie": cookies})) for guard in guards * 5]
    assert [each.status for each in outcomes] == [200] * 10
    tokens = {bytes(each.passed[0].headers.get(b"authorization") or b"") for each in outcomes}
    assert tokens == {b"Bearer access1", b"Bearer access2"}
    renewed = next(each for each in outcomes if each.response.headers.get(b"set-cookie"))
    browser.keep(renewed.response)
    for guard in guards:
        browser.guard = guard
        for _ in range(3):
            world.advance(100)
            assert browser.get("/app").status == 200


def test_a_provider_that_is_busy_is_asked_again_seldom() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    world.advance(280)
    provider.status = 429
    for _ in range(5):
        assert browser.get("/app").status == 200
    assert len(provider.questions) == 2
    world.advance(6)
    provider.status = 200
    assert browser.get("/app").status == 200
    assert len(provider.questions) == 3
    world.advance(200)
    assert browser.get("/app").status == 200


@pytest.mark.parametrize("said", ["300", " 300 ", 300.0, "3e2", None, "soon", True, -5, [300]])
def test_a_lifetime_is_read_leniently_or_is_the_id_tokens(said: object) -> None:
    world = World()
    provider = Provider(world)
    provider.tokens = {"expires_in": said}
    browser = Browser(policy(world))
    browser.log_in(provider)
    world.advance(269)
    assert browser.get("/app").status == 200
    assert len(provider.questions) == 1
    world.advance(1)
    assert browser.get("/app").status == 200
    assert len(provider.questions) == 2


def test_a_renewal_without_id_token_and_lifetime_goes_by_the_lifetime_before() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    world.advance(270)
    provider.tokens = {"expires_in": None, "id_token": None}
    provider.without = {"id_token"}
    for count in range(2, 5):
        assert browser.get("/app").status == 200
        assert len(provider.questions) == count
        world.advance(270)


def test_a_token_of_a_few_seconds_is_not_renewed_with_every_request() -> None:
    world = World()
    provider = Provider(world)
    provider.tokens = {"expires_in": 20}
    browser = Browser(policy(world))
    browser.log_in(provider)
    for _ in range(5):
        assert browser.get("/app").status == 200
    assert len(provider.questions) == 1
    world.advance(16)
    assert browser.get("/app").status == 200
    assert len(provider.questions) == 2


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({}, 200),
        ({"nonce": "another"}, 303),
        ({"nonce": None}, 200),
        ({"sub": "u2"}, 303),
        ({"aud": ["shop"]}, 200),
        ({"aud": ["shop", "till"], "azp": "shop"}, 303),
        ({"azp": "till"}, 200),
        ({"iss": "https://evil.example"}, 303),
    ],
)
def test_a_renewed_id_token_is_of_the_same_login(claims: dict[str, Any], status: int) -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    provider.claims = claims
    world.advance(280)
    assert browser.get("/app").status == status


def test_keys_that_can_not_be_fetched_at_a_renewal_lose_no_refresh_token() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    provider.away = {"/jwks"}
    provider.kid = "new"
    world.advance(280)
    assert browser.get("/app").status == 200
    world.advance(280)
    assert browser.get("/app").status == 200
    assert provider.questions[-1]["refresh_token"] == "refresh2"


class TestUserInfo:
    def test_its_claims_go_before_those_of_the_id_token_but_not_before_what_they_prove(self) -> None:
        world = World()
        provider = Provider(world)
        provider.info = {"sub": "u1", "email": "new@b", "groups": ["admins"], "iss": "x", "exp": 1, "aud": "x"}
        browser = Browser(policy(world, userinfo=True, claims_to_headers={"email": "X-Email"}))
        assert browser.log_in(provider).status == 303
        passed = browser.get("/app").passed[0]
        assert passed.headers.get(b"x-email") == b"new@b"
        assert passed.identity is not None
        assert passed.identity.groups == {"admins"}
        asked = next(each for each in world.asked if each.url.endswith("/userinfo"))
        assert asked.headers.get(b"authorization") == b"Bearer access1"

    def test_it_is_not_asked_unless_that_is_configured(self) -> None:
        world = World()
        provider = Provider(world)
        provider.info = {"sub": "u1", "email": "new@b"}
        Browser(policy(world)).log_in(provider)
        assert not any(each.url.endswith("/userinfo") for each in world.asked)

    def test_a_signed_answer_is_verified(self) -> None:
        world = World()
        provider = Provider(world)
        told = {"sub": "u1", "email": "new@b", "iss": ISSUER, "aud": "shop"}
        for key, status in ((KEY, 303), (OTHER_KEY, 503)):
            provider.info = pyjwt.encode(told, key, "ES256")
            browser = Browser(policy(world, userinfo=True))
            assert browser.log_in(provider).status == status

    @pytest.mark.parametrize(
        ("info", "status"),
        [({"sub": "u2"}, 403), ({}, 403), ("garbage", 503), ([], 503), (None, 503)],
    )
    def test_a_login_fails_with_it(self, info: object, status: int) -> None:
        world = World()
        provider = Provider(world)
        provider.info = info
        browser = Browser(policy(world, userinfo=True))
        assert browser.log_in(provider).status == status
        assert "apigw_session" not in browser.cookies

    def test_a_renewal_asks_again_and_goes_on_without_it(self) -> None:
        world = World()
        provider = Provider(world)
        provider.info = {"sub": "u1", "department": "one"}
        browser = Browser(policy(world, userinfo=True, claims_to_headers={"department": "X-Department"}))
        browser.log_in(provider)
        provider.info = {"sub": "u1", "department": "two"}
        world.advance(280)
        browser.get("/app")
        assert browser.get("/app").passed[0].headers.get(b"x-department") == b"two"
        provider.away = {"/userinfo"}
        world.advance(280)
        assert browser.get("/app").passed[0].headers.get(b"x-department") == b"two"
        world.advance(280)
        assert browser.get("/app").status == 200
        provider.away = set()
        provider.info = {"sub": "u2"}
        world.advance(280)
        assert browser.get("/app").status == 303


def test_begun_logins_are_bounded_and_the_oldest_end() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    begun = []
    for number in range(100):
        begun.append(location(browser.get(f"/page{number}", "q=" + "x" * (number * 15))))
        world.advance(1)
        assert len(browser.cookies) <= 5
        assert sum(map(len, browser.cookies.values())) < 9000
    provider.nonce = begun[0]["nonce"]
    assert browser.get("/oidc/callback", f"code=c&state={begun[0]['state']}").status == 400
    provider.nonce = begun[-1]["nonce"]
    assert browser.get("/oidc/callback", f"code=c&state={begun[-1]['state']}").status == 303


def test_a_login_that_is_under_way_is_not_shown_to_the_service() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    session = dict(browser.cookies)
    browser.cookies = {"theme": "dark"}
    browser.get("/other")
    assert len(browser.cookies) == 2
    browser.cookies |= session
    assert browser.get("/app").passed[0].headers.get_all(b"cookie") == [b"theme=dark"]


def test_back_at_the_callback_a_person_goes_on_to_where_the_login_was_for() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    first, second = location(browser.get("/one", "a=1")), location(browser.get("/two"))
    for sent in (first, second):
        provider.nonce = sent["nonce"]
        browser.get("/oidc/callback", f"code=c&state={sent['state']}")
    world.advance(280)
    assert browser.get("/app").status == 200  # renewed
    questions = len(provider.questions)
    for state, target in ((first["state"], b"/one?a=1"), (second["state"], b"/two"), ("unknown", b"/")):
        back = browser.get("/oidc/callback", f"code=c&state={state}")
        assert back.status == 303
        assert back.response.headers.get(b"location") == target
    assert len(provider.questions) == questions
    browser.cookies = {}
    assert browser.get("/oidc/callback", f"code=c&state={first['state']}").status == 400


def test_a_provider_that_is_away_does_not_end_sessions_before_their_time() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    provider.away = {"/token"}
    world.advance(280)
    assert browser.get("/app").status == 200
    world.advance(30)
    assert browser.get("/app").status == 303


def test_without_the_provider_nobody_logs_in_but_sessions_hold() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    guard = browser.guard = policy(world)
    provider.away = {"/.well-known/openid-configuration"}
    assert browser.get("/app").status == 200
    stranger = Browser(guard).get("/app")
    assert (stranger.status, stranger.reason) == (503, "login_unavailable")


def test_what_is_known_of_the_provider_outlives_a_reload() -> None:
    world = World()
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    guard = policy(world, session_timeout=3600)
    provider.away = {"/.well-known/openid-configuration", "/jwks"}
    guard.take_over(browser.guard)
    assert Browser(guard).log_in(provider).status == 303
    other = policy(world, issuer="https://other.example")
    other.take_over(browser.guard)
    assert Browser(other).get("/app").status == 503


def test_logging_out_clears_the_cookie_here_and_ends_the_session_there() -> None:
    world = World()
    world.revocations = Revocations(RevocationSettings(), world.store, world.clock, world.now, world.later)
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    stolen = dict(browser.cookies)
    assert browser.get("/app").status == 200
    out = browser.get("/oidc/logout")
    assert (out.response.headers.get(b"location") or b"").startswith(b"https://login.example/logout?client_id=shop&")
    assert browser.cookies == {}
    browser.cookies = stolen
    assert browser.get("/app").status == 303


async def test_to_renew_a_session_does_not_undo_its_revocation() -> None:
    world = World()
    world.revocations = Revocations(RevocationSettings(), world.store, world.clock, world.now, world.later)
    provider = Provider(world)
    browser = Browser(policy(world))
    browser.log_in(provider)
    world.advance(280)
    assert browser.get("/app").status == 200  # renewed
    world.advance(1)
    await world.revocations.revoke_subject("u1")
    assert browser.get("/app").status == 303
    world.advance(290)
    questions = len(provider.questions)
    assert browser.get("/app").status == 303
    assert len(provider.questions) == questions
    assert browser.log_in(provider).status == 303
    assert browser.get("/app").status == 200  # who logs in again comes in


def test_a_login_that_another_issuer_answers_fails() -> None:
    world = World()
    provider = Provider(world)
    for told, status in (("&iss=https://evil.example", 403), ("&iss=https://login.example", 303), ("", 303)):
        browser = Browser(policy(world))
        sent = location(browser.get("/app"))
        provider.nonce = sent["nonce"]
        assert browser.get("/oidc/callback", f"code=c&state={sent['state']}{told}").status == status


@pytest.mark.parametrize(("path", "query", "to"), [("/app", "a" * 5000, "/app"), ("/" + "a" * 5000, None, "/")])
def test_a_long_way_to_go_fits_into_a_cookie(path: str, query: str | None, to: str) -> None:
    world = World()
    browser = Browser(policy(world))
    provider = Provider(world)
    sent = location(browser.get(path, query))
    assert max(map(len, browser.cookies.values())) < 3500
    provider.nonce = sent["nonce"]
    back = browser.get("/oidc/callback", f"code=c&state={sent['state']}")
    assert back.response.headers.get(b"location") == to.encode()


def test_a_provider_that_is_away_is_asked_and_logged_seldom() -> None:
    world = World()
    provider = Provider(world)
    provider.away = {"/.well-known/openid-configuration"}
    browser = Browser(policy(world))
    for _ in range(50):
        assert browser.get("/app").status == 503
    assert (len(world.asked), len(world.logged)) == (1, 1)
    world.advance(2)
    assert browser.get("/app").status == 503
    assert (len(world.asked), len(world.logged)) == (2, 1)
    provider.away = set()
    world.advance(2)
    assert browser.get("/app").status == 303


def test_a_large_session_takes_several_cookies() -> None:
    world = World()
    provider = Provider(world)
    noise = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(100))
    provider.claims = {"big": noise}
    browser = Browser(policy(world, claims=["big"]))
    browser.log_in(provider)
    assert set(browser.cookies) == {"apigw_session", "apigw_session_1"}
    assert all(len(value) <= 3500 for value in browser.cookies.values())
    passed = browser.get("/app").passed[0]
    assert b"cookie" not in passed.headers
    assert passed.identity is not None
    assert passed.identity.claims["big"] == noise
    browser.get("/oidc/logout")
    assert browser.cookies == {}


def test_no_secret_is_left_in_notes_logs_or_targets() -> None:
    world = World()
    provider = Provider(world)
    guard = policy(world)
    browser = Browser(guard)
    sent = location(browser.get("/app"))
    provider.nonce = "wrong"
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    asked = request(path="/oidc/callback", query=f"code=c0de&state={sent['state']}", headers={"Cookie": cookies})
    outcome = run(guard, asked)
    left = repr(asked) + repr(asked.notes) + repr(asked.target) + repr(world.logged) + repr(outcome.response.body)
    for secret in ("c0de", sent["state"], "pssst", COOKIE_SECRET, "access1", "refresh1"):
        assert secret not in left
    assert "pssst" not in repr(guard.settings)


def test_beside_tokens_a_person_is_sent_to_the_login_and_a_renewed_cookie_arrives() -> None:
    world = World()
    provider = Provider(world)
    world.policies["oidc", "site"] = policy(world)
    secret = "a secret of thirty-two bytes or more"
    world.policies["jwt", "main"] = jwt.JWT(jwt.Settings(secret=secret), world.environment("jwt"))
    guard = auth.Auth(auth.Settings(any="oidc site | jwt main"), world.environment("auth", "any"))
    token = pyjwt.encode({"sub": "u1"}, secret)
    assert run(guard, request(headers={"Authorization": f"Bearer {token}"})).status == 200
    assert run(guard, request()).status == 401
    browser = Browser(guard)
    browser.log_in(provider)
    old = dict(browser.cookies)
    world.advance(280)
    assert browser.get("/app").status == 200
    assert browser.cookies != old


def test_a_login_that_is_not_sent_to_the_client_sets_no_cookie() -> None:
    world = World()
    provider = Provider(world)
    world.policies["oidc", "site"] = policy(world)
    secret = "a secret of thirty-two bytes or more"
    world.policies["jwt", "main"] = jwt.JWT(jwt.Settings(secret=secret), world.environment("jwt"))
    guard = auth.Auth(auth.Settings(any="oidc site | jwt main"), world.environment("auth", "any"))
    token = pyjwt.encode({"sub": "u1"}, secret)
    page = {"Sec-Fetch-Mode": "navigate"}
    beside = run(guard, request(headers={"Authorization": f"Bearer {token}", **page}))
    shadow = policy(world, mode="shadow")
    tried = run(layer(shadow, shadow.settings, shadow.environment), request(headers=page))
    for outcome in (beside, tried):
        assert outcome.status == 200
        assert outcome.response.headers.pairs == [(b"Content-Type", b"text/plain")]
    sent_away = run(guard, request(headers=page))
    assert sent_away.status == 303
    assert sent_away.response.headers.get(b"set-cookie") is not None
    browser = Browser(guard)
    provider.status = 400
    assert browser.log_in(provider).status == 403
    assert browser.cookies == {}  # the login's own is taken back with the refusal


def test_a_session_that_is_renewed_behind_a_policy_in_shadow_arrives() -> None:
    class Refuses:
        async def respond(self, asked: Request, next_: Any) -> Response:
            await next_(asked)
            raise GatewayFault("no", reason="no")

    world = World()
    provider = Provider(world)
    guard = policy(world)
    browser = Browser(guard)
    browser.log_in(provider)
    world.advance(280)
    old = dict(browser.cookies)
    browser.guard = [Shadow(Refuses(), world.environment("python", "mine")), guard]
    assert browser.get("/app").status == 200
    assert browser.cookies != old


@pytest.mark.parametrize(
    "settings",
    [
        {"cookie_secret": "short"},
        {"issuer": "login.example"},
        {"callback_path": "oidc"},
        {"after_logout": "//evil.example"},
        {"scopes": ["email"]},
        {"previous_cookie_secret": "short"},
    ],
)
def test_settings_that_can_not_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        policy(World(), **settings)
