"""
``stream = ndjson`` and ``stream = sse``: each call's answer is sent as it arrives.

    {"call":"user","outcome":"ok","status":200,"data":{...}}
    {"call":"recommendations","outcome":"failed","data":[]}
    {"completed":false,"missing":["recommendations"]}

With ``sse`` the same objects are the data of events: ``event: user`` for a call's, ``event: end`` for the last. A
required call that fails before anything was sent gets the same problem document as without a stream; later it is in the
last line, as ``error``, with ``undo`` for what was taken back.
"""

from __future__ import annotations

from typing import Any

from apigw.aggregation.answer import Shaper
from apigw.aggregation.outcome import OK, Outcome
from apigw.aggregation.plan import Call
from apigw.aggregation.run import Run
from apigw.exchange.body import Body
from apigw.exchange.headers import Headers
from apigw.exchange.responder import Done
from apigw.exchange.response import Response
from apigw.json_text import write


class Stream:
    """The response of one run, as it comes; and its body's source."""

    def __init__(self, kind: str, shaper: Shaper, vary: bytes, done: Done) -> None:
        self._events = kind == "sse"
        self._shaper = shaper
        self._vary = vary
        self._done = done
        self._body: Body | None = None
        self._run: Run | None = None

    def part(self, run: Run, call: Call, outcome: Outcome) -> None:
        """A call was answered, skipped, or failed though optional."""
        described = {"call": call.name, "outcome": outcome.state}
        if outcome.state is OK:
            described["status"] = outcome.status  # type: ignore[assignment]
        elif outcome.reason:
            described["reason"] = outcome.reason
        self._send(run, call.name, {**described, "data": run.values[call.name]})

    def ended(self, run: Run) -> None:
        """The run is over."""
        if run.culprit is not None and self._body is None:
            self._done(self._shaper.failure(run))
            return
        missing = self._shaper.missing(run, cancelled=True)
        last: dict[str, Any] = {"completed": not missing, "missing": missing}
        if run.culprit is not None:
            outcome = run.outcomes[run.culprit.index]
            run.request.reason = outcome.reason
            last["error"] = {"call": run.culprit.name, **outcome.describe()}
            if run.undone:
                last["undo"] = run.undone
        elif missing:
            run.request.note("missing", missing)
        self._send(run, "end", last)
        body, self._body = self._body, None
        if body is not None:
            body.end()

    def _send(self, run: Run, name: str, value: dict[str, Any]) -> None:
        try:
            data = write(value)
        except ValueError:
            data = write({"call": name, "outcome": "failed", "reason": "aggregate_not_shapeable"})
        piece = b"event: %b\ndata: %b\n\n" % (name.encode(), data) if self._events else data + b"\n"
        if self._body is None:
            self._run = run
            self._body = Body(self)
            kind = b"text/event-stream" if self._events else b"application/x-ndjson"
            pairs = [(b"Content-Type", kind), (b"Cache-Control", b"no-store"), (b"X-Accel-Buffering", b"no")]
            if self._vary:
                pairs.append((b"Vary", self._vary))
            self._body.feed(piece)
            self._done(Response(200, Headers(pairs), self._body))
        else:
            self._body.feed(piece)

    # The body's source. What waits for a slow client is bounded by `max_answers`, so nothing is asked to pause.

    def body_wanted(self) -> None:
        pass

    def pause_body(self) -> None:
        pass

    def resume_body(self) -> None:
        pass

    def cancel_body(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.cancel()
