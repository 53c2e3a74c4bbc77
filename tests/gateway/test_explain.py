"""What ``apigw explain`` and the checks of routes say of a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from apigw.config.configuration import Configuration
from apigw.config.kinds import BASE_KINDS, Kind
from apigw.config.load import load
from apigw.config.model import Settings
from apigw.config.problems import ConfigurationError
from apigw.config.values import Secret
from apigw.gateway.catalogue import UpstreamSettings
from apigw.gateway.catalogue import load as load_all
from apigw.gateway.checks import CHECKS
from apigw.gateway.explain import explain, render


class TokenSettings(Settings):
    """A policy to list."""

    token: Secret = Secret("")
    realm: str = ""


KINDS = {
    **BASE_KINDS,
    "upstream": Kind(UpstreamSettings),
    "token": Kind(TokenSettings, naming="either", policy=True),
}

START = """\
[gateway]
trusted_proxies = 10.0.0.0/8
[listen public]
endpoint = tcp:8080:interface=127.0.0.1
[upstream users]
targets =
    http://127.0.0.1:9101/base
    https://users.internal
"""

SHOP = """\
[token main]
token = hunter2
realm = ${REALM}
[route user]
path = /api/users/{id}
methods = GET
strip_prefix = /api
upstream = users
policies = token main
[route users]
path = /api/users
upstream = users
preserve_host = yes
[route old]
path = /old
redirect = 308 https://new.example
[route down]
path = /down
respond = 503 back soon
[health]
path = /health
"""


def configured(tmp_path: Path, text: str) -> Configuration:
    (tmp_path / "gw.ini").write_text(START + text)
    return load(tmp_path / "gw.ini", KINDS, {"REALM": "shop"}, CHECKS)


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as wrong:
        configured(tmp_path, text)
    return [f"{each.line - START.count(chr(10))} {each.option}: {each.what}" for each in wrong.value.problems]


def test_the_chosen_route_its_policies_and_what_would_be_sent(tmp_path: Path) -> None:
    found = explain(
        configured(tmp_path, SHOP),
        "GET",
        "https://Shop.Example:8443/api/./users/%37?x=1",
        [("Accept", "*/*"), ("Connection", "X-Hop"), ("X-Hop", "1"), ("X-Forwarded-For", "192.0.2.1")],
    )
    assert found["request"]["path"] == "/api/users/7"
    assert found["route"] == {
        "kind": "route",
        "name": "user",
        "origin": f"{tmp_path / 'gw.ini'}:{START.count(chr(10)) + 4}",
        "captures": {"id": "7"},
    }
    (policy,) = found["policies"]
    assert (policy["kind"], policy["name"]) == ("token", "main")
    assert policy["settings"] == {"token": "(secret)", "realm": "${REALM}"}
    answer = found["answer"]
    assert (answer["upstream"], answer["target_path"]) == ("users", "/base/users/7?x=1")
    headers = dict(answer["headers"])
    assert headers["Host"] == "127.0.0.1:9101"
    assert headers["X-Forwarded-For"] == "127.0.0.1"
    assert headers["X-Forwarded-Host"] == "shop.example:8443"
    assert headers["X-Forwarded-Proto"] == "https"
    assert headers["X-Forwarded-Prefix"] == "/api"
    assert headers["Accept"] == "*/*"
    assert "X-Hop" not in headers


def test_a_trusted_proxy_is_believed(tmp_path: Path) -> None:
    found = explain(
        configured(tmp_path, SHOP), "PUT", "http://h/api/users/7", [("X-Forwarded-For", "192.0.2.1")], peer="10.1.1.1"
    )
    headers = dict(found["answer"]["headers"])
    assert (found["request"]["client"], headers["X-Forwarded-For"], headers["Host"]) == (
        "192.0.2.1",
        "192.0.2.1, 10.1.1.1",
        "h",
    )


def test_each_route_says_what_failed(tmp_path: Path) -> None:
    found = explain(configured(tmp_path, SHOP), "PUT", "/api/users/7")
    considered = {each["name"] or each["kind"]: (each["failed"], each["chosen"]) for each in found["considered"]}
    assert considered["user"] == ("method PUT is not GET", False)
    assert considered["users"] == ("", True)
    assert considered["old"] == ("path /api/users/7 does not match /old", False)
    assert considered["health"] == ("path /api/users/7 does not match /health", False)


@pytest.mark.parametrize(
    ("method", "url", "status", "reason"),
    [
        ("GET", "/nothing", 404, "no_route"),
        ("GET", "/a%2fb", 400, "encoded_slash"),
        ("GET", "http://a b/", 400, "invalid_target"),
        ("CONNECT", "h:443", 501, "connect_not_supported"),
    ],
)
def test_refusals(tmp_path: Path, method: str, url: str, status: int, reason: str) -> None:
    refused = explain(configured(tmp_path, SHOP), method, url)["refused"]
    assert (refused["status"], refused["reason"]) == (status, reason)


def test_answers_without_an_upstream(tmp_path: Path) -> None:
    configuration = configured(tmp_path, SHOP)
    assert explain(configuration, "GET", "/old/x")["answer"] == {
        "by": "redirect",
        "status": 308,
        "location": "https://new.example/old/x",
    }
    assert explain(configuration, "GET", "/down")["answer"] == {"by": "respond", "status": 503, "text": "back soon"}
    assert explain(configuration, "GET", "/health")["answer"] == {"by": "health"}


def test_a_person_can_read_it(tmp_path: Path) -> None:
    configuration = configured(tmp_path, SHOP)
    text = render(explain(configuration, "GET", "http://h/api/users/7?x")).replace(str(tmp_path) + "/", "")
    assert (
        text
        == """\
GET http://h/api/users/7?x
  host h, path /api/users/7?x, from 127.0.0.1

routes, in the order of choice
  ->  route user   /api/users/{id}  gw.ini:12  chosen
      route users  /api/users       gw.ini:18  fits, but another goes first
      route old    /old             gw.ini:22  path /api/users/7 does not match /old
      route down   /down            gw.ini:25  path /api/users/7 does not match /down
      health       /health          gw.ini:28  path /api/users/7 does not match /health

captured
  id  7

policies, in order
  token main  (gw.ini:9)
    token  (secret)
    realm  ${REALM}

sent to upstream users  (gw.ini:5)
  http://127.0.0.1:9101/base
  https://users.internal:443

  GET /base/users/7?x
  Host: 127.0.0.1:9101
  X-Forwarded-For: 127.0.0.1
  X-Forwarded-Proto: http
  X-Forwarded-Host: h
  Forwarded: for=127.0.0.1;host=h;proto=http
  Via: 1.1 apigw
  X-Forwarded-Prefix: /api
  X-Request-Id: (made)
"""
    )
    for url, line in (
        ("/old", "redirected: 308 https://new.example/old"),
        ("/down", "answered: 503 back soon"),
        ("/health", "answered by health"),
        ("/x", "answered: 404 no_route: no route takes this request"),
    ):
        assert line in render(explain(configuration, "GET", url)).split("\n")


def test_ambiguous_routes_are_both_named(tmp_path: Path) -> None:
    (problem,) = problems(
        tmp_path,
        "[route a]\npath = /a/{x}\nupstream = users\n[route b]\npath = /a/{y}\nmethods = GET\nupstream = users\n"
        "[route c]\npath = /a/{y}\nupstream = users\n",
    )
    start = START.count("\n")
    assert problem == (
        f"9 path: /a/{{x}} takes the same requests as [route a] at {tmp_path / 'gw.ini'}:{start + 2}, with equal rank"
    )


def test_wrong_patterns_are_found_at_their_options_all_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "[route a]\npath = ~/(?!a)\nupstream = users\n"
        "[route b]\npath = /b/{id}\nadd_prefix = /{tenant}\nheader.X-A = ~(\nupstream = users\n",
    )
    assert [each.partition(" (")[0].partition(": ")[0] for each in found] == ["2 path", "6 add_prefix", "7 header.X-A"]


def test_a_split_and_a_mirror_are_explained(tmp_path: Path) -> None:
    file = tmp_path / "gw.ini"
    file.write_text(
        "[upstream a]\ntargets = http://127.0.0.1:1\n[upstream b]\ntargets = http://127.0.0.1:2\n"
        "[split s]\nupstreams = a 75%, b 25%\n[route r]\npath = /\nupstream = s\nmirror = b 10%\n"
    )
    explained = explain(load_all(str(file)), "GET", "/x")
    assert explained["answer"]["split"] == {"a": "75%", "b": "25%"}
    assert explained["answer"]["mirror"] == "b 10%"
    assert explained["answer"]["origin"].endswith("gw.ini:5")
    assert "  75% a\n  25% b\n" in render(explained)
    assert "copies to b 10%" in render(explained)


CALLS = """\
[listen public]
endpoint = tcp:8080:interface=127.0.0.1
[upstream users]
targets = http://127.0.0.1:9101
[upstream blue]
targets = http://127.0.0.1:9102
[upstream green]
targets = http://127.0.0.1:9103
[split orders]
upstreams = blue 90%, green 10%
[aggregate page]
path = /page/{id}
methods = GET, POST
timeout = 3s
call.user = users GET /users/{path.id}?full={query.full}
call.orders = orders GET /orders?user={user.id}
call.orders.optional = yes
call.note = users POST /notes/{jwt.sub}
undo.note = users DELETE /notes/{note.id}
response = {user: user, orders: orders}
[batch all]
path = /batch
max_requests = 5
"""


def test_the_calls_of_an_aggregate_are_told_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "gw.ini"
    path.write_text(CALLS)
    explained = explain(load_all(str(path), {}), "GET", "/page/a%20b?full=1")
    answer = explained["answer"]
    assert answer["settings"] == {"timeout": "3s", "response": "{user: user, orders: orders}"}
    user, orders, note = answer["calls"]
    assert (user["target_path"], user["after"], user["targets"]) == (
        "/users/a%20b?full=1",
        [],
        ["http://127.0.0.1:9101"],
    )
    assert (orders["template"], "target_path" in orders) == ("/orders?user={user.id}", False)
    assert (orders["after"], orders["settings"]) == (["user"], {"optional": "yes"})
    assert orders["targets"] == ["http://127.0.0.1:9102", "http://127.0.0.1:9103"]
    assert (note["undo"]["method"], note["undo"]["template"]) == ("DELETE", "/notes/{note.id}")
    assert render(explained).split("answered by")[1] == (
        " aggregate page, which calls\n\n"
        f"  user, at once  ({path}:15)\n"
        "    GET /users/a%20b?full=1\n"
        "    to upstream users: http://127.0.0.1:9101\n"
        "    Host: 127.0.0.1:9101\n\n"
        f"  orders, after user  ({path}:16)\n"
        "    GET /orders?user={user.id}\n"
        "    to upstream orders: http://127.0.0.1:9102, http://127.0.0.1:9103\n"
        "    Host: 127.0.0.1:9102\n"
        "    optional  yes\n\n"
        f"  note, at once  ({path}:18)\n"
        "    POST /notes/{jwt.sub}\n"
        "    to upstream users: http://127.0.0.1:9101\n"
        "    Host: 127.0.0.1:9101\n"
        f"    taken back by  ({path}:19)\n"
        "    DELETE /notes/{note.id}\n"
        "    to upstream users: http://127.0.0.1:9101\n"
        "    Host: 127.0.0.1:9101\n\n"
        "  timeout   3s\n"
        "  response  {user: user, orders: orders}\n"
    )


def test_a_batch_is_told_with_its_limits(tmp_path: Path) -> None:
    path = tmp_path / "gw.ini"
    path.write_text(CALLS)
    explained = explain(load_all(str(path), {}), "POST", "/batch")
    assert explained["answer"] == {"by": "batch", "settings": {"max_requests": "5"}}
    assert render(explained).endswith(
        "answered by batch all: each of its requests goes the way of a request of its own\n  max_requests  5\n"
    )
