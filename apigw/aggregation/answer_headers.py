"""
Header fields of several answers as those of one.

- ``Cache-Control``: the strictest of the parts (RFC 9111 5.2.2). A part that says nothing may not be kept without
  asking; if no part says anything, neither does the whole. What is not complete is not to be kept.
- ``Set-Cookie``: all. Chosen fields: those of the first call, in written order, that has them.
- ``Server-Timing``: one entry a call (W3C Server Timing).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from apigw.aggregation.outcome import OK, Outcome
from apigw.aggregation.plan import Call
from apigw.exchange.headers import Headers, Pair
from apigw.http.fields import list_members

_SECONDS = re.compile(rb'(max-age|s-maxage)="?([0-9]{1,9})"?')


def strictest(parts: Iterable[tuple[Headers, float]], *, private: bool) -> bytes | None:
    """
    One Cache-Control for all.

    :param parts: each answer's fields, with the seconds for which it was kept here.
    :param private: the whole is for one caller alone.
    """
    said = [(list_members(value) if value is not None else None, age) for value, age in map(_read, parts)]
    if all(members is None for members, _ in said):
        return None
    words: set[bytes] = set()
    ages: dict[bytes, list[int]] = {b"max-age": [], b"s-maxage": []}
    public = True
    for members, age in said:
        if members is None:
            words.add(b"no-cache")
            public = False
            continue
        public = public and b"public" in members
        fresh: dict[bytes, int] = {}
        for member in members:
            word = member.partition(b"=")[0]
            if word in (b"no-store", b"no-cache", b"private", b"must-revalidate", b"proxy-revalidate", b"no-transform"):
                words.add(word)
            elif found := _SECONDS.fullmatch(member):
                fresh[found[1]] = max(0, int(found[2]) - int(age))
        if b"max-age" in fresh:
            ages[b"max-age"].append(fresh[b"max-age"])
        if b"s-maxage" in fresh or b"max-age" in fresh:
            ages[b"s-maxage"].append(fresh.get(b"s-maxage", fresh.get(b"max-age", 0)))
    if b"no-store" in words:
        return b"no-store"
    if private or b"private" in words:
        words.add(b"private")
    elif public:
        words.add(b"public")
    out = [word for word in _ORDER if word in words]
    spoken = sum(members is not None for members, _ in said)
    if len(ages[b"max-age"]) == spoken:
        out.append(b"max-age=%d" % min(ages[b"max-age"]))
    shared = ages[b"s-maxage"]
    if b"private" not in words and len(shared) == spoken and min(shared) != min(ages[b"max-age"] or [-1]):
        out.append(b"s-maxage=%d" % min(shared))
    return b", ".join(out) or None


_ORDER = (b"public", b"private", b"no-cache", b"must-revalidate", b"proxy-revalidate", b"no-transform")


def _read(part: tuple[Headers, float]) -> tuple[bytes | None, float]:
    headers, kept = part
    age = headers.get(b"age")
    seconds = int(age) if age is not None and age.isdigit() and len(age) < 10 else 0
    return headers.joined(b"cache-control"), kept + seconds


def passed(outcomes: Sequence[Outcome], names: Sequence[bytes]) -> list[Pair]:
    """The chosen fields, and all cookies."""
    pairs: list[Pair] = []
    for name in names:
        lower = name.lower()
        for headers in (headers for outcome in outcomes for headers in outcome.headers):
            if lower in headers:
                pairs += [(name, value) for value in headers.get_all(lower)]
                break
    for outcome in outcomes:
        for headers in outcome.headers:
            if b"set-cookie" in headers:
                pairs += [(b"Set-Cookie", value) for value in headers.get_all(b"set-cookie")]
    return pairs


def server_timing(calls: Sequence[Call], outcomes: Sequence[Outcome]) -> bytes:
    """One entry a call, with what became of it if that is not an answer."""
    return ", ".join(
        f"{call.name};dur={outcome.seconds * 1000:.1f}" + ("" if outcome.state is OK else f';desc="{outcome.state}"')
        for call, outcome in zip(calls, outcomes, strict=True)
    ).encode()
