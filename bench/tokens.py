"""
Tokens to measure ``jwt`` with: keys made for one run, the gateway that takes what they sign, and what PyJWT costs.

Not here: what is measured (``cases``).
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from bench.gateways import PLAIN, Gateway, Place, Setup, apigw

ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
_SECRET = "a secret for the benchmark, made of 48 characters"
_CLAIMS = {"iss": "https://auth.shop.example", "aud": "shop", "sub": "user-4711", "scope": "orders:read orders:write"}

JWT = """
[jwt main]
algorithms = ALGORITHM
KEY
issuer = https://auth.shop.example
audience = shop
require = exp, sub
claims_to_headers = sub: X-User-Id, scope: X-Scopes
"""
"""The policy. ALGORITHM and KEY are filled in."""


@cache
def _private(algorithm: str) -> Any:
    if algorithm == "HS256":
        return _SECRET
    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else ed25519.Ed25519PrivateKey.generate()


def _public(algorithm: str) -> Any:
    key = _private(algorithm)
    return key if algorithm == "HS256" else key.public_key()


@cache
def tokens(algorithm: str, count: int) -> tuple[str, ...]:
    """So many good tokens, no two the same; good for an hour."""
    claims = {**_CLAIMS, "exp": int(time.time()) + 3600}  # noqa: TID251 - tokens tell the time of day
    key = _private(algorithm)
    return tuple(jwt.encode({**claims, "jti": f"{number:08x}"}, key, algorithm) for number in range(count))


def bearer(algorithm: str, count: int) -> tuple[tuple[str, str], ...]:
    """The same as header fields."""
    return tuple(("Authorization", f"Bearer {token}") for token in tokens(algorithm, count))


def guarded(algorithm: str, policies: str = "jwt main", more: str = "", remember: int = 10_000) -> Gateway:
    """
    apigw with a route that asks for tokens of ``algorithm``.

    :param policies: what the route lists. :param more: the sections of what it lists beside ``jwt main``.
    :param remember: as the option of ``jwt``.
    """

    def gateway(place: Place) -> Setup:
        key = f"secret = {_SECRET}" if algorithm == "HS256" else "public_key = key.pem"
        section = f"{JWT.replace('ALGORITHM', algorithm).replace('KEY', key)}remember = {remember}\n"
        setup = apigw(f"{PLAIN}policies = {policies}\n{section}\n{more}")(place)
        if algorithm != "HS256":
            pem = _public(algorithm).public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            setup.files["key.pem"] = pem.decode()
        return setup

    return gateway


def pyjwt_seconds(algorithm: str, least: float = 0.3) -> float:
    """Seconds of CPU that PyJWT needs to verify one token, measured for at least so many seconds."""
    shown, key = tokens(algorithm, 100), _public(algorithm)
    began = time.process_time()
    verified = 0
    while time.process_time() < began + least:
        for token in shown:
            jwt.decode(token, key, [algorithm], {"require": ["exp", "sub"]}, audience="shop", issuer=_CLAIMS["iss"])
        verified += len(shown)
    return (time.process_time() - began) / verified
