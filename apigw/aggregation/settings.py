"""
``[aggregate NAME]`` and ``[batch NAME]``.

Not here: whether names in templates and expressions mean anything, and in what order calls run (``plan``).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import Field, model_validator

from apigw.aggregation.expressions import Expression
from apigw.aggregation.templates import BodyTemplate, HeaderTemplate, PathTemplate
from apigw.config.model import Settings
from apigw.config.problems import closest
from apigw.config.references import Authentication, PolicyItem, refer
from apigw.config.route import parse_integer
from apigw.config.text import Text, Wrong
from apigw.config.values import (
    Count,
    Duration,
    Flag,
    Form,
    HeaderName,
    Host,
    Json,
    Method,
    PythonObject,
    Several,
    Size,
    StatusSet,
    Word,
    one_line,
    pairs,
    parse_header_name,
    parse_method,
    parse_statuses,
    show_pairs,
    show_statuses,
)
from apigw.json_text import MOST_VALUES

T = TypeVar("T")
SUCCESS = frozenset(range(200, 300))
ERRORS = frozenset(range(400, 600))
PASSED = frozenset((404, 409, 410, 422, 429, 503))
"""Statuses that tell the client something that it can act on: not found, conflict, wait."""
RESERVED = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "te", "upgrade", "keep-alive", "expect")
)
"""Fields that are the connection's own."""
OF_CALLS = RESERVED | {"accept", "accept-encoding", "content-type", "content-encoding"}
"""Fields that each call has its own of, so that those of the client can't take their place."""
OF_ANSWERS = RESERVED | {
    *("content-type", "content-encoding", "content-range", "etag", "last-modified", "age", "date", "cache-control"),
    *("set-cookie", "server-timing", "vary", "apigw-completed", "apigw-missing"),
}
"""Fields that are about one answer alone, or that are made of those of all answers."""


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")


class CallLine(NamedTuple):
    """``UPSTREAM METHOD PATH``."""

    upstream: str
    method: str
    path: PathTemplate

    def __str__(self) -> str:
        return f"{self.upstream} {self.method} {self.path}"


def _made(make: Callable[[str], T], text: str) -> T:
    try:
        return make(text)
    except ValueError as error:
        # Words of the library may hold braces; only {shown} is to be filled in.
        raise Wrong("{shown}: " + str(error)) from None


def _call_line(text: Text) -> CallLine:
    one_line(text)
    words = text.split(None, 2)
    if len(words) != 3:
        raise Wrong("{shown} is no call")
    upstream, method, path = words
    name = refer(text.part(0, len(upstream)), "upstream")
    at = text.find(method, len(upstream))
    return CallLine(name, _method(text.part(at, at + len(method))), _made(PathTemplate, path))


def _method(text: Text) -> str:
    method = parse_method(text)
    if method in {"CONNECT", "TRACE"}:
        raise Wrong("{shown} can't be asked of a service", at=text)
    meant = "" if method in _METHODS else closest(method, _METHODS)
    if meant:  # others are methods as well, but hardly GTE
        raise Wrong("there is no method {shown}", hint=f"did you mean {meant}?", at=text)
    return method


def _expression(text: Text) -> Expression:
    if not text:
        raise Wrong("there is no value")
    return _made(Expression, text.raw)


def _headers(text: Text) -> dict[str, HeaderTemplate]:
    found = {}
    for name, value in pairs(text).items():
        parse_header_name(name)
        if name.lower() in RESERVED:
            raise Wrong(f"{name.shown} is the connection's own", at=name)
        found[str(name)] = _made(HeaderTemplate, value)
    return found


def _body(text: Text) -> BodyTemplate:
    if not text:
        raise Wrong("there is no value")
    return _made(BodyTemplate, text.raw)


def _status(text: Text) -> int:
    if text not in {"200", "206"}:
        raise Wrong("{shown} is neither 200 nor 206")
    return int(text)


def _passed(text: Text) -> frozenset[int]:
    if text == "none":
        return frozenset()
    found = parse_statuses(text)
    if wrong := sorted(found - ERRORS):
        raise Wrong(f"{wrong[0]} is not the status of an error", "400-599, or none")
    return found


Calling = Annotated[CallLine, Form("call", "UPSTREAM METHOD PATH, such as users GET /users/{jwt.sub}", _call_line)]
Query = Annotated[Expression, Form("JMESPath", "a JMESPath expression", _expression)]
Templates = Annotated[
    dict[str, HeaderTemplate],
    Form("name: template list", "fields such as X-Tenant: {jwt.tenant}", _headers, show_pairs),
]
Content = Annotated[BodyTemplate, Form("JSON or form", 'content such as {"user": {jwt.sub}} or a={query.a}', _body)]


class UndoSettings(Settings):
    """What takes a call back that was done, when a later one fails."""

    own_option: ClassVar[str] = "request"
    request: Calling = Field(description="The request that undoes the call of this name. It may refer to its answer.")
    headers: Templates = Field({}, description="Fields of that request.")
    body: Content | None = Field(None, description="Content of that request.")
    expect: StatusSet = Field(SUCCESS, description="Statuses that mean that it was undone.")


class CallSettings(Settings):
    """One of the requests that make up the answer."""

    own_option: ClassVar[str] = "request"
    request: Calling = Field(
        description="What is asked for. It starts as soon as the calls are answered that it refers to; several that"
        " write (neither GET, HEAD, OPTIONS nor QUERY) run one after the other, as written."
    )
    optional: Flag = Field(False, description="The answer may do without it.")
    default: Json = Field(None, description="What takes its place when it failed, or was not made because of `when`.")
    timeout: Annotated[Duration, Field(gt=0)] | None = Field(
        None, description="How long it may take, whole answer included."
    )
    headers: Templates = Field({}, description="Fields of the request, beside `forward_headers`.")
    body: Content | None = Field(
        None,
        description="Content of the request. In JSON `{X}` stands for the value with its type, and for its text within"
        " quotes.",
    )
    when: Query | None = Field(None, description="Make the call only if this is true of the answers and the request.")
    foreach: Query | None = Field(
        None, description="Make the call for each item that this finds; `{item}` is the item. The answer is a list."
    )
    concurrency: Annotated[Count, Field(ge=1, le=256)] = Field(
        8, description="How many calls of a `foreach` run at once."
    )
    select: Query | None = Field(None, description="Take this out of the answer, and forget the rest.")
    expect: StatusSet = Field(SUCCESS, description="Statuses that are answers; all others are failures.")
    pass_statuses: Annotated[
        frozenset[int], Form("statuses or none", "statuses such as 404, 429, 500-599, or none", _passed, show_statuses)
    ] = Field(
        PASSED,
        description="Statuses of the service that the client gets, too, if the call is required: in a problem document,"
        " with the service's `Retry-After`. All others that `expect` does not have become 502.",
    )
    cache: Annotated[Duration, Field(gt=0)] | None = Field(
        None, description="Keep the answer for this long, for requests that are the same to the byte."
    )
    answer: Literal["json", "text"] = Field("json", description="What the service answers. `text` becomes a string.")


_OF_CALLS = (
    *("call", "undo", "response", "merge", "stream", "forward_headers", "pass_headers"),
    *("partial_status", "server_timing", "max_answers", "max_calls", "max_depth", "max_json_values"),
)
"""Options that say how calls are made and what becomes of them."""


class AggregateSettings(Settings):
    """One request for the client, several for the services."""

    path: Word = Field(description="As in a route.")
    hosts: Several[Host] = Field((), description="As in a route.")
    methods: Several[Method] = Field(("GET",), description="As in a route.")
    header: dict[str, str] = Field({}, description="As in a route.")
    query: dict[str, str] = Field({}, description="As in a route.")
    priority: Annotated[int, Form("whole number", "a whole number, also below 0", parse_integer)] = Field(
        0, description="As in a route."
    )
    policies: Several[PolicyItem] = Field((), description="As in a route.")
    auth: Authentication | None = Field(None, description="As in a route.")
    allow_encoded_slashes: Flag = Field(False, description="As in a route.")
    timeout: Annotated[Duration, Field(gt=0)] = Field(10.0, description="For all calls together.")
    call: dict[str, CallSettings] = Field({}, description="The calls.")
    undo: dict[str, UndoSettings] = Field({}, description="What takes calls back.")
    response: Query | None = Field(None, description="The answer, made of the calls' answers by their names.")
    merge: Literal["namespace", "shallow", "deep", "concat"] | None = Field(
        None,
        description="Without `response`: `namespace` is an object with a member a call (what holds if nothing is said),"
        " `shallow` puts the members of all answers into one object, `deep` does so with objects within them, too,"
        " `concat` is a list with the items of all answers.",
    )
    clash: Literal["last", "first", "error"] = Field(
        "last",
        description="Which call's member stays where `shallow` and `deep` find two of one name, in written order.",
    )
    partial_status: Annotated[int, Form("200 or 206", "200 or 206", _status)] = Field(
        200, description="The status of an answer with calls missing."
    )
    stream: Literal["ndjson", "sse"] | None = Field(
        None, description="Send each call's answer as it arrives: a line of JSON each, or an event each."
    )
    forward_headers: Several[HeaderName] = Field((), description="Fields of the client's request that each call gets.")
    pass_headers: Several[HeaderName] = Field(
        (), description="Fields of the services' answers that the client gets; of several calls' the first, as written."
    )
    server_timing: Flag = Field(True, description="Say in Server-Timing how long each call took.")
    max_body: Size = Field(1 << 20, description="Bytes of the client's content. Then: 413.")
    max_answer: Size = Field(1 << 20, description="Bytes of one call's answer.")
    max_answers: Size = Field(8 << 20, description="Bytes of all answers together.")
    max_calls: Annotated[Count, Field(ge=1, le=10000)] = Field(
        50, description="Requests to services, those of `foreach` included."
    )
    max_depth: Annotated[Count, Field(ge=1, le=256)] = Field(
        64, description="How deep arrays and objects may be nested, in answers and in the client's content."
    )
    max_json_values: Annotated[Count, Field(ge=1, le=1_000_000)] = Field(
        MOST_VALUES, description="Names and values that one answer, or the client's content, may have."
    )
    class_: PythonObject | None = Field(
        None,
        alias="class",
        description="An `async def` instead of calls: it gets the request and a client, and returns what becomes JSON.",
    )

    @model_validator(mode="after")
    def _does_something(self) -> AggregateSettings:
        if self.class_ is None and not self.call:
            raise Wrong("nothing is called", "call.NAME = UPSTREAM METHOD PATH, or class = package.module:Name")
        if self.class_ is not None:
            for option in _OF_CALLS:
                if option in self.model_fields_set:
                    raise Wrong(f"`class` does all by itself, so {option} does nothing", "one of them", option="class")
            if not callable(self.class_):
                raise Wrong("{shown} is nothing that can be called", option="class")
            if not _takes_two(self.class_):
                raise Wrong("{shown} does not take two arguments", "def page(request, client)", option="class")
        if self.response is not None and self.merge is not None:
            raise Wrong("`response` makes the answer, so merge does nothing", "one of them", option="merge")
        if self.stream is not None:
            for option in ("response", "merge", "pass_headers", "partial_status", "server_timing"):
                if option in self.model_fields_set:
                    raise Wrong(f"a stream has each call's answer by itself, so {option} does nothing", option=option)
        if "clash" in self.model_fields_set and self.merge not in {"shallow", "deep"}:
            raise Wrong("only merge = shallow and merge = deep have clashes", option="clash")
        return self


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # one of those in C that don't say
        pass
    return True


class BatchSettings(Settings):
    """An array of requests in one; each goes the way of a request of its own."""

    path: Word = Field(description="As in a route.")
    hosts: Several[Host] = Field((), description="As in a route.")
    methods: Several[Method] = Field(("POST",), description="As in a route.")
    priority: Annotated[int, Form("whole number", "a whole number, also below 0", parse_integer)] = Field(
        0, description="As in a route."
    )
    policies: Several[PolicyItem] = Field(
        (), description="As in a route; those of each request's own route come after."
    )
    auth: Authentication | None = Field(None, description="As in a route.")
    timeout: Annotated[Duration, Field(gt=0)] = Field(30.0, description="For all requests together.")
    max_requests: Annotated[Count, Field(ge=1, le=1000)] = Field(20, description="Requests in one batch. Then: 413.")
    concurrency: Annotated[Count, Field(ge=1, le=256)] = Field(8, description="How many of them run at once.")
    max_body: Size = Field(1 << 20, description="Bytes of the batch. Then: 413.")
    max_answer: Size = Field(1 << 20, description="Bytes of one answer.")
    max_answers: Size = Field(8 << 20, description="Bytes of all answers together.")
    max_depth: Annotated[Count, Field(ge=1, le=256)] = Field(
        64, description="How deep arrays and objects may be nested, in the batch and in answers."
    )
    max_json_values: Annotated[Count, Field(ge=1, le=1_000_000)] = Field(
        MOST_VALUES, description="Names and values that the batch, or one answer, may have."
    )


NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""What a call may be called: a name in JMESPath without quotes, and a token in Server-Timing."""
