from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from apigw.policies.api_key import APIKey, Settings, new_key
from apigw.policies.consumers import ConsumerSettings, KeyHash, show_key
from tests.policies.surroundings import START, Outcome, World, request, run


def hashed(ini: str) -> str:
    return ini.splitlines()[1].removeprefix("keys = ")


def consumer(*keys: str, **more: Any) -> ConsumerSettings:
    return ConsumerSettings.model_validate({"keys": "\n".join(keys), **more})


def policy(world: World, **settings: Any) -> APIKey:
    return APIKey(Settings(**settings), world.environment("api_key"))


def show(guard: APIKey, key: str) -> Outcome:
    return run(guard, request(headers={"X-API-Key": key}))


def test_a_new_key_opens_for_its_consumer() -> None:
    key, ini = new_key("acme")
    other, _ = new_key("acme")
    assert ini.startswith("[consumer acme]\nkeys = sha256:")
    assert key not in ini
    assert key.startswith("ak_")
    assert len(key) == 46
    world = World()
    world.consumers["acme"] = consumer(hashed(ini), groups="partners, eu", scopes="read")
    guard = policy(world)
    for _ in range(2):
        outcome = show(guard, key)
        identity = outcome.passed[0].identity
        assert identity is not None
        assert (identity.name, identity.method, identity.consumer) == ("acme", "api_key", "acme")
        assert sorted(identity.groups) == ["eu", "partners"]
        assert identity.scopes == {"read"}
        assert b"x-api-key" not in outcome.passed[0].headers
        refused = show(guard, other)
        assert (refused.status, refused.reason) == (401, "key_invalid")
        assert refused.response.headers.get_all(b"www-authenticate") == [b'ApiKey realm="main"']


def test_two_keys_are_live_until_one_ends() -> None:
    (old, old_ini), (new, new_ini) = new_key("acme", "2027-01-15T08:00:10Z"), new_key("acme")
    world = World()
    world.consumers["acme"] = consumer(hashed(old_ini), hashed(new_ini))
    guard = policy(world)
    assert START == 1_800_000_000  # 2027-01-15T08:00:00Z
    assert show(guard, old).status == show(guard, new).status == 200
    world.advance(10)
    assert show(guard, old).status == 401
    assert show(guard, new).status == 200


def test_a_disabled_consumer_has_no_live_key() -> None:
    key, ini = new_key("acme")
    world = World()
    world.consumers["acme"] = consumer(hashed(ini), enabled="no")
    assert show(policy(world), key).status == 401


@pytest.mark.parametrize("arguments", [("bad name",), ("",), ("acme", "never"), ("acme", "2027-13-01")])
def test_a_key_with_a_name_or_an_end_that_can_not_be_is_not_made(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        new_key(*arguments)


def test_no_key_two_keys_long_keys() -> None:
    key, ini = new_key("acme")
    world = World()
    world.consumers["acme"] = consumer(hashed(ini))
    guard = policy(world, query="key", cookie="key")
    assert run(guard, request()).reason == "key_missing"
    assert run(guard, request(headers=[("X-API-Key", key), ("X-API-Key", "x")])).reason == "key_invalid"
    assert run(guard, request(query=f"key={key}&key=x")).reason == "key_invalid"
    assert show(guard, "x" * 100_000).reason == "key_invalid"
    assert show(guard, "").reason == "key_missing" or show(guard, "").status == 401


def test_the_key_in_query_cookie_or_authorization_and_the_service_sees_the_consumer_only() -> None:
    key, ini = new_key("acme")
    world = World()
    world.consumers["acme"] = consumer(hashed(ini))
    guard = policy(world, query="key", cookie="key", consumer_header="X-Consumer")
    asked = request(query=f"a=1&key={key}", headers={"x-consumer": "admin"})
    outcome = run(guard, asked)
    assert outcome.passed[0].headers.pairs == [(b"X-Consumer", b"acme")]
    assert (asked.query, asked.target) == (b"a=1", b"/?a=1&key=***")
    outcome = run(guard, request(headers={"Cookie": f"key={key}; a=b"}))
    assert outcome.passed[0].headers.pairs == [(b"Cookie", b"a=b"), (b"X-Consumer", b"acme")]
    guard = policy(world, header="Authorization", forward_key=True)
    outcome = run(guard, request(headers={"Authorization": f"ApiKey {key}"}))
    assert outcome.passed[0].headers.pairs == [(b"Authorization", f"ApiKey {key}".encode())]
    assert run(guard, request(headers={"Authorization": f"Basic {key}"})).reason == "key_missing"


@pytest.mark.parametrize(
    "bad",
    [
        "a-plain-key-by-mistake",
        "md5:abc",
        "sha256:" + "g" * 64,
        "sha256:" + "a" * 64 + " expires=soon",
        "sha256:" + "a" * 64 + " ends=2027-01-01",
    ],
)
def test_a_key_that_is_no_hash_is_refused_and_not_repeated(bad: str) -> None:
    with pytest.raises(ValidationError) as caught:
        consumer(bad)
    assert "plain-key" not in str(caught.value)


def test_a_hash_is_shown_as_it_is_written() -> None:
    text = "sha256:" + "ab" * 32 + " expires=2027-01-15T08:00:00Z"
    assert [show_key(key) for key in consumer(text, "sha256:" + "cd" * 32).keys] == [text, "sha256:" + "cd" * 32]
    assert consumer(text).keys == (KeyHash(b"\xab" * 32, START),)


@pytest.mark.parametrize("name", ["", "a b", "a]", "a\nb", "x" * 65])
def test_a_name_that_can_be_no_section_gets_no_key(name: str) -> None:
    with pytest.raises(ValueError, match="letters"):
        new_key(name)
