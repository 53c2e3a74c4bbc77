"""
What an ``[upstream X]`` section may say about targets that fail: balancing, health, breaker, retries, discovery.

Each group is one feature's options, named as in the INI (``breaker.reset_timeout``); the feature's own file says what
they mean at length. Where a default is not that of the peer whose name it has, the description says so.

Not here: connections, TLS and time-outs of the data path.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from apigw.config.addresses import Authority
from apigw.config.model import Settings
from apigw.config.references import UpstreamName
from apigw.config.text import Text, Wrong
from apigw.config.values import (
    Count,
    Duration,
    FilePath,
    Flag,
    Form,
    HeaderName,
    Host,
    Method,
    Number,
    Pairs,
    RegexText,
    Secret,
    Several,
    Share,
    Size,
    StatusSet,
    Verbatim,
    Word,
    parse_duration,
    parse_share,
    parse_statuses,
    show_duration,
    show_statuses,
)
from apigw.http.fields import HOP_BY_HOP, is_field_value, is_token
from apigw.upstream.balance_spec import Balance, BalanceSpec
from apigw.upstream.target_spec import DiscoverURL, SourceSpec, TargetLine, TargetSpec

IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")
"""RFC 9110 9.2.2."""


_GATEWAYS_OWN = HOP_BY_HOP | {
    b"host", b"content-length", b"trailer", b"expect", b"x-request-id", b"x-request-timeout",
}  # fmt: skip


class HealthSettings(Settings):
    """Active checks: each target is asked now and then, whether clients ask or not."""

    type: Literal["http", "tcp"] = Field("http", description="`http` sends a request, `tcp` only connects.")
    path: Word | None = Field(
        None,
        description="What is asked for. Active checks are on when this is set, or with `type = tcp`.",
    )
    method: Method = Field("GET", description="Method of the check.")
    host: Authority | None = Field(
        None,
        description="What Host says in checks. Without it: the `host` of the upstream; for `client`, the target's.",
    )
    headers: Pairs[Secret] = Field({}, description="Further fields of checks, `Name: value`.")
    expect: StatusSet = Field(frozenset(range(200, 400)), description="Statuses of a healthy target.")
    expect_body: RegexText | None = Field(None, description="What must be found in the body (its first 64 KiB), too.")
    interval: Duration = Field(5.0, gt=0, description="Between two checks of a healthy target.")
    fast_interval: Duration = Field(
        1.0, gt=0, description="Between two checks while the verdict is in question, and of a target that is unhealthy."
    )
    timeout: Duration = Field(1.0, gt=0, description="For the whole answer.")
    healthy: Count = Field(2, ge=1, description="Good checks in a row that make an unhealthy target healthy.")
    unhealthy: Count = Field(
        3,
        ge=1,
        description="Bad checks in a row that make a healthy target unhealthy; the very first check decides alone.",
    )
    jitter: Share = Field(
        0.1,
        description="Each interval is longer or shorter by up to this share, so that gateways don't check in step.",
    )

    @property
    def enabled(self) -> bool:
        """Whether targets are checked."""
        return self.path is not None or self.type == "tcp"

    @model_validator(mode="after")
    def _fits(self) -> HealthSettings:
        if self.path is not None and not self.path.startswith("/"):
            raise Wrong(f"{self.path} does not begin with a slash", "/health", option="path")
        if self.type == "tcp" and (self.path is not None or self.expect_body is not None):
            raise Wrong("a tcp check sends nothing", "type = http, or no path and expect_body", option="type")
        for name, value in self.headers.items():
            field = name.encode()
            if not is_token(field):
                raise Wrong(f"`{name}` is not a header's name", option="headers")
            if field.lower() in _GATEWAYS_OWN:
                hint = "health.host says what Host is" if name.lower() == "host" else ""
                raise Wrong(f"{name} is written by the gateway", hint=hint, option="headers")
            if not is_field_value(value.get_secret_value().encode()):
                raise Wrong(f"the value of {name} has a control character", option="headers")
        return self


class OutlierSettings(Settings):
    """Passive checks: targets that answer worse than they should get no requests for a while. Names are Envoy's."""

    enabled: Flag = Field(
        True,
        description="Whether this is done at all. A target that accepts no connection is left out in any case.",
    )
    consecutive_5xx: Count = Field(5, description="Answers of 500-599 in a row that eject a target; 0: never.")
    consecutive_gateway_failure: Count = Field(
        5,
        description="Answers of 502, 503, 504 in a row that eject a target; 0: never.",
    )
    consecutive_local_origin_failure: Count = Field(
        5,
        description="Requests in a row whose answer broke off or did not come in time, after which the gateway makes a"
        " trial: without an answer to that the target is unreachable, else twice as many eject it; 0: never.",
    )
    stall_time: Duration = Field(
        1.0,
        description="A target to which 5 requests or more were sent in a row, of which none is answered after this time"
        " (or three times its usual latency, if that is longer), is ejected without waiting for time-outs; 0s: never.",
    )
    interval: Duration = Field(10.0, gt=0, description="How often success rates are compared.")
    base_ejection_time: Duration = Field(
        30.0,
        gt=0,
        description="How long a target is out: this, times how often it was lately.",
    )
    max_ejection_time: Duration = Field(300.0, gt=0, description="How long at most.")
    max_ejection_percent: Share = Field(
        0.1,
        description="Share of the targets that may be out for bad answers at once; one always may."
        " Targets that give no answer don't count.",
    )
    success_rate: Flag = Field(True, description="Eject a target whose success rate is far below the others'.")
    success_rate_minimum_hosts: Count = Field(5, ge=2, description="Targets with enough requests that there must be.")
    success_rate_request_volume: Count = Field(100, description="Requests in an interval that are enough.")
    success_rate_stdev_factor: Number = Field(
        1.9,
        gt=0,
        description="Standard deviations below the mean that are far. (Envoy writes 1900.)",
    )
    failure_percentage: Share = Field(
        0.0,
        description="Share of failures in an interval that ejects a target; 0%: none does. (Envoy: 85 %, not"
        " enforced.)",
    )
    failure_percentage_minimum_hosts: Count = Field(
        5,
        ge=1,
        description="Targets with enough requests that there must be.",
    )
    failure_percentage_request_volume: Count = Field(50, description="Requests in an interval that are enough.")
    probe: Flag = Field(
        True,
        description="Make trials of targets that are out, and of half-open circuits, by `OPTIONS /`, if there is no"
        " active check; `no`: only connect.",
    )
    probe_interval: Duration = Field(1.0, gt=0, description="Between two trials at most; the first ones come sooner.")


class BreakerSettings(Settings):
    """
    The circuit breaker. Names are opossum's.

    It is on as soon as one of these options is set.
    """

    enabled: Flag | None = Field(
        None,
        description="Switches it on with all defaults, or off. Without it: on if any other option of it is set.",
    )
    scope: Literal["target", "upstream"] = Field("target", description="One for each target, or one for all of them.")
    timeout: Duration | None = Field(
        None,
        gt=0,
        description="A request without a response's head after this time has failed. Without it, `timeout.response`"
        " holds. (opossum: 10 s)",
    )
    error_threshold: Share = Field(
        0.5,
        gt=0,
        description="Share of failures among the finished requests at which it opens. (opossum opens above it.)",
    )
    volume_threshold: Count = Field(
        10,
        description="Finished requests in the window that there must be. (opossum: 0)",
    )
    rolling_window: Duration = Field(10.0, gt=0, description="Time over which results are counted.")
    rolling_buckets: Count = Field(10, ge=1, le=1000, description="In how many steps it moves on.")
    reset_timeout: Duration = Field(30.0, gt=0, description="How long it stays open before it is tried again.")
    max_reset_timeout: Duration = Field(60.0, gt=0, description="How long at most, when probes keep failing.")
    reset_growth: Number = Field(2.0, ge=1, description="By how much that time grows with every failed probe.")
    reset_jitter: Share = Field(
        0.1,
        description="It is longer by up to this share, so that breakers don't try in step.",
    )
    half_open_requests: Count = Field(
        1,
        ge=1,
        description="Probes that are sent when it is tried again; all must succeed.",
    )
    capacity: Count = Field(
        0,
        description="Requests in flight at most; more are rejected, which is no failure. 0: no limit.",
    )
    allow_warm_up: Flag = Field(False, description="Never open during the first `rolling_window`.")
    failure_status: StatusSet = Field(frozenset(range(500, 600)), description="Statuses that are failures.")
    fallback_upstream: UpstreamName | None = Field(None, description="Another upstream that is asked instead.")
    fallback_status: Count | None = Field(
        None,
        ge=200,
        le=599,
        description="Status of the answer that is given instead.",
    )
    fallback_body: Verbatim | None = Field(None, description="Its body.")
    fallback_headers: Pairs[str] = Field({}, description="Its header fields, `Name: value`.")
    fallback_file: FilePath | None = Field(None, description="A file that is its body, read at load.")

    @property
    def on(self) -> bool:
        """Whether there is a breaker."""
        return self.enabled if self.enabled is not None else bool(self.model_fields_set)

    @property
    def has_fallback_answer(self) -> bool:
        """Whether an answer of the gateway's own is configured."""
        return (
            self.fallback_status is not None
            or self.fallback_body is not None
            or self.fallback_file is not None
            or bool(self.fallback_headers)
        )

    def failure_table(self) -> tuple[bool, ...]:
        """For every status from 0 to 599 whether it is a failure."""
        return tuple(status in self.failure_status for status in range(600))

    @model_validator(mode="after")
    def _fits(self) -> BreakerSettings:
        if self.fallback_body is not None and self.fallback_file is not None:
            raise Wrong("fallback_body and fallback_file are both the body", "one of them", option="fallback_file")
        return self


_KINDS = ("connect", "reset", "timeout")


def _parse_retry_on(text: Text) -> frozenset[int | str]:
    found: set[int | str] = set()
    for item in text.items():
        if item in _KINDS:
            found.add(str(item))
        else:
            found |= parse_statuses(item)
    return frozenset(found)


def _show_retry_on(on: frozenset[int | str]) -> str:
    kinds = [kind for kind in _KINDS if kind in on]
    statuses = frozenset(status for status in on if isinstance(status, int))
    return ", ".join([*kinds, show_statuses(statuses)] if statuses else kinds)


RetryOn = Annotated[
    frozenset[int | str],
    Form("failures", "connect, reset, timeout and statuses such as 502, 503, 500-599", _parse_retry_on, _show_retry_on),
]


class RetrySettings(Settings):
    """Trying again, at another target."""

    attempts: Count = Field(2, ge=1, le=20, description="Tries in all, the first included; 1: no retries.")
    on: RetryOn = Field(
        frozenset(("connect", "reset")),
        description="What is tried again: `connect` (nothing was sent), `reset` (no response came), `timeout`, or"
        " statuses.",
    )
    methods: Several[Method] = Field(
        IDEMPOTENT,
        description="Methods that may be sent again. Without a single byte sent, every method may.",
    )
    backoff: Duration = Field(
        0.025,
        ge=0,
        description="Longest wait before the second try, doubled with each; the wait itself is random, from 0 on."
        " A request that found no connection goes to another target at once, without any of these options.",
    )
    max_backoff: Duration = Field(0.25, ge=0, description="Longest wait before any try.")
    budget: Share = Field(
        0.2,
        description="Retries and hedges at most, as a share of the requests of the last 10 s; half of it is kept for"
        " first retries.",
    )
    min_retries: Count = Field(
        3, description="Retries that are allowed anyway, for each second; half as many hedges and second retries."
    )
    max_body: Size = Field(
        64 * 1024,
        description="Request bodies up to this size are kept, so that they can be sent again.",
    )


def _parse_after(text: Text) -> tuple[str, float]:
    if text.rstrip().endswith("%"):
        share = parse_share(text)
        if not 0 < share < 1:
            raise Wrong("{shown} is no share between 0% and 100%")
        return "share", share
    return "duration", parse_duration(text)


def _show_after(after: tuple[str, float]) -> str:
    return f"{after[1] * 100:g}%" if after[0] == "share" else show_duration(after[1])


After = Annotated[
    tuple[str, float], Form("share or duration", "95% or a duration such as 50ms", _parse_after, _show_after)
]


class HedgeSettings(Settings):
    """A second copy of a slow request, to another target; the first answer counts and the other is cancelled."""

    after: After | None = Field(
        None,
        description="When: once a request takes longer than this share of the route's own requests (`95%`), or a"
        " duration.",
    )
    methods: Several[Method] = Field(("GET", "HEAD", "OPTIONS"), description="Methods that may be sent twice.")

    @model_validator(mode="after")
    def _fits(self) -> HedgeSettings:
        for method in self.methods:
            if method not in IDEMPOTENT:
                raise Wrong(f"{method} is not idempotent; it can't be hedged", ", ".join(IDEMPOTENT), option="methods")
        return self


class HashSettings(Settings):
    """Options of `balance = hash:...`."""

    load_factor: Number = Field(
        0.0,
        description="A target with more than this many times its share of the requests in flight is passed over; at"
        " least 1, or 0 for never.",
    )

    @model_validator(mode="after")
    def _fits(self) -> HashSettings:
        if 0 < self.load_factor < 1 or self.load_factor < 0:
            raise Wrong(
                f"{self.load_factor:g} would leave no target", "0, or 1 and more, such as 1.25", option="load_factor"
            )
        return self


class StickySettings(Settings):
    """Sticky sessions: a cookie brings a client back to the target that it had."""

    cookie: HeaderName | None = Field(None, description="Name of the cookie. Sessions are sticky when this is set.")
    secret: Secret = Field(
        Secret(""),
        description="Key of the cookie's value; the same for all gateways that share clients.",
    )
    max_age: Duration | None = Field(
        None,
        ge=0,
        description="How long the cookie lives; without it, until the browser is closed.",
    )
    path: Word = Field("/", description="Path of the cookie.")
    domain: Host | None = Field(None, description="Domain of the cookie.")
    secure: Flag = Field(True, description="Only over HTTPS.")
    http_only: Flag = Field(True, description="Hidden from scripts.")
    same_site: Literal["lax", "strict", "none"] = Field(
        "lax",
        description="Whether it is sent with requests from other sites.",
    )


class ResilienceSettings(Settings):
    """What an upstream's section says about its targets, and about what happens when they fail."""

    targets: Several[TargetLine] = Field((), description="Who does the work, one a line; or where they are found.")
    discover: DiscoverURL | None = Field(
        None,
        description="A URL that answers with the targets, as JSON; asked again and again, with ETag.",
    )
    discover_interval: Duration = Field(
        5.0,
        gt=0,
        description="How often that, and files of `file:`, are looked at; and how long to wait after a failed look-up.",
    )
    balance: Balance = Field(BalanceSpec("least_request"), description="How a target is chosen.")
    hash: HashSettings = HashSettings()
    sticky: StickySettings = StickySettings()
    panic_threshold: Share = Field(
        0.5,
        description="When fewer of the targets than this are well, health is ignored, and open circuits too if none is;"
        " 0%: never.",
    )
    slow_start: Duration = Field(
        0.0,
        ge=0,
        description="Time in which a target that is new, or well again, comes up to its weight.",
    )
    max_requests: Count = Field(0, description="Requests in flight at one target; 0: no limit.")
    health: HealthSettings = HealthSettings()
    outlier: OutlierSettings = OutlierSettings()
    breaker: BreakerSettings = BreakerSettings()
    retry: RetrySettings = RetrySettings()
    hedge: HedgeSettings = HedgeSettings()

    @property
    def sources(self) -> tuple[TargetSpec | SourceSpec, ...]:
        """All that targets come from."""
        return (*self.targets, self.discover) if self.discover is not None else self.targets

    @model_validator(mode="after")
    def _fits_together(self) -> ResilienceSettings:
        if not self.sources:
            raise Wrong("there are no targets", "targets = http://HOST:PORT, or discover = URL", option="targets")
        if self.sticky.cookie and not self.sticky.secret.get_secret_value():
            raise Wrong(
                "sticky.cookie needs sticky.secret", "a secret, such as ${file:sticky.key}", option="sticky.secret"
            )
        return self
