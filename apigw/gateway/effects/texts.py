"""
Variables in a syntax that is not ours, or in a place that has none: they are taken as they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import SecretStr

from apigw.config.configuration import Configuration
from apigw.config.model import find, form_in
from apigw.config.problems import Problem

_SHELL = re.compile(r"\$([A-Z_][A-Z0-9_]*|[a-z]+_[a-z0-9_]+)")
_ANYWHERE = re.compile(r"\$([A-Z_][A-Z0-9_]+)\b")
_ELSEWHERE = re.compile(
    r"""%([A-Za-z_]\w*)%|\$\(([A-Za-z_]\w*)\)|\{\$([A-Za-z_]\w*)\}|\{env\.([A-Za-z_]\w*)\}|env[:.]([A-Z_][A-Z0-9_]*)
    |\{\{\s*(?:env[ .]\s*)?"?\.?([A-Za-z_]\w*)"?\s*\}\}|\{vault://env/([\w-]+)\}""",
    re.VERBOSE,
)
_SECRET_FILE = re.compile(r"(?:file://)?(/(?:run/secrets|etc|var|mnt|secrets)/\S+)|@(/\S+)")
_OF_NGINX = {
    "host": "request.hostname",
    "http_host": "request.host",
    "server_name": "request.hostname",
    "request_uri": "request.target",
    "uri": "request.path",
    "args": "request.query",
    "query_string": "request.query",
    "scheme": "request.scheme",
    "remote_addr": "client.ip",
    "request_id": "request.id",
    "request_method": "request.method",
}
_NGINX = re.compile(rf"\$\{{?({'|'.join(_OF_NGINX)}|http_[a-z0-9_]+|arg_[a-z0-9_]+)\b\}}?")
_PLACE = re.compile(r"\{((?:request|client|route|consumer|header|query|path|jwt)\.[^{}\s\"']+)\}")
_TEMPLATES = frozenset(
    ("template", "name: template list", "JSON or form", "call", "JMESPath", "JSON", "regex -> template", "path pattern")
)
"""Forms of options that have places, or that refuse those that they don't know."""
_REGEXES = frozenset(("regex", "regex -> template", "path pattern"))


def texts(configuration: Configuration) -> Iterator[Problem]:
    """All options of all sections, as they are written."""
    for (kind, name), section in configuration.written.items():
        if kind not in configuration.kinds or kind == "python":
            continue
        for option in section.options.values():
            value = option.value
            if ("$" in value or "{" in value or option.name.endswith(_SECRETS)) and not option.broken:
                what, hint = _found(configuration.kinds[kind].settings, option.name, value)
                if what:
                    yield configuration.problem(kind, name, option.name, what, hint=hint, warning=True)


_SECRETS = ("secret", "token", "password")


def _found(settings: Any, option: str, value: Any) -> tuple[str, str]:
    if value.secret:
        return "", ""  # what was substituted is taken as it is
    if "$" not in value and not _PLACE.search(value) and not option.endswith(_SECRETS):
        return "", ""
    known = find(settings, option)
    if known is None:
        return "", ""
    info = known[0].info
    form = known[0].form
    secret = info.annotation is SecretStr or SecretStr in get_args(info.annotation)
    name = form.name if form is not None else ""
    if (found := _SHELL.fullmatch(value)) and (secret or not _NGINX.fullmatch(value)):
        return "this is taken as it stands, and not from the environment", f"did you mean ${{{found[1]}}}?"
    if secret:
        if found := _ELSEWHERE.fullmatch(value):
            variable = next(filter(None, found.groups()))
            return "this is taken as it stands, and not from the environment", f"did you mean ${{{variable}}}?"
        if found := _SECRET_FILE.fullmatch(value):
            return "the secret is this path itself", f"did you mean ${{file:{found[1] or found[2]}}}?"
        return "", ""
    if name in _REGEXES or (value.startswith("~") and option.startswith(("header.", "query."))):
        return "", ""
    if found := _ANYWHERE.search(value):
        return f"`{found[0]}` is taken as it stands, and not from the environment", f"did you mean ${{{found[1]}}}?"
    members = get_args(info.annotation)
    templated = name in _TEMPLATES or any((each := form_in(member)) and each.name == "template" for member in members)
    if found := _NGINX.search(value):
        hint = f"did you mean {{{_ours(found[1])}}}?" if templated else _WITHOUT.get(option, "")
        return f"`{found[0]}` is sent as it stands: variables are written in braces, where there are any", hint
    if not templated and (found := _PLACE.search(value)):
        return f"`{found[0]}` is taken as it stands: this option is no template", _WITHOUT.get(option, "")
    return "", ""


_WITHOUT = {
    "redirect": "a policy has templates: [redirect NAME] with location = https://{request.hostname}{request.target}",
    "respond": "templates are in the options `header.NAME` of a policy [respond NAME]",
}


def _ours(variable: str) -> str:
    if variable.startswith("http_") and variable != "http_host":
        return "header." + variable.removeprefix("http_").replace("_", "-")
    if variable.startswith("arg_"):
        return "query." + variable.removeprefix("arg_")
    return _OF_NGINX[variable]
