"""What became of a call."""

from __future__ import annotations

from typing import Any

from apigw.exchange.headers import Headers, Pair

OK, FAILED, SKIPPED, CANCELLED, NOT_ASKED = "ok", "failed", "skipped", "cancelled", "not_asked"


class Outcome:
    """
    What became of a call.

    :ivar state: ``ok``; ``failed``; ``skipped`` (its ``when`` does not hold); ``cancelled`` (the whole failed before);
        ``not_asked`` (the whole failed before it could begin).
    :ivar value: of an answer. :ivar headers: of the answers, several after a ``foreach``.
    :ivar status: what the service answered, 0 if it did not.
    :ivar fault: the status that the client gets, and ``reason`` and ``detail`` for it, if the call was required;
        :attr:`fields` go with it.
    :ivar size: bytes of the answer. :ivar seconds: how long it took. :ivar at: monotonic seconds when it was there.
    """

    __slots__ = ("at", "detail", "fault", "fields", "headers", "reason", "seconds", "size", "state", "status", "value")

    def __init__(
        self,
        state: str,
        value: Any = None,
        *,
        status: int = 0,
        headers: tuple[Headers, ...] = (),
        reason: str = "",
        fault: int = 0,
        detail: str = "",
        seconds: float = 0.0,
        size: int = 0,
    ) -> None:
        self.state = state
        self.value = value
        self.status = status
        self.headers = headers
        self.reason = reason
        self.fault = fault
        self.detail = detail
        self.seconds = seconds
        self.size = size
        self.at = 0.0
        self.fields: tuple[Pair, ...] = ()

    def describe(self) -> dict[str, Any]:
        """For the problem document: nothing of what the service said but its status."""
        described: dict[str, Any] = {"outcome": self.state}
        if self.status:
            described["status"] = self.status
        if self.reason:
            described["reason"] = self.reason
            described["detail"] = self.detail
        if self.seconds:
            described["ms"] = round(self.seconds * 1000, 1)
        return described


def failed(*, reason: str, fault: int, detail: str, status: int = 0) -> Outcome:
    """A failed call."""
    return Outcome(FAILED, reason=reason, fault=fault, detail=detail, status=status)
