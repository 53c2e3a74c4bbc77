"""
Lets pages from other origins read answers (the CORS protocol of the Fetch standard).

    [cors shop]
    origins = http://localhost:3000, https://shop.example, https://*.partners.example
    methods = GET, POST, PUT, PATCH, DELETE
    headers = Content-Type, Authorization
    exposed_headers = X-Request-Id
    credentials = yes
    max_age = 10m

It belongs at the head of a route's list: preflights carry no credentials, so they must be answered before anyone asks
for some, and the errors of the policies behind it are readable by the page too. What the service says about CORS is
replaced. ``*`` is never said together with credentials.

Not here: protection against forged requests (``csrf``); CORS only lets pages *read*.
"""

from __future__ import annotations

import re

from pydantic import model_validator

from apigw.config.text import Wrong
from apigw.config.values import DurationOrOff, Flag, HeaderName, Method, Several
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response
from apigw.http.fields import list_members
from apigw.policies.edits import FieldAddition
from apigw.policies.origins import REMEMBERED, Origin, OriginSet
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.tokens import Forbidden

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")


class Settings(PolicySettings):
    """Pages from other origins may read answers."""

    origins: Several[Origin]
    """Who may read: origins, ``https://*.example.org`` for all hosts below one, ``:*`` for all ports, or ``*``."""
    methods: Several[Method] = ("GET", "HEAD", "POST")
    """The methods that a preflight allows."""
    headers: Several[HeaderName] = ()
    """The request header fields that a preflight allows; empty: those that it asks for."""
    exposed_headers: Several[HeaderName] = ()
    """The response header fields that pages may read, beyond the harmless ones."""
    credentials: Flag = False
    """Whether requests with cookies and the like may be read."""
    max_age: DurationOrOff = 600.0
    """How long a browser may remember a preflight; ``off`` leaves it to the browser."""
    private_network: Flag = False
    """Whether pages of public sites may reach this gateway in a private network."""

    @model_validator(mode="after")
    def _not_everybody_with_credentials(self) -> Settings:
        if not self.origins:
            raise Wrong("there is no origin", option="origins")
        if self.credentials and "*" in self.origins:
            raise Wrong("every origin with credentials would open everything to everybody", option="credentials")
        return self


class CORS(Policy[Settings]):
    """The policy ``cors``."""

    answers_preflights = True

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._everybody = "*" in settings.origins
        self._origins = OriginSet(settings.origins)
        self._known: dict[bytes, FieldAddition | None] = {}
        self._to_everybody = FieldAddition(*self._allowing(b"*"))
        self._to_nobody = FieldAddition((b"Vary", b"Origin"))
        self._preflight = self._preflight_fields()
        self._names = frozenset(name.lower().encode() for name in settings.headers)

    def wrap(self, inner: Responder) -> Responder:
        """
        Wrapped, because what it says of the response follows from the request as it came: the fields of a parsed head
        are indexed already, those that policies behind it changed are not.
        """

        def respond(request: Request, done: Done) -> None:
            headers = request.headers
            addition = self._to_everybody
            origin = headers.get(b"origin")
            if not self._everybody:
                addition = self._to_nobody if origin is None else self._addition(origin) or self._to_nobody
            if request.method == b"OPTIONS" and origin is not None and b"access-control-request-method" in headers:
                done(self._answered(request, origin, headers))
                return

            def outward(response: Response) -> None:
                lines = response.lines
                if lines is None or (response.headers is not addition.source and b"access-control-" in lines.lower()):
                    own = response.edit_headers()
                    own.pairs = [pair for pair in own.pairs if not pair[0].lower().startswith(b"access-control-")]
                addition.apply(response)
                done(response)

            inner(request, outward)

        return respond

    def _addition(self, origin: bytes) -> FieldAddition | None:
        """The fields that let a page of ``origin`` read, or None."""
        known = self._known
        if origin in known:
            return known[origin]
        if len(known) >= REMEMBERED:
            known.clear()
        addition = known[origin] = FieldAddition(*self._allowing(origin)) if origin in self._origins else None
        return addition

    def _allowing(self, origin: bytes) -> list[Pair]:
        fields = [(b"Access-Control-Allow-Origin", origin)]
        if origin != b"*":
            fields.append((b"Vary", b"Origin"))
        if self.settings.credentials:
            fields.append((b"Access-Control-Allow-Credentials", b"true"))
        if self.settings.exposed_headers:
            fields.append((b"Access-Control-Expose-Headers", ", ".join(self.settings.exposed_headers).encode()))
        return fields

    def _preflight_fields(self) -> list[Pair]:
        settings = self.settings
        fields = [(b"Access-Control-Allow-Methods", ", ".join(settings.methods).encode())]
        if settings.credentials:
            fields.append((b"Access-Control-Allow-Credentials", b"true"))
        if settings.max_age is not None:
            fields.append((b"Access-Control-Max-Age", b"%d" % settings.max_age))
        asked = b"Access-Control-Request-Method, Access-Control-Request-Headers"
        fields.append((b"Vary", asked if self._everybody else b"Origin, " + asked))
        return fields

    def _answered(self, request: Request, origin: bytes, headers: Headers) -> Response:
        if not self._everybody and self._addition(origin) is None:
            vary = ((b"Vary", b"Origin"),)
            return problem(
                request, Forbidden("pages of this origin may not read answers", reason="origin_refused", headers=vary)
            )
        fields = [(b"Access-Control-Allow-Origin", b"*" if self._everybody else origin), *self._preflight]
        wanted = headers.joined(b"access-control-request-headers")
        if wanted:
            # Echoed only in the names' own form: it is the client's text.
            names = [name for name in list_members(wanted) if _NAME.fullmatch(name)]
            if self._names:
                names = sorted(self._names)
            fields.append((b"Access-Control-Allow-Headers", b", ".join(names)))
        if self.settings.private_network and headers.get(b"access-control-request-private-network") == b"true":
            fields.append((b"Access-Control-Allow-Private-Network", b"true"))
        return Response(204, Headers(fields))
