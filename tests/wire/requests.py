"""
The corpus of requests: what a client may send, and what must come of it.

``refused`` ones get their status with their reason, the connection ends, and no service sees a complete request.
``passed`` ones arrive at the service as exactly these bytes, and are answered in order.

Sources: the examples of RFC 9110 and 9112, and what h1spec, Http11Probe, HTTP Garden, http-request-smuggler and
llhttp's strict tests try.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """
    One stream of bytes from a client.

    :ivar origin: the requests that arrive at the service; when refused, those before the refused one.
    :ivar status: of the refusal; 0 for none. :ivar close: the connection ends after the last answer.
    """

    name: str
    clause: str
    data: bytes
    origin: tuple[bytes, ...] = ()
    status: int = 0
    reason: str = ""
    close: bool = False
    trusted: bool = False


CASES: list[Case] = []


def refused(name: str, clause: str, data: bytes, status: int, reason: str, *before: bytes) -> None:
    CASES.append(Case(name, clause, data, before, status, reason, close=True))


def passed(name: str, clause: str, data: bytes, *origin: bytes, close: bool = False, trusted: bool = False) -> None:
    CASES.append(Case(name, clause, data, origin, close=close, trusted=trusted))


def sent(
    line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes = b"a", framing: bytes = b"", content: bytes = b"",
    facts: bytes | None = None, request_id: bytes = b"id",
) -> bytes:  # fmt: skip
    """A request as the service gets it."""
    if facts is None:
        quoted = b'"%b"' % host if b":" in host else host
        facts = (
            b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n%bForwarded: for=192.0.2.1;%bproto=http\r\n"
            b"Via: 1.1 apigw\r\n"
        ) % (b"X-Forwarded-Host: %b\r\n" % host if host else b"", b"host=%b;" % quoted if host else b"")
    own = b"".join(field + b"\r\n" for field in fields)
    id_line = b"X-Request-Id: %b\r\n" % request_id
    return b"%b\r\nHost: origin.test:8001\r\n%b%b%b%b\r\n%b" % (line, own, facts, id_line, framing, content)


def get(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes | None = b"Host: a") -> bytes:
    head = [line, *([] if host is None else [host]), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n"


def post(*lines: bytes, content: bytes = b"") -> bytes:
    return get(*lines, line=b"POST / HTTP/1.1") + content


def chunked(content: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", content=content)


POST = b"POST / HTTP/1.1"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
PLAIN = sent()
MALFORMED_LINE = (400, "malformed_request_line")
MALFORMED = (400, "malformed_head")
FRAMING = (400, "invalid_framing")
HOST = (400, "invalid_host")
CHUNKS = (400, "invalid_chunks")
TARGET = (400, "invalid_target")

# --- The request line -------------------------------------------------------------------------------------------------

L = "RFC 9112 3"
passed("the least request", L, get(), PLAIN)
passed(
    "fields keep order and case",
    "RFC 9110 5.3",
    get(b"x-B: 1", b"X-a: 2", b"x-b: 3"),
    sent(PLAIN[:14], b"x-B: 1", b"X-a: 2", b"x-b: 3"),
)
passed("an empty line before the request", "RFC 9112 2.2", b"\r\n" + get(), PLAIN)
passed("three empty lines before the request", "RFC 9112 2.2", b"\r\n\r\n\r\n" + get(), PLAIN)
passed("empty lines between requests", "RFC 9112 2.2", get() + b"\r\n\r\n" + get(), PLAIN, PLAIN)
passed("nothing but empty lines", "RFC 9112 2.2", b"\r\n\r\n\r\n\r\n")
refused("a bare LF before the request", "RFC 9112 2.2", b"\n" + get(), *MALFORMED_LINE)
refused("a bare CR before the request", "RFC 9112 2.2", b"\r" + get(), *MALFORMED_LINE)
refused("a space before the method", L, b" " + get(), *MALFORMED_LINE)
refused("a tab before the method", L, b"\t" + get(), *MALFORMED_LINE)
refused("HTTP/0.9", L, b"GET /\r\n\r\n", *MALFORMED_LINE)
refused("HTTP/0.9, one line", L, b"GET /\r\n", *MALFORMED_LINE)
refused("no method", L, b" / HTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("no target", L, b"GET HTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("an empty target", L, b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("two spaces after the method", L, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("two spaces before the version", L, b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("a space after the version", L, b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("a tab for the first space", L, b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("a tab for the second space", L, b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("a space in the target", L, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("a bare CR for the line's end", "RFC 9112 2.2", b"GET / HTTP/1.1\rHost: a\r\n\r\n", *MALFORMED_LINE)
refused("a bare LF for the line's end", "RFC 9112 2.2", b"GET / HTTP/1.1\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("LF everywhere", "RFC 9112 2.2", b"GET / HTTP/1.1\nHost: a\n\n", *MALFORMED_LINE)
refused("a CR in the target", L, b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("a NUL in the method", "RFC 9110 9.1", b"G\0T / HTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("a NUL in the target", "RFC 9112 3.2", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", *TARGET)
refused("a DEL in the target", "RFC 9112 3.2", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", *TARGET)
refused("raw UTF-8 in the target", "RFC 3986 2", "GET /ü HTTP/1.1\r\nHost: a\r\n\r\n".encode(), *TARGET)
refused("a method that is no token", "RFC 9110 9.1", b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
refused("a method with a colon", "RFC 9110 9.1", b"GET: / HTTP/1.1\r\nHost: a\r\n\r\n", *MALFORMED_LINE)
passed("a method nobody knows", "RFC 9110 9.1", get(line=b"BREW /pot HTTP/1.1"), sent(b"BREW /pot HTTP/1.1"))
passed("methods are case-sensitive", "RFC 9110 9.1", get(line=b"get / HTTP/1.1"), sent(b"get / HTTP/1.1"))
refused("a lower-case protocol", "RFC 9112 2.3", get(line=b"GET / http/1.1"), *MALFORMED_LINE)
refused("a version without a dot", "RFC 9112 2.3", get(line=b"GET / HTTP/11"), *MALFORMED_LINE)
refused("a version with a letter for the dot", "RFC 9112 2.3", get(line=b"GET / HTTP/1x1"), *MALFORMED_LINE)
refused("a version with leading zeros", "RFC 9112 2.3", get(line=b"GET / HTTP/01.1"), *MALFORMED_LINE)
refused("a version with too many digits", "RFC 9112 2.3", get(line=b"GET / HTTP/1.10"), *MALFORMED_LINE)
refused("another protocol", "RFC 9112 2.3", get(line=b"GET / RTSP/1.0"), *MALFORMED_LINE)
refused("HTTP/1.2", "RFC 9110 15.6.6", get(line=b"GET / HTTP/1.2"), 505, "version_not_supported")
refused("HTTP/2.0", "RFC 9110 15.6.6", get(line=b"GET / HTTP/2.0"), 505, "version_not_supported")
refused("HTTP/0.9, named", "RFC 9110 15.6.6", get(line=b"GET / HTTP/0.9"), 505, "version_not_supported")
refused("HTTP/2's preface", "RFC 9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version_not_supported")
refused("a TLS hello", "RFC 9112 3", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", *MALFORMED_LINE)
refused("a long target", "RFC 9110 15.5.15", get(line=b"GET /%b HTTP/1.1" % (b"a" * 8192)), 414, "target_too_long")
refused("a target without end", "RFC 9110 15.5.15", b"GET /" + b"a" * 9000, 414, "target_too_long")
passed(
    "the longest target",
    "RFC 9110 15.5.15",
    get(line=b"GET /%b HTTP/1.1" % (b"a" * 8191)),
    sent(b"GET /%b HTTP/1.1" % (b"a" * 8191)),
)
refused("a long method", "RFC 9112 3", get(line=b"G" * 9000 + b" / HTTP/1.1"), 414, "target_too_long")

# --- The target -------------------------------------------------------------------------------------------------------

T = "RFC 9112 3.2"
passed("a query", T, get(line=b"GET /a?b=c&d HTTP/1.1"), sent(b"GET /a?b=c&d HTTP/1.1"))
passed("an empty query", T, get(line=b"GET /a? HTTP/1.1"), sent(b"GET /a? HTTP/1.1"))
passed(
    "the path that was matched is sent on",
    "RFC 3986 6.2.2",
    get(line=b"GET /%61/./b/../c HTTP/1.1"),
    sent(b"GET /a/c HTTP/1.1"),
)
refused("a path above the root", "RFC 3986 5.2.4", get(line=b"GET /../x HTTP/1.1"), 400, "path_above_root")
refused("an encoded slash", "RFC 3986 2.2", get(line=b"GET /a%2fb HTTP/1.1"), 400, "encoded_slash")
refused("an encoded NUL", "RFC 3986 2.1", get(line=b"GET /a%00 HTTP/1.1"), 400, "invalid_path")
refused("a backslash", "RFC 3986 3.3", get(line=b"GET /a\\b HTTP/1.1"), 400, "invalid_path")
refused("a fragment", T, get(line=b"GET /a#b HTTP/1.1"), *TARGET)
refused("a relative path", T, get(line=b"GET a HTTP/1.1"), *TARGET)
A = "RFC 9112 3.2.2"
passed("an absolute target", A, get(line=b"GET http://b/x HTTP/1.1"), sent(b"GET /x HTTP/1.1", host=b"b"))
passed("an absolute target without a path", A, get(line=b"GET http://b HTTP/1.1"), sent(host=b"b"))
passed(
    "an absolute target with a query only",
    A,
    get(line=b"GET http://b?q HTTP/1.1"),
    sent(b"GET /?q HTTP/1.1", host=b"b"),
)
passed("an absolute target's authority wins", A, get(line=b"GET http://B:8080/ HTTP/1.1"), sent(host=b"b:8080"))
passed("an absolute target and an empty Host", A, get(line=b"GET http://b/ HTTP/1.1", host=b"Host:"), sent(host=b"b"))
refused("an absolute target without Host", A, get(line=b"GET http://b/ HTTP/1.1", host=None), *HOST)
refused("an absolute target with user information", "RFC 9110 4.2.4", get(line=b"GET http://u@b/ HTTP/1.1"), *HOST)
refused("an absolute target without authority", A, get(line=b"GET http:///x HTTP/1.1"), *HOST)
refused("an absolute target of another scheme", A, get(line=b"GET ftp://b/ HTTP/1.1"), *TARGET)
refused("an authority target", "RFC 9112 3.2.3", get(line=b"GET b:80 HTTP/1.1"), *TARGET)
refused("CONNECT", "RFC 9110 9.3.6", get(line=b"CONNECT b:80 HTTP/1.1"), 501, "connect_not_supported")
passed("OPTIONS *", "RFC 9112 3.2.4", get(line=b"OPTIONS * HTTP/1.1"), sent(b"OPTIONS * HTTP/1.1"))
passed(
    "OPTIONS of an authority",
    "RFC 9112 3.2.4",
    get(line=b"OPTIONS http://b HTTP/1.1"),
    sent(b"OPTIONS * HTTP/1.1", host=b"b"),
)
refused("GET *", "RFC 9112 3.2.4", get(line=b"GET * HTTP/1.1"), *TARGET)

# --- Host -------------------------------------------------------------------------------------------------------------

H = "RFC 9112 3.2"
refused("no Host", H, get(host=None), *HOST)
refused("two Hosts", H, get(b"Host: b"), *HOST)
refused("two equal Hosts", H, get(b"Host: a"), *HOST)
refused("an empty Host", H, get(host=b"Host:"), *HOST)
refused("Host with user information", H, get(host=b"Host: u@a"), *HOST)
refused("Host with a path", H, get(host=b"Host: a/b"), *HOST)
refused("Host with a space", H, get(host=b"Host: a b"), *HOST)
refused("Host with a comma", H, get(host=b"Host: a, b"), *HOST)
refused("Host with a bad port", H, get(host=b"Host: a:b"), *HOST)
refused("Host with a port too large", H, get(host=b"Host: a:65536"), *HOST)
refused("Host with a broken IPv6 address", H, get(host=b"Host: [::1"), *HOST)
refused("Host is folded", "RFC 9112 5.2", get(host=b"Host:\r\n a"), *MALFORMED)
refused("Host with a space before the colon", "RFC 9112 5.1", get(host=b"Host : a"), *MALFORMED)
passed("Host with a port", H, get(host=b"Host: A:81"), sent(host=b"a:81"))
passed("Host is an IPv6 address", H, get(host=b"Host: [::1]:81"), sent(host=b"[::1]:81"))
passed(
    "Host with sub-delimiters",
    "RFC 3986 3.2.2",
    get(host=b"Host: a=50"),
    sent(facts=PLAIN.partition(b"8001\r\n")[2].partition(b"X-Request")[0].replace(b"Host: a", b"Host: a=50").replace(
        b"host=a;", b'host="a=50";'
    )),
)  # fmt: skip
passed("hOsT", "RFC 9110 5.1", get(host=b"hOsT: a"), PLAIN)

# --- Field lines ------------------------------------------------------------------------------------------------------

F = "RFC 9112 5"
passed("no space after the colon", F, get(b"X:1"), sent(PLAIN[:14], b"X: 1"))
passed("white space around a value", F, get(b"X: \t 1 \t"), sent(PLAIN[:14], b"X: 1"))
passed("an empty value", F, get(b"X:"), sent(PLAIN[:14], b"X: "))
passed("a value with obs-text", "RFC 9110 5.5", get(b"X: \xfc\xff"), sent(PLAIN[:14], b"X: \xfc\xff"))
passed("a value with colons", F, get(b"X: a:b:"), sent(PLAIN[:14], b"X: a:b:"))
passed(
    "every token character in a name",
    "RFC 9110 5.6.2",
    get(b"!#$%&'*+-.^_`|~09azAZ: 1"),
    sent(PLAIN[:14], b"!#$%&'*+-.^_`|~09azAZ: 1"),
)
refused("a space before the colon", "RFC 9112 5.1", get(b"X : 1"), *MALFORMED)
refused("a tab before the colon", "RFC 9112 5.1", get(b"X\t: 1"), *MALFORMED)
refused("an empty name", F, get(b": 1"), *MALFORMED)
refused("a line without a colon", F, get(b"X"), *MALFORMED)
refused("a name with a space", F, get(b"X Y: 1"), *MALFORMED)
refused("a name in brackets", F, get(b"[X]: 1"), *MALFORMED)
refused("a name beyond ASCII", F, get(b"X\xfc: 1"), *MALFORMED)
refused("a name with a NUL", F, get(b"X\0: 1"), *MALFORMED)
refused("a name with a vertical tab", F, get(b"\x0bX: 1"), *MALFORMED)
refused("a folded value", "RFC 9112 5.2", get(b"X: 1", b" 2"), *MALFORMED)
refused("a value folded by a tab", "RFC 9112 5.2", get(b"X: 1", b"\t2"), *MALFORMED)
refused("a folded line with a colon", "RFC 9112 5.2", get(b"X: 1", b" Y: 2"), *MALFORMED)
refused("the first field line is folded", "RFC 9112 2.2", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", *MALFORMED)
refused("a bare LF in a value", "RFC 9112 2.2", get(b"X: 1\n2"), *MALFORMED)
refused("a bare LF ends a field line", "RFC 9112 2.2", get(b"X: 1\nY: 2"), *MALFORMED)
refused("bare LFs end the head", "RFC 9112 2.2", b"GET / HTTP/1.1\r\nHost: a\n\n", *MALFORMED)
refused("a bare CR in a value", "RFC 9112 2.2", get(b"X: 1\r2"), *MALFORMED)
refused("a bare CR ends a field line", "RFC 9112 2.2", get(b"X: 1\rY: 2"), *MALFORMED)
refused("CR CR LF ends a field line", "RFC 9112 2.2", get(b"X: 1\r"), *MALFORMED)
refused("a NUL in a value", "RFC 9110 5.5", get(b"X: 1\x002"), *MALFORMED)
refused("a control character in a value", "RFC 9110 5.5", get(b"X: 1\x082"), *MALFORMED)
refused("a DEL in a value", "RFC 9110 5.5", get(b"X: 1\x7f2"), *MALFORMED)
refused("a form feed around a value", "RFC 9110 5.5", get(b"X: \x0c1"), *MALFORMED)
refused("too many fields", "RFC 6585 5", get(*[b"X: 1"] * 100), 431, "too_many_headers")
passed("as many fields as there may be", "RFC 6585 5", get(*[b"X: 1"] * 99), sent(PLAIN[:14], *[b"X: 1"] * 99))
refused("a long head", "RFC 6585 5", get(b"X: " + b"a" * 40000), 431, "head_too_large")
refused("a head without end", "RFC 6585 5", get()[:-2] + b"X: " + b"a" * 40000, 431, "head_too_large")

# --- Content-Length ---------------------------------------------------------------------------------------------------

C = "RFC 9112 6.3"
LENGTH_3 = b"Content-Length: 3\r\n"
passed("content", C, post(b"Content-Length: 3", content=b"abc"), sent(POST, framing=LENGTH_3, content=b"abc"))
passed("content of a GET", "RFC 9110 9.3.1", get(b"Content-Length: 3") + b"abc", sent(framing=LENGTH_3, content=b"abc"))
passed("POST without content", C, post(), sent(POST, framing=b"Content-Length: 0\r\n"))
passed("Content-Length: 0", C, post(b"Content-Length: 0"), sent(POST, framing=b"Content-Length: 0\r\n"))
passed("leading zeros", C, post(b"Content-Length: 003", content=b"abc"), sent(POST, framing=LENGTH_3, content=b"abc"))
passed(
    "white space around the length",
    F,
    post(b"Content-Length: \t3 ", content=b"abc"),
    sent(POST, framing=LENGTH_3, content=b"abc"),
)
passed(
    "no body with a CRLF in it ends early",
    C,
    post(b"Content-Length: 6", content=b"a\r\n\r\nb"),
    sent(POST, framing=b"Content-Length: 6\r\n", content=b"a\r\n\r\nb"),
)
for value in (
    b"+3",
    b"-3",
    b"0x3",
    b"3,3",
    b"3, 3",
    b"3, 4",
    b"3 3",
    b"",
    b"3.0",
    b"3e0",
    b"three",
    b"3;",
    b"\xb2",
    b"9" * 19,
    b"1_0",
):
    refused(
        f"Content-Length: {value.decode('latin-1')}", C, post(b"Content-Length: " + value, content=b"abc"), *FRAMING
    )
refused("Content-Length with a vertical tab", C, post(b"Content-Length: \x0b3", content=b"abc"), *MALFORMED)
refused("two Content-Lengths", C, post(b"Content-Length: 3", b"Content-Length: 4", content=b"abcd"), *FRAMING)
refused("two equal Content-Lengths", C, post(b"Content-Length: 3", b"Content-Length: 3", content=b"abc"), *FRAMING)
refused(
    "two Content-Lengths in two cases", C, post(b"Content-Length: 3", b"content-length: 4", content=b"abcd"), *FRAMING
)
refused(
    "Content-Length with a space before the colon",
    "RFC 9112 5.1",
    post(b"Content-Length : 3", content=b"abc"),
    *MALFORMED,
)
for lookalike in (
    b"Content_Length: 0",
    b"content.length: 0",
    b"Transfer_Encoding: chunked",
    b"X_Forwarded_For: 1",
    b"x-forwarded_for: 1",
    b"X_Real_IP: 1",
    b"X_Request_Id: 1",
):
    passed(
        f"a field that a service may take for another: {lookalike.decode()}",
        "RFC 3875 4.1.18",
        post(lookalike, b"Content-Length: 3", content=b"abc"),
        sent(POST, framing=LENGTH_3, content=b"abc"),
    )
passed("a name with an underscore", "RFC 9110 5.1", get(b"X_Y: 1"), sent(PLAIN[:14], b"X_Y: 1"))
refused("TRACE with content", "RFC 9110 9.3.8", get(b"Content-Length: 3", line=b"TRACE / HTTP/1.1") + b"abc", *FRAMING)

# --- Transfer-Encoding ------------------------------------------------------------------------------------------------

E = "RFC 9112 6.1"
ABC = b"3\r\nabc\r\n0\r\n\r\n"
passed("chunked", E, chunked(ABC), sent(POST, framing=CHUNKED, content=ABC))
passed("CHUNKED", E, post(b"Transfer-Encoding: CHUNKED", content=ABC), sent(POST, framing=CHUNKED, content=ABC))
passed("chunked, and no content", E, chunked(b"0\r\n\r\n"), sent(POST, framing=CHUNKED, content=b"0\r\n\r\n"))
passed(
    "tab before chunked", F, post(b"Transfer-Encoding:\tchunked", content=ABC), sent(POST, framing=CHUNKED, content=ABC)
)
refused("both, length first", C, post(b"Content-Length: 13", b"Transfer-Encoding: chunked", content=ABC), *FRAMING)
refused("both, coding first", C, post(b"Transfer-Encoding: chunked", b"Content-Length: 13", content=ABC), *FRAMING)
refused("both, with length 0", C, post(b"Content-Length: 0", b"Transfer-Encoding: chunked", content=ABC), *FRAMING)
refused(
    "both, and Connection names one",
    "RFC 9110 7.6.1",
    post(b"Content-Length: 13", b"Transfer-Encoding: chunked", b"Connection: content-length", content=ABC),
    *FRAMING,
)
for value in (
    b"xchunked",
    b"chunkedx",
    b"identity",
    b"chunked, identity",
    b"gzip",
    b"chunked, gzip",
    b"",
    b",",
    b"cow",
    b'"chunked"',
    b"chunked;q=1",
    b"chunk",
    b"chunked chunked",
    b"chunked,",
    b", chunked",
    b"chunked, ",
):
    refused(f"Transfer-Encoding: {value.decode()}", E, post(b"Transfer-Encoding: " + value, content=ABC), *FRAMING)
for value in (b"gzip, chunked", b"identity, chunked", b"chunked, chunked", b"cow, chunked"):
    refused(
        f"Transfer-Encoding: {value.decode()}",
        "RFC 9112 7",
        post(b"Transfer-Encoding: " + value, content=ABC),
        501,
        "unknown_coding",
    )
refused("chunked twice", E, post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", content=ABC), *FRAMING)
refused(
    "chunked, then identity",
    E,
    post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", content=ABC),
    *FRAMING,
)
refused(
    "identity, then chunked",
    E,
    post(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", content=ABC),
    *FRAMING,
)
refused(
    "a vertical tab before chunked", "RFC 9110 5.5", post(b"Transfer-Encoding: \x0bchunked", content=ABC), *MALFORMED
)
refused("a NUL after chunked", "RFC 9110 5.5", post(b"Transfer-Encoding: chunked\0", content=ABC), *MALFORMED)
refused("chunked behind a fold", "RFC 9112 5.2", post(b"Transfer-Encoding:", b" chunked", content=ABC), *MALFORMED)
refused(
    "Transfer-Encoding with a space before the colon",
    "RFC 9112 5.1",
    post(b"Transfer-Encoding : chunked", content=ABC),
    *MALFORMED,
)
refused(
    "a bare CR before Transfer-Encoding",
    "RFC 9112 2.2",
    post(b"X: 1\rTransfer-Encoding: chunked", content=ABC),
    *MALFORMED,
)
refused(
    "HTTP/1.0 with Transfer-Encoding", E, get(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0") + ABC, *FRAMING
)
refused(
    "HTTP/1.0 with a head that was good for 1.1",
    E,
    chunked(ABC) + get(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0") + ABC,
    *FRAMING,
    sent(POST, framing=CHUNKED, content=ABC),
)

# --- Chunks -----------------------------------------------------------------------------------------------------------

K = "RFC 9112 7.1"


def taken(name: str, clause: str, content: bytes, plain: bytes, trailers: bytes = b"") -> None:
    body = (b"%x\r\n%b\r\n" % (len(plain), plain) if plain else b"") + b"0\r\n" + trailers + b"\r\n"
    passed(name, clause, chunked(content), sent(POST, framing=CHUNKED, content=body))


taken("several chunks", K, b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc")
taken("a size with leading zeros", K, b"0003\r\nabc\r\n000\r\n\r\n", b"abc")
taken("a size in capitals", K, b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789")
taken("content that looks like chunks", K, b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n")
taken("a chunk extension", "RFC 9112 7.1.1", b'3;a=b;c="d"\r\nabc\r\n0;x\r\n\r\n', b"abc")
taken("white space before an extension", "RFC 9112 7.1.1", b"3 ;a\r\nabc\r\n0\r\n\r\n", b"abc")
for size in (
    b"+3",
    b"-3",
    b"0x3",
    b" 3",
    b"3 ",
    b"\t3",
    b"",
    b"g",
    b"3g",
    b"3,",
    b"\x003",
    b"1" * 16,
    b"0" * 17 + b"3",
    b"3.0",
):
    refused(f"chunk size {size!r}", K, chunked(size + b"\r\nabc\r\n0\r\n\r\n"), *CHUNKS)
refused("a bare LF after the size", K, chunked(b"3\nabc\r\n0\r\n\r\n"), *CHUNKS)
refused("a bare CR after the size", K, chunked(b"3\rabc\r\n0\r\n\r\n"), *CHUNKS)
refused("a bare LF in an extension", "RFC 9112 7.1.1", chunked(b"3;a\nb\r\nabc\r\n0\r\n\r\n"), *CHUNKS)
refused("a bare CR in an extension", "RFC 9112 7.1.1", chunked(b"3;a\rb\r\nabc\r\n0\r\n\r\n"), *CHUNKS)
refused("a NUL in an extension", "RFC 9112 7.1.1", chunked(b"3;\0\r\nabc\r\n0\r\n\r\n"), *CHUNKS)
refused("a chunk without its CRLF", K, chunked(b"3\r\nabc0\r\n\r\n"), *CHUNKS)
refused("a chunk that ends in LF", K, chunked(b"3\r\nabc\n0\r\n\r\n"), *CHUNKS)
refused("a chunk longer than its size", K, chunked(b"3\r\nabcd\r\n0\r\n\r\n"), *CHUNKS)
refused("a long extension", "RFC 9112 7.1.1", chunked(b"3;" + b"a" * 300 + b"\r\nabc\r\n0\r\n\r\n"), *CHUNKS)
refused(
    "a flood of extensions",
    "RFC 9112 7.1.1",
    chunked((b"1;" + b"a" * 250 + b"\r\nx\r\n") * 300 + b"0\r\n\r\n"),
    *CHUNKS,
)
taken("a trailer", "RFC 9112 7.1.2", b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", b"abc", b"X-Sum: 1\r\n")
taken(
    "forbidden trailers are dropped",
    "RFC 9110 6.5.1",
    b"0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nHost: b\r\nX-Forwarded-For: 1\r\nX-Sum: 1\r\n\r\n",
    b"",
    b"X-Sum: 1\r\n",
)
refused("a trailer with a bare LF", "RFC 9112 7.1.2", chunked(b"0\r\nX: 1\n\r\n\r\n"), *CHUNKS)
refused("a trailer without a colon", "RFC 9112 7.1.2", chunked(b"0\r\nX\r\n\r\n"), *CHUNKS)
refused("a folded trailer", "RFC 9112 7.1.2", chunked(b"0\r\nX: 1\r\n 2\r\n\r\n"), *CHUNKS)
refused("trailers without end", "RFC 9112 7.1.2", chunked(b"0\r\nX: " + b"a" * 9000), *CHUNKS)

# --- Connections ------------------------------------------------------------------------------------------------------

P = "RFC 9112 9.3"
passed("two requests in a row", "RFC 9112 9.3.2", get() + get(line=b"GET /2 HTTP/1.1"), PLAIN, sent(b"GET /2 HTTP/1.1"))
passed(
    "content, then a request",
    "RFC 9112 9.3.2",
    post(b"Content-Length: 3", content=b"abc") + get(),
    sent(POST, framing=LENGTH_3, content=b"abc"),
    PLAIN,
)
passed(
    "chunks, then a request", "RFC 9112 9.3.2", chunked(ABC) + get(), sent(POST, framing=CHUNKED, content=ABC), PLAIN
)
passed("ten requests in a row", "RFC 9112 9.3.2", get() * 10, *[PLAIN] * 10)
refused("a request, then nonsense", "RFC 9112 9.3.2", get() + b"\0\0\0\0", *MALFORMED_LINE, PLAIN)
refused(
    "content longer than announced",
    C,
    post(b"Content-Length: 3", content=b"abc)def\r\n\r\n"),
    *MALFORMED_LINE,
    sent(POST, framing=LENGTH_3, content=b"abc"),
)
passed("Connection: close", "RFC 9112 9.6", get(b"Connection: close"), PLAIN, close=True)
passed(
    "what follows Connection: close is not served", "RFC 9112 9.6", get(b"Connection: close") + get(), PLAIN, close=True
)
passed("Connection: keep-alive", P, get(b"Connection: keep-alive", b"Keep-Alive: 5"), PLAIN)
passed("Connection: Close, in a list", "RFC 9110 7.6.1", get(b"Connection: foo,  Close"), PLAIN, close=True)
OLD = PLAIN.replace(b"Via: 1.1", b"Via: 1.0")  # RFC 9110 7.6.3: by which protocol it came
NAMELESS = sent(host=b"").replace(b"Via: 1.1", b"Via: 1.0")
passed("HTTP/1.0", P, get(line=b"GET / HTTP/1.0"), OLD, close=True)
passed("HTTP/1.0 without Host", "RFC 9112 3.2", get(line=b"GET / HTTP/1.0", host=None), NAMELESS, close=True)
passed("HTTP/1.0 with keep-alive", P, get(b"Connection: keep-alive", line=b"GET / HTTP/1.0"), OLD)
passed(
    "HTTP/1.0, then 1.1",
    P,
    get(b"Connection: keep-alive", line=b"GET / HTTP/1.0") + get(b"Connection: keep-alive"),
    OLD,
    PLAIN,
)
refused(
    "HTTP/1.1 with a head that was good for 1.0",
    "RFC 9112 3.2",
    get(b"Connection: keep-alive", line=b"GET / HTTP/1.0", host=None) + get(b"Connection: keep-alive", host=None),
    *HOST,
    NAMELESS,
)
passed(
    "fields that Connection names",
    "RFC 9110 7.6.1",
    get(b"X-Secret: 1", b"Connection: x-secret, X-Other", b"X-Other: 2", b"X: 3"),
    sent(PLAIN[:14], b"X: 3"),
)
passed(
    "hop-by-hop fields",
    "RFC 9110 7.6.1",
    get(b"Keep-Alive: 1", b"Proxy-Connection: x", b"Proxy-Authorization: x", b"Upgrade: x", b"TE: gzip"),
    PLAIN,
)
passed(
    "TE: trailers",
    "RFC 9110 10.1.4",
    get(b"TE: trailers", b"Connection: TE"),
    sent(PLAIN[:14], b"TE: trailers", b"Connection: TE"),
)
refused("WebSocket", "RFC 9110 7.8", get(b"Upgrade: websocket", b"Connection: Upgrade"), 501, "upgrade_not_supported")
CASES[-1] = Case(CASES[-1].name, CASES[-1].clause, CASES[-1].data, (), 501, "upgrade_not_supported", close=False)
passed(
    "an upgrade to h2c is ignored",
    "RFC 9110 7.8",
    get(b"Upgrade: h2c", b"HTTP2-Settings: A", b"Connection: Upgrade, HTTP2-Settings"),
    PLAIN,
)
refused(
    "an expectation nobody knows",
    "RFC 9110 10.1.1",
    post(b"Expect: 200-ok", b"Content-Length: 3", content=b"abc"),
    417,
    "expectation_failed",
)
passed(
    "Expect: 100-continue",
    "RFC 9110 10.1.1",
    post(b"Expect: 100-Continue", b"Content-Length: 3", content=b"abc"),
    sent(POST, framing=LENGTH_3 + b"Expect: 100-continue\r\n", content=b"abc"),
)
passed("Expect: 100-continue without content", "RFC 9110 10.1.1", get(b"Expect: 100-continue"), PLAIN)

# --- What is said of the client ---------------------------------------------------------------------------------------

W = "RFC 7239 4"
CLAIMS = (
    b"X-Forwarded-For: 198.51.100.7",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: shop.example",
    b"X-Request-Id: abc-1",
)
passed(
    "claims of a stranger",
    W,
    get(*CLAIMS, b"Forwarded: for=198.51.100.7", b"X-Real-IP: 1", b"X-Forwarded-Prefix: /x"),
    PLAIN,
)
passed(
    "claims of a trusted proxy", W, get(*CLAIMS),
    sent(request_id=b"abc-1", facts=(
        b"X-Forwarded-For: 198.51.100.7, 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n"
        b"Forwarded: for=198.51.100.7, for=192.0.2.1;host=a;proto=http\r\nVia: 1.1 apigw\r\n"
    )), trusted=True,
)  # fmt: skip
passed(
    "Forwarded of a trusted proxy", W, get(b'Forwarded: for="[2001:db8::1]:47";proto=https;host=shop.example'),
    sent(facts=(
        b"X-Forwarded-For: 2001:db8::1, 192.0.2.1\r\nX-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: shop.example\r\n"
        b'Forwarded: for="[2001:db8::1]:47";proto=https;host=shop.example, for=192.0.2.1;host=a;proto=http\r\n'
        b"Via: 1.1 apigw\r\n"
    )), trusted=True,
)  # fmt: skip
passed(
    "an address with a port, of a trusted proxy", W, get(b"X-Forwarded-For: 198.51.100.7:80"),
    sent(facts=(
        b"X-Forwarded-For: 198.51.100.7:80, 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\n"
        b'Forwarded: for="198.51.100.7:80", for=192.0.2.1;host=a;proto=http\r\nVia: 1.1 apigw\r\n'
    )), trusted=True,
)  # fmt: skip
passed(
    "Via is continued",
    "RFC 9110 7.6.3",
    get(b"Via: 1.0 fred"),
    sent(facts=PLAIN.partition(b"8001\r\n")[2].partition(b"X-Request")[0].replace(b"Via: ", b"Via: 1.0 fred, ")),
)
