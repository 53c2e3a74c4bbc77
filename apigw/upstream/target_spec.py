"""
What a line of ``targets`` may be: an address (``TargetSpec``), or where addresses are found (``SourceSpec``).

    targets =
        http://127.0.0.1:9102 weight=2
        https://orders.internal:8443/v1 backup=yes
        unix:/run/orders.sock
        dns:orders.internal:9102
        srv:_http._tcp.orders.internal scheme=https
        file:targets.txt

Not here: finding them (``apigw.upstream.discovery``), their life (``target``).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from apigw.config.problems import did_you_mean
from apigw.config.text import Text, Wrong, written
from apigw.config.values import Form, absolute

_PORTS = {"http": 80, "https": 443}
_NAME = b"abcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;="
"""RFC 3986 3.2.2, less percent-encoding."""
_OPTIONS = ("weight", "backup", "scheme")
EXPECTED = (
    "http://HOST:PORT, https://HOST:PORT, unix:/PATH, dns:NAME:PORT, srv:NAME or file:PATH, and weight=N backup=yes"
)


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """
    One target as it was asked for.

    :ivar scheme: ``http`` or ``https``.
    :ivar host: a name or an address; ``localhost`` for a Unix socket. :ivar port: 0 for a Unix socket.
    :ivar path: of a Unix socket, else None.
    :ivar base_path: goes in front of every path sent there; no slash at its end.
    :ivar weight: share of the requests, relative to the others; 0 for none.
    :ivar backup: only asked when no other target is well.
    :ivar found_as: the name that discovery found the address by, for TLS and Host; empty when ``host`` is as written.
    """

    scheme: str
    host: str
    port: int
    path: str | None = None
    base_path: str = ""
    weight: int = 1
    backup: bool = False
    found_as: str = ""

    @property
    def name(self) -> str:
        """The address as it stands in logs and metrics, like ``http://127.0.0.1:9102``."""
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.base_path}"

    def __str__(self) -> str:
        """The line that it would be in the INI file."""
        return self.name + f" weight={self.weight}" * (self.weight != 1) + " backup=yes" * self.backup


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """
    Where targets are found.

    :ivar kind: ``dns``, ``srv``, ``file`` or ``http``.
    :ivar where: a DNS name, an absolute path, or a URL.
    :ivar port: of the targets, for ``dns``.
    :ivar weight: and ``backup``, ``scheme``: what its targets get (a ``srv`` record's weight is multiplied by
        ``weight``).
    """

    kind: str
    where: str
    port: int = 0
    weight: int = 1
    backup: bool = False
    scheme: str = "http"

    def __str__(self) -> str:
        """The line that it would be in the INI file."""
        where = self.where if self.kind == "http" else f"{self.kind}:{self.where}" + f":{self.port}" * bool(self.port)
        return where + f" weight={self.weight}" * (self.weight != 1) + " backup=yes" * self.backup


def parse_target(text: Text) -> TargetSpec | SourceSpec:
    """
    One line of ``targets``.

    :raises Wrong: saying what is wrong with it.
    """
    words = text.split()
    if not words:
        raise Wrong("there is no address")
    address, options = words[0], _options(words[1:])
    kind, _, rest = address.partition(":")
    scheme = options.pop("scheme", None)
    if kind in ("dns", "srv"):
        port = 0
        if kind == "dns":
            rest, _, digits = rest.rpartition(":")
            port = _port(digits)
        if not rest:
            raise Wrong("{shown} names nothing to look up")
        if not _is_name(rest):
            raise Wrong("{shown} has no valid name to look up")
        return SourceSpec(kind, rest, port, scheme=scheme or "http", **options)
    if scheme is not None:
        raise Wrong("scheme= is for dns: and srv:", hint=f"write {scheme}:// in front of the address")
    if kind == "file":
        return SourceSpec("file", str(absolute(text.part(5, len(address)))), **options)
    if kind == "unix":
        path = rest.removeprefix("//")
        if not path.startswith("/"):
            raise Wrong("{shown} has no absolute path", "unix:/run/app.sock")
        return TargetSpec("http", "localhost", 0, path=unquote(path), **options)
    return _from_url(address, options)


def parse_target_line(line: str) -> TargetSpec:
    """
    An address with its options, from a discovery source.

    :raises Wrong: if it isn't one; names of further sources are not followed.
    """
    found = parse_target(written(line))
    if isinstance(found, SourceSpec):
        raise Wrong("{shown} is no address")
    return found


def _from_url(url: str, options: dict[str, Any]) -> TargetSpec:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Wrong("{shown} is not an address") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise Wrong("{shown} is not an address", hint=f"did you mean http://{url}?" if "://" not in url else "")
    if port == 0:
        raise Wrong("{shown} has no port that can be called")
    if parts.query or parts.fragment or parts.username is not None:
        raise Wrong("{shown} has a query, a fragment or a user; a target has none")
    if not _is_name(parts.hostname):
        raise Wrong("{shown} has no valid host")
    return TargetSpec(
        parts.scheme,
        parts.hostname,
        port if port is not None else _PORTS[parts.scheme],
        base_path=parts.path.rstrip("/"),
        **options,
    )


def literal_kind(host: str) -> str:
    """``ipv4`` or ``ipv6`` for an address; empty for a name."""
    try:
        return f"ipv{ip_address(host).version}"
    except ValueError:
        return ""


def _is_name(host: str) -> bool:
    """Whether it can be looked up, or is an address, and can stand in a Host field."""
    if ":" in host:
        return True  # an IPv6 address: urlsplit has seen to it
    try:
        name = host.encode("idna")
    except UnicodeError:
        return False
    return len(name) <= 254 and not name.lower().translate(None, _NAME)


def _port(digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 65536):
        raise Wrong("{shown} has no port from 1 to 65535", "dns:NAME:PORT")
    return int(digits)


def _options(words: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name == "weight" and value.isascii() and value.isdigit() and int(value) <= 65535:
            options["weight"] = int(value)
        elif name == "backup" and value in ("yes", "no"):
            options["backup"] = value == "yes"
        elif name == "scheme" and value in _PORTS:
            options["scheme"] = value
        else:
            raise Wrong(
                f"{word} is no option of a target",
                "weight=0..65535, backup=yes or backup=no, scheme=http or scheme=https",
                "" if name in _OPTIONS else did_you_mean(name, _OPTIONS),
            )
    return options


TargetLine = Annotated[TargetSpec | SourceSpec, Form("target", EXPECTED, parse_target)]


def parse_discover(text: Text) -> SourceSpec:
    """``discover = http://host/targets.json``."""
    spec = _from_url(text.strip(), {})
    if spec.scheme not in _PORTS:
        raise Wrong("{shown} is not a URL")
    return SourceSpec("http", text.strip())


DiscoverURL = Annotated[SourceSpec, Form("URL", "a URL such as http://registry:8500/targets.json", parse_discover)]

__all__ = ["DiscoverURL", "SourceSpec", "TargetLine", "TargetSpec", "parse_target", "parse_target_line"]
