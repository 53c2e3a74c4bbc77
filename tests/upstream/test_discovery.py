"""Discovery: targets from DNS (a real server on loopback), SRV, files and HTTP; a failing source changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.web.http_headers import Headers

from apigw.config.text import Wrong, written
from apigw.net.resolver import Resolver
from apigw.testing.policies import FilesAtOnce
from apigw.upstream.discovery.discovery import Discovery
from apigw.upstream.discovery.dns import Lookups
from apigw.upstream.discovery.file import FileSource
from apigw.upstream.discovery.source import Source, Unusable, parse_targets
from apigw.upstream.target_spec import SourceSpec, TargetSpec, parse_target
from tests.name_server import NameServer


def resolving(server: NameServer, clock: Clock) -> Lookups:
    resolver = Resolver(clock.seconds)
    resolver.use([("127.0.0.1", server.port)])
    return Lookups(resolver, "any")


@pytest.fixture
def names() -> Iterator[NameServer]:
    import pytest_twisted

    server = NameServer()
    yield server
    pytest_twisted.blockon(server.stop())


class Heard:
    """Collects updates, and lets a test wait for the next."""

    def __init__(self) -> None:
        self.updates: list[list[str]] = []
        self.specs: list[TargetSpec] = []
        self._next: Deferred[list[str]] | None = None

    def __call__(self, specs: list[TargetSpec]) -> None:
        self.specs = specs
        self.updates.append([str(spec) for spec in specs])
        if self._next is not None:
            waiting, self._next = self._next, None
            waiting.callback(self.updates[-1])

    def next(self) -> Deferred[list[str]]:
        self._next = Deferred()
        return self._next


def source(line: str) -> TargetSpec | SourceSpec:
    return parse_target(written(line))


def discovery(
    *lines: str, reactor: Any, lookups: Any = None, get: Any = None, interval: float = 5.0
) -> tuple[Discovery, Heard]:
    specs = [SourceSpec("http", line[9:]) if line.startswith("discover:") else source(line) for line in lines]
    return Discovery(specs, reactor, interval, lookups, get, disk=FilesAtOnce()), Heard()


def looked(each: Source) -> Deferred[None]:
    """Until the look that is under way has ended."""
    ended: Deferred[None] = Deferred()
    assert each._looking is not None
    each._looking.addBoth(lambda _: ended.callback(None))
    return ended


# ---- DNS -------------------------------------------------------------------------------------------------------------


async def test_all_addresses_of_a_name_are_targets_and_are_asked_for_again_when_their_ttl_is_over(
    names: NameServer,
) -> None:
    clock = Clock()
    names.say(
        "orders.test",
        dns.Record_A("127.0.0.2", ttl=7),
        dns.Record_A("127.0.0.1", ttl=60),
        dns.Record_AAAA("::1", ttl=7),
    )
    found, heard = discovery("dns:orders.test:9102 weight=2", reactor=clock, lookups=resolving(names, clock))
    first = heard.next()
    found.start(heard)
    assert await first == [
        "http://127.0.0.1:9102 weight=2",
        "http://127.0.0.2:9102 weight=2",
        "http://[::1]:9102 weight=2",
    ]
    assert heard.specs[0].found_as == "orders.test"
    assert [call.getTime() for call in clock.getDelayedCalls()] == [7.0]
    names.say("orders.test", dns.Record_A("127.0.0.3", ttl=60))
    second = heard.next()
    clock.advance(7.0)
    assert await second == ["http://127.0.0.3:9102 weight=2"]
    found.stop()
    assert clock.getDelayedCalls() == []


async def test_a_name_server_that_fails_keeps_the_last_answer(names: NameServer) -> None:
    clock = Clock()
    names.say("orders.test", dns.Record_A("127.0.0.1", ttl=10))
    found, heard = discovery("dns:orders.test:80", reactor=clock, lookups=resolving(names, clock))
    first = heard.next()
    found.start(heard)
    await first
    del names.authority.records[b"orders.test"]
    clock.advance(10.0)
    await looked(found.sources[0])
    assert heard.updates == [["http://127.0.0.1:80"]]
    assert [spec.name for spec in found.specs] == ["http://127.0.0.1:80"]
    assert found.sources[0].failures == 1
    names.say("orders.test", dns.Record_A("127.0.0.9", ttl=10))
    again = heard.next()
    clock.advance(5.0)
    assert await again == ["http://127.0.0.9:80"]
    assert found.sources[0].failures == 0
    found.stop()


async def test_a_name_with_a_ttl_of_0_is_asked_for_once_a_second_at_most(names: NameServer) -> None:
    clock = Clock()
    names.say("orders.test", dns.Record_A("127.0.0.1", ttl=0))
    found, heard = discovery("dns:orders.test:80", reactor=clock, lookups=resolving(names, clock))
    first = heard.next()
    found.start(heard)
    await first
    assert [call.getTime() for call in clock.getDelayedCalls()] == [1.0]
    found.stop()


async def test_answers_in_another_order_are_no_news(names: NameServer) -> None:
    clock = Clock()
    records = [dns.Record_A("127.0.0.1", ttl=5), dns.Record_A("127.0.0.2", ttl=5)]
    names.say("orders.test", *records)
    found, heard = discovery("dns:orders.test:80", reactor=clock, lookups=resolving(names, clock))
    first = heard.next()
    found.start(heard)
    await first
    names.say("orders.test", *reversed(records))
    clock.advance(5.0)
    await looked(found.sources[0])
    assert len(heard.updates) == 1
    found.stop()


async def test_srv_records_bring_ports_weights_and_priorities(names: NameServer) -> None:
    clock = Clock()
    names.say(
        "_http._tcp.orders.test",
        dns.Record_SRV(10, 3, 8001, b"a.orders.test", ttl=30),
        dns.Record_SRV(10, 0, 8002, b"b.orders.test", ttl=30),
        dns.Record_SRV(20, 5, 8003, b"b.orders.test", ttl=30),
    )
    names.say("a.orders.test", dns.Record_A("127.0.0.1", ttl=9))
    names.say("b.orders.test", dns.Record_A("127.0.0.2", ttl=30))
    found, heard = discovery("srv:_http._tcp.orders.test scheme=https", reactor=clock, lookups=resolving(names, clock))
    first = heard.next()
    found.start(heard)
    assert await first == [
        "https://127.0.0.1:8001 weight=3",
        "https://127.0.0.2:8002",
        "https://127.0.0.2:8003 weight=5 backup=yes",
    ]
    assert heard.specs[0].found_as == "a.orders.test"
    assert [call.getTime() for call in clock.getDelayedCalls()] == [9.0]
    found.stop()


# ---- files -----------------------------------------------------------------------------------------------------------


def write(path: Path, content: str, at: int) -> None:
    path.write_text(content)
    os.utime(path, ns=(at, at))


def test_a_file_is_read_again_when_it_changes_and_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock = tmp_path / "targets", Clock()
    write(path, "http://127.0.0.1:1 weight=2   # the first\n\n# none here\nhttp://127.0.0.1:2\n", 10**9)
    found, heard = discovery(f"file:{path} backup=yes", reactor=clock)
    found.start(heard)
    assert heard.updates == [["http://127.0.0.1:1 weight=2 backup=yes", "http://127.0.0.1:2 backup=yes"]]
    reads: list[object] = []

    def noted(content: bytes, spec: SourceSpec) -> tuple[TargetSpec, ...]:
        reads.append(content)
        return parse_targets(content, spec)

    monkeypatch.setattr("apigw.upstream.discovery.file.parse_targets", noted)
    clock.pump([5.0] * 10)
    assert reads == []
    write(path, '["http://127.0.0.1:3", {"target": "http://127.0.0.1:4", "weight": 5, "backup": false}]', 2 * 10**9)
    clock.advance(5.0)
    assert heard.updates[-1] == ["http://127.0.0.1:3 backup=yes", "http://127.0.0.1:4 weight=5"]
    found.stop()
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: write(path, "http://127.0.0.1:1\nnonsense here", 2 * 10**9),
        lambda path: write(path, '{"targets": 3}', 2 * 10**9),
        lambda path: write(path, '["http://127.0.0.1:1"', 2 * 10**9),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"\xff\xfe"),
    ],
)
def test_a_file_that_cannot_be_used_changes_nothing(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path, clock = tmp_path / "targets", Clock()
    write(path, "http://127.0.0.1:1", 10**9)
    found, heard = discovery(f"file:{path}", reactor=clock)
    found.start(heard)
    spoil(path)
    clock.advance(5.0)
    assert heard.updates == [["http://127.0.0.1:1"]]
    assert isinstance(found.sources[0], FileSource)
    assert found.sources[0].failures == 1
    write(path, "", 3 * 10**9)
    clock.advance(5.0)
    assert heard.updates[-1] == []
    found.stop()


# ---- HTTP ------------------------------------------------------------------------------------------------------------


class Registry:
    """Answers like treq."""

    def __init__(self) -> None:
        self.code, self.content_, self.etag = 200, b'{"targets": ["http://127.0.0.1:1"]}', b'"1"'
        self.asked: list[dict[bytes, bytes]] = []
        self.down = False

    def get(self, url: str, headers: dict[bytes, bytes]) -> Deferred[Any]:
        assert url == "http://registry/targets.json"
        self.asked.append(headers)
        if self.down:
            return fail(Refused())
        return succeed(self)

    @property
    def headers(self) -> Headers:
        return Headers({b"ETag": [self.etag]} if self.etag else {})

    def content(self) -> Deferred[bytes]:
        return succeed(self.content_)


def test_a_registry_is_asked_again_with_its_etag() -> None:
    registry, clock = Registry(), Clock()
    found, heard = discovery("discover:http://registry/targets.json", reactor=clock, get=registry.get)
    found.start(heard)
    assert heard.updates == [["http://127.0.0.1:1"]]
    registry.code, registry.content_ = 304, b""
    clock.advance(5.0)
    assert registry.asked[-1][b"If-None-Match"] == b'"1"'
    registry.code, registry.content_ = 200, json.dumps([{"target": "http://127.0.0.1:2", "weight": 3}]).encode()
    clock.advance(5.0)
    assert heard.updates == [["http://127.0.0.1:1"], ["http://127.0.0.1:2 weight=3"]]
    found.stop()


def test_a_registry_that_fails_changes_nothing_and_is_asked_again() -> None:
    registry, clock = Registry(), Clock()
    found, heard = discovery("discover:http://registry/targets.json", reactor=clock, get=registry.get)
    found.start(heard)
    for code, content, down in (
        (500, b"", False),
        (200, b"<html>", False),
        (200, b"", True),
        (200, b'{"targets": [7]}', False),
    ):
        registry.code, registry.content_, registry.down = code, content, down
        clock.advance(5.0)
        assert len(heard.updates) == 1
    assert found.sources[0].failures == 4
    assert [spec.name for spec in found.specs] == ["http://127.0.0.1:1"]
    found.stop()
    assert clock.getDelayedCalls() == []


def test_an_answer_that_comes_after_the_stop_is_not_heard() -> None:
    clock, late = Clock(), Deferred[Any]()
    found, heard = discovery("discover:http://registry/targets.json", reactor=clock, get=lambda url, headers: late)
    found.start(heard)
    found.stop()
    assert heard.updates == []
    assert clock.getDelayedCalls() == []


def test_fixed_targets_are_there_at_once_and_keep_their_place_among_found_ones() -> None:
    registry, clock = Registry(), Clock()
    lines = ("http://10.0.0.1:1", "discover:http://registry/targets.json", "http://10.0.0.2:2 backup=yes")
    found, heard = discovery(*lines, reactor=clock, get=registry.get)
    found.start(heard)
    assert heard.updates == [
        ["http://10.0.0.1:1", "http://10.0.0.2:2 backup=yes"],
        ["http://10.0.0.1:1", "http://127.0.0.1:1", "http://10.0.0.2:2 backup=yes"],
    ]
    found.stop()


def test_after_a_reload_what_was_found_is_there_before_it_is_looked_for_again() -> None:
    registry, clock, silent = Registry(), Clock(), Deferred[Any]()
    url = "discover:http://registry/targets.json"
    before, heard = discovery(url, reactor=clock, get=registry.get)
    before.start(heard)
    after, heard = discovery("http://10.0.0.1:1", url, reactor=clock, get=lambda url, headers: silent)
    after.take_over(before)
    before.stop()
    after.start(heard)
    assert heard.updates == [["http://10.0.0.1:1", "http://127.0.0.1:1"]]
    after.stop()
    other, heard = discovery("discover:http://other/targets.json", reactor=clock, get=lambda url, headers: silent)
    other.take_over(before)
    other.start(heard)
    assert heard.updates == []
    other.stop()


# ---- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("http://127.0.0.1:9101", "http://127.0.0.1:9101"),
        ("http://users", "http://users:80"),
        ("https://users/v1/", "https://users:443/v1"),
        ("http://[::1]:81", "http://[::1]:81"),
        ("unix:/run/app.sock", "unix:/run/app.sock"),
        ("unix:///run/app.sock", "unix:/run/app.sock"),
    ],
)
def test_addresses_that_a_target_may_have(line: str, name: str) -> None:
    found = source(line + " weight=3 backup=yes")
    assert isinstance(found, TargetSpec)
    assert (found.name, found.weight, found.backup) == (name, 3, True)
    assert source(str(found)) == found


@pytest.mark.parametrize(
    "line",
    [
        "",
        "127.0.0.1:9101",
        "ftp://a",
        "http://",
        "http://a:b",
        "http://a:99999",
        "http://a/?x",
        "http://u@a",
        "http://a weight=-1",
        "http://a weight",
        "http://a wieght=2",
        "http://a backup=true",
        "http://a scheme=https",
        "unix:app.sock",
        "dns:name",
        "dns::80",
        "dns:name:0",
        "srv:",
    ],
)
def test_lines_that_are_no_target_are_refused(line: str) -> None:
    with pytest.raises(Wrong):
        source(line)


def test_a_source_in_an_answer_is_not_followed() -> None:
    with pytest.raises(Unusable):
        parse_targets(b"dns:evil:80", SourceSpec("file", "/x"))
