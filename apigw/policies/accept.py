"""
What a client would rather have: quality values of Accept and Accept-Encoding (RFC 9110 12.4.2, 12.5).

Not here: what is made of it.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 4096
"""Bytes of a field that are looked at; a longer one counts as not there."""


def qualities(value: bytes) -> dict[bytes, float]:
    """Each member of the field in lower case, parameters left out, with its quality; what is no quality counts as 0."""
    found: dict[bytes, float] = {}
    if len(value) > LONGEST:
        return found
    for member in value.lower().split(b","):
        name, *parameters = member.split(b";")
        quality = 1.0
        for parameter in parameters:
            key, _, number = parameter.strip(b" \t").partition(b"=")
            if key == b"q":
                digits = number.replace(b".", b"", 1)
                quality = min(1.0, float(number)) if digits.isdigit() and len(number) <= 5 else 0.0
        if name := name.strip(b" \t"):
            found[name] = quality
    return found


def best_media_type(accept: bytes | None, offered: Sequence[bytes]) -> bytes:
    """
    The type of ``offered`` that the client would rather have; the first of equals, and of none acceptable.

    :param accept: the field's value; None when there is none.
    """
    if accept is None:
        return offered[0]
    wanted = qualities(accept)

    def quality(kind: bytes) -> float:
        main = kind.partition(b"/")[0]
        # The most specific range decides.
        return wanted.get(kind, wanted.get(main + b"/*", wanted.get(b"*/*", 0.0)))

    return max(offered, key=quality)


def best_coding(accept_encoding: bytes | None, offered: Sequence[bytes]) -> bytes | None:
    """The coding of ``offered`` with the highest quality, the first of equals; None: send it as it is."""
    if not accept_encoding:
        return None
    wanted = qualities(accept_encoding)
    best, highest = None, 0.0
    for coding in offered:
        quality = wanted.get(coding, wanted.get(b"*", 0.0))
        if coding == b"gzip":
            quality = max(quality, wanted.get(b"x-gzip", 0.0))
        if quality > highest:
            best, highest = coding, quality
    return best if highest >= wanted.get(b"identity", 0.0) or b"identity" not in wanted else None
