"""No token, key, password or cookie shows anywhere: all policies are exercised with known ones, all output is read."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import jwt as pyjwt
import pytest
from twisted.logger import globalLogPublisher

from apigw import cli
from apigw.exchange.request import Request
from apigw.observability.log_file import LogFile
from apigw.observability.logs import LogLines
from apigw.testing.gateway import request
from apigw.testing.origins import CLOSE, reply

MARK = "zqsecretqz"
"""Is in every secret but those that are encoded; they are listed in ``ENCODED``."""
SECRET = f"{MARK}-signing-{'k' * 40}"
COOKIE_SECRET = f"{MARK}-cookie-{'k' * 40}"
CLIENT_SECRET = f"{MARK}-client"
KEY = f"ak_{MARK}_known"
PASSWORD = f"{MARK}-password"


def signed(**claims: Any) -> str:
    return pyjwt.encode({"sub": "anna", "jti": MARK, **claims}, SECRET, "HS256")


def basic(name: str, password: str) -> str:
    return base64.b64encode(f"{name}:{password}".encode()).decode()


GOOD = signed(exp=int(time.time()) + 600)  # noqa: TID251 - tokens tell the time of day
EXPIRED = signed(exp=1000)
FORGED = pyjwt.encode({"sub": MARK}, "another-secret-another-secret-another!", "HS256")
RIGHT, WRONG = basic("anna", PASSWORD), basic("anna", f"{MARK}-wrong")
OPAQUE = f"{MARK}-opaque"
ENCODED = [part for token in (GOOD, EXPIRED, FORGED) for part in token.split(".")[1:]] + [RIGHT, WRONG]


class Careless:
    """A policy that breaks with the credential in its locals, its arguments and its exception."""

    def on_request(self, request: Request) -> None:
        credential = (request.headers.get(b"authorization") or b"").decode()
        self.break_with(credential)

    def break_with(self, credential: str) -> None:
        raise ValueError(f"no idea what to do with {credential}")


class CarelessLater(Careless):
    async def respond(self, request: Request, next: Any) -> Any:  # noqa: A002
        credential = request.headers.get(b"cookie") or b""
        await next(request)
        raise KeyError(credential)


INI = """
[gateway]
trusted_proxies = 127.0.0.1
access_log_format = {format}

[admin]
endpoint = tcp:0:interface=127.0.0.1

[upstream a]
targets = http://127.0.0.1:{service}

[jwt anywhere]
secret = {secret}
cookie = session
query = ticket
claims_to_headers = sub: X-User-Id
[route jwt]
path = /jwt
upstream = a
policies = jwt anywhere

[jwt scoped]
secret = {secret}
scopes = admin
[route scoped]
path = /scoped
upstream = a
policies = jwt scoped

[api_key partners]
header = X-Partner
query = k
[consumer acme]
keys = sha256:{hashed}
[route key]
path = /key
upstream = a
policies = api_key partners

[basic staff]
file = {folder}/users.htpasswd
[route basic]
path = /basic
upstream = a
policies = basic staff

[introspection far]
url = http://127.0.0.1:{issuer}/introspect?key={client_secret}
client_id = gateway
client_secret = {client_secret}
query = opaque
[jwt far]
jwks = http://127.0.0.1:{issuer}/keys?token={client_secret}
[route far]
path = /far
upstream = a
policies = jwt far
[route introspection]
path = /introspection
upstream = a
policies = introspection far

[forward_auth far]
url = http://127.0.0.1:{issuer}/verify?of={client_secret}
[route forward]
path = /forward
upstream = a
policies = forward_auth far

[oidc site]
issuer = http://127.0.0.1:{issuer}
client_id = shop
client_secret = {client_secret}
cookie_secret = {cookie_secret}
callback_path = /oidc/callback
logout_path = /oidc/logout
[route oidc]
path = /oidc
upstream = a
policies = oidc site

[auth any]
any = jwt anywhere | api_key partners | basic staff
[acl nobody]
allow = group:none
[rate_limit tight]
rate = 1/h
by = header:Authorization
missing = allow
[route all]
path = /all
upstream = a
policies = auth any, rate_limit tight, acl nobody

[json_schema strict]
request = {folder}/schema.json
[route schema]
path = /schema
upstream = a
policies = json_schema strict

[python careless]
class = tests.gateway.test_secrets:Careless
[route careless]
path = /careless
upstream = a
policies = python careless

[python later]
class = tests.gateway.test_secrets:CarelessLater
[route later]
path = /later
upstream = a
policies = python later

[request_headers told]
set.X-Echo = {{header.X-Echo}}
[route headers]
path = /headers
upstream = a
policies = request_headers told

[route broken]
path = /broken
upstream = b
[upstream b]
targets = http://127.0.0.1:{issuer}
"""


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


EXCHANGES: list[tuple[str, list[tuple[str, str]]]] = [
    *((f"/{path}", [field])
      for path in ("jwt", "far", "scoped", "key", "basic", "introspection", "forward", "oidc", "all", "headers",
                   "broken")
      for field in (bearer(GOOD), bearer(EXPIRED), bearer(FORGED), bearer(OPAQUE), ("Authorization", f"Basic {RIGHT}"),
                    ("Authorization", f"Basic {WRONG}"), ("Authorization", f"Basic {MARK}"), ("Authorization", MARK),
                    ("Cookie", f"session={GOOD}; apigw_session={MARK}; other={MARK}"), ("X-Partner", KEY),
                    ("X-Partner", f"{MARK}wrong"), ("X-Echo", f"{MARK}\x80"))),
    *((f"/jwt?ticket={token}&x=1", []) for token in (GOOD, EXPIRED, FORGED, OPAQUE)),
    (f"/jwt?t%69cket={GOOD}", []),
    (f"/jwt?ticket={GOOD}&ticket={FORGED}", []),
    (f"/jwt?ticket={FORGED}#x", []),
    (f"/jwt?ticket={GOOD}", [bearer(FORGED)]),
    ("/jwt", [bearer(GOOD), bearer(FORGED)]),
    ("/jwt", [("Cookie", f"session={GOOD}; session={FORGED}")]),
    (f"/key?k={KEY}", []),
    (f"/key?k={MARK}", []),
    (f"/key?%6b={MARK}", []),
    (f"/introspection?opaque={OPAQUE}", []),
    (f"/all?access_token={GOOD}&password={PASSWORD}", [bearer(GOOD)]),
    (f"/all?access_token={GOOD}", [bearer(GOOD)]),
    (f"/nowhere?ticket={GOOD}&k={KEY}", []),
    (f"/headers?ticket={GOOD}&opaque={OPAQUE}", [("Referer", f"https://shop.example/?ticket={GOOD}")]),
    (f"/nowhere?access_token={GOOD}", [("Referer", f"https://anna:{MARK}@shop.example/?token={GOOD}")]),
    (f"/oidc/callback?code={MARK}&state={MARK}", [("Cookie", f"apigw_session={MARK}")]),
    (f"/oidc/callback?error={MARK}&state={MARK}", []),
    ("/oidc/logout", [("Cookie", f"apigw_session={MARK}")]),
    ("/oidc/page", [("Accept", "text/html"), ("Cookie", f"apigw_session={MARK}")]),
    ("/careless", [bearer(GOOD)]),
    ("/careless", [bearer(OPAQUE)]),
    ("/later", [("Cookie", f"session={MARK}")]),
]  # fmt: skip

RAW = [
    request("/jwt", bearer(GOOD)).replace(b"Bearer ", b"Bearer \x00"),
    request(f"/jwt?token={GOOD}").replace(b"HTTP/1.1", b"HTTP/9.9"),
    request(f"/jwt?token={GOOD}").replace(b"GET ", b"GET  "),
    request("/jwt", ("Authorization", "Bearer " + MARK * 9000)),
    request(f"http://anna:{PASSWORD}@shop.example/jwt"),
    request("/jwt", bearer(GOOD), ("Content-Length", "5"), ("Content-Length", "6")),
    request(f"/jwt%00?token={MARK}", bearer(GOOD)),
    request(
        "/schema", ("Content-Type", "application/json"), method="POST", body=f'{{"password": "{PASSWORD}"}}'.encode()
    ),
    request("/schema", ("Content-Type", "application/json"), method="POST", body=f'{{"password": {MARK}'.encode()),
]


@pytest.fixture
def messages(tmp_path: Path) -> Iterator[Path]:
    """The log for people, as it is written in earnest."""
    path = tmp_path / "messages.log"
    lines = LogLines(LogFile(str(path)))
    globalLogPublisher.addObserver(lines)
    yield path
    globalLogPublisher.removeObserver(lines)


def shown(where: str, text: str) -> list[str]:
    """What of the secrets is in a text, with what stands around it."""
    found = []
    for secret in (MARK, *ENCODED):
        at = text.find(secret)
        if at >= 0:
            found.append(f"{where}: ...{text[max(0, at - 120) : at + 60]!r}")
    return found


def configuration(folder: Path, service: int, issuer: int, form: str) -> str:
    (folder / "users.htpasswd").write_text(f"anna:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    (folder / "schema.json").write_text(
        '{"type": "object", "properties": {"password": {"type": "integer"}}, "additionalProperties": false}'
    )
    return INI.format(
        folder=folder, format=form, service=service, issuer=issuer, secret=SECRET, client_secret=CLIENT_SECRET,
        cookie_secret=COOKIE_SECRET, hashed=hashlib.sha256(KEY.encode()).hexdigest(),
    )  # fmt: skip


ISSUERS = {
    "which answers": reply(200, b'{"active": false}', (b"Content-Type", b"application/json")),
    "which breaks": [CLOSE],
    "which repeats": lambda received: reply(500, received.head + received.body),
}


@pytest.mark.parametrize("form", ["json", "combined"])
@pytest.mark.parametrize("issuer", ISSUERS.values(), ids=ISSUERS)
async def test_no_secret_shows_in_any_output(
    gateway: Any, origin: Any, tmp_path: Path, messages: Path, capsys: Any, issuer: Any, form: str
) -> None:
    service, far = await origin([reply(200, b"hello")]), await origin([issuer])
    running = await gateway(configuration(tmp_path, service.port, far.port, form))
    found: list[str] = []
    statuses = set()
    for path, fields in EXCHANGES:
        response = await running.get(path, *fields)
        statuses.add(response.status)
        if not (path.startswith(("/forward", "/broken")) and issuer is ISSUERS["which repeats"]):
            # What another service says goes to the client as it is: it is the client's own.
            found += shown(f"the answer to {path} {fields}", response.raw.decode("latin-1"))
    for raw in RAW:
        client = await running.connect()
        client.send(raw)
        response = await client.read_response()
        statuses.add(response.status)
        found += shown(f"the answer to {raw[:60]!r}", response.raw.decode("latin-1"))
    assert {200, 400, 401, 403, 404, 429, 500} <= statuses

    await running.reload(running.file.read_text().replace("[jwt scoped]", f"[jwt scoped]\nsecert = {MARK}"))
    for page in ("/metrics", "/routes", "/upstreams", "/config/status", "/"):
        answer = await running.admin(page)
        assert answer.status == 200
        found += shown(page, answer.raw.decode("latin-1"))
    assert b"secert" in (await running.admin("/config/status")).body
    running.service.accounting.flush()
    assert len(running.log.read_text().splitlines()) >= len(EXCHANGES)
    found += shown("the access log", running.log.read_text())
    assert messages.read_text().count("Traceback") >= 3
    found += shown("the log", messages.read_text())

    for command in (["check", str(running.file)], ["explain", str(running.file), "GET", f"/jwt?ticket={GOOD}"]):
        assert cli.main(command) == 1
        found += shown(command[0], "".join(capsys.readouterr()))
    running.file.write_text(running.file.read_text().replace(f"secert = {MARK}", ""))
    for command in (
        ["check", str(running.file)],
        ["explain", str(running.file), "GET", f"/jwt?ticket={GOOD}", "-H", f"Authorization: Bearer {GOOD}"],
        ["explain", str(running.file), "GET", f"/jwt?access_token={GOOD}", "--json"],
        *(["explain", str(running.file), "GET", path] for path in ("/far", "/introspection", "/oidc", "/basic")),
    ):
        assert cli.main(command) == 0
        found += shown(command[0], "".join(capsys.readouterr()))
    assert not found, "\n".join(found)


MISTAKES = [
    f"[jwt x]\nsecret = {MARK}\n",
    f"[jwt x]\nsecret = {SECRET}\nprevious_secret = {MARK}\n",
    f"[jwt x]\nsecret = {SECRET}\nalgorithms = RS256\n",
    f"[jwt x]\nsecret = {SECRET}\njwks = https://u:{MARK}@login.example/\n",
    f"[oidc x]\nissuer = https://x\nclient_id = x\ncookie_secret = {MARK}\n",
    f"[consumer x]\nkeys = {MARK}\n",
    f"[jwt x]\njwks = https://u:{MARK}@login.example/\n",
    f"[introspection x]\nurl = https://u:{MARK}@login.example/\n",
    f"[forward_auth x]\nurl = https://{MARK}@login.example/\n",
    f"[oidc x]\nissuer = https://u:{MARK}@login.example/\nclient_id = x\ncookie_secret = {COOKIE_SECRET}\n",
    f"[consumer x]\nkeys = sha256:{MARK}\n",
    f"[admin]\ntoken = {MARK}\nendpoint = nonsense\n",
    f"[upstream x]\ntargets = http://anna:{MARK}@127.0.0.1:1\n",
    f"[gateway]\nstate = redis://:{MARK}@\n",
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_no_secret_shows_in_what_is_said_of_a_mistake(tmp_path: Path, capsys: Any, mistake: str) -> None:
    file = tmp_path / "gw.ini"
    file.write_text(f"{mistake}\n[listen a]\nendpoint = tcp:0\n")
    cli.main(["check", str(file)])
    assert not shown("check", "".join(capsys.readouterr()))
