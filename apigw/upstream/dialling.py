"""
Making a connection to a target: over TCP or a unix socket, with or without TLS, within ``timeout.connect``.

A name is resolved at each dial, so a service that moved is found. Its addresses are tried in turn, the next one when
one fails or is silent for ``ATTEMPT_DELAY``; the first that answers is taken (RFC 8305 5).
Each way to fail has its own reason code; all of them mean that nothing of a request was sent.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio.staggered import staggered_race
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.logger import Logger

from apigw.exchange.errors import GatewayError, UpstreamFault
from apigw.net.tls_client import ClientTLS, TLSFailure
from apigw.upstream.connection import UpstreamConnection
from apigw.upstream.pool import Dial

log = Logger()

ATTEMPT_DELAY = 0.25
"""Seconds; what RFC 8305 8 recommends."""

SAID_AGAIN = 60.0
"""Seconds after which the log says again that a target's TLS fails as it did."""


def dialler(
    *, host: str, port: int, path: str | None, tls: ClientTLS | None, timeout: float, server_name: str = ""
) -> Dial:
    """
    How to dial one target.

    :param path: of a unix socket, instead of host and port.
    :param server_name: whom the certificate must name, if it is not ``host``.
    :param timeout: seconds for the name, the connection and the TLS handshake together.
    """
    said: tuple[str, float] = ("", 0.0)

    def complain(failure: TLSFailure, now: float) -> None:
        """Clients are told only that TLS failed; why is the operator's business."""
        nonlocal said
        if failure.detail != said[0] or now >= said[1] + SAID_AGAIN:
            said = (failure.detail, now)
            where = path or f"{host}:{port}"
            log.warn("TLS with {where} failed: {reason}: {detail}", where=where, reason=failure.reason, detail=said[0])

    def dial(
        make: Callable[[], UpstreamConnection],
        connected: Callable[[UpstreamConnection], None],
        failed: Callable[[GatewayError], None],
    ) -> Callable[[], None]:
        loop = asyncio.get_running_loop()

        async def connect() -> UpstreamConnection:
            async with asyncio.timeout(timeout):
                connection = make()
                if tls is None:
                    if path is not None:
                        await loop.create_unix_connection(lambda: connection, path)
                    else:
                        sock = await _reach(loop, host, port)
                        transport, _ = await loop.create_connection(lambda: connection, sock=sock)
                        _no_delay(transport)
                    return connection
                verified: asyncio.Future[None] = loop.create_future()

                def inside() -> UpstreamConnection:
                    loop.call_soon(_settle, verified, None)
                    return connection

                def outside() -> asyncio.Protocol:
                    return tls.protocol(inside, server_name or host, lambda error: _settle(verified, error))

                if path is not None:
                    transport, _ = await loop.create_unix_connection(outside, path)
                else:
                    sock = await _reach(loop, host, port)
                    transport, _ = await loop.create_connection(outside, sock=sock)
                    _no_delay(transport)
                try:
                    await verified
                except BaseException:
                    transport.abort()
                    raise
                return connection

        def done(task: asyncio.Task[UpstreamConnection]) -> None:
            if task.cancelled():
                return
            error = task.exception()
            if error is None:
                connected(task.result())
            else:
                if isinstance(error, TLSFailure):
                    complain(error, loop.time())
                failed(_fault(error))

        task = loop.create_task(connect())
        task.add_done_callback(done)

        def cancel() -> None:
            task.cancel()

        return cancel

    return dial


async def _addresses(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[tuple[int, Any]]:
    """Families and socket addresses, the preferred first (RFC 6724)."""
    return [(found[0], found[4]) for found in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


async def _reach(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """A connected socket."""
    addresses = await _addresses(loop, host, port)
    if len(addresses) == 1:
        return await _connected(loop, *addresses[0])
    attempts = [partial(_connected, loop, *address) for address in addresses]
    sock: socket.socket | None
    sock, _, errors = await staggered_race(attempts, ATTEMPT_DELAY)
    if sock is None:
        raise next((error for error in reversed(errors) if error is not None), OSError("there is no address"))
    return sock


async def _connected(loop: asyncio.AbstractEventLoop, family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _no_delay(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _fault(error: BaseException) -> UpstreamFault:
    if isinstance(error, TimeoutError):
        return UpstreamFault("the service could not be reached in time", status=504, reason="upstream_connect_timeout")
    if isinstance(error, TLSFailure):
        return UpstreamFault(f"the service's TLS can't be trusted: {error.reason}", reason="upstream_tls_failed")
    if isinstance(error, socket.gaierror):
        return UpstreamFault("the service's name is not known", reason="upstream_unresolved")
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return UpstreamFault("the service refuses connections", reason="upstream_refused")
    return UpstreamFault("the service can't be reached", reason="upstream_unreachable")
