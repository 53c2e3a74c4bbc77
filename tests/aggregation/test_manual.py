"""The examples of docs/aggregation.md are true."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import jwt
import pytest

from apigw.aggregation.settings import AggregateSettings, BatchSettings, CallSettings
from apigw.gateway.catalogue import load
from apigw.testing.origins import Origin, reply
from tests.aggregation.services import UPSTREAMS
from tests.gateway.running import running, upstream

MANUAL = (Path(__file__).parents[2] / "docs" / "aggregation.md").read_text()
SECRET = "demo-secret-demo-secret-demo-secret!"
JWT = f"\n[jwt main]\nalgorithms = HS256\nsecret = {SECRET}\n"
EXAMPLES = re.findall(r"```ini\n(.*?)```", MANUAL, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_a_configuration(tmp_path: Path, example: str) -> None:
    (tmp_path / "gw.ini").write_text(UPSTREAMS + JWT + example.replace("mypkg.pages", "tests.aggregation.pages"))
    load(str(tmp_path / "gw.ini"))


async def test_the_dashboard_answers_what_is_said(tmp_path: Path) -> None:
    expected = re.findall(r"```json\n(.*?)```", MANUAL, re.DOTALL)[0].strip()
    users = await Origin([reply(200, b'{"id": 7, "name": "Ada"}')]).start()
    orders = await Origin([reply(200, json.dumps([{"id": number} for number in range(1, 8)]).encode())]).start()
    products = await Origin([reply(503)]).start()
    text = JWT + textwrap.dedent(EXAMPLES[0])
    for name, origin in (("users", users), ("orders", orders), ("products", products)):
        text += upstream(origin.port, name)
    assert len(EXAMPLES[0].strip().splitlines()) == 12
    async with running(tmp_path, text) as gateway:
        token = jwt.encode({"sub": "7"}, SECRET, "HS256")
        response = await gateway.get("/api/dashboard", ("Authorization", f"Bearer {token}"))
        assert response.body.decode() == expected
        assert response.value(b"apigw-missing") == b"recommendations"
        assert users.requests[0].line == b"GET /users/7 HTTP/1.1"
        assert orders.requests[0].line == b"GET /orders?userId=7 HTTP/1.1"
        assert (await gateway.get("/api/dashboard")).status == 401
    for origin in (users, orders, products):
        await origin.stop()


def test_every_option_is_in_the_manual() -> None:
    known = {*AggregateSettings.model_fields, *BatchSettings.model_fields}
    as_in_a_route = {"path", "hosts", "methods", "header", "query", "priority", "policies", "class_"}
    known -= as_in_a_route | {"call", "undo"}
    assert [name for name in known if name not in MANUAL] == []
    assert [name for name in CallSettings.model_fields if name != "request" and name not in MANUAL] == []
