"""
``Queries``: asks name servers one question, and says what they answered (RFC 1035).

    answer = await queries.ask("orders.internal", dns.A)
    answer.records, answer.ttl, answer.exists

UDP first, TCP when the answer is truncated; a server that is silent, refuses or fails is passed over for the next one,
and asked last for a while. Only a positive answer, NODATA and NXDOMAIN are answers; everything else is ``Unanswered``.

The codec is twisted.names'; its client is not used: it opens sockets without a bound, takes SERVFAIL of one server for
the answer of all, and logs each query.

Not here: what is remembered, search domains, /etc/hosts (``resolver``).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from twisted.names import dns

from apigw.net.system_names import Server
from apigw.net.turns import TURNS

ROUNDS = (0.5, 1.0, 2.0, 4.0)
"""Seconds to wait for a server in each round; every server is asked once a round."""

ILL = 30.0
"""Seconds in which a server that gave no answer is asked after the others."""

MOST_SOCKETS = 64
"""Questions over UDP at a time. If all are used, the oldest one that waited for ``PATIENCE`` gives way."""
PATIENCE = 0.25

MOST_TCP = 16
"""Questions over TCP at a time."""

LARGEST_TCP = 16 * 1024
"""Bytes of an answer over TCP; more would take too long to decode on the reactor."""

MOST_ALIASES = 8
"""CNAME records that are followed when a server doesn't follow them itself."""

NO_NAME_TTL = 1.0
NO_DATA_TTL = 5.0
"""Seconds for which NXDOMAIN and NODATA hold at most (RFC 2308 allows more; services come and go quickly)."""


class Unanswered(Exception):
    """
    No name server answered, or none knew. The text says why.

    :ivar silent: a server gave no answer in time.
    """

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


class Answer(NamedTuple):
    """
    What there is of one kind.

    :ivar records: the payloads; none for NODATA and NXDOMAIN. :ivar ttl: seconds for which it holds.
    :ivar exists: False for NXDOMAIN: there is nothing of any kind.
    """

    records: tuple[Any, ...]
    ttl: float
    exists: bool = True


class Queries:
    """
    Questions to the name servers.

    :ivar servers: addresses and ports, in the order in which they are asked.
    """

    def __init__(self, servers: Iterable[Server] = ()) -> None:
        self.servers: tuple[Server, ...] = tuple(servers)
        self._ill: dict[Server, float] = {}
        self._sockets = _Sockets()
        self._tcp = asyncio.Semaphore(MOST_TCP)

    async def ask(self, name: str, kind: int) -> Answer:
        """
        Ask for one kind of records of an absolute name (ASCII, without the dot at its end).

        :raises Unanswered: neither there are such records nor there are none: nobody said.
        """
        asked, ttl = name.lower(), float("inf")
        for _ in range(MOST_ALIASES + 1):
            message = await self._exchange(asked, kind)
            records, shortest, end = _chain(message, asked, kind)
            ttl = min(ttl, shortest)
            if message.rCode == dns.ENAME:
                return Answer((), min(ttl, NO_NAME_TTL, _negative_ttl(message)), exists=False)
            if records:
                return Answer(tuple(records), ttl)
            if end == asked or message.recAv or any(each.type == dns.SOA for each in message.authority):
                return Answer((), min(ttl, _negative_ttl(message)))
            asked = end
        raise Unanswered("too many aliases")

    async def _exchange(self, name: str, kind: int) -> dns.Message:
        failed: dict[Server, str] = {}
        silent: set[Server] = set()
        for timeout in ROUNDS:
            for server in self._in_order():
                if server in failed:
                    continue
                try:
                    message = await self._try(server, name, kind, timeout)
                except TimeoutError:
                    silent.add(server)
                    self._ill[server] = _now() + ILL
                    continue
                except (OSError, ValueError, EOFError) as error:
                    failed[server] = str(error) or type(error).__name__
                    self._ill[server] = _now() + ILL
                    continue
                self._ill.pop(server, None)
                if message.rCode in {dns.OK, dns.ENAME}:
                    return message
                failed[server] = _RCODES.get(message.rCode, f"code {message.rCode}")
            if len(failed) >= len(self.servers):
                break
        said = dict.fromkeys(failed.values())
        silent -= failed.keys()
        if silent:
            said["no answer in time"] = None
        raise Unanswered(", ".join(said) or "there is no name server", silent=bool(silent))

    def _in_order(self) -> list[Server]:
        now = _now()
        return sorted(self.servers, key=lambda server: self._ill.get(server, 0.0) > now)

    async def _try(self, server: Server, name: str, kind: int, timeout: float) -> dns.Message:  # noqa: ASYNC109
        question = _Question(server, name, kind, timeout)
        self._sockets.enter(question)
        try:
            message = await question.answer
        finally:
            question.close()
            self._sockets.leave(question)
        if isinstance(message, str):
            raise OSError(message) if message else TimeoutError
        if message.trunc:
            async with asyncio.timeout(max(timeout, 1.0)), self._tcp:
                message = await question.by_tcp()
        return message


class _Question:
    """
    One question to one server over UDP.

    It has a socket of its own, whose random port is what makes a forged answer unlikely (RFC 5452 9.2).
    """

    __slots__ = ("_address", "_asked", "_family", "_loop", "_query", "_sock", "_timeout", "_timer", "answer", "server")

    def __init__(self, server: Server, name: str, kind: int, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.server = server
        self.answer: asyncio.Future[dns.Message | str] = self._loop.create_future()
        self._asked = (secrets.randbits(16), name, kind)
        self._timeout = timeout
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._query = b""
        self._family = 0
        self._address: Any = None

    def take_turn(self) -> None:
        """Send it."""
        if self.answer.done():
            return
        try:
            self._send()
        except OSError as error:
            self.fail(str(error))

    def _send(self) -> None:
        number, name, kind = self._asked
        question = dns.Message(number, recDes=1)
        question.addQuery(name.encode(), kind, dns.IN)
        self._query = question.toStr()
        self._family, _, _, _, self._address = socket.getaddrinfo(*self.server, flags=socket.AI_NUMERICHOST)[0]
        sock = self._sock = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.connect(self._address)
        sock.send(self._query)
        self._loop.add_reader(sock, self._read)
        self._timer = self._loop.call_later(self._timeout, self.fail)

    def _read(self) -> None:
        """Take what arrived, as far as it is the answer to what was asked."""
        assert self._sock is not None
        try:
            message = _decoded(self._sock.recv(65535), self._asked)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(str(error))
            return
        if message is not None and not self.answer.done():
            self.answer.set_result(message)

    def fail(self, why: str = "") -> None:
        """There is no answer; without a reason, not in time."""
        if not self.answer.done():
            self.answer.set_result(why)  # an exception would refer to those who wait for it, and they to it

    def abort(self) -> None:
        """Its turn failed."""
        self.fail("a defect of the gateway")

    def close(self) -> None:
        """Let go of everything."""
        self.answer.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    async def by_tcp(self) -> dns.Message:
        """The same over TCP."""
        return await _by_tcp(self._family, self._address, self._query, self._asked)


class _Sockets:
    """Which questions have a socket, in the order in which they got it, and which wait for one."""

    def __init__(self) -> None:
        self.used: dict[_Question, float] = {}
        self._waiting: deque[_Question] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, question: _Question) -> None:
        """Send it, now or when there is a socket for it."""
        if len(self.used) < MOST_SOCKETS and not self._waiting:
            self._use(question)
        else:
            self._waiting.append(question)
            self._watch()

    def leave(self, question: _Question) -> None:
        """It is over."""
        if self.used.pop(question, None) is None and question in self._waiting:
            self._waiting.remove(question)
        while self._waiting and len(self.used) < MOST_SOCKETS:
            self._use(self._waiting.popleft())

    def _use(self, question: _Question) -> None:
        self.used[question] = _now()
        TURNS.wait(question)  # hundreds at once must not hold up the loop

    def _watch(self) -> None:
        """Come back when the oldest must give way."""
        if self._timer is None and self._waiting:
            since = next(iter(self.used.values()))
            self._timer = asyncio.get_running_loop().call_later(max(0.0, since + PATIENCE - _now()), self._give_way)

    def _give_way(self) -> None:
        self._timer = None
        late = _now() - PATIENCE
        for oldest, since in list(self.used.items())[: len(self._waiting)]:
            if since > late:
                break
            del self.used[oldest]
            oldest.fail()
            self._use(self._waiting.popleft())
        self._watch()


_RCODES = {
    dns.EFORMAT: "FORMERR",
    dns.ESERVER: "SERVFAIL",
    dns.ENOTIMP: "NOTIMP",
    dns.EREFUSED: "REFUSED",
}


def _now() -> float:
    return asyncio.get_running_loop().time()


def _decoded(data: bytes, asked: tuple[int, str, int]) -> dns.Message | None:
    """The message, or None if it is not the answer to what was asked."""
    number, name, kind = asked
    if len(data) < 12 or int.from_bytes(data[:2], "big") != number:
        return None
    message = dns.Message()
    try:
        message.fromStr(data)
    except Exception:  # whatever the decoder makes of nonsense
        if not data[2] & 0x02:
            return None
        return dns.Message(number, answer=1, trunc=1)  # cut off in the middle of a record: TCP has all of it
    questions = [(_text(each.name), each.type) for each in message.queries]
    if not message.answer or (questions != [(name, kind)] and (questions or message.rCode in {dns.OK, dns.ENAME})):
        return None  # only a server that did not understand the question may leave it out
    return message


async def _by_tcp(family: int, address: Any, query: bytes, asked: tuple[int, str, int]) -> dns.Message:
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, struct.pack("!H", len(query)) + query)
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            piece = await loop.sock_recv(sock, 65535)
            if not piece:
                raise EOFError("the connection was closed in the middle of an answer")
            data += piece
            if len(data) > LARGEST_TCP:
                raise ValueError(f"an answer of more than {LARGEST_TCP} bytes")
    message = _decoded(data[2 : 2 + int.from_bytes(data[:2], "big")], asked)
    if message is None or message.trunc:
        raise ValueError("an answer that can't be understood")
    return message


def _chain(message: dns.Message, name: str, kind: int) -> tuple[list[Any], float, str]:
    """The records of ``name`` or of what it is an alias of, the shortest TTL on the way, and the last name."""
    aliases: dict[str, Any] = {}
    found: dict[str, list[Any]] = {}
    for each in message.answers:
        if each.cls == dns.IN and each.type == kind:
            found.setdefault(_text(each.name), []).append(each)
        elif each.cls == dns.IN and each.type == dns.CNAME:
            aliases.setdefault(_text(each.name), each)
    ttl = float("inf")
    while name not in found and name in aliases:  # each alias once, so there is no circle
        alias = aliases.pop(name)
        ttl = min(ttl, alias.ttl)
        name = _text(alias.payload.name)
    records = found.get(name, [])
    return [each.payload for each in records], min([ttl, *(each.ttl for each in records)]), name


def _negative_ttl(message: dns.Message) -> float:
    """RFC 2308 5: the SOA record says."""
    ttl = NO_DATA_TTL
    for each in message.authority:
        if isinstance(each.payload, dns.Record_SOA):
            ttl = min(ttl, each.ttl, each.payload.minimum)
    return ttl


def _text(name: dns.Name) -> str:
    return name.name.decode("latin-1").lower()
