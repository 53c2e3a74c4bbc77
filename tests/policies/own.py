"""Policies as users write them, some of them badly."""

from __future__ import annotations

import time
from typing import Annotated, Any

import pydantic
from pydantic import Field

from apigw.config.values import Count, Duration
from apigw.exchange.request import Request
from apigw.exchange.response import Response


class Plain:
    """Without options."""

    def on_request(self, request: Request) -> None:
        request.note("seen", True)


class Typed:
    """With options of its own, in a plain pydantic model."""

    class Settings(pydantic.BaseModel):
        """Its options."""

        limit: Annotated[Count, Field(ge=1, le=9)]
        wait: Duration = 1.0

    def __init__(self, settings: Any, environment: Any) -> None:
        self.settings = settings
        self.environment = environment

    def on_response(self, request: Request, response: Response) -> Response:
        response.add_header(b"X-Limit", b"%d" % self.settings.limit)
        return response


class BadOnRequest:
    def on_request(self, request: Request) -> None:
        raise KeyError("secret-of-the-policy")


class BadLater:
    async def on_request(self, request: Request) -> None:
        raise KeyError("secret-of-the-policy")


class BadOnResponse:
    def on_response(self, request: Request, response: Response) -> Response:
        raise KeyError("secret-of-the-policy")


class BadResult:
    async def on_response(self, request: Request, response: Response) -> Any:
        return None


class BadBefore:
    async def respond(self, request: Request, next: Any) -> Response:  # noqa: A002
        raise KeyError("secret-of-the-policy")


class BadAfter:
    async def respond(self, request: Request, next: Any) -> Response:  # noqa: A002
        await next(request)
        raise KeyError("secret-of-the-policy")


class BadWrap:
    def wrap(self, inner: Any) -> Any:
        def respond(request: Request, done: Any) -> None:
            raise KeyError("secret-of-the-policy")

        return respond


class BadResultNow:
    def on_response(self, request: Request, response: Response) -> Any:
        return None


class BadWrapLater:
    def wrap(self, inner: Any) -> Any:
        def respond(request: Request, done: Any) -> None:
            def outward(response: Response) -> None:
                raise KeyError("secret-of-the-policy")

            inner(request, outward)

        return respond


class BadWrapMeanwhile:
    def wrap(self, inner: Any) -> Any:
        def respond(request: Request, done: Any) -> None:
            inner(request, done)
            raise KeyError("secret-of-the-policy")

        return respond


class Blocks:
    def on_request(self, request: Request) -> None:
        time.sleep(0.6)


class BlocksAround:
    async def respond(self, request: Request, next: Any) -> Response:  # noqa: A002
        response: Response = await next(request)
        time.sleep(0.6)
        return response


class Nothing:
    """No policy at all."""


class Clashes:
    class Settings(pydantic.BaseModel):
        on_error: str = ""

    def on_request(self, request: Request) -> None:
        pass


class CanNotBeMade:
    def __init__(self, settings: Any, environment: Any) -> None:
        raise TypeError("oh no")

    def on_request(self, request: Request) -> None:
        pass
