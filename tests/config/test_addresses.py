"""Endpoints and networks."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from apigw.config.addresses import Endpoint, EndpointAddress, Networks


def read(form: Any, text: str) -> Any:
    return TypeAdapter(form).validate_python(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp:8080:interface=127.0.0.1", EndpointAddress("tcp", "127.0.0.1", 8080)),
        ("tcp:0", EndpointAddress("tcp", "0.0.0.0", 0)),
        ("tcp:443:interface=::1", EndpointAddress("tcp", "::1", 443)),
        (r"tcp:443:interface=\:\:", EndpointAddress("tcp", "::", 443)),
        ("unix:/run/apigw.sock", EndpointAddress("unix", path=Path("/run/apigw.sock"), mode=0o660)),
        ("unix:/run/a b.sock:mode=600", EndpointAddress("unix", path=Path("/run/a b.sock"), mode=0o600)),
        ("systemd:0", EndpointAddress("systemd", name="0")),
        ("systemd:public", EndpointAddress("systemd", name="public")),
    ],
)
def test_an_endpoint_is_read(text: str, address: EndpointAddress) -> None:
    assert read(Endpoint, text) == address
    assert read(Endpoint, str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["8080", "tcp:", "tcp:65536", "tcp:80:backlog=5", "tcp:80:interface=localhost", "udp:53", "unix:", "unix:/x:mode=9",
     "systemd:", "systemd:a b", "127.0.0.1:80", "tcp:80:interface="],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        read(Endpoint, text)


def test_networks_are_read_and_one_address_is_a_network() -> None:
    assert read(Networks, "10.0.0.0/8, 2001:db8::/32, 192.0.2.1") == (
        ip_network("10.0.0.0/8"),
        ip_network("2001:db8::/32"),
        ip_network("192.0.2.1/32"),
    )


def test_bits_behind_the_prefix_are_refused_with_what_was_probably_meant() -> None:
    with pytest.raises(ValidationError) as caught:
        read(Networks, "127.0.0.1/8")
    assert caught.value.errors()[0]["ctx"]["error"].hint == "did you mean 127.0.0.0/8, or 127.0.0.1 alone?"
    with pytest.raises(ValidationError):
        read(Networks, "localhost")
