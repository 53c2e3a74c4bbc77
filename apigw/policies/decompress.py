"""
Decodes content that comes compressed, for services that can't, and keeps bombs away from those that can.

    [decompress uploads]
    max_size = 20MiB
    max_ratio = 100

gzip, br, zstd and deflate are decoded as they stream, a part in each turn of the loop, and only as fast as the result
is read. What becomes more than ``max_size``, or more than ``max_ratio``
times as much as what came (from 1 MiB on), gets 413; what is not decodable 400; a coding that nobody knows 415.

Not here: compressing (``compress``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated

from pydantic import Field, model_validator

from apigw.config.text import Wrong
from apigw.config.values import Count, Flag, Size
from apigw.exchange.body import Body, keep
from apigw.exchange.errors import GatewayError, GatewayFault, UpstreamFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import drive
from apigw.exchange.response import Response
from apigw.net.turns import TURNS
from apigw.policies.body_limit import ResponseTooLarge
from apigw.policies.codings import (
    DECODABLE,
    MOST_CODINGS,
    Bomb,
    CodingError,
    Decoder,
    UnknownCoding,
    check_codings,
    codings_of,
    refusal_of,
)
from apigw.policies.piped import Piped
from apigw.policies.policy import Policy, PolicySettings, note_shadow
from apigw.policies.transform import weaken_etag

AT_ONCE = 64 * 1024
"""Bytes that are decoded as soon as content arrives: under 0.5 ms."""

TURN = 256 * 1024
"""Bytes that are decoded in each later turn of the loop: about 1 ms."""

_EVEN = frozenset((b"gzip", b"deflate", b"zstd"))
"""Codings of which every step is short. One of br may take 40 ms, but its library lets others run meanwhile."""

STEP = 2 * 1024
"""Bytes that a step counts beside those that it adds: content may be cut into many parts that add none."""


class Settings(PolicySettings):
    """Content that comes compressed is decoded."""

    request: Flag = True
    """Whether that of requests is."""
    response: Flag = False
    """Whether that of responses is."""
    max_size: Annotated[Size, Field(ge=1)] = 10 << 20
    """Bytes that it may become."""
    max_ratio: Annotated[Count, Field(ge=1)] = 100
    """How many times as long it may become; it counts from 1 MiB on."""

    @model_validator(mode="after")
    def _says_something(self) -> Settings:
        if not self.request and not self.response:
            raise Wrong("it decodes nothing: request or response is needed")
        return self


class Decompress(Policy[Settings]):
    """The policy ``decompress``."""

    def on_request(self, request: Request) -> Response | None:
        if not self.settings.request or request.body is None:
            return None
        codings = codings_of(request.headers.joined(b"content-encoding"))
        if not codings:
            return None
        try:
            check_codings(codings)
        except UnknownCoding as error:
            raise refusal_of(error) from None
        request.body.want()
        request.body = self._decoding(request, request.body, codings, response=False)
        if not self.in_shadow:
            _decoded(request.edit_headers())
        return None

    def on_response(self, request: Request, response: Response) -> Response:
        if not self.settings.response or request.method == b"HEAD" or response.status in {204, 206, 304}:
            return response
        codings = codings_of(response.headers.joined(b"content-encoding"))
        if not codings or len(codings) > MOST_CODINGS or any(coding not in DECODABLE for coding in codings):
            return response
        body = response.body
        if isinstance(body, bytes):
            whole = Body(None, len(body))
            whole.feed(body)
            whole.end()
            body = whole
        response.body = self._decoding(request, body, codings, response=True)
        if self.in_shadow:
            return response
        headers = response.edit_headers()
        _decoded(headers)
        headers.remove(b"accept-ranges")
        weaken_etag(headers)
        return response

    def _decoding(self, request: Request, body: Body, codings: list[bytes], *, response: bool) -> Body:
        if self.in_shadow:
            watching = _Watching(body)
            watching.trial = self._decoders(watching.tried, codings, response=response)
            watching.trial.subscribe(_Refusals(self, request))
            return watching.begin()
        return self._decoders(body, codings, response=response)

    def _decoders(self, body: Body, codings: list[bytes], *, response: bool) -> Body:
        for coding in reversed(codings):
            decoder = Decoder(coding, self.settings.max_size, self.settings.max_ratio)
            call = None if coding in _EVEN else self.environment.call_in_thread
            body = _Decoding(body, decoder, call, response=response).begin()
        return body


class _Watching(Piped):
    """
    A body that passes as it is, while another gets the same. The slower reader of the two sets the pace.

    :ivar tried: the other. :ivar trial: what is made of it: cancelled when the body breaks off.
    """

    trial: Body

    def __init__(self, inner: Body) -> None:
        super().__init__(inner, inner.length)
        self.tried = Body(_Trial(self))
        self._slow: set[str] = set()

    def piece(self, data: bytes) -> bytes:
        self.tried.feed(data)
        return data

    def rest(self) -> bytes:
        self.tried.end()
        return b""

    def over(self, error: GatewayError | None) -> None:
        if error is not None:
            self.trial.cancel()

    def pause_body(self) -> None:
        self.wait_for("reader")

    def resume_body(self) -> None:
        self.go_on("reader")

    def wait_for(self, slow: str) -> None:
        """Pause for this one."""
        self._slow.add(slow)
        self.inner.pause()

    def go_on(self, slow: str) -> None:
        """This one can take more."""
        self._slow.discard(slow)
        if not self._slow:
            self.inner.resume()


class _Trial:
    """The source of a body that is only tried."""

    def __init__(self, watching: _Watching) -> None:
        self._watching = watching

    def body_wanted(self) -> None:
        pass

    def pause_body(self) -> None:
        self._watching.wait_for("trial")

    def resume_body(self) -> None:
        self._watching.go_on("trial")

    def cancel_body(self) -> None:
        self._watching.go_on("trial")


class _Refusals:
    """Takes what was decoded on trial, and notes why it would have been refused."""

    def __init__(self, policy: Decompress, request: Request) -> None:
        self._policy = policy
        self._request = request

    def body_data(self, data: bytes) -> None:
        pass

    def body_end(self, trailers: list[Pair] | None) -> None:
        pass

    def body_failed(self, error: GatewayError) -> None:
        note_shadow(self._policy.environment, self._request, error.status, error.reason)


class _Decoding(Piped):
    """
    A body without its coding. It is decoded part by part, and the inner body waits meanwhile.

    :param call: runs something in a thread; None decodes in turns of the loop.
    """

    def __init__(
        self, inner: Body, decoder: Decoder, call: Callable[..., Awaitable[bytes]] | None, *, response: bool
    ) -> None:
        super().__init__(inner)
        self._decoder = decoder
        self._call = call
        self._of_response = response
        self._waiting: list[bytes] = []
        self._pieces: Iterator[bytes] | None = None
        self._trailers: list[Pair] | None = None
        self._busy = self._held = self._ended = self._gone = False

    # Sink of the one

    def body_data(self, data: bytes) -> None:
        if not self._gone:
            keep(self._waiting, data)
            self._go_on(AT_ONCE)

    def body_end(self, trailers: list[Pair] | None) -> None:
        self._ended = True
        self._trailers = trailers
        self._go_on(AT_ONCE)

    def over(self, error: GatewayError | None) -> None:
        self._gone = True
        self._waiting.clear()

    def _go_on(self, share: int) -> None:
        """Decode ``share`` bytes now, or a part in a thread. What is left waits for a turn, or for the reader."""
        if self._busy or self._held or self._gone:
            return
        if self._pieces is None:
            if not self._waiting:
                self._drained()
                return
            self._pieces = self._decoder.decode(b"".join(self._waiting))
            self._waiting.clear()
        self._busy = True
        if self._call is not None:
            self.inner.pause()
            drive(self._in_thread(self._call), self._made, self._failed)
            return
        try:
            made = self._part(share)
        except CodingError as error:
            self._failed(error)
            return
        if self._pieces is None and not self._waiting:
            self._made(made)
            return
        self.inner.pause()
        TURNS.wait(self)
        self._feed(made)

    async def _in_thread(self, call: Callable[..., Awaitable[bytes]]) -> bytes:
        return await call(self._part, TURN)

    def _part(self, share: int) -> bytes:
        """The next bytes: about ``share``, or all that the last input adds."""
        made = []
        while share > 0 and self._pieces is not None:
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = None
            else:
                made.append(piece)
                share -= len(piece) + STEP
        return b"".join(made)

    def _feed(self, made: bytes) -> None:
        if made and not self._gone:
            self.body.feed(made)

    def _made(self, made: bytes) -> None:
        self._feed(made)
        self.take_turn()

    def take_turn(self) -> None:
        """Decode the next part."""
        self._busy = False
        self._go_on(TURN)

    def _drained(self) -> None:
        if self._ended:
            super().body_end(self._trailers)
        else:
            self.inner.resume()

    def _failed(self, error: BaseException) -> None:
        if self._gone:
            return
        if isinstance(error, CodingError):
            self._break(self._fault(error))
        else:
            self._break(error if isinstance(error, GatewayError) else GatewayFault("the content can't be decoded"))

    def abort(self) -> None:
        """The turn failed."""
        self._failed(GatewayFault("the content can't be decoded"))

    # Source of the other

    def pause_body(self) -> None:
        self._held = True
        self.inner.pause()

    def resume_body(self) -> None:
        self._held = False
        self._go_on(AT_ONCE)

    def rest(self) -> bytes:
        try:
            self._decoder.finish()
        except CodingError as error:
            raise self._fault(error) from None
        return b""

    def _fault(self, error: CodingError) -> GatewayError:
        if self._of_response:
            if isinstance(error, Bomb):
                return ResponseTooLarge(str(error))
            return UpstreamFault(str(error), reason="response_unreadable")
        return refusal_of(error)


def _decoded(headers: Headers) -> None:
    for name in (b"content-encoding", b"content-length", b"content-md5", b"digest", b"content-digest"):
        headers.remove(name)
