"""
``[route NAME]`` and ``[resource NAME]``: which requests, which policies, and where to.

Not here: whether patterns of paths and conditions are well formed, and which route wins (``apigw.routing`` checks both
at load).
"""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from apigw.config.model import NOTHING, Settings
from apigw.config.references import Authentication, PolicyItem, UpstreamName
from apigw.config.regex import NotSupported, Regex
from apigw.config.text import Text, Wrong
from apigw.config.values import (
    DurationOrOff,
    Flag,
    Form,
    Host,
    Method,
    PathParameters,
    PythonObject,
    Several,
    Size,
    SizeOrOff,
    Word,
    matched,
    one_line,
    pairs,
    show_pairs,
)


class Rewrite(NamedTuple):
    """``REGEX -> TEMPLATE``."""

    regex: str
    template: str


class Redirect(NamedTuple):
    """``308 https://…``."""

    status: int
    location: str


class Respond(NamedTuple):
    """``503 text``."""

    status: int
    text: str


_REWRITE = re.compile(r"(.+?)[ \t]+->[ \t]+(.+)")
_REDIRECT = re.compile(r"(301|302|303|307|308)[ \t]+(\S+)")
_RESPOND = re.compile(r"([2-5][0-9][0-9])(?:[ \t\n]+(.*))?", re.DOTALL)
_INTEGER = re.compile(r"-?[0-9]{1,9}")
_DOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_COOKIE_PATH = re.compile(r"/[!-:<-~]*")
_PREFIX = re.compile(r"/[^\s?#]*")


def parse_rewrite(text: Text) -> Rewrite:
    """``REGEX -> TEMPLATE``, with white space around the arrow."""
    found = matched(_REWRITE, text, "a rewrite")
    try:
        Regex(found[1])
    except NotSupported as error:
        raise Wrong("the regular expression of {shown} " + error.what) from None
    return Rewrite(found[1], found[2])


def parse_redirect(text: Text) -> Redirect:
    """``308 LOCATION``; templates may stand in the location."""
    found = _REDIRECT.fullmatch(one_line(text))
    if found is None:
        hint = f"did you mean 308 {text}?" if re.match(r"https?://|/", text) and not text.secret else ""
        raise Wrong("{shown} is not a redirect", hint=hint)
    if not found[2].isascii():
        raise Wrong("{shown} has a location that is not ASCII", hint="percent-encode it")
    return Redirect(int(found[1]), found[2])


def parse_respond(text: Text) -> Respond:
    """``503`` or ``503 text``; the text may go on over further lines."""
    found = _RESPOND.fullmatch(text)
    if found is None:
        raise Wrong("{shown} is not a response")
    return Respond(int(found[1]), found[2] or "")


def parse_integer(text: Text) -> int:
    """A whole number, below 0 too."""
    return int(matched(_INTEGER, text, "a whole number")[0])


def parse_prefix(text: Text) -> str:
    """A path that other paths begin with; a slash at its end says nothing more."""
    value = matched(_PREFIX, text, "a path")[0]
    return value.rstrip("/") if value != "/" else value


def parse_cookie_domains(text: Text) -> dict[str, str]:
    """``theirs: ours`` items of domains, which come out in lower case and without a dot in front."""
    found = {}
    for old, new in pairs(text).items():
        domain, ours = (each.lower().removeprefix(".") for each in (old, new))
        if not (domain == "*" or _DOMAIN.fullmatch(domain)) or not (ours == "" or _DOMAIN.fullmatch(ours)):
            raise Wrong(f"`{old.shown}: {new.shown}` does not name domains", at=old)
        found[domain] = ours
    return found


def parse_cookie_paths(text: Text) -> dict[str, str]:
    """``theirs: ours`` items of paths."""
    found = {}
    for old, new in pairs(text).items():
        if not (old == "*" or _COOKIE_PATH.fullmatch(old)) or not (new == "" or _COOKIE_PATH.fullmatch(new)):
            raise Wrong(f"`{old.shown}: {new.shown}` does not name paths", at=old)
        found[str(old)] = str(new)
    return found


def parse_pattern(text: Text) -> str:
    """A pattern of paths; what it means is for ``apigw.routing`` to say."""
    value = one_line(text)
    if re.search(r",[ \t]+[/=~]", value) and not value.startswith("~"):
        raise Wrong("{shown} is more than one path", hint="a regular expression can be several: ~^/(this|that)(/|$)")
    return value


Prefix = Annotated[str, Form("path", "a path such as /api", parse_prefix)]
Pattern = Annotated[str, Form("path pattern", "/prefix, =/exact, /template/{id} or ~REGEX", parse_pattern)]
_FORWARDING = (
    "strip_prefix",
    "add_prefix",
    "rewrite",
    "preserve_host",
    "rewrite_location",
    "rewrite_cookie_domain",
    "rewrite_cookie_path",
)
_PATH = "A prefix, cut at a segment's end: `/x`; exact: `=/x`; a template: `/x/{id}`; a regular expression: `~REGEX`."


class RouteTimeouts(Settings):
    """How long an exchange may take."""

    total: DurationOrOff = Field(
        None,
        gt=0,
        description="From the request's head to the response's end, all tries included. Then: 504, or cut off.",
    )


class RouteSettings(Settings):
    """Which requests go where. One of `upstream`, `redirect` and `respond` says where."""

    path: Pattern = Field(description=_PATH)
    hosts: Several[Host] = Field((), description="Hosts, exact or `*.x`; none: any.")
    methods: Several[Method] = Field((), description="Methods; GET takes HEAD too. None: any.")
    header: dict[str, str] = Field(NOTHING, description="What the header of this name must say.")
    query: dict[str, str] = Field(NOTHING, description="What the parameter of this name must say.")
    priority: Annotated[int, Form("whole number", "a whole number, also below 0", parse_integer)] = Field(
        0, description="Of routes that match the same request, the one with the highest is chosen."
    )
    policies: Several[PolicyItem] = Field(
        (),
        description="Policies, in the order in which they run, after those of `[defaults]`: `KIND NAME` or `KIND`;"
        " `-NAME` takes a default out.",
    )
    auth: Authentication | None = Field(
        None,
        description="Who may come in: one policy, or any of several, as in `jwt main | api_key partners`; `none` for"
        " anybody, whatever `[defaults]` says. It runs behind `cors`, before the other policies.",
    )
    upstream: UpstreamName | None = Field(None, description="Who does the work.")
    redirect: (
        Annotated[
            Redirect,
            Form("status and location", "308 https://host/path, with 301, 302, 303, 307 or 308", parse_redirect),
        ]
        | None
    ) = Field(
        None,
        description="Answer with this redirect. A URL without a path keeps the path and query that were asked for.",
    )
    respond: (
        Annotated[
            Respond,
            Form("status and text", "a status from 200 to 599 and a text, such as 503 back soon", parse_respond),
        ]
        | None
    ) = Field(None, description="Answer with this status and text.")
    strip_prefix: Prefix | None = Field(None, description="Cut this off the path that is sent on.")
    add_prefix: Prefix | None = Field(None, description="Put this in front of the path that is sent on.")
    rewrite: (
        Annotated[Rewrite, Form("regex -> template", r"REGEX -> TEMPLATE such as ^/old/(.*) -> /new/\1", parse_rewrite)]
        | None
    ) = Field(None, description="Make the path that is sent on from the one that came.")
    preserve_host: Flag = Field(False, description="Send the client's Host on, instead of the target's.")
    rewrite_location: Flag = Field(
        True, description="Turn a Location that names the target into one that names the gateway."
    )
    rewrite_cookie_domain: Annotated[
        dict[str, str],
        Form("theirs: ours list", "domains such as users.internal: shop.example", parse_cookie_domains, show_pairs),
    ] = Field(
        NOTHING,
        description="Domains of cookies that services set, as `theirs: ours`; `*` is any; nothing takes it out.",
    )
    rewrite_cookie_path: Annotated[
        dict[str, str], Form("theirs: ours list", "paths such as /v1: /api/v1", parse_cookie_paths, show_pairs)
    ] = Field(
        NOTHING, description="Paths of cookies that services set, as `theirs: ours`; `*` is any; nothing takes it out."
    )
    timeout: RouteTimeouts = RouteTimeouts()
    max_body: SizeOrOff = Field(
        None, description="Bytes of a request's body, where the listener's `max_body` allows more. Then: 413."
    )
    min_rate: Size | None = Field(
        None,
        description="Bytes a second at which a request's body must come, instead of the listener's `min_rate`; `0` for"
        " bodies that are expected to come slowly.",
    )
    allow_encoded_slashes: Flag = Field(
        False, description="Take `%2F` in a path, as part of a segment. Otherwise: 400."
    )
    path_parameters: PathParameters | None = Field(
        None,
        description="Paths with parameters (`;x=1`): `match` takes and sends them on, `refuse` answers 400. Without it:"
        " as `[gateway] path_parameters`.",
    )

    @model_validator(mode="after")
    def _goes_somewhere(self) -> RouteSettings:
        all_answers = (("upstream", self.upstream), ("redirect", self.redirect), ("respond", self.respond))
        answers = [name for name, value in all_answers if value is not None]
        if not answers:
            raise Wrong("the route goes nowhere", "one of upstream, redirect and respond")
        if len(answers) > 1:
            raise Wrong(f"the route has {' and '.join(answers)}", "one of them", option=answers[1])
        if self.upstream is None and (forwarding := [name for name in _FORWARDING if name in self.model_fields_set]):
            wrong = f"nothing is sent on where a route has {answers[0]}"
            raise Wrong(wrong, f"no {forwarding[0]}", option=forwarding[0])
        if self.rewrite is not None and (self.strip_prefix is not None or self.add_prefix is not None):
            other = "add_prefix" if self.strip_prefix is None else "strip_prefix"
            raise Wrong(f"rewrite already makes the whole path, so {other} does nothing", "one of them", option=other)
        return self


class ResourceSettings(Settings):
    """A resource of twisted.web beside the routes."""

    path: Word = Field(pattern="^/", description="The path that it and all below it answer.")
    class_: PythonObject = Field(
        alias="class", description="What is called without arguments and gives a twisted.web IResource."
    )
    policies: Several[PolicyItem] = Field((), description="As in a route.")
    auth: Authentication | None = Field(None, description="As in a route.")
