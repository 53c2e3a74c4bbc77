"""
``[split X]``: sends shares of a route's requests to different upstreams.

    [split orders]
    upstreams = stable 95%, canary 5%
    sticky = cookie:session         ; the same session always gets the same one
    choose = header:X-Variant       ; and a request that names one of them gets that

A route names a split where it would name an upstream. Without ``sticky``, each request is drawn by itself. With it, a
key's place between 0 and 100 % is fixed: when ``canary`` grows from 5 % to 10 %, all who had it keep it.

Pure, but for handing the request on. Not here: the upstreams.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from random import Random
from typing import Annotated

from pydantic import Field, model_validator

from apigw.config.model import Settings
from apigw.config.references import refer
from apigw.config.text import Text, Wrong
from apigw.config.values import Form, parse_share
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.upstream.balance_spec import Key, KeySpec
from apigw.upstream.balancing.hashing import KeyOf, fraction, key_of
from apigw.upstream.balancing.spread import GOLDEN


def _parse_shares(text: Text) -> dict[str, float]:
    shares: dict[str, float] = {}
    for item in text.items():
        words = item.split()
        if len(words) != 2:
            raise Wrong("{shown} is not a name and a share", "stable 95%", at=item)
        name = words[0]
        if name in shares:
            raise Wrong(f"{name} is here twice", at=item)
        refer(item.part(0, len(name)), "upstream")
        shares[name] = parse_share(item.part(item.rindex(words[1])))
    return shares


def _show_shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share * 100:g}%" for name, share in shares.items())


Shares = Annotated[
    dict[str, float],
    Form("name share list", "names with shares, such as stable 95%, canary 5%", _parse_shares, _show_shares),
]


class SplitSettings(Settings):
    """Sends shares of a route's requests to different upstreams."""

    upstreams: Shares = Field(description="Names of upstreams with their shares, 100 % in all.")
    sticky: Key | None = Field(
        None, description="What of a request decides, so that equal ones get the same upstream; without it, chance."
    )
    choose: Key | None = Field(
        None, description="A header or cookie in which a request may name the upstream that it wants."
    )

    @model_validator(mode="after")
    def _fits(self) -> SplitSettings:
        total = sum(self.upstreams.values())
        if abs(total - 1) > 1e-6:
            raise Wrong(f"the shares are {total * 100:g}% in all", "100%", option="upstreams")
        if self.choose is not None and self.choose.kind not in ("header", "cookie"):
            raise Wrong(f"{self.choose} can't name an upstream", "header:NAME or cookie:NAME", option="choose")
        return self


class Split:
    """
    One split: a responder that hands each request to one of several.

    :ivar counts: how many requests each upstream got.
    """

    def __init__(self, settings: SplitSettings, rng: Random, name: str = "") -> None:
        self.names = list(settings.upstreams)
        self.counts = dict.fromkeys(self.names, 0)
        self._name = name.encode()
        self._bounds = list(accumulate(settings.upstreams.values()))[:-1]
        self._key_of = _key(settings.sticky)
        self._wish_of = _key(settings.choose)
        self._wishes = {upstream.encode(): upstream for upstream in self.names}
        self._at = rng.random()

    def choose(self, request: Request) -> str:
        """The name of the upstream for ``request``."""
        if self._wish_of is not None:
            wish = self._wish_of(request)
            wanted = self._wishes.get(wish) if wish is not None else None
            if wanted is not None:
                return wanted
        key = self._key_of(request) if self._key_of is not None else None
        if key is not None:
            # With the split's name: one split's unlucky few are not also those of all others.
            at = fraction(b"split", self._name, key)
        else:
            self._at = at = (self._at + GOLDEN) % 1.0
        return self.names[bisect_right(self._bounds, at)]

    def responder(self, upstreams: Mapping[str, Responder]) -> Responder:
        """What answers by one of ``upstreams``, which has one for each name."""

        def respond(request: Request, done: Done) -> None:
            name = self.choose(request)
            self.counts[name] += 1
            upstreams[name](request, done)

        return respond


def _key(spec: KeySpec | None) -> KeyOf | None:
    return None if spec is None else key_of(spec)
