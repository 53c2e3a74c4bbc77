"""
Which kinds of sections there are, and the settings class of each.

``load`` is given the table. The gateway's own (``apigw.gateway.catalogue``) has more kinds, and more in some of them:

    KINDS = {**BASE_KINDS, "upstream": Kind(Upstream), "cors": Kind(CORS, naming="either", policy=True)}

Not here: what the settings mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from apigw.config.gateway import AdminSettings, DefaultsSettings, GatewaySettings, HealthSettings
from apigw.config.listen import ListenSettings
from apigw.config.model import Settings
from apigw.config.problems import closest
from apigw.config.route import ResourceSettings, RouteSettings
from apigw.config.text import Text
from apigw.config.upstream import UpstreamSettings


@dataclass(frozen=True, slots=True)
class Kind:
    """
    One kind of section.

    :ivar settings: what it may say.
    :ivar naming: whether it is ``[KIND NAME]`` (``named``), ``[KIND]`` (``single``), or ``either``.
    :ivar policy: whether routes may list it under ``policies``.
    :ivar role: what its names may be used as, if that is another kind: a ``[split X]`` with the role ``upstream``
        stands wherever the name of an upstream does.
    :ivar refine: gives the settings class of one section by its options, where it depends on them (a class of the
        user's own). It may raise ``Wrong``, with ``option`` set.
    """

    settings: type[Settings]
    naming: Literal["named", "single", "either"] = "named"
    policy: bool = False
    role: str = ""
    refine: Callable[[Mapping[str, Text]], type[Settings]] | None = None

    def title(self, kind: str) -> str:
        """How its heading is written."""
        return {"named": f"[{kind} NAME]", "single": f"[{kind}]", "either": f"[{kind} NAME] or [{kind}]"}[self.naming]


Kinds = Mapping[str, Kind]


def meant(kind: str, kinds: Kinds) -> str:
    """The kind, or the one that is meant if there is none of that name: its options can be looked at all the same."""
    return kind if kind in kinds else closest(kind, kinds)


BASE_KINDS: Kinds = {
    "gateway": Kind(GatewaySettings, "single"),
    "listen": Kind(ListenSettings),
    "admin": Kind(AdminSettings, "single"),
    "health": Kind(HealthSettings, "single"),
    "defaults": Kind(DefaultsSettings, "single"),
    "upstream": Kind(UpstreamSettings),
    "route": Kind(RouteSettings),
    "resource": Kind(ResourceSettings),
}
"""What a gateway without any policy or further feature knows."""
