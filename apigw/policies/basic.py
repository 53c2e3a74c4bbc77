"""
Lets in who knows a user name and its password (RFC 7617).

    [basic staff]
    file = users.htpasswd
    user_header = X-User

The file has a ``name:hash`` a line, as ``htpasswd -B`` writes it: bcrypt (``$2b$``, ``$2y$``) or Argon2
(``$argon2id$``). Older hashes are refused. It is read again when it changes.

Such hashes are slow on purpose, so they are computed outside of the reactor, a few at a time; what was right is
remembered by a keyed hash, and forgotten after a while, or when the file changes.

Not here: logging in by a page (``oidc``).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import zlib
from collections import deque
from collections.abc import Awaitable
from typing import Annotated

import argon2
import bcrypt
from pydantic import Field
from twisted.internet.defer import Deferred

from apigw.config.values import Count, Duration, FilePath, Flag
from apigw.exchange.claims import field_value
from apigw.exchange.errors import GatewayFault
from apigw.exchange.request import Identity, Request
from apigw.policies.asked_once import AskedOnce
from apigw.policies.edits import FieldEdit
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.tokens import Forbidden, Refused, Remembered, note_refusal, quoted
from apigw.policies.watched_file import WatchedFile

_BCRYPT = re.compile(rb"\$2[aby]\$[0-3][0-9]\$[./A-Za-z0-9]{53}")
LONGEST = 1024
"""Bytes of the whole field: nobody's password is as long."""


class Settings(PolicySettings):
    """Who knows a user name and its password comes in."""

    file: FilePath
    """A ``name:hash`` a line, by bcrypt or Argon2, as ``htpasswd -B`` writes it; read again when it changes."""
    realm: str = ""
    """The realm that browsers show; empty: the section's name."""
    forward_credentials: Flag = False
    """Whether the service gets them as well."""
    user_header: str = ""
    """A field that tells the service the user's name; what the client sends under this name is removed."""
    remember_for: Duration = 600.0
    """How long a right password is not computed again."""
    remember: Count = 10000
    """How many are remembered."""
    at_once: Annotated[Count, Field(ge=1, le=64)] = 2
    """How many passwords are computed at once, each in a thread."""
    queue: Count = 64
    """How many more may wait for that; the next gets 503."""


def parse_users(content: bytes) -> dict[bytes, bytes]:
    """
    The hashes by name.

    :raises ValueError: with the number of the line, and nothing else of it.
    """
    users: dict[bytes, bytes] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        name, colon, hashed = line.partition(b":")
        if not colon or not name:
            raise ValueError(f"line {number} is not `name:hash`")
        if name in users:
            raise ValueError(f"line {number} has a name that was there before")
        if not _BCRYPT.fullmatch(hashed) and not _is_argon2(hashed):
            raise ValueError(f"line {number} has no bcrypt or Argon2 hash (`htpasswd -B` makes one)")
        users[name] = hashed
    if not users:
        raise ValueError("there is no user in it")
    return users


def _is_argon2(hashed: bytes) -> bool:
    try:
        argon2.extract_parameters(hashed.decode())
    except (argon2.exceptions.InvalidHashError, ValueError):
        return False
    return True


def is_right(password: bytes, hashed: bytes) -> bool:
    """Whether it is the password of that hash. Takes long."""
    try:
        if _BCRYPT.fullmatch(hashed):
            # bcrypt looks at 72 bytes: a longer password would be right by its beginning.
            return len(password) <= 72 and bcrypt.checkpw(password, hashed)
        return argon2.PasswordHasher().verify(hashed, password)
    except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError, ValueError):
        return False


class _Known:
    """A user whose password was right."""

    __slots__ = ("edit", "generation", "identity", "until")

    def __init__(self, identity: Identity, edit: FieldEdit, generation: int, until: float) -> None:
        self.identity = identity
        self.edit = edit
        self.generation = generation
        self.until = until


class Basic(Policy[Settings]):
    """The policy ``basic``."""

    authenticates = True
    credential_headers = frozenset({b"authorization"})

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._clock = environment.clock
        self._salt = secrets.token_bytes(32)
        self._seed = secrets.randbits(32)
        self._known: Remembered[_Known] = Remembered(settings.remember)
        self._users: dict[bytes, bytes] = {}
        self._hashes: list[bytes] = []
        self._generation = 0
        self._file = WatchedFile(settings.file, parse_users, self._take, environment)
        self._computing: AskedOnce[bool] = AskedOnce()
        self._running = 0
        self._waiting: deque[Deferred[None]] = deque()
        self._told = settings.user_header.encode()
        self.identity_headers = frozenset({self._told.lower()}) if self._told else frozenset[bytes]()
        self._stripped = FieldEdit(self.identity_headers)
        hidden = frozenset[bytes]() if settings.forward_credentials else frozenset({b"authorization"})
        self._removed = self.identity_headers | hidden
        realm = quoted(settings.realm or environment.name or "basic")
        self._challenge = (b"WWW-Authenticate", b"Basic realm=" + realm + b', charset="UTF-8"')

    def start(self) -> None:
        self._file.start()

    def stop(self) -> None:
        self._file.stop()

    def _take(self, users: dict[bytes, bytes]) -> None:
        self._users = users
        self._hashes = list(users.values())
        self._generation += 1

    def on_request(self, request: Request) -> Awaitable[None] | None:
        values = request.headers.get_all(b"authorization")
        if len(values) != 1:
            why = "there is more than one field" if values else "there are no credentials"
            raise self._refusal(request, why, missing=not values)
        value = values[0]
        scheme, _, encoded = value.partition(b" ")
        if scheme.lower() != b"basic":
            raise self._refusal(request, "there are no credentials", missing=True)
        if len(value) > LONGEST:
            raise self._refusal(request, "they are too long")
        key = hashlib.blake2b(encoded, digest_size=32, key=self._salt).digest()
        known = self._known.get(key)
        if known is not None and known.generation == self._generation and self._clock() < known.until:
            self._let_in(request, known)
            return None
        return self._computed(request, encoded, key)

    async def _computed(self, request: Request, encoded: bytes, key: bytes) -> None:
        try:
            name, colon, password = base64.b64decode(encoded.strip(b" "), validate=True).partition(b":")
            text = name.decode()
        except ValueError:
            raise self._refusal(request, "they are malformed") from None
        generation = self._generation
        if key not in self._computing and len(self._computing) >= self.settings.at_once + self.settings.queue:
            self._goes_on(request, "too many passwords wait to be checked")
            raise GatewayFault(
                "too many passwords wait to be checked", status=503, reason="busy", headers=((b"Retry-After", b"1"),)
            )
        if not colon or not await self._computing.ask(key, lambda: self._right(name, password)):
            raise self._refusal(request, "name or password is wrong")
        known = self._user(text, generation)
        self._known.put(key, known)
        self._let_in(request, known)

    async def _right(self, name: bytes, password: bytes) -> bool:
        """Whether it is the user's password; a few are computed at a time."""
        if self._running >= self.settings.at_once:
            turn: Deferred[None] = Deferred()
            self._waiting.append(turn)
            await turn
        self._running += 1
        try:
            # An unknown name costs what some known one does, always the same: time must not tell which names there are.
            hashed = self._users.get(name) or self._hashes[zlib.crc32(name, self._seed) % len(self._hashes)]
            right = await self.environment.call_in_thread(is_right, password, hashed)
            return bool(right) and name in self._users
        finally:
            self._running -= 1
            if self._waiting:
                self._waiting.popleft().callback(None)

    def _user(self, name: str, generation: int) -> _Known:
        """Who knows the password of ``name``."""
        consumer = self.environment.consumers.get(name)
        identity = Identity(
            name=name,
            method="basic",
            consumer=name if consumer is not None else None,
            groups=frozenset(consumer.groups) if consumer is not None else frozenset(),
            scopes=frozenset(consumer.scopes) if consumer is not None else frozenset(),
        )
        edit = FieldEdit(self._removed, ((self._told, field_value(name)),) if self._told else ())
        return _Known(identity, edit, generation, self._clock() + self.settings.remember_for)

    def _let_in(self, request: Request, known: _Known) -> None:
        """
        :raises Forbidden: if it is a consumer that is not enabled.
        """
        consumer = known.identity.consumer
        if consumer is not None and not self.environment.consumers[consumer].enabled:
            self._goes_on(request, "its consumer is not enabled")
            raise Forbidden("the caller may not come in at the moment", reason="consumer_disabled")
        request.identity = known.identity
        known.edit.apply(request)

    def _goes_on(self, request: Request, why: str) -> None:
        """Note why, and take out what only we may say: in shadow, or beside other ways to authenticate, it goes on."""
        note_refusal(request, self.environment.label, why)
        self._stripped.apply(request)

    def _refusal(self, request: Request, why: str, *, missing: bool = False) -> Refused:
        self._goes_on(request, why)
        return Refused(
            "a name and a password are needed" if missing else "name or password is wrong",
            reason="credentials_missing" if missing else "credentials_invalid",
            headers=(self._challenge,),
        )
