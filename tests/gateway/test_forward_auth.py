"""``forward_auth`` through the whole gateway: what the service that decides hears, and what becomes of its answer."""

from __future__ import annotations

from typing import Any

import pytest

from apigw.testing.origins import BODY, reply

INI = """
[gateway]
trusted_proxies = 127.0.0.1

[upstream a]
targets = http://127.0.0.1:{service}

[forward_auth far]
url = http://127.0.0.1:{auth}/verify?of=shop
response_headers = X-User
preserve_method = yes
forward_body = yes

[route a]
path = /
upstream = a
policies = forward_auth far
"""


async def test_the_service_that_decides_hears_of_the_client_and_the_request(gateway: Any, origin: Any) -> None:
    service = await origin([[BODY, reply(200, b"in")]])
    auth = await origin([[BODY, reply(200, b"", (b"X-User", b"anna"))]])
    running = await gateway(INI.format(service=service.port, auth=auth.port))
    response = await running.get(
        "/a?b=1", ("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https"), ("X-Real-IP", "6.6.6.6"),
        ("X-Forwarded-Uri", "/spoofed"), ("X-User", "root"), method="POST", body=b"content",
    )  # fmt: skip
    assert response.status == 200
    [asked] = auth.requests
    assert asked.line == b"POST /verify?of=shop HTTP/1.1"
    assert asked.values(b"x-forwarded-for") == [b"203.0.113.9"]
    assert asked.values(b"x-forwarded-proto") == [b"https"]
    assert asked.values(b"x-forwarded-host") == [b"shop.example"]
    assert asked.values(b"x-forwarded-method") == [b"POST"]
    assert asked.values(b"x-forwarded-uri") == [b"/a?b=1"]
    assert asked.values(b"x-real-ip") == []
    assert asked.body == b"content"
    [passed] = service.requests
    assert passed.values(b"x-user") == [b"anna"]
    assert asked.values(b"x-request-id") == passed.values(b"x-request-id")
    assert passed.body == b"content"


@pytest.mark.parametrize("status", [302, 401, 403, 500])
async def test_what_it_says_instead_goes_to_the_client(gateway: Any, origin: Any, status: int) -> None:
    service = await origin([reply(200, b"in")])
    fields = [(b"Location", b"/login?to=x"), (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]
    auth = await origin([reply(status, b"who are you?", *fields)])
    running = await gateway(INI.format(service=service.port, auth=auth.port))
    response = await running.get("/")
    assert (response.status, response.body) == (status, b"who are you?")
    assert response.values(b"location") == [b"/login?to=x"]
    assert response.values(b"set-cookie") == [b"a=1", b"b=2"]
    assert service.requests == []
