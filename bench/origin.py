"""
The services behind the gateways, on the core of the load generator.

- ``nginx_origin``: ``/small`` (127 bytes of JSON), ``/body64k`` (64 KiB from a file), ``/upload`` (reads it, then 200).
- ``python -m bench.origin PORT``: ``GET /SIZE`` sends that many bytes, ``PUT`` takes what comes; nothing is stored.
"""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

from bench.gateways import NGINX_USER, Place, Setup

SMALL = (
    '{"id": 1, "name": "Ada Lovelace", "email": "ada@shop.example", "orders": [1, 2, 3], '
    '"address": {"city": "London", "zip": "W1"}}'
)
assert len(SMALL) == 127
_PIECE = bytes(1 << 20)


def nginx_origin(place: Place) -> Setup:
    """The origin for everything but gigabytes. ``place.admin`` is where ``/upload`` passes its question on to."""
    (place.folder / "body64k").write_bytes(bytes(range(256)) * 256)
    text = f"""
{NGINX_USER} worker_processes 1; daemon off; pid {place.folder}/pid; error_log stderr crit;
worker_rlimit_nofile 65536;
events {{ worker_connections 32768; }}
http {{
    access_log off; sendfile on; tcp_nopush on; open_file_cache max=8 inactive=1h;
    client_body_temp_path {place.folder}/body; proxy_temp_path {place.folder}/proxy;
    fastcgi_temp_path {place.folder}/f; uwsgi_temp_path {place.folder}/u; scgi_temp_path {place.folder}/s;
    keepalive_requests 1000000000; keepalive_timeout 1h;
    upstream done {{ server 127.0.0.1:{place.admin}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{place.port} backlog=16384;
        default_type application/json;
        location / {{ return 200 '{SMALL}'; }}
        location /fields/ {{
            add_header X-Request-Id $request_id; add_header ETag '"$request_id"';
            return 200 '{SMALL}';
        }}
        location = /body64k {{ root {place.folder}; default_type application/octet-stream; }}
        # `return` would answer before the body has come. A proxy_pass without the body reads all of it first.
        location = /upload {{
            client_max_body_size 0; client_body_buffer_size 2m;
            proxy_pass http://done/; proxy_pass_request_body off; proxy_set_header Content-Length "";
            proxy_http_version 1.1; proxy_set_header Connection "";
        }}
    }}
    server {{
        listen 127.0.0.1:{place.admin};
        default_type application/json;
        location / {{ return 200 '{SMALL}'; }}
    }}
}}
"""
    return Setup(["nginx", "-p", str(place.folder), "-c", "nginx.conf"], {"nginx.conf": text})


def gigabyte_origin(place: Place) -> Setup:
    """The origin that makes and takes any number of bytes without keeping one."""
    root = str(Path(__file__).parent.parent)
    return Setup([sys.executable, "-m", "bench.origin", str(place.port)], env={"PYTHONPATH": root})


def _serve(connection: socket.socket) -> None:
    stream = connection.makefile("rb", 1 << 18)
    buffer = memoryview(bytearray(1 << 18))
    try:
        while line := stream.readline():
            method, target, _ = line.split()
            fields = {}
            while (field := stream.readline()) != b"\r\n":
                name, _, value = field.partition(b":")
                fields[name.lower()] = value.strip()
            if method == b"GET":
                size = int(target.strip(b"/") or b"0")
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                while size:
                    size -= connection.send(_PIECE[: min(size, len(_PIECE))])
                continue
            if b"expect" in fields:
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            if b"transfer-encoding" in fields:
                taken = 0
                while length := int(stream.readline(), 16):
                    taken += len(stream.read(length + 2)) - 2
                stream.readline()
            else:
                left = taken = int(fields.get(b"content-length", b"0"))
                while left and (got := stream.readinto(buffer[:left])):  # type: ignore[attr-defined]
                    left -= got
            body = b"%d" % taken
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    except OSError:
        pass
    finally:
        connection.close()


def main(port: int) -> None:
    server = socket.create_server(("127.0.0.1", port), backlog=256)
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
