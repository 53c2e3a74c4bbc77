"""Anything at any time: targets that flap, discovery that changes, breakers, operators; nothing is left over."""

from __future__ import annotations

from random import Random

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from apigw.exchange.errors import UpstreamFault
from apigw.exchange.request import Request
from apigw.upstream.attempt import Attempt
from apigw.upstream.balance_spec import BalanceSpec, KeySpec
from apigw.upstream.balancing.kinds import BALANCERS, plain_balancer
from apigw.upstream.breaker import Breaker
from apigw.upstream.breaker_states import State
from apigw.upstream.settings import BreakerSettings, OutlierSettings
from apigw.upstream.target import Target
from apigw.upstream.target_set import TargetSet
from apigw.upstream.target_spec import TargetSpec

NAMES = ["a", "b", "c", "d"]


class Soak(RuleBasedStateMachine):
    """One upstream, and everything that can happen to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.random = Random(5)
        chosen = BreakerSettings(volume_threshold=2, reset_timeout=3.0, timeout=2.0, half_open_requests=2)
        kinds = [BalanceSpec(kind) for kind in BALANCERS] + [BalanceSpec("hash", KeySpec("path"))]
        self.targets = TargetSet(
            "x",
            plain_balancer(self.random.choice(kinds), self.random),
            0.0,
            slow_start=5.0,
            max_requests=3,
            outlier=OutlierSettings(base_ejection_time=4.0),
            new_breaker=lambda target, now: Breaker(chosen, now, rng=self.random),
        )
        self.known: set[Target] = set()
        self.closed: list[Target] = []
        self.flying: list[Attempt] = []
        self.targets.on_gone(self.closed.append)
        self.update({"a": 1, "b": 2})

    @rule(found=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3)))
    def update(self, found: dict[str, int]) -> None:
        self.targets.update(
            [TargetSpec("http", name, 80, weight=found[name], backup=name == "d") for name in found], self.now
        )
        self.known.update(self.targets.targets)

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 3.0, 10.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def tick(self) -> None:
        self.targets.tick(self.now)

    @rule(path=st.sampled_from([b"/1", b"/2"]), method=st.sampled_from([b"GET", b"POST"]), again=st.booleans())
    def send(self, path: bytes, method: bytes, again: bool) -> None:
        tried = [self.flying[-1].target] if again and self.flying else []
        refusal: tuple[int, str] | None
        try:
            attempt = self.targets.begin(Request(method, path), self.now, tried)
        except UpstreamFault as fault:
            refusal = fault.status, fault.reason
        else:
            refusal = None
        if refusal is not None:
            assert refusal in {(503, "no_target"), (503, "circuit_open")}
            return
        target = attempt.target
        assert target in self.targets.targets
        assert target.weight
        assert not target.draining
        assert target.breaker is not None
        assert target.breaker.state in (State.CLOSED, State.HALF_OPEN, State.FORCED_CLOSED)
        assert target not in self.closed
        self.flying.append(attempt)

    @precondition(lambda self: self.flying)
    @rule(at=st.integers(0, 1000), how=st.sampled_from(["200", "500", "404", "reset", "connect", "timeout", "cancel"]))
    def end(self, at: int, how: str) -> None:
        attempt = self.flying.pop(at % len(self.flying))
        if how.isdigit():
            attempt.answered(int(how), self.now)
            attempt.end()
        elif how == "cancel":
            attempt.cancelled()
        else:
            attempt.failed(how, self.now)
        attempt.end()

    @precondition(lambda self: self.targets.targets)
    @rule(at=st.integers(0, 3), ok=st.booleans(), silent=st.booleans())
    def probe(self, at: int, ok: bool, silent: bool) -> None:
        target = self.targets.targets[at % len(self.targets.targets)]
        self.targets.probed(target, ok, self.now, unreachable=silent)

    @precondition(lambda self: self.targets.targets)
    @rule(at=st.integers(0, 3), wanted=st.booleans())
    def drain(self, at: int, wanted: bool) -> None:
        self.targets.drain(self.targets.targets[at % len(self.targets.targets)], wanted, self.now)

    @precondition(lambda self: self.targets.targets)
    @rule(at=st.integers(0, 3), wanted=st.sampled_from(["open", "close", "auto"]))
    def force(self, at: int, wanted: str) -> None:
        breaker = self.targets.targets[at % len(self.targets.targets)].breaker
        assert breaker is not None
        breaker.force(wanted, self.now)

    @invariant()
    def numbers_agree(self) -> None:
        for target in self.known:
            assert target.active == sum(attempt.target is target for attempt in self.flying)

    @invariant()
    def what_is_gone_is_closed_once_when_its_last_request_is_over(self) -> None:
        assert len(set(self.closed)) == len(self.closed)
        for target in self.known - set(self.targets.targets):
            assert (target in self.closed) == (not target.active)
            assert (target in self.targets.leaving) == bool(target.active)

    def teardown(self) -> None:
        """When all is well again, everybody is asked again: nobody was forgotten."""
        for attempt in self.flying:
            attempt.cancelled()
        self.targets.update([TargetSpec("http", name, 80) for name in NAMES], self.now)
        for target in self.targets.targets:
            self.targets.drain(target, False, self.now)
            self.targets.probed(target, True, self.now)
            target.breaker.force("auto", self.now)  # type: ignore[union-attr]
        for _ in range(600):
            self.now += 1.0
            attempt = self.targets.begin(Request(b"GET", b"/"), self.now)
            attempt.answered(200, self.now + 0.01)
            attempt.end()
        assert [target.state for target in self.targets.targets] == ["healthy"] * 4
        assert len(self.targets.eligible) == 4
        assert self.targets.leaving == []


Soak.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=60, deadline=None)
TestSoak = Soak.TestCase
