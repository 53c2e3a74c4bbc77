"""
``Response``: status, header fields, and a body that is bytes, a stream, or nothing.

Not here: framing and connection fields, which whoever writes the response decides (``apigw.downstream``).
"""

from __future__ import annotations

from typing import Protocol

from apigw.exchange.body import Body
from apigw.exchange.errors import GatewayError
from apigw.exchange.headers import Headers, Pair


class Origin(Protocol):
    """A service's head: its status, and its lines and framing ready to be sent on while they are unchanged."""

    @property
    def status(self) -> int: ...

    @property
    def content_length(self) -> int: ...

    @property
    def lines(self) -> bytes: ...

    @property
    def block(self) -> bytes: ...


class Amended:
    """
    A service's head with further fields, ready to be sent.

    :param added: their lines.
    """

    __slots__ = ("block", "content_length", "lines", "status")

    def __init__(self, origin: Origin, added: bytes) -> None:
        self.status = origin.status
        self.content_length = origin.content_length
        self.lines = origin.lines + added
        framing = b"Content-Length: %d\r\n" % max(origin.content_length, 0)  # with which a block ends
        self.block = origin.block[: -len(framing)] + added + framing


class Response:
    """
    One response.

    :ivar status: 200-599; 1xx go ahead of it by ``Connection.send_informational``.
    :ivar headers: shared; change them only by ``edit_headers()``. They hold no hop-by-hop field and no framing,
        except that a response to HEAD, or a 304, may carry the Content-Length that a GET would have.
    :ivar lines: the field lines ready to be written, or None once the headers were edited.
    :ivar body: all of the content as bytes, or a stream of it.
    :ivar error: set when the gateway made this response because of an error.
    :ivar phrase: the origin's reason phrase; empty for the status' standard one.
    :ivar origin: the head that a service sent, if this is its response: what was not changed can be sent as it stands.
    """

    __slots__ = ("body", "error", "headers", "lines", "origin", "phrase", "status")

    def __init__(
        self,
        status: int,
        headers: Headers | None = None,
        body: bytes | Body = b"",
        *,
        error: GatewayError | None = None,
    ) -> None:
        self.status = status
        self.headers = headers if headers is not None else Headers()
        self.lines: bytes | None = None
        self.body = body
        self.error = error
        self.phrase = b""
        self.origin: Origin | None = None

    def edit_headers(self) -> Headers:
        """Headers of this response alone, to be changed."""
        if self.lines is not None:
            self.headers = self.headers.copy()
            self.lines = None
        return self.headers

    def add_fields(self, pairs: tuple[Pair, ...], lines: bytes) -> None:
        """
        Append fields without giving up the lines that are ready.

        :param lines: the same fields as ``http.fields.serialise`` gives them.
        """
        headers = Headers(self.headers.pairs)
        headers.pairs += pairs
        self.headers = headers
        if self.lines is not None:
            self.lines += lines

    def add_header(self, name: bytes, value: bytes) -> None:
        """Append a field without giving up the lines that are ready; one that can't be sent is found out later."""
        if b"\r" in value or b"\n" in value:
            self.edit_headers().add(name, value)
        else:
            self.add_fields(((name, value),), b"%b: %b\r\n" % (name, value))

    def discard(self) -> None:
        """This response will not be sent: free what feeds its body."""
        if not isinstance(self.body, bytes):
            self.body.cancel()

    def __repr__(self) -> str:
        return f"<Response {self.status}>"
