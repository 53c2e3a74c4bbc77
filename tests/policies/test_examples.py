"""Every example, of the page about policies and of the policies' own docstrings, is loaded and built."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from apigw.config.configuration import Configuration
from apigw.config.kinds import BASE_KINDS
from apigw.config.load import load
from apigw.config.problems import ConfigurationError
from apigw.policies.catalogue import KINDS, POLICIES
from apigw.policies.policy import layer
from tests.policies.surroundings import World
from tests.policies.test_asking import BCRYPT

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
ON_PAGE = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)

FILES = {
    "users.htpasswd": f"anna:{BCRYPT}\n",
    "api.yaml": (Path(__file__).parent / "api.yaml").read_text(),
    **dict.fromkeys(("schemas/order.json", "schemas/order-created.json"), '{"type": "object"}'),
    **dict.fromkeys(("pages/error.html", "pages/not-found.html", "pages/sorry.html", "back-soon.html"), "{status}"),
}
"""What the examples refer to."""


def in_docstring(kind: str) -> str:
    """The indented part of the docstring of the module that has the policy."""
    module = inspect.getmodule(POLICIES[kind][1])
    assert module is not None
    text = module.__doc__ or ""
    lines = [line for line in text.splitlines() if line.startswith("    ") or not line]
    return textwrap.dedent("\n".join(lines)).strip() + "\n"


def loaded(tmp_path: Path, text: str) -> Configuration:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "gw.ini").write_text(text)
    return load(tmp_path / "gw.ini", {**BASE_KINDS, **KINDS}, {})


def build(configuration: Configuration) -> dict[tuple[str, str], Any]:
    world = World()
    world.consumers.update(configuration.of("consumer"))
    waiting: dict[tuple[str, str], Any] = dict(configuration.policies)
    for (kind, name), settings in sorted(waiting.items(), key=lambda each: each[0][0] == "auth"):
        environment = world.environment(kind, name)
        world.policies[kind, name] = layer(POLICIES[kind][1](settings, environment), settings, environment)
    return world.policies


@pytest.mark.parametrize("example", ON_PAGE, ids=lambda text: text.splitlines()[0].strip("[]"))
def test_an_example_of_the_page_works(tmp_path: Path, example: str) -> None:
    build(loaded(tmp_path, example))


KINDS_OF_POLICIES = sorted(POLICIES)


@pytest.mark.parametrize("kind", KINDS_OF_POLICIES)
def test_a_policys_own_example_works(tmp_path: Path, kind: str) -> None:
    example = in_docstring(kind)
    assert f"[{kind}" in example
    if kind == "auth":
        example += "[jwt main]\nsecret = demo-secret-demo-secret-demo-secret!\n[api_key partners]\nheader = X-API-Key\n"
    assert any(found == kind for found, _ in build(loaded(tmp_path, example)))


@pytest.mark.parametrize("kind", KINDS_OF_POLICIES)
def test_every_policy_has_its_part_of_the_page(kind: str) -> None:
    assert re.search(rf"^### {kind}\b", PAGE, re.MULTILINE)
    assert any(f"[{kind}" in example for example in ON_PAGE)


def test_a_misspelt_alternative_is_found_at_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(
            tmp_path,
            "[jwt main]\nsecret = demo-secret-demo-secret-demo-secret!\n\n[auth a]\nany = jwt mian | jwt main\n",
        )
    [problem] = caught.value.problems
    assert (problem.line, problem.option, problem.hint) == (5, "any", "did you mean jwt main?")


@pytest.mark.parametrize(
    ("text", "line", "option"),
    [
        ("[jwt main]\nalgorithms = HS256\nsecret = short\n", 3, "secret"),
        ("[jwt main]\nsecret = demo-secret-demo-secret-demo-secret!\nalgorithms = RS256\n", 3, "algorithms"),
        ("[cors a]\ncredentials = yes\norigins = *\n", 2, "credentials"),
        ("[consumer a]\ngroups = x\nkeys = my-plain-key\n", 3, "keys"),
        ("[ip_filter a]\nallow = 10.0.0.1/8\n", 2, "allow"),
        ("[acl a]\nallow = gruop:x\n", 2, "allow"),
    ],
)
def test_a_mistake_is_found_at_its_line_and_shows_no_secret(tmp_path: Path, text: str, line: int, option: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, text)
    problem = caught.value.problems[0]
    assert (problem.line, problem.option) == (line, option)
    assert "my-plain-key" not in str(caught.value)
    assert "short\n" not in str(caught.value)
