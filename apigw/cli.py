"""
``apigw``: what a person calls beside ``twistd apigw``.

    apigw check FILE [--strict] [--json]                              is this configuration well?
    apigw explain FILE METHOD URL [-H 'Name: value'] [--json]         what would happen to this request, and why?
    apigw key new NAME [--expires DATE]                               make an API key for a [consumer NAME]
    apigw reference [FILE] [--check]                                  write the manual of the configuration

Exit status: 0 if all is well, 1 if the configuration has mistakes (with ``--strict`` also warnings) or the manual is
out of date, 2 for wrong usage.
What is heavy to import is imported by the command that needs it.

Not here: what the commands find out (``apigw.config.load``, ``apigw.gateway.explain``, ``apigw.config.reference``).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from apigw.config.configuration import Configuration
from apigw.config.problems import ConfigurationError, Problem
from apigw.json_text import show


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param arguments: those of the process if None.
    :returns: the exit status.
    """
    asked = _parser().parse_args(arguments)
    try:
        status: int = asked.run(asked)
        sys.stdout.flush()
    except BrokenPipeError:  # `apigw explain … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="apigw", description="An API gateway: `twistd apigw --config FILE` runs it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="say whether a configuration is well, or all of its mistakes")
    check.add_argument("file", metavar="FILE")
    check.add_argument("--strict", action="store_true", help="take warnings for errors")
    check.add_argument("--json", action="store_true", help="write the result as JSON")
    check.set_defaults(run=_check)

    explain = commands.add_parser("explain", help="say what would happen to a request, and why")
    explain.add_argument("file", metavar="FILE")
    explain.add_argument("method", metavar="METHOD")
    explain.add_argument("url", metavar="URL", help="like https://shop.example/api/users?page=2, or /api/users")
    explain.add_argument(
        "-H", "--header", metavar="'Name: value'", action="append", default=[], type=_header, help="a field to send"
    )
    explain.add_argument("--json", action="store_true", help="write the result as JSON")
    explain.set_defaults(run=_explain)

    key = commands.add_parser("key", help="make an API key").add_subparsers(required=True, metavar="COMMAND")
    new = key.add_parser("new", help="a new key, and the section that lets it in; the key itself is shown only now")
    new.add_argument("name", metavar="NAME")
    new.add_argument("--expires", metavar="DATE", default="", help="such as 2027-12-31")
    new.set_defaults(run=_new_key)

    reference = commands.add_parser("reference", help="write the manual of the configuration")
    reference.add_argument("file", metavar="FILE", nargs="?", default="docs/configuration.md", help="`-`: print it")
    reference.add_argument("--check", action="store_true", help="write nothing; fail if FILE is out of date")
    reference.set_defaults(run=_reference)
    return parser


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 'Name: value'")
    return name.strip(), value.strip()


def _new_key(asked: argparse.Namespace) -> int:
    from apigw.policies.api_key import new_key

    try:
        key, section = new_key(asked.name, asked.expires)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{key}\n\n{section}")
    return 0


def _check(asked: argparse.Namespace) -> int:
    configuration, problems = _load(asked.file)
    if asked.strict and problems:
        configuration = None
        problems = [dataclasses.replace(problem, severity="error") for problem in problems]
    if asked.json:
        _print_json(_summary(configuration, problems))
    else:
        _show(problems, sys.stderr)
        if configuration is not None:
            _show_summary(configuration)
    return 1 if configuration is None else 0


def _explain(asked: argparse.Namespace) -> int:
    configuration, problems = _load(asked.file)
    if configuration is None:
        if asked.json:
            _print_json(_summary(configuration, problems))
        else:
            _show(problems, sys.stderr)
        return 1
    from apigw.gateway.explain import explain, render

    try:
        explanation = explain(configuration, asked.method, asked.url, asked.header)
        explanation = _hidden(explanation, _credentials(configuration, asked.url, asked.header))
    except ValueError as error:
        print(f"apigw explain: {error}", file=sys.stderr)
        return 2
    if asked.json:
        _print_json(explanation)
    else:
        print(render(explanation))
    return 0


def _credentials(configuration: Configuration, url: str, headers: list[tuple[str, str]]) -> dict[str, str]:
    """What of a request is a credential, with what is shown of it. What is explained is pasted into tickets."""
    from apigw.exchange.masking import MASK, credentials
    from apigw.gateway.policies import secret_parameters
    from apigw.observability.redaction import query_redactor, url_redactor

    redact = query_redactor(secret_parameters(configuration))
    shown = dict.fromkeys(credentials([(name.encode(), value.encode()) for name, value in headers]), MASK)
    shown |= {piece: redact(piece.encode()).decode() for piece in url.partition("?")[2].split("&") if piece}
    return shown | {url: url_redactor(redact)(url.encode()).decode()}


def _hidden(value: Any, shown: dict[str, str]) -> Any:
    """The same without what must not be shown, however deep it is."""
    if isinstance(value, dict):
        return {name: _hidden(each, shown) for name, each in value.items()}
    if isinstance(value, list):
        return [_hidden(each, shown) for each in value]
    if isinstance(value, str):
        for secret in sorted(shown, key=len, reverse=True):
            value = value.replace(secret, shown[secret])
    return value


def _reference(asked: argparse.Namespace) -> int:
    from apigw.config.reference import differences, reference
    from apigw.gateway.catalogue import KINDS

    if asked.file == "-":
        print(reference(KINDS), end="")
        return 0
    try:
        if not asked.check:
            with open(asked.file, "w", encoding="utf-8") as file:
                file.write(reference(KINDS))
            return 0
        with open(asked.file, encoding="utf-8") as file:
            lines = list(differences(KINDS, file.read()))
    except OSError as error:
        print(f"apigw reference: {asked.file}: {error.strerror}", file=sys.stderr)
        return 1
    if lines:
        print(*lines, f"{asked.file} is out of date: run `apigw reference {asked.file}`", sep="\n", file=sys.stderr)
    return 1 if lines else 0


def _load(path: str) -> tuple[Configuration | None, Sequence[Problem]]:
    from apigw.gateway.catalogue import load

    try:
        configuration = load(path)
    except ConfigurationError as error:
        return None, error.problems
    return configuration, configuration.warnings


# ---- what is shown ---------------------------------------------------------------------------------------------------


def _summary(configuration: Configuration | None, problems: Iterable[Problem]) -> dict[str, object]:
    found: dict[str, object] = {
        "ok": configuration is not None,
        "problems": [dataclasses.asdict(problem) | {"text": str(problem)} for problem in problems],
    }
    if configuration is not None:
        found["digest"] = configuration.digest
        found["files"] = list(configuration.files)
        found["sections"] = {kind: list(names) for kind, names in configuration.sections.items()}
    return found


def _show_summary(configuration: Configuration) -> None:
    counts = [
        _counted(len(configuration.listens), "listener"),
        _counted(len(configuration.of("route")), "route"),
        *(_counted(number, "aggregate") for number in (len(configuration.of("aggregate")),) if number),
        _counted(len(configuration.upstreams), "upstream"),
    ]
    print(f"{configuration.path} is well: {', '.join(counts)}")
    for name, listen in configuration.listens.items():
        print(f"  {'https' if listen.tls else 'http':5} {name}: {listen.endpoint}")
    if configuration.admin is not None:
        print(f"  admin: {configuration.admin.endpoint}")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _show(problems: Sequence[Problem], stream: TextIO) -> None:
    """One line a problem for programs; for a person at a terminal in colour, with what to do about it below."""
    if not stream.isatty() or "NO_COLOR" in os.environ:
        stream.writelines(f"{problem}\n" for problem in problems)
        return
    for problem in problems:
        colour = "\x1b[33m" if problem.severity == "warning" else "\x1b[31m"
        section = f" [{problem.section}]" if problem.section else ""
        option = f" {problem.option}:" if problem.option else ""
        stream.write(f"\x1b[1m{problem.place}:\x1b[0m\x1b[36m{section}{option}\x1b[0m {colour}{problem.what}\x1b[0m\n")
        stream.writelines(
            f"    {words}\n" for words in (problem.expected and f"expected {problem.expected}", problem.hint) if words
        )
    errors = sum(problem.severity == "error" for problem in problems)
    if errors:
        stream.write(f"{_counted(errors, 'mistake')}\n")


def _print_json(value: object) -> None:
    print(show(value, indent=2))
