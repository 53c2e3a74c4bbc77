"""
Decodes content that comes compressed, for services that can't, and keeps bombs away from those that can.

    [decompress uploads]
    max_size = 20MiB
    max_ratio = 100

gzip, br, zstd and deflate are decoded as they stream. What becomes more than ``max_size``, or more than ``max_ratio``
times as much as what came (from 1 MiB on), gets 413; what is not decodable 400; a coding that nobody knows 415.

Not here: compressing (``compress``).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from apigw.config.text import Wrong
from apigw.config.values import Count, Flag, Size
from apigw.exchange.body import Body
from apigw.exchange.errors import GatewayError, UpstreamFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.response import Response
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
            tried = Body(None)
            watching = _Watching(body, tried).begin()
            self._decoders(tried, codings, response=response).subscribe(_Refusals(self, request))
            return watching
        return self._decoders(body, codings, response=response)

    def _decoders(self, body: Body, codings: list[bytes], *, response: bool) -> Body:
        for coding in reversed(codings):
            decoder = Decoder(coding, self.settings.max_size, self.settings.max_ratio)
            body = _Decoding(body, decoder, response=response).begin()
        return body


class _Watching(Piped):
    """A body that passes as it is, while another gets the same."""

    def __init__(self, inner: Body, tried: Body) -> None:
        super().__init__(inner, inner.length)
        self._tried = tried

    def piece(self, data: bytes) -> bytes:
        self._tried.feed(data)
        return data

    def rest(self) -> bytes:
        self._tried.end()
        return b""


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
    """A body without its coding."""

    def __init__(self, inner: Body, decoder: Decoder, *, response: bool) -> None:
        super().__init__(inner)
        self._decoder = decoder
        self._of_response = response

    def body_data(self, data: bytes) -> None:
        try:
            for piece in self._decoder.decode(data):
                self.body.feed(piece)
        except CodingError as error:
            self._break(self._fault(error))

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
