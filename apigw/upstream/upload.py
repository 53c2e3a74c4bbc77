"""
``Upload``: a client's content on its way to a service.

Not here: the exchange that it is a part of (``forward``), framing (``connection``).
"""

from __future__ import annotations

from typing import Protocol

from apigw.exchange.body import Body, keep
from apigw.exchange.errors import GatewayError
from apigw.exchange.headers import Pair
from apigw.exchange.request import Request
from apigw.upstream.connection import UpstreamConnection


class Uploading(Protocol):
    """Whose content it is."""

    request: Request

    def client_failed(self, error: GatewayError) -> None: ...


class Upload:
    """
    The client's content on its way to the service, kept for another try as long as it is short.

    :ivar connection: where it goes at the moment.
    """

    __slots__ = ("_body", "_exchange", "_kept", "_limit", "_size", "_trailers", "connection", "ended")

    def __init__(self, exchange: Uploading, body: Body, limit: int) -> None:
        self._exchange = exchange
        self._body = body
        self._limit = limit
        self._kept: list[bytes] | None = [] if limit else None
        self._size = 0
        self._trailers: list[Pair] | None = None
        self.connection: UpstreamConnection | None = None
        self.ended = False

    @property
    def replayable(self) -> bool:
        """Whether all of what was received is still there."""
        return self._kept is not None or self._size == 0

    def replay(self, connection: UpstreamConnection) -> None:
        """Send what is kept to another connection."""
        self.connection = connection
        for data in self._kept or ():
            connection.send(data)
        if self._size > self._limit:
            self._kept = None
        if self.ended:
            connection.finish_upload(self._trailers)
        else:
            self._body.resume()

    def stop(self) -> None:
        """Nobody wants the rest."""
        self.connection = None
        if not self.ended:
            self.ended = True
            self._body.cancel()

    def body_data(self, data: bytes) -> None:
        connection = self.connection
        if connection is None:  # between two tries: nothing may get lost, and not much may gather
            if self._kept is None and not self._size:
                self._kept = []
            if self._kept is not None:
                keep(self._kept, data)
            self._size += len(data)
            self._body.pause()
            return
        self._size += len(data)
        if self._kept is not None:
            if self._size > self._limit:
                self._kept = None
            else:
                keep(self._kept, data)
        connection.send(data)

    def body_end(self, trailers: list[Pair] | None) -> None:
        self.ended = True
        request = self._exchange.request
        if request.identity is not None or request.lines is None:
            # A service may merge trailers into the header: what a policy has taken out or proved must not come back.
            trailers = None
        self._trailers = trailers
        if self.connection is not None:
            self.connection.finish_upload(trailers)

    def body_failed(self, error: GatewayError) -> None:
        self.ended = True
        self._exchange.client_failed(error)
