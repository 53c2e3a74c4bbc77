"""
Every metric of the gateway: name, kind, labels, what it counts. docs/observability.md lists the same; a test compares.

Labels hold only what the configuration names (and status, method, reason), never what a client sends: a client can't
make series.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max", "min"]


@dataclass(frozen=True, slots=True)
class Instrument:
    """
    One metric family.

    :ivar merge: how the values of several workers become one. Counters and histograms are always added.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    merge: Merge = "sum"


REQUESTS = Instrument(
    "apigw_requests_total",
    "counter",
    "Exchanges that ended, by final status.",
    ("route", "method", "status"),
)
REQUEST_DURATION = Instrument(
    "apigw_request_duration_seconds", "histogram", "From a request's head to the end of its response.", ("route",)
)
UPSTREAM_REQUESTS = Instrument(
    "apigw_upstream_requests_total",
    "counter",
    "Requests sent to targets, tries included, by the status that came back; `none` if none came.",
    ("upstream", "target", "status"),
)
GATEWAY_RESPONSES = Instrument(
    "apigw_gateway_responses_total",
    "counter",
    "Exchanges that the gateway ended by itself, by reason code.",
    ("route", "reason"),
)
POLICY_EVENTS = Instrument(
    "apigw_policy_events_total",
    "counter",
    "What policies had to say, like `would_deny` in shadow.",
    ("policy", "event"),
)
TARGET_HEALTHY = Instrument(
    "apigw_target_healthy", "gauge", "1 if a target is well, else 0.", ("upstream", "target"), "min"
)
BREAKER_STATE = Instrument(
    "apigw_breaker_state",
    "gauge",
    "1 for the state that a circuit breaker is in, 0 for the others.",
    ("upstream", "target", "state"),
)
BREAKER_EVENTS = Instrument(
    "apigw_breaker_events_total",
    "counter",
    "What happened at circuit breakers: fire, success, failure, timeout, reject, open, ...",
    ("upstream", "target", "event"),
)
EJECTIONS = Instrument(
    "apigw_ejections_total",
    "counter",
    "Targets that passive checks took out, or that accepted no connection.",
    ("upstream", "reason"),
)
RETRY_BUDGET = Instrument(
    "apigw_retry_budget_total", "counter", "Retries and hedges, granted or denied.", ("upstream", "result")
)
HEDGES = Instrument(
    "apigw_hedges_total", "counter", "Second copies of slow requests: sent, and won.", ("upstream", "event")
)
HEALTH_CHECKS = Instrument(
    "apigw_health_checks_total", "counter", "Checks that the gateway made of targets.", ("upstream", "result")
)
DISCOVERY_FAILURES = Instrument(
    "apigw_discovery_failures",
    "gauge",
    "How often in a row a source of targets could not be used.",
    ("upstream", "source"),
    "max",
)
SPLIT_REQUESTS = Instrument(
    "apigw_split_requests_total", "counter", "Requests that splits handed on.", ("split", "upstream")
)
MIRRORED = Instrument(
    "apigw_mirrored_total",
    "counter",
    "Copies: sent, dropped for want of room, and answered the same, different or not at all (failed).",
    ("route", "upstream", "event"),
)
MIRROR_DIFFERENCES = Instrument(
    "apigw_mirror_differences_total",
    "counter",
    "Copies that were answered with another status than the original.",
    ("route", "upstream", "status", "copy"),
)
CONNECTIONS = Instrument("apigw_connections", "gauge", "Open connections of clients.", ("listener",))
HANDSHAKE_FAILURES = Instrument(
    "apigw_tls_handshake_failures_total",
    "counter",
    "TLS connections of clients that never became one, by reason.",
    ("listener", "reason"),
)
POOL_CONNECTIONS = Instrument(
    "apigw_pool_connections", "gauge", "Open connections to targets.", ("upstream", "target", "state")
)
REACTOR_LAG = Instrument(
    "apigw_reactor_lag_seconds", "histogram", "How much later than asked for the reactor ran a timer."
)
CONFIG_SUCCESS = Instrument(
    "apigw_config_last_reload_success", "gauge", "1 if the last load of the configuration succeeded, else 0.", (), "min"
)
CONFIG_TIMESTAMP = Instrument(
    "apigw_config_last_reload_timestamp_seconds",
    "gauge",
    "When the configuration that is in force was loaded.",
    (),
    "min",
)
FILE_FAILURES = Instrument(
    "apigw_file_failures_total",
    "counter",
    "How often a file that is looked at again could not be used: no answer, no regular file, or wrong content.",
    ("file",),
)
FILE_STALE = Instrument(
    "apigw_file_stale",
    "gauge",
    "1 for a file that can't be used now; its last good content is.",
    ("file",),
    "max",
)
ACCESS_LOG_LOST = Instrument(
    "apigw_access_log_lost_lines_total", "counter", "Access log lines that could not be written."
)

ALL = (
    REQUESTS,
    REQUEST_DURATION,
    UPSTREAM_REQUESTS,
    GATEWAY_RESPONSES,
    POLICY_EVENTS,
    TARGET_HEALTHY,
    BREAKER_STATE,
    BREAKER_EVENTS,
    EJECTIONS,
    RETRY_BUDGET,
    HEDGES,
    HEALTH_CHECKS,
    DISCOVERY_FAILURES,
    SPLIT_REQUESTS,
    MIRRORED,
    MIRROR_DIFFERENCES,
    CONNECTIONS,
    HANDSHAKE_FAILURES,
    POOL_CONNECTIONS,
    REACTOR_LAG,
    CONFIG_SUCCESS,
    CONFIG_TIMESTAMP,
    FILE_FAILURES,
    FILE_STALE,
    ACCESS_LOG_LOST,
)
