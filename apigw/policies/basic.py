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
import secrets
from pathlib import Path
from typing import Annotated

import argon2
import bcrypt
from pydantic import Field
from twisted.internet.defer import Deferred

from apigw.config.values import Count, Duration, FilePath, Flag
from apigw.exchange.errors import GatewayFault
from apigw.exchange.request import Identity, Request
from apigw.exchange.response import Response
from apigw.policies.edits import FieldEdit
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.tokens import Refused, Remembered, field_value, note_refusal, quoted
from apigw.policies.watched_file import WatchedFile

_BCRYPT = (b"$2a$", b"$2b$", b"$2y$")
_ARGON2 = (b"$argon2id$", b"$argon2i$", b"$argon2d$")
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


def read_users(path: Path) -> dict[bytes, bytes]:
    """
    The hashes by name.

    :raises ValueError: with the number of the line, and nothing else of it.
    """
    users: dict[bytes, bytes] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        name, colon, hashed = line.partition(b":")
        if not colon or not name:
            raise ValueError(f"line {number} is not `name:hash`")
        if not hashed.startswith(_BCRYPT + _ARGON2):
            raise ValueError(f"line {number} has no bcrypt or Argon2 hash (`htpasswd -B` makes one)")
        users[name] = hashed
    if not users:
        raise ValueError("there is no user in it")
    return users


def is_right(password: bytes, hashed: bytes) -> bool:
    """Whether it is the password of that hash. Takes long."""
    try:
        if hashed.startswith(_BCRYPT):
            # bcrypt looks at 72 bytes: a longer password would be right by its beginning.
            return len(password) <= 72 and bcrypt.checkpw(password, hashed)
        return argon2.PasswordHasher().verify(hashed, password)
    except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError, ValueError):
        return False


class _Known:
    __slots__ = ("edit", "generation", "identity", "until")

    def __init__(self, identity: Identity, edit: FieldEdit, generation: int, until: float) -> None:
        self.identity = identity
        self.edit = edit
        self.generation = generation
        self.until = until


class Basic(Policy[Settings]):
    """The policy ``basic``."""

    authenticates = True

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._clock = environment.clock
        self._salt = secrets.token_bytes(32)
        self._known: Remembered[_Known] = Remembered(settings.remember)
        self._users: dict[bytes, bytes] = {}
        self._generation = 0
        self._file = WatchedFile(settings.file, self._take, environment)
        self._running = 0
        self._waiting: list[Deferred[None]] = []
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

    def _take(self, path: Path) -> None:
        self._users = read_users(path)
        self._generation += 1

    async def _right(self, name: bytes, password: bytes) -> bool:
        """
        Compute it, a few at a time.

        :raises GatewayFault: if too many wait.
        """
        if self._running >= self.settings.at_once:
            if len(self._waiting) >= self.settings.queue:
                raise GatewayFault(
                    "too many passwords wait to be checked",
                    status=503,
                    reason="busy",
                    headers=((b"Retry-After", b"1"),),
                )
            turn: Deferred[None] = Deferred()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                raise
        self._running += 1
        try:
            # An unknown name takes as long as a known one: the time must not tell which names there are.
            hashed = self._users.get(name) or next(iter(self._users.values()))
            right = await self.environment.call_in_thread(is_right, password, hashed)
            return bool(right) and name in self._users
        finally:
            self._running -= 1
            if self._waiting:
                self._waiting.pop(0).callback(None)

    def on_request(self, request: Request) -> object:
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
            request.identity = known.identity
            known.edit.apply(request)
            return None
        return self._computed(request, encoded, key)

    async def _computed(self, request: Request, encoded: bytes, key: bytes) -> Response | None:
        try:
            name, colon, password = base64.b64decode(encoded.strip(b" "), validate=True).partition(b":")
            text = name.decode()
        except ValueError:
            raise self._refusal(request, "they are malformed") from None
        generation = self._generation
        if not colon or not await self._right(name, password):
            raise self._refusal(request, "name or password is wrong")
        consumer = self.environment.consumers.get(text)
        known = consumer is not None and consumer.enabled
        identity = Identity(
            name=text,
            method="basic",
            consumer=text if known else None,
            groups=frozenset(consumer.groups) if consumer is not None and known else frozenset(),
            scopes=frozenset(consumer.scopes) if consumer is not None and known else frozenset(),
        )
        edit = FieldEdit(self._removed, ((self._told, field_value(text)),) if self._told else ())
        self._known.put(key, _Known(identity, edit, generation, self._clock() + self.settings.remember_for))
        request.identity = identity
        edit.apply(request)
        return None

    def _refusal(self, request: Request, why: str, *, missing: bool = False) -> Refused:
        note_refusal(request, self.environment.label, why)
        self._stripped.apply(request)
        return Refused(
            "a name and a password are needed" if missing else "name or password is wrong",
            reason="credentials_missing" if missing else "credentials_invalid",
            headers=(self._challenge,),
        )
