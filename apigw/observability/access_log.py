"""
``AccessLog``: one line for every exchange, whatever became of it.

This is called once per request, on the data path: no logging call, no JSON encoder for what is the same in most lines.
Fragments that repeat (route, upstream, status and host; the client; the user agent) are formatted once and remembered;
what is new in a line (id, path) is escaped only if a byte of it needs that. Lines gather in a buffer, which goes out
when 64 KiB are full, or at ``flush()``, which a timer calls once a second.

Nothing here raises into the data path, and no line can be forged by what a client sends: every byte from outside is
escaped (CWE-117). Credentials are masked (``apigw.observability.redaction``); of the header fields only User-Agent
and Referer are written.

Not here: where lines go (``apigw.observability.log_file``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

from twisted.logger import Logger

from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.json_text import string, write_any
from apigw.observability.log_file import LogFile
from apigw.observability.redaction import query_redactor, url_redactor

Format = Literal["json", "combined"]

FLUSH_SIZE = 64 * 1024
"""Bytes of lines that are gathered before they are written."""

REMEMBERED = 1024
"""Fragments of one kind that are kept; then all are forgotten, so that clients can't fill the memory."""

REMEMBERED_HEADS = 128
"""The same for heads, which are larger, and which many clients never send twice."""

LONGEST_REMEMBERED = 512
"""Bytes of a fragment that is worth keeping."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# 1 where a byte can't stand in a JSON string (or in a quoted field of the combined format) as it is.
_MUST_ESCAPE = bytes(0 if 32 <= byte < 127 and byte not in b'"\\' else 1 for byte in range(256))
# The same, and 1 for what makes a target more than a plain path: a query, an absolute target, user information.
_MUST_LOOK = bytes(1 if flag or byte in b"?:@#" else 0 for byte, flag in enumerate(_MUST_ESCAPE))

_AGENT_SIZE = len(b"user-agent")
_REFERER_SIZE = len(b"referer")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*")

log = Logger()


def wall_offset() -> float:
    """Seconds to add to ``time.monotonic()`` to have the time of day."""
    return time.time() - time.monotonic()  # noqa: TID251 (a log tells the time of day)


def open_access_log(where: str, form: Format = "json", *, redact: Iterable[str] = ()) -> AccessLog | None:
    """
    The access log as it is configured; None if it is ``off``, so that the data path has nothing to call.

    :param where: a path, ``-`` for standard output, or ``off``.
    :param redact: names of query parameters to mask, beside those that always are.
    :raises OSError: when the file can't be opened.
    """
    return None if where == "off" else AccessLog(form, LogFile(where), redact=redact)


class AccessLog:
    """
    Formats and gathers lines.

    :ivar record: ``record(request, status, bytes_out, finished)``, to be called once when an exchange is over:
        the final status (499 if the client went away first), bytes of content sent, monotonic seconds.
    :ivar failed: exchanges that could not be written down because of a defect of ours.
    """

    __slots__ = (
        "_buffer", "_clients", "_contexts", "_file", "_from", "_ms", "_offset", "_offset_until", "_redact",
        "_redact_url", "_second", "_second_text", "_shown", "_tails", "_targets", "_time", "_until", "_wall_offset",
        "failed", "record",
    )  # fmt: skip

    record: Callable[[Request, int, int, float], None]

    def __init__(
        self,
        form: Format,
        file: LogFile,
        *,
        offset: Callable[[], float] = wall_offset,
        redact: Iterable[str] = (),
    ) -> None:
        """
        :param offset: seconds from the monotonic clock to the time of day; asked once a second.
        :param redact: names of query parameters to mask, beside those that always are.
        """
        self.record = self._json if form == "json" else self._combined
        self.failed = 0
        self._file = file
        self._buffer = bytearray()
        self._redact = query_redactor(redact)
        self._redact_url = url_redactor(self._redact)
        self._wall_offset = offset
        self._offset = 0.0
        self._offset_until = float("-inf")
        # The text of the time is right while `_from` <= finished < `_until` (monotonic seconds): for one millisecond
        # in JSON, for one second in the combined format.
        self._from = self._until = float("-inf")
        self._ms = form == "json"
        self._second = -1
        self._second_text = b""
        self._time = b""
        self._contexts: dict[tuple[Any, ...], bytes] = {}
        self._clients: dict[str, bytes] = {}
        self._tails: dict[Headers, bytes] = {}
        self._shown: dict[tuple[bytes | None, bytes | None], bytes] = {}
        self._targets: dict[bytes, bytes] = {}

    @property
    def lost(self) -> int:
        """Lines that were dropped because the file could not take them."""
        return self._file.lost

    def flush(self) -> None:
        """Write what was gathered. Call it about once a second. Never raises, never waits for a slow reader."""
        buffer = self._buffer
        if buffer:
            self._buffer = bytearray()
            self._file.write(buffer)
        else:
            self._file.push()

    def reopen(self) -> None:
        """Go on in a new file of the same name (SIGUSR1, after a log rotation)."""
        self.flush()
        self._file.reopen()

    def close(self) -> None:
        """Write the rest and close the file."""
        self.flush()
        self._file.close()

    # JSON.

    def _json(self, request: Request, status: int, bytes_out: int, finished: float) -> None:
        try:
            if not self._from <= finished < self._until:
                self._set_time(finished)
            route = request.route
            upstream = request.upstream
            key = (
                route.name if route is not None else "", upstream, request.upstream_target, status, request.tries,
                request.method, request.host, request.version, request.reason,
            )  # fmt: skip
            context = self._contexts.get(key)
            if context is None:
                context = self._remember(self._contexts, key, _json_context(key))
            client = self._clients.get(request.client)
            if client is None:
                client = self._remember(self._clients, request.client, _quoted(request.client)[1:-1])
            tail = self._tails.get(request.headers)
            if tail is None:
                tail = self._tail(request.headers, self._json_tail)
            id_ = request.id
            if not id_.isalnum():
                id_ = _quoted(id_.decode("latin-1"))[1:-1]
            path = self._targets.get(request.target)
            if path is None:
                path = self._remember(self._targets, request.target, self._json_target(request), len(request.target))
            if request.identity is not None or request.notes is not None:
                tail = _json_findings(request) + tail
            body = request.body
            bytes_in = body.received if body is not None else 0
            if upstream:
                line = b'{"time":"%b","id":"%b","client":"%b",%b,"path":"%b","duration":%.6f,"upstream_time":%.6f,"bytes_in":%d,"bytes_out":%d%b}\n' % (  # noqa: E501
                    self._time, id_, client, context, path, finished - request.started, request.upstream_time,
                    bytes_in, bytes_out, tail,
                )  # fmt: skip
            else:
                line = b'{"time":"%b","id":"%b","client":"%b",%b,"path":"%b","duration":%.6f,"bytes_in":%d,"bytes_out":%d%b}\n' % (  # noqa: E501
                    self._time, id_, client, context, path, finished - request.started, bytes_in, bytes_out, tail,
                )  # fmt: skip
            buffer = self._buffer
            buffer += line
            if len(buffer) > FLUSH_SIZE:
                self.flush()
        except Exception:
            self._defect()

    def _json_target(self, request: Request) -> bytes:
        """The path as it was received, in its JSON string, with the query's member behind it."""
        if 1 not in request.target.translate(_MUST_LOOK):
            return request.target
        path, query = self._path_and_query(request)
        text = _quoted_bytes(path)[1:-1]
        return text if query is None else text + b'","query":' + _quoted_bytes(query)[:-1]

    def _json_tail(self, agent: bytes | None, referer: bytes | None) -> bytes:
        tail = b""
        if agent is not None:
            tail += b',"user_agent":' + _quoted_bytes(agent)
        if referer is not None:
            tail += b',"referer":' + _quoted_bytes(self._redact_url(referer))
        return tail

    # The "combined" format of Apache and nginx.

    def _combined(self, request: Request, status: int, bytes_out: int, finished: float) -> None:
        try:
            if not self._from <= finished < self._until:
                self._set_time(finished)
            tail = self._tails.get(request.headers)
            if tail is None:
                tail = self._tail(request.headers, self._combined_tail)
            client = self._clients.get(request.client)
            if client is None:
                client = self._remember(
                    self._clients, request.client, _as_nginx(request.client.encode("utf-8", "replace"), b" ")
                )
            target = request.target
            method = request.method
            if 1 in (method + target).translate(_MUST_LOOK):
                method = _as_nginx(method)
                path, query = self._path_and_query(request)
                target = _as_nginx(path if query is None else path + b"?" + query)
            identity = request.identity
            name = identity.name if identity is not None else ""
            user = _as_nginx(name.encode("utf-8", "surrogatepass"), b" ") if name else b"-"
            buffer = self._buffer
            buffer += b'%b - %b [%b] "%b %b HTTP/%b" %d %d %b\n' % (
                client, user, self._time, method, target, _http_version(request.version), status, bytes_out, tail,
            )  # fmt: skip
            if len(buffer) > FLUSH_SIZE:
                self.flush()
        except Exception:
            self._defect()

    def _combined_tail(self, agent: bytes | None, referer: bytes | None) -> bytes:
        return b'"%b" "%b"' % (
            b"-" if referer is None else _as_nginx(self._redact_url(referer)),
            _as_nginx(agent or b"-"),
        )

    # For both.

    def _path_and_query(self, request: Request) -> tuple[bytes, bytes | None]:
        """What was received, without credentials. Of an absolute target its path: the authority is the host."""
        target = request.target
        absolute = _ABSOLUTE.match(target)
        if absolute is not None:
            target = target[absolute.end() :] or b"/"
        # Not `request.path` and `request.query`: a policy may have changed them.
        path, mark, query = target.partition(b"?")
        return path, self._redact(query) if mark else None

    def _tail(self, headers: Headers, form: Callable[[bytes | None, bytes | None], bytes]) -> bytes:
        """What a head adds to a line: kept by the head, which clients share, and by what is shown of it."""
        agent = referer = None
        # Not by `Headers.get`: it would build an index that perhaps nobody else needs.
        for name, value in headers.pairs:
            size = len(name)
            if size == _AGENT_SIZE:
                if agent is None and name.lower() == b"user-agent":
                    agent = value
            elif size == _REFERER_SIZE and referer is None and name.lower() == b"referer":
                referer = value
        tail = self._shown.get((agent, referer))
        if tail is None:
            size = len(agent or b"") + len(referer or b"")
            tail = self._remember(self._shown, (agent, referer), form(agent, referer), size)
        if len(self._tails) >= REMEMBERED_HEADS:
            self._tails.clear()
        self._tails[headers] = tail
        return tail

    def _remember(self, fragments: dict[Any, bytes], key: Any, fragment: bytes, size: int = 0) -> bytes:
        """:param size: bytes of the key: a long one may have a short fragment, with the rest masked."""
        if len(fragments) >= REMEMBERED:
            fragments.clear()
        if len(fragment) <= LONGEST_REMEMBERED and size <= LONGEST_REMEMBERED:
            fragments[key] = fragment
        return fragment

    def _set_time(self, now: float) -> None:
        if not self._offset_until - 1.0 <= now < self._offset_until:
            self._offset = self._wall_offset()
            self._offset_until = now + 1.0
        offset = self._offset
        milliseconds = int((now + offset) * 1000)
        second = milliseconds // 1000
        if second != self._second:
            self._second = second
            self._second_text = _rfc3339(second) if self._ms else _common_log_time(second)
        if self._ms:
            self._time = b"%b.%03dZ" % (self._second_text, milliseconds % 1000)
            self._from = milliseconds / 1000 - offset
            self._until = (milliseconds + 1) / 1000 - offset
        else:
            self._time = self._second_text
            self._from = second - offset
            self._until = min(second + 1 - offset, self._offset_until)

    def _defect(self) -> None:
        """An exchange must not fail because it can't be written down."""
        self.failed += 1
        if self.failed == 1:
            log.failure("an exchange could not be written to the access log; further ones are only counted")


def _json_context(key: tuple[Any, ...]) -> bytes:
    """The members that most lines of a route share."""
    route, upstream, target, status, tries, method, host, version, reason = key
    members: dict[str, Any] = {
        "method": method.decode("utf-8", "backslashreplace"),
        "host": host.decode("utf-8", "backslashreplace"),
        "protocol": "HTTP/" + _http_version(version).decode("latin-1"),
        "status": status,
        "route": route,
    }
    if upstream:
        members |= {"upstream": upstream, "target": target, "tries": tries}
    if reason:
        members["reason"] = reason
    return write_any(members)[1:-1]


def _json_findings(request: Request) -> bytes:
    """What policies found out. Member names of notes are ours, their values may be anything."""
    findings = b""
    if request.identity is not None:
        findings = b',"identity":' + _quoted(request.identity.name)
    if request.notes:
        findings += b',"notes":' + write_any(request.notes)
    return findings


def _quoted(text: str) -> bytes:
    """A JSON string (RFC 8259 7), pure ASCII."""
    return string(text).encode("ascii")


def _quoted_bytes(data: bytes) -> bytes:
    r"""A JSON string of bytes that should be UTF-8; those that are not are shown as ``\xff``."""
    return _quoted(data.decode("utf-8", "backslashreplace"))


def _as_nginx(data: bytes, also: bytes = b"") -> bytes:
    r"""
    Escaped as nginx does it (``log_format escape=default``): ``"``, ``\``, controls and non-ASCII as ``\xXX``.

    :param also: further bytes to escape, like the space in a field without quotes.
    """
    if 1 not in data.translate(_MUST_ESCAPE) and not (also and also in data):
        return data
    return b"".join(b"\\x%02X" % byte if _MUST_ESCAPE[byte] or byte in also else bytes((byte,)) for byte in data)


def _http_version(version: bytes) -> bytes:
    """``1.1`` and the like; what a client claims to speak is escaped, too."""
    return version if version in {b"1.1", b"1.0"} else _as_nginx(version)


def _rfc3339(second: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()


def _common_log_time(second: int) -> bytes:
    """``10/Oct/2000:13:55:36 -0700``: local time, English months whatever the locale."""
    local = time.localtime(second)
    sign, offset = ("-", -local.tm_gmtoff) if local.tm_gmtoff < 0 else ("+", local.tm_gmtoff)
    return (
        f"{local.tm_mday:02}/{_MONTHS[local.tm_mon - 1]}/{local.tm_year:04}"
        f":{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02} {sign}{offset // 3600:02}{offset // 60 % 60:02}"
    ).encode()
