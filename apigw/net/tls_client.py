"""
TLS towards upstreams: pyOpenSSL for the records, service-identity for whose certificate it is.

    tls = ClientTLS(ca="/etc/apigw/internal-ca.pem")
    await loop.create_connection(lambda: tls.protocol(inner_factory, "orders.internal", failed), host, port)

The protocol inside is made, and its ``connection_made`` called, when the other side has proved to be whom we meant: its
chain ends in an authority that we trust, it is valid today, and it is for the name or address that we called.
Otherwise ``failed`` is called, once, and nothing has been sent but the handshake.

Not here: dialling, time-outs around it, what such a failure does to an exchange (``apigw.upstream``).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from typing import Any, Final

from OpenSSL import SSL, crypto
from service_identity import CertificateError as IdentityError
from service_identity import VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.logger import Logger

from apigw.config import files
from apigw.net.certificate_files import CertificateError, PairFiles, as_file, load_pair, source_paths
from apigw.net.tls_transport import Framing, TLSBroken, TLSTransport
from apigw.net.turns import TURNS

log = Logger()

RECORD: Final = 16 * 1024
CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:@SECLEVEL=2"
"""Of TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325 4.2); DHE for what old services offer."""
VERSIONS: Final = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
SESSIONS: Final = 1000
"""Names whose last session is kept for resumption."""

_VERIFY_ERRORS: Final = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed, and not one that we trust",
    19: "has a self-signed authority in its chain that we don't trust",
    20: "is of an authority that we don't know",
    21: "is of an authority that we don't know, and came without a chain",
    24: "is of an authority that must not issue",
    26: "is not for servers",
    66: "has a key that is too weak",
    67: "is of an authority whose key is too weak",
    68: "has a signature that is too weak",
}
"""By the numbers of X509_verify_cert(3)."""


class TLSFailure(Exception):
    """
    There is no trustworthy connection to the upstream.

    :ivar reason: ``certificate_unverified``, ``name_mismatch``, ``handshake_failed`` or ``timeout``.
    :ivar detail: one sentence for the log.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ClientRecords:
    """``Records`` by pyOpenSSL, from the handshake on."""

    __slots__ = ("ended", "framing", "tls", "verify_error")

    def __init__(self, context: SSL.Context) -> None:
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        self.tls.set_app_data(self)
        self.ended = False
        self.framing = Framing()
        self.verify_error: str | None = None

    def handshake(self, data: bytes) -> bool:
        """
        Take the server's next bytes; whether the handshake is over. ``output`` has what to send.

        :raises TLSBroken: it failed; ``verify_error`` says whether for the certificate.
        """
        if data:
            self._feed(data)
        try:
            self.tls.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise TLSBroken(_said(error)) from error
        return True

    def _feed(self, data: bytes | memoryview) -> None:
        done = self.tls.bio_write(data)
        while done < len(data):
            done += self.tls.bio_write(data[done:])

    def decrypt(self, data: bytes | memoryview) -> bytes:
        if data:
            self._feed(data)
        receive = self.tls.recv
        pieces = []
        try:
            while not self.ended:
                pieces.append(receive(RECORD))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.ended = True
        except SSL.Error as error:
            raise TLSBroken(_said(error)) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        try:
            done = self.tls.send(data)
            while done < len(data):
                done += self.tls.send(memoryview(data)[done:])
        except SSL.Error as error:
            raise TLSBroken(_said(error)) from error
        return self.output()

    def end(self) -> bytes:
        try:
            self.tls.shutdown()
        except SSL.Error:
            pass  # all is broken already
        return self.output()

    def output(self) -> bytes:
        pieces = []
        try:
            while True:
                piece = self.tls.bio_read(5 * RECORD)
                pieces.append(piece)
                if len(piece) < 5 * RECORD:
                    break
        except SSL.WantReadError:
            pass
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _said(error: SSL.Error | TypeError) -> str:
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reasons = [entry[-1] for entry in entries if entry[-1]]
    return ", ".join(reasons) or str(error) or type(error).__name__


def _note_verify_error(connection: SSL.Connection, certificate: crypto.X509, number: int, depth: int, ok: int) -> bool:
    if not ok:
        which = "the certificate" if depth == 0 else f"certificate {depth + 1} of the chain"
        why = _VERIFY_ERRORS.get(number, f"was refused (X509_verify_cert error {number})")
        connection.get_app_data().verify_error = f"{which} {why}"
    return bool(ok)


class ClientTLS:
    """
    How an upstream is spoken to by TLS: made once, its context serves all connections.
    """

    def __init__(
        self,
        *,
        ca: str | None = None,
        certificate: str | None = None,
        server_name: str | None = None,
        verify: bool = True,
        minimum: str = "1.2",
        alpn: Sequence[bytes] = (b"http/1.1",),
        timeout: float = 10.0,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """
        :param ca: a PEM file of the authorities to trust, in place of the system's.
        :param certificate: what we show of ourselves: a PEM file with chain and key, or two paths (certificate, key).
        :param server_name: the name to ask for and to verify, in place of the one that is dialled.
        :param verify: False trusts anybody who answers; it is warned of at once.
        :param minimum: ``1.2`` or ``1.3``.
        :param timeout: seconds from the connection to the verified handshake.
        :param loop: for the time-out; None is the one that runs when a connection is made.
        :raises CertificateError: a file can't be read or used.
        """
        self.server_name = server_name
        self.verify = verify
        self.timeout = timeout
        self.loop = loop
        self._sessions: dict[str, SSL.Session] = {}
        context = self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(VERSIONS[minimum])
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_cipher_list(CIPHERS)
        context.set_alpn_protos(list(alpn))
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # OpenSSL's own is for servers; ours is by name
        if verify:
            context.set_verify(SSL.VERIFY_PEER, _note_verify_error)
            _trust(context, ca)
        else:
            context.set_verify(SSL.VERIFY_NONE)
            log.warn("tls.verify = no: whoever answers in an upstream's place is believed")
        if certificate is not None:
            _show(context, certificate)

    def protocol(
        self,
        inner_factory: Callable[[], asyncio.Protocol],
        server_name: str,
        failed: Callable[[TLSFailure], None],
    ) -> asyncio.Protocol:
        """
        The protocol for one ``loop.create_connection``.

        :param inner_factory: makes the protocol inside, when the other side is verified.
        :param server_name: the host name or address that is dialled.
        :param failed: called once, instead of the inside's ``connection_made``, when it comes to nothing.
        """
        return TLSClientProtocol(self, inner_factory, self.server_name or server_name, failed)

    def records(self, name: str) -> ClientRecords:
        """TLS for a new connection to ``name``: asks for it, and offers the last session."""
        records = ClientRecords(self._context)
        if _address(name) is None:  # RFC 6066 3: addresses are not asked for
            records.tls.set_tlsext_host_name(name.removesuffix(".").encode("idna"))
        session = self._sessions.pop(name, None)
        if session is not None:
            # Once only: a ticket that is used twice lets an onlooker see that both are us (RFC 8446 C.4).
            records.tls.set_session(session)
        return records

    def check_name(self, records: ClientRecords, name: str) -> None:
        """
        See that the certificate is for ``name`` (RFC 9525).

        :raises TLSFailure: it is not.
        """
        if not self.verify:
            return
        try:
            if _address(name) is None:
                verify_hostname(records.tls, name.removesuffix("."))
            else:
                verify_ip_address(records.tls, name)
        except (VerificationError, IdentityError, ValueError) as error:
            raise TLSFailure("name_mismatch", f"the certificate is not for {name}") from error

    def keep_session(self, records: ClientRecords, name: str) -> None:
        """Remember a verified connection's session. Tickets of TLS 1.3 come after the handshake, so: at its end."""
        session = records.tls.get_session()
        if session is not None:
            self._sessions.pop(name, None)
            self._sessions[name] = session
            if len(self._sessions) > SESSIONS:
                del self._sessions[next(iter(self._sessions))]


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _trust(context: SSL.Context, ca: str | None) -> None:
    if ca is None:
        context.set_default_verify_paths()
        return
    try:
        with as_file(files.read(ca)) as path:
            context.load_verify_locations(path)
    except OSError as error:
        raise CertificateError(f"{ca}: {error.strerror}") from error
    except SSL.Error as error:
        raise CertificateError(f"{ca}: no certificate in it") from error


def _show(context: SSL.Context, certificate: str) -> None:
    paths = source_paths(certificate)
    if len(paths) not in {1, 2}:
        raise CertificateError(f"{certificate}: neither a file nor two")
    pair = load_pair(PairFiles(paths[0], paths[-1]))
    try:
        context.use_certificate(pair.chain[0])
        for issuer in pair.chain[1:]:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(pair.key)  # type: ignore[arg-type]  # it has a public half: load_pair compared them
        context.check_privatekey()
    except (SSL.Error, TypeError) as error:
        raise CertificateError(f"{paths[0]}: OpenSSL refuses it: {_said(error)}") from error


class TLSClientProtocol(asyncio.Protocol):
    """A connection until the other side is verified; then ``TLSTransport`` has its place."""

    __slots__ = (
        "_failed",
        "_inner_factory",
        "_name",
        "_over",
        "_received",
        "_records",
        "_timer",
        "_tls",
        "_transport",
    )

    def __init__(
        self,
        tls: ClientTLS,
        inner_factory: Callable[[], asyncio.Protocol],
        name: str,
        failed: Callable[[TLSFailure], None],
    ) -> None:
        self._tls = tls
        self._inner_factory = inner_factory
        self._name = name
        self._failed = failed
        self._records: ClientRecords
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._received = b""
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's, always
        loop = self._tls.loop or asyncio.get_running_loop()
        self._timer = loop.call_later(self._tls.timeout, self._timed_out)
        self._records = self._tls.records(self._name)
        self._handshake(b"", b"")

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if not self._received:
            # To verify a chain takes up to a millisecond: many that come at once must not hold up the others.
            self._transport.pause_reading()
            TURNS.wait(self)
        self._received += data

    def take_turn(self) -> None:
        """Go on with the handshake."""
        if not self._over:
            data, self._received = self._received, b""
            self._transport.resume_reading()
            while data and not self._over:
                cut = self._records.framing.cut(data)
                rest = data[cut:]
                self._handshake(data[:cut], rest)
                data = rest

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def _handshake(self, data: bytes, rest: bytes) -> None:
        """
        :param rest: what came behind ``data``.
        """
        records = self._records
        try:
            done = records.handshake(data)
            if done:
                # Before our last message leaves: a wrong one must not even see that we are content.
                self._tls.check_name(records, self._name)
        except TLSBroken as error:
            alert = records.output()
            if alert:
                self._transport.write(alert)
            if records.verify_error is not None:
                self._end(TLSFailure("certificate_unverified", records.verify_error))
            else:
                self._end(TLSFailure("handshake_failed", str(error)))
            return
        except TLSFailure as failure:
            self._end(failure)
            return
        output = records.output()
        if output:
            self._transport.write(output)
        if done:
            self._over = True
            self._stop_timer()
            alpn = records.tls.get_alpn_proto_negotiated()
            extra: dict[str, Any] = {
                "server_name": self._name,
                "alpn": alpn.decode("latin-1") or None,
                "ssl_object": records.tls,
            }
            transport = _KeepsSession(self._transport, records, extra, self._tls, self._name)
            transport.start(self._inner_factory(), rest)

    def eof_received(self) -> bool:
        if not self._over:
            self._end(TLSFailure("handshake_failed", "the upstream closed the connection during the handshake"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over:
            self._end(TLSFailure("handshake_failed", f"the connection was lost in the handshake: {exc or 'closed'}"))

    def _timed_out(self) -> None:
        self._timer = None
        if not self._over:
            self._end(TLSFailure("timeout", f"no handshake within {self._tls.timeout:g} s"))

    def _end(self, failure: TLSFailure) -> None:
        self._over = True
        self._stop_timer()
        self._transport.close()
        self._failed(failure)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _KeepsSession(TLSTransport):
    """An upstream's connection, which leaves its session behind for the next one."""

    __slots__ = ("_name", "_tls")

    def __init__(
        self, outer: asyncio.Transport, records: ClientRecords, extra_info: dict[str, Any], tls: ClientTLS, name: str
    ) -> None:
        super().__init__(outer, records, extra_info)
        self._tls = tls
        self._name = name

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(self._records, ClientRecords) and self._failure is None:
            self._tls.keep_session(self._records, self._name)
        super().connection_lost(exc)
