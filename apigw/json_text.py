r"""
JSON as the gateway reads and writes it (RFC 8259). Every room uses this, so that a text is taken or refused alike.

- Content is UTF-8, with or without a byte order mark. Invalid UTF-8, UTF-16 and UTF-32 are refused.
- Half of a surrogate pair (``"\ud83d"``) is a legal escape (RFC 8259 8.2): it is read, and written as that escape.
- NaN and Infinity are refused. One that was calculated is written as null, as JavaScript does.
- Integers are exact; numbers of more than 1,000 digits, or beyond the range of a double (1e999), are refused.
- Arrays and objects are nested at most 256 deep, and there are at most 170,000 names and values, unless the reader sets
  another bound.
- Of two members with one name the last counts; ``unique=True`` refuses them. It is used for what clients send, and for
  tokens: the next reader of the same text may take the first.

Nothing here raises for a text that holds half of a surrogate pair, in a value or in a name.
"""

from __future__ import annotations

import gc
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable
from itertools import accumulate
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import Any

import msgspec

DEEPEST = 256
"""Arrays and objects within each other."""

MOST_VALUES = 170_000
"""Names and values in one text: reading so many takes up to 45 ms, during which nothing else runs."""

MOST_DIGITS = 1000
"""Digits of a number: what is done with them takes time in proportion to their square."""

_SMALL = 1024
"""Bytes up to which Python's own reader is faster, if names must be unique."""

_FEW = 16 * 1024
"""Bytes below which a text can't hold the collector up."""

_ALL = bytes(range(256))
_STEPS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_TOO_LONG = b"0" * (MOST_DIGITS + 1)
_LONE = re.compile(rb"\\u[dD]")
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_encode_any = msgspec.json.Encoder(enc_hook=str).encode


class InvalidJSON(ValueError):
    """A text that is not JSON, or not within the bounds; the words are safe to show."""


class TooManyValues(InvalidJSON):
    """The text has more values than are taken."""


class ExactNumber(float):
    """A number of which a float keeps less than was written: ``1.10``, 30 digits. Its ``text`` is as written."""

    text: str


ExactNumber.__name__ = "float"  # JMESPath looks at the name


def read(data: bytes, *, depth: int = DEEPEST, most: int = MOST_VALUES, unique: bool = False) -> Any:
    """
    The value of a JSON text.

    :param depth: how many arrays and objects may be within each other.
    :param most: how many names and values there may be.
    :param unique: refuse an object that has the same name twice.
    :raises InvalidJSON: when it is not JSON, or is beyond these bounds.
    """
    return _read(_within(data, depth, most), _decode, _UNIQUE if unique else _LAST, unique)


def _read(data: bytes, fast: Callable[[bytes], Any], slow: json.JSONDecoder, unique: bool) -> Any:
    if len(data) <= _FEW or not gc.isenabled():
        return _read_at_once(data, fast, slow, unique)
    # The collector runs again and again while many objects are made, and finds nothing: most of the time goes there.
    gc.disable()
    try:
        return _read_at_once(data, fast, slow, unique)
    finally:
        gc.enable()


def _read_at_once(data: bytes, fast: Callable[[bytes], Any], slow: json.JSONDecoder, unique: bool) -> Any:
    if unique and len(data) <= _SMALL:
        return _read_slowly(data, slow)
    try:
        value = fast(data)
    except RecursionError:
        raise InvalidJSON("it is nested too deep") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        if isinstance(error.__cause__, InvalidJSON):
            raise error.__cause__ from None
        if not _LONE.search(data):
            raise InvalidJSON("it is not valid JSON") from None
        return _read_slowly(data, slow)  # msgspec takes no half of a surrogate pair
    if unique and b"{" in data and _strings(_encode_any(value)) != _strings(data):
        raise InvalidJSON("an object has the same name twice")
    return value


def read_exactly(
    data: bytes, *, depth: int = DEEPEST, most: int = MOST_VALUES, unique: bool = False
) -> tuple[Any, bool]:
    """As ``read``; and whether there are numbers that only ``write(value, exactly=True)`` writes as they were."""
    odd: list[ExactNumber] = []

    def number(text: str) -> float:
        value = _finite(text)
        if repr(value) == text:
            return value
        exact = ExactNumber(value)
        exact.text = text
        odd.append(exact)
        return exact

    fast = msgspec.json.Decoder(float_hook=number).decode
    slow = json.JSONDecoder(
        parse_float=number, parse_constant=_no_constant, object_pairs_hook=_once if unique else None
    )
    return _read(_within(data, depth, most), fast, slow, unique), bool(odd)


def mistake(text: str) -> str:
    """What is wrong with a text, and where; empty if Python's own reader takes it."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return f"{error.msg} at its position {error.pos + 1}"
    except (ValueError, RecursionError):
        pass
    return ""


def read_object(data: bytes, *, unique: bool = False) -> dict[str, Any]:
    """
    As ``read``, for a text that must be an object.

    :raises InvalidJSON: also when it is something else.
    """
    value = read(data, unique=unique)
    if type(value) is not dict:
        raise InvalidJSON("it is not an object")
    return value


def without_halves(data: bytes) -> bytes:
    """The text with U+FFFD for each half of a surrogate pair, for readers that take none."""
    if not _LONE.search(data):
        return data
    return _PAIR_OR_HALF.sub(lambda found: b"\\ufffd" if found["half"] else found[0], data)


_PAIR_OR_HALF = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)


def _read_slowly(data: bytes, decoder: json.JSONDecoder) -> Any:
    try:
        return decoder.decode(data.decode())
    except InvalidJSON:
        raise
    except (ValueError, RecursionError):
        raise InvalidJSON("it is not valid JSON") from None


def _within(data: bytes, depth: int, most: int) -> bytes:
    """The text without its byte order mark, if it is within the bounds."""
    if data.startswith(BOM_UTF8):
        data = data[3:]
    if len(data) <= depth and len(data) <= most:
        return data
    brackets = data.count(b"[") + data.count(b"{")
    values = brackets + data.count(b",") + data.count(b":") if len(data) > most else 0
    # Strings may hold such marks, too: only if there are many of them is a closer look needed.
    if brackets > depth or values > most:
        marks = _outside_strings(data, b"[]{},:")
        steps = marks.translate(_STEPS, b",:")[: 2 * most]  # more of them are too many values
        if brackets > depth and max(accumulate(memoryview(steps).cast("b")), default=0) > depth:
            raise InvalidJSON(f"it is nested deeper than {depth}")
        if values > most and len(marks.translate(None, b"]}")) > most:
            raise TooManyValues(f"it has more than {most} names and values")
    if (
        len(data) > MOST_DIGITS
        and _TOO_LONG in data.translate(_DIGITS)
        and _TOO_LONG in _outside_strings(data, _ALL).translate(_DIGITS)
    ):
        raise InvalidJSON(f"a number has more than {MOST_DIGITS} digits")
    return data


def _outside_strings(data: bytes, marks: bytes) -> bytes:
    """The ``marks`` of a text that are not in its strings."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    found = data.translate(None, _ALL.translate(None, marks + b'"')).replace(b'""', b"")
    return b"".join(found.split(b'"')[::2])  # a string without an end reaches to the end of the text


def _strings(data: bytes) -> int:
    """How many marks of strings a text has; a member that was dropped takes at least its name's along."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return data.count(b'"')


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise InvalidJSON("an object has the same name twice")
    return made


def _no_constant(name: str) -> Any:
    raise InvalidJSON(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise InvalidJSON("a number is too large")
    return value


_UNIQUE = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
_LAST = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def write(value: Any, *, exactly: bool = False) -> bytes:
    """
    The JSON text of a value, in UTF-8, without white space.

    :param exactly: numbers that ``read_exactly`` read are written as they were.
    :raises ValueError: for a value that JSON has no form for.
    """
    try:
        if not exactly:
            try:
                return _encode(value)
            except UnicodeEncodeError:
                value = msgspec.to_builtins(value)
        return _written(value).encode()
    except (TypeError, RecursionError, msgspec.MsgspecError, OverflowError, ValueError) as error:
        raise ValueError(f"JSON has no form for it: {error}") from None


def write_any(value: Any) -> bytes:
    """As ``write``, for logs: in ASCII, and what JSON has no form for is written as its ``str``."""
    try:
        made = _encode_any(value)
        if made.isascii():
            return made
    except (TypeError, msgspec.MsgspecError, OverflowError, RecursionError, ValueError):
        pass
    return show(value, compact=True).encode()


def show(value: Any, indent: int | None = None, *, compact: bool = False) -> str:
    """The JSON text of a value as people read it: ASCII, with white space; other types are shown as their ``str``."""
    how: dict[str, Any] = {"indent": indent, "default": str, "separators": (",", ":") if compact else None}
    try:
        return json.dumps(value, allow_nan=False, **how)
    except (ValueError, TypeError, RecursionError):
        try:
            return json.dumps(_shown(value), **how)
        except RecursionError:
            return '"..."'


def string(text: str) -> str:
    """A JSON string (RFC 8259 7), pure ASCII."""
    return encode_basestring_ascii(text)


def _written(value: Any) -> str:
    if type(value) is str:
        return _quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join([f"{_quoted(str(name))}:{_written(each)}" for name, each in value.items()]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([_written(each) for each in value]) + "]"
    if isinstance(value, float):
        if isinstance(value, ExactNumber):
            return value.text
        return repr(value) if isfinite(value) else "null"
    return _encode(value).decode()


def _quoted(text: str) -> str:
    try:
        return _encode(text).decode()
    except UnicodeEncodeError:
        return encode_basestring_ascii(text)


def _shown(value: Any) -> Any:
    """A value with names that are texts, and without numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(name): _shown(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
