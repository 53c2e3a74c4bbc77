"""
Who may come in.

- With ``Authorization: Bearer TOKEN`` (RFC 6750): everything.
- Without: only reads, and only from this machine. A web page in a browser on this machine must not read either, by a
  name of its own that it lets point to 127.0.0.1 (DNS rebinding): so the Host must be a name of this machine. And what
  a proxy on this machine passes on does not come from this machine.
- No token configured: nothing but such reads.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from apigw.exchange.errors import ClientFault

READS = frozenset((b"GET", b"HEAD"))
FORWARDED_FIELDS = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")


@dataclass(frozen=True, slots=True)
class Visit:
    """
    What is asked, and by whom.

    :ivar local: the connection comes from this machine (loopback, or a Unix socket).
    :ivar hosts: all Host fields. :ivar authorizations: all Authorization fields.
    :ivar forwarded: a proxy says that it passes this on for somebody else.
    """

    method: bytes
    local: bool
    hosts: tuple[bytes, ...] = ()
    authorizations: tuple[bytes, ...] = ()
    forwarded: bool = False


class Access:
    """The rule above, for one token."""

    def __init__(self, token: str, names: Iterable[str] = ()) -> None:
        """
        :param token: empty for none.
        :param names: further host names under which this machine may be asked without a token.
        """
        self._token = token.encode()
        self._names = frozenset(name.lower() for name in names) | {"localhost"}

    def refusal(self, visit: Visit) -> ClientFault | None:
        """Why this is refused: 401 if a token would help, else 403. None if it is allowed."""
        if self._token and visit.authorizations:
            return None if self._is_token(visit.authorizations) else _unauthorised("this is not the token")
        if visit.method in READS and visit.local and not visit.forwarded:
            # Without a Host (HTTP/1.0) it is no browser.
            if all(self._is_own_name(host) for host in visit.hosts):
                return None
            if not self._token:
                return ClientFault("this machine is not known by that Host", status=403, reason="admin_host_refused")
        if self._token:
            return _unauthorised("this needs `Authorization: Bearer TOKEN`")
        return ClientFault(
            "without a token only reads from this machine are possible: set [admin] token",
            status=403,
            reason="admin_forbidden",
        )

    def _is_token(self, authorizations: tuple[bytes, ...]) -> bool:
        scheme, _, token = authorizations[0].partition(b" ")
        # All is compared in any case, and in constant time.
        same = hmac.compare_digest(token.strip(), self._token)
        return same and scheme.lower() == b"bearer" and len(authorizations) == 1

    def _is_own_name(self, host: bytes) -> bool:
        name = _host_name(host.decode("latin-1").strip().lower())
        return name in self._names or is_loopback(name)


def is_loopback(address: str) -> bool:
    """Whether an address is one of this machine's own, in IPv4, IPv6, or IPv4 inside IPv6."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def _host_name(host: str) -> str:
    """``localhost:9090`` -> ``localhost``; ``[::1]:9090`` -> ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def _unauthorised(detail: str) -> ClientFault:
    return ClientFault(
        detail,
        status=401,
        reason="admin_unauthorized",
        headers=((b"WWW-Authenticate", b'Bearer realm="apigw admin"'),),
    )
