"""
Routes that get no requests, and options of routes that never do anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from apigw.config.configuration import Configuration
from apigw.config.problems import Problem, closest
from apigw.exchange.errors import ClientFault
from apigw.gateway.rules import Section, answering
from apigw.http.targets import valid_host
from apigw.routing.patterns import Kind, PathPattern, path_pattern
from apigw.routing.target_path import strip_bytes

_Segments = tuple[bytes | None, ...]


def shadowed(configuration: Configuration) -> Iterator[Problem]:
    """
    Routes behind one that takes all of their requests: one of higher ``priority``; of equal priority, where they have
    regular expressions, which come after all prefixes.
    """
    sections = answering(configuration)
    if not any(getattr(each, "priority", 0) or getattr(each, "path", "").startswith("~") for _, each in sections):
        return  # without them the more specific one goes first
    wide: dict[_Segments, tuple[int, Section]] = {}
    patterns = [(section, settings, _pattern(settings)) for section, settings in sections]
    for section, settings, pattern in patterns:
        if pattern is None or not _takes_all_below(settings, pattern):
            continue
        priority = getattr(settings, "priority", 0)
        segments = _ways(pattern.segments)
        if segments not in wide or wide[segments][0] < priority:
            wide[segments] = (priority, section)
    for section, settings, pattern in patterns:
        if pattern is None:
            continue
        own = getattr(settings, "priority", 0)
        segments, needed = pattern.segments, own + 1
        if pattern.regex is not None:
            segments = _fixed_segments(pattern.text)
            needed = own + bool(getattr(settings, "hosts", ()))  # a route with a host goes before one without
        for depth in range(len(segments) + 1):
            priority, other = wide.get(segments[:depth], (own, section))
            if priority >= needed and other != section:
                shown = " ".join(filter(None, other))
                first = "has a higher priority" if priority > own else "comes before regular expressions"
                what = f"no request comes here: [{shown}] at {configuration.origin(*other)} {first} and takes them all"
                hint = f"did you mean priority = {priority + 1}?"
                yield configuration.problem(*section, "path", what, hint=hint, warning=True)
                break


def _fixed_segments(path: str) -> _Segments:
    """The segments with which all paths begin that a regular expression matches."""
    begin = _FIXED_BEGIN.match("^" + path.removeprefix("~").removeprefix("^"))
    fixed = "" if begin is None or "|" in path else begin[1]
    return tuple(segment.encode() for segment in fixed.split("/")[1:-1])


def _ways(segments: _Segments) -> _Segments:
    return () if segments == (b"",) else segments


def _takes_all_below(settings: Any, pattern: PathPattern) -> bool:
    conditional = any(getattr(settings, option, ()) for option in ("hosts", "methods", "header", "query"))
    return pattern.kind is Kind.PREFIX and not conditional and not pattern.tail and None not in pattern.segments


def _pattern(settings: Any) -> PathPattern | None:
    try:
        return path_pattern(settings.path)
    except (ValueError, AttributeError):
        return None  # which is told as such


def prefixes(configuration: Configuration) -> Iterator[Problem]:
    """``strip_prefix`` that no path of the route begins with."""
    for name, settings in configuration.of("route").items():
        strip_prefix = settings.strip_prefix
        if strip_prefix is None or settings.path == strip_prefix or settings.path.startswith(f"{strip_prefix}/"):
            continue
        pattern = _pattern(settings)
        if pattern is None or pattern.regex is not None:
            continue
        try:
            strip = tuple(strip_bytes(strip_prefix).split(b"/")[1:])
        except ValueError:
            continue
        open_end = pattern.kind is Kind.PREFIX
        fits = all(own in {None, b"", wanted} for own, wanted in zip(pattern.segments, strip, strict=False))
        if not fits or (len(strip) > len(pattern.segments) and not open_end):
            what = f"no path of this route begins with {strip_prefix}, so nothing is cut off"
            hint = f"the route's path is {settings.path}"
            yield configuration.problem("route", name, "strip_prefix", what, hint=hint, warning=True)


_FIXED_BEGIN = re.compile(r"\^((?:[A-Za-z0-9/_-])*)(.?)")
_DOLLAR_GROUP = re.compile(r"\$\{?([0-9])\}?")


def rewrites(configuration: Configuration) -> Iterator[Problem]:
    """``rewrite`` that no path of the route matches, or whose groups are written as elsewhere."""
    for name, settings in configuration.of("route").items():
        if settings.rewrite is None:
            continue
        expression, template = settings.rewrite
        if found := _DOLLAR_GROUP.search(template):
            what = f"`{found[0]}` is sent as it stands"
            hint = rf"did you mean \{found[1]}, the expression's group?"
            yield configuration.problem("route", name, "rewrite", what, hint=hint, warning=True)
        pattern = _pattern(settings)
        begin = _FIXED_BEGIN.match(expression)
        if pattern is None or pattern.regex is not None or begin is None or "|" in expression:
            continue
        wanted = begin[1][:-1] if begin[2] in {*"?*{"} else begin[1]
        fixed = "/" + "/".join(segment.decode() for segment in _static(pattern.segments))
        if not wanted.startswith(fixed) and not fixed.startswith(wanted):
            what = f"no path of this route begins with {wanted}, so nothing is rewritten"
            hint = f"the route's path is {settings.path}"
            yield configuration.problem("route", name, "rewrite", what, hint=hint, warning=True)


def _static(segments: _Segments) -> Iterator[bytes]:
    for segment in segments:
        if segment is None:
            yield b""  # what follows the slash is open
            return
        yield segment


def redirects(configuration: Configuration) -> Iterator[Problem]:
    """``redirect`` of a route whose location is no URL, or leads back to the route."""
    for name, settings in configuration.of("route").items():
        if settings.redirect is None:
            continue
        location = settings.redirect.location
        what, hint = "", ""
        if "{" not in location and "$" not in location and (fault := _no_url(location)):
            what = f"`{location}` is no URL: {fault}"
        elif location.startswith("/") and not location.startswith("//"):
            pattern = _pattern(settings)
            conditional = settings.methods or settings.header or settings.query
            if pattern is not None and not conditional and _leads_back(pattern, location):
                what = "this route takes the path that it redirects to, so clients are sent round and round"
                hint = f"did you mean path = ={settings.path}?" if pattern.kind is Kind.PREFIX else ""
        if what:
            yield configuration.problem("route", name, "redirect", what, hint=hint, warning=True)


def _leads_back(pattern: PathPattern, location: str) -> bool:
    return pattern.matches(re.split(r"[?#]", location)[0].encode())


def _no_url(location: str) -> str:
    try:
        parts = urlsplit(location)
        if parts.scheme in {"http", "https"}:
            valid_host(parts.netloc.rpartition("@")[2].encode())
    except (ClientFault, ValueError) as error:
        return getattr(error, "detail", "") or str(error)
    if parts.scheme not in {"", "http", "https"} and not parts.netloc:
        return "" if ":" in location[:12] else "it has no scheme"
    if not parts.scheme and not location.startswith(("/", "?", "#", ".")):
        return "it begins with neither http:// nor /"
    return ""


_LISTED = """
ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK MERGE MKACTIVITY MKCALENDAR
MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST PRI PROPFIND PROPPATCH PUT QUERY REBIND REPORT
SEARCH TRACE UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL PURGE NOTIFY SUBSCRIBE
UNSUBSCRIBE M-SEARCH SOURCE
"""
_REGISTERED = frozenset(_LISTED.split())
"""https://www.iana.org/assignments/http-methods, and some that are in use without."""
_COMMON = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY")


def methods(configuration: Configuration) -> Iterator[Problem]:
    """Methods that are hardly any: GETT."""
    for (kind, name), section in configuration.written.items():
        for option in section.options.values():
            if not option.name.endswith(("methods", "method")) or option.broken or kind == "python":
                continue
            for word in re.split(r"[\s,]+", option.value.shown.upper()):
                if word.isalpha() and word not in _REGISTERED and (likely := closest(word, _COMMON)):
                    what, hint = f"{word} is not a method that clients send", f"did you mean {likely}?"
                    yield configuration.problem(kind, name, option.name, what, hint=hint, warning=True)


def too_large(configuration: Configuration) -> Iterator[Problem]:
    """``max_body`` of a route that no listener lets in."""
    limits = [listen.max_body for listen in configuration.listens.values() if listen.max_body is not None]
    if not limits or len(limits) < len(configuration.listens):
        return
    largest = max(limits)
    for name, settings in configuration.of("route").items():
        if settings.max_body is not None and settings.max_body > largest:
            what = "no listener takes so large a body"
            hint = f"`max_body` of the listeners is {largest} bytes at most"
            yield configuration.problem("route", name, "max_body", what, hint=hint, warning=True)
