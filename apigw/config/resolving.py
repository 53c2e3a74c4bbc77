"""
Names of other sections: does anything define them?

Not here: where names are noted (``references``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import pydantic

from apigw.config.binding import option_at
from apigw.config.configuration import takes_out
from apigw.config.kinds import Kinds, meant
from apigw.config.model import Settings
from apigw.config.problems import Problem, did_you_mean
from apigw.config.reader import Document, Section
from apigw.config.references import POLICY, PolicyReference, Reference, parse_policy
from apigw.config.text import Text, Wrong

MOST_COMPARED = 20_000
"""Names that are compared with unknown ones in all, to say what was probably meant: each takes up to 50 us."""


def unresolved(
    document: Document,
    kinds: Kinds,
    references: Iterable[tuple[Section, Reference]],
    policies: dict[tuple[str, str], Settings],
) -> Iterator[Problem]:
    """
    Look all names up, and give those that nothing defines.

    :param policies: settings of the sections that are policies; kinds listed without a section are added to it.
    """
    references = list(references)
    names = _Names(document, kinds)
    defaults = [
        item
        for section, each in references
        if section.kind == "defaults" and each.role == POLICY and (item := _policy(each.text)) and not item.removed
    ]
    found: set[tuple[str, str]] = set()  # most names stand in many sections
    for section, reference in references:
        key = (reference.role, reference.text)
        if key in found:
            continue
        try:
            if reference.role == POLICY:
                _find_policy(names, section, reference.text, defaults=defaults, policies=policies)
            else:
                _find_section(names, reference)
        except Wrong as wrong:
            what = wrong.what.replace("{shown}", f"`{reference.text.shown}`")
            option = option_at(section, reference.text.place)
            hint = "" if reference.text.secret else wrong.hint
            yield Problem(*reference.text.place, section.title, option, what, wrong.expected, hint)
        else:
            if not key[1].startswith("-"):  # what takes out of the defaults is right in some sections only
                found.add(key)


class _Names:
    """The names of all sections, by what they may be used as."""

    def __init__(self, document: Document, kinds: Kinds) -> None:
        self.sections = document.sections
        self.kinds = kinds
        self.policies = [name for name, each in kinds.items() if each.policy]
        self.of_kind: dict[str, list[str]] = {}
        for kind, name in document.sections:
            self.of_kind.setdefault(kind, []).append(name)
        self.of_role: dict[str, dict[str, None]] = {}
        for written, names in self.of_kind.items():
            kind = meant(written, kinds)
            for role in {kind, kinds[kind].role} - {""} if kind in kinds else ():
                self.of_role.setdefault(role, {}).update(dict.fromkeys(names))
        self._compared = 0

    def like(self, word: str, names: Collection[str]) -> str:
        """What was probably meant; of many unknown names, for the first ones only."""
        if self._compared >= MOST_COMPARED:
            return ""
        self._compared += len(names)
        return did_you_mean(word, names)


def _find_section(names: _Names, reference: Reference) -> None:
    known = names.of_role.get(reference.role, {})
    if str(reference.text) not in known:
        expected = "" if known else f"a section [{reference.role} NAME]"
        raise Wrong(f"there is no {reference.role} {{shown}}", expected, names.like(reference.text, known))


def _policy(text: Text) -> PolicyReference | None:
    try:
        return parse_policy(text)
    except Wrong:  # reported where it was parsed
        return None


def _find_policy(
    names: _Names,
    section: Section,
    text: Text,
    *,
    defaults: Sequence[PolicyReference],
    policies: dict[tuple[str, str], Settings],
) -> None:
    item = _policy(text)
    if item is None:
        return
    if item.removed:
        _find_default(section, item, defaults)
        return
    kind = names.kinds.get(item.kind)
    if kind is None or not kind.policy:
        named = [f"{one} {item.kind}" for one in names.policies if (one, item.kind) in names.sections]
        hint = f"did you mean {named[0]}?" if named else names.like(item.kind, names.policies)
        what = "there is no kind of policy `{kind}`" if not text.secret else "{shown} is no policy"
        raise Wrong(what.replace("{kind}", item.kind), "" if hint else "KIND NAME", hint)
    if (item.kind, item.name) in names.sections:
        return
    if "|" in item.name:
        anonymous: dict[str, Any] = {"any": text}
        policies[item.kind, item.name] = kind.settings(**anonymous)
        return
    known = names.of_kind.get(item.kind, [])
    if item.name or known:
        what = f"there is no section [{item}]" if not text.secret else "{shown} names no section"
        hint = names.like(str(item), [f"{item.kind} {name}".rstrip() for name in known])
        if not item.name:
            hint = hint or f"did you mean {item.kind} {known[0]}?"
        raise Wrong(what, hint=hint)
    try:
        policies[item.kind, ""] = kind.settings()
    except pydantic.ValidationError as error:
        missing = ", ".join(".".join(map(str, each["loc"])) for each in error.errors() if each["loc"])
        what = f"{item.kind} can't do without options" + (f": {missing}" if missing else "")
        raise Wrong(what, f"a section {kind.title(item.kind)}") from None


def _find_default(section: Section, item: PolicyReference, defaults: Sequence[PolicyReference]) -> None:
    found = [each for each in defaults if takes_out(item, each)]
    names = [str(each) for each in defaults] + [each.name for each in defaults]
    if section.kind == "defaults":
        raise Wrong("there is nothing to take out of in the defaults themselves")
    if not found:
        raise Wrong("{shown} is not among the policies of [defaults]", hint=did_you_mean(str(item)[1:], names))
    if len({(each.kind, each.name) for each in found}) > 1:
        raise Wrong("{shown} may be any of " + ", ".join(map(str, found)), "-KIND NAME")
