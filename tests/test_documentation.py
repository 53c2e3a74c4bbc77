"""README.md and docs/: their links lead somewhere, the files they name exist, and the README's gateway is well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apigw.gateway.catalogue import load

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not link.startswith(("http:", "https:")):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_ours_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"`((?:apigw|tests|bench|examples|packaging)/[\w./]+)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_the_gateway_of_the_readme_is_well(tmp_path: Path) -> None:
    (text,) = re.findall(r"```ini\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "gw.ini").write_text(text)
    configuration = load(str(tmp_path / "gw.ini"), {})
    assert list(configuration.routes) == ["orders"]
    assert not configuration.warnings
