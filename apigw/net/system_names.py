"""
What this machine's files say about names: ``/etc/hosts`` (hosts(5)) and ``/etc/resolv.conf`` (resolv.conf(5)).

Pure: text in, values out. Not here: reading the files (``small_files``), asking name servers (``dns_queries``).
"""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple

Server = tuple[str, int]
"""Address and port of a name server."""

Addresses = tuple[str, ...]


class System(NamedTuple):
    """What ``/etc/resolv.conf`` says."""

    servers: tuple[Server, ...]
    search: tuple[str, ...]
    ndots: int


def candidates(name: str, system: System) -> list[str]:
    """
    The absolute names that a name may mean, in the order of resolv.conf(5), in ASCII.

    A name with a dot at its end is absolute. One with less than ``ndots`` dots is tried in the search domains first.
    """
    if name.endswith("."):
        names = [name[:-1]]
    else:
        searched = [f"{name}.{domain}" for domain in system.search if domain]
        names = [name, *searched] if name.count(".") >= system.ndots else [*searched, name]
    found = []
    for each in names:
        try:
            written = each.encode("idna").decode("ascii")
        except UnicodeError:
            continue
        if 0 < len(written) <= 253:
            found.append(written.lower())
    return found


class Hosts:
    """
    What ``/etc/hosts`` says.

    It is searched for each name, not parsed as a whole: a list of blocked sites may have a hundred thousand lines.
    """

    def __init__(self, text: str) -> None:
        self._text = f"\n{text.lower()}\n"

    def find(self, name: str) -> Addresses | None:
        """The addresses of a name (in lower case, without a dot at its end), or None if it has none."""
        found: dict[str, None] = {}
        text = self._text
        at = text.find(name)
        while at >= 0:
            end = text.index("\n", at)
            address, *names = text[text.rindex("\n", 0, at) : end].partition("#")[0].split() or [""]
            if name in (each.removesuffix(".") for each in names):
                with suppress(ValueError):
                    found[str(ip_address(address))] = None
            at = text.find(name, end)
        return tuple(found) or None


def parse_resolv_conf(text: str) -> System:
    """``/etc/resolv.conf``: ``nameserver``, ``search``, ``domain``, and ``ndots`` of ``options``."""
    servers: list[Server] = []
    search: tuple[str, ...] | None = None
    ndots = 1
    for line in text.splitlines():
        word, *values = line.split() or [""]
        if word == "nameserver" and values:
            with suppress(ValueError):
                ip_address(values[0])
                servers.append((values[0], 53))
        elif word in {"search", "domain"}:
            search = tuple(value.strip(".") for value in values)
        elif word == "options":
            for value in values:
                key, _, number = value.partition(":")
                if key == "ndots" and number.isdigit():
                    ndots = min(int(number), 15)
    if search is None:  # as resolv.conf(5) says
        search = tuple(filter(None, [socket.gethostname().partition(".")[2]]))
    return System(tuple(servers) or (("127.0.0.1", 53),), search, ndots)
