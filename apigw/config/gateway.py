"""
The sections that are there once: ``[gateway]``, ``[admin]``, ``[health]``, ``[defaults]``.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import Field

from apigw.config.addresses import Endpoint, Networks
from apigw.config.model import Settings
from apigw.config.references import Authentication, PolicyItem
from apigw.config.text import Text, Wrong
from apigw.config.values import (
    Duration,
    Flag,
    Form,
    PathParameters,
    Secret,
    Several,
    StrList,
    Word,
    absolute,
    one_line,
    parse_count,
)


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


def _name_server(text: Text) -> tuple[str, int]:
    written = one_line(text)
    host, colon, port = written.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, port = written, "53"
    try:
        address = str(ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise Wrong("{shown} is not the address of a name server") from None
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise Wrong("{shown} has no port from 1 to 65535")
    return address, int(port)


def _show_name_server(server: tuple[str, int]) -> str:
    host, port = server
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


NameServer = Annotated[
    tuple[str, int],
    Form("address", "an address such as 10.0.0.53 or 127.0.0.1:5353", _name_server, _show_name_server),
]


class GatewaySettings(Settings):
    """The process as a whole."""

    workers: Annotated[
        int | Literal["auto"], Form("count or auto", "a number of processes from 1 to 1024, or auto", _workers)
    ] = Field(1, description="Processes, with one reactor each. `auto` is one a core.")
    state: Annotated[str, Form("memory:", "memory:", _state)] = Field(
        "memory:", description="Where limits, cached answers and revocations are shared: `memory:` is this machine's."
    )
    access_log: Annotated[str, Form("path, - or off", "a path, - for standard output, or off", _access_log)] = Field(
        "-",
        description="Where each request is logged: a path, `-` for standard output (of a daemon: its log file), or"
        " `off`.",
    )
    access_log_format: Literal["json", "combined"] = Field(
        "json", description="`json` is one object a line; `combined` is the format of Apache and nginx."
    )
    trusted_proxies: Networks = Field(
        (),
        description="Whose X-Forwarded-For, X-Forwarded-Proto, Forwarded and X-Request-Id, and whose PROXY protocol,"
        " are believed.",
    )
    trust_unix: Flag = Field(True, description="Whether the peers of UNIX sockets are trusted proxies, too.")
    forwarded_by: Literal["x-forwarded", "forwarded", "both"] = Field(
        "both",
        description="What trusted proxies write: `x-forwarded` (X-Forwarded-For and so on), `forwarded` (RFC 7239) or"
        " `both`. What they don't write is dropped. With `both`, a request in which the two disagree gets 400.",
    )
    path_parameters: PathParameters = Field(
        "match",
        description="Paths with parameters (`/shop;lang=en/cart`): `match` finds the route of the path without them and"
        " sends them on, `refuse` answers 400. `%3B` is no parameter. A route may say otherwise.",
    )
    drain_timeout: Duration = Field(
        30.0, description="How long requests in flight may take when the gateway is stopped; then they are cut off."
    )
    file_timeout: Annotated[Duration, Field(gt=0, le=60)] = Field(
        5.0,
        description="How long reading a file may take: users, keys, certificates, targets, pages, included files. A"
        " file that takes longer, is not a regular file or has more than 16 MiB is an error at start; later the last"
        " good content stays in use. It holds for files that are named below this line.",
    )
    name_servers: Several[NameServer] = Field(
        (),
        description="Name servers that are asked for all names that `/etc/hosts` does not have; without any, those of"
        " `/etc/resolv.conf`. The port is 53 if none is written.",
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
    auth: Authentication | None = Field(None, description="Who may come in where a route has no `auth` of its own.")
