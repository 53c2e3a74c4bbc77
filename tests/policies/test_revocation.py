from __future__ import annotations

from apigw.policies.revocation import Revocations, RevocationSettings
from tests.policies.surroundings import START, World


def listed(world: World, **settings: object) -> Revocations:
    made = RevocationSettings.model_validate(settings)
    return Revocations(made, world.store, world.clock, world.now, world.later)


async def test_a_revocation_here_holds_elsewhere_after_the_refresh() -> None:
    world = World()
    here, elsewhere = listed(world), listed(world)
    await elsewhere.start()
    await here.revoke_token("1", START + 100)
    await here.revoke_subject("u1")
    assert here.revoked("1", None, None)
    assert not elsewhere.revoked("1", None, None)
    world.advance(2)
    assert elsewhere.revoked("1", None, None)
    assert elsewhere.revoked("2", "u1", START)
    assert elsewhere.revoked("2", "u1", None)
    assert not elsewhere.revoked("2", "u1", START + 1)
    assert not elsewhere.revoked("2", "u2", START)
    elsewhere.stop()
    assert world.timers == []


async def test_entries_are_listed_end_by_themselves_and_can_be_taken_back() -> None:
    world = World()
    here = listed(world, keep="10s")
    await here.revoke_token("1", START + 5)
    await here.revoke_subject("u:1")
    assert await here.entries() == [
        {"jti": "1", "until": START + 5},
        {"sub": "u:1", "issued_until": START, "until": START + 10},
    ]
    assert await here.restore(subject="u:1")
    assert not await here.restore(subject="u:1")
    assert not here.revoked(None, "u:1", START)
    world.advance(5)
    await here.read()
    assert not here.revoked("1", None, None)
    assert await here.entries() == []


async def test_without_the_store_the_list_holds_or_everything_is_refused_as_configured() -> None:
    world = World()
    lax, strict = listed(world), listed(world, on_store_failure="deny", stale_after="30s")
    await lax.revoke_token("1", START + 1000)
    await lax.start()
    await strict.start()
    world.store.away = True
    world.advance(30)
    assert strict.revoked("1", None, None)
    assert not strict.revoked("2", None, None)
    world.advance(1)
    assert lax.revoked("1", None, None)
    assert not lax.revoked("2", None, None)
    assert strict.revoked("2", None, None)
    world.store.away = False
    world.advance(2)
    assert not strict.revoked("2", None, None)


async def test_a_subject_may_log_in_again_in_the_second_in_which_it_was_revoked() -> None:
    world = World()
    world.time += 0.75
    here = listed(world)
    await here.revoke_subject("u1")
    await here.read()
    assert here.revoked(None, "u1", START)
    assert not here.revoked(None, "u1", START + 1)
