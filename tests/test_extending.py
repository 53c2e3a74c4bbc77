"""docs/extending.md shows the example that is tested."""

from __future__ import annotations

import re
from pathlib import Path

from apigw.gateway.catalogue import load

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extending.md").read_text("utf-8")


def without_docstring(path: str) -> str:
    text = (ROOT / path).read_text("utf-8")
    return text[text.index("from __future__") :].rstrip() + "\n"


def test_the_page_shows_the_files_as_they_are() -> None:
    shown = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert without_docstring("examples/audit/audit.py") in shown
    assert without_docstring("examples/audit/test_audit.py") in shown


def test_its_configuration_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "gw.ini").write_text(example + "\n[listen public]\nendpoint = tcp:0\n")
    settings = load(str(tmp_path / "gw.ini")).policies["python", "audit"]
    assert getattr(settings, "header", "") == "X-Number"
