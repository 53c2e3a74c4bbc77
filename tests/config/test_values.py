"""Text to value: what each form takes, and what it says when it doesn't."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from apigw.config import values
from apigw.config.text import Wrong, written


def read(form: Any, text: object) -> Any:
    return TypeAdapter(form).validate_python(text)


def refused(form: Any, text: str) -> Wrong:
    with pytest.raises(ValidationError) as caught:
        read(form, text)
    wrong = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(wrong, Wrong)
    return wrong


@pytest.mark.parametrize(
    ("form", "text", "value"),
    [
        (values.Duration, "250ms", 0.25),
        (values.Duration, "5s", 5.0),
        (values.Duration, "1.5m", 90.0),
        (values.Duration, "1h", 3600.0),
        (values.Duration, "0s", 0.0),
        (values.DurationOrOff, "off", None),
        (values.DurationOrOff, "2m", 120.0),
        (values.Size, "512", 512),
        (values.Size, "64KiB", 65536),
        (values.Size, "10MiB", 10 * 1024 * 1024),
        (values.SizeOrOff, "off", None),
        (values.Rate, "100/s", (100, 1)),
        (values.Rate, "100000/d", (100000, 86400)),
        (values.Several[values.Rate], "10/s, 1000/h", ((10, 1), (1000, 3600))),
        (values.Share, "50%", 0.5),
        (values.Share, "0.5%", 0.005),
        (values.Flag, "yes", True),
        (values.Flag, "no", False),
        (values.Count, "0", 0),
        (values.Number, "-1.5", -1.5),
        (values.StrList, "a, b,\nc", ("a", "b", "c")),
        (values.StrList, '"a, b", c', ("a, b", "c")),
        (values.StrList, "", ()),
        (values.Pairs[str], "sub: X-User-Id, iss: https://x", {"sub": "X-User-Id", "iss": "https://x"}),
        (values.StatusSet, "502, 500-501, 4xx", frozenset({500, 501, 502, *range(400, 500)})),
        (values.Method, "GET", "GET"),
        (values.Host, "*.Shop.Example", "*.shop.example"),
        (values.Host, "bücher.example", "xn--bcher-kva.example"),
        (values.Json, '{"a": [1, "b ; c"]}', {"a": [1, "b ; c"]}),
        (values.Json, '"text"', "text"),
        (values.Verbatim, '"quoted-identifier"', '"quoted-identifier"'),
        (values.PythonObject, "os.path:join", __import__("os").path.join),
        (values.Duration, 5, 5.0),  # what is no text is not read as one
        (values.StrList, ("a, b",), ("a, b",)),
    ],
)
def test_a_value_of_the_right_form_is_read(form: Any, text: object, value: object) -> None:
    assert read(form, text) == value


@pytest.mark.parametrize(
    ("form", "text", "hint"),
    [
        (values.Duration, "30", "did you mean 30s?"),
        (values.Duration, "5 s", ""),
        (values.Duration, "five", ""),
        (values.Duration, "-1s", ""),
        (values.Duration, "999999999999999h", ""),
        (values.Duration, "1s\n2s", ""),
        (values.Duration, "", ""),
        (values.Size, "10MB", "did you mean 10MiB?"),
        (values.Size, "64k", "did you mean 64KiB?"),
        (values.Size, "1.5MiB", ""),
        (values.Size, "999999999999999TiB", ""),
        (values.Rate, "100", ""),
        (values.Rate, "0/s", ""),
        (values.Share, "0.5", ""),
        (values.Share, "101%", ""),
        (values.Flag, "true", "did you mean yes?"),
        (values.Flag, "off", "did you mean no?"),
        (values.Flag, "YES", "did you mean yes?"),
        (values.Count, "-1", ""),
        (values.Count, "1_000", ""),
        (values.Count, "٣", ""),
        (values.Number, "nan", ""),
        (values.StrList, "a,, b", ""),
        (values.Pairs[str], "sub X-User-Id", ""),
        (values.Pairs[str], "a: 1, a: 2", ""),
        (values.StatusSet, "502, 600", ""),
        (values.StatusSet, "503-500", ""),
        (values.Method, "get", "did you mean GET?"),
        (values.HeaderName, "X User", ""),
        (values.Host, "shop.example:8080", "a route matches on the host without its port"),
        (values.Host, "shop..example", ""),
        (values.Json, "{a: 1}", ""),
        (values.Json, "[NaN]", ""),
        (values.Json, "[" * 100_000, ""),
        (values.RegexText, "(", ""),
        (values.PythonObject, "os.path.join", ""),
        (values.PythonObject, "os.path:jion", "did you mean join?"),
        (values.PythonObject, "no_such_module_here:X", ""),
    ],
)
def test_a_value_of_another_form_is_refused_with_what_was_expected(form: Any, text: str, hint: str) -> None:
    wrong = refused(form, text)
    assert wrong.hint == hint
    assert wrong.what
    assert wrong.expected


def test_a_regex_says_what_is_wrong() -> None:
    assert refused(values.RegexText, "ab(?=c)").what == (
        "{shown} has lookahead (`(?=`), which is not supported in regular expressions"
    )
    assert read(values.RegexText, r"^/a\d+#b").text == r"^/a\d+#b"


def test_a_secret_shows_in_no_repr() -> None:
    secret = read(values.Secret, written("hunter2"))
    assert "hunter2" not in repr(secret) + str(secret)
    assert secret.get_secret_value() == "hunter2"
    assert not read(values.Secret, "")


def test_a_file_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "here.pem").write_text("")
    assert read(values.FilePath, str(tmp_path / "here.pem")) == tmp_path / "here.pem"
    assert "there is no file" in refused(values.FilePath, str(tmp_path / "gone.pem")).what
    assert str(tmp_path / "none") in refused(values.FilePath, str(tmp_path / "none" / "gone.pem")).expected
    assert "is a folder" in refused(values.FilePath, str(tmp_path)).what
    assert read(values.FolderOrFile, str(tmp_path)) == tmp_path
    assert read(values.AnyPath, "x/y") == Path.cwd() / "x/y"


def test_a_module_that_fails_to_import_is_a_mistake_like_any_other(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "it_exits.py").write_text("raise SystemExit(3)")
    (tmp_path / "it_raises.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "SystemExit: 3" in refused(values.PythonObject, "it_exits:X").what
    assert "ZeroDivisionError" in refused(values.PythonObject, "it_raises:X").what


@given(st.integers(0, 10**9))
def test_a_size_shown_is_read_again_as_the_same(size: int) -> None:
    assert read(values.Size, values.show_size(size)) == size


@given(st.one_of(st.integers(0, 10**7), st.integers(1, 999).map(lambda ms: ms / 1000)))
def test_a_duration_shown_is_read_again_as_the_same(seconds: float) -> None:
    shown = values.show_duration(seconds)
    assert read(values.Duration, shown) == pytest.approx(seconds, rel=1e-5), shown


@given(st.frozensets(st.integers(100, 599)))
def test_statuses_shown_are_read_again_as_the_same(statuses: frozenset[int]) -> None:
    assert read(values.StatusSet, values.show_statuses(statuses)) == statuses


def test_limits_are_shown_as_they_are_written() -> None:
    assert [values.show_duration(each) for each in (0, 0.25, 90, 120, 3600)] == ["0s", "250ms", "90s", "2m", "1h"]
    assert [values.show_size(each) for each in (0, 1000, 65536)] == ["0", "1000", "64KiB"]
    for rate in ("5/m", "100/15m", "7/90s", "1/2h", "1/7d"):
        assert values.show_rate(read(values.Rate, rate)) == rate
    assert values.show_rate(read(values.Rate, "100/120m")) == "100/2h"
    assert re.fullmatch("yes|no", values.show_flag(value=True))
