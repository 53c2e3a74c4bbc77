"""JSON from clients and services: each reader of the gateway takes and refuses the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apigw.testing.gateway import request
from apigw.testing.origins import reply
from tests.gateway.running import route, upstream

LONE = rb'{"a": "\ud83d", "\udc00b": [1]}'
REFUSED = {
    "a number beyond a double": b'{"a": 1e999}',
    "5000 digits": b'{"a": ' + b"1" * 5000 + b"}",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "invalid UTF-8": b'{"a": "\xff"}',
    "a surrogate in UTF-8": b'{"a": "\xed\xa0\xbd"}',
    "100,000 brackets": b"[" * 100_000,
    "deep objects": b'{"a":' * 300 + b"1" + b"}" * 300,
}
TWICE = b'{"a": 1, "a": 2}'
JSON = ("Content-Type", "application/json")


def section(tmp_path: Path, reader: str) -> str:
    """A route at / whose requests' content is read by ``reader``."""
    (tmp_path / "any.json").write_text('{"type": "object", "properties": {"n": {"type": "integer"}}}')
    (tmp_path / "api.json").write_text(
        json.dumps(
            {
                "openapi": "3.1.0",
                "paths": {"/": {"post": {"requestBody": {"content": {"application/json": {"schema": {
                    "type": "object", "properties": {"n": {"type": "integer"}}}}}}}}},
            }
        )
    )  # fmt: skip
    options = {
        "json_schema": f"request = {tmp_path}/any.json",
        "openapi": f"file = {tmp_path}/api.json",
        "transform": "request = {b: a}",
    }
    if reader == "aggregate":
        return "[aggregate x]\npath = /\nmethods = POST\ncall.x = a GET /x\nresponse = {b: body.a}\n"
    return f"[{reader} x]\n{options[reader]}\n" + route("/", f"policies = {reader} x")


READERS = ["json_schema", "openapi", "transform", "aggregate"]


@pytest.mark.parametrize("reader", READERS)
async def test_requests_with_content_that_is_no_json(gateway: Any, origin: Any, tmp_path: Path, reader: str) -> None:
    service = await origin([reply(200, b"{}", (b"Content-Type", b"application/json"))])
    running = await gateway(upstream(service.port) + section(tmp_path, reader))
    for name, body in {**REFUSED, "the same name twice": TWICE}.items():
        response = await running.get("/", JSON, method="POST", body=body)
        assert response.status == 400, name
        assert json.loads(response.body)["reason"] in {"json_invalid", "invalid_json"}, name
    assert service.requests == []
    for body in (LONE, b"\xef\xbb\xbf" + LONE):
        assert (await running.get("/", JSON, method="POST", body=body)).status == 200


@pytest.mark.parametrize("reader", ["json_schema", "openapi"])
@pytest.mark.parametrize("body", [rb'{"n": "\ud83d"}', rb'{"\ud83d": 1, "n": "a"}', rb'{"n": {"\udc00": ["\ud83d"]}}'])
async def test_a_violation_in_content_with_half_of_a_surrogate_pair(
    gateway: Any, origin: Any, tmp_path: Path, reader: str, body: bytes
) -> None:
    service = await origin([reply(200, b"hello")])
    running = await gateway(upstream(service.port) + section(tmp_path, reader))
    response = await running.get("/", JSON, method="POST", body=body)
    assert (response.status, json.loads(response.body)["reason"]) == (400, "schema_violated")
    assert json.loads(response.body)["violations"][0]["pointer"] == "/n"
    assert running.logged()[-1]["reason"] == "schema_violated"


async def test_answers_with_half_of_a_surrogate_pair_go_on(gateway: Any, origin: Any, tmp_path: Path) -> None:
    service = await origin([reply(200, LONE, (b"Content-Type", b"application/json"))])
    (tmp_path / "any.json").write_text('{"type": "object", "required": ["a"]}')
    running = await gateway(
        upstream(service.port)
        + "[aggregate all]\npath = /all\ncall.x = a GET /x\ncall.y = a GET /{x.a}\ncall.y.optional = yes\n"
        + "[aggregate shaped]\npath = /shaped\ncall.x = a GET /x\nresponse = {x: x}\n"
        + "[batch b]\npath = /batch\n"
        + f"[json_schema s]\nresponse = {tmp_path}/any.json\n[transform t]\nresponse = {{x: @}}\n"
        + route("/plain", "policies = json_schema s")
        + route("/transform", "policies = transform t", name="t")
    )
    value = json.loads(LONE)
    for path, expected in {
        "/all": {"x": value, "y": None},
        "/shaped": {"x": value},
        "/plain": value,
        "/transform": {"x": value},
    }.items():
        response = await running.get(path)
        assert (response.status, json.loads(response.body)) == (200, expected), path
    batch = [
        {"path": "/plain"},
        {"path": "/plain", "method": "POST", "body": {"a": "\ud83d"}},
        {"path": "/plain", "method": "POST", "body": "\ud83d"},
        {"path": "/plain", "query": {"\ud83d": "x"}},
        {"path": "/plain/{$0.body.a}"},
        {"path": "/plain", "headers": {"X-A": "{$0.body.a}"}},
    ]
    response = await running.get("/batch", JSON, method="POST", body=json.dumps(batch).encode())
    assert [each["status"] for each in json.loads(response.body)] == [200, 200, 400, 400, 424, 424]
    assert json.loads(response.body)[0]["body"] == value
    for item in ({"path": "/\ud83d"}, {"method": "\ud83d", "path": "/"}, {"path": "/", "headers": {"\ud83d": "x"}}):
        response = await running.get("/batch", JSON, method="POST", body=json.dumps([item]).encode())
        assert response.status == 400, item


@pytest.mark.parametrize("reader", ["json_schema", "transform", "aggregate"])
async def test_answers_that_are_no_json(gateway: Any, origin: Any, tmp_path: Path, reader: str) -> None:
    answers = [reply(200, body, (b"Content-Type", b"application/json")) for body in REFUSED.values()]
    (tmp_path / "any.json").write_text('{"type": "object"}')
    options = {"json_schema": f"response = {tmp_path}/any.json", "transform": "response = {b: a}"}
    service = await origin(answers)
    running = await gateway(
        upstream(service.port)
        + (
            "[aggregate x]\npath = /\ncall.x = a GET /x\n"
            if reader == "aggregate"
            else f"[{reader} x]\n{options[reader]}\n" + route("/", f"policies = {reader} x")
        )
    )
    for name in REFUSED:
        assert (await running.get("/")).status == 502, name


async def test_parameters_of_the_admins_actions(gateway: Any) -> None:
    running = await gateway(
        "[admin]\nendpoint = tcp:0:interface=127.0.0.1\ntoken = t\n[revocation]\n" + route("/", "respond = 200")
    )

    async def revoke(body: bytes) -> int:
        client = await running.connect(port=running.admin_port)
        client.send(
            request("/revocations/revoke", ("Authorization", "Bearer t"), host="localhost", method="POST", body=body)
        )
        response = await client.read_response(b"POST")
        client.close()
        return int(response.status)

    assert await revoke(rb'{"jti": "\ud83d"}') == 200
    assert await revoke(rb'{"sub": "\ud83d"}') == 200
    for name, body in {**REFUSED, "the same name twice": TWICE}.items():
        assert await revoke(body) in {400, 413}, name
