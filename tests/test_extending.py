"""docs/extending.md shows the example that is tested."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from apigw.gateway.catalogue import load
from apigw.testing import policies

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extending.md").read_text("utf-8")


def without_docstring(path: str) -> str:
    text = (ROOT / path).read_text("utf-8")
    return text[text.index("from __future__") :].rstrip() + "\n"


def test_the_page_shows_the_files_as_they_are() -> None:
    shown = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for path in ("audit/audit.py", "audit/test_audit.py", "page/page.py", "page/test_page.py"):
        assert without_docstring(f"examples/{path}") in shown, path


def test_the_other_examples_in_python_run() -> None:
    (example,) = (each for each in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "ip_filter" in each)
    exec(compile(example, "docs/extending.md", "exec"), {})


def test_the_page_says_what_the_test_kit_takes() -> None:
    signature = inspect.signature(policies.request)
    shown = ", ".join(str(each.replace(annotation=inspect.Parameter.empty)) for each in signature.parameters.values())
    told = re.search(r"`request\((method=.*?)\)` \|", PAGE)
    assert told is not None
    assert told[1].replace(" *,", "").replace('"', "'") == shown


def test_its_configuration_loads(tmp_path: Path) -> None:
    examples = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "gw.ini").write_text("\n".join(examples) + "\n[listen public]\nendpoint = tcp:0\n")
    configuration = load(str(tmp_path / "gw.ini"))
    assert getattr(configuration.policies["python", "audit"], "header", "") == "X-Number"
    assert configuration.resources["greeting"].path == "/greeting"
