"""
``Inside``: a resource for the gateway under soak: how many of its objects are alive, to find what is never let go.

    [resource inside]
    path = /inside
    class = bench.inside:Inside
"""

from __future__ import annotations

import gc
import json
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
