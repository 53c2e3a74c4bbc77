"""
What ``lenient = yes`` of an upstream takes of its service beyond RFC 9112: lines that end in LF alone, and chunk sizes
with blanks around them. (Content-Length that is repeated with the same value: ``h1_heads``.)

Everything is brought into its strict form first and then read as strictly as ever, so nothing of it is sent on, and
there is one reading of what a message is. Never for requests: two servers that read them differently can be made to
disagree where one ends (request smuggling); here the gateway is the only reader.
"""

from __future__ import annotations

import re

from apigw.http.chunked import LONGEST_LINE, LONGEST_TRAILERS, MOST_CHUNKS, ChunkedReader, MalformedChunks

_EMPTY_LINE = re.compile(rb"\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")


def end_of_head(data: bytes, start: int = 0) -> int:
    """Where the first empty line ends that is found from ``start`` on; -1 if there is none."""
    found = _EMPTY_LINE.search(data, start)
    return found.end() if found is not None else -1


def strict_lines(data: bytes) -> bytes:
    """The same lines, each with CRLF at its end."""
    return _LINE_END.sub(b"\r\n", data)


class LenientChunkedReader(ChunkedReader):
    """Takes LF for CRLF, and blanks around a chunk's size."""

    __slots__ = ()

    def feed(self, data: bytes, at: int = 0) -> tuple[bytes, int]:
        shift = 0
        if self._buffer:
            shift = at - len(self._buffer)
            data = self._buffer + (data[at:] if at else data)
            self._buffer = b""
            at = 0
        pieces: list[bytes] = []
        size = len(data)
        for _ in range(MOST_CHUNKS):
            if self._state == 0:
                end = data.find(b"\n", at, at + LONGEST_LINE)
                if end < 0:
                    if size - at >= LONGEST_LINE:
                        raise MalformedChunks("a chunk's size line is too long")
                    self._buffer = data[at:]
                    return b"".join(pieces), size + shift
                digits, semicolon, extension = data[at:end].removesuffix(b"\r").partition(b";")
                self._left = self._size(digits.strip(b" \t") + semicolon + extension)
                self._state = 1 if self._left else 3
                at = end + 1
            if self._state == 1:
                left = self._left
                if size - at < left:
                    pieces.append(data[at:])
                    self._left = left - (size - at)
                    return b"".join(pieces), size + shift
                pieces.append(data[at : at + left])
                at += left
                self._state = 2
            line_end = _LINE_END.match(data, at)
            if self._state == 2:
                if line_end is None:
                    if data[at:] not in (b"", b"\r"):
                        raise MalformedChunks("a chunk does not end where it said")
                    self._buffer = data[at:]
                    return b"".join(pieces), size + shift
                at = line_end.end()
                self._state = 0
                continue
            end = line_end.end() if line_end is not None else end_of_head(data, at)
            if (end if end >= 0 else size) - at > LONGEST_TRAILERS:
                raise MalformedChunks("the trailers are too long")
            if end < 0:
                self._buffer = data[at:]
                return b"".join(pieces), size + shift
            self._trailers(strict_lines(data[at:end]), 0)
            return b"".join(pieces), end + shift
        return b"".join(pieces), at + shift
