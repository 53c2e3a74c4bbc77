"""The load generators, wrk and h2load, pinned to the core of the origin, and what they report."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_REPORT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "failed": %d, "errors": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


_ROTATING = """
local values, at = {}, 0
for line in io.lines(%s) do values[#values + 1] = line end
function request()
  at = at %% #values + 1
  wrk.headers[%s] = values[at]
  return wrk.format()
end
"""

_UNIQUE = """
local number, base = os.time() % 1000000 * 1000000, wrk.path
function request()
  number = number + 1
  wrk.headers["traceparent"] = string.format("00-%016x%016x-%016x-01", number * 1009, number, number)
  return wrk.format(nil, base .. number .. "?page=" .. number)
end
"""

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Load:
    """
    What one run of a load generator saw.

    :ivar rate: requests a second.
    :ivar p50: of the latency, in milliseconds. ``p99`` likewise.
    :ivar failed: responses with a status of 400 or more.
    :ivar errors: connections that were refused, reset or timed out.
    """

    requests: int
    rate: float
    p50: float
    p99: float
    failed: int
    errors: int


@dataclass(frozen=True)
class Wanted:
    """
    The request that is made.

    :ivar fields: makes header fields that are not known before it is measured.
    :ivar rotating: makes fields of which each request has the next one; only ``wrk`` sends them.
    :ivar unique: each request has another path (``path`` with a number behind it), query and ``traceparent``; only
        ``wrk`` sends them.
    :ivar body: its size in bytes.
    """

    path: str = "/small"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    fields: Callable[[], Fields] | None = None
    rotating: Callable[[], Fields] | None = None
    unique: bool = False
    body: int = 0

    @property
    def all_fields(self) -> Fields:
        """The header fields of one request."""
        rotating = self.rotating()[:1] if self.rotating is not None else ()
        return (*self.headers, *(self.fields() if self.fields is not None else ()), *rotating)


def wrk(url: str, wanted: Wanted, *, connections: int, seconds: float, core: int, folder: Path) -> Load:
    """
    As many requests as go through.

    :raises RuntimeError: when wrk fails, or ran without an answer.
    """
    script = folder / "wrk.lua"
    lua = [f"wrk.method = {json.dumps(wanted.method)}"]
    lua += [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in wanted.all_fields]
    if wanted.body:
        lua.append(f"wrk.body = string.rep('x', {wanted.body})")
    if wanted.rotating is not None:
        rotating = wanted.rotating()
        values = folder / "wrk.values"
        values.write_text("".join(f"{value}\n" for _, value in rotating))
        lua.append(_ROTATING % (json.dumps(str(values)), json.dumps(rotating[0][0])))
    if wanted.unique:
        lua.append(_UNIQUE)
    script.write_text("\n".join(lua) + _REPORT)
    whole = max(1, round(seconds))  # wrk knows whole seconds only
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{whole}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        url + wanted.path,
    ]
    report = json.loads(_run(command, core, whole + 30).splitlines()[-1])
    if not report["requests"]:
        raise RuntimeError(f"not one answer from {url}")
    return Load(
        requests=report["requests"],
        rate=report["requests"] / report["microseconds"] * 1e6,
        p50=report["p50"] / 1000,
        p99=report["p99"] / 1000,
        failed=report["failed"],
        errors=report["errors"],
    )


def at_rate(
    url: str, wanted: Wanted, *, rate: float, connections: int, seconds: float, core: int, folder: Path
) -> Load:
    """
    ``rate`` requests a second over all connections, spread evenly (h2load, HTTP/1.1).

    :raises RuntimeError: when h2load fails.
    """
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)
    command = ["h2load", "--h1", "-t1", f"-c{connections}", f"-D{max(1, round(seconds))}", "--warm-up-time=1"]
    command += [f"--rps={rate / connections:.4f}", f"--log-file={log}"]
    command += [f"--header={name}: {value}" for name, value in wanted.all_fields]
    text = _run([*command, url + wanted.path], core, seconds + 30)
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    if not rows:
        raise RuntimeError(f"not one answer from {url}:\n{text}")
    times = sorted(int(row[2]) for row in rows)
    starts = [int(row[0]) for row in rows]
    lost = next((line for line in text.splitlines() if line.startswith("requests:")), "")
    return Load(
        requests=len(rows),
        rate=len(rows) / max(1e-9, (max(starts) - min(starts)) / 1e6),
        p50=percentile(times, 50) / 1000,
        p99=percentile(times, 99) / 1000,
        failed=sum(not 200 <= int(row[1]) < 400 for row in rows),
        errors=_count(lost, "errored") + _count(lost, "timeout"),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]


def _count(line: str, word: str) -> int:
    """The number before ``word`` in h2load's summary line."""
    for part in line.split(","):
        if part.strip().endswith(word):
            return int(part.split(":")[-1].split()[0])
    return 0


def _run(command: list[str], core: int, limit: float) -> str:
    ran = subprocess.run(
        ["taskset", "-c", str(core), *command], capture_output=True, text=True, timeout=limit, check=False
    )
    if ran.returncode:
        raise RuntimeError(f"{command[0]} failed: {ran.stdout}{ran.stderr}")
    return ran.stdout
