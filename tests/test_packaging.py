"""
What is installed: the wheel holds the gateway and its twistd plugin, and nothing that is Twisted's. What is published:
the source archive holds all that the repository does, so that its tests run.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_every_module_and_the_plugin(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    (source / "README.md").touch()
    ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
    for folder in ("apigw", "twisted"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, source], check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("apigw-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (points,) = (archive.read(name) for name in archive.namelist() if name.endswith("entry_points.txt"))
    there = {path.relative_to(source).as_posix() for path in (source / "apigw").rglob("*") if path.is_file()}
    assert held == there | {"twisted/plugins/apigw_plugin.py"}
    assert b"apigw = apigw.cli:main" in points


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a clone says what belongs to the repository")
def test_the_source_archive_holds_the_whole_repository(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], check=True, capture_output=True, text=True, timeout=60)
    there = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    source = tmp_path / "source"
    for name in there:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=120)
    (archive,) = tmp_path.glob("apigw-*.tar.gz")
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    assert there - held == set()


def declared() -> dict[str, Requirement]:
    """What setup.cfg says that the gateway needs, by name."""
    configuration = ConfigParser()
    configuration.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = configuration["options"]["install_requires"].strip().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(each.name): each for each in found}


def pinned() -> dict[str, str]:
    """The versions that `make` installs."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_dependency_has_a_lowest_version_and_a_pin_that_fits() -> None:
    pins = pinned()
    for name, requirement in declared().items():
        assert re.fullmatch(r">=[0-9.]+", str(requirement.specifier)), requirement
        assert requirement.specifier.contains(pins[name]), (requirement, pins[name])


def test_everything_that_is_imported_is_declared() -> None:
    owners = packages_distributions()
    needed = declared()
    for path in sorted((ROOT / "apigw").rglob("*.py")):
        if path.parent.name == "testing":
            continue  # pytest and pytest-twisted are for who tests
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in (
                {each.partition(".")[0] for each in names} - sys.stdlib_module_names - {"apigw", "pydantic_core"}
            ):
                assert any(canonicalize_name(each) in needed for each in owners[name]), f"{path}: {name}"


def test_the_declared_versions_of_python_are_those_that_set_up_takes() -> None:
    configuration = ConfigParser()
    configuration.read(ROOT / "setup.cfg", encoding="utf-8")
    versions = re.findall(r"Python :: 3\.([0-9]+)", configuration["metadata"]["classifiers"])
    script = (ROOT / "packaging" / "set-up.sh").read_text()
    [(lowest, above)] = re.findall(r"\(3, ([0-9]+)\) <= sys.version_info < \(3, ([0-9]+)\)", script)
    assert [int(each) for each in versions] == list(range(int(lowest), int(above)))
    accepted = SpecifierSet(configuration["options"]["python_requires"])
    assert all(f"3.{minor}" in accepted for minor in versions)


def test_nothing_is_used_that_later_pythons_do_not_have() -> None:
    """Removed, or about to be, in 3.12 to 3.16: https://docs.python.org/3/deprecations/index.html."""
    gone = re.compile(
        r"asyncio\.(?:[gs]et_event_loop_policy|\w*EventLoopPolicy|get_child_watcher|iscoroutinefunction)|"
        r"\bast\.(?:Str|Num|Bytes|NameConstant)\b|pkgutil\.(?:find|get)_loader|\butcnow\(|"
        r"^\s*(?:import|from) (?:imp|asyncore|asynchat|smtpd|distutils|cgi|crypt|telnetlib)\b"
    )
    for folder in ("apigw", "twisted", "bench", "examples", "packaging"):
        for path in (ROOT / folder).rglob("*.py"):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                assert not gone.search(line), f"{path}:{number}: {line}"
