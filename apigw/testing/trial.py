"""
A ``TestCase`` for both runners: methods, fixtures and clean-ups may return Deferreds or be coroutines.

Under trial it is trial's own. Under pytest trial's own can't work, since it wants to start the reactor, which
pytest-twisted is running already; there it waits in pytest-twisted's way. ``todo`` is trial's alone: under pytest use
``pytest.mark.xfail``.
"""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from apigw.net.reactor import ensure

ensure()  # before anything imports one: plain `trial` runs on the gateway's reactor then

from twisted.internet.defer import Deferred  # noqa: E402
from twisted.trial import unittest as trial  # noqa: E402

TIME_LIMIT = 30.0

# trial imports test modules that import pytest-twisted too: what counts is whether that runs.
_pytest_twisted: Any = sys.modules.get("pytest_twisted")
if _pytest_twisted is None or _pytest_twisted._instances.reactor is None:
    TestCase = trial.TestCase
else:

    def _waiting(method: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(method)
        def waited(*args: object, **kwargs: object) -> object:
            result = method(*args, **kwargs)
            if inspect.iscoroutine(result):
                result = Deferred.fromCoroutine(result)
            if not isinstance(result, Deferred):
                return result
            from twisted.internet import reactor

            return _pytest_twisted.blockon(result.addTimeout(TIME_LIMIT, reactor))

        return waited

    class TestCase(trial.SynchronousTestCase):  # type: ignore[no-redef]  # the same to a test, by another way
        """trial's TestCase, run by pytest."""

        assertFailure = trial.TestCase.assertFailure

        def _run(self, suppress: Any, todo: Any, method: Callable[..., object], result: Any) -> Any:
            return super()._run(suppress, todo, _waiting(method), result)  # type: ignore[no-untyped-call]

        def mktemp(self) -> str:
            """A path for a file or folder, gone after the test; trial's own would stay in the working folder."""
            folder = tempfile.mkdtemp(prefix="apigw-")
            self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
            return os.path.join(folder, "temp")

        def addCleanup(self, f: Callable[..., object], *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
            """Call ``f`` after the test, and wait for what it returns."""
            super().addCleanup(_waiting(f), *args, **kwargs)
