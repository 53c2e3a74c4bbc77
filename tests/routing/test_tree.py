"""The resource tree: by the lean way, and under a stock twisted.web Site."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import Site

from apigw.exchange.body import Body
from apigw.exchange.errors import UpstreamFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import Done
from apigw.exchange.response import Response
from apigw.routing.rule import Rule
from apigw.routing.tree import GatewayResource, PrefixResource


@dataclass
class Named:
    name: str


class Recorder:
    """A responder that keeps what it was asked."""

    def __init__(self, response: Response | None = None) -> None:
        self.asked: list[Request] = []
        self.dones: list[Done] = []
        self._response = response

    def __call__(self, request: Request, done: Done) -> None:
        self.asked.append(request)
        self.dones.append(done)
        if self._response is not None:
            done(self._response)


def tree(**routes: tuple[dict[str, Any], Any]) -> GatewayResource:
    rules = []
    for order, (name, (options, responder)) in enumerate(routes.items()):
        kinds = {key: options.pop(key) for key in ("preflights", "encoded_slashes") if key in options}
        rules.append(Rule(name=name, order=order, value=PrefixResource(Named(name), responder, **kinds), **options))
    return GatewayResource(rules)


def answer(root: GatewayResource, request: Request) -> Response:
    answers: list[Response] = []
    root.route(request, answers.append)
    assert len(answers) == 1
    return answers[0]


def test_a_request_goes_to_its_route_with_what_its_path_captured() -> None:
    users = Recorder(Response(200))
    request = Request(b"GET", b"/users/a%20b")
    assert answer(tree(users=({"path": "/users/{id}"}, users)), request).status == 200
    assert users.asked == [request]
    assert (request.route.name if request.route else "", request.captures) == ("users", {"id": "a b"})


def test_no_route_is_404_and_another_method_405_with_allow() -> None:
    root = tree(users=({"path": "/users", "methods": ["GET", "PUT"]}, Recorder()))
    request = Request(b"GET", b"/nothing")
    response = answer(root, request)
    assert isinstance(response.body, bytes)
    assert (response.status, json.loads(response.body)["reason"], request.reason) == (404, "no_route", "no_route")
    response = answer(root, Request(b"DELETE", b"/users"))
    assert isinstance(response.body, bytes)
    assert (response.status, json.loads(response.body)["reason"]) == (405, "method_not_allowed")
    assert response.headers.get(b"allow") == b"GET, HEAD, PUT"


def test_options_of_the_server_is_answered_here() -> None:
    response = answer(tree(a=({"path": "/", "methods": ["POST"]}, Recorder())), Request(b"OPTIONS", b"*"))
    assert (response.status, response.headers.pairs, response.body) == (204, [(b"Allow", b"POST")], b"")


def test_options_of_a_server_that_takes_any_method_names_the_common_ones_too() -> None:
    root = tree(a=({"path": "/"}, Recorder()), b=({"path": "/b", "methods": ["PURGE"]}, Recorder()))
    response = answer(root, Request(b"OPTIONS", b"*"))
    assert response.headers.get(b"allow") == b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PURGE, PUT"


def test_options_and_trace_go_as_far_as_they_say() -> None:
    service = Recorder(Response(200))
    root = tree(a=({"path": "/", "methods": ["GET", "OPTIONS"]}, service), b=({"path": "/b"}, service))

    def ask(method: bytes, path: bytes, *values: bytes) -> Response:
        fields = [(b"Max-Forwards", value) for value in values]
        headers = Headers([*fields, (b"X-A", b"1"), (b"Cookie", b"s"), (b"Authorization", b"t")])
        return answer(root, Request(method, path, b"q", headers, host=b"shop.example"))

    response = ask(b"OPTIONS", b"/a", b"0")
    assert (response.status, response.headers.get(b"allow")) == (204, b"GET, HEAD, OPTIONS")
    response = ask(b"OPTIONS", b"/b", b"00")
    assert response.headers.get(b"allow") == b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
    response = ask(b"TRACE", b"/b", b"0")
    assert (response.status, response.headers.get(b"content-type")) == (200, b"message/http")
    assert response.body == b"TRACE /b?q HTTP/1.1\r\nHost: shop.example\r\nMax-Forwards: 0\r\nX-A: 1\r\n\r\n"
    assert service.asked == []
    for method, given, sent in (
        (b"OPTIONS", b"7", b"6"),
        (b"TRACE", b"1", b"0"),
        (b"TRACE", b"10", b"9"),  # each time anew: the route of a path is remembered
        (b"OPTIONS", b"x", b"x"),
        (b"GET", b"0", b"0"),
        (b"OPTIONS", b"", b""),
    ):
        assert ask(method, b"/b", given).status == 200
        assert service.asked[-1].headers.get_all(b"max-forwards") == [sent]


def test_a_preflight_goes_to_the_route_that_it_asks_about() -> None:
    shop, other = Recorder(Response(204)), Recorder(Response(200))
    root = tree(
        shop=({"path": "/a", "methods": ["PUT"], "preflights": True}, shop),
        other=({"path": "/"}, other),
    )

    def preflight(method: bytes) -> Request:
        fields = [(b"Origin", b"https://x"), (b"Access-Control-Request-Method", method)]
        return Request(b"OPTIONS", b"/a", headers=Headers(fields))

    assert answer(root, preflight(b"PUT")).status == 204
    assert answer(root, preflight(b"GET")).status == 200  # another route's, which has no CORS: it is asked plainly
    assert answer(root, Request(b"OPTIONS", b"/a")).status == 200
    assert (len(shop.asked), len(other.asked)) == (1, 2)


def test_encoded_slashes_reach_only_the_route_that_takes_them() -> None:
    files = Recorder(Response(200))
    root = tree(files=({"path": "/files", "encoded_slashes": True}, files), other=({"path": "/"}, Recorder()))
    path = root.normalise(b"/files/a%2fb")
    assert answer(root, Request(b"GET", path)).status == 200
    assert files.asked[0].path == b"/files/a%2Fb"
    refused = answer(root, Request(b"GET", root.normalise(b"/x/a%5cb")))
    assert isinstance(refused.body, bytes)
    assert (refused.status, json.loads(refused.body)["reason"]) == (400, "encoded_slash")


def test_a_captured_value_that_is_not_text_is_refused() -> None:
    assert answer(tree(a=({"path": "/{id}"}, Recorder())), Request(b"GET", b"/%FF")).status == 400


class Client:
    """A stock twisted.web Site, spoken to in bytes."""

    def __init__(self, resource: Resource) -> None:
        site = Site(resource)
        self.transport = StringTransport()
        self.protocol = site.buildProtocol(None)
        self.protocol.callLater = lambda *_: None  # no time-outs, no reactor
        self.protocol.timeOut = None
        self.protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def received(self) -> bytes:
        value: bytes = self.transport.value()
        return value


def test_a_stock_site_serves_the_tree() -> None:
    users = Recorder(Response(201, Headers([(b"X-A", b"1"), (b"X-A", b"2"), (b"Connection", b"x")]), b"hello"))
    client = Client(tree(users=({"path": "/api/users/{id}", "hosts": ["shop.example"]}, users)))
    client.send(
        b"POST /api/./users/%37?q=1 HTTP/1.1\r\nHost: Shop.Example\r\nX-B: b\r\nConnection: X-C\r\nX-C: c\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )
    (request,) = users.asked
    assert (request.method, request.path, request.query) == (b"POST", b"/api/users/7", b"q=1")
    assert (request.host, request.captures) == (b"shop.example", {"id": "7"})
    assert request.headers.pairs == [(b"X-B", b"b")]
    assert request.forwarding is not None
    assert request.body is not None
    assert request.body.length == 3
    head, _, body = client.received().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 ")
    assert head.count(b"X-A: ") == 2
    assert b"Connection: x" not in head
    assert b"Content-Length: 5" in head
    assert body == b"hello"


def test_a_stock_site_gets_the_same_refusals() -> None:
    root = tree(users=({"path": "/users", "methods": ["GET"]}, Recorder()))
    for line, status in (
        (b"GET /nothing", b"404"),
        (b"PUT /users", b"405"),
        (b"GET /a%2fb", b"400"),
        (b"GET /../a", b"400"),
    ):
        client = Client(root)
        client.send(line + b" HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.received().split()[1] == status
        assert b"application/problem+json" in client.received()


def test_the_tree_may_stand_inside_another() -> None:
    outer = Resource()
    outer.putChild(b"api", tree(a=({"path": "/api"}, Recorder(Response(200, body=b"in")))))
    for path in (b"/api", b"/api/x/y"):
        client = Client(outer)
        client.send(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.received().endswith(b"\r\n\r\nin")


class Feeding:
    """Feeds a response's body, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def body_wanted(self) -> None: ...

    def pause_body(self) -> None:
        self.told.append("pause")

    def resume_body(self) -> None:
        self.told.append("resume")

    def cancel_body(self) -> None:
        self.told.append("cancel")


def streaming(length: int | None = None) -> tuple[Client, Body, Feeding, Recorder]:
    feeding = Feeding()
    body = Body(feeding, length)
    recorder = Recorder(Response(200, body=body))
    client = Client(tree(a=({"path": "/"}, recorder)))
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    return client, body, feeding, recorder


def test_a_stream_is_written_as_it_comes_at_the_clients_pace() -> None:
    client, body, feeding, _ = streaming()
    assert b"Transfer-Encoding: chunked" in client.received()
    body.feed(b"one")
    assert client.received().endswith(b"3\r\none\r\n")
    assert client.transport.producer is not None
    client.transport.producer.pauseProducing()
    assert feeding.told == ["pause"]
    client.transport.producer.resumeProducing()
    assert feeding.told == ["pause", "resume"]
    body.end()
    assert client.received().endswith(b"0\r\n\r\n")


def test_a_stream_that_fails_is_cut_off() -> None:
    client, body, _, _ = streaming()
    body.feed(b"one")
    body.fail(UpstreamFault("broken"))
    assert not client.received().endswith(b"0\r\n\r\n")
    assert client.transport.disconnected or client.transport.disconnecting


def test_a_client_that_goes_away_stops_the_work() -> None:
    from twisted.internet.error import ConnectionDone
    from twisted.python.failure import Failure

    client, _, feeding, recorder = streaming()
    stopped: list[str] = []
    recorder.asked[0].on_cancel(lambda: stopped.append("stopped"))
    client.protocol.connectionLost(Failure(ConnectionDone()))
    assert (feeding.told, stopped) == (["cancel"], ["stopped"])


async def test_content_of_a_stock_sites_request_is_read_at_the_readers_pace() -> None:
    recorder = Recorder()
    client = Client(tree(a=({"path": "/"}, recorder)))
    content = b"x" * 200_000
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + content)
    body = recorder.asked[0].body
    assert body is not None
    assert body.received == 0
    assert await body.collect(300_000) == content


class Slow:
    """A sink that wants one piece at a time."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.pieces: list[bytes] = []
        self.ended = False

    def body_data(self, data: bytes) -> None:
        self.pieces.append(data)
        self.body.pause()

    def body_end(self, trailers: list[Pair] | None) -> None:
        self.ended = True

    def body_failed(self, error: Exception) -> None: ...


def test_a_reader_that_pauses_gets_no_more() -> None:
    recorder = Recorder()
    client = Client(tree(a=({"path": "/"}, recorder)))
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 150000\r\n\r\n" + b"x" * 150_000)
    body = recorder.asked[0].body
    assert body is not None
    sink = Slow(body)
    body.subscribe(sink)
    assert len(sink.pieces) == 1
    body.resume()
    body.resume()
    assert (sum(map(len, sink.pieces)), sink.ended) == (150_000, False)
    body.resume()
    assert sink.ended


def test_with_many_routes_the_requests_of_all_of_them_are_remembered() -> None:
    shared = Recorder(Response(200))
    root = tree(**{f"r{i}": ({"path": f"/r{i}"}, shared) for i in range(6000)})
    requests = [Request(b"GET", b"/r%d" % i) for i in range(6000)]
    for request in requests:
        answer(root, request)
    assert len(root._remembered) == 6000
    for i in range(7000):
        answer(root, Request(b"GET", b"/r1/%d" % i))
    assert len(root._remembered) <= root.remembers == 12000
