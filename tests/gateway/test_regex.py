"""Regular expressions of a configuration are matched in time linear in what clients and services send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted

from apigw.testing.origins import Origin, reply
from tests.config.test_regex import EVIL
from tests.gateway.running import route, running, upstream


@pytest_twisted.async_yield_fixture()
async def origin() -> AsyncIterator[Origin]:
    origin = await Origin([reply(200, b"hello")]).start()
    yield origin
    await origin.stop()


@pytest.mark.parametrize("expression", EVIL)
async def test_no_path_or_value_makes_a_match_slow(tmp_path: Path, origin: Origin, expression: str) -> None:
    """By backtracking each of these requests would take from seconds to forever."""
    routes = (
        route(f"~{expression}", "priority = 1")
        + route("/", f"header.X-A = ~{expression}", name="b")
        + route("/", f"query.q = ~{expression}", name="c")
        + route("/", f"rewrite = {expression} -> /found", name="d")
    )
    evil = "/" + "a" * 1002 + "!"
    async with running(tmp_path, upstream(origin.port) + routes) as gateway:
        for path, fields in ((evil, ()), ("/b", (("X-A", evil),)), (f"/b?q={evil}", ())):
            assert (await gateway.get(path, *fields)).status == 200


async def test_a_text_that_is_too_long_for_its_expression_is_refused(tmp_path: Path, origin: Origin) -> None:
    large = "[^/]{1,200}x"
    routes = (
        route("~/p/" + large, "priority = 1")
        + route("/h", f"header.X-A = ~{large}", name="b")
        + route("/r", f"rewrite = {large} -> /found", name="c")
        + route("/", name="d")
    )
    long = "a" * 7000
    async with running(tmp_path, upstream(origin.port) + routes) as gateway:
        for path, fields in ((f"/p/{long}", ()), ("/h", (("X-A", long),)), (f"/r/{long}", ())):
            response = await gateway.get(path, *fields)
            assert (response.status, json.loads(response.body)["reason"]) == (400, "too_long_to_match")
        assert (await gateway.get("/p/aax")).status == 200
        assert (await gateway.get("/h", ("X-A", "aax"))).status == 200
        assert (await gateway.get("/r/aax")).status == 200
