"""
``ReactorLag``: how late the reactor runs what is due, and who was to blame when it was very late.

Everything of this process runs in one thread, so whatever computes for long (a policy of one's own, a huge document)
delays every request. A timer notes by how much it came late. A watcher thread looks at the timer's last beat, and while
the reactor is blocked it takes down where the reactor's thread stands; the log then names that place.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

INTERVAL = 0.1
"""Seconds between two beats."""

LONG = 0.1
"""Seconds of lag that are worth a line in the log."""

FRAMES_SHOWN = 6
"""Innermost frames of the blocked stack that the log names."""

log = Logger()


class ReactorLag:
    """
    Measures the lag from ``start()`` to ``stop()``.

    :ivar worst: the longest lag since ``start()``, in seconds.
    :ivar long_blocks: how many lags were longer than ``long``.
    """

    def __init__(
        self,
        clock: IReactorTime,
        observe: Callable[[float], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        interval: float = INTERVAL,
        long: float = LONG,
        watch: bool = True,
    ) -> None:
        """
        :param clock: the reactor that is measured.
        :param observe: gets each lag in seconds, like the ``observe`` of a histogram's cell.
        :param monotonic: finer than the reactor's own clock, which on uvloop counts whole milliseconds.
        :param watch: run the watcher thread, which wakes up twice an ``interval``.
        """
        self.worst = 0.0
        self.long_blocks = 0
        self._clock = clock
        self._observe = observe
        self._monotonic = monotonic
        self._interval = interval
        self._long = long
        self._watch = watch
        self._due = 0.0
        self._timer: IDelayedCall | None = None
        self._stopped = threading.Event()
        # Where the reactor stood, and the beat that was due then: the watcher may be late, and the beat have come.
        self._place: tuple[str, float] | None = None

    def start(self) -> None:
        """Begin, in the reactor's own thread and after any fork (a thread does not survive one)."""
        self._stopped.clear()
        self._wait()
        if self._watch:
            reactor_thread = threading.get_ident()
            threading.Thread(target=self._look, args=(reactor_thread,), name="reactor lag", daemon=True).start()

    def stop(self) -> None:
        """End the timer and the thread."""
        self._stopped.set()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _wait(self) -> None:
        self._due = self._monotonic() + self._interval
        self._timer = self._clock.callLater(self._interval, self._beat)

    def _beat(self) -> None:
        lag = max(0.0, self._monotonic() - self._due)
        place, due = self._place or ("", 0.0)
        if due != self._due:
            place = ""
        self._wait()
        self._observe(lag)
        self.worst = max(self.worst, lag)
        if lag > self._long:
            self.long_blocks += 1
            log.warn(
                "the reactor was blocked for {milliseconds} ms{place}",
                milliseconds=round(lag * 1000),
                place=f", in {place}" if place else "",
            )

    def _look(self, reactor_thread: int) -> None:
        """The watcher thread."""
        while not self._stopped.wait(self._interval / 2):
            due = self._due
            if (self._place is None or self._place[1] != due) and self._monotonic() > due + self._long:
                frame = sys._current_frames().get(reactor_thread)
                self._place = (place_of(frame) if frame is not None else "", due)


def place_of(frame: FrameType) -> str:
    """``file:line function < file:line caller < ...``, innermost first."""
    stack = traceback.extract_stack(frame)
    return " < ".join(f"{entry.filename}:{entry.lineno} {entry.name}" for entry in reversed(stack[-FRAMES_SHOWN:]))
