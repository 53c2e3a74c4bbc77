"""
One question for all who ask the same at the same time.

Not here: what is remembered of the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred

from apigw.exchange.responder import drive

V = TypeVar("V")


class AskedOnce(Generic[V]):
    """Questions under way, by what is asked. Who goes away does not take the answer from the others."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Deferred[V]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._waiting

    def ask(self, key: Hashable, question: Callable[[], Coroutine[Any, Any, V]]) -> Deferred[V]:
        """
        The answer to the question that is under way for ``key``, or to this one.

        :return: fails with what the question raises.
        """
        answer: Deferred[V] = Deferred()
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(answer)
            return answer
        self._waiting[key] = [answer]
        drive(question(), lambda found: self._tell(key, found), lambda error: self._fail(key, error))
        return answer

    def _tell(self, key: Hashable, found: V) -> None:
        for each in self._waiting.pop(key):
            if not each.called:
                each.callback(found)

    def _fail(self, key: Hashable, error: BaseException) -> None:
        for each in self._waiting.pop(key):
            if not each.called:
                each.errback(error)
