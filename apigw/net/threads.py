"""
Long work in a daemon thread of its own. The end of the process waits for the reactor's thread pool, but not for this.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def in_daemon(work: Callable[[], T], name: str) -> Deferred[T]:
    """
    Run ``work`` beside the running asyncio loop; the Deferred fires in the loop.

    :param name: the thread's.
    """
    loop = asyncio.get_running_loop()
    done: Deferred[T] = Deferred()

    def settle(result: T | Failure) -> None:
        if not done.called:
            done.callback(result)

    def run() -> None:
        result: T | Failure
        try:
            result = work()
        except BaseException:
            result = Failure()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return done
