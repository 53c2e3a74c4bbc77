"""
Checks JSON content against schemas.

    [json_schema orders]
    request = schemas/order.json
    response = schemas/order-created.json
    max_size = 256KiB

A request that is not as its schema asks gets 400 with ``violations``: where (a JSON pointer) and what. A response that
is not gets 502, and the log says why. Schemas are JSON or YAML files of any draft from 4 to 2020-12. They may refer to
other files beside them (``$ref = "address.json#/$defs/zip"``), but nothing is fetched.

Not here: schemas that an OpenAPI document has (``openapi``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from apigw.config.text import Wrong
from apigw.config.values import FilePath, Method, Several, Size, StatusSet
from apigw.exchange.body import Body
from apigw.exchange.errors import BodyTooLarge, ClientFault
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.json_text import MOST_VALUES, InvalidJSON
from apigw.policies.body_limit import ResponseTooLarge
from apigw.policies.codings import CodingError, codings_of, decoded, refusal_of
from apigw.policies.gathered import gathered
from apigw.policies.json_bodies import (
    MostValues,
    NotAsDescribed,
    ResponseNotAsDescribed,
    Schema,
    Violation,
    is_json,
    json_fault,
    read_judged,
    read_schema,
    violations_of,
)
from apigw.policies.policy import Environment, Policy, PolicySettings


class Settings(PolicySettings):
    """JSON content is checked against schemas."""

    request: FilePath | None = None
    """The schema of requests."""
    response: FilePath | None = None
    """The schema of responses."""
    methods: Several[Method] = ("POST", "PUT", "PATCH")
    """The methods whose requests must have content as the schema asks."""
    statuses: StatusSet = Field(frozenset(range(200, 300)))
    """The responses that must be as their schema asks."""
    max_size: Annotated[Size, Field(ge=1, le=64 << 20)] = 1 << 20
    """Bytes of content that are looked at; more is refused."""
    max_json_values: MostValues = MOST_VALUES
    """Names and values that the JSON may have; a request with more gets 413."""

    @model_validator(mode="after")
    def _says_something(self) -> Settings:
        if self.request is None and self.response is None:
            raise Wrong("it checks nothing: request or response is needed")
        return self


class JSONSchema(Policy[Settings]):
    """The policy ``json_schema``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self.files: set[Path] = set()
        self._request = read_schema(settings.request, self.files) if settings.request else None
        self._response = read_schema(settings.response, self.files) if settings.response else None
        self._methods = frozenset(method.encode() for method in settings.methods)

    def on_request(self, request: Request) -> Response | Awaitable[Response | None] | None:
        if self._request is None or request.method not in self._methods:
            return None
        if request.body is None:
            raise NotAsDescribed("there is no content, and it must be JSON")
        if not is_json(request.headers.get(b"content-type")):
            raise ClientFault("the content must be JSON", status=415, reason="media_type_refused")
        return self._checked(request, request.body, self._request)

    async def _checked(self, request: Request, body: Body, schema: Schema) -> Response | None:
        data, request.body = await gathered(body, self.settings.max_size)
        codings = codings_of(request.headers.joined(b"content-encoding"))
        settings = self.settings
        read = request_reader(data, codings, settings.max_size, settings.max_json_values)
        size = len(data or b"")
        return refusal(request, await violations_of(self.environment, schema, read, size, coded=bool(codings)))

    def on_response(self, request: Request, response: Response) -> Response | Awaitable[Response]:
        if self._response is None or response.error is not None or response.status not in self.settings.statuses:
            return response
        if request.method == b"HEAD" or response.status in {204, 205, 304}:
            return response
        return self._checked_response(request, response, self._response)

    async def _checked_response(self, request: Request, response: Response, schema: Schema) -> Response:
        limit = self.settings.max_size
        data: bytes | None
        if isinstance(response.body, bytes):
            data = response.body
        else:
            data, response.body = await gathered(response.body, limit)
        if data is None or len(data) > limit:
            raise ResponseTooLarge(f"the service's response has more than the {limit} bytes that are checked")
        whole, codings = data, codings_of(response.headers.joined(b"content-encoding"))

        def read() -> Any:
            return read_judged(decoded(whole, codings, limit), self.settings.max_json_values)

        try:
            violations = await violations_of(self.environment, schema, read, len(data), coded=bool(codings))
        except (InvalidJSON, CodingError) as error:
            violations = [{"pointer": "", "message": str(error)}]
        if violations:
            # Pointers only: the messages quote what the service said.
            request.note("violations", [violation["pointer"] for violation in violations])
            raise ResponseNotAsDescribed("the service's response is not what it should be")
        return response


def decoded_request(data: bytes | None, codings: list[bytes], limit: int) -> bytes:
    """
    The content of a request without its codings.

    :param data: None if it is longer than ``limit``.
    :raises ClientFault: when it is too long, or not decodable.
    """
    if data is None:
        raise BodyTooLarge(f"at most {limit} bytes of content are taken")
    try:
        return decoded(data, codings, limit) if codings else data
    except CodingError as error:
        raise refusal_of(error) from None


def request_reader(data: bytes | None, codings: list[bytes], limit: int, most: int) -> Callable[[], Any]:
    """
    What reads the JSON of a request.

    It raises ClientFault when that is too long, not decodable, or no JSON.
    """

    def read() -> Any:
        try:
            return read_judged(decoded_request(data, codings, limit), most, unique=True)
        except InvalidJSON as error:
            raise json_fault(error) from None

    return read


def refusal(request: Request, violations: list[Violation]) -> Response | None:
    """The answer to a request with these violations; None if there are none."""
    if not violations:
        return None
    request.note("violations", [violation["pointer"] for violation in violations])
    return problem(request, NotAsDescribed("the request is not as it should be"), violations=violations)
