"""
Compresses responses, for clients that take it.

    [compress]
    codings = zstd, br, gzip
    min_size = 1KiB
    types = text/*, application/json, application/javascript, image/svg+xml

The coding is the one that the client likes best (Accept-Encoding with its quality values); of equals the first that is
listed. Streams are compressed as they come, and nothing of them is held back. What is compressed already passes, and so
do events (text/event-stream), gRPC, parts (206), and what says ``Cache-Control: no-transform``. ETags become weak, and
``Vary`` says what the response depends on.

Not here: the codings themselves (``codings``); requests (``decompress``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from apigw.config.text import Wrong
from apigw.config.values import Count, Several, Size, Word
from apigw.exchange.body import Body
from apigw.exchange.errors import GatewayError, GatewayFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import drive
from apigw.exchange.response import Response
from apigw.http.fields import list_members
from apigw.policies.accept import best_coding
from apigw.policies.codings import Encoder, encoder
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.transform import weaken_etag

NEVER = frozenset((b"text/event-stream", b"application/grpc", b"application/grpc+proto", b"multipart/byteranges"))
"""Types of which pieces must arrive as they are."""

REMEMBERED_TYPES = 1000

AT_ONCE = 8 * 1024
"""Bytes that are compressed at once, which takes under 1 ms; more goes to a thread."""

_QUICK = {b"gzip": 3, b"br": 6, b"zstd": 9}
"""The highest levels that are quick; what is above goes to a thread whatever its size."""


class Settings(PolicySettings):
    """Responses are compressed for clients that take it."""

    codings: Several[Literal["zstd", "br", "gzip"]] = ("zstd", "br", "gzip")
    """The codings that are used; of those that a client likes equally, the first."""
    types: Several[Word] = (
        *("text/*", "application/json", "application/javascript", "application/xml", "application/wasm"),
        *("application/graphql-response+json", "application/problem+json", "application/ld+json"),
        *("application/manifest+json", "application/rss+xml", "application/atom+xml", "image/svg+xml", "font/ttf"),
    )
    """The types that are worth it; ``text/*`` is all of a kind."""
    min_size: Size = 1024
    """Responses that say that they are shorter pass as they are."""
    gzip_level: Annotated[Count, Field(le=3)] = 1
    """0 is the fastest."""
    br_level: Annotated[Count, Field(le=11)] = 4
    """0 is the fastest; from 5 on it costs more than it is worth."""
    zstd_level: Annotated[Count, Field(ge=1, le=19)] = 1
    """1 is the fastest."""

    @model_validator(mode="after")
    def _types(self) -> Settings:
        for kind in self.types:
            if kind.count("/") != 1:
                raise Wrong(f"`{kind}` is no media type", "types such as text/* or application/json", option="types")
        if not self.codings:
            raise Wrong("no coding is left", option="codings")
        return self


class Compress(Policy[Settings]):
    """The policy ``compress``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._codings = [coding.encode() for coding in settings.codings]
        self._levels = {b"gzip": settings.gzip_level, b"br": settings.br_level, b"zstd": settings.zstd_level}
        self._chosen: dict[bytes, bytes | None] = {}
        self._exact = frozenset(kind.lower().encode() for kind in settings.types if not kind.endswith("/*"))
        self._kinds = frozenset(kind[:-1].lower().encode() for kind in settings.types if kind.endswith("/*"))
        self._worth: dict[bytes, bool] = {}

    def on_response(self, request: Request, response: Response) -> Response | Awaitable[Response]:
        headers = response.headers
        if self.in_shadow:
            return response
        if response.status == 304:
            _as_the_200(request, response)
            return response
        if not self._fits(response, headers):
            return response
        coding = self._coding(request.headers.joined(b"accept-encoding"))
        body = response.body
        if coding is None:
            _vary(response.edit_headers())
            return response
        level = self._levels[coding]
        if not isinstance(body, bytes):
            response.body = _Encoding(body, coding, level, self.environment.call_in_thread).begin()
        elif request.method != b"HEAD":
            if len(body) > AT_ONCE or level > _QUICK[coding]:
                return self._compressed(response, coding, body)
            return _with(response, coding, body, _whole(coding, level, body))
        return _in_coding(response, coding)

    async def _compressed(self, response: Response, coding: bytes, body: bytes) -> Response:
        made = await self.environment.call_in_thread(_whole, coding, self._levels[coding], body)
        return _with(response, coding, body, made)

    def _fits(self, response: Response, headers: Headers) -> bool:
        status = response.status
        if status < 200 or status in {204, 205, 206, 304}:
            return False
        body = response.body
        length: int | None = len(body) if isinstance(body, bytes) else body.length
        if isinstance(body, bytes) and not body:  # perhaps the answer to HEAD
            said = headers.get(b"content-length", b"0") or b"0"
            length = int(said) if said.isdigit() and len(said) < 19 else 0
        if length is not None and length < self.settings.min_size:
            return False
        kind = headers.get(b"content-type")
        if kind is None or not self._is_worth(kind):
            return False
        if b"content-encoding" in headers or b"content-range" in headers:
            return False
        control = headers.joined(b"cache-control")
        return control is None or b"no-transform" not in list_members(control)

    def _is_worth(self, content_type: bytes) -> bool:
        known = self._worth.get(content_type)
        if known is None:
            kind = content_type.partition(b";")[0].strip(b" \t").lower()
            main = kind.partition(b"/")[0] + b"/"
            known = kind not in NEVER and (kind in self._exact or main in self._kinds)
            if len(self._worth) < REMEMBERED_TYPES:
                self._worth[content_type] = known
        return known

    def _coding(self, accept_encoding: bytes | None) -> bytes | None:
        if accept_encoding is None:
            return None
        if accept_encoding in self._chosen:
            return self._chosen[accept_encoding]
        chosen = best_coding(accept_encoding, self._codings)
        if len(self._chosen) < REMEMBERED_TYPES and len(accept_encoding) < 200:
            self._chosen[accept_encoding] = chosen
        return chosen


def _whole(coding: bytes, level: int, body: bytes) -> bytes:
    at_work = encoder(coding, level)
    return at_work.encode(body, flush=False) + at_work.finish()


def _with(response: Response, coding: bytes, body: bytes, made: bytes) -> Response:
    """The response with content that was compressed, if that is shorter."""
    if len(made) >= len(body):
        _vary(response.edit_headers())
        return response
    response.body = made
    return _in_coding(response, coding)


def _in_coding(response: Response, coding: bytes) -> Response:
    headers = response.edit_headers()
    headers.set(b"Content-Encoding", coding)
    for name in (b"content-length", b"accept-ranges", b"content-md5", b"digest", b"content-digest"):
        headers.remove(name)
    weaken_etag(headers)
    _vary(headers)
    return response


class _Encoding:
    """
    A body in a coding. One whose length is not known may be a live stream: every piece goes out whole.

    Large pieces are compressed in a thread, which the libraries let run beside this one; the next piece waits for it.

    :param call: runs something in a thread.
    """

    def __init__(self, inner: Body, coding: bytes, level: int, call: Callable[..., Awaitable[Any]]) -> None:
        self._inner = inner
        self._coding = coding
        self._level = level
        self._flush = inner.length is None
        self._at_once = AT_ONCE if level <= _QUICK[coding] else 0
        self._call = call
        self._waiting: list[bytes] = []
        self._trailers: list[Pair] | None = None
        self._busy = self._held = self._ended = self._gone = False
        self.body = Body(self)

    @cached_property
    def _at_work(self) -> Encoder:
        """Made where it first works: for a high level that takes up to 30 ms."""
        return encoder(self._coding, self._level)

    def begin(self) -> Body:
        """Read from now on. Give the body that comes out."""
        self._inner.subscribe(self)
        return self.body

    # Sink of the one

    def body_data(self, data: bytes) -> None:
        if self._busy or len(data) > self._at_once:
            self._waiting.append(data)
            self._go_on()
        elif made := self._at_work.encode(data, flush=self._flush):
            self.body.feed(made)

    def body_end(self, trailers: list[Pair] | None) -> None:
        self._ended = True
        self._trailers = trailers
        self._go_on()

    def body_failed(self, error: GatewayError) -> None:
        self._gone = True
        self.body.fail(error)

    def _go_on(self) -> None:
        if self._busy or self._gone:
            return
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            if not self._ended:
                self._inner.pause()
            self._run(lambda: self._at_work.encode(data, flush=self._flush), self._made)
        elif self._ended and self._at_once:
            self._finished(self._at_work.finish())
        elif self._ended:
            self._run(lambda: self._at_work.finish(), self._finished)  # noqa: PLW0108 - it may have to be made first
        elif not self._held:
            self._inner.resume()

    def _run(self, work: Callable[[], bytes], then: Callable[[bytes], None]) -> None:
        self._busy = True
        drive(_awaited(self._call(work)), then, self._broken)

    def _made(self, made: bytes) -> None:
        self._busy = False
        if made and not self._gone:
            self.body.feed(made)
        self._go_on()

    def _finished(self, made: bytes) -> None:
        del self._at_work  # it may hold many MB; the collector would find all of them at once
        if not self._gone:
            if made:
                self.body.feed(made)
            self.body.end(self._trailers)

    def _broken(self, error: BaseException) -> None:
        if not self._gone:
            self._gone = True
            self._inner.cancel()
            self.body.fail(error if isinstance(error, GatewayError) else GatewayFault("it can't be compressed"))

    # Source of the other

    def body_wanted(self) -> None:
        self._inner.want()

    def pause_body(self) -> None:
        self._held = True
        self._inner.pause()

    def resume_body(self) -> None:
        self._held = False
        if not self._busy:
            self._inner.resume()

    def cancel_body(self) -> None:
        self._gone = True
        self._waiting.clear()
        self._inner.cancel()


async def _awaited(made: Awaitable[Any]) -> Any:
    return await made


def _as_the_200(request: Request, response: Response) -> None:
    """A 304 must say what the 200 said (RFC 9110 15.4.5), or caches can't tell that they belong together."""
    etag = response.headers.get(b"etag")
    asked = request.headers.joined(b"if-none-match")
    if etag is not None and asked is not None and b"W/" + etag in asked:
        headers = response.edit_headers()
        weaken_etag(headers)
        _vary(headers)


def _vary(headers: Headers) -> None:
    value = headers.joined(b"vary")
    if value is None or not {b"*", b"accept-encoding"} & set(list_members(value)):
        headers.add(b"Vary", b"Accept-Encoding")
