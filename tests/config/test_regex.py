"""``Regex``: linear in the text, and clear about what it does not support."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.config.problems import ConfigurationError
from apigw.config.regex import MOST_INSTRUCTIONS, NotSupported, Regex, TextTooLong
from apigw.gateway.catalogue import load

UNSUPPORTED = [
    ("a(?=b)", "lookahead (`(?=`)"),
    ("a(?!b)", "lookahead (`(?!`)"),
    ("(?<=a)b", "lookbehind (`(?<=`)"),
    ("(?<!a)b", "lookbehind (`(?<!`)"),
    (r"(a)\1", r"a back-reference (`\1`)"),
    ("(?P<x>a)(?P=x)", "a back-reference (`(?P`)"),
    (r"a\Z", r"write `\z`"),
    (r"\u00e9", r"`\uXXXX`"),
    (r"\U0001F600", r"`\UXXXXXXXX`"),
    (r"\N{DIGIT ONE}", r"`\N{NAME}`"),
    ("a++b", "a possessive quantifier (`++`)"),
    ("a*+", "a possessive quantifier (`*+`)"),
    ("a?+", "a possessive quantifier (`?+`)"),
    ("a{1,2}+", "a possessive quantifier (`{1,2}+`)"),
    ("(?>a)", "an atomic group (`(?>`)"),
    ("(a)?(?(1)b|c)", "a conditional group (`(?(`)"),
    ("(?#x)a", "a comment (`(?#`)"),
    ("(?x) a", "the flag x (`(?x`)"),
    ("a{,5}", "write {0,5}"),
    ("a{1001}", "a repetition count (`{1001}`)"),
    ("(a{50}){50}", "a repetition count (`{50}`)"),
    ("(.{0,900})x", "too large a regular expression"),
    ("(", "is not a regular expression: missing )"),
    ("(?P<a-b>x)", "'a-b' is not a name of a group"),
    ("(?P<a>x)(?P<a>y)", "two groups have the name a"),
]


@pytest.mark.parametrize(("text", "words"), UNSUPPORTED)
def test_syntax_that_is_not_supported_is_named(text: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotSupported, match=re.escape(words)):
        Regex(text)
    assert capfd.readouterr() == ("", "")  # the engine itself writes to stderr unless it is told not to


@pytest.mark.parametrize(
    "text", ["(?i)a", "(?P<x>a)", "[{,5}]", r"\{,5}", "[(?P<a>]", r"\(\?P<a-b>x", "(?s).", r"[^/]{1,200}", r"\A\d+\z"]
)
def test_what_is_supported_is_taken(text: str) -> None:
    assert Regex(text).text == text


EVIL = ["^/.*.*.*.*=.*$", "^/(a|aa)+$", "^/(.*)(.*)(.*)(.*)x$", "^(/?a+)+$", "(.*a){20}", "(a|b)*a(a|b){20}c"]


@pytest.mark.parametrize("text", EVIL)
def test_no_text_makes_a_match_slow(text: str) -> None:
    """By backtracking each would take from seconds to forever."""
    regex = Regex(text)
    for evil in (b"/" + b"a" * 1002 + b"!", b"/" + b"ab" * 4000, b"a" * 8000):
        assert regex.fullmatch(evil) is (regex.spans(evil, whole=True) is not None)
        assert regex.search(evil) is (regex.spans(evil) is not None)


def test_texts_that_would_cost_too_much_are_refused() -> None:
    regex = Regex("[^/]{1,200}x")
    assert regex.longest < 8000
    for method in (regex.fullmatch, regex.search, regex.spans):
        with pytest.raises(TextTooLong):
            method(b"a" * 8000)
    assert not regex.search(b"a" * 8000, bounded=False)
    assert Regex("^/users/[0-9]+$").longest > 64 * 1024
    assert Regex("a{490}").longest * MOST_INSTRUCTIONS > 0


def test_bytes_and_utf_8() -> None:
    assert Regex("caf.").fullmatch("café".encode()) is False
    assert Regex("caf.", utf8=True).fullmatch("café".encode()) is True
    assert Regex("é").search("café".encode()) is True
    assert Regex(".*").fullmatch(b"\xff\xfe") is True
    assert Regex("b", utf8=True).search(b"\xffb") is True
    assert Regex("x-.").fullmatch(b"X-Y") is False
    assert Regex("x-.", ignore_case=True).fullmatch(b"X-Y") is True
    assert Regex("a$").search(b"a\n") is False


def test_equal_expressions_are_equal() -> None:
    assert Regex("a+") == Regex("a+") != Regex("a+", utf8=True)
    assert len({Regex("a+"), Regex("a+"), Regex("b+")}) == 2


PIECES = ["a", "b", ".", "[ab]", "[^a]", "(?:a|ab)", "(a)", "(?P<n>b)", "a*", "b+?", "a{1,2}", "^", "$", r"\d", "(b|)"]


@given(st.lists(st.sampled_from(PIECES), max_size=6), st.text("ab/1", max_size=12))
def test_matches_are_those_of_python(pieces: list[str], text: str) -> None:
    expression = "".join(dict.fromkeys(pieces))
    expected, regex = re.compile(expression.encode()), Regex(expression)
    data = text.encode()
    assert regex.fullmatch(data) is (expected.fullmatch(data) is not None)
    assert regex.search(data) is (expected.search(data) is not None)
    found = expected.search(data)
    assert regex.spans(data) == (None if found is None else [found.span(at) for at in range(expected.groups + 1)])


def test_each_expression_of_a_configuration_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "gw.ini"
    file.write_text(
        r"""[upstream a]
targets = http://127.0.0.1:1
health.path = /
health.expect_body = a(?!b)
[route path]
path = ~/(a)\1
upstream = a
[route others]
path = /b
header.X-A = ~a++
query.q = ~(?>a)
rewrite = ^/b\Z -> /c
upstream = a
policies = forward_auth f
[forward_auth f]
url = http://127.0.0.1:1/
response_headers_regex = ^X-\u0041
[listen l]
endpoint = tcp:0
"""
    )
    with pytest.raises(ConfigurationError) as caught:
        load(str(file))
    told = {problem.line: problem.what for problem in caught.value.problems}
    for line, words in {
        4: "lookahead",
        6: "back-reference",
        10: "possessive",
        11: "atomic",
        12: r"`\Z`",
        17: r"`\uXXXX`",
    }.items():
        assert words in told[line], told


def test_the_pattern_of_a_schema_is_checked(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"properties": {"a": {"pattern": "(?=a)b"}}}')
    file = tmp_path / "gw.ini"
    file.write_text("[json_schema s]\nrequest = schema.json\n[listen l]\nendpoint = tcp:0\n")
    with pytest.raises(ConfigurationError, match=r"no pattern that is supported.*at /properties/a/pattern"):
        load(str(file))
