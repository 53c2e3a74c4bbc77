"""
START HERE for ``[aggregate NAME]``: the responder that asks several services and makes one answer of theirs.

    client's request -> values for templates (``scope``) -> ``run``: calls in the order of their needs (``plan``), each
    a request to a service (``asking``) -> one answer (``answer``, ``merging``, ``answer_headers``), or parts of it
    (``stream``)

Not here: ``class = ...`` (``python_class``), ``[batch NAME]`` (``batch``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from apigw.aggregation.answer import Shaper
from apigw.aggregation.asking import AT_ONCE, TRACE, Client, Services
from apigw.aggregation.deadlines import Deadlines
from apigw.aggregation.plan import plan
from apigw.aggregation.python_class import PythonAggregate
from apigw.aggregation.run import Run, Workplace
from apigw.aggregation.scope import scope
from apigw.aggregation.settings import AggregateSettings
from apigw.aggregation.stream import Stream
from apigw.exchange.errors import ClientFault, JSONTooLarge
from apigw.exchange.headers import Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder, drive, failed
from apigw.json_text import InvalidJSON, TooManyValues, read
from apigw.net.side_work import Beside, at_once
from apigw.net.timers import Wheel


def aggregate(
    name: str, settings: AggregateSettings, clients: Mapping[str, Client], wheel: Wheel, beside: Beside = at_once
) -> Responder:
    """
    The responder of an ``[aggregate NAME]``.

    :param clients: by name of upstream. :param wheel: for time limits. :param beside: works on what is large.
    """
    if settings.class_ is not None:
        return PythonAggregate(settings, clients, Deadlines(wheel, settings.timeout), wheel.clock)
    return Aggregate(name, settings, clients, wheel, beside)


class Aggregate:
    """An aggregate of calls."""

    def __init__(
        self, name: str, settings: AggregateSettings, clients: Mapping[str, Client], wheel: Wheel, beside: Beside
    ) -> None:
        self._beside = beside
        self._settings = settings
        self._plan = plan(settings)
        self._clock: Callable[[], float] = wheel.clock
        used = {
            asking.upstream for call in self._plan.calls for asking in (call.asking, call.undo) if asking is not None
        }
        services = Services(
            {each: clients[each].forward for each in used},
            wheel.clock,
            settings.max_answer,
            settings.max_depth,
            settings.max_json_values,
            beside,
        )
        self.place = Workplace(
            name,
            self._plan,
            services,
            lambda seconds: Deadlines(wheel, seconds),
            settings.timeout,
            max_calls=settings.max_calls,
            max_answers=settings.max_answers,
        )
        self._shaper = Shaper(settings, self._plan)
        self._vary = ", ".join(self._plan.vary).encode()
        self._identity: tuple[bytes, ...] = ()
        self._forwarded = tuple((each.lower().encode(), each.encode()) for each in settings.forward_headers)

    def identify(self, fields: frozenset[bytes]) -> None:
        """
        Tell services who the caller is, as plain routes do.

        :param fields: those that the policies of this aggregate set for it, in lower case.
        """
        self._identity = tuple(sorted(fields))
        self._shaper.private = self._plan.private or bool(fields)

    def __call__(self, request: Request, done: Done) -> None:
        """Answer ``request``."""
        if request.body is None:
            self._start(request, None, done)
            return
        cancel = drive(
            self._content(request),
            lambda content: self._start(request, content, done),
            lambda error: done(failed(request, error)),
        )
        if cancel is not None:
            request.on_cancel(cancel)

    async def _content(self, request: Request) -> Any:
        assert request.body is not None
        data = await request.body.collect(self._settings.max_body)
        if not data or "body" not in self._plan.roots:
            return None
        whole = partial(read, data, depth=self._settings.max_depth, most=self._settings.max_json_values, unique=True)
        try:
            return whole() if len(data) <= AT_ONCE else await self._beside(whole)
        except TooManyValues as error:
            raise JSONTooLarge(str(error)) from None
        except InvalidJSON as error:
            raise ClientFault(f"the content can't be read: {error}", reason="invalid_json") from None

    def _start(self, request: Request, content: Any, done: Done) -> None:
        values = scope(request, self._plan.roots, content)
        forwarded: tuple[Pair, ...] = ()
        for lower, name in self._forwarded:
            value = request.headers.joined(lower)
            if value is not None:
                forwarded += ((name, value),)
        headers = request.headers
        for name in self._identity:
            if name in headers and all(lower != name for lower, _ in self._forwarded):
                forwarded += tuple(pair for pair in headers.pairs if pair[0].lower() == name)
        trace: tuple[Pair, ...] = ()
        if b"traceparent" in headers:
            trace = tuple((name, value) for name in TRACE if (value := headers.joined(name)) is not None)
        if self._settings.stream is not None:
            stream = Stream(self._settings.stream, self._shaper, self._vary, done)

            def streamed(run: Run) -> None:
                if not run.gone:
                    stream.ended(run)

            run = Run(self.place, request, values, forwarded, trace, streamed, stream.part)
        else:

            def ended(run: Run) -> None:
                if run.size <= AT_ONCE or run.culprit is not None:
                    shaped(run)
                else:
                    shape = partial(self._shaper.shape, run)
                    self._beside(shape).addCallbacks(partial(shaped, run), lambda failure: shaped(run, failure.value))

            def shaped(run: Run, content: bytes | Exception | None = None) -> None:
                if not run.gone:
                    done(self._shaper.respond(run, self._clock(), content))

            run = Run(self.place, request, values, forwarded, trace, ended)
        request.on_cancel(run.cancel)
        run.start()
