"""Splits and mirrors: shares of a route's requests, and copies that nobody notices."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apigw.config.text import Wrong, written
from apigw.exchange.body import Body
from apigw.exchange.errors import ClientGone, UpstreamFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done
from apigw.exchange.response import Response
from apigw.upstream.mirror import LARGEST_BODY, MEMORY, PENDING, Mirror, MirrorSpec, parse_mirror
from apigw.upstream.split import Split, SplitSettings


def split(seed: int = 1, name: str = "orders", **options: str) -> Split:
    section = {"upstreams": "stable 95%, canary 5%", **options}
    return Split(SplitSettings.model_validate(section), Random(seed), name)


def asking(path: str = "/", **headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(b"GET", path.encode(), headers=Headers(pairs), client=headers.get("ip", "10.0.0.1"))


@given(canary=st.integers(0, 100), seed=st.integers(0, 1000))
@hypothesis_settings(max_examples=20, deadline=None)
def test_shares_hold_within_1_per_cent(canary: int, seed: int) -> None:
    chosen = split(seed, upstreams=f"stable {100 - canary}%, canary {canary}%")
    found = Counter(chosen.choose(asking()) for _ in range(5000))
    assert found["canary"] / 5000 == pytest.approx(canary / 100, abs=0.01)


def test_the_same_session_always_gets_the_same_upstream() -> None:
    chosen = split(sticky="cookie:sid", upstreams="stable 50%, canary 50%")
    found = {sid: {chosen.choose(asking(Cookie=f"sid={sid}")) for _ in range(5)} for sid in range(200)}
    assert all(len(names) == 1 for names in found.values())
    shares = Counter(names.pop() for names in found.values())
    assert 70 < shares["canary"] < 130


def test_those_who_had_the_canary_keep_it_while_it_grows() -> None:
    small, large = split(sticky="ip"), split(sticky="ip", upstreams="stable 80%, canary 20%")
    clients = [Request(b"GET", b"/", client=f"10.0.{n // 250}.{n % 250}") for n in range(2000)]
    had = [client for client in clients if small.choose(client) == "canary"]
    assert len(had) == pytest.approx(100, abs=40)
    assert {large.choose(client) for client in had} == {"canary"}


def test_two_splits_do_not_hit_the_same_clients() -> None:
    one, two = split(name="a", sticky="ip"), split(name="b", sticky="ip")
    clients = [Request(b"GET", b"/", client=f"10.0.{n // 250}.{n % 250}") for n in range(2000)]
    had = [client for client in clients if one.choose(client) == "canary"]
    assert sum(two.choose(client) == "canary" for client in had) < len(had) / 2


def test_a_request_may_name_the_upstream_it_wants() -> None:
    chosen = split(choose="header:X-Variant")
    assert {chosen.choose(asking(X_Variant="canary")) for _ in range(50)} == {"canary"}
    assert Counter(chosen.choose(asking(X_Variant="other")) for _ in range(100))["stable"] > 90


def test_the_split_hands_requests_on_and_counts_them() -> None:
    chosen = split(choose="cookie:variant")
    seen: list[str] = []

    def upstream(name: str) -> Response:
        seen.append(name)
        return Response(200)

    respond = chosen.responder({name: lambda request, done, name=name: done(upstream(name)) for name in chosen.names})  # type: ignore[misc]
    respond(asking(Cookie="variant=canary"), lambda response: None)
    assert seen == ["canary"]
    assert chosen.counts == {"stable": 0, "canary": 1}


@pytest.mark.parametrize(
    "section",
    [
        {"upstreams": "stable 95%, canary 4%"},
        {"upstreams": "stable, canary"},
        {"upstreams": "stable 50%, stable 50%"},
        {"upstreams": "stable 100%", "choose": "ip"},
        {"upstreams": "stable 100%", "sticky": "moon"},
        {},
    ],
)
def test_a_split_that_makes_no_sense_is_refused(section: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        SplitSettings.model_validate(section)


# ---- mirrors ---------------------------------------------------------------------------------------------------------


class Shadow:
    """The mirrored upstream: takes copies, and answers when told."""

    def __init__(self, status: int | None = 200) -> None:
        self.status = status
        self.copies: list[Request] = []
        self.contents: list[bytes] = []
        self.waiting: list[Done] = []

    def __call__(self, request: Request, done: Done) -> None:
        self.copies.append(request)
        if request.body is not None:
            request.body.subscribe(_Gather(self.contents))
        if self.status is None:
            self.waiting.append(done)
        else:
            done(Response(self.status))


class _Gather:
    def __init__(self, contents: list[bytes]) -> None:
        self.contents = contents
        self.pieces = b""

    def body_data(self, data: bytes) -> None:
        self.pieces += data

    def body_end(self, trailers: list[Pair] | None) -> None:
        self.contents.append(self.pieces)

    def body_failed(self, error: Exception) -> None:
        self.contents.append(b"FAILED")


class Feeding:
    """A client that sends content, and can be told to wait."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.body = Body(self)

    def body_wanted(self) -> None:
        self.calls.append("wanted")

    def pause_body(self) -> None:
        self.calls.append("pause")

    def resume_body(self) -> None:
        self.calls.append("resume")

    def cancel_body(self) -> None:
        self.calls.append("cancel")


def origin(status: int = 200, contents: list[bytes] | None = None):  # type: ignore[no-untyped-def]
    def respond(request: Request, done: Done) -> None:
        if request.body is not None:
            request.body.subscribe(_Gather(contents if contents is not None else []))
        done(Response(status))

    return respond


def mirror(shadow: Shadow, share: float = 1.0) -> Mirror:
    return Mirror(MirrorSpec("next", share), shadow, Random(1))


def test_a_copy_goes_out_after_the_original_was_answered_and_statuses_are_compared() -> None:
    shadow = Shadow(status=500)
    mirrored = mirror(shadow)
    order: list[str] = []
    respond = mirrored.wrap(origin(200))
    original = asking("/orders", X_A="1")
    respond(original, lambda response: order.append(f"answered {response.status}, {len(shadow.copies)} copies"))
    assert order == ["answered 200, 0 copies"]
    (copy,) = shadow.copies
    assert copy is not original
    assert (copy.method, copy.path, copy.headers.get(b"x-a")) == (b"GET", b"/orders", b"1")
    assert (mirrored.sent, mirrored.same, mirrored.different) == (1, 0, {(200, 500): 1})


def test_the_share_holds() -> None:
    shadow = Shadow()
    respond = mirror(shadow, 0.1).wrap(origin())
    for _ in range(1000):
        respond(asking(), lambda response: None)
    assert 98 <= len(shadow.copies) <= 102


def test_content_goes_to_both() -> None:
    shadow, contents, client = Shadow(), list[bytes](), Feeding()
    request = Request(b"POST", b"/", body=client.body)
    mirrored = mirror(shadow)
    mirrored.wrap(origin(201, contents))(request, lambda response: None)
    client.body.feed(b"hello ")
    assert shadow.copies == []
    client.body.feed(b"world")
    client.body.end()
    assert contents == [b"hello world"]
    assert shadow.contents == [b"hello world"]
    assert mirrored.memory == 0


def test_a_slow_shadow_costs_the_original_nothing_and_a_bounded_number_of_copies() -> None:
    shadow = Shadow(status=None)
    mirrored = mirror(shadow)
    respond = mirrored.wrap(origin())
    answered = 0

    def done(response: Response) -> None:
        nonlocal answered
        answered += 1

    for _ in range(PENDING + 50):
        respond(asking(), done)
    assert answered == PENDING + 50
    assert (len(shadow.copies), mirrored.dropped) == (PENDING, 50)
    for waiting in shadow.waiting:
        waiting(Response(200))
    assert mirrored.pending == 0


def test_originals_that_were_under_way_together_do_not_bring_more_copies_than_that() -> None:
    shadow = Shadow(status=None)
    mirrored = mirror(shadow)
    under_way: list[Done] = []
    respond = mirrored.wrap(lambda request, done: under_way.append(done))
    for _ in range(PENDING + 50):
        respond(asking(), lambda response: None)
    for done in under_way:
        done(Response(200))
    assert (len(shadow.copies), mirrored.dropped, mirrored.memory) == (PENDING, 50, 0)


def test_a_shadow_that_fails_is_counted() -> None:
    mirrored = mirror(Shadow(None))
    shadow = mirrored._upstream
    assert isinstance(shadow, Shadow)
    mirrored.wrap(origin())(asking(), lambda response: None)
    shadow.waiting[0](problem(asking(), UpstreamFault("refused")))
    assert (mirrored.failed, mirrored.same, mirrored.different) == (1, 0, {})


def test_long_content_is_passed_on_but_not_copied() -> None:
    shadow, contents, client = Shadow(), list[bytes](), Feeding()
    mirrored = mirror(shadow)
    mirrored.wrap(origin(200, contents))(Request(b"PUT", b"/", body=client.body), lambda response: None)
    for _ in range(17):
        client.body.feed(b"x" * (LARGEST_BODY // 16))
    client.body.end()
    assert len(contents[0]) == 17 * (LARGEST_BODY // 16)
    assert (shadow.copies, mirrored.dropped, mirrored.memory) == ([], 1, 0)


def test_all_copies_together_have_a_limit_of_memory() -> None:
    mirrored = mirror(Shadow())
    clients = [Feeding() for _ in range(MEMORY // LARGEST_BODY + 5)]
    for client in clients:
        mirrored.wrap(origin())(Request(b"PUT", b"/", body=client.body), lambda response: None)
        client.body.feed(b"x" * LARGEST_BODY)
    assert mirrored.memory == MEMORY
    assert mirrored.dropped == 5
    for client in clients:
        client.body.end()
    assert (mirrored.memory, mirrored.sent) == (0, MEMORY // LARGEST_BODY)


def test_the_clients_content_still_waits_for_the_service() -> None:
    client = Feeding()

    def slow(request: Request, done: Done) -> None:
        assert request.body is not None
        request.body.subscribe(_Gather([]))
        request.body.pause()
        request.body.resume()
        request.body.cancel()

    mirror(Shadow()).wrap(slow)(Request(b"PUT", b"/", body=client.body), lambda response: None)
    assert client.calls == ["pause", "resume", "cancel"]


def test_a_client_that_goes_away_leaves_no_copy() -> None:
    shadow = Shadow()
    mirrored = mirror(shadow)
    mirrored.wrap(lambda request, done: done(problem(request, ClientGone())))(asking(), lambda response: None)
    assert shadow.copies == []
    assert mirrored.dropped == 0


@pytest.mark.parametrize("text", ["", "next 10", "next 10% 5%", "next 200%"])
def test_a_mirror_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(Wrong):
        parse_mirror(written(text))


def test_a_mirror_is_read_with_and_without_a_share() -> None:
    assert parse_mirror(written("next 10%")) == MirrorSpec("next", 0.1)
    assert parse_mirror(written("next")) == MirrorSpec("next", 1.0)
