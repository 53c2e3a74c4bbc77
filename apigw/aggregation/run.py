"""
One request of a client being worked on: which calls run, what is known so far, and when it is over.

    start -> calls that need nothing begin
      a call is answered -> those begin that waited for it alone
      all are answered   -> ``ended``
      a required one failed, or the client left -> the others are cancelled, what was done is undone, ``ended``
      the time is up     -> those that run fail; if the answer can do without them it is given

Everything is plain calls: an answer arrives as a call, and what follows from it is done in it.

Not here: a single request (``asking``), the response (``answer``).
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from typing import Any

from twisted.logger import Logger

from apigw.aggregation.asking import Ask, Prepared, Services, prepare
from apigw.aggregation.deadlines import Deadlines
from apigw.aggregation.expressions import Expression, ExpressionFailed, holds
from apigw.aggregation.kept import Kept
from apigw.aggregation.outcome import FAILED, NOT_ASKED, OK, SKIPPED, Outcome, failed
from apigw.aggregation.plan import Call, Plan
from apigw.aggregation.templates import REQUEST_ROOTS, ValueFault
from apigw.exchange.errors import GatewayError, UpstreamFault
from apigw.exchange.headers import Pair
from apigw.exchange.request import Request

MOST_ITEMS = 10_000
"""Of a ``foreach``: preparing them takes time in which nobody else is served."""
Told = Callable[[Outcome], None]
log = Logger()
_NOT_ASKED = Outcome(NOT_ASKED)


class Workplace:
    """
    What all runs of an aggregate share.

    :ivar deadlines: of the whole. :ivar call_deadlines: of each call, or None. :ivar kept: answers of each, or None.
    :ivar running: how many runs there are.
    """

    def __init__(
        self,
        name: str,
        plan: Plan,
        services: Services,
        deadlines: Callable[[float], Deadlines],
        timeout: float,
        *,
        max_calls: int,
        max_answers: int,
    ) -> None:
        self.name = name
        self.plan = plan
        self.services = services
        self.deadlines = deadlines(timeout)
        self.call_deadlines = [
            deadlines(call.settings.timeout) if call.settings.timeout else None for call in plan.calls
        ]
        self.kept = [Kept(call.settings.cache) if call.settings.cache else None for call in plan.calls]
        self.needs = [len(call.needs) for call in plan.calls]
        self.saga = any(call.undo is not None for call in plan.calls)
        self.max_calls = max_calls
        self.max_answers = max_answers
        self.running = 0

    def take_over(self, former: Workplace, unchanged: Container[str]) -> None:
        """
        Go on with the answers that ``former`` kept, for calls that are as they were.

        :param unchanged: names of the upstreams that are.
        """
        before = {call.name: call for call in former.plan.calls}
        for call in self.plan.calls:
            was = before.get(call.name)
            if was is not None and was.settings == call.settings and call.asking.upstream in unchanged:
                self.kept[call.index] = former.kept[was.index]


class Run:
    """
    One run.

    :param values: what templates and expressions may know of the request; answers are added.
    :param forwarded: fields of the client's that every call gets. :param trace: likewise; they make no other request
        of one.
    :param ended: called exactly once, when nothing is left to be done.
    :param part: called with each call that was answered, skipped, or failed though optional.
    :ivar outcomes: what became of each call so far. :ivar culprit: the required call that failed.
    :ivar gone: the client left. :ivar undone: what became of each call that had to be taken back, by name.
    """

    __slots__ = (
        "_active", "_asked", "_ended", "_forwarded", "_late", "_left", "_over", "_part", "_place", "_size", "_to_undo",
        "_trace", "_waiting", "culprit", "gone", "outcomes", "request", "undone", "values",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917
        self,
        place: Workplace,
        request: Request,
        values: dict[str, Any],
        forwarded: tuple[Pair, ...],
        trace: tuple[Pair, ...],
        ended: Callable[[Run], None],
        part: Callable[[Run, Call, Outcome], None] | None = None,
    ) -> None:
        self._place = place
        self.request = request
        self.values = values
        self._forwarded = forwarded
        self._trace = trace
        self._ended = ended
        self._part = part
        self.outcomes: list[Outcome] = [_NOT_ASKED] * len(place.plan.calls)
        self._waiting = place.needs.copy()
        self._left = len(self._waiting)
        self._active: dict[Ask, tuple[Call, Told | None]] = {}
        self._asked = 0
        self._size = 0
        self._late = self._over = self.gone = False
        self.culprit: Call | None = None
        self._to_undo: list[Call] = []
        self.undone: dict[str, str] = {}

    def start(self) -> None:
        """Begin."""
        place = self._place
        place.running += 1
        place.deadlines.add(self, place.services.clock())
        for index, reference in place.plan.early:
            try:
                reference.value(self.values)
            except ValueFault as fault:
                outcome = failed(reason=fault.reason, fault=fault.status, detail=fault.detail)
                self.settle(place.plan.calls[index], outcome)
                return
        for call in place.plan.calls:
            if not call.needs and not self._over:
                self._begin(call)

    def overdue(self) -> None:
        """The time for all of it is up."""
        self._late = True
        for ask in list(self._active):
            ask.fail(_late())

    @property
    def size(self) -> int:
        """Bytes of all answers."""
        return self._size

    def cancel(self) -> None:
        """The client is gone."""
        self.gone = True
        if not self._over:
            self._stop()

    # Calls

    def _begin(self, call: Call) -> None:
        settings = call.settings
        prepared: Prepared | None = None
        each: Each | None = None
        try:
            if self._late:
                raise _late()
            if settings.when is not None and not holds(settings.when(self.values)):
                outcome = Outcome(SKIPPED)
            elif settings.foreach is not None:
                each = Each(self, call, settings.foreach(self.values))
            else:
                prepared = prepare(call.asking, self.values, self._forwarded)
        except GatewayError as error:
            outcome = failed(reason=error.reason, fault=error.status, detail=error.detail)
        except ExpressionFailed as error:
            blame = max(_blame(settings.when), _blame(settings.foreach))
            outcome = failed(reason="call_expression_failed", fault=blame, detail=f"an expression failed: {error}")
        except ValueError:  # text that UTF-8 can't have, which a token's claims may hold
            outcome = failed(reason="call_value_refused", fault=502, detail="a value can't be written")
        if each is not None:
            each.go()
        elif prepared is not None:
            self.ask(call, prepared, None)
        else:
            self.settle(call, outcome)

    def ask(self, call: Call, prepared: Prepared, told: Told | None) -> None:
        """
        Make a request, or take its answer from what is kept.

        :param told: is called with what became of it; None: it is all of the call.
        """
        place = self._place
        self._asked += 1
        ask = Ask(place.services, call.asking, prepared, self._told)
        self._active[ask] = (call, told)
        if self._late:
            ask.fail(_late())
            return
        if self._asked > place.max_calls:
            ask.fail(UpstreamFault(f"more than {place.max_calls} requests would be needed", reason="call_too_many"))
            return
        kept = place.kept[call.index]
        if kept is not None and (outcome := kept.get(prepared, ask.started)) is not None:
            del self._active[ask]
            self._pass_on(call, told, outcome)
            return
        deadlines = place.call_deadlines[call.index]
        if deadlines is not None:
            deadlines.add(ask, ask.started)
        if kept is not None and kept.waits(ask, partial(self._shared, ask)):
            return
        if place.saga and call.writes:
            self._log("begins", call)
        ask.send(self.request, self._trace)

    def _shared(self, ask: Ask, outcome: Outcome | None) -> None:
        """The same request of another run is over, and this is the answer; None: there is none for this run."""
        if ask not in self._active:
            return
        if outcome is None:
            ask.send(self.request, self._trace)
            return
        call, told = self._active.pop(ask)
        self._unwatch(call, ask)
        outcome.seconds = self._place.services.clock() - ask.started
        self._pass_on(call, told, outcome)

    def _unwatch(self, call: Call, ask: Ask) -> None:
        deadlines = self._place.call_deadlines[call.index]
        if deadlines is not None:
            deadlines.remove(ask)

    def _told(self, ask: Ask, outcome: Outcome) -> None:
        call, told = self._active.pop(ask)
        place = self._place
        self._unwatch(call, ask)
        if outcome.state is OK:
            self._size += outcome.size
            if self._size > place.max_answers:
                detail = f"all answers together have more than the {place.max_answers} bytes that are taken"
                outcome = failed(reason="call_answer_too_large", fault=502, detail=detail)
        kept = place.kept[call.index]
        if kept is not None:
            kept.over(ask, outcome)
        if place.saga and call.writes:
            self._log("is done" if outcome.state is OK else f"failed: {outcome.reason}", call)
        self._pass_on(call, told, outcome)

    def _pass_on(self, call: Call, told: Told | None, outcome: Outcome) -> None:
        if self._over:
            self.outcomes[call.index] = outcome
            if not self._active:
                self._take_back()
        elif told is not None:
            told(outcome)
        else:
            self.settle(call, outcome)

    def settle(self, call: Call, outcome: Outcome) -> None:
        """That is what became of a call: go on."""
        if self._over:
            return
        self.outcomes[call.index] = outcome
        settings = call.settings
        if outcome.state is OK:
            value = outcome.value
        elif outcome.state is FAILED:
            if not settings.optional:
                self.culprit = call
                self._stop()
                return
            value = settings.default if outcome.value is None else outcome.value
        else:
            value = settings.default
        self.values[call.name] = value
        if self._part is not None:
            self._part(self, call, outcome)
        self._left -= 1
        plan = self._place.plan
        for index in call.dependents:
            self._waiting[index] -= 1
            if not self._waiting[index] and not self._over:
                self._begin(plan.calls[index])
        if not self._left and not self._over:
            self._over = True
            self._end()

    # The end

    def _stop(self) -> None:
        """It can't succeed any more. A write that can be undone is waited for: it is to be known whether to undo it."""
        self._over = True
        for ask, (call, _) in list(self._active.items()):
            if call.undo is not None:
                continue
            outcome = ask.cancel()
            if outcome is not None and self.outcomes[call.index].state is not FAILED:
                self.outcomes[call.index] = outcome
            del self._active[ask]
            self._unwatch(call, ask)
            kept = self._place.kept[call.index]
            if kept is not None:
                kept.over(ask, None)
        if not self._active:
            self._take_back()

    def _take_back(self) -> None:
        self._to_undo = [
            call for call in self._place.plan.calls if call.undo is not None and self.outcomes[call.index].state is OK
        ]
        self._undo_next()

    def _undo_next(self) -> None:
        """Undo what was done, the last first."""
        place = self._place
        while self._to_undo:
            call = self._to_undo.pop()
            assert call.undo is not None
            values = {**self.values, call.name: self.outcomes[call.index].value}
            try:
                prepared = prepare(call.undo, values, self._forwarded)
            except ValueFault as fault:
                self._could_not(call, fault.reason, fault.detail)
                continue
            except ValueError:
                self._could_not(call, "call_value_refused", "a value can't be written")
                continue
            ask = Ask(place.services, call.undo, prepared, partial(self._undid, call))
            place.deadlines.add(ask, ask.started)
            self._log("is being undone", call)
            ask.send(self.request, self._trace, in_time=False)
            return
        self._end()

    def _undid(self, call: Call, ask: Ask, outcome: Outcome) -> None:
        self._place.deadlines.remove(ask)
        if outcome.state is OK:
            self.undone[call.name] = "undone"
            self._log("was undone", call)
        else:
            self._could_not(call, outcome.reason, outcome.detail)
        self._undo_next()

    def _could_not(self, call: Call, reason: str, detail: str) -> None:
        self.undone[call.name] = "not undone"
        log.error(
            "aggregate {name}, request {id}: {call} was done and could not be undone: {reason} ({detail})",
            name=self._place.name,
            id=self.request.id.decode("latin-1"),
            call=call.name,
            reason=reason,
            detail=detail,
        )

    def _log(self, what: str, call: Call) -> None:
        log.info(
            "aggregate {name}, request {id}: {call} {what}",
            name=self._place.name,
            id=self.request.id.decode("latin-1"),
            call=call.name,
            what=what,
        )

    def _end(self) -> None:
        self._place.running -= 1
        self._place.deadlines.remove(self)
        self._ended(self)


def _blame(expression: Expression | None) -> int:
    """The status for what an expression found: 400 if it reads the client's request alone."""
    return 400 if expression is None or (expression.roots or {""}) <= set(REQUEST_ROOTS) else 502


def _late() -> UpstreamFault:
    return UpstreamFault("the time for this request is up", status=504, reason="deadline_exceeded")


class Each:
    """
    A call for each item of a list: so many at once, the same requests once (but each that writes), the answers in the
    items' order.

    :raises GatewayError: it can't begin. An item that can't be asked for fails alone.
    """

    __slots__ = ("_call", "_going", "_left", "_outcomes", "_queue", "_run", "_running", "_started")

    def __init__(self, run: Run, call: Call, items: Any) -> None:
        if items is None:
            items = []
        blame = _blame(call.settings.foreach)
        if type(items) is not list:
            raise GatewayError("`foreach` did not find a list", status=blame, reason="call_expression_failed")
        self._run = run
        self._call = call
        self._started = run._place.services.clock()
        self._outcomes: list[Outcome] = [_NOT_ASKED] * len(items)
        left = run._place.max_calls - run._asked
        if len(items) > MOST_ITEMS:
            raise GatewayError(f"`foreach` found more than {MOST_ITEMS} items", status=blame, reason="call_too_many")
        self._queue: list[tuple[Prepared, list[int]]] = []
        known: dict[Prepared, list[int]] = {}
        for place, item in enumerate(items):
            try:
                prepared = prepare(call.asking, {**run.values, "item": item}, run._forwarded)
            except ValueFault as fault:
                if fault.root == "item":
                    fault.status = blame
                if not call.settings.optional:
                    raise
                self._outcomes[place] = failed(reason=fault.reason, fault=fault.status, detail=fault.detail)
                continue
            if prepared in known:
                known[prepared].append(place)
                continue
            self._queue.append((prepared, [place]))
            if len(self._queue) > left:
                detail = f"`foreach` needs more than the {left} of {run._place.max_calls} requests that are left"
                raise GatewayError(detail, status=blame, reason="call_too_many")
            if not call.writes:
                known[prepared] = self._queue[-1][1]
        self._queue.reverse()
        self._left = len(self._queue)
        self._running = 0
        self._going = False

    def go(self) -> None:
        """Ask as many as may be asked."""
        if self._going:
            return
        self._going = True
        while self._queue and self._running < self._call.settings.concurrency and not self._run._over:
            self._running += 1
            prepared, places = self._queue.pop()
            self._run.ask(self._call, prepared, partial(self._told, places))
        self._going = False
        if not self._left and not self._run._over:
            self._left = -1
            self._run.settle(self._call, self._outcome())

    def _told(self, places: list[int], outcome: Outcome) -> None:
        self._running -= 1
        self._left -= 1
        for place in places:
            self._outcomes[place] = outcome
        if outcome.state is FAILED and not self._call.settings.optional:
            self._run.settle(self._call, outcome)
        else:
            self.go()

    def _outcome(self) -> Outcome:
        default = self._call.settings.default
        worst = next((each for each in self._outcomes if each.state is FAILED), None)
        values = [each.value if each.state is OK else default for each in self._outcomes]
        headers = tuple(fields for each in self._outcomes for fields in each.headers)
        if worst is None:
            whole = Outcome(OK, values, headers=headers)
        else:
            whole = failed(reason=worst.reason, fault=worst.fault, detail=worst.detail, status=worst.status)
            whole.value, whole.headers, whole.fields = values, headers, worst.fields
        whole.at = self._run._place.services.clock()
        whole.seconds = whole.at - self._started
        return whole
