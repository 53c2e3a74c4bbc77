"""What systemd hears: the datagrams, byte for byte."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apigw.net.systemd import Systemd

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, Systemd]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        address = str(tmp_path / "notify") if request.param == "a path" else f"@apigw-test-{os.getpid()}"
        sock.bind(address.replace("@", "\0"))
        sock.settimeout(5)
        yield sock, Systemd({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"})


def test_states_are_told(manager: tuple[socket.socket, Systemd]) -> None:
    sock, systemd = manager
    systemd.ready("serves 3 routes")
    assert sock.recv(1000) == b"READY=1\nMAINPID=%d\nSTATUS=serves 3 routes" % os.getpid()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    systemd.reloading()
    first, second = sock.recv(1000).split(b"\n")
    assert first == b"RELOADING=1"
    assert before <= int(second.removeprefix(b"MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    systemd.status("two\nlines")
    assert sock.recv(1000) == b"STATUS=two lines"
    systemd.alive()
    assert sock.recv(1000) == b"WATCHDOG=1"
    systemd.stopping("drains")
    assert sock.recv(1000) == b"STOPPING=1\nSTATUS=drains"
    assert systemd.watchdog == 15.0


def test_without_systemd_nothing_happens() -> None:
    systemd = Systemd({"WATCHDOG_USEC": "1000"})
    assert systemd.watchdog == 0.0
    systemd.ready()


def test_a_manager_that_is_gone_or_stuck_holds_nothing_up(tmp_path: Path) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    systemd.ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stuck:
        stuck.bind(str(tmp_path / "gone"))
        for _ in range(1000):  # far more than its queue takes
            systemd.alive()


def test_the_units_are_as_systemd_wants_them() -> None:
    """``systemd-analyze verify``, where nothing is installed."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", UNITS / "apigw.service", UNITS / "apigw.socket"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    ours = [line for line in done.stderr.splitlines() if "apigw" in line]
    assert (done.returncode, ours) == (0, [])
