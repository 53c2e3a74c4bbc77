"""
``call.NAME.cache``: answers that are kept for a while, for requests that are the same to the byte. While one of these
is on its way, the others wait for its answer.

What is for one caller alone is not kept, whatever is configured: an answer with Set-Cookie, with ``Cache-Control:
private`` or ``no-store``, or with ``Vary: *`` (RFC 9111 3).
"""

from __future__ import annotations

from collections.abc import Callable

from apigw.aggregation.asking import Ask, Prepared
from apigw.aggregation.outcome import OK, Outcome
from apigw.exchange.headers import Headers
from apigw.http.fields import list_members

MOST_ANSWERS = 1024
MOST_BYTES = 4 << 20
Waiter = Callable[[Outcome | None], None]
_ONE_CALLERS = {b"no-store", b"private"}


class Kept:
    """
    Answers of one call, at most ``MOST_ANSWERS`` of ``MOST_BYTES``; the oldest goes first.

    :param seconds: how long an answer is kept.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._answers: dict[Prepared, tuple[float, Outcome]] = {}
        self._bytes = 0
        self._asking: dict[Prepared, tuple[Ask, list[Waiter]]] = {}

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
        return _again(found[1])

    def waits(self, ask: Ask, waiter: Waiter) -> bool:
        """
        Whether the same request is on its way already.

        :param waiter: is called with its answer; with None if there is none for others. If nothing is on its way,
            ``ask`` is from now on, until ``over``.
        """
        ahead = self._asking.get(ask.prepared)
        if ahead is None:
            self._asking[ask.prepared] = (ask, [])
            return False
        ahead[1].append(waiter)
        return True

    def over(self, ask: Ask, outcome: Outcome | None) -> None:
        """``ask`` is answered, or cancelled (None): keep the answer if it may be kept, and tell those that wait."""
        if outcome is not None and not (outcome.state is OK and all(map(_for_others, outcome.headers))):
            outcome = None
        if outcome is not None:
            self._put(ask.prepared, outcome)
        ahead = self._asking.get(ask.prepared)
        if ahead is not None and ahead[0] is ask:
            del self._asking[ask.prepared]
            for waiter in ahead[1]:
                waiter(None if outcome is None else _again(outcome))

    def _put(self, request: Prepared, outcome: Outcome) -> None:
        if outcome.size > MOST_BYTES:
            return
        self._drop(request)
        while self._answers and (len(self._answers) >= MOST_ANSWERS or self._bytes + outcome.size > MOST_BYTES):
            self._drop(next(iter(self._answers)))
        self._answers[request] = (outcome.at + self._seconds, outcome)
        self._bytes += outcome.size

    def _drop(self, request: Prepared) -> None:
        found = self._answers.pop(request, None)
        if found is not None:
            self._bytes -= found[1].size


def _again(outcome: Outcome) -> Outcome:
    """The answer for another: it took no time now, but is as old as it is."""
    again = Outcome(OK, outcome.value, status=outcome.status, headers=outcome.headers)
    again.at = outcome.at
    return again


def _for_others(headers: Headers) -> bool:
    if b"set-cookie" in headers:
        return False
    control = headers.joined(b"cache-control")
    if control is not None and any(each.partition(b"=")[0] in _ONE_CALLERS for each in list_members(control)):
        return False
    vary = headers.joined(b"vary")
    return vary is None or b"*" not in list_members(vary)
