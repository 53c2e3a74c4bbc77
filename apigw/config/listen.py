"""
``[listen NAME]``: where clients come in, and what one of them may cost.
"""

from __future__ import annotations

import shlex
import ssl
from typing import Annotated, Literal

from pydantic import Field

from apigw.config.addresses import Endpoint
from apigw.config.model import Settings
from apigw.config.text import Text, Wrong
from apigw.config.values import (
    Count,
    Duration,
    Flag,
    Form,
    Several,
    Size,
    SizeOrOff,
    located,
    one_line,
    parse_folder_or_file,
    readable,
)


def parse_certificate(text: Text) -> str:
    """
    A folder, a PEM file with chain and key, or two files: certificate and key.

    :returns: the same with absolute paths; two are separated by a space, and quoted as in a shell where they must be.
    """
    try:
        words = shlex.split(one_line(text))
    except ValueError:
        raise Wrong("{shown} has a quote that doesn't end") from None
    if len(words) == 1:
        return shlex.quote(str(parse_folder_or_file(text)))
    if len(words) != 2:
        raise Wrong("{shown} is not one path or two")
    return shlex.join(str(readable(located(word, text.place), f"`{word}`")) for word in words)


def parse_ciphers(text: Text) -> str:
    """A list as OpenSSL has it; OpenSSL is asked whether there are any."""
    value = one_line(text)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(value)
    except (ssl.SSLError, ValueError):
        raise Wrong("{shown} selects no cipher that OpenSSL has") from None
    return value


CertificateSource = Annotated[
    str, Form("file, pair or folder", "chain-and-key.pem, or certificate.pem key.pem, or a folder", parse_certificate)
]


class ListenTLS(Settings):
    """TLS towards clients."""

    certificates: Several[CertificateSource] = Field(
        min_length=1,
        description="Files or folders: `pair.pem` (chain and key), `cert.pem key.pem`, or a folder of them. Chosen by"
        " the name that a client asks for; the first is for those that ask for none. Read again when they change.",
    )
    minimum: Literal["1.2", "1.3"] = Field("1.2", description="Lowest version of TLS.")
    ciphers: Annotated[str, Form("ciphers", "ciphers as OpenSSL names them", parse_ciphers)] | None = Field(
        None, description="Ciphers of TLS 1.2, in OpenSSL's form. Without it: those with forward secrecy and AEAD."
    )
    alpn: Several[Literal["http/1.1"]] = Field(
        ("http/1.1",), description="Protocols that are offered, the preferred one first."
    )
    handshake_timeout: Duration = Field(10.0, gt=0, description="How long a handshake may take.")


class ListenTimeouts(Settings):
    """How long a client may take."""

    head: Duration = Field(
        10.0,
        gt=0,
        description="For the whole head of a request. Then: 408. A new connection that sends nothing at all"
        " is closed after it, too.",
    )
    body: Duration = Field(60.0, gt=0, description="Between two pieces of a request's body. Then: 408.")
    keepalive: Duration = Field(75.0, gt=0, description="Between two requests. Then the connection is closed.")


class ListenSettings(Settings):
    """A listener for clients."""

    endpoint: Endpoint = Field(description="Where to listen.")
    proxy_protocol: Flag = Field(
        False,
        description="Each connection begins with a PROXY protocol header, version 1 or 2; from `trusted_proxies` only.",
    )
    max_head: Size = Field(32 * 1024, ge=256, description="Bytes of a request's head. Then: 431.")
    max_headers: Annotated[Count, Field(ge=1)] = Field(100, description="Header fields of a request. Then: 431.")
    max_target: Size = Field(8 * 1024, ge=16, description="Bytes of a request's target. Then: 414.")
    max_body: SizeOrOff = Field(
        None, description="Bytes of a request's body. Then: 413. Bodies are streamed, so `off` costs no memory."
    )
    min_rate: Size = Field(
        240,
        description="Bytes a second at which a client must send a request's body, from 5 s after its head on;"
        " then: 408. And at which it must take responses, once it has stopped for `timeout.body`; then it is cut off."
        " Only the time counts in which the gateway waits for the client. `0`: any rate.",
    )
    underscores_in_headers: Literal["keep", "drop", "refuse"] = Field(
        "keep",
        description="Fields of a request whose name has an underscore: passed on, left out, or refused with 400. Those"
        " that look like a field of the gateway's own (`X_Forwarded_For`) are left out in any case.",
    )
    max_connections: Count = Field(
        0,
        description="Connections at a time; a client too many gets 503. 0: as many as the limit of open files leaves"
        " room for, and idle ones are closed for new ones.",
    )
    timeout: ListenTimeouts = ListenTimeouts()
    tls: ListenTLS | None = None
