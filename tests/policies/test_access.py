"""acl, ip_filter, cors, csrf."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from apigw.exchange.headers import Headers
from apigw.exchange.request import Identity, Request
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response
from apigw.policies import acl, cors, csrf, ip_filter
from apigw.policies.tokens import Refused
from tests.policies.surroundings import Outcome, World, request, run

# ---- acl -------------------------------------------------------------------------------------------------------------


def through_acl(identity: Identity | None, **settings: str) -> Outcome:
    asked = request()
    asked.identity = identity
    return run(acl.ACL(acl.Settings.model_validate(settings), World().environment("acl")), asked)


ANNA = Identity("anna", "jwt", "acme", groups=frozenset({"admins"}), scopes=frozenset({"orders:read"}))


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"allow": "group:admins"}, 200),
        ({"allow": "group:support"}, 403),
        ({"allow": "group:support, name:anna"}, 200),
        ({"allow": "consumer:acme"}, 200),
        ({"allow": "method:api_key"}, 403),
        ({"allow": "scope:orders:read"}, 200),
        ({"allow": "group:admins", "deny": "consumer:acme"}, 403),
        ({"deny": "name:mallory"}, 200),
        ({"require": "group:admins, scope:orders:read"}, 200),
        ({"require": "group:admins, scope:orders:write"}, 403),
    ],
)
def test_who_may(settings: dict[str, str], status: int) -> None:
    assert through_acl(ANNA, **settings).status == status


def test_nobody_in_particular_may_not() -> None:
    assert through_acl(None, deny="name:mallory").status == 403


def test_a_missing_scope_is_named() -> None:
    outcome = through_acl(ANNA, require="scope:orders:write")
    assert outcome.reason == "insufficient_scope"
    assert outcome.response.headers.get(b"www-authenticate") == (
        b'Bearer realm="main", error="insufficient_scope", scope="orders:write"'
    )


@pytest.mark.parametrize("settings", [{}, {"allow": "admins"}, {"allow": "gruop:a"}, {"allow": "group:"}])
def test_an_acl_that_says_nothing_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        acl.Settings.model_validate(settings)


# ---- ip_filter -------------------------------------------------------------------------------------------------------


def through_filter(client: str, **settings: str) -> int:
    guard = ip_filter.IPFilter(ip_filter.Settings.model_validate(settings), World().environment("ip_filter"))
    statuses = {run(guard, request(client=client)).status for _ in range(2)}
    assert len(statuses) == 1
    return statuses.pop()


@pytest.mark.parametrize(
    ("client", "status"),
    [
        ("10.1.2.3", 200),
        ("10.66.1.1", 403),
        ("11.0.0.1", 403),
        ("::ffff:10.1.2.3", 200),
        ("::ffff:10.66.1.1", 403),
        ("2001:db8::1", 200),
        ("2001:db9::1", 403),
        ("2001:db8::1%eth0", 200),
        ("", 403),
        ("unix", 403),
    ],
)
def test_which_networks_are_welcome(client: str, status: int) -> None:
    assert through_filter(client, allow="10.0.0.0/8, 2001:db8::/32", deny="10.66.0.0/16") == status


def test_with_deny_alone_the_others_are_welcome() -> None:
    assert through_filter("10.0.0.1", deny="192.0.2.0/24") == 200
    assert through_filter("192.0.2.77", deny="192.0.2.0/24") == 403
    assert through_filter("192.0.2.77", deny="0.0.0.0/0") == 403
    assert through_filter("::1", deny="0.0.0.0/0") == 200


def test_networks_in_the_form_of_ipv6_are_those_of_ipv4() -> None:
    for client in ("192.0.2.77", "::ffff:192.0.2.77"):
        assert through_filter(client, deny="::ffff:192.0.2.0/120") == 403
        assert through_filter(client, allow="::ffff:192.0.2.77") == 200
        assert through_filter(client, deny="::ffff:198.51.100.0/120") == 200


NETWORKS = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=20)


@given(NETWORKS, st.integers(0, 2**32 - 1))
def test_a_set_of_networks_finds_what_a_list_finds(pairs: list[tuple[int, int]], number: int) -> None:
    networks = [ipaddress.ip_network((address, length), strict=False) for address, length in pairs]
    address = ipaddress.IPv4Address(number)
    assert (address in ip_filter.NetworkSet(networks)) == any(address in network for network in networks)


def test_verdicts_are_remembered_for_a_bounded_number_of_clients() -> None:
    settings = ip_filter.Settings.model_validate({"deny": "10.0.0.0/8"})
    guard = ip_filter.IPFilter(settings, World().environment("ip_filter"))
    for number in range(ip_filter.REMEMBERED + 10):
        guard.on_request(request(client=str(ipaddress.IPv4Address(0xC0000000 + number))))
    assert len(guard._verdicts) <= ip_filter.REMEMBERED


# ---- cors ------------------------------------------------------------------------------------------------------------


def shop(**more: Any) -> cors.CORS:
    settings = {"origins": "https://shop.example, https://*.partners.example, http://localhost:*", **more}
    return cors.CORS(cors.Settings.model_validate(settings), World().environment("cors", "shop"))


def fields(response: Response) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in response.headers.pairs:
        if name.lower().startswith(b"access-control-") or name.lower() == b"vary":
            found.setdefault(name.decode().lower().removeprefix("access-control-"), []).append(value.decode())
    return found


def preflight(policy: cors.CORS, origin: str, **headers: str) -> Outcome:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return run(policy, request("OPTIONS", headers={"Origin": origin, "Access-Control-Request-Method": "PUT", **more}))


def test_a_preflight_is_answered_at_once() -> None:
    policy = shop(methods="GET, PUT", credentials="yes", max_age="10m", private_network="yes")
    outcome = preflight(
        policy,
        "https://shop.example",
        Access_Control_Request_Headers="X-One, content-type",
        Access_Control_Request_Private_Network="true",
    )
    assert outcome.status == 204
    assert outcome.passed == []
    assert fields(outcome.response) == {
        "allow-origin": ["https://shop.example"],
        "allow-methods": ["GET, PUT"],
        "allow-headers": ["x-one, content-type"],
        "allow-credentials": ["true"],
        "allow-private-network": ["true"],
        "max-age": ["600"],
        "vary": ["Origin, Access-Control-Request-Method, Access-Control-Request-Headers"],
    }


def test_configured_headers_are_what_a_preflight_allows() -> None:
    outcome = preflight(shop(headers="X-A, X-B"), "https://shop.example", Access_Control_Request_Headers="x-evil")
    assert fields(outcome.response)["allow-headers"] == ["x-a, x-b"]


def test_nothing_but_names_is_echoed() -> None:
    outcome = preflight(shop(), "https://shop.example", Access_Control_Request_Headers='a, "b", c d, <e>')
    assert fields(outcome.response)["allow-headers"] == ["a"]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://shop.example", True),
        ("https://shop.example:443", False),
        ("http://shop.example", False),
        ("https://shop.example.evil", False),
        ("https://a.partners.example", True),
        ("https://a.b.partners.example", True),
        ("https://partners.example", False),
        ("https://evilpartners.example", False),
        ("https://evil/.partners.example", False),
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("http://localhost:evil", False),
        ("null", False),
        ("", False),
    ],
)
def test_which_origins_may_read(origin: str, allowed: bool) -> None:
    policy = shop()
    for _ in range(2):
        assert preflight(policy, origin).status == (204 if allowed else 403)
        found = fields(run(policy, request(headers={"Origin": origin})).response)
        assert found.get("allow-origin") == ([origin] if allowed else None)
        assert found["vary"] == ["Origin"]


def test_errors_of_the_policies_behind_it_are_readable() -> None:
    class Refuses:
        def on_request(self, asked: Request) -> Response | None:
            raise Refused("no")

    outcome = run([shop(), Refuses()], request(headers={"Origin": "https://shop.example"}))
    assert outcome.status == 401
    assert fields(outcome.response) == {"allow-origin": ["https://shop.example"], "vary": ["Origin"]}


def served(*pairs: tuple[bytes, bytes]) -> tuple[Responder, Headers]:
    headers = Headers(pairs)

    def service(_asked: Request, done: Done) -> None:
        response = Response(200, headers)
        response.lines = b"".join(b"%b: %b\r\n" % pair for pair in pairs)
        done(response)

    return service, headers


def test_a_services_own_cors_fields_are_replaced() -> None:
    service, shared = served((b"ACCESS-Control-Allow-Origin", b"*"), (b"Vary", b"Accept"), (b"X", b"1"))
    outcome = run(shop(exposed_headers="X"), request(headers={"Origin": "https://shop.example"}), service)
    assert fields(outcome.response) == {
        "vary": ["Accept", "Origin"],
        "allow-origin": ["https://shop.example"],
        "expose-headers": ["X"],
    }
    assert len(shared) == 3


def test_ready_lines_stay_ready() -> None:
    service, shared = served((b"X", b"1"))
    outcome = run(shop(), request(headers={"Origin": "https://shop.example"}), service)
    assert outcome.response.lines == b"X: 1\r\nAccess-Control-Allow-Origin: https://shop.example\r\nVary: Origin\r\n"
    assert [b"%b: %b\r\n" % pair for pair in outcome.response.headers] == outcome.response.lines.splitlines(
        keepends=True
    )
    assert shared.pairs == [(b"X", b"1")]


def test_everybody_may_read_what_needs_no_credentials() -> None:
    policy = shop(origins="*")
    assert fields(run(policy, request(headers={"Origin": "https://any.example"})).response) == {"allow-origin": ["*"]}
    assert fields(preflight(policy, "https://any.example").response)["allow-origin"] == ["*"]


def test_options_that_is_no_preflight_goes_to_the_service() -> None:
    assert len(run(shop(), request("OPTIONS", headers={"Origin": "https://shop.example"})).passed) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"origins": "*", "credentials": "yes"},
        {"origins": ""},
        {"origins": "shop.example"},
        {"origins": "https://shop.example/"},
        {"origins": "https://sh*p.example"},
        {"origins": "https://shop.example", "methods": "get"},
    ],
)
def test_cors_that_opens_too_much_or_nothing_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        cors.Settings.model_validate(settings)


# ---- csrf ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://trusted.example"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://trusted.example"}, 200),
        ({"Origin": "null"}, 403),
    ],
)
def test_which_requests_another_sites_page_may_send(headers: dict[str, str], status: int) -> None:
    settings = csrf.Settings.model_validate({"origins": "https://trusted.example"})
    policy = csrf.CSRF(settings, World().environment("csrf"))
    assert run(policy, request("POST", headers=headers)).status == status
    assert run(policy, request("GET", headers=headers)).status == 200


def test_other_hosts_of_the_site_if_configured() -> None:
    policy = csrf.CSRF(csrf.Settings(same_site=True), World().environment("csrf"))
    assert run(policy, request("POST", headers={"Sec-Fetch-Site": "same-site"})).status == 200
