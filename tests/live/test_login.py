"""``oidc`` with a real browser, Chromium without a window, and a small provider: login, session, renewal, logout."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.threads import deferToThread

from apigw.testing.origins import BODY, Origin, Received, Step, Steps, reply
from tests.gateway.running import running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEY = ec.generate_private_key(ec.SECP256R1())
JSON = (b"Content-Type", b"application/json")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


class AfterBody(list[Step]):
    """An answer that is made when the content has come."""

    def __init__(self, answer: Callable[[], bytes]) -> None:
        super().__init__([BODY])
        self._answer = answer

    def __iter__(self) -> Iterator[Step]:
        yield BODY
        yield self._answer()


class Provider:
    """
    Logs everybody in as Anna.

    :ivar lifetime: seconds of its tokens. :ivar grants: what it was asked for. :ivar logouts: how many there were.
    """

    def __init__(self) -> None:
        self.origin = Origin([self._answered])
        self.lifetime = 600
        self.grants: list[str] = []
        self.logouts = 0
        self._nonces: dict[str, tuple[str, str]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.origin.port}"

    def _answered(self, received: Received) -> Steps | bytes:
        target = urlsplit(received.line.split(b" ")[1].decode())
        asked = {name: values[0] for name, values in parse_qs(target.query).items()}
        if target.path == "/.well-known/openid-configuration":
            paths = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
            document = {name: f"{self.url}/{path}" for name, path in paths.items()}
            document |= {"issuer": self.url, "end_session_endpoint": f"{self.url}/logout"}
            return reply(200, json.dumps(document).encode(), JSON)
        if target.path == "/jwks":
            key = json.loads(pyjwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
            return reply(200, json.dumps({"keys": [key]}).encode(), JSON)
        if target.path == "/authorize":
            code = f"code{len(self._nonces)}"
            self._nonces[code] = asked["nonce"], asked["code_challenge"]
            back = asked["redirect_uri"] + "?" + urlencode({"code": code, "state": asked["state"]})
            return reply(302, b"", (b"Location", back.encode()))
        if target.path == "/logout":
            self.logouts += 1
            return reply(200, b"<p id=out>logged out</p>", (b"Content-Type", b"text/html"))
        if target.path == "/token":
            return AfterBody(lambda: self._token(parse_qs(received.body.decode())))
        return reply(404)

    def _token(self, form: dict[str, list[str]]) -> bytes:
        grant = form["grant_type"][0]
        self.grants.append(grant)
        now = int(time.time())  # noqa: TID251 - tokens tell the time of day
        claims = {"iss": self.url, "sub": "anna", "aud": "shop", "iat": now, "exp": now + self.lifetime}
        if grant == "authorization_code":
            nonce, challenge = self._nonces.pop(form["code"][0])
            made = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"][0].encode()).digest()).rstrip(b"=")
            if made.decode() != challenge:
                return reply(400, b'{"error": "invalid_grant"}', JSON)
            claims["nonce"] = nonce
        tokens = {
            "id_token": pyjwt.encode(claims, KEY, "ES256"), "access_token": "access", "token_type": "Bearer",
            "refresh_token": f"refresh{len(self.grants)}", "expires_in": self.lifetime,
        }  # fmt: skip
        return reply(200, json.dumps(tokens).encode(), JSON)


def page(received: Received) -> bytes:
    """What the service shows: who it was told that it is, and which cookies it got."""
    user = b", ".join(received.values(b"x-user-id")) or b"nobody"
    cookies = b"; ".join(received.values(b"cookie")) or b"none"
    return reply(200, b"<p id=who>%b</p><p id=cookies>%b</p>" % (user, cookies), (b"Content-Type", b"text/html"))


async def visit(profile: Path, url: str) -> str:
    """The page that a browser with this profile sees at last, as HTML."""
    command = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", f"--user-data-dir={profile}", "--dump-dom", url,
    ]  # fmt: skip
    # In a thread: a process of the loop's own would take SIGCHLD away from the reactor, for all tests that follow.
    done = await deferToThread(subprocess.run, command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return done.stdout.decode()


@pytest.mark.time_limit(120)
async def test_a_person_logs_in_stays_logged_in_and_logs_out(tmp_path: Path) -> None:
    provider, service = Provider(), Origin([page])
    await provider.origin.start()
    await service.start()
    text = f"""
[oidc site]
issuer = {provider.url}
client_id = shop
client_secret = a-secret
cookie_secret = a-secret-of-thirty-two-bytes-or-more
scopes = openid, offline_access
claims_to_headers = sub: X-User-Id

[upstream a]
targets = http://127.0.0.1:{service.port}

[route a]
path = /
upstream = a
policies = oidc site
"""
    profile = tmp_path / "profile"
    async with running(tmp_path, text) as gateway:
        site = f"http://127.0.0.1:{gateway.port()}"
        seen = await visit(profile, f"{site}/app?x=1")
        assert '<p id="who">anna</p>' in seen, seen + gateway.log.read_text()
        assert '<p id="cookies">none</p>' in seen  # the session is not the service's business
        assert service.requests[0].line == b"GET /app?x=1 HTTP/1.1"
        assert provider.grants == ["authorization_code"]
        assert '<p id="who">anna</p>' in await visit(profile, f"{site}/again")
        assert provider.grants == ["authorization_code"]  # by its cookie
        assert "logged out" in await visit(profile, f"{site}/oidc/logout")
        assert provider.logouts == 1
        provider.lifetime = 31  # is renewed from a second on
        assert '<p id="who">anna</p>' in await visit(profile, f"{site}/app")
        assert provider.grants == ["authorization_code"] * 2  # the cookie was gone
        await asyncio.sleep(1.5)
        assert '<p id="who">anna</p>' in await visit(profile, f"{site}/app")
        assert provider.grants[2:] == ["refresh_token"]
    await service.stop()
    await provider.origin.stop()
