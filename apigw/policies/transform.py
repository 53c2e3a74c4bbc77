"""
Makes other JSON of JSON, by JMESPath (https://jmespath.org), on the way in, on the way out, or both.

    [transform slim]
    response = {id: id, name: profile.name, orders: orders[?open].id}

Content in gzip, br, zstd or deflate is decoded before and encoded again after. Numbers of any length stay exact. What
is not JSON passes as it is, and so do errors that the gateway made itself.

Not here: JSON put together from several services (aggregation).
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import Field, model_validator

from apigw.config.text import Text, Wrong
from apigw.config.values import Form, Size, StatusSet
from apigw.exchange.body import Body
from apigw.exchange.errors import BodyTooLarge, ClientFault, GatewayError, UpstreamFault
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.json_text import MOST_VALUES, InvalidJSON, read_exactly, write
from apigw.policies.body_limit import ResponseTooLarge
from apigw.policies.codings import CodingError, codings_of, decoded, encoded, refusal_of
from apigw.policies.gathered import body_of, gathered
from apigw.policies.json_bodies import AT_ONCE, MostValues, is_json, json_fault
from apigw.policies.policy import Policy, PolicySettings


def parse_expression(text: Text) -> Any:
    """Compile JMESPath."""
    try:
        return jmespath.compile(text.raw)
    except JMESPathError as error:
        raise Wrong(f"this is not JMESPath: {' '.join(str(error).split())}") from None


Expression = Annotated[
    Any, Form("JMESPath", "an expression such as {id: id}", parse_expression, lambda value: value.expression)
]


class Settings(PolicySettings):
    """Other JSON is made of JSON."""

    request: Expression | None = None
    """What becomes of requests' content."""
    response: Expression | None = None
    """What becomes of responses' content."""
    statuses: StatusSet = Field(frozenset(range(200, 300)))
    """The responses that are changed."""
    max_size: Annotated[Size, Field(ge=1, le=64 << 20)] = 1 << 20
    """Bytes of content that are taken, before and after decoding; more is refused."""
    max_json_values: MostValues = MOST_VALUES
    """Names and values that the JSON may have; a request with more gets 413."""

    @model_validator(mode="after")
    def _says_something(self) -> Settings:
        if self.request is None and self.response is None:
            raise Wrong("it changes nothing: request or response is needed")
        return self


_OF_THE_BYTES = frozenset((b"content-length", b"content-md5", b"digest", b"content-digest", b"repr-digest"))


class Transform(Policy[Settings]):
    """The policy ``transform``."""

    def on_request(self, request: Request) -> Awaitable[None] | None:
        if (
            self.settings.response is not None
            and not self.in_shadow
            and (b"range" in request.headers or b"if-range" in request.headers)
        ):
            # A part of the content would pass unchanged.
            headers = request.edit_headers()
            headers.remove(b"range")
            headers.remove(b"if-range")
        if self.settings.request is None or request.body is None:
            return None
        if not is_json(request.headers.get(b"content-type")):
            return None
        return self._request(request, request.body)

    async def _request(self, request: Request, body: Body) -> None:
        limit = self.settings.max_size
        data, request.body = await gathered(body, limit)
        if data is None:
            raise BodyTooLarge(f"at most {limit} bytes of content are taken")
        codings = codings_of(request.headers.joined(b"content-encoding"))
        try:
            data = await self._made(data, codings, request=True)
        except InvalidJSON as error:
            raise json_fault(error) from None
        except CodingError as error:
            raise refusal_of(error) from None
        except _Refused as error:
            raise ClientFault(str(error), reason="transform_refused") from None
        if not self.in_shadow:
            request.body = body_of(data)
            _without_digests(request.edit_headers())

    async def _made(self, data: bytes, codings: list[bytes], *, request: bool) -> bytes:
        if len(data) <= AT_ONCE and not codings:
            return _transformed(self.settings, data, codings, request=request)
        made: bytes = await self.environment.beside(
            partial(_transformed, self.settings, data, codings, request=request)
        )
        return made

    def on_response(self, request: Request, response: Response) -> Response | Awaitable[Response]:
        if self.settings.response is None or response.error is not None:
            return response
        if response.status not in self.settings.statuses or response.status in {204, 205, 206, 304}:
            return response
        if not is_json(response.headers.get(b"content-type")):
            return response
        if request.method == b"HEAD":
            return response if self.in_shadow else _changed(response)
        body = response.body
        if isinstance(body, bytes) and 0 < len(body) <= AT_ONCE and b"content-encoding" not in response.headers:
            with _told():
                made = _transformed(self.settings, body, [], request=False)
            return response if self.in_shadow else _changed(response, made)
        return self._response(response, body)

    async def _response(self, response: Response, body: Body | bytes) -> Response:
        limit = self.settings.max_size
        data: bytes | None
        if isinstance(body, bytes):
            data = body
        else:
            data, response.body = await gathered(body, limit)
        if data is None or len(data) > limit:
            raise ResponseTooLarge(f"the service's response has more than the {limit} bytes that are changed")
        if not data:
            return response
        codings = codings_of(response.headers.joined(b"content-encoding"))
        with _told():
            made = await self._made(data, codings, request=False)
        return response if self.in_shadow else _changed(response, made)


@contextmanager
def _told() -> Iterator[None]:
    """What is wrong with a response is the service's fault."""
    try:
        yield
    except (InvalidJSON, CodingError) as error:
        raise UpstreamFault(f"the service's response: {error}", reason="response_unreadable") from None
    except _Refused as error:
        raise GatewayError(str(error), status=502, reason="transform_refused") from None


class _Refused(Exception):
    """The expression can't be applied."""


def _transformed(settings: Settings, data: bytes, codings: list[bytes], *, request: bool) -> bytes:
    expression = settings.request if request else settings.response
    assert expression is not None
    if codings:
        data = decoded(data, codings, settings.max_size)
    value, exactly = read_exactly(data, most=settings.max_json_values, unique=request)
    try:
        made = write(expression.search(value), exactly=exactly)
    except (JMESPathError, ArithmeticError, TypeError, ValueError, RecursionError) as error:
        raise _Refused(f"the transformation does not fit this content ({type(error).__name__})") from None
    return encoded(made, codings) if codings else made


def _without_digests(headers: Headers) -> None:
    for name in _OF_THE_BYTES:
        headers.remove(name)


def _changed(response: Response, content: bytes | None = None) -> Response:
    """The content is another: what was said of its bytes no longer holds."""
    if content is not None:
        response.body = content
    headers = response.edit_headers()
    _without_digests(headers)
    headers.remove(b"accept-ranges")
    weaken_etag(headers)
    return response


def weaken_etag(headers: Headers) -> None:
    """Say by ``W/`` that the bytes may differ (RFC 9110 8.8.3)."""
    etag = headers.get(b"etag")
    if etag is not None and not etag.startswith(b"W/"):
        headers.set(b"ETag", b"W/" + etag)
