"""
The pytest plugin: ``pytest_plugins = ["apigw.testing.plugin"]`` in the top ``conftest.py``.

Every ``async def test_...`` runs on the uvloop reactor, without a decorator; it may await Deferreds and asyncio
futures alike. One that has not ended after 30 s fails, and says where it waits; ``@pytest.mark.time_limit(SECONDS)``
changes that for one test. Other tests go on: nothing stops the reactor.

Two fixtures start what a test asks for, and end it when the test is over:

    async def test_the_shop_says_hello(gateway, origin):
        shop = await origin([reply(200, b"hello")])
        running = await gateway(f'''
            [upstream shop]
            targets = http://127.0.0.1:{shop.port}
            [route all]
            path = /
            upstream = shop
        ''')
        assert (await running.get("/")).body == b"hello"

Not here: waiting in plain tests. ``pytest_twisted.blockon`` works in plain fixtures only.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.error import TimeoutError as TimedOut
from twisted.python.failure import Failure

from apigw.exchange.responder import drive
from apigw.net import reactor as uvloop_reactor

TIME_LIMIT = 30.0

AsyncTest = Callable[..., Coroutine[Any, Any, object]]


def _install() -> None:
    pytest_twisted._install_reactor(reactor_installer=uvloop_reactor.install, reactor_type=uvloop_reactor.UvloopReactor)


# pytest-twisted's option knows only its own names, and it installs at pytest_configure: so its defaults are replaced.
pytest_twisted.reactor_installers["default"] = pytest_twisted.reactor_installers["asyncio"] = _install


def _ended(stop: Callable[[], Coroutine[Any, Any, object]]) -> None:
    ended: Deferred[object] = Deferred()
    drive(stop(), ended.callback, lambda error: ended.errback(Failure(error)))
    pytest_twisted.blockon(ended)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Callable[[str], Awaitable[Any]]]:
    """
    Starts gateways.

    ``await gateway(TEXT)`` is an ``apigw.testing.gateway.Gateway`` that runs on this configuration.
    """
    from apigw.testing.gateway import Gateway

    started: list[Gateway] = []

    async def start(text: str) -> Gateway:
        folder = tmp_path / f"gateway{len(started)}"
        folder.mkdir()
        made = Gateway(folder)
        made.write(text)
        await made.start()
        started.append(made)
        return made

    yield start
    for each in reversed(started):
        _ended(each.stop)


@pytest.fixture
def origin() -> Iterator[Callable[..., Awaitable[Any]]]:
    """
    Starts services.

    ``await origin(SCRIPT)`` is an ``apigw.testing.origins.Origin`` that listens on a free port.
    """
    from apigw.testing.origins import Origin

    started: list[Origin] = []

    async def start(script: Sequence[Any] = (), **options: Any) -> Origin:
        made = await Origin(script, **options).start()
        started.append(made)
        return made

    async def stop(each: Origin) -> None:
        await each.stop()

    yield start
    for each in reversed(started):
        _ended(functools.partial(stop, each))


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"time_limit(seconds): of an async test; {TIME_LIMIT:g} s without it")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Let pytest-twisted see a function that returns a Deferred in place of an async one."""
    marker = pyfuncitem.get_closest_marker("time_limit")
    limit = marker.args[0] if marker else TIME_LIMIT
    of_hypothesis = getattr(pyfuncitem.obj, "hypothesis", None)
    test = pyfuncitem.obj if of_hypothesis is None else of_hypothesis.inner_test
    if not inspect.iscoroutinefunction(test):
        return (yield)
    if of_hypothesis is None:
        pyfuncitem.obj = _limited(test, limit)
        return (yield)
    of_hypothesis.inner_test = _limited(test, limit)
    try:
        return (yield)
    finally:
        of_hypothesis.inner_test = test


def _limited(test: AsyncTest, limit: float) -> Callable[..., Deferred[object]]:
    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> Deferred[object]:
        from twisted.internet import reactor

        coroutine = test(*args, **kwargs)
        cancel: Callable[[], None] | None = None

        async def guarded() -> object:
            # pytest.skip and pytest.fail raise BaseExceptions: they are for pytest, not for the loop.
            try:
                return await coroutine
            except BaseException:
                return Failure()

        def give_up() -> None:
            place = _waits_at(coroutine)
            ended.errback(TimedOut(string=f"the test did not end within {limit:g} s; it waits at {place}"))
            if cancel is not None:
                cancel()

        def finish(result: object) -> None:
            if timer.active():
                timer.cancel()
            if not ended.called:
                ended.callback(result)

        ended: Deferred[object] = Deferred()
        timer = reactor.callLater(limit, give_up)
        cancel = drive(guarded(), finish, lambda error: finish(Failure(error)))
        return ended

    return run


def _waits_at(coroutine: Any) -> str:
    place = "its start"
    while getattr(coroutine, "cr_frame", None) is not None:
        place = f"{coroutine.cr_code.co_filename}:{coroutine.cr_frame.f_lineno}"
        coroutine = coroutine.cr_await
    return place
