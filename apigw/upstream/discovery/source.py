"""
``Source``: asks again and again, tells news, and keeps the last good answer.

A kind of source only says how to look once (``look``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from apigw.config.text import Wrong
from apigw.json_text import read
from apigw.upstream.target_spec import SourceSpec, TargetSpec, parse_target_line

log = Logger()

REPEATED = 600.0
"""Seconds after which a failure that goes on is logged again."""
FIRST_LOOKS = 1.0
"""Seconds between two looks of a source that has not had an answer yet: its upstream can do nothing without."""

LONGEST_LOOK = 30.0
"""Seconds: a look that takes longer has failed."""

Found = Callable[[Sequence[TargetSpec]], None]


class Unusable(Exception):
    """A source's answer can't be used; the last good one holds. The text says why."""


class Source:
    """
    One source of targets.

    :ivar last: the last good answer. :ivar failures: how often in a row it failed.
    """

    def __init__(self, spec: SourceSpec, reactor: IReactorTime, interval: float) -> None:
        """
        :param interval: seconds between two looks, and after a failure.
        """
        self.spec = spec
        self.interval = interval
        self.last: tuple[TargetSpec, ...] = ()
        self.failures = 0
        self._logged = 0.0
        self._reactor = reactor
        self._found: Found | None = None
        self._timer: IDelayedCall | None = None
        self._looking: Deferred[tuple[Sequence[TargetSpec] | None, float]] | None = None

    async def look(self) -> tuple[Sequence[TargetSpec] | None, float]:
        """
        Look once.

        :return: the targets, or None for those of the last time; and seconds until the next look.
        :raises Unusable: or anything else, when there is no answer.
        """
        raise NotImplementedError

    def start(self, found: Found) -> None:
        """Look now and from now on; call ``found`` with all targets when they are others than before."""
        self._found = found
        self._look()

    def looked(self) -> Deferred[None]:
        """Wait until the look that is under way has ended."""
        ended: Deferred[None] = Deferred()
        if self._looking is None:
            ended.callback(None)
        else:
            self._looking.addBoth(lambda _: ended.callback(None))
        return ended

    def stop(self) -> None:
        """End: nothing of it is left behind."""
        self._found = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looking is not None:
            self._looking.cancel()

    def _look(self) -> None:
        self._timer = None
        looking = self._looking = Deferred.fromCoroutine(self.look())
        looking.addTimeout(LONGEST_LOOK, self._reactor)
        looking.addCallbacks(self._answered, self._failed)

    def _answered(self, answer: tuple[Sequence[TargetSpec] | None, float]) -> None:
        self._looking = None
        if self._found is None:
            return
        if self.failures:
            log.info("targets are found again: {source}", source=str(self.spec))
            self.failures = 0
        targets, wait = answer
        self._wait(wait)
        if targets is not None and tuple(targets) != self.last:
            self.last = tuple(targets)
            self._found(self.last)

    def _failed(self, failure: Failure) -> None:
        self._looking = None
        if self._found is None:
            return
        self.failures += 1
        now = self._reactor.seconds()
        if self.failures == 1 or now - self._logged >= REPEATED:
            self._logged = now
            log.warn(
                "no targets from {source}: {error}; the last answer holds ({count} targets)",
                source=str(self.spec),
                error=_why(failure.value),
                count=len(self.last),
            )
        self._wait(self.interval if self.last else min(self.interval, FIRST_LOOKS))

    def _wait(self, seconds: float) -> None:
        self._timer = self._reactor.callLater(seconds, self._look)


def _why(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__} {error}".rstrip()


def parse_targets(content: bytes, spec: SourceSpec) -> tuple[TargetSpec, ...]:
    """
    Targets from a file or an HTTP answer.

    Lines as in ``targets``, with comments; or JSON: a list of such lines or of ``{"target": URL, "weight": 2,
    "backup": false}``, or an object that has that list as ``targets``.

    :raises Unusable: when anything in it is wrong: half of an answer could be worse than the last one.
    """
    try:
        text = content.decode()
        if text.lstrip().startswith(("[", "{")):
            document = read(content)
            entries = document.get("targets") if isinstance(document, dict) else document
            if not isinstance(entries, list):
                raise Unusable("its JSON has no list of targets")
            return tuple(_from_json(entry, spec) for entry in entries)
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        return tuple(_with_defaults(parse_target_line(line), line, spec) for line in lines if line)
    except Wrong as wrong:
        raise Unusable(f"one of its targets is wrong: {wrong.what.replace('{shown}', 'it')}") from None
    except ValueError as error:
        raise Unusable(f"it can't be read: {error}") from None


def _from_json(entry: Any, spec: SourceSpec) -> TargetSpec:
    if isinstance(entry, str):
        return _with_defaults(parse_target_line(entry), entry, spec)
    if not isinstance(entry, dict) or not isinstance(entry.get("target"), str):
        raise Unusable('a target is neither a text nor an object with "target"')
    line = entry["target"]
    weight, backup = entry.get("weight"), entry.get("backup")
    if weight is not None:
        line += f" weight={weight}"
    if backup is not None:
        line += f" backup={'yes' if backup is True else 'no' if backup is False else backup}"
    return _with_defaults(parse_target_line(line), line, spec)


def _with_defaults(target: TargetSpec, line: str, spec: SourceSpec) -> TargetSpec:
    """What the line itself doesn't say, the source's own line says."""
    return TargetSpec(
        target.scheme,
        target.host,
        target.port,
        path=target.path,
        base_path=target.base_path,
        weight=target.weight if " weight=" in line else spec.weight,
        backup=target.backup if " backup=" in line else spec.backup,
    )
