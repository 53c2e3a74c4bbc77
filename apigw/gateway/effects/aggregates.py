"""
Limits of aggregates that are never reached.
"""

from __future__ import annotations

from collections.abc import Iterator

from apigw.config.configuration import Configuration
from apigw.config.problems import Problem
from apigw.config.values import show_duration


def aggregates(configuration: Configuration) -> Iterator[Problem]:
    """A call's ``timeout`` above that of the whole, and limits of one answer above that of all."""
    for name, settings in configuration.of("aggregate").items():
        for call, each in settings.call.items():
            if each.timeout is not None and each.timeout > settings.timeout:
                what = f"`timeout` ends all calls after {show_duration(settings.timeout)} already"
                yield configuration.problem("aggregate", name, f"call.{call}.timeout", what, warning=True)
    for kind in ("aggregate", "batch"):
        for name, settings in configuration.of(kind).items():
            if settings.max_answer > settings.max_answers:
                option = "max_answer" if "max_answer" in settings.model_fields_set else "max_answers"
                what = f"all answers together may have {settings.max_answers} bytes, one alone {settings.max_answer}"
                yield configuration.problem(kind, name, option, what, hint="a larger max_answers", warning=True)
