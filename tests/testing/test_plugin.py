"""How tests run: what the pytest plugin promises, shown by running pytest on small files."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import deferLater

HEAD = """
import asyncio
import pytest
from twisted.internet.defer import Deferred
"""


def run_pytest(folder: Path, tests: str) -> str:
    (folder / "conftest.py").write_text('pytest_plugins = ["apigw.testing.plugin"]\n')
    (folder / "test_it.py").write_text(HEAD + tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return done.stdout


async def test_deferreds_and_futures_are_awaited_alike() -> None:
    from twisted.internet import reactor

    assert await deferLater(reactor, 0.001, lambda: "deferred") == "deferred"
    assert await asyncio.sleep(0.001, "future") == "future"
    await asyncio.sleep(0)


@settings(max_examples=5, deadline=None)
@given(number=st.integers(min_value=0))
async def test_hypothesis_gives_values_to_async_tests(number: int) -> None:
    await asyncio.sleep(0)
    assert number >= 0


@pytest.mark.parametrize("value", ["a", "b"])
async def test_async_tests_are_parametrized(value: str) -> None:
    assert await asyncio.sleep(0, value) in "ab"


def test_a_test_that_hangs_fails_alone_and_says_where(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
@pytest.mark.time_limit(0.1)
async def test_deferred():
    await Deferred()

@pytest.mark.time_limit(0.1)
async def test_future():
    await asyncio.get_running_loop().create_future()

async def test_after():
    await asyncio.sleep(0.01)
""",
    )
    assert "2 failed, 1 passed" in output
    assert f"did not end within 0.1 s; it waits at {tmp_path}/test_it.py:8" in output


def test_failures_are_failures_and_skips_are_skips(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
from hypothesis import given, strategies as st

async def test_asserts():
    await asyncio.sleep(0)
    assert 1 == 2

async def test_fails():
    pytest.fail("on purpose")

async def test_skips():
    await asyncio.sleep(0)
    pytest.skip("on purpose")

@given(n=st.integers())
async def test_property(n):
    await asyncio.sleep(0)
    assert n < 10

async def test_passes():
    await asyncio.sleep(0)
""",
    )
    assert "assert 1 == 2" in output
    assert "n=10" in output
    assert "3 failed, 1 passed, 1 skipped" in output


def test_a_deferred_of_another_time_is_cancelled_when_the_test_hangs(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        """
cancelled = []

@pytest.mark.time_limit(0.1)
async def test_hangs():
    await Deferred(cancelled.append)

async def test_was_cancelled():
    assert cancelled
""",
    )
    assert "1 failed, 1 passed" in output
