"""IP addresses in one form: IPv4 inside IPv6 (``::ffff:192.0.2.1``, RFC 4291 2.5.5.2) is IPv4."""

from __future__ import annotations

from ipaddress import ip_address

UNIX = "unix:"
"""What the other end of a UNIX socket is called: it has no address."""


def plain_address(text: str) -> str:
    """
    An address in its usual form, and as IPv4 if it is that inside IPv6.

    :raises ValueError: it is no IP address.
    """
    address = ip_address(text)
    return str(getattr(address, "ipv4_mapped", None) or address)


def peer_address(name: object) -> str:
    """The address of a transport's ``peername``; ``unix:`` if it has none."""
    if not isinstance(name, tuple) or not name:
        return UNIX
    address: str = name[0]
    return plain_address(address) if address[:7] == "::ffff:" else address
