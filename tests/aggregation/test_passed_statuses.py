"""``call.NAME.pass_statuses``: what a service answers that the client can act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apigw.config.problems import ConfigurationError
from apigw.gateway.catalogue import load
from apigw.testing.origins import reply
from tests.aggregation.services import UPSTREAMS, Stage
from tests.gateway.running import upstream

TWO = "call.user = users GET /users\ncall.orders = orders GET /orders\n"


@pytest.mark.parametrize("status", [404, 409, 410, 422, 429, 503])
def test_a_required_calls_status_goes_to_the_client_with_the_calls_name(tmp_path: Path, status: int) -> None:
    stage = Stage(tmp_path, TWO)
    client = stage.ask()
    stage[1].answer({"secret": "x"}, status, (b"Retry-After", b"120"), (b"X-Other", b"o"))
    assert client.status == status
    document = client.json
    assert (document["status"], document["reason"], document["call"]) == (status, "call_status_passed", "orders")
    assert document["detail"] == f"orders: the service answered {status}"
    assert client.outcomes == {"user": "cancelled", "orders": "failed"}
    assert client.field(b"retry-after") == b"120"
    assert client.field(b"x-other") is None
    assert client.field(b"cache-control") == b"no-store"
    assert "secret" not in str(document)
    assert stage[0].cancelled
    assert stage.at_rest


@pytest.mark.parametrize("status", [400, 401, 403, 405, 418, 500, 502, 504, 301, 206])
def test_other_statuses_are_the_services_fault(tmp_path: Path, status: int) -> None:
    stage = Stage(tmp_path, TWO + "call.user.expect = 200\n")
    client = stage.ask()
    stage[0].answer({}, status, (b"Retry-After", b"120"))
    assert (client.status, client.json["reason"], client.json["call"]) == (502, "call_unexpected_status", "user")
    assert client.field(b"retry-after") is None


@pytest.mark.parametrize(
    ("option", "status", "seen"),
    [
        ("pass_statuses = none", 404, 502),
        ("pass_statuses = 401, 5xx", 401, 401),
        ("pass_statuses = 401, 5xx", 404, 502),
        ("pass_statuses = 401, 5xx", 500, 500),
        ("expect = 200, 404", 404, 200),
        ("optional = yes", 404, 200),
    ],
)
def test_what_is_passed_can_be_said(tmp_path: Path, option: str, status: int, seen: int) -> None:
    stage = Stage(tmp_path, f"call.user = users GET /users\ncall.user.{option}\n")
    client = stage.ask()
    stage[0].answer({}, status, (b"WWW-Authenticate", b"Basic"))
    assert client.status == seen
    assert client.field(b"www-authenticate") == (b"Basic" if seen in {401, 500} else None)


def test_one_of_a_foreach_passes_its_status(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.user = users GET /users/{item}\ncall.user.foreach = [`1`, `2`]\n")
    client = stage.ask()
    stage[0].answer({})
    stage[1].answer({}, 429, (b"Retry-After", b"7"))
    assert (client.status, client.field(b"retry-after")) == (429, b"7")


def test_a_stream_that_has_not_begun_passes_the_status(tmp_path: Path) -> None:
    stage = Stage(tmp_path, TWO + "stream = ndjson\n")
    client = stage.ask()
    stage[0].answer({}, 404)
    assert (client.status, client.json["call"]) == (404, "user")


def test_an_optional_call_is_no_error_to_anybody(tmp_path: Path) -> None:
    stage = Stage(tmp_path, TWO + "call.user.optional = yes\nstream = ndjson\n")
    client = stage.ask()
    stage[0].answer({}, 503, (b"Retry-After", b"120"))
    stage[1].answer({})
    assert client.status == 200


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("call.user.pass_statuses = 200", "200 is not the status of an error"),
        ("call.user.pass_statuses = 404\ncall.user.optional = yes", "the call is optional"),
        ("call.user.pass_statuses = 404\ncall.user.expect = 200, 404", "`expect` has all of these statuses"),
    ],
)
def test_options_without_effect_are_told(tmp_path: Path, options: str, what: str) -> None:
    path = tmp_path / "gw.ini"
    path.write_text(f"{UPSTREAMS}[aggregate it]\npath = /it\ncall.user = users GET /users\n{options}\n")
    try:
        found = "\n".join(map(str, load(str(path)).warnings))
    except ConfigurationError as error:
        found = str(error)
    assert what in found
    assert "gw.ini:" in found


async def test_over_the_wire_also_within_a_batch(gateway: Any, origin: Any) -> None:
    service = await origin([reply(429, b"slow down", (b"Retry-After", b"9"))])
    running = await gateway(
        upstream(service.port, "a", "retry.attempts = 1")
        + "[aggregate it]\npath = /it\ncall.user = a GET /users\n[batch all]\npath = /batch\n"
    )
    response = await running.get("/it")
    assert (response.status, response.value(b"retry-after")) == (429, b"9")
    assert json.loads(response.body)["type"] == "urn:apigw:problem:call_status_passed"
    response = await running.get(
        "/batch", ("Content-Type", "application/json"), method="POST", body=b'[{"path": "/it"}]'
    )
    [answer] = json.loads(response.body)
    assert (answer["status"], answer["headers"]["Retry-After"]) == (429, "9")
    assert running.logged()[0]["reason"] == "call_status_passed"
