"""
What systemd is told by a service of ``Type=notify`` or ``notify-reload``, and when it wants to hear a sign of life.

Where systemd did not start the process, all of this does nothing. Source: sd_notify(3), sd_watchdog_enabled(3).
Not here: the sockets that systemd passes (``sockets``).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from twisted.logger import Logger

log = Logger()


class Systemd:
    """
    The service manager, if there is one.

    :param environ: ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are read.
    :ivar watchdog: seconds between two calls of ``alive()``, half of what systemd waits; 0.0 if it does not wait.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = environ.get("WATCHDOG_USEC", "")
        # The process that was started is meant, which a daemon's fork has left behind: then MAINPID tells, and
        # systemd itself ignores who does not speak for the service.
        self.watchdog = int(usec) / 2e6 if address and usec.isdigit() else 0.0

    def ready(self, status: str = "") -> None:
        """All listens and serves: after the start, and after each reload, be it good or bad."""
        self._tell(f"READY=1\nMAINPID={os.getpid()}", status)

    def reloading(self) -> None:
        """A reload begins; ``ready()`` ends it."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        """The service drains and ends."""
        self._tell("STOPPING=1", status)

    def alive(self) -> None:
        """A sign of life, from the loop that must not hang."""
        self._tell("WATCHDOG=1")

    def status(self, status: str) -> None:
        """One line for ``systemctl status``."""
        self._tell("", status)

    def _tell(self, state: str, status: str = "") -> None:
        if not self._address:
            return
        lines = [state] if state else []
        if status:
            lines.append("STATUS=" + status.replace("\n", " "))
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)  # a manager that is stuck must not hold up requests
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warn("systemd could not be told {state}: {error}", state=lines[0], error=error)
