"""
The log for people: what a line of Twisted's log looks like, and how often the same trouble is told.

    2026-11-21T10:00:00.123Z warn  apigw.upstream.breaker: the circuit of users is open

As JSON lines, if wished. A failure that repeats (an unreachable service under load) is told ten times a minute, and
then counted; the log must not be what fills the disk.

Not here: the access log (``apigw.observability.access_log``).
"""

from __future__ import annotations

import re
import time
from typing import Any, Literal

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, formatEvent
from zope.interface import implementer

from apigw.json_text import write
from apigw.observability.log_file import LogFile

Form = Literal["text", "json"]

BURST = 10
"""Events of one kind that are told within a period."""

PERIOD = 60.0
"""Seconds of a period."""

KINDS = 1000
"""Kinds of events that are told apart."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_LIMITED = frozenset((LogLevel.debug, LogLevel.warn, LogLevel.error, LogLevel.critical))
"""All but news: what clients do wrong (a handshake that fails) is told as debug, and they may do it often."""


@implementer(ILogObserver)
class LogLines:
    """An observer that writes each event as one line (a traceback: as indented lines behind it) to a file."""

    def __init__(self, file: LogFile, form: Form = "text") -> None:
        self._file = file
        self._line = _as_json if form == "json" else _as_text

    def __call__(self, event: LogEvent) -> None:
        line = self._line(event)
        if line:
            self._file.write(bytearray(line))

    def flush(self) -> None:
        """Try again to write what a slow reader had no room for."""
        self._file.push()

    def reopen(self) -> None:
        """Go on in a new file of the same name (SIGUSR1)."""
        self._file.reopen()


@implementer(ILogObserver)
class Repeats:
    """
    Passes events on, but warnings, errors and debug events of one kind only ``burst`` times a ``period``; then says how
    many it kept.

    A kind is the place in the code: logger, level, format and type of failure, not the values.
    """

    def __init__(self, observer: ILogObserver, *, burst: int = BURST, period: float = PERIOD) -> None:
        self._observer = observer
        self._burst = burst
        self._period = period
        self._kinds: dict[tuple[Any, ...], _Kind] = {}

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_level") not in _LIMITED:
            self._observer(event)
            return
        failure = event.get("log_failure")
        key = (
            event.get("log_namespace"),
            event["log_level"],
            event.get("log_format"),
            getattr(failure, "type", None),
        )
        now = event.get("log_time", 0.0)
        kind = self._kinds.get(key)
        if kind is not None and now >= kind.until:
            self._tell(kind)
            kind = None
        if kind is None:
            if len(self._kinds) >= KINDS:
                self.flush()
            kind = self._kinds[key] = _Kind(event, now + self._period)
        kind.count += 1
        if kind.count <= self._burst:
            self._observer(event)

    def flush(self, now: float | None = None) -> None:
        """
        Tell of what was kept and forget it.

        :param now: time of day, for a timer: only of the periods that are over by then. None: of all, at the end.
        """
        for key, kind in list(self._kinds.items()):
            if now is None or now >= kind.until:
                del self._kinds[key]
                self._tell(kind)

    def _tell(self, kind: _Kind) -> None:
        kept = kind.count - self._burst
        if kept > 0:
            told = dict(kind.event)
            told.pop("log_failure", None)
            told |= {
                "log_format": "{repeats} more times in {seconds:.0f} s: {what}",
                "repeats": kept,
                "seconds": self._period,
                "what": formatEvent(kind.event),
                "log_time": kind.until,
            }
            self._observer(told)


class _Kind:
    """One kind of event in its current period."""

    __slots__ = ("count", "event", "until")

    def __init__(self, event: LogEvent, until: float) -> None:
        self.event = event
        self.until = until
        self.count = 0


def _as_text(event: LogEvent) -> bytes:
    message = eventAsText(event, includeTimestamp=False, includeSystem=False)
    if not message:
        return b""
    line = f"{_time(event)} {_level(event):<5} {_logger(event)}: {_printable(message)}\n"
    return line.encode("utf-8", "backslashreplace")


def _as_json(event: LogEvent) -> bytes:
    message = formatEvent(event)
    members = {"time": _time(event), "level": _level(event), "logger": _logger(event), "message": message}
    failure = event.get("log_failure")
    if failure is not None:
        members["traceback"] = failure.getTraceback()
    elif not message:
        return b""
    return write(members) + b"\n"


def _time(event: LogEvent) -> str:
    seconds = event.get("log_time", 0.0)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds * 1000) % 1000:03}Z"


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return level.name if level is not None else "info"


def _logger(event: LogEvent) -> str:
    return str(event.get("log_namespace") or event.get("log_system") or "-")


def _printable(message: str) -> str:
    """Nothing in a message starts a line of its own, or steers a terminal."""
    return _CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), message).replace("\n", "\n    ")
