"""
Values that name other sections: ``upstream = users``, ``policies = cors shop, jwt main``.

    fallback: Annotated[str, section_name("upstream")]

A name is taken as it stands and noted; whether anything defines it is seen when all sections are read (``resolving``).
A form that holds a name among other things calls ``refer`` with that piece of its text.

Not here: what sections there are.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import lru_cache
from typing import Annotated, NamedTuple

from pydantic import InstanceOf

from apigw.config.text import Text, Wrong
from apigw.config.values import Form, one_line

POLICY = "policy"
"""The role of everything that a ``policies`` list may name."""


class Reference(NamedTuple):
    """A name that something must define: a section of this kind, or one that plays this role."""

    text: Text
    role: str


_noted: ContextVar[list[Reference] | None] = ContextVar("noted", default=None)


class noting:  # noqa: N801 - it is used like a function; as a generator it would take five times as long
    """Collect the references of the settings that are made inside."""

    __slots__ = ("_token",)

    def __enter__(self) -> list[Reference]:
        found: list[Reference] = []
        self._token = _noted.set(found)
        return found

    def __exit__(self, *_: object) -> None:
        _noted.reset(self._token)


def refer(text: Text, role: str) -> str:
    """Take a text as the name of a section of that kind or role, which must exist."""
    name = one_line(text)
    noted = _noted.get()
    if noted is not None:
        noted.append(Reference(text, role))
    return name


class PolicyReference(NamedTuple):
    """
    One item of a ``policies`` list.

    :ivar kind: empty in ``-NAME``, which says no kind.
    :ivar name: empty for a bare kind.
    :ivar removed: it begins with ``-``: the policy is taken out of the defaults.
    """

    kind: str
    name: str
    removed: bool = False

    def __str__(self) -> str:
        return "-" * self.removed + " ".join(filter(None, (self.kind, self.name)))


ANYBODY = PolicyReference("none", "")
"""What ``auth = none`` says."""


def parse_policy(text: Text) -> PolicyReference:
    """
    An item of a list of policies: kind and name, a bare kind, or a name (also with its kind) behind a ``-``; or
    ``jwt main | api_key partners``, any of several, which is the policy ``auth`` with that for its name.
    """
    name = refer(text, POLICY)
    if "|" in name:
        return PolicyReference("auth", " | ".join(map(str, parse_alternatives(text))))
    item = _item(name)
    if item is None:
        raise Wrong("{shown} names no policy")
    return item


@lru_cache(maxsize=4096)  # many routes list the same policies
def _item(text: str) -> PolicyReference | None:
    removed = text.startswith("-")
    words = text.removeprefix("-").split()
    if not words or len(words) > 2 or text.startswith(("- ", "--")):
        return None
    if len(words) == 1:
        return PolicyReference("", words[0], removed=True) if removed else PolicyReference(words[0], "")
    return PolicyReference(words[0], words[1], removed)


def parse_alternatives(text: Text) -> tuple[PolicyReference, ...]:
    """``jwt main | api_key partners``: any of several policies, in this order."""
    found = []
    start = 0
    for piece in one_line(text).split("|"):
        item = parse_policy(text.part(start, start + len(piece)))
        start += len(piece) + 1
        if item.removed:
            raise Wrong("an alternative can't be taken out here")
        if item.kind == "auth":
            raise Wrong("an alternative can't be another `auth`; write its alternatives here")
        found.append(item)
    return tuple(found)


def parse_authentication(text: Text) -> PolicyReference:
    """Who may come in: one policy, any of several, or ``none``."""
    if text == "none":
        return ANYBODY
    if text.startswith("-"):
        raise Wrong("{shown} takes a policy out, which `none` does here")
    return parse_policy(text)


def section_name(role: str) -> Form:
    """
    Give the form for names of sections.

    :param role: their kind, or another kind that may stand for it.
    """
    return Form(f"{role} name", f"the name of a section [{role} NAME]", lambda text: refer(text, role))


UpstreamName = Annotated[str, section_name("upstream")]
PolicyItem = Annotated[
    InstanceOf[PolicyReference],  # not looked into field by field, for each route
    Form("policy", "KIND NAME, KIND, or -NAME to take one of [defaults] out", parse_policy),
]
Authentication = Annotated[
    PolicyReference,
    Form("policies", "KIND NAME, several with | between them, or none", parse_authentication),
]
