"""
The way back: what a service says of its own addresses is turned into the addresses that the client knows.

A service behind ``strip_prefix = /api`` that redirects to ``http://10.0.0.5:9101/users/2`` means
``https://shop.example/api/users/2``. Mapped are Location, Content-Location and Refresh (nginx's ``proxy_redirect
default``), and the Domain and Path of cookies (``proxy_cookie_domain``, ``proxy_cookie_path``).

Only addresses of the service itself are touched: those that name the target that was asked, and those without a host.
Everything is plain functions on bytes; whether a route wants them is its settings'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from apigw.exchange.headers import Headers, Pair

_URL = re.compile(rb"(?:(https?):)?//([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_REFRESH = re.compile(rb"\s*+[0-9.]*+\s*+[;,]\s*+url\s*+=\s*+(['\"]?)", re.IGNORECASE)  # linear: it never goes back
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


@dataclass(frozen=True, slots=True)
class Mapping:
    """
    How a service's addresses become the client's.

    :ivar scheme, host: of the client's request, as in ``https`` and ``shop.example:8443``.
    :ivar origins: schemes and hosts that mean the service itself, as in ``(b"http", b"10.0.0.5:9101")``, lower case;
        the target that was asked, and the Host that it was sent.
    :ivar inside: what stands before the service's paths (the target's base path and ``add_prefix``), without final
        slash.
    :ivar outside: what stands before the client's (``strip_prefix``), without final slash.
    """

    scheme: bytes
    host: bytes
    origins: frozenset[tuple[bytes, bytes]]
    inside: bytes = b""
    outside: bytes = b""


def rewrite_location(value: bytes, mapping: Mapping) -> bytes:
    """
    A URI reference from a service, as the client is to see it.

    Foreign hosts, relative references (``./x``, ``?page=2``) and paths outside of what is mapped stay as they are. A
    reference to the service with its host gets the client's scheme and host; one with only a path stays so. Where the
    service says its own host with a scheme that it is not asked by, as services do that believe X-Forwarded-Proto or
    send everybody to https, that scheme is meant for the client, and stays.
    """
    if value.startswith(b"/") and not value.startswith(b"//"):
        return _outside(value, mapping) or value
    matched = _URL.fullmatch(value)
    if matched is None:
        return value
    scheme, authority, rest = matched.groups()
    wanted = _normal(authority, (scheme or mapping.scheme).lower())
    if scheme is None:
        ours = any(wanted == _normal(host, mapping.scheme) for _, host in mapping.origins)
    elif any((scheme.lower(), wanted) == (own, _normal(host, own)) for own, host in mapping.origins):
        ours = True
        scheme = mapping.scheme
    else:
        ours = any(authority.lower() == host for _, host in mapping.origins)
    path = _outside(rest if rest.startswith(b"/") else b"/" + rest, mapping) if ours else None
    if path is None:
        return value
    return b"%b//%b%b" % (scheme.lower() + b":" if scheme else b"", mapping.host, path)


def rewrite_refresh(value: bytes, mapping: Mapping) -> bytes:
    """``5; url=http://service/x``, with the client's URL."""
    matched = _REFRESH.match(value)
    if matched is None:
        return value
    start, end = matched.end(), len(value.rstrip())
    if matched[1]:
        if end <= start or value[end - 1 : end] != matched[1]:
            return value
        end -= 1
    return value[:start] + rewrite_location(value[start:end], mapping) + value[end:]


def _normal(authority: bytes, scheme: bytes) -> bytes:
    return authority.lower().removesuffix(_DEFAULT_PORTS.get(scheme, b":"))


def _outside(path: bytes, mapping: Mapping) -> bytes | None:
    """The client's path (query and all) for the service's; None if there is none."""
    inside = mapping.inside
    if inside:
        if not path.startswith(inside) or path[len(inside) : len(inside) + 1] not in (b"", b"/", b"?", b"#"):
            return None
        path = path[len(inside) :]
    if path[:1] != b"/":
        # The service's root: without a final slash outside, unless there is nothing else.
        return (mapping.outside or b"/") + path
    return mapping.outside + path


def rewrite_set_cookie(
    value: bytes,
    *,
    domain: Iterable[tuple[bytes, bytes | None]] = (),
    path: Iterable[tuple[bytes, bytes | None]] = (),
) -> bytes:
    """
    A Set-Cookie value with its Domain and Path attributes mapped; the first rule that fits counts.

    :param domain: (from, to) without leading dot, lower case. ``b"*"`` fits any domain; ``to`` None removes the
        attribute, so that the cookie belongs to the host that the client asked.
    :param path: (from, to): a path that is ``from``, or goes on after it with a slash, begins with ``to`` instead.
        ``b"*"`` stands for any whole path; ``to`` None removes the attribute.
    """
    first, *attributes = value.split(b";")
    kept = [first]
    for attribute in attributes:
        name, equals, text = attribute.partition(b"=")
        kind = name.strip().lower()
        old = text.strip()
        new: bytes | None = old
        if kind == b"domain":
            new = _domain(old, domain)
        elif kind == b"path":
            new = _cookie_path(old, path)
        if new is not None:
            kept.append(attribute if new == old else name + equals + new)
    return b";".join(kept)


def _domain(text: bytes, rules: Iterable[tuple[bytes, bytes | None]]) -> bytes | None:
    bare = text.lower().removeprefix(b".")
    return next((new for old, new in rules if old in {b"*", bare}), text)


def _cookie_path(text: bytes, rules: Iterable[tuple[bytes, bytes | None]]) -> bytes | None:
    for old, new in rules:
        inside = old.rstrip(b"/")
        rest = text[len(inside) :]
        if old == b"*":
            return new or None
        if text.startswith(inside) and rest[:1] in {b"", b"/"}:
            return (new.rstrip(b"/") + rest or b"/") if new else None
    return text


def rewrite_headers(
    headers: Headers,
    mapping: Mapping | None,
    *,
    cookie_domain: tuple[tuple[bytes, bytes | None], ...] = (),
    cookie_path: tuple[tuple[bytes, bytes | None], ...] = (),
) -> Headers | None:
    """All of it on a response's fields; None when nothing changes, which is what most responses are."""
    pairs: list[Pair] = []
    changed = False
    for pair in headers.pairs:
        name, value = pair
        lower = name.lower()
        if mapping is not None and lower in (b"location", b"content-location"):
            new = rewrite_location(value, mapping)
        elif mapping is not None and lower == b"refresh":
            new = rewrite_refresh(value, mapping)
        elif lower == b"set-cookie" and (cookie_domain or cookie_path):
            new = rewrite_set_cookie(value, domain=cookie_domain, path=cookie_path)
        else:
            pairs.append(pair)
            continue
        changed = changed or new != value
        pairs.append((name, new))
    return Headers(pairs) if changed else None
