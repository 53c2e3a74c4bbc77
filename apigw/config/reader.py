"""
INI text to sections whose options remember where they stand.

    [KIND NAME]             ; a section; some kinds have no name
    option = value          ; `;` and `#` start a comment at a line's start or after white space
    other  = one, two       ; commas separate items,
        three               ; and an indented line goes on with the value above: one item a line
    quoted = "a, b ; c"     ; double quotes keep commas and comment signs (see ``text``)
    secret = ${NAME}        ; the environment; also ${NAME:-default}, and ${file:PATH} (relative to this file)
    plain  = $${NAME}       ; `${NAME}` as it stands

``include = PATTERN`` in ``[gateway]`` reads more files, after the file that it stands in. An included file may have a
``[gateway]`` section too, if it holds nothing but another ``include``.

Every mistake is noted, and reading goes on. Not here: what sections and options there are (``kinds``, ``binding``).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from apigw.config import files
from apigw.config.problems import Place, Problem
from apigw.config.text import BLANK, NOWHERE, Line, Text, Wrong, scan
from apigw.config.values import parse_duration

_SECTION = re.compile(r"\[[ \t]*([^\]\s]*)(?:[ \t]+([^\]]*?))?[ \t]*\][ \t]*(?:(?<=[ \t])[;#].*)?")
_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*")
_OPTION = re.compile(r"[^\s=\[\];,\"]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_CONTROL_ANYWHERE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class Option(NamedTuple):
    """
    One ``option = value``.

    :ivar broken: its value could not be read; that has been reported already.
    """

    name: str
    place: Place
    value: Text
    broken: bool = False


@dataclass(slots=True)
class Section:
    """One ``[KIND NAME]`` with its options in the order written; ``name`` is empty for kinds without one."""

    kind: str
    name: str
    place: Place
    options: dict[str, Option] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What stands between the brackets."""
        return f"{self.kind} {self.name}" if self.name else self.kind


@dataclass(slots=True)
class Document:
    """
    What was read.

    :ivar sections: by kind and name, in the order of the files.
    :ivar repeated: sections that are here twice, each time but the first.
    :ivar files: every file that had a part in it, secrets' files too, the main one first. :ivar real: the same without
        symbolic links.
    :ivar problems: what is wrong with the syntax.
    :ivar digest: SHA-256 over all that was read, the environment's part included; changes when anything changed.
    """

    environ: Mapping[str, str]
    sections: dict[tuple[str, str], Section] = field(default_factory=dict)
    repeated: list[Section] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    real: set[str] = field(default_factory=set)
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def digest(self) -> str:
        """SHA-256 over all that was read, in hexadecimal."""
        return self._hash.hexdigest()

    def note(self, place: Place, section: Section | None, option: str, wrong: Wrong) -> None:
        """Keep a mistake."""
        title = section.title if section else ""
        self.problems.append(Problem(*place, title, option, wrong.what, wrong.expected, wrong.hint))

    def has_read(self, path: str, data: bytes) -> None:
        """Count a file as read."""
        self.files.append(path)
        with suppress(OSError):
            self.real.add(files.real(path))
        self.took(data)

    def took(self, *what: str | bytes) -> None:
        """Count something as read."""
        for each in what:
            data = each.encode("utf-8", "surrogateescape") if isinstance(each, str) else each
            self._hash.update(len(data).to_bytes(8, "big") + data)


def read(path: str, environ: Mapping[str, str]) -> Document:
    """Read a file and all that it includes; what is wrong ends up in the document's ``problems``."""
    document = Document(environ)
    _File(path, document, ()).read(Place(path, 0), path)
    return document


def content(path: str, shown: str, *, regular: bool = True) -> bytes:
    """
    Read a whole file.

    :param shown: what messages call it.
    :param regular: refuse pipes and devices.
    :raises Wrong: if it can't be read in time, is too long, or isn't a file.
    """
    try:
        return files.read(path) if regular else files.read_any(path)
    except FileNotFoundError:
        raise Wrong(f"there is no file {shown}") from None
    except IsADirectoryError:
        raise Wrong(f"{shown} is a folder", "a file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise Wrong(f"{shown} can't be read: {reason}") from None


@dataclass(slots=True)
class _File:
    """One file while it is read."""

    path: str
    document: Document
    above: tuple[str, ...]
    section: Section | None = None
    option: str = ""
    place: Place = NOWHERE
    lines: list[Line] = field(default_factory=list)
    broken: bool = False
    lost: bool = False
    patterns: list[Text] = field(default_factory=list)

    def read(self, asked: Place, shown: str) -> None:
        try:
            data = content(self.path, shown, regular=bool(self.above))
        except Wrong as wrong:
            title, option = ("gateway", "include") if self.above else ("", "")
            self.document.problems.append(Problem(*asked, title, option, wrong.what, wrong.expected))
            return
        self.document.has_read(self.path, data)
        try:
            text = data.removeprefix(b"\xef\xbb\xbf").decode()
        except UnicodeDecodeError as error:
            place = Place(self.path, data.count(b"\n", 0, error.start) + 1)
            self.document.note(place, None, "", Wrong("this is not UTF-8 text", "a text file in UTF-8"))
            return
        clean = _CONTROL_ANYWHERE.search(text) is None  # one search for all lines, where it finds nothing
        for number, line in enumerate(text.split("\n"), 1):
            if line and line[0] not in ";#":
                self._line(line.removesuffix("\r"), Place(self.path, number), clean=clean)
        self._end_option()
        for pattern in self.patterns:
            self._include(pattern)

    def _line(self, line: str, place: Place, *, clean: bool) -> None:
        if not line:
            return
        indented = line[0] in BLANK
        stripped = line.strip(BLANK) if indented else line
        if not stripped or stripped[0] in ";#":
            return
        if not clean and (found := _CONTROL.search(line)):
            self._note(place, Wrong(f"there is a control character (0x{ord(found[0]):02x}) in this line"))
            self.broken = True
            return
        if indented:
            if self.option:
                self._value(stripped, place)
            elif not self.lost:
                wrong = Wrong("this line is indented, so it goes on with an option above, but there is none above it")
                self._note(place, wrong)
                self.lost = True
            return
        if self.option:
            self._end_option()
        if line[0] == "[":
            self._open_section(line, place)
        else:
            self._open_option(line, place)

    def _open_section(self, line: str, place: Place) -> None:
        self.section = None
        self.lost = True
        found = _SECTION.fullmatch(line.rstrip(BLANK))
        if found is None or not found[1]:
            self._note(place, Wrong("this is no section", "[KIND NAME]"))
            return
        kind, name = found[1], found[2] or ""
        if name and not _NAME.fullmatch(name):
            expected = "a name of letters, digits, `_`, `-` and `.`, with no `-` at its start"
            self._note(place, Wrong(f"{name!r} can't be a section's name", expected))
            return
        self.lost = False
        self.section = Section(kind, name, place)
        first = self.document.sections.setdefault((kind, name), self.section)
        if first is not self.section and (kind != "gateway" or not self.above):
            self._note(place, Wrong(f"this section is here twice, first at {first.place}"))
            self.document.repeated.append(self.section)

    def _open_option(self, line: str, place: Place) -> None:
        name, equals, value = line.partition("=")
        name = name.rstrip(BLANK)
        if not equals or not _OPTION.fullmatch(name):
            hint = "did you mean `=` instead of `:`?" if not equals and ":" in line else ""
            self._note(place, Wrong("this is neither a section nor an option", "[KIND NAME] or option = value", hint))
            self.lost = True  # so that lines that go on with it are not reported as well
            return
        if self.section is None:
            if not self.lost:
                self.document.note(
                    place, None, name, Wrong("this option stands before any section", "[KIND NAME] above it")
                )
            return
        self.option, self.place, self.lines, self.broken = name, place, [], False
        self._value(value, place)

    def _value(self, text: str, place: Place) -> None:
        try:
            self.lines.append(scan(text, place, self._substitute))
        except Wrong as wrong:
            self._note(place, wrong)
            self.broken = True

    def _end_option(self) -> None:
        if self.option and self.section is not None:
            value = Text.of(self.lines, self.place)
            self._keep(self.section, Option(self.option, self.place, value, self.broken))
        self.option = ""

    def _keep(self, section: Section, option: Option) -> None:
        if section.kind == "gateway" and not option.broken:
            if option.name == "include":
                self._ask_for(option)
            elif option.name == "file_timeout":
                with suppress(Wrong):  # it is reported where the section is bound
                    files.use_timeout(parse_duration(option.value))
        kept = self.document.sections[section.kind, section.name]
        if kept is not section:  # a section that is here twice: only a [gateway] that includes is welcome
            if section.kind == "gateway" and option.name != "include":
                wrong = Wrong(f"only `include` may stand in [gateway] here; the main file's is at {kept.place}")
                self.document.note(option.place, section, option.name, wrong)
            elif option.name in section.options:
                self._twice(section, option)
            section.options[option.name] = option
            return
        if option.name in section.options:
            self._twice(section, option)
        else:
            section.options[option.name] = option

    def _twice(self, section: Section, option: Option) -> None:
        first = section.options[option.name].place
        self.document.note(option.place, section, option.name, Wrong(f"this option is here twice, first at {first}"))

    def _ask_for(self, option: Option) -> None:
        try:
            self.patterns += option.value.items()
        except Wrong as wrong:
            place = wrong.at.place if isinstance(wrong.at, Text) else option.place
            self.document.note(place, self.section, option.name, wrong)

    def _include(self, pattern: Text) -> None:
        folder = os.path.dirname(self.path)
        wild = any(sign in pattern for sign in "*?[")
        path = os.path.join(folder, pattern)
        try:
            around = {files.real(path) for path in (*self.above, self.path)}
            every = [(each, files.real(each)) for each in (files.matching(path) if wild else [path])]
        except OSError as error:
            what = f"{pattern.shown if pattern.secret else path} can't be read: {error.strerror}"
            self.document.problems.append(Problem(*pattern.place, "gateway", "include", what))
            return
        if not every:
            shown = pattern.shown if pattern.secret else path
            what, hint = f"{shown} matches no file", "paths are relative to this file"
            warning = Problem(*pattern.place, "gateway", "include", what, hint=hint, severity="warning")
            self.document.problems.append(warning)
        for found, real in every:
            shown = pattern.shown if pattern.secret else found
            if real in around:
                wrong = Wrong(f"{shown} includes itself in a circle", "each file once")
            elif real in self.document.real:
                wrong = Wrong(f"{shown} is included twice", "each file once")
            else:
                _File(found, self.document, (*self.above, self.path)).read(pattern.place, shown)
                continue
            self.document.problems.append(Problem(*pattern.place, "gateway", "include", wrong.what, wrong.expected))

    def _substitute(self, expression: str) -> str:
        if expression.startswith("file:"):
            path = os.path.join(os.path.dirname(self.path), expression.removeprefix("file:"))
            data = content(path, path)
            self.document.has_read(path, data)
            try:
                return data.decode().rstrip("\r\n")
            except UnicodeDecodeError:
                raise Wrong(f"{path} is not UTF-8 text", "a text file in UTF-8") from None
        found = _VARIABLE.fullmatch(expression)
        if found is None:
            raise Wrong(f"${{{expression}}} is no substitution", "${NAME}, ${NAME:-default} or ${file:PATH}")
        value = self.document.environ.get(found[1]) or found[2]  # as in a shell, `:-` holds for an empty variable too
        if value is None:
            value = self.document.environ.get(found[1])
        if value is None:
            raise Wrong(
                f"the environment variable {found[1]} is not set", f"a value for it, or ${{{found[1]}:-a default}}"
            )
        self.document.took(found[1], value)
        return value

    def _note(self, place: Place, wrong: Wrong) -> None:
        self.document.note(place, self.section, self.option, wrong)
