"""
``[health]``: is everything well? For load balancers in front of us, for probes, and for people with curl.

    [health]
    path = /health

- ``/health``: 200 while every upstream can answer, else 503; with the state of each target. A target that only waits
  for its trial (on probation, or its circuit is half-open) is not ill: a load balancer that took the gateway out for
  it would keep away the requests that it waits for.
- ``/health/live``: 200 as long as the process can answer at all.
- ``/health/ready``: 200, or 503 while the gateway drains.

The answer is made at most once a second, however many ask: it can't be used to load the services.

Not here: finding out how the targets are (``apigw.upstream``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from apigw.exchange.errors import ClientFault
from apigw.exchange.headers import Headers
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, drive, failed
from apigw.exchange.response import Response
from apigw.http.targets import without_parameters
from apigw.json_text import show

HEALTHY = "healthy"
UNHEALTHY = "unhealthy"
DRAINING = "draining"

ANSWERING = frozenset((HEALTHY, "probation", "circuit_half_open", "last_resort"))
"""States of targets that get clients' requests."""

KEPT = 1.0
"""Seconds for which an answer is given again."""

Targets = Mapping[str, str]
"""The state of each target by its name: ``healthy``, or a word that says why it is not (``ejected``, ``draining``)."""


def health_document(upstreams: Mapping[str, Targets], *, draining: bool) -> tuple[int, dict[str, object]]:
    """
    Status and document of the health answer.

    An upstream is healthy while it can answer, with one target at least that gets requests (``ANSWERING``): a load
    balancer that took the whole gateway out because one of three targets is down would make it worse.
    """
    shown = {}
    well = not draining
    for name, targets in upstreams.items():
        healthy = any(state in ANSWERING for state in targets.values())
        well = well and healthy
        shown[name] = {
            "status": HEALTHY if healthy else UNHEALTHY,
            "targets": [{"name": target, "status": state} for target, state in targets.items()],
        }
    return 200 if well else 503, {"gateway": DRAINING if draining else HEALTHY, "upstreams": shown}


class Health:
    """A responder for the health route and what is below it."""

    def __init__(
        self,
        path: str,
        upstreams: Callable[[], Coroutine[Any, Any, Mapping[str, Targets]]],
        ready: Callable[[], bool],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        :param path: where it is mounted, like ``/health``.
        :param upstreams: the state of every upstream's targets; asked at most once a second.
        :param ready: False while the gateway drains.
        """
        self._prefix = path.rstrip("/").encode()
        self._upstreams = upstreams
        self._ready = ready
        self._monotonic = monotonic
        self._made_at = float("-inf")
        self._was_ready = True
        self._kept: tuple[int, bytes] = (503, b"")
        self._waiting: list[tuple[Request, Done]] = []  # while the answer is being made

    def __call__(self, request: Request, done: Done) -> None:
        """Answer (``apigw.exchange.responder``)."""
        if request.method not in {b"GET", b"HEAD"}:
            fault = ClientFault(
                "only GET and HEAD are possible here",
                status=405,
                reason="method_not_allowed",
                headers=((b"Allow", b"GET, HEAD"),),
            )
            done(problem(request, fault))
            return
        below = without_parameters(request.path).removeprefix(self._prefix).rstrip(b"/")
        if below == b"":
            # A drain is told at once: the load balancer should hear of it before connections close.
            if self._monotonic() - self._made_at < KEPT and self._ready() is self._was_ready:
                self._answer(request, done, *self._kept)
                return
            self._waiting.append((request, done))
            if len(self._waiting) == 1:
                drive(self._state(), self._made, self._not_made)
            return
        if below == b"/live":
            status, body = 200, b'{"status": "live"}\n'
        elif below == b"/ready":
            ready = self._ready()
            status, body = (200, b'{"status": "ready"}\n') if ready else (503, b'{"status": "draining"}\n')
        else:
            done(problem(request, ClientFault("there is no such health check", status=404, reason="not_found")))
            return
        self._answer(request, done, status, body)

    def _answer(self, request: Request, done: Done, status: int, body: bytes) -> None:
        headers = Headers([(b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")])
        if request.method == b"HEAD":
            headers.add(b"Content-Length", b"%d" % len(body))
            body = b""
        done(Response(status, headers, body))

    async def _state(self) -> tuple[int, bytes]:
        ready = self._ready()
        status, document = health_document(await self._upstreams(), draining=not ready)
        self._was_ready = ready
        return status, show(document).encode() + b"\n"

    def _made(self, answer: tuple[int, bytes]) -> None:
        self._kept = answer
        self._made_at = self._monotonic()
        waiting, self._waiting = self._waiting, []
        for request, done in waiting:
            self._answer(request, done, *answer)

    def _not_made(self, error: BaseException) -> None:
        waiting, self._waiting = self._waiting, []
        for request, done in waiting:
            done(failed(request, error))
