"""
START HERE: a file to a ``Configuration``, or to all of its mistakes at once.

    configuration = load("conf/gw.ini", kinds=KINDS, checks=[ambiguous_routes])

Rooms that know more than this one (whether two routes are ambiguous, whether a certificate fits its key) check it by
functions that get the configuration and give problems. They are asked even if mistakes were found before, with the
sections that are right, so that as many mistakes as can be are told at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from apigw.config.addresses import EndpointAddress
from apigw.config.binding import bind
from apigw.config.configuration import Configuration
from apigw.config.files import Contents
from apigw.config.kinds import BASE_KINDS, Kind, Kinds, meant
from apigw.config.model import NOTHING, OPEN, Settings, allowed
from apigw.config.problems import ConfigurationError, Problem, did_you_mean
from apigw.config.reader import Section, read
from apigw.config.references import Reference
from apigw.config.resolving import unresolved
from apigw.config.text import Text, Wrong

Check = Callable[[Configuration], Iterable[Problem]]


def load(
    path: str | os.PathLike[str],
    kinds: Kinds = BASE_KINDS,
    environ: Mapping[str, str] | None = None,
    checks: Sequence[Check] = (),
    worked_out: Mapping[str, Any] = NOTHING,
) -> Configuration:
    """
    Read and check a configuration.

    :param kinds: which sections there may be.
    :param environ: for ``${NAME}``; the process's own if None.
    :param checks: further checks, see above.
    :param worked_out: what the configuration's ``worked_out`` has at first, for the checks.
    :raises ConfigurationError: with every mistake.
    """
    with Contents() as contents:
        environ = os.environ if environ is None else environ
        return _loaded(os.fspath(path), kinds, environ, checks, contents, worked_out=worked_out)


def _loaded(
    path: str,
    kinds: Kinds,
    environ: Mapping[str, str],
    checks: Sequence[Check],
    contents: Contents,
    *,
    worked_out: Mapping[str, Any],
) -> Configuration:
    document = read(path, environ)
    problems = list(document.problems)
    elsewhere = _options_of(kinds)
    sections: dict[str, dict[str, Settings]] = {}
    drafts: dict[str, dict[str, Settings]] = {}
    references: list[tuple[Section, Reference]] = []
    if not document.sections and not problems:
        problems.append(Problem(document.files[0], 0, "", "", "there is nothing in this file", "sections [KIND NAME]"))
    for section in (*document.sections.values(), *document.repeated):
        kind = section.kind
        if kind not in kinds:
            hint = did_you_mean(kind, kinds)
            expected = "" if hint else "one of " + ", ".join(sorted(kinds))
            what = "there is no such kind of section"
            problems.append(Problem(*section.place, section.title, "", what, expected, hint))
        known = kinds.get(meant(kind, kinds))
        if known is None:
            continue
        problems += _naming(section, known)
        try:
            settings = known.settings if known.refine is None else known.refine(_values(section))
        except Wrong as wrong:
            problems.append(_refused(section, wrong))
            continue
        bound = bind(section, settings, elsewhere)
        # Of a kind that is only probably meant, what is missing is not told.
        if bound.problems:
            problems += [each for each in bound.problems if kind in kinds or (each.file, each.line) != section.place]
        references += [(section, reference) for reference in bound.references]
        if kind in kinds and document.sections[kind, section.name] is section:
            if bound.settings is not None:
                sections.setdefault(kind, {})[section.name] = bound.settings
            elif bound.draft is not None:
                drafts.setdefault(kind, {})[section.name] = bound.draft
    policies = {(kind, name): each for kind in sections if kinds[kind].policy for name, each in sections[kind].items()}
    problems += unresolved(document, kinds, references, policies)
    configuration = Configuration(
        path=path,
        kinds=kinds,
        sections=sections,
        order=tuple(document.sections),
        policies=policies,
        files=tuple(dict.fromkeys(document.files)),
        digest=document.digest,
        written=document.sections,
        named=_named(references),
        drafts=drafts,
        contents=contents,
        worked_out=dict(worked_out),
    )
    problems += _same_endpoints(configuration)
    problems += _checked(configuration, checks, certain=not _errors(problems))
    if _errors(problems):
        # Letting go of all of it at once would hold up a gateway whose reload this is.
        parts: list[dict[Any, Any]] = [document.sections, policies, *sections.values(), *drafts.values()]
        for some in parts:
            while some:
                some.popitem()
        raise ConfigurationError(problems)
    if not configuration.listens:
        problems.append(_no_listener(configuration))
    return replace(configuration, warnings=tuple(dict.fromkeys(problems)))


def _named(references: Iterable[tuple[Section, Reference]]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for _, reference in references:
        found.setdefault(reference.role, set()).add(reference.text)
    return {role: frozenset(" ".join(name.split()) for name in names) for role, names in found.items()}


def _no_listener(configuration: Configuration) -> Problem:
    what = "there is no [listen NAME], so no client can come in"
    return Problem(configuration.path, 0, "", "", what, severity="warning")


def _errors(problems: Iterable[Problem]) -> bool:
    return any(problem.severity == "error" for problem in problems)


def _checked(configuration: Configuration, checks: Sequence[Check], *, certain: bool) -> list[Problem]:
    found: list[Problem] = []
    for check in checks:
        try:
            found += check(configuration)
        except Exception:
            # Sections with mistakes are missing, and a check may stumble over that. If nothing is missing it is a bug.
            if certain:
                raise
    return found


def _values(section: Section) -> dict[str, Text]:
    return {name: option.value for name, option in section.options.items() if not option.broken}


def _refused(section: Section, wrong: Wrong) -> Problem:
    option = section.options.get(wrong.option)
    place = option.place if option else section.place
    what = wrong.what.replace("{shown}", f"`{option.value.shown}`" if option else "the value")
    return Problem(*place, section.title, wrong.option, what, wrong.expected, wrong.hint)


def _options_of(kinds: Kinds) -> dict[str, str]:
    """Options by name, with the heading of the one kind of section that has them."""
    found: dict[str, set[str]] = {}
    for name, kind in kinds.items():
        for option in allowed(kind.settings):
            if OPEN not in option:
                found.setdefault(option, set()).add(kind.title(name))
    return {option: next(iter(titles)) for option, titles in found.items() if len(titles) == 1}


def _naming(section: Section, kind: Kind) -> Iterator[Problem]:
    if (kind.naming == "named" and not section.name) or (kind.naming == "single" and section.name):
        what = "this section has no name" if not section.name else "this section takes no name"
        yield Problem(*section.place, section.title, "", what, kind.title(section.kind))


def _same_endpoints(configuration: Configuration) -> Iterator[Problem]:
    seen: dict[object, dict[EndpointAddress, tuple[str, str]]] = {}
    for kind in ("listen", "admin"):
        for name, settings in configuration.seen(kind).items():
            endpoint: EndpointAddress = settings.endpoint
            near = seen.setdefault(endpoint.port or (endpoint.path, endpoint.name), {})  # others can't overlap
            taken = next((other for other in near if other.overlaps(endpoint)), None)
            if taken is None:
                near[endpoint] = (kind, name)
                continue
            what = f"{endpoint} is taken already, at {configuration.origin(*near[taken], 'endpoint')}"
            more = f", which listens on {taken}" if taken != endpoint else ""
            yield configuration.problem(kind, name, "endpoint", what + more)
