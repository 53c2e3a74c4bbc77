"""
What is installed: the wheel holds the gateway and its twistd plugin, and nothing that is Twisted's. What is published:
the source archive holds all that the repository does, so that its tests run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

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
