"""``apigw explain``: its arguments and outputs; what it finds out is tested with the gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from apigw import cli
from tests.cli.test_check import WELL, WRONG, written


def test_it_names_the_route_and_the_upstream(tmp_path: Path, capsys: Any) -> None:
    path = written(tmp_path, WELL)
    assert cli.main(["explain", path, "GET", "http://shop.example/api/users/7?x=1", "-H", "Accept: */*"]) == 0
    out = capsys.readouterr().out
    assert "users" in out
    assert "/api/users/7?x=1" in out


def test_programs_get_json(tmp_path: Path, capsys: Any) -> None:
    path = written(tmp_path, WELL)
    assert cli.main(["explain", path, "GET", "/api/users", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["request"]["method"] == "GET"


def test_a_configuration_with_mistakes_tells_them_instead(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["explain", written(tmp_path, WRONG), "GET", "/"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 3
    assert cli.main(["explain", written(tmp_path, WRONG), "GET", "/", "--json"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert [problem["line"] for problem in json.loads(out)["problems"]] == [3, 6, 7]


def test_a_request_that_no_route_takes_is_an_answer_too(tmp_path: Path, capsys: Any) -> None:
    path = written(tmp_path, WELL)
    for request in (["GET", "/nowhere"], ["GET", "/a/%00"], ["GET", "nonsense"], ["G T", "/"], ["GET", "http://[/"]):
        assert cli.main(["explain", path, *request]) in {0, 2}
    assert "Traceback" not in capsys.readouterr().err
