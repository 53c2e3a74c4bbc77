"""
The corpus of answers: what a service may send, and exactly what the client gets.

A *good* answer reaches the client as these bytes. A *bad* one becomes a 502, if nothing of it went on before it turned
out to be bad, or else a transfer that is cut off: never a message that looks complete.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """
    One stream of bytes from a service.

    :ivar request: what the client asked. :ivar end: how the service ends: stays (""), closes, or resets.
    :ivar client: what the client gets; None for a bad answer.
    :ivar reason: of the failure. :ivar reused: the connection to the service serves another request afterwards.
    :ivar close: the client's connection ends.
    """

    name: str
    clause: str
    data: bytes
    request: bytes
    end: str = ""
    client: bytes | None = None
    reason: str = ""
    reused: bool = False
    close: bool = False


ANSWERS: list[Answer] = []
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
OLD_KEPT = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nDate: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def good(
    name: str, clause: str, data: bytes, client: bytes, *, request: bytes = GET, end: str = "", reused: bool = True,
    close: bool = False,
) -> None:  # fmt: skip
    ANSWERS.append(Answer(name, clause, data, request, end, client, reused=reused, close=close))


def same(name: str, clause: str, data: bytes, *, request: bytes = GET, end: str = "", reused: bool = True) -> None:
    good(name, clause, data, data, request=request, end=end, reused=reused)


def bad(
    name: str, clause: str, data: bytes, reason: str = "upstream_protocol_error", *, request: bytes = GET, end: str = ""
) -> None:
    ANSWERS.append(Answer(name, clause, data, request, end, reason=reason))


# --- Lengths ----------------------------------------------------------------------------------------------------------

L = "RFC 9112 6.3"
same("content", L, OK + b"Content-Length: 3\r\n\r\nabc")
same("no content", L, OK + b"Content-Length: 0\r\n\r\n")
good("chunked", L, OK + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", OK + b"Content-Length: 3\r\n\r\nabc")
good("up to the end, to 1.1", L, OK + b"\r\nabc", OK + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", end="close", reused=False)
good("nothing up to the end", L, OK + b"\r\n", OK + CHUNKED + b"0\r\n\r\n", end="close", reused=False)
good(
    "up to the end, to 1.0",
    L,
    OK + b"\r\nabc",
    OK + b"Connection: close\r\n\r\nabc",
    request=OLD_KEPT,
    end="close",
    reused=False,
    close=True,
)
bad("up to a reset, to 1.1", "RFC 9112 8", OK + b"\r\nabc", "upstream_aborted", end="reset")
bad("up to a reset, to 1.0", "RFC 9112 8", OK + b"\r\nabc", "upstream_aborted", request=OLD, end="reset")
bad("fewer bytes than announced", "RFC 9112 8", OK + b"Content-Length: 4\r\n\r\nabc", "upstream_aborted", end="close")
bad("the last chunk is missing", "RFC 9112 8", OK + CHUNKED + b"3\r\nabc\r\n", "upstream_aborted", end="close")
bad("ends within a chunk", "RFC 9112 8", OK + CHUNKED + b"5\r\nabc", "upstream_aborted", end="close")
bad("ends within the trailers", "RFC 9112 8", OK + CHUNKED + b"3\r\nabc\r\n0\r\n", "upstream_aborted", end="close")
good(
    "more bytes than announced",
    L,
    OK + b"Content-Length: 3\r\n\r\nabcdef",
    OK + b"Content-Length: 3\r\n\r\nabc",
    reused=False,
)
good(
    "a second answer that nobody asked for",
    "RFC 9112 9.2",
    (OK + b"Content-Length: 1\r\n\r\na") * 2,
    OK + b"Content-Length: 1\r\n\r\na",
    reused=False,
)
good(
    "bytes after the last chunk",
    L,
    OK + CHUNKED + b"1\r\na\r\n0\r\n\r\nX",
    OK + b"Content-Length: 1\r\n\r\na",
    reused=False,
)
bad("length and chunks", L, OK + b"Content-Length: 3\r\n" + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n")
bad("two lengths", L, OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")
for value in (b"-3", b"+3", b"3,3", b"0x3", b"", b"9" * 19, b"3 4"):
    bad(f"Content-Length: {value.decode()}", L, OK + b"Content-Length: " + value + b"\r\n\r\nabc")
for value in (b"gzip, chunked", b"identity", b"chunked, gzip", b"", b"xchunked"):
    bad(
        f"Transfer-Encoding: {value.decode()}",
        "RFC 9112 6.1",
        OK + b"Transfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n",
    )
bad("HTTP/1.0 with chunks", "RFC 9112 6.1", b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"0\r\n\r\n")
for body in (
    b"3\nabc\r\n0\r\n\r\n",
    b"g\r\n",
    b"-1\r\n",
    b"1" * 16 + b"\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"3;\0\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX\r\n\r\n",
):
    bad(f"chunks {body!r}", "RFC 9112 7.1", OK + CHUNKED + body)
good(
    "chunk extensions end here",
    "RFC 9112 7.1.1",
    OK + CHUNKED + b"3;a=b\r\nabc\r\n0;c\r\n\r\n",
    OK + b"Content-Length: 3\r\n\r\nabc",
)
same("trailers", "RFC 9112 7.1.2", OK + CHUNKED + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")
good(
    "forbidden trailers",
    "RFC 9110 6.5.1",
    OK + CHUNKED + b"0\r\nContent-Length: 5\r\nSet-Cookie: a\r\nX: 1\r\n\r\n",
    OK + CHUNKED + b"0\r\nX: 1\r\n\r\n",
)
good(
    "chunks to 1.0",
    "RFC 9112 6.1",
    OK + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    OK + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc",
    request=OLD,
    close=True,
)

# --- Without content --------------------------------------------------------------------------------------------------

same("HEAD", "RFC 9110 9.3.2", OK + b"Content-Length: 3\r\n\r\n", request=HEAD)
good("HEAD with chunks", "RFC 9110 9.3.2", OK + CHUNKED, OK + b"\r\n", request=HEAD)
same("HEAD without length", "RFC 9110 9.3.2", OK + b"\r\n", request=HEAD)
good(
    "HEAD with content",
    "RFC 9110 9.3.2",
    OK + b"Content-Length: 3\r\n\r\nabc",
    OK + b"Content-Length: 3\r\n\r\n",
    request=HEAD,
    reused=False,
)
same("204", "RFC 9110 15.3.5", b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n")
good(
    "204 with a length",
    "RFC 9110 8.6",
    b"HTTP/1.1 204 No Content\r\nDate: x\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
)
good(
    "204 with a length, to HEAD",
    "RFC 9110 8.6",
    b"HTTP/1.1 204 No Content\r\nDate: x\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
    request=HEAD,
)
good(
    "204 with content",
    "RFC 9110 8.6",
    b"HTTP/1.1 204 No Content\r\nDate: x\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
    reused=False,
)
good(
    "204 with chunks",
    "RFC 9112 6.1",
    b"HTTP/1.1 204 No Content\r\nDate: x\r\n" + CHUNKED + b"0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
    reused=False,
)
same("205", "RFC 9110 15.3.6", b"HTTP/1.1 205 Reset Content\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
same("304", "RFC 9110 15.4.5", b'HTTP/1.1 304 Not Modified\r\nDate: x\r\nETag: "a"\r\n\r\n')
same(
    "304 with the length of a 200", "RFC 9110 8.6", b"HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 3\r\n\r\n"
)

# --- 1xx --------------------------------------------------------------------------------------------------------------

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
END = OK + b"Content-Length: 1\r\n\r\na"
same("103", "RFC 8297 2", HINTS + END)
good(
    "103 to 1.0",
    "RFC 9110 15.2",
    HINTS + END,
    OK + b"Content-Length: 1\r\nConnection: close\r\n\r\na",
    request=OLD,
    close=True,
)
same("several 1xx", "RFC 9110 15.2", b"HTTP/1.1 102 Processing\r\n\r\n" + HINTS + END)
good("a 1xx nobody knows", "RFC 9110 15.2", b"HTTP/1.1 199 Well\r\n\r\n" + END, b"HTTP/1.1 199 \r\n\r\n" + END)
good("100 that nobody waits for", "RFC 9110 10.1.1", b"HTTP/1.1 100 Continue\r\n\r\n" + END, END)
good(
    "1xx with framing",
    "RFC 9110 8.6",
    b"HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\n" + END,
    b"HTTP/1.1 103 Early Hints\r\n\r\n" + END,
)
bad("101 that nobody asked for", "RFC 9110 15.2.2", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
bad("103, and then nothing", "RFC 9112 8", HINTS, "upstream_reset", end="close")

# --- Heads ------------------------------------------------------------------------------------------------------------

S = "RFC 9112 4"
same("a phrase of one's own", S, b"HTTP/1.1 200 Fine, thanks\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
good("no phrase", S, b"HTTP/1.1 200 \r\nDate: x\r\nContent-Length: 0\r\n\r\n", OK + b"Content-Length: 0\r\n\r\n")
good(
    "no phrase, and no space",
    S,
    b"HTTP/1.1 200\r\nDate: x\r\nContent-Length: 0\r\n\r\n",
    OK + b"Content-Length: 0\r\n\r\n",
)
same("a status nobody knows", S, b"HTTP/1.1 599 Odd\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
good(
    "fields keep order and case",
    "RFC 9110 5.3",
    OK + b"sEt-cookie: a\r\nX:  1 \r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    OK + b"sEt-cookie: a\r\nX: 1\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
)
good(
    "hop-by-hop fields",
    "RFC 9110 7.6.1",
    OK
    + b"Connection: X-Own, keep-alive\r\nX-Own: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n"
    + b"Content-Length: 0\r\n\r\n",
    OK + b"Content-Length: 0\r\n\r\n",
)
good(
    "Connection: close is the service's own",
    "RFC 9110 7.6.1",
    OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
    OK + b"Content-Length: 0\r\n\r\n",
    reused=False,
)
good(
    "HTTP/1.0",
    "RFC 9112 9.3",
    b"HTTP/1.0 200 OK\r\nDate: x\r\nContent-Length: 1\r\n\r\na",
    OK + b"Content-Length: 1\r\n\r\na",
    reused=False,
)
good(
    "HTTP/1.0 that keeps the connection",
    "RFC 9112 9.3",
    b"HTTP/1.0 200 OK\r\nDate: x\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
    OK + b"Content-Length: 1\r\n\r\na",
)
good(
    "white space before a colon is removed",
    "RFC 9112 5.1",
    OK + b"X : 1\r\nContent-Length: 0\r\n\r\n",
    OK + b"X: 1\r\nContent-Length: 0\r\n\r\n",
)
same("a value with obs-text", "RFC 9110 5.5", OK + b"X: \xfc\r\nContent-Length: 0\r\n\r\n")
for status_line in (
    b"HTTP/1.1 20 OK",
    b"HTTP/1.1 2000 OK",
    b"HTTP/1.1 099 OK",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1 abc OK",
    b"HTTP/1.1 -20 OK",
    b"HTTP/2.0 200 OK",
    b"http/1.1 200 OK",
    b"HTTP/1.1\t200 OK",
    b"200 OK",
    b"HTTP/1.1 200 O\0K",
    b"HTTP/1.1 200 O\x1bK",
    b"ICY 200 OK",
    b" HTTP/1.1 200 OK",
    b"SSH-2.0-OpenSSH_9.2",
):
    bad(f"status line {status_line!r}", S, status_line + b"\r\nContent-Length: 0\r\n\r\n")
for field in (b"X: 1\r\n 2", b"X: 1\n2", b"X: 1\r2", b"X: \0", b": 1", b"X", b"X Y: 1", b"X\0: 1"):
    bad(f"field {field!r}", "RFC 9112 5", OK + field + b"\r\nContent-Length: 0\r\n\r\n")
bad("a head without end", S, OK + b"X: " + b"a" * 70000)
bad("a long head", S, OK + b"X: " + b"a" * 66000 + b"\r\nContent-Length: 0\r\n\r\n")
bad("a head of too many fields", S, OK + b"X: 1\r\n" * 20000 + b"Content-Length: 0\r\n\r\n")
bad("nonsense without end", S, b"\x15\x03\x01\x00\x02\x02")
bad("nothing", "RFC 9112 8", b"", "upstream_reset", end="close")
bad("a reset at once", "RFC 9112 8", b"", "upstream_reset", end="reset")
bad("half a head", "RFC 9112 8", OK, "upstream_reset", end="close")
