"""
What the shop's services are made of: twisted.web resources that speak JSON, and some that misbehave on request.

Not here: users, orders and products (``services``).
"""

from __future__ import annotations

import copy
import hashlib
import json
from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.web.http import CACHED
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

Path = list[str]


class Problem(Exception):
    """An answer that is an error (RFC 9457)."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


def send(request: Request, document: object, status: int = 200, content_type: str = "application/json") -> bytes:
    """The body of an answer; its status and type are set. HEAD gets the fields only."""
    body = json.dumps(document, indent=2).encode() + b"\n"
    request.setResponseCode(status)
    request.setHeader("content-type", content_type)
    request.setHeader("content-length", str(len(body)))
    return body


def cacheable(request: Request, document: object, max_age: int) -> bytes | int:
    """The same for what may be kept for ``max_age`` seconds: with an ETag, and 304 for who has it already."""
    body = send(request, document)
    request.setHeader("cache-control", f"public, max-age={max_age}")
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'.encode()
    return without_content(request) if request.setETag(tag) is CACHED else body


def without_content(request: Request) -> int:
    """Finish a 204 or 304: returned as an empty body, twisted.web would give it a Content-Length (RFC 9110 8.6)."""
    request.finish()
    return NOT_DONE_YET


class JSONResource(Resource):
    """
    A leaf that answers in JSON. Subclasses have ``get(request, path)`` and, if they take any, ``post(request, path)``;
    ``path`` holds the segments after their own. Both return a body, or raise ``Problem``.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def get(self, request: Request, path: Path) -> bytes | int:
        raise NotImplementedError

    def post(self, request: Request, path: Path) -> bytes | int:
        raise Problem(405, "this can't be posted to", allow="GET, HEAD")

    def render(self, request: Request) -> bytes | int:
        path = [segment.decode("utf-8", "replace") for segment in request.postpath or []]
        if path == [""]:
            path = []
        try:
            if request.method in (b"GET", b"HEAD"):
                return self.get(request, path)
            if request.method == b"POST":
                return self.post(request, path)
            raise Problem(405, f"{request.method.decode('latin-1')} is not supported", allow="GET, HEAD, POST")
        except Problem as problem:
            for name, value in problem.headers.items():
                request.setHeader(name.replace("_", "-"), value)
            document = {
                "type": "about:blank",
                "title": HTTPStatus(problem.status).phrase,
                "status": problem.status,
                "detail": problem.detail,
            }
            return send(request, document, problem.status, "application/problem+json")


def posted(request: Request, **kinds: type) -> dict[str, Any]:
    """
    The JSON object that was posted, with at least these members.

    :raises Problem: 400 when it is none, 422 when a member is missing or of another type.
    """
    try:
        document = json.loads(request.content.read() if request.content else b"")
    except ValueError as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Problem(400, "the body is not a JSON object")
    for name, kind in kinds.items():
        if not isinstance(document.get(name), kind):
            raise Problem(422, f"{name} has to be a {kind.__name__}")
    return document


class Collection(JSONResource):
    """A JSONResource that has children besides: what is no child's name is a path of its own."""

    isLeaf = False

    def getChild(self, path: bytes, request: Request) -> Resource:
        leaf = copy.copy(self)
        leaf.isLeaf = True
        request.prepath = (request.prepath or [])[:-1]
        request.postpath = [path, *(request.postpath or [])]
        return leaf


class Missing(Collection):
    """404 for every path."""

    def get(self, request: Request, path: Path) -> bytes | int:
        raise Problem(404, f"there is no {request.path.decode('latin-1')}")

    post = get


class Health(JSONResource):
    """Which service this is, and that it is well."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def get(self, request: Request, path: Path) -> bytes | int:
        return send(request, {"service": self._service, "status": "ok"})


class Status(JSONResource):
    """``/status/503`` answers 503: for retries and breakers."""

    def get(self, request: Request, path: Path) -> bytes | int:
        try:
            status = HTTPStatus(int(path[0]))
        except (IndexError, ValueError):
            raise Problem(404, "/status/CODE takes a status code") from None
        if status < 200:
            raise Problem(404, "an answer has a status from 200 on")
        if status >= 400:
            raise Problem(status, "as you asked")
        if status in (204, 304):
            request.setResponseCode(status)
            return without_content(request)
        return send(request, {"status": status}, status)


class Slow(JSONResource):
    """``/slow?seconds=2`` answers after so long (one second, at most a minute): for time-outs and draining."""

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__()
        self._clock = clock

    def get(self, request: Request, path: Path) -> bytes | int:
        try:
            seconds = float((request.args or {}).get(b"seconds", [b"1"])[0])
        except ValueError:
            raise Problem(400, "seconds has to be a number") from None
        if not 0 <= seconds <= 60:
            raise Problem(400, "seconds has to be from 0 to 60")
        waiting: Deferred[None] = deferLater(self._clock, seconds, lambda: None)

        def answer(_: object) -> None:
            request.write(send(request, {"seconds": seconds}))
            request.finish()

        request.notifyFinish().addErrback(lambda _: waiting.cancel())
        waiting.addCallbacks(answer, lambda _: None)
        return NOT_DONE_YET


class Events(Resource):
    """``/events``: a server-sent event each second, without end: for streaming."""

    isLeaf = True

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._clock = clock

    def render_GET(self, request: Request) -> int:
        request.setHeader("content-type", "text/event-stream")
        request.setHeader("cache-control", "no-store")
        count = 0

        def tell() -> None:
            nonlocal count
            count += 1
            data = json.dumps({"number": count, "event": "a product was looked at"})
            request.write(f"id: {count}\ndata: {data}\n\n".encode())

        ticking = LoopingCall(tell)
        ticking.clock = self._clock
        ticking.start(1)
        request.notifyFinish().addBoth(lambda _: ticking.stop())
        return NOT_DONE_YET


def root(service: str, collection: Collection, clock: IReactorTime) -> Resource:
    """
    A service's tree: ``/health``, its collection under its name, and ``/status``, ``/slow`` and ``/events``, which
    stand below the collection too, so that they can be had through the gateway: ``/api/products/events``.
    """
    tree = Missing()
    tree.putChild(b"health", Health(service))
    tree.putChild(service.encode(), collection)
    for place in (tree, collection):
        place.putChild(b"status", Status())
        place.putChild(b"slow", Slow(clock))
        place.putChild(b"events", Events(clock))
    return tree
