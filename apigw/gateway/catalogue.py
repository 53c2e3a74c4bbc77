"""
Which sections a configuration may have: one list for loading, checking and the manual; and ``load`` with all of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, model_validator

from apigw.config.configuration import Configuration
from apigw.config.kinds import BASE_KINDS, Kind, Kinds
from apigw.config.load import load as load_kinds
from apigw.config.route import RouteSettings as OneRouteSettings
from apigw.config.text import Wrong
from apigw.config.upstream import ConnectionSettings
from apigw.gateway.aggregates import KINDS as AGGREGATION_KINDS
from apigw.gateway.checks import CHECKS
from apigw.gateway.environment import Shared
from apigw.policies.catalogue import KINDS as POLICY_KINDS
from apigw.upstream.mirror import MirrorOption
from apigw.upstream.settings import ResilienceSettings
from apigw.upstream.split import SplitSettings
from apigw.upstream.target_spec import TargetSpec, literal_kind

_SHOWN = {"ipv4": "IPv4", "ipv6": "IPv6"}


class UpstreamSettings(ResilienceSettings, ConnectionSettings):
    """Servers that do the work."""

    @model_validator(mode="after")
    def _can_be_resolved(self) -> UpstreamSettings:
        for target in self.targets:
            kind = literal_kind(target.host) if isinstance(target, TargetSpec) else ""
            if kind and self.resolve not in {"any", kind}:
                raise Wrong(f"{target} is no {_SHOWN[self.resolve]} address", "any", option="resolve")
        return self


class RouteSettings(OneRouteSettings):
    """Which requests go where. One of `upstream`, `redirect` and `respond` says where."""

    mirror: MirrorOption | None = Field(
        None,
        description="Send copies of this share of the requests to another upstream; their answers are only counted.",
    )

    @model_validator(mode="after")
    def _has_what_to_mirror(self) -> RouteSettings:
        if self.mirror is not None and self.upstream is None:
            raise Wrong("nothing is sent on, so there is nothing to mirror", "no mirror", option="mirror")
        return self


KINDS: Kinds = {
    **BASE_KINDS,
    "upstream": Kind(UpstreamSettings),
    "split": Kind(SplitSettings, role="upstream"),
    "route": Kind(RouteSettings),
    **AGGREGATION_KINDS,
    **POLICY_KINDS,
}


def load(path: str, environ: Mapping[str, str] | None = None, shared: Shared | None = None) -> Configuration:
    """
    Read and check a configuration, with all that the gateway knows.

    :param shared: of the gateway that starts with this configuration: the policies that are made to check them are
        kept, and the gateway serves with them. None: they are made for the check only.
    :raises ConfigurationError: with every mistake.
    """
    return load_kinds(path, KINDS, environ, CHECKS, {"shared": shared} if shared is not None else {})
