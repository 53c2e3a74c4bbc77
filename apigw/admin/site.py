"""
``AdminSite``: the twisted.web site behind ``[admin]``. START HERE.

A stock ``twisted.web.server.Site``: it is asked a few times a minute, so it may be slow, and shares nothing with the
data path. Access is decided before the path is looked at, so a stranger can't tell which pages there are.

    GET  /                 what there is
    GET  /metrics          Prometheus text, or OpenMetrics
    GET  /routes /upstreams /config/status
    GET  /health/live /health/ready
    POST /ACTION           a lever, with its parameters as a JSON object
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from apigw.admin.access import FORWARDED_FIELDS, READS, Access, Visit, is_loopback
from apigw.admin.index import index_document, index_page
from apigw.admin.views import Action, Views
from apigw.exchange.errors import BodyTooLarge, ClientFault, GatewayError, GatewayFault
from apigw.exchange.problem import problem
from apigw.exchange.request import Request as Exchange
from apigw.exchange.responder import drive
from apigw.json_text import InvalidJSON, read, show
from apigw.net.slices import in_slices
from apigw.observability.exposition import render_steps

MOST_CONTENT = 64 * 1024
"""Bytes of content that a request may have."""

PAGE_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"

log = Logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page gives."""

    content: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())


Page = Callable[["AdminRequest"], Any]
"""Gives an ``Answer``, or an awaitable of one."""


class AdminRequest(Request):
    """A request whose content is bounded: what is too much is read and thrown away."""

    size = 0

    def gotLength(self, length: int | None) -> None:
        self.content: BytesIO = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        self.size += len(data)
        if self.size <= MOST_CONTENT:
            self.content.write(data)

    def field(self, name: bytes) -> str:
        """The fields ``name`` as one, or nothing."""
        values = self.requestHeaders.getRawHeaders(name, [])
        return b", ".join(values).decode("latin-1")

    def parameters(self) -> dict[str, Any]:
        """
        The JSON object that came with an action; none is an empty one.

        :raises ClientFault: when it is anything else.
        """
        content = self.content.read()
        try:
            parameters = read(content, unique=True) if content.strip() else {}
        except InvalidJSON as error:
            raise ClientFault(f"the content can't be read: {error}", reason="admin_bad_parameters") from error
        if not isinstance(parameters, dict):
            raise ClientFault("the content must be a JSON object", reason="admin_bad_parameters")
        return parameters


class AdminSite(Site):
    """The factory of the admin listener's connections."""

    displayTracebacks = False
    requestFactory = AdminRequest

    def __init__(
        self,
        views: Views,
        access: Access,
        actions: Mapping[str, Action] | None = None,
        *,
        reactor: IReactorTime | None = None,
    ) -> None:
        """
        :param actions: levers by path, like ``config/reload``; they take POST alone, and always the token.
        :param reactor: for time-outs; the running one if None.
        """
        self.access = access
        actions = actions or {}
        root = _Refused(_not_found())
        _put(root, "", _Page(_index(actions)))
        for path, page in _pages(views).items():
            _put(root, path, _Page(page))
        for path, action in actions.items():
            _put(root, path, _Page(_lever(path, action), method=b"POST"))
        Site.__init__(self, root, AdminRequest, reactor=reactor, parsePOSTFormSubmission=False)

    def getResourceFor(self, request: Request) -> Resource:
        request.site = self
        refusal = self.access.refusal(_visit(request))
        if refusal is not None:
            if request.requestHeaders.hasHeader(b"authorization"):
                log.warn("admin: a wrong token from {peer}", peer=_peer(request))
            return _Refused(refusal)
        found: Resource = Site.getResourceFor(self, request)
        return found

    def log(self, request: HTTPRequest) -> None:
        """Scrapes and probes are not worth a line; levers write their own."""


class _Refused(Resource):
    """Answers with an error whatever is asked here or below."""

    def __init__(self, error: GatewayError) -> None:
        Resource.__init__(self)
        self._error = error

    def getChild(self, path: bytes, request: Request) -> Resource:
        return self

    def render(self, request: Request) -> int:
        _finish(request, _problem(request, self._error))
        return int(NOT_DONE_YET)


class _Page(Resource):
    """One page."""

    def __init__(self, page: Page, method: bytes = b"GET") -> None:
        Resource.__init__(self)
        self._page = page
        self._methods = READS if method == b"GET" else frozenset((method,))

    def getChild(self, path: bytes, request: Request) -> Resource:
        return _Refused(_not_found())

    def render(self, request: AdminRequest) -> int:
        if request.method not in self._methods:
            allowed = b", ".join(sorted(self._methods))
            fault = ClientFault(
                f"only {allowed.decode()} is possible here",
                status=405,
                reason="method_not_allowed",
                headers=((b"Allow", allowed),),
            )
            _finish(request, _problem(request, fault))
            return int(NOT_DONE_YET)
        if request.size > MOST_CONTENT:
            fault = BodyTooLarge(f"at most {MOST_CONTENT} bytes are taken")
            _finish(request, _problem(request, fault))
            return int(NOT_DONE_YET)
        cancel = drive(
            _made(self._page, request),
            lambda answer: _finish(request, answer),
            lambda error: _finish(request, _failed(request, error)),
        )
        if cancel is not None:
            # Whoever asked goes away: nobody needs the answer any more.
            request.notifyFinish().addErrback(lambda _: cancel())
        return int(NOT_DONE_YET)


def _pages(views: Views) -> dict[str, Page]:
    async def metrics(request: AdminRequest) -> Answer:
        snapshots = await _value(views.metrics())
        content, content_type = await in_slices(render_steps(snapshots, request.field(b"accept")))
        return Answer(content, content_type)

    async def routes(_request: AdminRequest) -> Answer:
        return Answer(await in_slices(_listed("routes", await _value(views.routes()))))

    async def upstreams(_request: AdminRequest) -> Answer:
        return Answer(await in_slices(_listed("upstreams", await _value(views.upstreams()))))

    async def config_status(_request: AdminRequest) -> Answer:
        return _json(await _value(views.config_status()))

    def live(_request: AdminRequest) -> Answer:
        return _json({"status": "live"})

    def ready(_request: AdminRequest) -> Answer:
        return _json({"status": "ready"}) if views.ready() else _json({"status": "not ready"}, 503)

    return {
        "metrics": metrics,
        "routes": routes,
        "upstreams": upstreams,
        "config/status": config_status,
        "health/live": live,
        "health/ready": ready,
    }


def _index(actions: Mapping[str, Action]) -> Page:
    def index(request: AdminRequest) -> Answer:
        accept = request.field(b"accept")
        if "application/json" in accept and "text/html" not in accept:
            return _json(index_document(actions))
        return Answer(
            index_page(actions).encode(),
            "text/html; charset=utf-8",
            headers=((b"Content-Security-Policy", PAGE_POLICY),),
        )

    return index


def _lever(path: str, action: Action) -> Page:
    async def lever(request: AdminRequest) -> Answer:
        parameters = request.parameters()
        log.info(
            "admin: {action} {parameters} from {peer}",
            action=path,
            parameters=parameters,
            peer=_peer(request),
        )
        return _json(await _value(action(parameters)))

    return lever


def _visit(request: Request) -> Visit:
    peer = request.getClientAddress()
    fields = request.requestHeaders
    return Visit(
        request.method,
        local=isinstance(peer, UNIXAddress) or is_loopback(getattr(peer, "host", "")),
        hosts=tuple(fields.getRawHeaders(b"host", [])),
        authorizations=tuple(fields.getRawHeaders(b"authorization", [])),
        forwarded=any(fields.hasHeader(name) for name in FORWARDED_FIELDS),
    )


def _put(root: Resource, path: str, leaf: Resource) -> None:
    *folders, name = path.encode().split(b"/")
    for folder in folders:
        if folder not in root.children:
            root.putChild(folder, _Refused(_not_found()))
        root = root.children[folder]
    root.putChild(name, leaf)


def _peer(request: Request) -> str:
    address = request.getClientAddress()
    return str(getattr(address, "host", address))


async def _value(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def _made(page: Page, request: AdminRequest) -> Answer:
    answer: Answer = await _value(page(request))
    return answer


def _json(document: object, status: int = 200) -> Answer:
    return Answer(show(document, indent=2).encode() + b"\n", status=status)


def _listed(name: str, items: Iterable[object]) -> Generator[None, None, bytes]:
    """``{name: items}`` as ``_json`` writes it, in steps."""
    content = bytearray()
    for item in items:
        text = show(item, indent=2).replace("\n", "\n    ")
        content += b"%b\n    %b" % (b"," if content else b"", text.encode())
        yield
    return b'{\n  "%b": [%b]\n}\n' % (name.encode(), bytes(content) + b"\n  " if content else b"")


def _not_found() -> ClientFault:
    return ClientFault("there is no such page; / lists what there is", status=404, reason="not_found")


def _failed(request: Request, error: BaseException) -> Answer:
    if not isinstance(error, GatewayError):
        log.failure("admin: {path} failed", Failure(error), path=request.path.decode("latin-1"))
        error = GatewayFault("the gateway failed; its log has the cause")
    return _problem(request, error)


def _problem(request: Request, error: GatewayError) -> Answer:
    response = problem(Exchange(request.method, request.path), error)
    assert isinstance(response.body, bytes)
    content_type = (response.headers.get(b"content-type") or b"").decode()
    return Answer(response.body + b"\n", content_type, response.status, error.headers)


def _finish(request: Request, answer: Answer) -> None:
    if request._disconnected:
        return
    fields = request.responseHeaders
    fields.removeHeader(b"server")
    fields.setRawHeaders(b"content-type", [answer.content_type.encode()])
    fields.setRawHeaders(b"content-length", [b"%d" % len(answer.content)])
    fields.setRawHeaders(b"cache-control", [b"no-store"])
    fields.setRawHeaders(b"x-content-type-options", [b"nosniff"])
    fields.setRawHeaders(b"cross-origin-resource-policy", [b"same-origin"])
    for name, value in answer.headers:
        fields.setRawHeaders(name, [value])
    request.setResponseCode(answer.status)
    request.write(answer.content)
    request.finish()
