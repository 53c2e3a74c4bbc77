"""
Targets that die, hang and come back, with real processes: ``python -m bench.outage [active|passive|defaults]``.

1,000 requests a second over three targets. One is killed with -9, another freezes, later both return. Told is how many
requests failed, when, and how the load was spread before, during and after.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import uvloop

from bench.echo import Echo
from bench.gateways import ROOT
from bench.processes import free_port
from bench.steady import Steady

CONFIGURATION = """
[gateway]
access_log = {folder}/access.log

[listen public]
endpoint = tcp:{port}:interface=127.0.0.1

[upstream echo]
targets =
{targets}
{options}

[route echo]
path = /
upstream = echo
"""

OPTIONS = """
retry.attempts = 3
retry.on = connect, reset, timeout
timeout.connect = 1s
timeout.response = 2s
"""


@contextmanager
def gateway(folder: Path, port: int, targets: list[Echo], options: str, more: str = "") -> Iterator[int]:
    """A gateway process before these origins; gives its process id."""
    lines = "".join(f"    http://127.0.0.1:{echo.port}\n" for echo in targets)
    text = CONFIGURATION.format(folder=folder, port=port, targets=lines, options=options) + more
    (folder / "gw.ini").write_text(text)
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("twistd"), "-n", "--pidfile=", "apigw", "--config", "gw.ini"],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        end = time.monotonic() + 20
        while "apigw serves" not in (folder / "gateway.log").read_text():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((folder / "gateway.log").read_text())
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


@dataclass(frozen=True, slots=True)
class Story:
    """When what happens, in seconds from the start."""

    killed: float = 3.0
    frozen: float = 6.0
    back: float = 14.0
    judged: float = 10.0
    end: float = 29.0


@dataclass(slots=True)
class Outage:
    """
    What was seen.

    :ivar late_failures: of requests that began more than two seconds after a target was lost.
    :ivar spread: requests at each target in the time from ``judged`` seconds after the return on.
    """

    requests: int
    failed: int
    late_failures: int
    slowest: float
    wrong: int
    spread: list[int]
    during: list[int]


async def outage(
    folder: Path, *, active: bool, rate: float = 1000, story: Story = Story(), options: str = OPTIONS
) -> Outage:
    """Run the story once."""
    echoes = [Echo(free_port()) for _ in range(3)]
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        for echo in echoes:
            echo.start()
            stack.callback(echo.kill)
        port = free_port()
        if active:
            options += "health.path = /health\nhealth.interval = 2s\n"
        stack.enter_context(gateway(folder, port, echoes, options))
        load = Steady(port, rate)
        began = monotonic()
        running = asyncio.ensure_future(load.run(story.end))

        async def at(moment: float) -> None:
            await asyncio.sleep(began + moment - monotonic())

        await at(story.killed)
        echoes[0].kill()
        await at(story.frozen)
        echoes[1].freeze()
        await at(story.back - 2)
        busy = [echoes[2].count()]
        await at(story.back)
        during = [0, 0, echoes[2].count() - busy[0]]
        echoes[1].thaw()
        await loop.run_in_executor(None, echoes[0].start)
        await at(story.back + story.judged)
        before = [echo.count() for echo in echoes]
        await running
        after = [echo.count() for echo in echoes]
        load.close()
    failed = [each for each in load.outcomes if each.status != 200]
    late = [
        each
        for each in failed
        if story.killed + 2 <= each.began - began < story.frozen or each.began - began >= story.frozen + 2
    ]
    return Outage(
        len(load.outcomes),
        len(failed),
        len(late),
        max(each.took for each in load.outcomes),
        sum(each.status == 200 and not each.right for each in load.outcomes),
        [now - then for now, then in zip(after, before, strict=True)],
        during,
    )


if __name__ == "__main__":
    for kind in sys.argv[1:] or ["active", "passive", "defaults"]:
        with tempfile.TemporaryDirectory() as where:
            options = "" if kind == "defaults" else OPTIONS
            seen = uvloop.run(outage(Path(where), active=kind == "active", options=options))
            print(kind, seen)
            print(
                *(line for line in (Path(where) / "gateway.log").read_text().splitlines() if "upstream" in line),
                sep="\n",
            )
