"""``Headers``: names are looked up whatever their case (RFC 9110 5.1)."""

from __future__ import annotations

import pytest

from apigw.exchange.headers import Headers


@pytest.mark.parametrize("name", [b"X-Tenant", b"x-tenant", b"X-TENANT"])
@pytest.mark.parametrize("sent", [b"X-Tenant", b"x-tenant", b"x-TENANT"])
def test_look_ups_ignore_case(sent: bytes, name: bytes) -> None:
    headers = Headers([(sent, b"a"), (b"X-Other", b"o"), (sent, b"b")])
    assert headers.get(name) == b"a"
    assert headers.get_all(name) == [b"a", b"b"]
    assert headers.joined(name) == b"a, b"
    assert name in headers
    headers.set(name, b"c")
    assert headers.pairs == [(b"X-Other", b"o"), (name, b"c")]
    assert headers.remove(name)
    assert name not in headers
    assert headers.get(name, b"none") == b"none"
    assert headers.get_all(name) == []
    assert headers.joined(name) is None
    assert not headers.remove(name)


def test_names_without_letters() -> None:
    headers = Headers([(b"1-2", b"a")])
    assert (headers.get(b"1-2"), b"1-2" in headers) == (b"a", True)
