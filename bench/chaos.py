"""
Healthy services beside everything that can go wrong: ``make chaos`` or ``python -m bench.chaos [SECONDS]`` (300).

Clients ask healthy services, by plain connections, by TLS and by name, 400 times a second. Meanwhile targets of others
are killed, hang, are slow and answer garbage; names are never answered, refused and flap; clients pipeline without
reading, drip their content, flood with one-byte chunks, leave in the middle; every second the configuration is read
anew and the certificate replaced.

Must hold: at most 0.1 % of the good requests fail, the loop is held for at most 50 ms, the memory grows by at most
50 MiB, and afterwards there are no more descriptors and objects than before.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic

import uvloop

from bench.__main__ import certificate
from bench.echo import Echo
from bench.gateways import ROOT
from bench.name_server import serve as serve_names
from bench.outage import gateway
from bench.processes import GATEWAY_CORE, LOAD_CORE, free_port
from bench.soak import _Flapping, held
from bench.steady import Steady

MORE = """
[listen secure]
endpoint = tcp:{secure}:interface=127.0.0.1
tls.certificates = localhost.pem

[upstream named]
targets = http://good.test:{echo}
pool.idle_timeout = 1s

[upstream flapping]
targets = {flapping}
pool.idle_timeout = 1s
timeout.connect = 500ms
timeout.response = 1s
retry.attempts = 2
retry.on = connect, reset, 502
health.path = /health
health.interval = 500ms
breaker.reset_timeout = 1s

[upstream garbage]
targets = http://127.0.0.1:{garbage}
pool.idle_timeout = 1s
timeout.response = 1s
breaker.reset_timeout = 1s

[upstream lost]
targets = http://hang.test:{echo}, http://half.test:{echo}, http://refused.test:{echo}, http://flap.test:{echo}
timeout.connect = 2s
health.path = /health
pool.idle_timeout = 1s

[upstream found]
targets = dns:flap.test:{echo}
pool.idle_timeout = 1s

[rate_limit few]
rate = 10/s

[route named]
path = /named
upstream = named

[route flapping]
path = /flapping
upstream = flapping

[route garbage]
path = /garbage
upstream = garbage

[route lost]
path = /lost
upstream = lost

[route found]
path = /found
upstream = found

[route limited]
path = /limited
respond = 200 hello
policies = rate_limit few

[resource inside]
path = /inside
class = bench.inside:Inside

[resource blocked]
path = /blocked
class = bench.inside:Blocked
"""

GARBAGE = (
    b"hello\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 5_000,
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
    b"",
)


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of a service that answers nonsense, late, or not at all."""
    with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(random.choice((0, 0, 0.2, 2)))
        writer.write(random.choice(GARBAGE))
        await writer.drain()
        await asyncio.sleep(random.choice((0, 0.5)))
    writer.close()


async def _hostile(port: int, send: Callable[[asyncio.StreamWriter], Awaitable[None]], until: float) -> None:
    """A client that misbehaves, again and again, one connection at a time."""
    while monotonic() < until:
        with suppress(OSError, TimeoutError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
            try:
                async with asyncio.timeout(min(10.0, max(0.1, until - monotonic()))):
                    await send(writer)
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.05)


async def _pipelines(writer: asyncio.StreamWriter) -> None:
    """Never reads: the reader's buffer fills, then the kernel's."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    while True:
        writer.write(b"GET /good/1 HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
        await writer.drain()


async def _is_limited(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"GET /limited HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
        await writer.drain()


async def _floods(writer: asyncio.StreamWriter) -> None:
    writer.write(b"POST /good/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n" * 10_000)
        await writer.drain()


async def _blank_lines(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"\r\n" * 30_000)
        await writer.drain()


async def _drips(writer: asyncio.StreamWriter) -> None:
    writer.write(b"POST /good/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.1)


async def _drips_a_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /good/1 HTTP/1.1\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def _leaves(writer: asyncio.StreamWriter) -> None:
    path = random.choice((b"good", b"flapping", b"garbage", b"lost", b"found"))
    writer.write(b"POST /%b/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello" % path)
    await asyncio.sleep(random.random() * 0.1)


HOSTILE = (_pipelines, _is_limited, _floods, _blank_lines, _drips, _drips_a_head, _leaves, _leaves)


async def _all_hostile(port: int, seconds: float) -> None:
    end = monotonic() + seconds
    await asyncio.gather(*(_hostile(port, send, end) for send in HOSTILE))


class Chaos:
    """
    One run.

    :ivar good: loads on healthy services, by name. :ivar bad: loads on the others; what becomes of them is only shown.
    :ivar blocked: how long the loop was held, each second, in milliseconds: by the clock, and computing.
    """

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.port, self.secure = free_port(), free_port()
        self.blocked: list[tuple[float, float]] = []
        self.asked: dict[bytes, int] = {}
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        self.good = {
            "plain": Steady(self.port, 150, b"/good/"),
            "by name": Steady(self.port, 150, b"/named/"),
            "TLS": Steady(self.secure, 100, b"/good/", tls=trust),
        }
        paths = (b"/flapping/", b"/garbage/", b"/lost/", b"/found/", b"/limited?")
        self.bad = {path.decode(): Steady(self.port, 20, path) for path in paths}
        self.before: dict[str, int] = {}
        self.after: dict[str, int] = {}
        self.peak = 0

    async def run(self, seconds: float) -> None:
        """Start everything, compare before with after, and end everything."""
        certificate(self.folder)
        os.sched_setaffinity(0, {LOAD_CORE})
        echoes = [Echo(free_port()) for _ in range(4)]
        healthy, flapping = echoes[0], _Flapping(echoes[1:], self.rng)
        names, name_port = await serve_names()
        server = await asyncio.start_server(_garbage, "127.0.0.1", 0)
        with ExitStack() as stack:
            for echo in echoes:
                echo.start()
                stack.callback(echo.kill)
            more = MORE.format(
                secure=self.secure,
                echo=healthy.port,
                flapping=", ".join(f"http://127.0.0.1:{echo.port}" for echo in echoes[1:]),
                garbage=server.sockets[0].getsockname()[1],
            )
            self.pid = stack.enter_context(gateway(self.folder, self.port, [healthy], "pool.idle_timeout = 1s", more))
            os.sched_setaffinity(self.pid, {GATEWAY_CORE})
            file = self.folder / "gw.ini"
            self.text = file.read_text().replace("[gateway]", f"[gateway]\nname_servers = 127.0.0.1:{name_port}")
            self.reload(self.text)
            while "in force" not in (self.folder / "gateway.log").read_text():
                await asyncio.sleep(0.05)
            await self.load(self.good, 3)
            self.before = await self.quiet()
            end = monotonic() + seconds
            # In a process of its own, with a lower priority: the other clients' times are to be the gateway's.
            command = ["nice", sys.executable, "-m", "bench.chaos", "hostile", str(self.port), str(seconds)]
            hostile = stack.enter_context(subprocess.Popen(command, cwd=ROOT))
            stack.callback(hostile.kill)
            await asyncio.gather(
                self.load({**self.good, **self.bad}, seconds),
                self.disturb(flapping, end),
                self.watch(end),
            )
            for echo in [*flapping.down]:
                await flapping.restore(echo)
            self.reload(self.text)
            await self.load(self.good, 3)
            self.after = await self.quiet()
            self.asked = names.asked
        server.close()

    async def load(self, loads: dict[str, Steady], seconds: float) -> None:
        """Ask, and close what is kept."""
        await asyncio.gather(*(load.run(seconds) for load in loads.values()))
        for load in loads.values():
            load.close()

    def reload(self, text: str) -> None:
        """Write the configuration, and have it read."""
        (self.folder / "gw.ini").write_text(text)
        os.kill(self.pid, signal.SIGHUP)

    async def disturb(self, flapping: _Flapping, until: float) -> None:
        """Each second: targets come and go, the certificate is another, the configuration too."""
        while monotonic() < until:
            await asyncio.sleep(1)
            await flapping.step()
            (self.folder / "next").mkdir(exist_ok=True)
            certificate(self.folder / "next").rename(self.folder / "localhost.pem")
            text = self.text
            if self.rng.random() < 0.5:
                text += f"\n[route more]\npath = /more\nrespond = 200 {self.rng.random()}\n"
            if self.rng.random() < 0.3:
                text = text.replace("timeout.connect = 2s", "timeout.connect = 1s")
            if self.rng.random() < 0.1:
                text += "\n[route broken]\n"
            self.reload(text)

    async def watch(self, until: float) -> None:
        """Each second: how long the loop was held, and how much memory it has."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._blocked)
        while monotonic() < until:
            await asyncio.sleep(1)
            self.blocked.append(await loop.run_in_executor(None, self._blocked))
            status = Path(f"/proc/{self.pid}/status").read_text()
            self.peak = max(self.peak, int(status.partition("VmRSS:")[2].split()[0]))

    def _blocked(self) -> tuple[float, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/blocked", timeout=30) as answer:
            found: dict[str, float] = json.loads(answer.read())
        return found["held"], found["cpu"]

    async def quiet(self) -> dict[str, int]:
        """What the gateway holds once nothing is asked of it and its kept connections have closed."""
        await asyncio.sleep(8)
        return await asyncio.get_running_loop().run_in_executor(None, held, self.pid, self.port)

    def report(self) -> tuple[list[str], list[str]]:
        """What was seen, and what did not hold."""
        outcomes = [each for load in self.good.values() for each in load.outcomes]
        failed = [each for each in outcomes if each.status != 200 or not each.right]
        held_for, cpu = (max(column) for column in zip(*self.blocked, strict=True))
        over = sum(each[1] > 50 for each in self.blocked)
        grown = {name: self.after[name] - self.before.get(name, 0) for name in self.after}
        peak = (self.peak - self.before["KiB"]) / 1024
        left = grown.pop("KiB") / 1024
        tracebacks = (self.folder / "gateway.log").read_text().count("Traceback")
        lines = [f"good requests: {len(outcomes)}, failed {len(failed)} ({len(failed) / len(outcomes):.3%})"]
        lines += [f"  {each.status} {each.error} after {each.took:.2f} s" for each in failed[:10]]
        lines += [_line(name, load) for name, load in {**self.good, **self.bad}.items()]
        lines += [
            f"loop held: {held_for:.0f} ms by the clock, {cpu:.0f} ms computing",
            f"  computing for over 50 ms in {over} of {len(self.blocked)} s",
            f"RSS: {self.before['KiB'] / 1024:.0f} MiB before, {peak:+.1f} MiB at most, {left:+.1f} MiB after",
            f"grown: { {name: more for name, more in grown.items() if more} }",
            f"names asked for: {self.asked}",
        ]
        failures = {
            "more than 0.1 % of the good requests failed": len(failed) > 0.001 * len(outcomes),
            "the loop was held for more than 50 ms": over > 0,
            "the memory grew by more than 50 MiB": max(peak, left) > 50,
            "descriptors are left": grown["descriptors"] > 0,
            f"{tracebacks} tracebacks in the log": tracebacks > 0,
        }
        return lines, [text for text, is_so in failures.items() if is_so]


def _line(name: str, load: Steady) -> str:
    times = sorted(each.took * 1000 for each in load.outcomes)
    statuses = dict(Counter(each.status for each in load.outcomes))
    return f"  {name}: {statuses}, p99 {times[int(len(times) * 0.99)]:.1f} ms, max {times[-1]:.0f} ms"


def main() -> None:
    """Run it; the exit status is 1 if something did not hold."""
    if sys.argv[1:2] == ["hostile"]:
        uvloop.run(_all_hostile(int(sys.argv[2]), float(sys.argv[3])))
        return
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else float(os.environ.get("SECONDS") or 300)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos = Chaos(folder)
    uvloop.run(chaos.run(seconds))
    lines, failures = chaos.report()
    print(*lines, sep="\n")
    if failures:
        raise SystemExit("did not hold: " + "; ".join(failures) + f"; the logs are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
