"""
The response of a run that is over: the shaped answer, or a problem document that has every call's outcome.

Not here: streams (``stream``).
"""

from __future__ import annotations

from typing import Any

from apigw.aggregation.answer_headers import passed, server_timing, strictest
from apigw.aggregation.expressions import ExpressionFailed
from apigw.aggregation.merging import merge
from apigw.aggregation.outcome import CANCELLED, FAILED, NOT_ASKED, OK, Outcome
from apigw.aggregation.plan import Plan
from apigw.aggregation.run import Run
from apigw.aggregation.settings import AggregateSettings
from apigw.exchange.cookies import give, make_private
from apigw.exchange.errors import ClientFault, GatewayError, UpstreamFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.problem import problem
from apigw.exchange.response import Response
from apigw.json_text import write

COMPLETED, MISSING = b"Apigw-Completed", b"Apigw-Missing"


class Shaper:
    """Makes responses of an aggregate's runs."""

    def __init__(self, settings: AggregateSettings, plan: Plan) -> None:
        self._settings = settings
        self._plan = plan
        self.private = plan.private
        """Whether the answer is for one caller alone."""
        self._passed = [name.encode() for name in settings.pass_headers]
        self._vary = ", ".join(plan.vary).encode()

    def shape(self, run: Run) -> bytes:
        """
        The content of the response.

        :raises GatewayError: when it can't be made.
        """
        try:
            return write(self._shaped(run))
        except ExpressionFailed as error:
            raise UpstreamFault(f"`response` failed: {error}", reason="aggregate_not_shapeable") from None
        except ValueError as error:
            what = f"the answer can't be written: {error}"
            raise UpstreamFault(what, reason="aggregate_not_shapeable") from None

    def respond(self, run: Run, now: float, content: bytes | Exception | None = None) -> Response:
        """
        The response.

        :param now: monotonic seconds. :param content: what ``shape`` gave or raised, if it was called already.
        """
        if run.culprit is not None:
            return self.failure(run)
        try:
            if isinstance(content, Exception):
                raise content
            body = self.shape(run) if content is None else content
        except GatewayError as error:
            return self._problem(run, error)
        missing = self.missing(run)
        pairs = [(b"Content-Type", b"application/json"), *self.completion(missing)]
        pairs += self.fields(run, missing, now)
        if missing:
            run.request.note("missing", missing)
        return Response(self._settings.partial_status if missing else 200, Headers(pairs), body)

    def failure(self, run: Run) -> Response:
        """The problem document of a run that a required call failed."""
        call = run.culprit
        assert call is not None
        outcome = run.outcomes[call.index]
        detail = f"{call.name}: {outcome.detail}"
        fault = ClientFault if outcome.fault < 500 else UpstreamFault
        error = fault(detail, status=outcome.fault, reason=outcome.reason, headers=outcome.fields)
        return self._problem(run, error, call=call.name)

    def missing(self, run: Run, *, cancelled: bool = False) -> list[str]:
        """Names of the calls that failed; also of those that were not made, or not to their end, if that is wanted."""
        states = (FAILED, CANCELLED, NOT_ASKED) if cancelled else (FAILED,)
        return [
            call.name for call, outcome in zip(self._plan.calls, run.outcomes, strict=True) if outcome.state in states
        ]

    def completion(self, missing: list[str]) -> list[Pair]:
        """The fields that say whether all calls are in the answer."""
        if not missing:
            return [(COMPLETED, b"true")]
        return [(COMPLETED, b"false"), (MISSING, ", ".join(missing).encode())]

    def fields(self, run: Run, missing: list[str], now: float) -> list[Pair]:
        """What the answers' fields become."""
        outcomes = run.outcomes
        pairs: list[Pair] = []
        if missing:
            pairs.append((b"Cache-Control", b"no-store"))
        elif any(b"cache-control" in headers for outcome in outcomes for headers in outcome.headers):
            parts = [(headers, now - outcome.at) for outcome in outcomes for headers in outcome.headers]
            control = strictest(parts, private=self.private)
            if control is not None:
                pairs.append((b"Cache-Control", control))
        elif self.private:
            pairs.append((b"Cache-Control", b"private"))
        if self._vary:
            pairs.append((b"Vary", self._vary))
        pairs += passed(outcomes, self._passed)
        if any(name == b"Set-Cookie" for name, _ in pairs):
            headers = Headers(pairs)
            make_private(headers, session=False)
            give(run.request, (), session=False)  # so that no policy around it makes it public again
            pairs = headers.pairs
        if self._settings.server_timing:
            pairs.append((b"Server-Timing", server_timing(self._plan.calls, outcomes)))
        return pairs

    def _shaped(self, run: Run) -> Any:
        settings = self._settings
        if settings.response is not None:
            return settings.response(run.values)
        answers = [(call.name, run.values[call.name]) for call in self._plan.calls]
        return merge(settings.merge or "namespace", settings.clash, answers)

    def _problem(self, run: Run, error: GatewayError, **members: str) -> Response:
        calls = {
            call.name: self._described(run, call.name, outcome)
            for call, outcome in zip(self._plan.calls, run.outcomes, strict=True)
        }
        run.request.note("calls", {name: described["outcome"] for name, described in calls.items()})
        response = problem(run.request, error, **members, calls=calls)
        absent = [name for name, described in calls.items() if described["outcome"] != OK]
        for name, value in self.completion(absent or list(calls)):
            response.headers.add(name, value)
        response.headers.add(b"Cache-Control", b"no-store")
        if self._settings.server_timing:
            response.headers.add(b"Server-Timing", server_timing(self._plan.calls, run.outcomes))
        return response

    def _described(self, run: Run, name: str, outcome: Outcome) -> dict[str, Any]:
        described = outcome.describe()
        if name in run.undone:
            described["undo"] = run.undone[name]
        return described
