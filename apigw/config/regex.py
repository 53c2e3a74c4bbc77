r"""
``Regex``: a regular expression of the configuration, matched in time linear in the text's length.

The engine is RE2, so that no text of a client or service makes a match slow. Its syntax is that of Python's ``re``
(https://github.com/google/re2/wiki/Syntax) without what needs backtracking: lookaround, back-references, possessive
quantifiers, atomic and conditional groups. Other differences from ``re``: ``$`` is only the very end of the text,
``\w``, ``\d`` and ``\s`` are ASCII, and the end is ``\z``, not ``\Z``.

Three bounds keep memory and time small: ``MOST_INSTRUCTIONS``, ``MOST_WORK`` and ``MEMORY``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import re2

MOST_INSTRUCTIONS: Final = 1000
"""Size of a compiled expression. ``[a-z]{1,255}`` has about 500."""
MOST_WORK: Final = 1_500_000
"""Instructions times bytes of one match: in the worst case about 40 ns each."""
MEMORY: Final = 1 << 20
"""Bytes that an engine may take; beyond it, it works without remembered states."""

_FULL = re2._Anchor.ANCHOR_BOTH
_ANYWHERE = re2._Anchor.UNANCHORED
_NOWHERE = (-1, -1)

_ESCAPES_AND_CLASSES = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\]", re.DOTALL)
_GROUP_NAME = re.compile(r"\(\?P?<([^>]*)>")
_NO_MINIMUM = re.compile(r"\{,[0-9]*\}")
_SPECIAL_GROUPS = {
    "(?=": "lookahead",
    "(?!": "lookahead",
    "(?<=": "lookbehind",
    "(?<!": "lookbehind",
    "(?>": "an atomic group",
    "(?(": "a conditional group",
    "(?#": "a comment",
    "(?P": "a back-reference",
    "(?x": "the flag x",
    "(?a": "the flag a",
    "(?L": "the flag L",
    "(?u": "the flag u",
}
_SPECIAL_ESCAPES = {
    r"\Z": r"`\Z`, which is not supported: write `\z` for the end of the text",
    r"\u": r"`\uXXXX`, which is not supported: write the character itself",
    r"\U": r"`\UXXXXXXXX`, which is not supported: write the character itself",
    r"\N": r"`\N{NAME}`, which is not supported: write the character itself",
}


class NotSupported(ValueError):
    """
    A text is no regular expression that this engine takes.

    :ivar what: the error without the text, such as ``has a back-reference``.
    """

    def __init__(self, text: str, what: str) -> None:
        super().__init__(f"{text!r} {what}")
        self.what = what


class TextTooLong(ValueError):
    """The text is too long for a match by this expression to be quick."""


class Regex:
    """
    A compiled expression. Equal expressions are equal.

    :param text: the expression.
    :param utf8: characters are those of UTF-8. Otherwise they are bytes, of which any are possible.
    :param ignore_case: letters match in either case.
    :ivar groups: the number of capturing groups. :ivar names: the number of each named group.
    :ivar longest: bytes of the longest text that is matched.
    :raises NotSupported: it is none, is too large, or has syntax that is not supported.
    """

    __slots__ = ("_capture", "_key", "_test", "groups", "longest", "names", "text")

    def __init__(self, text: str, *, utf8: bool = False, ignore_case: bool = False) -> None:
        self.text = text
        self._key = (text, utf8, ignore_case)
        self._test, self._capture, self.names, size = _compiled(*self._key)
        self.groups: int = self._capture.NumberOfCapturingGroups()
        self.longest = MOST_WORK // max(size, 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regex) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Regex({self.text!r})"

    def fullmatch(self, text: bytes) -> bool:
        """
        Whether it matches the whole text.

        :raises TextTooLong: see ``longest``.
        """
        length = len(text)
        if length > self.longest:
            raise TextTooLong
        return bool(self._test.Match(_FULL, text, 0, length)[0] != _NOWHERE)

    def search(self, text: bytes, *, bounded: bool = True) -> bool:
        """
        Whether it matches somewhere in the text.

        :param bounded: take no text that is longer than ``longest``. The engine leaves other threads the interpreter.
        :raises TextTooLong: see ``longest``.
        """
        length = len(text)
        if bounded and length > self.longest:
            raise TextTooLong
        return bool(self._test.Match(_ANYWHERE, text, 0, length)[0] != _NOWHERE)

    def spans(self, text: bytes, *, whole: bool = False) -> list[tuple[int, int]] | None:
        """
        Where the first match, and each group in it, begin and end; (-1, -1) for a group that takes no part.

        :param whole: match the whole text.
        :return: None if it doesn't match.
        :raises TextTooLong: see ``longest``.
        """
        length = len(text)
        if length > self.longest:
            raise TextTooLong
        found: list[tuple[int, int]] = self._capture.Match(_FULL if whole else _ANYWHERE, text, 0, length)
        return found if found[0] != _NOWHERE else None


@lru_cache(maxsize=4096)  # a configuration is checked, built and reloaded
def _compiled(text: str, utf8: bool, ignore_case: bool) -> tuple[re2._re2.RE2, re2._re2.RE2, dict[str, int], int]:
    """A program that only tests, which is quicker, one that captures, the groups' names, and the larger one's size."""
    plain = _ESCAPES_AND_CLASSES.sub("", text)
    if counts := _NO_MINIMUM.search(plain):
        raise NotSupported(text, f"has {counts[0]}, which is not supported: write {{0{counts[0][1:]}")
    names = _GROUP_NAME.findall(plain)
    for name in names:
        if not name.isidentifier() or not name.isascii():
            raise NotSupported(text, f"is not a regular expression: {name!r} is not a name of a group")
        if names.count(name) > 1:
            raise NotSupported(text, f"is not a regular expression: two groups have the name {name}")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MEMORY
    options.case_sensitive = not ignore_case
    options.encoding = re2.Options.Encoding.UTF8 if utf8 else re2.Options.Encoding.LATIN1
    pattern = text.encode("utf-8", "surrogatepass")
    try:
        capture = re2.compile(pattern, options)
        options.never_capture = True
        test = re2.compile(pattern, options) if capture.groups else capture
    except re2.error as error:
        raise NotSupported(text, _explained(error.args[0].decode("utf-8", "replace"))) from None
    size = max(capture.programsize, test.programsize)
    if size > MOST_INSTRUCTIONS:
        raise NotSupported(
            text,
            f"is too large a regular expression: it compiles to {size} instructions, at most {MOST_INSTRUCTIONS} are"
            " possible; smaller repetition counts make it smaller",
        )
    groups = {name.decode(): number for name, number in capture.groupindex.items()}
    return test._regexp, capture._regexp, groups, size


def _explained(error: str) -> str:
    kind, _, what = error.partition(": ")
    refused = ""
    if kind == "invalid perl operator":
        refused = _SPECIAL_GROUPS.get(what, "")
    elif kind == "bad repetition operator" and what.endswith("+"):
        refused = "a possessive quantifier"
    elif kind == "invalid escape sequence" and what[1:].isdigit():
        refused = "a back-reference"
    elif kind == "invalid escape sequence" and what in _SPECIAL_ESCAPES:
        return f"has {_SPECIAL_ESCAPES[what]}"
    elif kind == "invalid repetition size":
        return f"has a repetition count (`{what}`) that is above 1000 in all, or below its minimum"
    if refused:
        return f"has {refused} (`{what}`), which is not supported in regular expressions"
    return f"is not a regular expression: {error}"
