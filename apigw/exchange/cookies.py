"""
Cookies that the gateway itself gives to clients, and what that means for caches.

A cache that others share must not keep an answer with a cookie for one client, whatever the service said of it. So a
policy does not set a cookie on a response: it calls ``give``. ``giving``, around all layers of the route, puts the
fields in and makes the answer private, after everything else had its say.

Not here: cookies of services, which are theirs to protect; values of cookies (``policies.sealed``, ``upstream``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response

_DIRECTIVE = re.compile(rb'([^\s,="]+)(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"?|[^\s,"]*))?')
_FOR_SHARED = frozenset((b"public", b"private", b"s-maxage", b"proxy-revalidate"))
_OF_CACHES = frozenset((b"cache-control", b"expires", b"surrogate-control", b"edge-control", b"x-accel-expires"))
"""Fields by which caches keep an answer and that go before Cache-Control, or that caches read which don't know it."""


def give(request: Request, fields: Iterable[Pair], *, session: bool) -> None:
    """
    Have the answer to ``request`` set cookies.

    :param fields: ``Set-Cookie`` fields. :param session: they let a person in: no cache at all may keep the answer.
    """
    former, was_session = request.given or ((), False)
    request.given = (*former, *fields), session or was_session


def giving(inner: Responder) -> Responder:
    """``inner``, with the cookies that were given on the way."""

    def respond(request: Request, done: Done) -> None:
        def outward(response: Response) -> None:
            if request.given is not None:
                (fields, session), request.given = request.given, None
                add_cookies(response, fields, session=session)
            done(response)

        inner(request, outward)

    return respond


def add_cookies(response: Response, fields: Iterable[Pair], *, session: bool) -> None:
    """Put cookies for one client into a response, and see that no shared cache keeps it."""
    headers = response.edit_headers()
    headers.pairs += fields
    headers._index = None
    make_private(headers, session=session)


def make_private(headers: Headers, *, session: bool) -> None:
    """
    See that no shared cache keeps an answer (RFC 9111 5.2.2.7, 7.3; RFC 9213).

    :param session: no cache at all may keep it.
    """
    said = [found for value in headers.get_all(b"cache-control") for found in _DIRECTIVE.finditer(value)]
    names = {found[1].lower() for found in said}
    if b"no-store" in names and not names & _FOR_SHARED:
        control = b"no-store"  # nothing is stricter
    elif session:
        control = b"private, no-store"
    else:
        control = b", ".join([b"private", *(found[0] for found in said if found[1].lower() not in _FOR_SHARED)])
    varies = {member.strip() for member in (headers.joined(b"vary") or b"").lower().split(b",")}
    headers.pairs = [pair for pair in headers.pairs if not _is_for_caches(pair[0].lower())]
    headers.pairs.append((b"Cache-Control", control))
    if not varies & {b"cookie", b"*"}:
        headers.pairs.append((b"Vary", b"Cookie"))
    headers._index = None


def _is_for_caches(name: bytes) -> bool:
    return name in _OF_CACHES or name.endswith(b"cdn-cache-control")
