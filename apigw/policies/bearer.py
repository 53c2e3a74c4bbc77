"""
What ways to authenticate by a bearer token have in common (RFC 6750): where it is, what its claims must say besides
being true, what the service and the policies behind it are told of them, and how a refusal is worded.

Not here: what proves a token (``jwt``, ``introspection``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import Field

from apigw.config.values import Count, Duration, Flag, HeaderName, Pairs, Size, StrList, Word
from apigw.exchange.claims import Wanted, claim_at, field_value, words
from apigw.exchange.request import Identity, Request
from apigw.policies.edits import FieldEdit
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.tokens import (
    Ambiguous,
    Forbidden,
    Place,
    Refused,
    challenge,
    note_refusal,
)


class BearerSettings(PolicySettings):
    """What may be said of every bearer token."""

    issuer: StrList = ()
    """One of these must be the token's ``iss``; empty: any."""
    audience: StrList = ()
    """One of these must be in the token's ``aud``; ``*`` is any. Empty: tokens that name an audience are refused."""
    leeway: Duration = 60.0
    """By how much clocks may differ when ``exp``, ``nbf`` and ``iat`` are checked."""
    require: StrList = ()
    """Claims that must be there."""
    scopes: StrList = ()
    """Scopes that the token must all have, else 403."""
    scopes_claim: Word = "scope"
    """Where its scopes are: a list, or a string separated by spaces; dots lead into objects."""
    groups_claim: Word = "groups"
    """Where its groups are, for ``acl``."""
    claims: Pairs[str] = Field({})
    """``name: value|value`` conditions, else 403; ``*`` is any value; a list must hold one of them."""
    claims_to_headers: Pairs[HeaderName] = Field({})
    """``claim: Header``: told to the service; whatever the client sends under these names is removed."""
    identity_claim: Word = "sub"
    """The claim that is the caller's name."""
    consumer_claim: str = ""
    """The claim that names a ``[consumer X]``, if there is one."""
    forward_token: Flag = True
    """Whether the service gets the token as well."""
    header: HeaderName = "Authorization"
    """The field with the token: after ``Bearer`` in Authorization, alone or after ``Bearer`` in others."""
    cookie: str = ""
    """A cookie with the token, looked at if the field has none."""
    query: str = ""
    """A query parameter with the token, looked at last; it is hidden in the access log."""
    realm: str = ""
    """The realm in WWW-Authenticate; empty: the section's name."""
    max_token_size: Size = 8192
    """A longer token is refused unread."""
    remember: Count = 10000
    """How many tokens are remembered in each process, about 3 KiB each."""


S = TypeVar("S", bound=BearerSettings)


class Lack(NamedTuple):
    """Why a good token is not good for this: words for the log, and the reason code."""

    why: str
    reason: str


class Caller:
    """
    What follows from a token that is good, as it is remembered.

    :ivar until: wall-clock seconds at which that ends. :ivar generation: of the keys that proved it.
    :ivar edit: of the request's fields, None for none.
    :ivar lack: None if it is good for this.
    """

    __slots__ = ("edit", "generation", "identity", "issued", "jti", "lack", "subject", "until")

    def __init__(
        self, identity: Identity, until: float, edit: FieldEdit | None, lack: Lack | None, generation: int
    ) -> None:
        claims = identity.claims
        self.identity = identity
        self.until = until
        self.edit = edit
        self.lack = lack
        self.generation = generation
        self.jti: str | None = claims.get("jti")
        self.subject: str | None = claims.get("sub")
        self.issued: float | None = claims.get("iat")


class BearerPolicy(Policy[S]):
    """The base of policies that ask for a bearer token; ``kind`` names them in identities."""

    authenticates = True
    kind = ""

    def __init__(self, settings: S, environment: Environment) -> None:
        super().__init__(settings, environment)
        self.identity_headers = frozenset(name.lower().encode() for name in settings.claims_to_headers.values())
        self._now = environment.now
        self._revocations = environment.revocations
        self._place = Place(settings.header, frozenset({b"bearer"}), settings.cookie, settings.query)
        self._header = self._place.header
        self.credential_headers = self._place.fields
        self._realm = settings.realm or environment.name or self.kind
        self._scopes = frozenset(settings.scopes)
        self._conditions = {name: Wanted(value.split("|")) for name, value in settings.claims.items()}
        self._disabled = frozenset(name for name, consumer in environment.consumers.items() if not consumer.enabled)
        self._told = [
            (claim, name.encode(), " " if claim == settings.scopes_claim else ",")
            for claim, name in settings.claims_to_headers.items()
        ]
        removed = self.identity_headers
        if not settings.forward_token:
            removed |= {self._header}
        self._removed = removed
        self._stripped = FieldEdit(self.identity_headers) if self.identity_headers else None

    def _shown(self, request: Request, values: list[bytes]) -> tuple[bytes, bytes]:
        """
        What was sent, by which it may be remembered, and the token in it.

        :param values: those of the field.
        :raises Refused: if there is none, or more than one.
        """
        try:
            found = self._place.find(request, values)
        except Ambiguous:
            raise self._refusal(request, "there is more than one") from None
        if found is None:
            raise self._refusal(request, "there is no token", missing=True)
        return found

    # ---- what follows from the claims --------------------------------------------------------------------------------

    def _caller(self, claims: Mapping[str, Any], until: float, generation: int = 0) -> Caller:
        """What follows from claims that are true."""
        settings = self.settings
        add = [
            (name, field_value(claim, separator))
            for path, name, separator in self._told
            if (claim := claim_at(claims, path)) is not None
        ]
        edit = FieldEdit(self._removed, tuple(add)) if self._removed or add else None
        scopes = words(claim_at(claims, settings.scopes_claim))
        groups = words(claim_at(claims, settings.groups_claim))
        consumer = claim_at(claims, settings.consumer_claim) if settings.consumer_claim else None
        known = self.environment.consumers.get(consumer) if isinstance(consumer, str) else None
        if known is not None and known.groups:
            groups |= frozenset(known.groups)
        identity = Identity(
            self._name(claims), self.kind, consumer if known is not None else None, groups, scopes, claims
        )
        return Caller(identity, until, edit, self._lacking(identity), generation)

    def _name(self, claims: Mapping[str, Any]) -> str:
        name = claim_at(claims, self.settings.identity_claim)
        return name if isinstance(name, str) else ""

    def _lacking(self, identity: Identity) -> Lack | None:
        if identity.consumer in self._disabled:
            return Lack("its consumer is not enabled", reason="consumer_disabled")
        if not self._scopes <= identity.scopes:
            return Lack("it lacks a scope", reason="insufficient_scope")
        for name, wanted in self._conditions.items():
            if not wanted.fits(claim_at(identity.claims, name)):
                return Lack(f"its {name} does not fit", reason="claim_refused")
        return None

    def _let_in(self, request: Request, caller: Caller) -> None:
        """
        :raises Refused: if the token is revoked.
        :raises Forbidden: if it is not good for this.
        """
        revocations = self._revocations
        if revocations is not None and revocations.revoked(caller.jti, caller.subject, caller.issued):
            raise self._refusal(request, "it is revoked")
        if caller.lack is not None:
            raise self._forbidden(request, *caller.lack)
        request.identity = caller.identity
        if caller.edit is not None:
            caller.edit.apply(request)
        if self._place.hides:
            self._place.hide(request, forward=self.settings.forward_token)

    # ---- refusals ----------------------------------------------------------------------------------------------------

    def _goes_on(self, request: Request, why: str) -> None:
        """
        Note why the request was refused, and take out of it what only we may say: in shadow, or beside other ways to
        authenticate, it goes on.
        """
        note_refusal(request, self.environment.label, why)
        if self._stripped is not None:
            self._stripped.apply(request)
        self._place.hide(request, forward=True)

    def _refusal(self, request: Request, why: str, *, missing: bool = False) -> Refused:
        self._goes_on(request, why)
        if missing:
            return Refused("a token is needed", reason="token_missing", headers=(challenge(b"Bearer", self._realm),))
        asked = challenge(b"Bearer", self._realm, error="invalid_token")
        return Refused("the token can't be taken", reason="token_invalid", headers=(asked,))

    def _forbidden(self, request: Request, why: str, reason: str) -> Forbidden:
        self._goes_on(request, why)
        if reason != "insufficient_scope":
            return Forbidden("the token does not allow this", reason=reason)
        asked = challenge(b"Bearer", self._realm, error=reason, scope=" ".join(self.settings.scopes))
        return Forbidden("the token lacks a scope", reason=reason, headers=(asked,))
