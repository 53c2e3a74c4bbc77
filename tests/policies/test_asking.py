"""basic, introspection, forward_auth, auth: policies that wait for an answer, and the choice between several."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import argon2
import bcrypt
import jwt as pyjwt
import pytest
from twisted.internet.defer import Deferred, succeed

from apigw.config.problems import ConfigurationError
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.gateway.catalogue import load
from apigw.policies import api_key, auth, basic, forward_auth, introspection, jwt
from apigw.policies.consumers import ConsumerSettings
from tests.policies.surroundings import START, Outcome, World, request, run

# ---- basic -----------------------------------------------------------------------------------------------------------

BCRYPT = bcrypt.hashpw(b"opensesame", bcrypt.gensalt(4)).decode()
ARGON2 = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("pa:ss")


@pytest.fixture
def users(tmp_path: Path) -> Path:
    file = tmp_path / "users.htpasswd"
    file.write_text(f"# people\nanna:{BCRYPT}\n\nbob:{ARGON2}\n")
    return file


def credentials(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def staff(world: World, file: Path, **more: Any) -> basic.Basic:
    return basic.Basic(basic.Settings(file=str(file), **more), world.environment("basic", "staff"))


@pytest.mark.parametrize(
    ("name", "password", "status"),
    [
        ("anna", "opensesame", 200),
        ("bob", "pa:ss", 200),
        ("anna", "pa:ss", 401),
        ("anna", "", 401),
        ("nobody", "opensesame", 401),
        ("", "opensesame", 401),
        ("anna", "opensesame" + "x" * 80, 401),
        ("anna", "nul\0", 401),
    ],
)
def test_names_and_passwords(users: Path, name: str, password: str, status: int) -> None:
    outcome = run(staff(World(), users), request(headers=credentials(name, password)))
    assert outcome.status == status
    if status == 401:
        assert outcome.response.headers.get_all(b"www-authenticate") == [b'Basic realm="staff", charset="UTF-8"']


def test_a_right_password_is_computed_once_and_forgotten_in_time(users: Path) -> None:
    world = World()
    world.consumers["anna"] = ConsumerSettings(groups=("admins",))
    guard = staff(world, users, user_header="X-User", remember_for=10)
    for _ in range(3):
        outcome = run(guard, request(headers={**credentials("anna", "opensesame"), "X-User": "root"}))
        assert outcome.passed[0].headers.pairs == [(b"X-User", b"anna")]
        identity = outcome.passed[0].identity
        assert identity is not None
        assert (identity.name, identity.consumer, identity.groups) == ("anna", "anna", frozenset({"admins"}))
    assert world.in_threads == 1
    world.advance(10)
    run(guard, request(headers=credentials("anna", "opensesame")))
    assert world.in_threads == 2
    for _ in range(2):
        run(guard, request(headers=credentials("anna", "wrong")))
    assert world.in_threads == 4


def test_a_removed_user_stays_out_though_remembered(users: Path) -> None:
    world = World()
    guard = staff(world, users)
    guard.start()
    assert run(guard, request(headers=credentials("anna", "opensesame"))).status == 200
    users.write_text("broken")
    world.advance(2)
    assert run(guard, request(headers=credentials("anna", "opensesame"))).status == 200
    users.write_text(f"bob:{ARGON2}\n")
    world.advance(2)
    assert run(guard, request(headers=credentials("anna", "opensesame"))).status == 401


@pytest.mark.parametrize(
    "line",
    [
        *("anna:{SHA}abc", "anna:$apr1$x$y", "anna:plain", "no colon", ":x", "", "anna:$2y$05$abc"),
        *("anna:$argon2id$abc", f"anna:{BCRYPT}:a comment", f"anna:{BCRYPT}\nanna:{ARGON2}"),
    ],
)
def test_a_file_with_weak_hashes_or_none_is_refused_without_showing_them(tmp_path: Path, line: str) -> None:
    (tmp_path / "weak").write_text(line)
    with pytest.raises(ValueError, match="weak") as caught:
        staff(World(), tmp_path / "weak")
    assert "plain" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "Bearer x")],
        [("Authorization", "Basic !!!")],
        [("Authorization", "Basic " + base64.b64encode(b"anna").decode())],
        [("Authorization", "Basic " + base64.b64encode(b"\xff:x").decode())],
        [("Authorization", "Basic " + "A" * 5000)],
        [*credentials("anna", "opensesame").items(), *credentials("bob", "x").items()],
    ],
)
def test_malformed_credentials_get_401(users: Path, headers: list[tuple[str, str]]) -> None:
    world = World()
    assert run(staff(world, users), request(headers=headers)).status == 401
    assert world.in_threads == 0


def test_a_flood_of_passwords_waits_in_a_bounded_queue(users: Path) -> None:
    world = World()
    threads: list[Deferred[bool]] = []

    def slowly(*_: Any) -> Deferred[bool]:
        threads.append(Deferred())
        return threads[-1]

    world.call_in_thread = slowly  # type: ignore[method-assign, assignment]
    guard = staff(world, users, at_once=2, queue=3)
    outcomes = [run(guard, request(headers=credentials("anna", f"guess{n}"))) for n in range(10)]
    assert len(threads) == 2
    assert [outcome.status for outcome in outcomes[5:]] == [503] * 5
    for number in range(5):
        threads[number].callback(False)
    assert [outcome.status for outcome in outcomes[:5]] == [401] * 5


def test_equal_credentials_are_computed_once_also_when_clients_leave(users: Path) -> None:
    world = World()
    threads: list[Deferred[bool]] = []

    def slowly(*_: Any) -> Deferred[bool]:
        threads.append(Deferred())
        return threads[-1]

    world.call_in_thread = slowly  # type: ignore[method-assign, assignment]
    guard = staff(world, users, at_once=2, queue=0)
    asked = [request(headers=credentials("anna", "opensesame")) for _ in range(100)]
    outcomes = [run(guard, each) for each in asked]
    for each in asked[:50]:
        each.cancel()
    assert len(threads) == 1
    guesses = [run(guard, request(headers=credentials("anna", f"guess{number}"))) for number in range(3)]
    assert len(threads) == 2
    assert [outcome.status for outcome in guesses[1:]] == [503, 503]  # who left still counts: the thread goes on
    threads[0].callback(True)
    assert [outcome.status for outcome in outcomes[50:]] == [200] * 50


def test_an_unknown_name_takes_the_same_hash_each_time_and_not_always_the_first(users: Path) -> None:
    world = World()
    tried: dict[bytes, set[str]] = {}

    def noted(_: Any, password: bytes, hashed: bytes) -> Deferred[bool]:
        tried.setdefault(password, set()).add(hashed.decode())
        return succeed(False)

    world.call_in_thread = noted  # type: ignore[method-assign, assignment]
    guard = staff(world, users)
    for number in range(40):
        for _ in range(2):
            run(guard, request(headers=credentials(f"nobody{number}", f"{number}")))
    assert all(len(each) == 1 for each in tried.values())
    assert set().union(*tried.values()) == {BCRYPT, ARGON2}


def test_a_user_who_is_a_disabled_consumer_may_not(users: Path) -> None:
    world = World()
    world.consumers["anna"] = ConsumerSettings.model_validate({"enabled": "no"})
    outcome = run(staff(world, users), request(headers=credentials("anna", "opensesame")))
    assert (outcome.status, outcome.reason) == (403, "consumer_disabled")


# ---- introspection ---------------------------------------------------------------------------------------------------


def partners(world: World, **more: Any) -> introspection.Introspection:
    settings = introspection.Settings(
        url="https://login.example/introspect", client_id="gate way", client_secret="s:cret", **more
    )
    return introspection.Introspection(settings, world.environment("introspection", "partners"))


def show(guard: Any, token: str) -> Outcome:
    return run(guard, request(headers={"Authorization": f"Bearer {token}"}))


ACTIVE = {"active": True, "sub": "u1", "scope": "read", "client_id": "acme"}


def test_an_active_token_passes_and_is_not_asked_about_again() -> None:
    world = World()
    guard = partners(world, claims_to_headers={"sub": "X-User-Id"}, cache_ttl=30, forward_token=False)
    outcomes = [show(guard, "opaque token+1") for _ in range(5)]
    [asked] = world.asked
    assert (asked.method, asked.url) == ("POST", "https://login.example/introspect")
    assert asked.body == b"token=opaque+token%2B1&token_type_hint=access_token"
    assert asked.headers.get(b"authorization") == b"Basic " + base64.b64encode(b"gate+way:s%3Acret")
    asked.respond(json.dumps(ACTIVE).encode())
    outcomes.append(show(guard, "opaque token+1"))
    for outcome in outcomes:
        assert outcome.status == 200
        assert outcome.passed[0].headers.pairs == [(b"X-User-Id", b"u1")]
        assert outcome.passed[0].identity is not None
        assert outcome.passed[0].identity.scopes == {"read"}
    world.advance(30)
    show(guard, "opaque token+1")
    assert len(world.asked) == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"active": False}, "it is not active"),
        ({"active": "true"}, "it is not active"),
        ({}, "it is not active"),
        (ACTIVE | {"exp": START - 60}, "it is expired"),
        (ACTIVE | {"aud": "other"}, "its audience is another"),
    ],
)
def test_what_the_issuer_does_not_call_active_is_refused(answer: dict[str, Any], reason: str) -> None:
    world = World()
    world.answers = lambda asked: asked.respond(json.dumps(answer).encode())
    guard = partners(world, audience=["shop"] if "aud" in answer else ["*"], negative_ttl=5)
    for _ in range(3):
        asked = request(headers={"Authorization": "Bearer x"})
        assert run(guard, asked).status == 401
        assert (asked.notes or {})["auth"] == {"introspection partners": reason}
    assert len(world.asked) == 1
    world.advance(5)
    show(guard, "x")
    assert len(world.asked) == 2


def test_an_answer_is_not_used_beyond_the_tokens_end() -> None:
    world = World()
    world.answers = lambda asked: asked.respond(json.dumps(ACTIVE | {"exp": START + 3}).encode())
    guard = partners(world, leeway=0)
    assert show(guard, "x").status == 200
    world.advance(3)
    assert show(guard, "x").status == 401


def test_a_missing_scope_gets_403() -> None:
    world = World()
    world.answers = lambda asked: asked.respond(json.dumps(ACTIVE).encode())
    outcome = show(partners(world, scopes=["write"]), "x")
    assert (outcome.status, outcome.reason) == (403, "insufficient_scope")


def test_claims_of_an_answer_are_conditions_as_for_jwt() -> None:
    world = World()
    world.consumers["gone"] = ConsumerSettings.model_validate({"enabled": "no"})
    guard = partners(world, claims={"tenant": "acme"}, require=["sub"])
    for more, status in (
        ({"tenant": "acme"}, 200),
        ({"tenant": "x"}, 403),
        ({"tenant": "acme", "client_id": "gone"}, 403),
    ):
        world.answers = lambda asked, more=more: asked.respond(json.dumps(ACTIVE | more).encode())
        assert [show(guard, f"{more}").status for _ in range(2)] == [status] * 2


def test_an_issuer_that_is_away_is_logged_once() -> None:
    world = World()
    world.answers = lambda asked: asked.fail()
    guard = partners(world)
    assert [show(guard, f"token{number}").status for number in range(20)] == [503] * 20
    assert len(world.logged) == 1
    world.answers = lambda asked: asked.respond(json.dumps(ACTIVE).encode())
    assert show(guard, "x").status == 200
    assert len(world.logged) == 2


@pytest.mark.parametrize("body", [None, b"garbage", b"[]", b'{"active":true,"active":false}'])
def test_an_issuer_that_can_not_be_asked_gives_503_and_nothing_is_remembered(body: bytes | None) -> None:
    world = World()
    world.answers = lambda asked: asked.fail() if body is None else asked.respond(body)
    guard = partners(world)
    assert show(guard, "x").status == 503
    world.answers = lambda asked: asked.respond(json.dumps(ACTIVE).encode())
    assert show(guard, "x").status == 200


def test_a_client_that_leaves_does_not_take_the_answer_from_others() -> None:
    world = World()
    guard = partners(world)
    leaving = request(headers={"Authorization": "Bearer x"})
    run(guard, leaving)
    staying = show(guard, "x")
    leaving.cancel()
    world.asked[0].respond(json.dumps(ACTIVE).encode())
    assert staying.status == 200


def test_made_up_tokens_do_not_flood_the_issuer() -> None:
    world = World()
    guard = partners(world, at_once=3)
    outcomes = [show(guard, f"made{number}") for number in range(10)]
    assert len(world.asked) == 3
    assert [outcome.reason for outcome in outcomes[3:]] == ["busy"] * 7
    for asked in world.asked[:3]:
        asked.respond(b'{"active":false}')
    show(guard, "another")
    assert len(world.asked) == 4


# ---- forward_auth ----------------------------------------------------------------------------------------------------


def login(world: World, **more: Any) -> forward_auth.ForwardAuth:
    settings = forward_auth.Settings.model_validate({"url": "http://auth/verify", **more})
    return forward_auth.ForwardAuth(settings, world.environment("forward_auth", "login"))


def test_the_service_hears_what_was_asked_and_its_yes_carries_fields() -> None:
    world = World()
    guard = login(world, response_headers="X-User, X-Groups", identity_header="X-User", groups_header="X-Groups")
    outcome = run(
        guard,
        request(
            "POST",
            "/a/b",
            query="c=d",
            client="203.0.113.9",
            scheme="https",
            headers=[
                ("Cookie", "s=1"),
                ("X-User", "root"),
                ("X-Forwarded-Uri", "/spoofed"),
                ("Accept-Encoding", "gzip"),
            ],
        ),
    )
    [asked] = world.asked
    assert (asked.method, asked.url, asked.body) == ("GET", "http://auth/verify", b"")
    assert asked.headers.pairs == [
        (b"Cookie", b"s=1"),
        (b"X-User", b"root"),
        (b"X-Forwarded-Method", b"POST"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Host", b"localhost"),
        (b"X-Forwarded-Uri", b"/a/b?c=d"),
        (b"X-Forwarded-For", b"203.0.113.9"),
        (b"X-Request-Id", b"r1"),
    ]
    asked.respond(b"", 204, [(b"X-User", b"anna"), (b"X-Groups", b"a, b"), (b"X-Other", b"1")])
    passed = outcome.passed[0]
    assert passed.headers.get_all(b"x-user") == [b"anna"]
    assert b"x-other" not in passed.headers
    assert passed.identity is not None
    assert (passed.identity.name, passed.identity.groups) == ("anna", frozenset({"a", "b"}))


@pytest.mark.parametrize("status", [302, 401, 403, 500])
def test_any_other_answer_goes_to_the_client(status: int) -> None:
    world = World()
    outcome = run(login(world), request())
    fields = [(b"Location", b"https://login.example/?to=x"), (b"Set-Cookie", b"a=b"), (b"Content-Length", b"99")]
    world.asked[0].respond(b"who are you?", status, [*fields, (b"Content-Encoding", b"gzip")])
    assert outcome.status == status
    assert outcome.response.body == b"who are you?"
    assert outcome.response.headers.pairs == fields[:2]
    assert outcome.passed == []


def test_without_an_answer_nobody_comes_in() -> None:
    world = World()
    outcome = run(login(world), request())
    world.asked[0].fail()
    assert (outcome.status, outcome.reason) == (503, "auth_unavailable")


def test_fields_can_be_named_by_a_regular_expression_and_the_clients_own_never_pass_for_them() -> None:
    world = World()
    world.answers = lambda asked: asked.respond(b"", 200, [(b"X-Auth-User", b"anna"), (b"X-Other", b"1")])
    guard = login(world, response_headers_regex="^x-auth-", cache_by="header:Authorization")
    for spoofed in ("X-Auth-Role", "x_auth_role", "X-AUTH-USER", "X_Auth_User"):
        outcome = run(guard, request(headers={"Authorization": "a", spoofed: "admin", "X-Mine": "1"}))
        assert outcome.passed[0].headers.pairs[1:] == [(b"X-Mine", b"1"), (b"X-Auth-User", b"anna")]
    assert len(world.asked) == 1
    world.policies["forward_auth", "login"] = guard
    key, ini = api_key.new_key("acme")
    world.consumers["acme"] = ConsumerSettings.model_validate({"keys": ini.splitlines()[1].removeprefix("keys = ")})
    world.policies["api_key", ""] = api_key.APIKey(api_key.Settings(), world.environment("api_key", ""))
    either_way = auth.Auth(auth.Settings(any="api_key | forward_auth login"), world.environment("auth", "any"))
    outcome = run(either_way, request(headers={"X-API-Key": key, "X-Auth-Role": "admin"}))
    assert outcome.passed[0].headers.pairs == []


def test_the_service_gets_the_content_when_asked_for_and_the_other_service_too() -> None:
    world = World()
    guard = login(world, forward_body="yes", max_body="5", preserve_method="yes")
    outcome = run(guard, request("POST", body=b"hello"))
    assert (world.asked[0].method, world.asked[0].body) == ("POST", b"hello")
    world.asked[0].respond(b"")
    assert outcome.passed[0].body is not None
    assert outcome.passed[0].body.length == 5
    outcome = run(guard, request("POST", body=b"hello!"))
    assert (outcome.status, outcome.reason) == (413, "body_too_large")
    assert len(world.asked) == 1


@pytest.mark.parametrize("more", [{"forward_body": "yes"}, {"cookies_to_client": "yes"}])
def test_answers_that_depend_on_more_can_not_be_remembered(more: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="cache_by"):
        login(World(), cache_by="method", **more)


def test_only_chosen_fields_and_the_clients_method() -> None:
    world = World()
    run(
        login(world, request_headers="cookie", preserve_method="yes"), request("PUT", headers={"Cookie": "a", "X": "1"})
    )
    assert world.asked[0].method == "PUT"
    assert world.asked[0].headers.pairs[:2] == [(b"Cookie", b"a"), (b"X-Forwarded-Method", b"PUT")]


def test_a_yes_is_remembered_by_the_chosen_parts() -> None:
    world = World()
    world.answers = lambda asked: asked.respond(b"", 200, [(b"X-User", b"anna")])
    guard = login(
        world, cache_by="header:Authorization, cookie:s, method, path", cache_ttl="10s", response_headers="X-User"
    )

    def ask(path: str = "/", authorization: str | None = "a", cookie: str = "s=1", query: str | None = None) -> int:
        headers = {"Cookie": cookie} | ({"Authorization": authorization} if authorization else {})
        outcome = run(guard, request(path=path, query=query, headers=headers))
        assert outcome.passed[0].headers.get_all(b"x-user") == [b"anna"]
        return len(world.asked)

    assert ask() == ask() == ask(query="other") == ask(cookie="t=2; s=1") == 1
    assert ask(path="/other") == 2
    assert ask(authorization="b") == 3
    assert ask(cookie="s=2") == 4
    assert ask(authorization=None, cookie="x=1") == 5
    assert ask(authorization=None, cookie="x=1") == 6  # nothing names the sender: never remembered
    world.advance(10)
    assert ask() == 7


def test_a_no_is_not_remembered() -> None:
    world = World()
    guard = login(world, cache_by="header:Authorization")
    world.answers = lambda asked: asked.respond(b"", 401)
    assert run(guard, request(headers={"Authorization": "a"})).status == 401
    world.answers = lambda asked: asked.respond(b"", 200)
    assert run(guard, request(headers={"Authorization": "a"})).status == 200


def test_cookies_of_the_service_reach_the_client_when_asked_for() -> None:
    world = World()
    outcome = run(login(world, cookies_to_client="yes"), request())
    world.asked[0].respond(b"", 200, [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")])
    assert outcome.response.headers.get_all(b"set-cookie") == [b"a=1", b"b=2"]


def test_cookies_for_a_client_that_went_away_reach_nobody_else() -> None:
    world = World()
    guard = login(world, cookies_to_client="yes")
    run(guard, request(), lambda _request, _done: None)  # it ends without a response
    world.asked[0].respond(b"", 200, [(b"Set-Cookie", b"session=annas")])
    other = run(guard, request())
    world.asked[1].respond(b"", 200)
    assert b"set-cookie" not in other.response.headers


# ---- auth ------------------------------------------------------------------------------------------------------------

SECRET = "a secret of thirty-two bytes or more"


def either(world: World, alternatives: str = "jwt main | api_key partners") -> tuple[auth.Auth, str]:
    key, ini = api_key.new_key("acme")
    world.consumers["acme"] = ConsumerSettings.model_validate({"keys": ini.splitlines()[1].removeprefix("keys = ")})
    token_settings = jwt.Settings(secret=SECRET, claims_to_headers={"sub": "X-User-Id"}, scopes=["read"])
    world.policies["jwt", "main"] = jwt.JWT(token_settings, world.environment("jwt"))
    key_settings = api_key.Settings(consumer_header="X-Consumer")
    world.policies["api_key", "partners"] = api_key.APIKey(key_settings, world.environment("api_key", "partners"))
    world.policies["introspection", ""] = partners(world)
    return auth.Auth(auth.Settings(any=alternatives), world.environment("auth", "any")), key


def test_any_of_several_lets_in() -> None:
    guard, key = either(World())
    token = pyjwt.encode({"sub": "u1", "scope": "read"}, SECRET)
    by_token = run(guard, request(headers={"Authorization": f"Bearer {token}", "X-Consumer": "root"}))
    by_key = run(guard, request(headers={"X-API-Key": key, "X-User-Id": "root"}))
    both = run(guard, request(headers={"X-API-Key": key, "Authorization": "Bearer junk", "X-User-Id": "root"}))
    assert by_token.passed[0].identity is not None
    assert by_token.passed[0].identity.method == "jwt"
    assert b"x-consumer" not in by_token.passed[0].headers
    for outcome in (by_key, both):
        assert outcome.passed[0].identity is not None
        assert outcome.passed[0].identity.method == "api_key"
        assert outcome.passed[0].headers.get_all(b"x-consumer") == [b"acme"]
        assert b"x-user-id" not in outcome.passed[0].headers


def test_none_of_several_gives_a_plain_401_with_all_challenges_and_the_reasons_in_the_log() -> None:
    guard, _ = either(World())
    asked = request(headers={"Authorization": "Bearer junk"})
    outcome = run(guard, asked)
    assert (outcome.status, outcome.reason) == (401, "unauthenticated")
    assert outcome.response.headers.get_all(b"www-authenticate") == [
        b'Bearer realm="main", error="invalid_token"',
        b'ApiKey realm="partners"',
    ]
    assert (asked.notes or {})["auth"] == {
        "jwt main": "it does not have three parts",
        "api_key partners": "there is no key",
    }


def test_who_is_known_but_may_not_hears_that() -> None:
    guard, _ = either(World())
    token = pyjwt.encode({"sub": "u1"}, SECRET)
    assert run(guard, request(headers={"Authorization": f"Bearer {token}"})).status == 403


@pytest.mark.parametrize("alternatives", ["introspection | api_key partners", "api_key partners | introspection"])
@pytest.mark.parametrize(("active", "status"), [(True, 200), (False, 401)])
def test_one_that_waits_is_waited_for(alternatives: str, active: bool, status: int) -> None:
    world = World()
    guard, _ = either(world, alternatives)
    outcome = run(guard, request(headers={"Authorization": "Bearer x"}))
    assert outcome.responses == []
    assert outcome.passed == []
    world.asked[0].respond(json.dumps({"active": active, "sub": "u"}).encode())
    assert outcome.status == status
    assert len(outcome.passed) == (1 if active else 0)


def test_when_one_could_not_find_out_the_answer_is_503() -> None:
    world = World()
    guard, _ = either(world, "introspection | api_key partners")
    outcome = run(guard, request(headers={"Authorization": "Bearer x"}))
    world.asked[0].fail()
    assert outcome.status == 503


@pytest.mark.parametrize("alternatives", ["jwt other", "acl x", "jwt main |", "auth any | jwt main"])
def test_alternatives_that_can_not_authenticate_are_refused(alternatives: str) -> None:
    world = World()

    class Silent:
        def on_request(self, asked: Request) -> Response | None:
            return None

    world.policies["acl", "x"] = Silent()
    with pytest.raises(ValueError):
        either(world, alternatives)


MISTAKES = [
    ("auth = basic staff | api_kee", ["there is no section [basic staff]", "there is no kind of policy `api_kee`"]),
    ("auth = rate_limit x", ["`rate_limit x` does not authenticate anybody"]),
    ("auth = -jwt main", ["`-jwt main` takes a policy out, which `none` does here"]),
    ("policies = rate_limit x | api_key", ["`rate_limit x` does not authenticate"]),
    ("auth = auth any | api_key", ["an alternative can't be another `auth`"]),
]


@pytest.mark.parametrize(("option", "whats"), MISTAKES)
def test_mistakes_in_alternatives_are_told_where_they_stand(tmp_path: Path, option: str, whats: list[str]) -> None:
    file = tmp_path / "gw.ini"
    file.write_text(
        f"[route a]\npath = /\nrespond = 200\n{option}\n[auth any]\nany = api_key\n[rate_limit x]\nrate = 1/s\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        load(str(file))
    told = [str(problem) for problem in caught.value.problems]
    for what in whats:
        assert [line for line in told if line.startswith(f"{file}:4: [route a] {option.partition(' ')[0]}: {what}")], (
            told
        )
