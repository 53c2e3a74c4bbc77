from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from apigw.policies.consumers import ConsumerSettings
from apigw.policies.jwt import JWT, Settings
from apigw.policies.key_sets import ALGORITHMS, VERIFIERS, from_jwk
from apigw.policies.policy import layer
from apigw.policies.revocation import Revocations, RevocationSettings
from apigw.policies.signed_tokens import BadToken, parse
from tests.policies.surroundings import START, Outcome, World, request, run

SECRET = "a secret of thirty-two bytes or more"
VECTORS = json.loads((Path(__file__).parent / "rfc_vectors.json").read_text())
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
SIGNERS: dict[str, Any] = {
    "RS256": RSA, "RS384": RSA, "RS512": RSA, "PS256": RSA, "PS384": RSA, "PS512": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()), "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()), "ES256K": ec.generate_private_key(ec.SECP256K1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}  # fmt: skip


def pem(key: Any) -> bytes:
    raw: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return raw


def url64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    return pyjwt.encode(claims, key, algorithm, headers=header)


def handmade(header: str, content: str | bytes, secret: str = SECRET) -> str:
    """A token whose parts are exactly as written, rightly signed by HS256."""
    raw = content.encode() if isinstance(content, str) else content
    text = f"{url64(header.encode())}.{url64(raw)}"
    return f"{text}.{url64(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))}"


def policy(world: World | None = None, **settings: Any) -> JWT:
    if not settings.keys() & {"secret", "public_key", "jwks"}:
        settings["secret"] = SECRET
    return JWT(Settings(**settings), (world or World()).environment("jwt"))


def show(guard: JWT, token: str, *more: tuple[str, str], **kwargs: Any) -> Outcome:
    return run(guard, request(headers=[("Authorization", f"Bearer {token}"), *more], **kwargs))


def why(outcome_of: JWT, token: str) -> Any:
    asked = request(headers={"Authorization": f"Bearer {token}"})
    run(outcome_of, asked)
    return (asked.notes or {}).get("auth", {}).get("jwt main")


# ---- what is taken ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_token_signed_by_the_secret_passes(algorithm: str) -> None:
    guard = policy(secret="s" * 64, algorithms=[algorithm])
    outcome = show(guard, signed({"sub": "u1"}, "s" * 64, algorithm))
    assert outcome.status == 200
    assert outcome.passed[0].identity is not None
    assert outcome.passed[0].identity.name == "u1"


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_token_signed_by_the_private_key_passes(algorithm: str, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(SIGNERS[algorithm]))
    guard = policy(public_key=str(tmp_path / "key.pem"), algorithms=[algorithm])
    assert show(guard, signed({"sub": "u1"}, SIGNERS[algorithm], algorithm)).status == 200


def test_ed448_passes(tmp_path: Path) -> None:
    key = ed448.Ed448PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(pem(key))
    assert show(policy(public_key=str(tmp_path / "key.pem")), signed({}, key, "EdDSA")).status == 200


def test_several_keys_may_stand_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "keys.pem").write_bytes(pem(OTHER_RSA) + pem(RSA) + pem(SIGNERS["ES256"]))
    guard = policy(public_key=str(tmp_path / "keys.pem"))
    assert show(guard, signed({}, RSA, "RS256")).status == 200
    assert show(guard, signed({}, SIGNERS["ES256"], "ES256")).status == 200


def test_a_secret_can_be_exchanged_while_tokens_of_the_old_one_are_about() -> None:
    guard = policy(secret="n" * 32, previous_secret=SECRET)
    assert show(guard, signed({})).status == 200
    assert show(guard, signed({}, "n" * 32)).status == 200


@pytest.mark.parametrize("vector", VECTORS, ids=lambda each: each["name"])
def test_the_vectors_of_the_rfcs_verify(vector: dict[str, Any]) -> None:
    key = from_jwk(vector["key"], secrets=True)
    parsed = parse(vector["token"].encode(), ALGORITHMS, 8192)
    assert parsed.algorithm in key.algorithms
    verify = VERIFIERS[parsed.algorithm].verify
    assert verify(parsed.signed, key.material, parsed.signature)
    assert not verify(parsed.signed[:-1], key.material, parsed.signature)
    assert not verify(parsed.signed, key.material, parsed.signature[:-1] + bytes([parsed.signature[-1] ^ 1]))


@pytest.mark.parametrize("vector", VECTORS[:3], ids=lambda each: each["name"])
def test_the_rfc_examples_with_claims_pass_until_they_end(vector: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [vector["key"]]}))
    world = World()
    guard = policy(world, jwks=str(tmp_path / "keys.json"), issuer=["joe"], leeway=0)
    assert why(guard, vector["token"]) == "it is expired"
    world.time -= START - 1_300_819_379
    assert show(guard, vector["token"]).status == 200
    world.time += 1
    assert show(guard, vector["token"]).status == 401


# ---- attacks ---------------------------------------------------------------------------------------------------------

GOOD = handmade('{"alg":"HS256"}', '{"sub":"u1"}')
ATTACKS = {
    "none": url64(b'{"alg":"none"}') + ".e30.",
    "none with a signature": handmade('{"alg":"none"}', "{}"),
    "None in capitals": handmade('{"alg":"NONE"}', "{}"),
    "no alg": handmade("{}", "{}"),
    "alg is a list": handmade('{"alg":["HS256"]}', "{}"),
    "unknown alg": handmade('{"alg":"HS257"}', "{}"),
    "wrong secret": handmade('{"alg":"HS256"}', "{}", "x" * 32),
    "no signature": GOOD.rpartition(".")[0] + ".",
    "two parts": GOOD.rpartition(".")[0],
    "four parts": GOOD + ".e30",
    "encrypted": "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..aaaa.bbbb.cccc",
    "empty": "",
    "dots": "..",
    "many dots": "." * 5000,
    "padding": GOOD + "=",
    "standard base64": GOOD.replace(".", "+.", 1),
    "a character that lax decoders drop": GOOD.replace(".", "!.", 1),
    "a line end that lax decoders drop": GOOD[:5] + "\t" + GOOD[5:],
    "crit": handmade('{"alg":"HS256","crit":["exp"],"exp":1}', "{}"),
    "empty crit": handmade('{"alg":"HS256","crit":[]}', "{}"),
    "unencoded content": handmade('{"alg":"HS256","b64":false,"crit":["b64"]}', "{}"),
    "nested": handmade('{"alg":"HS256","cty":"JWT"}', "{}"),
    "compressed": handmade('{"alg":"HS256","zip":"DEF"}', "{}"),
    "alg twice": handmade('{"alg":"none","alg":"HS256"}', "{}"),
    "sub twice": handmade('{"alg":"HS256"}', '{"sub":"a","sub":"b"}'),
    "header is a list": handmade('["HS256"]', "{}"),
    "claims are a list": handmade('{"alg":"HS256"}', "[]"),
    "claims are no JSON": handmade('{"alg":"HS256"}', "{'sub': 1}"),
    "claims are not UTF-8": handmade('{"alg":"HS256"}', b'{"sub":"\xff"}'),
    "NaN": handmade('{"alg":"HS256"}', '{"exp":NaN}'),
    "exp is infinite": handmade('{"alg":"HS256"}', '{"exp":1e999}'),
    "exp is text": handmade('{"alg":"HS256"}', '{"exp":"9999999999"}'),
    "exp is true": handmade('{"alg":"HS256"}', '{"exp":true}'),
    "exp is null": handmade('{"alg":"HS256"}', '{"exp":null}'),
    "exp is huge": handmade('{"alg":"HS256"}', '{"exp":' + "9" * 5000 + "}"),
    "deep": handmade('{"alg":"HS256"}', '{"a":' + "[" * 2500 + "]" * 2500 + "}"),
    "deep header": handmade('{"alg":"HS256","a":' + "[" * 2500 + "]" * 2500 + "}", "{}"),
    "sub is a number": handmade('{"alg":"HS256"}', '{"sub":1}'),
    "jti is an object": handmade('{"alg":"HS256"}', '{"jti":{}}'),
    "kid is a list": handmade('{"alg":"HS256","kid":[1]}', "{}"),
    "100 KB": handmade('{"alg":"HS256"}', '{"a":"' + "a" * 100_000 + '"}'),
    "key in the header": handmade('{"alg":"RS256","jwk":{"kty":"oct","k":"YQ"}}', "{}", "a"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_token_that_must_fail_fails_with_401_and_no_details(name: str) -> None:
    outcome = show(policy(), ATTACKS[name])
    assert outcome.status == 401
    assert outcome.passed == []
    assert outcome.response.headers.get_all(b"www-authenticate") in (
        [b'Bearer realm="main", error="invalid_token"'],
        [b'Bearer realm="main"'],
    )
    assert isinstance(outcome.response.body, bytes)
    assert ATTACKS[name][-20:].encode() not in outcome.response.body or not ATTACKS[name].strip(".")


def test_a_public_key_is_never_taken_for_a_secret(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_bytes(pem(RSA))
    guard = policy(public_key=str(tmp_path / "key.pub"), algorithms=["RS256", "HS256"])
    for secret in (pem(RSA), pem(RSA).strip()):
        text = url64(b'{"alg":"HS256"}') + "." + url64(b'{"sub":"admin"}')
        token = f"{text}.{url64(hmac.digest(secret, text.encode(), hashlib.sha256))}"
        assert show(guard, token).status == 401


def test_a_key_verifies_only_what_its_type_fits(tmp_path: Path) -> None:
    jwks = {"keys": [json.loads(pyjwt.algorithms.ECAlgorithm.to_jwk(SIGNERS["ES384"].public_key())) | {"kid": "k"}]}
    (tmp_path / "keys.json").write_text(json.dumps(jwks))
    guard = policy(jwks=str(tmp_path / "keys.json"))
    assert show(guard, signed({}, SIGNERS["ES384"], "ES384", kid="k")).status == 200
    assert why(guard, signed({}, SIGNERS["ES256"], "ES256", kid="k")) == "no key fits it"
    assert why(guard, signed({}, "k" * 32, "HS256", kid="k")) == "no key fits it"


def test_a_weak_key_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "weak.pem").write_bytes(pem(rsa.generate_private_key(65537, 1024)))
    with pytest.raises(ValueError, match="at least 2048 bits"):
        policy(public_key=str(tmp_path / "weak.pem"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"secret": "short"}, "at least 32 bytes"),
        ({"secret": SECRET, "algorithms": ["HS512"]}, "too short for HS512"),
        ({"secret": SECRET, "algorithms": ["RS256"]}, "needs a public key"),
        ({"secret": SECRET, "algorithms": ["none"]}, "HS256"),
        ({}, "secret, public_key or jwks"),
        ({"secret": SECRET, "jwks": "https://x/y"}, "not both"),
        ({"jwks": "ftp://x/y"}, "neither an http"),
        ({"jwks": "https://x/y", "previous_secret": "x" * 32}, "no secret"),
        ({"secret": SECRET, "colour": "red"}, "Extra inputs"),
    ],
)
def test_settings_that_can_not_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        Settings(**settings)
    assert SECRET not in str(caught.value)


@given(st.text(alphabet='abcXYZ012-_.=+/{}"', max_size=60), st.integers(0, len(GOOD)))
def test_no_token_breaks_it(noise: str, cut: int) -> None:
    for token in (noise, GOOD[:cut] + noise, GOOD[:cut] + noise + GOOD[cut:]):
        try:
            parse(token.encode(), ALGORITHMS, 8192)
        except BadToken:
            continue
    assert show(policy(), GOOD[:cut] + noise + GOOD[cut:]).status == (200 if not noise else 401)


# ---- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "settings", "reason"),
    [
        ({"exp": START + 1}, {}, None),
        ({"exp": START - 59}, {}, None),
        ({"exp": START - 60}, {}, "it is expired"),
        ({"exp": START}, {"leeway": 0}, "it is expired"),
        ({"exp": START - 9}, {"leeway": 10}, None),
        ({"exp": START - 10}, {"leeway": 10}, "it is expired"),
        ({"nbf": START + 60}, {}, None),
        ({"nbf": START + 1}, {"leeway": 0}, "its nbf is in the future"),
        ({"nbf": START + 1}, {"leeway": 1}, None),
        ({"iat": START + 61}, {}, "its iat is in the future"),
        ({"iss": "a"}, {"issuer": ["a", "b"]}, None),
        ({"iss": "c"}, {"issuer": ["a", "b"]}, "its issuer is another"),
        ({}, {"issuer": ["a"]}, "its issuer is another"),
        ({"aud": "shop"}, {"audience": ["shop"]}, None),
        ({"aud": ["x", "shop"]}, {"audience": ["shop"]}, None),
        ({"aud": "shopper"}, {"audience": ["shop"]}, "its audience is another"),
        ({}, {"audience": ["shop"]}, "its audience is another"),
        ({"aud": "shop"}, {}, "it names an audience, and none is configured"),
        ({"aud": "shop"}, {"audience": ["*"]}, None),
        ({}, {"require": ["exp"]}, "it has no exp"),
        ({"sub": "a"}, {"require": ["sub"]}, None),
    ],
)
def test_registered_claims_are_checked(claims: dict[str, Any], settings: dict[str, Any], reason: str | None) -> None:
    guard = policy(**settings)
    assert why(guard, signed(claims)) == reason
    assert show(guard, signed(claims)).status == (401 if reason else 200)


def test_a_token_without_the_scopes_gets_403_and_hears_which() -> None:
    guard = policy(scopes=["read", "write"])
    assert show(guard, signed({"scope": "write read admin"})).status == 200
    assert show(guard, signed({"scope": ["read", "write"]})).status == 200
    outcome = show(guard, signed({"scope": "read"}))
    assert (outcome.status, outcome.reason) == (403, "insufficient_scope")
    assert outcome.response.headers.get_all(b"www-authenticate") == [
        b'Bearer realm="main", error="insufficient_scope", scope="read write"'
    ]


def test_conditions_on_claims() -> None:
    guard = policy(claims={"tenant": "acme|globex", "email_verified": "true", "realm.roles": "admin", "x": "*"})
    good = {"tenant": "globex", "email_verified": True, "realm": {"roles": ["user", "admin"]}, "x": 0}
    assert show(guard, signed(good)).status == 200
    changes: dict[str, object] = {"tenant": "evil", "email_verified": "false", "realm": {"roles": []}, "x": None}
    for name, value in changes.items():
        outcome = show(guard, signed(good | {name: value}))
        assert (outcome.status, outcome.reason) == (403, "claim_refused"), name


def test_the_identity_says_what_the_token_proved() -> None:
    world = World()
    world.consumers["acme"] = ConsumerSettings(groups=("partners",))
    guard = policy(world, consumer_claim="azp", groups_claim="realm.roles", identity_claim="email")
    token = signed({"email": "a@b", "azp": "acme", "realm": {"roles": ["admin"]}, "scope": "a b"})
    identity = show(guard, token).passed[0].identity
    assert identity is not None
    assert (identity.name, identity.method, identity.consumer) == ("a@b", "jwt", "acme")
    assert identity.groups == {"partners", "admin"}
    assert identity.scopes == {"a", "b"}
    assert identity.claims["azp"] == "acme"


# ---- what the service is told ----------------------------------------------------------------------------------------


def test_claims_become_headers_and_the_clients_own_are_removed() -> None:
    guard = policy(
        claims_to_headers={"sub": "X-User-Id", "scope": "X-Scopes", "roles": "X-Roles", "missing": "X-Missing"}
    )
    token = signed({"sub": "u1", "scope": ["a", "b"], "roles": ["r", 1, True]})
    spoofed = [("x-user-id", "admin"), ("X-MISSING", "forged"), ("X-USER-ID", "root"), ("Accept", "*/*")]
    spoofed += [("X_User_Id", "admin"), ("x-user_id", "admin"), ("X.User.Id", "admin")]  # the same to WSGI and CGI
    for _ in range(2):  # the second time it is remembered
        outcome = show(guard, token, *spoofed)
        assert outcome.passed[0].headers.pairs == [
            (b"Authorization", f"Bearer {token}".encode()),
            (b"Accept", b"*/*"),
            (b"X-User-Id", b"u1"),
            (b"X-Scopes", b"a b"),
            (b"X-Roles", b"r,1,true"),
        ]


def test_a_repeated_head_is_edited_once_and_stays_right() -> None:
    guard = policy(claims_to_headers={"sub": "X-User-Id"}, forward_token=False)
    first = request(headers=[("Authorization", "Bearer " + signed({"sub": "u1"})), ("X-User-Id", "admin")])
    source, lines = first.headers, first.lines
    for _ in range(3):
        again = request()
        again.headers, again.lines = source, lines
        run(guard, again)
        assert again.lines == b"X-User-Id: u1\r\n"
        assert again.headers.pairs == [(b"X-User-Id", b"u1")]
        again.edit_headers().add(b"X-More", b"1")  # another policy, later
    assert source.get(b"x-user-id") == b"admin"


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("a\r\nX-Admin: 1", b"a%0D%0AX-Admin: 1"),
        ("nul\0", b"nul%00"),
        ("Zo\u00eb 100%", b"Zo%C3%AB 100%25"),
        ("100%", b"100%25"),
        (" spaced ", b"%20spaced%20"),
        ({"a": [1]}, b'{"a":[1]}'),
        (12345678901234567890123, b"12345678901234567890123"),
        (True, b"true"),
        (["a\n", "b"], b"a%0A,b"),
        (["a,admins"], b"a%2Cadmins"),
        ("Doe, Jane", b"Doe%2C Jane"),
        ([" a", 1, True, None], b"%20a,1,true,null"),
        ("\ud83d", b"%ED%A0%BD"),
        ("[1]", b"%5B1]"),
        ([["100%"]], b'[["100%25"]]'),
    ],
)
def test_no_claim_can_break_out_of_its_header(claim: object, value: bytes) -> None:
    guard = policy(claims_to_headers={"name": "X-Name"})
    passed = show(guard, signed({"name": claim})).passed[0]
    assert passed.headers.get_all(b"x-name") == [value]
    assert passed.lines is not None
    assert passed.lines.count(b"\r\n") == 2


def test_a_refused_request_in_shadow_goes_on_without_the_headers_that_only_we_set() -> None:
    world = World()
    settings = Settings(secret=SECRET, claims_to_headers={"sub": "X-User-Id"}, mode="shadow")
    guard = layer(JWT(settings, world.environment("jwt")), settings, world.environment("jwt"))
    for authorization in ("Bearer junk", "Basic abc"):
        asked = request(headers=[("Authorization", authorization), ("X-User-Id", "admin")])
        outcome = run(guard, asked)
        assert outcome.status == 200
        assert b"x-user-id" not in outcome.passed[0].headers
        assert asked.identity is None
    assert world.counts == {"would_deny": 2}


# ---- where it is -----------------------------------------------------------------------------------------------------


def test_without_a_token_the_answer_says_what_is_needed() -> None:
    outcome = run(policy(realm='the "shop"'), request())
    assert (outcome.status, outcome.reason) == (401, "token_missing")
    assert outcome.response.headers.get_all(b"www-authenticate") == [b'Bearer realm="the \\"shop\\""']


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_has_no_case(scheme: str) -> None:
    assert run(policy(), request(headers={"Authorization": f"{scheme}  {GOOD}"})).status == 200


def test_two_tokens_are_one_too_many() -> None:
    bad = request(headers=[("Authorization", f"Bearer {GOOD}"), ("Authorization", "Bearer other")])
    guard = policy(cookie="t", query="t")
    assert show(guard, GOOD).status == 200
    assert run(guard, bad).status == 401
    assert run(guard, request(headers={"Cookie": f"t={GOOD}; t=other"})).status == 401
    assert run(guard, request(query=f"t={GOOD}&t=other")).status == 401


def test_a_header_of_its_own() -> None:
    guard = policy(header="X-Token", forward_token=False)
    for value in (GOOD, f"Bearer {GOOD}"):
        outcome = run(guard, request(headers={"X-Token": value, "Authorization": "Basic abc"}))
        assert outcome.status == 200
        assert outcome.passed[0].headers.pairs == [(b"Authorization", b"Basic abc")]


def test_a_cookie() -> None:
    asked = request(headers=[("Cookie", f'a=1; session="{GOOD}"; b=2'), ("Authorization", "Basic abc")])
    outcome = run(policy(cookie="session", forward_token=False), asked)
    assert outcome.status == 200
    assert outcome.passed[0].headers.get(b"cookie") == b"a=1; b=2"


def test_a_query_parameter_is_hidden_from_the_log_and_the_service() -> None:
    guard = policy(query="access_token", forward_token=False)
    for _ in range(2):
        asked = request(query=f"a=1&access%5Ftoken={GOOD}&b=2")
        outcome = run(guard, asked)
        assert outcome.status == 200
        assert asked.query == b"a=1&b=2"
        assert asked.target == b"/?a=1&access%5Ftoken=***&b=2"
    bad = request(query="access_token=junk")
    assert run(guard, bad).status == 401
    assert b"junk" not in bad.target


# ---- remembering -----------------------------------------------------------------------------------------------------


def test_a_remembered_token_ends_when_it_ends() -> None:
    world = World()
    guard = policy(world, leeway=0)
    token = signed({"exp": START + 10})
    assert show(guard, token).status == 200
    world.advance(9.9)
    assert show(guard, token).status == 200
    world.advance(0.1)
    assert show(guard, token).status == 401


def test_a_token_that_comes_again_is_remembered_and_verified_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[bytes] = []
    original = VERIFIERS["HS256"].verify

    def counted(signed: bytes, key: bytes, signature: bytes) -> bool:
        verified.append(signed)
        good: bool = original(signed, key, signature)
        return good

    monkeypatch.setattr(VERIFIERS["HS256"], "verify", counted)
    guard = policy()
    for _ in range(5):
        assert show(guard, GOOD).status == 200
        assert show(guard, ATTACKS["wrong secret"]).status == 401
    assert len(verified) == 2 + 5
    assert len(guard._known) == 1


def test_tokens_that_never_come_again_take_no_place_from_those_that_do() -> None:
    guard = policy(remember=100)
    for number in range(1000):
        assert show(guard, GOOD).status == 200
        assert show(guard, signed({"jti": str(number)})).status == 200
    assert len(guard._known) == 1
    assert len(guard._known._once) <= 100


def test_a_token_that_is_good_but_not_for_this_is_remembered_too() -> None:
    world = World()
    world.consumers["gone"] = ConsumerSettings.model_validate({"enabled": "no"})
    guard = policy(world, consumer_claim="azp")
    for _ in range(4):
        outcome = show(guard, signed({"azp": "gone"}))
        assert (outcome.status, outcome.reason) == (403, "consumer_disabled")


def test_no_more_tokens_are_remembered_than_configured() -> None:
    guard = policy(remember=100)
    for number in range(500):
        for _ in range(2):
            assert show(guard, signed({"sub": str(number)})).status == 200
    assert 80 < len(guard._known) <= 100


def test_a_changed_key_file_ends_what_was_remembered(tmp_path: Path) -> None:
    world = World()
    file = tmp_path / "key.pub"
    file.write_bytes(pem(RSA))
    guard = policy(world, public_key=str(file))
    guard.start()
    token = signed({}, RSA, "RS256")
    assert show(guard, token).status == 200
    file.write_bytes(b"garbage")
    world.advance(3)
    assert show(guard, token).status == 200
    assert world.counts["file_failed"] == 1
    file.unlink()
    world.advance(3)
    assert show(guard, token).status == 200
    file.write_bytes(pem(OTHER_RSA))
    world.advance(3)
    assert show(guard, token).status == 401
    assert show(guard, signed({}, OTHER_RSA, "RS256")).status == 200
    guard.stop()
    assert world.timers == []


# ---- revocation ------------------------------------------------------------------------------------------------------


async def test_revoked_tokens_are_refused_also_when_remembered() -> None:
    world = World()
    world.revocations = Revocations(RevocationSettings(), world.store, world.clock, world.now, world.later)
    guard = policy(world)
    one, other = signed({"jti": "1", "sub": "u1", "iat": START}), signed({"jti": "2", "sub": "u2", "iat": START})
    assert show(guard, one).status == show(guard, other).status == 200
    await world.revocations.revoke_token("1", START + 100)
    assert why(guard, one) == "it is revoked"
    assert show(guard, other).status == 200
    await world.revocations.revoke_subject("u2")
    assert show(guard, other).status == 401
    assert show(guard, signed({"sub": "u2"})).status == 401
    world.advance(5)
    assert show(guard, signed({"sub": "u2", "iat": START + 5})).status == 200


def test_no_credential_is_left_anywhere() -> None:
    for token in (*ATTACKS.values(), GOOD):
        asked = request(headers={"Authorization": f"Bearer {token}"})
        outcome = run(policy(), asked)
        left = repr(asked) + repr(asked.notes) + repr(outcome.response.body) + repr(outcome.response.headers.pairs)
        for part in token.split("."):
            assert len(part) < 8 or part not in left
    assert SECRET not in repr(Settings(secret=SECRET))
