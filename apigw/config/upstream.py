"""
``[upstream NAME]``: connections to the servers that do the work.

Not here: balancing, health, breaker, retries and discovery, whose settings stand beside them (``apigw.upstream``) and
are joined with these by the gateway.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apigw.config.addresses import TARGET_HOST, HostChoice
from apigw.config.listen import CertificateSource
from apigw.config.model import Settings
from apigw.config.values import Count, Duration, FilePath, Flag, Host, Several, Word


class PoolSettings(Settings):
    """Kept connections; the numbers are for each target."""

    max_connections: Count = Field(0, description="Connections at a time; 0: no limit. Then requests queue.")
    max_idle: Count = Field(1024, description="Idle connections that are kept.")
    idle_timeout: Duration = Field(60.0, gt=0, description="How long an idle connection is kept.")
    max_age: Duration = Field(
        0.0,
        description="How old a connection may become: then it is closed, when its exchange has ended. 0s: no limit.",
    )
    max_requests_per_connection: Count = Field(
        0, description="Requests that are sent on one connection; then it is closed. 0: no limit."
    )
    queue: Count = Field(1024, description="Requests that may wait for a connection. Then: 503.")
    queue_timeout: Duration = Field(5.0, gt=0, description="How long a request may wait. Then: 503.")


class UpstreamTimeouts(Settings):
    """How long a server may take."""

    connect: Duration = Field(3.0, gt=0, description="For name, connection and TLS handshake together. Then: 504.")
    response: Duration = Field(60.0, gt=0, description="Until the response's head. Then: 504.")
    idle: Duration = Field(60.0, gt=0, description="Between two pieces of a body. Then the transfer is aborted.")


class UpstreamTLS(Settings):
    """TLS towards `https://` targets. Certificate and name are always verified."""

    ca: FilePath | None = Field(
        None, description="PEM file of the authorities that are trusted, instead of the system's."
    )
    certificate: CertificateSource | None = Field(
        None, description="Our own certificate for the server: a PEM file with chain and key, or `cert.pem key.pem`."
    )
    server_name: Host | None = Field(
        None, description="The name that is asked for and verified. Without it: `host`, or the target's name."
    )


class ConnectionSettings(Settings):
    """What an upstream's section says about connections."""

    pool: PoolSettings = PoolSettings()
    timeout: UpstreamTimeouts = UpstreamTimeouts()
    tls: UpstreamTLS = UpstreamTLS()
    host: HostChoice = Field(
        TARGET_HOST,
        description="What Host says: the `target`'s own name and port, the `client`'s, or this. In TLS, a host that"
        " stands here is asked for and verified too. `preserve_host` of a route is `client`.",
    )
    lenient: Flag = Field(
        False,
        description="Take what some old services send: line ends of LF alone, chunk sizes with blanks, and"
        " Content-Length repeated with the same value. Clients get the strict form.",
    )
    resolve: Literal["any", "ipv4", "ipv6"] = Field(
        "any", description="Which addresses of a name are used, of fixed targets and of `dns:` and `srv:`."
    )


class UpstreamSettings(ConnectionSettings):
    """Servers that do the work."""

    targets: Several[Word] = Field(min_length=1, description="URLs of the servers.")
