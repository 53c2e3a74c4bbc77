"""
START HERE for names: ``Resolver``, the one place where the gateway turns a host's name into addresses.

    cancel = resolver.find("orders.internal", "any", found)     # found(addresses, last) is called once or more
    stop = resolver.watch("orders.internal", "any", changed)    # changed(addresses) whenever they are others
    services, wait = await resolver.services("_http._tcp.orders.internal")

Asked first is ``/etc/hosts``, then the name servers, with the search domains of ``/etc/resolv.conf``. What they say is
kept for its TTL (1 s to 5 min), for a bounded number of names. There is one look-up at a time for each name and kind of
address, and no look-up waits for another: a name or a family that nobody answers for holds up nothing else (RFC 8305).

Only "there is none" (NXDOMAIN, or no such record) takes addresses away. Without an answer the last ones hold: while an
old answer is renewed, for ``DELAY``; when it can't be renewed, until it can (RFC 8767).

Not here: the questions themselves (``dns_queries``); the choice among addresses (``connecting``).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address
from time import monotonic
from typing import Any, Literal

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.names import dns

from apigw.net.dns_queries import Answer, Queries, Unanswered
from apigw.net.small_files import SmallFile
from apigw.net.system_names import Addresses, Hosts, Server, candidates, parse_resolv_conf

log = Logger()

DELAY = 0.05
"""Seconds to wait for the other family, or for a fresh answer in place of an old one (RFC 8305 8)."""

SHORTEST_TTL = 1.0
LONGEST_TTL = 300.0
"""Seconds: longer than this, a mistake in a zone would hold for too long."""

AGAIN = 1.0
"""Seconds after a look-up that failed until the next."""

MOST_KEPT = 8192
"""Answers that are kept; two for each name with both families."""

LOOPBACK = ("localhost", ".localhost")

Families = Literal["any", "ipv4", "ipv6"]
KINDS: dict[str, tuple[int, ...]] = {"any": (dns.AAAA, dns.A), "ipv4": (dns.A,), "ipv6": (dns.AAAA,)}

Found = Callable[[Addresses, bool], None]


class Resolver:
    """
    One a process.

    :ivar servers: the configured name servers; none: those of the system's file.
    """

    def __init__(
        self,
        clock: Callable[[], float] = monotonic,
        *,
        hosts: str = "/etc/hosts",
        system: str = "/etc/resolv.conf",
    ) -> None:
        self.servers: tuple[Server, ...] = ()
        self.queries = Queries()
        self._clock = clock
        self._hosts = SmallFile(hosts, Hosts, clock)
        self._system = SmallFile(system, parse_resolv_conf, clock)
        self._kept: OrderedDict[tuple[str, int], _Kept] = OrderedDict()

    def use(self, servers: Iterable[Server]) -> None:
        """Ask these name servers from now on, none for those of the system; look everything up again when needed."""
        if (servers := tuple(servers)) == self.servers:
            return
        self.servers = servers
        for kept in self._kept.values():
            kept.renew()

    def find(self, name: str, families: Families, found: Found) -> Callable[[], None]:
        """
        Find the addresses of a name.

        :param found: ``found(addresses, last)`` gets all addresses known so far, those of IPv6 first; at once if they
            are fresh, else as soon as there are some, and again when there are more; ``last`` when no more will come.
        :return: what stops it; ``found`` is not called any more.
        """
        finding = _Finding(self.kept(name, families), found, self._clock)
        finding.look()
        return finding.stop

    def addresses(self, name: str, families: Families) -> Deferred[tuple[Addresses, float]]:
        """
        The addresses of a name that are known first, and the seconds until they should be asked for again.

        It fails with ``Unanswered`` when there is no address, or nobody could say.
        """
        answer: Deferred[tuple[Addresses, float]] = Deferred(lambda _: stop())

        def found(addresses: Addresses, last: bool) -> None:
            if answer.called or not (addresses or last):
                return
            kept = self.kept(name, families)
            if addresses:
                answer.callback((addresses, self._wait(kept)))
            else:
                answer.errback(Unanswered(_why(name, kept)))

        stop = self.find(name, families, found)
        if answer.called:
            stop()
        else:
            answer.addBoth(lambda result: (stop(), result)[1])
        return answer

    def services(self, name: str) -> Deferred[tuple[tuple[Any, ...], float]]:
        """
        The SRV records of a name, and the seconds until they should be asked for again.

        It fails with ``Unanswered`` when nobody could say; also when there are old ones.
        """
        answer: Deferred[tuple[tuple[Any, ...], float]] = Deferred(lambda _: kept.settled.remove(settled))
        kept = self._kind(name, dns.SRV)

        def settled() -> None:
            if kept.error:
                answer.errback(Unanswered(_why(name, [kept])))
            else:
                answer.callback((kept.records, self._wait([kept])))

        if kept.fresh(self._clock()):
            settled()
        else:
            kept.settled.append(settled)
            kept.start()
        return answer

    def _wait(self, kept: list[_Kept]) -> float:
        """Seconds until the first of these is too old; a look-up that is under way is over soon."""
        return max(SHORTEST_TTL, _due(kept) - self._clock())

    def watch(self, name: str, families: Families, changed: Callable[[Addresses], None]) -> Callable[[], None]:
        """
        Keep a name's answer fresh, and call ``changed`` with its addresses when they are others than before.

        :return: what ends it.
        """
        watch = _Watch(self, name, families, changed)
        watch.go_on()
        return watch.stop

    def close(self) -> None:
        """Stop all look-ups."""
        for kept in self._kept.values():
            kept.stop()
        self._kept.clear()

    def kept(self, name: str, families: Families) -> list[_Kept]:
        """What is known of a name, for each family."""
        return [self._kind(name, kind) for kind in KINDS[families]]

    def _kind(self, name: str, kind: int) -> _Kept:
        key = (name.lower(), kind)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _Kept(self, *key)
            if len(self._kept) > MOST_KEPT:
                self._make_room()
        else:
            self._kept.move_to_end(key)
        return kept

    def _make_room(self) -> None:
        for key, kept in self._kept.items():
            if not kept.busy:
                del self._kept[key]
                return

    # What one look-up asks

    def from_file(self, name: str, kind: int) -> Answer | None:
        """What ``/etc/hosts`` says, or what ``localhost`` always is; None: the name servers must say."""
        if kind == dns.SRV:
            return None
        bare = name.removesuffix(".")
        listed = self._hosts.get().find(bare)
        if listed is None and (bare == LOOPBACK[0] or bare.endswith(LOOPBACK[1])):
            listed = ("::1", "127.0.0.1")
        if listed is None:
            return None
        # A name that the file has in one family is not asked for elsewhere in the other, as with getaddrinfo.
        return Answer(tuple(each for each in listed if (":" in each) == (kind == dns.AAAA)), 5.0)

    async def from_servers(self, name: str, kind: int, known: int) -> tuple[int, Answer]:
        """
        Ask the name servers, in each search domain in turn.

        :param known: the place of the answer that is known, -1 for none: a later one can't replace it while an earlier
            one may only be out of reach.
        :return: which of the searched names it was (-1: none of them), and what there is.
        :raises Unanswered: nobody could say.
        """
        system = self._system.get()
        self.queries.servers = self.servers or system.servers
        failed = ""
        none: Answer | None = None
        for place, candidate in enumerate(candidates(name, system)):
            try:
                answer = await self.queries.ask(candidate, kind)
            except Unanswered as error:
                failed = failed or str(error)
                if known >= 0 or error.silent:
                    break
                continue
            if answer.records:
                return place, answer
            none = none or answer
        if failed or none is None:
            raise Unanswered(failed or "it is no name")
        return -1, none


class _Kept:
    """
    The records of one kind of one name.

    :ivar records: addresses as text, or the payloads of other kinds. :ivar place: which of the searched names has them.
    :ivar expires: when to ask again. :ivar error: why the last look-up failed; empty if it did not.
    :ivar answered: there was an answer, good or "none", once.
    :ivar settled: called when a look-up ends. :ivar watched: the same, again and again.
    """

    __slots__ = (
        "_clock", "_kind", "_name", "_resolver", "_task",
        "answered", "error", "expires", "place", "records", "settled", "since", "watched",
    )  # fmt: skip

    def __init__(self, resolver: Resolver, name: str, kind: int) -> None:
        self._resolver = resolver
        self._clock = resolver._clock
        self._name = name
        self._kind = kind
        self._task: asyncio.Task[None] | None = None
        self.records: tuple[Any, ...] = ()
        self.place = -1
        self.expires = float("-inf")
        self.error = ""
        self.answered = False
        self.since = 0.0
        self.settled: list[Callable[[], None]] = []
        self.watched: list[Callable[[], None]] = []

    @property
    def busy(self) -> bool:
        return self._task is not None or bool(self.settled or self.watched)

    def fresh(self, now: float) -> bool:
        return now < self.expires

    def start(self) -> None:
        """Look it up, if that is not under way."""
        if self._task is not None:
            return
        answer = self._resolver.from_file(self._name, self._kind)
        if answer is not None:
            self._take(0 if answer.records else -1, answer)
            return
        self.since = self._clock()
        self._task = asyncio.get_running_loop().create_task(self._look())

    def renew(self) -> None:
        """What is known is no longer good; a look-up that is under way begins again."""
        self.expires = float("-inf")
        under_way = self._task is not None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if under_way or self.watched:
            self.start()

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.settled.clear()
        self.watched.clear()

    async def _look(self) -> None:
        known = self.place if self.records else -1
        try:
            place, answer = await self._resolver.from_servers(self._name, self._kind, known)
        except Unanswered as error:
            self._task = None
            self._failed(str(error))
        except Exception as error:
            log.failure("looking up {name} failed", name=self._name)
            self._task = None
            self._failed(type(error).__name__)
        else:
            self._task = None
            self._take(place, answer)

    def _take(self, place: int, answer: Answer) -> None:
        if self.error and self.records:
            log.info("{kind} of {name} is known again", kind=_KIND[self._kind], name=self._name)
        self.error = ""
        self.answered = True
        self.place = place
        self.records = tuple(map(_shown, answer.records))
        self.expires = self._clock() + min(max(answer.ttl, SHORTEST_TTL), LONGEST_TTL)
        self._tell()

    def _failed(self, why: str) -> None:
        if not self.error and self.records:
            log.warn(
                "{kind} of {name} can't be looked up: {why}; the last answer holds: {records}",
                kind=_KIND[self._kind],
                name=self._name,
                why=why,
                records=", ".join(map(str, self.records[:8])),
            )
        self.error = why
        self.expires = self._clock() + AGAIN
        self._tell()

    def _tell(self) -> None:
        settled, self.settled = self.settled, []
        for call in [*settled, *self.watched]:
            call()


class _Finding:
    """One who waits for a name's addresses."""

    def __init__(self, kept: list[_Kept], found: Found, clock: Callable[[], float]) -> None:
        self._kept = kept
        self._found = found
        self._clock = clock
        self._pending: set[_Kept] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._starting = False
        self._over = False
        self._told: Addresses | None = None

    def look(self) -> None:
        now = self._clock()
        self._pending = {kept for kept in self._kept if not kept.fresh(now)}
        for kept in self._pending:
            kept.settled.append(self._settled)
        self._starting = True
        for kept in [*self._pending]:
            kept.start()
        self._starting = False
        self._settled()

    def _settled(self) -> None:
        if self._over or self._starting:
            return
        self._pending = {kept for kept in self._pending if self._settled in kept.settled}
        if not self._pending:
            self._tell(last=True)
        elif self._told is not None:  # some were told already: add what came late
            self._tell(last=False)
        elif self._timer is None:
            self._wait()

    def _wait(self) -> None:
        """What is known already waits for the rest, but not for long."""
        if any(kept.records for kept in self._kept):
            # What had no address a moment ago is not waited for.
            awaited = [kept.since for kept in self._pending if kept.records or not kept.answered]
            left = max(awaited, default=-DELAY) + DELAY - self._clock()
            if left <= 0:
                self._tell(last=False)
            else:
                self._timer = asyncio.get_running_loop().call_later(left, self._late)

    def _late(self) -> None:
        self._tell(last=False)

    def _tell(self, *, last: bool) -> None:
        self._told = _together(self._kept)
        if last:
            self.stop()
        self._found(self._told, last)

    def stop(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for kept in self._pending:
            with suppress(ValueError):
                kept.settled.remove(self._settled)
        self._pending = set()


class _Watch:
    """Keeps a name's answer fresh."""

    def __init__(self, resolver: Resolver, name: str, families: Families, changed: Callable[[Addresses], None]) -> None:
        self._clock = resolver._clock
        self._kept = resolver.kept(name, families)
        self._changed = changed
        self._last = _together(self._kept)
        self._timer: asyncio.TimerHandle | None = None
        for kept in self._kept:
            kept.watched.append(self._news)

    def go_on(self) -> None:
        """Look up what is too old, and come back when something is."""
        now = self._clock()
        for kept in self._kept:
            if not kept.fresh(now):
                kept.start()
        self._wait()

    def _wait(self) -> None:
        now = self._clock()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if fresh := [kept for kept in self._kept if kept.fresh(now)]:  # news of the others is to come
            self._timer = asyncio.get_running_loop().call_later(max(_due(fresh) - now, DELAY), self.go_on)

    def _news(self) -> None:
        self._wait()
        addresses = _together(self._kept)
        if set(addresses) != set(self._last):
            self._last = addresses
            self._changed(addresses)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for kept in self._kept:
            with suppress(ValueError):
                kept.watched.remove(self._news)


_KIND = {dns.A: "the IPv4 address", dns.AAAA: "the IPv6 address", dns.SRV: "the service"}


def _shown(record: Any) -> Any:
    if isinstance(record, dns.Record_A):
        return record.dottedQuad()
    if isinstance(record, dns.Record_AAAA):
        return str(ip_address(record.address))
    return record


def _together(kept: list[_Kept]) -> Addresses:
    """All addresses; if the families were found under different names, those of the first searched name."""
    place = min((each.place for each in kept if each.records), default=-1)
    return tuple(record for each in kept if each.place == place for record in each.records)


def _due(kept: list[_Kept]) -> float:
    """When the first of these is too old; "there is none" counts if that is all there is."""
    return min(each.expires for each in [each for each in kept if each.records] or kept)


def _why(name: str, kept: list[_Kept]) -> str:
    errors = dict.fromkeys(each.error for each in kept if each.error)
    return f"{name} can't be looked up: {', '.join(errors)}" if errors else f"{name} has no address"
