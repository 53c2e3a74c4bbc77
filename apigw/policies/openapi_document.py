"""
An OpenAPI document (3.0, 3.1), compiled: which operation a request is for, and the schemas of its parts.

Not here: what is done about a request that does not fit (``openapi``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema_rs

from apigw.config.regex import Regex
from apigw.json_text import MOST_VALUES, InvalidJSON
from apigw.policies.forms import Field
from apigw.policies.json_bodies import Schema, Violation, branches, is_json, load_document, pointer, read_judged

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_URI = "urn:apigw:openapi"
_NOT_PARAMETERS = frozenset(("accept", "content-type", "authorization"))
"""Header parameters of these names are ignored, as the specification says."""
_STYLES = {"path": ("simple", "label", "matrix"), "header": ("simple",), "cookie": ("form",)}
_QUERY_STYLES = {"form": ",", "spaceDelimited": " ", "pipeDelimited": "|", "deepObject": ""}
_SAYS_NOTHING = frozenset(
    ("type", "format", "title", "description", "example", "examples", "deprecated", "contentMediaType")
)
"""Words of a schema that every string fits, ``format`` if it is ``binary``."""
_INTEGER = re.compile(r"-?[0-9]{1,400}")
_NUMBER = re.compile(r"-?[0-9]{1,300}(\.[0-9]{1,300})?([eE][+-]?[0-9]{1,3})?")


class Document:
    """
    The document at ``path``.

    :param base: what stands before its paths; None: the path of the first of its servers.
    :ivar unchecked: content that is described, but of a type that is not looked into: method, path and type of each.
    :raises ValueError: when it can't be used, with one sentence.
    """

    def __init__(self, path: Path, base: str | None) -> None:
        root = load_document(path)
        if not isinstance(root, dict) or not str(root.get("openapi", "")).startswith(("3.0", "3.1")):
            raise ValueError(f"{path} is no OpenAPI document of version 3.0 or 3.1")
        self._root = _as_2020(root)
        try:
            self._registry = jsonschema_rs.Registry([(_URI, self._root)], draft=jsonschema_rs.Draft202012)
        except (jsonschema_rs.ReferencingError, ValueError) as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())[:300]}") from None
        if base is None:
            servers = self._root.get("servers") or [{}]
            base = urlsplit(re.sub(r"\{[^}]*\}", "x", str(servers[0].get("url", "/")))).path
        self.paths: list[PathItem] = []
        self.unchecked: list[str] = []
        for template, item in (self._root.get("paths") or {}).items():
            where = f"{path}: {template}"
            try:
                self.paths.append(self._path(base.rstrip("/") + template, *self._resolved(item, ("paths", template))))
            except KeyError as error:
                raise ValueError(f"{where}: there is no {error}, or a $ref leads nowhere") from None
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{where}: {' '.join(str(error).split())[:300]}") from None
        # What is spelt out goes before what is captured.
        self.paths.sort(key=lambda each: (each.captures, -each.length))

    def find(self, segments: list[str]) -> tuple[PathItem, dict[str, str]] | None:
        """The path that ``segments`` (percent-encoded) belong to, and what it captures, decoded."""
        whole = [unquote(segment) for segment in segments]
        names = [unquote(segment.partition(";")[0]) for segment in segments]
        for path in self.paths:
            captured = path.match(whole, names)
            if captured is not None:
                return path, captured
        return None

    def _resolved(self, node: Any, pointer: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
        """Follow ``$ref``; give what is there, and where."""
        for _ in range(20):
            if not isinstance(node, dict) or "$ref" not in node:
                return node, pointer
            reference = str(node["$ref"])
            if not reference.startswith("#/"):
                raise ValueError(f"$ref {reference} leads out of the document: bundle it first")
            pointer = tuple(step.replace("~1", "/").replace("~0", "~") for step in reference[2:].split("/"))
            node = self._at(pointer)
        raise ValueError("a $ref leads to itself")

    def _schema(self, pointer: tuple[str, ...]) -> Schema:
        steps = "/".join(step.replace("~", "~0").replace("/", "~1").replace("%", "%25") for step in pointer)
        steps = "".join(
            char if char.isascii() and (char.isalnum() or char in "/~-_.%$") else _quoted(char) for char in steps
        )
        schema = Schema({"$ref": f"{_URI}#/{steps}"}, registry=self._registry)
        schema.branching = self._branches(self._at(pointer), set())
        return schema

    def _at(self, pointer: tuple[str, ...]) -> Any:
        node = self._root
        for step in pointer:
            node = node[int(step)] if isinstance(node, list) else node[step]
        return node

    def _branches(self, node: Any, seen: set[str]) -> bool:
        """``branches`` of a schema, and of all that it refers to."""
        if isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str) and reference not in seen:
                seen.add(reference)
                try:
                    if self._branches(self._resolved(node, ())[0], seen):
                        return True
                except (KeyError, IndexError, ValueError):
                    return True
            return branches(dict.fromkeys(node)) or any(self._branches(each, seen) for each in node.values())
        return isinstance(node, list) and any(self._branches(each, seen) for each in node)

    def _path(self, template: str, item: Any, pointer: tuple[str, ...]) -> PathItem:
        shared = self._parameters(item, pointer)
        operations = {}
        for method in METHODS:
            if method in item:
                operation = item[method]
                own = self._parameters(operation, (*pointer, method))
                operations[method] = self._operation(operation, (*pointer, method), {**shared, **own})
        return PathItem(template, operations)

    def _parameters(self, owner: Any, pointer: tuple[str, ...]) -> dict[tuple[str, str], Parameter]:
        found = {}
        for index, listed in enumerate(owner.get("parameters") or ()):
            node, where = self._resolved(listed, (*pointer, "parameters", str(index)))
            parameter = self._parameter(node, where)
            if parameter.place != "header" or parameter.name.lower() not in _NOT_PARAMETERS:
                found[parameter.place, parameter.name] = parameter
        return found

    def _parameter(self, node: Any, pointer: tuple[str, ...]) -> Parameter:
        name, place, required = node["name"], node["in"], bool(node.get("required"))
        if "content" in node:
            kind = next(iter(node["content"]))
            schema = self._schema((*pointer, "content", kind, "schema"))
            return Parameter(name, place, schema, {}, "json", required=required, explode=False)
        style = node.get("style") or ("form" if place in {"query", "cookie"} else "simple")
        if style not in (_QUERY_STYLES if place == "query" else _STYLES[place]):
            raise ValueError(f"the style {style} of the {place} parameter {name} is not supported")
        described = self._resolved(node.get("schema", {}), (*pointer, "schema"))[0]
        schema_or_none = self._schema((*pointer, "schema")) if "schema" in node else None
        explode = bool(node.get("explode", style == "form"))
        shape = self._shape(described)
        return Parameter(name, place, schema_or_none, shape, style, required=required, explode=explode)

    def _shape(self, schema: Any) -> dict[str, Any]:
        """What is needed to make values of text: types, and those of items and properties."""
        schema = self._resolved(schema, ())[0]
        if not isinstance(schema, dict):
            return {}
        kinds = schema.get("type", ())
        shape: dict[str, Any] = {"types": {kinds} if isinstance(kinds, str) else set(kinds)}
        says = schema.keys() - _SAYS_NOTHING
        shape["is_opaque"] = not says and kinds in ((), "string") and schema.get("format", "binary") == "binary"
        if "items" in schema and isinstance(schema["items"], dict):
            shape["items"] = {"types": self._types(schema["items"])}
        if isinstance(schema.get("properties"), dict):
            shape["properties"] = {
                name: {
                    "types": self._types(each),
                    "items": {"types": self._types(self._resolved(each, ())[0].get("items", {}))},
                }
                for name, each in schema["properties"].items()
                if isinstance(each, dict)
            }
        if not shape["types"]:
            shape["types"] = self._types(schema)
        return shape

    def _types(self, schema: Any, depth: int = 0) -> set[str]:
        schema = self._resolved(schema, ())[0]
        if not isinstance(schema, dict) or depth > 5:
            return set()
        kinds = schema.get("type", ())
        types = {kinds} if isinstance(kinds, str) else set(kinds)
        for word in ("anyOf", "oneOf", "allOf"):
            for each in schema.get(word) or ():
                types |= self._types(each, depth + 1)
        return types

    def _operation(self, node: Any, pointer: tuple[str, ...], parameters: dict[Any, Parameter]) -> Operation:
        contents: dict[str, Content] = {}
        required = False
        if "requestBody" in node:
            body, where = self._resolved(node["requestBody"], (*pointer, "requestBody"))
            required = bool(body.get("required"))
            for kind, content in (body.get("content") or {}).items():
                schema, shape = None, {}
                if "schema" in content:
                    schema = self._schema((*where, "content", kind, "schema"))
                    shape = self._shape(content["schema"])
                media = kind.lower().partition(";")[0].strip()
                found = contents[media] = Content(schema, shape, content.get("encoding") or {})
                if not found.is_opaque and reader_of(media) is None:
                    self.unchecked.append(f"{pointer[-1].upper()} {pointer[1]}: {media}")
        return Operation(list(parameters.values()), contents, body_required=required)


def _segment(text: str) -> str | Regex | None:
    """What a template's segment takes: this text; None: any that is not empty; or what the expression matches."""
    parts = re.split(r"(\{[^{}]+\})", text)
    if len(parts) == 1:
        return text
    if parts[0] == parts[2] == "" and len(parts) == 3:
        return None
    pieces = ("(.+)" if part.startswith("{") else re.escape(part) for part in parts)
    return Regex("(?s)" + "".join(pieces), utf8=True)


def _values(pattern: Regex, segment: str) -> list[str] | None:
    """What the segment has in the places of the names, which are all of the expression's groups."""
    data = segment.encode()
    spans = pattern.spans(data, whole=True) if len(data) <= pattern.longest else None
    return None if spans is None else [data[start:end].decode() for start, end in spans[1:]]


class PathItem:
    """One path: its segments, and its operations by method."""

    def __init__(self, template: str, operations: dict[str, Operation]) -> None:
        self.template = template
        self.operations = operations
        self.captures = template.count("{")
        self.length = len(template)
        self._names: list[str] = re.findall(r"\{([^{}]+)\}", template)
        self._segments = [_segment(segment) for segment in template.split("/")]

    def match(self, segments: list[str], names: list[str]) -> dict[str, str] | None:
        """
        What it captures; None if it is another path.

        :param names: the segments without their parameters (``;x=1``), by which they match as well.
        """
        if len(segments) != len(self._segments):
            return None
        values: list[str] = []
        for pattern, segment, name in zip(self._segments, segments, names, strict=True):
            if isinstance(pattern, str):
                if pattern not in {segment, name}:
                    return None
            elif pattern is None:
                if not segment:
                    return None
                values.append(segment)
            else:
                found = _values(pattern, segment) or _values(pattern, name)
                if found is None:
                    return None
                values += found
        return dict(zip(self._names, values, strict=True))


def reader_of(kind: str) -> str | None:
    """How content of a media type is looked into; None for one that is not."""
    if is_json(kind.encode()):
        return "json"
    if kind in {"application/x-www-form-urlencoded", "multipart/form-data"}:
        return "form"
    if kind.startswith("text/") and kind not in {"text/xml", "text/*"} and not kind.endswith("+xml"):
        return "text"
    return None


class Content:
    """
    One type of content.

    :ivar schema: if it has one. :ivar is_opaque: every content is as described, whatever is in it.
    """

    def __init__(self, schema: Schema | None, shape: dict[str, Any], encoding: dict[str, Any]) -> None:
        self.schema = schema
        self.is_opaque = schema is None or shape.get("is_opaque", False)
        self._shape = shape
        self._encoding = encoding

    def of_text(self, data: bytes) -> Any:
        """The value of a text."""
        return coerced(data.decode("utf-8", "replace"), self._shape)

    def of_form(self, fields: list[Field]) -> tuple[dict[str, Any], list[Violation]]:
        """The object of a form's fields, and what is wrong with the fields themselves."""
        made: dict[str, Any] = {}
        wrong: list[Violation] = []
        properties = self._shape.get("properties", {})
        for field in fields:
            shape = properties.get(field.name, {})
            if not self._takes(field):
                wrong.append({"pointer": pointer([field.name]), "message": f"it must not be {field.kind}"})
            if "array" in shape.get("types", ()):
                made.setdefault(field.name, []).append(_value(field, shape["items"]))
            elif field.name in made:
                wrong.append({"pointer": pointer([field.name]), "message": "it is there more than once"})
            else:
                made[field.name] = _value(field, shape)
        return made, wrong

    def _takes(self, field: Field) -> bool:
        """Whether the field's media type is one of those that ``encoding`` lists."""
        listed = self._encoding.get(field.name) if field.kind else None
        if not isinstance(listed, dict) or not isinstance(listed.get("contentType"), str):
            return True
        kinds = {each.partition(";")[0].strip().lower() for each in listed["contentType"].split(",")}
        return not kinds.isdisjoint({field.kind, field.kind.partition("/")[0] + "/*", "*/*"})


def _value(field: Field, shape: dict[str, Any]) -> Any:
    """The value of a form's field. What is binary is a string with a character for each byte."""
    types = shape.get("types", ())
    if is_json(field.kind.encode()) or ("object" in types and "string" not in types):
        return _json(field.content.decode("utf-8", "replace"))
    if field.is_file or (field.kind and not field.kind.startswith("text/")):
        return field.content.decode("latin-1")
    return coerced(field.content.decode("utf-8", "replace"), shape)


class Operation:
    """What a method of a path takes."""

    def __init__(self, parameters: list[Parameter], contents: dict[str, Content], *, body_required: bool) -> None:
        self.parameters = parameters
        self.contents = contents
        self.body_required = body_required
        queries = [each for each in parameters if each.place == "query"]
        self.reads_query = bool(queries)
        self.reads_cookies = any(each.place == "cookie" for each in parameters)
        self.query_names = {each.name for each in queries}.union(*(each.properties for each in queries))
        self.query_objects = {each.name for each in queries if each.style == "deepObject"}

    def content(self, kind: str) -> Content | None:
        """The content of that type, or of the range that it is in."""
        main = kind.partition("/")[0]
        return self.contents.get(kind) or self.contents.get(f"{main}/*") or self.contents.get("*/*")


class Parameter:
    """One parameter, and how its value is made of text."""

    def __init__(
        self,
        name: str,
        place: str,
        schema: Schema | None,
        shape: dict[str, Any],
        style: str,
        *,
        required: bool,
        explode: bool,
    ) -> None:
        self.name = name
        self.place = place
        self.required = required
        self.schema = schema
        self.style = style
        self._shape = shape
        self._explode = explode
        self._types: set[str] = shape.get("types", set())
        as_members = place == "query" and style == "form" and explode and "object" in self._types
        self.properties = set(shape.get("properties", ())) if as_members else set()

    def of_text(self, values: list[str]) -> Any:
        """The value of one text, as paths, headers and cookies have it; None if there is none."""
        if not values:
            return None
        text = values[0]
        if self.style == "json":
            return _json(text)
        if self.style == "label":
            text = text.removeprefix(".").replace(".", ",") if self._explode else text.removeprefix(".")
        elif self.style == "matrix":
            text = self._of_matrix(text)
        if "array" in self._types:
            items = [item.strip() for item in text.split(",")] if self.place == "header" else text.split(",")
            return [coerced(item, self._shape.get("items", {})) for item in items]
        if "object" in self._types:
            return self._object(text.split(","), "=" if self._explode else "")
        return coerced(text, self._shape)

    def _of_matrix(self, text: str) -> str:
        """``;id=3,4``, ``;id=3;id=4`` or ``;x=1;y=2`` as the style ``simple`` writes it."""
        members = [member.partition("=") for member in text.removeprefix(";").split(";")]
        if self._explode and "object" in self._types:
            return ",".join(f"{name}={value}" for name, _, value in members)
        return ",".join(value for name, _, value in members if name == self.name)

    def of_query(self, query: list[tuple[str, str]]) -> Any:
        """The value that the query has for it; None if there is none."""
        if self.properties:
            members = {name: coerced(text, self._property(name)) for name, text in query if name in self.properties}
            return members or None
        if self.style == "deepObject":
            start = f"{self.name}["
            members = {
                name[len(start) : -1]: coerced(text, self._property(name[len(start) : -1]))
                for name, text in query
                if name.startswith(start) and name.endswith("]")
            }
            return members or None
        values = [text for name, text in query if name == self.name]
        if not values:
            return None
        if self.style == "json":
            return _json(values[0])
        if "array" in self._types:
            if not self._explode:
                values = values[-1].split(_QUERY_STYLES[self.style])
            return [coerced(item, self._shape.get("items", {})) for item in values]
        if len(values) > 1:
            return values  # which is no plain value, and its schema says so
        if "object" in self._types:
            return self._object(values[0].split(","), "")
        return coerced(values[0], self._shape)

    def _property(self, name: str) -> dict[str, Any]:
        shape: dict[str, Any] = self._shape.get("properties", {}).get(name, {})
        return shape

    def _object(self, items: list[str], separator: str) -> dict[str, Any]:
        if separator:
            members = [item.partition(separator)[::2] for item in items]
        else:
            members = list(zip(items[::2], items[1::2], strict=False))
        return {name: coerced(text, self._property(name)) for name, text in members}


def coerced(text: str, shape: dict[str, Any]) -> Any:
    """The value that ``text`` stands for, if its schema wants something else than text."""
    types = shape.get("types", ())
    if "integer" in types and _INTEGER.fullmatch(text):
        return int(text)
    if "number" in types and _NUMBER.fullmatch(text):
        return float(text)
    if "boolean" in types and text in {"true", "false"}:
        return text == "true"
    if "null" in types and text == "" and "string" not in types:
        return None
    return text


def _json(text: str) -> Any:
    try:
        return read_judged(text.encode("utf-8", "replace"), MOST_VALUES, unique=True)
    except InvalidJSON:
        return text


def _quoted(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode())


def _as_2020(node: Any) -> Any:
    """The document in terms of JSON schema 2020-12; what only responses must have is not asked of requests."""
    if isinstance(node, list):
        return [_as_2020(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {str(name): _as_2020(each) for name, each in node.items()}
    if made.get("nullable") is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
        if isinstance(made.get("enum"), list) and None not in made["enum"]:
            made["enum"] = [*made["enum"], None]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(made.get(exclusive), bool) and made.pop(exclusive) and bound in made:
            made[exclusive] = made.pop(bound)
    properties, required = made.get("properties"), made.get("required")
    if isinstance(properties, dict) and isinstance(required, list):
        made["required"] = [
            name for name in required
            if not (isinstance(properties.get(name), dict) and properties[name].get("readOnly") is True)
        ]  # fmt: skip
    return made
