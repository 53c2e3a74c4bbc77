"""
JSON in bodies, read within bounds, and what is wrong with it told by JSON pointers (RFC 6901).

Not here: what it should look like.
"""

from __future__ import annotations

import json
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema_rs
import msgspec
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


def read_json(data: bytes, *, once: bool = False) -> Any:
    """
    The value of ``data``, which is in UTF-8 (RFC 8259 8.1); large integers stay exact.

    :param once: refuse objects with a name that is there twice: of the two, the service may take the other.
    :raises NotJSON: for anything that RFC 8259 does not allow, and for what is nested too deeply.
    """
    return _read(data, object_pairs_hook=_once if once else None)


def read_exactly(data: bytes) -> tuple[Any, bool]:
    """As ``read_json``; and whether there are numbers that only ``write_json(exactly=True)`` writes as they were."""
    odd: list[_Exact] = []

    def number(text: str) -> float:
        value = float(text)
        if repr(value) == text:
            return value
        exact = _Exact(value)
        exact.text = text
        odd.append(exact)
        return exact

    return _read(data, parse_float=number), bool(odd)


class _Exact(float):
    """A number of which a float keeps less than what was sent: ``1.10``, ``1e400``, 30 digits."""

    text: str


_Exact.__name__ = "float"  # JMESPath looks at the name


def _read(data: bytes, **how: Any) -> Any:
    try:
        if data.count(b"[") + data.count(b"{") > DEEPEST:
            orjson.loads(data)  # stops at that depth, whatever the stack of this Python takes
        return json.loads(data.decode("utf-8-sig"), parse_constant=_no_constant, **how)
    except NotJSON:
        raise
    except (ValueError, RecursionError):
        raise NotJSON("this is not JSON") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise NotJSON("an object has the same name twice")
    return made


def _no_constant(name: str) -> Any:
    raise NotJSON(f"{name} is not JSON")


def write_json(value: Any, *, exactly: bool = False) -> bytes:
    """
    The opposite of ``read_json``, or of ``read_exactly``.

    :raises ValueError: when a number is too large for JSON.
    """
    try:
        if exactly:
            return msgspec.json.encode(_as_read(value))
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can write
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _as_read(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_read(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_read(each) for each in value]
    if isinstance(value, float):
        if isinstance(value, _Exact):
            return msgspec.Raw(value.text.encode())
        if not isfinite(value):
            raise ValueError("JSON has no such number")
    return value


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


def read_schema(path: Path, files: set[Path]) -> Schema:
    """
    The schema in a file. It may refer to other files, by their place relative to its own.

    :param files: gets all that were read.
    :raises ValueError: when it can't be used, with one sentence.
    """

    def beside(uri: str) -> Any:
        where = urlsplit(uri)
        if where.scheme != "file":
            raise ValueError("it is no file, and nothing is fetched")
        file = Path(unquote(where.path))
        files.add(file)
        return load_document(file)

    files.add(path)
    try:
        return Schema(load_document(path), retriever=beside, base_uri=path.absolute().as_uri())
    except ValueError as error:
        said = str(error)
        raise ValueError(said if said.startswith(str(path)) else f"{path} is no schema: {said}") from None


class Schema:
    """
    A compiled JSON schema; its draft is what ``$schema`` says, else 2020-12.

    :param how: further arguments for ``jsonschema_rs.validator_for``: where what it refers to comes from.

    :raises ValueError: when it is no schema.
    """

    def __init__(self, schema: Any, **how: Any) -> None:
        try:
            if "retriever" not in how:
                how["offline"] = True
            self._validator = jsonschema_rs.validator_for(schema, validate_formats=True, mask="the value", **how)
        except jsonschema_rs.ValidationError as error:
            where = pointer(error.instance_path)
            raise ValueError(error.message[:300] + (f" (at {where})" if where else "")) from None
        except (jsonschema_rs.ReferencingError, ValueError) as error:
            raise ValueError(" ".join(str(error).split())[:300]) from None

    def violations(self, value: Any, *, many: bool) -> list[Violation]:
        """
        What is wrong with ``value``: at most the first 100.

        :param many: it has more than ``MANY`` values: only the first.
        """
        try:
            if self._validator.is_valid(value):
                return []
        except UnicodeEncodeError:
            return [{"pointer": "", "message": "a text has half of a surrogate pair"}]
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
