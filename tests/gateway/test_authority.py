"""The host that a service sees, for all that is sent to it, and the name that TLS verifies."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from apigw.config.problems import ConfigurationError
from apigw.gateway.catalogue import load
from apigw.gateway.explain import explain, render
from apigw.upstream.authority import host_field, tls_name
from apigw.upstream.target_spec import TargetSpec, parse_target_line
from tests.certificates import Authority
from tests.gateway.running import route, running, upstream
from tests.origins import Origin, reply


async def hosts(folder: Path, option: str, *, more: str = "") -> dict[str, list[bytes]]:
    """The Host fields of all kinds of requests to a service of an upstream with this ``host``, by path."""
    origin = await Origin([reply(200, b"{}", (b"Content-Type", b"application/json"))]).start()
    text = upstream(origin.port, more=f"{option}\nhealth.path = /check\nhealth.headers = X-Check: 1, X-Other: two")
    text += route("/plain") + route("/kept", "preserve_host = yes", name="kept")
    text += "[aggregate page]\npath = /page\ncall.one = a GET /called\n"
    text += "[batch all]\npath = /batch\n"
    text += route("/auth", "policies = forward_auth gate", name="auth")
    text += "[forward_auth gate]\nurl = http://a/auth-check\n" + more
    async with running(folder, text) as gateway:
        for path in ("/plain", "/kept", "/page", "/auth/x"):
            assert (await gateway.get(path)).status == 200
        body = json.dumps([{"method": "GET", "path": "/plain/inner"}]).encode()
        batch = await gateway.get("/batch", ("Content-Type", "application/json"), method="POST", body=body)
        assert batch.status == 200
        old = await gateway.connect()
        old.send(b"GET /plain/old HTTP/1.0\r\n\r\n")
        await old.read_response()
    await origin.stop()
    seen: dict[str, list[bytes]] = {}
    for each in origin.requests:
        path = each.line.split(b" ")[1].decode()
        seen[path] = each.values(b"host")
        if path == "/check":
            assert each.values(b"x-check") + each.values(b"x-other") == [b"1", b"two"]
    seen["port"] = [b"%d" % origin.port]
    return seen


CLIENTS = ("/plain", "/called", "/plain/inner", "/auth/x")
OWN = ("/check", "/auth-check", "/plain/old")


@pytest.mark.parametrize("option", ["", "host = target", "host = client", "host = api.internal:81"])
async def test_all_that_is_sent_to_a_service_has_the_same_host(tmp_path: Path, option: str) -> None:
    seen = await hosts(tmp_path, option)
    target = b"127.0.0.1:" + seen["port"][0]
    of_clients, of_others = {
        "host = client": (b"shop.example", target),
        "host = api.internal:81": (b"api.internal:81", b"api.internal:81"),
    }.get(option, (target, target))
    assert {path: seen[path] for path in CLIENTS} == {path: [of_clients] for path in CLIENTS}
    assert {path: seen[path] for path in OWN} == {path: [of_others] for path in OWN}
    assert seen["/kept"] == [b"shop.example"]


async def test_checks_may_have_a_host_of_their_own(tmp_path: Path) -> None:
    seen = await hosts(tmp_path, "host = api.internal\nhealth.host = check.internal:8080")
    assert (seen["/check"], seen["/plain"]) == ([b"check.internal:8080"], [b"api.internal"])


async def test_a_target_that_only_knows_one_virtual_host_is_well_if_checks_ask_for_it(tmp_path: Path) -> None:
    def virtual(asked: Any) -> bytes:
        return reply(200 if asked.values(b"host") == [b"shop.internal"] else 404)

    origin = await Origin([virtual]).start()
    text = upstream(origin.port, more="host = shop.internal\nhealth.path = /\nhealth.expect = 200") + route("/")
    async with running(tmp_path, text) as gateway:
        prober = gateway.service.generation.upstreams["a"].prober
        assert prober is not None
        while not prober.checks:
            await asyncio.sleep(0.005)
        assert prober.failures == 0
        assert (await gateway.get("/")).status == 200
    await origin.stop()


async def test_an_address_of_the_service_in_its_answer_is_the_clients_as_well(tmp_path: Path) -> None:
    origin = await Origin([reply(302, b"", (b"Location", b"http://shop.example/login"))]).start()
    text = upstream(origin.port, more="host = client") + route("/api", "strip_prefix = /api", "rewrite_location = yes")
    async with running(tmp_path, text) as gateway:
        assert (await gateway.get("/api/x")).values(b"location") == [b"http://shop.example/api/login"]
    await origin.stop()


@pytest.mark.parametrize(
    ("option", "status"),
    [
        ("host = api.internal:81", 200),
        ("", 502),
        ("host = client", 502),
        ("host = other.internal", 502),
        ("host = other.internal\ntls.server_name = api.internal", 200),
    ],
)
async def test_a_host_that_is_set_is_the_name_that_tls_verifies(tmp_path: Path, option: str, status: int) -> None:
    authority = Authority()
    authority.write(tmp_path / "ca.pem")
    leaf = authority.issue("api.internal").write(tmp_path / "leaf.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(leaf)
    names: list[str] = []
    tls.sni_callback = lambda _sock, name, _context: names.append(name)
    origin = await Origin([reply(200)]).start(tls=tls)
    text = f"[upstream a]\ntargets = https://localhost:{origin.port}\ntls.ca = {tmp_path}/ca.pem\n{option}\n"
    async with running(tmp_path, text + route("/")) as gateway:
        assert (await gateway.get("/", host="api.internal")).status == status
    asked = {"": "localhost", "host = client": "localhost", "host = other.internal": "other.internal"}
    assert names[0] == asked.get(option, "api.internal")
    await origin.stop()


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://users", b"users"),
        ("http://users:80", b"users"),
        ("http://users:443", b"users:443"),
        ("https://users", b"users"),
        ("https://users:443", b"users"),
        ("https://users:80", b"users:80"),
        ("http://[::1]", b"[::1]"),
        ("http://[::1]:8080", b"[::1]:8080"),
        ("http://[fe80::1%25eth0]:81", b"[fe80::1]:81"),
        ("http://B\u00fccher.test:81", b"xn--bcher-kva.test:81"),
        ("unix:/run/app.sock", b"localhost"),
    ],
)
def test_a_targets_own_host(target: str, host: bytes) -> None:
    assert host_field(parse_target_line(target)) == host


def test_what_was_found_by_a_name_has_that_name() -> None:
    found = TargetSpec("https", "10.0.0.1", 443, found_as="orders.internal")
    assert (host_field(found), tls_name(found)) == (b"orders.internal", "orders.internal")
    assert (host_field(found, "a.test:8443"), tls_name(found, "a.test:8443")) == (b"a.test:8443", "a.test")
    assert tls_name(found, "[fd00::1]:8443") == "fd00::1"


def test_it_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "gw.ini"
    path.write_text(
        "[upstream a]\ntargets = https://10.0.0.1:8443\nhost = api.internal\n"
        "[upstream b]\ntargets = dns:orders.internal:81\n[upstream c]\ntargets = http://10.0.0.1\nhost = client\n"
        "[route a]\npath = /a\nupstream = a\n[route b]\npath = /b\nupstream = b\n[route c]\npath = /c\nupstream = c\n"
        "[aggregate d]\npath = /d\ncall.a = a GET /\ncall.c = c GET /\n"
    )
    configuration = load(str(path), {})

    def told(url: str) -> str:
        return render(explain(configuration, "GET", f"http://shop.example{url}"))

    assert "  Host: api.internal\n" in told("/a")
    assert "  in TLS, api.internal is asked for and verified\n" in told("/a")
    assert "  Host: orders.internal:81\n" in told("/b")
    assert "  Host: shop.example\n" in told("/c")
    assert "    Host: api.internal\n" in told("/d")
    assert "    Host: shop.example\n" in told("/d")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("host = http://a", "write the host without http:// and path"),
        ("host = a:0", "`a:0` is not a host"),
        ("host = a:99999", "`a:99999` is not a host"),
        ("host = *.a", "`*.a` is not a host"),
        ("host = [::g]", "is not a host"),
        ("health.host = a b", "is not a host"),
        ("health.headers = Host: a", "Host is written by the gateway; health.host says what Host is"),
        ("health.headers = Content-Length: 1", "Content-Length is written by the gateway"),
        ("health.headers = a b: 1", "`a b` is not a header's name"),
        ("resolve = ipv6", "http://10.0.0.1:80 is no IPv6 address"),
        ("targets = http://a%20b", "`http://a%20b` has no valid host"),
        ("targets = dns:a/b:80", "has no valid name to look up"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, option: str, words: str) -> None:
    path = tmp_path / "gw.ini"
    targets = "" if option.startswith("targets") else "targets = http://10.0.0.1\n"
    path.write_text(f"[upstream a]\n{targets}{option}\n[route a]\npath = /\nupstream = a\n")
    with pytest.raises(ConfigurationError) as caught:
        load(str(path), {})
    assert words in str(caught.value)
