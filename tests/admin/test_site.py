"""The admin site over the wire, in memory: what an operator's curl, Prometheus and a prober get."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python.failure import Failure

from apigw.admin.access import Access
from apigw.admin.site import MOST_CONTENT, AdminRequest, AdminSite
from apigw.admin.views import Action, ConfigStatus, View
from apigw.exchange.errors import ClientFault
from apigw.observability.metrics import Metrics, Snapshot
from tests.origins import RawClient

TOKEN = "s3cret"


class Shown:
    """Views of a gateway with one route."""

    def __init__(self) -> None:
        self.is_ready = True
        self.route_list: View[Sequence[Mapping[str, Any]]] = [{"name": "users", "path": "/api/users"}]
        self.counted = Metrics()
        self.counted.route("users").observe(b"GET", 200, 0.01)

    def routes(self) -> View[Sequence[Mapping[str, Any]]]:
        return self.route_list

    def upstreams(self) -> View[Sequence[Mapping[str, Any]]]:
        return [{"name": "users", "targets": [{"name": "127.0.0.1:9101", "state": "healthy"}]}]

    def config_status(self) -> View[ConfigStatus]:
        return {
            "file": "conf/gw.ini",
            "running_hash": "aa",
            "disk_hash": "bb",
            "applied_at": "2025-01-01T00:00:00Z",
            "last_error": {
                "at": "2025-01-02T00:00:00Z",
                "problems": ["gw.ini:3: no such option", "gw.ini:9: dangling"],
            },
        }

    def ready(self) -> bool:
        return self.is_ready

    def metrics(self) -> View[Sequence[Snapshot]]:
        return [self.counted.snapshot()]


class Answered:
    """A response off the wire."""

    def __init__(self, wire: bytes) -> None:
        head, _, self.body = wire.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split(" ")[1])
        self.headers = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines}

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection to an admin site."""

    def __init__(self, site: AdminSite, peer: object = None) -> None:
        self.transport = StringTransport(peerAddress=peer or IPv4Address("TCP", "127.0.0.1", 4711))
        self.protocol = site.buildProtocol(peer)  # type: ignore[no-untyped-call]
        self.protocol.makeConnection(self.transport)

    def ask(self, request: str, *fields: str, content: bytes = b"") -> Answered:
        lines = [f"{request} HTTP/1.1", *fields]
        if not any(line.lower().startswith("host:") for line in lines):
            lines.append("Host: localhost:9090")
        if content:
            lines.append(f"Content-Length: {len(content)}")
        self.transport.clear()
        self.protocol.dataReceived("\r\n".join([*lines, "", ""]).encode() + content)
        return Answered(self.transport.value())


@pytest.fixture
def shown() -> Shown:
    return Shown()


def site_of(shown: Shown, token: str = TOKEN, actions: Mapping[str, Action] | None = None) -> AdminSite:
    return AdminSite(shown, Access(token), actions, reactor=Clock())


def get(shown: Shown, request: str, *fields: str) -> Answered:
    return Wire(site_of(shown)).ask(request, *fields)


def test_prometheus_reads_the_metrics(shown: Shown) -> None:
    answer = get(shown, "GET /metrics")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    (sample,) = families["apigw_requests"].samples
    assert (sample.labels, sample.value) == ({"route": "users", "method": "GET", "status": "200"}, 1.0)


def test_a_prometheus_that_prefers_openmetrics_gets_it(shown: Shown) -> None:
    answer = get(shown, "GET /metrics", "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.3")
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = openmetrics_families(answer.body.decode())  # type: ignore[no-untyped-call]
    assert {family.name for family in families} >= {"apigw_requests"}


def test_routes_and_upstreams_are_shown_as_json(shown: Shown) -> None:
    assert get(shown, "GET /routes").document == {"routes": [{"name": "users", "path": "/api/users"}]}
    assert get(shown, "GET /upstreams").document["upstreams"][0]["targets"][0]["state"] == "healthy"


def test_the_status_of_the_configuration_tells_all_problems_of_a_refused_file(shown: Shown) -> None:
    document = get(shown, "GET /config/status").document
    assert (document["running_hash"], document["disk_hash"]) == ("aa", "bb")
    assert document["last_error"]["problems"] == ["gw.ini:3: no such option", "gw.ini:9: dangling"]


def test_readiness_turns_to_503_while_draining_and_liveness_does_not(shown: Shown) -> None:
    wire = Wire(site_of(shown))
    assert [wire.ask("GET /health/live").status, wire.ask("GET /health/ready").status] == [200, 200]
    shown.is_ready = False
    assert [wire.ask("GET /health/live").status, wire.ask("GET /health/ready").status] == [200, 503]


def test_the_first_page_lists_the_others_for_a_person(shown: Shown) -> None:
    answer = Wire(site_of(shown, actions={"config/reload": lambda _: None})).ask("GET /", "Accept: text/html,*/*;q=0.8")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert b'href="/config/status"' in answer.body
    assert b"POST /config/reload" in answer.body


def test_the_first_page_lists_the_others_for_a_program(shown: Shown) -> None:
    site = site_of(shown, actions={"config/reload": lambda _: None})
    wire = Wire(site)
    document = wire.ask("GET /", "Accept: application/json").document
    assert document["actions"] == ["/config/reload"]
    assert [wire.ask(f"GET {path}").status for path in document["pages"]] == [200] * len(document["pages"])


@pytest.mark.parametrize(
    "path", ["/nothing", "/config", "/metrics/more", "/config/status/x", "/../etc/passwd", "/config/reload/x"]
)
def test_other_paths_are_not_found(shown: Shown, path: str) -> None:
    answer = Wire(site_of(shown, actions={"config/reload": lambda _: None})).ask(f"GET {path}")
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.document["reason"] == "not_found"


def test_head_gets_the_head_of_get(shown: Shown) -> None:
    got, headed = get(shown, "GET /routes"), get(shown, "HEAD /routes")
    assert (headed.status, headed.body) == (200, b"")
    assert headed.headers["content-length"] == got.headers["content-length"] == str(len(got.body))


def test_pages_are_only_read(shown: Shown) -> None:
    answer = get(shown, "POST /routes", f"Authorization: Bearer {TOKEN}")
    assert (answer.status, answer.headers["allow"], answer.document["reason"]) == (
        405,
        "GET, HEAD",
        "method_not_allowed",
    )


def test_nothing_is_kept_by_caches_or_told_of_the_software(shown: Shown) -> None:
    headers = get(shown, "GET /routes").headers
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert "server" not in headers


def test_a_stranger_learns_nothing_not_even_which_pages_there_are(shown: Shown) -> None:
    site = site_of(shown)
    wire = Wire(site, IPv4Address("TCP", "192.0.2.1", 4711))
    answers = [wire.ask(f"GET {path}") for path in ("/metrics", "/nothing", "/health/live")]
    assert [answer.status for answer in answers] == [401, 401, 401]
    assert answers[0].headers["www-authenticate"] == 'Bearer realm="apigw admin"'
    assert answers[0].document["reason"] == "admin_unauthorized"
    assert wire.ask("GET /metrics", f"Authorization: Bearer {TOKEN}").status == 200


def test_a_rebound_name_and_a_forwarded_request_are_refused(shown: Shown) -> None:
    wire = Wire(site_of(shown, token=""))
    assert wire.ask("GET /routes", "Host: evil.example").status == 403
    for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
        assert wire.ask("GET /routes", f"{name}: 192.0.2.1").status == 403, name


def test_a_unix_socket_is_local(shown: Shown) -> None:
    assert Wire(site_of(shown, token=""), UNIXAddress("/run/admin.sock")).ask("GET /routes").status == 200


def test_a_view_that_has_to_ask_other_workers_is_waited_for(shown: Shown) -> None:
    waiting: Deferred[Sequence[Mapping[str, Any]]] = Deferred()
    shown.route_list = waiting
    wire = Wire(site_of(shown))
    wire.protocol.dataReceived(b"GET /routes HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert wire.transport.value() == b""
    waiting.callback([{"name": "late"}])
    assert Answered(wire.transport.value()).document == {"routes": [{"name": "late"}]}


def test_who_goes_away_is_not_answered_and_what_was_begun_is_cancelled(shown: Shown) -> None:
    cancelled: list[bool] = []
    shown.route_list = Deferred(lambda _: cancelled.append(True))
    wire = Wire(site_of(shown))
    wire.protocol.dataReceived(b"GET /routes HTTP/1.1\r\nHost: localhost\r\n\r\n")
    wire.protocol.connectionLost(Failure(ConnectionDone()))
    assert (cancelled, wire.transport.value()) == ([True], b"")


def test_a_view_that_breaks_is_a_500_that_tells_nothing_inside(shown: Shown) -> None:
    events: list[Any] = []
    observer = cast("ILogObserver", events.append)
    globalLogPublisher.addObserver(observer)
    try:
        shown.route_list = fail(TypeError("no list"))
        answer = get(shown, "GET /routes")
    finally:
        globalLogPublisher.removeObserver(observer)
    assert (answer.status, answer.document["reason"]) == (500, "internal_error")
    assert b"Traceback" not in answer.body
    assert [str(event["log_failure"].type) for event in events if "log_failure" in event] == ["<class 'TypeError'>"]


def test_a_lever_gets_its_parameters_and_shows_its_result(shown: Shown) -> None:
    pulled: list[Mapping[str, Any]] = []

    def drain(parameters: Mapping[str, Any]) -> object:
        pulled.append(parameters)
        return {"drained": parameters["target"]}

    wire = Wire(site_of(shown, actions={"upstreams/drain": drain}))
    answer = wire.ask("POST /upstreams/drain", f"Authorization: Bearer {TOKEN}", content=b'{"target": "a:1"}')
    assert (answer.status, answer.document, pulled) == (200, {"drained": "a:1"}, [{"target": "a:1"}])
    # The page above it is still there.
    assert wire.ask("GET /upstreams").status == 200


def test_a_lever_without_the_token_is_not_moved(shown: Shown) -> None:
    pulled: list[object] = []
    for token, expected in ((TOKEN, 401), ("", 403)):
        wire = Wire(site_of(shown, token=token, actions={"reload": pulled.append}))
        assert wire.ask("POST /reload").status == expected
        assert wire.ask("GET /reload").status == 405
    assert pulled == []


@pytest.mark.parametrize("content", [b"nonsense", b"[1]", b'"x"', b"[" * 50_000, b"\xff"])
def test_parameters_that_are_no_object_are_refused(shown: Shown, content: bytes) -> None:
    pulled: list[object] = []
    wire = Wire(site_of(shown, actions={"reload": pulled.append}))
    answer = wire.ask("POST /reload", f"Authorization: Bearer {TOKEN}", content=content)
    assert (answer.status, answer.document["reason"], pulled) == (400, "admin_bad_parameters", [])


def test_too_much_content_is_refused_and_not_kept(shown: Shown) -> None:
    pulled: list[object] = []
    wire = Wire(site_of(shown, actions={"reload": pulled.append}))
    answer = wire.ask("POST /reload", f"Authorization: Bearer {TOKEN}", content=b" " * (MOST_CONTENT + 1))
    assert (answer.status, answer.document["reason"], pulled) == (413, "body_too_large", [])


def test_what_is_too_much_is_thrown_away_as_it_comes() -> None:
    request = AdminRequest.__new__(AdminRequest)
    request.gotLength(10**9)
    for _ in range(100):
        request.handleContentChunk(b" " * 10_000)
    assert (request.size, len(request.content.getvalue()) <= MOST_CONTENT) == (1_000_000, True)


def test_what_a_lever_refuses_is_told(shown: Shown) -> None:
    def refuse(_parameters: Mapping[str, Any]) -> object:
        raise ClientFault("there is no such target", status=404, reason="not_found")

    wire = Wire(site_of(shown, actions={"drain": refuse}))
    answer = wire.ask("POST /drain", f"Authorization: Bearer {TOKEN}")
    assert (answer.status, answer.document["detail"]) == (404, "there is no such target")


async def test_over_a_real_socket_this_machine_may_read(shown: Shown) -> None:
    from twisted.internet import reactor as running

    reactor: Any = running
    port = reactor.listenTCP(0, AdminSite(shown, Access("")), interface="127.0.0.1")
    client = await RawClient.connect(port.getHost().port)
    client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    response = await client.read_response()
    assert response.status == 200
    assert b"apigw_requests_total{" in response.body
    client.send(b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    assert (await client.read_response()).status == 403
    client.close()
    await client.until_closed()
    await port.stopListening()
