"""
Whether a rate limit is exact: ``python -m bench.limits`` asks for five times of what it lets through, and reads from
the service's own log whether in any window there was more than rate x time + burst, and how much there was in all.

The service's clock also sees how late the machine was: of two requests that were let through a millisecond apart, the
first may arrive late, and then they are closer together. So an excess is told in milliseconds too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.gateways import PLAIN, ROOT, Place, apigw
from bench.processes import GATEWAY_CORE, LOAD_CORE, Process, free_port, wait_for_port

RATE = 1000
BURST = 100
ASKED = 5 * RATE
CONNECTIONS = 50
INI = f"""{PLAIN}policies = rate_limit all
[rate_limit all]
rate = {RATE}/s
burst = {BURST}
by = all
"""


def most_in_excess(times: Sequence[float], rate: float, burst: int) -> float:
    """
    By how many requests the worst of all windows was above ``rate x time + burst``; negative if none was.

    :param times: of the requests in seconds, in order.
    """
    worst = float("-inf")
    least = float("inf")
    for number, at in enumerate(times):
        least = min(least, number - rate * at)
        worst = max(worst, number - rate * at - least)
    return worst + 1 - burst


def share_of_allowed(times: Sequence[float], rate: float, burst: int, seconds: float) -> float:
    """How many came of all that might have come in so many seconds from the first on."""
    within = sum(at < times[0] + seconds for at in times)
    return within / (burst + rate * seconds)


class _Service(asyncio.Protocol):
    """Answers everything, and notes when it came."""

    def __init__(self, times: array[float]) -> None:
        self._times = times

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"\r\n\r\n")):
            self._times.append(time.monotonic())
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # type: ignore[attr-defined]


async def _serve(port: int, log: Path) -> None:
    times = array("d")
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(lambda: _Service(times), "127.0.0.1", port, backlog=1024)
    await ended.wait()
    server.close()
    log.write_text(json.dumps(list(times)))


def proved(seconds: int) -> bool:
    """Run it, and tell. True if the limit held, and gave what it had to give."""
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        log = folder / "times.json"
        place = Place(folder, free_port(), free_port(), free_port())
        command = [sys.executable, "-m", "bench.limits", "serve", str(place.origin), str(log)]
        service = Process("service", command, core=LOAD_CORE, folder=folder, env={"PYTHONPATH": str(ROOT)})
        cleanup.callback(service.stop)
        wait_for_port(service, place.origin)
        setup = apigw(INI)(place)
        for name, text in setup.files.items():
            (folder / name).write_text(text)
        gateway = Process("apigw", setup.command, core=GATEWAY_CORE, folder=folder, env=setup.env)
        cleanup.callback(gateway.stop)
        wait_for_port(gateway, place.port)
        load = ["h2load", "--h1", "-t1", f"-c{CONNECTIONS}", f"-D{seconds}", f"--rps={ASKED / CONNECTIONS:g}"]
        ran = subprocess.run(
            ["taskset", "-c", str(LOAD_CORE), *load, f"http://127.0.0.1:{place.port}/small"],
            capture_output=True, text=True, check=True, timeout=seconds + 30,
        )  # fmt: skip
        service.stop()
        times = json.loads(log.read_text())
    asked = next(line for line in ran.stdout.splitlines() if line.startswith("requests:"))
    excess = most_in_excess(times, RATE, BURST)
    share = share_of_allowed(times, RATE, BURST, times[-1] - times[0])
    print(f"asked: {asked}")
    print(f"let through: {len(times)} in {times[-1] - times[0]:.3f} s, {share:.2%} of what the limit allows")
    late = f", which is {excess / RATE * 1000:.1f} ms of lateness" if excess > 0 else ""
    print(f"the worst window: {excess:+.1f} requests against rate x time + burst{late}")
    return excess <= 0 and share >= 0.99


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(_serve(int(sys.argv[2]), Path(sys.argv[3])))
    elif not proved(int(os.environ.get("SECONDS") or 10)):
        raise SystemExit("the limit did not hold")
