"""``call.NAME.cache``: answers that are kept for a while, for requests that are the same to the byte."""

from __future__ import annotations

from apigw.aggregation.asking import Prepared
from apigw.aggregation.outcome import OK, Outcome

MOST_ANSWERS = 1024
MOST_BYTES = 4 << 20


class Kept:
    """
    Answers of one call, at most ``MOST_ANSWERS`` of ``MOST_BYTES``; the oldest goes first.

    :param seconds: how long an answer is kept.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._answers: dict[Prepared, tuple[float, Outcome]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, request: Prepared, now: float) -> Outcome | None:
        """The answer to the same request, if it is not too old."""
        found = self._answers.get(request)
        if found is None:
            return None
        if found[0] <= now:
            self._drop(request)
            return None
        outcome = found[1]
        # It took no time now, but is as old as it is.
        again = Outcome(OK, outcome.value, status=outcome.status, headers=outcome.headers)
        again.at = outcome.at
        return again

    def put(self, request: Prepared, outcome: Outcome, now: float) -> None:
        """Keep an answer."""
        if outcome.size > MOST_BYTES:
            return
        self._drop(request)
        while self._answers and (len(self._answers) >= MOST_ANSWERS or self._bytes + outcome.size > MOST_BYTES):
            self._drop(next(iter(self._answers)))
        self._answers[request] = (now + self._seconds, outcome)
        self._bytes += outcome.size

    def _drop(self, request: Prepared) -> None:
        found = self._answers.pop(request, None)
        if found is not None:
            self._bytes -= found[1].size
