"""
Templates: ``/users/{jwt.sub}/orders?page={query.page|1}``, taken apart at load, filled in for each call.

A reference is ``{ROOT.field[0].x}``; a field with other signs stands in quotes, ``{jwt."https://x/role"}``; behind
``|`` may stand what is taken when there is no value. What a value may do depends on where it stands, and none can ever
change the shape of what it is put into:

- in a path it is percent-encoded, a slash too, and refused where it would lead a service that decodes before it looks,
  or decodes twice, out of its place: ``..``, an empty segment, controls;
- in a query it is percent-encoded; a list becomes its items, separated by commas;
- in a header it is text without controls, and within quotes can't end them;
- in JSON it keeps its type where the reference stands alone, and is text within quotes;
- in a form it is percent-encoded.

Not here: where the values come from (``scope``), which names there are (``plan``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from apigw.exchange.claims import field_value
from apigw.exchange.errors import GatewayError
from apigw.http.fields import is_field_value
from apigw.json_text import InvalidJSON, read, string, write

REQUEST_ROOTS = ("jwt", "path", "query", "header", "body", "consumer")
"""What can be known of the client's request; all other roots are calls, or ``item``."""

_TEXTS = ("path", "query", "header", "consumer")
"""Roots of which all values are texts."""
_MISSING: Any = object()
_STEPS = r'(?P<steps>(?:\.(?:"[^"{}]*"|[^\s."\[\]{}|]+)|\[-?[0-9]{1,9}\])*)(?:\|(?P<default>[^{}]*))?\}'
_REFERENCE = r"\{(?P<root>[A-Za-z_][\w-]*)" + _STEPS
REFERENCE = re.compile(_REFERENCE)
"""A reference of a configuration."""
BATCH_REFERENCE = re.compile(r"\{(?P<root>\$\w+)" + _STEPS)
"""A reference of a batch. The clients' own braces mean nothing."""
_STEP = re.compile(r'\."([^"]*)"|\.([^."\[]+)|\[(-?[0-9]+)\]')
_JSON_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|' + _REFERENCE)
_PLAIN = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*").fullmatch
_PATH = re.compile(r"(?:[!$&-;=@-Z_a-z~]|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(r"(?:[!$&-;=?@-Z_a-z~\[\]]|%[0-9A-Fa-f]{2})*")
_QUOTES = re.compile(r"\\.")
_FORM = re.compile(r"[^\s{}=&]+=[^\s{}&]*(?:&[^\s{}=&]+=[^\s{}&]*)*")

Values = Mapping[str, Any]


class ValueFault(GatewayError):
    """
    A template could not be filled in: 400 if the client's request is to blame, 502 if an earlier answer is.

    :ivar root: of the value.
    """

    reason = "call_value_missing"

    def __init__(self, reference: Reference, what: str, *, reason: str = "call_value_missing") -> None:
        status = 400 if reference.root in REQUEST_ROOTS else 502
        self.root = reference.root
        super().__init__(f"{{{reference.text}}} {what}", status=status, reason=reason)


class Reference:
    """
    One reference.

    :ivar root: its first name. :ivar text: without braces and default.
    """

    __slots__ = ("_default", "_steps", "_typed_default", "root", "text")

    def __init__(self, found: re.Match[str]) -> None:
        self.root = found["root"]
        self.text = found["root"] + found["steps"]
        self._default: str | None = found["default"]
        self._typed_default: Any = self._default
        if self._default is not None and self.root not in _TEXTS:
            with suppress(InvalidJSON):
                self._typed_default = read(self._default.encode(), depth=16)
        steps: list[str | int] = []
        for quoted, plain, index in _STEP.findall(found["steps"]):
            steps.append(int(index) if index else plain or quoted)
        if self.root == "header" and steps:
            steps[0] = str(steps[0]).lower()
        self._steps = tuple(steps)

    @property
    def first(self) -> str:
        """The name behind the root, or an empty string."""
        return str(self._steps[0]) if self._steps else ""

    def value(self, values: Values) -> Any:
        """
        What it refers to; null is a value. A default is JSON, or else text, as it is for what is always text.

        :raises ValueFault: there is nothing, and no default.
        """
        value = self._found(values)
        if value is not _MISSING:
            return value
        if self._default is not None:
            return self._typed_default
        raise ValueFault(self, "has no value")

    def _found(self, values: Values) -> Any:
        value = values.get(self.root, _MISSING)
        for step in self._steps:
            if type(value) is dict:
                value = value.get(step, _MISSING)
            elif type(value) is list and type(step) is int and -len(value) <= step < len(value):
                value = value[step]
            else:
                value = _MISSING
        return value

    def written(self, values: Values) -> str:
        """
        The value as text.

        :raises ValueFault: there is none (null is none), or it is an object or array.
        """
        value = self._found(values)
        if type(value) is str:
            return value
        if value is None or value is _MISSING:
            if self._default is not None:
                return self._default
            raise ValueFault(self, "has no value")
        return self._scalar(value)

    def listed(self, values: Values) -> list[str]:
        """The value as texts: one, or those of a list."""
        value = self._found(values)
        if type(value) is list:
            return [each if type(each) is str else self._scalar(each) for each in value]
        return [self.written(values)]

    def _scalar(self, value: Any) -> str:
        if type(value) is bool:
            return "true" if value else "false"
        if type(value) is int or type(value) is float or type(value) is str:
            return value if type(value) is str else write(value).decode()
        raise ValueFault(self, "is no text or number", reason="call_value_refused")

    def refused(self, what: str) -> ValueFault:
        """The error for a value that can't stand where it should."""
        return ValueFault(self, what, reason="call_value_refused")


Piece = str | Reference


def pieces(text: str, pattern: re.Pattern[str] = REFERENCE) -> list[Piece]:
    """A text cut into what is fixed and what refers."""
    found: list[Piece] = []
    at = 0
    for match in pattern.finditer(text):
        if match.start() > at:
            found.append(text[at : match.start()])
        found.append(Reference(match))
        at = match.end()
    if at < len(text):
        found.append(text[at:])
    return found


class Template:
    """
    What all templates have.

    :ivar text: as it was written. :ivar references: all of them.
    """

    __slots__ = ("references", "text")

    def __init__(self, text: str, references: list[Reference]) -> None:
        self.text = text
        self.references = references

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Template) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def _encoded(reference: Reference, text: str) -> bytes:
    if _PLAIN(text):
        return text.encode()
    try:
        return quote(text, safe="").encode()
    except UnicodeEncodeError:
        raise reference.refused("is no text that UTF-8 can have") from None


class PathTemplate(Template):
    """
    A path with an optional query.

    :raises ValueError: from the constructor: it is none.
    """

    __slots__ = ("_fixed", "_query", "_segments")

    def __init__(self, text: str, pattern: re.Pattern[str] = REFERENCE) -> None:
        # References may hold a `?` or `/` in their quotes and defaults: cut only what stands outside of them.
        path: list[Piece] = []
        query: list[Piece] | None = None
        for piece in pieces(text, pattern):
            if query is None and isinstance(piece, str) and "?" in piece:
                before, _, after = piece.partition("?")
                path.append(before)
                query = [after]
            else:
                (path if query is None else query).append(piece)
        for part, form in ((path, _PATH), (query or [], _QUERY)):
            for piece in part:
                if isinstance(piece, str) and not form.fullmatch(piece):
                    at = form.match(piece).end()  # type: ignore[union-attr]
                    if piece[at] == "%":
                        raise ValueError("`%` stands before two hexadecimal digits, and for itself as %25")
                    raise ValueError(f"`{piece[at]}` can't stand there: percent-encode it, if it is no reference")
        if not path or not isinstance(path[0], str) or not path[0].startswith("/"):
            raise ValueError("a path begins with /")
        super().__init__(text, [each for each in path + (query or []) if isinstance(each, Reference)])
        segments: list[list[Piece]] = [[]]
        for piece in path:
            if isinstance(piece, str):
                first, *rest = piece.split("/")
                segments[-1].append(first)
                segments += [[each] for each in rest]
            else:
                segments[-1].append(piece)
        if any("".join(map(str, one)) in (".", "..") for one in segments):
            raise ValueError("a path to a service has no `.` and `..`")
        self._fixed = None if self.references else ("".join(map(str, path)).encode(), _joined(query))
        self._segments = [_segment([each for each in one if each != ""]) for one in segments[1:]]
        self._query = query

    def fill(self, values: Values) -> tuple[bytes, bytes | None]:
        """
        Path and query.

        :raises ValueFault: a value is missing, or can't stand there.
        """
        if self._fixed is not None:
            return self._fixed
        path = b"".join([segment if type(segment) is bytes else segment(values) for segment in self._segments])  # type: ignore[operator]
        if self._query is None:
            return path, None
        query = [
            piece.encode()
            if isinstance(piece, str)
            else b",".join([_encoded(piece, text) for text in piece.listed(values)])
            for piece in self._query
        ]
        return path, b"".join(query)


def _joined(query: list[Piece] | None) -> bytes | None:
    return None if query is None else "".join(map(str, query)).encode()


def _segment(parts: list[Piece]) -> bytes | Callable[[Values], bytes]:
    """One segment with the slash before it."""
    if all(isinstance(part, str) for part in parts):
        return b"/" + "".join(map(str, parts)).encode()
    if len(parts) == 1:
        only = parts[0]
        assert isinstance(only, Reference)

        def alone(values: Values) -> bytes:
            text = only.written(values)
            if _PLAIN(text):
                return b"/" + text.encode()
            _check_segment(only, text)
            return b"/" + _encoded(only, text)

        return alone

    def mixed(values: Values) -> bytes:
        plain, encoded = "", b"/"
        last = None
        for part in parts:
            if isinstance(part, Reference):
                last = part
                text = part.written(values)
                encoded += _encoded(part, text)
            else:
                text = part
                encoded += part.encode()
            plain += text
        assert last is not None
        _check_segment(last, plain)
        return encoded

    return mixed


def _check_segment(reference: Reference, text: str) -> None:
    """Refuse what is another path to a service that decodes before it looks, or once more than it should (CWE-22)."""
    if not text:
        raise reference.refused("is empty, and can't be a segment of a path")
    for reading in _readings(reference, text):
        if any(ord(sign) < 0x20 or ord(sign) == 0x7F for sign in reading):
            raise reference.refused("has a control character, which can't stand in a path")
        parts = reading.replace("\\", "/").split("/")
        names = [part.partition(";")[0].strip() for part in parts]
        if "." in names or ".." in names:
            raise reference.refused("is `.` or `..`, which can't stand in a path")
        if not names[0]:
            raise reference.refused("is empty, or begins with a slash, and can't be a segment of a path")


def _readings(reference: Reference, text: str) -> Iterator[str]:
    """What services may take a text for: as it is, with signs like full-width dots made plain, and decoded again."""
    for _ in range(3):
        yield text
        if not text.isascii():
            yield unicodedata.normalize("NFKC", text)
        if "%" not in text:
            return
        try:
            text = unquote_to_bytes(text).decode()
        except UnicodeError:  # such as %c0%ae, an overlong dot
            raise reference.refused("has percent-encoded bytes that are no text, which can't stand in a path") from None


_OF_CALLER = ("jwt", "consumer")


class HeaderTemplate(Template):
    """A field's value."""

    __slots__ = ("_pieces", "_quoted", "fixed")

    def __init__(self, text: str, pattern: re.Pattern[str] = REFERENCE) -> None:
        self._pieces = pieces(text, pattern)
        references = [each for each in self._pieces if isinstance(each, Reference)]
        super().__init__(text, references)
        self.fixed = None if references else text.encode()
        within, self._quoted = False, set()
        for piece in self._pieces:
            if isinstance(piece, str):
                within ^= bool(_QUOTES.sub("", piece).count('"') % 2)
            elif within:
                self._quoted.add(piece)
        if any(isinstance(each, str) and not is_field_value(each.encode()) for each in self._pieces):
            raise ValueError("a header has no control characters")

    def fill(self, values: Values) -> bytes:
        """
        The value.

        :raises ValueFault: a value is missing, or has control characters.
        """
        if self.fixed is not None:
            return self.fixed
        out = []
        for piece in self._pieces:
            if isinstance(piece, str):
                out.append(piece.encode())
                continue
            try:
                texts = piece.listed(values)
                if piece.root in _OF_CALLER:  # encoded as the policies do it
                    value = b",".join([field_value(each) for each in texts])
                else:
                    value = ",".join(texts).encode()
            except UnicodeEncodeError:
                raise piece.refused("is no text that UTF-8 can have") from None
            if not is_field_value(value):
                raise piece.refused("has a control character, which can't stand in a header")
            if piece in self._quoted:  # RFC 9110 5.6.4
                value = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
            out.append(value)
        return b"".join(out)


class BodyTemplate(Template):
    """
    Content: JSON, or a form (``a={query.a}&b=2``).

    :ivar content_type: what goes into Content-Type.
    :raises ValueError: from the constructor: it is neither.
    """

    __slots__ = ("_form", "_json", "content_type")

    def __init__(self, text: str) -> None:
        references: list[Reference] = []
        self._form: list[Piece] | None = None
        self._json: Callable[[Values], Any] | None = None
        if REFERENCE.fullmatch(text) or text[:1] in tuple('{["'):
            self._json = _json(text, references)
            self.content_type = b"application/json"
        elif _FORM.fullmatch(REFERENCE.sub("x", text)):
            self._form = pieces(text)
            references += [each for each in self._form if isinstance(each, Reference)]
            self.content_type = b"application/x-www-form-urlencoded"
        else:
            raise ValueError("this is neither JSON nor a form such as a={query.a}&b=2")
        super().__init__(text, references)

    def fill(self, values: Values) -> bytes:
        """
        The content.

        :raises ValueFault: a value is missing, or can't stand there.
        """
        if self._json is not None:
            return write(self._json(values))
        assert self._form is not None
        return b"".join(
            piece.encode() if isinstance(piece, str) else _encoded(piece, piece.written(values)) for piece in self._form
        )


MOST_REFERENCES = 1000
"""References in one body, or in all requests of a batch: each costs time whenever it is filled in."""

_MARK = "\0reference "


def _json(text: str, references: list[Reference]) -> Callable[[Values], Any]:
    """JSON in which references may stand within strings (as text) and in the place of values (with their type)."""

    def placed(found: re.Match[str]) -> str:
        if found["root"] is None:
            return found[0]
        references.append(Reference(_bare(found)))
        return string(f"{_MARK}{len(references) - 1}")

    try:
        tree = read(_JSON_PIECE.sub(placed, text).encode())
    except ValueError as error:
        raise ValueError(f"this is not JSON: {error}") from None
    return filling(tree, references)


def _bare(found: re.Match[str]) -> re.Match[str]:
    match = REFERENCE.fullmatch(found[0])
    assert match is not None
    return match


class _Constant:
    """What is the same whatever the values are."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self, values: Values) -> Any:
        return self._value


def filling(tree: Any, references: list[Reference], pattern: re.Pattern[str] = REFERENCE) -> Callable[[Values], Any]:
    """What fills the texts of a JSON value; the references that are found are added to ``references``."""
    if isinstance(tree, dict):
        members = [(name, filling(each, references, pattern)) for name, each in tree.items()]
        if any(type(fill) is not _Constant for _, fill in members):
            return lambda values: {name: fill(values) for name, fill in members}
    elif isinstance(tree, list):
        items = [filling(each, references, pattern) for each in tree]
        if any(type(fill) is not _Constant for fill in items):
            return lambda values: [fill(values) for fill in items]
    elif isinstance(tree, str) and ("{" in tree or tree.startswith(_MARK)):
        if tree.startswith(_MARK):
            return references[int(tree.removeprefix(_MARK))].value
        parts = pieces(tree, pattern)
        found = [each for each in parts if isinstance(each, Reference)]
        if found:
            references += found
            if len(references) > MOST_REFERENCES:
                raise ValueError(f"it has more than {MOST_REFERENCES} references")
            if len(parts) == 1 and pattern is BATCH_REFERENCE:  # who writes JSON has no way but quotes
                return found[0].value
            return lambda values: "".join([each if isinstance(each, str) else each.written(values) for each in parts])
    return _Constant(tree)
