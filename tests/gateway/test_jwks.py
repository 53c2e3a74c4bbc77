"""A key set behind a URL, through the whole gateway and real sockets: it rotates, vanishes, hangs, is garbage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, gatherResults

from tests.gateway.running import Gateway, running
from tests.origins import CLOSE, NEVER, RESET, Origin, RawResponse, Received, Step, Steps, deferred, reply

KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("a", "b", "c")}
NUMBERS = iter(range(1_000_000))


def jwks(*names: str) -> bytes:
    keys: list[dict[str, Any]] = [
        {**json.loads(pyjwt.algorithms.ECAlgorithm.to_jwk(KEYS[name].public_key())), "kid": name} for name in names
    ]
    return json.dumps({"keys": keys}).encode()


def token(name: str, kid: str = "") -> str:
    """One that was never shown before."""
    return pyjwt.encode({"sub": name, "jti": str(next(NUMBERS))}, KEYS[name], "ES256", headers={"kid": kid or name})


class Issuer:
    """
    Serves the key set.

    :ivar answer: what a fetch gets. :ivar fetches: how many there were. :ivar most: of them at the same time.
    """

    def __init__(self) -> None:
        self.answer: Steps | bytes = reply(200, jwks("a"))
        self.fetches = 0
        self.most = 0
        self._open = 0
        self.origin = Origin([self._answered])

    def serve(self, *names: str) -> None:
        self.answer = reply(200, jwks(*names))

    def _answered(self, _: Received) -> Steps | bytes:
        self.fetches += 1
        self._open += 1
        self.most = max(self.most, self._open)

        def over(result: Any) -> Any:
            self._open -= 1
            return result

        steps: list[Step] = [self.answer] if isinstance(self.answer, bytes) else list(self.answer)
        for position, step in enumerate(steps):
            if isinstance(step, Deferred):
                steps[position] = step.addBoth(over)
                return steps
        if NEVER not in steps:
            over(None)
        return steps


class Setting:
    """Shows tokens to a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    @deferred
    async def show(self, shown: str) -> RawResponse:
        return await self.gateway.get("/", ("Authorization", f"Bearer {shown}"))

    async def all_shown(self, tokens: Sequence[str]) -> list[int]:
        responses: list[RawResponse] = await gatherResults([self.show(each) for each in tokens])
        return [response.status for response in responses]


@asynccontextmanager
async def guarded(folder: Path) -> AsyncIterator[tuple[Setting, Issuer]]:
    """A gateway whose one route asks for tokens of an issuer."""
    issuer = Issuer()
    await issuer.origin.start()
    text = f"""
[jwt main]
jwks = http://127.0.0.1:{issuer.origin.port}/jwks.json
jwks_cooldown = 1s
jwks_timeout = 1s

[route a]
path = /
respond = 200 in
policies = jwt main
"""
    async with running(folder, text) as gateway:
        yield Setting(gateway), issuer
    await issuer.origin.stop()


async def fetched(issuer: Issuer, times: int) -> None:
    while issuer.fetches < times:
        await issuer.origin.changed()


async def test_keys_that_rotate_are_known_as_soon_as_somebody_shows_one(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (setting, issuer):
        assert (await setting.show(token("a"))).status == 200
        assert issuer.fetches == 1
        old = token("a")
        for names, newest in ((("a", "b"), "b"), (("b", "c"), "c")):
            issuer.serve(*names)
            assert (await setting.show(token(newest))).status == 200
            assert await setting.all_shown([token(name) for name in names]) == [200, 200]
        assert issuer.fetches == 3
        assert (await setting.show(old)).status == 401  # its key was withdrawn


BROKEN: dict[str, Steps | bytes] = {
    "server error": reply(500, b"oops"),
    "not found": reply(404, b"<html>gone</html>"),
    "redirect": reply(302, b"", (b"Location", b"http://127.0.0.1:1/")),
    "no JSON": reply(200, b"<html>maintenance</html>"),
    "no keys": reply(200, b'{"keys": []}'),
    "other JSON": reply(200, b"[[[[]]]]"),
    "deep JSON": reply(200, b"[" * 100_000),
    "no usable key": reply(200, b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "x"}]}'),
    "2 MiB": reply(200, b" " * (2 << 20)),
    "nonsense": [b"\x00\x01garbage\r\n\r\n", CLOSE],
    "half an answer": [b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", CLOSE],
    "nothing": [CLOSE],
    "reset": [RESET],
    "hangs": [NEVER],
    "hangs after the head": [b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{", NEVER],
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
async def test_while_the_set_is_broken_no_valid_token_is_refused(tmp_path: Path, broken: Steps | bytes) -> None:
    async with guarded(tmp_path) as (setting, issuer):
        assert (await setting.show(token("a"))).status == 200
        issuer.answer = broken
        unknown = setting.show(token("b"))  # makes the gateway look again
        await fetched(issuer, 2)
        assert await setting.all_shown([token("a") for _ in range(20)]) == [200] * 20
        refused = await unknown
        assert (refused.status, json.loads(refused.body)["reason"]) == (503, "keys_unavailable")
        assert refused.value(b"retry-after") is not None
        assert await setting.all_shown([token("a") for _ in range(20)]) == [200] * 20
        assert issuer.most == 1
        issuer.serve("a", "b")
        while (response := await setting.show(token("b"))).status == 503:  # until a fetch is due again
            await asyncio.sleep(0.05)
        assert response.status == 200


async def test_a_reload_while_the_issuer_is_gone_refuses_no_valid_token(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (setting, issuer):
        assert (await setting.show(token("a"))).status == 200
        await issuer.origin.stop()
        text = setting.gateway.file.read_text()
        for changed in (text.replace("[jwt main]", "[jwt main]\nleeway = 5s"), f"{text}\n[consumer new]\ngroups = x\n"):
            await setting.gateway.reload(changed)
            assert setting.gateway.service.last_error is None
            assert (await setting.show(token("a"))).status == 200


async def test_while_the_issuer_is_gone_no_valid_token_is_refused(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (setting, issuer):
        assert (await setting.show(token("a"))).status == 200
        await issuer.origin.stop()
        assert (await setting.show(token("b"))).status == 503
        assert await setting.all_shown([token("a") for _ in range(20)]) == [200] * 20


async def test_a_flood_of_unknown_key_ids_causes_one_fetch_in_each_cool_down(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (setting, issuer):
        assert (await setting.show(token("a"))).status == 200
        for round_ in (1, 2):
            held: Deferred[None] = Deferred()
            issuer.answer = [held, reply(200, jwks("a"))]
            flood = [setting.show(token("a", kid=f"made-up-{next(NUMBERS)}")) for _ in range(100)]
            await fetched(issuer, 1 + round_)
            assert await setting.all_shown([token("a") for _ in range(20)]) == [200] * 20  # nobody else waits
            held.callback(None)
            assert {response.status for response in await gatherResults(flood)} == {401}
            clock = setting.gateway.service.shared.clock
            until = clock() + 0.5
            while clock() < until:  # the cool-down is a second, and has begun before the answer was held
                assert set(await setting.all_shown([token("a", kid="again") for _ in range(20)])) == {401}
            assert issuer.fetches == 1 + round_
            await asyncio.sleep(1.1)
        assert issuer.most == 1


async def test_all_who_come_before_the_first_set_is_there_wait_for_the_one_fetch(tmp_path: Path) -> None:
    issuer = Issuer()
    await issuer.origin.start()
    held: Deferred[None] = Deferred()
    issuer.answer = [held, reply(200, jwks("a"))]
    text = f"[jwt main]\njwks = http://127.0.0.1:{issuer.origin.port}/\n[route a]\npath = /\nrespond = 200 in\n"
    async with running(tmp_path, text + "policies = jwt main\n") as gateway:
        setting = Setting(gateway)
        waiting = [setting.show(token("a")) for _ in range(50)]
        await fetched(issuer, 1)
        while len(gateway.service.listening["public"].site.connections) < 50:
            await asyncio.sleep(0)
        held.callback(None)
        assert {response.status for response in await gatherResults(waiting)} == {200}
        assert issuer.fetches == 1
    await issuer.origin.stop()
