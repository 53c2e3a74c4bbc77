"""
JSON in bodies, read within bounds, and what is wrong with it told by JSON pointers (RFC 6901).

Not here: what it should look like.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import yaml

from apigw.exchange.errors import ClientFault, UpstreamFault

MOST_VIOLATIONS = 100

MANY = 5000
"""Values beyond which only the first violation is looked for: all cost 16 us each, and there may be a million."""

DEEPEST = 1024
"""Levels of arrays and objects within each other that orjson takes."""

Violation = dict[str, str]


class NotJSON(ValueError):
    """It is no JSON, or more deeply nested than is taken."""


class NotAsDescribed(ClientFault):
    """The request is not what its schema asks for."""

    reason = "schema_violated"


class ResponseNotAsDescribed(UpstreamFault):
    """The service's response is not what its schema asks for."""

    reason = "response_schema_violated"


def is_json(content_type: bytes | None) -> bool:
    """``application/json`` and its kin, ``application/NAME+json``."""
    if content_type is None:
        return False
    kind = content_type.partition(b";")[0].strip(b" \t").lower()
    return kind in {b"application/json", b"text/json"} or (kind.startswith(b"application/") and kind.endswith(b"+json"))


def read_json(data: bytes) -> Any:
    """
    The value of ``data``; large integers stay exact.

    :raises NotJSON: for anything that RFC 8259 does not allow, and for what is nested too deeply.
    """
    try:
        if data.count(b"[") + data.count(b"{") > DEEPEST:
            orjson.loads(data)  # stops at that depth, whatever the stack of this Python takes
        return json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise NotJSON("this is not JSON") from None


def _no_constant(name: str) -> Any:
    raise NotJSON(f"{name} is not JSON")


def write_json(value: Any) -> bytes:
    """
    The opposite of ``read_json``.

    :raises ValueError: when a number is too large for JSON.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def load_document(path: Path) -> Any:
    """
    A file in JSON or YAML.

    :raises ValueError: when it can't be read, with one sentence.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    try:
        return orjson.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_Loader)  # noqa: S506 - safe
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is neither JSON nor YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """YAML as JSON has it: dates stay text, ``yes`` and ``on`` stay words."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if first not in set("yYnNoO")
}


class Schema:
    """
    A compiled JSON schema; its draft is what ``$schema`` says, else 2020-12.

    :param registry: documents that it may refer to.

    :raises ValueError: when it is no schema.
    """

    def __init__(self, schema: Any, registry: jsonschema_rs.Registry | None = None) -> None:
        try:
            self._validator = jsonschema_rs.validator_for(
                schema, validate_formats=True, offline=True, registry=registry, mask="the value"
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise ValueError(" ".join(str(error).split())[:300]) from None

    def violations(self, value: Any, *, many: bool) -> list[Violation]:
        """
        What is wrong with ``value``: at most the first 100.

        :param many: it has more than ``MANY`` values: only the first.
        """
        if self._validator.is_valid(value):
            return []
        if many:
            try:
                self._validator.validate(value)
            except jsonschema_rs.ValidationError as error:
                return [_violation(error)]
        return [_violation(error) for error in islice(self._validator.iter_errors(value), MOST_VIOLATIONS)]


def has_many(data: bytes) -> bool:
    """Whether JSON has more than ``MANY`` values; commas in text count as well."""
    return data.count(b",") > MANY


def _violation(error: jsonschema_rs.ValidationError) -> Violation:
    return {"pointer": pointer(error.instance_path), "message": error.message[:500]}


def pointer(path: Any) -> str:
    """``/items/0/a~1b``."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
