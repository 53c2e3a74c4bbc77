"""
Good requests among bad ones while targets die: ``make bench CASE=mixed_faults``.

25 clients on three targets. 23 % of their requests go to paths at which the service breaks off, answers garbage or
hangs; every 4 s one target is killed with -9 for 3 s, in turn. Counted is which share of the *good* requests fails:
with every combination of the protections of an upstream, and for HAProxy.

The origin's port on 127.0.0.1 answers at all times; the targets have the same port on 127.0.0.2, .3 and .4.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.gateways import ROOT, Gateway, Place, Setup, apigw
from bench.measures import Bench, Figures, Measure, Row

TARGETS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
CLIENTS = 25
BAD = 0.23
EVERY, DOWN = 4.0, 3.0
SHORTEST = 3 * EVERY
"""Seconds: each target is killed once."""

PROTECTIONS = {
    "health": "health.path = /health",
    "breaker": "breaker.enabled = yes",
    "retry": "retry.on = connect, reset, 502, 503",
    "hedge": "hedge.after = 95%",
    "no outlier": "outlier.enabled = no",
}

_INI = """
[gateway]
access_log = access.log

[listen public]
endpoint = tcp:{port}:interface=127.0.0.1

[upstream origin]
targets = TARGETS
timeout.response = 1s
OPTIONS

[route all]
path = /
upstream = origin
"""

_HAPROXY = """
global
    nbthread 1
defaults
    mode http
    timeout connect 1s
    timeout client 1h
    timeout server 1s
    option redispatch 1
    retries 3
    retry-on conn-failure empty-response response-timeout
frontend in
    bind 127.0.0.1:{port}
    default_backend origin
backend origin
    option httpchk GET /health
    default-server check inter 500ms fall 2 rise 1
"""


def combinations() -> dict[str, Gateway]:
    """HAProxy, and apigw with every combination of ``PROTECTIONS``."""
    gateways: dict[str, Gateway] = {"haproxy": haproxy}
    for count in range(len(PROTECTIONS) + 1):
        for chosen in itertools.combinations(PROTECTIONS, count):
            gateways[", ".join(chosen) or "defaults"] = protected(*(PROTECTIONS[name] for name in chosen))
    return gateways


def protected(*options: str) -> Gateway:
    """apigw before the three targets, with these options of the upstream."""
    targets = ", ".join(f"http://{host}:{{origin}}" for host in TARGETS)
    return apigw(_INI.replace("TARGETS", targets).replace("OPTIONS", "\n".join(options)))


def haproxy(place: Place) -> Setup:
    servers = "".join(f"    server s{number} {host}:{place.origin}\n" for number, host in enumerate(TARGETS))
    return Setup(["haproxy", "-db", "-f", "haproxy.cfg"], {"haproxy.cfg": _HAPROXY.format(port=place.port) + servers})


def faulty_origin(place: Place) -> Setup:
    """Three targets, of which one after the other is killed, for as long as the origin runs."""
    return Setup([sys.executable, "-m", "bench.mixed_faults", str(place.port)], env={"PYTHONPATH": str(ROOT)})


# ---- the clients -----------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """
    What the clients saw.

    :ivar good: requests to paths at which nothing is wrong. :ivar failures: of these, by status (0: none) and reason.
    """

    good: int = 0
    bad: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    @property
    def share(self) -> float:
        """Good requests that failed, in per cent."""
        return 100 * self.failures.total() / max(1, self.good)


async def ask(port: int, seconds: float, *, clients: int = CLIENTS, seed: int = 1, patience: float = 20.0) -> Seen:
    """Clients that each send one request after the other."""
    seen = Seen()
    end = time.monotonic() + seconds
    await asyncio.gather(*(_client(port, end, random.Random(seed * 1000 + n), seen, patience) for n in range(clients)))
    return seen


async def _client(port: int, end: float, rng: random.Random, seen: Seen, patience: float) -> None:
    streams = None
    number = 0
    while time.monotonic() < end:
        number += 1
        good = rng.random() >= BAD
        kind = "good" if good else rng.choice(("breaks", "garbage", "hangs"))
        mark = b"%d" % rng.randrange(1 << 40)
        began = time.monotonic()
        status, body = 0, b""
        try:
            async with asyncio.timeout(patience):
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", port)
                streams[1].write(b"GET /%b/%b HTTP/1.1\r\nHost: a\r\n\r\n" % (kind.encode(), mark))
                status, body, kept = await _answer(streams[0])
            if not kept:
                streams[1].close()
                streams = None
        except (OSError, TimeoutError, EOFError, ValueError) as error:
            body = type(error).__name__.encode()
            if streams is not None:
                streams[1].close()
            streams = None
        if good:
            seen.good += 1
            seen.slowest = max(seen.slowest, time.monotonic() - began)
            if status != 200 or body != mark:
                reason = body.partition(b'"reason":')[2].split(b'"')[1:2] or [body[:40]]
                seen.failures[f"{status} {reason[0].decode(errors='replace')}"] += 1
        else:
            seen.bad += 1
    if streams is not None:
        streams[1].close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    kept = b"connection: close" not in head
    at = head.find(b"content-length:")
    if at >= 0:
        body = await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]))
    else:
        body, kept = await reader.read(), False
    return int(head[9:12]), body, kept


def measured() -> Measure:
    """The share of good requests that fail, and the worst combination's as that of ``apigw``."""

    def measure(bench: Bench) -> Iterator[Row]:
        for number in range(bench.rounds):
            worst: Figures = {}
            for gateway in bench.gateways:
                seen = asyncio.run(ask(gateway.port, max(bench.seconds, SHORTEST), seed=number + 1))
                figures: Figures = {
                    "failed %": seen.share,
                    "good requests": seen.good,
                    "failed": seen.failures.total(),
                    "slowest s": seen.slowest,
                }
                bench.progress(f"{gateway.name}: {seen.share:.3f} % of {seen.good:,} fail {dict(seen.failures) or ''}")
                yield Row(gateway.name, number, figures)
                if gateway.name != "haproxy" and figures["failed %"] >= worst.get("failed %", 0.0):
                    worst = figures
            yield Row("apigw", number, worst)

    return measure


# ---- the origin ------------------------------------------------------------------------------------------------------


class _Faulty(asyncio.Protocol):
    """One connection to a target: what it does is the first part of the path."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            kind, _, mark = self._buffer.split(b" ", 2)[1].strip(b"/").partition(b"/")
            self._buffer = self._buffer[end + 4 :]
            if kind == b"hangs":
                continue
            asyncio.get_running_loop().call_later(0.002, self._send, kind, mark)

    def _send(self, kind: bytes, mark: bytes) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        if kind == b"breaks":
            transport.write((b"", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx")[int(mark) % 3])
            transport.close()
        elif kind == b"garbage":
            transport.write(b"\x16\x03\x01\x00 none of this is HTTP\r\n\r\n")
        else:
            body = mark if kind == b"good" else b"ok"
            transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def _serve(host: str, port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Faulty, host, port, backlog=1024)
    await server.serve_forever()


def _target(host: str, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "bench.mixed_faults", str(port), host])


async def _kill_in_turn(targets: list[subprocess.Popen[bytes]], port: int) -> None:
    for at in itertools.cycle(range(len(TARGETS))):
        await asyncio.sleep(EVERY - DOWN)
        targets[at].kill()
        targets[at].wait()
        await asyncio.sleep(DOWN)
        targets[at] = _target(TARGETS[at], port)


async def _origin(port: int) -> None:
    targets = [_target(host, port) for host in TARGETS]
    try:
        for host in TARGETS:
            await _listens(host, port)
        killing = asyncio.ensure_future(_kill_in_turn(targets, port))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, killing.cancel)
        serving = asyncio.ensure_future(_serve("127.0.0.1", port))
        await asyncio.wait([killing, serving], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for target in targets:
            target.kill()
            target.wait()


async def _listens(host: str, port: int) -> None:
    for _ in range(500):
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


if __name__ == "__main__":
    number = int(sys.argv[1])
    asyncio.run(_serve(sys.argv[2], number) if len(sys.argv) > 2 else _origin(number))
