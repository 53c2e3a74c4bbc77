"""What a token says of a caller, decided on and told to services as it is."""

from __future__ import annotations

import json
from typing import Any

import jwt as pyjwt

from apigw.testing.origins import reply
from tests.gateway.running import route, upstream

SECRET = "a secret of thirty-two bytes or more"


def bearer(claims: dict[str, Any]) -> tuple[str, str]:
    return "Authorization", f"Bearer {pyjwt.encode(claims, SECRET)}"


async def test_conditions_compare_values(gateway: Any) -> None:
    running = await gateway(
        f"[jwt main]\nsecret = {SECRET}\nclaims = tenant: zürich|acme\n"
        + route("/", "respond = 200", "policies = jwt main")
    )
    for tenant, status in {"zürich": 200, "acme": 200, " acme ": 403, "z%C3%BCrich": 403}.items():
        assert (await running.get("/", bearer({"tenant": tenant}))).status == status, tenant
    for nested in ([["acme"]], {"acme": 1}, [" acme"], None):
        assert (await running.get("/", bearer({"tenant": nested}))).status == 403, nested
    assert (await running.get("/", bearer({"tenant": ["x", "zürich"]}))).status == 200


async def test_services_can_tell_all_claims_apart(gateway: Any, origin: Any) -> None:
    service = await origin([reply(200, b"{}", (b"Content-Type", b"application/json"))])
    running = await gateway(
        upstream(service.port)
        + f"[jwt main]\nsecret = {SECRET}\nclaims_to_headers = name: X-Name\nidentity_claim = name\n"
        + "[request_headers told]\nset.X-Told = {jwt.name}\nset.X-Of = of {jwt.name}\n"
        + route("/", "policies = jwt main, request_headers told")
        + "[aggregate all]\npath = /all\npolicies = jwt main\n"
        + "call.x = a GET /x\ncall.x.headers = X-Called: {jwt.name}\n"
    )
    claims = [
        "anna",
        " anna",
        "anna ",
        "é",
        "%C3%A9",
        ["a,admins"],
        ["a", "admins"],
        "\ud83d",
        "\ufffd",
        ["x", " x"],
        "1%",
    ]
    seen = set()
    for claim in claims:
        for path in ("/", "/all"):
            assert (await running.get(path, bearer({"name": claim}))).status == 200
        straight, called = service.requests[-2:]
        values = [*straight.values(b"x-name"), *straight.values(b"x-told"), *called.values(b"x-called")]
        assert (len(values), len(set(values))) == (3, 1), claim
        assert straight.values(b"x-of") == [b"of " + values[0]]
        seen.add(values[0])
    assert len(seen) == len(claims)


async def test_limits_count_values_apart(gateway: Any) -> None:
    running = await gateway(
        f"[jwt main]\nsecret = {SECRET}\n[rate_limit one]\nrate = 1/h\nby = jwt:org.id\n"
        + route("/", "respond = 200", "policies = jwt main, rate_limit one")
    )
    for value in ("1", 1, True, "true", "é", "%C3%A9", " 1", "\ud83d", "?"):
        token = bearer({"org": {"id": value}})
        statuses = [(await running.get("/", token)).status for _ in range(2)]
        assert statuses == [200, 429], json.dumps(value)


async def test_a_redirect_keeps_claims_apart(gateway: Any) -> None:
    running = await gateway(
        f"[jwt main]\nsecret = {SECRET}\n[redirect there]\nlocation = https://x.example/{{jwt.org}}\n"
        + route("/", "respond = 200", "policies = jwt main, redirect there")
    )
    found = [
        (await running.get("/", bearer({"org": org}))).value(b"location")
        for org in ("é", "%C3%A9", " a", "a", ["a", "b"], ["a,b"])
    ]
    base = b"https://x.example/"
    assert found == [base + end for end in (b"%C3%A9", b"%25C3%25A9", b"%20a", b"a", b"a,b", b"a%2Cb")]
