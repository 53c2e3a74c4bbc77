"""
Field lines: bytes to pairs and back, strictly (RFC 9110 5, RFC 9112 5).

Refused: obs-fold, bare CR, bare LF, NUL and other controls, white space before the colon, names that are no token.
The check of a whole block is a handful of bytes methods, each one pass in C; a loop over characters would cost more
than everything else that is done for a request.
"""

from __future__ import annotations

from collections.abc import Iterable

from apigw.exchange.headers import Pair

TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The characters of a token (RFC 9110 5.6.2)."""

_LINES = bytes([9, 10, 13, *range(32, 127), *range(128, 256)])
"""What may stand in a block of field lines: HTAB, SP, VCHAR, obs-text, and the CRLFs between."""

_VALUE = bytes([9, *range(32, 127), *range(128, 256)])

Field = tuple[bytes, bytes, bytes]
"""A name, its value, and the name in lower case."""

_KNOWN: dict[bytes, bytes] = {}
"""Names that were found to be tokens, with their lower case. Bounded: clients could send any number of names."""
_MOST_KNOWN = 2048

HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip
"""Fields that end at a proxy (RFC 9110 7.6.1), beside those that Connection names."""

FORWARDING = frozenset({
    b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix",
    b"x-forwarded-proto", b"x-forwarded-server", b"x-real-ip", b"x-request-id", b"x-request-timeout",
    # Another path, method or host than those by which the route was found:
    b"x-envoy-original-path", b"x-forwarded-method", b"x-forwarded-path", b"x-forwarded-uri", b"x-forwarded-url",
    b"x-host", b"x-http-host-override", b"x-original-method", b"x-original-path", b"x-original-uri", b"x-original-url",
    b"x-override-url", b"x-rewrite-uri", b"x-rewrite-url", b"x-waws-unencoded-url",
    # CGI makes HTTP_PROXY of it, which many clients take for their proxy (httpoxy, CVE-2016-5385):
    b"proxy",
})  # fmt: skip
"""
Request fields that the gateway writes itself, or that nobody may send; those received are taken out. What a trusted
proxy says in some of them counts.
"""

OTHER_CLAIM = b"x-forwarded-"
"""What ``parse_fields`` gives as the lower case of a field that begins so and is not in FORWARDING."""

CLAIMS = frozenset({
    OTHER_CLAIM, b"akamai-client-ip", b"cf-connecting-ip", b"cf-connecting-ipv6", b"cf-pseudo-ipv4", b"cf-visitor",
    b"client-ip", b"cloudfront-forwarded-proto", b"cloudfront-viewer-address", b"do-connecting-ip", b"fastly-client-ip",
    b"fastly-ssl", b"fly-client-ip", b"fly-forwarded-port", b"fly-forwarded-proto", b"fly-forwarded-ssl",
    b"forwarded-for", b"forwarded-host", b"forwarded-proto", b"front-end-https", b"incap-client-ip", b"proxy-client-ip",
    b"true-client-ip", b"wl-proxy-client-ip", b"x-appengine-user-ip", b"x-azure-clientip", b"x-azure-socketip",
    b"x-client-ip", b"x-cluster-client-ip", b"x-envoy-external-address", b"x-forwarded", b"x-http-scheme",
    b"x-nf-client-connection-ip", b"x-original-for", b"x-original-forwarded-for", b"x-original-host",
    b"x-original-proto", b"x-original-scheme", b"x-originating-ip", b"x-proto", b"x-proxyuser-ip", b"x-remote-addr",
    b"x-remote-ip", b"x-scheme", b"x-sucuri-clientip", b"x-url-scheme", b"x-vercel-forwarded-for",
})  # fmt: skip
"""Further fields in which proxies say something of the client. Only a trusted proxy's are passed on."""

LOOKALIKE = b""
"""What ``parse_fields`` gives as the lower case of ``X_Forwarded_For``: a service may take it for X-Forwarded-For."""

FOLD = bytes(c if chr(c).isalnum() and c < 0x80 else 0x2D for c in range(256)).lower()
_OURS = FORWARDING | HOP_BY_HOP | CLAIMS | {b"content-length", b"host", b"expect"}


def folded(name: bytes) -> bytes:
    """
    A field's name as services may see it: CGI and all that follow it (WSGI, Rack, PHP) make one variable,
    ``HTTP_X_USER_ID``, of ``X-User-Id``, ``X_User_Id`` and ``x.user.id`` (RFC 3875 4.1.18).
    """
    return name.translate(FOLD)


class MalformedFields(ValueError):
    """Field lines that RFC 9112 does not allow; the words are safe to show."""


def is_token(text: bytes) -> bool:
    """True for one or more token characters."""
    return bool(text) and not text.translate(None, TOKEN)


def is_field_value(value: bytes) -> bool:
    """True if ``value`` can be written as a field value: no CR, LF, NUL or other control."""
    return not value.translate(None, _VALUE)


def _lower(name: bytes) -> bytes:
    if not is_token(name):
        if name[:1] in (b" ", b"\t"):
            raise MalformedFields("a field line is folded (obs-fold)")
        if name[-1:] in (b" ", b"\t"):
            raise MalformedFields("white space stands before a colon")
        raise MalformedFields("a field name is not a token")
    lower = name.lower()
    if lower not in _OURS:
        alike = folded(lower)
        if alike in _OURS or alike.startswith(OTHER_CLAIM):
            lower = OTHER_CLAIM if alike == lower else LOOKALIKE
    if len(_KNOWN) < _MOST_KNOWN and len(name) < 64:
        _KNOWN[name] = lower
    return lower


def parse_fields(block: bytes, *, lenient_colon: bool = False) -> list[Field]:
    """
    The fields of ``block``, field lines that each end in CRLF, as (name, value, lower-case name).

    The lower case of a name that only looks like one of the gateway's own fields is ``LOOKALIKE``, and that of
    ``X-Forwarded-User`` and its like ``OTHER_CLAIM``.

    :param lenient_colon: white space before a colon is removed, as a proxy must for responses (RFC 9112 5.1).
    :raises MalformedFields: for anything the grammar does not allow.
    """
    lines = block.count(b"\r\n")
    if block.count(b"\r") != lines or block.count(b"\n") != lines or not block.endswith(b"\r\n"):
        if block:
            raise MalformedFields("a CR or LF stands alone")
        return []
    if block.translate(None, _LINES):
        raise MalformedFields("a field holds a control character")
    fields = []
    known = _KNOWN
    for line in block[:-2].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon:
            raise MalformedFields("a field line is folded" if line[:1] in (b" ", b"\t") else "a line has no colon")
        lower = known.get(name)
        if lower is None:
            if lenient_colon:
                name = name.rstrip(b" \t")
            lower = _lower(name)
        fields.append((name, value.strip(b" \t"), lower))
    return fields


def serialise(pairs: Iterable[Pair]) -> bytes:
    """
    Pairs as field lines, each with its CRLF.

    :raises ValueError: for a name or value that can't be written: an injection, whoever tried it.
    """
    lines = []
    for name, value in pairs:
        if name not in _KNOWN:
            _lower(name)
        lines.append(b"%b: %b\r\n" % (name, value))
    block = b"".join(lines)
    count = len(lines)
    if block.count(b"\n") != count or block.count(b"\r") != count or block.translate(None, _LINES):
        raise MalformedFields("a field value holds a control character")
    return block


def list_members(value: bytes) -> list[bytes]:
    """The members of a comma-separated list of tokens, in lower case, empty ones left out (RFC 9110 5.6.1)."""
    return [member for part in value.lower().split(b",") if (member := part.strip(b" \t"))]
