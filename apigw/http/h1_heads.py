"""
Heads of HTTP/1 messages: what a request or response says of itself before its content (RFC 9112 2-6).

A head is parsed once for each distinct block of field lines and remembered: a client's next request usually repeats
its fields to the byte, a service's answers differ once a second (Date). What is remembered is everything that
follows from the bytes alone: framing, connection options, and the end-to-end lines ready to be sent on.

Not here: the request line's target (``apigw.http.targets``), whose fields to believe (``apigw.http.forwarded``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from http import HTTPStatus

from apigw.exchange.errors import ClientFault, GatewayError, UpstreamFault
from apigw.exchange.headers import Headers, Pair
from apigw.http.fields import (
    CLAIMS,
    FORWARDING,
    HOP_BY_HOP,
    LOOKALIKE,
    TOKEN,
    Field,
    MalformedFields,
    is_field_value,
    is_token,
    list_members,
    parse_fields,
    serialise,
)

PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}

_ADDRESSES = frozenset((b"location", b"content-location", b"refresh", b"set-cookie"))

_SPECIAL = HOP_BY_HOP | FORWARDING | CLAIMS | {LOOKALIKE}

LONGEST_RESPONSE_HEAD = 64 * 1024
"""Bytes of a response's head (Envoy's default is 60 KiB, nginx's 4-8 KiB is a common complaint)."""

_MOST_REMEMBERED = 1024
_LONGEST_REMEMBERED = 4096


class RequestHead:
    """
    What a request's field lines say.

    :param underscores: what becomes of fields with one in their name: ``keep``, ``drop`` or ``refuse``.
    :ivar headers: the end-to-end fields, less those in FORWARDING, Host and Content-Length, and less those that only
        look like one of these (``X_Forwarded_For``).
    :ivar lines: the same as bytes, ready to be sent on.
    :ivar forwarding: the fields in FORWARDING as they came, by lower-case name.
    :ivar host: the value of Host, or None if there was none. :ivar content_length: -1 if there was none.
    :ivar plain: no content follows, and no other protocol is asked for.
    :ivar stripped: the same head without its fields in CLAIMS, for peers that are no trusted proxies; None if there
        are none.
    """

    __slots__ = (
        "chunked",
        "close",
        "content_length",
        "expect_continue",
        "forwarding",
        "headers",
        "host",
        "keep_alive",
        "lines",
        "plain",
        "stripped",
        "upgrade",
    )

    def __init__(self, block: bytes, underscores: str = "keep") -> None:
        try:
            fields = parse_fields(block)
        except MalformedFields as error:
            raise ClientFault(str(error), reason="malformed_head") from None
        if underscores != "keep" and b"_" in block:
            fields = _without_underscores(fields, underscores)
        self.host: bytes | None = None
        self.content_length = -1
        self.chunked = self.close = self.keep_alive = self.expect_continue = False
        self.upgrade: bytes | None = None
        self.forwarding: dict[bytes, list[bytes]] = {}
        pairs: list[Pair] = []
        claims: list[Pair] = []
        named: set[bytes] = set()
        for name, value, lower in fields:
            if lower == b"host":
                if self.host is not None:
                    raise ClientFault("there is more than one Host", reason="invalid_host")
                self.host = value
            elif lower == b"content-length":
                self.content_length = _content_length(value, self.content_length, _client_framing)
            elif lower == b"transfer-encoding":
                if self.chunked:
                    raise _client_framing("Transfer-Encoding comes twice")
                self.chunked = _chunked_request(value)
            elif lower == b"connection":
                named.update(list_members(value))
            elif lower == b"upgrade":
                self.upgrade = value
            elif lower == b"expect":
                if value.lower() != b"100-continue":
                    raise ClientFault("an expectation can't be met", status=417, reason="expectation_failed")
                self.expect_continue = True
            elif lower not in _SPECIAL:
                pairs.append((name, value))
            elif lower in FORWARDING:
                self.forwarding.setdefault(lower, []).append(value)
            elif lower in CLAIMS:
                pairs.append((name, value))
                claims.append((name, value))
            elif lower == b"te" and not any(te == b"TE" for te, _ in pairs) and b"trailers" in list_members(value):
                pairs += ((b"TE", b"trailers"), (b"Connection", b"TE"))  # who sends TE must name it (RFC 9110 10.1.4)
        if self.chunked and self.content_length >= 0:
            raise _client_framing("both Content-Length and Transfer-Encoding are there")
        if named:
            self.close = b"close" in named
            self.keep_alive = b"keep-alive" in named
            if b"upgrade" not in named:
                self.upgrade = None
            named -= {b"close", b"keep-alive", b"upgrade"}
            if named:
                pairs = [pair for pair in pairs if pair[0].lower() not in named or pair[0] == b"TE"]
                for name in named:
                    self.forwarding.pop(name, None)
        else:
            self.upgrade = None
        self.headers = Headers(pairs)
        self.lines = serialise(pairs)
        self.plain = self.content_length <= 0 and not self.chunked and self.upgrade is None
        self.stripped: RequestHead | None = None
        if claims:
            self.stripped = self._without(claims)

    def _without(self, claims: list[Pair]) -> RequestHead:
        stripped = copy(self)
        stripped.headers = Headers([pair for pair in self.headers.pairs if pair not in claims])
        stripped.lines = serialise(stripped.headers.pairs)
        return stripped


def _without_underscores(fields: list[Field], underscores: str) -> list[Field]:
    kept = [field for field in fields if b"_" not in field[0]]
    if underscores == "refuse" and len(kept) < len(fields):
        raise ClientFault("a field name has an underscore", reason="underscore_in_name")
    return kept


class ResponseHead:
    """
    What a response's status line and field lines say.

    :ivar headers: the end-to-end fields less Content-Length. :ivar lines: the same as bytes.
    :ivar block: status line, ``lines`` and Content-Length (0 if there was none), to be sent on over HTTP/1.1.
    :ivar content_length: -1 if there was none. :ivar phrase: the reason phrase, empty for the status' standard one.
    :ivar addressed: there is a field that may hold an address of the service (Location, Set-Cookie, ...).
    """

    __slots__ = (
        "addressed",
        "block",
        "chunked",
        "close",
        "content_length",
        "dated",
        "headers",
        "keep_alive",
        "lines",
        "phrase",
        "status",
        "version",
    )

    def __init__(self, head: bytes, *, lenient: bool = False) -> None:
        status_line, _, block = head.partition(b"\r\n")
        version, _, rest = status_line.partition(b" ")
        code, _, phrase = rest.partition(b" ")
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(code) != 3 or not code.isdigit() or code[:1] == b"0":
            raise _upstream_protocol("the status line is not one of HTTP/1")
        self.version = version[5:]
        self.status = int(code)
        if not is_field_value(phrase):
            raise _upstream_protocol("the reason phrase holds a control character")
        self.phrase = phrase if phrase != PHRASES.get(self.status) else b""
        try:
            fields = parse_fields(block, lenient_colon=True)
        except MalformedFields as error:
            raise _upstream_protocol(str(error)) from None
        self.content_length = -1
        self.chunked = self.close = self.keep_alive = self.dated = self.addressed = False
        pairs: list[Pair] = []
        named: set[bytes] = set()
        for name, value, lower in fields:
            if lower == b"content-length":
                self.content_length = _content_length(value, self.content_length, _upstream_protocol, lenient)
            elif lower == b"transfer-encoding":
                if self.chunked or value.lower() != b"chunked" or self.version == b"1.0":
                    raise _upstream_protocol("Transfer-Encoding is not exactly chunked")
                self.chunked = True
            elif lower == b"connection":
                named.update(list_members(value))
            elif lower not in HOP_BY_HOP or lower == b"proxy-authenticate":
                pairs.append((name, value))
                if lower == b"date":
                    self.dated = True
                elif lower in _ADDRESSES:
                    self.addressed = True
        if self.chunked and self.content_length >= 0:
            raise _upstream_protocol("both Content-Length and Transfer-Encoding are there")
        if named:
            self.close = b"close" in named
            self.keep_alive = b"keep-alive" in named
            named -= {b"close", b"keep-alive", b"upgrade"}
            if named:
                pairs = [pair for pair in pairs if pair[0].lower() not in named]
        if self.version == b"1.0" and not self.keep_alive:
            self.close = True
        self.headers = Headers(pairs)
        self.lines = serialise(pairs)
        self.block = b"HTTP/1.1 %b %b\r\n%bContent-Length: %d\r\n" % (
            code,
            phrase or PHRASES.get(self.status, b""),
            self.lines,
            max(self.content_length, 0),
        )


def _client_framing(detail: str) -> GatewayError:
    return ClientFault(detail, reason="invalid_framing")


def _upstream_protocol(detail: str) -> GatewayError:
    return UpstreamFault(f"the service's answer can't be understood: {detail}", reason="upstream_protocol_error")


def _content_length(value: bytes, before: int, fault: Callable[[str], GatewayError], repeated: bool = False) -> int:
    """
    RFC 9112 6.3: digits only.

    :param before: what another Content-Length said, or -1. :param repeated: it may come again with the same value, also
        as a list; otherwise even that is refused.
    """
    if repeated and b"," in value:
        members = [member.strip(b" \t") for member in value.split(b",")]
        if any(member != members[0] for member in members):
            raise fault("Content-Length has two values")
        value = members[0]
    if not value.isdigit() or len(value) > 18:
        raise fault("Content-Length is not a number")
    if before >= 0 and not (repeated and int(value) == before):
        raise fault("Content-Length comes twice")
    return int(value)


def _chunked_request(value: bytes) -> bool:
    codings = list_members(value)
    if codings == [b"chunked"]:
        if value.strip(b" \t").lower() != b"chunked":
            raise _client_framing("Transfer-Encoding is not exactly chunked")
        return True
    if codings and codings[-1] == b"chunked":
        raise ClientFault("only the transfer coding chunked is understood", status=501, reason="unknown_coding")
    raise _client_framing("the last transfer coding is not chunked")


class RequestHeads:
    """
    Request heads by their bytes, for one set of limits; the least surprising bound: when full, forget all.

    :ivar known: those that are remembered. Who looks here first saves a call.
    """

    __slots__ = ("_max_headers", "_underscores", "known")

    def __init__(self, max_headers: int, underscores: str = "keep") -> None:
        self._max_headers = max_headers
        self._underscores = underscores
        self.known: dict[bytes, RequestHead] = {}

    def get(self, block: bytes) -> RequestHead:
        """
        The head that ``block`` (field lines, each with CRLF) says.

        :raises ClientFault: 400, 417, 431 or 501, when it must be refused.
        """
        head = self.known.get(block)
        if head is None:
            lines = block.count(b"\n")
            if lines != block.count(b"\r\n"):
                raise ClientFault("a line ends without CR", reason="malformed_head")
            if lines > self._max_headers:
                raise ClientFault(
                    f"there are more than {self._max_headers} fields", status=431, reason="too_many_headers"
                )
            head = RequestHead(block, self._underscores)
            if len(block) <= _LONGEST_REMEMBERED:
                if len(self.known) >= _MOST_REMEMBERED:
                    self.known.clear()
                self.known[block] = head
        return head


class ResponseHeads:
    """
    Response heads by their bytes.

    :param lenient: Content-Length may be repeated with the same value.
    :ivar known: those that are remembered. Who looks here first saves a call.
    """

    __slots__ = ("_lenient", "known")

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient
        self.known: dict[bytes, ResponseHead] = {}

    def get(self, block: bytes) -> ResponseHead:
        """
        The head that ``block`` (status line and field lines, each with CRLF) says.

        :raises UpstreamFault: 502, when it can't be understood.
        """
        head = self.known.get(block)
        if head is None:
            if len(block) > LONGEST_RESPONSE_HEAD:
                raise _upstream_protocol("its head is too long")
            head = ResponseHead(block, lenient=self._lenient)
            if len(block) <= _LONGEST_REMEMBERED:
                if len(self.known) >= _MOST_REMEMBERED:
                    self.known.clear()
                self.known[block] = head
        return head


SLACK = 64
"""Bytes of a request line beside its target: the method, the version, two spaces."""


def check_line_so_far(line: bytes, max_target: int) -> None:
    """
    Refuse what can't become a request line, however it goes on.

    What is refused here, and why, must not depend on where the bytes were split: ``RequestLine`` asks this first.

    :raises ClientFault: 400 or 414.
    """
    if line[:1] not in TOKEN or b"\n" in line[: max_target + SLACK]:
        raise ClientFault(_NO_REQUEST_LINE, reason="malformed_request_line")
    if len(line) > max_target + SLACK:
        raise ClientFault(f"the target has more than {max_target} bytes", status=414, reason="target_too_long")


_NO_REQUEST_LINE = "the request line is not METHOD TARGET HTTP/1.1"


class RequestLine:
    """
    Method, target and version (RFC 9112 3).

    :ivar version: ``b"1.1"`` or ``b"1.0"``.
    """

    __slots__ = ("method", "target", "version")

    def __init__(self, line: bytes, max_target: int) -> None:
        check_line_so_far(line, max_target)
        parts = line.split(b" ")
        if len(parts) != 3 or not is_token(parts[0]) or not parts[1] or b"\r" in line:
            raise ClientFault(_NO_REQUEST_LINE, reason="malformed_request_line")
        self.method, self.target, version = parts
        if len(self.target) > max_target:
            raise ClientFault(f"the target has more than {max_target} bytes", status=414, reason="target_too_long")
        if version == b"HTTP/1.1":
            self.version = b"1.1"
        elif version == b"HTTP/1.0":
            self.version = b"1.0"
        elif _VERSION.fullmatch(version):
            raise ClientFault("only HTTP/1.1 and HTTP/1.0 are spoken here", status=505, reason="version_not_supported")
        else:
            raise ClientFault(_NO_REQUEST_LINE, reason="malformed_request_line")


_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
