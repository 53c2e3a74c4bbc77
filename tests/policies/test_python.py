"""A policy of one's own: its options, its forms, and what becomes of its failures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from apigw.config.kinds import BASE_KINDS
from apigw.config.load import load
from apigw.config.problems import ConfigurationError
from apigw.exchange.body import Body
from apigw.exchange.response import Response
from apigw.policies.catalogue import KINDS
from apigw.policies.policy import layer
from apigw.policies.python import Python
from tests.policies.surroundings import Outcome, World, request, run
from tests.policies.test_answers import Seen

BAD = [
    *("BadOnRequest", "BadLater", "BadOnResponse", "BadResult", "BadResultNow", "BadBefore", "BadAfter"),
    *("BadWrap", "BadWrapLater"),
]


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
    assert name.startswith("BadResult") or "own.py" in entry["log_failure"].getTraceback()
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


@pytest.mark.parametrize("name", ["BadOnResponse", "BadResult", "BadAfter", "BadWrapLater"])
@pytest.mark.parametrize("option", ["mode = shadow", "on_error = open"])
def test_what_passes_by_its_failures_is_whole(tmp_path: Path, name: str, option: str) -> None:
    stream = Body(None)
    outcome = run(made(tmp_path, name, option), request(), lambda _asked, done: done(Response(200, None, stream)))
    stream.feed(b"the ")
    stream.feed(b"service")
    stream.end()
    assert Seen(outcome.response.body).data == b"the service"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["BadOnResponse", "BadResult", "BadResultNow", "BadAfter", "BadWrapLater"])
def test_a_response_that_is_not_sent_is_given_up(tmp_path: Path, name: str) -> None:
    stream = Body(None)
    outcome = run(made(tmp_path, name), request(), lambda _asked, done: done(Response(200, None, stream)))
    assert outcome.status == 500
    assert stream.read


@pytest.mark.parametrize(("option", "status"), [("on_error = closed", 500), ("on_error = open", 200)])
def test_one_that_fails_after_it_let_a_request_go_on_gives_one_answer(tmp_path: Path, option: str, status: int) -> None:
    waiting: list[Any] = []
    policy = made(tmp_path, "BadWrapMeanwhile", option)
    outcome = run(policy, request(), lambda _asked, done: waiting.append(done))
    waiting[0](Response(200))
    assert outcome.status == status
    assert run(policy, request()).status == 200  # it had its answer before it failed


@pytest.mark.parametrize("name", ["Blocks", "BlocksAround"])
async def test_one_that_blocks_the_reactor_is_named_in_the_log(gateway: Any, origin: Any, name: str) -> None:
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        service = await origin()
        running = await gateway(f"""
            [python slow]
            class = tests.policies.own:{name}
            [upstream a]
            targets = http://127.0.0.1:{service.port}
            [route a]
            path = /
            upstream = a
            policies = python slow
        """)
        assert (await running.get("/")).status == 200
        while not any("the reactor was blocked" in line and "own.py" in line for line in lines):
            await turn()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert any(line.startswith("python slow blocked the reactor for 6") for line in lines)


async def turn() -> None:
    """Let the reactor turn."""
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    await deferLater(reactor, 0.02)


def test_a_module_beside_the_configuration_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "own_beside_it.py").write_text("class Mine:\n    def on_request(self, request):\n        pass\n")
    (tmp_path / "gw.ini").write_text("[python mine]\nclass = own_beside_it:Mine\n")
    settings: Any = load(tmp_path / "gw.ini", {**BASE_KINDS, **KINDS}, {}).policies["python", "mine"]
    assert settings.class_.__name__ == "Mine"
