"""
The manual of the configuration, written from the settings classes: docs/configuration.md.

Not here: the settings classes themselves, whose docstrings and descriptions are its text.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import pydantic

from apigw.config.kinds import Kind, Kinds
from apigw.config.model import Allowed, Settings, allowed, form_in
from apigw.config.values import Form

HEAD = """\
# Configuration

<!-- Written by `apigw reference` from the settings classes. Changes made here are lost. -->

`apigw check FILE` reads a file and tells all of its mistakes at once, each with file and line. Nothing starts on a
file with a mistake, and a reload of one changes nothing.

## Grammar

```ini
[KIND NAME]             ; a section; some kinds have no name
option = value          ; `;` and `#` start a comment at a line's start or after white space
list   = one, two       ; commas separate items,
    three               ; and an indented line goes on with the value above: one item a line
quoted = "a, b ; c"     ; one item, without a comment in it
secret = ${NAME}        ; the environment
other  = ${NAME:-text}  ; the environment, or a default when it is unset or empty
file   = ${file:PATH}   ; what a file holds, without the line end at its end
plain  = $${NAME}       ; `${NAME}` as it stands
```

- **Quotes.** An item or value that stands within double quotes as a whole loses them; `\\"` and `\\\\` in it are a
  quote and a backslash. Quotes in the middle of a value belong to it, but commas and comment signs between them are
  text as well, so JSON is written as it is: `{"error": "down ; try later"}`. Elsewhere, as in a regular expression,
  `;` and `#` are text unless white space stands before them.
- **Substitutions** are never syntax: a comma in an environment variable separates nothing. Messages show the name
  instead of the value.
- **Paths** are relative to the file that they stand in.
- `include = other/*.ini` in `[gateway]` reads more files. No section may be there twice.
- **Forms**: durations `250ms` `5s` `2m` `1h` `30d`; sizes `512` `64KiB` `10MiB`; rates `100/s` `600/m` `100/15m`
  `5000/h`; shares `50%`; flags `yes` `no`.
"""


def reference(kinds: Kinds) -> str:
    """Write the manual of these kinds of sections, in Markdown."""
    sections = {name: kind for name, kind in kinds.items() if not kind.policy}
    policies = {name: kind for name, kind in kinds.items() if kind.policy}
    parts = [HEAD]
    parts += [_section(name, kind, "##") for name, kind in sections.items()]
    if policies:
        parts.append(
            "## Policies\n\nNamed once; routes list them under `policies`, and they run in the order listed.\n"
        )
        parts += [_section(name, kind, "###") for name, kind in policies.items()]
    return "\n".join(parts)


def _section(name: str, kind: Kind, level: str) -> str:
    lines = [f"{level} {kind.title(name)}", "", *_prose(kind.settings), ""]
    fields = kind.settings.model_fields
    own = {fields[each].alias or each for each in kind.settings.__annotations__ if each in fields}
    options = sorted(allowed(kind.settings).values(), key=lambda option: option.steps[0] not in own)
    if options:
        lines += ["| option | form | default | |", "|---|---|---|---|", *map(_row, options), ""]
    return "\n".join(lines)


def _prose(settings: type[Settings]) -> Iterable[str]:
    text = inspect.cleandoc(settings.__doc__ or "")
    return (line for line in text.split("\n") if not line.startswith((":ivar", ":cvar")))


def _row(option: Allowed) -> str:
    info = option.info
    description = " ".join((info.description or "").split()).replace("``", "`")
    cells = (f"`{option.name}`", _form(option), _default(option), description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _form(option: Allowed) -> str:
    form = option.form
    if form is None:
        return _plain(option.info.annotation)
    inner = _inner(option)
    return f"{form.name} of {inner}" if inner else form.name


def _inner(option: Allowed) -> str:
    """What a list or mapping holds."""
    annotation = option.info.annotation
    members = get_args(annotation)
    if get_origin(annotation) is tuple and option.form is not None and option.form.name == "list":
        return _named(members[0])
    return ""


def _named(annotation: Any) -> str:
    form = form_in(annotation)
    return form.name if form else _plain(annotation)


def _plain(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in get_args(annotation))
    if origin in {Union, types.UnionType}:
        return " or ".join(_plain(each) for each in get_args(annotation) if each is not type(None))
    if origin is dict:
        return _named(get_args(annotation)[1])
    words = {str: "text", int: "whole number", float: "number", bool: "yes or no", pydantic.SecretStr: "text, secret"}
    return words.get(annotation, "text") if isinstance(annotation, type) else "text"


def _default(option: Allowed) -> str:
    info = option.info
    if "NAME" in option.steps[-1:]:
        return ""
    if info.is_required():
        return "required" if len(option.steps) == 1 else "required in its group"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, pydantic.SecretStr):
        value = value.get_secret_value()
    form = option.form
    if value is None and not (form and "off" in form.name):
        return ""
    if isinstance(value, tuple | frozenset | set | list | Mapping | str) and not value:
        return ""
    return "`" + _shown(form, option, value) + "`"


def _shown(form: Form | None, option: Allowed, value: Any) -> str:
    if form is None:
        return str(value)
    members = get_args(option.info.annotation)
    item = form_in(members[0]) if members and isinstance(value, tuple) else None
    if item is not None and form.name == "list":
        return ", ".join(map(item.show, value))
    return form.show(value)


def differences(kinds: Kinds, written: str) -> Iterator[str]:
    """Give the lines in which the manual that was written before differs; none if it is up to date."""
    import difflib

    yield from difflib.unified_diff(
        written.splitlines(), reference(kinds).splitlines(), "as written", "as it should be", lineterm="", n=0
    )
