"""What Prometheus sees, from one process and from several, before and after a reload."""

from __future__ import annotations

import json
from typing import Any

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from apigw.observability import instruments
from apigw.observability.exposition import OPENMETRICS, TEXT, merge, render
from apigw.observability.metrics import BUCKETS, Histogram, Metrics, Snapshot


def scraped(*processes: Metrics) -> dict[tuple[str, ...], float]:
    """All samples, as ``(name, label, value, ...)``, through the JSON that workers send and Prometheus' own parser."""
    snapshots: list[Snapshot] = [json.loads(json.dumps(metrics.snapshot())) for metrics in processes]
    text, content_type = render(snapshots)
    assert content_type == TEXT
    families: list[Metric] = list(text_string_to_metric_families(text.decode()))
    samples: dict[tuple[str, ...], float] = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, *(part for pair in sorted(sample.labels.items()) for part in pair))
            assert key not in samples, "a series may appear once only"
            samples[key] = sample.value
    return samples


def test_requests_are_counted_by_route_method_and_status() -> None:
    metrics = Metrics()
    users = metrics.route("users")
    for method, status in [(b"GET", 200), (b"GET", 200), (b"GET", 404), (b"POST", 200)]:
        users.observe(method, status, 0.01)
    metrics.route("").observe(b"GET", 404, 0.0)
    samples = scraped(metrics)
    name = "apigw_requests_total"
    assert {key[2:]: value for key, value in samples.items() if key[0] == name} == {
        ("GET", "route", "users", "status", "200"): 2,
        ("GET", "route", "users", "status", "404"): 1,
        ("POST", "route", "users", "status", "200"): 1,
        ("GET", "route", "", "status", "404"): 1,
    }


def test_durations_fall_into_their_buckets() -> None:
    metrics = Metrics()
    users = metrics.route("users")
    for seconds in (0.0001, 0.001, 0.0011, 31.0):
        users.observe(b"GET", 200, seconds)
    samples = scraped(metrics)
    name = "apigw_request_duration_seconds"
    at_most = {
        bound: samples[f"{name}_bucket", "le", bound, "route", "users"] for bound in ("0.0005", "0.001", "30.0", "+Inf")
    }
    assert at_most == {"0.0005": 1, "0.001": 2, "30.0": 3, "+Inf": 4}
    assert samples[f"{name}_count", "route", "users"] == 4
    assert round(samples[f"{name}_sum", "route", "users"], 6) == 31.0022


def test_methods_that_clients_make_up_are_one_series() -> None:
    metrics = Metrics()
    for i in range(1000):
        metrics.route("").observe(b"X%d" % i, 400, 0.0)
    assert scraped(metrics)["apigw_requests_total", "method", "OTHER", "route", "", "status", "400"] == 1000


def test_tries_are_counted_by_target_and_those_without_answer_too() -> None:
    metrics = Metrics()
    target = metrics.target("users", "127.0.0.1:9101")
    for status in (200, 200, 503, 0):
        target.statuses[status] += 1
    samples = {key[1:]: value for key, value in scraped(metrics).items() if key[0] == "apigw_upstream_requests_total"}
    of_target = ("target", "127.0.0.1:9101", "upstream", "users")
    assert samples == {
        ("status", "200", *of_target): 2,
        ("status", "503", *of_target): 1,
        ("status", "none", *of_target): 1,
    }


def test_what_the_gateway_answered_by_itself_is_counted_by_reason() -> None:
    metrics = Metrics()
    for reason in ("upstream_refused", "upstream_refused", "rate_limited"):
        metrics.route("users").ended_by_gateway(reason)
    samples = scraped(metrics)
    assert samples["apigw_gateway_responses_total", "reason", "upstream_refused", "route", "users"] == 2
    assert samples["apigw_gateway_responses_total", "reason", "rate_limited", "route", "users"] == 1


def test_a_reload_keeps_the_counts_of_what_stays_and_forgets_what_went() -> None:
    metrics = Metrics()
    for name in ("stays", "goes"):
        metrics.route(name).observe(b"GET", 200, 0.01)
        metrics.target("users", name).statuses[200] += 1
    metrics.route("").observe(b"GET", 404, 0.01)
    metrics.keep_only({"stays", "new"}, {("users", "stays")})
    metrics.route("stays").observe(b"GET", 200, 0.01)
    samples = scraped(metrics)
    counts = {key[4]: value for key, value in samples.items() if key[0] == "apigw_requests_total"}
    assert counts == {"stays": 2, "": 1}
    assert [key[4] for key in samples if key[0] == "apigw_upstream_requests_total"] == ["stays"]


def test_gauges_are_asked_when_metrics_are_read() -> None:
    metrics = Metrics()
    open_now = 3
    metrics.gauge(instruments.CONNECTIONS, lambda: [(("public",), open_now), (("tls",), 1)])
    assert scraped(metrics)["apigw_connections", "listener", "public"] == 3
    open_now = 5
    samples = scraped(metrics)
    assert (samples["apigw_connections", "listener", "public"], samples["apigw_connections", "listener", "tls"]) == (
        5,
        1,
    )


def test_a_gauge_that_breaks_hides_no_other() -> None:
    metrics = Metrics()
    metrics.gauge(instruments.CONNECTIONS, lambda: [((), 1 / 0)])
    metrics.gauge(instruments.POOL_CONNECTIONS, lambda: [(("users", "a:1", "idle"), 2)])
    samples = scraped(metrics)
    assert samples["apigw_pool_connections", "state", "idle", "target", "a:1", "upstream", "users"] == 2


def test_whether_the_last_reload_succeeded_is_seen() -> None:
    metrics = Metrics()
    metrics.reloaded(success=True, loaded_at=1000.0)
    assert scraped(metrics)["apigw_config_last_reload_success",] == 1
    metrics.reloaded(success=False, loaded_at=1000.0)
    samples = scraped(metrics)
    assert samples["apigw_config_last_reload_success",] == 0
    assert samples["apigw_config_last_reload_timestamp_seconds",] == 1000


def test_the_numbers_of_workers_are_added_up() -> None:
    workers = [Metrics(), Metrics(), Metrics()]
    for i, metrics in enumerate(workers, 1):
        for _ in range(i):
            metrics.route("users").observe(b"GET", 200, 0.01)
        metrics.gauge(instruments.CONNECTIONS, lambda i=i: [(("public",), 10 * i)])  # type: ignore[misc]
        metrics.reloaded(success=i != 2, loaded_at=1000.0 + i)
        metrics.histogram(instruments.REACTOR_LAG).observe(0.3)
    workers[2].route("only here").observe(b"GET", 200, 0.01)
    samples = scraped(*workers)
    assert samples["apigw_requests_total", "method", "GET", "route", "users", "status", "200"] == 6
    assert samples["apigw_requests_total", "method", "GET", "route", "only here", "status", "200"] == 1
    assert samples["apigw_request_duration_seconds_bucket", "le", "0.01", "route", "users"] == 6
    assert samples["apigw_connections", "listener", "public"] == 60
    assert samples["apigw_config_last_reload_success",] == 0, "one worker that has not the configuration is a failure"
    assert samples["apigw_config_last_reload_timestamp_seconds",] == 1001
    assert samples["apigw_reactor_lag_seconds_count",] == 3
    assert samples["process_cpu_seconds_total",] > 0


def test_adding_up_changes_no_workers_own_numbers() -> None:
    metrics = Metrics()
    metrics.route("users").observe(b"GET", 200, 0.01)
    snapshot = metrics.snapshot()
    before = json.dumps(snapshot)
    merge([snapshot, snapshot])
    assert json.dumps(snapshot) == before


def test_histograms_with_other_bounds_are_not_mixed() -> None:
    ours, theirs = Metrics((0.1, 1.0)), Metrics((0.5,))
    for metrics in (ours, theirs):
        metrics.route("users").observe(b"GET", 200, 0.2)
    (family,) = [family for family in merge([ours.snapshot(), theirs.snapshot()]) if "duration" in family["name"]]
    histograms: dict[str, Any] = {labels[0]: value for labels, value in family["samples"]}
    expected: Histogram = {"bounds": [0.1, 1.0], "counts": [0, 1, 0], "sum": 0.2}
    assert histograms["users"] == expected


def test_openmetrics_is_written_for_who_asks_for_it() -> None:
    metrics = Metrics()
    metrics.route('a "b" \\ c\nd').observe(b"GET", 200, 0.01)
    text, content_type = render([metrics.snapshot()], "application/openmetrics-text; version=1.0.0, text/plain")
    assert content_type == OPENMETRICS
    families = {family.name: family for family in openmetrics_families(text.decode())}  # type: ignore[no-untyped-call]
    assert families["apigw_requests"].samples[0].labels["route"] == 'a "b" \\ c\nd'
    assert families["apigw_request_duration_seconds"].type == "histogram"
    assert families["process_cpu_seconds"].samples[0].name == "process_cpu_seconds_total"


def test_the_process_itself_is_measured() -> None:
    names = {key[0] for key in scraped(Metrics())}
    assert names >= {
        *("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"),
        *("process_start_time_seconds", "process_virtual_memory_bytes"),
    }


def test_buckets_ascend() -> None:
    assert list(BUCKETS) == sorted(set(BUCKETS))


def test_other_counters_are_found_again_by_their_labels() -> None:
    metrics = Metrics()
    for policy in ("cors shop", "jwt main", "cors shop"):
        metrics.counter(instruments.POLICY_EVENTS, policy, "would_deny").value += 1
    samples = scraped(metrics)
    assert samples["apigw_policy_events_total", "event", "would_deny", "policy", "cors shop"] == 2
    assert samples["apigw_policy_events_total", "event", "would_deny", "policy", "jwt main"] == 1
