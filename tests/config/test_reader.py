"""The grammar: sections, comments, further lines, quotes, substitutions, includes."""

# ruff: noqa: E501  messages stand here as they are, and they are long

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apigw.config.reader import Document, read
from apigw.config.text import Text


def document(folder: Path, text: str | bytes, **environ: str) -> Document:
    path = folder / "gw.ini"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(str(path), environ)


def value(folder: Path, text: str, **environ: str) -> Text:
    found = document(folder, f"[route x]\n{text}", **environ)
    assert not found.problems, found.problems
    (option,) = found.sections["route", "x"].options.values()
    return option.value


def problems(folder: Path, text: str | bytes, **environ: str) -> list[str]:
    return [str(each).replace(f"{folder}/", "") for each in document(folder, text, **environ).problems]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a = b", "b"),
        ("a=b", "b"),
        ("a =   b  ", "b"),
        ("a = b ; comment", "b"),
        ("a = b\t# comment", "b"),
        ("a = b;c#d", "b;c#d"),
        ("a = x=y", "x=y"),
        ("a =;b", ";b"),
        ("a = ; nothing", ""),
        ("a =", ""),
        ('a = "b ; c"', "b ; c"),
        ('a = "b ; c" ; comment', "b ; c"),
        (r'a = "say \"x\" \\ \n"', r'say "x" \ \n'),
        ('a = {"error": "down ; try # later"} ; comment', '{"error": "down ; try # later"}'),
        ('a = 5" disk ; comment', '5" disk'),
        ("a = don't ; comment", "don't"),
        ("a = ~^/x/(?P<id>[0-9]+)$", "~^/x/(?P<id>[0-9]+)$"),
        ("a = one\n  two\n\tthree", "one\ntwo\nthree"),
        ("a =\n  one\n\n; comment\n  # comment\n  two ; comment", "one\ntwo"),
        ("a = [\n  {x: y},\n  ]", "[\n{x: y},\n]"),
        ("a = b\r\n", "b"),
        ("a = grün", "grün"),
        ("a = $1 $ {x} $$", "$1 $ {x} $$"),
        ("a = $${NAME}", "${NAME}"),
    ],
)
def test_a_value_is_what_was_written(tmp_path: Path, text: str, plain: str) -> None:
    assert value(tmp_path, text) == plain


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a = one, two", ["one", "two"]),
        ("a = one,\n  two,\n  three", ["one", "two", "three"]),
        ("a =\n  one ; 1\n  two three", ["one", "two three"]),
        ('a = "one, two", three', ["one, two", "three"]),
        ('a = x"1,2"y, z', ['x"1,2"y', "z"]),
        ("a =", []),
    ],
)
def test_items_are_separated_by_commas_and_line_ends(tmp_path: Path, text: str, items: list[str]) -> None:
    assert value(tmp_path, text).items() == items


def test_every_item_knows_its_line(tmp_path: Path) -> None:
    items = value(tmp_path, "a = one, two\n\n  ; comment\n  three").items()
    assert [item.place.line for item in items] == [2, 2, 5]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a = ${X}", "1, 2 ; 3"),
        ("a = <${X}>", "<1, 2 ; 3>"),
        ('a = "${X}"', "1, 2 ; 3"),
        ("a = ${NONE:-default}", "default"),
        ("a = ${EMPTY:-default}", "default"),
        ("a = ${EMPTY}", ""),
        ("a = ${NONE:-}", ""),
        ("a = ${QUOTE}", '"q" ; ${X} \\"'),
        ('a = "<${QUOTE}>"', '<"q" ; ${X} \\">'),
        ("a = ${file:key}", "se,cret ; #"),
    ],
)
def test_what_is_substituted_is_never_syntax(tmp_path: Path, text: str, plain: str) -> None:
    (tmp_path / "key").write_text("se,cret ; #\n")
    found = value(tmp_path, text, X="1, 2 ; 3", EMPTY="", QUOTE='"q" ; ${X} \\"')
    assert found == plain
    assert found.items() == ([plain] if plain else [])


def test_what_is_substituted_is_not_shown(tmp_path: Path) -> None:
    items = value(tmp_path, 'a = x${KEY}y, "z ${KEY}", w', KEY="hunter2").items()
    assert items == ["xhunter2y", "z hunter2", "w"]
    assert [item.shown for item in items] == ["x${KEY}y", '"z ${KEY}"', "w"]
    assert [item.secret for item in items] == [True, True, False]
    assert items[0].part(1).shown == "${KEY}y"
    assert items[1].part(0, 3).shown == '"z ${KEY}"'
    assert value(tmp_path, "a = ${KEY:-default-secret}").shown == "${KEY}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = b", "gw.ini:1: a: this option stands before any section; expected [KIND NAME] above it"),
        (
            "[x]\nwhat is this",
            "gw.ini:2: [x] this is neither a section nor an option; expected [KIND NAME] or option = value",
        ),
        (
            "[x]\na: b",
            (
                "gw.ini:2: [x] this is neither a section nor an option; expected [KIND NAME] or option = value;"
                " did you mean `=` instead of `:`?"
            ),
        ),
        ("[x", "gw.ini:1: this is no section; expected [KIND NAME]"),
        ("[]", "gw.ini:1: this is no section; expected [KIND NAME]"),
        (
            "[x a b]",
            (
                "gw.ini:1: 'a b' can't be a section's name;"
                " expected a name of letters, digits, `_`, `-` and `.`, with no `-` at its start"
            ),
        ),
        (
            "[x]\n  a = b",
            "gw.ini:2: [x] this line is indented, so it goes on with an option above, but there is none above it",
        ),
        ("[x y]\na = 1\na = 2", "gw.ini:3: [x y] a: this option is here twice, first at gw.ini:2"),
        ("[x y]\n[z]\n[x y]\n", "gw.ini:3: [x y] this section is here twice, first at gw.ini:1"),
        ("[x]\na = \x00", "gw.ini:2: [x] there is a control character (0x00) in this line"),
        (
            "[x]\na = ${GONE}",
            "gw.ini:2: [x] a: the environment variable GONE is not set; expected a value for it, or ${GONE:-a default}",
        ),
        ("[x]\na = ${file:gone}", "gw.ini:2: [x] a: there is no file gone"),
        ("[x]\na = ${file:.}", "gw.ini:2: [x] a: . is a folder; expected a file"),
        (
            "[x]\na = ${GONE",
            "gw.ini:2: [x] a: `${` has no `}`; expected ${NAME}, ${NAME:-default} or ${file:PATH}; `$${` is a plain `${`",
        ),
        (
            "[x]\na = ${a b}",
            "gw.ini:2: [x] a: ${a b} is no substitution; expected ${NAME}, ${NAME:-default} or ${file:PATH}",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, text) == [problem]


def test_a_file_that_is_no_text_is_told_with_the_line(tmp_path: Path) -> None:
    assert problems(tmp_path, b"[x]\na = \xff") == ["gw.ini:2: this is not UTF-8 text; expected a text file in UTF-8"]
    assert problems(tmp_path, b"\xef\xbb\xbf[x]\n") == []


def test_reading_goes_on_after_a_mistake(tmp_path: Path) -> None:
    found = document(tmp_path, "nonsense\n[bad section name]\nlost = 1\n  lost too\n[x]\na = 1\n?\n  more of it\nb = 2")
    assert [problem.line for problem in found.problems] == [1, 2, 7]
    assert list(found.sections["x", ""].options) == ["a", "b"]


def test_files_that_are_not_there_or_not_files_are_told(tmp_path: Path) -> None:
    assert (
        str(read(str(tmp_path / "no.ini"), {}).problems[0]) == f"{tmp_path}/no.ini: there is no file {tmp_path}/no.ini"
    )
    assert "is a folder" in str(read(str(tmp_path), {}).problems[0])
    assert "not a path" in str(read("a\0b", {}).problems[0])
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in problems(tmp_path, "[x]\na = ${file:pipe}")[0]


class TestIncludes:
    def test_files_are_read_in_order_relative_to_the_one_that_includes_them(self, tmp_path: Path) -> None:
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "b.ini").write_text("[route b]\nkey = ${file:key}\n")
        (tmp_path / "more" / "a.ini").write_text("[gateway]\ninclude = deep.x\n[route a]\n")
        (tmp_path / "more" / "deep.x").write_text("[route deep]\n")
        (tmp_path / "more" / "key").write_text("k")
        found = document(tmp_path, "[gateway]\ninclude = more/*.ini, none/*.ini\n[route first]\n")
        assert [(each.severity, each.line, each.what) for each in found.problems] == [
            ("warning", 2, f"{tmp_path}/none/*.ini matches no file")
        ]
        assert [name for _, name in found.sections] == ["", "first", "a", "deep", "b"]
        assert found.sections["route", "b"].options["key"].value == "k"
        assert found.sections["route", "deep"].place == (str(tmp_path / "more/deep.x"), 1)
        names = [os.path.relpath(path, tmp_path) for path in found.files]
        assert names == ["gw.ini", "more/a.ini", "more/deep.x", "more/b.ini", "more/key"]

    def test_circles_and_repetitions_are_mistakes(self, tmp_path: Path) -> None:
        (tmp_path / "a.ini").write_text("[gateway]\ninclude = b.ini\n")
        (tmp_path / "b.ini").write_text("[gateway]\ninclude = a.ini\n")
        found = problems(tmp_path, "[gateway]\ninclude = a.ini, b.ini, gw.ini, gone.ini\n")
        assert [each.replace(str(tmp_path) + "/", "") for each in found] == [
            "b.ini:2: [gateway] include: a.ini includes itself in a circle; expected each file once",
            "gw.ini:2: [gateway] include: b.ini is included twice; expected each file once",
            "gw.ini:2: [gateway] include: gw.ini includes itself in a circle; expected each file once",
            "gw.ini:2: [gateway] include: there is no file gone.ini",
        ]

    def test_an_included_file_says_nothing_else_of_the_gateway_and_repeats_no_section(self, tmp_path: Path) -> None:
        (tmp_path / "a.ini").write_text("[gateway]\nworkers = 2\n[route x]\n")
        found = problems(tmp_path, "[gateway]\ninclude = a.ini\n[route x]\n")
        assert found == [
            "a.ini:2: [gateway] workers: only `include` may stand in [gateway] here; the main file's is at gw.ini:1",
            "a.ini:3: [route x] this section is here twice, first at gw.ini:3",
        ]


def test_the_digest_changes_with_anything_that_was_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("1")
    text = "[x]\na = ${A:-} ${file:key}"
    first = document(tmp_path, text, A="1").digest
    assert document(tmp_path, text, A="1", OTHER="1").digest == first
    assert document(tmp_path, text, A="2").digest != first
    assert document(tmp_path, text + " ", A="1").digest != first
    (tmp_path / "key").write_text("2")
    assert document(tmp_path, text, A="1").digest != first
