"""
``LenientConnection``: a connection to a service of an upstream with ``lenient = yes``.

Not here: what is taken (``apigw.http.lenient``).
"""

from __future__ import annotations

from typing import ClassVar

from apigw.exchange.errors import UpstreamFault
from apigw.http.chunked import ChunkedReader
from apigw.http.h1_heads import LONGEST_RESPONSE_HEAD
from apigw.http.lenient import LenientChunkedReader, end_of_head, strict_lines
from apigw.upstream.connection import UpstreamConnection


class LenientConnection(UpstreamConnection):
    """Brings each head into its strict form before it is read."""

    __slots__ = ()

    chunked_reader: ClassVar[type[ChunkedReader]] = LenientChunkedReader

    def data_received(self, data: bytes) -> None:
        while self._body is None and self._exchange is not None:
            if self._buffer:
                data = self._buffer + data
                self._buffer = b""
            end = end_of_head(data, max(self._seen - 2, 0))
            if end < 0:
                self._wait_for_head(data)
                return
            self._seen = 0
            head, rest = strict_lines(data[:end]), data[end:]
            if head[9:10] != b"1":
                data = head + rest
                break
            super().data_received(head)  # an informational one; another head follows
            if not rest:
                return
            data = rest
        super().data_received(data)

    def _wait_for_head(self, data: bytes) -> None:
        self._touched = self._touched or 1
        if len(data) > LONGEST_RESPONSE_HEAD + 3:
            self._break(UpstreamFault("the service's answer has too long a head", reason="upstream_protocol_error"))
        elif not b"HTTP/1.".startswith(data[:7]):
            self._break(
                UpstreamFault(
                    "the service's answer can't be understood: it is not HTTP/1", reason="upstream_protocol_error"
                )
            )
        else:
            self._buffer = data
            self._seen = len(data)
