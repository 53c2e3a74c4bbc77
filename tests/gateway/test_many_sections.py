"""Large configurations: what loading and building do grows with their size, not with its square."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from apigw.config.problems import ConfigurationError
from apigw.gateway.build import build
from apigw.gateway.catalogue import load
from apigw.gateway.environment import Shared
from apigw.gateway.service import GatewayService

BASE = "[gateway]\naccess_log = off\n[listen main]\nendpoint = tcp:0:interface=127.0.0.1\n"
UP = "[upstream u{i}]\ntargets = http://127.0.0.1:{port}\n"


def plain(n: int, folder: Path) -> str:
    shared = "[cors c]\norigins = https://a.example\n[rate_limit l]\nrate = 10/s\n[security_headers s]\n"
    return shared + "".join(
        UP.format(i=i, port=1000 + i)
        + f"[route r{i}]\npath = /a{i % 7}/r{i}\nupstream = u{i}\npolicies = cors c, rate_limit l, security_headers s\n"
        for i in range(n)
    )


def own_policies(n: int, folder: Path) -> str:
    return "".join(
        f"[rate_limit l{i}]\nrate = 10/s\n[request_headers h{i}]\nset.X-A = {i}\n"
        f"[route r{i}]\npath = =/r{i}\nrespond = 200 x\npolicies = rate_limit l{i}, request_headers h{i}\n"
        for i in range(n)
    )


def hosts(n: int, folder: Path) -> str:
    """The same path everywhere."""
    return "".join(f"[route r{i}]\npath = /\nhosts = h{i}.example, *.h{i}.example\nrespond = 200 x\n" for i in range(n))


def conditions(n: int, folder: Path) -> str:
    return "".join(f"[route r{i}]\npath = /\nheader.X-Tenant = t{i}\nrespond = 200 x\n" for i in range(n))


def expressions(n: int, folder: Path) -> str:
    """Half of them are expressions, which could match anywhere."""
    return "".join(
        f"[route e{i}]\npath = ~/e{i}/[0-9]+\nrespond = 200 x\n[route r{i}]\npath = /r{i}\nrespond = 200 x\n"
        for i in range(n // 2)
    )


def templates(n: int, folder: Path) -> str:
    return "".join(f"[route r{i}]\npath = /t{i}/{{id}}/x\nrespond = 200 x\n" for i in range(n))


def included(n: int, folder: Path) -> str:
    for i in range(n):
        (folder / f"part{i}.inc").write_text(f"[route r{i}]\npath = /r{i}\nrespond = 200 x\n")
    return "[gateway]\ninclude =\n" + "".join(f"    part{i}.inc\n" for i in range(n))


def listeners(n: int, folder: Path) -> str:
    return "".join(f"[listen l{i}]\nendpoint = tcp:{2000 + i}:interface=127.0.0.1\n" for i in range(n))


def targets(n: int, folder: Path) -> str:
    lines = "".join(f"    http://10.0.{i >> 8}.{i & 255}:80\n" for i in range(n))
    return f"[upstream u]\ntargets =\n{lines}[route r]\npath = /\nupstream = u\n"


def unknown_upstreams(n: int, folder: Path) -> str:
    return "".join(
        UP.format(i=i, port=1000 + i) + f"[route r{i}]\npath = /r{i}\nupstream = missing{i}\n" for i in range(n)
    )


def unknown_options(n: int, folder: Path) -> str:
    return "".join(f"[route r{i}]\npath = /r{i}\nrespond = 200 x\npollicies = cors\n" for i in range(n))


def the_same_route(n: int, folder: Path) -> str:
    return "".join(f"[route r{i}]\npath = /x\nrespond = 200 x\n" for i in range(n))


def loaded_and_built(text: str, folder: Path) -> list[str]:
    path = folder / "gw.ini"
    path.write_text(text if "include =" in text else BASE + text)
    try:
        build(load(str(path), {}), Shared(), None)
    except ConfigurationError as error:
        return [str(each) for each in error.problems]
    return []


def steps(work: Callable[[], object]) -> int:
    """How many lines of Python run: turns of a loop in one line count each."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
        return trace

    before = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


@pytest.mark.parametrize(
    "text",
    [
        plain, own_policies, hosts, conditions, expressions, templates, included, listeners, targets,
        unknown_upstreams, unknown_options,
    ],
)  # fmt: skip
def test_twice_as_many_sections_are_twice_the_work(tmp_path: Path, text: Callable[[int, Path], str]) -> None:
    loaded_and_built(text(4, tmp_path), tmp_path)  # what is made once is made
    small, large = text(150, tmp_path), text(300, tmp_path)
    once = steps(lambda: loaded_and_built(small, tmp_path))
    twice = steps(lambda: loaded_and_built(large, tmp_path))
    assert twice < 2.25 * once


def test_of_very_many_ambiguous_routes_some_are_told(tmp_path: Path) -> None:
    assert len(loaded_and_built(the_same_route(100, tmp_path), tmp_path)) == 1000


class Counting:
    """A policy that counts how often it is made."""

    made = 0

    def __init__(self, settings: Any, environment: Any) -> None:
        Counting.made += 1
        self.environment = environment

    def on_request(self, request: Any) -> None:
        return None


def test_a_start_makes_each_policy_once(tmp_path: Path) -> None:
    file = tmp_path / "gw.ini"
    listed = "[python own]\nclass = tests.gateway.test_many_sections:Counting\n"
    file.write_text(listed + "[route a]\npath = /\nrespond = 200 x\npolicies = python own\n")
    Counting.made = 0
    service = GatewayService(load(str(file), shared=Shared()))
    assert Counting.made == 1
    own = service.generation.policies["python", "own"].policy
    assert own.environment.later == service.shared.later
    assert service.configuration.worked_out == {}
