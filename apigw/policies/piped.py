"""
``Piped``: a body that is made from another while it streams, with the back-pressure and the cancellation of both ends.

    class Upper(Piped):
        def piece(self, data: bytes) -> bytes:
            return data.upper()

    response.body = Upper(response.body).begin()

Not here: what is made of it; a body that must be whole before anything can be done (``Body.collect``).
"""

from __future__ import annotations

from apigw.exchange.body import Body
from apigw.exchange.errors import GatewayError
from apigw.exchange.headers import Pair


class Piped:
    """
    Reads one body and feeds another.

    :ivar inner: what is read. :ivar body: what is fed.
    """

    def __init__(self, inner: Body, length: int | None = None) -> None:
        self.inner = inner
        self.body = Body(self, length)

    def begin(self) -> Body:
        """Read from now on. Give the body that comes out."""
        self.inner.subscribe(self)
        return self.body

    # What a kind of pipe changes.

    def piece(self, data: bytes) -> bytes:
        """
        What goes on in place of a piece; nothing, if it is empty.

        :raises GatewayError: when there can be no more: both ends are told.
        """
        return data

    def rest(self) -> bytes:
        """What comes after the last piece. It may raise as well."""
        return b""

    def over(self, error: GatewayError | None) -> None:
        """Called once, whichever way it ends. None: it is complete; an error without text: nobody wants the rest."""

    # Sink of the one

    def body_data(self, data: bytes) -> None:
        try:
            made = self.piece(data)
        except GatewayError as error:
            self._break(error)
            return
        if made:
            self.body.feed(made)

    def body_end(self, trailers: list[Pair] | None) -> None:
        try:
            made = self.rest()
        except GatewayError as error:
            self._break(error)
            return
        if made:
            self.body.feed(made)
        self.over(None)
        self.body.end(trailers)

    def body_failed(self, error: GatewayError) -> None:
        self.over(error)
        self.body.fail(error)

    def _break(self, error: GatewayError) -> None:
        self.inner.cancel()
        self.over(error)
        self.body.fail(error)

    # Source of the other

    def body_wanted(self) -> None:
        self.inner.want()

    def pause_body(self) -> None:
        self.inner.pause()

    def resume_body(self) -> None:
        self.inner.resume()

    def cancel_body(self) -> None:
        self.inner.cancel()
        self.over(GatewayError())
