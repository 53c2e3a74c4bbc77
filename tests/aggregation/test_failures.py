"""Every combination of what three services can do, over real connections: what the client gets is as documented."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apigw.aggregation import gather
from tests.aggregation.programme import Programme
from tests.gateway.running import Gateway, request, running
from tests.origins import RawClient

HOW = ("ok", "404", "500", "refused", "hang", "reset", "invalid", "toobig")
CAUSE = {
    "404": (404, "call_status_passed"),
    "500": (502, "call_unexpected_status"),
    "refused": (502, "upstream_refused"),
    "hang": (504, "deadline_exceeded"),
    "reset": (502, "upstream_aborted"),
    "invalid": (502, "call_invalid_answer"),
    "toobig": (502, "call_answer_too_large"),
}
CALLS = "abc"


def configuration(port: int, dead: int) -> str:
    """
    One aggregate for each choice of upstreams that refuse, and of optional calls; those that end by their time being up
    have little of it.

    ``a`` and ``b`` are required and ``c`` is optional; at ``/all`` they are all required, at ``/none`` none is.
    """
    text = f"""
[upstream alive]
targets = http://127.0.0.1:{port}
breaker.enabled = no
pool.max_connections = 200

[upstream dead]
targets = http://127.0.0.1:{dead}
breaker.enabled = no
"""
    for kind, optional in (("some", "c"), ("all", ""), ("none", "abc")):
        for hangs, *refused in itertools.product((False, True), repeat=4):
            name = kind + "".join("d" if each else "a" for each in refused) + ("h" if hangs else "")
            time = "1500ms" if hangs else "1m"
            text += f"\n[aggregate {name}]\npath = /{name}\ntimeout = {time}\nmax_answer = 1KiB\npartial_status = 206\n"
            for call, dies in zip(CALLS, refused, strict=True):
                text += f"call.{call} = {'dead' if dies else 'alive'} GET /{{query.{call}}}?n={{query.n}}{call}\n"
                if call in optional:
                    text += f'call.{call}.optional = yes\ncall.{call}.default = "default"\n'
    return text


def cases(kind: str) -> Iterator[tuple[str, ...]]:
    yield from itertools.product(HOW, repeat=3)


async def answered(client: RawClient, kind: str, case: tuple[str, ...], number: int) -> Any:
    name = kind + "".join("d" if each == "refused" else "a" for each in case) + ("h" if "hang" in case else "")
    query = "&".join(f"{call}={how}" for call, how in zip(CALLS, case, strict=True))
    client.send(request(f"/{name}?{query}&n={number}"))
    return await client.read_response()


def check(kind: str, case: tuple[str, ...], response: Any) -> None:
    required = {"some": "ab", "all": "abc", "none": ""}[kind]
    how = dict(zip(CALLS, case, strict=True))
    failing = [call for call in CALLS if how[call] != "ok"]
    fields = {name.decode().lower(): value.decode() for name, value in response.fields}
    fatal = [call for call in failing if call in required]
    document = json.loads(response.body)
    if not fatal:
        assert response.status == (206 if failing else 200)
        assert document == {call: {"is": "ok"} if how[call] == "ok" else "default" for call in CALLS}
        assert fields["apigw-completed"] == ("false" if failing else "true")
        assert fields.get("apigw-missing", "") == ", ".join(failing)
        assert fields.get("cache-control") == ("no-store" if failing else None)
        return
    outcomes = {name: call["outcome"] for name, call in document["calls"].items()}
    culprit = document["detail"].partition(":")[0]
    assert culprit in fatal
    assert (response.status, document["reason"]) == CAUSE[how[culprit]]
    assert how[culprit] != "hang" or all(how[call] == "hang" for call in fatal), "what fails at once is told at once"
    assert fields["content-type"] == "application/problem+json"
    assert fields["apigw-completed"] == "false"
    assert fields["cache-control"] == "no-store"
    assert fields["apigw-missing"].split(", ") == [name for name, outcome in outcomes.items() if outcome != "ok"]
    for call, outcome in outcomes.items():
        if call == culprit:
            assert outcome == "failed"
        elif how[call] == "ok":
            assert outcome in {"ok", "cancelled"}
        elif call in required:
            assert outcome in {"cancelled", "not_asked"}
        else:
            assert outcome in {"failed", "cancelled", "not_asked"}
    if how[culprit] != "hang":
        assert all(outcomes[call] in {"cancelled", "not_asked"} for call in CALLS if how[call] == "hang")
    assert b"secret" not in response.body


@pytest.mark.time_limit(120)
@pytest.mark.parametrize("kind", ["some", "all", "none"])
async def test_all_512_combinations_are_answered_as_documented(tmp_path: Path, kind: str) -> None:
    origin = await Programme().start()
    refusing = await Programme().start()
    dead = refusing.port
    await refusing.stop()
    async with running(tmp_path, configuration(origin.port, dead)) as gateway:
        waiting = list(enumerate(cases(kind)))
        seen = 0

        async def one(client: RawClient) -> None:
            nonlocal seen
            while waiting:
                number, case = waiting.pop()
                response = await answered(client, kind, case, number)
                try:
                    check(kind, case, response)
                except AssertionError as error:
                    raise AssertionError(f"{kind} {case}: {response.status} {response.body!r}") from error
                seen += 1

        clients = [await gateway.connect() for _ in range(48)]
        await gather(*(one(client) for client in clients))
        assert seen == 512
        await origin.until_idle()
        assert origin.in_flight == 0
        assert at_rest(gateway)
    await origin.stop()


def at_rest(gateway: Gateway) -> bool:
    """No run is left in any aggregate, and no connection is taken."""
    upstreams = gateway.service.generation.upstreams.values()
    pools = [target.pool for upstream in upstreams for target in upstream.targets.targets]
    return all(len(pool.idle) == pool.open and pool.waiting == 0 for pool in pools)
