"""
``Cluster``: one ``[upstream X]`` alive: its targets with their pools, who is asked next, and what a failure becomes.

Not here: the decisions themselves (``target_set``, ``balancing``, ``breaker``, ``retries``), each in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from apigw.exchange.errors import GatewayError
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.net.timers import Wheel
from apigw.upstream.attempt import Attempt
from apigw.upstream.target import Target


class Targets(Protocol):
    """Whom to ask (``apigw.upstream.target_set``)."""

    def begin(self, request: Request, now: float, tried: Any) -> Attempt: ...

    def elsewhere(self, now: float, tried: Any) -> bool: ...


class Retries(Protocol):
    """Whether to ask again (``apigw.upstream.retries``)."""

    statuses: frozenset[int]

    def delay(
        self, request: Request, kind: str, status: int, *, replayable: bool, now: float, tries: int
    ) -> float | None: ...


class Cluster:
    """
    One upstream.

    :ivar retries: what decides about further tries, or None: there is one.
    :ivar replay_limit: bytes of content that are kept for another try.
    :ivar fallback: the response for a request that no target could answer.
    """

    __slots__ = ("begin", "clock", "fallback", "later", "name", "replay_limit", "retries", "targets", "wheel")

    def __init__(
        self,
        name: str,
        targets: Targets,
        wheel: Wheel,
        later: Callable[[float, Callable[[], None]], Callable[[], None]],
        *,
        retries: Retries | None = None,
        replay_limit: int = 0,
        fallback: Callable[[Request, GatewayError], Response] = problem,
    ) -> None:
        self.name = name
        self.targets = targets
        self.begin = targets.begin
        self.wheel = wheel
        self.clock = wheel.clock
        self.later = later
        self.retries = retries
        self.replay_limit = replay_limit
        self.fallback = fallback


class OneTarget:
    """One target, whatever is thought of it: for health checks, which must not count as requests."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def begin(self, request: Request, now: float, tried: Any) -> Attempt:
        """A try at the target."""
        return _Uncounted(self._target)

    def elsewhere(self, now: float, tried: Any) -> bool:
        """There is no other."""
        return False


class _Uncounted(Attempt):
    """A try that says nothing to anybody."""

    __slots__ = ()

    def __init__(self, target: Target) -> None:
        self.target = target
        self.token = 0
        self.started = 0.0
        self.open = True

    def answered(self, status: int, now: float, retry_after: float | None = None, whole: bool = False) -> None:
        pass

    def failed(self, kind: str, now: float, why: str = "") -> None:
        pass

    def broken(self, now: float) -> None:
        pass

    def cancelled(self) -> None:
        pass

    def end(self) -> None:
        pass
