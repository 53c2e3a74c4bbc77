"""
Long work beside requests: nothing holds the loop for longer than a slice.

    generation = await in_slices(build_steps(...))      # work on what the loop's thread owns
    with beside_requests():
        configuration = await in_daemon(...)            # work on data that nobody else has yet, and waiting for files

Work in slices is a generator that yields wherever it may pause.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")

SLICE = 0.003
"""Seconds of work between two turns of the loop."""
SWITCH = 0.0001
"""Seconds after which another thread gives way to the loop's."""
RELEASED = 64
"""Objects that are let go between two looks at the clock."""


def at_once(steps: Generator[None, None, T]) -> T:
    """Do all of the work now."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        result: T = end.value
        return result


async def in_slices(steps: Generator[None, None, T]) -> T:
    """Do the work, and give the loop a turn after each ``SLICE``."""
    until = perf_counter() + SLICE
    with beside_requests():
        try:
            while True:
                next(steps)
                if perf_counter() >= until:
                    await asyncio.sleep(0)
                    until = perf_counter() + SLICE
        except StopIteration as end:
            result: T = end.value
            return result


def within(manager: AbstractContextManager[object], steps: Generator[None, None, T]) -> Generator[None, None, T]:
    """The same work, each step of it inside of ``manager``, which does not hold for what goes on in between."""
    while True:
        with manager:
            try:
                next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
        yield


async def release(things: list[Any]) -> None:
    """Let go of many objects, which must be held by nobody else, a few at a time."""

    def steps() -> Iterator[None]:
        while things:
            del things[-RELEASED:]
            yield

    await in_slices(steps())  # type: ignore[arg-type]


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage inside, and never look for any among what is made there: it stays, and is very much."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


_before: list[tuple[float, tuple[int, int, int]]] = []
"""The interval and thresholds of before, for each ``beside_requests`` that is not over."""


@contextmanager
def beside_requests() -> Iterator[None]:
    """
    Inside, requests go first: a thread that computes for long gives way to the loop's after ``SWITCH``, and no garbage
    is collected among old objects. While very many are made, that would take long each time, and find nothing.
    """
    _before.append(_before[0] if _before else (sys.getswitchinterval(), gc.get_threshold()))
    interval, (young, middle, _) = _before[0]
    sys.setswitchinterval(min(SWITCH, interval))
    gc.set_threshold(young, middle, 1_000_000_000)
    try:
        yield
    finally:
        interval, thresholds = _before.pop()
        if not _before:
            sys.setswitchinterval(interval)
            gc.set_threshold(*thresholds)
