"""
One mistake in a configuration, and the error that carries all of them.

Not here: who finds them (``reader``, ``binding``, ``load`` and the check functions of other rooms).
"""

from __future__ import annotations

import difflib
import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Place(NamedTuple):
    """A line of a file; lines count from 1, and 0 is the file as a whole."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


_PASSWORD = re.compile(r"(://[^/?#\s@:]*:)[^/?#\s`]*@")
"""The password in a URL, which is nobody's to read in a log."""


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One mistake.

    :ivar file: the file as the person named it.
    :ivar line: counts from 1; 0 when the whole file is meant.
    :ivar section: ``route users``, or empty.
    :ivar option: ``timeout.connect``, or empty.
    :ivar what: what is wrong. It never holds a value that came from the environment or a secret's file.
    :ivar expected: what should have been there, without the word "expected".
    :ivar hint: what was probably meant, a sentence part like ``did you mean upstream?``.
    :ivar severity: an ``error`` stops everything, a ``warning`` is only shown.
    """

    file: str
    line: int
    section: str
    option: str
    what: str
    expected: str = ""
    hint: str = ""
    severity: Literal["error", "warning"] = "error"

    def __post_init__(self) -> None:
        """Keep it to one line that no terminal takes for a command, whatever a file has in it."""
        for name in ("section", "option", "what", "expected", "hint"):
            words = getattr(self, name)
            if not words.isprintable():
                shown = "".join(sign if sign.isprintable() else " " for sign in words)
                words = " ".join(shown.split())
            object.__setattr__(self, name, _PASSWORD.sub(r"\1***@", words))

    @property
    def place(self) -> str:
        """``file:line``, as editors and compilers write it."""
        return str(Place(self.file, self.line))

    def __str__(self) -> str:
        """``file:line: [section] option: what is wrong; what was expected; did you mean …``, on one line."""
        where = f"{self.place}: " + (f"[{self.section}] " if self.section else "")
        option = f"{self.option}: " if self.option else ""
        warning = "warning: " if self.severity == "warning" else ""
        expected = f"expected {self.expected}" if self.expected else ""
        return where + warning + option + "; ".join(part for part in (self.what, expected, self.hint) if part)


class ConfigurationError(Exception):
    """
    A configuration that can't be used; ``str()`` gives one line a mistake.

    :ivar problems: every mistake that was found, in order of file and line.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems), key=lambda each: (each.file, each.line, each.option, each.what))
        super().__init__("\n".join(map(str, self.problems)))


def closest(word: str, known: Iterable[str]) -> str:
    """Give the known word that is most like this one, or an empty string if none is much like it; numbers never are."""
    return _closest(str(word), tuple(known)) if any(sign.isalpha() for sign in word) else ""


@functools.lru_cache(maxsize=256)  # the same slip often stands in many sections
def _closest(word: str, known: tuple[str, ...]) -> str:
    cutoff = 0.65 if len(word) < 6 else 0.7  # one letter too many weighs more in a short word
    close = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    if not close:
        folded = {each.lower(): each for each in reversed(known)}
        close = [folded[each] for each in difflib.get_close_matches(word.lower(), folded, n=1, cutoff=cutoff)]
    return close[0] if close else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give ``did you mean X?`` for the known word that is most like this one, or an empty string."""
    meant = closest(word, known)
    return f"did you mean {meant}?" if meant else ""
