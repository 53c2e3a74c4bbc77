"""Parts are sent as they arrive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from apigw.exchange.body import Body
from tests.aggregation.services import Asking, Stage

CALLS = """
call.user = users GET /me
call.orders = orders GET /orders/{user.id}
call.tips = products GET /tips
call.tips.optional = yes
call.tips.default = []
"""


class Reader:
    """What a client sees of a stream."""

    def __init__(self, client: Asking) -> None:
        self.data = b""
        self.ended = False
        body = client.response.body
        assert isinstance(body, Body)
        self.body = body
        body.subscribe(self)

    def body_data(self, data: bytes) -> None:
        self.data += data

    def body_end(self, trailers: Any) -> None:
        self.ended = True

    def body_failed(self, error: Any) -> None:
        raise error

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.data.splitlines()]


def test_each_part_is_a_line_as_soon_as_it_is_there(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CALLS + "stream = ndjson\n")
    client = stage.ask()
    stage[1].answer({}, 404)
    assert client.status == 200
    assert client.field(b"content-type") == b"application/x-ndjson"
    reader = Reader(client)
    tips = {"call": "tips", "outcome": "failed", "reason": "call_unexpected_status", "data": []}
    assert reader.lines == [tips]
    stage[0].answer({"id": 7})
    assert reader.lines[1:] == [{"call": "user", "outcome": "ok", "status": 200, "data": {"id": 7}}]
    stage[2].answer([1])
    assert reader.lines[2:] == [
        {"call": "orders", "outcome": "ok", "status": 200, "data": [1]},
        {"completed": False, "missing": ["tips"]},
    ]
    assert reader.ended
    assert stage.at_rest


def test_events_are_named_for_their_calls(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "call.user = users GET /me\nstream = sse\n")
    client = stage.ask()
    stage[0].answer({"a": "line\nline"})
    assert client.field(b"content-type") == b"text/event-stream"
    assert Reader(client).data == (
        b'event: user\ndata: {"call":"user","outcome":"ok","status":200,"data":{"a":"line\\nline"}}\n\n'
        b'event: end\ndata: {"completed":true,"missing":[]}\n\n'
    )


def test_a_required_call_that_fails_first_gets_its_status(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CALLS + "stream = ndjson\n")
    client = stage.ask()
    stage[0].answer({}, 500)
    assert client.status == 502
    assert client.outcomes == {"user": "failed", "orders": "not_asked", "tips": "cancelled"}


def test_a_required_call_that_fails_later_is_the_last_line(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CALLS + "stream = ndjson\n")
    client = stage.ask()
    stage[0].answer({"id": 7})
    reader = Reader(client)
    stage[2].answer({}, 500)
    assert stage[1].cancelled
    last = reader.lines[-1]
    assert (last["completed"], last["missing"], last["error"]["call"]) == (False, ["orders", "tips"], "orders")
    assert reader.ended
    assert client.request.reason == "call_unexpected_status"


def test_what_was_taken_back_is_in_the_last_line(tmp_path: Path) -> None:
    options = "call.a = users POST /a\ncall.b = users POST /b\nundo.a = users DELETE /a\nstream = ndjson\n"
    stage = Stage(tmp_path, options)
    client = stage.ask("POST")
    stage[0].answer({})
    stage[1].answer({}, 500)
    stage[2].answer({})
    last = Reader(client).lines[-1]
    assert (last["error"]["call"], last["undo"]) == ("b", {"a": "undone"})


def test_a_client_that_leaves_in_the_middle_cancels_the_rest(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CALLS + "stream = ndjson\n")
    client = stage.ask()
    stage[0].answer({"id": 7})
    reader = Reader(client)
    reader.body.cancel()
    client.request.cancel()
    assert stage[1].cancelled
    assert stage[2].cancelled
    assert stage.at_rest
