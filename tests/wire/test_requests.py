"""Every request of the corpus, whole, byte by byte and split at random: the same comes of it."""

from __future__ import annotations

import json
from random import Random

import pytest

from tests.wire.memory import Path, Wire
from tests.wire.messages import complete
from tests.wire.requests import CASES, Case

ANSWER = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def splits(data: bytes) -> list[list[int]]:
    """Whole; byte by byte (big ones: every 1009 bytes); ten times at random."""
    random = Random(len(data))
    step = 1 if len(data) < 4096 else 1009
    whole: list[int] = []
    return [
        whole,
        list(range(step, len(data), step)),
        *(sorted(random.sample(range(1, len(data)), min(len(data) - 1, random.randint(1, 4)))) for _ in range(10)),
    ]


def answer_all(path: Path, answered: dict[Wire, int]) -> None:
    """The service answers every request that is complete."""
    while True:
        before = sum(answered.values())
        for origin in path.origins:
            found, _ = complete(origin.received)
            if len(found) > answered.setdefault(origin, 0) and not origin.is_closing():
                answered[origin] += 1
                origin.send(ANSWER)
        if sum(answered.values()) == before:
            return


def run(case: Case, cuts: list[int]) -> Path:
    path = Path(trusted=case.trusted)
    answered: dict[Wire, int] = {}
    for piece in pieces(case.data, cuts):
        path.client.send(piece)
        answer_all(path, answered)
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_comes_of_it(case: Case) -> None:
    for cuts in splits(case.data):
        path = run(case, cuts)
        arrived: list[bytes] = []
        for origin in path.origins:
            found, rest = complete(origin.received)
            arrived += found
            if rest:
                assert case.status, "only a refused request may be incomplete"
                assert origin.aborted, "and then its connection is cut"
        assert arrived == list(case.origin), cuts
        responses, rest = complete(path.client.received)
        assert rest == b""
        assert [response[9:12] for response in responses[: len(case.origin)]] == [b"200"] * len(case.origin)
        ended = path.client.closed or path.client.ended
        assert ended == case.close, cuts
        assert not path.client.aborted
        if not case.status:
            assert len(responses) == len(case.origin)
            continue
        assert len(responses) == len(case.origin) + 1
        refusal = responses[-1]
        assert int(refusal[9:12]) == case.status, (cuts, refusal)
        assert json.loads(refusal.partition(b"\r\n\r\n")[2])["reason"] == case.reason, cuts
        assert (b"\r\nConnection: close\r\n" in refusal) == case.close
        assert path.finished[-1][:2] == (case.status, case.reason)


@pytest.mark.parametrize("case", [case for case in CASES if not case.close], ids=lambda case: case.name)
def test_the_same_comes_of_it_again(case: Case) -> None:
    path = Path(trusted=case.trusted)
    answered: dict[Wire, int] = {}
    for _ in range(3):
        path.client.send(case.data)
        answer_all(path, answered)
    arrived = [request for origin in path.origins for request in complete(origin.received)[0]]
    assert arrived == list(case.origin) * 3


def test_the_corpus_is_large_and_has_no_name_twice() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 150
    assert all(case.clause.startswith("RFC ") for case in CASES)
