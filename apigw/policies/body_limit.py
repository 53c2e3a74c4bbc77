"""
Takes only so much content.

    [body_limit small]
    request = 64KiB
    response = 5MiB

A request that announces more gets 413 at once, one that turns out longer is cut off. A response that announces more is
answered with 502; one that turns out longer is cut off as well, since its head is gone.

Not here: the listener's and the route's own ``max_body``, which hold as well.
"""

from __future__ import annotations

from pydantic import model_validator

from apigw.config.text import Wrong
from apigw.config.values import SizeOrOff
from apigw.exchange.body import Body
from apigw.exchange.errors import BodyTooLarge, UpstreamFault
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.policies.piped import Piped
from apigw.policies.policy import Environment, Policy, PolicySettings


class Settings(PolicySettings):
    """Only so much content is taken."""

    request: SizeOrOff = None
    """Of requests."""
    response: SizeOrOff = None
    """Of responses."""

    @model_validator(mode="after")
    def _says_something(self) -> Settings:
        if self.request is None and self.response is None:
            raise Wrong("it limits nothing: request or response is needed")
        return self


class ResponseTooLarge(UpstreamFault):
    """The service's response is longer than what is allowed."""

    reason = "response_too_large"


class BodyLimit(Policy[Settings]):
    """The policy ``body_limit``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._enforced = settings.mode == "enforce"

    def on_request(self, request: Request) -> Response | None:
        limit, body = self.settings.request, request.body
        if limit is None or body is None:
            return None
        if body.length is not None and body.length > limit:
            if self._enforced:
                body.cancel()
            raise BodyTooLarge(f"at most {limit} bytes of content are taken")
        if self._enforced:
            body.limit = min(limit, body.limit)
        elif body.length is None:
            request.body = _Counted(body, limit, self.environment, enforced=False).begin()
        return None

    def on_response(self, request: Request, response: Response) -> Response:
        limit, body = self.settings.response, response.body
        if limit is None:
            return response
        length = len(body) if isinstance(body, bytes) else body.length
        if length is None and not isinstance(body, bytes):
            response.body = _Counted(body, limit, self.environment, enforced=self._enforced).begin()
        elif length is not None and length > limit:
            raise ResponseTooLarge(f"the service's response has more than the {limit} bytes that are passed on")
        return response


class _Counted(Piped):
    """A body that nobody knows the length of yet; in shadow it goes on, and is counted once."""

    def __init__(self, inner: Body, limit: int, environment: Environment, *, enforced: bool) -> None:
        super().__init__(inner)
        self._left = limit
        self._limit = limit
        self._environment = environment
        self._enforced = enforced

    def piece(self, data: bytes) -> bytes:
        before = self._left
        self._left -= len(data)
        if self._left < 0 <= before:
            if self._enforced:
                raise ResponseTooLarge(f"the service's response has more than the {self._limit} bytes passed on")
            self._environment.count("would_deny")
        return data
