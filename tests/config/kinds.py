"""A table of kinds that has a bit of everything, so that tests depend on no other room's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from apigw.config.configuration import Configuration
from apigw.config.kinds import BASE_KINDS, Kind, Kinds
from apigw.config.load import load
from apigw.config.model import Settings
from apigw.config.problems import ConfigurationError
from apigw.config.references import PolicyItem, UpstreamName, refer
from apigw.config.text import Text, Wrong
from apigw.config.values import Count, Duration, Flag, Form, Json, Pairs, Rate, Secret, Several, StrList, Verbatim


class Cors(Settings):
    """Lets browsers in."""

    origins: StrList = ("*",)
    max_age: Duration = 600.0


class Limit(Settings):
    """Keeps too many out."""

    rate: Several[Rate] = Field(description="How many.")
    burst: Annotated[Count, Field(ge=1, le=1000)] = 1
    by: Literal["ip", "route", "all"] = "ip"

    @model_validator(mode="after")
    def _burst_fits(self) -> Limit:
        if self.burst > self.rate[0].limit:
            raise Wrong(f"{self.burst} is more than the rate", option="burst")
        return self


class Jwt(Settings):
    """Knows who it is."""

    secret: Secret = Secret("")
    leeway: int = 0
    claims_to_headers: Pairs[str] = Field({})


def _call(text: Text) -> str:
    upstream, _, _ = text.partition(" ")
    refer(text.part(0, len(upstream)), "upstream")
    return str(text)


class Call(Settings):
    """One of several requests."""

    own_option: ClassVar[str] = "request"
    request: Annotated[str, Form("call", "UPSTREAM METHOD PATH", _call)]
    optional: Flag = False
    default: Json = None


class Aggregate(Settings):
    """One request for the client, several for us."""

    path: str
    call: dict[str, Call] = Field({})
    response: Verbatim = ""
    policies: Several[PolicyItem] = ()


class Split(Settings):
    """Shares."""

    first: UpstreamName


class Plain(Settings):
    """Whatever."""


class Coloured(Settings):
    """Depends on ``class``."""

    class_: str = Field(alias="class")
    colour: Literal["red", "green"] = "red"


def _refined(options: Mapping[str, Text]) -> type[Settings]:
    if options.get("class") != "coloured":
        raise Wrong("{shown} is no class", option="class")
    return Coloured


KINDS: Kinds = {
    **BASE_KINDS,
    "cors": Kind(Cors, "either", policy=True),
    "limit": Kind(Limit, "either", policy=True),
    "jwt": Kind(Jwt, "either", policy=True),
    "aggregate": Kind(Aggregate),
    "split": Kind(Split, role="upstream"),
    "python": Kind(Plain, refine=_refined),
}

Write = Callable[[str], Path]


def loaded(folder: Path, text: str, **environ: str) -> Configuration:
    """Load a text that stands in ``gw.ini`` of a folder."""
    path = folder / "gw.ini"
    path.write_text(text)
    return load(path, KINDS, environ)


def mistakes(folder: Path, text: str, **environ: str) -> list[str]:
    """Give the lines of the error for such a text, without the folder; none if it is well."""
    try:
        loaded(folder, text, **environ)
    except ConfigurationError as error:
        return str(error).replace(f"{folder}/", "").split("\n")
    return []
