"""The health answer, as a load balancer in front of the gateway and a person with curl see it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.observability.health import Health, Targets


class Gateway:
    """What the health answer asks."""

    def __init__(self, **upstreams: Targets) -> None:
        self.upstreams = upstreams
        self.is_ready = True
        self.now = 100.0
        self.asked = 0
        self.health = Health("/health", self._states, lambda: self.is_ready, monotonic=lambda: self.now)

    async def _states(self) -> dict[str, Targets]:
        self.asked += 1
        return self.upstreams

    def ask(self, path: bytes = b"/health", method: bytes = b"GET") -> tuple[int, Any]:
        response = self.response(path, method)
        assert isinstance(response.body, bytes)
        return response.status, json.loads(response.body)

    def response(self, path: bytes = b"/health", method: bytes = b"GET") -> Response:
        answers: list[Response] = []
        self.health(Request(method, path), answers.append)
        (answer,) = answers
        return answer


def test_all_is_well() -> None:
    gateway = Gateway(users={"127.0.0.1:9101": "healthy"}, orders={"a:1": "healthy", "a:2": "healthy"})
    assert gateway.ask() == (
        200,
        {
            "gateway": "healthy",
            "upstreams": {
                "users": {"status": "healthy", "targets": [{"name": "127.0.0.1:9101", "status": "healthy"}]},
                "orders": {
                    "status": "healthy",
                    "targets": [{"name": "a:1", "status": "healthy"}, {"name": "a:2", "status": "healthy"}],
                },
            },
        },
    )


def test_an_upstream_without_a_healthy_target_is_a_503() -> None:
    gateway = Gateway(users={"a:1": "ejected", "a:2": "unhealthy"}, orders={"a:1": "healthy"})
    status, document = gateway.ask()
    assert (status, document["gateway"]) == (503, "healthy")
    assert document["upstreams"]["users"]["status"] == "unhealthy"
    assert document["upstreams"]["orders"]["status"] == "healthy"


def test_an_upstream_that_still_has_a_healthy_target_is_healthy_and_shows_the_other() -> None:
    status, document = Gateway(users={"a:1": "ejected", "a:2": "healthy"}).ask()
    assert (status, document["upstreams"]["users"]["status"]) == (200, "healthy")
    assert document["upstreams"]["users"]["targets"][0] == {"name": "a:1", "status": "ejected"}


def test_an_upstream_without_targets_can_not_answer() -> None:
    assert Gateway(users={}).ask()[0] == 503


def test_a_gateway_without_upstreams_is_healthy() -> None:
    assert Gateway().ask() == (200, {"gateway": "healthy", "upstreams": {}})


def test_asking_often_asks_nobody_behind_it() -> None:
    gateway = Gateway(users={"a:1": "healthy"})
    for _ in range(1000):
        assert gateway.ask()[0] == 200
    assert gateway.asked == 1
    gateway.upstreams = {"users": {"a:1": "unhealthy"}}
    gateway.now += 0.99
    assert gateway.ask()[0] == 200
    gateway.now += 0.02
    assert gateway.ask()[0] == 503
    assert gateway.asked == 2


def test_those_who_ask_while_the_answer_is_made_get_the_same_one() -> None:
    gateway = Gateway()
    made: Deferred[dict[str, Targets]] = Deferred()
    asked = 0

    async def slow() -> dict[str, Targets]:
        nonlocal asked
        asked += 1
        return await made

    health = Health("/health", slow, lambda: True, monotonic=lambda: gateway.now)
    answers: list[Response] = []
    for _ in range(3):
        health(Request(b"GET", b"/health"), answers.append)
    assert (asked, answers) == (1, [])
    made.callback({"users": {"a:1": "unreachable"}})
    assert (asked, [answer.status for answer in answers]) == (1, [503] * 3)


def test_what_can_not_be_found_out_is_told_and_asked_again() -> None:
    async def broken() -> dict[str, Targets]:
        raise ValueError("broken")

    health = Health("/health", broken, lambda: True)
    answers: list[Response] = []
    for _ in range(2):
        health(Request(b"GET", b"/health"), answers.append)
    assert [answer.status for answer in answers] == [500, 500]


def test_a_drain_is_told_at_once() -> None:
    gateway = Gateway(users={"a:1": "healthy"})
    assert gateway.ask()[0] == 200
    gateway.is_ready = False
    status, document = gateway.ask()
    assert (status, document["gateway"]) == (503, "draining")


def test_probes_tell_of_the_gateway_alone() -> None:
    gateway = Gateway(users={"a:1": "unhealthy"})
    assert [gateway.ask(b"/health/live"), gateway.ask(b"/health/ready")] == [
        (200, {"status": "live"}),
        (200, {"status": "ready"}),
    ]
    gateway.is_ready = False
    assert [gateway.ask(b"/health/live")[0], gateway.ask(b"/health/ready")] == [200, (503, {"status": "draining"})]
    assert gateway.asked == 0


def test_head_has_the_length_that_get_has() -> None:
    gateway = Gateway(users={"a:1": "healthy"})
    got, headed = gateway.response(), gateway.response(method=b"HEAD")
    assert (headed.status, headed.body) == (200, b"")
    assert headed.headers.get(b"content-length") == b"%d" % len(got.body)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS"])
def test_it_is_only_read(method: bytes) -> None:
    response = Gateway().response(method=method)
    assert (response.status, response.headers.get(b"allow")) == (405, b"GET, HEAD")


def test_other_paths_below_it_are_not_found() -> None:
    assert Gateway().ask(b"/health/more")[0] == 404


def test_it_is_not_kept_by_caches() -> None:
    assert Gateway().response().headers.get(b"cache-control") == b"no-store"
