"""Retry-After, as a service says it: seconds, a date, or nonsense (RFC 9110 10.2.3)."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apigw.http.dates import retry_after


def test_seconds() -> None:
    assert retry_after(b"120") == 120.0


@pytest.mark.parametrize(("from_now", "wait"), [(3600, 3600.0), (-3600, 0.0)])
def test_a_date(from_now: float, wait: float) -> None:
    date = formatdate(time.time() + from_now, usegmt=True)  # noqa: TID251 - the field says it so
    assert retry_after(date.encode()) == pytest.approx(wait, abs=60)


@pytest.mark.parametrize(
    "value", [b"", b"soon", b"-1", b"1.5", b"1234567890", b"\xff", b"Sun, 99 Nov 99999 08:49:37 GMT"]
)
def test_nonsense_is_none(value: bytes) -> None:
    assert retry_after(value) is None


PARTS = [
    "Sun,",
    "06",
    "99",
    "0",
    "Nov",
    "1994",
    "0001",
    "9999",
    "99999",
    "08:49:37",
    "24:60:61",
    "GMT",
    "-2359",
    "-0000",
]


@given(
    st.binary(max_size=40) | st.lists(st.sampled_from(PARTS), max_size=7).map(lambda words: " ".join(words).encode())
)
def test_whatever_a_service_says_is_a_wait_or_nothing(value: bytes) -> None:
    wait = retry_after(value)
    assert wait is None or wait >= 0
