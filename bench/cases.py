"""
What is measured: one object a case. To add one, add it to ``CASES``: a title, how it is measured, and the gateways; a
feature of apigw is measured by giving ``apigw`` an INI of its own, and compared with ``plain`` where no peer has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from bench import dashboard, mixed_faults
from bench.gateways import PEERS, PLAIN, Gateway, Place, Setup, apigw, express_aggregate
from bench.load import Wanted
from bench.measures import Measure, beside, gigabyte, idle, latency_at_half_load, throughput
from bench.origin import gigabyte_origin, nginx_origin
from bench.tokens import ALGORITHMS, bearer, guarded, pyjwt_seconds

_SMALL = Wanted()


@dataclass(frozen=True)
class Case:
    """
    One row of the table.

    :ivar measure: how; see ``bench.measures``.
    :ivar compared: the figure that is compared, as a ratio to that of ``base``; the first figure of the rows.
    :ivar goal: what the ratio (or, without ``base``, the figure itself) of apigw has to be.
    :ivar more: True if more is better.
    :ivar gateways: by name, in the order of measurement.
    :ivar rounds: overrides ROUNDS, where one is enough.
    """

    name: str
    title: str
    measure: Measure
    compared: str = "req/s"
    base: str = "nginx"
    goal: float | None = None
    more: bool = True
    gateways: dict[str, Gateway] = field(default_factory=lambda: {**PEERS, "apigw": apigw()})
    origin: Callable[[Place], Setup] = nginx_origin
    tls: bool = False
    rounds: int | None = None
    check: Wanted = _SMALL


def featured(name: str, title: str, ini: str | Gateway, goal: float, wanted: Wanted) -> Case:
    """A feature of apigw (``ini``, or apigw set up with it) as a ratio to its own plain proxy."""
    gateways = {"plain": apigw(PLAIN), "apigw": apigw(ini) if isinstance(ini, str) else ini}
    return Case(name, title, throughput(wanted), base="plain", goal=goal, gateways=gateways, check=wanted)


def _same_token(algorithm: str) -> Case:
    """A route behind ``jwt``, and clients that show the same token again."""
    wanted = Wanted(fields=partial(bearer, algorithm, 1))
    name, title = f"jwt_{algorithm.lower()}", f"JWT ({algorithm}), same token again"
    return featured(name, title, guarded(algorithm), 0.85, wanted)


def _new_token(algorithm: str) -> Case:
    """
    The same with another token each time, as a ratio to the plain proxy beside which PyJWT verifies each of them. There
    are more tokens than the gateway remembers, of tokens and of heads.
    """
    wanted = Wanted(rotating=partial(bearer, algorithm, 3000))
    plain = "plain + PyJWT"
    return Case(
        f"jwt_new_{algorithm.lower()}",
        f"JWT ({algorithm}), new token each time",
        beside(throughput(wanted), plain, partial(pyjwt_seconds, algorithm)),
        base=plain,
        goal=0.8,
        gateways={plain: apigw(PLAIN), "apigw": guarded(algorithm, remember=1000)},
        check=wanted,
    )


_TARGETS = "targets = http://127.0.0.1:{origin}"
_BARE = PLAIN.replace(_TARGETS, f"{_TARGETS}\noutlier.enabled = no\nretry.attempts = 1")
_RESILIENT = PLAIN.replace(
    _TARGETS,
    "targets = http://127.0.0.1:{origin}, http://127.0.0.1:{origin}/b, http://127.0.0.1:{origin}/c\n"
    "balance = least_request\nhealth.path = /\nbreaker.error_threshold = 50%",
)

_STACK = """
[cors pages]
origins = https://shop.example
credentials = yes

[ip_filter local]
allow = 127.0.0.0/8, ::1

[request_headers told]
remove = X-Debug
set.X-Tenant = {jwt.sub}

[security_headers strict]
"""

BROWSER = (
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    ("Accept-Language", "en-GB,en;q=0.7,de;q=0.3"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Referer", "https://shop.example/products?category=books&page=2"),
    ("Cookie", "session=5f2b8c1e9d7a4036b1c2d3e4f5a6b7c8; theme=dark; consent=yes"),
    ("DNT", "1"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Cache-Control", "max-age=0"),
    ("Priority", "u=0, i"),
)
_FEW = ("nginx", "haproxy", "envoy", "caddy")


def _few() -> dict[str, Gateway]:
    """Without the Node gateways."""
    return {**{name: PEERS[name] for name in _FEW}, "apigw": apigw()}


CASES = {
    case.name: case
    for case in (
        Case("small", "plain proxy, small body", throughput(Wanted()), goal=0.55),
        Case("headers12", "plain proxy, 12 request headers", throughput(Wanted(headers=BROWSER)), goal=0.55),
        Case(
            "uniq",
            "every request has another path, query and traceparent",
            throughput(Wanted("/items/", unique=True)),
            check=Wanted("/items/1"),
        ),
        Case(
            "uniqboth",
            "the same, and every response has another X-Request-Id and ETag",
            throughput(Wanted("/fields/items/", unique=True)),
            check=Wanted("/fields/items/1"),
        ),
        Case("body64k", "plain proxy, 64 KiB body", throughput(Wanted("/body64k")), goal=0.9, check=Wanted("/body64k")),
        Case(
            "upload1m",
            "upload of 1 MiB",
            throughput(Wanted("/upload", "POST", body=1 << 20), connections=16),
            check=Wanted("/upload"),
        ),
        Case("tls", "TLS 1.3 keep-alive", throughput(Wanted()), goal=0.5, tls=True),
        Case(
            "p99",
            "p99 at half of the maximum rate",
            latency_at_half_load(Wanted()),
            compared="p99 ms",
            goal=2,
            more=False,
            gateways=_few(),
        ),
        Case(
            "idle10k",
            "10,000 idle keep-alive connections",
            idle(10_000),
            compared="KiB each",
            base="",
            goal=10,
            more=False,
            rounds=1,
        ),
        Case(
            "gib",
            "1 GiB upload and download",
            gigabyte(),
            compared="MiB grown",
            base="",
            goal=16,
            more=False,
            gateways=_few(),
            origin=gigabyte_origin,
            rounds=1,
            check=Wanted("/1"),
        ),
        *map(_same_token, ALGORITHMS),
        *map(_new_token, ALGORITHMS),
        featured(
            "rate_limit",
            "rate limit in memory",
            f"{PLAIN}policies = rate_limit visitors\n[rate_limit visitors]\nrate = 1000000/s\nby = ip\n",
            0.9,
            _SMALL,
        ),
        Case(
            "resilience",
            "balancing over 3 targets, breaker and health checks",
            throughput(_SMALL),
            base="plain",
            goal=0.95,
            gateways={"plain": apigw(_BARE), "apigw": apigw(_RESILIENT)},
            check=_SMALL,
        ),
        featured(
            "policy_stack",
            "cors + ip_filter + jwt + request_headers + security_headers",
            guarded(
                "HS256",
                "cors pages, ip_filter local, jwt main, request_headers told, security_headers strict",
                _STACK,
            ),
            0.7,
            Wanted(headers=(("Origin", "https://shop.example"),), fields=partial(bearer, "HS256", 1)),
        ),
        Case(
            "aggregate",
            "aggregate of 3 calls",
            throughput(Wanted(dashboard.PATH)),
            base="express",
            goal=2,
            gateways={"express": express_aggregate, "apigw": dashboard.gateway},
            origin=dashboard.fast_origin,
            check=Wanted(dashboard.PATH),
        ),
        Case(
            "aggregate_latency",
            "aggregate of calls of 5, 10 and 20 ms",
            throughput(Wanted(dashboard.PATH), connections=8),
            compared="p50 ms",
            base="",
            goal=1.3 * dashboard.SLOWEST,
            more=False,
            gateways={"express": express_aggregate, "apigw": dashboard.gateway},
            origin=dashboard.slow_origin,
            check=Wanted(dashboard.PATH),
        ),
        Case(
            "mixed_faults",
            "good requests that fail among bad ones while targets die, with the worst combination of protections",
            mixed_faults.measured(),
            compared="failed %",
            base="",
            goal=0.1,
            more=False,
            gateways=mixed_faults.combinations(),
            origin=mixed_faults.faulty_origin,
            rounds=1,
            check=Wanted("/good/1"),
        ),
    )
}
