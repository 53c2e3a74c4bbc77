"""
JSON in bodies, read within bounds, and what is wrong with it told by JSON pointers (RFC 6901).

Not here: what it should look like.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import jsonschema_rs
import yaml
from pydantic import Field

from apigw.config import files
from apigw.config.values import Count
from apigw.exchange.errors import ClientFault, JSONTooLarge, UpstreamFault
from apigw.json_text import InvalidJSON, TooManyValues, read, without_halves

MOST_VIOLATIONS = 100

MostValues = Annotated[Count, Field(ge=1, le=1_000_000)]

MANY = 5000
"""Values beyond which only the first violation is looked for: all cost 16 us each, and there may be a million."""

Violation = dict[str, str]


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


def read_judged(data: bytes, most: int, *, unique: bool = False) -> Any:
    """
    The value of a JSON text, for a schema: these take no half of a surrogate pair, and get U+FFFD for it.

    :param most: how many values there may be.
    :raises InvalidJSON: when it is not JSON.
    """
    value = read(data, most=most, unique=unique)
    plain = without_halves(data)
    return value if plain is data else read(plain, most=most)


def json_fault(error: InvalidJSON) -> ClientFault:
    """What the client is told whose content is not taken."""
    if isinstance(error, TooManyValues):
        return JSONTooLarge(str(error))
    return ClientFault(str(error), reason="json_invalid")


def load_document(path: Path) -> Any:
    """
    A file in JSON or YAML.

    :raises ValueError: when it can't be read, with one sentence.
    """
    try:
        text = files.read(path)
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    try:
        return read(text) if path.suffix == ".json" else yaml.load(text, Loader=_Loader)  # noqa: S506 - safe
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


_LINEAR = jsonschema_rs.RegexOptions(size_limit=1 << 20)
"""Patterns are matched in time linear in the text's length."""
_NO_PATTERN = (
    "this is no pattern that is supported: lookaround, back-references, atomic groups and patterns that compile to more"
    " than 1 MiB are not"
)


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
            self._validator = jsonschema_rs.validator_for(
                schema, validate_formats=True, mask="the value", pattern_options=_LINEAR, **how
            )
        except jsonschema_rs.ValidationError as error:
            where = pointer(error.instance_path)
            what = _NO_PATTERN if error.message.endswith('is not a "regex"') else error.message[:300]
            raise ValueError(what + (f" (at {where})" if where else "")) from None
        except (jsonschema_rs.ReferencingError, ValueError) as error:
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
