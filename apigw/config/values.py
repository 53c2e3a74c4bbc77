"""
The forms that an option's value can have: text to value, in types that settings classes use as annotations.

    class Pool(Settings):
        idle_timeout: Annotated[Duration, Field(gt=0, description="How long ...")] = 30.0
        methods: Several[Method] = ()

A value that is not a string passes through to pydantic, so that settings can be made in Python as well.
A form of one's own is a function from text to value that raises ``Wrong``:

    Weekday = Annotated[int, Form("weekday", "a weekday such as monday", parse_weekday)]

Not here: addresses and networks (``addresses``); names of other sections (``references``).
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import pydantic
from pydantic_core import core_schema

from apigw.config import files
from apigw.config.problems import Place, did_you_mean
from apigw.config.regex import NotSupported, Regex
from apigw.config.text import Text, Wrong, written
from apigw.json_text import InvalidJSON, mistake, read, show

T = TypeVar("T")
Parse = Callable[[Text], Any]


@dataclass(frozen=True, slots=True)
class Form:
    """
    Annotates a type with how it is written.

    :ivar name: one or two words for the manual's table, like ``duration``.
    :ivar words: what messages expect, like ``a duration such as 250ms, 5s, 2m, 1h``.
    :ivar parse: text to value; pydantic then checks what it gives against the annotated type.
    :ivar show: value back to text, for defaults and limits.
    """

    name: str
    words: str
    parse: Parse
    show: Callable[[Any], str] = str

    def __get_pydantic_core_schema__(
        self, source: object, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self._read, handler(source))

    def _read(self, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value if isinstance(value, Text) else written(value))
        except Wrong as wrong:
            wrong.expected = wrong.expected or self.words
            raise


def one_line(text: Text) -> str:
    """
    Give the text if it is one value on one line.

    :raises Wrong: for none or several lines.
    """
    if not text:
        raise Wrong("there is no value")
    if len(text.lines) > 1:
        raise Wrong(f"one value was expected, not {len(text.lines)} lines", at=text.items()[1])
    return str(text)


def matched(pattern: re.Pattern[str], text: Text, what: str) -> re.Match[str]:
    """
    Match the whole text.

    :param what: ``a duration``, for the message.
    :raises Wrong: if it doesn't match.
    """
    found = pattern.fullmatch(one_line(text))
    if found is None:
        raise Wrong(f"{{shown}} is not {what}")
    return found


# ---- quantities ------------------------------------------------------------------------------------------------------

_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"([0-9]{1,15})(B|KiB|MiB|GiB|TiB)?")
_BYTES = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_RATE = re.compile(r"([0-9]{1,15})/([0-9]{1,5})?(s|m|h|d)")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%")
_COUNT = re.compile(r"[0-9]{1,15}")
_NUMBER = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?")


def parse_duration(text: Text) -> float:
    """``250ms``, ``5s``, ``1.5m``, ``1h``, ``30d`` to seconds."""
    found = _DURATION.fullmatch(one_line(text))
    if found is None:
        hint = f"did you mean {text.shown}s?" if _NUMBER.fullmatch(text) else ""
        raise Wrong("{shown} is not a duration", hint=hint)
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds > 100 * 365 * 86400:
        raise Wrong("{shown} is more than a hundred years")
    return seconds


def show_duration(seconds: float) -> str:
    """Seconds to the largest unit that has no fraction."""
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.15g}{unit}"
    return f"{seconds * 1000:.12g}ms" if seconds and seconds < 1 else f"{seconds:.15g}s"


def parse_size(text: Text) -> int:
    """``512``, ``64KiB``, ``10MiB`` to bytes."""
    found = _SIZE.fullmatch(one_line(text))
    if found is None:
        near = re.fullmatch(r"([0-9]+) ?([kmgt])i?b?", text, re.IGNORECASE)
        hint = f"did you mean {near[1]}{near[2].upper()}iB?" if near and not text.secret else ""
        raise Wrong("{shown} is not a size", hint=hint)
    size = int(found[1]) * _BYTES[found[2]]
    if size >= 1 << 62:
        raise Wrong("{shown} is too large")
    return size


def show_size(size: int) -> str:
    """Bytes to the largest unit that divides them."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)


class PerTime(NamedTuple):
    """So many in so many seconds."""

    limit: int
    seconds: int


def parse_rate(text: Text) -> PerTime:
    """``100/s``, ``600/m``, ``5000/h``, ``100000/d``; over several units: ``100/15m``."""
    found = matched(_RATE, text, "a rate")
    units = int(found[2] or 1)
    if not int(found[1]) or not units:
        raise Wrong("a rate can't be 0")
    return PerTime(int(found[1]), units * int(_SECONDS[found[3]]))


def show_rate(rate: PerTime) -> str:
    """The rate as it is written, in the largest unit that fits."""
    unit = next(unit for unit in ("d", "h", "m", "s") if rate.seconds % _SECONDS[unit] == 0)
    units = int(rate.seconds // _SECONDS[unit])
    return f"{rate.limit}/{units if units > 1 else ''}{unit}"


def parse_share(text: Text) -> float:
    """``50%`` to 0.5; more than 100 % is refused."""
    share = float(matched(_SHARE, text, "a share")[1]) / 100
    if share > 1:
        raise Wrong("{shown} is more than 100%")
    return share


def parse_flag(text: Text) -> bool:
    """``yes`` or ``no``, and nothing else."""
    value = one_line(text)
    if value not in {"yes", "no"}:
        meant = {"true": "yes", "on": "yes", "1": "yes", "false": "no", "off": "no", "0": "no"}.get(value.lower())
        meant = meant or (value.lower() if value.lower() in {"yes", "no"} else None)
        raise Wrong("{shown} is neither yes nor no", hint=f"did you mean {meant}?" if meant else "")
    return value == "yes"


def show_flag(value: object) -> str:
    """``yes`` or ``no``."""
    return "yes" if value else "no"


def parse_count(text: Text) -> int:
    """A whole number from 0."""
    return int(matched(_COUNT, text, "a whole number")[0])


def parse_number(text: Text) -> float:
    """A decimal number."""
    return float(matched(_NUMBER, text, "a number")[0])


def or_off(parse: Callable[[Text], T]) -> Callable[[Text], T | None]:
    """Take ``off`` too, which gives None."""
    return lambda text: None if text == "off" else parse(text)


def _shown_or_off(show: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: "off" if value is None else show(value)


def _share_shown(share: float) -> str:
    return f"{share * 100:g}%"


_A_DURATION = "a duration such as 250ms, 5s, 2m, 1h"
_A_SIZE = "a size such as 512, 64KiB, 10MiB"

Duration = Annotated[float, Form("duration", _A_DURATION, parse_duration, show_duration)]
"""Seconds."""
DurationOrOff = Annotated[
    float | None,
    Form("duration or off", _A_DURATION + ", or off", or_off(parse_duration), _shown_or_off(show_duration)),
]
"""Seconds, or None for ``off``."""
Size = Annotated[int, Form("size", _A_SIZE, parse_size, show_size)]
"""Bytes."""
SizeOrOff = Annotated[
    int | None, Form("size or off", _A_SIZE + ", or off", or_off(parse_size), _shown_or_off(show_size))
]
"""Bytes, or None for ``off``: no limit."""
Rate = Annotated[PerTime, Form("rate", "a rate such as 100/s, 600/m, 100/15m, 5000/h, 100000/d", parse_rate, show_rate)]
"""One rate; several windows are ``Several[Rate]``."""
Share = Annotated[float, Form("share", "a share such as 50%", parse_share, _share_shown)]
"""0.0 to 1.0."""
Flag = Annotated[bool, Form("yes or no", "yes or no", parse_flag, show_flag)]
Count = Annotated[int, Form("count", "a whole number", parse_count)]
"""A whole number from 0; narrower with ``Annotated[Count, Field(ge=1, le=9)]``."""
Number = Annotated[float, Form("number", "a number such as 1 or 0.5", parse_number)]


# ---- several ---------------------------------------------------------------------------------------------------------


def items(text: Text) -> list[Text]:
    """The items of a list, each knowing its line; an empty value has none."""
    return text.items()


def pairs(text: Text) -> dict[Text, Text]:
    """``name: value, name: value`` to a mapping; the first colon of an item separates."""
    found: dict[Text, Text] = {}
    for item in text.items():
        colon = item.find(":")
        if colon < 1:
            raise Wrong("{shown} is not of the form `name: value`", at=item)
        name = item.part(0, colon)
        if name in found:
            raise Wrong(f"{name.shown} is here twice", at=item)
        found[name] = item.part(colon + 1)
    return found


def show_several(values: Iterable[object]) -> str:
    """Items as they are written on one line."""
    return ", ".join(map(str, values))


def show_pairs(values: Mapping[str, object]) -> str:
    """A mapping as it is written on one line."""
    return ", ".join(f"{name}: {value}" for name, value in values.items())


Several = Annotated[tuple[T, ...], Form("list", "items, separated by commas or one a line", items, show_several)]
"""A list; each item is of the type given: ``Several[Duration]``."""
StrList = Several[str]
Pairs = Annotated[dict[str, T], Form("name: value list", "`name: value` items", pairs, show_pairs)]
"""A mapping written as ``name: value`` items: ``Pairs[str]``."""

_STATUSES = re.compile(r"([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?|([1-5])xx")


def parse_statuses(text: Text) -> frozenset[int]:
    """``502, 503, 500-599, 5xx`` to all statuses meant."""
    found: set[int] = set()
    for item in text.items():
        match = matched_at(_STATUSES, item, "a status or a range of them")
        first = int(match[3]) * 100 if match[3] else int(match[1])
        last = first + 99 if match[3] else int(match[2] or first)
        if last < first:
            raise Wrong("{shown} ends before it begins", at=item)
        found.update(range(first, last + 1))
    return frozenset(found)


def matched_at(pattern: re.Pattern[str], item: Text, what: str) -> re.Match[str]:
    """Match a whole item of a list; the error stands at the item's own line."""
    found = pattern.fullmatch(item)
    if found is None:
        raise Wrong(f"{{shown}} is not {what}", at=item)
    return found


def show_statuses(statuses: frozenset[int]) -> str:
    """Statuses with runs as ranges."""
    runs: list[list[int]] = []
    for status in sorted(statuses):
        if runs and status == runs[-1][1] + 1:
            runs[-1][1] = status
        else:
            runs.append([status, status])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


StatusSet = Annotated[
    frozenset[int], Form("statuses", "statuses such as 502, 503, 500-599", parse_statuses, show_statuses)
]


# ---- files -----------------------------------------------------------------------------------------------------------


def absolute(text: Text) -> Path:
    """Make a path absolute: relative to the file that it stands in, or to the working folder if it stands in none."""
    return located(one_line(text), text.place)


def located(path: str, place: Place) -> Path:
    """Make a path absolute that stands at a place of a file."""
    if "\0" in path:
        raise Wrong("{shown} is not a path")
    return Path(os.path.abspath(os.path.join(os.path.dirname(place.file), path)))


def parse_file(text: Text) -> Path:
    """A file that is there and can be read; while a configuration is loaded, its content stays for who uses it."""
    return readable(absolute(text))


def readable(path: Path, shown: str = "{shown}") -> Path:
    """
    Give the path of a file that is there and can be read.

    :param shown: what messages call it.
    """
    try:
        files.read(path)
    except IsADirectoryError:
        raise Wrong(f"{shown} is a folder") from None
    except FileNotFoundError:
        raise Wrong(f"there is no file {shown}", f"a file that can be read{_nearby(path)}") from None
    except PermissionError:
        raise Wrong(f"{shown} can't be read: permission denied") from None
    except OSError as error:
        raise Wrong(f"{shown} can't be read: {error.strerror}") from None
    return path


def _nearby(path: Path) -> str:
    try:
        return "" if files.is_folder(path.parent) else f" (there is no folder {path.parent} either)"
    except TimeoutError:
        return ""


def parse_folder_or_file(text: Text) -> Path:
    """A file or folder that is there and can be read."""
    path = absolute(text)
    try:
        if files.is_folder(path):
            files.names(path)
            return path
    except OSError as error:
        raise Wrong(f"{{shown}} can't be read: {error.strerror}") from None
    return parse_file(text)


FilePath = Annotated[Path, Form("file", "a file that can be read", parse_file)]
"""An absolute path of a file that is there; in INI it is relative to the file that it stands in."""
FolderOrFile = Annotated[Path, Form("file or folder", "a file or folder that can be read", parse_folder_or_file)]
AnyPath = Annotated[Path, Form("path", "a path", absolute)]
"""An absolute path of which nothing is known yet."""


# ---- words -----------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HOST = re.compile(
    r"(?:\*\.)?(?:[a-z0-9_~!$&'()+;=](?:[a-z0-9_~!$&'()+;=-]{0,61}[a-z0-9_~!$&'()+;=])?)"
    r"(?:\.[a-z0-9_~!$&'()+;=](?:[a-z0-9_~!$&'()+;=-]{0,61}[a-z0-9_~!$&'()+;=])?)*\.?"
)


def parse_url(text: Text) -> str:
    """An http(s) URL of visible ASCII."""
    value = one_line(text)
    try:
        parts = urlsplit(value)
        wrong = parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0 or bool(parts.fragment)
    except ValueError:
        raise Wrong("there is no host, or no port, in this URL") from None
    if parts.username is not None or parts.password is not None:
        raise Wrong("user and password can't stand in this URL")
    if wrong or not value.isascii() or not value.isprintable() or " " in value:
        raise Wrong("{shown} is not an http(s) URL")
    return value


def parse_regex(text: Text) -> Regex:
    """Compile a regular expression of UTF-8 text."""
    try:
        return Regex(one_line(text), utf8=True)
    except NotSupported as error:
        raise Wrong("{shown} " + error.what) from None


def parse_method(text: Text) -> str:
    """A method of HTTP; they are case-sensitive (RFC 9110 9.1), and all that are registered are in capitals."""
    value = matched(_TOKEN, text, "a method")[0]
    if value != value.upper():
        raise Wrong(
            "{shown} is not a method in capitals", hint=f"did you mean {value.upper()}?" if not text.secret else ""
        )
    return value


def parse_header_name(text: Text) -> str:
    """A field name (RFC 9110 5.1)."""
    return matched(_TOKEN, text, "a header's name")[0]


def parse_host(text: Text) -> str:
    """An exact host or ``*.`` and one; it is compared in lower case."""
    value = one_line(text).lower()
    if not value.isascii():
        try:
            value = value.encode("idna").decode()
        except UnicodeError:
            raise Wrong("{shown} is not a host's name") from None
    if _HOST.fullmatch(value):
        return value.rstrip(".")
    if re.fullmatch(r"\[[0-9a-f:.]+\]", value):
        return value
    hint = "a route matches on the host without its port" if re.fullmatch(r".+:[0-9]+", value) else ""
    raise Wrong("{shown} is not a host's name", hint=hint)


def parse_json(text: Text) -> object:
    """JSON as it is written, outer quotes included."""
    try:
        return read(text.raw.encode())
    except InvalidJSON as error:
        raise Wrong(f"this is not JSON: {mistake(text.raw) or error}") from None


def parse_object(text: Text) -> object:
    """
    Import what ``package.module:Name`` names: from where Python looks, or else from the folder of the configuration, or
    the one that the process was started in.

    The module's code runs. Whatever it raises is a mistake of the configuration.
    """
    found = matched(re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)"), text, "a name in Python")
    for folder in (str(Path(text.place.file).absolute().parent), str(Path.cwd())):
        if folder not in sys.path:
            sys.path.append(folder)  # at the end: nothing there takes the place of what is installed
    try:
        value: object = importlib.import_module(found[1])
    except ModuleNotFoundError as error:
        raise Wrong(f"{{shown}} can't be imported: there is no module {error.name}") from None
    except (Exception, SystemExit) as error:
        raise Wrong(f"{{shown}} can't be imported: {type(error).__name__}: {error}".replace("\n", " ")) from None
    for name in found[2].split("."):
        if not hasattr(value, name):
            raise Wrong(f"{found[1]} has no {found[2]}", hint=did_you_mean(name, dir(value)))
        value = getattr(value, name)
    return value


def show_object(value: object) -> str:
    """``package.module:Name``."""
    return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', value)}"


URL = Annotated[str, Form("URL", "a URL such as https://login.example/keys", parse_url)]
"""An http(s) URL without user information, which would be seen wherever the URL is."""

RegexText = Annotated[pydantic.InstanceOf[Regex], Form("regex", "a regular expression that RE2 takes", parse_regex)]
Method = Annotated[str, Form("method", "a method such as GET or POST", parse_method)]
HeaderName = Annotated[str, Form("header name", "a header's name such as X-User-Id", parse_header_name)]
Host = Annotated[str, Form("host", "a host such as shop.example or *.shop.example", parse_host)]
Verbatim = Annotated[str, Form("text", "text", lambda text: text.raw)]
"""Text whose outer double quotes belong to it, as in JMESPath."""
Word = Annotated[str, Form("text", "text on one line", one_line)]
"""Text that is not empty, on one line."""
Json = Annotated[Any, Form("JSON", 'JSON such as [] or {"a": 1}', parse_json, show)]
PythonObject = Annotated[object, Form("package.module:Name", "package.module:Name", parse_object, show_object)]
"""What the name stands for, imported."""
Secret = pydantic.SecretStr
"""Text that no repr, log or message shows; ``get_secret_value()`` gives it. It is false when empty."""
Mode = Literal["enforce", "shadow"]
PathParameters = Literal["match", "refuse"]
