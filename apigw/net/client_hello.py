"""
The first message of a TLS client, read before TLS begins: which host it wants, and which protocols it speaks.

The certificate and its rules (client certificates, minimum version) are chosen by this name *before* the handshake's
state is made. Choosing later, in a server-name callback, would switch the certificate but not whether the
client must show its own (``SSL_set_SSL_CTX`` leaves the verify mode alone).

Sans-io: bytes in, at any split and over any number of records, a ``ClientHello`` out. It is a second reader before
OpenSSL's, so it is strict: what it can't read is refused, never handed on with a guessed name.

Not here: certificates (``certificates``), the handshake (``tls``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LIMIT: Final = 16 * 1024
"""
Most bytes of a first message, record heads included: what a connection may cost before it has proved anything. One
record carries at most 2**14 bytes (RFC 8446 5.1), and real messages are small: about 500 bytes, 1,800 with a hybrid
key share, a few thousand with a ticket that holds a client certificate.
"""

HANDSHAKE_RECORD: Final = 22
CLIENT_HELLO: Final = 1
SERVER_NAME: Final = 0
ALPN: Final = 16


class ClientHelloError(ValueError):
    """The first message is TLS, but not one that we read (RFC 8446 4.1.2, RFC 6066 3, RFC 7301 3.1)."""


class NotTLS(ClientHelloError):
    """
    The first bytes are no TLS record.

    :ivar looks_like_http: they begin like a method's name.
    """

    def __init__(self, first: int) -> None:
        super().__init__("not TLS")
        self.looks_like_http = 65 <= first <= 90


@dataclass(frozen=True, slots=True)
class ClientHello:
    """
    What is read of a client's first message.

    :ivar server_name: the host asked for (RFC 6066 3), in lower case; None when the client did not say.
    :ivar alpn: the protocols it speaks, in its order of preference; empty when it did not say.
    """

    server_name: str | None
    alpn: tuple[bytes, ...]


class ClientHelloReader:
    """
    Collects and reads one client's first message.

    :ivar raw: everything that was fed; OpenSSL must see the same bytes again.
    """

    __slots__ = ("_message", "_position", "raw")

    def __init__(self) -> None:
        self.raw = bytearray()
        self._position = 0  # of the first record in `raw` that is not yet in `_message`
        self._message = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """
        Take the next bytes.

        :returns: the message when it is complete, None while more is needed.
        :raises NotTLS: as soon as the first byte says so.
        :raises ClientHelloError: it is broken, or longer than ``LIMIT``.
        """
        self.raw += data
        raw = self.raw
        message = self._message
        while True:
            head = raw[self._position : self._position + 5]
            _check_record_head(head, first=self._position == 0)
            if len(head) < 5:
                break
            end = self._position + 5 + int.from_bytes(head[3:5], "big")
            if end > LIMIT:
                raise ClientHelloError("the first message is too long")
            if end == self._position + 5:
                raise ClientHelloError("an empty record")
            if len(raw) < end:
                break
            message += raw[self._position + 5 : end]
            self._position = end
            if message[0] != CLIENT_HELLO:
                raise ClientHelloError("the first message is no ClientHello")
            if len(message) >= 4:
                length = 4 + int.from_bytes(message[1:4], "big")
                if length > LIMIT:
                    raise ClientHelloError("the first message is too long")
                if len(message) > length:
                    # What follows would be read under keys that nobody has agreed on yet (RFC 8446 5.1).
                    raise ClientHelloError("more follows the ClientHello in its record")
                if len(message) == length:
                    return _parsed(bytes(message[4:]))
        return None


def _check_record_head(head: bytearray, *, first: bool) -> None:
    # Each byte as soon as it is there: somebody who types "G" waits for no second byte.
    if head and head[0] != HANDSHAKE_RECORD:
        raise NotTLS(head[0]) if first else ClientHelloError("the first message is cut by another record")
    if len(head) > 1 and head[1] != 3:
        raise NotTLS(0) if first else ClientHelloError("a record of another version")


class _Fields:
    """Reads TLS vectors (RFC 8446 3.4) from the start; every length is checked."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise ClientHelloError("a length points past the end")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def vector(self, length_bytes: int) -> bytes:
        return self.take(int.from_bytes(self.take(length_bytes), "big"))

    @property
    def more(self) -> bool:
        return self.position < len(self.data)


def _parsed(body: bytes) -> ClientHello:
    fields = _Fields(body)
    fields.take(2 + 32)  # legacy_version, random
    fields.vector(1)  # legacy_session_id
    fields.vector(2)  # cipher_suites
    fields.vector(1)  # legacy_compression_methods
    server_name: str | None = None
    alpn: tuple[bytes, ...] = ()
    if not fields.more:
        return ClientHello(None, ())  # TLS 1.2 allows a message without extensions
    extensions = _Fields(fields.vector(2))
    if fields.more:
        raise ClientHelloError("more follows the extensions")
    seen: set[int] = set()
    while extensions.more:
        kind = int.from_bytes(extensions.take(2), "big")
        content = extensions.vector(2)
        if kind in seen:
            raise ClientHelloError("an extension stands twice")
        seen.add(kind)
        if kind == SERVER_NAME:
            server_name = _server_name(content)
        elif kind == ALPN:
            alpn = _protocols(content)
    return ClientHello(server_name, alpn)


def _server_name(content: bytes) -> str:
    outer = _Fields(content)
    names = _Fields(outer.vector(2))
    # RFC 6066 allows a list, but names one kind only and each kind once: it is a list of one, for OpenSSL as well.
    if outer.more or names.take(1) != b"\0":
        raise ClientHelloError("a server name of an unknown kind")
    name = names.vector(2)
    if names.more or not 0 < len(name) <= 255 or not name.isascii() or min(name) <= 32 or 127 in name:
        raise ClientHelloError("a server name that is none")
    host = name.decode("ascii").lower().removesuffix(".")
    if not host:
        raise ClientHelloError("a server name that is none")
    return host


def _protocols(content: bytes) -> tuple[bytes, ...]:
    outer = _Fields(content)
    names = _Fields(outer.vector(2))
    found: list[bytes] = []
    while names.more:
        found.append(names.vector(1))
    if outer.more or not found or not all(found):
        raise ClientHelloError("a list of protocols that is none")
    return tuple(found)
