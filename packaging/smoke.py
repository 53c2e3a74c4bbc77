# ruff: noqa: T201, S105, S603, TID251, INP001  # a program of its own, beside the package
"""
A smoke test of an installed apigw: it starts by twistd, and each of its dependencies has something to do.

    python packaging/smoke.py        with the Python that has it installed, from any folder

It uses nothing of the repository. Exit status 0 if all is well.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

SECRET = "a secret of thirty-two bytes or more"
BIN = Path(sys.executable).parent
INI = """
[gateway]
access_log = access.log
[admin]
endpoint = tcp:{admin}:interface=127.0.0.1
[listen plain]
endpoint = tcp:{plain}:interface=127.0.0.1
[listen secure]
endpoint = tcp:{secure}:interface=127.0.0.1
tls.certificates = pair.pem
[upstream a]
targets = http://127.0.0.1:{origin}
[upstream tls]
targets = https://127.0.0.1:{secure}
tls.ca = pair.pem
[jwt hmac]
secret = {secret}
[jwt rsa]
algorithms = RS256
public_key = public.pem
[basic people]
file = users
[api_key keys]
header = X-Key
[consumer shop]
keys = sha256:{key}
[json_schema order]
request = order.json
[openapi api]
file = api.yaml
base_path = /openapi
[transform id]
request = {{user: id}}
[compress]
min_size = 1
[decompress]
[csrf]
[rate_limit all]
rate = 1000/15m
[route any]
path = /
upstream = a
policies = csrf, rate_limit all, decompress, compress
[route regex]
path = ~^/v[0-9]+/.*
priority = 1
respond = 200 by a regular expression
[route tls]
path = /tls
strip_prefix = /tls
upstream = tls
[route hmac]
path = /hmac
respond = 200 in
policies = jwt hmac
[route rsa]
path = /rsa
respond = 200 in
policies = jwt rsa
[route basic]
path = /basic
respond = 200 in
policies = basic people | api_key keys
[route order]
path = /order
upstream = a
policies = json_schema order, transform id
[route openapi]
path = /openapi
respond = 200 in
policies = openapi api
[aggregate calls]
path = /calls
call.one = a GET /one
call.two = a GET /two?of={{one.path}}
response = {{first: one.path, second: two.path}}
[aggregate code]
path = /code
class = smoke_page:page
[batch batch]
path = /batch
[health]
"""
PAGE = """
async def page(request, client):
    return {"path": (await (await client.a.get("/treq")).json())["path"]}
"""
API = """
openapi: 3.0.3
info: {title: smoke, version: "1"}
paths:
  /x:
    get:
      parameters: [{name: page, in: query, schema: {type: integer}}]
      responses: {"200": {description: well}}
"""


class Service(BaseHTTPRequestHandler):
    """Says what it was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        while self.headers.get("Transfer-Encoding") and (size := int(self.rfile.readline(), 16)):
            data += self.rfile.read(size)
            self.rfile.readline()
        body = json.dumps({"path": self.path, "content": data.decode("latin-1"), "more": "x" * 2000}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def write_files(folder: Path, ports: dict[str, int]) -> dict[str, str]:
    """All that the configuration names; tokens for it."""
    import argon2
    import bcrypt
    import jwt
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "smoke")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(hours=1), now + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    (folder / "pair.pem").write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, pkcs8, plain))
    signer = rsa.generate_private_key(65537, 2048)
    public = signer.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    hashed = bcrypt.hashpw(b"pass", bcrypt.gensalt(4)).decode()
    (folder / "users").write_text(f"anna:{hashed}\nbob:{argon2.PasswordHasher(1, 1024, 1).hash('pass')}\n")
    (folder / "order.json").write_text('{"type": "object", "properties": {"id": {"type": "integer"}}}')
    (folder / "api.yaml").write_text(API)
    (folder / "smoke_page.py").write_text(PAGE)
    ini = INI.format(secret=SECRET, key=hashlib.sha256(b"0123456789abcdef").hexdigest(), **ports)
    (folder / "gw.ini").write_text(ini)
    claims = {"sub": "anna", "exp": int(time.time()) + 600}
    return {
        "hmac": jwt.encode(claims, SECRET, "HS256"),
        "rsa": jwt.encode(claims, signer.private_bytes(pem, pkcs8, plain), "RS256"),
    }


class Client:
    """Asks the gateway, and says where it was that something was not as it should be."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, path: str, expected: int, *, method: str = "GET", body: bytes = b"", tls: str = "", **fields: str
    ) -> tuple[bytes, str]:
        """The content, decoded, and its coding."""
        if tls:
            context = ssl.create_default_context(cafile=tls)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=10, context=context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        data, coding = response.read(), response.headers.get("Content-Encoding", "")
        connection.close()
        if response.status != expected:
            raise SystemExit(f"{method} {path} {headers}: {response.status}, not {expected}: {data[:500]!r}")
        return data, coding


def try_all(client: Client, tokens: dict[str, str], secure: Client, certificate: str) -> None:
    """Each feature once."""
    import brotli
    import zstandard

    kind = {"Content_Type": "application/json"}
    unpack = {
        "br": brotli.decompress,
        "gzip": gzip.decompress,
        "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }
    for coding, decode in unpack.items():
        data, used = client.ask("/plain", 200, Accept_Encoding=coding)
        assert used == coding, (coding, used)
        assert json.loads(decode(data))["path"] == "/plain"
    data, _ = client.ask("/up", 200, method="POST", body=gzip.compress(b"packed"), Content_Encoding="gzip")
    assert json.loads(data)["content"] == "packed"
    client.ask("/up", 403, method="POST", Sec_Fetch_Site="cross-site")
    assert client.ask("/v12/x", 200)[0] == b"by a regular expression"
    assert json.loads(client.ask("/tls/through", 200)[0])["path"] == "/through"
    assert json.loads(secure.ask("/secure", 200, tls=certificate)[0])["path"] == "/secure"
    for route, token in tokens.items():
        client.ask(f"/{route}", 200, Authorization=f"Bearer {token}")
        client.ask(f"/{route}", 401, Authorization=f"Bearer {token}x")
    for user in (b"anna:pass", b"bob:pass"):
        client.ask("/basic", 200, Authorization="Basic " + b64encode(user).decode())
        client.ask("/basic", 401, Authorization="Basic " + b64encode(user + b"!").decode())
    client.ask("/basic", 200, X_Key="0123456789abcdef")
    data, _ = client.ask("/order", 200, method="POST", body=b'{"id": 7}', **kind)
    assert json.loads(json.loads(data)["content"]) == {"user": 7}
    client.ask("/order", 400, method="POST", body=b'{"id": "x"}', **kind)
    client.ask("/openapi/x?page=1", 200)
    client.ask("/openapi/x?page=one", 400)
    assert json.loads(client.ask("/calls", 200)[0]) == {"first": "/one", "second": "/two?of=%2Fone"}
    assert json.loads(client.ask("/code", 200)[0]) == {"path": "/treq"}
    data, _ = client.ask("/batch", 200, method="POST", body=b'[{"path": "/code"}]', **kind)
    assert json.loads(data)[0]["body"] == {"path": "/treq"}
    client.ask("/health/live", 200)


def main() -> int:
    """Start, ask, reload, stop."""
    service = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    ports = {name: free_port() for name in ("admin", "plain", "secure")} | {"origin": service.server_port}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokens = write_files(folder, ports)
        environment = os.environ | {"PYTHONPATH": str(folder)}
        subprocess.run(
            [BIN / "apigw", "check", "--strict", "gw.ini"], cwd=folder, env=environment, check=True, timeout=60
        )
        command = [BIN / "twistd", "--nodaemon", "--pidfile=", "apigw", "--config", "gw.ini"]
        with open(folder / "log", "w", encoding="utf-8") as log:
            gateway = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            admin, client = Client(ports["admin"]), Client(ports["plain"])
            wait_for(gateway, client)
            for _ in range(2):
                try_all(client, tokens, Client(ports["secure"]), str(folder / "pair.pem"))
                os.kill(gateway.pid, signal.SIGHUP)
            metrics, _ = admin.ask("/metrics", 200)
            assert b"process_resident_memory_bytes" in metrics
            gateway.send_signal(signal.SIGTERM)
            status = gateway.wait(30)
        finally:
            gateway.kill()
            gateway.wait()
            words = (folder / "log").read_text()
            if "Traceback" in words or sys.exc_info()[0] is not None:
                print(words, file=sys.stderr)
        if status not in (0, -signal.SIGTERM) or "Traceback" in words:
            print(f"the gateway ended with {status}", file=sys.stderr)
            return 1
    print("apigw starts, answers, reloads and stops")
    return 0


def wait_for(gateway: subprocess.Popen[bytes], client: Client) -> None:
    """Until it serves."""
    for _ in range(200):
        if gateway.poll() is not None:
            raise SystemExit(f"the gateway did not start: {gateway.returncode}")
        try:
            client.ask("/health/live", 200)
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the gateway did not start in 20 s")


if __name__ == "__main__":
    raise SystemExit(main())
