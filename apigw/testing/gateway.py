"""
The whole gateway in this process, from the text of a configuration.

    async with running(tmp_path, f'''
        [upstream a]
        targets = http://127.0.0.1:{origin.port}
        [route a]
        path = /
        upstream = a
    ''') as gateway:
        response = await gateway.get("/x")

It listens on a free port. The fixtures ``gateway`` and ``origin`` of the pytest plugin do the same, and end it all.

Not here: origins and clients (``apigw.testing.origins``); a policy alone (``apigw.testing.policies``).
"""

from __future__ import annotations

import json
import ssl
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from apigw.gateway.catalogue import load
from apigw.gateway.environment import Shared
from apigw.gateway.service import GatewayService
from apigw.testing.origins import RawClient, RawResponse

LISTEN = """
[listen public]
endpoint = tcp:0:interface=127.0.0.1
"""


class Gateway:
    """
    A gateway that runs.

    :ivar clients: those that it connected; they are cut at the end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "gw.ini"
        self.log = self.folder / "access.log"
        self.clients: list[RawClient] = []
        self.service: GatewayService

    def write(self, text: str) -> None:
        """Put this into the file. Without a ``[listen]`` it gets one, and the access log goes to a file."""
        text = textwrap.dedent(text)
        if "[listen " not in text:
            text += LISTEN
        if "[gateway]" not in text:
            text += "\n[gateway]\ntrusted_proxies = 127.0.0.1\n"
        if "access_log =" not in text:
            text = text.replace("[gateway]\n", f"[gateway]\naccess_log = {self.log}\n")
        if "drain_timeout" not in text:
            text = text.replace("[gateway]\n", "[gateway]\ndrain_timeout = 5s\n")
        self.file.write_text(text)

    async def start(self) -> None:
        self.service = GatewayService(load(str(self.file), shared=Shared()))
        self.service.privilegedStartService()
        self.service.startService()
        while not self.service.shared.ready:
            await _turn()

    async def stop(self) -> None:
        """End it, as SIGTERM does."""
        for client in self.clients:
            client.transport.abort()
        await self.service.stopService()

    async def reload(self, text: str = "") -> None:
        """Take ``text``, or what the file holds by now, as SIGHUP does; wait until that is over."""
        if text:
            self.write(text)
        self.service.reload()
        while self.service.reloading:
            await _turn(0.001)

    def port(self, name: str = "public") -> int:
        """The port of a listener."""
        number: int = self.service.listening[name].socket.getsockname()[1]
        return number

    @property
    def admin_port(self) -> int:
        """The port of the admin listener."""
        assert self.service.admin is not None
        number: int = self.service.admin.socket.getsockname()[1]
        return number

    async def connect(self, name: str = "public", *, port: int = 0, tls: ssl.SSLContext | None = None) -> RawClient:
        """A connection to a listener; over TLS the name asked for is shop.example."""
        server_name = "shop.example" if tls is not None else None
        client = await RawClient.connect(port or self.port(name), tls=tls, server_name=server_name)
        self.clients.append(client)
        return client

    async def get(
        self,
        path: str,
        *fields: tuple[str, str],
        host: str = "shop.example",
        method: str = "GET",
        body: bytes = b"",
        port: int = 0,
    ) -> RawResponse:
        """One request on a connection of its own."""
        client = await self.connect(port=port)
        client.send(request(path, *fields, host=host, method=method, body=body))
        response = await client.read_response(method.encode())
        client.close()
        return response

    async def admin(self, path: str) -> RawResponse:
        """A page of the admin listener."""
        return await self.get(path, host="localhost", port=self.admin_port)

    def logged(self) -> list[dict[str, Any]]:
        """The lines of the access log so far."""
        self.service.accounting.flush()
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def request(
    path: str, *fields: tuple[str, str], host: str = "shop.example", method: str = "GET", body: bytes = b""
) -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in fields)]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def _turn(seconds: float = 0.0) -> Deferred[None]:
    """Fires in the reactor's next turn, or after that time. trial's tests can wait for a Deferred alone."""
    from twisted.internet import reactor

    turned: Deferred[None] = Deferred()
    reactor.callLater(seconds, turned.callback, None)
    return turned


@asynccontextmanager
async def running(folder: Path, text: str) -> AsyncIterator[Gateway]:
    """A gateway that runs on ``text``, until the block ends."""
    gateway = Gateway(folder)
    gateway.write(text)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()
