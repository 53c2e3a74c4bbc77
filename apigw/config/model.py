"""
What a settings class is, and which options it allows.

    class Timeouts(Settings):
        connect: Duration = Field(3.0, gt=0, description="For a connection to be made.")

    class Upstream(Settings):
        timeout: Timeouts = Timeouts()             # the option timeout.connect
        header: dict[str, str] = {}                # header.NAME, for any name
        call: dict[str, Call] = {}                 # call.NAME.optional, ...
        class_: PythonObject = Field(alias="class")

A class whose group has a value of its own beside its options (``call.user = …`` and ``call.user.optional = yes``) says
in ``own_option`` which field takes it. Docstrings and descriptions are the text of the manual.

Not here: values (``values``); the mistakes' words (``binding``).
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo

from apigw.config.values import Form


class Settings(pydantic.BaseModel):
    """
    The base of all settings: frozen, and nothing is allowed that isn't declared.

    :cvar own_option: the field that takes the value of the group itself.
    """

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
    own_option: ClassVar[str] = ""


class _Nothing(dict[Any, Any]):
    def __hash__(self) -> int:  # type: ignore[override]
        return 0


NOTHING = _Nothing()
"""An empty mapping as default: pydantic copies each one that has no hash, for every section that is made."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """
    An option that a settings class has.

    :ivar name: as it is written; ``NAME`` stands for what is open, as in ``header.NAME``.
    :ivar steps: the way to its field; ``NAME`` again stands for what is open.
    :ivar owner: the class that has the field.
    :ivar info: pydantic's view of the field.
    """

    name: str
    steps: tuple[str, ...]
    owner: type[Settings]
    info: FieldInfo

    @property
    def form(self) -> Form | None:
        """How its value is written, if its type says so."""
        return form_of(self.info)

    @property
    def words(self) -> str:
        """What it expects, in words; of a list, what each of its items is."""
        if self.form is None:
            return ""
        members = get_args(self.info.annotation)
        item = form_in(members[0]) if get_origin(self.info.annotation) is tuple and members else None
        return f"{item.words}; or several" if item else self.form.words


OPEN = "NAME"


@functools.cache
def allowed(settings: type[Settings]) -> dict[str, Allowed]:
    """Give all options of a class by name, in the order in which they are declared."""
    return {each.name: each for each in _walk(settings, (), ())}


@functools.lru_cache(maxsize=4096)  # many sections have the same options
def find(settings: type[Settings], name: str) -> tuple[Allowed, tuple[str, ...]] | None:
    """Find the option of that name and the way to its value, or None."""
    options = allowed(settings)
    if found := options.get(name):
        return (found, found.steps) if OPEN not in found.steps else None
    for option in options.values():
        if OPEN in option.steps and (match := _pattern(option.name, option.steps[-1] == OPEN).fullmatch(name)):
            taken = iter(match.groups())
            return option, tuple(next(taken) if step == OPEN else step for step in option.steps)
    return None


def form_of(info: FieldInfo) -> Form | None:
    """Give the form that stands in a field's annotation, also within ``X | None``."""
    for each in info.metadata:
        if isinstance(each, Form):
            return each
    return form_in(info.annotation)


def settings_in(annotation: Any) -> type[Settings] | None:
    """Give the settings class of ``X`` or ``X | None``."""
    if get_origin(annotation) is Annotated:
        return settings_in(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        return next((found for each in get_args(annotation) if (found := settings_in(each))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None


def form_in(annotation: Any) -> Form | None:
    """Give the form of an annotated type, also within ``X | None``."""
    if get_origin(annotation) is Annotated:
        return next((each for each in annotation.__metadata__ if isinstance(each, Form)), None)
    if get_origin(annotation) in {Union, types.UnionType}:
        return next((form for each in get_args(annotation) if (form := form_in(each))), None)
    return None


def _walk(settings: type[Settings], written: tuple[str, ...], steps: tuple[str, ...]) -> Iterator[Allowed]:
    for attribute, info in settings.model_fields.items():
        name = info.alias or attribute
        own = steps and attribute == settings.own_option
        here = written if own else (*written, name)
        way = (*steps, name)
        group = settings_in(info.annotation)
        members = get_args(info.annotation)
        if group is not None:
            yield from _walk(group, here, way)
        elif get_origin(info.annotation) is dict and form_of(info) is None:
            if member := settings_in(members[1]):
                yield from _walk(member, (*here, OPEN), (*way, OPEN))
            else:
                yield Allowed(".".join((*here, OPEN)), (*way, OPEN), settings, info)
        else:
            yield Allowed(".".join(here), way, settings, info)


@functools.cache
def _pattern(name: str, open_end: bool) -> re.Pattern[str]:
    parts = [r"([^.]+)" if part == OPEN else re.escape(part) for part in name.split(".")]
    if open_end:  # nothing comes after it, so this name may have dots
        parts[-1] = "(.+)"
    return re.compile(r"\.".join(parts))
