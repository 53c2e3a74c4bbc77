"""Every policy in shadow, through the whole gateway: what it would refuse passes, is counted and logged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from apigw.policies.catalogue import POLICIES
from apigw.testing.origins import reply
from tests.gateway.running import route, upstream
from tests.gateway.test_shaping import KINDS as SHAPING
from tests.policies.test_asking import BCRYPT

SECRET = "secret = demo-secret-demo-secret-demo-secret!"
BAD = ("Authorization", "Bearer x")
JSON = (b"Content-Type", b"application/json")


class Breaks:
    """A policy that fails."""

    def on_request(self, request: Any) -> None:
        raise ValueError("on purpose")


@dataclass(frozen=True)
class Refusal:
    """
    What a policy would refuse.

    :ivar options: of its section. :ivar more: further sections. :ivar status: that it would have answered with.
    """

    options: str
    status: int
    reason: str
    fields: tuple[tuple[str, str], ...] = ()
    method: str = "GET"
    more: str = ""


REFUSALS = {
    "jwt": Refusal(f"{SECRET}\nclaims_to_headers = sub: X-User-Id", 401, "token_invalid", (BAD,)),
    "api_key": Refusal("header = X-Key\nconsumer_header = X-User-Id", 401, "key_invalid", (("X-Key", "x"),)),
    "basic": Refusal(
        "file = {folder}/users\nuser_header = X-User-Id", 401, "credentials_invalid", (("Authorization", "Basic YTpi"),)
    ),
    "introspection": Refusal(
        "url = http://127.0.0.1:{far}/\nclaims_to_headers = sub: X-User-Id",
        401,
        "token_invalid",
        (BAD,),
    ),
    "forward_auth": Refusal("url = http://127.0.0.1:{far}/\nresponse_headers = X-User-Id", 403, ""),
    "oidc": Refusal(
        "issuer = http://127.0.0.1:{far}\nclient_id = x\ncookie_secret = demo-secret-demo-secret-demo-secret!\n"
        "claims_to_headers = sub: X-User-Id", 401, "login_needed",
    ),
    "auth": Refusal(
        "any = jwt inner | api_key inner", 401, "unauthenticated",
        more=f"[jwt inner]\n{SECRET}\nclaims_to_headers = sub: X-User-Id\n[api_key inner]\nheader = X-Key",
    ),
    "acl": Refusal("allow = group:admins", 403, "forbidden"),
    "ip_filter": Refusal("deny = 127.0.0.0/8", 403, "address_refused"),
    "cors": Refusal(
        "origins = https://shop.example", 403, "origin_refused",
        (("Origin", "https://evil.example"), ("Access-Control-Request-Method", "PUT")), "OPTIONS",
    ),
    "csrf": Refusal("origins = https://shop.example", 403, "cross_site", (("Sec-Fetch-Site", "cross-site"),), "POST"),
    "decompress": Refusal("", 415, "coding_unknown", (("Content-Encoding", "rot13"),), "POST"),
    "transform": Refusal("request = a", 400, "json_invalid", (("Content-Type", "application/json"),), "POST"),
    "python": Refusal("class = tests.gateway.test_shadow:Breaks", 500, "policy_failed"),
}  # fmt: skip

IDENTIFYING = [kind for kind, refusal in REFUSALS.items() if "X-User-Id" in refusal.options + refusal.more]


CHANGES = {
    "compress": "min_size = 1",
    "error_pages": "text = {folder}/users\nservices = yes",
    "request_headers": "set.X-Extra = 1",
    "response_headers": "set.X-Extra = 1",
    "security_headers": "",
}
"""Policies that refuse nothing."""


def test_all_policies_are_tried_in_shadow() -> None:
    assert set(POLICIES) == {*REFUSALS, *SHAPING, *CHANGES}


@pytest.mark.parametrize("kind", CHANGES)
async def test_what_changes_messages_leaves_them_alone_in_shadow(
    gateway: Any, origin: Any, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "users").write_text("an error")
    service = await origin([reply(404, b"hello" * 100, (b"Content-Type", b"text/plain"))])
    outcomes = []
    for policies in (f"policies = {kind} x", ""):
        running = await gateway(
            f"[{kind} x]\nmode = shadow\n{CHANGES[kind].format(folder=tmp_path)}\n"
            + upstream(service.port)
            + route("/", policies)
        )
        response = await running.get("/", ("Accept-Encoding", "gzip"), ("Accept", "text/plain"))
        fields = [pair for pair in response.fields if pair[0] not in {b"Date", b"X-Request-Id"}]
        outcomes.append((response.status, response.body, fields, service.requests[-1].values(b"x-extra")))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == 404


@pytest.mark.parametrize("mode", ["enforce", "shadow"])
@pytest.mark.parametrize("kind", REFUSALS)
async def test_what_would_be_refused_passes_and_is_told(
    gateway: Any, origin: Any, tmp_path: Path, kind: str, mode: str
) -> None:
    refusal = REFUSALS[kind]
    (tmp_path / "users").write_text(f"anna:{BCRYPT}\n")
    service = await origin([reply(200, b"hello")])
    far = await origin(
        [lambda received: reply(403 if received.line.startswith(b"GET") else 200, b'{"active": false}', JSON)]
    )
    running = await gateway(
        f"[admin]\nendpoint = tcp:0:interface=127.0.0.1\n"
        f"[{kind} x]\nmode = {mode}\n{refusal.options.format(folder=tmp_path, far=far.port)}\n{refusal.more}\n"
        + upstream(service.port)
        + route("/", f"policies = {kind} x")
    )
    spoofed = (("X-User-Id", "admin"), ("x_user_id", "admin"))
    body = b"{no JSON" if refusal.method == "POST" else b""
    response = await running.get("/", *refusal.fields, *spoofed, method=refusal.method, body=body)
    [line] = running.logged()
    metrics = (await running.admin("/metrics")).body.decode()
    counted = re.search(
        rf'apigw_policy_events_total{{[^}}]*policy="{kind} x"[^}}]*event="would_deny"[^}}]*}} 1', metrics
    )
    if mode == "enforce":
        assert response.status == refusal.status
        assert service.requests == []
        assert "would_deny" not in line.get("notes", {})
        return
    assert (response.status, response.body) == (200, b"hello")
    assert line["notes"]["would_deny"] == [{"policy": f"{kind} x", "status": refusal.status, "reason": refusal.reason}]
    assert line["status"] == 200
    assert counted, metrics
    assert service.requests[0].body == body
    seen = [name.lower() for name, _ in service.requests[0].fields]
    assert (b"x-user-id" in seen, b"x_user_id" in seen) == ((False, False) if kind in IDENTIFYING else (True, True))
