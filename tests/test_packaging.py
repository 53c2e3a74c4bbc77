"""What is installed: the wheel holds the gateway and its twistd plugin, and nothing that is Twisted's."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

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
