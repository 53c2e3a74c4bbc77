"""
The chunked transfer coding (RFC 9112 7.1), both ways, sans-io.

Strict: sizes are 1-15 hex digits and nothing else, every line ends in CRLF, extensions are read over but bounded
(they have served request smuggling and memory attacks; nobody uses them), trailers are parsed like heads.
"""

from __future__ import annotations

from apigw.exchange.headers import Pair
from apigw.http.fields import CLAIMS, FORWARDING, HOP_BY_HOP, LOOKALIKE, MalformedFields, parse_fields, serialise

LONGEST_LINE = 256
"""Bytes of a chunk-size line with its extensions (Go's net/http bounds the line at 4 KiB, llhttp not at all)."""
LONGEST_TRAILERS = 8192
_MOST_OVERHEAD = 64 * 1024
"""Bytes of size lines beyond what the content earns: one-byte chunks are legal, endless extensions are an attack."""

MOST_CHUNKS = 512
"""Chunks read in one call: about half a millisecond."""

_SHORT = {b"%x" % size: size for size in range(256)}
"""The sizes of short chunks by their lines, which saves most of the work where they are many."""

_HEX = b"0123456789abcdefABCDEF"
_EXTENSION = bytes([9, *range(32, 127), *range(128, 256)])
_FORBIDDEN_TRAILERS = HOP_BY_HOP | FORWARDING | CLAIMS | {
    b"content-length", b"host", b"content-encoding", b"content-type", b"content-range", b"trailer", b"authorization",
    b"cookie", b"set-cookie", b"cache-control", b"max-forwards", b"expect", b"range", LOOKALIKE,
}  # fmt: skip
"""Fields that must not come as trailers (RFC 9110 6.5.1), or that only the gateway writes; they are dropped."""


class MalformedChunks(ValueError):
    """Content that is not chunked as it claims; the words are safe to show."""


class ChunkedReader:
    """
    Takes chunked bytes at any split, gives content.

    :ivar ended: True once the last chunk and the trailers were read.
    :ivar trailers: the trailer fields, once ended.
    """

    __slots__ = ("_buffer", "_left", "_overhead", "_state", "ended", "trailers")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        self._state = 0  # 0 size line, 1 data, 2 CRLF after data, 3 trailers
        self._overhead = 0
        self.ended = False
        self.trailers: list[Pair] | None = None

    def feed(self, data: bytes, at: int = 0) -> tuple[bytes, int]:
        """
        Take more bytes: ``data`` from ``at`` on.

        At most MOST_CHUNKS chunks are read in one call: many small ones take far longer than as many bytes in one.

        :return: the content that was in them, and the position up to which ``data`` was read. Once ``ended`` what
            follows is not part of the message; otherwise it holds more chunks: call again.
        :raises MalformedChunks: when the framing is broken.
        """
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
                end = data.find(b"\r\n", at, at + LONGEST_LINE)
                if end < 0:
                    self._buffer = self._unfinished_size(data[at : at + LONGEST_LINE])
                    return b"".join(pieces), size + shift
                line = data[at:end]
                left = _SHORT.get(line)
                if left is None:
                    left = self._size(line)
                at = end + 2
                end = at + left
                if left and data[end : end + 2] == b"\r\n":  # all of it is here
                    pieces.append(data[at:end])
                    at = end + 2
                    continue
                self._left = left
                self._state = 1 if left else 3
            if self._state == 1:
                left = self._left
                if size - at < left:
                    if at < size:
                        pieces.append(data[at:] if at else data)
                        self._left = left - (size - at)
                    return b"".join(pieces), size + shift
                pieces.append(data[at : at + left])
                at += left
                self._state = 2
            if self._state == 2:
                after = data[at : at + 2]
                if after != b"\r\n":
                    if after not in (b"", b"\r"):
                        raise MalformedChunks("a chunk does not end where it said")
                    self._buffer = after
                    return b"".join(pieces), size + shift
                at += 2
                self._state = 0
                continue
            return b"".join(pieces), self._trailers(data, at) + shift
        return b"".join(pieces), at + shift

    def _trailers(self, data: bytes, at: int) -> int:
        """What follows the last chunk: an empty line, or fields and an empty line. Where that ends."""
        size = len(data)
        if data[at : at + 2] == b"\r\n":
            self.ended = True
            return at + 2
        end = data.find(b"\r\n\r\n", at)
        if (end if end >= 0 else size) - at > LONGEST_TRAILERS:
            raise MalformedChunks("the trailers are too long")
        if end < 0:
            if data[at:].count(b"\n") != data[at:].count(b"\r\n"):
                raise MalformedChunks("a line in the trailers ends without CR")
            self._buffer = data[at:]
            return size
        try:
            fields = parse_fields(data[at : end + 2])
        except MalformedFields as error:
            raise MalformedChunks(str(error)) from None
        self.trailers = [(name, value) for name, value, lower in fields if lower not in _FORBIDDEN_TRAILERS]
        self.ended = True
        return end + 4

    def _unfinished_size(self, rest: bytes) -> bytes:
        if len(rest) >= LONGEST_LINE:
            raise MalformedChunks("a chunk's size line is too long")
        line = rest[:-1] if rest.endswith(b"\r") else rest
        if b"\r" in line or b"\n" in line:
            raise MalformedChunks("a chunk's size line does not end in CRLF")
        if line and line[:1] not in _HEX:
            raise MalformedChunks("a chunk's size is not a number")
        return rest

    def _size(self, line: bytes) -> int:
        digits, semicolon, extension = line.partition(b";")
        if semicolon:
            digits = digits.rstrip(b" \t")
            if extension.translate(None, _EXTENSION):
                raise MalformedChunks("a chunk extension holds a control character")
            self._overhead += len(extension)
            if self._overhead > _MOST_OVERHEAD:
                raise MalformedChunks("there are too many chunk extensions")
        if not digits or len(digits) > 15 or digits.translate(None, _HEX):
            raise MalformedChunks("a chunk's size is not a number")
        return int(digits, 16)


LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """``data`` (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: list[Pair] | None) -> bytes:
    """The end of a chunked message, with its trailers."""
    return b"0\r\n%b\r\n" % serialise(trailers) if trailers else LAST_CHUNK
