r"""
The path that a service is asked for, compiled per route from its ``strip_prefix``, ``add_prefix`` and ``rewrite``.

Steps, each on what the one before it left:

1.  ``strip_prefix = /api`` cuts it off at a segment's end: /api/users becomes /users, /api becomes /, /apix stays.
2.  ``rewrite = REGEX -> TEMPLATE`` replaces the first place where the expression matches; use ``^`` and ``$`` to say
    where. In the template, ``\1`` or ``{1}`` and ``{name}`` are its groups, ``{id}`` also what the route's path
    captured, and ``{{`` ``}}`` braces. Where the expression matches nothing, nothing changes.
3.  ``add_prefix = /v2/{tenant}`` is put in front; it is a template too.

The path of the target's own URL (``http://service/base``) goes in front of the outcome, when the request is sent.
Captured values are percent-encoded where they go, so that none makes a segment of its own unless its pattern may hold
slashes. A path that a step gives dot segments is refused, not resolved: a client can't climb out of a prefix.
The query stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

from apigw.config.regex import Regex, TextTooLong
from apigw.exchange.errors import ClientFault
from apigw.exchange.request import Request
from apigw.http.targets import places_in, without_parameters
from apigw.routing.patterns import PathPattern, refuse_parameters, static_path, too_long_to_match

TargetPath = Callable[[Request], bytes]
"""The path with the query that a request is to be sent on with."""
_Step = Callable[[bytes, Mapping[str, str]], bytes]

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z0-9_]+)\}|[{}]|\\([0-9])")
_DOT_SEGMENT = re.compile(rb"/\.\.?(?:/|$|;|%3B)")
_SAFE = "!$'()*,:@~"


def compile_target(
    *,
    strip_prefix: str | None = None,
    add_prefix: str | None = None,
    rewrite: tuple[str, str] | None = None,
    pattern: PathPattern,
    encoded_slashes: bool = False,
) -> TargetPath | None:
    """
    Compile the options of one route.

    :param rewrite: expression and template.
    :param pattern: the route's path, for the names that it captures.
    :param encoded_slashes: whether the route takes them.
    :return: None when the path goes on as it was matched.
    :raises ValueError: with a sentence for the option's place in the configuration.
    """
    strip = strip_bytes(strip_prefix)
    steps: list[_Step] = []
    if rewrite is not None:
        steps.append(_rewriting(rewrite, pattern, encoded_slashes))
    if add_prefix and add_prefix.rstrip("/"):
        if not add_prefix.startswith("/"):
            raise ValueError(f"{add_prefix!r} does not begin with a slash")
        steps.append(_adding(add_prefix.rstrip("/"), pattern, encoded_slashes))
    if steps:
        return _stepwise(strip, steps)
    return _stripping(strip) if strip else None


def strip_bytes(strip_prefix: str | None) -> bytes:
    """``strip_prefix`` in the form of requests' paths, without a final slash; empty for nothing."""
    if not strip_prefix or not strip_prefix.rstrip("/"):
        return b""
    if not strip_prefix.startswith("/"):
        raise ValueError(f"{strip_prefix!r} does not begin with a slash")
    refuse_parameters(strip_prefix)
    return static_path(strip_prefix.rstrip("/"))


def _stripping(prefix: bytes) -> TargetPath:
    length = len(prefix)
    below = prefix + b"/"

    def target(request: Request) -> bytes:
        path = request.path
        if path.startswith(below):
            path = path[length:]
        elif path == prefix:
            path = b"/"
        elif b";" in path:
            path = _without_prefix(path, prefix)
        return path if request.query is None else b"%b?%b" % (path, request.query)

    return target


def _without_prefix(path: bytes, prefix: bytes) -> bytes:
    """A path with parameters, without as many segments as the prefix has, if they have the same names."""
    named = without_parameters(path)
    if named != prefix and not named.startswith(prefix + b"/"):
        return path
    depth = prefix.count(b"/") + 1
    rest = path.split(b"/", depth)[depth:]
    return b"/" + rest[0] if rest else b"/"


def _stepwise(prefix: bytes, steps: list[_Step]) -> TargetPath:
    strip = _without_prefix if prefix else None

    def target(request: Request) -> bytes:
        path = request.path
        if strip is not None:
            path = strip(path, prefix)
        for step in steps:
            path = step(path, request.captures)
        if path[:1] != b"/":
            path = b"/" + path
        if b"/." in path and _DOT_SEGMENT.search(path):
            raise ClientFault("the rewritten path has a dot segment", reason="path_above_root")
        return path if request.query is None else b"%b?%b" % (path, request.query)

    return target


def _adding(template: str, pattern: PathPattern, encoded_slashes: bool) -> _Step:
    pieces = _pieces(template)
    names = pieces[1::2]
    _check_names(template, names, pattern.captures, pattern, encoded_slashes)
    if not names:
        prefix = static_path(pieces[0])
        return lambda path, _: prefix + path
    fill = _filling(pieces, pattern)
    return lambda path, captures: fill(captures, {}) + path


def _rewriting(rewrite: tuple[str, str], pattern: PathPattern, encoded_slashes: bool) -> _Step:
    expression, template = rewrite
    compiled = Regex(expression)
    pieces = _pieces(template)
    groups = {str(number): number for number in range(compiled.groups + 1)} | compiled.names
    outer = [name for name in pieces[1::2] if name not in groups]
    _check_names(template, outer, pattern.captures | set(groups), pattern, encoded_slashes)
    fill = _filling(pieces, pattern)

    def rewritten(path: bytes, captures: Mapping[str, str]) -> bytes:
        try:
            found = compiled.spans(without_parameters(path))
        except TextTooLong:
            raise too_long_to_match() from None
        if found is None:
            return path
        places = places_in(path) if b";" in path else range(len(path) + 1)
        # The groups are pieces of the path, so they are percent-encoded as they should be.
        spans = {name: found[number] for name, number in groups.items()}
        own = {name: path[places[start] : places[end]] if start >= 0 else b"" for name, (start, end) in spans.items()}
        start, end = found[0]
        return path[: places[start]] + fill(captures, own) + path[places[end] :]

    return rewritten


def _pieces(template: str) -> list[str]:
    """Text, name, text, name, ..., text."""
    pieces = [""]
    end = 0
    for place in _PLACE.finditer(template):
        pieces[-1] += template[end : place.start()]
        end = place.end()
        if name := place[1] or place[2]:
            pieces += [name, ""]
        elif len(place[0]) == 2:  # a doubled brace
            pieces[-1] += place[0][0]
        else:
            raise ValueError(f"{template!r} has a single brace: write {{{{ or }}}} for one that is meant as such")
    pieces[-1] += template[end:]
    return pieces


def _check_names(
    template: str, names: list[str], known: frozenset[str] | set[str], pattern: PathPattern, encoded_slashes: bool
) -> None:
    for name in names:
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise ValueError(f"{{{name}}} in {template!r}: nothing captures it; known names: {there}")
        if encoded_slashes and name in pattern.long_captures:
            raise ValueError(
                f"{{{name}}} in {template!r} may hold slashes, and the route takes encoded ones:"
                " they could not be told apart"
            )


def _filling(pieces: list[str], pattern: PathPattern) -> Callable[[Mapping[str, str], Mapping[str, bytes]], bytes]:
    texts = [quote(text, safe="%/&+,;=.-_" + _SAFE).encode() for text in pieces[::2]]
    places = [(name, _SAFE + "/" if name in pattern.long_captures else _SAFE) for name in pieces[1::2]]

    def fill(captures: Mapping[str, str], own: Mapping[str, bytes]) -> bytes:
        path = texts[0]
        for (name, safe), text in zip(places, texts[1:], strict=True):
            value = own.get(name)
            if value is None:
                value = quote(captures.get(name, ""), safe=safe).encode()
            path += value + text
        return path

    return fill
