"""Child processes: pinned to a core, watched through /proc, and all ended by the process id they were started under."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


# Read once, before this process pins itself. The two are the same if there is only one core.
_ALLOWED = sorted(os.sched_getaffinity(0))
GATEWAY_CORE, LOAD_CORE = _ALLOWED[0], _ALLOWED[-1]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Process:
    """A child in a session of its own, so that what it forks is counted and ended with it."""

    def __init__(self, name: str, command: Sequence[str], *, core: int, folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._popen = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                cwd=folder,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def pids(self) -> list[int]:
        """The process and all that it forked."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text()
                except OSError:
                    continue
                state, _parent, _group, session = stat.rpartition(")")[2].split()[:4]
                if int(session) == self._popen.pid and state != "Z":
                    found.append(int(entry.name))
        return found

    def cpu(self) -> float:
        """Seconds of CPU used so far, in user and in system mode."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICK

    def memory(self) -> int:
        """Bytes resident now."""
        return self._status("VmRSS")

    def memory_peak(self) -> int:
        """Bytes resident at most since the start, or since ``forget_peak``."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Begin a new peak (proc(5), clear_refs)."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def _status(self, field: str) -> int:
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1]) * 1024
        return total

    def last_words(self, lines: int = 12) -> str:
        """The end of what it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End it: SIGTERM, after three seconds SIGKILL to its whole session."""
        if self.running:
            self._popen.terminate()
            try:
                self._popen.wait(3)
            except subprocess.TimeoutExpired:
                pass
        while pids := self.pids():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.01)
        self._popen.wait()


def wait_for_port(process: Process, port: int, seconds: float = 20) -> None:
    """
    Return when somebody listens on ``port``.

    :raises RuntimeError: with the process' last words, when it ended or did not listen in time.
    """
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and process.running:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.name} does not listen:\n{process.last_words()}")
