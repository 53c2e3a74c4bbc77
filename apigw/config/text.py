r"""
Text that knows where it stands: what an option says, with its line, its items, and what of it must not be shown.

Quotes. An item or value that is wholly within double quotes loses them: ``"a, b"`` is one item, ``"x ; y"`` has no
comment, and ``\"`` and ``\\`` stand for a quote and a backslash. Quotes in the middle of a value stay, but protect
commas and comment signs as well, so that JSON can be written as it is.

Substitutions. What ``${NAME}`` and ``${file:PATH}`` bring is never syntax: no comma in it separates, no sign in it
starts a comment, and messages show the expression instead of it.

Not here: lines, sections and comments (``reader``); what a text means (``values``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from apigw.config.problems import Place

NOWHERE = Place("", 0)
BLANK = " \t"
TOLD = 4
"""Characters in a row that a message must not share with a value that was substituted."""
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_EXPRESSION = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_ESCAPED = re.compile(r'\\(["\\])')
_SYNTAX = re.compile(r'"|\$\{|[ \t][;#]')
"""What ``scan`` has to look at closely: quotes, substitutions and comments. Most values have none of them."""


class Wrong(ValueError):
    """
    A value that can't be taken. Validators of settings raise it, or any ValueError.

    :param what: what is wrong; ``{shown}`` stands for the text, with secrets left out.
    :param expected: what should be there.
    :param hint: ``did you mean …?``.
    :param at: the piece of text at fault, if it isn't the whole value.
    :param option: the option at fault, when a whole section is checked.
    """

    def __init__(
        self, what: str, expected: str = "", hint: str = "", *, at: str | None = None, option: str = ""
    ) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.hint = hint
        self.at = at
        self.option = option


class Line(NamedTuple):
    """
    One line of a value, its comment gone and its substitutions made.

    :ivar commas: where commas separate items.
    :ivar quoted: the spans of quoted strings, quotes included.
    :ivar inserted: the spans that were substituted, each with the expression that stood there.
    """

    text: str
    place: Place
    commas: tuple[int, ...] = ()
    quoted: tuple[tuple[int, int], ...] = ()
    inserted: tuple[tuple[int, int, str], ...] = ()


_line = partial(tuple.__new__, Line)
"""A Line of all its parts, in a fraction of the time: most of what is read goes through here."""


class Text(str):
    """
    A string from a configuration file.

    :ivar place: its file and line.
    :ivar raw: the same with the quotes that it stood in, for values with quotes of their own such as JSON.
    :ivar shown: the same without what was substituted; the only form that may stand in a message.
    :ivar lines: the lines that it was written on.
    """

    __slots__ = ("lines", "place", "raw", "shown")
    place: Place
    raw: str
    shown: str
    lines: tuple[Line, ...]

    @classmethod
    def of(cls, lines: Iterable[Line], place: Place) -> Text:
        """Make the text of a whole value; its lines are joined by line ends, empty ones left out."""
        kept = tuple([line for line in lines if line.text.strip(BLANK)])
        if len(kept) == 1:
            text = _cut(kept[0], 0, len(kept[0].text))
            text.lines = kept
            return text
        pieces = [_cut(line, 0, len(line.text)) for line in kept]
        text = cls("\n".join(piece.raw for piece in pieces))
        text.place = place
        text.raw = str(text)
        text.shown = "\n".join(piece.shown for piece in pieces)
        text.lines = kept
        return text

    @property
    def secret(self) -> bool:
        """Whether any of it came from the environment or from a file."""
        return any(line.inserted for line in self.lines)

    def tells(self, words: str) -> bool:
        """Whether words that are about to be shown hold a part of what was substituted."""
        words = words.lower()
        for line in self.lines:
            for start, end, _ in line.inserted:
                told = line.text[start:end].lower()
                if any(told[at : at + TOLD] in words for at in range(len(told) - TOLD + 1)):
                    return True
        return False

    def items(self) -> list[Text]:
        """
        Split at line ends and commas.

        :raises Wrong: if there is nothing between two commas.
        """
        found = []
        for line in self.lines:
            cuts = [-1, *line.commas, len(line.text)]
            if line.quoted or line.inserted:
                pieces = [_cut(line, start + 1, end) for start, end in pairwise(cuts)]
            else:
                pieces = [
                    _plain(_line((line.text[start + 1 : end].strip(BLANK), line.place, (), (), ())))
                    for start, end in pairwise(cuts)
                ]
            if len(pieces) > 1 and not pieces[-1].raw:  # a comma at a line's end separates from the next line
                del pieces[-1]
            for piece in pieces:
                if not piece.raw:
                    raise Wrong("there is nothing between two commas", at=piece)
            found += pieces
        return found

    def part(self, start: int, end: int | None = None) -> Text:
        """Cut a piece out of a text of one line, for parsers of smaller forms; white space around it goes."""
        line = self.lines[0] if len(self.lines) == 1 else None
        if line is None or line.text != self:  # quoted or of several lines: places in it are no places in the line
            piece = Text.of([Line(str(self)[start:end].strip(BLANK), self.place)], self.place)
            if self.secret:
                piece.shown = self.shown
            return piece
        return _cut(line, start, len(line.text) if end is None else end)


def written(text: str, place: Place = NOWHERE) -> Text:
    """Make a Text of a plain string, as if it stood in a file on one line or several, but without comments."""
    if isinstance(text, Text):
        return text
    return Text.of([scan(line, place, comments=False) for line in text.split("\n")], place)


def _plain(line: Line) -> Text:
    """The text of a whole line without quotes, substitutions, and white space around it."""
    text = Text(line.text)
    text.place = line.place
    text.raw = text.shown = line.text
    text.lines = (line,)
    return text


def _cut(line: Line, start: int, end: int) -> Text:
    raw = line.text[start:end]
    if line.commas or line.inserted or line.quoted:
        start += len(raw) - len(raw.lstrip(BLANK))
    raw = raw.strip(BLANK)
    end = start + len(raw)
    if not (line.inserted or line.quoted):
        if len(raw) == len(line.text):
            return _plain(line)
        commas = tuple([comma - start for comma in line.commas if start <= comma < end]) if line.commas else ()
        return _plain(_line((raw, line.place, commas, (), ())))
    inserted = [span for span in line.inserted if span[0] < end and span[1] > start]
    inner = (start, end) in line.quoted
    value, shown, at = "", "", start
    for left, right, expression in [*inserted, (end, end, "")]:
        piece = line.text[at : max(left, at)]
        value += _ESCAPED.sub(r"\1", piece) if inner else piece
        value += line.text[max(left, start) : min(right, end)]
        shown += piece + expression
        at = min(right, end)
    text = Text(value[1:-1] if inner else value)
    text.place = line.place
    text.raw = raw
    text.shown = shown
    text.lines = (Line(raw, line.place, *_within(line, start, end, inner=inner)),)
    return text


def _within(
    line: Line, start: int, end: int, *, inner: bool
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...], tuple[tuple[int, int, str], ...]]:
    commas = () if inner else tuple(comma - start for comma in line.commas if start <= comma < end)
    quoted = tuple((left - start, right - start) for left, right in line.quoted if start <= left and right <= end)
    inserted = tuple(
        (max(left, start) - start, min(right, end) - start, expression)
        for left, right, expression in line.inserted
        if left < end and right > start
    )
    return commas, quoted, inserted


def scan(source: str, place: Place, substitute: Callable[[str], str] | None = None, *, comments: bool = True) -> Line:
    """
    Read what stands behind ``=`` or on a further line: drop the comment, find quotes and commas, substitute.

    :param substitute: gives the value of what stands between ``${`` and ``}``; None leaves expressions as they are.
    :raises Wrong: if a ``${`` has no ``}``; and what ``substitute`` raises.
    """
    if _SYNTAX.search(source) is None:
        source = source.strip(BLANK)
        found_commas = tuple([found.start() for found in re.finditer(",", source)]) if "," in source else ()
        return _line((source, place, found_commas, (), ()))
    out: list[str] = []
    commas: list[int] = []
    quoted: list[tuple[int, int]] = []
    inserted: list[tuple[int, int, str]] = []
    length = at = closing = 0
    opened = -1
    while at < len(source):
        sign = source[at]
        piece = sign
        step = 1
        if opened >= 0 and at > closing:  # the quote that was found stood inside of a substitution
            closing = source.find('"', at)
            opened = opened if closing >= 0 else -1
        if sign == "$" and substitute is not None and source.startswith(("${", "$${"), at):
            found = _EXPRESSION.match(source, at)
            if found is None:
                raise Wrong("`${` has no `}`", "${NAME}, ${NAME:-default} or ${file:PATH}; `$${` is a plain `${`")
            step = found.end() - at
            if found[1] is None:
                piece = "${"
            else:
                piece = substitute(found[1])
                name = found[1].partition(":-")[0]  # a default may be a secret as well
                inserted.append((length, length + len(piece), f"${{{name}}}"))
        elif opened >= 0:
            if at == closing:
                quoted.append((opened, length + 1))
                opened = -1
        elif sign == '"' and (found := _QUOTED.match(source, at)):
            opened, closing = length, found.end() - 1
        elif sign == ",":
            commas.append(length)
        elif comments and sign in ";#" and at and source[at - 1] in BLANK:
            break
        out.append(piece)
        length += len(piece)
        at += step
    return Line("".join(out), place, tuple(commas), tuple(quoted), tuple(inserted))
