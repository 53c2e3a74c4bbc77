"""
What ``request_headers`` and ``response_headers`` have in common: changes of fields, in the order they are made in.

    remove    fields that go
    rename    Old: New; what was called New before goes
    replace   a new value, if the field is there
    set       a new value, whether it is there or not; if the value can't be made, the field goes
    add       a value, if the field is not there
    append    one more value

What is removed or set is also what is only spelt like it, ``X_User_Id`` for ``X-User-Id``: services may see the same.

Not here: whose fields are changed.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, model_validator

from apigw.config.model import NOTHING
from apigw.config.text import Wrong
from apigw.config.values import HeaderName, Pairs, Several
from apigw.exchange.headers import Pair
from apigw.exchange.request import Request
from apigw.http.fields import HOP_BY_HOP, folded, is_token
from apigw.policies.policy import PolicySettings
from apigw.policies.templates import Template, TemplateText

UNTOUCHABLE = HOP_BY_HOP | {b"content-length", b"host", b"trailer", b"expect"}
"""Fields that frame messages or belong to connections: the gateway's own business."""

Values = tuple[bytes | None, ...]


class EditSettings(PolicySettings):
    """Changes of header fields."""

    remove: Several[HeaderName] = ()
    """Fields that go."""
    rename: Pairs[str] = Field(NOTHING)
    """``Old: New`` items; what was called New before goes."""
    replace: dict[str, TemplateText] = Field(NOTHING)
    """A new value for the field of this name, if it is there."""
    set_: dict[str, TemplateText] = Field(NOTHING, alias="set")
    """The only value of the field of this name. If it can't be made, the field goes."""
    add: dict[str, TemplateText] = Field(NOTHING)
    """A value for the field of this name, if it is not there."""
    append: dict[str, TemplateText] = Field(NOTHING)
    """One more value for the field of this name."""

    @model_validator(mode="after")
    def _names(self) -> EditSettings:
        named = [("remove", name, "remove") for name in self.remove]
        named += [("rename", name, "rename") for pair in self.rename.items() for name in pair]
        for option, values in (
            ("replace", self.replace),
            ("set", self.set_),
            ("add", self.add),
            ("append", self.append),
        ):
            named += [(option, name, f"{option}.{name}") for name in values]
        if not named:
            raise Wrong("it changes nothing: remove, rename, replace, set, add or append is needed")
        for _, name, option in named:
            if not is_token(name.encode()):
                raise Wrong(f"`{name}` is not a header's name", option=option)
            if name.lower().encode() in UNTOUCHABLE:
                raise Wrong(f"{name} belongs to the connection; the gateway writes it", option=option)
        return self


class Edits:
    """The changes of one section, ready to be made."""

    def __init__(self, settings: EditSettings) -> None:
        def compiled(values: dict[str, Template]) -> list[tuple[bytes, bytes, int]]:
            made = []
            for name, template in values.items():
                made.append((name.encode(), name.lower().encode(), len(self._templates)))
                self._templates.append(template)
            return made

        self._templates: list[Template] = []
        removed = frozenset(name.lower().encode() for name in settings.remove)
        self._remove = frozenset(map(folded, removed)) if removed else removed
        self._rename = {old.lower().encode(): new.encode() for old, new in settings.rename.items()}
        self._replace = compiled(settings.replace)
        self._set = compiled(settings.set_)
        self._add = compiled(settings.add)
        self._append = compiled(settings.append)
        self.needs_identity = any(template.of_identity for template in self._templates)
        values = tuple([template.static for template in self._templates])
        self.static: Values | None = values if None not in values else None
        self.touched = frozenset((*removed, *self._rename, *(low for _, low, _ in (*self._replace, *self._set))))
        """Fields that are changed or taken out where they are there."""
        self.looked_at = self.touched.union(low for _, low, _ in self._add) if self._add else self.touched
        """Fields of which it matters whether they are there."""

    def values(self, request: Request) -> Values:
        """
        What the templates say for a request.

        :raises ValueRefused: when one can't stand in a header.
        """
        if self.static is not None:
            return self.static
        return tuple([template.render(request) for template in self._templates])

    def additions(self, values: Values, present: Iterable[bytes]) -> tuple[Pair, ...]:
        """What is put behind fields of which none is touched."""
        added = [(name, value) for name, _, index in self._set if (value := values[index]) is not None]
        taken = {*present, *(low for _, low, index in self._set if values[index] is not None)}
        added += [
            (name, value) for name, low, index in self._add if low not in taken and (value := values[index]) is not None
        ]
        added += [(name, value) for name, _, index in self._append if (value := values[index]) is not None]
        return tuple(added)

    def edited(self, pairs: list[Pair], values: Values) -> list[Pair]:
        """The fields as they are to be."""
        if self._remove:
            pairs = [pair for pair in pairs if folded(pair[0]) not in self._remove]
        for old, new in self._rename.items():
            if any(pair[0].lower() == old for pair in pairs):
                lower = new.lower()
                pairs = [
                    (new, pair[1]) if pair[0].lower() == old else pair
                    for pair in pairs
                    if pair[0].lower() != lower or lower == old
                ]
        for name, lower, index in self._replace:
            value = values[index]
            if value is not None and any(pair[0].lower() == lower for pair in pairs):
                pairs = [*(pair for pair in pairs if pair[0].lower() != lower), (name, value)]
        for _, lower, _ in self._set:
            alike = folded(lower)
            pairs = [pair for pair in pairs if folded(pair[0]) != alike]
        return [*pairs, *self.additions(values, [pair[0].lower() for pair in pairs])]
