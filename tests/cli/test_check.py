"""``apigw check``: what an operator sees before anything runs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from apigw import cli

WELL = """
[listen public]
endpoint = tcp:8080:interface=127.0.0.1
[admin]
endpoint = unix:admin.sock
[upstream users]
targets = http://127.0.0.1:9101
[route users]
path = /api/users
upstream = users
[route gone]
path = /gone
respond = 410
"""
WRONG = """
[gateway]
drain_timeout = 30
[route users]
path = /api
upstream = ${UPSTREAM_OF_THIS_TEST}
nothing
"""


def written(folder: Path, text: str) -> str:
    path = folder / "gw.ini"
    path.write_text(text)
    return str(path)


def test_a_file_that_is_well_is_summed_up(tmp_path: Path, capsys: Any) -> None:
    path = written(tmp_path, WELL)
    assert cli.main(["check", path]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        f"{path} is well: 1 listener, 2 routes, 1 upstream",
        "  http  public: tcp:8080:interface=127.0.0.1",
        f"  admin: unix:{tmp_path}/admin.sock:mode=660",
    ]


def test_all_mistakes_are_told_one_a_line(tmp_path: Path, capsys: Any) -> None:
    path = written(tmp_path, WRONG)
    assert cli.main(["check", path]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        (
            f"{path}:3: [gateway] drain_timeout: `30` is not a duration;"
            " expected a duration such as 250ms, 5s, 2m, 1h; did you mean 30s?"
        ),
        (
            f"{path}:6: [route users] upstream: the environment variable UPSTREAM_OF_THIS_TEST is not set;"
            " expected a value for it, or ${UPSTREAM_OF_THIS_TEST:-a default}"
        ),
        f"{path}:7: [route users] this is neither a section nor an option; expected [KIND NAME] or option = value",
    ]


def test_programs_get_json(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["check", written(tmp_path, WELL), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["problems"] == []
    assert found["sections"]["route"] == ["users", "gone"]
    assert found["files"] == [f"{tmp_path}/gw.ini"]
    assert len(found["digest"]) == 64

    assert cli.main(["check", written(tmp_path, WRONG), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [problem["line"] for problem in found["problems"]] == [3, 6, 7]
    assert found["problems"][0]["hint"] == "did you mean 30s?"
    assert "digest" not in found


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_at_a_terminal_sees_colour_and_what_to_do_below(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    path = written(tmp_path, WRONG)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert cli.main(["check", path]) == 1
    lines = terminal.getvalue().splitlines()
    assert lines[0] == (
        f"\x1b[1m{path}:3:\x1b[0m\x1b[36m [gateway] drain_timeout:\x1b[0m \x1b[31m`30` is not a duration\x1b[0m"
    )
    assert lines[1:3] == ["    expected a duration such as 250ms, 5s, 2m, 1h", "    did you mean 30s?"]
    assert lines[-1] == "3 mistakes"
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    cli.main(["check", path])
    assert "\x1b" not in terminal.getvalue()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[", b"a = b", b"[route x]\npath = ~(\nrespond = 200\n"])
def test_no_file_makes_a_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gw.ini"
    path.write_bytes(content)
    ran = subprocess.run(
        [sys.executable, "-m", "apigw", "check", str(path)], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in ran.stderr
    assert ran.returncode == 1
    assert ran.stderr.startswith(str(path))


def test_a_file_that_is_not_there_and_one_that_comes_through_a_pipe(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["check", str(tmp_path / "gone.ini")]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/gone.ini: there is no file {tmp_path}/gone.ini\n"
    reading, writing = os.pipe()
    os.write(writing, b"[gateway]\ndrain_timeout = 2s\n")
    os.close(writing)
    assert cli.main(["check", f"/dev/fd/{reading}"]) == 0
    os.close(reading)


def test_wrong_usage_is_status_2(capsys: Any) -> None:
    for arguments in ([], ["chekc"], ["check"], ["explain", "f", "GET", "/", "-H", "no colon"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2
    capsys.readouterr()


def test_asking_for_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['apigw', '--help']\nfrom apigw.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    )
    code += "print([name for name in ('twisted', 'treq', 'uvloop', 'OpenSSL') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


LISTEN = "[listen public]\nendpoint = tcp:8080:interface=127.0.0.1\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "[upstream u]\ntargets = https://h\ntls.ca = {folder}/gw.ini\n",
            ["5: [upstream u] tls.ca: {folder}/gw.ini: no certificate in it"],
        ),
        (
            "[upstream u]\ntargets = https://h\ntls.certificate = {folder}/gw.ini\ntimeout.connect = 5\n",
            [
                "5: [upstream u] tls.certificate: {folder}/gw.ini: no readable certificate in it",
                (
                    "6: [upstream u] timeout.connect: `5` is not a duration;"
                    " expected a duration such as 250ms, 5s, 2m, 1h; did you mean 5s?"
                ),
            ],
        ),
        (
            "[upstream u]\ntargets = http://h:1, http://h:1 weight=2\n",
            [
                (
                    "4: [upstream u] targets: http://h:1 is here twice; expected each target once;"
                    " a weight=2 gives it twice as many requests"
                )
            ],
        ),
        (
            "[route r]\npath = /a{b\nrespond = 200\nmethods = get\n",
            [
                "4: [route r] path: 'a{b' in '/a{b': a name in braces takes a whole segment, as in /users/{id}",
                (
                    "6: [route r] methods: `get` is not a method in capitals; expected a method such as GET or POST;"
                    " did you mean GET?"
                ),
            ],
        ),
        (
            "[gateway]\naccess_log = {folder}/no/access.log\nworkers = 2\ndrain_timeout = 3\n",
            [
                "4: [gateway] access_log: there is no folder {folder}/no",
                "5: [gateway] workers: 2 is not possible: this version serves with one process; expected 1",
                (
                    "6: [gateway] drain_timeout: `3` is not a duration; expected a duration such as 250ms, 5s, 2m, 1h;"
                    " did you mean 3s?"
                ),
            ],
        ),
        (
            "[listen u]\nendpoint = unix:no/u.sock\n[listen v]\nendpoint = unix:gw.ini\n"
            "[listen w]\nendpoint = unix:%s\n" % ("x" * 108),
            [
                "4: [listen u] endpoint: there is no folder {folder}/no",
                "6: [listen v] endpoint: the path is there already, and is no socket",
                "8: [listen w] endpoint: the path has more than 107 bytes",
            ],
        ),
        (
            (
                "[resource r]\npath = /r\nclass = os:sep\n[resource s]\npath = /s\nclass = os:remove\n"
                "[resource t]\npath = /t\nclass = io:StringIO\n"
            ),
            [
                "5: [resource r] class: this can't be called",
                "8: [resource s] class: this can't be called without arguments: missing a required argument: 'path'",
                "11: [resource t] class: this class makes no IResource of twisted.web",
            ],
        ),
    ],
)
def test_mistakes_that_only_the_gateway_can_see_are_told_with_all_others(
    tmp_path: Path, capsys: Any, text: str, lines: list[str]
) -> None:
    path = written(tmp_path, LISTEN + text.replace("{folder}", str(tmp_path)))
    assert cli.main(["check", path]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{path}:{line}".replace("{folder}", str(tmp_path)) for line in lines
    ]


def test_options_of_tls_that_no_target_speaks_are_warned_of(tmp_path: Path, capsys: Any) -> None:
    path = written(tmp_path, LISTEN + "[upstream u]\ntargets = http://h:1\ntls.server_name = h\n")
    assert cli.main(["check", path]) == 0
    assert capsys.readouterr().err == (
        f"{path}:5: [upstream u] warning: tls.server_name: no target is https://, so this does nothing\n"
    )


def test_strict_takes_warnings_for_errors(tmp_path: Path, capsys: Any) -> None:
    path = written(tmp_path, WELL + "[jwt unused]\nsecret = 0123456789abcdef0123456789abcdef\n")
    line = f"{path}:14: [jwt unused] {{}}no route lists this policy, so it does nothing; did you mean `policies"
    assert cli.main(["check", path]) == 0
    out, err = capsys.readouterr()
    assert "is well" in out
    assert err.startswith(line.format("warning: "))
    assert cli.main(["check", "--strict", path]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line.format(""))
    for strict in (False, True):
        assert cli.main(["check", path, "--json", *["--strict"] * strict]) == strict
        found = json.loads(capsys.readouterr().out)
        assert found["ok"] is not strict
        [problem] = found["problems"]
        assert (problem["line"], problem["severity"]) == (14, "error" if strict else "warning")
        assert "did you mean" in problem["hint"]
    assert cli.main(["check", "--strict", written(tmp_path, WELL)]) == 0
