"""``/metrics`` of a gateway that served something: names, labels and counts as operators' dashboards have them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_twisted
from twisted.internet.defer import Deferred

from tests.gateway.running import request, route, running, upstream
from tests.origins import Origin, reply

ADMIN = "\n[admin]\nendpoint = tcp:0:interface=127.0.0.1\n"


@pytest_twisted.async_yield_fixture()
async def origin() -> AsyncIterator[Origin]:
    origin = await Origin([reply(200, b"hello")]).start()
    yield origin
    await origin.stop()


def values(text: str) -> dict[str, float]:
    return {
        name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
    }


async def test_what_was_served_is_counted_by_the_names_that_dashboards_use(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/a") + ADMIN) as gateway:
        client = await gateway.connect()
        for method in ("GET", "GET", "POST", "BREW"):
            client.send(request("/a", method=method))
            assert (await client.read_response()).status == 200
        await gateway.get("/nowhere")
        broken = await gateway.connect()
        broken.send(b"nonsense\r\n\r\n")
        assert (await broken.read_response()).status == 400
        response = await gateway.admin("/metrics")
        assert (response.value(b"content-type") or b"").startswith(b"text/plain; version=")
        found = values(response.body.decode())
    target = f"http://127.0.0.1:{origin.port}"
    assert found['apigw_requests_total{route="a",method="GET",status="200"}'] == 2
    assert found['apigw_requests_total{route="a",method="POST",status="200"}'] == 1
    assert not any("BREW" in name for name in found)  # a client can't make series
    assert found['apigw_requests_total{route="",method="GET",status="404"}'] == 1
    assert found['apigw_request_duration_seconds_count{route="a"}'] == 4
    assert found[f'apigw_upstream_requests_total{{upstream="a",target="{target}",status="200"}}'] == 4
    assert found['apigw_gateway_responses_total{route="",reason="no_route"}'] == 1
    assert found['apigw_connections{listener="public"}'] >= 1
    assert found[f'apigw_pool_connections{{upstream="a",target="{target}",state="idle"}}'] == 1
    assert found["apigw_config_last_reload_success"] == 1
    assert found["process_resident_memory_bytes"] > 1e7
    for name in ("process_cpu_seconds_total", "process_open_fds", "process_max_fds", "process_start_time_seconds"):
        assert found[name] > 0
    assert any(name.startswith("apigw_reactor_lag_seconds_bucket") for name in found)


def series(found: dict[str, float], name: str) -> dict[str, float]:
    return {key: value for key, value in found.items() if key.startswith(name + "{")}


async def test_statuses_and_methods_that_are_made_up_make_no_series(tmp_path: Path, origin: Origin) -> None:
    copies = await Origin([reply(700 + at % 300, b"") for at in range(300)]).start()
    origin.script = [reply(status, b"") for status in range(200, 1000)]
    text = upstream(origin.port) + upstream(copies.port, "b") + route("/", "mirror = b") + ADMIN
    async with running(tmp_path, text) as gateway:
        client = await gateway.connect()
        for at, status in enumerate(range(200, 1000)):
            client.send(request(f"/{at}", method=f"MADE{at % 7}"))
            assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 %d" % status)
        found = values((await gateway.admin("/metrics")).body.decode())
    await copies.stop()
    for name in ("apigw_requests_total", "apigw_upstream_requests_total"):
        counted = series(found, name)
        assert len(counted) < 130
        assert 400 in [value for key, value in counted.items() if 'status="other"' in key]
        assert any('status="2xx"' in key for key in counted)
        assert any('status="404"' in key for key in counted)
    assert sum(series(found, "apigw_requests_total").values()) == 800
    assert len(series(found, "apigw_mirror_differences_total")) < 80
    assert all(re.search(r'copy="(\d\d\d|\dxx|other)"', key) for key in series(found, "apigw_mirror_differences_total"))


async def test_an_upstream_that_does_not_answer_is_counted_as_none(tmp_path: Path, origin: Origin) -> None:
    never: Deferred[None] = Deferred()
    origin.script = [[never]]
    text = upstream(origin.port, more="timeout.response = 100ms\n") + route("/") + ADMIN
    async with running(tmp_path, text) as gateway:
        assert (await gateway.get("/")).status == 504
        found = values((await gateway.admin("/metrics")).body.decode())
    never.callback(None)
    assert found['apigw_requests_total{route="a",method="GET",status="504"}'] == 1
    (name,) = (name for name in found if name.startswith("apigw_upstream_requests_total{"))
    assert re.search(r'status="none"', name)
    assert found['apigw_gateway_responses_total{route="a",reason="upstream_timeout"}'] == 1
