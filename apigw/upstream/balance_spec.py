"""
What ``balance = ...`` and other options that hash a request may say.

    balance = least_request
    balance = hash:header:X-Tenant

Not here: the balancers (``apigw.upstream.balancing``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from apigw.config.problems import did_you_mean
from apigw.config.text import Text, Wrong, written
from apigw.config.values import Form

KINDS = ("round_robin", "least_request", "ewma", "random")
KEYS = ("header", "cookie", "query", "ip", "path")
_NAMED = ("header", "cookie", "query")
_KEY_WORDS = "header:NAME, cookie:NAME, query:NAME, ip or path"


@dataclass(frozen=True, slots=True)
class KeySpec:
    """What of a request is hashed: ``kind`` is one of ``KEYS``; ``name`` is empty for ip and path."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.kind}:{self.name}" if self.name else self.kind


@dataclass(frozen=True, slots=True)
class BalanceSpec:
    """How a target is chosen: ``kind`` is one of ``KINDS``, or ``hash`` with a ``key``."""

    kind: str
    key: KeySpec | None = None

    def __str__(self) -> str:
        """As it is written."""
        return f"hash:{self.key}" if self.key is not None else self.kind


def parse_key(text: Text) -> KeySpec:
    """
    ``header:NAME``, ``cookie:NAME``, ``query:NAME``, ``ip`` or ``path``.

    :raises Wrong: for anything else.
    """
    kind, colon, name = text.strip().partition(":")
    if kind not in KEYS:
        raise Wrong("{shown} is nothing that can be hashed", _KEY_WORDS, did_you_mean(kind, KEYS))
    if kind in _NAMED and not name:
        raise Wrong("{shown} names none", f"{kind}:NAME")
    if kind not in _NAMED and colon:
        raise Wrong("{shown} takes no name", kind)
    return KeySpec(kind, name)


def parse_balance(text: Text) -> BalanceSpec:
    """
    The value of ``balance``.

    :raises Wrong: if there is no such way.
    """
    kind, _, rest = text.strip().partition(":")
    if kind == "hash":
        return BalanceSpec("hash", parse_key(written(rest)))
    if kind not in KINDS or rest:
        raise Wrong("{shown} is no way to balance", hint=did_you_mean(text.strip(), (*KINDS, "hash:ip", "hash:path")))
    return BalanceSpec(kind)


Balance = Annotated[BalanceSpec, Form("balance", ", ".join(KINDS) + " or hash: and " + _KEY_WORDS, parse_balance)]
Key = Annotated[KeySpec, Form("key", _KEY_WORDS, parse_key)]
