"""
Consumers: callers that the configuration knows by name, with their groups and their API keys.

    [consumer acme]
    groups = partners, eu
    keys =
        sha256:7f0e8b6d1bbd1e0a2a3c5e7f9b1d3c5e7f9b1d3c5e7f9b1d3c5e7f9b1d3c5e7f
        sha256:0a2a3c5e7f9b1d3c5e7f9b1d3c5e7f7f0e8b6d1bbd1e9b1d3c5e7f9b1d3c5e7f expires=2030-01-31

A key stands here only as its SHA-256, which is safe because a key is 32 random bytes (``apigw key new`` makes one):
there is nothing to guess, so a slow hash would only cost time. Several keys are live at once, so that one can be
exchanged for another without a gap: add the new one, give the old one an end, remove it later.

Not here: who asks for a key (``api_key``), who may do what (``acl``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from pydantic import ConfigDict

from apigw.config.model import Settings
from apigw.config.text import Text, Wrong
from apigw.config.values import Flag, Form, Several, StrList, one_line


@dataclass(frozen=True, slots=True)
class KeyHash:
    """
    One API key.

    :ivar digest: the 32 bytes of its SHA-256. :ivar expires: wall-clock seconds since the epoch; None for never.
    """

    digest: bytes
    expires: float | None = None


def parse_key(text: Text) -> KeyHash:
    """
    ``sha256:HEX`` or ``sha256:HEX expires=2030-01-31`` (or ``...T12:00:00Z``; without a zone it is UTC).

    No message repeats the value: it may be a key that was put here by mistake.
    """
    hashed, *options = one_line(text).split()
    scheme, _, digits = hashed.partition(":")
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if scheme != "sha256" or len(digest) != 32:
        raise Wrong("this is not the hash of a key", hint="`apigw key new NAME` makes a key and its hash")
    expires = None
    for option in options:
        name, _, value = option.partition("=")
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if name != "expires" or moment is None:
            raise Wrong("a key's hash may only be followed by `expires=` and a date")
        expires = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return KeyHash(digest, expires)


def show_key(key: KeyHash) -> str:
    """The key as it is written."""
    end = "" if key.expires is None else f" expires={datetime.fromtimestamp(key.expires, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return f"sha256:{key.digest.hex()}{end}"


Key = Annotated[
    KeyHash,
    Form("hash of a key", "`sha256:` and 64 hex digits, and `expires=2030-01-31` if it ends", parse_key, show_key),
]


class ConsumerSettings(Settings):
    """A caller that is known by name."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    groups: StrList = ()
    """The groups that it is in, for ``acl``."""
    scopes: StrList = ()
    """What its keys allow, for ``acl``."""
    keys: Several[Key] = ()
    """Hashes of its API keys, each with an end if it has one."""
    enabled: Flag = True
    """``no`` refuses its keys, and everybody else who proves to be it."""
