"""What the log for people looks like, and that it can't be flooded or forged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.logger import ILogObserver, LogEvent, LogLevel
from twisted.python.failure import Failure

from apigw.observability.log_file import LogFile
from apigw.observability.logs import Form, LogLines, Repeats

NOON = 1_767_268_800.25  # 2026-01-01T12:00:00.250Z


def event(text: str, level: Any = LogLevel.info, at: float = NOON, **values: object) -> LogEvent:
    return {"log_format": text, "log_level": level, "log_namespace": "apigw.upstream", "log_time": at, **values}


def written(tmp_path: Path, *events: LogEvent, form: Form = "text") -> str:
    path = tmp_path / "apigw.log"
    file = LogFile(str(path))
    observer = LogLines(file, form)
    for each in events:
        observer(each)
    file.close()
    return path.read_text("utf-8")


def failure() -> Failure:
    try:
        raise ValueError("no\nluck")
    except ValueError:
        return Failure()


def test_a_line_has_time_level_place_and_message(tmp_path: Path) -> None:
    text = written(tmp_path, event("{name} is open", LogLevel.warn, name="users"), event("again"))
    assert text == (
        "2026-01-01T12:00:00.250Z warn  apigw.upstream: users is open\n"
        "2026-01-01T12:00:00.250Z info  apigw.upstream: again\n"
    )


def test_a_traceback_is_indented_below_its_line(tmp_path: Path) -> None:
    lines = written(tmp_path, event("it failed", LogLevel.critical, log_failure=failure())).splitlines()
    assert lines[0] == "2026-01-01T12:00:00.250Z critical apigw.upstream: it failed"
    assert all(line.startswith("    ") for line in lines[1:])
    assert any("test_logs.py" in line for line in lines)


def test_a_message_can_not_forge_a_line_or_steer_a_terminal(tmp_path: Path) -> None:
    text = written(tmp_path, event("asked for {path}", path="/a\r\n2026 info x: forged\x1b[2J\u2028\ud800"))
    assert text == (
        "2026-01-01T12:00:00.250Z info  apigw.upstream: asked for /a\\r\n"
        "    2026 info x: forged\\x1b[2J\\u2028\\ud800\n"
    )


def test_as_json_each_event_is_one_document(tmp_path: Path) -> None:
    text = written(
        tmp_path, event("a\nb"), event("it failed", LogLevel.critical, log_failure=failure()), event("{x}", x="\ud800"),
        form="json",
    )  # fmt: skip
    first, second, third = [json.loads(line) for line in text.splitlines()]
    assert first == {
        "time": "2026-01-01T12:00:00.250Z", "level": "info", "logger": "apigw.upstream", "message": "a\nb",
    }  # fmt: skip
    assert "ValueError" in second["traceback"]
    assert third["message"] == "\ud800"


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_event_that_says_nothing_is_no_line(tmp_path: Path, form: Form) -> None:
    assert written(tmp_path, event(""), form=form) == ""


def test_the_old_kind_of_event_is_told_too(tmp_path: Path) -> None:
    old: LogEvent = {"log_format": "{log_text}", "log_text": "hello", "log_system": "twisted.web", "log_time": NOON}
    assert written(tmp_path, old) == "2026-01-01T12:00:00.250Z info  twisted.web: hello\n"


class Told:
    """Collects messages behind a ``Repeats``."""

    def __init__(self, **options: float) -> None:
        self.messages: list[str] = []
        self.repeats = Repeats(cast("ILogObserver", self._tell), **options)  # type: ignore[arg-type]

    def _tell(self, each: LogEvent) -> None:
        self.messages.append(each["log_format"].format(**each))


def test_a_failure_that_repeats_is_told_a_few_times_and_then_counted() -> None:
    told = Told(burst=3, period=60.0)
    for i in range(1000):
        told.repeats(event("{target} refuses", LogLevel.error, at=NOON + i * 0.01, target=i))
    assert told.messages == ["0 refuses", "1 refuses", "2 refuses"]
    told.repeats(event("{target} refuses", LogLevel.error, at=NOON + 61, target="later"))
    assert told.messages[3:] == ["997 more times in 60 s: 0 refuses", "later refuses"]


def test_what_was_kept_is_told_when_its_period_is_over_even_if_it_stopped() -> None:
    told = Told(burst=1, period=60.0)
    for _ in range(3):
        told.repeats(event("trouble", LogLevel.warn))
    told.repeats.flush(NOON + 59)
    assert told.messages == ["trouble"]
    told.repeats.flush(NOON + 60)
    told.repeats.flush(NOON + 120)
    assert told.messages == ["trouble", "2 more times in 60 s: trouble"]


def test_kinds_are_told_apart_and_information_is_never_kept() -> None:
    told = Told(burst=1, period=60.0)
    for _ in range(2):
        told.repeats(event("one", LogLevel.warn))
        told.repeats(event("two", LogLevel.warn))
        told.repeats(event("one", LogLevel.warn, log_failure=failure()))
        told.repeats(event("a client is odd", LogLevel.debug))
        told.repeats(event("news"))
    assert told.messages == ["one", "two", "one", "a client is odd", "news", "news"]


def test_kinds_without_end_do_not_fill_the_memory() -> None:
    told = Told(burst=1, period=60.0)
    for i in range(5000):
        told.repeats(event(f"trouble {i}", LogLevel.warn))
    assert len(told.repeats._kinds) <= 1000
    assert len(told.messages) == 5000
