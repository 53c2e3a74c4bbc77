"""
One route: what it matches, what answers it, and what stands around that.

    the access log and the metrics see every exchange, whatever became of it (the connection calls them at its end)
      deadline            before anything that could wait
        policies          in the order in which the route lists them
          the responder   a service, a mounted resource, a fixed answer, health
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.web.resource import IResource

from apigw.config.references import PolicyReference
from apigw.downstream.twisted_web import Mounted
from apigw.exchange.cookies import giving
from apigw.exchange.errors import BodyTooLarge
from apigw.exchange.headers import Headers
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder, stack
from apigw.exchange.response import Response
from apigw.gateway.clusters import Upstream
from apigw.gateway.environment import Shared
from apigw.gateway.policies import BuiltPolicy
from apigw.gateway.rules import target_path
from apigw.gateway.upstreams import Upstreams
from apigw.observability.metrics import RouteCells
from apigw.routing.response_rewriting import Mapping as AddressMapping
from apigw.routing.response_rewriting import rewrite_headers
from apigw.routing.target_path import strip_bytes
from apigw.routing.tree import PrefixResource
from apigw.upstream.forward import RewriteHead


class RouteFacts:
    """
    What everybody may know of a route: requests carry it as ``request.route``.

    :ivar origin: where it is written, ``file:line``. :ivar cells: its metrics.
    """

    __slots__ = ("cells", "kind", "name", "origin", "settings")

    def __init__(self, kind: str, name: str, settings: Any, origin: str, cells: RouteCells) -> None:
        self.kind = kind
        self.name = name or kind
        self.settings = settings
        self.origin = origin
        self.cells = cells

    def describe(self) -> dict[str, Any]:
        """For people and programs; nothing secret."""
        settings = self.settings
        described: dict[str, Any] = {"name": self.name, "kind": self.kind, "path": settings.path, "origin": self.origin}
        for option in ("hosts", "methods", "priority", "upstream"):
            value = getattr(settings, option, None)
            if value:
                described[option] = list(value) if isinstance(value, tuple) else value
        for option in ("header", "query"):
            if value := getattr(settings, option, None):
                described[option] = list(value)  # what they must say may be a secret
        for option in ("redirect", "respond"):
            if (value := getattr(settings, option, None)) is not None:
                described[option] = " ".join(map(str, value)).rstrip()
        return described


def upstream_route(settings: Any, route: RouteFacts, shared: Shared, upstreams: Upstreams) -> Responder:
    """What a ``[route]`` does: send on, redirect, or answer by itself."""
    if settings.redirect is not None:
        return _redirect(settings.redirect)
    if settings.respond is not None:
        return _respond(settings.respond)
    strip = strip_bytes(settings.strip_prefix)
    path = target_path(settings)

    def way(upstream: Upstream, keeps_content: bool) -> Responder:
        return upstream.responder(
            route.name,
            target_path=path,
            prefix=strip,
            preserve_host=settings.preserve_host,
            rewrite_head=_rewriting(settings, upstream, strip),
            keeps_content=keeps_content,
        )

    answer = upstreams.responder(settings.upstream, way)
    if settings.mirror is not None:
        answer = upstreams.mirror(settings.mirror, route.name, answer, way)
    return answer


def mounted(settings: Any, route: RouteFacts, shared: Shared, upstreams: Upstreams) -> Responder:
    """
    A ``[resource]``: any twisted.web resource.

    :raises ValueError: its class can't make one.
    """
    try:
        resource = settings.class_()
    except Exception as error:
        raise ValueError(f"{route.origin}: [resource {route.name}] class: {type(error).__name__}: {error}") from error
    if not IResource.providedBy(resource):
        what = f"gives no twisted.web resource, but {type(resource).__name__}"
        raise ValueError(f"{route.origin}: [resource {route.name}] class: {what}")
    return Mounted(resource, settings.path.removeprefix("="))


def resource_of(
    settings: Any,
    route: RouteFacts,
    responder: Responder,
    *,
    policies: Mapping[tuple[str, str], BuiltPolicy],
    listed: Iterable[PolicyReference],
    parameters: bool = True,
    cookies: bool = False,
) -> PrefixResource:
    """
    What the tree has of the route, with its onion.

    :param cookies: whether the upstreams' answers may have cookies of ours, which policies must not make public.
    """
    layers = [policies[reference.kind, reference.name] for reference in listed]
    answer = stack([layer.layer for layer in layers], responder)
    if (cookies and layers) or any(layer.gives_cookies for layer in layers):
        answer = giving(answer)
    if route.kind == "batch":
        answer = _remembering(answer)
    limit = getattr(settings, "max_body", None)
    if limit:
        answer = _limited(limit, answer)
    rate = getattr(settings, "min_rate", None)
    if rate is not None:
        answer = _at_rate(rate, answer)
    timeout = getattr(settings, "timeout", None)
    total = getattr(timeout, "total", None)
    if total:
        answer = _within(total, answer)
    return PrefixResource(
        route,
        answer,
        preflights=any(layer.answers_preflights for layer in layers),
        encoded_slashes=getattr(settings, "allow_encoded_slashes", False),
        parameters=parameters,
    )


def _remembering(inner: Responder) -> Responder:
    """Keep the fields as they came: a batch's requests show their routes the same credentials."""

    def respond(request: Request, done: Done) -> None:
        request.received = tuple(request.headers.pairs)
        inner(request, done)

    return respond


def _within(total: float, inner: Responder) -> Responder:
    """One time budget for all of it: tries, waiting, and the response's content."""

    def respond(request: Request, done: Done) -> None:
        if not request.deadline or request.deadline > request.started + total:
            request.deadline = request.started + total
            request.impatient = False
        if request.connection is not None:
            request.connection.watch_deadline()
        inner(request, done)

    return respond


def _limited(limit: int, inner: Responder) -> Responder:
    """At most ``limit`` bytes of content: refused at once if it says so, cut off when it turns out so."""

    def respond(request: Request, done: Done) -> None:
        body = request.body
        if body is not None:
            if body.length is not None and body.length > limit:
                body.cancel()
                done(problem(request, BodyTooLarge(f"at most {limit} bytes of content are taken")))
                return
            body.limit = min(limit, body.limit)
        inner(request, done)

    return respond


def _at_rate(rate: int, inner: Responder) -> Responder:
    """Content at another rate than the listener wants it."""

    def respond(request: Request, done: Done) -> None:
        if request.connection is not None:
            request.connection.use_min_rate(rate)
        inner(request, done)

    return respond


def _redirect(settings: Any) -> Responder:
    """``redirect = 308 https://shop.example``."""
    status, location = settings.status, redirect_location(settings)

    def respond(request: Request, done: Done) -> None:
        done(Response(status, Headers([(b"Location", location(request))])))

    return respond


def redirect_location(settings: Any) -> Callable[[Request], bytes]:
    """Where a redirect leads a request: a URL without path keeps the request's path and query."""
    url = settings.location.encode()
    if re.fullmatch(rb"https?://[^/]+", url) is None:
        return lambda request: url
    return lambda request: url + (request.path if request.query is None else b"%b?%b" % (request.path, request.query))


def _respond(settings: Any) -> Responder:
    """``respond = 503 text``."""
    status, text = settings.status, settings.text.encode()
    kind = b"application/json" if text[:1] in (b"{", b"[") else b"text/plain; charset=utf-8"
    headers = Headers([(b"Content-Type", kind)]) if text else Headers()

    def respond(request: Request, done: Done) -> None:
        done(Response(status, headers.copy(), text))  # policies may change theirs

    return respond


def _rewriting(settings: Any, upstream: Upstream, strip: bytes) -> RewriteHead | None:
    domains = tuple((old.encode(), new.encode() or None) for old, new in settings.rewrite_cookie_domain.items())
    paths = tuple((old.encode(), new.encode()) for old, new in settings.rewrite_cookie_path.items())
    if not (settings.rewrite_location or domains or paths):
        return None
    added = (settings.add_prefix or "").rstrip("/").encode()
    if b"{" in added:
        added = b""

    def rewrite(request: Request, headers: Headers) -> Headers | None:
        mapping = None
        if settings.rewrite_location:
            target = upstream.target(request.upstream_target)
            origins = {(target.scheme.encode(), target.pool.host)} if target is not None else set()
            if settings.preserve_host or upstream.sends_client_host:
                origins.add((request.scheme, request.host))
            mapping = AddressMapping(
                request.scheme,
                request.host,
                frozenset(origins),
                inside=(target.pool.base_path if target is not None else b"") + added,
                outside=strip,
            )
        return rewrite_headers(headers, mapping, cookie_domain=domains, cookie_path=paths)

    return rewrite
