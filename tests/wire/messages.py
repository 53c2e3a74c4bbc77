"""
HTTP/1 messages taken apart by rules of the tests' own, so that the gateway's parser is not its own witness.

Framing is all that is looked at; anything but the plainest form fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_SIZE = re.compile(rb"[0-9a-f]{1,8}")


class NotAMessageError(ValueError):
    """What was sent is not the plain HTTP/1 that the gateway is to send."""


def dechunk(data: bytes, at: int) -> tuple[bytes, bytes, int] | None:
    """Content, trailer lines and end of the chunked message at ``at``; None if it is not complete."""
    content = b""
    while (end := data.find(b"\r\n", at)) >= 0:
        if not _SIZE.fullmatch(data, at, end):
            raise NotAMessageError(f"chunk size {data[at:end]!r}")
        size = int(data[at:end], 16)
        at = end + 2
        if size == 0:
            if data[at : at + 2] == b"\r\n":
                return content, b"", at + 2
            end = data.find(b"\r\n\r\n", at)
            return None if end < 0 else (content, data[at : end + 2], end + 4)
        if len(data) < at + size + 2:
            return None
        if data[at + size : at + size + 2] != b"\r\n":
            raise NotAMessageError("a chunk does not end in CRLF")
        content += data[at : at + size]
        at += size + 2
    return None


def values(head: bytes, name: bytes) -> list[bytes]:
    """The values of a field in a head."""
    lines = head.split(b"\r\n")[1:]
    return [line.partition(b": ")[2] for line in lines if line.partition(b":")[0].lower() == name]


def messages(data: bytes, bodiless: Callable[[bytes], bool] = lambda _: False) -> Iterator[tuple[bytes, bytes]]:
    """
    Each message in ``data``: (its bytes, with chunked content as one chunk; what follows it). The last may be cut off.

    :param bodiless: whether the message with this head ends with its head, whatever it says.
    """
    while data:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = data[: end + 4]
        at = end + 4
        codings, lengths = values(head, b"transfer-encoding"), values(head, b"content-length")
        if len(codings) + len(lengths) > 1:
            raise NotAMessageError(f"framed twice: {head!r}")
        content = b""
        if bodiless(head):
            pass
        elif codings:
            found = dechunk(data, at)
            if found is None:
                return
            plain, trailers, at = found
            content = (b"%x\r\n%b\r\n" % (len(plain), plain) if plain else b"") + b"0\r\n" + trailers + b"\r\n"
        elif lengths:
            size = int(lengths[0])
            if len(data) < at + size:
                return
            content = data[at : at + size]
            at += size
        data = data[at:]
        yield head + content, data


def complete(data: bytes, bodiless: Callable[[bytes], bool] = lambda _: False) -> tuple[list[bytes], bytes]:
    """All complete messages in ``data``, and what is left."""
    found = []
    rest = data
    for message, rest in messages(data, bodiless):  # noqa: B007 - the last one counts
        found.append(message)
    return found, rest
