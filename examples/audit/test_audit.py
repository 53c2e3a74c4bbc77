"""The policy alone, and in the gateway."""

from __future__ import annotations

from typing import Any

from apigw.testing.origins import reply
from apigw.testing.policies import World, request, run
from examples.audit.audit import Audit


def test_a_change_gets_a_number() -> None:
    world = World()
    audit = Audit(Audit.Settings(header="X-Number"), world.environment("python", "audit"))
    outcome = run(audit, request("POST", "/orders"))
    assert outcome.passed[0].headers.get(b"x-number") == b"1"
    assert outcome.response.headers.get(b"x-number") == b"1"
    assert world.logged[0]["method"] == "POST"


def test_who_only_reads_gets_none() -> None:
    audit = Audit(Audit.Settings(), World().environment("python", "audit"))
    assert run(audit, request("GET", "/orders")).response.headers.get(b"x-audit-id") is None


async def test_in_the_gateway(gateway: Any, origin: Any) -> None:
    orders = await origin([reply(201, b"made")])
    running = await gateway(f"""
        [python audit]
        class = examples.audit.audit:Audit
        header = X-Number

        [upstream orders]
        targets = http://127.0.0.1:{orders.port}

        [route orders]
        path = /orders
        upstream = orders
        policies = python audit
    """)
    response = await running.get("/orders", method="POST", body=b"{}")
    assert (response.status, response.body) == (201, b"made")
    assert response.value(b"x-number") == b"1"
    assert orders.requests[0].values(b"x-number") == [b"1"]

    refused = await running.get("/orders", ("X-Reason", ""), method="POST")
    assert refused.status == 400
    assert running.logged()[-1]["reason"] == "audit_reason_empty"
