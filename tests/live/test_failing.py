"""
Targets that die, hang and fail, as processes, under load: short versions of ``bench.outage``, ``bench.failing``,
``bench.mixed_faults`` and ``bench.soak``, whose figures are those of docs/upstreams.md.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bench.failing import opened, spent
from bench.gateways import Place
from bench.mixed_faults import PROTECTIONS, ask, faulty_origin, protected
from bench.outage import OPTIONS, Story, outage
from bench.processes import LOAD_CORE, Process, free_port, wait_for_port
from bench.soak import soak

SHORT = Story(killed=1.0, frozen=2.0, back=5.0, judged=3.0, end=9.5)


@pytest.mark.parametrize(
    ("active", "options"),
    [(True, OPTIONS), (False, OPTIONS), (False, "")],
    ids=["active checks", "passive only", "no options at all"],
)
async def test_one_target_is_killed_another_hangs_and_both_return(tmp_path: Path, active: bool, options: str) -> None:
    seen = await outage(tmp_path, active=active, rate=400, story=SHORT, options=options)
    assert seen.wrong == 0
    assert seen.failed <= seen.requests / 1000
    assert seen.late_failures == 0
    assert seen.spread == pytest.approx([sum(seen.spread) / 3] * 3, rel=0.3)


async def test_good_requests_survive_bad_paths_and_dying_targets(tmp_path: Path) -> None:
    place = Place(tmp_path, free_port(), free_port(), free_port())
    chosen = [PROTECTIONS[name] for name in ("health", "breaker", "retry", "hedge")]
    origin, gateway = faulty_origin(replace(place, port=place.origin)), protected(*chosen)(place)
    (tmp_path / "gw.ini").write_text(gateway.files["gw.ini"])
    with ExitStack() as stack:
        for name, setup, port in (("origin", origin, place.origin), ("gateway", gateway, place.port)):
            process = Process(name, setup.command, core=LOAD_CORE, folder=tmp_path, env=setup.env)
            stack.callback(process.stop)
            wait_for_port(process, port)
        seen = await ask(place.port, 8.5)
    assert seen.good > 100
    assert seen.failures.total() <= seen.good / 1000 + 1, seen.failures


async def test_behind_open_circuits_the_service_sees_probes_only_and_clients_the_fallback(tmp_path: Path) -> None:
    seen = await opened(tmp_path, seconds=3, rate=400)
    assert seen.fallbacks == seen.requests
    assert 0 < seen.at_the_origin <= seen.probes
    assert seen.p50 < 0.002


async def test_retries_and_hedges_stay_within_the_budget(tmp_path: Path) -> None:
    seen = await spent(tmp_path, seconds=4, rate=300)
    assert 1.05 < seen.ratio <= 1.25


async def test_everything_at_once_leaves_nothing_behind(tmp_path: Path) -> None:
    seen = await soak(tmp_path, 6, rate=150, settle=2)  # a copy for a mirror may take three tries of 0.8 s
    assert seen.wrong == 0
    assert seen.statuses[200] > 0.9 * seen.requests
    assert seen.errors == []
    assert seen.grown["descriptors"] <= 5
    assert seen.grown["delayed calls"] <= 2
    assert seen.after.get("Upstream", 0) <= 2
    assert seen.after.get("TargetSet", 0) <= 2
    assert seen.after.get("Generation", 0) <= 1
