"""
What more than one way to authenticate needs: where a credential is looked for, what it is remembered by, which header
and how a refusal is worded.

Not here: any way to authenticate.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Any, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from apigw.exchange.errors import ClientFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.json_text import read_object

V = TypeVar("V")


class Refused(ClientFault):
    """Who the caller is has not been proved (RFC 9110 15.5.2)."""

    status = 401
    reason = "unauthenticated"


class Forbidden(ClientFault):
    """Who the caller is has been proved, and it may not do this (RFC 9110 15.5.4)."""

    status = 403
    reason = "forbidden"


class Ambiguous(ValueError):
    """A credential is there more than once: the service might take the one that was not looked at."""


def note_refusal(request: Request, label: str, why: str) -> None:
    """Leave why a policy refused for the access log. The client is not told; ``why`` holds no credential."""
    notes = request.notes or {}
    request.note("auth", {**notes.get("auth", {}), label: why})


def without_query(url: str) -> str:
    """A configured URL as a log may show it: some services want their key in the query."""
    return url.partition("?")[0]


def quoted(text: str) -> bytes:
    """A quoted-string (RFC 9110 5.6.4) of what may stand in one."""
    kept = "".join(c for c in text if " " <= c <= "~")
    return b'"' + kept.replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'


def challenge(scheme: bytes, realm: str, **parameters: str) -> Pair:
    """A ``WWW-Authenticate`` field."""
    value = scheme + b" realm=" + quoted(realm)
    for name, each in parameters.items():
        value += b", " + name.encode() + b"=" + quoted(each)
    return b"WWW-Authenticate", value


class Remembered(Generic[V]):
    """
    What was verified, by the bytes that were verified; at most ``most`` of them. When it is full, the eighth that was
    put in first goes: nobody can make it larger, and to keep count of uses would cost more than it saves.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[bytes, V] = {}
        self.get = self._known.get

    def put(self, key: bytes, value: V) -> None:
        known = self._known
        if self._most <= 0:
            return
        if len(known) >= self._most:
            for old in list(known)[: self._most // 8 + 1]:
                del known[old]
        known[key] = value

    def forget(self, key: bytes) -> None:
        self._known.pop(key, None)

    def clear(self) -> None:
        self._known.clear()

    def __len__(self) -> int:
        return len(self._known)


class RememberedAgain(Remembered[V]):
    """
    The same, from the second time on that a key is put in. What never comes again takes no place from what does, and
    its memory is used again while it is still in the processor's cache.
    """

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._once: set[int] = set()

    def put(self, key: bytes, value: V) -> None:
        once = self._once
        number = hash(key)
        if number in once:
            once.remove(number)
            super().put(key, value)
            return
        if len(once) >= self._most:
            once.clear()
        once.add(number)


# ---- where a credential is -------------------------------------------------------------------------------------------


def cookie(headers: Headers, name: bytes) -> bytes | None:
    """
    The value of a cookie (RFC 6265 5.4); quotes around it are dropped.

    :raises Ambiguous: if it is there twice with different values.
    """
    found: bytes | None = None
    for line in headers.get_all(b"cookie"):
        for part in line.split(b";"):
            key, equals, value = part.partition(b"=")
            if equals and key.strip(b" \t") == name:
                value = value.strip(b" \t")
                if len(value) > 1 and value[:1] == value[-1:] == b'"':
                    value = value[1:-1]
                if found is not None and found != value:
                    raise Ambiguous
                found = value
    return found


def cookies_named(headers: Headers, prefix: bytes) -> dict[bytes, bytes]:
    """The cookies whose names begin with ``prefix``."""
    pairs = [part.partition(b"=") for line in headers.get_all(b"cookie") for part in line.split(b";")]
    return {name: value.strip(b" \t") for key, _, value in pairs if (name := key.strip(b" \t")).startswith(prefix)}


def without_cookies(headers: Headers, names: Iterable[bytes], prefix: bytes | None = None) -> None:
    """
    Take cookies out of ``headers``, which must be one's own; a Cookie line with nothing else goes too.

    :param prefix: those whose names begin with it go as well.
    """
    gone = set(names)

    def stays(name: bytes) -> bool:
        return name not in gone and (prefix is None or not name.startswith(prefix))

    pairs = []
    for name, value in headers.pairs:
        if name.lower() == b"cookie":
            kept = [part for part in value.split(b";") if stays(part.partition(b"=")[0].strip(b" \t"))]
            value = b";".join(kept).strip(b" \t")
            if not value:
                continue
        pairs.append((name, value))
    headers.pairs = pairs
    headers._index = None


def query_value(query: bytes | None, name: bytes) -> bytes | None:
    """
    A parameter of the query, percent-decoded.

    :raises Ambiguous: if it is there twice.
    """
    found: bytes | None = None
    for part in (query or b"").split(b"&"):
        key, _, value = part.partition(b"=")
        if unquote_to_bytes(key) == name:
            if found is not None:
                raise Ambiguous
            found = unquote_to_bytes(value.replace(b"+", b" "))
    return found


def hide_query_value(request: Request, name: bytes, *, remove: bool) -> None:
    """A credential in the query must not reach logs, nor the service unless it may see it."""
    if request.query is None:
        return
    parts = request.query.split(b"&")
    mine = [unquote_to_bytes(part.partition(b"=")[0]) == name for part in parts]
    shown = [part.partition(b"=")[0] + b"=***" if own else part for part, own in zip(parts, mine, strict=True)]
    request.target = request.target.partition(b"?")[0] + b"?" + b"&".join(shown)
    if remove:
        request.query = b"&".join(part for part, own in zip(parts, mine, strict=True) if not own) or None


class Place:
    """
    Where a policy looks for a credential: a field, then a cookie, then a query parameter.

    :param schemes: what may stand before it in the field (lower case); in Authorization one of them must.
    """

    def __init__(self, header: str, schemes: frozenset[bytes], cookie: str = "", query: str = "") -> None:
        self.header = header.lower().encode()
        self._schemes = schemes
        self._cookie = cookie.encode()
        self._query = query.encode()
        self._bare = self.header != b"authorization"
        self.hides = bool(self._cookie or self._query)
        """Whether ``hide`` has anything to do."""
        self.fields = frozenset({self.header} | ({b"cookie"} if self._cookie else set()))
        """The fields that may hold the credential, in lower case."""

    def find(self, request: Request, values: list[bytes]) -> tuple[bytes, bytes] | None:
        """
        What was sent, by which it may be remembered, and the credential in it; None if there is none.

        :param values: those of the field.
        :raises Ambiguous: if there is more than one.
        """
        if len(values) > 1:
            raise Ambiguous
        if values:
            value = values[0]
            scheme, space, credential = value.partition(b" ")
            if space and scheme.lower() in self._schemes:
                return value, credential.strip(b" ")
            if self._bare and value:
                return value, value
        if self._cookie and (found := cookie(request.headers, self._cookie)):
            return found, found
        if self._query and (found := query_value(request.query, self._query)):
            return found, found
        return None

    def hide(self, request: Request, *, forward: bool) -> None:
        """Keep one in cookie or query out of the log, and from the service if that shall not see it."""
        if self._query:
            hide_query_value(request, self._query, remove=not forward)
        if self._cookie and not forward and b"cookie" in request.headers:
            without_cookies(request.edit_headers(), [self._cookie])


# ---- JSON that is signed ---------------------------------------------------------------------------------------------


def json_object(raw: bytes) -> dict[str, Any]:
    """
    A JSON object without repeated members (RFC 8725 2.7: two readers may take different ones).

    :raises ValueError: for anything else, however deep or large.
    """
    return read_object(raw, unique=True)


_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PADDING = (b"", b"", b"==", b"=")
_LAST = (_ALPHABET, b"", _ALPHABET[::16], _ALPHABET[::4])
"""What the last character may be, by the number of those after the last whole four: its unused bits are zero."""


def base64url(text: bytes) -> bytes:
    """
    Base64url without padding (RFC 7515 2), only in the one way to write it.

    :raises ValueError: for anything else.
    """
    remainder = len(text) & 3
    if text.translate(None, _ALPHABET) or text[-1:] not in _LAST[remainder]:
        raise ValueError("it is not base64url")
    return binascii.a2b_base64(text.translate(_TO_STANDARD) + _PADDING[remainder])
