"""
The reactor that the gateway runs on: Twisted's asyncio reactor on a uvloop loop.

Connections of the data path are uvloop's own transports on that loop; everything else of Twisted (treq, processes,
threads, trial) works on it as on any reactor. Two things Twisted's class doesn't do are done here:

- ``beforeDaemonize``/``afterDaemonize`` (twistd calls them around its fork): a loop shared by parent and child
  delivers signals to the wrong process. Timers, readers and writers of Twisted are carried over to a new loop; what
  asyncio was told itself (``call_soon``, ``call_later``, tasks) is not. So nobody keeps a loop from before the fork.
- SIGCHLD: uvloop takes the signal wake-up descriptor that Twisted's child waker counts on.

Not here: the choice of a reactor by name, which is ``twisted/plugins/apigw_plugin.py``.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import uvloop
from twisted.internet import process
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.interfaces import IReactorDaemonize
from zope.interface import implementer


@implementer(IReactorDaemonize)
class UvloopReactor(AsyncioSelectorReactor):
    """Twisted's reactor interfaces on a uvloop loop of its own, which outlives a fork."""

    # Twisted leaves these untyped.
    _timerHandle: Any
    _internalReaders: set[Any]

    def __init__(self) -> None:
        super().__init__(_new_loop())

    @property
    def loop(self) -> uvloop.Loop:
        """The running loop. Read it when it is used, never keep it: a fork replaces it."""
        return self._asyncioEventloop  # type: ignore[return-value]  # ours: see _new_loop

    def _reallyStartRunning(self) -> None:
        super()._reallyStartRunning()
        if self._installSignalHandlers:
            signal.signal(signal.SIGCHLD, self._child_ended)

    def _child_ended(self, *_: object) -> None:
        self.callFromThread(process.reapAllProcesses)  # type: ignore[no-untyped-call]

    def beforeDaemonize(self) -> None:
        """Leave the loop, so that no descriptor of it is shared with the process that the fork makes."""
        if self._timerHandle is not None:
            self._timerHandle.cancel()
            self._timerHandle = None
        self._scheduledAt = None
        loop = self._asyncioEventloop
        for reader in self._readers.values():
            loop.remove_reader(reader)
        for writer in self._writers.values():
            loop.remove_writer(writer)
        loop.close()

    def afterDaemonize(self) -> None:
        """Go on on a new loop, with the timers, readers and writers that there were."""
        self._asyncioEventloop = _new_loop()
        readers, writers = list(self._readers), list(self._writers)
        self._readers.clear()
        self._writers.clear()
        if self.waker is not None:
            # The pipe that wakes this reactor is the parent's too.
            readers.remove(self.waker)
            self._internalReaders.discard(self.waker)
            self.waker.connectionLost(None)
            self.waker = None
            self.installWaker()  # type: ignore[no-untyped-call]
        for reader in readers:
            self.addReader(reader)  # type: ignore[no-untyped-call]
        for writer in writers:
            self.addWriter(writer)  # type: ignore[no-untyped-call]
        self._reschedule()  # type: ignore[no-untyped-call]


def _new_loop() -> uvloop.Loop:
    import asyncio

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def install() -> None:
    """
    Make a ``UvloopReactor`` the reactor of this process.

    :raises twisted.internet.error.ReactorAlreadyInstalledError: there is one already.
    """
    from twisted.internet.main import installReactor

    installReactor(UvloopReactor())


def ensure() -> None:
    """``install()``, unless a reactor was chosen before (by ``twistd --reactor``, or by an import)."""
    if "twisted.internet.reactor" not in sys.modules:
        install()
