"""A route's option ``auth``: who may come in."""

from __future__ import annotations

import hashlib
from typing import Any

import jwt as pyjwt

SECRET = "a secret of thirty-two bytes or more"
KEY = "0123456789abcdef0123456789abcdef"
INI = f"""
[defaults]
auth = jwt main

[jwt main]
secret = {SECRET}

[api_key partners]
header = X-API-Key

[consumer acme]
keys = sha256:{hashlib.sha256(KEY.encode()).hexdigest()}

[cors pages]
origins = https://shop.example

[route both]
path = /both
respond = 200 in
auth = jwt main | api_key partners
policies = cors pages

[route inline]
path = /inline
respond = 200 in
auth = none
policies = api_key partners | jwt main

[route default]
path = /default
respond = 200 in

[route open]
path = /open
respond = 200 in
auth = none
"""
TOKEN = ("Authorization", f"Bearer {pyjwt.encode({'sub': 'anna'}, SECRET)}")
BY_KEY = ("X-API-Key", KEY)


async def test_a_route_says_by_itself_who_may_come_in(gateway: Any) -> None:
    running = await gateway(INI)
    seen = {
        path: [(await running.get(path, *fields)).status for fields in ((), (TOKEN,), (BY_KEY,))]
        for path in ("/both", "/inline", "/default", "/open")
    }
    assert seen == {
        "/both": [401, 200, 200],
        "/inline": [401, 200, 200],
        "/default": [401, 200, 401],
        "/open": [200, 200, 200],
    }


async def test_a_plain_401_has_every_challenge_and_the_log_every_reason(gateway: Any) -> None:
    running = await gateway(INI)
    refused = await running.get("/both", ("Authorization", "Bearer x"))
    assert refused.status == 401
    assert [value.split(b" ")[0] for value in refused.values(b"www-authenticate")] == [b"Bearer", b"ApiKey"]
    assert list(running.logged()[-1]["notes"]["auth"]) == ["jwt main", "api_key partners"]


async def test_a_preflight_needs_no_credentials_and_a_refusal_carries_cors(gateway: Any) -> None:
    running = await gateway(INI)
    origin = ("Origin", "https://shop.example")
    preflight = await running.get("/both", origin, ("Access-Control-Request-Method", "GET"), method="OPTIONS")
    assert preflight.status == 204
    refused = await running.get("/both", origin)
    assert (refused.status, refused.value(b"access-control-allow-origin")) == (401, b"https://shop.example")
