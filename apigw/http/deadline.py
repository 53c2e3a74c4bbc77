"""
Deadlines that travel with a request: ``X-Request-Timeout``, taken from trusted clients and passed on with what is left.

The value is seconds (``2.5``) or a duration (``250ms``, ``5s``, ``1m``). One deadline holds for all tries of a request.

Pure: ``now`` is passed in, in monotonic seconds.
"""

from __future__ import annotations

import re

_VALUE = re.compile(rb"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)?")
_SECONDS = {None: 1.0, b"ms": 0.001, b"s": 1.0, b"m": 60.0, b"h": 3600.0}


def parse_timeout(value: bytes) -> float | None:
    """Seconds above 0, or None if the value is none: a field that can't be read asks for nothing."""
    match = _VALUE.fullmatch(value.strip(b" \t"))
    if match is None:
        return None
    return float(match[1]) * _SECONDS[match[2]] or None


def remaining(deadline: float, now: float) -> bytes:
    """The value to pass on: the seconds left, to the millisecond, at least one."""
    return b"%.3f" % max(deadline - now, 0.001)
