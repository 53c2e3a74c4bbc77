"""
What a configuration says that has no effect, or hardly the one that was meant: warnings at file:line, with what was
probably meant. Other gateways' syntax is a large part of it.

One file a topic. A check looks at each section once: with 10,000 routes it takes as long for each as with ten. Nothing
is told that may well be meant: a warning that is wrong makes people overlook those that are right.

Not here: mistakes, with which nothing starts (``apigw.gateway.checks``).
"""

from __future__ import annotations

from apigw.gateway.effects.aggregates import aggregates
from apigw.gateway.effects.paths import conditions, paths
from apigw.gateway.effects.policies import listed_twice, logins, redirect_loops, unfilled, waits_for_itself
from apigw.gateway.effects.routes import methods, prefixes, redirects, rewrites, shadowed, too_large
from apigw.gateway.effects.texts import texts
from apigw.gateway.effects.unused import unused
from apigw.gateway.effects.upstreams import upstreams

EFFECTS = (
    paths,
    conditions,
    shadowed,
    prefixes,
    rewrites,
    redirects,
    methods,
    too_large,
    texts,
    unused,
    upstreams,
    aggregates,
    listed_twice,
    unfilled,
    logins,
    redirect_loops,
    waits_for_itself,
)
"""All of them, for ``load``."""
