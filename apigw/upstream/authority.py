"""
The authority that a service sees (RFC 9110 7.2): what Host says in requests to a target, and its name in TLS.

    host = target               ; the target's own name or address, the default
    host = client               ; what the client asked for
    host = api.internal         ; always this

It holds for forwarded requests, calls of aggregates and health checks alike. A request that no client made (a check, a
key set) has no client's host: with ``client`` it gets the target's.
"""

from __future__ import annotations

from apigw.config.addresses import CLIENT_HOST, TARGET_HOST
from apigw.upstream.target_spec import TargetSpec

DEFAULT_PORTS = {"http": 80, "https": 443}


def host_field(target: TargetSpec, host: str = TARGET_HOST) -> bytes:
    """
    The Host field of requests to a target; with ``client``, of those that no client made.

    It is the target's name as it is configured, also when discovery found an address by it, with the port unless that
    is the scheme's own. A Unix socket is ``localhost``. Zones of link-local addresses are no one else's business
    (RFC 6874 4), and names are sent in ASCII.
    """
    if host not in {TARGET_HOST, CLIENT_HOST}:
        return host.encode()
    name = target.found_as or target.host
    written = f"[{name.partition('%')[0]}]" if ":" in name else name.encode("idna").decode()
    if target.path is None and target.port != DEFAULT_PORTS[target.scheme]:
        written = f"{written}:{target.port}"
    return written.encode()


def tls_name(target: TargetSpec, host: str = TARGET_HOST) -> str:
    """
    The name that TLS asks for and verifies: a fixed ``host`` less its port, else the target's own.

    A client's host can't be it: connections are kept for all clients.
    """
    if host in {TARGET_HOST, CLIENT_HOST}:
        return target.found_as or target.host
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
