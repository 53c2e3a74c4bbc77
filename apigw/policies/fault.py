"""
Makes trouble on purpose, to see what clients make of it.

    [fault chaos]
    delay = 2s
    delay_share = 10%
    abort = 503
    abort_share = 1%

Each request's lot is drawn for both. What is delayed waits before the service is asked. In shadow nothing is delayed.

Not here: what a real failure looks like (``apigw.upstream``).
"""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import Field, model_validator

from apigw.config.text import Wrong
from apigw.config.values import Count, Duration, Share
from apigw.exchange.errors import GatewayError
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.policies.policy import Environment, Policy, PolicySettings


class Settings(PolicySettings):
    """Trouble is made on purpose."""

    delay: Annotated[Duration, Field(gt=0)] | None = None
    """How long requests are kept."""
    delay_share: Share = 1.0
    """How many of them."""
    abort: Annotated[Count, Field(ge=400, le=599)] | None = None
    """The status that requests are refused with."""
    abort_share: Share = 1.0
    """How many of them."""

    @model_validator(mode="after")
    def _says_something(self) -> Settings:
        if self.delay is None and self.abort is None:
            raise Wrong("it makes no trouble: delay or abort is needed")
        for option in ("delay", "abort"):
            if getattr(self, option) is None and f"{option}_share" in self.model_fields_set:
                raise Wrong(f"there is no {option} to have a share", option=f"{option}_share")
        return self


class Injected(GatewayError):
    """The fault that was asked for."""

    reason = "fault_injected"


class Fault(Policy[Settings]):
    """The policy ``fault``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self.draw = random.random

    def wrap(self, inner: Responder) -> Responder:
        settings = self.settings

        def abort_or_go_on(request: Request, done: Done) -> None:
            if settings.abort is not None and self.draw() < settings.abort_share:
                self.environment.count("aborted")
                done(problem(request, Injected("this fault is made on purpose", status=settings.abort)))
            else:
                inner(request, done)

        def respond(request: Request, done: Done) -> None:
            delay = settings.delay
            if delay is None or settings.mode == "shadow" or self.draw() >= settings.delay_share:
                abort_or_go_on(request, done)
                return
            self.environment.count("delayed")
            request.note("fault_delay", delay)
            request.on_cancel(self.environment.later(delay, lambda: abort_or_go_on(request, done)))

        return respond
