"""What stands in the access log, for every kind of exchange, and what never does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.exchange.body import Body
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Identity, Request
from apigw.observability.access_log import FLUSH_SIZE, REMEMBERED, REMEMBERED_HEADS, AccessLog, Format, open_access_log
from apigw.observability.log_file import LogFile

NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z


class Kept:
    """A log file in memory."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.lost = 0

    def write(self, data: bytearray) -> None:
        self.pieces.append(bytes(data))

    def push(self) -> None: ...

    def reopen(self) -> None: ...

    def close(self) -> None: ...


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


def log_to(kept: Kept, form: Format = "json") -> AccessLog:
    return AccessLog(form, cast("LogFile", kept), offset=lambda: NOON)


def asked(target: bytes = b"/api/users/7", *fields: Pair, method: bytes = b"GET", **attributes: Any) -> Request:
    path, mark, query = target.partition(b"?")
    request = Request(method, path, query if mark else None, Headers(fields), host=b"shop.example", started=0.0)
    request.id = b"id-1"
    for name, value in attributes.items():
        setattr(request, name, value)
    return request


def line_of(
    request: Request, status: int = 200, size: int = 127, finished: float = 0.25, form: Format = "json"
) -> bytes:
    kept = Kept()
    access_log = log_to(kept, form)
    access_log.record(request, status, size, finished)
    access_log.flush()
    assert access_log.failed == 0
    (line,) = kept.pieces
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return line


def record_of(request: Request, status: int = 200, size: int = 127, finished: float = 0.25) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(line_of(request, status, size, finished))
    return record


def test_a_proxied_request_is_told_completely() -> None:
    body = Body(None)
    body.feed(b"12345")
    request = asked(
        b"/api/users?page=2", (b"User-Agent", b"curl/8"), (b"REFERER", b"https://shop.example/"), method=b"POST",
        route=Named("users"), upstream="users", upstream_target="127.0.0.1:9101", tries=2, upstream_time=0.2, body=body,
    )  # fmt: skip
    assert record_of(request) == {
        "time": "2026-01-01T12:00:00.250Z",
        "id": "id-1",
        "client": "127.0.0.1",
        "method": "POST",
        "host": "shop.example",
        "protocol": "HTTP/1.1",
        "status": 200,
        "route": "users",
        "upstream": "users",
        "target": "127.0.0.1:9101",
        "tries": 2,
        "path": "/api/users",
        "query": "page=2",
        "duration": 0.25,
        "upstream_time": 0.2,
        "bytes_in": 5,
        "bytes_out": 127,
        "user_agent": "curl/8",
        "referer": "https://shop.example/",
    }


def test_what_the_gateway_refused_is_told_with_its_reason_and_without_an_upstream() -> None:
    record = record_of(asked(b"/nothing", reason="not_found"), 404)
    assert (record["status"], record["reason"], record["route"]) == (404, "not_found", "")
    assert not {"upstream", "target", "tries", "upstream_time"} & set(record)


def test_who_asked_and_what_policies_noted_is_told() -> None:
    request = asked(identity=Identity('ann "the\nboss"', "jwt"))
    request.note("cache", "hit")
    request.note("big", 2**70)
    request.note("odd", {1, 2})
    record = record_of(request)
    assert record["identity"] == 'ann "the\nboss"'
    assert record["notes"] == {"cache": "hit", "big": 2**70, "odd": [1, 2]}


def test_credentials_are_not_told() -> None:
    request = asked(
        b"/cb?code=SECRET&x=1", (b"Authorization", b"Bearer SECRET"), (b"Cookie", b"a=SECRET"),
        (b"X-Api-Key", b"SECRET"), (b"Referer", b"https://u:SECRET@a.example/?token=SECRET"),
    )  # fmt: skip
    forms: tuple[Format, ...] = ("json", "combined")
    for form in forms:
        assert b"SECRET" not in line_of(request, form=form)
    assert record_of(request)["query"] == "code=***&x=1"


def test_a_policy_that_takes_the_query_away_does_not_show_its_secrets() -> None:
    assert b"SECRET" not in line_of(asked(b"/cb?code=SECRET", query=None))


def test_an_absolute_target_is_told_by_its_path() -> None:
    record = record_of(asked(target=b"http://u:SECRET@shop.example/a?token=SECRET&b=1"))
    assert (record["path"], record["query"]) == ("/a", "token=***&b=1")
    assert record_of(asked(target=b"http://shop.example"))["path"] == "/"


@pytest.mark.parametrize("target", [b"*", b"shop.example:443", b"/a:b", b"/@ann"])
def test_other_targets_are_told_as_they_came(target: bytes) -> None:
    assert record_of(asked(target=target))["path"] == target.decode()


def test_bytes_that_are_no_text_are_shown_and_text_stays_text() -> None:
    assert record_of(asked(b"/\xff\x00"))["path"] == "/\\xff\x00"
    assert record_of(asked("/grüße".encode()))["path"] == "/grüße"


anything = st.binary(max_size=40)


@given(
    target=anything, id_=anything, host=anything, method=anything, agent=anything, referer=anything,
    version=anything, client=st.text(max_size=20), user=st.text(max_size=20), reason=st.text(max_size=5),
)  # fmt: skip
def test_no_client_can_forge_a_line(
    target: bytes, id_: bytes, host: bytes, method: bytes, agent: bytes, referer: bytes, version: bytes, client: str,
    user: str, reason: str,
) -> None:  # fmt: skip
    """Whatever arrives, it is one line, and JSON (or nine fields) with the members that it should have."""
    request = asked(
        target, (b"User-Agent", agent), (b"Referer", referer), method=method, id=id_, host=host, version=version,
        client=client, identity=Identity(user, "basic"), reason=reason,
    )  # fmt: skip
    line = line_of(request)
    line.decode("ascii")
    names = [name for name, _ in json.loads(line, object_pairs_hook=lambda pairs: pairs)]
    assert len(names) == len(set(names))
    assert set(names) - {"query", "reason"} == {
        *("time", "id", "client", "method", "host", "protocol", "status", "route", "path", "duration", "bytes_in"),
        *("bytes_out", "user_agent", "referer", "identity"),
    }
    combined = line_of(request, form="combined")
    assert combined.rstrip(b"\n").isascii()
    assert combined.rstrip(b"\n").decode().isprintable()
    assert combined.count(b'"') == 6


def test_the_combined_format_is_that_of_apache_and_nginx() -> None:
    request = asked(
        b'/a"b?q=1&token=x',
        (b"User-Agent", b'curl"\\\x01\xe9'),
        identity=Identity("ann b", "basic"),
        client="192.0.2.7",
    )
    line = line_of(request, 404, 10, form="combined").decode()
    when = re.search(r"\[(.*?)\]", line)
    assert when is not None
    assert re.fullmatch(r"\d\d/(Dec|Jan)/202[56]:\d\d:\d\d:\d\d [+-]\d{4}", when.group(1))
    assert line.replace(when.group(), "[TIME]") == (
        '192.0.2.7 - ann\\x20b [TIME] "GET /a\\x22b?q=1&token=*** HTTP/1.1" 404 10 "-" "curl\\x22\\x5C\\x01\\xE9"\n'
    )


def test_without_user_and_agent_the_combined_format_has_dashes() -> None:
    line = line_of(asked(), form="combined")
    assert line.startswith(b"127.0.0.1 - - [")
    assert line.endswith(b'] "GET /api/users/7 HTTP/1.1" 200 127 "-" "-"\n')


def test_the_time_is_right_to_the_millisecond_in_any_order() -> None:
    kept = Kept()
    access_log = log_to(kept)
    for finished in (0.0, 0.0004, 0.001, 59.9999, 0.5, 3600.0):
        access_log.record(asked(), 200, 0, finished)
    access_log.flush()
    times = [json.loads(line)["time"][11:] for line in b"".join(kept.pieces).splitlines()]
    assert times == [
        "12:00:00.000Z",
        "12:00:00.000Z",
        "12:00:00.001Z",
        "12:00:59.999Z",
        "12:00:00.500Z",
        "13:00:00.000Z",
    ]


def test_a_clock_that_is_set_is_followed_within_a_second() -> None:
    kept, offset = Kept(), NOON
    access_log = AccessLog("json", cast("LogFile", kept), offset=lambda: offset)
    access_log.record(asked(), 200, 0, 0.0)
    offset += 3600
    access_log.record(asked(), 200, 0, 1.5)
    access_log.flush()
    times = [json.loads(line)["time"][11:19] for line in b"".join(kept.pieces).splitlines()]
    assert times == ["12:00:00", "13:00:01"]


def test_lines_are_gathered_until_64_kib_or_the_timer() -> None:
    kept = Kept()
    access_log = log_to(kept)
    count = 0
    while not kept.pieces:
        access_log.record(asked(), 200, 0, 0.0)
        count += 1
    assert FLUSH_SIZE < len(kept.pieces[0]) < FLUSH_SIZE + 1024
    access_log.record(asked(), 200, 0, 0.0)
    assert len(kept.pieces) == 1
    access_log.flush()
    assert sum(piece.count(b"\n") for piece in kept.pieces) == count + 1


def test_clients_can_not_fill_the_memory() -> None:
    access_log = log_to(Kept())
    for i in range(3 * REMEMBERED):
        request = asked(b"/%d?a" % i, (b"User-Agent", b"x%d" % i), host=b"h%d" % i, client=str(i))
        access_log.record(request, 200, 0, 0.0)
    access_log.record(asked(b"/?" + b"a" * 5000, (b"User-Agent", b"b" * 5000)), 200, 0, 0.0)
    remembered = (access_log._contexts, access_log._clients, access_log._shown, access_log._targets)
    assert len(access_log._tails) <= REMEMBERED_HEADS
    assert all(len(fragments) <= REMEMBERED for fragments in remembered)
    assert max(len(text) for fragments in remembered for text in fragments.values()) <= 512


@pytest.mark.parametrize("form", ["json", "combined"])
def test_what_is_long_is_not_remembered_by_its_short_masked_form(form: Format) -> None:
    access_log = log_to(Kept(), form)
    secret = b"/?token=" + b"a" * 8000
    access_log.record(asked(secret, (b"Referer", b"https://shop.example" + secret)), 200, 0, 0.25)
    assert not access_log._targets
    assert not access_log._shown


def test_an_exchange_that_can_not_be_written_down_does_not_fail() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    kept = Kept()
    access_log = log_to(kept)
    for _ in range(2):
        request = asked()
        request.note("broken", Broken())
        access_log.record(request, 200, 0, 0.0)
    access_log.record(asked(), 200, 0, 0.0)
    access_log.flush()
    assert (access_log.failed, b"".join(kept.pieces).count(b"\n")) == (2, 1)


def test_off_is_nothing_to_call() -> None:
    assert open_access_log("off") is None


@pytest.mark.parametrize("form", ["json", "combined"])
def test_a_rotated_log_goes_on_in_the_new_file(tmp_path: Path, form: Format) -> None:
    path = tmp_path / "access.log"
    access_log = open_access_log(str(path), form)
    assert access_log is not None
    access_log.record(asked(b"/before"), 200, 0, 0.0)
    path.rename(tmp_path / "access.log.1")
    access_log.record(asked(b"/between"), 200, 0, 0.0)
    access_log.reopen()
    access_log.record(asked(b"/after"), 200, 0, 0.0)
    access_log.close()
    old, new = (tmp_path / "access.log.1").read_bytes(), path.read_bytes()
    assert [re.findall(rb"/(before|between|after)", lines) for lines in (old, new)] == [
        [b"before", b"between"],
        [b"after"],
    ]
