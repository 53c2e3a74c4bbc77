"""
The dashboard: three calls, one answer made of theirs, by an ``[aggregate]`` and by Express with ``Promise.all``.

``python -m bench.dashboard PORT`` is an origin whose answers take as long as services' do: 5, 10 and 20 ms.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import cast

import uvloop

from bench.gateways import NGINX_USER, PLAIN, Place, Setup, apigw

USER = {"id": 7, "name": "Ada Lovelace", "email": "ada@shop.example", "address": {"city": "London", "zip": "W1"}}
ORDERS = [{"id": number, "userId": 7, "total": 19.5, "items": [1, 2, 3]} for number in range(1, 11)]
RECOMMENDATIONS = [{"id": number, "name": f"product {number}"} for number in range(1, 6)]
PATH = "/dashboard/7"
MILLISECONDS = {"/users/7": 5, "/orders": 10, "/recommendations": 20}
SLOWEST = max(MILLISECONDS.values())

_ANSWERS = {
    "/users/7": USER,
    "/orders": ORDERS,
    "/recommendations": RECOMMENDATIONS,
    # What a gateway is to make of it: the benchmark compares what each says with what the origin says.
    PATH: {"user": USER, "recentOrders": ORDERS[:5], "recommendations": RECOMMENDATIONS},
}

AGGREGATE = (
    PLAIN
    + """
[aggregate dashboard]
path = /dashboard/{id}
timeout = 3s
call.user = origin GET /users/{path.id}
call.orders = origin GET /orders?userId={path.id}
call.recommendations = origin GET /recommendations
call.recommendations.optional = yes
call.recommendations.default = []
response = {user: user, recentOrders: orders[:5], recommendations: recommendations}
"""
)
gateway = apigw(AGGREGATE)


def _written(path: str) -> str:
    return json.dumps(_ANSWERS[path], separators=(",", ":"))


def fast_origin(place: Place) -> Setup:
    """nginx: what is measured is the gateway."""
    locations = "\n".join(f"location = {path} {{ return 200 '{_written(path)}'; }}" for path in _ANSWERS)
    text = f"""
{NGINX_USER} worker_processes 1; daemon off; pid {place.folder}/pid; error_log stderr crit;
worker_rlimit_nofile 65536;
events {{ worker_connections 32768; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
    client_body_temp_path {place.folder}/body; proxy_temp_path {place.folder}/proxy;
    fastcgi_temp_path {place.folder}/f; uwsgi_temp_path {place.folder}/u; scgi_temp_path {place.folder}/s;
    server {{
        listen 127.0.0.1:{place.port} backlog=16384;
        default_type application/json;
        {locations}
    }}
}}
"""
    return Setup(["nginx", "-p", str(place.folder), "-c", "nginx.conf"], {"nginx.conf": text})


def slow_origin(place: Place) -> Setup:
    """Services that take their time."""
    root = str(Path(__file__).parent.parent)
    return Setup([sys.executable, "-m", "bench.dashboard", str(place.port)], env={"PYTHONPATH": root})


class _Slow(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        head, end, self._buffer = (self._buffer + data).partition(b"\r\n\r\n")
        if not end:
            self._buffer = head
            return
        path = head.split(b" ", 2)[1].decode().partition("?")[0]
        body = _written(path).encode() if path in _ANSWERS else b"{}"
        fields = b"Content-Type: application/json\r\nContent-Length: %d" % len(body)
        answer = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (fields, body)
        delay = MILLISECONDS.get(path, 0) / 1000
        asyncio.get_running_loop().call_later(delay, self._send, answer)

    def _send(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Slow, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
