"""
A policy of one's own.

    [python audit]
    class = examples.audit.audit:Audit
    header = X-Audit

The class is built as ``Audit(settings, environment)``, as those of this package are; one without ``__init__`` as
``Audit()``. Its options are those of the pydantic model ``Audit.Settings``, if it has one, checked like all others. It
has one of the forms that ``apigw.exchange.responder`` knows: ``on_request`` and ``on_response``, ``async def
respond(request, next)``, or ``wrap``.

What it raises, other than a GatewayError, gets the client 500 with the reason ``policy_failed``, and its traceback into
the log. With ``on_error = open`` the request passes instead, as if the policy were not there.

Not here: how such a policy is written and tested (docs/extending.md).
"""

from __future__ import annotations

import functools
import inspect
import time
import types
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from typing import Any, Literal, TypeVar, cast
from weakref import WeakKeyDictionary

import pydantic
from pydantic import Field
from twisted.internet.defer import CancelledError

from apigw.config.model import Settings as AnySettings
from apigw.config.text import Text, Wrong
from apigw.config.values import PythonObject, parse_object
from apigw.exchange.errors import GatewayError, GatewayFault
from apigw.exchange.masking import MaskedFailure
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Next, Responder, failed
from apigw.exchange.response import Response
from apigw.policies.policy import Environment, Policy, PolicySettings

T = TypeVar("T")

BLOCKS = 0.1
"""Seconds that a call may take before the log names the policy. Where it stood, the reactor's own watcher says."""

FORMS = ("wrap", "respond", "on_request", "on_response")


class Settings(PolicySettings):
    """A policy of one's own."""

    class_: PythonObject = Field(alias="class")
    """The class, as ``package.module:Name``."""
    on_error: Literal["closed", "open"] = "closed"
    """Whether a request is refused or passes when the policy fails."""


class PolicyFailed(GatewayFault):
    """A policy of the user's raised what is no GatewayError."""

    reason = "policy_failed"


def settings_of(options: Mapping[str, Text]) -> type[AnySettings]:
    """
    Give the settings class of a section: its own options, and those of the class that it names.

    :raises Wrong: when that can't be a policy.
    """
    if "class" not in options:
        return Settings
    try:
        return _settings_with(parse_object(options["class"]))
    except Wrong as wrong:
        wrong.option = "class"
        raise


@functools.cache
def _settings_with(policy: Any) -> type[AnySettings]:
    if not isinstance(policy, type) or not any(callable(getattr(policy, form, None)) for form in FORMS):
        raise Wrong("{shown} is no policy", f"a class with {', '.join(FORMS[:-1])} or {FORMS[-1]}")
    own = getattr(policy, "Settings", None)
    if own is None or own is PolicySettings:
        return Settings
    if not (isinstance(own, type) and issubclass(own, pydantic.BaseModel)):
        raise Wrong("the Settings of {shown} are no pydantic model")
    reserved = Settings.model_fields.keys() - PolicySettings.model_fields.keys()
    taken = sorted(reserved & own.model_fields.keys())
    if taken:
        raise Wrong(f"the Settings of {{shown}} have an option that every policy has: {taken[0]}")
    return type(own.__name__, (own, Settings), {"__doc__": own.__doc__, "__module__": own.__module__})


class Python(Policy[Settings]):
    """
    The policy ``python``: somebody's policy, in the form that it has, with its failures caught.

    :ivar policy: the object of the user's class.
    """

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        make: Any = settings.class_
        try:
            plain = make.__init__ is object.__init__
            self.policy: Any = make() if plain else make(settings, environment)
        except (ValueError, OSError, LookupError):
            raise
        except Exception as error:
            raise ValueError(f"{type(error).__name__} when {make.__qualname__} was made: {error}") from error
        for name in ("authenticates", "needs_identity", "answers_preflights"):
            setattr(self, name, bool(getattr(self.policy, name, False)))
        for name in ("identity_headers", "credential_headers"):
            setattr(self, name, frozenset(each.lower() for each in getattr(self.policy, name, ())))
        self._open = settings.on_error == "open"
        self._elsewhere = 0.0
        # As instance attributes, so that it has exactly the form that the user's has.
        if hasattr(self.policy, "wrap"):
            self.wrap = self._wrap
        elif hasattr(self.policy, "respond"):
            self.respond = self._respond
        else:
            if hasattr(self.policy, "on_request"):
                self.on_request = self._on_request
            if hasattr(self.policy, "on_response"):
                self.on_response = self._on_response

    def take_over(self, former: Python) -> None:
        if type(former.policy) is type(self.policy) and hasattr(self.policy, "take_over"):
            self.policy.take_over(former.policy)

    async def start(self) -> None:
        await self._called("start")

    async def stop(self) -> None:
        await self._called("stop")

    async def _called(self, name: str) -> None:
        method = getattr(self.policy, name, None)
        if method is not None:
            result = method()
            if inspect.isawaitable(result):
                await result

    def _failed(self, request: Request, error: Exception) -> GatewayError:
        """Write it down. Give what to raise, if that is wanted."""
        self.environment.count("failed")
        self.environment.log.failure(
            "{policy} failed at request {id}: {error!r}",
            MaskedFailure(error, request),
            policy=self.environment.label,
            id=request.id.decode("latin-1"),
            error=type(error).__name__,
        )
        return PolicyFailed("a policy failed; the gateway's log has the cause under this request id")

    def _timed(self, call: Callable[[], T]) -> T:
        began, elsewhere = time.perf_counter(), self._elsewhere
        try:
            return call()
        finally:
            took = time.perf_counter() - began - (self._elsewhere - elsewhere)
            if took > BLOCKS:
                self.environment.count("blocked_reactor")
                self.environment.log.warn(
                    "{policy} blocked the reactor for {milliseconds} ms",
                    policy=self.environment.label,
                    milliseconds=round(took * 1000),
                )

    def _elsewhere_too(self, call: Callable[[], T]) -> T:
        """Call what is not this policy's: what is behind it, or before it."""
        began = time.perf_counter()
        try:
            return call()
        finally:
            self._elsewhere += time.perf_counter() - began

    @types.coroutine
    def _each_step_timed(self, awaited: Awaitable[T]) -> Generator[Any, Any, T]:
        steps = awaited.__await__()
        step, given = steps.__next__, ()
        while True:
            try:
                waits_for = self._timed(functools.partial(step, *given))
            except StopIteration as stop:
                return cast("T", stop.value)
            try:
                value = yield waits_for
            except BaseException as error:
                step, given = steps.throw, (error,)  # type: ignore[assignment]
            else:
                if value is None:
                    step, given = steps.__next__, ()
                else:
                    step, given = steps.send, (value,)  # type: ignore[assignment]

    def _on_request(self, request: Request) -> Any:
        try:
            early = self._timed(lambda: self.policy.on_request(request))
        except GatewayError:
            raise
        except Exception as error:
            return self._passed(request, error)
        if early is None or isinstance(early, Response):
            return early
        if not inspect.isawaitable(early):
            return self._passed(request, _wrong("on_request", early))
        return self._settled(request, early)

    def _passed(self, request: Request, error: Exception) -> None:
        fault = self._failed(request, error)
        if not self._open:
            raise fault

    def _passed_response(self, request: Request, response: Response, error: Exception) -> Response:
        self._passed(request, error)
        return response

    async def _settled(self, request: Request, awaited: Awaitable[Response | None]) -> Response | None:
        try:
            early = await self._each_step_timed(awaited)
            if early is not None and not isinstance(early, Response):
                raise _wrong("on_request", early)
        except (GatewayError, CancelledError):
            raise
        except Exception as error:
            self._passed(request, error)
            return None
        return early

    def _on_response(self, request: Request, response: Response) -> Any:
        try:
            changed = self._timed(lambda: self.policy.on_response(request, response))
        except GatewayError:
            raise
        except Exception as error:
            return self._passed_response(request, response, error)
        if isinstance(changed, Response):
            return changed
        if not inspect.isawaitable(changed):
            return self._passed_response(request, response, _wrong("on_response", changed))
        return self._settled_response(request, response, changed)

    async def _settled_response(self, request: Request, response: Response, awaited: Any) -> Response:
        try:
            changed = await self._each_step_timed(awaited)
            if not isinstance(changed, Response):
                raise _wrong("on_response", changed)
        except (GatewayError, CancelledError):
            raise
        except Exception as error:
            return self._passed_response(request, response, error)
        return changed

    async def _respond(self, request: Request, next_: Next) -> Response:
        answers: list[Response] = []

        async def watched(passed: Request) -> Response:
            answers.append(await self._elsewhere_too(lambda: next_(passed)))
            return answers[-1]

        try:
            response = await self._each_step_timed(self.policy.respond(request, watched))
            if not isinstance(response, Response):
                raise _wrong("respond", response)
        except (GatewayError, CancelledError):
            self._discard(answers)
            raise
        except Exception as error:
            fault = self._failed(request, error)
            if self._open:
                return answers[-1] if answers else await next_(request)
            self._discard(answers)
            raise fault from error
        self._discard([answer for answer in answers if answer is not response])
        return response

    def _discard(self, responses: Iterable[Response]) -> None:
        """In shadow they are still to be sent."""
        if self.settings.mode == "enforce":
            for response in responses:
                response.discard()

    def _wrap(self, inner: Responder) -> Responder:
        under_way: WeakKeyDictionary[Request, _UnderWay] = WeakKeyDictionary()

        def guarded(request: Request, done: Done) -> None:
            state = under_way.get(request)
            if state is None:  # one that the policy made itself
                inner(request, done)
                return
            state.asked = True

            def outward(response: Response) -> None:
                if state.answered:
                    response.discard()
                elif state.bypassed:
                    state.answer(response)
                else:
                    try:
                        self._timed(lambda: done(response))
                    except Exception as error:
                        self._broke(state, error, response, inner)

            self._elsewhere_too(lambda: inner(request, outward))

        outer = self.policy.wrap(guarded)

        def respond(request: Request, done: Done) -> None:
            state = under_way[request] = _UnderWay(
                request, lambda response: self._elsewhere_too(lambda: done(response))
            )
            try:
                self._timed(lambda: outer(request, state.answer))
            except Exception as error:
                self._broke(state, error, None, inner)

        return respond

    def _broke(self, state: _UnderWay, error: Exception, response: Response | None, inner: Responder) -> None:
        """What became of a request whose policy raised, before or (with ``response``) after it was answered inside."""
        fault = error if isinstance(error, GatewayError) else self._failed(state.request, error)
        if state.answered:
            return
        if fault is error or not self._open:
            self._discard([] if response is None else [response])
            state.answer(failed(state.request, fault))
        elif response is not None:
            state.answer(response)
        elif state.asked:
            state.bypassed = True
        else:
            inner(state.request, state.answer)


def _wrong(phase: str, given: object) -> TypeError:
    return TypeError(f"{phase} gave {type(given).__name__}, not a Response")


class _UnderWay:
    """
    A request in a policy that is a ``wrap``.

    :ivar asked: the policy let it go on. :ivar answered: there is an answer.
    :ivar bypassed: the policy failed after it let it go on; the answer passes by it.
    """

    __slots__ = ("__weakref__", "_done", "answered", "asked", "bypassed", "request")

    def __init__(self, request: Request, done: Done) -> None:
        self.request = request
        self.asked = self.answered = self.bypassed = False
        self._done = done

    def answer(self, response: Response) -> None:
        """The answer; only the first counts."""
        if self.answered:
            response.discard()
        else:
            self.answered = True
            self._done(response)
