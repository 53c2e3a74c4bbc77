"""
``Listener``: accepts connections on a socket that listens, and gives each a protocol.

Not here: where the socket is from (``sockets``); TLS and the PROXY protocol, which are protocols around the protocol.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from apigw.net.sockets import BACKLOG, remove_path

MOST_REFUSALS = 256
"""Refused clients that are told so at one time; those beyond are cut off without a word."""
REFUSAL_TIME = 1.0
"""Seconds within which a refused client must have sent something, to be answered."""

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class Listener:
    """
    One socket that listens.

    :param factory: makes the protocol of each connection.
    :param max_connections: more are refused, 0: never. A refused client is answered and closed at once, so that a
        balancer goes elsewhere; the alternative, to leave clients in the kernel's queue, makes them wait for nothing.
    :param connections: how many there are, those that are still shaking hands too.
    :param room: whether one more may come in; False refuses it as well.
    :param refusal: the bytes that answer the first that a refused client sends; empty: cut off at once (TLS).
    :ivar refused: connections refused so far. :ivar backlog: connections that may wait to be accepted.
    :ivar most_refusals: refused clients that are told so at one time.
    """

    def __init__(
        self,
        sock: socket.socket,
        factory: ProtocolFactory,
        *,
        max_connections: int = 0,
        connections: Callable[[], int] = lambda: 0,
        room: Callable[[], bool] = lambda: True,
        refusal: bytes = b"",
    ) -> None:
        self.socket = sock
        self.factory = factory
        self.max_connections = max_connections
        self.connections = connections
        self.room = room
        self.backlog = BACKLOG
        self.most_refusals = MOST_REFUSALS
        self.refusal = refusal
        self.refused = 0
        self._refusing = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        # The loop gets a copy: it closes what it was given, and then the clients in the queue would be lost.
        copy = self.socket.dup()
        if self.socket.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(self._make, sock=copy, backlog=self.backlog)
        else:
            self._server = await loop.create_server(self._make, sock=copy, backlog=self.backlog)

    async def stop_accepting(self, *, shared: bool = False) -> None:
        """
        Accept nothing more. Connections that there are go on.

        Clients whom the kernel has let in already are served still: closing the socket would reset them. So the
        address is free, and all protocols are made, when this returns.

        :param shared: other processes accept on the same socket: the clients in the queue are theirs, and its file
            stays.
        """
        if self._server is None:
            return
        self._server.close()
        self._server = None
        loop = asyncio.get_running_loop()
        if not shared:
            remove_path(self.socket)
        while not shared:
            try:
                connection, _ = self.socket.accept()
            except OSError:  # BlockingIOError: there is none left
                break
            connection.setblocking(False)
            try:
                await loop.connect_accepted_socket(self._make, connection)
            except OSError:
                connection.close()
        self.close()

    def close(self) -> None:
        """Close at once; clients who wait to be accepted are reset."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.socket.close()

    def _make(self) -> asyncio.BaseProtocol:
        if (self.max_connections and self.connections() >= self.max_connections) or not self.room():
            self.refused += 1
            return _Refused(self)
        return self.factory()

    def refusal_begins(self) -> bool:
        """Whether one more refused client may be told so."""
        if not self.refusal or self._refusing >= self.most_refusals:
            return False
        self._refusing += 1
        return True

    def refusal_ended(self) -> None:
        """One refused client is gone."""
        self._refusing -= 1


class _Refused(asyncio.Protocol):
    """
    A connection too many.

    It is answered when it has sent something: an answer that is written before, and a close with data unread, would
    be a reset that takes the answer with it.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        if self._listener.refusal_begins():
            self._timer = asyncio.get_running_loop().call_later(REFUSAL_TIME, self._transport.abort)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._transport.is_closing():
            refusal = self._listener.refusal
            if data.startswith(b"HEAD "):
                refusal = refusal[: refusal.find(b"\r\n\r\n") + 4]
            self._transport.write(refusal)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._listener.refusal_ended()
