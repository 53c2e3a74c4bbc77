"""
What a policy is: a module docstring with its INI example, a frozen ``Settings``, and one class.

    class Settings(PolicySettings):
        allow: StrList = ()

    class IPFilter(Policy[Settings]):
        def on_request(self, request: Request) -> Response | None: ...

The class is built once per section, as ``IPFilter(settings, environment)``; every route that lists the section shares
the instance. It has one of the three forms of ``apigw.exchange.responder``: phases, ``respond``, or ``wrap``.

- Settings that can't work together, which the settings' own validators can't see (an unreadable file): the constructor
  raises ``ValueError`` with one sentence. It makes no connection and starts no timer.
- If it has ``start()`` (plain, or ``async def``), that is called before the first request, ``stop()`` after the last.
- If it has ``take_over(former)``, that is called before ``start()`` with the policy of the same section that it
  replaces at a reload, which goes on until then: what was learned from elsewhere need not be asked for again.
- A refusal is a raised ``GatewayError`` (or a returned Response with status 400 or above).
- A policy that refuses *responses* raises, and leaves the response that it was given fit to be sent: if it collected
  the body, it puts ``response.body = collected`` back first. So the same policy works in shadow.

``mode = shadow`` needs nothing in the policy: ``layer`` puts ``Shadow`` around it.

Not here: which policies there are (``catalogue``), who builds and orders them (``apigw.gateway``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from pydantic import ConfigDict
from twisted.logger import Logger

from apigw.config.model import Settings
from apigw.config.values import Mode
from apigw.exchange.errors import ClientGone
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Given, Request
from apigw.exchange.responder import Done, Next, Responder, failed, wrapped
from apigw.exchange.response import Response
from apigw.net.files import Files
from apigw.policies.consumers import ConsumerSettings
from apigw.policies.revocation import Revocations, SharedSets


class PolicySettings(Settings):
    """What every policy's section may say."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    mode: Mode = "enforce"
    """``shadow`` decides, counts and notes ``would_deny``, and lets pass."""


@dataclass(frozen=True, slots=True)
class FetchedResponse:
    """The whole answer of a service that a policy asked; the body is decoded (gzip) and complete."""

    status: int
    headers: Headers
    body: bytes


class Fetch(Protocol):
    """Ask a service over HTTP, through the gateway's pools, time-outs and breakers."""

    def __call__(
        self, method: str, url: str, headers: Sequence[Pair] = (), body: bytes = b"", timeout: float = 5.0
    ) -> Awaitable[FetchedResponse]:
        """
        One request; no redirect is followed, no cookie kept. At most 1 MiB is taken.

        :param timeout: seconds for all of it.
        :raises GatewayError: when there is no whole answer in time.
        """


class Store(SharedSets, Protocol):
    """
    What the workers of a machine, or the machines of a cluster, share: values and sets, all of which end by themselves.

    Waiting is the caller's choice; a store in this process's memory answers with a result that is already there.
    """

    def get(self, key: bytes) -> Awaitable[bytes | None]:
        """The value, or None when there is none (any more)."""

    def put(self, key: bytes, value: bytes, ttl: float) -> Awaitable[None]:
        """Keep ``value`` for ``ttl`` seconds."""

    def delete(self, key: bytes) -> Awaitable[None]:
        """Forget a value."""


class Limiter(Protocol):
    """How much each key may still have."""

    def take(self, key: object, cost: int = 1) -> tuple[int, float] | Awaitable[tuple[int, float]]:
        """
        Take ``cost`` for ``key`` from all windows, or from none. Waiting is possible: others may share the limit.

        :return: (window, seconds). Seconds of 0 and more: it is granted, and that window is full again after so many.
            Below 0: it is refused, and would be granted after so many. The window, by number, is the one that has
            the least left, or that makes the client wait longest. A cost above the burst is never granted.
        """

    def stop(self) -> None:
        """Forget everything."""


class Limits(Protocol):
    """Makes limiters."""

    def limiter(self, name: str, windows: Sequence[tuple[int, float, int]], max_keys: int) -> Limiter:
        """
        A limiter of (limit, seconds, burst) windows.

        :param name: what it is known by where limits are shared.
        :param max_keys: so many keys are remembered.
        """


@dataclass(frozen=True, slots=True)
class Environment:
    """
    What the gateway gives a policy.

    :ivar kind: the section's kind, like ``jwt``. :ivar name: its name, like ``main``; empty for a bare kind.
    :ivar clock: monotonic seconds. :ivar now: wall-clock seconds since the epoch.
    :ivar later: call something after so many seconds; what is returned cancels it.
    :ivar files: reads files beside the reactor, and says which can't be used.
    :ivar call_in_thread: run something that takes long, and lets go of the interpreter, outside of the reactor.
    :ivar beside: run something that takes long and holds the interpreter: one at a time, at most 64 wait.
    :ivar policy: another section's policy by kind and name, for a policy made of policies. Raises LookupError.
    :ivar count: add one to the policy's metric for an event, like ``would_deny`` or ``key_fetch_failed``.
    """

    kind: str
    name: str
    clock: Callable[[], float]
    now: Callable[[], float]
    later: Callable[[float, Callable[[], None]], Callable[[], None]]
    fetch: Fetch
    store: Store
    limits: Limits
    files: Files
    call_in_thread: Callable[..., Awaitable[Any]]
    beside: Callable[[Callable[[], Any]], Awaitable[Any]]
    policy: Callable[[str, str], Any]
    log: Logger
    count: Callable[[str], None]
    consumers: Mapping[str, ConsumerSettings] = field(default_factory=dict)
    revocations: Revocations | None = None

    @property
    def label(self) -> str:
        """As a route's list writes it: ``jwt main``."""
        return f"{self.kind} {self.name}" if self.name else self.kind


S = TypeVar("S", bound=PolicySettings)


class Policy(Generic[S]):
    """
    The base of the built-in policies; it only keeps what they are built with.

    :cvar authenticates: whether it sets ``request.identity``.
    :cvar needs_identity: whether it can't decide without one. An instance may set it by its settings.
    :cvar answers_preflights: whether it answers CORS preflights, which carry no credentials.
    :cvar identity_headers: request fields that it sets for the service and removes from what the client sends, in
        lower case. :cvar credential_headers: request fields in which it looks for a credential. An instance may set
        both; an item of a batch can set neither.
    :cvar gives_cookies: whether it gives clients cookies, by ``exchange.cookies.give``.
    :ivar warnings: what ``apigw check`` says about it: option and words.
    :ivar in_shadow: whether it is only tried: what passes is to stay as it is.
    """

    authenticates: bool = False
    needs_identity: bool = False
    answers_preflights: bool = False
    gives_cookies: bool = False
    identity_headers: frozenset[bytes] = frozenset()
    credential_headers: frozenset[bytes] = frozenset()
    warnings: Sequence[tuple[str, str]] = ()

    def __init__(self, settings: S, environment: Environment) -> None:
        self.settings = settings
        self.environment = environment
        self.in_shadow = settings.mode == "shadow"


def layer(policy: Any, settings: PolicySettings, environment: Environment) -> Any:
    """The policy as it goes into ``exchange.responder.stack``: itself, or in shadow."""
    return Shadow(policy, environment) if settings.mode == "shadow" else policy


def note_shadow(environment: Environment, request: Request, status: int, reason: str) -> None:
    """Count and note what a policy in shadow would have answered."""
    event = "would_deny" if status >= 400 else "would_answer"
    environment.count(event)
    notes = request.notes or {}
    request.note(event, [*notes.get(event, ()), {"policy": environment.label, "status": status, "reason": reason}])


_Before = tuple[str, Given | None]
"""What a request had before a policy in shadow saw it: its reason, and the cookies for the client."""


class Shadow:
    """
    Any policy, with its teeth drawn: where it would refuse (or answer by itself) the request goes on, and where it
    would refuse the response, the response goes out. What would have been is counted and noted as ``would_deny`` (or
    ``would_answer`` for a status below 400). A policy whose work is to change messages leaves them as they are
    (``Policy.in_shadow``); what one proves of the caller is there for those behind it.
    """

    def __init__(self, policy: Any, environment: Environment) -> None:
        self.policy = policy
        self.environment = environment

    def wrap(self, inner: Responder) -> Responder:
        policy = self.policy
        if getattr(policy, "wrap", None) is not None:
            return self._around_responder(inner)
        if getattr(policy, "respond", None) is not None:
            return self._around_coroutine(inner)
        return self._around_phases(inner)

    def _note(self, request: Request, status: int, reason: str) -> None:
        note_shadow(self.environment, request, status, reason)

    def _refused(self, request: Request, response: Response, before: _Before) -> None:
        """Note what ``response`` would have said, and forget it."""
        reason = response.error.reason if response.error is not None else ""
        request.reason, request.given = before
        self._note(request, response.status, reason)
        response.discard()

    def _around_phases(self, inner: Responder) -> Responder:
        on_request = getattr(self.policy, "on_request", None)
        on_response = getattr(self.policy, "on_response", None)
        onward = inner if on_response is None else wrapped(_ResponsePhase(self, on_response), inner)
        if on_request is None:
            return onward

        def respond(request: Request, done: Done) -> None:
            # A refused request does not pass the policy's own response phase, as when it is enforced.
            before = request.reason, request.given

            def decided(early: Response | None) -> None:
                if early is None:
                    onward(request, done)
                elif isinstance(early.error, ClientGone):
                    done(early)
                else:
                    self._refused(request, early, before)
                    inner(request, done)

            wrapped(_Phase(on_request), lambda _request, _done: decided(None))(request, decided)

        return respond

    def _around_coroutine(self, inner: Responder) -> Responder:
        around: Callable[[Request, Next], Awaitable[Response]] = self.policy.respond

        async def respond(request: Request, next_: Next) -> Response:
            answers: list[Response] = []
            before = request.reason, request.given

            async def watched(passed: Request) -> Response:
                response = await next_(passed)
                answers.append(response)
                return response

            try:
                response = await around(request, watched)
            except Exception as error:
                response = failed(request, error)
            if isinstance(response.error, ClientGone) or (answers and response.error is None):
                return response
            if answers and response is answers[-1]:
                return response
            # What was given behind this policy goes out with the answer.
            self._refused(request, response, (before[0], request.given) if answers else before)
            return answers[-1] if answers else await next_(request)

        return wrapped(_Around(respond), inner)

    def _around_responder(self, inner: Responder) -> Responder:
        # What passed inside, by its request: `wrap` leaves no other place to remember it.
        passed: WeakKeyDictionary[Request, Response | None] = WeakKeyDictionary()

        def watched(request: Request, done: Done) -> None:
            passed[request] = None

            def outward(response: Response) -> None:
                passed[request] = response
                done(response)

            inner(request, outward)

        outer = self.policy.wrap(watched)

        def respond(request: Request, done: Done) -> None:
            before = request.reason, request.given

            def outward(response: Response) -> None:
                if request not in passed:
                    if isinstance(response.error, ClientGone):
                        done(response)
                        return
                    self._refused(request, response, before)
                    inner(request, done)
                    return
                answer = passed.pop(request)
                if answer is not None and response is not answer and response.error is not None:
                    self._refused(request, response, (before[0], request.given))
                    response = answer
                done(response)

            outer(request, outward)

        return respond


class _Around:
    """A coroutine as a policy of that form."""

    def __init__(self, respond: Callable[[Request, Next], Awaitable[Response]]) -> None:
        self.respond = respond


class _Phase:
    """A request phase as a policy of that form."""

    def __init__(self, on_request: Callable[[Request], Any]) -> None:
        self.on_request = on_request


class _ResponsePhase:
    """The response phase of a policy in shadow: what it refuses goes out as it came."""

    def __init__(self, shadow: Shadow, on_response: Callable[[Request, Response], Any]) -> None:
        self._shadow = shadow
        self._on_response = on_response

    def on_response(self, request: Request, response: Response) -> Any:
        before = request.reason, request.given
        try:
            changed = self._on_response(request, response)
        except Exception as error:
            changed = failed(request, error)
        if type(changed) is Response:
            return self._kept(request, response, changed, before)
        return self._later(request, response, changed, before)

    async def _later(
        self, request: Request, response: Response, changed: Awaitable[Response], before: _Before
    ) -> Response:
        try:
            settled = await changed
        except Exception as error:
            settled = failed(request, error)
        return self._kept(request, response, settled, before)

    def _kept(self, request: Request, response: Response, changed: Response, before: _Before) -> Response:
        if changed is not response and changed.error is not None:
            self._shadow._refused(request, changed, before)
            return response
        return changed


def depends_on_order(policy: Any) -> bool:
    """Whether ``order_warnings`` may say something of a list with this policy."""
    return bool(getattr(policy, "needs_identity", False) or getattr(policy, "answers_preflights", False))


def order_warnings(policies: Sequence[tuple[str, Any]]) -> list[str]:
    """
    What can't work in a route's list of ``(label, policy)``, in the order in which they run; one sentence each.
    """
    warnings = []
    authenticated_by = ""
    authenticating = [label for label, policy in policies if getattr(policy, "authenticates", False)]
    for label, policy in policies:
        if getattr(policy, "needs_identity", False) and not authenticated_by:
            if authenticating:
                warnings.append(f"`{label}` asks who the caller is, but `{authenticating[0]}` comes only after it")
            else:
                warnings.append(f"`{label}` asks who the caller is, but no policy before it authenticates")
        if getattr(policy, "answers_preflights", False) and authenticated_by:
            warnings.append(
                f"`{label}` answers preflights, which carry no credentials: `{authenticated_by}` before it refuses them"
            )
        if getattr(policy, "authenticates", False):
            authenticated_by = authenticated_by or label
    return warnings
