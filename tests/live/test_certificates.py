"""Certificates that are replaced while clients shake hands: nobody notices."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.live.processes import foreground, free_port
from tests.origins import RawClient, deferred

GET = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"


@pytest.mark.time_limit(60)
async def test_certificates_are_replaced_every_half_second_and_no_request_fails(tmp_path: Path) -> None:
    authority = Authority()
    authority.write(tmp_path / "ca.pem")
    trust = ssl.create_default_context(cafile=tmp_path / "ca.pem")

    def replace(kind: str) -> None:
        authority.issue("shop.example", kind=kind).write(tmp_path / "new")
        os.replace(tmp_path / "new", tmp_path / "shop.pem")

    replace("ECDSA")
    port = free_port()
    (tmp_path / "gw.ini").write_text(
        f"[gateway]\naccess_log = off\n[listen public]\nendpoint = tcp:{port}:interface=127.0.0.1\n"
        "tls.certificates = shop.pem\n[route a]\npath = /\nrespond = 200 hello\n"
    )
    over = False
    answered = 0
    serials = set()

    @deferred
    async def handshakes() -> None:
        nonlocal answered
        while not over:
            client = await RawClient.connect(port, tls=trust, server_name="shop.example")
            serials.add(client.transport.get_extra_info("peercert")["serialNumber"])
            client.send(LAST)
            assert (await client.read_response()).body == b"hello"
            await client.until_closed()
            answered += 1

    @deferred
    async def keeps() -> None:
        nonlocal answered
        client = await RawClient.connect(port, tls=trust, server_name="shop.example")
        while not over:
            client.send(GET)
            assert (await client.read_response()).body == b"hello"
            answered += 1
        client.close()

    with foreground(tmp_path, "apigw", "--config", "gw.ini") as process:
        await process.listens(port)
        clients = [handshakes(), handshakes(), keeps(), keeps()]
        for number in range(20):
            replace("RSA" if number % 2 else "ECDSA")
            await asyncio.sleep(0.5)
        (tmp_path / "shop.pem").write_text("nonsense")  # a bad pair keeps the old one, and is told
        await process.said("can't be used")
        await asyncio.sleep(1.2)
        over = True
        for client in clients:
            await client
        process.signal(signal.SIGTERM)
        await process.ended()
        assert "Traceback" not in process.out
        assert "listen public: a certificate can't be used: " in process.out
    assert answered > 100
    assert len(serials) > 5
