"""A whole file: settings with their types, or every mistake at once."""

# ruff: noqa: E501  messages stand here as they are, and they are long

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apigw.config.addresses import EndpointAddress
from apigw.config.configuration import Configuration
from apigw.config.load import load
from apigw.config.problems import ConfigurationError, Problem
from apigw.config.references import PolicyReference
from tests.config.kinds import KINDS, Coloured, loaded, mistakes

WELL = """
[gateway]
workers = auto
trusted_proxies = 127.0.0.1/32, 10.0.0.0/8
drain_timeout = 5s

[listen public]
endpoint = tcp:8080:interface=127.0.0.1
timeout.keepalive = 10s

[admin]
endpoint = tcp:9090:interface=127.0.0.1
token = ${TOKEN:-}

[health]

[defaults]
policies = cors shop, limit

[upstream users]
targets = http://127.0.0.1:9101
pool.max_idle = 7

[split users2]
first = users

[cors shop]
origins =
    https://a.example   ; one
    https://b.example

[limit]
rate = 10/s, 100/m

[limit strict]
rate = 1/s

[route users]
path = /api/users
upstream = users2
header.X-Canary = yes
methods = GET, HEAD
policies = -cors shop, limit strict, jwt

[route old]
path = =/old
redirect = 308 https://shop.example/new

[route closed]
path = /closed
respond = 503 back soon

[resource twisted]
path = /site
class = twisted.web.resource:Resource

[aggregate page]
path = /page
call.user = users GET /users/{jwt.sub}
call.user.optional = yes
call.user.default = {"a": []}
call.more = users2 GET /
response = {user: user, "x": more}

[python mine]
class = coloured
colour = green
"""


class TestWhatIsWell:
    def test_every_section_has_its_typed_settings(self, tmp_path: Path) -> None:
        configuration = loaded(tmp_path, WELL)
        assert configuration.gateway.workers == "auto"
        assert configuration.gateway.drain_timeout == 5.0
        assert configuration.listens["public"].endpoint == EndpointAddress("tcp", "127.0.0.1", 8080)
        assert configuration.listens["public"].timeout.keepalive == 10.0
        assert configuration.listens["public"].timeout.head == 10.0
        assert configuration.listens["public"].tls is None
        assert configuration.admin is not None
        assert not configuration.admin.token
        assert configuration.health is not None
        assert configuration.health.path == "/health"
        assert configuration.upstreams["users"].pool.max_idle == 7
        assert configuration.routes["users"].header == {"X-Canary": "yes"}
        assert configuration.routes["users"].methods == ("GET", "HEAD")
        assert configuration.routes["old"].redirect == (308, "https://shop.example/new")
        assert configuration.routes["closed"].respond == (503, "back soon")
        assert configuration.resources["twisted"].class_.__name__ == "Resource"  # type: ignore[attr-defined]
        assert configuration.of("python")["mine"] == Coloured(class_="coloured", colour="green")

    def test_a_group_has_a_value_of_its_own_and_options(self, tmp_path: Path) -> None:
        page = loaded(tmp_path, WELL).of("aggregate")["page"]
        assert page.call["user"].request == "users GET /users/{jwt.sub}"
        assert page.call["user"].optional is True
        assert page.call["user"].default == {"a": []}
        assert page.call["more"].optional is False
        assert page.response == '{user: user, "x": more}'

    def test_policies_follow_the_defaults_less_those_taken_out(self, tmp_path: Path) -> None:
        configuration = loaded(tmp_path, WELL)
        assert configuration.policies_of(configuration.routes["users"]) == (
            PolicyReference("limit", ""),
            PolicyReference("limit", "strict"),
            PolicyReference("jwt", ""),
        )
        assert set(configuration.policies) == {("cors", "shop"), ("limit", ""), ("limit", "strict"), ("jwt", "")}
        assert configuration.policies_of(None) == (PolicyReference("cors", "shop"), PolicyReference("limit", ""))

    def test_it_says_where_everything_stands(self, tmp_path: Path) -> None:
        configuration = loaded(tmp_path, WELL)
        file = f"{tmp_path}/gw.ini"
        assert configuration.origin("gateway", "", "workers") == f"{file}:3"
        assert configuration.origin("listen", "public") == f"{file}:7"
        assert configuration.origin("listen", "public", "max_body") == f"{file}:7"
        assert configuration.origin("nothing", "at all") == file
        assert configuration.order[:3] == (("gateway", ""), ("listen", "public"), ("admin", ""))
        assert configuration.files == (file,)

    def test_cookies_are_mapped_by_domains_in_lower_case_and_by_paths(self, tmp_path: Path) -> None:
        route = loaded(
            tmp_path,
            UP + "[route x]\npath = /\nupstream = users\nrewrite_cookie_domain = .Users.Internal: Shop.example, *:\n"
            "rewrite_cookie_path = /v1: /api, *: /\n",
        ).routes["x"]
        assert route.rewrite_cookie_domain == {"users.internal": "shop.example", "*": ""}
        assert route.rewrite_cookie_path == {"/v1": "/api", "*": "/"}

    def test_what_is_not_written_has_its_default(self, tmp_path: Path) -> None:
        configuration = loaded(tmp_path, "[gateway]\n")
        assert configuration.gateway.workers == 1
        assert configuration.admin is None
        assert configuration.policies_of(None) == ()

    def test_the_same_text_gives_equal_settings(self, tmp_path: Path) -> None:
        assert loaded(tmp_path, WELL).sections == loaded(tmp_path, WELL).sections


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("[rout x]\n", ["gw.ini:1: [rout x] there is no such kind of section; did you mean route?"]),
        ("[listen]\nendpoint = tcp:1\n", ["gw.ini:1: [listen] this section has no name; expected [listen NAME]"]),
        ("[admin x]\nendpoint = tcp:1\n", ["gw.ini:1: [admin x] this section takes no name; expected [admin]"]),
        ("[gateway]\nworker = 1\n", ["gw.ini:2: [gateway] worker: there is no such option; did you mean workers?"]),
        (
            "[gateway]\nhandshake_timeout = 1s\n[upstream u]\ntargets = a\nconect = 1s\nsecret = x\n",
            [
                ("gw.ini:2: [gateway] handshake_timeout: there is no such option; expected one of workers, state, access_log,"
                " access_log_format, trusted_proxies, trust_unix, forwarded_by, path_parameters, drain_timeout, file_timeout,"
                " name_servers, include"),
                "gw.ini:5: [upstream u] conect: there is no such option; did you mean timeout.connect?",
                "gw.ini:6: [upstream u] secret: there is no such option; it belongs into [jwt NAME] or [jwt]",
            ],
        ),
        (
            "[listen x]\nendpoint = tcp:1\ntimeout = 5s\n",
            [
                ("gw.ini:3: [listen x] timeout: this is a group of options;"
                " expected timeout.head, timeout.body, timeout.keepalive")
            ],
        ),
        ("[listen x]\n", [("gw.ini:1: [listen x] endpoint: this option is missing; expected tcp:PORT:interface=ADDRESS,"
                          " unix:PATH:mode=660, systemd:INDEX or systemd:NAME")]),
        (
            "[aggregate a]\npath = /\ncall.user.optional = yes\n",
            ["gw.ini:1: [aggregate a] call.user: this option is missing; expected UPSTREAM METHOD PATH"],
        ),
        (
            ("[route x]\npath = /\nupstream = u\n[upstream u]\ntargets = a\n[route y]\npath = /y\nupstream = u\n"
            "rewrite_cookie_path =\n  /a: /b\n  /c: d; e\nrewrite_cookie_domain = a b: c\n"),
            [
                "gw.ini:11: [route y] rewrite_cookie_path: `/c: d; e` does not name paths; expected paths such as /v1: /api/v1",
                ("gw.ini:12: [route y] rewrite_cookie_domain: `a b: c` does not name domains;"
                " expected domains such as users.internal: shop.example"),
            ],
        ),
        (
            "[gateway]\nworkers = 0\n",
            [("gw.ini:2: [gateway] workers: `0` is out of range;"
             " expected a number of processes from 1 to 1024, or auto")],
        ),
        ("[listen x]\nendpoint = tcp:1\ntimeout.head = 0s\nmax_head = 1\n", [
            "gw.ini:3: [listen x] timeout.head: `0s` is out of range; expected more than 0s",
            "gw.ini:4: [listen x] max_head: `1` is out of range; expected at least 256",
        ]),
        ("[limit]\nrate = 5/s\nburst = 2000\n", ["gw.ini:3: [limit] burst: `2000` is out of range; expected at most 1000"]),
        ("[limit]\nrate = 5/s\nburst = 7\n", ["gw.ini:3: [limit] burst: 7 is more than the rate"]),
        ("[limit]\nrate = 5/s,\n  9\n", [("gw.ini:3: [limit] rate: `9` is not a rate;"
                                         " expected a rate such as 100/s, 600/m, 100/15m, 5000/h, 100000/d")]),
        ("[limit]\nrate = 5/s\nby = rout\n",
         [("gw.ini:3: [limit] by: `rout` is none of the words that there are; expected one of ip, route, all;"
          " did you mean route?")]),
        ("[jwt]\nleeway = long\n", ["gw.ini:2: [jwt] leeway: `long` is not a whole number"]),
        ("[jwt]\nclaims_to_headers =\n  sub: A\n  iss\n",
         ["gw.ini:4: [jwt] claims_to_headers: `iss` is not of the form `name: value`; expected `name: value` items"]),
        ("[gateway]\ntrusted_proxies =\n  10.0.0.0/8\n  10.0.0.1/8\n",
         [("gw.ini:4: [gateway] trusted_proxies: `10.0.0.1/8` has bits set behind its prefix;"
          " expected a network such as 10.0.0.0/8 or 2001:db8::/32; did you mean 10.0.0.0/8, or 10.0.0.1 alone?")]),
        ("[route x]\npath = /x\n", [("gw.ini:1: [route x] the route goes nowhere;"
                                    " expected one of upstream, redirect and respond")]),
        ("[route x]\npath = /x\nredirect = 308 /y\nrespond = 200\n",
         ["gw.ini:4: [route x] respond: the route has redirect and respond; expected one of them"]),
        ("[route x]\npath = /x\nrespond = 200\npreserve_host = yes\n",
         ["gw.ini:4: [route x] preserve_host: nothing is sent on where a route has respond; expected no preserve_host"]),
        ("[route x]\npath = /x\nredirect = /y\n",
         [("gw.ini:3: [route x] redirect: `/y` is not a redirect;"
          " expected 308 https://host/path, with 301, 302, 303, 307 or 308; did you mean 308 /y?")]),
        (("[listen a]\nendpoint = tcp:80\n[listen b]\nendpoint = tcp:80\n[admin]\nendpoint = tcp:80\n[listen c]\n"
         "endpoint = tcp:0\n[listen d]\nendpoint = tcp:0\n"),
         ["gw.ini:4: [listen b] endpoint: tcp:80:interface=0.0.0.0 is taken already, at gw.ini:2",
          "gw.ini:6: [admin] endpoint: tcp:80:interface=0.0.0.0 is taken already, at gw.ini:2"]),
        (("[listen a]\nendpoint = tcp:80\n[listen b]\nendpoint = tcp:80:interface=127.0.0.1\n"
         "[listen c]\nendpoint = tcp:81:interface=127.0.0.1\n[listen d]\nendpoint = tcp:81:interface=::\n"
         "[listen e]\nendpoint = tcp:82:interface=::1\n[listen f]\nendpoint = tcp:82\n"),
         [("gw.ini:4: [listen b] endpoint: tcp:80:interface=127.0.0.1 is taken already, at gw.ini:2,"
           " which listens on tcp:80:interface=0.0.0.0"),
          ("gw.ini:8: [listen d] endpoint: tcp:81:interface=:: is taken already, at gw.ini:6,"
           " which listens on tcp:81:interface=127.0.0.1")]),
        (("[listen a]\nendpoint = unix:a.sock:mode=600\n[listen b]\nendpoint = unix:a.sock\n"),
         ["gw.ini:4: [listen b] endpoint: unix:a.sock:mode=660 is taken already, at gw.ini:2"]),
        ("[listen x]\nendpoint = tcp:1\ntimeout.foo = 5s\n",
         [("gw.ini:3: [listen x] timeout.foo: there is no such option;"
           " expected one of timeout.head, timeout.body, timeout.keepalive")]),
        ("[route x]\npath = /a, /b\nrespond = 200\n",
         [("gw.ini:2: [route x] path: `/a, /b` is more than one path; expected /prefix, =/exact, /template/{id} or"
           " ~REGEX; a regular expression can be several: ~^/(this|that)(/|$)")]),
        (("[route x]\npath = /\nrespond = 200\n[route x]\npath = /y\nmethods = get\nrespnd = 200\n"),
         ["gw.ini:4: [route x] this section is here twice, first at gw.ini:1",
          ("gw.ini:6: [route x] methods: `get` is not a method in capitals; expected a method such as GET or POST;"
           " did you mean GET?"),
          "gw.ini:7: [route x] respnd: there is no such option; did you mean respond?"]),
        (("[Upstrem u]\ntargets = a\nconect = 1s\n[route x]\npath = /\nupstream = u\n"),
         ["gw.ini:1: [Upstrem u] there is no such kind of section; did you mean upstream?",
          "gw.ini:3: [Upstrem u] conect: there is no such option; did you mean timeout.connect?"]),
        ("[listen x]\nendpoint = tcp:1\ntls.minimum = 1.1\ntls.certificates = gw.ini\n",
         ["gw.ini:3: [listen x] tls.minimum: `1.1` is none of the words that there are; expected one of 1.2, 1.3"]),
        ("[DEFAULT]\n", ["gw.ini:1: [DEFAULT] there is no such kind of section; did you mean defaults?"]),
        (("[route x]\npath = /\nmethods = get\nredirect = 308 /\nrespond = 200\n"),
         [("gw.ini:3: [route x] methods: `get` is not a method in capitals; expected a method such as GET or POST;"
           " did you mean GET?"),
          "gw.ini:5: [route x] respond: the route has redirect and respond; expected one of them"]),
        ("", ["gw.ini: there is nothing in this file; expected sections [KIND NAME]"]),
        ("[python x]\nclass = other\n", ["gw.ini:2: [python x] class: `other` is no class"]),
        ("[python x]\nclass = coloured\ncolour = rde\n",
         [("gw.ini:3: [python x] colour: `rde` is none of the words that there are; expected one of red, green;"
          " did you mean red?")]),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_what_was_probably_meant(
    tmp_path: Path, text: str, lines: list[str]
) -> None:
    assert mistakes(tmp_path, text) == lines


def test_a_gateway_that_nobody_can_come_to_is_warned_of(tmp_path: Path) -> None:
    assert [str(each) for each in loaded(tmp_path, "[gateway]\n").warnings] == [
        f"{tmp_path}/gw.ini: warning: there is no [listen NAME], so no client can come in"
    ]
    assert not loaded(tmp_path, "[listen a]\nendpoint = tcp:1\n").warnings


UP = "[upstream users]\ntargets = a\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (UP + "[route x]\npath = /\nupstream = user\n", "gw.ini:5: [route x] upstream: there is no upstream `user`; did you mean users?"),
        (
            "[route x]\npath = /\nupstream = user\n",
            "gw.ini:3: [route x] upstream: there is no upstream `user`; expected a section [upstream NAME]",
        ),
        (
            UP + "[aggregate x]\npath = /\ncall.a = userz GET /\n",
            "gw.ini:5: [aggregate x] call.a: there is no upstream `userz`; did you mean users?",
        ),
        ("[cors shop]\n[defaults]\npolicies =\n  cors shop\n  cors shp\n", "gw.ini:5: [defaults] policies: there is no section [cors shp]; did you mean cors shop?"),
        ("[defaults]\npolicies = corz shop\n", "gw.ini:2: [defaults] policies: there is no kind of policy `corz`; did you mean cors?"),
        ("[cors shop]\n[defaults]\npolicies = shop\n", "gw.ini:3: [defaults] policies: there is no kind of policy `shop`; did you mean cors shop?"),
        ("[cors shop]\n[defaults]\npolicies = cors\n", "gw.ini:3: [defaults] policies: there is no section [cors]; did you mean cors shop?"),
        ("[defaults]\npolicies = limit\n", "gw.ini:2: [defaults] policies: limit can't do without options: rate; expected a section [limit NAME] or [limit]"),
        ("[defaults]\npolicies = gateway\n", "gw.ini:2: [defaults] policies: there is no kind of policy `gateway`; expected KIND NAME"),
        ("[defaults]\npolicies = a b c\n", "gw.ini:2: [defaults] policies: `a b c` names no policy; expected KIND NAME, KIND, or -NAME to take one of [defaults] out"),
        ("[defaults]\npolicies = cors, -cors\n", "gw.ini:2: [defaults] policies: there is nothing to take out of in the defaults themselves"),
        (
            "[cors shop]\n[defaults]\npolicies = cors shop\n[aggregate a]\npath = /\npolicies = -shp\n",
            "gw.ini:6: [aggregate a] policies: `-shp` is not among the policies of [defaults]; did you mean shop?",
        ),
        (
            "[cors a]\n[jwt a]\n[defaults]\npolicies = cors a, jwt a\n[aggregate x]\npath = /\npolicies = -a\n",
            "gw.ini:7: [aggregate x] policies: `-a` may be any of cors a, jwt a; expected -KIND NAME",
        ),
    ],
)  # fmt: skip
def test_a_name_that_nothing_defines_is_a_mistake(tmp_path: Path, text: str, line: str) -> None:
    assert mistakes(tmp_path, text) == [line]


def test_a_section_with_mistakes_still_defines_its_name(tmp_path: Path) -> None:
    text = "[upstream users]\ntargets = ${GONE}\n[limit x]\n[route x]\npath = /\nupstream = users\npolicies = limit x\n"
    assert [line.split(":")[1] for line in mistakes(tmp_path, text)] == ["2", "3"]


def test_all_mistakes_of_all_files_are_told_at_once_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.ini").write_text("[listen b]\nendpoint = 80\nmax_heads = 1\n")
    text = """
[gateway]
include = b.ini, c.ini
workers = many
[listen a]
endpoint = ${GONE}
max_head = big
what
[nothing]
[route r]
path = /
upstream = u
"""
    found = [line.split(" ")[0] for line in mistakes(tmp_path, text)]
    assert found == ["b.ini:2:", "b.ini:3:", *(f"gw.ini:{line}:" for line in (3, 4, 6, 7, 8, 9, 12))]


def test_every_mistake_is_there_as_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, "[gateway]\ndrain_timeout = 30\n")
    assert caught.value.problems == [
        Problem(
            file=f"{tmp_path}/gw.ini",
            line=2,
            section="gateway",
            option="drain_timeout",
            what="`30` is not a duration",
            expected="a duration such as 250ms, 5s, 2m, 1h",
            hint="did you mean 30s?",
        )
    ]


class TestFilesNamed:
    def test_they_are_relative_to_the_file_that_they_stand_in(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        for name in ("both.pem", "cert.pem", "my key.pem"):
            (tmp_path / "sub" / name).write_text("")
        (tmp_path / "sub" / "l.ini").write_text(
            "[listen a]\nendpoint = unix:a.sock\ntls.certificates = both.pem\n  cert.pem 'my key.pem'\n  ../sub\n"
        )
        configuration = loaded(tmp_path, "[gateway]\naccess_log = log/access\ninclude = sub/l.ini\n")
        assert configuration.gateway.access_log == f"{tmp_path}/log/access"
        assert configuration.listens["a"].endpoint.path == tmp_path / "sub/a.sock"
        assert configuration.listens["a"].tls is not None
        sub = tmp_path / "sub"
        assert configuration.listens["a"].tls.certificates == (
            f"{sub}/both.pem",
            f"{sub}/cert.pem '{sub}/my key.pem'",
            f"{sub}",
        )

    def test_those_that_are_missing_are_told(self, tmp_path: Path) -> None:
        (tmp_path / "a.pem").write_text("")
        text = "[listen a]\nendpoint = tcp:1\ntls.certificates = a.pem,\n  b.pem,\n  a.pem c.pem\n"
        assert [line.partition("; ")[0] for line in mistakes(tmp_path, text)] == [
            "gw.ini:4: [listen a] tls.certificates: there is no file `b.pem`",
            "gw.ini:5: [listen a] tls.certificates: there is no file `c.pem`",
        ]


class TestChecks:
    def test_they_see_what_is_right_of_a_section_with_mistakes(self, tmp_path: Path) -> None:
        def check(configuration: Configuration) -> Iterator[Problem]:
            assert not configuration.routes
            for name, route in configuration.seen("route").items():
                yield configuration.problem("route", name, "path", f"{route.path} it is")

        text = (
            "[route a]\npath = /a\nmethods = get\nrespond = 200\n[route b]\npath = /b\nrespond = 200\nnothing = 1\n"
            "[route c]\npath = /c\nrespond = 200\nredirect = 308 /\n[route d]\npath = /d\nhosts = ${GONE}\nrespond = 200\n"
        )
        with pytest.raises(ConfigurationError) as caught:
            load(self._path(tmp_path, text), KINDS, {}, [check])
        found = [each.what for each in caught.value.problems if each.option == "path"]
        assert found == [f"/{name} it is" for name in "abcd"]

    @staticmethod
    def _path(folder: Path, text: str) -> str:
        (folder / "gw.ini").write_text(text)
        return str(folder / "gw.ini")

    def test_what_other_rooms_find_is_told_with_the_rest(self, tmp_path: Path) -> None:
        def check(configuration: Configuration) -> Iterator[Problem]:
            for name in configuration.listens:
                yield configuration.problem("listen", name, "endpoint", "it is not for us", hint="ask someone")

        path = self._path(tmp_path, "[listen a]\nendpoint = tcp:1\n[gateway]\nworkers = x\n")
        with pytest.raises(ConfigurationError) as caught:
            load(path, KINDS, {}, [check])
        assert [(problem.line, problem.option) for problem in caught.value.problems] == [
            (2, "endpoint"),
            (4, "workers"),
        ]
        assert str(caught.value).startswith(f"{path}:2: [listen a] endpoint: it is not for us; ask someone\n")

    def test_warnings_hinder_nothing(self, tmp_path: Path) -> None:
        def check(configuration: Configuration) -> Iterator[Problem]:
            yield configuration.problem("listen", "a", "", "it looks odd", warning=True)

        path = self._path(tmp_path, "[listen a]\nendpoint = tcp:1\n")
        configuration = load(path, KINDS, {}, [check])
        assert list(map(str, configuration.warnings)) == [f"{path}:1: [listen a] warning: it looks odd"]

    def test_a_check_that_stumbles_over_what_is_missing_does_not_hide_why(self, tmp_path: Path) -> None:
        def check(configuration: Configuration) -> Iterator[Problem]:
            assert configuration.listens["a"]
            yield from ()

        with pytest.raises(ConfigurationError, match="endpoint"):
            load(self._path(tmp_path, "[listen a]\n"), KINDS, {}, [check])
        with pytest.raises(KeyError):
            load(self._path(tmp_path, "[gateway]\n"), KINDS, {}, [check])


def test_five_hundred_routes_load_in_well_under_a_second(tmp_path: Path) -> None:
    """The limit is far above what it takes, so that a busy machine does not fail it; quadratic growth would."""
    routes = "".join(
        f"[upstream u{n}]\ntargets = http://127.0.0.1:{n + 1}\n"
        f"[route r{n}]\npath = /x{n}\nmethods = GET, POST\nhosts = a.example, b.example\nupstream = u{n}\n"
        f"policies =\n  cors shop\n  limit x\ntimeout.total = 5s\nstrip_prefix = /x{n}\n\n"
        for n in range(500)
    )
    start = time.process_time()
    configuration = loaded(tmp_path, "[cors shop]\n[limit x]\nrate = 1/s\n" + routes)
    taken = time.process_time() - start
    assert len(configuration.routes) == 500
    assert taken < 2


# ---- any text at all -------------------------------------------------------------------------------------------------

_names = st.sampled_from(
    ["path", "upstream", "policies", "endpoint", "targets", "workers", "include", "tls.certificates", "timeout.head",
     "rate", "burst", "call.a", "call.a.default", "header.X", "class", "token", "secret", "respond", "redirect",
     "rewrite", "hosts", "methods", "trusted_proxies", "max_body", "rewrite_cookie_path", "claims_to_headers", "state"]
)  # fmt: skip
_fragments = st.sampled_from(
    ["/x", "=/x", "~(", "tcp:80", "unix:", "a -> b", "( -> x", "cors shop", "-shop", "-", "--", "limit", "5s", "64KiB",
     "10/s", "off", "yes", "${A}", "${GONE}", "${A:-b}", "${file:gw.ini}", "${file:gone}", "$${", "${", '"', '"a, b"',
     ", ,", " ; x", "\n  ", "{}", "[", "a: b", "GET", "::1", "10.0.0.1/8", "308 /x", "503", "\\", "'", "é", "٣", "*.x",
     "*.ini", "gw.ini", "tests.config.kinds:Plain", "coloured", "a=b weight=2"]
)  # fmt: skip
_headings = st.sampled_from(
    ["[gateway]", "[listen a]", "[admin]", "[health]", "[defaults]", "[upstream u]", "[route r]", "[resource s]",
     "[cors shop]", "[limit]", "[jwt main]", "[aggregate a]", "[split s]", "[python p]", "[what ever]", "[", "[]"]
)  # fmt: skip
_values = st.lists(st.one_of(_fragments, st.text(max_size=8)), max_size=4).map("".join)
_lines = st.one_of(
    _headings,
    st.tuples(_names, _values).map(" = ".join),
    _values.map(lambda value: "  " + value),
    st.text(max_size=20),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.lists(_lines, max_size=25).map("\n".join), st.text(), st.binary()))
@example("[route r]\nrewrite = " + "(" * 5000 + " -> x")
@example("[route r]\npath = " + "[" * 5000)
@example("[aggregate a]\ncall.a.default = " + "[" * 100_000)
@example('[gateway]\nworkers = "${A:-"}" ; x"\n')
def test_any_text_is_a_configuration_or_a_list_of_mistakes(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "gw.ini"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        load(path, KINDS, {"A": "s3cr3t-from-the-environment"})
        return
    except ConfigurationError as caught:
        error = caught
    assert error.problems
    assert len(str(error).split("\n")) == len(error.problems)
    assert all(problem.file for problem in error.problems)
    assert "s3cr3t" not in str(error)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    _headings.filter(lambda heading: heading[-1] == "]" and len(heading) > 2),
    _names,
    st.sampled_from(["${A}", "x${A}", "${A}y", '"${A}"', "${A} ${A}", "1,${A}", "a: ${A}", "${A} -> x", "308 ${A}"]),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=8, max_size=30),
)
def test_no_message_holds_what_came_from_the_environment(
    tmp_path: Path, heading: str, name: str, value: str, secret: str
) -> None:
    secret = "q9~" + secret
    for line in mistakes(tmp_path, f"{heading}\n{name} = {value}\n", A=secret):
        assert secret.strip() not in line
        assert secret.strip()[:6] not in line
        assert secret.lower().strip()[:6] not in line
