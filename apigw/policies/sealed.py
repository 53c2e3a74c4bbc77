"""
Values that a browser keeps for us and can neither read nor change: cookies sealed by AES-256-GCM.

Not here: what is in them (``oidc``).
"""

from __future__ import annotations

import base64
import secrets
import zlib
from hashlib import blake2b
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from apigw.exchange.errors import GatewayFault
from apigw.exchange.headers import Pair
from apigw.exchange.request import Request
from apigw.json_text import write
from apigw.policies.tokens import Ambiguous, base64url, cookie, json_object

PIECE = 3500
"""Bytes of one cookie; browsers keep 4096 with name and attributes."""
MOST_PIECES = 4
LARGEST = 64 * 1024
"""Bytes of an unsealed value; more is refused, however small it was packed."""
_NONCE = 12


class Seal:
    """
    Seals and unseals JSON objects.

    :param keys: secrets; the first seals, all unseal, so that one can be exchanged for another.
    :param purpose: what it is for; what was sealed for something else does not open.
    """

    def __init__(self, keys: list[str], purpose: str) -> None:
        self._ciphers = [AESGCM(blake2b(key.encode(), digest_size=32, person=b"apigw-cookie").digest()) for key in keys]
        self._purpose = purpose.encode()

    def seal(self, value: dict[str, Any]) -> str:
        """The value as text that a cookie can hold."""
        nonce = secrets.token_bytes(_NONCE)
        packed = zlib.compress(write(value))
        raw = nonce + self._ciphers[0].encrypt(nonce, packed, self._purpose)
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def unseal(self, text: bytes) -> dict[str, Any] | None:
        """The value, or None if we did not seal it."""
        try:
            raw = base64url(text)
        except ValueError:
            return None
        for cipher in self._ciphers:
            try:
                packed = cipher.decrypt(raw[:_NONCE], raw[_NONCE:], self._purpose)
            except (InvalidTag, ValueError):
                continue
            unpacked = zlib.decompressobj().decompress(packed, LARGEST)
            try:
                return json_object(unpacked)
            except ValueError:
                return None
        return None


def set_cookie(name: str, value: str, seconds: int, *, secure: bool) -> Pair:
    """A ``Set-Cookie`` field that no script and no other site's form gets; ``seconds`` of 0 removes the cookie."""
    text = f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"
    return b"Set-Cookie", text.encode()


class SessionCookies:
    """
    One sealed value in as many cookies as it takes: ``NAME``, ``NAME_1``, ...

    :ivar names: those that there may be.
    """

    def __init__(self, name: str, seal: Seal) -> None:
        self._names = [name if not number else f"{name}_{number}" for number in range(MOST_PIECES)]
        self.names = [each.encode() for each in self._names]
        self._seal = seal

    def read(self, request: Request) -> dict[str, Any] | None:
        """The value, or None if there is none that we sealed."""
        pieces = []
        for name in self.names:
            try:
                piece = cookie(request.headers, name)
            except Ambiguous:
                return None
            if piece is None:
                break
            pieces.append(piece)
        return self._seal.unseal(b"".join(pieces)) if pieces else None

    def fields(self, request: Request, value: dict[str, Any], seconds: int, *, secure: bool) -> list[Pair]:
        """
        The fields that set it, and remove pieces of a longer one.

        :raises GatewayFault: if it is too much for cookies.
        """
        sealed = self._seal.seal(value)
        pieces = [sealed[start : start + PIECE] for start in range(0, len(sealed), PIECE)]
        if len(pieces) > MOST_PIECES:
            raise GatewayFault("the session is too large for cookies", reason="session_too_large")
        found = [
            set_cookie(name, piece, seconds, secure=secure) for name, piece in zip(self._names, pieces, strict=False)
        ]
        stale = [name for name in self._names[len(pieces) :] if _has(request, name)]
        return found + [set_cookie(name, "", 0, secure=secure) for name in stale]

    def cleared(self, request: Request, *, secure: bool) -> list[Pair]:
        """The fields that remove it."""
        present = [name for name in self._names[1:] if _has(request, name)]
        return [set_cookie(name, "", 0, secure=secure) for name in [self._names[0], *present]]


def _has(request: Request, name: str) -> bool:
    try:
        return cookie(request.headers, name.encode()) is not None
    except Ambiguous:
        return True
