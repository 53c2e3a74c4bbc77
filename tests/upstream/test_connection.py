"""A connection to a service, without sockets."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from apigw.exchange.body import Body
from apigw.http.h1_heads import ResponseHeads
from apigw.net.timers import Wheel
from apigw.upstream.connection import UpstreamConnection

HEAD = b"HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(("end", "whole"), [(b"0\r\n\r\n", True), (b"", False)])
async def test_what_was_received_before_a_reset_is_passed_on(end: bytes, whole: bool) -> None:
    """A service that refuses an upload may reset the connection while its answer waits for turns of the loop."""
    wheel = Wheel(time.monotonic)
    pool: Any = SimpleNamespace(
        wheel=wheel, heads=ResponseHeads(), response_timeout=60.0, idle_timeout=60.0, keep_timeout=60.0,
        max_age=0.0, max_uses=0, release=Mock(), lost=Mock(),
    )  # fmt: skip
    exchange = Mock(request_method=b"POST")
    connection = UpstreamConnection(pool)
    connection.connection_made(Mock())
    connection.begin(exchange, b"POST / HTTP/1.1\r\n\r\n", time.monotonic(), upload=True)
    connection.data_received(HEAD + b"1\r\nx\r\n" * 5000 + end)
    connection.connection_lost(ConnectionResetError())
    body = exchange.answered.call_args.args[1]
    assert isinstance(body, Body)
    assert (body.received, body.ended, body.error is None) == (5000, whole, whole)
    exchange.broke.assert_not_called()
    exchange.released.assert_called_once()
    pool.release.assert_not_called()
    pool.lost.assert_called_once_with(connection)
    wheel.forget(connection)
