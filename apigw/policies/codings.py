"""
Content codings (RFC 9110 8.4.1): gzip by isal, br, zstd, and deflate for reading; in pieces, and bounded.

Not here: which coding is used (``compress``), what is done with what was decoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import brotli
import zstandard
from isal import isal_zlib

from apigw.exchange.errors import BodyTooLarge, ClientFault
from apigw.http.fields import list_members

DECODABLE = (b"gzip", b"br", b"zstd", b"deflate")
MOST_CODINGS = 2
"""Codings that one content may be in: each further one is only good for bombs."""

PIECE = 64 * 1024
"""Bytes that a decoder puts out at a time, roughly."""

MOST_RATIO = 100
"""How many times as long content may become that is looked at: JSON hardly ever does, a bomb 1,000 times."""

_RATIO_COUNTS_FROM = 1 << 20
"""Bytes of output below which nobody minds the ratio: a short run of zeros is no attack."""

SLICE = 16 * 1024
"""Bytes that a decoder takes at a time: the ratio counts what was taken, and gzip copies what it leaves."""

_ZSTD_SLICE = 128
"""Bytes of zstd that are decoded at a time: 4 of them can stand for 128 KiB, and its decoder knows no limit."""

_ZSTD_LEAST = 8
"""The same behind a slice that became more than ``PIECE``."""

_ZSTD_WINDOW = 8 << 20
"""The largest window that RFC 8878 wants decoders to take."""


_BROKEN: tuple[Any, ...] = (isal_zlib.error, brotli.error, zstandard.ZstdError, EOFError)


class CodingError(Exception):
    """What came is not what its coding says."""


class UnknownCoding(CodingError):
    """It is in a coding that is not known, or in too many."""


class Bomb(CodingError):
    """It becomes more than is taken."""


def refusal_of(error: CodingError) -> ClientFault:
    """What the client is told whose content this is about."""
    if isinstance(error, Bomb):
        return BodyTooLarge(str(error))
    if isinstance(error, UnknownCoding):
        known = ((b"Accept-Encoding", b", ".join(DECODABLE)),)  # RFC 9110 12.5.3
        return ClientFault(str(error), status=415, reason="coding_unknown", headers=known)
    return ClientFault(str(error), reason="coding_invalid")


def check_codings(codings: list[bytes]) -> None:
    """
    Whether content in these codings can be decoded.

    :raises UnknownCoding: when it can't.
    """
    if len(codings) > MOST_CODINGS or any(coding not in DECODABLE for coding in codings):
        raise UnknownCoding(f"only {b', '.join(DECODABLE).decode()} can be decoded, and {MOST_CODINGS} at most")


def codings_of(value: bytes | None) -> list[bytes]:
    """The codings that a Content-Encoding names, in the order in which they were applied."""
    if value is None:
        return []
    return [{b"x-gzip": b"gzip"}.get(name, name) for name in list_members(value) if name != b"identity"]


class Encoder(Protocol):
    """One coding, at work on one body."""

    def encode(self, data: bytes, *, flush: bool) -> bytes:
        """Take a piece; with ``flush`` all of it comes out."""

    def finish(self) -> bytes:
        """The end."""


class _Gzip:
    def __init__(self, level: int) -> None:
        self._at_work: Any = isal_zlib.compressobj(level, wbits=31)

    def encode(self, data: bytes, *, flush: bool) -> bytes:
        made: bytes = self._at_work.compress(data)
        return made + self._at_work.flush(zlib.Z_SYNC_FLUSH) if flush else made

    def finish(self) -> bytes:
        made: bytes = self._at_work.flush()
        return made


class _Brotli:
    def __init__(self, level: int) -> None:
        self._at_work: Any = brotli.Compressor(quality=level, lgwin=19)

    def encode(self, data: bytes, *, flush: bool) -> bytes:
        made: bytes = self._at_work.process(data)
        return made + self._at_work.flush() if flush else made

    def finish(self) -> bytes:
        made: bytes = self._at_work.finish()
        return made


class _Zstd:
    def __init__(self, level: int) -> None:
        self._at_work: Any = zstandard.ZstdCompressor(level=level).compressobj()

    def encode(self, data: bytes, *, flush: bool) -> bytes:
        made: bytes = self._at_work.compress(data)
        return made + self._at_work.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) if flush else made

    def finish(self) -> bytes:
        made: bytes = self._at_work.flush()
        return made


class _Deflate(_Gzip):
    def __init__(self, level: int) -> None:
        self._at_work = isal_zlib.compressobj(level, wbits=15)


_ENCODERS: dict[bytes, tuple[Callable[[int], Encoder], int]] = {
    b"gzip": (_Gzip, 1),
    b"br": (_Brotli, 4),
    b"zstd": (_Zstd, 1),
    b"deflate": (_Deflate, 1),
}


def encoder(coding: bytes, level: int | None = None) -> Encoder:
    """
    An encoder.

    :param coding: one of ``DECODABLE``. :param level: of gzip 0 to 3, of br 0 to 11, of zstd 1 to 19.
    """
    kind, usual = _ENCODERS[coding]
    return kind(usual if level is None else level)


def encoded(data: bytes, codings: list[bytes]) -> bytes:
    """All of ``data`` in these codings, applied in this order."""
    for coding in codings:
        at_work = encoder(coding)
        data = at_work.encode(data, flush=False) + at_work.finish()
    return data


def decoded(data: bytes, codings: list[bytes], limit: int, ratio: int = MOST_RATIO) -> bytes:
    """
    The opposite of ``encoded``.

    :param ratio: how many times as much as went in, from 1 MiB on.
    :raises Bomb: when it becomes more than that, or than ``limit`` bytes.
    :raises CodingError: when it is not decodable.
    """
    check_codings(codings)
    for coding in reversed(codings):
        decoder = Decoder(coding, limit, ratio)
        data = b"".join(decoder.decode(data))
        decoder.finish()
    return data


class Decoder:
    """
    Decodes one coding, in bounded pieces.

    :param limit: bytes that may come out. :param ratio: how many times as much as went in, from 1 MiB on; 0: any.
    """

    def __init__(self, coding: bytes, limit: int, ratio: int = 0) -> None:
        self._coding = coding
        self._limit = limit
        self._ratio = ratio
        self._in = 0
        self._out = 0
        self._slice = _ZSTD_SLICE
        self._at_work = self._new()

    def _new(self) -> Any:
        if self._coding == b"gzip":
            return isal_zlib.decompressobj(wbits=31)
        if self._coding == b"deflate":
            return isal_zlib.decompressobj(wbits=15)
        if self._coding == b"br":
            return brotli.Decompressor()
        if self._coding == b"zstd":
            return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        raise UnknownCoding(f"{self._coding.decode('latin-1')} is no coding that is known")

    def decode(self, data: bytes) -> Iterator[bytes]:
        """
        What ``data`` adds, in short steps. A step may add nothing.

        :raises CodingError: when it is not decodable.
        """
        pieces = {b"br": self._brotli, b"zstd": self._zstd}.get(self._coding, self._zlib)
        try:
            for at in range(0, len(data), SLICE):
                taken = data[at : at + SLICE]
                self._in += len(taken)
                for piece in pieces(taken):
                    self._out += len(piece)
                    if self._out > self._limit:
                        raise Bomb(f"it becomes more than {self._limit} bytes")
                    if self._ratio and self._out > _RATIO_COUNTS_FROM and self._out > self._ratio * self._in:
                        raise Bomb(f"it becomes more than {self._ratio} times as long")
                    yield piece
        except _BROKEN as error:
            raise CodingError(f"this is not {self._coding.decode()}") from error

    def finish(self) -> None:
        """
        That was all.

        :raises CodingError: when something is missing.
        """
        ended = self._at_work.is_finished() if self._coding == b"br" else self._at_work.eof
        if self._in and not ended:
            raise CodingError(f"this {self._coding.decode()} breaks off")

    def _zlib(self, data: bytes) -> Iterator[bytes]:
        full = False
        while data or full:
            if self._at_work.eof:  # several gzip members are one content (RFC 1952 2.2)
                self._at_work = self._new()
            piece = self._at_work.decompress(data, PIECE)
            yield piece
            full = len(piece) == PIECE and not self._at_work.eof  # all input may be taken, and more still come out
            data = self._at_work.unused_data if self._at_work.eof else self._at_work.unconsumed_tail
            if self._at_work.eof and data and self._coding == b"deflate":
                raise CodingError("something follows the end of what is deflated")

    def _brotli(self, data: bytes) -> Iterator[bytes]:
        if data and self._at_work.is_finished():
            raise CodingError("something follows the end of what is in br")
        piece = self._at_work.process(data, output_buffer_limit=PIECE)
        while piece or not self._at_work.can_accept_more_data():  # which is true also when there is more to come out
            yield piece
            piece = b"" if self._at_work.is_finished() else self._at_work.process(b"", output_buffer_limit=PIECE)

    def _zstd(self, data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            if self._at_work.eof:  # several frames are one content (RFC 8878 3)
                self._at_work = self._new()
            given = data[at : at + self._slice]
            made = self._at_work.decompress(given)
            at += len(given) - (len(self._at_work.unused_data) if self._at_work.eof else 0)
            self._slice = _ZSTD_LEAST if len(made) > PIECE else _ZSTD_SLICE
            yield made
