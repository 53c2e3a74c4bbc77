"""Whatever a file says, under all kinds of sections that the gateway has: a configuration, or a list of mistakes."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apigw.config.model import allowed
from apigw.config.problems import ConfigurationError
from apigw.gateway.catalogue import KINDS, load

OPTIONS = [(kind, option.replace("NAME", "x")) for kind in KINDS for option in allowed(KINDS[kind].settings)]
_pieces = st.sampled_from(
    ["http://h:1", "weight=2", "dns:x", "srv:", "file:", "unix:", "hash:header:", "hash:ip", "least_request",
     "50%", "95%", "5s", "0s", "64KiB", "10/s", "yes", "off", "-1", "7", "1e9", "502", "5xx", "connect",
     "GET", "/x", "/x/{id}", "=/x", "~(", "~(a+)+$", "(a+)+ -> b", "/(.*) -> \\9", "{id}", "{", "}",
     "cors x", "-x", "jwt", "x", "a: b", ":", ",", "|", "sha256:00", "expires=2030-01-31", "expires=x",
     "HS256", "*", "*.x", "10.0.0.1/8", "::/0", "https://", "http://[", "http://a b", "${A}", "${GONE}",
     "${file:gone}", "os:path", "tests:x", "[", "]", '"', "'", "\\", "é", "\u202e", "٣"]
)  # fmt: skip
_values = st.lists(st.one_of(_pieces, st.text(max_size=6)), max_size=4).flatmap(
    lambda pieces: st.sampled_from(["", " ", ", ", "\n  "]).map(lambda between: between.join(pieces))
)
_sections = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.lists(
        st.tuples(st.sampled_from(sorted(option for one, option in OPTIONS if one == kind)), _values), max_size=6
    ).map(lambda options: f"[{kind} x]\n" + "".join(f"{name} = {value}\n" for name, value in options))
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_sections, max_size=6))
def test_any_file_is_a_configuration_or_a_list_of_mistakes(tmp_path: Path, sections: list[str]) -> None:
    path = tmp_path / "gw.ini"
    path.write_text("".join(sections).replace(" x]", "]", 1))
    try:
        load(str(path), {"A": "s3cr3t-of-this-test"})
        return
    except ConfigurationError as caught:
        error = caught
    assert error.problems
    assert len(str(error).split("\n")) == len(error.problems)
    assert "s3cr3t" not in str(error)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(OPTIONS), _values)
def test_every_option_takes_any_value_or_refuses_it(tmp_path: Path, option: tuple[str, str], value: str) -> None:
    kind, name = option
    path = tmp_path / "gw.ini"
    path.write_text(f"[{kind} x]\n{name} = {value}\n")
    try:
        load(str(path), {"A": "s3cr3t-of-this-test"})
    except ConfigurationError as error:
        told = str(error)
    else:
        return
    assert "s3cr3t" not in told
