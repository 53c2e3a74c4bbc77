"""Names: caches, families, search domains, and what becomes of all that when name servers fail (a real server)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.names import dns

from apigw.net import dns_queries, resolver
from apigw.net.dns_queries import Queries, Unanswered
from apigw.net.resolver import Families, Resolver
from apigw.net.system_names import Hosts, candidates, parse_resolv_conf
from tests.name_server import NameServer
from tests.origins import refusing_port


@pytest_twisted.async_yield_fixture()
async def server() -> AsyncIterator[NameServer]:
    """A name server."""
    server = NameServer()
    yield server
    await server.stop()


class Names:
    """A resolver with a clock and files of its own, which asks one server."""

    def __init__(self, folder: Path, *servers: NameServer) -> None:
        self.now = 1000.0
        self.hosts, self.system = folder / "hosts", folder / "resolv.conf"
        self.hosts.write_text("")
        self.system.write_text("search a.test b.test\noptions ndots:2\n")
        self.resolver = Resolver(lambda: self.now, hosts=str(self.hosts), system=str(self.system))
        self.resolver.use([("127.0.0.1", server.port) for server in servers])

    async def find(self, name: str, families: Families = "any") -> list[str]:
        """The addresses that are told first."""
        return list((await self.resolver.addresses(name, families))[0])

    async def all(self, name: str, families: Families = "any") -> list[tuple[str, ...]]:
        """All that is told, until the last."""
        told: list[tuple[str, ...]] = []
        last: Deferred[None] = Deferred()

        def found(addresses: tuple[str, ...], is_last: bool) -> None:
            told.append(addresses)
            if is_last:
                last.callback(None)

        self.resolver.find(name, families, found)
        await last
        return told

    def settle(self, name: str) -> Awaitable[None]:
        """Until no look-up of the name is under way."""
        return until(lambda: not any(kept._task for kept in self.resolver.kept(name, "any")))


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.002)


@pytest_twisted.async_yield_fixture()
async def names(tmp_path: Path, server: NameServer) -> AsyncIterator[Names]:
    """Names that ask the server."""
    names = Names(tmp_path, server)
    yield names
    names.resolver.close()


A: Any = dns.Record_A
AAAA: Any = dns.Record_AAAA


async def test_an_answer_is_kept_for_its_ttl_and_asked_for_once_however_many_want_it(
    names: Names, server: NameServer
) -> None:
    server.say("x.y.test", A("10.0.0.1", ttl=20), AAAA("fd00::1", ttl=60))
    server.delay("x.y.test", 0.02, dns.A)
    found = [names.resolver.addresses("X.y.Test", "any") for _ in range(50)]
    assert {(await each)[0] for each in found} == {("fd00::1", "10.0.0.1")}
    assert await names.find("x.y.test", "ipv4") == ["10.0.0.1"]
    assert await names.find("x.y.test", "ipv6") == ["fd00::1"]
    assert dict(server.asked) == {("x.y.test", dns.A): 1, ("x.y.test", dns.AAAA): 1}
    names.now += 19.9
    await names.find("x.y.test")
    assert server.asked["x.y.test", dns.A] == 1
    names.now += 0.2
    await names.find("x.y.test")
    await names.settle("x.y.test")
    assert dict(server.asked) == {("x.y.test", dns.A): 2, ("x.y.test", dns.AAAA): 1}


@pytest.mark.parametrize(("silent", "other"), [(dns.AAAA, "10.0.0.1"), (dns.A, "fd00::1")])
async def test_a_family_that_nobody_answers_for_holds_up_the_other_for_50_ms(
    names: Names, server: NameServer, silent: int, other: str
) -> None:
    server.say("x.y.test", A("10.0.0.1", ttl=20), AAAA("fd00::1", ttl=20))
    server.hang("x.y.test", silent)
    began = time.monotonic()
    assert await names.find("x.y.test") == [other]
    assert resolver.DELAY * 0.9 < time.monotonic() - began < 0.4


async def test_addresses_that_come_late_are_told_as_well(names: Names, server: NameServer) -> None:
    server.say("x.y.test", A("10.0.0.1", ttl=20), AAAA("fd00::1", ttl=20))
    server.delay("x.y.test", 0.15, dns.AAAA)
    assert await names.all("x.y.test") == [("10.0.0.1",), ("fd00::1", "10.0.0.1")]


@pytest.mark.parametrize("trouble", ["fail", "hang"])
async def test_without_an_answer_for_a_family_its_last_addresses_hold(
    names: Names, server: NameServer, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_queries, "ROUNDS", (0.05,))
    server.say("x.y.test", A("10.0.0.1", ttl=1), AAAA("fd00::1", ttl=1))
    await names.all("x.y.test")
    server.say("x.y.test", A("10.0.0.2", ttl=1), AAAA("fd00::2", ttl=1))
    getattr(server, trouble)("x.y.test", dns.A)
    names.now += 5
    assert (await names.all("x.y.test"))[-1] == ("fd00::2", "10.0.0.1")
    names.now += 5
    server.recover()
    assert (await names.all("x.y.test"))[-1] == ("fd00::2", "10.0.0.2")


@pytest.mark.parametrize("gone", ["say", "forget"])
async def test_that_there_are_none_is_an_answer(names: Names, server: NameServer, gone: str) -> None:
    server.say("x.y.test", A("10.0.0.1", ttl=1))
    assert await names.find("x.y.test") == ["10.0.0.1"]
    getattr(server, gone)("x.y.test")
    names.now += 60
    with pytest.raises(Unanswered, match=r"x\.y\.test has no address"):
        await names.find("x.y.test")


async def test_an_old_answer_is_used_while_it_is_renewed_but_a_quick_new_one_is_waited_for(
    names: Names, server: NameServer
) -> None:
    server.say("x.y.test", A("10.0.0.1", ttl=1))
    await names.all("x.y.test")
    server.say("x.y.test", A("10.0.0.2", ttl=1))
    names.now += 2
    assert await names.find("x.y.test", "ipv4") == ["10.0.0.2"]
    server.say("x.y.test", A("10.0.0.3", ttl=1))
    server.delay("x.y.test", 0.2, dns.A)
    names.now += 2
    assert await names.find("x.y.test", "ipv4") == ["10.0.0.2"]
    await names.settle("x.y.test")
    assert await names.find("x.y.test", "ipv4") == ["10.0.0.3"]


async def test_a_name_that_nobody_answers_for_holds_up_no_other(
    names: Names, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_queries, "MOST_SOCKETS", 4)
    monkeypatch.setattr(dns_queries, "PATIENCE", 0.02)
    monkeypatch.setattr(dns_queries, "ROUNDS", (600.0,))  # no question ends by its time-out
    for number in range(20):
        server.hang(f"dead{number}.y.test", dns.A, dns.AAAA)
        names.resolver.find(f"dead{number}.y.test", "any", lambda *_: None)
    server.say("x.y.test", A("10.0.0.1", ttl=1))
    assert await names.find("x.y.test", "ipv4") == ["10.0.0.1"]
    assert len(names.resolver.queries._sockets.used) <= 4


async def test_search_domains_are_tried_as_resolv_conf_says(names: Names, server: NameServer) -> None:
    server.say("orders.b.test", A("10.0.0.1", ttl=1))
    server.say("other.b.test", AAAA("fd00::7", ttl=1), A("10.0.0.7", ttl=1))
    server.say("other.a.test", A("10.0.0.2", ttl=1))
    server.say("a.b.c.test", A("10.0.0.3", ttl=1))
    assert await names.find("orders") == ["10.0.0.1"]
    # Of two names that are found, only the first one's addresses are used, for both families.
    assert (await names.all("other"))[-1] == ("10.0.0.2",)
    assert await names.find("a.b.c.test") == ["10.0.0.3"]
    assert ("a.b.c.test.a.test", dns.A) not in server.asked
    with pytest.raises(Unanswered):
        await names.find("orders.")
    assert ("orders", dns.A) in server.asked


def test_names_that_a_name_may_mean() -> None:
    system = parse_resolv_conf(
        "nameserver 10.0.0.53\nnameserver ::1\nsearch x.test. y.test\noptions rotate ndots:2 #\n"
    )
    assert system.servers == (("10.0.0.53", 53), ("::1", 53))
    assert candidates("a.b", system) == ["a.b.x.test", "a.b.y.test", "a.b"]
    assert candidates("a.b.c", system) == ["a.b.c", "a.b.c.x.test", "a.b.c.y.test"]
    assert candidates("a.b.", system) == ["a.b"]
    assert candidates("Bücher.", system) == ["xn--bcher-kva"]
    assert candidates("a..b.", system) == candidates("x" * 64 + ".", system) == []
    assert parse_resolv_conf("").servers == (("127.0.0.1", 53),)


async def test_the_hosts_file_is_asked_first_for_both_families_and_read_again(names: Names, server: NameServer) -> None:
    names.hosts.write_text("10.0.0.7 Orders.y.test shop # x\nfd00::7 shop\nnonsense x\n")
    server.say("orders.y.test", A("127.0.0.1", ttl=60), AAAA("::1", ttl=60))
    assert await names.find("orders.y.test") == await names.find("ORDERS.y.test.") == ["10.0.0.7"]
    assert await names.find("shop") == ["fd00::7", "10.0.0.7"]
    assert await names.find("shop", "ipv4") == ["10.0.0.7"]
    assert not server.asked
    names.hosts.write_text("10.0.0.8 shop\n")
    os.utime(names.hosts, ns=(5, 5))
    names.now += 6
    assert await names.find("shop") == ["10.0.0.8"]
    listed = Hosts("10.0.0.1\tA  b\n#10.0.0.2 a\n10.0.0.3 aa # a\n10.0.0.4 a.\nx a\n")
    assert [listed.find(name) for name in ("a", "b", "c", "10.0.0.1")] == [
        ("10.0.0.1", "10.0.0.4"),
        ("10.0.0.1",),
        None,
        None,
    ]


async def test_localhost_needs_neither_the_file_nor_a_server(names: Names, server: NameServer) -> None:
    assert await names.find("localhost") == await names.find("a.LOCALHOST.") == ["::1", "127.0.0.1"]
    names.hosts.write_text("127.0.0.1 localhost\n")
    names.now += 6
    assert await names.find("localhost") == ["127.0.0.1"]
    assert not server.asked


@pytest.mark.parametrize("spoil", [os.mkfifo, lambda path: path.mkdir(), lambda path: None])
async def test_a_system_file_that_is_no_file_changes_nothing(
    names: Names, server: NameServer, spoil: Callable[[Path], Any]
) -> None:
    names.hosts.write_text("10.0.0.7 shop\n")
    assert await names.find("shop") == ["10.0.0.7"]
    names.hosts.unlink()
    spoil(names.hosts)
    names.now += 60
    if names.hosts.exists():
        assert await names.find("shop") == ["10.0.0.7"]
    else:
        with pytest.raises(Unanswered):
            await names.find("shop")


async def test_the_next_server_is_asked_when_one_fails_refuses_or_is_silent(
    tmp_path: Path, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_queries, "ROUNDS", (0.1, 0.1))
    bad = NameServer()
    for name in ("failing.y.test", "silent.y.test", "none.y.test"):
        server.say(name, A("10.0.0.1", ttl=1))
    bad.fail("failing.y.test", dns.A)
    bad.hang("silent.y.test", dns.A)
    names = Names(tmp_path, bad, server)
    assert await names.find("failing.y.test", "ipv4") == ["10.0.0.1"]
    assert await names.find("silent.y.test", "ipv4") == ["10.0.0.1"]
    bad.say("late.y.test", A("10.0.0.9", ttl=1))
    with pytest.raises(Unanswered):  # the silent one is asked after the other, which knows no such name
        await names.find("late.y.test.", "ipv4")
    with refusing_port() as refusing:
        names.resolver.use([("127.0.0.1", refusing), ("127.0.0.1", server.port)])
        names.now += 5
        assert await names.find("none.y.test", "ipv4") == ["10.0.0.1"]
    names.resolver.close()
    await bad.stop()


async def test_an_answer_too_long_for_udp_comes_over_tcp(names: Names, server: NameServer) -> None:
    addresses = [f"10.0.{number}.1" for number in range(100)]
    server.say("many.y.test", *[A(address, ttl=1) for address in addresses])
    assert await names.find("many.y.test", "ipv4") == addresses


async def test_aliases_are_followed_by_whoever_does_not_do_it_for_us(server: NameServer) -> None:
    queries = Queries([("127.0.0.1", server.port)])
    server.say("alias.test", dns.Record_CNAME("Next.test", ttl=9))
    server.say("next.test", dns.Record_CNAME("end.test", ttl=50))
    server.say("end.test", A("10.0.0.1", ttl=30))
    answer = await asyncio.ensure_future(queries.ask("alias.test", dns.A))
    assert [record.dottedQuad() for record in answer.records] == ["10.0.0.1"]
    assert answer.ttl == 9
    server.say("circle.test", dns.Record_CNAME("circle.test", ttl=9))
    assert not (await asyncio.ensure_future(queries.ask("circle.test", dns.A))).records


async def test_a_watch_tells_of_other_addresses_and_of_nothing_else(names: Names, server: NameServer) -> None:
    names.resolver = Resolver(hosts=str(names.hosts), system=str(names.system))
    names.resolver.use([("127.0.0.1", server.port)])
    server.say("x.y.test", A("10.0.0.1", ttl=1), A("10.0.0.2", ttl=1))
    await names.find("x.y.test", "ipv4")
    told: list[tuple[str, ...]] = []
    stop = names.resolver.watch("x.y.test", "ipv4", told.append)
    server.say("x.y.test", A("10.0.0.2", ttl=1), A("10.0.0.1", ttl=1))
    asked = server.asked["x.y.test", dns.A]
    await until(lambda: server.asked["x.y.test", dns.A] > asked)
    server.say("x.y.test", A("10.0.0.3", ttl=1))
    await until(lambda: told)
    assert told == [("10.0.0.3",)]
    stop()


def test_the_number_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resolver, "MOST_KEPT", 10)
    names = Resolver(lambda: 0.0)
    for number in range(40):
        names.kept(f"name{number}", "any")
    assert len(names._kept) == 10
