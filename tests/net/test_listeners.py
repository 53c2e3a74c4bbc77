"""Listeners: what becomes of clients when connections are too many, and when the listener goes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apigw.net.listeners import MOST_REFUSALS, Listener
from apigw.net.sockets import open_socket
from tests.net.test_sockets import to

REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Echo(asyncio.Protocol):
    open: set[Echo]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.open.add(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.discard(self)


@contextlib.asynccontextmanager
async def listening(
    endpoint: str = "tcp:0:interface=127.0.0.1", *, most: int = 0, refusal: bytes = b""
) -> AsyncIterator[Listener]:
    class OwnEcho(Echo):
        open: set[Echo] = set()  # noqa: RUF012  one set a listener

    sock = open_socket(to(endpoint))
    listener = Listener(sock, OwnEcho, max_connections=most, connections=lambda: len(OwnEcho.open), refusal=refusal)
    await listener.start()
    try:
        yield listener
    finally:
        listener.close()
        for each in list(OwnEcho.open):
            each.transport.abort()


async def connect(listener: Listener) -> socket.socket:
    sock = socket.socket(listener.socket.family)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, listener.socket.getsockname())
    return sock


async def ask(sock: socket.socket, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, data)
    return await loop.sock_recv(sock, 1000)


async def cut_off(sock: socket.socket) -> bool:
    try:
        return await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    except ConnectionResetError:
        return True


async def test_connections_are_served() -> None:
    async with listening() as listener:
        with await connect(listener) as client:
            assert await ask(client, b"hello") == b"hello"


async def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    async with listening(f"unix:{path}") as listener:
        with await connect(listener) as client:
            assert await ask(client, b"hello") == b"hello"
            await listener.stop_accepting()
            assert not path.exists()
            assert await ask(client, b"again") == b"again"


async def test_a_client_too_many_is_told_so_and_the_next_is_served() -> None:
    async with listening(most=1, refusal=REFUSAL) as listener:
        with await connect(listener) as first:
            assert await ask(first, b"1") == b"1"
            with await connect(listener) as second:
                assert await ask(second, b"GET / HTTP/1.1\r\n\r\n") == REFUSAL
                assert await asyncio.get_running_loop().sock_recv(second, 1) == b""
            assert await ask(first, b"2") == b"2"
        assert listener.refused == 1
        while listener.connections():
            await asyncio.sleep(0.001)
        with await connect(listener) as third:
            assert await ask(third, b"3") == b"3"


async def test_a_client_too_many_that_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apigw.net.listeners.REFUSAL_TIME", 0.02)
    async with listening(most=1, refusal=REFUSAL) as listener:
        with await connect(listener) as first, await connect(listener) as second:
            assert await ask(first, b"1") == b"1"
            assert await cut_off(second)


async def test_without_an_answer_and_with_too_many_to_answer_they_are_cut_off() -> None:
    async with listening(most=1) as listener:
        with await connect(listener) as first, await connect(listener) as second:
            assert await ask(first, b"1") == b"1"
            assert await cut_off(second)
        listener.refusal = REFUSAL
        assert [listener.refusal_begins() for _ in range(MOST_REFUSALS + 1)] == [True] * MOST_REFUSALS + [False]


async def test_clients_whom_the_kernel_let_in_are_served_when_accepting_stops() -> None:
    """Closing a socket that listens resets those who wait in its queue."""
    async with listening() as listener:
        address = listener.socket.getsockname()
        # No turn of the loop in here: none of them is accepted when accepting stops.
        waiting = [socket.create_connection(address) for _ in range(20)]
        for number, client in enumerate(waiting):
            client.sendall(b"%d" % number)
        await listener.stop_accepting()
        assert listener.connections() == 20
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        for number, client in enumerate(waiting):
            client.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"%d" % number
            client.close()
        open_socket(to(f"tcp:{address[1]}:interface=127.0.0.1")).close()


async def test_clients_in_a_shared_queue_are_left_to_the_other_processes(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    async with listening(f"unix:{path}") as listener:
        other = listener.socket.dup()
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        await listener.stop_accepting(shared=True)
        assert listener.connections() == 0
        other.accept()[0].close()
        assert path.exists()
        client.close()
        other.close()


async def test_a_listener_stops_once() -> None:
    async with listening() as listener:
        await listener.stop_accepting()
        await listener.stop_accepting()


SHORT = """
import asyncio, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
import uvloop
from apigw.net.listeners import Listener
from tests.net.test_listeners import Echo

async def main():
    Echo.open = set()
    listener = Listener(socket.create_server(("127.0.0.1", 0)), Echo)
    await listener.start()
    print(listener.socket.getsockname()[1], flush=True)
    await asyncio.sleep(60)
uvloop.run(main())
"""


async def test_a_shortage_of_descriptors_ends_when_clients_leave() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SHORT], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True
    )
    try:
        assert process.stdout is not None
        address = ("127.0.0.1", int(process.stdout.readline()))
        clients = [socket.create_connection(address, 5) for _ in range(60)]
        served = 0
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"x")
                served += client.recv(1) == b"x"
        assert 10 < served < 40  # the others were closed at once, none was left waiting
        for client in clients:
            client.close()
        for _ in range(100):
            with socket.create_connection(address, 5) as client, contextlib.suppress(ConnectionError):
                client.sendall(b"y")
                if client.recv(1) == b"y":
                    break
        else:
            pytest.fail("it does not recover")
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
