"""
A body that has to be whole before anything can be done, with a way back if it is too long.

Not here: bodies that are changed while they stream (``piped``).
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from apigw.exchange.body import Body, keep
from apigw.exchange.errors import GatewayError
from apigw.exchange.headers import Pair
from apigw.policies.piped import Piped


def body_of(data: bytes, trailers: list[Pair] | None = None) -> Body:
    """A body that is there already."""
    body = Body(None, len(data))
    if data:
        body.feed(data)
    body.end(trailers)
    return body


async def gathered(body: Body, limit: int) -> tuple[bytes | None, Body]:
    """
    All of a body, and one with the same content to be sent on. If it is longer than ``limit`` bytes: None, and a body
    that still streams.

    :raises GatewayError: when the body fails.
    """
    if body.length is not None and body.length > limit:
        return None, body
    body.want()
    gathering = _Gathering(body, limit)
    gathering.begin()
    if await gathering.whole:
        data = b"".join(gathering.pieces)
        return data, body_of(data, body.trailers)
    return None, gathering.body


class _Gathering(Piped):
    """Keeps what comes, and lets it flow once it is too much."""

    def __init__(self, inner: Body, limit: int) -> None:
        super().__init__(inner)
        self.pieces: list[bytes] = []
        self.whole: Deferred[bool] = Deferred(lambda _: inner.cancel())
        self._left = limit

    def body_data(self, data: bytes) -> None:
        if self._left < 0:
            self.body.feed(data)
            return
        self._left -= len(data)
        keep(self.pieces, data)
        if self._left < 0:
            for piece in self.pieces:
                self.body.feed(piece)
            self.pieces.clear()
            self.whole.callback(False)

    def body_end(self, trailers: list[Pair] | None) -> None:
        if self._left < 0:
            self.body.end(trailers)
        elif not self.whole.called:
            self.whole.callback(True)

    def body_failed(self, error: GatewayError) -> None:
        if self._left < 0:
            self.body.fail(error)
        elif not self.whole.called:
            self.whole.errback(error)
