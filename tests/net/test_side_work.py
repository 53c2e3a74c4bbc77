"""Work beside the loop: one piece at a time, with pauses, and bounded."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, DeferredList

from apigw.exchange.errors import GatewayFault
from apigw.net.side_work import SideWork, at_once


async def test_pieces_run_one_at_a_time_in_order_in_another_thread() -> None:
    side_work = SideWork()
    running: list[int] = []
    order: list[int] = []

    def piece(number: int) -> int:
        running.append(number)
        assert len(running) == 1
        assert threading.current_thread() is not threading.main_thread()
        order.append(number)
        running.remove(number)
        return number

    results: Any = await DeferredList([side_work(lambda number=number: piece(number)) for number in range(20)])  # type: ignore[misc]
    assert results == [(True, number) for number in range(20)]
    assert order == list(range(20))


async def test_what_a_piece_raises_is_what_its_deferred_fails_with() -> None:
    def broken() -> None:
        raise KeyError("x")

    side_work = SideWork()
    for beside in (side_work, at_once):
        with pytest.raises(KeyError):
            await beside(broken)
    assert await side_work(lambda: 1) == 1


async def test_too_many_are_refused_and_a_cancelled_one_is_left_out() -> None:
    side_work = SideWork(most=2)
    held = threading.Event()
    ran: list[int] = []
    first = side_work(held.wait)
    waiting: list[Deferred[None]] = [side_work(lambda number=number: ran.append(number)) for number in range(2)]  # type: ignore[misc]
    with pytest.raises(GatewayFault) as refused:
        await side_work(lambda: None)
    assert (refused.value.status, refused.value.reason) == (503, "busy")
    waiting[0].cancel()
    with pytest.raises(CancelledError):
        await waiting[0]
    held.set()
    await first
    await waiting[1]
    assert ran == [1]
