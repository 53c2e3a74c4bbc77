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

from apigw.config.binding import bind
from apigw.config.configuration import Configuration
from apigw.config.kinds import BASE_KINDS, Kind, Kinds
from apigw.config.model import OPEN, Settings, allowed
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
) -> Configuration:
    """
    Read and check a configuration.

    :param kinds: which sections there may be.
    :param environ: for ``${NAME}``; the process's own if None.
    :param checks: further checks, see above.
    :raises ConfigurationError: with every mistake.
    """
    document = read(os.fspath(path), os.environ if environ is None else environ)
    problems = list(document.problems)
    elsewhere = _options_of(kinds)
    sections: dict[str, dict[str, Settings]] = {}
    references: list[tuple[Section, Reference]] = []
    for (kind, name), section in document.sections.items():
        known = kinds.get(kind)
        if known is None:
            hint = did_you_mean(kind, kinds)
            expected = "" if hint else "one of " + ", ".join(sorted(kinds))
            what = "there is no such kind of section"
            problems.append(Problem(*section.place, section.title, "", what, expected, hint))
            continue
        problems += _naming(section, known)
        try:
            settings = known.settings if known.refine is None else known.refine(_values(section))
        except Wrong as wrong:
            problems.append(_refused(section, wrong))
            continue
        bound = bind(section, settings, elsewhere)
        problems += bound.problems
        references += [(section, reference) for reference in bound.references]
        if bound.settings is not None:
            sections.setdefault(kind, {})[name] = bound.settings
    policies = {(kind, name): each for kind in sections if kinds[kind].policy for name, each in sections[kind].items()}
    problems += unresolved(document, kinds, references, policies)
    configuration = Configuration(
        path=os.fspath(path),
        kinds=kinds,
        sections=sections,
        order=tuple(document.sections),
        policies=policies,
        files=tuple(dict.fromkeys(document.files)),
        digest=document.digest,
        written=document.sections,
    )
    problems += _same_endpoints(configuration)
    problems += _checked(configuration, checks, certain=not _errors(problems))
    if _errors(problems):
        raise ConfigurationError(problems)
    return replace(configuration, warnings=tuple(dict.fromkeys(problems)))


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
    seen: dict[Any, tuple[str, str]] = {}
    listeners: list[tuple[str, str, Any]] = [("listen", name, each) for name, each in configuration.listens.items()]
    if configuration.admin is not None:
        listeners.append(("admin", "", configuration.admin))
    for kind, name, settings in listeners:
        endpoint = settings.endpoint
        key = (endpoint.kind, endpoint.host, endpoint.port, endpoint.path, endpoint.name)
        if endpoint.kind == "tcp" and not endpoint.port:
            continue
        if key in seen:
            other = configuration.origin(*seen[key], "endpoint")
            yield configuration.problem(kind, name, "endpoint", f"{endpoint} is taken already, at {other}")
        seen.setdefault(key, (kind, name))
