"""The options of an [upstream X] section, as they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from apigw.config.model import allowed
from apigw.upstream.settings import HealthSettings, HedgeSettings, ResilienceSettings, RetrySettings
from apigw.upstream.target_spec import SourceSpec, TargetSpec


def section(**options: object) -> ResilienceSettings:
    return ResilienceSettings.model_validate({"targets": "http://127.0.0.1:9102", **options})


def test_the_orders_upstream_of_the_demo() -> None:
    orders = section(
        targets="http://127.0.0.1:9102 weight=2\nhttp://127.0.0.1:9112 weight=1",
        balance="least_request",
        health={"path": "/health", "interval": "2s"},
        breaker={"error_threshold": "50%", "rolling_window": "10s", "volume_threshold": "20", "reset_timeout": "5s"},
        retry={"attempts": "2", "on": "connect, reset, 502, 503, 504"},
    )
    assert [str(target) for target in orders.targets] == ["http://127.0.0.1:9102 weight=2", "http://127.0.0.1:9112"]
    assert orders.health.enabled
    assert orders.breaker.on
    assert (orders.breaker.error_threshold, orders.breaker.reset_timeout) == (0.5, 5.0)
    assert orders.retry.on == {"connect", "reset", 502, 503, 504}


def test_an_upstream_without_options_has_passive_checks_one_retry_and_no_breaker() -> None:
    plain = section()
    assert not plain.health.enabled
    assert not plain.breaker.on
    assert plain.outlier.enabled
    assert plain.retry.attempts == 2
    assert plain.hedge.after is None


def test_a_breaker_with_only_a_fallback_is_on() -> None:
    products = section(breaker={"fallback_status": "503", "fallback_body": '{"error": "Service unavailable"}'})
    assert products.breaker.on
    assert products.breaker.fallback_body == '{"error": "Service unavailable"}'


def test_sources_of_every_kind(tmp_path: Path) -> None:
    found = section(
        targets="dns:orders.internal:9102 weight=2\nsrv:_http._tcp.orders.internal\n"
        f"file:{tmp_path}/x\nunix:/run/a.sock",
        discover="http://registry/targets.json",
    )
    assert [getattr(line, "kind", "fixed") for line in found.sources] == ["dns", "srv", "file", "fixed", "http"]
    assert found.sources[0] == SourceSpec("dns", "orders.internal", 9102, weight=2)
    assert isinstance(found.sources[3], TargetSpec)


def test_an_upstream_needs_targets() -> None:
    with pytest.raises(ValueError, match="there are no targets"):
        ResilienceSettings.model_validate({})
    assert ResilienceSettings.model_validate({"discover": "http://registry/x"}).sources


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (HealthSettings, {"path": "health"}),
        (HealthSettings, {"type": "tcp", "path": "/health"}),
        (HealthSettings, {"path": "/h", "interval": "0s"}),
        (RetrySettings, {"on": "conect"}),
        (RetrySettings, {"attempts": "0"}),
        (HedgeSettings, {"after": "100%"}),
        (HedgeSettings, {"after": "0%"}),
        (HedgeSettings, {"after": "soon"}),
        (ResilienceSettings, {"targets": "http://a", "hash": {"load_factor": "0.5"}}),
        (ResilienceSettings, {"targets": "http://a", "panic_threshold": "120%"}),
    ],
)
def test_what_makes_no_sense_is_refused(model: type[HealthSettings], options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        model.model_validate(options)


def test_every_option_says_what_it_is_for() -> None:
    options = allowed(ResilienceSettings)
    assert len(options) > 60
    for name, option in options.items():
        assert option.info.description, name
