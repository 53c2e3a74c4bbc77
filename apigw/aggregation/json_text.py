"""
JSON in and out: integers of any size stay exact (orjson makes floats of those above 64 bit), and depth is limited.

Not here: what is done with the values (``expressions``, ``merging``).
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from typing import Any

import msgspec

_BRACKETS = b"[]{}"
_NO_BRACKETS = bytes(code for code in range(256) if code not in _BRACKETS)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = _NO_BRACKETS.replace(b'"', b"")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class InvalidJson(ValueError):
    """A text that is no JSON, or is nested too deep; the words are safe to show."""


def decode(data: bytes, max_depth: int) -> Any:
    """
    The value of a JSON text (RFC 8259) in UTF-8; a byte order mark before it is passed over, as its section 8.1 allows.

    :param max_depth: how many arrays and objects may be within each other.
    :raises InvalidJson: it is none, or is deeper.
    """
    if data.startswith(BOM_UTF8):
        data = data[3:]
    # The count of opening brackets can't be less than the depth; only few texts need a closer look.
    if data.count(b"[") + data.count(b"{") > max_depth and _deeper(data, max_depth):
        raise InvalidJson(f"it is nested deeper than {max_depth}")
    try:
        return _decode(data)
    except RecursionError:
        raise InvalidJson("it is nested too deep") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise InvalidJson("it is not valid JSON") from None


def encode(value: Any) -> bytes:
    """
    The JSON text of a value, without white space.

    :raises ValueError: a value that JSON has no form for.
    """
    try:
        return _encode(value)
    except (TypeError, RecursionError, msgspec.MsgspecError, OverflowError) as error:
        raise ValueError(f"JSON has no form for it: {error}") from None


def _deeper(data: bytes, max_depth: int) -> bool:
    """
    Whether brackets are nested deeper. Each pass takes the innermost pairs out: a pass in C for a level of depth.

    What is no JSON is left to the decoder.
    """
    # Of texts without brackets only pairs of quotes are left: if these are all, no text has brackets.
    brackets = data.translate(_ONE_KIND, _NO_MARKS).replace(b'""', b"")
    if b'"' in brackets or b'\\"' in data:
        brackets = _STRING.sub(b"", data).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(max_depth):
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            return False
        brackets = shorter
    return bool(brackets)
