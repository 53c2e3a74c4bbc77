"""
What never reaches a log: the values of query parameters that look like credentials, and user information in URLs.

Header fields need no redaction here: the access log writes none but User-Agent and Referer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import islice
from urllib.parse import unquote_to_bytes

SECRET_PARAMETERS = frozenset(
    (
        *("access_token", "api_key", "apikey", "assertion", "auth", "authorization", "client_assertion", "code"),
        *("client_secret", "credential", "credentials", "id_token", "jwt", "key", "otp", "pass", "passcode", "passwd"),
        *("passphrase", "password", "private_key", "pwd", "refresh_token", "samlrequest", "samlresponse", "secret"),
        *("session", "session_id", "sessionid", "sid", "sig", "signature", "ticket", "token"),
    )
)
"""Parameters whose values are credentials, in lower case with ``_`` for ``-``."""

SECRET_ENDINGS = ("token", "secret", "password", "signature", "credential", "apikey", "api_key", "access_key")
"""A parameter whose name ends so is one too: ``X-Amz-Signature``, ``csrfToken``, ``user[new_password]``."""

MASK = b"***"

REMEMBERED = 1024
"""Parameter names whose verdict is kept; then all are forgotten."""

LONGEST_REMEMBERED = 64
"""Bytes of a name that is worth keeping."""


MOST_PARAMETERS = 100
"""Parameters of a query that are looked at; what is behind them is masked. Each takes up to 3 us."""

LONGEST_NAME = 256
"""Bytes of a name that is looked at; the value of a longer one is masked."""

_SEPARATOR = re.compile(rb"[&;]")
_USER_INFORMATION = re.compile(rb"^([A-Za-z][A-Za-z0-9+.\-]*://)[^/?#]*@")


def query_redactor(also: Iterable[str] = ()) -> Callable[[bytes], bytes]:
    """
    A function that replaces the values of secret parameters in a raw query by ``***``, and all behind the first
    ``MOST_PARAMETERS``. It changes nothing else.

    :param also: further parameter names, in any case.
    """
    names = SECRET_PARAMETERS | {_plain(name.encode()) for name in also}
    # Few names make up nearly all queries, so what was found of each is kept.
    verdicts: dict[bytes, bool] = {}

    def secret(name: bytes) -> bool:
        if len(name) > LONGEST_NAME:
            return True
        plain = _plain(unquote_to_bytes(name.replace(b"+", b" ")))
        verdict = plain in names or plain.endswith(SECRET_ENDINGS)
        if len(verdicts) >= REMEMBERED:
            verdicts.clear()
        if len(name) <= LONGEST_REMEMBERED:
            verdicts[name] = verdict
        return verdict

    def redact(query: bytes, separator: bytes = b"&") -> bytes:
        if query.count(b"&") + query.count(b";") >= MOST_PARAMETERS:
            last = next(islice(_SEPARATOR.finditer(query), MOST_PARAMETERS - 1, None))
            query = query[: last.end()] + MASK
        pieces = query.split(separator)
        changed = False
        for i, piece in enumerate(pieces):
            if b";" in piece:
                # Some services separate by `;` too.
                pieces[i] = redact(piece, b";")
                changed = True
                continue
            name, equals, value = piece.partition(b"=")
            verdict = verdicts.get(name)
            if value and (secret(name) if verdict is None else verdict):
                pieces[i] = name + equals + MASK
                changed = True
        return separator.join(pieces) if changed else query

    return redact


def url_redactor(redact_query: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """A function that masks user information and secret parameters of a whole URL, like that of a Referer field."""

    def redact(url: bytes) -> bytes:
        if b"@" in url:
            url = _USER_INFORMATION.sub(rb"\1" + MASK + b"@", url)
        before, mark, query = url.partition(b"?")
        if not mark:
            # OAuth's implicit flow puts tokens behind a `#`. Browsers do not send it; others do.
            before, mark, query = url.partition(b"#")
        return before + mark + redact_query(query) if mark else url

    return redact


def _plain(name: bytes) -> str:
    """``user[New-Password]`` -> ``new_password``: the part of a parameter's name that tells what it is."""
    text = name.decode("utf-8", "replace").strip().lower().replace("-", "_").rstrip("]")
    return text[max(text.rfind("["), text.rfind(".")) + 1 :]
