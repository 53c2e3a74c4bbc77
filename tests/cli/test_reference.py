"""``apigw reference``: the manual is what the settings classes say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apigw import cli
from apigw.config.kinds import BASE_KINDS
from apigw.config.model import allowed
from apigw.config.reference import differences, reference
from apigw.gateway.catalogue import KINDS

MANUAL = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_manual_is_up_to_date() -> None:
    """Run ``apigw reference`` after a change of any settings class."""
    assert list(differences(KINDS, MANUAL.read_text())) == []


def test_every_option_of_every_kind_is_in_it() -> None:
    text = reference(KINDS)
    for name, kind in KINDS.items():
        assert kind.title(name) in text
        for option in allowed(kind.settings).values():
            assert f"| `{option.name}` |" in text
    assert "PydanticUndefined" not in text
    assert "<class" not in text


def test_every_option_says_what_it_is_for() -> None:
    silent = [
        f"[{name}] {option.name}"
        for name, kind in KINDS.items()
        for option in allowed(kind.settings).values()
        if not option.info.description
    ]
    assert silent == []


def test_defaults_stand_there_as_they_would_be_written() -> None:
    text = reference(BASE_KINDS)
    assert "| `max_head` | size | `32KiB` |" in text
    assert "| `timeout.keepalive` | duration | `75s` |" in text
    assert "| `endpoint` | endpoint | required |" in text
    assert "| `tls.certificates` | list of file, pair or folder | required in its group |" in text
    assert "| `max_body` | size or off | `off` |" in text
    assert "| `access_log_format` | `json` or `combined` | `json` |" in text


def test_check_fails_when_the_manual_is_out_of_date(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "manual.md"
    assert cli.main(["reference", str(path), "--check"]) == 1
    assert cli.main(["reference", str(path)]) == 0
    assert cli.main(["reference", str(path), "--check"]) == 0
    path.write_text(path.read_text().replace("32KiB", "33KiB"))
    capsys.readouterr()
    assert cli.main(["reference", str(path), "--check"]) == 1
    assert "33KiB" in capsys.readouterr().err
    assert cli.main(["reference", "-"]) == 0
    assert capsys.readouterr().out.startswith("# Configuration\n")
