"""
JSON in bodies, read within bounds, and what is wrong with it told by JSON pointers (RFC 6901).

Not here: what it should look like.
"""

from __future__ import annotations

from collections.abc import Callable
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
from apigw.policies.policy import Environment

MOST_VIOLATIONS = 100

MostValues = Annotated[Count, Field(ge=1, le=1_000_000)]

MANY = 1000
"""Values beyond which only the first violation is looked for: to find all costs up to 16 us for each value."""

AT_ONCE = 32 * 1024
"""Bytes of JSON that are read and checked at once: that takes 2 ms. More is worked on beside the reactor."""

SMALL = 1024
"""Bytes of JSON in which mistakes are looked for at once."""

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
        document = load_document(file)
        others.append(document)
        return document

    others: list[Any] = []
    files.add(path)
    try:
        schema = Schema(load_document(path), retriever=beside, base_uri=path.absolute().as_uri())
        schema.branching |= any(map(branches, others))
        return schema
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

    :ivar branching: mistakes in it, or in what it refers to, are costly to find.

    :param how: further arguments for ``jsonschema_rs.validator_for``: where what it refers to comes from.

    :raises ValueError: when it is no schema.
    """

    def __init__(self, schema: Any, *, branching: bool = False, **how: Any) -> None:
        self.branching = branching or branches(schema)
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

    def fits(self, value: Any) -> bool:
        """Whether ``value`` is as the schema asks. It takes at most 10 ms for 100,000 values."""
        fits: bool = self._validator.is_valid(value)
        return fits

    def violations(self, value: Any) -> list[Violation]:
        """What is wrong with ``value``: the first 100; of more than ``MANY`` values the first, if that is quick."""
        if self.fits(value):
            return []
        if not _more_than(value, MANY):
            return [_violation(error) for error in islice(self._validator.iter_errors(value), MOST_VIOLATIONS)]
        if self.branching:
            message = f"it is not as described; where is not looked for among more than {MANY} values"
            return [{"pointer": "", "message": message}]
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return [_violation(error)]
        return []


_BRANCHING = frozenset(
    ("anyOf", "oneOf", "not", "if", "contains", "propertyNames", "dependentSchemas", "dependencies")
) | {"unevaluatedItems", "unevaluatedProperties"}


def branches(schema: Any) -> bool:
    """Whether a schema has branches: the library looks for all mistakes in each of them, whatever it costs."""
    if isinstance(schema, dict):
        return not _BRANCHING.isdisjoint(schema) or any(branches(each) for each in schema.values())
    return isinstance(schema, list) and any(branches(each) for each in schema)


def _more_than(value: Any, most: int) -> bool:
    """Whether it has more values within it."""
    found, left = 0, [value]
    while left:
        each = left.pop()
        if isinstance(each, dict | list):
            found += len(each)
            if found > most:
                return True
            left.extend(each.values() if isinstance(each, dict) else each)
    return False


async def violations_of(
    environment: Environment, schema: Schema, value_of: Callable[[], Any], size: int, *, coded: bool = False
) -> list[Violation]:
    """
    What is wrong with a value: looked for at once if it is small, else beside the reactor.

    :param value_of: gives the value, or raises. :param size: bytes of its text. :param coded: it becomes more bytes.
    """
    if size > AT_ONCE or coded:
        found: list[Violation] = await environment.beside(lambda: schema.violations(value_of()))
        return found
    value = value_of()
    if schema.fits(value):
        return []
    if size <= SMALL:
        return schema.violations(value)
    made: list[Violation] = await environment.beside(lambda: schema.violations(value))
    return [*made]


def _violation(error: jsonschema_rs.ValidationError) -> Violation:
    return {"pointer": pointer(error.instance_path), "message": error.message[:500]}


def pointer(path: Any) -> str:
    """``/items/0/a~1b``."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
