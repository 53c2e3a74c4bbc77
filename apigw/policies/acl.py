"""
Lets authenticated callers do what their groups, scopes and names allow.

    [acl staff]
    allow = group:admins, group:support, consumer:acme
    deny = name:mallory
    require = scope:orders:write

A caller is refused that fits one of ``deny``, that fits none of ``allow`` (if there is one), or that does not fit all
of ``require``. Who nobody has authenticated is refused.

Not here: who the caller is; that is proved by a policy before this one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import model_validator

from apigw.config.problems import did_you_mean
from apigw.config.text import Text, Wrong
from apigw.config.values import Form, Several, one_line
from apigw.exchange.request import Identity, Request
from apigw.exchange.response import Response
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.tokens import Forbidden, challenge, note_refusal

KINDS = ("group", "scope", "consumer", "name", "method")


@dataclass(frozen=True, slots=True)
class Who:
    """``group:admins``: what of an identity is compared, and with what."""

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


def parse_who(text: Text) -> Who:
    """``KIND:VALUE``."""
    kind, colon, value = one_line(text).partition(":")
    if not colon or not value or kind not in KINDS:
        raise Wrong("{shown} does not say who", hint=did_you_mean(kind, KINDS))
    return Who(kind, value.strip())


OneOf = Annotated[
    Who, Form("who", "group:NAME, scope:NAME, consumer:NAME, name:NAME or method:POLICY such as method:jwt", parse_who)
]


class Settings(PolicySettings):
    """Authenticated callers may do what their groups, scopes and names allow."""

    allow: Several[OneOf] = ()
    """Who may: one of these must fit. Empty: everybody who is authenticated."""
    deny: Several[OneOf] = ()
    """Who may not, whatever else fits."""
    require: Several[OneOf] = ()
    """What must all fit, besides."""

    @model_validator(mode="after")
    def _says_something(self) -> Settings:
        if not self.allow and not self.deny and not self.require:
            raise Wrong("it allows and denies nothing: allow, deny or require is needed")
        return self


class _Set:
    """Several ``Who``, ready to be compared with an identity."""

    def __init__(self, all_of: Iterable[Who]) -> None:
        by: dict[str, set[str]] = {kind: set() for kind in KINDS}
        for who in all_of:
            by[who.kind].add(who.value)
        self.groups = frozenset(by["group"])
        self.scopes = frozenset(by["scope"])
        self._consumers = by["consumer"]
        self._names = by["name"]
        self._methods = by["method"]

    def fits(self, identity: Identity) -> bool:
        """Whether one of them fits."""
        return (
            not self.groups.isdisjoint(identity.groups)
            or not self.scopes.isdisjoint(identity.scopes)
            or identity.consumer in self._consumers
            or identity.name in self._names
            or identity.method in self._methods
        )


class ACL(Policy[Settings]):
    """The policy ``acl``."""

    needs_identity = True

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._allow = _Set(settings.allow) if settings.allow else None
        self._deny = _Set(settings.deny) if settings.deny else None
        self._require = [_Set([who]) for who in settings.require]

    def on_request(self, request: Request) -> Response | None:
        identity = request.identity
        if identity is None:
            raise self._refusal(request, "nobody is authenticated")
        if self._deny is not None and self._deny.fits(identity):
            raise self._refusal(request, "it is denied")
        if self._allow is not None and not self._allow.fits(identity):
            raise self._refusal(request, "it is not allowed")
        for one in self._require:
            if not one.fits(identity):
                scope = " ".join(one.scopes)
                raise self._refusal(request, "it lacks what is required", scope)
        return None

    def _refusal(self, request: Request, why: str, scope: str = "") -> Forbidden:
        note_refusal(request, self.environment.label, why)
        if not scope:
            return Forbidden("the caller may not do this")
        more: dict[str, Any] = {"error": "insufficient_scope", "scope": scope}
        asked = challenge(b"Bearer", self.environment.name or "acl", **more)
        return Forbidden("the caller may not do this", reason="insufficient_scope", headers=(asked,))
