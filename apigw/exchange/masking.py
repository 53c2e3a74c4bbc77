"""
What must not get into a log although somebody else's code puts it into an exception: the credentials of a request.

Not here: queries and URLs in the access log (``apigw.observability.redaction``).
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Any

from twisted.python.failure import Failure

from apigw.exchange.headers import Pair
from apigw.exchange.request import Request

MASK = "***"
SHORTEST = 4
"""Characters of a value that is looked for: to mask every ``1`` would help nobody."""

_NAMES = (b"auth", b"cookie", b"key", b"token", b"secret", b"session", b"password", b"jwt", b"signature")


def credentials(fields: Iterable[Pair]) -> set[str]:
    """The values, and the parts of them, of fields that have the name of a credential."""
    found: set[str] = set()
    for name, value in fields:
        lower = name.lower()
        if not any(word in lower for word in _NAMES):
            continue
        text = value.decode("latin-1")
        found.add(text)
        if lower == b"cookie":
            found.update(part.partition("=")[2].strip() for part in text.split(";"))
            continue
        credential = text.partition(" ")[2].strip()
        found.add(credential)
        if text[:6].lower() == "basic ":
            try:
                found.update(binascii.a2b_base64(credential).decode("utf-8", "replace").split(":", 1)[1:])
            except ValueError:
                continue
    return {each for each in found if len(each) >= SHORTEST}


def masked(text: str, secrets: Iterable[str]) -> str:
    """Put ``***`` in the place of every one of ``secrets``."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


class MaskedFailure(Failure):
    """A failure of the work on a request, without the request's credentials in its text."""

    def __init__(self, error: BaseException, request: Request) -> None:
        super().__init__(error)  # type: ignore[no-untyped-call]
        self._secrets = credentials(request.headers.pairs)
        for part in (request.query or b"").split(b"&"):
            # Which parameter is one, only policies know.
            value = part.partition(b"=")[2].decode("latin-1")
            if len(value) >= 2 * SHORTEST:
                self._secrets.add(value)

    def getTraceback(self, *arguments: Any, **named: Any) -> str:
        """As text, masked."""
        return masked(super().getTraceback(*arguments, **named), self._secrets)

    def getErrorMessage(self) -> str:
        """As text, masked."""
        return masked(super().getErrorMessage(), self._secrets)
