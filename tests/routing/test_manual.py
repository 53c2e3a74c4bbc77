"""The examples of docs/routing.md are true."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from apigw.exchange.errors import ClientFault
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.http.targets import normalise_path
from apigw.routing.patterns import bare_host, host_pattern, path_pattern
from apigw.routing.rule import Rule, ambiguities
from apigw.routing.table import Match, RouteTable
from apigw.routing.target_path import compile_target

MANUAL = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()


def rules(ini: str) -> list[Rule[str]]:
    parser = configparser.RawConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(ini)
    made = []
    for order, title in enumerate(parser.sections()):
        name = title.partition(" ")[2]
        options = dict(parser[title])
        made.append(
            Rule(
                name=name,
                value=name,
                order=order,
                path=options.pop("path"),
                hosts=re.split(r",\s*", options.pop("hosts")) if "hosts" in options else (),
                methods=re.split(r",\s*", options.pop("methods")) if "methods" in options else (),
                priority=int(options.pop("priority", "0")),
                headers={key.partition(".")[2]: options[key] for key in options if key.startswith("header.")},
            )
        )
        assert all(key.startswith("header.") for key in options)
    return made


def examples() -> list[tuple[str, str]]:
    return re.findall(r"```ini\n(.*?)```\n\n```text\n(.*?)```", MANUAL, re.DOTALL)


def test_each_request_of_an_example_gets_its_route() -> None:
    assert examples()
    for ini, requests in examples():
        written = rules(ini)
        assert ambiguities(written) == []
        table = RouteTable(written)
        for line in requests.splitlines():
            method, url, *fields, expected = line.split()
            parts = urlsplit(url)
            headers = Headers(
                (name.encode(), value.encode()) for name, _, value in (each.partition(":") for each in fields)
            )
            path = normalise_path(parts.path.encode())
            found = table.lookup(parts.netloc.encode(), method.encode(), path, None, headers)
            assert isinstance(found, Match), line
            assert found.value == expected, line


def rows(option: str) -> list[list[str]]:
    found = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in MANUAL.splitlines()
        if line.startswith(f"| `{option}")
    ]
    assert found
    return found


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_table_of_patterns_is_true() -> None:
    for option, _, takes in rows("path = "):
        pattern = path_pattern(quoted(option)[0].removeprefix("path = "))
        fits, _, misses = takes.partition("; not ")
        assert [path for path in quoted(fits) if not pattern.matches(path.encode())] == []
        assert [path for path in quoted(misses) if pattern.matches(path.encode())] == []
    for option, _, takes in rows("hosts = "):
        patterns = [host_pattern(host) for host in quoted(option)[0].removeprefix("hosts = ").split(", ")]
        for host in quoted(takes):
            assert any(pattern.matches(bare_host(host.encode())) for pattern in patterns)


def test_the_table_of_target_paths_is_true() -> None:
    for name in ("strip_prefix", "add_prefix", "rewrite"):
        for option, before, after in rows(f"{name} = "):
            written = quoted(option)
            pattern = path_pattern(written[1].removeprefix("path = ") if len(written) > 1 else "/")
            value = written[0].partition(" = ")[2]
            regex, _, template = value.partition(" -> ")
            strip, add = (value if name == each else None for each in ("strip_prefix", "add_prefix"))
            target = compile_target(
                strip_prefix=strip,
                add_prefix=add,
                rewrite=(regex, template) if name == "rewrite" else None,
                pattern=pattern,
            )
            assert target is not None
            for path, expected in zip(quoted(before), quoted(after), strict=True):
                request = Request(b"GET", path.encode())
                request.captures = pattern.capture(request.path)
                assert target(request) == expected.encode()


def test_the_table_of_path_parameters_is_true() -> None:
    lines = MANUAL.partition("| path | matches as |\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(lines) == 4
    for path, named in map(quoted, lines):
        assert path_pattern(f"={named}").matches(normalise_path(path.encode()))


@pytest.mark.parametrize("path", [b"/a%2fb", b"/a\\b", b"/a%00", b"/a%", b"/a/..;x/b", b"/\xc3\xa9", b"/../a"])
def test_what_is_said_to_be_refused_is(path: bytes) -> None:
    with pytest.raises(ClientFault):
        normalise_path(path)
