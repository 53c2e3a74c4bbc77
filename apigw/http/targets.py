"""
Request targets, paths and authorities: taken apart, checked, and brought into the one form that routes match on.

What was matched is what is sent on, so that a policy can't be walked around by a second spelling of the same path.

Decisions, where the RFCs leave a choice or clients ignore them:

- Visible ASCII that RFC 3986 keeps out of paths and queries (``" < > [ ] ^ ` { | }``) is taken, because browsers and
  curl send it and it delimits nothing in HTTP. In a path it is percent-encoded before matching; a query goes on as it
  came.
- Refused with 400: everything else outside visible ASCII (raw UTF-8 too), fragments, raw backslashes in paths
  (browsers mean ``/`` by them, services disagree), ``..`` above the root, percent-encoded control characters, and
  ``..;x`` segments (servlet containers drop the parameter and then climb up).
- Path parameters (``;x=1``) stay in the path that is sent on, but routes match on the path without them
  (``without_parameters``): Tomcat, Spring and Jetty drop them before they choose what answers. A segment that is
  nothing but parameters is refused unless it is the last one (``/shop/;jsessionid=1``): those services merge the two
  slashes around it. ``%3B`` is no delimiter.
- Runs of slashes are merged, as nginx does: otherwise ``//admin`` would miss the route of ``/admin``, be taken by a
  wider one without its policies, and be served as ``/admin`` by a service that merges.

Not here: finding the Host field (``apigw.http``'s parsers), choosing a route (``apigw.routing``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from apigw.exchange.errors import ClientFault

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
# Every other byte becomes an X: comparing the outcome is the fastest check of a whole string.
_VISIBLE = bytes(code if 0x20 < code < 0x7F and code != 0x23 else 0x58 for code in range(256))
# RFC 3986 3.3: segments that need no second look. None is empty, begins with a dot or a semicolon, or has a
# percent-encoding.
_CLEAN = re.compile(rb"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,;=:@-]*+)++/?|/").fullmatch

_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})?")
_LENIENT = re.compile(rb'["<>\[\]^`{|}]')
_SLASHES = re.compile(rb"//+")
_ENCODED_SLASH = re.compile(rb"%2F|%5C")
_PARAMETERS = re.compile(rb";[^/]*")
_PARAMETERS_ALONE = re.compile(rb"/;[^/]*/")
_ABSOLUTE = re.compile(rb"(https?)://([^/?]*)", re.IGNORECASE)
_AUTHORITY = re.compile(
    rb"(?:((?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?"
)
_NAME = _UNRESERVED + b"!$&'()*+,;="
_LONGEST_HOST = 262  # a DNS name of 255, a colon and a port


class Target(NamedTuple):
    """
    A request target.

    :ivar path: as it was sent, not normalised; ``b"*"`` for ``OPTIONS *``.
    :ivar query: what follows ``?``, as it was sent; None without one.
    :ivar authority: of an absolute target, valid and lower case; it takes the Host field's place (RFC 9112 3.2.2).
    """

    path: bytes
    query: bytes | None
    authority: bytes | None


def split_target(method: bytes, target: bytes) -> Target:
    """
    Take a request target apart (RFC 9112 3.2).

    :raises ClientFault: 400 ``invalid_target``; 501 ``connect_not_supported`` for CONNECT: its authority form asks for
        a tunnel, which this gateway is not made for (RFC 9110 9.3.6, 15.6.2).
    """
    if target.translate(_VISIBLE) != target:
        if b"#" in target:
            raise ClientFault("the request target has a fragment", reason="invalid_target")
        raise ClientFault("the request target has a character that no URI has", reason="invalid_target")
    if method == b"CONNECT":
        raise ClientFault("CONNECT is not supported", status=501, reason="connect_not_supported")
    if target.startswith(b"/"):
        path, mark, query = target.partition(b"?")
        return Target(path, query if mark else None, None)
    if target == b"*":
        if method != b"OPTIONS":
            raise ClientFault("only OPTIONS may ask for *", reason="invalid_target")
        return Target(b"*", None, None)
    return _absolute(method, target)


def _absolute(method: bytes, target: bytes) -> Target:
    matched = _ABSOLUTE.match(target)
    if matched is None:
        raise ClientFault("the request target is neither a path nor an http URL", reason="invalid_target")
    authority = valid_host(matched[2])
    path, mark, query = target[matched.end() :].partition(b"?")
    if not path:
        # RFC 9112 3.2.4: OPTIONS of an authority alone is the asterisk form.
        path = b"*" if method == b"OPTIONS" and not mark else b"/"
    return Target(path, query if mark else None, authority)


def normalise_path(path: bytes, allow_encoded_slashes: bool = False) -> bytes:
    """
    The one spelling of ``path`` that is matched and sent on (RFC 3986 6.2.2). Idempotent.

    Dot segments are removed, runs of slashes merged, percent-encoded unreserved characters decoded, other
    percent-encodings upper-cased, stray visible ASCII percent-encoded.

    :param path: begins with ``/`` and has no query.
    :param allow_encoded_slashes: keep ``%2F`` and ``%5C`` instead of refusing them. Those that would form a dot segment
        for a service that decodes them (``..%2F``) are refused all the same.
    :raises ClientFault: 400 with ``invalid_path``, ``encoded_slash``, or ``path_above_root``.
    """
    if _CLEAN(path):
        return path
    return _normalised(path, allow_encoded_slashes)


def _normalised(path: bytes, allow_encoded_slashes: bool) -> bytes:
    if not path.startswith(b"/"):
        raise ClientFault("the path does not begin with a slash", reason="invalid_path")
    if b"\\" in path or path.translate(_VISIBLE) != path or b"?" in path:
        raise ClientFault("the path has a character that no path has", reason="invalid_path")
    path = _LENIENT.sub(_encoded, path)
    if b"%" in path:
        path = _PERCENT.sub(_normal_percent, path)
        if _ENCODED_SLASH.search(path):
            _check_encoded_slashes(path, allow_encoded_slashes)
    path = _SLASHES.sub(b"/", path)
    if b"/." in path:
        path = _without_dot_segments(path)
    if b"/;" in path and _PARAMETERS_ALONE.search(path):
        raise ClientFault("the path has a segment that is only a parameter", reason="invalid_path")
    return path


def _encoded(character: re.Match[bytes]) -> bytes:
    return b"%%%02X" % character[0][0]


def _normal_percent(triplet: re.Match[bytes]) -> bytes:
    if triplet[1] is None:
        raise ClientFault("the path has a broken percent-encoding", reason="invalid_path")
    code = int(triplet[1], 16)
    if code in _UNRESERVED:
        return b"%c" % code
    if code < 0x20 or code == 0x7F:
        raise ClientFault("the path has an encoded control character", reason="invalid_path")
    return triplet[0].upper()


def _check_encoded_slashes(path: bytes, allowed: bool) -> None:
    if not allowed:
        raise ClientFault("the path has an encoded slash or backslash", reason="encoded_slash")
    for segment in path.split(b"/"):
        pieces = _ENCODED_SLASH.split(segment)
        if len(pieces) > 1 and any(piece.partition(b";")[0] in {b".", b".."} for piece in pieces):
            raise ClientFault("the path has a dot segment behind an encoded slash", reason="encoded_slash")


def _without_dot_segments(path: bytes) -> bytes:
    """RFC 3986 5.2.4, except that climbing above the root is an error: nobody does it in good faith."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if not kept:
                raise ClientFault("the path climbs above the root", reason="path_above_root")
            kept.pop()
        elif segment.startswith((b".;", b"..;", b".%3B", b"..%3B")):
            raise ClientFault("the path has a dot segment with a parameter", reason="invalid_path")
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in {b".", b".."}:
        kept.append(b"")
    return b"/" + b"/".join(kept)


def without_parameters(path: bytes) -> bytes:
    """The path that routes match on: each segment without its parameters (RFC 3986 3.3), ``/a;x=1/b`` as ``/a/b``."""
    return _PARAMETERS.sub(b"", path) if b";" in path else path


def places_in(path: bytes) -> Sequence[int]:
    """
    Where each byte of ``without_parameters(path)``, and its end, is in ``path``.

    A span of the one becomes the span of the other, with the parameters of the segments that end in it.
    """
    places: list[int] = []
    end = 0
    for parameters in _PARAMETERS.finditer(path):
        places += range(end, parameters.start())
        end = parameters.end()
    return [*places, *range(end, len(path) + 1)]


@lru_cache(maxsize=1024)
def valid_host(host: bytes) -> bytes:
    """
    An authority (Host field, absolute target), lower case, with its port if it has one (RFC 9110 7.2, RFC 3986 3.2).

    Taken are names (RFC 3986 3.2.2: unreserved characters, sub-delimiters, percent-encodings), IPv4 and ``[IPv6]``
    addresses, with a port of 0-65535 or none. Percent-encodings are decoded, those beyond ASCII into the IDNA form, so
    that a name has one spelling; an encoded character that a name can't have by itself is refused.

    :raises ClientFault: 400 ``invalid_host``.
    """
    matched = _AUTHORITY.fullmatch(host) if len(host) <= _LONGEST_HOST else None
    if matched is None:
        raise ClientFault("the host is not valid", reason="invalid_host")
    name, address, port = matched.groups()
    if port and int(port) > 0xFFFF:
        raise ClientFault("the host's port is not valid", reason="invalid_host")
    if address is not None:
        try:
            IPv6Address(address.decode())
        except AddressValueError:
            raise ClientFault("the host's IPv6 address is not valid", reason="invalid_host") from None
    elif name.startswith(b".") or b".." in name:
        raise ClientFault("the host has an empty label", reason="invalid_host")
    elif b"%" in name:
        host = _decoded_name(name) + host[len(name) :]
    if port == b"":
        host = host[:-1]  # RFC 3986 6.2.3: an empty port is none
    return host.lower()


def _decoded_name(name: bytes) -> bytes:
    decoded = unquote_to_bytes(name)
    try:
        decoded = decoded if decoded.isascii() else decoded.decode().encode("idna")
    except UnicodeError:
        raise ClientFault("the host is not valid", reason="invalid_host") from None
    if not decoded or decoded.translate(None, _NAME) or decoded.startswith(b".") or b".." in decoded:
        raise ClientFault("the host is not valid", reason="invalid_host")
    return decoded
