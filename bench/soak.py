"""
Everything at once, with real processes: ``python -m bench.soak [SECONDS]`` (300).

Targets die, hang and return at random, the file that names them changes, and every second the configuration is read
anew, in turn with other targets, options and routes, while clients ask. Each answer must carry its request's number.
When all is quiet again, the gateway must hold no more descriptors, timers, objects and memory than before.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import uvloop

from bench.echo import Echo
from bench.outage import gateway
from bench.processes import free_port
from bench.steady import Steady

RESILIENT = """
retry.attempts = 3
retry.on = connect, reset, timeout
retry.min_retries = 20
timeout.connect = 500ms
timeout.response = 1s
pool.idle_timeout = 1s
hedge.after = 95%
breaker.reset_timeout = 1s
breaker.timeout = 800ms
health.path = /health
health.interval = 500ms
outlier.base_ejection_time = 1s
"""

MORE = """
[upstream found]
targets = file:targets
discover_interval = 200ms
{options}

[split both]
upstreams = echo 50%, found 50%

[route found]
path = /found
upstream = found

[route both]
path = /both
upstream = both
mirror = found 10%

[resource inside]
path = /inside
class = bench.inside:Inside

[health]
path = /health
"""


@dataclass
class Soak:
    """
    What was seen.

    :ivar wrong: answers that belonged to another request. :ivar unanswered: requests that got none at all.
    :ivar before: what the gateway held when all was quiet.
    """

    requests: int = 0
    wrong: int = 0
    failed: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    reloads: int = 0
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)

    @property
    def grown(self) -> dict[str, int]:
        """Of what there is more than before."""
        return {name: self.after[name] - self.before.get(name, 0) for name in self.after}


class _Flapping:
    """Targets of which at least one always works."""

    def __init__(self, echoes: list[Echo], rng: random.Random) -> None:
        self.echoes = echoes
        self.down: dict[Echo, str] = {}
        self._rng = rng

    async def step(self) -> None:
        """Something happens to one of them."""
        up = [echo for echo in self.echoes if echo not in self.down]
        if self.down and (len(up) <= 2 or self._rng.random() < 0.5):
            await self.restore(self._rng.choice([*self.down]))
        else:
            echo = self._rng.choice(up)
            self.down[echo] = self._rng.choice(["killed", "frozen"])
            echo.kill() if self.down[echo] == "killed" else echo.freeze()

    async def restore(self, echo: Echo) -> None:
        """It works again."""
        if self.down.pop(echo) == "killed":
            await asyncio.get_running_loop().run_in_executor(None, echo.start)
        else:
            echo.thaw()


def held(pid: int, port: int) -> dict[str, int]:
    """Descriptors, memory and objects of the gateway."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/inside", timeout=10) as answer:
        found: dict[str, int] = json.loads(answer.read())
    found["descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
    status = Path(f"/proc/{pid}/status").read_text()
    found["KiB"] = int(status.partition("VmRSS:")[2].split()[0])
    return found


async def soak(folder: Path, seconds: float, *, rate: float = 300, seed: int = 1, settle: float = 3) -> Soak:
    """
    Run it once.

    :param settle: seconds of load, and as many and one of silence, before and after, to compare.
    """
    rng = random.Random(seed)
    echoes = [Echo(free_port()) for _ in range(5)]
    port = free_port()
    with ExitStack() as stack:
        flapping = _Flapping(echoes, rng)
        for echo in echoes:
            echo.start()
            stack.callback(echo.kill)
        targets = folder / "targets"
        targets.write_text("".join(f"http://127.0.0.1:{echo.port}\n" for echo in echoes))
        pid = stack.enter_context(gateway(folder, port, echoes, RESILIENT, MORE.format(options=RESILIENT)))
        file = folder / "gw.ini"
        first = file.read_text()
        seen = Soak()
        loads = [Steady(port, rate / 3, path) for path in (b"/", b"/found/", b"/both/")]

        async def ask(duration: float) -> None:
            await asyncio.gather(*(load.run(duration) for load in loads))
            for load in loads:
                load.close()

        def variant() -> str:
            text = first
            some = rng.sample(echoes, rng.randint(2, 5))
            lines = "".join(f"    http://127.0.0.1:{echo.port} weight={rng.randint(1, 3)}\n" for echo in some)
            start = text.index("targets =\n") + len("targets =\n")
            text = text[:start] + lines + text[text.index("retry.attempts") :]
            if rng.random() < 0.5:
                text = text.replace("hedge.after = 95%", rng.choice(["hedge.after = 30ms", "balance = ewma"]))
            if rng.random() < 0.3:
                text += "\n[route more]\npath = /more\nupstream = both\n"
            if rng.random() < 0.1:
                text += "\n[route broken]\n"
            return text

        def reload(text: str) -> None:
            file.write_text(text)
            os.kill(pid, signal.SIGHUP)
            seen.reloads += 1

        async def disturb(until: float) -> None:
            while monotonic() < until:
                await asyncio.sleep(0.5)
                await flapping.step()
                some = rng.sample(echoes, rng.randint(2, 5))
                (folder / "new").write_text("".join(f"http://127.0.0.1:{echo.port}\n" for echo in some))
                (folder / "new").rename(targets)

        async def reloading(until: float) -> None:
            while monotonic() < until:
                await asyncio.sleep(1)
                reload(variant())

        async def quiet() -> dict[str, int]:
            for echo in [*flapping.down]:
                await flapping.restore(echo)
            targets.write_text("".join(f"http://127.0.0.1:{echo.port}\n" for echo in echoes))
            reload(first)
            await ask(settle)
            reload(first)
            await asyncio.sleep(settle + 1.2)  # connections that are not used are closed after one second
            return await asyncio.get_running_loop().run_in_executor(None, held, pid, port)

        reload(variant())  # what is made at the first reload is no leak
        await ask(2)
        seen.before = await quiet()
        end = monotonic() + seconds
        await asyncio.gather(ask(seconds), disturb(end), reloading(end))
        seen.after = await quiet()
        if "--why" in sys.argv:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/inside?why=Upstream", timeout=20) as answer:
                print(answer.read().decode())
        outcomes = [each for load in loads for each in load.outcomes]
        seen.requests = len(outcomes)
        seen.wrong = sum(each.status == 200 and not each.right for each in outcomes)
        seen.failed = sum(each.status != 200 for each in outcomes)
        for each in outcomes:
            seen.statuses[each.status] = seen.statuses.get(each.status, 0) + 1
        logged = (folder / "access.log").read_text().splitlines()
        for each in outcomes:
            if not each.status:
                when = end - each.began
                seen.unanswered.append(f"{each.error} after {each.took:.3f} s, {when:.1f} s before the end")
                path = f'"{each.error.partition(":")[0]}"'
                seen.unanswered += [f"    {line}" for line in logged if path in line] or ["    not in the access log"]
        log = (folder / "gateway.log").read_text()
        seen.errors = [line for line in log.splitlines() if "Traceback" in line]
    return seen


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as where:
        result = uvloop.run(soak(Path(where), float(sys.argv[1]) if len(sys.argv) > 1 else 300.0))
        print(f"{result.requests} requests, {result.wrong} wrong answers, {result.failed} failed: {result.statuses}")
        print(f"{result.reloads} reloads; grown: {result.grown}\nbefore {result.before}\nafter {result.after}")
        print(*result.errors[:20], *result.unanswered[:20], sep="\n")
        if "--log" in sys.argv:
            print((Path(where) / "gateway.log").read_text())
