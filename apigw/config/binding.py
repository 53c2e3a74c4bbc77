"""
One section to its settings: options are put where they belong, pydantic checks them, and its errors become sentences.

What came from the environment or a file never shows: where a validator's words hold a part of it, they are left out.

Not here: names of other sections, which can only be looked up when all sections are bound (``load``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic

from apigw.config.model import OPEN, Allowed, Settings, allowed, find
from apigw.config.problems import Place, Problem, closest, did_you_mean
from apigw.config.reader import Option, Section
from apigw.config.references import Reference, noting
from apigw.config.text import Text, Wrong


@dataclass(slots=True)
class Bound:
    """
    What became of a section.

    :ivar settings: None if anything is wrong with it.
    :ivar draft: with something wrong: the settings without that, if they can do without. To find more mistakes by.
    :ivar references: the names of other sections in it.
    """

    settings: Settings | None
    draft: Settings | None = None
    problems: list[Problem] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)


def bind(section: Section, settings: type[Settings], elsewhere: Mapping[str, str]) -> Bound:
    """
    Make a section's settings.

    :param elsewhere: options of other kinds of sections, with the heading that they belong under, for hints.
    """
    bound = Bound(None)
    tree: dict[str, Any] = {}
    placed: dict[tuple[str, ...], Option] = {}
    gone = False
    for option in section.options.values():
        gone = gone or option.broken
        found = find(settings, option.name)
        if found is None:
            bound.problems.append(_unknown(section, option, settings, elsewhere))
            continue
        _, steps = found
        placed[steps] = option
        if option.broken:
            continue
        if len(steps) == 1:
            tree[steps[0]] = option.value
        else:
            _put(tree, steps, option.value)
    with noting() as bound.references:
        made, errors = _made(settings, tree)
    if not (errors or gone or bound.problems):
        bound.settings = made
        return bound
    explain = _Explanation(section, settings, placed)
    while errors:
        for each in errors:
            bound.problems += explain.problem(each, broken=gone)
        # Once more without what is wrong: the rest may contradict itself, and other rooms find more in it.
        gone = True
        wrong = {steps for each in errors if (steps := explain.placing(each))}
        for steps in wrong:
            _take(tree, steps)
            del placed[steps]
        if not wrong:
            return bound
        with noting():
            made, errors = _made(settings, tree)
    bound.draft = made
    return bound


def _made(settings: type[Settings], tree: dict[str, Any]) -> tuple[Settings | None, list[Any]]:
    try:
        return settings.model_validate(tree), []
    except pydantic.ValidationError as error:
        errors = error.errors(include_url=False)
        short = [each for each in errors if each["type"] == "too_short"]
        follow = [each for each in short if any(_inside(other, each) for other in errors)]
        return None, [each for each in errors if each not in follow]


def _inside(one: Any, other: Any) -> bool:
    """Whether an error is about an item of the list that another is about: the list is short because of that item."""
    size = len(other["loc"])
    return len(one["loc"]) > size and one["loc"][:size] == other["loc"]


def option_at(section: Section, place: Place) -> str:
    """The option whose value stands at a place, or an empty string."""
    for option in section.options.values():
        if any(line.place == place for line in option.value.lines):
            return option.name
    return ""


def _put(tree: dict[str, Any], steps: tuple[str, ...], value: Text) -> None:
    for step in steps[:-1]:
        tree = tree.setdefault(step, {})
    tree[steps[-1]] = value


def _take(tree: dict[str, Any], steps: tuple[str, ...]) -> None:
    """Take a value out, and what held nothing else."""
    first, *rest = steps
    if rest and first in tree:
        _take(tree[first], tuple(rest))
    if not rest or tree.get(first) == {}:
        tree.pop(first, None)


def _unknown(section: Section, option: Option, settings: type[Settings], elsewhere: Mapping[str, str]) -> Problem:
    names = list(allowed(settings))
    members = [name for name in names if name.startswith(f"{option.name}.")]
    what, expected, hint = "there is no such option", "", ""
    if members:
        what, expected = "this is a group of options", ", ".join(members)
    else:
        group, _, own = option.name.rpartition(".")
        last = {name.rpartition(".")[2]: name for name in reversed(names)}
        fellows = {name.rpartition(".")[2]: name for name in names if group and name.rpartition(".")[0] == group}
        meant = last.get(own)
        if not meant and option.name in elsewhere:
            hint = f"it belongs into {elsewhere[option.name]}"
        else:
            # Within a group its name says nothing: timeout.foo is not like timeout.body.
            whole = "" if fellows else closest(option.name, names)
            near = fellows or last
            meant = meant or whole or near.get(closest(own, near))
            hint = f"did you mean {meant}?" if meant else ""
        if not hint:
            expected = "one of " + ", ".join(fellows.values() or names) if names else "no options"
    return Problem(*option.place, section.title, option.name, what, expected, hint)


@dataclass(slots=True)
class _Explanation:
    """Turns pydantic's errors of one section into problems."""

    section: Section
    settings: type[Settings]
    placed: Mapping[tuple[str, ...], Option]

    def problem(self, error: Any, *, broken: bool) -> Iterator[Problem]:
        """Give the problem, or nothing if it only follows from an option that could not be read."""
        steps = tuple(str(step) for step in error["loc"])
        wrong = self._words(error, steps)
        option, rest = self._option(steps, wrong)
        if option is not None and option.broken:
            return
        if option is None:
            if broken:
                return
            name = wrong.option and ".".join((*_named(self.settings, steps), wrong.option))
            name = name or ".".join(_named(self.settings, steps))
            yield Problem(*self.section.place, self.section.title, name, wrong.what, wrong.expected, wrong.hint)
            return
        text = self._piece(option, rest, error, wrong)
        what = wrong.what.replace("{shown}", f"`{text.shown}`" if text.shown else "an empty value")
        expected, hint = wrong.expected, wrong.hint
        # What stood there by expression is shown; what else of the words holds a piece of the value is not.
        if option.value.tells(wrong.what + expected + hint):
            what, expected, hint = f"`{text.shown}` has a value that can't be taken", self._form(option), ""
        yield Problem(*text.place, self.section.title, option.name, what, expected, hint)

    def placing(self, error: Any) -> tuple[str, ...]:
        """The way to the option that is at fault; empty if none that is written is."""
        steps = tuple(str(step) for step in error["loc"])
        return self._placing(steps, self._words(error, steps))

    def _placing(self, steps: tuple[str, ...], wrong: Wrong) -> tuple[str, ...]:
        if wrong.option:
            found = find(self.settings, ".".join((*_named(self.settings, steps), wrong.option)))
            if found and found[1] in self.placed:
                return found[1]
        return next((steps[:length] for length in range(len(steps), 0, -1) if steps[:length] in self.placed), ())

    def _option(self, steps: tuple[str, ...], wrong: Wrong) -> tuple[Option | None, tuple[str, ...]]:
        placed = self._placing(steps, wrong)
        return self.placed.get(placed), steps[len(placed) :] if steps[: len(placed)] == placed else ()

    def _piece(self, option: Option, rest: tuple[str, ...], error: Any, wrong: Wrong) -> Text:
        for text in (wrong.at, error["input"]):
            if isinstance(text, Text) and text.place.line:
                return text
        if rest and rest[0].isdigit():
            try:
                return option.value.items()[int(rest[0])]
            except (Wrong, IndexError):
                pass
        return option.value

    def _words(self, error: Any, steps: tuple[str, ...]) -> Wrong:
        kind, context = error["type"], error.get("ctx", {})
        cause = context.get("error")
        if isinstance(cause, Wrong):
            return cause
        if isinstance(cause, Exception):
            return Wrong(str(cause))
        if kind == "missing":
            return Wrong("this option is missing", self._expected(steps))
        if kind in _LIMITS:
            words, key = _LIMITS[kind]
            return Wrong("{shown} is out of range", f"{words} {self._show(steps, context[key])}")
        if kind in {"literal_error", "enum"}:
            known = re.findall(r"'([^']*)'", context["expected"])
            text = error["input"]
            hint = did_you_mean(text, known) if isinstance(text, str) and not getattr(text, "secret", False) else ""
            return Wrong("{shown} is none of the words that there are", "one of " + ", ".join(known), hint)
        if kind in {"too_short", "string_too_short"}:
            return Wrong(
                "there is no value" if context["min_length"] == 1 else "there are too few values", self._expected(steps)
            )
        if kind == "string_pattern_mismatch":
            beginning = context["pattern"].removeprefix("^")
            plain = context["pattern"].startswith("^") and re.escape(beginning) == beginning
            return Wrong(
                "{shown} has not the right form", f"{beginning} at its beginning" if plain else context["pattern"]
            )
        if kind.startswith(("int_", "float_", "bool_", "decimal_", "finite_")):
            return Wrong("{shown} is not " + _NUMBERS.get(kind.partition("_")[0], "a number"))
        return Wrong("{shown} can't be taken: " + error["msg"])

    def _expected(self, steps: tuple[str, ...]) -> str:
        option = _allowed_at(self.settings, steps)
        return option.words if option else ""

    def _form(self, option: Option) -> str:
        found = find(self.settings, option.name)
        return found[0].words if found else ""

    def _show(self, steps: tuple[str, ...], value: object) -> str:
        option = _allowed_at(self.settings, steps)
        form = option.form if option else None
        try:
            return form.show(value) if form else str(value)
        except (TypeError, ValueError, AttributeError):
            return str(value)


_LIMITS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "too_long": ("at most", "max_length"),
    "string_too_long": ("at most this many characters:", "max_length"),
}
_NUMBERS = {"int": "a whole number", "bool": "yes or no"}


def _named(settings: type[Settings], steps: tuple[str, ...]) -> tuple[str, ...]:
    """The way as an option's name has it: without the step to a group's own value."""
    option = _allowed_at(settings, steps)
    return steps[:-1] if option and len(option.name.split(".")) < len(option.steps) else steps


def _allowed_at(settings: type[Settings], steps: tuple[str, ...]) -> Allowed | None:
    for option in allowed(settings).values():
        wanted = option.steps
        if len(steps) >= len(wanted) and all(step in (OPEN, own) for step, own in zip(wanted, steps, strict=False)):
            return option
    return None
