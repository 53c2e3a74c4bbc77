"""
Lets in whom another service lets in: it is asked with the request's head, and its answer decides.

    [forward_auth login]
    url = http://127.0.0.1:9107/verify
    response_headers = X-User, X-Groups
    identity_header = X-User
    cache_by = header:Authorization, method, path
    cache_ttl = 10s

The service gets a GET with the client's fields and ``X-Forwarded-Method``, ``-Proto``, ``-Host``, ``-Uri``, ``-For``
(the client's address, behind ``trusted_proxies``), never with what the client says of these itself.
With a 2xx the request goes on, with ``response_headers`` of the answer (the client's own are removed); any other answer
goes to the client as it is. If there is none, the client gets 503. (As Traefik's ForwardAuth and Caddy's forward_auth.)

Not here: ways to authenticate that need nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from pydantic import Field

from apigw.config.regex import Regex
from apigw.config.text import Text, Wrong
from apigw.config.values import URL, Count, Duration, Flag, Form, HeaderName, RegexText, Several, Size, one_line
from apigw.exchange.addresses import UNIX
from apigw.exchange.claims import words
from apigw.exchange.cookies import give
from apigw.exchange.errors import BodyTooLarge, GatewayError, GatewayFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Identity, Request
from apigw.exchange.response import Response
from apigw.http.fields import FORWARDING, HOP_BY_HOP, folded
from apigw.policies.edits import FieldEdit
from apigw.policies.gathered import gathered
from apigw.policies.policy import Environment, FetchedResponse, Policy, PolicySettings
from apigw.policies.tokens import Ambiguous, Remembered, cookie, note_refusal

_OURS = FORWARDING | HOP_BY_HOP
_OURS |= {b"x-forwarded-method", b"x-forwarded-uri", b"content-length", b"host", b"expect", b"accept-encoding"}
"""Request fields that are set here, or belong to the client's connection or content."""
_FRAMING = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"content-encoding", b"upgrade", b"trailer"}
    | {b"proxy-connection", b"te", b"date"}
)
"""Response fields that belong to the connection to the service."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the request that the service's answer depends on: ``header:NAME``, ``cookie:NAME``, ``method``, ..."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def parse_part(text: Text) -> Part:
    """One part."""
    kind, _, name = one_line(text).partition(":")
    if kind in {"header", "cookie"} and name:
        return Part(kind, name)
    if kind in {"method", "host", "path", "query", "client"} and not name:
        return Part(kind)
    raise Wrong("{shown} is no part of a request")


CachePart = Annotated[
    Part, Form("part of a request", "header:NAME, cookie:NAME, method, host, path, query or client", parse_part)
]


class Settings(PolicySettings):
    """Whom another service lets in comes in."""

    url: URL
    """The service that is asked."""
    timeout: Annotated[Duration, Field(gt=0)] = 5.0
    """For its answer."""
    request_headers: Several[HeaderName] = ()
    """The client's fields that it gets; empty: all."""
    response_headers: Several[HeaderName] = ()
    """The fields of its answer that the request goes on with; the client's own are removed."""
    response_headers_regex: RegexText | None = None
    """Further ones, whose names it is found in, in whatever case: ``^X-Auth-``."""
    forward_body: Flag = False
    """Whether it gets the content as well."""
    max_body: Size = 65536
    """Longer content is refused, if it gets it."""
    preserve_method: Flag = False
    """Ask with the client's method instead of GET."""
    cookies_to_client: Flag = False
    """Whether cookies that it sets go to the client also when it lets in."""
    identity_header: str = ""
    """The field of its answer that is the caller's name."""
    groups_header: str = ""
    """The field of its answer with the caller's groups, separated by commas or spaces."""
    cache_by: Several[CachePart] = ()
    """Remember that it let in, for requests that are equal in these parts. Empty: ask each time."""
    cache_ttl: Duration = 10.0
    """How long that is remembered."""
    remember: Count = 10000
    """How many answers are remembered."""


class _Passed:
    """Whom the service let in."""

    __slots__ = ("edit", "identity", "until")

    def __init__(self, until: float, identity: Identity, edit: FieldEdit) -> None:
        self.until = until
        self.identity = identity
        self.edit = edit


class ForwardAuth(Policy[Settings]):
    """The policy ``forward_auth``."""

    authenticates = True
    gives_cookies = True

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._clock = environment.clock
        self._sent = frozenset(name.lower().encode() for name in settings.request_headers)
        self._copied = frozenset(name.lower().encode() for name in settings.response_headers)
        self.identity_headers = self._copied
        self._stripped = FieldEdit(self._copied)
        regex = settings.response_headers_regex
        self._like = None if regex is None else Regex(regex.text, ignore_case=True)
        if settings.forward_body and settings.cache_by:
            raise ValueError("cache_by: answers that depend on the content can't be remembered")
        self._known: Remembered[_Passed] = Remembered(settings.remember)
        if settings.cookies_to_client and settings.cache_by:
            raise ValueError("cache_by: answers whose cookies go to the client can't be remembered")

    def on_request(self, request: Request) -> object:
        key = self._key(request) if self.settings.cache_by else None
        if key is not None:
            known = self._known.get(key)
            if known is not None and self._clock() < known.until:
                self._let_in(request, known)
                return None
        return self._asked(request, key)

    def strip(self, request: Request) -> None:
        """Take out of the request what only the service may say."""
        self._stripped.apply(request)
        if self._like is not None and (names := self._matching(request.headers)):
            FieldEdit(names).apply(request)

    def _matching(self, fields: Iterable[Pair]) -> frozenset[bytes]:
        """The names of those that are copied by their likeness, however they are spelt."""
        like = self._like
        if like is None:
            return frozenset()
        return frozenset(
            lower
            for name, _ in fields
            if len(lower := name.lower()) > like.longest or like.search(lower) or like.search(folded(lower))
        )

    def _let_in(self, request: Request, passed: _Passed) -> None:
        request.identity = passed.identity
        if self._like is not None:
            self.strip(request)
        passed.edit.apply(request)

    def _key(self, request: Request) -> bytes | None:
        """What the answer is remembered by; None if the request has nothing of what names its sender."""
        values: list[bytes] = []
        named = not any(part.kind in {"header", "cookie"} for part in self.settings.cache_by)
        for part in self.settings.cache_by:
            if part.kind == "header":
                found = request.headers.joined(part.name.lower().encode())
            elif part.kind == "cookie":
                try:
                    found = cookie(request.headers, part.name.encode())
                except Ambiguous:
                    return None
            else:
                values.append(self._plain(request, part.kind))
                continue
            named = named or found is not None
            values.append(b"-" if found is None else b"+" + found)
        if not named:
            return None
        digest = sha256()
        for value in values:
            digest.update(b"%d:" % len(value) + value)
        return digest.digest()

    @staticmethod
    def _plain(request: Request, kind: str) -> bytes:
        return {
            "method": request.method,
            "host": request.host,
            "path": request.path,
            "query": request.query or b"",
            "client": request.client.encode(),
        }[kind]

    async def _asked(self, request: Request, key: bytes | None) -> Response | None:
        sent = self._sent
        fields = [
            pair for pair in request.headers if (lower := pair[0].lower()) not in _OURS and (not sent or lower in sent)
        ]
        uri = request.path if request.query is None else request.path + b"?" + request.query
        fields += [
            (b"X-Forwarded-Method", request.method),
            (b"X-Forwarded-Proto", request.scheme),
            *(((b"X-Forwarded-Host", request.host),) if request.host else ()),
            (b"X-Forwarded-Uri", uri),
            *(((b"X-Forwarded-For", request.client.encode()),) if request.client != UNIX else ()),
            (b"X-Request-Id", request.id),
        ]
        method = request.method.decode("latin-1") if self.settings.preserve_method else "GET"
        content = await self._content(request)
        try:
            answer = await self.environment.fetch(method, self.settings.url, fields, content, self.settings.timeout)
        except GatewayError as error:
            self.environment.count("forward_auth_failed")
            note_refusal(request, self.environment.label, error.reason)
            self.strip(request)
            raise GatewayFault(
                "the service that decides who comes in can't be asked", status=503, reason="auth_unavailable"
            ) from None
        if not 200 <= answer.status < 300:
            note_refusal(request, self.environment.label, f"it was answered with {answer.status}")
            self.strip(request)
            return self._told(answer)
        self._passed(request, answer, key)
        return None

    async def _content(self, request: Request) -> bytes:
        """
        What of the request's content the service gets.

        :raises BodyTooLarge: if that is too much.
        """
        if not self.settings.forward_body or request.body is None:
            return b""
        data, request.body = await gathered(request.body, self.settings.max_body)
        if data is None:
            note_refusal(request, self.environment.label, "its content is too long")
            self.strip(request)
            raise BodyTooLarge(f"at most {self.settings.max_body} bytes are taken")
        return data

    def _passed(self, request: Request, answer: FetchedResponse, key: bytes | None) -> None:
        settings = self.settings
        like = self._matching(answer.headers) - _FRAMING
        copied = tuple(pair for pair in answer.headers if (lower := pair[0].lower()) in self._copied or lower in like)
        name = answer.headers.get(settings.identity_header.lower().encode(), b"") if settings.identity_header else b""
        groups = answer.headers.joined(settings.groups_header.lower().encode()) if settings.groups_header else None
        identity = Identity(
            name=(name or b"").decode("utf-8", "replace"),
            method="forward_auth",
            groups=words((groups or b"").decode("utf-8", "replace").replace(",", " ")),
        )
        edit = FieldEdit(self._copied | like, copied)
        passed = _Passed(self._clock() + settings.cache_ttl, identity, edit)
        if key is not None:
            self._known.put(key, passed)
        self._let_in(request, passed)
        if settings.cookies_to_client and not self.in_shadow:
            cookies = [pair for pair in answer.headers if pair[0].lower() == b"set-cookie"]
            if cookies:
                give(request, cookies, session=True)

    @staticmethod
    def _told(answer: FetchedResponse) -> Response:
        fields = [pair for pair in answer.headers if pair[0].lower() not in _FRAMING]
        status = answer.status if answer.status >= 200 else 502
        return Response(status, Headers(fields), b"" if status == 304 else answer.body)
