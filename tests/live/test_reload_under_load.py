"""Many reloads, and the end, while clients send without a pause: no request fails, no connection is reset."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.live.processes import foreground, free_port
from tests.origins import Origin, RawClient, deferred, reply

GET = b"GET /users/1 HTTP/1.1\r\nHost: shop.example\r\n\r\n"
POST = b"POST /users HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 7\r\n\r\ncontent"


@pytest.mark.time_limit(60)
async def test_fifty_reloads_and_the_end_fail_no_request(tmp_path: Path) -> None:
    origins = [await Origin([reply(200, b"hello")]).start() for _ in range(2)]
    port, other, admin = free_port(), free_port(), free_port()

    def write(number: int) -> None:
        target = origins[number // 2 % 2].port
        more = f"[listen other]\nendpoint = tcp:{other}:interface=127.0.0.1\n" if number % 3 == 1 else ""
        (tmp_path / "gw.ini").write_text(f"""
[gateway]
access_log = {tmp_path}/access{number % 2}.log
drain_timeout = 10s
[listen public{"" if number % 4 else "_renamed"}]
endpoint = tcp:{port}:interface=127.0.0.1
[admin]
endpoint = tcp:{admin}:interface=127.0.0.1
{"token = x" if number % 5 == 0 else ""}
[upstream users]
targets = http://127.0.0.1:{target}
[route users]
path = /users
upstream = users
[route number{number}]
path = /number{number}
respond = 200 {number}
{more}
""")

    answered = 0
    ending = False

    @deferred
    async def client(request: bytes) -> None:
        nonlocal answered
        while True:
            try:
                wire = await RawClient.connect(port)
            except ConnectionRefusedError:
                assert ending
                return
            while True:
                wire.send(request)
                response = await wire.read_response()
                assert (response.status, response.body) == (200, b"hello")
                answered += 1
                if response.value(b"connection") == b"close":
                    await wire.until_closed()
                    assert wire.error is None
                    wire.close()
                    break

    write(1)
    with foreground(tmp_path, "apigw", "--config", "gw.ini") as process:
        await process.listens(port)
        clients = [client(POST if number % 4 == 0 else GET) for number in range(16)]
        for number in range(2, 52):
            write(number)
            process.signal(signal.SIGHUP)
            await process.said("the new configuration is in force", times=number - 1)
        ending = True
        process.signal(signal.SIGTERM)
        for each in clients:
            await each
        assert await process.ended() == -signal.SIGTERM
        assert "Traceback" not in process.out
    assert answered > 100  # how many it is, is the machine's matter; that it went on all the time, is ours
    lines = sum(len((tmp_path / f"access{number}.log").read_text().splitlines()) for number in range(2))
    assert lines == answered  # each is logged once, none is lost between two logs
    for origin in origins:
        await origin.stop()
