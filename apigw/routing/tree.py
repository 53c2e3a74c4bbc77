"""
START HERE for how a request finds its route: ``GatewayResource``, the root of the twisted.web resource tree, whose
prefix resources are the routes.

One look-up in a ``RouteTable`` takes the place of twisted.web's walk down the path. The gateway's own connections come
in by ``route``; a stock ``twisted.web.server.Site`` comes in by ``getChildWithDefault`` and ``render``, and gets the
same answers.

Not here: what answers (a route's responder, built by ``apigw.gateway``), the reading of connections
(``apigw.downstream``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.server import Request as WebRequest

from apigw.config.regex import TextTooLong
from apigw.exchange.errors import ClientFault, GatewayError
from apigw.exchange.headers import Headers
from apigw.exchange.problem import problem
from apigw.exchange.request import Request, Route
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response
from apigw.http.fields import serialise
from apigw.http.targets import normalise_path
from apigw.routing.patterns import too_long_to_match
from apigw.routing.rule import Rule
from apigw.routing.table import Match, Miss, RouteTable
from apigw.routing.twisted_request import exchange_request, serve


class PrefixResource(Resource):
    """
    One route as a resource: a leaf that answers whatever its route matched.

    :ivar route: what ``request.route`` is set to. :ivar responder: answers; a reload may replace it.
    :ivar preflights: the responder answers CORS preflights, so they come here by the method that they ask about, also
        when the route doesn't list OPTIONS.
    :ivar encoded_slashes: take ``%2F`` and ``%5C`` in paths. :ivar parameters: take ``;x=1`` in paths.
    """

    isLeaf = True

    def __init__(
        self,
        route: Route,
        responder: Responder,
        *,
        preflights: bool = False,
        encoded_slashes: bool = False,
        parameters: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.route = route
        self.responder = responder
        self.preflights = preflights
        self.encoded_slashes = encoded_slashes
        self.parameters = parameters

    def render(self, request: WebRequest) -> int:
        """Answer a request of a stock twisted.web Site; the root has put its exchange Request beside it."""
        exchange: Request = request.getComponent(Request)
        serve(request, exchange, self.responder)
        return NOT_DONE_YET


class _Refusal(Resource):
    """A leaf that says why there is no route."""

    isLeaf = True

    def __init__(self, exchange: Request, response: Response) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._exchange = exchange
        self._response = response

    def render(self, request: WebRequest) -> int:
        serve(request, self._exchange, lambda _, done: done(self._response))
        return NOT_DONE_YET


REMEMBERED = (4096, 65536)
"""Hosts, methods and paths remembered with their route, where nothing else decides: two for each route, at least and at
most so many. Beyond that all are forgotten."""


class GatewayResource(Resource):
    """
    The root of all routes.

    :param rules: each with its route's resource as value; or all of them as a table, compiled already.
    :ivar table: the compiled rules. :ivar remembers: how many requests are worth remembering.
    :ivar normalise: what connections are to bring paths into shape with before ``route``: it leaves encoded slashes
        to routes if one of them takes some.
    :raises ValueError: from the rules.
    """

    def __init__(self, rules: Iterable[Rule[PrefixResource]] | RouteTable[PrefixResource]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.table = rules if isinstance(rules, RouteTable) else RouteTable(rules)
        resources = [rule.value for rule in self.table.rules]
        self._lookup = self.table.lookup
        self._unconditional = not any(rule.header_conditions or rule.query_conditions for rule in self.table.rules)
        self.remembers = min(max(REMEMBERED[0], 2 * len(resources)), REMEMBERED[1])
        self._remembered: dict[tuple[bytes, bytes, bytes], PrefixResource] = {}
        self._preflights = any(resource.preflights for resource in resources)
        self._encoded_slashes = any(resource.encoded_slashes for resource in resources)
        self.normalise: Callable[[bytes], bytes] = (
            partial(normalise_path, allow_encoded_slashes=True) if self._encoded_slashes else normalise_path
        )

    def route(self, request: Request, done: Done) -> None:
        """Let the request's route answer it; 404 ``no_route`` or 405 ``method_not_allowed`` if there is none."""
        key = (request.host, request.method, request.path)
        resource = self._remembered.get(key)
        if resource is not None:
            request.route = resource.route
            resource.responder(request, done)
            return
        found = self.find(request)
        if isinstance(found, Response):
            done(found)
            return
        if self._unconditional and not request.captures and request.method not in _COUNTED:
            if len(self._remembered) >= self.remembers:
                self._remembered.clear()
            self._remembered[key] = found
        found.responder(request, done)

    def find(self, request: Request) -> PrefixResource | Response:
        """The request's route, entered into ``request`` with what its path captured; or the refusal."""
        try:
            match: Match[PrefixResource] | Miss | None = None
            if self._preflights and request.method == b"OPTIONS":
                match = self._preflight(request)
            if match is None:
                match = self._lookup(request.host, request.method, request.path, request.query, request.headers)
            if type(match) is not Match:
                return self._missed(request, match)  # type: ignore[arg-type]
            resource: PrefixResource = match.value
            if self._encoded_slashes and not resource.encoded_slashes:
                normalise_path(request.path)  # now it is known that they are not wanted
            if not resource.parameters and b";" in request.path:
                raise ClientFault("the path has a parameter (`;`)", reason="path_parameters")
            request.route = resource.route
            request.captures = match.captures
            if request.method in _COUNTED and b"max-forwards" in request.headers:
                return self._counted(request) or resource
        except ClientFault as fault:
            return problem(request, fault)
        except TextTooLong:
            return problem(request, too_long_to_match())
        return resource

    def _counted(self, request: Request) -> Response | None:
        """One forward less for OPTIONS and TRACE (RFC 9110 7.6.2); the answer, where none is left."""
        left = request.headers.get(b"max-forwards") or b""
        if not left.isdigit() or len(left) > 9:
            return None
        if int(left):
            request.edit_headers().set(b"Max-Forwards", b"%d" % (int(left) - 1))
            return None
        if request.method == b"TRACE":
            fields = (pair for pair in request.headers if pair[0].lower() not in _CREDENTIALS)
            seen = b"TRACE %b HTTP/%b\r\nHost: %b\r\n%b\r\n" % (
                request.target,
                request.version,
                request.host,
                serialise(fields),
            )
            return Response(200, Headers([(b"Content-Type", b"message/http")]), seen)
        methods = [
            method
            for method in self._methods()
            if isinstance(
                self._lookup(request.host, method.encode(), request.path, request.query, request.headers), Match
            )
        ]
        return Response(204, Headers([(b"Allow", _allow(methods))]))

    def _preflight(self, request: Request) -> Match[PrefixResource] | None:
        """The route that a CORS preflight is about, if it answers them (Fetch standard, CORS-preflight request)."""
        method = request.headers.get(b"access-control-request-method")
        if method is None or b"origin" not in request.headers:
            return None
        match = self._lookup(request.host, method, request.path, request.query, request.headers)
        return match if isinstance(match, Match) and match.value.preflights else None

    def _missed(self, request: Request, miss: Miss) -> Response:
        if request.path == b"*":
            # RFC 9110 9.3.7: it asks about the server as a whole.
            return Response(204, Headers([(b"Allow", _allow(self._methods()))]))
        if not miss.allow:
            return problem(request, ClientFault("no route takes this request", status=404, reason="no_route"))
        fault = ClientFault(
            "no route takes this method here",
            status=405,
            reason="method_not_allowed",
            headers=((b"Allow", _allow(miss.allow)),),
        )
        return problem(request, fault)

    def _methods(self) -> list[str]:
        """What some route takes; of those that take any method, the common ones are said."""
        methods = set(self.table.methods)
        if not all(rule.listed_methods for rule in self.table.rules):
            methods |= _COMMON
        return sorted(methods)

    # The way in of a stock twisted.web Site.

    def getChildWithDefault(self, path: bytes, request: WebRequest) -> IResource:
        """The resource of this request's route, whatever is left of its path."""
        exchange = Request(request.method, request.path)
        try:
            exchange = exchange_request(request)
            exchange.path = self.normalise(exchange.path)
        except GatewayError as error:
            return _Refusal(exchange, problem(exchange, error))
        found = self.find(exchange)
        if isinstance(found, Response):
            return _Refusal(exchange, found)
        request.setComponent(Request, exchange)
        return found

    def render(self, request: WebRequest) -> int:
        """Answer a request whose path has nothing left: this tree is mounted in another."""
        self.getChildWithDefault(b"", request).render(request)
        return NOT_DONE_YET


_COUNTED = frozenset((b"OPTIONS", b"TRACE"))
_CREDENTIALS = frozenset((b"authorization", b"cookie"))
_COMMON = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))


def _allow(methods: Iterable[str]) -> bytes:
    return ", ".join(methods).encode()
