"""docs/errors.md lists every reason code that the source has, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def reasons_in(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """
    Every literal that becomes a reason code, with its line.

    ``reason="x"`` in a call; ``reason = "x"`` in a class or function, alone or in a tuple; ``request.reason = "x"``;
    and either branch of ``"x" if ... else "y"``.
    """
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call):
            values = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                values += _assigned(target, node.value)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            values = _assigned(node.target, node.value)
        for value in values:
            branches = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
            for branch in branches:
                if isinstance(branch, ast.Constant) and isinstance(branch.value, str) and CODE.fullmatch(branch.value):
                    yield branch.value, branch.lineno


def _assigned(target: ast.expr, value: ast.expr) -> list[ast.expr]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return [found for pair in zip(target.elts, value.elts, strict=True) for found in _assigned(*pair)]
    name = target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""
    return [value] if name == "reason" else []


def in_source() -> dict[str, str]:
    """Reason codes, each with the first place that has it."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "apigw").rglob("*.py")):
        room = path.relative_to(ROOT / "apigw").parts[0]
        if room in {"config", "cli", "testing"}:
            continue  # these know no exchange
        for code, line in reasons_in(ast.parse(path.read_text("utf-8"))):
            found.setdefault(code, f"{path.relative_to(ROOT)}:{line}")
    return found


def in_manual() -> list[str]:
    """The first column of the tables of docs/errors.md."""
    return re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/errors.md").read_text("utf-8"), re.MULTILINE)


def test_every_reason_code_is_explained() -> None:
    missing = {code: place for code, place in in_source().items() if code not in in_manual()}
    assert not missing, "add a row to docs/errors.md for each"


def test_no_reason_code_is_explained_that_does_not_exist() -> None:
    assert set(in_manual()) - set(in_source()) == set()


def test_the_table_has_each_code_once_and_in_order() -> None:
    tables = (ROOT / "docs/errors.md").read_text("utf-8").split("\n## ")[1:]
    for table in tables:
        codes = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
        assert codes == sorted(set(codes))
    assert len(in_manual()) == len(set(in_manual()))


def test_the_collector_finds_reasons_in_every_form() -> None:
    source = """
class Refused(ClientFault):
    reason = "by_class"
request.reason = "by_attribute"
raise ClientFault("text", reason="by_keyword")
reason = "by_one" if late else "by_other"
detail, reason = "some text", "by_tuple"
reason: str = "by_annotation"
reason = "not a code"
other = "not_one"
"""
    assert {code for code, _ in reasons_in(ast.parse(source))} == {
        *("by_class", "by_attribute", "by_keyword", "by_one", "by_other", "by_tuple", "by_annotation")
    }
