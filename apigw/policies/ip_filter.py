"""
Stops callers from networks that are not welcome.

    [ip_filter office]
    allow = 10.0.0.0/8, 192.168.0.0/16, 2001:db8::/32, 127.0.0.0/8, ::1
    deny = 10.66.0.0/16

``deny`` decides first; with ``allow``, only who is in one of its networks comes in. The address is that of the client
behind ``trusted_proxies``. IPv4 addresses in IPv6 form (``::ffff:192.0.2.1``) count as IPv4.

Not here: which proxies are believed (``[gateway] trusted_proxies``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from pydantic import model_validator

from apigw.config.addresses import Network, Networks
from apigw.config.text import Wrong
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.tokens import Forbidden, note_refusal

REMEMBERED = 20_000
"""Addresses whose verdict is remembered; about 3 MiB."""


class Settings(PolicySettings):
    """Callers from networks that are not welcome are stopped."""

    allow: Networks = ()
    """Only addresses in these come in; empty: all that ``deny`` leaves."""
    deny: Networks = ()
    """Addresses in these do not come in, also if ``allow`` has them."""

    @model_validator(mode="after")
    def _says_something(self) -> Settings:
        if not self.allow and not self.deny:
            raise Wrong("it allows and denies nothing: allow or deny is needed")
        return self


class NetworkSet:
    """
    Networks by their length: to find an address costs one look-up for each length that occurs, however many there are.
    """

    def __init__(self, networks: Iterable[Network]) -> None:
        lengths: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            shift = network.max_prefixlen - network.prefixlen
            lengths.setdefault((network.version, shift), set()).add(int(network.network_address) >> shift)
        self._lengths = {
            version: [(shift, found) for (of, shift), found in sorted(lengths.items()) if of == version]
            for version in (4, 6)
        }

    def __contains__(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        number = int(address)
        return any(number >> shift in found for shift, found in self._lengths[address.version])


class IPFilter(Policy[Settings]):
    """The policy ``ip_filter``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._allow = NetworkSet(settings.allow) if settings.allow else None
        self._deny = NetworkSet(settings.deny)
        self._verdicts: dict[str, bool] = {}

    def on_request(self, request: Request) -> Response | None:
        client = request.client
        welcome = self._verdicts.get(client)
        if welcome is None:
            welcome = self._decided(client)
        if welcome:
            return None
        note_refusal(request, self.environment.label, "its address is not welcome")
        raise Forbidden("this address is not welcome", reason="address_refused")

    def _decided(self, client: str) -> bool:
        if len(self._verdicts) >= REMEMBERED:
            self._verdicts.clear()
        welcome = self._verdicts[client] = self._welcome(client)
        return welcome

    def _welcome(self, client: str) -> bool:
        try:
            address = ipaddress.ip_address(client.partition("%")[0])
        except ValueError:
            # A Unix socket has no address: nobody said that it may come in.
            return False
        if address.version == 6 and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address in self._deny:
            return False
        return self._allow is None or address in self._allow
