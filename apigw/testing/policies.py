"""
What a policy gets from the gateway, scripted: time that is set, services that answer as told, a store in memory.

    world = World()
    policy = Audit(Audit.Settings(header="X-Audit"), world.environment("python", "audit"))
    outcome = run(policy, request("GET", "/x", headers={"Accept": "*/*"}))
    assert outcome.status == 200
    world.advance(60)

Not here: the whole gateway (``apigw.testing.gateway``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, execute, succeed
from twisted.logger import ILogObserver, Logger

from apigw.exchange.body import Body
from apigw.exchange.cookies import giving
from apigw.exchange.errors import UpstreamFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import Responder, stack
from apigw.exchange.response import Response
from apigw.net.files import Files
from apigw.policies.consumers import ConsumerSettings
from apigw.policies.policy import Environment, FetchedResponse
from apigw.policies.revocation import Revocations
from apigw.stores.limits import MemoryLimits

T = TypeVar("T")

START = 1_800_000_000.0
"""The wall-clock time at which a test begins."""


class MemoryStore:
    """The state store of one process."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.values: dict[bytes, tuple[bytes, float]] = {}
        self.sets: dict[bytes, dict[bytes, float]] = {}
        self.away = False

    def _answer(self, value: Any) -> Awaitable[Any]:
        answer: Deferred[Any] = Deferred()
        if self.away:
            answer.errback(ConnectionRefusedError("no store"))
        else:
            answer.callback(value)
        return answer

    def get(self, key: bytes) -> Awaitable[bytes | None]:
        value, until = self.values.get(key, (None, 0.0))
        return self._answer(value if until > self._now() else None)

    def put(self, key: bytes, value: bytes, ttl: float) -> Awaitable[None]:
        self.values[key] = (value, self._now() + ttl)
        return self._answer(None)

    def delete(self, key: bytes) -> Awaitable[None]:
        self.values.pop(key, None)
        return self._answer(None)

    def set_add(self, key: bytes, member: bytes, until: float) -> Awaitable[None]:
        self.sets.setdefault(key, {})[member] = until
        return self._answer(None)

    def set_discard(self, key: bytes, member: bytes) -> Awaitable[None]:
        self.sets.get(key, {}).pop(member, None)
        return self._answer(None)

    def set_members(self, key: bytes) -> Awaitable[list[tuple[bytes, float]]]:
        return self._answer([each for each in self.sets.get(key, {}).items() if each[1] > self._now()])


class Asked:
    """One request that a policy sent out, until the test answers it."""

    def __init__(self, method: str, url: str, headers: Sequence[Pair], body: bytes, timeout: float) -> None:
        self.method = method
        self.url = url
        self.headers = Headers(headers)
        self.body = body
        self.timeout = timeout
        self.answer: Deferred[FetchedResponse] = Deferred()

    def respond(self, body: bytes, status: int = 200, headers: Sequence[Pair] = ()) -> None:
        self.answer.callback(FetchedResponse(status, Headers(headers), body))

    def fail(self, detail: str = "refused") -> None:
        self.answer.errback(UpstreamFault(detail, reason="upstream_refused"))


class FilesAtOnce(Files):
    """Files without threads."""

    def beside(self, path: str, work: Callable[[], T]) -> Deferred[T]:
        return execute(work)


class World:
    """Everything outside of the policy."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.asked: list[Asked] = []
        self.answers: Callable[[Asked], None] | None = None
        self.counts: Counter[str] = Counter()
        self.logged: list[dict[str, Any]] = []
        self.in_threads = 0
        self.store = MemoryStore(self.now)
        self.consumers: dict[str, ConsumerSettings] = {}
        self.policies: dict[tuple[str, str], Any] = {}
        self.revocations: Revocations | None = None
        self.files = FilesAtOnce(clock=self.clock)

    def clock(self) -> float:
        return self.time

    def now(self) -> float:
        return START - 1000.0 + self.time

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        timer = (self.time + seconds, call)
        self.timers.append(timer)

        def cancel() -> None:
            if timer in self.timers:
                self.timers.remove(timer)

        return cancel

    def advance(self, seconds: float) -> None:
        """Let time pass; what was due is called in order."""
        end = self.time + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda each: each[0])
            self.timers.remove(timer)
            self.time = max(self.time, timer[0])
            timer[1]()
        self.time = end

    def fetch(
        self, method: str, url: str, headers: Sequence[Pair] = (), body: bytes = b"", timeout: float = 5.0
    ) -> Awaitable[FetchedResponse]:
        asked = Asked(method, url, headers, body, timeout)
        self.asked.append(asked)
        if self.answers is not None:
            self.answers(asked)
        return asked.answer

    def call_in_thread(self, call: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        self.in_threads += 1
        return succeed(call(*arguments))

    def beside(self, work: Callable[[], Any]) -> Awaitable[Any]:
        return self.call_in_thread(work)

    def policy(self, kind: str, name: str) -> Any:
        return self.policies[kind, name]

    def count(self, event: str) -> None:
        self.counts[event] += 1

    def environment(self, kind: str, name: str = "main") -> Environment:
        return Environment(
            kind=kind,
            name=name,
            clock=self.clock,
            now=self.now,
            later=self.later,
            fetch=self.fetch,
            store=self.store,
            limits=MemoryLimits(self.clock, self.later),
            files=self.files,
            call_in_thread=self.call_in_thread,
            beside=self.beside,
            policy=self.policy,
            log=Logger("policies", observer=cast("ILogObserver", self.logged.append)),
            count=self.count,
            consumers=self.consumers,
            revocations=self.revocations,
        )


def request(
    method: str = "GET",
    path: str = "/",
    *,
    query: str | None = None,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    client: str = "192.0.2.1",
    scheme: str = "http",
    body: bytes | None = None,
) -> Request:
    """A request as a connection makes it: its header fields are shared, and ready to be sent on."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    content = None
    if body is not None:
        content = Body(None, len(body))
        content.feed(body)
        content.end()
    made = Request(
        method.encode(),
        path.encode(),
        None if query is None else query.encode(),
        Headers(fields),
        content,
        client=client,
    )
    made.lines = b"".join(b"%b: %b\r\n" % pair for pair in fields)
    made.scheme = scheme.encode()
    made.id = b"r1"
    return made


class Outcome:
    """What became of a request: the response, and whether the service was asked, with which fields."""

    def __init__(self) -> None:
        self.responses: list[Response] = []
        self.passed: list[Request] = []

    @property
    def response(self) -> Response:
        assert len(self.responses) == 1, f"answered {len(self.responses)} times"
        return self.responses[0]

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def reason(self) -> str:
        return self.response.error.reason if self.response.error is not None else ""


def run(policies: Any, asked: Request, service: Responder | None = None) -> Outcome:
    """Send a request through policies (one or a list) to a service that answers 200."""
    outcome = Outcome()

    def answer(passed: Request, done: Callable[[Response], None]) -> None:
        outcome.passed.append(passed)
        if service is None:
            done(Response(200, Headers([(b"Content-Type", b"text/plain")]), b"the service"))
        else:
            service(passed, done)

    giving(stack(policies if isinstance(policies, list) else [policies], answer))(asked, outcome.responses.append)
    return outcome
