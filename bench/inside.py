"""
Resources that look into the gateway under soak: ``Inside`` counts its live objects, to find what is never released;
``Blocked`` measures for how long its loop was held.

    [resource inside]
    path = /inside
    class = bench.inside:Inside
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections import Counter
from types import FrameType
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request

WATCHED = frozenset(
    ("Upstream", "TargetSet", "Target", "Breaker", "Pool", "UpstreamConnection", "H1Channel", "Request", "Attempt")
)
WATCHED |= {"Exchange", "Prober", "Discovery", "DelayedCall", "TimerHandle", "Deferred", "Task", "Generation"}
WATCHED |= {"Cluster", "GatewayResource", "_Watched", "_Race", "Body"}


class Inside(Resource):
    """Counts objects by the name of their class, garbage not counted."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """JSON: numbers by class; with ``?why=NAME`` what holds the oldest object of a class, and what holds that."""
        from twisted.internet import reactor

        gc.collect()
        found = Counter(name for each in gc.get_objects() if (name := type(each).__name__) in WATCHED)
        found["delayed calls"] = len(reactor.getDelayedCalls())
        if why := request.args.get(b"why"):
            return "\n".join(_holders(why[0].decode())).encode()
        request.setHeader(b"content-type", b"application/json")
        return json.dumps(found).encode()


def _holders(name: str, depth: int = 7, most: int = 80) -> list[str]:
    held = next((each for each in gc.get_objects() if type(each).__name__ == name), None)
    lines: list[str] = []
    seen = {id(held)}
    level: list[Any] = [held]
    for step in range(depth):
        above: list[Any] = []
        for each in level:
            for holder in gc.get_referrers(each):
                if id(holder) in seen or holder is level or holder is above or isinstance(holder, FrameType):
                    continue
                seen.add(id(holder))
                above.append(holder)
                lines.append(f"{step} {type(each).__name__} <- {type(holder).__name__} {str(holder)[:100]!r}")
        level = above[:12]
    return lines[:most]


BEAT = 0.005
"""Seconds between two looks at the clocks."""


class Blocked(Resource):
    """
    For how long one turn of the loop took, in milliseconds, since the last request: ``{"held": ..., "cpu": ...}``.

    ``held`` is by the clock on the wall, and on a busy machine includes time in which other processes had the core.
    ``cpu`` is the time that this thread computed between two beats, which is the gateway's own.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held = self._cpu = 0.0
        self._last = (0.0, 0.0)

    def render_GET(self, request: Request) -> bytes:
        """The longest since the last request."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._last = (time.monotonic(), time.thread_time())
            self._loop.call_later(BEAT, self._beat, self._loop)
        found = {"held": round(self._held * 1000, 1), "cpu": round(self._cpu * 1000, 1)}
        self._held = self._cpu = 0.0
        request.setHeader(b"content-type", b"application/json")
        return json.dumps(found).encode()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        now = (time.monotonic(), time.thread_time())
        self._held = max(self._held, now[0] - self._last[0] - BEAT)
        self._cpu = max(self._cpu, now[1] - self._last[1])
        self._last = now
        loop.call_later(BEAT, self._beat, loop)
