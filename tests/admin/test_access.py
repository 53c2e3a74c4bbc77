"""Who may look at the admin listener."""

import pytest

from apigw.admin.access import Access, Visit, is_loopback

TOKEN = "s3cret-t0ken"
RIGHT = (b"Bearer s3cret-t0ken",)


def verdict(access: Access, visit: Visit) -> str:
    refusal = access.refusal(visit)
    return "in" if refusal is None else f"{refusal.status} {refusal.reason}"


def local(method: bytes = b"GET", host: bytes = b"localhost:9090", **more: object) -> Visit:
    return Visit(method, True, (host,), **more)  # type: ignore[arg-type]


def remote(method: bytes = b"GET", host: bytes = b"10.0.0.5:9090", **more: object) -> Visit:
    return Visit(method, False, (host,), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:9090", b"localhost.", b"127.0.0.1:9090", b"[::1]:9090"])
def test_a_read_from_this_machine_needs_no_token(token: str, host: bytes) -> None:
    assert verdict(Access(token), local(host=host)) == "in"
    assert verdict(Access(token), local(b"HEAD", host)) == "in"


def test_a_probe_without_host_from_this_machine_is_let_in() -> None:
    assert verdict(Access(""), Visit(b"GET", True)) == "in"


def test_from_elsewhere_nothing_is_shown_without_a_token() -> None:
    assert verdict(Access(""), remote()) == "403 admin_forbidden"
    assert verdict(Access(""), remote(host=b"localhost")) == "403 admin_forbidden"
    assert verdict(Access(TOKEN), remote()) == "401 admin_unauthorized"


@pytest.mark.parametrize("visit", [local, remote])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_the_token_opens_everything_from_everywhere(visit: type[Visit], method: bytes) -> None:
    assert verdict(Access(TOKEN), visit(method, authorizations=RIGHT)) == "in"  # type: ignore[call-arg]
    assert verdict(Access(TOKEN), visit(method, authorizations=(b"bearer  s3cret-t0ken ",))) == "in"  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "fields",
    [
        (b"Bearer wrong",),
        (b"Bearer ",),
        (b"",),
        (b"Bearer",),
        (b"Basic s3cret-t0ken",),
        (b"s3cret-t0ken",),
        (b"Bearer S3CRET-T0KEN",),
        (b"Bearer s3cret-t0ken", b"Bearer s3cret-t0ken"),
        (b"Bearer s3cret-t0ken\xff",),
    ],
)
def test_a_wrong_token_is_refused_even_for_what_needs_none(fields: tuple[bytes, ...]) -> None:
    assert verdict(Access(TOKEN), local(authorizations=fields)) == "401 admin_unauthorized"


def test_a_change_from_this_machine_needs_the_token() -> None:
    assert verdict(Access(TOKEN), local(b"POST")) == "401 admin_unauthorized"
    assert verdict(Access(""), local(b"POST")) == "403 admin_forbidden"
    assert verdict(Access(""), local(b"POST", authorizations=(b"Bearer ",))) == "403 admin_forbidden"


@pytest.mark.parametrize(
    "host", [b"evil.example", b"localhost.evil.example", b"127.0.0.1.evil.example:9090", b"", b"["]
)
def test_a_web_page_that_points_its_own_name_at_this_machine_sees_nothing(host: bytes) -> None:
    """DNS rebinding: the browser connects to 127.0.0.1, but names the page's host."""
    assert verdict(Access(""), local(host=host)) == "403 admin_host_refused"
    assert verdict(Access(TOKEN), local(host=host)) == "401 admin_unauthorized"


def test_two_hosts_must_both_be_this_machine() -> None:
    assert verdict(Access(""), Visit(b"GET", True, (b"localhost", b"evil.example"))) == "403 admin_host_refused"


def test_a_configured_name_of_this_machine_is_believed() -> None:
    assert verdict(Access("", ["Gateway-1"]), local(host=b"gateway-1:9090")) == "in"


def test_what_a_local_proxy_passes_on_is_not_local() -> None:
    assert verdict(Access(""), local(forwarded=True)) == "403 admin_forbidden"
    assert verdict(Access(TOKEN), local(forwarded=True)) == "401 admin_unauthorized"


def test_a_token_beyond_ascii_works() -> None:
    assert verdict(Access("schlüssel"), remote(authorizations=("Bearer schlüssel".encode(),))) == "in"


def test_loopback_addresses_are_known_in_every_form() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]))
    assert not any(map(is_loopback, ["10.0.0.1", "::ffff:10.0.0.1", "", "localhost", "0.0.0.0", "::"]))
