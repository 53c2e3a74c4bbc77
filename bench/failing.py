"""
A service that fails 100 %, with real processes: ``python -m bench.failing [open|budget]``.

- ``open``: once the circuits are open, its targets get their probes and nothing else, and clients get the fallback; how
  quickly is told by the access log.
- ``budget``: with retries and hedging on, how many more requests than the clients' does it get?
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.echo import Echo
from bench.outage import gateway
from bench.processes import free_port
from bench.steady import Steady

ADMIN = "\n[admin]\nendpoint = tcp:{port}:interface=127.0.0.1\n"


@dataclass(frozen=True, slots=True)
class Opened:
    """
    What was seen after the circuits had opened.

    :ivar requests: of clients. :ivar at_the_origin: of these, those that the targets saw.
    :ivar probes: how often a circuit was tried. :ivar p99: seconds until the fallback was sent, by the access log.
    """

    requests: int
    fallbacks: int
    at_the_origin: int
    probes: int
    p50: float
    p99: float


async def opened(folder: Path, *, seconds: float = 10, rate: float = 1000) -> Opened:
    """Fail all requests; count from the second second on."""
    echoes = [Echo(free_port(), 500) for _ in range(3)]
    with ExitStack() as stack:
        for echo in echoes:
            echo.start()
            stack.callback(echo.kill)
        port, admin = free_port(), free_port()
        options = "breaker.reset_timeout = 1s\nbreaker.max_reset_timeout = 2s\nbreaker.fallback_body = {}\n"
        options += "retry.on = connect, reset, 500\n"
        stack.enter_context(gateway(folder, port, echoes, options, ADMIN.format(port=admin)))
        load = Steady(port, rate)
        await load.run(2)
        first, before, probes = len(load.outcomes), sum(echo.count() for echo in echoes), half_opened(admin)
        await load.run(seconds)
        at_the_origin, probes = sum(echo.count() for echo in echoes) - before, half_opened(admin) - probes
        load.close()
        time.sleep(1.2)  # the access log is written once a second
        lines = [json.loads(line) for line in (folder / "access.log").read_text().splitlines()]
    took = sorted(line["duration"] for line in lines[first:] if line.get("reason") == "circuit_open")
    seen = load.outcomes[first:]
    return Opened(
        len(seen),
        sum(each.status == 503 for each in seen),
        at_the_origin,
        probes,
        took[len(took) // 2],
        took[int(len(took) * 0.99)],
    )


def half_opened(admin: int) -> int:
    """How often circuits became half-open, by the metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if 'event="half_open"' in line))


@dataclass(frozen=True, slots=True)
class Spent:
    """What clients asked for, what the service got, and how the one relates to the other."""

    requests: int
    at_the_origin: int
    ratio: float


async def spent(folder: Path, *, seconds: float = 8, rate: float = 500, delay: float = 0.05) -> Spent:
    """Retries and hedges of requests that all fail, after ``delay`` seconds each."""
    echoes = [Echo(free_port(), 503, delay) for _ in range(3)]
    with ExitStack() as stack:
        for echo in echoes:
            echo.start()
            stack.callback(echo.kill)
        port = free_port()
        options = "retry.attempts = 4\nretry.on = connect, reset, timeout, 503\nhedge.after = 20ms\n"
        stack.enter_context(gateway(folder, port, echoes, options))
        load = Steady(port, rate)
        await load.run(seconds)
        load.close()
        count = sum(echo.count() for echo in echoes)
    return Spent(len(load.outcomes), count, round(count / len(load.outcomes), 4))


if __name__ == "__main__":
    for kind in sys.argv[1:] or ["open", "budget"]:
        with tempfile.TemporaryDirectory() as where:
            print(kind, uvloop.run(opened(Path(where)) if kind == "open" else spent(Path(where))))
