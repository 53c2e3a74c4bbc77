"""
How a case is measured: each function takes a bench with its gateways running, and yields one ``Row`` per gateway and
round, the gateways in turn, so that what the machine does meanwhile happens to all of them.

Not here: what is measured (``cases``), what becomes of it (``report``).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import load
from bench.load import Load, Wanted
from bench.processes import Process

Figures = dict[str, float]


@dataclass(frozen=True)
class Running:
    """A gateway that is running. ``url`` is its root."""

    name: str
    process: Process
    port: int
    url: str


@dataclass(frozen=True)
class Bench:
    """The gateways of a case, and how long to measure them. ``progress`` tells the person who waits."""

    gateways: list[Running]
    seconds: float
    rounds: int
    core: int
    folder: Path
    progress: Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One measurement: ``figures`` by name; the first one is what is compared with the other gateways'."""

    gateway: str
    round: int
    figures: Figures = field(default_factory=dict)


Measure = Callable[[Bench], Iterator[Row]]


def _in_turn(bench: Bench) -> Iterator[tuple[int, Running]]:
    for number in range(bench.rounds):
        for gateway in bench.gateways:
            if not gateway.process.running:
                raise RuntimeError(f"{gateway.name} ended by itself:\n{gateway.process.last_words()}")
            yield number, gateway


def _loaded(gateway: Running, run: Callable[[], Load]) -> Figures:
    before = gateway.process.cpu()
    seen = run()
    spent = gateway.process.cpu() - before
    return {
        "req/s": seen.rate,
        "p50 ms": seen.p50,
        "p99 ms": seen.p99,
        "CPU us/req": spent / seen.requests * 1e6,
        "core %": spent / seen.requests * seen.rate * 100,
        "non-2xx": seen.failed,
        "socket errors": seen.errors,
        "RSS peak MiB": gateway.process.memory_peak() / 2**20,
    }


def throughput(wanted: Wanted, connections: int = 64) -> Measure:
    """As many requests as go through on kept connections."""

    def measure(bench: Bench) -> Iterator[Row]:
        def run(gateway: Running, seconds: float) -> Load:
            options: dict[str, Any] = {"connections": connections, "core": bench.core, "folder": bench.folder}
            return load.wrk(gateway.url, wanted, seconds=seconds, **options)

        for gateway in bench.gateways:
            bench.progress(f"{gateway.name}: warming up")
            run(gateway, 1)
        for number, gateway in _in_turn(bench):
            figures = _loaded(gateway, lambda gateway=gateway: run(gateway, bench.seconds))  # type: ignore[misc]
            bench.progress(f"{gateway.name}: {figures['req/s']:,.0f} req/s, {figures['CPU us/req']:.1f} us of CPU each")
            yield Row(gateway.name, number, figures)

    return measure


def beside(measure: Measure, name: str, work: Callable[[], float]) -> Measure:
    """
    ``measure``, but what the gateway ``name`` reaches is reckoned as if each request cost ``work()`` seconds more.
    """

    def measured(bench: Bench) -> Iterator[Row]:
        for row in measure(bench):
            if row.gateway != name:
                yield row
                continue
            more = work()
            rate, cpu = row.figures["req/s"], row.figures["CPU us/req"]
            figures = {**row.figures, "req/s": 1 / (1 / rate + more), "CPU us/req": cpu + more * 1e6}
            bench.progress(f"{name}: {more * 1e6:.1f} us of work beside it")
            yield Row(name, row.round, {**figures, "beside us": more * 1e6})

    return measured


def latency_at_half_load(wanted: Wanted, connections: int = 64, judge: str = "apigw") -> Measure:
    """
    The latency while each gateway has half of what it can do, and while all have half of what ``judge`` can do
    (a gateway that can't hold that rate is not compared at it).

    h2load's connections tick together: a rate is held as a burst of ``connections`` requests, again and again. So this
    is the time that a gateway takes to get through such a burst.
    """

    def measure(bench: Bench) -> Iterator[Row]:
        options: dict[str, Any] = {"connections": connections, "core": bench.core, "folder": bench.folder}
        most = {}
        for gateway in bench.gateways:
            load.wrk(gateway.url, wanted, seconds=1, **options)
            most[gateway.name] = load.wrk(gateway.url, wanted, seconds=bench.seconds, **options).rate
            bench.progress(f"{gateway.name}: at most {most[gateway.name]:,.0f} req/s")
        same = most.get(judge, min(most.values())) / 2
        for number, gateway in _in_turn(bench):

            def run(rate: float, gateway: Running = gateway) -> Load:
                return load.at_rate(gateway.url, wanted, rate=rate, seconds=bench.seconds, **options)

            half = most[gateway.name] / 2
            at_half = _loaded(gateway, lambda: run(half))  # noqa: B023
            figures = {"p99 ms": at_half["p99 ms"], "p50 ms": at_half["p50 ms"]}
            figures |= {"asked req/s": half, "req/s": at_half["req/s"]}
            if most[gateway.name] > same * 1.1:
                at_same = _loaded(gateway, lambda: run(same))
                figures |= {"p99 ms, same rate": at_same["p99 ms"], "p50 ms, same rate": at_same["p50 ms"]}
                figures["same req/s"] = at_same["req/s"]
            figures |= {name: at_half[name] for name in ("non-2xx", "socket errors", "RSS peak MiB")}
            bench.progress(f"{gateway.name}: p99 {figures['p99 ms']:.2f} ms at {half:,.0f} req/s")
            yield Row(gateway.name, number, figures)

    return measure


def idle(count: int) -> Measure:
    """
    What a kept connection costs that has had one answer and waits. One round is enough: memory is not noisy.

    The client's addresses are 127.0.0.1 and on, 5,000 connections each.
    """

    def measure(bench: Bench) -> Iterator[Row]:
        for gateway in bench.gateways:
            warm = _connected(gateway, 200)
            for sock in warm:
                sock.close()
            time.sleep(0.5)
            before = gateway.process.memory()
            began = time.monotonic()
            open_ = _connected(gateway, count)
            took = time.monotonic() - began
            cpu = gateway.process.cpu()
            time.sleep(max(1.0, bench.seconds))
            kept = sum(_is_open(sock) for sock in open_)
            grown = gateway.process.memory() - before
            cpu = (gateway.process.cpu() - cpu) / max(1.0, bench.seconds)
            for sock in open_:
                sock.close()
            time.sleep(0.5)
            figures = {
                "KiB each": grown / 1024 / count,
                "RSS before MiB": before / 2**20,
                "RSS with MiB": (before + grown) / 2**20,
                "RSS after MiB": gateway.process.memory() / 2**20,
                "idle CPU %": cpu * 100,
                "still open": kept,
                "opened/s": count / took,
            }
            bench.progress(f"{gateway.name}: {figures['KiB each']:.1f} KiB each, {kept:,} of {count:,} open")
            yield Row(gateway.name, 0, figures)

    return measure


def _connected(gateway: Running, count: int) -> list[socket.socket]:
    """Connections that have had one answer each, opened a few at a time so that no queue overflows."""
    request = b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sockets: list[socket.socket] = []
    while len(sockets) < count:
        batch: list[socket.socket] = []
        for _ in range(min(100, count - len(sockets))):
            address = f"127.0.0.{1 + (len(sockets) + len(batch)) // 5000}"
            batch.append(socket.create_connection(("127.0.0.1", gateway.port), 20, (address, 0)))
            batch[-1].sendall(request)
        for sock in batch:
            if not sock.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{gateway.name} did not answer connection {len(sockets)}")
            sock.settimeout(10)
        sockets += batch
    return sockets


def _is_open(sock: socket.socket) -> bool:
    """Read away what is left of the answer; an end is an end."""
    sock.setblocking(False)
    try:
        while data := sock.recv(4096):
            del data
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def gigabyte(size: int = 1 << 30) -> Measure:
    """By how much the memory grows while one long body goes up, and one comes down; how fast they go."""

    def measure(bench: Bench) -> Iterator[Row]:
        for gateway in bench.gateways:
            _upload(gateway.port, 1 << 20)
            _download(gateway.port, 1 << 20)
        for number, gateway in _in_turn(bench):
            figures: Figures = {}
            for name, transfer in (("up", _upload), ("down", _download)):
                before = gateway.process.memory()
                gateway.process.forget_peak()
                cpu = gateway.process.cpu()
                began = time.monotonic()
                transfer(gateway.port, size)
                took = time.monotonic() - began
                figures[f"MiB grown, {name}"] = max(0, gateway.process.memory_peak() - before) / 2**20
                figures[f"MiB/s {name}"] = size / 2**20 / took
                figures[f"CPU s/GiB {name}"] = (gateway.process.cpu() - cpu) / size * 2**30
            grown = max(figures["MiB grown, up"], figures["MiB grown, down"])
            bench.progress(f"{gateway.name}: grew by {grown:.1f} MiB; {figures['MiB/s up']:.0f} MiB/s up")
            yield Row(gateway.name, number, {"MiB grown": grown, **figures})

    return measure


_ZEROS = memoryview(bytes(1 << 18))


def _upload(port: int, size: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.sendall(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            left -= sock.send(_ZEROS[:left])
        with sock.makefile("rb") as stream:
            status = stream.readline()
            length = 0
            while (line := stream.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            taken = stream.read(length) if length else stream.read(16).split(b"\r\n")[1]
    if b" 200 " not in status or int(taken) != size:
        raise RuntimeError(f"the upload of {size} bytes was answered by {status!r} {taken!r}")


def _download(port: int, size: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.sendall(b"GET /%d HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % size)
        buffer = bytearray(1 << 18)
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        got = len(head.partition(b"\r\n\r\n")[2])
        while taken := sock.recv_into(buffer):
            got += taken
    if not head.startswith(b"HTTP/1.1 200") or got != size:
        raise RuntimeError(f"a download of {size} bytes came as {got}: {head[:60]!r}")
