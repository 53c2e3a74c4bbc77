"""Ten thousand aggregates, services that fail at random and clients that leave: nothing is left over."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from apigw.aggregation import gather
from apigw.aggregation.aggregate import Aggregate
from apigw.aggregation.asking import Ask
from apigw.aggregation.run import Run
from tests.aggregation.programme import Programme
from tests.aggregation.test_failures import at_rest
from tests.gateway.running import request, running

AGGREGATES = 10_000
CALLS = "abc"
HOW = ["ok"] * 8 + ["slow"] * 6 + ["404", "500", "reset", "invalid", "toobig", "hang"]
CONFIGURATION = """
[upstream alive]
targets = http://127.0.0.1:{port}
breaker.enabled = no
retry.attempts = 1

[aggregate it]
path = /it
timeout = 300ms
max_answer = 1KiB
call.a = alive GET /{{query.a}}?a={{query.n}}
call.b = alive GET /{{query.b}}?b={{query.n}}
call.b.optional = yes
call.c = alive GET /{{query.c}}?c={{query.n}}-{{a.is}}
call.c.optional = yes
call.c.timeout = 100ms
"""


class Client(asyncio.Protocol):
    """A client that sends one request, and leaves at once, in the middle, or when it has its answer."""

    transport: Any

    def __init__(self, data: bytes, patience: float | None) -> None:
        self._data = data
        self._patience = patience
        self._received = b""
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._data)
        if self._patience is not None:
            asyncio.get_running_loop().call_later(self._patience, transport.abort)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            self.transport.abort()
            self.over.set_result(head[9:12].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result("left")


@pytest.mark.time_limit(120)
async def test_nothing_is_left_over_and_every_request_is_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Aggregate] = []
    begin = Aggregate.__init__

    def remembered(self: Aggregate, *arguments: Any) -> None:
        begin(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Aggregate, "__init__", remembered)
    origin = await Programme().start()
    rng = Random(7)
    ends: Counter[str] = Counter()
    async with running(tmp_path, CONFIGURATION.format(port=origin.port)) as gateway:
        port = gateway.port()
        loop = asyncio.get_running_loop()
        numbers = iter(range(AGGREGATES))

        async def worker() -> None:
            for number in numbers:
                a, b, c = (rng.choice(HOW) for _ in CALLS)
                patience = rng.choice([0.0, 0.002, 0.01]) if rng.random() < 0.15 else None
                data = request(f"/it?a={a}&b={b}&c={c}&n={number}")
                _, client = await loop.create_connection(lambda: Client(data, patience), "127.0.0.1", port)  # noqa: B023
                ends[await client.over] += 1

        await gather(*(loop.create_task(worker()) for _ in range(100)))
        await origin.until_idle()
        listening = gateway.service.listening["public"]
        while listening.site.connections:
            await asyncio.sleep(0.01)
        assert sum(ends.values()) == AGGREGATES
        assert {"200", "404", "502", "504", "left"} == set(ends), ends
        assert min(ends.values()) > 50, ends
        # Every request that an origin saw ended: it was answered, broken off by the origin, or cut by the gateway.
        assert sum(origin.ended.values()) == len(origin.seen)
        assert origin.in_flight == 0
        assert origin.ended["cut"] > 100
        assert at_rest(gateway)
        gc.unfreeze()  # the gateway has frozen what it began with
        place = made[-1].place
        assert place.running == 0
        assert len(place.deadlines) == 0
        assert all(len(each) == 0 for each in place.call_deadlines if each is not None)
        gc.collect()
        left = [each for each in gc.get_objects() if isinstance(each, Run | Ask)]
        assert left == []
    await origin.stop()
