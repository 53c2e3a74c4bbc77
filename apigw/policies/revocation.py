"""
Revoked tokens: a list by token id (``jti``) and by subject (``sub``), shared through the state store.

    [revocation]
    refresh = 2s
    keep = 1d

Every process holds a copy of the list, and asks the store for it anew every ``refresh``; so a check costs no waiting,
and a revocation holds everywhere after at most ``refresh``. Entries end by themselves when the tokens do.

Revoking a subject ends the tokens that were issued to it up to that moment: it may log in again.

Not here: who revokes (``apigw.gateway.revoking``), the store (``apigw.stores``), the policies that ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from pydantic import ConfigDict
from twisted.logger import Logger

from apigw.config.model import Settings
from apigw.config.values import Duration
from apigw.exchange.responder import drive

KEY = b"apigw:revoked"
"""The set in the store. Its members: ``j`` and a token's id, or ``s``, seconds since the epoch, ``:``, a subject."""


class SharedSets(Protocol):
    """Sets in the state store whose members end by themselves."""

    def set_add(self, key: bytes, member: bytes, until: float) -> Awaitable[None]:
        """Put ``member`` into the set ``key`` until the wall-clock time ``until`` (Redis: a sorted set by time)."""

    def set_discard(self, key: bytes, member: bytes) -> Awaitable[None]:
        """Take ``member`` out of the set ``key``."""

    def set_members(self, key: bytes) -> Awaitable[list[tuple[bytes, float]]]:
        """The members that have not ended, each with its end."""


class RevocationSettings(Settings):
    """Revoked tokens, by their id or their subject."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    refresh: Duration = 2.0
    """How often the list is read from the store: for so long a revoked token may still pass elsewhere."""
    keep: Duration = 86400.0
    """How long an entry is kept when nobody says when the token ends; at least the longest life of a token."""
    on_store_failure: Literal["allow", "deny"] = "allow"
    """When the store has not answered for ``stale_after``: go on with the list as it was, or refuse all tokens."""
    stale_after: Duration = 30.0
    """How old the list may be before ``on_store_failure = deny`` refuses."""


class Revocations:
    """
    The list as this process knows it.

    :ivar tokens: ids of revoked tokens.
    :ivar subjects: subject -> wall-clock time; tokens issued until then are revoked.
    """

    def __init__(
        self,
        settings: RevocationSettings,
        store: SharedSets,
        clock: Callable[[], float],
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], Callable[[], None]],
    ) -> None:
        self.settings = settings
        self._store = store
        self._clock = clock
        self._now = now
        self._later = later
        self._log = Logger()
        self.tokens: set[str] = set()
        self.subjects: dict[str, float] = {}
        self._read_at = clock()
        self._failing = False
        self._stop: Callable[[], None] | None = None
        self._denies = settings.on_store_failure == "deny"

    def revoked(self, jti: str | None, subject: str | None, issued: float | None) -> bool:
        """
        Whether a token is revoked. A token that doesn't say when it was issued counts as issued long ago.
        """
        if self._denies and self._clock() - self._read_at > self.settings.stale_after:
            return True
        if jti is not None and jti in self.tokens:
            return True
        if subject is not None and self.subjects:
            until = self.subjects.get(subject)
            return until is not None and (issued is None or issued <= until)
        return False

    async def revoke_token(self, jti: str, until: float | None = None) -> None:
        """Revoke one token, or session, until it ends anyway (wall-clock seconds)."""
        self.tokens.add(jti)
        await self._store.set_add(KEY, b"j" + _bytes(jti), self._end(until))

    async def revoke_subject(self, subject: str, until: float | None = None) -> None:
        """Revoke all tokens that ``subject`` has at this moment; ``until``: when the last of them ends."""
        issued = self._now()
        self.subjects[subject] = issued
        await self._store.set_add(KEY, b"s%.3f:%b" % (issued, _bytes(subject)), self._end(until))

    async def restore(self, *, jti: str | None = None, subject: str | None = None) -> bool:
        """Take an entry back. True if there was one."""
        found = False
        for member, _ in await self._store.set_members(KEY):
            kind, _, value = _parsed(member)
            if value == (jti if kind == "j" else subject):
                await self._store.set_discard(KEY, member)
                found = True
        await self.read()
        return found

    async def entries(self) -> list[dict[str, object]]:
        """The whole list, from the store: ``jti`` or ``sub`` with ``issued_until``, and ``until``, each JSON-able."""
        found: list[dict[str, object]] = []
        for member, until in await self._store.set_members(KEY):
            kind, issued, value = _parsed(member)
            found.append(
                {"jti": value, "until": until}
                if kind == "j"
                else {"sub": value, "issued_until": issued, "until": until}
            )
        return found

    def _end(self, until: float | None) -> float:
        return self._now() + self.settings.keep if until is None else until

    async def read(self) -> None:
        """Read the list from the store."""
        tokens: set[str] = set()
        subjects: dict[str, float] = {}
        for member, _ in await self._store.set_members(KEY):
            kind, issued, value = _parsed(member)
            if kind == "j":
                tokens.add(value)
            else:
                subjects[value] = max(issued, subjects.get(value, 0.0))
        self.tokens, self.subjects = tokens, subjects
        self._read_at = self._clock()

    async def start(self) -> None:
        """Read the list now, and again every ``refresh`` until ``stop``."""
        await self._read_and_log()
        self._again()

    def stop(self) -> None:
        """Read no more."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def _again(self) -> None:
        self._stop = self._later(self.settings.refresh, self._tick)

    def _tick(self) -> None:
        drive(self._read_and_log(), lambda _: self._again(), lambda _: self._again())

    async def _read_and_log(self) -> None:
        try:
            await self.read()
        except Exception as error:
            if not self._failing:
                self._log.error("the list of revoked tokens can't be read: {error}", error=str(error))
            self._failing = True
        else:
            if self._failing:
                self._log.info("the list of revoked tokens can be read again")
            self._failing = False


def _bytes(text: str) -> bytes:
    """JSON may hold half of a surrogate pair."""
    return text.encode("utf-8", "surrogatepass")


def _parsed(member: bytes) -> tuple[str, float, str]:
    try:
        text = member.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = member.decode("utf-8", "replace")
    if text[:1] == "j":
        return "j", 0.0, text[1:]
    issued, _, subject = text[1:].partition(":")
    return "s", float(issued), subject
