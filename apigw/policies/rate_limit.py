"""
Lets so many requests through in a time, for each client.

    [rate_limit visitors]
    rate = 100/s, 5000/h
    burst = 200
    by = ip

In any span of time a client gets at most rate times that time, and ``burst`` more: a bucket of ``burst`` that fills at
``rate``. The service must not see more either, and it sees requests a little later than they were let in, one more so
than the other: at 125/s and above the bucket is what comes in ``LATE`` seconds smaller, and fills a little slower. Who
asks for more gets 429 with ``Retry-After``. Every answer says in ``RateLimit-Policy`` and ``RateLimit``
(draft-ietf-httpapi-ratelimit-headers-10) what the limit is and what is left. Of several windows all must agree.

Not here: the counting (``apigw.stores.limits``), by what (``limit_keys``), how many at once (``concurrency``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from math import ceil
from typing import Annotated

from pydantic import Field, model_validator

from apigw.config.text import Text, Wrong
from apigw.config.values import Count, Flag, Form, PerTime, Rate, Several, one_line
from apigw.exchange.errors import ClientFault
from apigw.exchange.headers import Pair
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder, wait_for
from apigw.exchange.response import Response
from apigw.http.fields import is_token
from apigw.policies.edits import FieldAddition, applied
from apigw.policies.limit_keys import By, Key, Missing, key_reader, needs_identity
from apigw.policies.policy import Environment, Policy, PolicySettings

ROUNDING = 1e-6
"""By how much of one request sums of floats may be off."""

REMEMBERED_STATES = 4096
"""States of a window (so many left) of which the header fields are kept ready."""

LATE = 0.008
"""Seconds by which a request may reach the service later than another, on a cold connection or a busy machine."""

MOST_KEPT_BACK = 0.1
"""The share of a burst that is kept back for that, at most."""

SLOWER = 1.001
"""By how much slower such a bucket fills: what is late by more than that is made up for after seconds."""

_UNITS = {86400: "day", 3600: "hour", 60: "minute", 1: "second"}


def parse_cost(text: Text) -> str:
    """``1`` to the empty string, ``header:NAME`` to the name."""
    value = one_line(text)
    if value == "1":
        return ""
    kind, _, name = value.partition(":")
    if kind != "header" or not is_token(name.encode()):
        raise Wrong("{shown} is no cost")
    return name


def show_cost(name: str) -> str:
    """As it is written."""
    return f"header:{name}" if name else "1"


class Settings(PolicySettings):
    """So many requests in a time, for each client."""

    rate: Several[Rate] = Field(min_length=1)
    """How many in which time; several windows must all agree."""
    burst: Several[Annotated[Count, Field(ge=1)]] = ()
    """How many at once, for each of the rates in their order. A rate without one: as many as its limit."""
    by: Key = By("ip")
    """Whose requests are counted together. An IPv6 address counts as its /64."""
    missing: Missing = "deny"
    """What becomes of a request that has not what ``by`` asks for: 403, no limit, or a limit by address."""
    cost: Annotated[str, Form("cost", "1 or header:NAME", parse_cost, show_cost)] = ""
    """What a request costs: 1, or the number in a header of the request, which who is trusted must have set."""
    legacy_headers: Flag = False
    """Whether answers say it in ``X-RateLimit-Limit``, ``-Remaining`` and ``-Reset`` (seconds) too."""
    max_keys: Annotated[Count, Field(ge=1000)] = 1_000_000
    """So many clients are remembered; beyond that those who owe the least start afresh."""

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if len(self.burst) > len(self.rate):
            raise Wrong("there are more bursts than rates", option="burst")
        if len({rate.seconds for rate in self.rate}) < len(self.rate):
            raise Wrong("two of the rates are for the same time", option="rate")
        return self


class LimitReached(ClientFault):
    """The client asked for more than it may (RFC 6585 4)."""

    status = 429
    reason = "rate_limited"


class _Window:
    """
    One window's numbers, and its fields for each state.

    :ivar known: fields by how many are missing until the window is full.
    """

    def __init__(self, name: str, rate: PerTime, burst: int, policies: bytes, *, legacy: bool) -> None:
        self.limit = rate.limit
        self.burst = burst
        self.interval = rate.seconds / rate.limit
        self._name = name.encode()
        self._policies = policies
        self._legacy = legacy
        self.known: dict[int, FieldAddition] = {}

    def fields(self, owed: int) -> FieldAddition:
        """What an answer says when so many are missing until the window is full."""
        left = max(0, self.burst - owed)
        reset = ceil(owed * self.interval)
        pairs: tuple[Pair, ...] = (
            (b"RateLimit-Policy", self._policies),
            (b"RateLimit", b'"%b";r=%d;t=%d' % (self._name, left, reset)),
        )
        if self._legacy:
            pairs += (
                (b"X-RateLimit-Limit", b"%d" % self.limit),
                (b"X-RateLimit-Remaining", b"%d" % left),
                (b"X-RateLimit-Reset", b"%d" % reset),
            )
        made = FieldAddition(*pairs)
        if len(self.known) < REMEMBERED_STATES:
            self.known[owed] = made
        return made


class RateLimit(Policy[Settings]):
    """The policy ``rate_limit``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self.needs_identity = needs_identity(settings.by, settings.missing)
        wanted = [*settings.burst, *(rate.limit for rate in settings.rate[len(settings.burst) :])]
        kept_back = [_kept_back(rate, burst) for rate, burst in zip(settings.rate, wanted, strict=True)]
        bursts = [burst - back for burst, back in zip(wanted, kept_back, strict=True)]
        label = environment.name or environment.kind
        names = [label if len(bursts) == 1 else f"{label}-{'-'.join(_span(rate.seconds))}" for rate in settings.rate]
        policies = b", ".join(
            b'"%b";q=%d;w=%d' % (name.encode(), rate.limit, rate.seconds)
            for name, rate in zip(names, settings.rate, strict=True)
        )
        self._windows = [
            _Window(name, rate, burst, policies, legacy=settings.legacy_headers)
            for name, rate, burst in zip(names, settings.rate, bursts, strict=True)
        ]
        self._most = min(bursts)
        self._limiter = environment.limits.limiter(
            environment.label,
            [
                (rate.limit, rate.seconds * (SLOWER if back else 1.0), burst)
                for rate, burst, back in zip(settings.rate, bursts, kept_back, strict=True)
            ],
            settings.max_keys,
        )
        self._key = key_reader(settings.by, settings.missing)
        self._cost = settings.cost.lower().encode()

    def stop(self) -> None:
        self._limiter.stop()

    def wrap(self, inner: Responder) -> Responder:
        key_of = self._key
        take = self._limiter.take
        windows = self._windows
        cost_field = self._cost
        in_shadow = self.in_shadow

        def respond(request: Request, done: Done) -> None:
            try:
                key = key_of(request)
                if key is None:
                    inner(request, done)
                    return
                cost = self._cost_of(request) if cost_field else 1
            except ClientFault as fault:
                done(problem(request, fault))
                return
            taken = take(key, cost)
            if type(taken) is tuple:
                decided(request, done, cost, taken)
            else:
                late: Awaitable[tuple[int, float]] = taken  # type: ignore[assignment]  # mypy narrows by isinstance only
                wait_for(request, late, lambda result: decided(request, done, cost, result), done)

        def decided(request: Request, done: Done, cost: int, taken: tuple[int, float]) -> None:
            index, debt = taken
            if debt < 0.0:
                done(self._refusal(request, index, cost, -debt))
                return
            if in_shadow:  # a limit that does not hold is nothing to tell clients
                inner(request, done)
                return
            window = windows[index]
            owed = ceil(debt / window.interval - ROUNDING)
            inner(request, partial(applied, window.known.get(owed) or window.fields(owed), done))

        take_one: Callable[[object], float] | None = getattr(self._limiter, "take_one", None)
        if take_one is None or cost_field or in_shadow:
            return respond
        known, interval = windows[0].known, windows[0].interval

        def one(request: Request, done: Done) -> None:
            """``respond`` for one window and a cost of 1, which is most limits."""
            try:
                key = key_of(request)
            except ClientFault as fault:
                done(problem(request, fault))
                return
            if key is None:
                inner(request, done)
                return
            debt = take_one(key)
            if debt < 0.0:
                done(self._refusal(request, 0, 1, -debt))
                return
            owed = ceil(debt / interval - ROUNDING)
            inner(request, partial(applied, known.get(owed) or windows[0].fields(owed), done))

        return one

    def _cost_of(self, request: Request) -> int:
        value = request.headers.get(self._cost)
        if value is None:
            return 1
        if not value.isdigit() or len(value) > 9 or not 0 < int(value) <= self._most:
            name = self.settings.cost
            raise ClientFault(f"{name} must be a number from 1 to {self._most}", reason="cost_refused")
        return int(value)

    def _refusal(self, request: Request, index: int, cost: int, wait: float) -> Response:
        window = self._windows[index]
        seconds = max(1, ceil(wait))
        owed = min(window.burst, ceil(wait / window.interval - ROUNDING) + window.burst - cost)
        pairs = (window.known.get(owed) or window.fields(owed)).pairs
        error = LimitReached(
            f"this is more than {window.limit} requests in {_time(window)}",
            headers=((b"Retry-After", b"%d" % seconds), *pairs),
        )
        return problem(request, error, retry_after=seconds)


def _kept_back(rate: PerTime, burst: int) -> int:
    """How many of a burst are kept back, since a late request may bring so many too close together."""
    return int(min(rate.limit / rate.seconds * LATE, burst * MOST_KEPT_BACK))


def _span(seconds: int) -> tuple[str, ...]:
    """A span in words: ``minute``, or ``15`` and ``minutes``."""
    unit = next(unit for unit in _UNITS if seconds % unit == 0)
    return (_UNITS[unit],) if unit == seconds else (str(seconds // unit), f"{_UNITS[unit]}s")


def _time(window: _Window) -> str:
    span = _span(round(window.interval * window.limit))
    return " ".join(span if len(span) > 1 else ("a", *span))
