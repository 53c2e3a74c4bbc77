"""An aggregate in memory: its services are lists of requests that the test answers when it wants to."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from apigw.aggregation.aggregate import aggregate
from apigw.config.problems import ConfigurationError
from apigw.exchange.body import Body
from apigw.exchange.errors import GatewayError
from apigw.exchange.headers import Headers
from apigw.exchange.problem import problem
from apigw.exchange.request import Identity, Request
from apigw.exchange.responder import Done
from apigw.exchange.response import Response
from apigw.gateway.catalogue import load
from apigw.net.timers import Wheel

UPSTREAMS = """
[listen public]
endpoint = tcp:0:interface=127.0.0.1

[upstream users]
targets = http://127.0.0.1:9101

[upstream orders]
targets = http://127.0.0.1:9102

[upstream products]
targets = http://127.0.0.1:9103
"""


class Asked:
    """A request that a service got."""

    def __init__(self, service: str, request: Request, done: Done) -> None:
        self.service = service
        self.request = request
        self.cancelled = False
        self._done = done
        request.on_cancel(self._cancel)

    def _cancel(self) -> None:
        self.cancelled = True

    @property
    def line(self) -> str:
        """``GET /path?query``."""
        query = b"" if self.request.query is None else b"?" + self.request.query
        return (self.request.method + b" " + self.request.path + query).decode()

    @property
    def content(self) -> bytes:
        """Its content."""
        assert isinstance(self.request.body, Body)
        return b"".join(self.request.body._waiting)

    def field(self, name: bytes) -> str | None:
        """A field's value."""
        assert self.request.lines is not None
        for line in self.request.lines.split(b"\r\n")[:-1]:
            key, _, value = line.partition(b": ")
            if key.lower() == name:
                return value.decode()
        return None

    def answer(self, value: Any = None, status: int = 200, *fields: tuple[bytes, bytes]) -> None:
        """Answer with JSON, or with these very bytes."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self._done(Response(status, Headers(fields), body))

    def stream(self, length: int | None = None, *fields: tuple[bytes, bytes]) -> Body:
        """Begin an answer whose content comes later."""
        body = Body(None, length)
        self._done(Response(200, Headers(fields), body))
        return body

    def fail(self, error: GatewayError) -> None:
        """What the upstream room does when a service fails."""
        self._done(problem(self.request, error))


class Service:
    """One upstream."""

    def __init__(self, name: str, asked: list[Asked]) -> None:
        self._name = name
        self._asked = asked

    def forward(self, request: Request, done: Done) -> None:
        self._asked.append(Asked(self._name, request, done))

    def request(self, method: str, url: Any, **arguments: Any) -> Any:
        raise NotImplementedError


class Stage:
    """
    One aggregate with its services.

    :ivar asked: every request that a service got, in order. :ivar now: what the clock says.
    """

    def __init__(self, folder: Path, options: str) -> None:
        self.now = 1000.0
        self.asked: list[Asked] = []
        self.wheel = Wheel(lambda: self.now)
        path = folder / "gw.ini"
        path.write_text(UPSTREAMS + "[aggregate it]\npath = /it/{id}/{rest*}\n" + textwrap.dedent(options))
        settings = load(str(path)).of("aggregate")["it"]
        clients = {name: Service(name, self.asked) for name in ("users", "orders", "products")}
        self.responder: Any = aggregate("it", settings, clients, self.wheel)

    def ask(
        self,
        method: str = "GET",
        query: bytes | None = None,
        *fields: tuple[bytes, bytes],
        body: bytes | None = None,
        claims: dict[str, Any] | None = None,
        captures: dict[str, str] | None = None,
        consumer: str | None = None,
        deadline: float = 0.0,
    ) -> Asking:
        """A client's request."""
        request = Request(method.encode(), b"/it", query, Headers(fields), host=b"shop.example", started=self.now)
        request.id = b"id-1"
        request.deadline = deadline
        if claims is not None or consumer is not None:
            request.identity = Identity("somebody", "jwt", claims=claims or {}, consumer=consumer)
        if captures is not None:
            request.captures = captures
        if body is not None:
            request.body = Body(None, len(body))
            request.body.feed(body)
            request.body.end()
        asking = Asking(request)
        self.responder(request, asking.done)
        return asking

    def pass_time(self, seconds: float) -> None:
        """Let time go by."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 0.05, until)
            self.wheel.tick()

    def __getitem__(self, number: int) -> Asked:
        return self.asked[number]

    @property
    def lines(self) -> list[str]:
        """The request lines so far."""
        return [each.line for each in self.asked]

    @property
    def at_rest(self) -> bool:
        """Nothing runs, and nothing waits for its time to be up."""
        place = self.responder.place
        watched = [place.deadlines, *filter(None, place.call_deadlines)]
        return place.running == 0 and all(len(each) == 0 for each in watched)


class Asking:
    """A client that waits, and what it gets."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.responses: list[Response] = []

    def done(self, response: Response) -> None:
        self.responses.append(response)

    @property
    def response(self) -> Response:
        """The one response."""
        assert len(self.responses) == 1, self.responses
        return self.responses[0]

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def json(self) -> Any:
        """Its content."""
        assert isinstance(self.response.body, bytes)
        return json.loads(self.response.body)

    def field(self, name: bytes) -> bytes | None:
        """A field of the response."""
        return self.response.headers.get(name)

    @property
    def outcomes(self) -> dict[str, str]:
        """What became of each call, from the problem document."""
        return {name: call["outcome"] for name, call in self.json["calls"].items()}


def mistakes(folder: Path, options: str) -> list[str]:
    """The lines of the error for an aggregate with these options, lines counted from those."""
    path = folder / "gw.ini"
    path.write_text(UPSTREAMS + "[aggregate it]\npath = /it\n" + textwrap.dedent(options).lstrip("\n"))
    first = (UPSTREAMS + "[aggregate it]\npath = /it\n").count("\n")
    try:
        load(str(path))
    except ConfigurationError as error:
        problems = [each for each in error.problems if each.severity == "error"]
        return [f"{each.line - first} {str(each).partition('[aggregate it] ')[2]}" for each in problems]
    return []
