"""
Signed tokens in compact form (RFC 7515, 7519): taken apart, verified, and their registered claims checked.

What can't be understood in one way only is refused: unsigned, encrypted, nested and compressed tokens, extensions
(``crit``), repeated members, base64url that could be written otherwise (RFC 8725).

PyJWT's algorithms verify. Its ``decode`` is not used: it takes repeated members and lax base64, and parses twice.

Not here: which token, and what it allows (``jwt``, ``oidc``); keys (``key_sets``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from apigw.policies.key_sets import ALGORITHMS, VERIFIERS, VerifyingKey
from apigw.policies.policy import Environment
from apigw.policies.tokens import base64url, json_object


class BadToken(Exception):
    """A token that can't be taken, and why, for the log; nothing of the token itself is in it."""


class WrongSignature(BadToken):
    """None of the keys that fit signed it."""


class Parsed(NamedTuple):
    """
    A token of which nothing is believed yet.

    :ivar signed: the bytes that the signature is over. :ivar content: the claims as bytes.
    """

    algorithm: str
    kid: str | None
    signed: bytes
    signature: bytes
    content: bytes

    def verified(self, keys: Sequence[VerifyingKey]) -> dict[str, Any]:
        """
        The claims, if one of ``keys`` (which must fit the algorithm) signed them.

        :raises WrongSignature: if none did.
        :raises BadToken: if the claims are no JSON object.
        """
        verify = VERIFIERS[self.algorithm].verify
        for key in keys:
            if verify(self.signed, key.material, self.signature):
                break
        else:
            raise WrongSignature("its signature is wrong")
        try:
            return json_object(self.content)
        except ValueError as error:
            raise BadToken(f"its content is malformed: {error}") from None


MOST_AT_ONCE = 16
"""Keys that are tried at once; more take over 1 ms, and go to a thread."""


async def verified_by(parsed: Parsed, keys: Sequence[VerifyingKey], environment: Environment) -> dict[str, Any]:
    """
    As ``parsed.verified(keys)``, whatever the number of keys.

    :raises BadToken: as it does.
    """
    if len(keys) <= MOST_AT_ONCE:
        return parsed.verified(keys)
    claims: dict[str, Any] = await environment.beside(lambda: parsed.verified(keys))
    return claims


def parse(token: bytes, algorithms: Collection[str], longest: int) -> Parsed:
    """
    Take a token apart.

    :param algorithms: those that are taken. :param longest: bytes.
    :raises BadToken: if it can't be one to take.
    """
    if len(token) > longest:
        raise BadToken("it is too long")
    parts = token.split(b".", 5)
    if len(parts) != 3:
        raise BadToken("it is encrypted" if len(parts) == 5 else "it does not have three parts")
    first = parts[0]
    header = _KNOWN_HEADERS.get(first)
    if header is None:
        header = _header(first)
        if len(first) <= _LONGEST_KNOWN:
            if len(_KNOWN_HEADERS) >= _MOST_KNOWN:
                _KNOWN_HEADERS.clear()
            _KNOWN_HEADERS[first] = header
    algorithm, kid = header
    if algorithm not in algorithms:
        raise BadToken("its algorithm is not taken")
    try:
        content = base64url(parts[1])
        signature = base64url(parts[2])
    except ValueError:
        raise BadToken("it is malformed") from None
    return Parsed(algorithm, kid, token[: len(first) + 1 + len(parts[1])], signature, content)


_KNOWN_HEADERS: dict[bytes, tuple[str, str | None]] = {}
"""The headers' meaning by their bytes: an issuer's tokens all have the same one. It follows from the bytes alone."""
_MOST_KNOWN = 256
_LONGEST_KNOWN = 512


def _header(part: bytes) -> tuple[str, str | None]:
    """
    The algorithm and the key id that a token's header names.

    :raises BadToken: if it asks for what is never done.
    """
    try:
        header = json_object(base64url(part))
    except ValueError:
        raise BadToken("it is malformed") from None
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise BadToken("its algorithm is not taken")
    if "crit" in header or "b64" in header:
        raise BadToken("it asks for an extension")
    if "zip" in header or "enc" in header or str(header.get("cty", "")).lower() in {"jwt", "application/jwt"}:
        raise BadToken("it is nested, encrypted or compressed")
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise BadToken("its key id is no string")
    return algorithm, kid


def check_claims(
    claims: Mapping[str, Any],
    *,
    now: float,
    leeway: float = 0.0,
    require: Collection[str] = (),
    issuers: Collection[str] = (),
    audiences: Collection[str] = (),
) -> float:
    """
    Check the registered claims (RFC 7519 4.1).

    :param now: wall-clock seconds. :param leeway: seconds by which clocks may differ.
    :param issuers: empty for any.
    :param audiences: ``*`` for any; empty refuses tokens that name one, as RFC 7519 4.1.3 demands.
    :return: the wall-clock time at which the token ends, leeway included; infinity if it doesn't.
    :raises BadToken: if one of them doesn't hold.
    """
    for name in require:
        if claims.get(name) is None:
            raise BadToken(f"it has no {name}")
    for name in ("sub", "jti"):
        if name in claims and not isinstance(claims[name], str):
            raise BadToken(f"its {name} is no string")
    until = float("inf")
    if "exp" in claims:
        until = _time(claims, "exp") + leeway
        if now >= until:
            raise BadToken("it is expired")
    for name in ("nbf", "iat"):
        if name in claims and _time(claims, name) > now + leeway:
            raise BadToken(f"its {name} is in the future")
    if issuers and claims.get("iss") not in issuers:
        raise BadToken("its issuer is another")
    audience = claims.get("aud")
    if "*" in audiences or (audience is None and not audiences):
        return until
    named = audience if isinstance(audience, list) else [audience]
    for each in audiences:
        if each in named:
            return until
    raise BadToken("its audience is another" if audiences else "it names an audience, and none is configured")


def _time(claims: Mapping[str, Any], name: str) -> float:
    """
    A NumericDate (RFC 7519 2).

    :raises BadToken: if it is no finite number.
    """
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e15 < value < 1e15:
        raise BadToken(f"its {name} is no time")
    return float(value)
