"""
Keys that signatures are checked with: from the configuration, from a file that is watched, from a URL (JWKS, RFC 7517).

A key fits certain algorithms only, by its type and curve (and its ``alg``), whatever a token says: so a public key is
never taken for a shared secret, and ``none`` fits no key.

A set from a URL is fetched when the gateway starts, and again ahead of its end; one fetch at a time, which all who
need it join; a token with an unknown key id, or that no key fits by its signature, causes one, then none for
``cooldown`` unless it did bring another key, nor after a fetch that failed. What can't be fetched or read changes
nothing: the last good set holds, also over a reload.

Not here: tokens (``jwt``).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm, get_default_algorithms
from jwt.exceptions import PyJWTError
from twisted.internet.defer import Deferred

from apigw.exchange.errors import GatewayFault
from apigw.exchange.responder import drive
from apigw.json_text import InvalidJSON, read
from apigw.policies.policy import Environment
from apigw.policies.tokens import without_query
from apigw.policies.watched_file import WatchedFile

HMAC = frozenset({"HS256", "HS384", "HS512"})
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
ALGORITHMS = HMAC | _RSA | frozenset(_CURVES.values()) | {"EdDSA"}
"""What may be configured: all of RFC 7518 and RFC 8037 that signs; never ``none``."""


class _OneShotHMAC(HMACAlgorithm):
    """PyJWT's, without an object for each token: a third of the time."""

    def __init__(self, hash_alg: Any) -> None:
        super().__init__(hash_alg)
        self._digest = hash_alg().name

    def sign(self, msg: bytes, key: bytes) -> bytes:
        return hmac.digest(key, msg, self._digest)


VERIFIERS: dict[str, Any] = {name: each for name, each in get_default_algorithms().items() if name in ALGORITHMS}
VERIFIERS |= {name: _OneShotHMAC(VERIFIERS[name].hash_alg) for name in HMAC}
AT_ONCE = 32 * 1024
"""Bytes of a set that are read at once, about 60 keys; more takes over 5 ms, and goes to a thread."""
LONGEST_FILE = 1 << 20
"""Bytes of a file with keys."""
MOST_KEYS = 1000
"""Keys taken of one set; the largest public providers have under 50."""


class NoKeys(GatewayFault):
    """The keys have not been fetched, so nobody's token can be judged."""

    status = 503
    reason = "keys_unavailable"


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """
    One key.

    :ivar algorithms: what it may verify. :ivar material: as PyJWT's algorithms take it. :ivar kid: its id, or None.
    :ivar number: the bytes of the material, by which keys are compared.
    """

    algorithms: frozenset[str]
    material: Any = field(compare=False)
    kid: str | None = None
    number: bytes = field(init=False)

    def __post_init__(self) -> None:
        material = self.material
        number = material if isinstance(material, bytes) else _public_bytes(material)
        object.__setattr__(self, "number", number)


def algorithms_of(material: Any) -> frozenset[str]:
    """
    The algorithms that a key's type fits.

    :raises ValueError: for a type that fits none, or a key too weak.
    """
    if isinstance(material, rsa.RSAPublicKey):
        if material.key_size < 2048:
            raise ValueError("an RSA key has at least 2048 bits (RFC 7518 3.3)")
        return _RSA
    if isinstance(material, ec.EllipticCurvePublicKey) and material.curve.name in _CURVES:
        return frozenset({_CURVES[material.curve.name]})
    if isinstance(material, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return frozenset({"EdDSA"})
    if isinstance(material, bytes):
        fitting = {name for name in HMAC if len(material) * 8 >= int(name[2:])}
        if not fitting:
            raise ValueError("a secret has at least 32 bytes, 48 for HS384 and 64 for HS512 (RFC 7518 3.2)")
        return frozenset(fitting)
    raise ValueError("keys of this type verify no token")


def from_jwk(jwk: dict[str, Any], *, secrets: bool) -> VerifyingKey:
    """
    One JSON Web Key.

    :param secrets: whether shared secrets (``oct``) are taken; a set from a URL has none.
    :raises ValueError: if it is none that verifies signatures.
    """
    kind = jwk.get("kty")
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
        raise ValueError("it is not for signatures")
    algorithm = (
        {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA", "oct": "HS256"}.get(kind) if isinstance(kind, str) else None
    )
    if algorithm is None or (kind == "oct" and not secrets):
        raise ValueError("keys of this type are not taken")
    try:
        material = VERIFIERS[algorithm].from_jwk(
            {name: each for name, each in jwk.items() if name != "d"} if kind != "oct" else jwk
        )
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        raise ValueError("it is no key") from None
    fitting = algorithms_of(material)
    if "alg" in jwk:
        fitting &= {jwk["alg"]} if isinstance(jwk["alg"], str) else frozenset()
    if not fitting:
        raise ValueError("its algorithm does not fit its type")
    kid = jwk.get("kid")
    return VerifyingKey(fitting, material, kid if isinstance(kid, str) else None)


def from_jwks(raw: bytes, *, secrets: bool) -> list[VerifyingKey]:
    """
    A JSON Web Key Set, or one key. Keys that can't be used are left out (RFC 7517 5).

    :raises ValueError: if none is left.
    """
    try:
        document = read(raw)
    except InvalidJSON as error:
        raise ValueError(f"it can't be read: {error}") from None
    members = document.get("keys", [document] if "kty" in document else ()) if isinstance(document, dict) else ()
    members = members if isinstance(members, list) else []
    keys = []
    for member in members[:MOST_KEYS]:
        try:
            keys.append(from_jwk(member, secrets=secrets))
        except (ValueError, TypeError, AttributeError):
            continue
    if not keys:
        raise ValueError("no key in it can verify a token")
    return keys


def from_pem(raw: bytes) -> list[VerifyingKey]:
    """
    Public keys or certificates in PEM, one or several.

    :raises ValueError: if one of them can't verify tokens; private keys are refused, they don't belong here.
    """
    keys = []
    for piece in raw.split(b"-----BEGIN ")[1:]:
        block = b"-----BEGIN " + piece
        if b"PRIVATE KEY" in piece.partition(b"\n")[0]:
            raise ValueError("it holds a private key; only the public one belongs here")
        if piece.startswith(b"CERTIFICATE"):
            material: Any = x509.load_pem_x509_certificate(block).public_key()
        else:
            material = load_pem_public_key(block)
        keys.append(VerifyingKey(algorithms_of(material), material))
    if not keys:
        raise ValueError("there is no key in it")
    return keys


def from_file(raw: bytes) -> list[VerifyingKey]:
    """
    What a file holds: PEM or JSON.

    :raises ValueError: if there is no usable key.
    """
    if len(raw) > LONGEST_FILE:  # to read it would hold up the reactor, even from a thread
        raise ValueError("it has more than 1 MiB")
    if raw.lstrip()[:1] == b"{":
        return from_jwks(raw, secrets=True)
    return from_pem(raw)


class KeySet:
    """
    Keys by algorithm and key id.

    :ivar generation: changes when the keys do; what was verified by an earlier one is verified again.
    :cvar may_change: whether ``find`` can bring keys that are not known yet.
    """

    may_change = False

    def __init__(self, keys: Sequence[VerifyingKey] = ()) -> None:
        self.generation = 0
        self.keys: list[VerifyingKey] = []
        self._fitting: dict[tuple[str, str | None], list[VerifyingKey]] = {}
        self._replace(keys)

    def _replace(self, keys: Sequence[VerifyingKey]) -> None:
        if keys != self.keys:
            self.keys = list(keys)
            self._fitting.clear()
            self.generation += 1

    def candidates(self, algorithm: str, kid: str | None) -> list[VerifyingKey]:
        """The keys that may have signed. Several may have one id; keys without an id fit any."""
        known = self._fitting.get((algorithm, kid))
        if known is not None:
            return known
        fitting = [
            key
            for key in self.keys
            if algorithm in key.algorithms and (kid is None or key.kid is None or key.kid == kid)
        ]
        if fitting and len(self._fitting) < MOST_KEYS:  # made-up ids fit keys without one, too
            self._fitting[algorithm, kid] = fitting
        return fitting

    async def find(self, algorithm: str, kid: str | None, tried: int | None = None) -> list[VerifyingKey]:
        """
        The same, after having looked again for a key that is not known.

        :param tried: the generation of which no key verified the token: keys of a later one, or none.
        """
        return self.candidates(algorithm, kid) if self.generation != tried else []

    def take_over(self, former: KeySet) -> None:
        """Begin with what ``former``, which this one replaces at a reload, has fetched."""

    def start(self) -> None:
        """Begin to keep the keys fresh."""

    def stop(self) -> None:
        """Stop it."""


def _public_bytes(material: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    raw: bytes = material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return raw


class FileKeySet(KeySet):
    """
    Keys in a file, which is read again when it changes.

    :raises ValueError: if it can't be used.
    """

    def __init__(self, path: Path, environment: Environment) -> None:
        super().__init__()
        self._file = WatchedFile(path, from_file, self._replace, environment)

    def start(self) -> None:
        self._file.start()

    def stop(self) -> None:
        self._file.stop()


class RemoteKeySet(KeySet):
    """
    A key set behind a URL.

    :param refresh: seconds from one fetch to the next; a shorter ``max-age`` of the answer counts (at least 30 s).
    :param cooldown: seconds after a fetch for an unknown key in which there is no other such fetch.
    :param timeout: seconds for a fetch.
    """

    may_change = True

    def __init__(self, url: str, environment: Environment, *, refresh: float, cooldown: float, timeout: float) -> None:
        self._url = url
        self._environment = environment
        self._refresh = refresh
        self._cooldown = cooldown
        self._timeout = timeout
        self._cool_until = 0.0
        self._next = 0.0
        self._failures = 0
        self._waiting: list[Deferred[None]] | None = None
        self._cancel: Callable[[], None] | None = None
        self._stop_fetch: Callable[[], None] | None = None
        self._stopped = False
        super().__init__()

    async def find(self, algorithm: str, kid: str | None, tried: int | None = None) -> list[VerifyingKey]:
        """
        :raises NoKeys: if the key may exist, but the set can't be fetched at the moment.
        """
        found = await super().find(algorithm, kid, tried)
        clock = self._environment.clock
        while not found:
            joined = self._waiting is not None
            if not joined:
                if clock() < self._cool_until:
                    break
                self._cool_until = clock() + self._cooldown
            await self._fetched()
            found = await super().find(algorithm, kid, tried)
            if not joined:
                if found:
                    # It was no flood: an unknown key id that turns out to be right must not hold up the next one.
                    self._cool_until = 0.0
                break
        if not found and self._failures and tried is None:
            wait = max(1, int(min(self._cool_until, self._next) - clock()) + 1)
            raise NoKeys("the keys can't be fetched at the moment", headers=((b"Retry-After", b"%d" % wait),))
        return found

    def take_over(self, former: KeySet) -> None:
        if isinstance(former, RemoteKeySet) and former._url == self._url:
            self._replace(former.keys)

    def start(self) -> None:
        self._stopped = False
        self._begin()

    def stop(self) -> None:
        self._stopped = True
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        if self._stop_fetch is not None:
            self._stop_fetch()

    def _fetched(self) -> Deferred[None]:
        """Wait for the fetch that is under way, or for a new one; it fails for nobody."""
        done: Deferred[None] = Deferred()
        if self._waiting is None:
            self._begin(done)
        else:
            self._waiting.append(done)
        return done

    def _begin(self, *waiting: Deferred[None]) -> None:
        if self._waiting is not None:
            return
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        self._waiting = list(waiting)
        self._stop_fetch = drive(self._fetch(), self._good, self._bad)
        if self._waiting is None:
            self._stop_fetch = None

    async def _fetch(self) -> float:
        """Fetch once. Seconds for which the set may be used without asking again."""
        answer = await self._environment.fetch(
            "GET", self._url, [(b"Accept", b"application/jwk-set+json, application/json")], timeout=self._timeout
        )
        if answer.status != 200:
            raise ValueError(f"it was answered with {answer.status}")
        read: Callable[[], list[VerifyingKey]] = partial(from_jwks, answer.body, secrets=False)
        self._replace(await self._environment.beside(read) if len(answer.body) > AT_ONCE else read())
        for directive in (answer.headers.joined(b"cache-control") or b"").lower().split(b","):
            name, _, seconds = directive.strip().partition(b"=")
            if name == b"max-age" and seconds.isdigit() and len(seconds) < 10:
                return min(self._refresh, max(30.0, float(seconds) * 0.8))
        return self._refresh

    def _good(self, seconds: float) -> None:
        if self._failures:
            self._environment.log.info("the keys of {url} can be fetched again", url=without_query(self._url))
        self._failures = 0
        self._over(seconds)

    def _bad(self, error: BaseException) -> None:
        if self._stopped:
            self._over(self._refresh)
            return
        self._failures += 1
        self._environment.count("key_fetch_failed")
        if self._failures == 1:
            self._environment.log.error(
                "the keys of {url} can't be fetched ({why}); {left} known ones stay in use",
                url=without_query(self._url),
                why=str(error),
                left=len(self.keys),
            )
        # Also tries that nobody asked for keep the distance, unless there is nothing yet to go on with.
        self._cool_until = max(self._cool_until, self._environment.clock() + self._cooldown)
        wait = min(60.0, 2.0 ** min(self._failures - 1, 6))
        self._over(max(wait, self._cooldown) if self.keys else wait)

    def _over(self, again: float) -> None:
        waiting, self._waiting = self._waiting or [], None
        self._stop_fetch = None
        if not self._stopped:
            self._next = self._environment.clock() + again
            self._cancel = self._environment.later(again, self._begin)
        for each in waiting:
            if not each.called:
                each.callback(None)
