"""Several writes in one request: in sequence, and taken back when a later one fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import globalLogPublisher

from apigw.exchange.errors import UpstreamFault
from tests.aggregation.services import Stage

CHECKOUT = """
methods = POST
timeout = 3s
call.user = users GET /users/{body.user}
call.order = orders POST /orders
call.order.body = {"user": {user.id}}
call.payment = users POST /payments
call.payment.body = {"order": {order.id}, "amount": {body.amount}}
call.mail = products POST /mails?order={order.id}
call.mail.optional = yes
call.shipping = products PUT /shippings/{order.id}
undo.order = orders DELETE /orders/{order.id}
undo.payment = users POST /refunds
undo.payment.body = {"payment": {payment.id}}
response = {order: order.id, payment: payment.id}
"""
BODY = b'{"user": 7, "amount": 100}'


def begun(stage: Stage) -> None:
    """Up to the mail: user, order and payment are answered."""
    stage[0].answer({"id": 7})
    stage[1].answer({"id": 10})
    stage[2].answer({"id": 20})


def test_writes_run_one_after_the_other_as_written(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CHECKOUT)
    client = stage.ask("POST", body=BODY)
    assert stage.lines == ["GET /users/7"]
    stage[0].answer({"id": 7})
    assert stage.lines[1:] == ["POST /orders"]
    assert stage[1].content == b'{"user":7}'
    stage[1].answer({"id": 10})
    assert stage.lines[2:] == ["POST /payments"]
    assert stage[2].content == b'{"order":10,"amount":100}'
    stage[2].answer({"id": 20})
    assert stage.lines[3:] == ["POST /mails?order=10"]
    stage[3].answer({})
    assert stage.lines[4:] == ["PUT /shippings/10"]
    assert client.responses == []


def test_a_checkout_that_goes_well(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CHECKOUT)
    client = stage.ask("POST", body=BODY)
    begun(stage)
    stage[3].answer({})
    stage[4].answer({})
    assert client.json == {"order": 10, "payment": 20}
    assert len(stage.asked) == 5
    assert stage.at_rest


def test_what_was_done_is_undone_in_the_opposite_order(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CHECKOUT)
    client = stage.ask("POST", body=BODY)
    begun(stage)
    stage[3].answer({})
    stage[4].answer({}, 409)
    assert client.responses == []
    assert stage.lines[5:] == ["POST /refunds"]
    assert stage[5].content == b'{"payment":20}'
    stage[5].answer({})
    assert stage.lines[6:] == ["DELETE /orders/10"]
    stage[6].answer(None, 204)
    assert (client.status, client.json["call"]) == (409, "shipping")
    calls = client.json["calls"]
    assert client.outcomes == {"user": "ok", "order": "ok", "payment": "ok", "mail": "ok", "shipping": "failed"}
    assert (calls["order"]["undo"], calls["payment"]["undo"]) == ("undone", "undone")
    assert "undo" not in calls["mail"]
    assert stage.at_rest


def test_what_could_not_be_undone_is_said_and_logged_and_the_rest_is_undone(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CHECKOUT)
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)  # type: ignore[arg-type]
    try:
        client = stage.ask("POST", body=BODY)
        begun(stage)
        stage[3].answer({})
        stage[4].fail(UpstreamFault("refused", reason="upstream_refused"))
        stage[5].answer({}, 500)
        stage[6].answer({})
    finally:
        globalLogPublisher.removeObserver(events.append)  # type: ignore[arg-type]
    calls = client.json["calls"]
    assert (calls["order"]["undo"], calls["payment"]["undo"]) == ("undone", "not undone")
    errors = [event for event in events if event["log_level"].name == "error"]
    assert [(event["call"], event["reason"]) for event in errors] == [("payment", "call_unexpected_status")]
    steps = [(event["call"], event["what"]) for event in events if "what" in event]
    assert steps == [
        ("order", "begins"), ("order", "is done"), ("payment", "begins"), ("payment", "is done"),
        ("mail", "begins"), ("mail", "is done"), ("shipping", "begins"), ("shipping", "failed: upstream_refused"),
        ("payment", "is being undone"), ("order", "is being undone"), ("order", "was undone"),
    ]  # fmt: skip


def test_a_first_write_that_fails_leaves_nothing_to_undo(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CHECKOUT)
    client = stage.ask("POST", body=BODY)
    stage[0].answer({"id": 7})
    stage[1].answer({}, 500)
    assert client.status == 502
    assert client.outcomes["payment"] == "not_asked"
    assert len(stage.asked) == 2


def test_an_optional_write_that_fails_undoes_nothing(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CHECKOUT)
    client = stage.ask("POST", body=BODY)
    begun(stage)
    stage[3].answer({}, 500)
    stage[4].answer({})
    assert client.status == 200
    assert client.field(b"apigw-missing") == b"mail"


def test_a_client_that_leaves_has_its_writes_undone_after_the_one_in_flight_is_known(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CHECKOUT)
    client = stage.ask("POST", body=BODY)
    stage[0].answer({"id": 7})
    stage[1].answer({"id": 10})
    client.request.cancel()
    assert not stage[2].cancelled  # it may have been paid
    stage[2].answer({"id": 20})
    assert stage.lines[3:] == ["POST /refunds"]
    stage[3].answer({})
    stage[4].answer({})
    assert stage.lines[4:] == ["DELETE /orders/10"]
    assert client.responses == []
    assert stage.at_rest


def test_at_the_deadline_what_was_done_is_undone_and_the_undoing_has_its_own_time(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CHECKOUT)
    client = stage.ask("POST", body=BODY)
    begun(stage)
    stage.pass_time(3.1)
    assert stage[3].cancelled
    assert stage.lines[4:] == ["POST /refunds"]
    stage.pass_time(3.1)
    assert stage[4].cancelled
    stage[5].answer({})
    assert client.status == 504
    assert client.json["calls"]["payment"]["undo"] == "not undone"
    assert client.json["calls"]["order"]["undo"] == "undone"
    assert stage.at_rest


@pytest.mark.parametrize("missing", ["card", "reason"])
def test_nothing_is_written_if_the_client_left_out_what_a_later_call_needs(tmp_path: Path, missing: str) -> None:
    stage = Stage(
        tmp_path,
        "call.a = users POST /a\ncall.b = users POST /b\ncall.b.body = {body.card}\n"
        "undo.b = users POST /undo\nundo.b.body = {body.reason}\n"
        "call.c = users POST /c?x={body.more}\ncall.c.optional = yes\n",
    )
    content = {"card": 1, "reason": 2}
    del content[missing]
    client = stage.ask("POST", body=json.dumps(content).encode())
    assert (client.status, client.json["detail"]) == (400, f"b: {{body.{missing}}} has no value")
    assert client.outcomes == {"a": "not_asked", "b": "failed", "c": "not_asked"}
    assert stage.asked == []
    assert stage.at_rest


def test_an_undo_is_not_bound_by_the_time_that_the_client_gave(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CHECKOUT)
    client = stage.ask("POST", body=BODY, deadline=stage.now + 2)
    begun(stage)
    stage[3].answer({})
    assert stage[4].request.deadline == stage.now + 2
    stage[4].fail(UpstreamFault("late", status=504, reason="deadline_exceeded"))
    assert stage[5].request.deadline == 0.0
    stage[5].answer({})
    stage[6].answer({})
    assert client.status == 504
    assert stage.at_rest


@pytest.mark.parametrize("answer", [{}, []])
def test_an_undo_that_lacks_a_value_is_not_undone(tmp_path: Path, answer: Any) -> None:
    stage = Stage(
        tmp_path,
        "methods = POST\ncall.a = users POST /a\nundo.a = users DELETE /a/{a.id}\ncall.b = users POST /b\n",
    )
    client = stage.ask("POST")
    stage[0].answer(answer)
    stage[1].answer({}, 500)
    assert client.json["calls"]["a"]["undo"] == "not undone"
    assert stage.at_rest
