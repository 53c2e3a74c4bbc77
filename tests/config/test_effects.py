"""What a configuration says without effect: a warning at its line, with what was probably meant."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from apigw.config.problems import ConfigurationError, Problem
from apigw.gateway.catalogue import load
from apigw.gateway.effects import EFFECTS
from apigw.gateway.effects.paths import meant

GOOD = """\
[listen public]
endpoint = tcp:0:interface=127.0.0.1

[upstream a]
targets = http://127.0.0.1:9101, http://127.0.0.1:9102
"""
ROUTE = "[route r]\npath = /api\nupstream = a\n"
JWT = "[jwt main]\nsecret = 0123456789abcdef0123456789abcdef\n"
POLICY = ROUTE + "policies = "


def found(folder: Path, text: str) -> list[Problem]:
    """All that is said about a configuration, errors or warnings."""
    path = folder / "gw.ini"
    path.write_text(text)
    try:
        return list(load(str(path)).warnings)
    except ConfigurationError as error:
        return error.problems


def route(*options: str) -> str:
    return "[route r]\nupstream = a\n" + "\n".join(options) + "\n"


WARNINGS = {
    # paths of other gateways
    "path = /users/:id": (route("path = /users/:id"), "did you mean /users/{id}?"),
    "path = /users/*": (route("path = /users/*"), "did you mean /users?"),
    "path = /**": (route("path = /**"), "did you mean /?"),
    "path = /users/<int:id>": (route("path = /users/<int:id>"), "did you mean /users/{id}?"),
    "path = /users/[id]": (route("path = /users/[id]"), "did you mean /users/{id}?"),
    "path = /v[0-9]+/users": (route("path = /v[0-9]+/users"), "did you mean ~^/v[0-9]+/users.*?"),
    "path = /users/(.*)": (route("path = /users/(.*)"), "did you mean ~^/users/(.*).*?"),
    "path = /api*": (route("path = /api*"), "did you mean ~^/api*.*?"),
    "path = ~^/api": (route("path = ~^/api"), "did you mean ~^/api.*?"),
    r"path = ~\.php$": (route(r"path = ~\.php$"), r"did you mean ~.*\.php$?"),
    # routes
    "header.X-A = ^foo$": (route("path = /", "header.X-A = ^foo$"), "did you mean ~^foo$?"),
    "header.User-Agent = curl/*": (route("path = /", "header.User-Agent = curl/*"), "did you mean ~curl/.*?"),
    "header.X-A = *.example": (route("path = /", "header.X-A = *.example"), r"did you mean ~.*\.example?"),
    "query.v = [0-9]+": (route("path = /", "query.v = [0-9]+"), "did you mean ~[0-9]+?"),
    "methods = GETT": (route("path = /", "methods = GETT, POST"), "did you mean GET?"),
    "shadowed": (ROUTE + "[route all]\npath = /\nupstream = a\npriority = 5\n", "no request comes here"),
    "shadowed expression": (ROUTE + "[route v]\npath = ~^/api/v[12]/.*\nupstream = a\n", "did you mean priority = 1?"),
    "strip_prefix": (route("path = /api/users", "strip_prefix = /v1"), "nothing is cut off"),
    "strip_prefix below an exact path": (route("path = =/api", "strip_prefix = /api/users"), "nothing is cut off"),
    "rewrite": (route("path = /api", "rewrite = ^/old/(.*) -> /new/\\1"), "nothing is rewritten"),
    "rewrite with $1": (route("path = /old", "rewrite = ^/old/(.*) -> /new/$1"), r"did you mean \1"),
    "redirect {request.host}": ("[route r]\npath = /\nredirect = 308 https://{request.host}/x\n", "no template"),
    "redirect $host": ("[route r]\npath = /\nredirect = 301 https://$host$request_uri\n", "as it stands"),
    "redirect to no URL": ("[route r]\npath = /a\nredirect = 308 https://127.0.0.1:22087:22443/b\n", "is no URL"),
    "redirect to itself": ("[route r]\npath = /old\nredirect = 301 /old/new\n", "round and round"),
    "respond {client.ip}": ("[route r]\npath = /\nrespond = 200 {client.ip}\n", "no template"),
    "listed twice": (POLICY + "csrf, cors c, csrf\n[csrf]\n[cors c]\norigins = https://a.example\n", "runs twice"),
    "listed by defaults, too": (POLICY + "csrf\n[csrf]\n[defaults]\npolicies = csrf\n", "[defaults] lists it"),
    # unused
    "unused jwt": (ROUTE + JWT, "did you mean `policies = jwt main`"),
    "unused upstream": (ROUTE + "[upstream b]\ntargets = http://127.0.0.1:1\n", "did you mean `upstream = b`"),
    "unused split": (ROUTE + "[split s]\nupstreams = a 100%\n", "nothing sends requests to this split"),
    "unused consumer": (ROUTE + f"[consumer c]\nkeys = sha256:{'0' * 64}\n", "no route lists a policy that knows"),
    "include": (ROUTE + "[gateway]\ninclude = routes/*.ini\n", "matches no file"),
    # texts
    "$NAME": (ROUTE + "[admin]\nendpoint = tcp:0\ntoken = $ADMIN_TOKEN\n", "did you mean ${ADMIN_TOKEN}?"),
    "{env.NAME}": (ROUTE + "[admin]\nendpoint = tcp:0\ntoken = {env.ADMIN_TOKEN}\n", "did you mean ${ADMIN_TOKEN}?"),
    "%NAME%": (ROUTE + "[admin]\nendpoint = tcp:0\ntoken = %ADMIN_TOKEN%\n", "did you mean ${ADMIN_TOKEN}?"),
    "a secret's path": (
        POLICY + "jwt main\n[jwt main]\nsecret = /run/secrets/jwt-of-the-whole-shop\n",
        "did you mean ${file:/run/secrets/jwt-of-the-whole-shop}?",
    ),
    "$remote_addr": (
        POLICY + "request_headers h\n[request_headers h]\nset.X-IP = $remote_addr\n",
        "did you mean {client.ip}?",
    ),
    "{path.id}": (
        POLICY + "request_headers h\n[request_headers h]\nset.X-Id = {path.id}\n",
        "captures {id}",
    ),
    # policies
    "redirect loop": (
        POLICY + "redirect s\n[redirect s]\nlocation = https://{request.host}{request.target}\n",
        "scheme = http",
    ),
    "two ports": (
        POLICY + "redirect s\n[redirect s]\nscheme = http\nlocation = https://{request.host}:443{request.target}\n",
        "did you mean {request.hostname}?",
    ),
    "callback": (
        POLICY + "oidc o\n[oidc o]\nissuer = https://a.example\nclient_id = c\ncookie_secret = " + "0" * 32 + "\n",
        "no route that lists this policy takes /oidc/callback",
    ),
    "a batch that waits for itself": (
        ROUTE + "[defaults]\npolicies = concurrency c\n[concurrency c]\nlimit = 9\n[batch b]\npath = /b\n",
        "did you mean policies = -c?",
    ),
    # aggregates
    "call.timeout": (
        "[aggregate g]\npath = /g\ntimeout = 1s\ncall.x = a GET /x\ncall.x.timeout = 2s\n",
        "ends all calls after 1s already",
    ),
}
UPSTREAMS = {
    "targets = http://127.0.0.1:1 weight=0, http://127.0.0.1:2 weight=0": "all weights are 0",
    "targets = http://127.0.0.1:1 backup=yes": "all targets are backups",
    "targets = http://127.0.0.1:1\nhedge.after = 95%": "only one target",
    "targets = http://127.0.0.1:1\nsticky.cookie = at\nsticky.secret = x": "only one target",
    "breaker.timeout = 61s": "timeout.response ends each request after 1m already",
    "timeout.response = 5s\nbreaker.timeout = 10s": "timeout.response ends each request after 5s already",
    "breaker.reset_timeout = 5m": "breaker.max_reset_timeout cuts this to 1m",
    "outlier.base_ejection_time = 10m": "outlier.max_ejection_time cuts this to 5m",
    "retry.backoff = 1s": "retry.max_backoff cuts this to 250ms",
    "pool.max_connections = 10\npool.max_idle = 20": "pool.max_connections is lower",
    "sticky.cookie = at\nsticky.secret = x\nsticky.secure = no\nsticky.same_site = none": "browsers refuse",
    "hedge.after = 2m": "timeout.response ends each request after 1m already",
    "health.interval = 2s": "did you mean health.path",
    "hedge.methods = GET": "did you mean hedge.after",
    "retry.attempts = 1\nretry.on = connect": "did you mean retry.attempts",
    "hash.load_factor = 1.25": "did you mean balance = hash:KEY",
    "discover_interval = 3s": "did you mean discover = URL",
    "sticky.max_age = 3h": "did you mean sticky.cookie",
}
for options, words in UPSTREAMS.items():
    targets = "" if "targets" in options else "targets = http://127.0.0.1:1, http://127.0.0.1:2\n"
    text = f"[route r]\npath = /\nupstream = u\n[upstream u]\n{targets}{options}\n"
    WARNINGS[options.replace("\n", ", ")] = (text, words)


@pytest.mark.parametrize("name", WARNINGS)
def test_what_has_no_effect_is_told_with_what_was_probably_meant(tmp_path: Path, name: str) -> None:
    text, words = WARNINGS[name]
    good = GOOD if "= a\n" in text or " a GET" in text or "a 100%" in text else GOOD[: GOOD.index("[upstream")]
    problems = found(tmp_path, good + text)
    assert [problem.severity for problem in problems] == ["warning"], problems
    assert words in str(problems[0])
    assert re.search(r"gw\.ini:[1-9][0-9]*: \[", str(problems[0])), problems[0]


@pytest.mark.parametrize(
    ("path", "likely"),
    [
        ("~ ^/users", "~^/users.*"),
        ("~* \\.PHP$", "~(?i).*\\.PHP$"),
        ("^~ /users", "/users"),
        ("= /users", "=/users"),
        ("^/users/", "~^/users/.*"),
        ("Path(`/users`)", "=/users"),
        ("Host(`a`) && PathPrefix(`/users`)", "/users"),
        ("/users/{id:[0-9]+}", "/users/{id}"),
        ("/users/{rest:.*}", "/users/{rest*}"),
        ("/users/{proxy+}", "/users/{proxy*}"),
        ("/users/{**all}", "/users/{all*}"),
        ("/users/{rest...}", "/users/{rest*}"),
        ("/files/*path", "/files/{path*}"),
        ("/users/:id(\\d+)/x", "/users/{id}/x"),
        ("users", "/users"),
    ],
)
def test_the_paths_of_other_gateways_are_known(tmp_path: Path, path: str, likely: str) -> None:
    problems = found(tmp_path, GOOD + route(f"path = {path}"))
    assert f"did you mean {likely}?" in "\n".join(map(str, problems))


MEANT = """
/ /users /users/ =/users /users/{id} /files/{rest*} ~^/v[12]/(?P<x>.+) ~/a|/b /a/$batch /v1/items:search /users/~anna
/a-b_c.d /caf\u00e9 ~^/health$ ~(?i)/a /x@y /a(b) /Products('1') /.well-known /a+b /a,b ~/[^/]+ ~.*[.]php
"""


@pytest.mark.parametrize("path", MEANT.split())
def test_paths_that_are_meant_are_not_told(tmp_path: Path, path: str) -> None:
    assert found(tmp_path, GOOD + route(f"path = {path}")) == []
    assert meant(path.removeprefix("=")) == "" or path.startswith("~")


@pytest.mark.parametrize(
    "text",
    [
        route("path = /api/v1", "strip_prefix = /api"),
        route("path = /api", "strip_prefix = /api/v1"),
        route("path = /{tenant}/api", "strip_prefix = /shop/api"),
        route("path = /", "strip_prefix = /api"),
        route("path = ~^/v[12]/.*", "strip_prefix = /v1"),
        route("path = /old", "rewrite = ^/old/(.*) -> /new/\\1"),
        route("path = /", "rewrite = ^/olds?/(.*) -> /new/\\1"),
        route("path = /{t}/x", "rewrite = ^/shop/(.*) -> /new/\\1"),
        "[route r]\npath = /\nmethods = PURGE, MKCOL, QUERY\nupstream = a\n",
        "[route r]\npath = =/old\nredirect = 301 /old/new\n[route s]\npath = /s\nupstream = a\n",
        "[route r]\npath = /old\nredirect = 308 https://shop.example\n[route s]\npath = /s\nupstream = a\n",
        POLICY + 'respond r\n[respond r]\ntext = {"price": "$5", "name": "{x}"}\n',
        POLICY + "redirect s\n[redirect s]\nscheme = http\nlocation = https://{request.hostname}:443{request.target}\n",
        POLICY + "request_headers h\n[request_headers h]\nset.X-Id = {path.id}\n"
        "[route s]\npath = /s/{id}\nupstream = a\npolicies = request_headers h\n",
        POLICY + f"jwt main, request_headers h\n{JWT}[request_headers h]\nset.X-Id = {{jwt.sub}}\n",
        POLICY + f"jwt main | api_key\n{JWT}[consumer c]\nkeys = sha256:{'0' * 64}\n",
        POLICY + "jwt main\n[jwt main]\nsecret = pa$word-Pa$Word-pa$word-Pa$Word-\n",
        ROUTE + f"auth = jwt main\n{JWT}",
        ROUTE + f"[defaults]\nauth = jwt main\n{JWT}",
        "[aggregate g]\npath = /g\nclass = tests.aggregation.pages:dashboard\n",
        "[aggregate g]\npath = /g\ncall.x = a GET /x\ncall.x.headers = X-Id: {header.x-id}\n",
        ROUTE + "[upstream b]\ntargets = http://127.0.0.1:1\n[aggregate g]\npath = /g\ncall.x = b GET /x\n",
        ROUTE.replace("= a", "= s")
        + "[split s]\nupstreams = a 50%, b 50%\n[upstream b]\ntargets = http://127.0.0.1:1\n",
        ROUTE
        + "[defaults]\npolicies = concurrency c\n[concurrency c]\nlimit = 9\n[batch b]\npath = /b\npolicies = -c\n",
        route(
            "path = /", "header.Accept = */*", "header.X-A = a^b", "header.X-B = ~^a.*", "query.q = *", "query.a = C++"
        ),
        ROUTE + "priority = 5\n[route all]\npath = /\nupstream = a\n",
        ROUTE + "[route all]\npath = /\nupstream = a\npriority = 5\nmethods = GET\n",
        ROUTE + "[route v]\npath = ~^/v[12]/.*\nupstream = a\n",
        ROUTE + "[route v]\npath = ~^/ap[ij]/.*\nupstream = a\n",
        ROUTE + "[route v]\npath = ~^/api/v[12]/.*\nupstream = a\nhosts = shop.example\n",
        ROUTE + "[route v]\npath = ~^/api/v[12]/.*\nupstream = a\npriority = 1\n",
        ROUTE + "methods = GET\n[route v]\npath = ~^/api/v[12]/.*\nupstream = a\n",
    ],
)
def test_what_is_meant_is_not_told(tmp_path: Path, text: str) -> None:
    assert found(tmp_path, GOOD + text) == []


@pytest.mark.parametrize("options", ["retry.attempts = 1\nretry.budget = 10%", "sticky.cookie = at\nsticky.secret = x"])
def test_options_of_upstreams_that_are_meant_are_not_told(tmp_path: Path, options: str) -> None:
    assert found(tmp_path, GOOD + options + "\n" + ROUTE) == []


def test_a_body_that_no_listener_lets_in(tmp_path: Path) -> None:
    listen = "[listen public]\nendpoint = tcp:0:interface=127.0.0.1\nmax_body = 1MiB\n"
    text = "[route r]\npath = /\nrespond = 200\nmax_body = 2MiB\n"
    assert "no listener takes so large a body" in str(found(tmp_path, listen + text)[0])
    assert found(tmp_path, listen + "[listen two]\nendpoint = tcp:1:interface=127.0.0.2\n" + text) == []


def test_a_secret_is_not_shown_in_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_THIS_TEST", "$VERY_SECRET_VALUE_OF_THIS_TEST")
    problems = found(tmp_path, GOOD + POLICY + "jwt main\n[jwt main]\nsecret = ${TOKEN_OF_THIS_TEST}\n")
    assert "VERY_SECRET" not in "\n".join(map(str, problems))


def test_the_work_grows_with_the_number_of_routes_and_no_faster(tmp_path: Path) -> None:
    def calls(count: int) -> int:
        options = "strip_prefix = /a\nupstream = a\npolicies = jwt main\npriority = "
        routes = [f"[route r{number}]\npath = /a/{number}\n{options}{number % 3}\n" for number in range(count)]
        path = tmp_path / "gw.ini"
        path.write_text(GOOD + JWT + "".join(routes))
        configuration = load(str(path))
        assert configuration.warnings == ()
        made = 0

        def counting(frame: object, event: str, argument: object) -> None:
            nonlocal made
            made += "call" in event

        sys.setprofile(counting)
        try:
            for check in EFFECTS:
                list(check(configuration))
        finally:
            sys.setprofile(None)
        return made

    few, many = calls(50), calls(500)
    assert many < few * 10.5


ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("file", [ROOT / "conf/gw.ini", *(ROOT / "examples").rglob("*.ini")], ids=str)
def test_our_own_files_have_no_warning(file: Path) -> None:
    assert load(str(file)).warnings == ()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_example_of_the_manual_has_a_warning(tmp_path: Path, page: Path) -> None:
    for example in re.findall(r"```ini\n(.*?)```", page.read_text(), re.DOTALL):
        warnings = [each for each in found(tmp_path, example) if each.severity == "warning"]
        assert [str(each) for each in warnings if "there is no [listen NAME]" not in each.what] == []


async def test_warnings_are_logged_at_start_and_at_reload_but_not_without_end(gateway: Any) -> None:
    events: list[str] = []

    def observe(event: LogEvent) -> None:
        if "warnings of" in (event.get("log_format") or ""):
            events.append(formatEvent(event))

    unused = "".join(f"[jwt j{number}]\nsecret = 0123456789abcdef0123456789abcdef\n" for number in range(25))
    open_route = "[route r]\npath = /\nrespond = 200\n"
    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    try:
        running = await gateway(open_route + unused)
        [event] = events
        assert event.count("no route lists this policy") == 20
        assert event.endswith("and 5 more: `apigw check` lists all of them")
        await running.reload(open_route)
        assert len(events) == 1
        await running.reload(open_route + unused)
        assert len(events) == 2
    finally:
        globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]
