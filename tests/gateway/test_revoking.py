"""Tokens are revoked by the admin listener."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt as pyjwt
import pytest

from apigw.testing.gateway import request
from apigw.testing.origins import RawResponse

SECRET = "a secret of thirty-two bytes or more"
ADMIN = "[admin]\nendpoint = tcp:0:interface=127.0.0.1\ntoken = an-admin-token\n"
INI = f"""
{ADMIN}
[revocation]

[jwt main]
secret = {SECRET}

[route a]
path = /
respond = 200 in
policies = jwt main
"""


async def pulled(running: Any, lever: str, parameters: object) -> RawResponse:
    client = await running.connect(port=running.admin_port)
    token = ("Authorization", "Bearer an-admin-token")
    client.send(request(f"/{lever}", token, host="localhost", method="POST", body=json.dumps(parameters).encode()))
    response: RawResponse = await client.read_response(b"POST")
    client.close()
    return response


def signed(**claims: Any) -> tuple[str, str]:
    issued = int(time.time()) - 60  # noqa: TID251 - tokens tell the time of day
    return "Authorization", f"Bearer {pyjwt.encode({'iat': issued, **claims}, SECRET)}"


async def test_a_token_or_all_of_a_subject_can_be_revoked_and_restored(gateway: Any) -> None:
    running = await gateway(INI)
    one, other = signed(jti="1", sub="anna"), signed(jti="2", sub="anna")
    for _ in range(3):
        assert [(await running.get("/", each)).status for each in (one, other)] == [200, 200]
    revoked = await pulled(running, "revocations/revoke", {"jti": "1", "until": "2099-01-01T00:00:00Z"})
    assert json.loads(revoked.body) == {"revocations": [{"jti": "1", "until": 4070908800.0}]}
    assert [(await running.get("/", each)).status for each in (one, other)] == [401, 200]
    assert running.logged()[-2]["notes"] == {"auth": {"jwt main": "it is revoked"}}
    assert (await pulled(running, "revocations/revoke", {"sub": "anna"})).status == 200
    assert (await running.get("/", other)).status == 401
    assert len(json.loads((await pulled(running, "revocations/list", {})).body)["revocations"]) == 2
    assert (await pulled(running, "revocations/restore", {"sub": "anna"})).status == 200
    assert (await pulled(running, "revocations/restore", {"sub": "anna"})).status == 404
    assert [(await running.get("/", each)).status for each in (one, other)] == [401, 200]


@pytest.mark.parametrize(
    "parameters",
    [{}, {"jti": "1", "sub": "a"}, {"jti": 1}, {"jti": ""}, {"jti": "1", "untl": "x"}, {"sub": "a", "until": 1}],
)
async def test_what_can_not_be_revoked_is_said(gateway: Any, parameters: object) -> None:
    assert (await pulled(await gateway(INI), "revocations/revoke", parameters)).status == 400


async def test_without_a_list_nothing_can_be_revoked(gateway: Any) -> None:
    running = await gateway(f"{ADMIN}\n[route a]\npath = /\nrespond = 200 in\n")
    answer = await pulled(running, "revocations/revoke", {"jti": "1"})
    assert answer.status == 400
    assert b"[revocation]" in answer.body
