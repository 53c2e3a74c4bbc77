"""A twistd process whose files are on a mount that does not answer: it says so, and it ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.live.processes import foreground, free_port, twistd

HANGS = """
import os, time
real = os.stat
def stat(path, *rest, **more):
    if str(path).endswith(".hung") or os.path.lexists(f"{path}.gone"):
        time.sleep(1000)
    return real(path, *rest, **more)
os.stat = stat
"""
"""A sitecustomize by which files do not answer, since no test can take a network away."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HANGS)
    return tmp_path


def write(folder: Path, port: int, targets: str) -> None:
    (folder / "gw.ini").write_text(
        f"[gateway]\nfile_timeout = 300ms\n[listen public]\nendpoint = tcp:{port}:interface=127.0.0.1\n"
        f"[upstream a]\ntargets = file:{targets}\ndiscover_interval = 50ms\n[route a]\npath = /\nupstream = a\n"
    )


def site(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{folder / 'site'}:{os.environ.get('PYTHONPATH', '')}"}


def test_a_start_with_a_hung_file_fails_with_its_line(folder: Path) -> None:
    write(folder, 1, "targets.hung")
    done = twistd(folder, "-n", "apigw", "--config", "gw.ini", environ=site(folder))
    assert done.returncode == 1
    assert "gw.ini:6: [upstream a] targets: " in done.stderr
    assert "no answer within 0.3 s" in done.stderr


async def test_sigterm_ends_a_gateway_whose_files_and_reload_hang(folder: Path) -> None:
    port = free_port()
    (folder / "targets").write_text("http://127.0.0.1:1\n")
    write(folder, port, "targets")
    with foreground(folder, "apigw", "--config", "gw.ini", environ=site(folder)) as process:
        await process.listens(port)
        (folder / "targets.gone").touch()
        await process.said("no answer within 0.3 s")
        (folder / "gw.ini").write_text((folder / "gw.ini").read_text().replace("300ms", "30s"))
        process.signal(signal.SIGHUP)
        (folder / "gw.ini.gone").touch()
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        assert await process.ended() == -signal.SIGTERM
        assert time.monotonic() - began < 3
        assert "Traceback" not in process.out + process.err
