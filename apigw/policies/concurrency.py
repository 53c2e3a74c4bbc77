"""
Lets only so many requests be at work at once.

    [concurrency reports]
    limit = 20
    by = consumer
    queue = 100
    queue_timeout = 2s

Whoever comes when ``limit`` are at work waits in a queue, in order. Is that full, or does it take longer than
``queue_timeout``, the answer is 503, or 429 where the limit is one client's own; with ``Retry-After``. A request is at
work until the last byte of its response is handed on, or its client is gone.

Not here: how many in a time (``rate_limit``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Annotated

from pydantic import Field

from apigw.config.values import Count, Duration
from apigw.exchange.body import Body
from apigw.exchange.errors import ClientFault, GatewayError
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response
from apigw.policies.limit_keys import By, Key, Missing, key_reader, needs_identity
from apigw.policies.piped import Piped
from apigw.policies.policy import Environment, Policy, PolicySettings


class Settings(PolicySettings):
    """So many requests at once."""

    limit: Annotated[Count, Field(ge=1)]
    """How many may be at work at once."""
    by: Key = By("all")
    """Whose requests are counted together: those of all, of a route, or of each client."""
    missing: Missing = "deny"
    """What becomes of a request that has not what ``by`` asks for: 403, no limit, or a limit by address."""
    queue: Annotated[Count, Field(le=100_000)] = 0
    """How many may wait, for each key."""
    queue_timeout: Annotated[Duration, Field(gt=0)] = 1.0
    """How long one waits at most."""


class Busy(GatewayError):
    """So many are at work already, and so many wait."""

    status = 503
    reason = "concurrency_limited"


class _Place:
    """What one key has: how many at work, and who waits."""

    __slots__ = ("admitting", "busy", "waiting")

    def __init__(self) -> None:
        self.busy = 0
        self.admitting = False
        self.waiting: deque[Callable[[], None]] = deque()


class _Watched(Piped):
    """A body whose end frees a place."""

    def __init__(self, inner: Body, freed: Callable[[], None]) -> None:
        super().__init__(inner, inner.length)
        self._freed = freed

    def over(self, error: GatewayError | None) -> None:
        self._freed()


class Concurrency(Policy[Settings]):
    """The policy ``concurrency``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self.needs_identity = needs_identity(settings.by, settings.missing)
        self._key = key_reader(settings.by, settings.missing)
        self._status = 503 if settings.by.kind in {"all", "route"} else 429
        # Who is only watched must not be kept waiting.
        self._queue = settings.queue if settings.mode == "enforce" else 0
        self._places: dict[object, _Place] = {}

    def at_work(self) -> int:
        """How many requests are at work, over all keys."""
        return sum(place.busy for place in self._places.values())

    def wrap(self, inner: Responder) -> Responder:
        limit = self.settings.limit

        def respond(request: Request, done: Done) -> None:
            try:
                key = self._key(request)
            except ClientFault as fault:
                done(problem(request, fault))
                return
            if key is None:
                inner(request, done)
                return
            place = self._places.get(key)
            if place is None:
                place = self._places[key] = _Place()
            if place.busy < limit:
                place.busy += 1
                self._work(key, place, request, done, inner)
            elif len(place.waiting) < self._queue:
                self._wait(key, place, request, done, inner)
            else:
                done(self._refusal(request))

        return respond

    def _work(self, key: object, place: _Place, request: Request, done: Done, inner: Responder) -> None:
        held = True

        def free() -> None:
            nonlocal held
            if held:
                held = False
                self._free(key, place)

        def outward(response: Response) -> None:
            if isinstance(response.body, bytes):
                free()
            elif held:
                response.body = _Watched(response.body, free).begin()
            done(response)

        request.on_cancel(free)
        inner(request, outward)

    def _free(self, key: object, place: _Place) -> None:
        """A place is free: the next one in the queue has it, or nobody."""
        place.busy -= 1
        if place.admitting:
            return  # it was answered at once: the loop below goes on, or a long queue would need a deep stack
        place.admitting = True
        while place.waiting and place.busy < self.settings.limit:
            place.busy += 1
            place.waiting.popleft()()
        place.admitting = False
        if not place.busy:
            del self._places[key]

    def _wait(self, key: object, place: _Place, request: Request, done: Done, inner: Responder) -> None:
        waits = True

        def admitted() -> None:
            nonlocal waits
            waits = False
            stop()
            self._work(key, place, request, done, inner)

        def leave() -> None:
            nonlocal waits
            if waits:
                waits = False
                stop()
                place.waiting.remove(admitted)

        def give_up() -> None:
            leave()
            done(self._refusal(request))

        place.waiting.append(admitted)
        stop = self.environment.later(self.settings.queue_timeout, give_up)
        request.on_cancel(leave)

    def _refusal(self, request: Request) -> Response:
        wait = max(1, ceil(self.settings.queue_timeout))
        error = Busy(
            f"{self.settings.limit} requests are at work already",
            status=self._status,
            headers=((b"Retry-After", b"%d" % wait),),
        )
        return problem(request, error, retry_after=wait)
