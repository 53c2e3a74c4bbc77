"""One ``TestCase`` for trial and pytest: what is waited for, and what a failure is."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from apigw.testing.trial import TestCase


def later(value: object = None) -> Deferred[Any]:
    from twisted.internet import reactor

    return deferLater(reactor, 0.001, lambda: value)


class BridgeTests(TestCase):
    """Set-up, tests, clean-ups and tear-down are all waited for."""

    def setUp(self) -> Deferred[Any]:  # type: ignore[override]  # trial waits for it
        self.steps = ["setUp begun"]
        return later().addCallback(lambda _: self.steps.append("setUp ended"))

    async def tearDown(self) -> None:  # type: ignore[override]  # trial waits for it
        await later()
        assert "setUp ended" in self.steps

    def test_setup_was_waited_for(self) -> None:
        assert self.steps == ["setUp begun", "setUp ended"]

    async def test_coroutine(self) -> None:
        assert await later(1) == 1

    def test_deferred(self) -> Deferred[Any]:
        failing = later().addCallback(lambda _: int("x"))
        return self.assertFailure(failing, ValueError)

    @inlineCallbacks
    def test_inline_callbacks(self) -> Generator[Deferred[Any], Any, None]:
        assert (yield later(3)) == 3

    def test_cleanup(self) -> None:
        self.addCleanup(later)

    async def test_reactor_is_uvloop(self) -> None:
        from twisted.internet import reactor

        from apigw.net.reactor import UvloopReactor

        assert isinstance(reactor, UvloopReactor)
