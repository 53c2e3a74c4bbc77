"""
Every name that prose writes as code exists: options, sections, metrics, reason codes, admin pages, commands.

Looked at are README.md, docs/ and the comments of conf/. In tables that compare with other gateways the columns before
``here`` are theirs. docs/configuration.md is written from the settings classes.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apigw.cli import main
from apigw.config.model import allowed, find
from apigw.config.problems import ConfigurationError
from apigw.gateway.catalogue import KINDS, load
from apigw.observability import instruments
from tests.observability.test_error_reasons import in_source

ROOT = Path(__file__).parent.parent
PROSE = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "configuration.md"),
]
CONFIGURATIONS = sorted((ROOT / "conf").glob("*.ini"))
OURS = re.compile(r"[a-z_]+(?:\.[A-Za-z_-]+)*")
SNAKE = re.compile(r"[a-z]+(?:_[a-z0-9]+)+")
FILE = re.compile(
    r".*\.(?:py|pem|log|conf|key|ini|json|yaml|html|svg|md|toml|cfg|sh|txt|sock|example)|.*\.example(?:/.*)?"
)
PYTHON = re.compile(
    r"(?:apigw|twisted|treq|asyncio|bench|self|request|response|headers|environment|running|client|origin|caller|"
    r"gateway|service|inner|os|outcome|loop|pytest|resource)\..+"
)
PROCESS = "process_"
"""Of prometheus_client's own metrics."""
OTHERS = frozenset(
    ("option", "decode_error", "healthy_threshold", "a.b", "user.vip", "jwt.tenant", "path.id", "query.page", "body.n")
)
"""Placeholders, members of documents, and names of TLS and of other gateways."""


def tokens(text: str) -> Iterator[str]:
    """What stands in backquotes outside of examples, less what belongs to others."""
    theirs = 0
    for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines():
        cells = line.split("|") if line.startswith("|") else []
        if not cells:
            theirs = 0
        elif "here" in (titles := [cell.strip() for cell in cells]):
            theirs = titles.index("here")
        yield from re.findall(r"`([^`]+)`", "|".join(cells[theirs:]) if theirs else line)


def is_option(name: str) -> bool:
    return any(find(kind.settings, name.replace("NAME", "x")) for kind in KINDS.values())


def parts() -> frozenset[str]:
    """Options without the name of their group: ``reset_timeout`` where a breaker is spoken of."""
    return frozenset(step for kind in KINDS.values() for option in allowed(kind.settings) for step in option.split("."))


PARTS = parts()
WORDS = frozenset(
    word
    for folder in ("apigw", "bench", "examples")
    for path in (ROOT / folder).rglob("*.py")
    for word in re.findall(r"[a-z0-9_]+", path.read_text())
)


@functools.cache
def reasons() -> frozenset[str]:
    return frozenset(in_source())


def fault(token: str) -> str:
    """What is wrong with a name; empty if nothing is."""
    if token.startswith("apigw_"):
        known = {each.name for each in instruments.ALL}
        name = token.partition("{")[0]
        return (
            ""
            if name in known or any(name == f"{each}_{end}" for each in known for end in ("bucket", "sum", "count"))
            else "metric"
        )
    if found := re.fullmatch(r"\[([a-z_]+)(?: [\w. -]+)?\]", token):
        return "" if found[1] in KINDS else "section"
    if found := re.fullmatch(rf"({OURS.pattern}) = .+", token):
        return "" if is_option(found[1]) or found[1] in PARTS | OTHERS or PYTHON.fullmatch(found[1]) else "option"
    if re.fullmatch(r"[a-z_]+(?:\.[A-Za-z_]+)+", token):
        fine = is_option(token) or FILE.fullmatch(token) or PYTHON.fullmatch(token) or token in OTHERS
        return "" if fine else "option"
    if SNAKE.fullmatch(token) and not token.startswith(PROCESS):
        return "" if token in PARTS or token in KINDS or token in WORDS | OTHERS else "word"
    return ""


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_every_name_is_one_that_there_is(page: Path) -> None:
    wrong = {token: kind for token in tokens(page.read_text()) if (kind := fault(token))}
    assert wrong == {}


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_every_reason_code_behind_a_status_is_one(page: Path) -> None:
    codes = re.findall(r"\b[45][0-9][0-9] `([a-z][a-z0-9_]*)`", page.read_text())
    assert set(codes) - reasons() == set()


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_every_command_is_one(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in set(re.findall(r"\bapigw ((?:check|explain|key|reference|[a-z]+) [^`\n#]*)", page.read_text())):
        words = command.split()
        if words[0] in {"check", "explain", "key", "reference"}:
            for option in (word.partition("=")[0] for word in words if word.startswith("--")):
                with pytest.raises(SystemExit):
                    main([words[0], *(["new"] if words[0] == "key" else []), "--help"])
                assert option in capsys.readouterr().out, command


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.name)
def test_every_alternative_in_a_comment_can_be_taken(file: Path, tmp_path: Path) -> None:
    lines = file.read_text().splitlines()
    tried = 0
    for place, line in enumerate(lines):
        found = re.fullmatch(r"(\w[\w.]*) = (\S+) +; (.* \| .*)", line)
        if found is None:
            continue
        for alternative in found[3].split(" | "):
            value = re.sub(r"\b(?:NAME|CLAIM)\b", "x", alternative.strip())
            (tmp_path / file.name).write_text("\n".join([*lines[:place], f"{found[1]} = {value}", *lines[place + 1 :]]))
            try:
                load(str(tmp_path / file.name), {})
            except ConfigurationError as error:
                raise AssertionError(f"{file.name}:{place + 1}: {alternative}: {error}") from None
            tried += 1
    assert tried > 5


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.name)
def test_every_name_in_a_comment_is_one_that_there_is(file: Path) -> None:
    comments = "\n".join(line.partition(";")[2] for line in file.read_text().splitlines() if ";" in line)
    assert {token: kind for token in tokens(comments) if (kind := fault(token))} == {}


async def test_every_page_and_action_of_the_admin_listener_is_one(gateway: Any) -> None:
    running = await gateway(
        "[admin]\nendpoint = tcp:0:interface=127.0.0.1\n[revocation]\n"
        "[jwt main]\nsecret = 0123456789abcdef0123456789abcdef\n"
        "[route r]\npath = /\nrespond = 200\npolicies = jwt main\n"
    )
    response = await running.get("/", ("Accept", "application/json"), host="localhost", port=running.admin_port)
    index = json.loads(response.body)
    known = {"/", *index["pages"], *(f"POST {action}" for action in index["actions"])}
    for page in ("observability.md", "operations.md", "policies.md", "upstreams.md"):
        for token in tokens((ROOT / "docs" / page).read_text()):
            if re.fullmatch(r"POST /[\w/]+|/(?:metrics|routes|upstreams|config|health/)[\w/]*", token):
                assert token in known or token.removeprefix("POST ") in known, f"{page}: {token}"
