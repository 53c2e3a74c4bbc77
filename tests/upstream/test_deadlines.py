"""X-Request-Timeout: what a client may say of its patience, and what services are told of it."""

from __future__ import annotations

import re

from apigw.downstream.h1_channel import H1Channel
from tests.wire.memory import Path, Wire

ASKED = b"GET /x HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: %b\r\n\r\n"


def told(wire: Wire) -> bytes | None:
    found = re.search(rb"\r\nX-Request-Timeout: ([0-9.]+)\r\n", wire.received)
    return found[1] if found else None


def test_a_trusted_clients_patience_is_honoured_and_passed_on() -> None:
    path = Path(trusted=True)
    path.client.send(ASKED % b"250ms")
    assert told(path.origin) == b"0.250"
    path.advance(0.2)
    assert path.finished == []
    path.advance(0.2)
    assert path.client.received.startswith(b"HTTP/1.1 504 ")
    assert path.finished[0][:2] == (504, "deadline_exceeded")
    assert path.origin.aborted
    assert path.target.active == 0


def test_a_strangers_field_is_neither_believed_nor_sent_on() -> None:
    path = Path()
    path.client.send(ASKED % b"1ms")
    assert b"imeout" not in path.origin.received
    path.advance(2.0)
    assert path.finished == []


def test_a_field_that_says_nothing_is_not_sent_on() -> None:
    path = Path(trusted=True)
    for value in (b"soon", b"0", b"-1", b"1 fortnight"):
        path.client.send(ASKED % value)
        assert b"imeout" not in path.origin.take()
        path.origin.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert [status for status, _, _ in path.finished] == [204] * 4


def test_the_next_request_of_the_connection_has_a_time_of_its_own() -> None:
    path = Path(trusted=True)
    path.client.send(ASKED % b"0.2")
    path.origin.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    path.client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    path.advance(1.0)
    assert [status for status, _, _ in path.finished] == [204]
    assert isinstance(path.client.protocol, H1Channel)
