"""
Paths in the syntax of other gateways: ``/users/:id``, ``/users/*``, ``~ ^/users``, ``Path(`/users`)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from apigw.config.configuration import Configuration
from apigw.config.problems import Problem
from apigw.gateway.rules import answering

_TRAEFIK = re.compile(r"(Path|PathPrefix|PathRegexp)\([`'\"]([^`'\"]*)[`'\"]\)")
_NGINX = re.compile(r"(=|~\*|~|\^~)\s*(\S.*)")
_NAME = r"([A-Za-z_][A-Za-z0-9_]*)"
_SEGMENTS = (
    # what a segment is elsewhere, and whether it takes all that is left
    (re.compile(rf":{_NAME}\*"), True),  # path-to-regexp
    (re.compile(rf":{_NAME}(?:\(.*\))?\??"), False),  # Express, Kong's router, gin
    (re.compile(rf"<path:{_NAME}>"), True),  # Flask
    (re.compile(rf"<(?:[a-z]+:)?{_NAME}>"), False),
    (re.compile(rf"\{{{_NAME}:\.[*+]\}}"), True),  # chi, gorilla, Traefik
    (re.compile(rf"\{{{_NAME}:.*\}}"), False),
    (re.compile(rf"\{{\*\*?{_NAME}\}}"), True),  # ASP.NET
    (re.compile(rf"\{{{_NAME}(?:\+|\*\*|\.\.\.)\}}"), True),  # AWS, Go
    (re.compile(rf"\[\[?\.\.\.{_NAME}\]\]?"), True),  # Next.js
    (re.compile(rf"\[{_NAME}\]"), False),
    (re.compile(rf"\*{_NAME}"), True),  # gin, Rails
)
_WILD = re.compile(r"\*{1,2}")
_REGEX_SIGNS = re.compile(r"\.[*+]|\\[a-zA-Z.]|\[[^\]]*\][+*]?|\(\?|\([^)]*(?:\)[+*?]|[|*+\\][^)]*\))|[^/]\*$|.\$$")


def meant(path: str) -> str:
    """What a path of another gateway's syntax probably means here; empty if it is none."""
    if found := _TRAEFIK.search(path):
        return {"Path": "=", "PathPrefix": "", "PathRegexp": "~"}[found[1]] + found[2]
    found = _NGINX.fullmatch(path)
    if found is not None and (path[1:2] in " \t*" or path.startswith("^~")):
        kind, rest = found.groups()
        return rest if kind == "^~" else "=" + rest if kind == "=" else _regex(rest, folded=kind == "~*")
    if path.startswith("^"):
        return _regex(path)
    if not path.startswith("/"):
        return "/" + path if re.match(r"[A-Za-z0-9{]", path) else ""
    changed = "/".join(map(_segment, path.split("/")))
    for wild in ("/{rest*}/{rest*}", "/{rest*}"):
        if path.endswith(("/*", "/**")) and changed.endswith(wild):
            changed = changed.removesuffix(wild) or "/"  # a prefix takes the same
    if changed != path:
        return changed if "{rest*}/" not in changed else ""
    return _regex("^" + path) if _REGEX_SIGNS.search(path) else ""


def _segment(segment: str) -> str:
    for form, tail in _SEGMENTS:
        if found := form.fullmatch(segment):
            return f"{{{found[1]}*}}" if tail else f"{{{found[1]}}}"
    return "{rest*}" if _WILD.fullmatch(segment) else segment


def _regex(text: str, *, folded: bool = False) -> str:
    """A regular expression that is searched for elsewhere, and must match the whole path here."""
    begin = "" if text.startswith(("^", "/", ".*")) else ".*"
    end = "" if text.endswith(("$", ".*", ".+")) else ".*"
    return f"~{'(?i)' if folded else ''}{begin}{text}{end}"


_PLAIN = re.compile(r"=?(?:/(?:[\w.~-]+|\{\w+\*?\}))+/?|/")


def paths(configuration: Configuration) -> Iterator[Problem]:
    """Paths that are taken as they stand, and hardly meant so; expressions that no path can match, or only one."""
    for (kind, name), settings in answering(configuration):
        path: str = getattr(settings, "path", "")
        if _PLAIN.fullmatch(path):
            continue
        if path.startswith("~") and path[1:2] not in " \t*":
            text = path[1:]
            what, guess = _regex_fault(text), _regex(text)
        else:
            guess = meant(path.removeprefix("=") if path.startswith("=/") else path)
            what = f"`{path}` is taken as it stands: no request is likely to have that path" if guess else ""
        if what:
            yield configuration.problem(kind, name, "path", what, hint=f"did you mean {guess}?", warning=True)


_WILDCARDS = re.compile(r"\*?[\w./ -]+\*?")
_SIGNS = re.compile(r"\^|.*(?:\.[*+]|\\[dDwWsSbB]|\][*+{])", re.DOTALL)


def conditions(configuration: Configuration) -> Iterator[Problem]:
    """Conditions on fields and parameters that look like patterns, and are compared as they stand."""
    for name, settings in configuration.of("route").items():
        for group in ("header", "query"):
            for key, value in getattr(settings, group).items():
                guess = _pattern(value)
                if guess:
                    what, hint = f"`{value}` is compared as it stands", f"did you mean ~{guess}?"
                    yield configuration.problem("route", name, f"{group}.{key}", what, hint=hint, warning=True)


def _pattern(value: str) -> str:
    """The expression that a condition probably means; empty if it is no pattern."""
    if value.startswith("~"):
        return ""
    if _SIGNS.match(value):
        return value
    if "*" in value and _WILDCARDS.fullmatch(value) and value.strip("*/"):
        return re.escape(value.strip("*")).join(".*" if star else "" for star in (value[0] == "*", value[-1] == "*"))
    return ""


_LITERAL = re.compile(r"[A-Za-z0-9/_~-]|\\[^A-Za-z0-9]")
_ONLY_LITERAL = re.compile(rf"\^(?:{_LITERAL.pattern})+")


def _regex_fault(text: str) -> str:
    first = _LITERAL.match(text.removeprefix("^"))
    if first is not None and first[0] not in {"/", "\\/"} and "|" not in text:
        repeated = text.removeprefix("^")[first.end() :][:1]
        if repeated not in {*"?*{"}:
            return "no path can match this: each begins with a slash"
    if _ONLY_LITERAL.fullmatch(text):
        return f"only the path {text[1:]} matches this: an expression must match the whole path"
    return ""
