"""
Names of other sections: does anything define them?

Not here: where names are noted (``references``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    defaults = [
        item
        for section, each in references
        if section.kind == "defaults" and each.role == POLICY and (item := _policy(each.text)) and not item.removed
    ]
    for section, reference in references:
        try:
            if reference.role == POLICY:
                _find_policy(document, kinds, section, reference.text, defaults=defaults, policies=policies)
            else:
                _find_section(document, kinds, reference)
        except Wrong as wrong:
            what = wrong.what.replace("{shown}", f"`{reference.text.shown}`")
            option = option_at(section, reference.text.place)
            hint = "" if reference.text.secret else wrong.hint
            yield Problem(*reference.text.place, section.title, option, what, wrong.expected, hint)


def _find_section(document: Document, kinds: Kinds, reference: Reference) -> None:
    role = reference.role
    playing = [kind for kind in kinds if kind == role or kinds[kind].role == role]
    names = [name for kind, name in document.sections if meant(kind, kinds) in playing]
    if str(reference.text) not in names:
        expected = "" if names else f"a section [{role} NAME]"
        raise Wrong(f"there is no {role} {{shown}}", expected, did_you_mean(reference.text, names))


def _policy(text: Text) -> PolicyReference | None:
    try:
        return parse_policy(text)
    except Wrong:  # reported where it was parsed
        return None


def _find_policy(
    document: Document,
    kinds: Kinds,
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
    kind = kinds.get(item.kind)
    known = [name for name, each in kinds.items() if each.policy]
    if kind is None or not kind.policy:
        named = [f"{one} {name}" for one, name in document.sections if name == item.kind and one in known]
        hint = f"did you mean {named[0]}?" if named else did_you_mean(item.kind, known)
        what = "there is no kind of policy `{kind}`" if not text.secret else "{shown} is no policy"
        raise Wrong(what.replace("{kind}", item.kind), "" if hint else "KIND NAME", hint)
    if (item.kind, item.name) in document.sections:
        return
    if "|" in item.name:
        anonymous: dict[str, Any] = {"any": text}
        policies[item.kind, item.name] = kind.settings(**anonymous)
        return
    names = [name for one, name in document.sections if one == item.kind]
    if item.name or names:
        what = f"there is no section [{item}]" if not text.secret else "{shown} names no section"
        meant = did_you_mean(str(item), [f"{item.kind} {name}".rstrip() for name in names])
        if not item.name:
            meant = meant or f"did you mean {item.kind} {names[0]}?"
        raise Wrong(what, hint=meant)
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
