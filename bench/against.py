"""
Another commit of apigw beside this one: ``make bench AGAINST=COMMIT``.

Each case then runs with its base, the other commit and this one, in turn in every round. What is compared is the CPU
time a request takes (or the case's own figure, where it has none): the median over the rounds of the ratio within each
round. Nothing is written: the page and bench/results/ are of this commit and its peers.

The other commit runs in this environment, on the same configuration; a case whose configuration it does not
understand is reported as not compared.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.cases import Case
from bench.gateways import ROOT, Gateway, Place, Setup
from bench.measures import Row

CPU = "CPU us/req"


def checked_out(commit: str, folder: Path) -> str:
    """
    Write the files of ``commit`` into ``folder``, without a trace in the repository.

    :returns: the short name of the commit.
    :raises SystemExit: the repository has no such commit.
    """
    name = subprocess.run(
        ["git", "rev-parse", "--verify", "--short", "--end-of-options", f"{commit}^{{commit}}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if name.returncode:
        raise SystemExit(f"AGAINST={commit}: {name.stderr.strip() or 'unknown commit'}")
    short = name.stdout.strip()
    archive = subprocess.run(["git", "archive", short], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract", "--directory", str(folder)], input=archive, check=True)
    return short


def beside(case: Case, name: str, tree: Path) -> Case:
    """``case`` with its base, the commit that is checked out in ``tree`` as ``name``, and this commit."""
    this = case.gateways["apigw"]

    def other(place: Place) -> Setup:
        setup = this(place)
        return replace(setup, env={**setup.env, "PYTHONPATH": str(tree)})

    gateways: dict[str, Gateway] = {}
    if case.base in case.gateways:
        gateways[case.base] = case.gateways[case.base]
    return replace(case, gateways={**gateways, name: other, "apigw": this})


def compared(rows: Sequence[Row], name: str) -> str:
    """One line: the figure of both commits, and their ratio. Says so if one of them was not measured."""
    both = [{row.round: row.figures for row in rows if row.gateway == each} for each in ("apigw", name)]
    if not all(both):
        return f"not compared: {'this commit' if not both[0] else name} was not measured"
    ours, theirs = both
    figure = CPU if CPU in ours[0] else next(iter(ours[0]))
    ratio = median(ours[number][figure] / theirs[number][figure] for number in ours if theirs[number][figure])
    middle = [median(figures[figure] for figures in each.values()) for each in both]
    return f"{figure}: {middle[0]:.2f}, at {name} {middle[1]:.2f}: {ratio:.3f} x"
