"""What nobody honest sends to policies: each a clear 4xx through the whole gateway, bounded in time and memory."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import brotli
import jwt as pyjwt
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from apigw.testing.origins import reply
from tests.gateway.running import route, upstream

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
SLOWEST = 2.0
"""Seconds that a refusal may take on a machine that does something else too."""
MOST = 16 << 20
"""Bytes by which the memory may grow for a moment."""


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(header: bytes | dict[str, Any], claims: bytes | dict[str, Any], secret: bytes = PEM) -> str:
    """Signed by HMAC with whatever is at hand."""
    parts = [b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, claims)]
    signed = ".".join(parts)
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


GOOD = pyjwt.encode({"sub": "anna"}, RSA, "RS256")
HEAD, BODY, SIGNATURE = GOOD.split(".")
CLAIMS = {"sub": "admin"}
TOKENS = {
    "alg none": b64(b'{"alg": "none"}') + f".{BODY}.",
    "alg None": b64(b'{"alg": "nOnE"}') + f".{BODY}.",
    "no alg": token({"typ": "JWT"}, CLAIMS),
    "the public key as a secret": token({"alg": "HS256"}, CLAIMS),
    "the public key as a secret, stripped": token({"alg": "HS256"}, CLAIMS, PEM.strip()),
    "a key of the wrong type": pyjwt.encode(CLAIMS, ec.generate_private_key(ec.SECP256R1()), "ES256"),
    "another key": pyjwt.encode(CLAIMS, rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256"),
    "its own key": token({"alg": "HS256", "jwk": {"kty": "oct", "k": b64(PEM)}}, CLAIMS),
    "its own key's address": token({"alg": "HS256", "jku": "http://127.0.0.1:1/"}, CLAIMS),
    "a path as key id": pyjwt.encode(CLAIMS, "x" * 32, "HS256", headers={"kid": "../../../dev/null"}),
    "no base64": f"{HEAD}.{BODY}.!!!!",
    "padded base64": f"{HEAD}.{BODY}.{SIGNATURE}==",
    "base64 with unused bits": f"{HEAD}.{BODY}.{SIGNATURE[:-1]}{dict(zip('AQgw', 'BRhx', strict=True))[SIGNATURE[-1]]}",
    "standard base64": f"{HEAD}.{BODY}.{'+/' * 100}",
    "white space in it": f"{HEAD}.{BODY}. {SIGNATURE}",
    "no signature": f"{HEAD}.{BODY}.",
    "a cut signature": f"{HEAD}.{BODY}.{SIGNATURE[:-4]}",
    "two parts": f"{HEAD}.{BODY}",
    "five parts": f"{HEAD}.{BODY}.{SIGNATURE}.a.b",
    "ten thousand parts": "." * 10_000,
    "members twice": token(b'{"alg": "RS256", "alg": "HS256"}', CLAIMS),
    "claims twice": token({"alg": "HS256"}, b'{"sub": "a", "sub": "admin"}'),
    "crit": token({"alg": "HS256", "crit": ["exp"], "exp": 1}, CLAIMS),
    "no JSON": token(b"\xff\xfe", b"\xff"),
    "a number as header": token(b"1", CLAIMS),
    "deep header": token(b"[" * 5000 + b"]" * 5000, CLAIMS),
    "100 KB": f"{HEAD}.{b64(b'x' * 75_000)}.{SIGNATURE}",
    "20 KB": f"{HEAD}.{b64(b'x' * 15_000)}.{SIGNATURE}",
    "huge number": token(b'{"alg": "HS256", "x": ' + b"9" * 5000 + b"}", CLAIMS),
}


class Watch:
    """Time and memory of what is done in its block."""

    def __enter__(self) -> None:
        tracemalloc.start()
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        took = time.perf_counter() - self._began
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert took < SLOWEST
        assert most < MOST


@pytest.mark.parametrize("where", ["header", "cookie", "query"])
async def test_tokens_that_nobody_honest_makes(gateway: Any, origin: Any, tmp_path: Path, where: str) -> None:
    (tmp_path / "key.pem").write_bytes(PEM)
    service = await origin([reply(200, b"hello")])
    running = await gateway(
        f"[jwt x]\npublic_key = {tmp_path}/key.pem\ncookie = c\nquery = q\n"
        + upstream(service.port)
        + route("/", "policies = jwt x")
    )

    async def show(shown: str) -> Any:
        if where == "query":
            return await running.get("/?q=" + shown.replace("+", "%2B").replace(" ", "%20"))
        return await running.get(
            "/", ("Authorization", f"Bearer {shown}") if where == "header" else ("Cookie", f"c={shown}")
        )

    assert (await show(GOOD)).status == 200
    for name, shown in TOKENS.items():
        if where == "cookie" and name == "white space in it":
            continue  # a cookie's value has none around it
        with Watch():
            response = await show(shown)
        document = json.loads(response.body)
        if len(shown) > 8000 and response.status in {414, 431}:
            continue  # the listener's limit came first
        assert (response.status, document["reason"]) == (401, "token_invalid"), name
        assert response.value(b"www-authenticate") == b'Bearer realm="x", error="invalid_token"'
    assert len(service.requests) == 1


async def test_a_long_token_gets_a_clear_answer_where_the_listener_would_take_it(
    gateway: Any, origin: Any, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_bytes(PEM)
    running = await gateway(
        f"[listen public]\nendpoint = tcp:0:interface=127.0.0.1\nmax_head = 256KiB\n"
        f"[jwt x]\npublic_key = {tmp_path}/key.pem\n[route a]\npath = /\nrespond = 200\npolicies = jwt x\n"
    )
    with Watch():
        response = await running.get("/", ("Authorization", f"Bearer {TOKENS['100 KB']}"))
    assert (response.status, json.loads(response.body)["reason"]) == (401, "token_invalid")


@pytest.mark.parametrize("value", ["a%0D%0AX-Admin:%201", "a%0d%0a%0d%0aGET%20/", "a%00b", "a%0Ab"])
async def test_line_ends_in_what_templates_take_from_a_request(gateway: Any, origin: Any, value: str) -> None:
    service = await origin([reply(200, b"hello")])
    running = await gateway(
        "[request_headers x]\nset.X-Told = {query.v}\n[response_headers y]\nset.X-Told = {query.v}\n"
        + upstream(service.port)
        + route("/up", "policies = request_headers x", name="up")
        + route("/down", "policies = response_headers y", name="down")
    )
    for path in ("/up", "/down"):
        response = await running.get(f"{path}?v={value}")
        assert (response.status, json.loads(response.body)["reason"]) == (400, "header_value_refused")
    assert service.requests == []


DEEP = b"[" * 10_000 + b"]" * 10_000
NESTED = b'{"a":' * 10_000 + b"1" + b"}" * 10_000


@pytest.mark.parametrize("body", [DEEP, NESTED, b"[" * 1_000_000, b'{"a": 1e999999}x', b'"\\ud800', b"\xff"])
@pytest.mark.parametrize("policy", ["json_schema", "transform"])
async def test_json_that_is_too_deep_or_none(
    gateway: Any, origin: Any, tmp_path: Path, policy: str, body: bytes
) -> None:
    (tmp_path / "any.json").write_text('{"type": "object"}')
    options = {"json_schema": f"request = {tmp_path}/any.json\nmax_size = 4MiB", "transform": "request = a"}
    service = await origin([reply(200, b"hello")])
    running = await gateway(
        f"[{policy} x]\n{options[policy]}\n" + upstream(service.port) + route("/", f"policies = {policy} x")
    )
    with Watch():
        response = await running.get("/", ("Content-Type", "application/json"), method="POST", body=body)
    assert response.status == 400
    assert json.loads(response.body)["reason"] in {"json_invalid", "schema_violated", "transform_refused"}
    assert service.requests == []


ZEROS = bytes(100 << 20)
BOMBS = {
    "gzip": gzip.compress(ZEROS),
    "br": brotli.compress(ZEROS, quality=5),
    "zstd": zstandard.compress(ZEROS),
    "deflate": zlib.compress(ZEROS),
}


@pytest.mark.parametrize("coding", BOMBS)
@pytest.mark.parametrize("policy", ["decompress", "json_schema", "transform"])
async def test_bombs(gateway: Any, origin: Any, tmp_path: Path, policy: str, coding: str) -> None:
    (tmp_path / "any.json").write_text('{"type": "object"}')
    options = {"json_schema": f"request = {tmp_path}/any.json", "transform": "request = a", "decompress": ""}
    service = await origin([reply(200, b"hello")])
    running = await gateway(
        f"[{policy} x]\n{options[policy]}\n" + upstream(service.port) + route("/", f"policies = {policy} x")
    )
    with Watch():
        response = await running.get(
            "/", ("Content-Type", "application/json"), ("Content-Encoding", coding), method="POST", body=BOMBS[coding]
        )
    assert 400 <= response.status < 500
    assert json.loads(response.body)["reason"] in {"body_too_large", "coding_unknown", "json_invalid"}
