from __future__ import annotations

import json
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from apigw.policies.jwt import JWT, Settings
from apigw.policies.key_sets import from_jwk, from_jwks, from_pem
from tests.policies.surroundings import Outcome, World, request, run

KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("a", "b", "c")}
URL = "https://login.example/jwks.json"


def jwk(name: str, **more: Any) -> dict[str, Any]:
    key: dict[str, Any] = json.loads(pyjwt.algorithms.ECAlgorithm.to_jwk(KEYS[name].public_key()))
    return key | {"kid": name} | more


def jwks(*names: str) -> bytes:
    return json.dumps({"keys": [jwk(name) for name in names]}).encode()


def token(name: str, kid: str | None = None) -> str:
    return pyjwt.encode({"sub": name}, KEYS[name], "ES256", headers={"kid": kid or name})


def guard(world: World, **settings: Any) -> JWT:
    return JWT(Settings(jwks=URL, **settings), world.environment("jwt"))


def show(policy: JWT, shown: str) -> Outcome:
    return run(policy, request(headers={"Authorization": f"Bearer {shown}"}))


def started(world: World, *names: str, **settings: Any) -> JWT:
    policy = guard(world, **settings)
    policy.start()
    world.asked[-1].respond(jwks(*names))
    return policy


def test_the_keys_are_fetched_at_the_start_and_again_ahead_of_their_end() -> None:
    world = World()
    policy = started(world, "a", jwks_refresh=600)
    assert (world.asked[0].method, world.asked[0].url, world.asked[0].timeout) == ("GET", URL, 5.0)
    world.advance(599)
    assert len(world.asked) == 1
    world.advance(1)
    assert len(world.asked) == 2
    assert show(policy, token("a")).status == 200
    policy.stop()
    assert world.timers == []


def test_a_shorter_max_age_counts_but_not_below_half_a_minute() -> None:
    for age, wait in ((100, 80), (1, 30), (100_000, 600)):
        world = World()
        guard(world).start()
        world.asked[0].respond(jwks("a"), headers=[(b"Cache-Control", b"public, max-age=%d" % age)])
        world.advance(wait - 1)
        assert len(world.asked) == 1
        world.advance(1)
        assert len(world.asked) == 2


def test_all_who_come_during_the_first_fetch_wait_for_it() -> None:
    world = World()
    policy = guard(world)
    outcomes = [show(policy, token("a")) for _ in range(50)]
    assert len(world.asked) == 1
    assert not any(outcome.responses for outcome in outcomes)
    world.asked[0].respond(jwks("a"))
    assert [outcome.status for outcome in outcomes] == [200] * 50
    assert len(world.asked) == 1


def test_a_rotated_key_is_fetched_when_its_first_token_comes() -> None:
    world = World()
    policy = started(world, "a")
    outcome = show(policy, token("b"))
    assert len(world.asked) == 2
    assert show(policy, token("a")).status == 200  # nobody else waits
    world.asked[1].respond(jwks("b"))
    assert outcome.status == 200
    # That was no flood: the next rotation is noticed at once.
    outcome = show(policy, token("c"))
    world.asked[2].respond(jwks("b", "c"))
    assert outcome.status == 200
    # The first key is no longer in the set.
    outcome = show(policy, token("a"))
    world.asked[3].respond(jwks("b", "c"))
    assert outcome.status == 401


def test_a_flood_of_unknown_key_ids_causes_one_fetch_in_each_cooldown() -> None:
    world = World()
    policy = started(world, "a", jwks_cooldown=10)
    world.answers = lambda asked: asked.respond(jwks("a"))
    for number in range(300):
        assert show(policy, token("b", kid=f"flood{number}")).status == 401
        assert show(policy, token("a")).status == 200
    assert len(world.asked) == 2
    world.advance(10)
    for number in range(300):
        assert show(policy, token("b", kid=f"flood{number}")).status == 401
    assert len(world.asked) == 3


def test_a_key_that_came_during_a_fetch_that_missed_it_causes_another() -> None:
    world = World()
    policy = started(world, "a", jwks_refresh=600)
    world.advance(600)
    outcomes = [show(policy, token("b")) for _ in range(5)]
    world.asked[1].respond(jwks("a"))
    assert len(world.asked) == 3
    world.asked[2].respond(jwks("a", "b"))
    assert [outcome.status for outcome in outcomes] == [200] * 5
    assert len(world.asked) == 3


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b"<html>", 200),
        (b"[]", 200),
        (b"{}", 200),
        (b'{"keys":{}}', 200),
        (b'{"keys":[]}', 200),
        (b'{"keys":[1,"x",null,{}]}', 200),
        (b'{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}', 200),
        (b"[" * 100_000, 200),
        (jwks("b"), 404),
        (jwks("b"), 500),
        (jwks("b"), 302),
        (None, 0),
    ],
)
def test_whatever_comes_instead_of_keys_the_last_good_ones_hold(body: bytes | None, status: int) -> None:
    world = World()
    policy = started(world, "a", jwks_refresh=60)
    world.answers = lambda asked: asked.fail() if body is None else asked.respond(body, status)
    world.advance(3600)
    assert show(policy, token("a")).status == 200
    assert 60 <= len(world.asked) <= 70  # it waits longer and longer, at most a minute
    assert world.counts["key_fetch_failed"] == len(world.asked) - 1
    assert len(world.logged) == 1  # once, not at each try
    world.answers = lambda asked: asked.respond(jwks("b"))
    world.advance(61)
    assert show(policy, token("b")).status == 200
    assert len(world.logged) == 2


def test_while_the_set_is_broken_a_flood_of_unknown_key_ids_causes_one_fetch_in_each_cooldown() -> None:
    world = World()
    policy = started(world, "a", jwks_cooldown=10)
    world.answers = lambda asked: asked.fail()
    for _ in range(60):
        assert show(policy, token("b", kid="flood")).status == 503
        assert show(policy, token("a")).status == 200
        world.advance(1)
    assert len(world.asked) <= 1 + 7


def test_the_keys_outlive_a_reload_while_the_set_is_away() -> None:
    world = World()
    old = started(world, "a")
    world.answers = lambda asked: asked.fail()
    new = guard(world, leeway=5)
    new.take_over(old)
    new.start()
    old.stop()
    assert show(new, token("a")).status == 200
    assert show(new, token("b")).status == 503
    elsewhere = JWT(Settings(jwks="https://other.example/jwks"), world.environment("jwt"))
    elsewhere.take_over(old)
    assert show(elsewhere, token("a")).status == 503


def test_while_the_set_hangs_known_keys_answer_at_once() -> None:
    world = World()
    policy = started(world, "a")
    waiting = show(policy, token("b"))
    for _ in range(20):
        assert show(policy, token("a")).status == 200
        show(policy, token("b"))
    assert len(world.asked) == 2
    world.asked[1].fail("timed out")
    assert (waiting.status, waiting.reason) == (503, "keys_unavailable")


def test_without_any_key_yet_the_answer_is_503_and_not_401() -> None:
    world = World()
    policy = guard(world)
    world.answers = lambda asked: asked.fail()
    outcome = show(policy, token("a"))
    assert (outcome.status, outcome.reason) == (503, "keys_unavailable")
    assert outcome.response.headers.get(b"retry-after") is not None
    for _ in range(100):
        assert show(policy, token("a")).status == 503
    assert len(world.asked) == 1


def test_a_client_that_leaves_does_not_stop_the_fetch_for_others() -> None:
    world = World()
    policy = guard(world)
    leaving = request(headers={"Authorization": f"Bearer {token('a')}"})
    left = run(policy, leaving)
    staying = show(policy, token("a"))
    leaving.cancel()
    assert left.reason == "client_gone"
    world.asked[0].respond(jwks("a"))
    assert staying.status == 200


def test_remembered_tokens_outlive_a_refresh_that_changes_nothing() -> None:
    world = World()
    policy = started(world, "a")
    generation = policy._keys.generation
    world.answers = lambda asked: asked.respond(jwks("a"))
    world.advance(700)
    assert len(world.asked) == 2
    assert policy._keys.generation == generation


def test_two_keys_with_one_id_are_both_tried() -> None:
    world = World()
    policy = guard(world)
    policy.start()
    world.asked[0].respond(json.dumps({"keys": [jwk("a", kid="k"), jwk("b", kid="k")]}).encode())
    assert show(policy, token("a", "k")).status == 200
    assert show(policy, token("b", "k")).status == 200
    wrong = show(policy, token("c", "k"))
    world.asked[1].respond(json.dumps({"keys": [jwk("a", kid="k"), jwk("b", kid="k")]}).encode())
    assert wrong.status == 401


def test_keys_for_something_else_are_left_out() -> None:
    for more in ({"use": "enc"}, {"key_ops": ["sign"]}, {"alg": "ES384"}, {"alg": "ECDH-ES"}, {"kty": "OKP"}, {"x": 1}):
        with pytest.raises(ValueError):
            from_jwk(jwk("a") | more, secrets=False)
    with pytest.raises(ValueError):
        from_jwk({"kty": "oct", "k": "A" * 64}, secrets=False)
    assert [key.kid for key in from_jwks(json.dumps({"keys": [{"kty": "?"}, jwk("b")]}).encode(), secrets=False)] == [
        "b"
    ]


def test_a_private_key_does_not_belong_here() -> None:
    key = rsa.generate_private_key(65537, 2048)
    with pytest.raises(ValueError, match="private key"):
        from_pem(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def without_kid(name: str) -> str:
    return pyjwt.encode({"sub": name}, KEYS[name], "ES256")


def many(*names: str, others: int) -> bytes:
    """A set without key ids, in which the keys of ``names`` come last."""
    made = [ec.generate_private_key(ec.SECP256R1()).public_key() for _ in range(others)]
    members = [json.loads(pyjwt.algorithms.ECAlgorithm.to_jwk(key)) for key in made]
    for name in names:
        member = jwk(name)
        del member["kid"]
        members.append(member)
    return json.dumps({"keys": members}).encode()


@pytest.mark.parametrize("others", [0, 9, 40])
def test_all_keys_are_tried_for_a_token_without_a_key_id(others: int) -> None:
    world = World()
    policy = guard(world)
    policy.start()
    world.asked[-1].respond(many("a", others=others))
    assert show(policy, without_kid("a")).status == 200
    assert show(policy, token("a", "made-up")).status == 200
    assert world.in_threads == (2 if others >= 16 else 0)
    assert len(world.asked) == 1


@pytest.mark.parametrize("others", [0, 40])
def test_a_wrong_signature_causes_one_fetch_in_each_cooldown(others: int) -> None:
    world = World()
    policy = guard(world, jwks_cooldown=10)
    policy.start()
    world.asked[-1].respond(many("a", others=others))
    rotated = [show(policy, without_kid("b")) for _ in range(5)]
    assert len(world.asked) == 2
    assert show(policy, without_kid("a")).status == 200  # nobody else waits
    world.asked[1].respond(many("b", others=others))
    assert [outcome.status for outcome in rotated] == [200] * 5
    world.answers = lambda asked: asked.respond(many("b", others=0))
    for _ in range(50):
        assert show(policy, without_kid("c")).status == 401
    before = len(world.asked)
    assert before <= 4
    for _ in range(50):
        assert show(policy, without_kid("c")).status == 401
    assert len(world.asked) == before
    world.advance(10)
    assert show(policy, without_kid("c")).status == 401
    assert len(world.asked) == before + 1


def test_a_key_that_was_replaced_under_its_id_is_seen() -> None:
    world = World()
    policy = started(world, "a")
    outcome = show(policy, token("b", "a"))
    world.asked[1].respond(json.dumps({"keys": [jwk("b", kid="a")]}).encode())
    assert outcome.status == 200


def test_a_wrong_signature_is_a_401_while_the_set_is_away() -> None:
    world = World()
    policy = started(world, "a")
    world.answers = lambda asked: asked.fail()
    assert show(policy, token("b", "a")).status == 401


def test_a_wrong_signature_is_final_where_keys_come_from_the_configuration() -> None:
    world = World()
    policy = JWT(Settings(secret="x" * 32), world.environment("jwt"))
    assert show(policy, pyjwt.encode({"sub": "a"}, "y" * 32)).status == 401
    assert world.asked == []
