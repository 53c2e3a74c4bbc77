"""
Checks requests against an OpenAPI document.

    [openapi shop]
    file = api.yaml
    mode = shadow

Paths, methods, parameters (path, query, header, cookie) and content are checked, and all that is wrong is told in one
answer: 400 with ``violations``, 404 for a path that the document has not, 405 for a method, 415 for a type of content.
Begin with ``mode = shadow``: the access log then shows what would be refused.

OpenAPI 3.0 and 3.1, in JSON or YAML, as one file. Paths are those that clients ask for, with the path of the first of
``servers`` in front, or ``base_path``.

Not here: how a document is read (``openapi_document``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

from pydantic import Field

from apigw.config.route import Prefix
from apigw.config.values import FilePath, Flag, Size
from apigw.exchange.body import Body
from apigw.exchange.errors import ClientFault
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.json_text import MOST_VALUES
from apigw.policies.codings import codings_of
from apigw.policies.forms import multipart_form, urlencoded
from apigw.policies.gathered import gathered
from apigw.policies.json_bodies import MostValues, NotAsDescribed, Violation, violations_of
from apigw.policies.json_schema import decoded_request, request_reader
from apigw.policies.openapi_document import Document, Operation, Parameter, reader_of
from apigw.policies.policy import Environment, Policy, PolicySettings


class Settings(PolicySettings):
    """Requests are checked against an OpenAPI document."""

    file: FilePath
    """The document."""
    base_path: Prefix | None = None
    """What stands before the document's paths; by default the path of the first of its ``servers``."""
    unknown_paths: Flag = False
    """Whether paths that the document has not pass."""
    unknown_query: Flag = True
    """Whether parameters in the query that the document has not pass."""
    unchecked: Literal["allow", "deny"] = "allow"
    """Content with a schema that is of a type that is not looked into (XML): it passes and is counted, or gets 415."""
    max_size: Annotated[Size, Field(ge=1, le=64 << 20)] = 1 << 20
    """Bytes of content that are looked at; more is refused."""
    max_json_values: MostValues = MOST_VALUES
    """Names and values that the JSON may have; a request with more gets 413."""


class OpenAPI(Policy[Settings]):
    """The policy ``openapi``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self.document = Document(settings.file, settings.base_path)
        if self.document.unchecked:
            told = "passes unchecked" if settings.unchecked == "allow" else "is refused"
            self.warnings = [
                ("unchecked", f"content that can't be looked into {told}: {', '.join(self.document.unchecked[:5])}")
            ]

    def on_request(self, request: Request) -> Response | Awaitable[Response | None] | None:
        found = self.document.find(request.path.decode("latin-1").split("/"))
        if found is None:
            if self.settings.unknown_paths:
                return None
            raise ClientFault("the API has no such path", status=404, reason="openapi_path_unknown")
        path, captured = found
        method = request.method.decode("latin-1").lower()
        operation = path.operations.get(method) or (path.operations.get("get") if method == "head" else None)
        if operation is None:
            if method == "options":
                return None  # a preflight, or a question of what is allowed
            allow = ", ".join(name.upper() for name in path.operations).encode()
            raise ClientFault(
                "the API has not this method here",
                status=405,
                reason="method_not_allowed",
                headers=((b"Allow", allow),),
            )
        violations = self._parameters(request, operation, captured)
        if request.body is None:
            if operation.body_required:
                violations.append(_violation("body", "", "there is no content"))
            return _refusal(request, violations)
        if not operation.contents:
            return _refusal(request, violations)
        return self._content(request, request.body, operation, violations)

    def _parameters(self, request: Request, operation: Operation, captured: dict[str, str]) -> list[Violation]:
        found: list[Violation] = []
        query = _query(request) if operation.reads_query or not self.settings.unknown_query else []
        cookies = _cookies(request) if operation.reads_cookies else {}
        for parameter in operation.parameters:
            values: list[str]
            if parameter.place == "path":
                values = [captured[parameter.name]] if parameter.name in captured else []
            elif parameter.place == "query":
                found += _checked(parameter, parameter.of_query(query))
                continue
            elif parameter.place == "header":
                value = request.headers.joined(parameter.name.lower().encode())
                values = [] if value is None else [value.decode("latin-1")]
            else:
                values = [cookies[parameter.name]] if parameter.name in cookies else []
            found += _checked(parameter, parameter.of_text(values))
        if not self.settings.unknown_query:
            known = operation.query_names
            found += [
                _violation("query", name, "the API has no such parameter")
                for name in dict.fromkeys(name for name, _ in query)
                if name not in known and name.partition("[")[0] not in operation.query_objects
            ]
        return found

    async def _content(
        self, request: Request, body: Body, operation: Operation, violations: list[Violation]
    ) -> Response | None:
        kind = (request.headers.get(b"content-type") or b"").partition(b";")[0].strip().lower().decode("latin-1")
        content = operation.content(kind)
        if content is None:
            known = ", ".join(operation.contents)
            raise ClientFault(f"the content must be {known}", status=415, reason="media_type_refused")
        reader = reader_of(kind)
        if content.schema is None or reader is None or (reader == "text" and content.is_opaque):
            if not content.is_opaque:
                self._unchecked(kind)
            return _refusal(request, violations)
        limit = self.settings.max_size
        data, request.body = await gathered(body, limit)
        codings = codings_of(request.headers.joined(b"content-encoding"))
        wrong: list[Violation] = []
        if reader == "json":
            read = request_reader(data, codings, limit, self.settings.max_json_values)
        else:
            boundary = request.headers.get(b"content-type") if kind == "multipart/form-data" else None

            def read() -> Any:
                whole = decoded_request(data, codings, limit)
                if reader == "text":
                    return content.of_text(whole)
                fields = urlencoded(whole) if boundary is None else multipart_form(whole, boundary)
                value, found = content.of_form(fields)
                wrong.extend(found)
                return value

        size = len(data or b"")
        found = await violations_of(self.environment, content.schema, read, size, coded=bool(codings))
        violations += [{"in": "body", **violation} for violation in (*wrong, *found)]
        return _refusal(request, violations)

    def _unchecked(self, kind: str) -> None:
        self.environment.count("unchecked")
        if self.settings.unchecked == "deny":
            raise ClientFault(f"content that is {kind} can't be checked", status=415, reason="content_unchecked")


def _checked(parameter: Parameter, value: Any) -> Iterable[Violation]:
    if value is None:
        if parameter.required:
            yield _violation(parameter.place, parameter.name, "it is missing")
        return
    for violation in parameter.schema.violations(value) if parameter.schema is not None else ():
        yield {"in": parameter.place, "name": parameter.name, **violation}


def _violation(place: str, name: str, message: str) -> Violation:
    named = {"name": name} if name else {}
    return {"in": place, **named, "pointer": "", "message": message}


def _refusal(request: Request, violations: list[Violation]) -> Response | None:
    if not violations:
        return None
    places = [":".join(filter(None, (each["in"], each.get("name"), each["pointer"]))) for each in violations]
    request.note("violations", places)
    return problem(request, NotAsDescribed("the request is not as the API describes it"), violations=violations)


def _query(request: Request) -> list[tuple[str, str]]:
    if request.query is None:
        return []
    try:
        return parse_qsl(request.query.decode("latin-1"), keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        raise ClientFault("there are too many parameters in the query", reason="schema_violated") from None


def _cookies(request: Request) -> dict[str, str]:
    """The cookies (RFC 6265 5.4); of two with one name the first, without quotes around a value."""
    found: dict[str, str] = {}
    for line in request.headers.get_all(b"cookie"):
        for part in line.decode("latin-1").split(";"):
            name, equals, value = part.partition("=")
            value = value.strip(" \t")
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            if equals:
                found.setdefault(name.strip(" \t"), value)
    return found
