"""
Lets in who shows the API key of a configured consumer.

    [api_key partners]
    header = X-API-Key
    consumer_header = X-Consumer

    [consumer acme]
    groups = partners
    keys = sha256:4a1d2ab1fe5bb47ca95d6b9ac6a29f3dbd6a4a4c8d9b3e6f2c1d0e9f8a7b6c5d

``apigw key new acme`` makes a key, and prints it once, with the section that holds only its hash.

Not here: the consumers (``consumers``), what they may do (``acl``).
"""

from __future__ import annotations

import hmac
import re
import secrets
from datetime import datetime
from hashlib import sha256

from apigw.config.values import Flag, HeaderName
from apigw.exchange.request import Identity, Request
from apigw.exchange.response import Response
from apigw.policies.edits import FieldEdit
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.tokens import (
    Ambiguous,
    Place,
    Refused,
    challenge,
    note_refusal,
)

LONGEST = 512
"""Bytes of a key; ours have 46."""


def new_key(name: str, expires: str = "") -> tuple[str, str]:
    """
    A new key for a consumer, and the section that lets it in.

    :param expires: a date, or empty for none.
    :return: the key, which is kept nowhere, and the INI text.
    :raises ValueError: if ``name`` can't be a section's name, or ``expires`` is no date.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise ValueError("a consumer's name has letters, digits, `_`, `.` and `-` only")
    try:
        datetime.fromisoformat(expires or "2030-01-31")
    except ValueError:
        raise ValueError("a date is written like 2030-01-31 or 2030-01-31T12:00:00Z") from None
    key = f"ak_{secrets.token_urlsafe(32)}"
    end = f" expires={expires}" if expires else ""
    return key, f"[consumer {name}]\nkeys = sha256:{sha256(key.encode()).hexdigest()}{end}\n"


class Settings(PolicySettings):
    """Who shows the API key of a configured consumer comes in."""

    header: HeaderName = "X-API-Key"
    """The field with the key; in ``Authorization`` it stands behind ``ApiKey`` or ``Bearer``."""
    query: str = ""
    """A query parameter with the key, looked at if the field is not there; it is hidden in the access log."""
    cookie: str = ""
    """A cookie with the key, looked at last."""
    forward_key: Flag = False
    """Whether the service gets the key as well."""
    consumer_header: str = ""
    """A field that tells the service the consumer's name; what the client sends under this name is removed."""
    realm: str = ""
    """The realm in WWW-Authenticate; empty: the section's name."""


class _Known:
    """A consumer's key, and what follows from it."""

    __slots__ = ("digest", "edit", "expires", "identity")

    def __init__(self, digest: bytes, expires: float, identity: Identity, edit: FieldEdit) -> None:
        self.digest = digest
        self.expires = expires
        self.identity = identity
        self.edit = edit


class APIKey(Policy[Settings]):
    """The policy ``api_key``."""

    authenticates = True

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._place = Place(settings.header, frozenset({b"apikey", b"bearer"}), settings.cookie, settings.query)
        self._header = self._place.header
        self.credential_headers = self._place.fields
        self._now = environment.now
        self._realm = settings.realm or environment.name or "api_key"
        told = settings.consumer_header.encode()
        self.identity_headers = frozenset({told.lower()}) if told else frozenset[bytes]()
        self._stripped = FieldEdit(self.identity_headers)
        removed = self.identity_headers | (frozenset[bytes]() if settings.forward_key else {self._header})
        # By the first half of the hash, which is public enough to look up; the whole is compared in constant time.
        self._keys: dict[bytes, list[_Known]] = {}
        # What was seen to be right, by the field that it came in.
        self._seen: dict[bytes, _Known] = {}
        for name, consumer in environment.consumers.items():
            if not consumer.enabled:
                continue
            identity = Identity(
                name, "api_key", name, groups=frozenset(consumer.groups), scopes=frozenset(consumer.scopes)
            )
            edit = FieldEdit(removed, ((told, name.encode()),) if told else ())
            for key in consumer.keys:
                expires = float("inf") if key.expires is None else key.expires
                known = _Known(key.digest, expires, identity, edit)
                self._keys.setdefault(key.digest[:16], []).append(known)

    def on_request(self, request: Request) -> Response | None:
        values = request.headers.get_all(self._header)
        known = self._seen.get(values[0]) if len(values) == 1 else None
        if known is None:
            known = self._looked_up(request, values)
        if self._now() >= known.expires:
            raise self._refusal(request, "the key is expired")
        request.identity = known.identity
        known.edit.apply(request)
        if self._place.hides:
            self._place.hide(request, forward=self.settings.forward_key)
        return None

    def _looked_up(self, request: Request, values: list[bytes]) -> _Known:
        try:
            found = self._place.find(request, values)
        except Ambiguous:
            raise self._refusal(request, "there is more than one key") from None
        if found is None:
            raise self._refusal(request, "there is no key", missing=True)
        sent, key = found
        if len(key) > LONGEST:
            raise self._refusal(request, "the key is too long")
        digest = sha256(key).digest()
        for known in self._keys.get(digest[:16], ()):
            if hmac.compare_digest(known.digest, digest):
                if values and values[0] is sent and len(self._seen) < 100_000:
                    self._seen[sent] = known
                return known
        raise self._refusal(request, "the key is not known")

    def _refusal(self, request: Request, why: str, *, missing: bool = False) -> Refused:
        note_refusal(request, self.environment.label, why)
        self._stripped.apply(request)
        self._place.hide(request, forward=True)
        return Refused(
            "an API key is needed" if missing else "the API key can't be taken",
            reason="key_missing" if missing else "key_invalid",
            headers=(challenge(b"ApiKey", self._realm),),
        )
