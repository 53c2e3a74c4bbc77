"""The benchmark's arithmetic and page: a wrong ratio would be believed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import against, report
from bench.__main__ import chosen
from bench.cases import CASES, featured
from bench.gateways import PEERS, Place, apigw
from bench.load import Wanted, percentile
from bench.measures import Row
from bench.processes import Process, free_port, wait_for_port

ROWS = [
    Row("nginx", 0, {"req/s": 100.0}),
    Row("apigw", 0, {"req/s": 60.0}),
    Row("nginx", 1, {"req/s": 50.0}),
    Row("apigw", 1, {"req/s": 35.0}),
    Row("nginx", 2, {"req/s": 200.0}),
    Row("apigw", 2, {"req/s": 100.0}),
]


def test_ratios_are_taken_within_a_round_and_then_the_median() -> None:
    result = report.result(CASES["small"], ROWS, {}, seconds=1, rounds=3)
    assert result["ratios"] == {"nginx": 1.0, "apigw": 0.6}
    assert result["medians"]["apigw"] == {"req/s": 60.0}
    assert "0.60 x" in report._summary(result)
    assert "holds" in report._summary(result)


def test_a_goal_that_is_missed_is_said() -> None:
    slow = [Row(row.gateway, row.round, {"req/s": 10.0 if row.gateway == "apigw" else 100.0}) for row in ROWS]
    assert "**missed**" in report._summary(report.result(CASES["small"], slow, {}, seconds=1, rounds=3))
    memory = [Row("apigw", 0, {"KiB each": 11.0})]
    assert "**missed**" in report._summary(report.result(CASES["idle10k"], memory, {}, seconds=1, rounds=1))
    memory = [Row("apigw", 0, {"KiB each": 9.0})]
    assert "holds" in report._summary(report.result(CASES["idle10k"], memory, {}, seconds=1, rounds=1))


def test_a_gateway_that_was_left_out_is_named() -> None:
    result = report.result(CASES["small"], ROWS, {"caddy": "not installed\nmore"}, seconds=1, rounds=3)
    assert "\ncaddy was not measured: not installed" in list(report._section(result))


def test_percentiles() -> None:
    assert percentile(range(1, 101), 99) == 100
    assert percentile(range(1, 101), 50) == 51
    assert percentile([7], 99) == 7


def test_cases_are_chosen_by_name() -> None:
    assert [case.name for case in chosen("tls, small")] == ["tls", "small"]
    assert len(chosen("")) == len(CASES)
    with pytest.raises(SystemExit, match="there are: small"):
        chosen("smal")


@pytest.mark.parametrize("name", PEERS)
def test_each_peer_is_told_its_ports_and_certificate(name: str, tmp_path: Path) -> None:
    if name == "envoy":
        pytest.importorskip("envoy")
    setup = PEERS[name](Place(tmp_path, 21001, 21002, 21003, tmp_path / "c.pem"))
    told = " ".join([*setup.files.values(), *setup.env.values()])
    assert all(word in told for word in ("21001", "21002", "c.pem"))


def test_a_feature_is_compared_with_the_plain_proxy(tmp_path: Path) -> None:
    case = featured("cache", "cache hit", "[listen x]\nendpoint = tcp:{port}\n", 1.3, Wanted())
    assert (case.base, list(case.gateways)) == ("plain", ["plain", "apigw"])
    place = Place(tmp_path, 21001, 21002, 21003)
    assert case.gateways["apigw"](place).files == {"gw.ini": "[listen x]\nendpoint = tcp:21001\n"}
    assert "http://127.0.0.1:21002" in apigw()(place).files["gw.ini"]


def test_another_commit_runs_its_own_code_between_the_base_and_this_commit(tmp_path: Path) -> None:
    case = against.beside(CASES["small"], "abc1234", tmp_path / "tree")
    assert list(case.gateways) == ["nginx", "abc1234", "apigw"]
    place = Place(tmp_path, 21001, 21002, 21003)
    this, other = case.gateways["apigw"](place), case.gateways["abc1234"](place)
    assert other.env["PYTHONPATH"] == str(tmp_path / "tree") != this.env["PYTHONPATH"]
    assert (other.command, other.files) == (this.command, this.files)


def test_commits_are_compared_by_the_cpu_time_of_a_request_within_each_round() -> None:
    rows = [
        Row(name, number, {"req/s": 1.0, "CPU us/req": cpu})
        for number, pair in enumerate(((40.0, 50.0), (60.0, 50.0), (44.0, 40.0)))
        for name, cpu in zip(("apigw", "abc1234"), pair, strict=True)
    ]
    assert against.compared(rows, "abc1234") == "CPU us/req: 44.00, at abc1234 50.00: 1.100 x"
    assert against.compared(rows[::2], "abc1234") == "not compared: abc1234 was not measured"


def test_an_unknown_commit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="AGAINST=--help: "):
        against.checked_out("--help", tmp_path)


def test_a_process_is_watched_and_ended_with_what_it_forked(tmp_path: Path) -> None:
    port = free_port()
    program = f"import socket,os,signal;s=socket.create_server(('127.0.0.1',{port}));os.fork();signal.pause()"
    process = Process("sleeper", [sys.executable, "-c", program], core=0, folder=tmp_path, env={})
    wait_for_port(process, port)
    assert process.memory() > 2**20
    assert process.memory_peak() >= process.memory() * 0.9
    process.stop()
    assert process.pids() == []
    assert not process.running


def test_a_process_that_cannot_start_says_why(tmp_path: Path) -> None:
    process = Process(
        "broken", [sys.executable, "-c", "raise SystemExit('no such luck')"], core=0, folder=tmp_path, env={}
    )
    with pytest.raises(RuntimeError, match="no such luck"):
        wait_for_port(process, free_port())
    process.stop()
