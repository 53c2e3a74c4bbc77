"""The Date field, formatted once a second (RFC 9110 6.6.1), and Retry-After (10.2.3)."""

from __future__ import annotations

import time
from email.utils import formatdate, parsedate_to_datetime

_second = -1
_line = b""


def http_date(now: float) -> bytes:
    """The field line ``Date: ...`` with its CRLF. ``now`` (monotonic seconds) only says when to format anew."""
    global _second, _line  # noqa: PLW0603 - one clock a process, and this is its face
    second = int(now)
    if second != _second:
        _second = second
        _line = b"Date: %b\r\n" % formatdate(time.time(), usegmt=True).encode()  # noqa: TID251 - the date is the wall clock's
    return _line


def retry_after(value: bytes) -> float | None:
    """Seconds that a Retry-After field asks for, as a number or a date; None if it is neither."""
    if value.isdigit():
        return float(value) if len(value) < 9 else None
    try:
        date = parsedate_to_datetime(value.decode())
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())  # noqa: TID251 - the date is the wall clock's
