"""A policy of one's own: its options, its forms, and what becomes of its failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from apigw.config.kinds import BASE_KINDS
from apigw.config.load import load
from apigw.config.problems import ConfigurationError
from apigw.policies.catalogue import KINDS
from apigw.policies.policy import layer
from apigw.policies.python import Python
from tests.policies.surroundings import Outcome, World, request, run

BAD = ["BadOnRequest", "BadLater", "BadOnResponse", "BadResult", "BadBefore", "BadAfter", "BadWrap"]


def made(tmp_path: Path, name: str, *options: str, world: World | None = None) -> Any:
    (tmp_path / "gw.ini").write_text("\n".join(["[python mine]", f"class = tests.policies.own:{name}", *options, ""]))
    settings: Any = load(tmp_path / "gw.ini", {**BASE_KINDS, **KINDS}, {}).policies["python", "mine"]
    environment = (world or World()).environment("python", "mine")
    return layer(Python(settings, environment), settings, environment)


def problems(tmp_path: Path, name: str, *options: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        made(tmp_path, name, *options)
    return [line.replace(str(tmp_path), "") for line in str(caught.value).splitlines()]


def test_a_class_without_options(tmp_path: Path) -> None:
    outcome = run(made(tmp_path, "Plain"), request())
    assert outcome.passed[0].notes == {"seen": True}


def test_its_options_are_typed_and_given_to_it(tmp_path: Path) -> None:
    policy = made(tmp_path, "Typed", "limit = 3", "wait = 2m")
    assert policy.policy.settings.wait == 120.0
    assert policy.policy.environment.label == "python mine"
    assert run(policy, request()).response.headers.get(b"x-limit") == b"3"


def test_mistakes_in_its_options_are_found_at_their_lines(tmp_path: Path) -> None:
    found = problems(tmp_path, "Typed", "limit = 12", "wait = soon", "wiat = 2s")
    assert [line.split(":")[1] for line in found if line.startswith("/gw.ini")] == ["3", "4", "5"]
    assert "did you mean wait?" in "\n".join(found)
    assert any("limit" in line for line in problems(tmp_path, "Typed"))


@pytest.mark.parametrize("name", ["Nothing", "Clashes", "Missing", "__doc__"])
def test_what_is_no_policy_is_told_at_the_class(tmp_path: Path, name: str) -> None:
    assert problems(tmp_path, name)[0].startswith("/gw.ini:2")


def test_one_that_can_not_be_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="TypeError when CanNotBeMade was made: oh no"):
        made(tmp_path, "CanNotBeMade")


@pytest.mark.parametrize("name", BAD)
def test_one_that_fails_is_answered_500_and_its_traceback_is_in_the_log(tmp_path: Path, name: str) -> None:
    world = World()
    outcome: Outcome = run(made(tmp_path, name, world=world), request())
    assert (outcome.status, outcome.reason) == (500, "policy_failed")
    assert b"secret-of-the-policy" not in bytes(outcome.response.body)  # type: ignore[arg-type]
    (entry,) = world.logged
    assert entry["policy"] == "python mine"
    assert entry["id"] == "r1"
    assert name == "BadResult" or "own.py" in entry["log_failure"].getTraceback()
    assert world.counts == {"failed": 1}


@pytest.mark.parametrize("name", BAD)
def test_or_it_passes_if_that_is_wanted(tmp_path: Path, name: str) -> None:
    world = World()
    outcome: Outcome = run(made(tmp_path, name, "on_error = open", world=world), request())
    assert (outcome.status, outcome.response.body) == (200, b"the service")
    assert len(outcome.passed) == 1
    assert len(world.logged) == 1


@pytest.mark.parametrize("name", BAD)
def test_in_shadow_its_failures_hurt_nobody(tmp_path: Path, name: str) -> None:
    world = World()
    outcome: Outcome = run(made(tmp_path, name, "mode = shadow", world=world), request())
    assert outcome.status == 200
    assert world.counts == {"failed": 1, "would_deny": 1}


async def test_one_that_blocks_the_reactor_is_named_in_the_log(gateway: Any, origin: Any) -> None:
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        service = await origin()
        running = await gateway(f"""
            [python slow]
            class = tests.policies.own:Blocks
            [upstream a]
            targets = http://127.0.0.1:{service.port}
            [route a]
            path = /
            upstream = a
            policies = python slow
        """)
        assert (await running.get("/")).status == 200
        while not any("the reactor was blocked" in line for line in lines):
            await turn()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert any(line.startswith("python slow blocked the reactor for 3") for line in lines)
    assert any("the reactor was blocked" in line and "own.py" in line for line in lines)


async def turn() -> None:
    """Let the reactor turn."""
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    await deferLater(reactor, 0.02)
