"""
``python -m examples.shop``, and so ``make run``: the three services, and the gateway before them, until Ctrl-C.

Every line that one of them prints is shown with its name before it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import jwt

from examples.shop.services import PORTS, chosen

ROOT = Path(__file__).parent.parent.parent
SECRET = "demo-secret-demo-secret-demo-secret!"
_COLOURS = {"users": 36, "orders": 33, "products": 35, "gateway": 32}


def token(user: str = "1", *, now: float, seconds: int = 24 * 3600) -> str:
    """A token of the demo's issuer, as conf/gw.ini expects it. Its secret is public: use it for nothing else."""
    claims = {
        "sub": user,
        "aud": "shop",
        "iss": "https://auth.shop.example",
        "scope": "orders:read orders:write",
        "iat": int(now),
        "exp": int(now) + seconds,
    }
    return jwt.encode(claims, SECRET, algorithm="HS256")


def endpoints(configuration: str, kind: str) -> list[int]:
    """The TCP ports of the sections of a kind (``listen``, ``admin``) in an INI text."""
    ports = []
    section = ""
    for line in configuration.splitlines():
        if opened := re.match(r"\[(\w+)", line):
            section = opened[1]
        elif section == kind and (found := re.match(r"endpoint\s*=\s*tcp:(\d+)", line)):
            ports.append(int(found[1]))
    return ports


def to_try(configuration: str, user_token: str) -> list[str]:
    """Commands that show what the gateway does with this configuration."""
    at = f"http://127.0.0.1:{(endpoints(configuration, 'listen') or [8080])[0]}"
    bearer = '-H "Authorization: Bearer $TOKEN"'
    order = (
        """-H 'Content-Type: application/json' -d '{"userId": "1", "lines": [{"productId": "p2", "quantity": 1}]}'"""
    )
    lines = [
        f"curl {at}/api/users",
        f"curl -i {at}/api/users/1",
        f"curl -i {at}/api/products/recommendations",
        f"curl -N {at}/api/products/events",
        f"curl '{at}/api/users/slow?seconds=2'",
        f"curl -i {at}/api/users/status/503",
        "",
        f"TOKEN={user_token}",
        f"curl {bearer} '{at}/api/orders?userId=1'",
        f"curl -i {bearer} {order} {at}/api/orders",
    ]
    if "\n[aggregate dashboard]" in configuration:
        lines.append(f"curl {bearer} {at}/api/dashboard")
    if "\n[graphql " in configuration:
        query = """-H 'Content-Type: application/json' -d '{"query": "{ __schema { queryType { name } } }"}'"""
        lines.append(f"curl {bearer} {query} {at}/graphql")
    lines += ["", f"curl {at}/health"] if "\n[health]" in configuration else [""]
    lines += [
        f"curl http://127.0.0.1:{port}/{page}"
        for port in endpoints(configuration, "admin")
        for page in ("metrics", "routes")
    ]
    return lines


def taken(ports: Sequence[int]) -> list[int]:
    """Those of the ports that somebody listens on already."""
    found = []
    for port in ports:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
                sock.listen()
            except OSError:
                found.append(port)
    return found


class Child:
    """A process whose output is shown line by line under its name."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self.ended = asyncio.ensure_future(self._show())

    @classmethod
    async def start(cls, name: str, *command: str) -> Child:
        """Start it in a session of its own: a terminal's Ctrl-C is for us, and we end the children in order."""
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=1 << 20,
        )
        return cls(name, process)

    async def _show(self) -> int:
        """Its exit status, when it has ended."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            say(self.name, line.decode("utf-8", "replace").rstrip())
        return await self._process.wait()

    async def stop(self, patience: float = 5) -> None:
        """SIGTERM; a second one, which ends a gateway that drains; at last SIGKILL."""
        for number, wait in ((signal.SIGTERM, patience), (signal.SIGTERM, 2), (signal.SIGKILL, 5)):
            if self.ended.done():
                return
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            await asyncio.wait([self.ended], timeout=wait)


def say(name: str, text: str) -> None:
    colour = _COLOURS.get(name) if sys.stdout.isatty() else None
    shown = f"{name:>8} |"
    print(f"\033[{colour}m{shown}\033[0m {text}" if colour else f"{shown} {text}", flush=True)


async def answers(url: str) -> bool:
    """True if a GET of ``url`` is answered by 200."""

    def ask() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return await asyncio.get_running_loop().run_in_executor(None, ask)


async def wait_for(children: Sequence[Child], urls: Sequence[str], seconds: float) -> None:
    """
    Return when all of ``urls`` answer.

    :raises RuntimeError: when a child ends before that, or it takes too long.
    """
    ends = asyncio.get_running_loop().time() + seconds
    for url in urls:
        while not await answers(url):
            if gone := [child.name for child in children if child.ended.done()]:
                raise RuntimeError(f"{', '.join(gone)} ended by itself")
            if asyncio.get_running_loop().time() > ends:
                raise RuntimeError(f"{url} does not answer by 200")
            await asyncio.sleep(0.1)


async def run(config: Path, configuration: str, services: Sequence[tuple[str, int]]) -> int:
    """Start all, wait, say what to try, and end all when told to. 1 if one of them ended by itself."""
    gateway_ports = endpoints(configuration, "listen")
    ports = [port for _, port in services] + gateway_ports + endpoints(configuration, "admin")
    if busy := taken(ports):
        names = " and ".join(map(str, busy))
        print(f"port {names}: something listens there already (another `make run`?); end it first", file=sys.stderr)
        return 1
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    children: list[Child] = []
    stopping = asyncio.ensure_future(stop.wait())
    starting = asyncio.ensure_future(_start(children, config, services, gateway_ports))
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            print("\nTry:\n")
            print("\n".join(f"  {line}" for line in to_try(configuration, token(now=time.time()))))  # noqa: TID251
            print("\nCtrl-C ends all of it.\n", flush=True)
            await asyncio.wait([stopping, *(child.ended for child in children)], return_when=asyncio.FIRST_COMPLETED)
        gone = [child for child in children if child.ended.done()]
        for child in gone:
            print(f"{child.name} ended by itself, with status {child.ended.result()}", file=sys.stderr)
        return 1 if gone else 0
    except RuntimeError as error:
        print(f"not started: {error}", file=sys.stderr)
        return 1
    finally:
        starting.cancel()
        stopping.cancel()
        print("ending", flush=True)
        for child in reversed(children):  # the gateway first: what it still has in flight needs the services
            await child.stop()


async def _start(
    children: list[Child], config: Path, services: Sequence[tuple[str, int]], gateway_ports: Sequence[int]
) -> None:
    for name in dict.fromkeys(name for name, _ in services):
        listening = [f"{name}={port}" for one, port in services if one == name]
        children.append(await Child.start(name, sys.executable, "-m", "examples.shop.services", *listening))
    await wait_for(children, [f"http://127.0.0.1:{port}/health" for _, port in services], seconds=30)
    print("the services answer; starting the gateway", flush=True)
    twistd = str(Path(sys.executable).parent / "twistd")
    command = [sys.executable, twistd, "-n", "--pidfile=", "apigw", "--config", str(config)]
    children.append(await Child.start("gateway", *command))
    pages = [f"http://127.0.0.1:{port}/api/{page}" for port in gateway_ports[:1] for page in ("users/1", "products/p1")]
    await wait_for(children, pages, seconds=30)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    What the command line asks for.

    :return: the exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m examples.shop", description="The demo shop behind the gateway.")
    parser.add_argument("--config", type=Path, default=ROOT / "conf" / "gw.ini", help="the gateway's configuration")
    parser.add_argument(
        "services",
        nargs="*",
        metavar="SERVICE=PORT",
        help="where the services listen, as the configuration expects them; default: "
        + " ".join(f"{name}={port}" for name, port in PORTS),
    )
    asked = parser.parse_args(arguments)
    if not asked.config.is_file():
        parser.error(f"there is no file {asked.config}")
    return asyncio.run(run(asked.config.resolve(), asked.config.read_text(), chosen(asked.services)))


if __name__ == "__main__":
    raise SystemExit(main())
