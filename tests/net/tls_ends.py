"""Both ends of a TLS connection for tests: a listener with a protocol that records, and blocking clients in threads."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from apigw.net.certificates import CertificateStore
from apigw.net.tls import HandshakeFailure, TLSServer

T = TypeVar("T")


class Recorder(asyncio.Protocol):
    """Echoes, unless told otherwise, and notes what it is told. ``lost`` fires when the connection ends."""

    echo = True
    keep_after_eof = False

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.made = self.loop.create_future()
        self.lost: asyncio.Future[Exception | None] = self.loop.create_future()
        self.received = bytearray()
        self.calls: list[str] = []
        self.waiting: list[tuple[int, asyncio.Future[None]]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.calls.append("made")
        self.made.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.echo:
            self.transport.write(data)
        for count, future in self.waiting:
            if len(self.received) >= count and not future.done():
                future.set_result(None)

    async def has(self, count: int) -> None:
        """Wait for so many bytes in all."""
        if len(self.received) < count:
            future = self.loop.create_future()
            self.waiting.append((count, future))
            await future

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keep_after_eof

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.lost.set_result(exc)


class Listening:
    """A TLS port on loopback. ``accepted`` are the protocols inside, ``failures`` what never became a connection."""

    def __init__(self, store: CertificateStore, inner: Callable[[], Recorder] = Recorder, **options: Any) -> None:
        self.store = store
        self.accepted: list[Recorder] = []
        self.failures: list[HandshakeFailure] = []
        self._news: list[asyncio.Future[None]] = []
        self._inner = inner
        self._options = options
        self._server: asyncio.AbstractServer
        self.tls: TLSServer
        self.outermost: Callable[[TLSServer], Callable[[], asyncio.BaseProtocol]] = lambda tls: tls
        self.port = 0

    async def start(self) -> Listening:
        loop = asyncio.get_running_loop()
        self.tls = TLSServer(self.store, self._accept, loop, failed=self._failed, **self._options)
        self._server = await loop.create_server(self.outermost(self.tls), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _accept(self) -> Recorder:
        recorder = self._inner()
        self.accepted.append(recorder)
        self._tell()
        return recorder

    def _failed(self, failure: HandshakeFailure) -> None:
        self.failures.append(failure)
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, []
        for future in news:
            future.set_result(None)

    async def news(self, ready: Callable[[], object]) -> None:
        """Wait until ``ready`` is true; it is looked at after each accepted or failed connection."""
        while not ready():
            future = asyncio.get_running_loop().create_future()
            self._news.append(future)
            await future

    def abort(self) -> None:
        """End everything, without waiting for it."""
        self._server.close()
        for recorder in self.accepted:
            if not recorder.lost.done():
                recorder.transport.abort()

    async def stop(self) -> None:
        self._server.close()
        for recorder in self.accepted:
            if not recorder.lost.done():
                recorder.transport.abort()
                await recorder.lost


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run a blocking client beside the loop."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def trusting(ca: str | None, version: str | None = None) -> ssl.SSLContext:
    """A client's context that trusts one authority (or, for None, anybody), of one version of TLS if told so."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(ca)
    if version is not None:
        context.minimum_version = context.maximum_version = {
            "1.2": ssl.TLSVersion.TLSv1_2,
            "1.3": ssl.TLSVersion.TLSv1_3,
        }[version]
    return context


def connected(
    port: int, context: ssl.SSLContext, name: str | None = None, session: ssl.SSLSession | None = None
) -> ssl.SSLSocket:
    """A blocking TLS connection; its caller closes it."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        return context.wrap_socket(plain, server_hostname=name, session=session, suppress_ragged_eofs=False)
    except BaseException:
        plain.close()
        raise


def ask(port: int, context: ssl.SSLContext, name: str | None = None, data: bytes = b"hello") -> bytes:
    """Connect, send, take as much back, end politely."""
    with connected(port, context, name) as client:
        client.sendall(data)
        answer = read_exactly(client, len(data))
        client.unwrap()
    return answer


def read_exactly(client: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = client.recv(65536)
        if not piece:
            break
        received += piece
    return bytes(received)
