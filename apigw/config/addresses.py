"""
Where to listen, and which networks: text to value.

    endpoint = tcp:8080:interface=127.0.0.1     ; or unix:/run/apigw.sock:mode=660, or systemd:0, or systemd:public
    trusted_proxies = 10.0.0.0/8, 2001:db8::/32

Not here: sockets (``apigw.net``), whom to call (``apigw.upstream``).
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from apigw.config.problems import did_you_mean
from apigw.config.text import Text, Wrong, written
from apigw.config.values import Form, absolute, items, one_line, parse_host, show_several

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORT = re.compile(r"[0-9]{1,5}")
_SYSTEMD = re.compile(r"[A-Za-z0-9_.-]+")
_ELSEWHERE = re.compile(r"(?:(?:http|tcp)://)?(.*?):([0-9]{1,5})/?")
"""An address as other programs write it."""
_LAST_PORT = 65535
_KINDS = ("tcp", "unix", "systemd")


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """
    Where a listener listens.

    :ivar kind: ``tcp``, ``unix`` or ``systemd``.
    :ivar host: of tcp, an IP address; ``0.0.0.0`` and ``::`` are all.
    :ivar port: of tcp; 0 lets the system choose.
    :ivar path: of unix, absolute.
    :ivar mode: of unix, the permissions of the socket's file; the same place with another mode is equal.
    :ivar name: of systemd, the index or the FileDescriptorName= of the socket that was handed over.
    """

    kind: Literal["tcp", "unix", "systemd"]
    host: str = ""
    port: int = 0
    path: Path | None = None
    mode: int = field(default=0o660, compare=False)
    name: str = ""

    def __str__(self) -> str:
        if self.kind == "tcp":
            return f"tcp:{self.port}:interface={self.host}"
        return f"unix:{self.path}:mode={self.mode:o}" if self.kind == "unix" else f"systemd:{self.name}"

    def overlaps(self, other: EndpointAddress) -> bool:
        """Whether a process can't listen on both: they are the same, or one is every interface of that port."""
        if self.kind == other.kind == "tcp":
            hosts = {self.host, other.host}
            if not self.port or self.port != other.port:
                return False
            # A socket on :: takes IPv4 too.
            both_kinds = len({":" in host for host in hosts}) == 2
            return len(hosts) == 1 or "::" in hosts or ("0.0.0.0" in hosts and not both_kinds)  # noqa: S104
        return self == other


def parse_endpoint(text: Text) -> EndpointAddress:
    """``tcp:PORT[:interface=ADDRESS]``, ``unix:PATH[:mode=660]``, ``systemd:INDEX`` or ``systemd:NAME``."""
    one_line(text)
    kind, colon, rest = text.partition(":")
    if colon and kind == "tcp" and not rest.startswith("//"):
        return _tcp(rest)
    if colon and kind == "unix" and rest:
        return _unix(text)
    if colon and kind == "systemd" and _SYSTEMD.fullmatch(rest):
        return EndpointAddress("systemd", name=rest)
    raise Wrong("{shown} is not an endpoint", hint=_meant(text))


def _meant(text: Text) -> str:
    if text.secret:
        return ""
    if _PORT.fullmatch(text):
        return f"did you mean tcp:{text}?"
    kind = text.partition(":")[0]
    if found := _ELSEWHERE.fullmatch(text):
        host = {"*": "", "localhost": "127.0.0.1"}.get(found[1], found[1]).removeprefix("[").removesuffix("]")
        with contextlib.suppress(ValueError):
            interface = f":interface={ipaddress.ip_address(host)}" if host else ""
            return f"did you mean tcp:{found[2]}{interface}?"
    return did_you_mean(kind, _KINDS) if kind not in _KINDS else ""


def _tcp(rest: str) -> EndpointAddress:
    number, colon, option = rest.partition(":")
    if not _PORT.fullmatch(number) or int(number) > _LAST_PORT:
        raise Wrong("{shown} has no port from 0 to 65535")
    host = "0.0.0.0"  # noqa: S104  what twisted's tcp: endpoints do without an interface
    if colon:
        name, equals, value = option.partition("=")
        if name != "interface" or not equals:
            raise Wrong("{shown} has something other than interface= behind its port")
        try:
            host = str(ipaddress.ip_address(value.replace("\\:", ":").removeprefix("[").removesuffix("]")))
        except ValueError:
            hint = "did you mean 127.0.0.1?" if value == "localhost" else ""
            raise Wrong("the interface in {shown} is not an IP address", hint=hint) from None
    return EndpointAddress("tcp", host=host, port=int(number))


def _unix(text: Text) -> EndpointAddress:
    path, marker, mode = text.removeprefix("unix:").rpartition(":mode=")
    if re.search(r":[a-z_]+=", path or mode):
        raise Wrong("{shown} has something other than mode= behind its path")
    if not marker:
        return EndpointAddress("unix", path=absolute(text.part(len("unix:"))))
    if not re.fullmatch(r"0?[0-7]{3}", mode):
        raise Wrong("the mode in {shown} is not three octal digits")
    start = len("unix:")
    return EndpointAddress("unix", path=absolute(text.part(start, start + len(path))), mode=int(mode, 8))


def parse_network(text: Text) -> Network:
    """
    One address or network in CIDR form; bits behind the prefix must be 0. IPv4 in IPv6 form (``::ffff:192.0.2.0/120``)
    is IPv4, as it is in clients' addresses.
    """
    value = one_line(text)
    try:
        network = ipaddress.ip_network(value)
        if network.version == 6 and network.prefixlen >= 96 and (mapped := network.network_address.ipv4_mapped):
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
        return network
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise Wrong("{shown} is not a network", at=text) from None
    hint = "" if text.secret else f"did you mean {meant}, or {value.partition('/')[0]} alone?"
    raise Wrong("{shown} has bits set behind its prefix", hint=hint, at=text)


TARGET_HOST = "target"
CLIENT_HOST = "client"


def parse_authority(text: Text) -> str:
    """``NAME``, ``NAME:PORT``, ``[IPv6]:PORT``, in lower case and ASCII."""
    value = one_line(text)
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([0-9]{1,5}))?", value)
    if found is None or (found[2] and not 0 < int(found[2]) < 65536):
        hint = "write the host without http:// and path" if "//" in value else ""
        raise Wrong("{shown} is not a host", hint=hint)
    host = parse_host(written(found[1]))
    if host.startswith("*") or (host.startswith("[") and not _is_ipv6(host[1:-1])):
        raise Wrong("{shown} is not a host")
    return host + f":{found[2]}" * bool(found[2])


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


Authority = Annotated[str, Form("host", "a host such as api.internal or api.internal:8443", parse_authority)]
HostChoice = Annotated[
    str, Form("target, client or host", "target, client, or a host such as api.internal:8443", parse_authority)
]

Endpoint = Annotated[
    EndpointAddress,
    Form("endpoint", "tcp:PORT:interface=ADDRESS, unix:PATH:mode=660, systemd:INDEX or systemd:NAME", parse_endpoint),
]
Networks = Annotated[
    tuple[Annotated[Network, Form("network", "a network such as 10.0.0.0/8 or 2001:db8::/32", parse_network)], ...],
    Form("networks", "networks such as 10.0.0.0/8, 2001:db8::/32", items, show_several),
]
"""Networks in CIDR form; a single address is a network of one."""
