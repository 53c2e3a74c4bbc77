"""
The sections that are there once: ``[gateway]``, ``[admin]``, ``[health]``, ``[defaults]``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from apigw.config.addresses import Endpoint, Networks
from apigw.config.model import Settings
from apigw.config.references import PolicyItem
from apigw.config.text import Text, Wrong
from apigw.config.values import Duration, Form, Secret, Several, StrList, Word, absolute, one_line, parse_count


def _workers(text: Text) -> int | str:
    if text == "auto":
        return "auto"
    count = parse_count(text)
    if not 1 <= count <= 1024:
        raise Wrong("{shown} is out of range")
    return count


def _access_log(text: Text) -> str:
    return str(text) if text in {"-", "off"} else str(absolute(text))


def _state(text: Text) -> str:
    if one_line(text) != "memory:":
        raise Wrong("{shown} is no place for state")
    return str(text)


class GatewaySettings(Settings):
    """The process as a whole."""

    workers: Annotated[
        int | Literal["auto"], Form("count or auto", "a number of processes from 1 to 1024, or auto", _workers)
    ] = Field(1, description="Processes, with one reactor each. `auto` is one a core.")
    state: Annotated[str, Form("memory:", "memory:", _state)] = Field(
        "memory:", description="Where limits, cached answers and revocations are shared: `memory:` is this machine's."
    )
    access_log: Annotated[str, Form("path, - or off", "a path, - for standard output, or off", _access_log)] = Field(
        "-", description="Where each request is logged: a path, `-` for standard output, or `off`."
    )
    access_log_format: Literal["json", "combined"] = Field(
        "json", description="`json` is one object a line; `combined` is the format of Apache and nginx."
    )
    trusted_proxies: Networks = Field(
        (),
        description="Whose X-Forwarded-For, X-Forwarded-Proto, Forwarded and X-Request-Id, and whose PROXY protocol,"
        " are believed.",
    )
    drain_timeout: Duration = Field(
        30.0, description="How long requests in flight may take when the gateway is stopped; then they are cut off."
    )
    include: StrList = Field(
        (),
        description="More files to read, such as `routes/*.ini`, relative to this one. They must hold other sections"
        " than this file; of `[gateway]` they may have an `include` alone.",
    )


class AdminSettings(Settings):
    """The listener for metrics and for looking into the gateway. Without this section there is none."""

    endpoint: Endpoint = Field(description="Where to listen.")
    token: Secret = Field(
        Secret(""), description="What `Authorization: Bearer` must say. Empty: only from loopback, and only reads."
    )


class HealthSettings(Settings):
    """Is everything well? 200 with each upstream's state while all are healthy, else 503."""

    path: Word = Field("/health", pattern="^/", description="The path that answers; `/live` and `/ready` lie below it.")


class DefaultsSettings(Settings):
    """What holds for every route unless it says otherwise."""

    policies: Several[PolicyItem] = Field(
        (), description="Policies that run before those of each route. A route takes one out by `-NAME`."
    )
