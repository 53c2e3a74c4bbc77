"""Which route gets a request: the documented order, 404 and 405, ambiguities; trace and look-up say the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apigw.exchange.errors import ClientFault
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.routing.rule import Rule, ambiguities, parse_query
from apigw.routing.table import MOST_HOSTS, Match, Miss, RouteTable
from apigw.routing.trace import trace


def rules(*descriptions: dict[str, Any] | str) -> list[Rule[str]]:
    made = []
    for order, description in enumerate(descriptions):
        options = {"path": description} if isinstance(description, str) else description
        name = options.get("name", options["path"])
        made.append(Rule(**{"name": name, "value": name, "order": order, **options}))
    return made


def chosen(
    table: list[Rule[str]],
    path: str,
    method: str = "GET",
    host: str = "localhost:8080",
    query: str | None = None,
    **headers: str,
) -> str | tuple[str, ...]:
    fields = Headers((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    raw = None if query is None else query.encode()
    found = RouteTable(table).lookup(host.encode(), method.encode(), path.encode(), raw, fields)
    return found.value if isinstance(found, Match) else found.allow


def test_exact_before_template_before_longest_prefix_before_regex() -> None:
    table = rules("~/users/.*", "/", "/users", "/users/new", "/users/{id}", "=/users/new")
    assert chosen(table, "/users/new") == "=/users/new"
    assert chosen(table, "/users/7") == "/users/{id}"
    assert chosen(table, "/users/new/x") == "/users/new"
    assert chosen(table, "/users/7/x") == "/users"
    assert chosen(table, "/usersx") == "/"
    assert chosen(rules("~/a/.*", "=/a"), "/a/b") == "~/a/.*"


def test_templates_with_more_static_segments_go_first_then_static_on_the_left() -> None:
    table = rules("/{a}/{b}/{c}", "/{a}/x/{c}", "/s/{b}/{c}", "/s/{b}/t")
    assert chosen(table, "/s/x/t") == "/s/{b}/t"
    assert chosen(table, "/s/x/u") == "/s/{b}/{c}"
    assert chosen(table, "/q/x/u") == "/{a}/x/{c}"
    assert chosen(table, "/q/y/u") == "/{a}/{b}/{c}"


def test_a_tail_is_as_specific_as_the_prefix_before_it() -> None:
    table = rules("/{all*}", "/api", "/{any}/{rest*}", "/api/v1/{rest*}")
    assert chosen(table, "/api") == "/api"
    assert chosen(table, "/api/x") == "/api"  # static before a name, at the same length
    assert chosen(table, "/api/v1/x") == "/api/v1/{rest*}"
    assert chosen(table, "/web/x") == "/{any}/{rest*}"
    assert chosen(table, "/web") == "/{all*}"


def test_regexes_in_file_order() -> None:
    assert chosen(rules("~/a.*", "~/ab.*"), "/abc") == "~/a.*"
    assert chosen(rules("~/ab.*", "~/a.*"), "/abc") == "~/ab.*"


def test_exact_host_before_longer_wildcard_before_any_whatever_the_path() -> None:
    table = rules(
        {"name": "any", "path": "=/a"},
        {"name": "wide", "path": "/a", "hosts": ["*.example"]},
        {"name": "narrow", "path": "/", "hosts": ["*.shop.example"]},
        {"name": "exact", "path": "/", "hosts": ["www.shop.example", "other.example"]},
    )
    assert chosen(table, "/a", host="www.shop.example:443") == "exact"
    assert chosen(table, "/a", host="www.shop.example.") == "exact"
    assert chosen(table, "/a", host="m.shop.example") == "narrow"
    assert chosen(table, "/a", host="shop.example") == "wide"
    assert chosen(table, "/b", host="shop.example") == ()
    assert chosen(table, "/a", host="[::1]:80") == "any"


def test_priority_before_everything() -> None:
    table = rules(
        {"name": "host", "path": "=/a", "hosts": ["x.example"]},
        {"name": "high", "path": "~/.*", "priority": 5},
        {"name": "low", "path": "=/a", "hosts": ["x.example"], "priority": -1},
    )
    assert chosen(table, "/a", host="x.example") == "high"


def test_more_conditions_then_more_exact_values() -> None:
    table = rules(
        {"name": "plain", "path": "/a"},
        {"name": "present", "path": "/a", "headers": {"X-Beta": "*"}},
        {"name": "exact", "path": "/a", "headers": {"X-Beta": "yes"}},
        {"name": "both", "path": "/a", "headers": {"X-Beta": "*"}, "query": {"v": "~2.*"}},
        {"name": "posted", "path": "/a", "methods": ["POST"]},
    )
    assert chosen(table, "/a") == "plain"
    assert chosen(table, "/a", x_beta="no") == "present"
    assert chosen(table, "/a", x_beta="yes") == "exact"
    assert chosen(table, "/a", x_beta="yes", query="v=2%2E1&w") == "both"
    assert chosen(table, "/a", method="POST") == "posted"
    assert chosen(table, "/a", method="PUT") == "plain"


def test_get_takes_head_unless_head_is_listed() -> None:
    table = rules({"name": "get", "path": "/a", "methods": ["GET"]})
    assert chosen(table, "/a", method="HEAD") == "get"
    table += [Rule(name="head", path="/a", methods=["HEAD"], order=9, value="head")]
    assert chosen(table, "/a", method="HEAD") == "head"
    assert chosen(table, "/a", method="GET") == "get"


def test_no_route_is_404_and_another_method_405() -> None:
    table = rules(
        {"name": "get", "path": "/a", "methods": ["GET"]},
        {"name": "put", "path": "/a/b", "methods": ["PUT"]},
        {"name": "beta", "path": "/a", "methods": ["DELETE"], "headers": {"X-Beta": "*"}},
    )
    assert chosen(table, "/b") == ()
    assert chosen(table, "/a", method="POST") == ("GET", "HEAD")
    assert chosen(table, "/a/b", method="POST") == ("GET", "HEAD", "PUT")
    assert chosen(table, "/a", method="POST", X_Beta="1") == ("DELETE", "GET", "HEAD")
    assert RouteTable(table).methods == ("DELETE", "GET", "HEAD", "PUT")
    assert RouteTable(rules()).lookup(b"x", b"GET", b"/", None, Headers()) == Miss()


def test_captures_come_with_the_match() -> None:
    table = RouteTable(rules("/users/{id}/{rest*}", "~/x(?P<n>[0-9]+)"))
    for path, captures in ((b"/users/a%2Cb/c/d", {"id": "a,b", "rest": "c/d"}), (b"/x12", {"n": "12"})):
        found = table.lookup(b"h", b"GET", path, None, Headers())
        assert isinstance(found, Match)
        assert found.captures == captures
    with pytest.raises(ClientFault):
        table.lookup(b"h", b"GET", b"/users/%FF/", None, Headers())


def test_made_up_hosts_cost_no_memory() -> None:
    table = RouteTable(rules("/"))
    for number in range(MOST_HOSTS + 10):
        table.lookup(b"h%d" % number, b"GET", b"/", None, Headers())
    assert len(table._known) <= MOST_HOSTS


def test_query_parameters_are_decoded_as_forms() -> None:
    assert parse_query(b"a=1&a=%32&b&c=x+y%2B&&=z") == {
        b"a": [b"1", b"2"], b"b": [b""], b"c": [b"x y+"], b"": [b"z"]
    }  # fmt: skip
    assert parse_query(None) == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/a", "/a"),
        ("=/a", "=/a"),
        ("/users/{id}", "/users/{name}"),
        ("/files/{rest*}", "/files/"),
        ("~/a.*", "~/a.*"),
        ("/a%7E", "/a~"),
        ({"path": "/a", "methods": ["GET", "PUT"]}, {"path": "/a", "methods": ["POST", "PUT"]}),
        ({"path": "/a", "hosts": ["x.example", "y.example"]}, {"path": "/a", "hosts": ["Y.example"]}),
        ({"path": "/a", "headers": {"X": "1"}}, {"path": "/a", "headers": {"x": "1"}}),
        ({"path": "/a", "query": {"v": "~1.*"}}, {"path": "/a", "query": {"v": "~1.*"}}),
    ],
)
def test_equal_rank_and_same_requests_are_ambiguous(first: Any, second: Any) -> None:
    table = rules("/other", first, second)
    assert ambiguities(table) == [(table[1], table[2])]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/a", "=/a"),
        ("/a", "/a/"),
        ("/a/{x}", "/b/{x}"),
        ("~/a.*", "~/b.*"),
        ({"path": "/a", "priority": 1}, "/a"),
        ({"path": "/a", "methods": ["GET"]}, "/a"),
        ({"path": "/a", "methods": ["GET"]}, {"path": "/a", "methods": ["HEAD"]}),
        ({"path": "/a", "methods": ["GET"]}, {"path": "/a", "methods": ["POST"]}),
        ({"path": "/a", "hosts": ["x.example"]}, {"path": "/a", "hosts": ["*.example"]}),
        ({"path": "/a", "headers": {"X": "1"}}, {"path": "/a", "headers": {"X": "2"}}),
        ({"path": "/a", "headers": {"X": "1"}}, {"path": "/a", "headers": {"X": "*"}}),
        ({"path": "/a", "headers": {"X": "!"}}, {"path": "/a", "headers": {"X": "*"}}),
        ({"path": "/a", "headers": {"X": "1"}}, {"path": "/a", "query": {"v": "1"}}),
    ],
)
def test_what_the_order_decides_is_not_ambiguous(first: Any, second: Any) -> None:
    assert ambiguities(rules(first, second)) == []


def test_trace_names_the_first_condition_that_failed() -> None:
    table = rules(
        {"name": "host", "path": "/a", "hosts": ["x.example", "*.y.example"]},
        {"name": "path", "path": "=/b"},
        {"name": "method", "path": "/a", "methods": ["PUT", "POST"]},
        {"name": "missing", "path": "/a", "headers": {"X-Beta": "*"}},
        {"name": "different", "path": "/a", "query": {"v": "2"}, "headers": {"Accept": "~.*json"}},
        {"name": "absent", "path": "/a", "headers": {"Accept": "!"}},
        {"name": "chosen", "path": "/a"},
        {"name": "later", "path": "/"},
    )
    request = Request(b"GET", b"/a", b"v=1", Headers([(b"Accept", b"application/json")]), host=b"shop.example")
    considered = {each.rule.name: (each.failed, each.chosen) for each in trace(table, request)}
    assert considered == {
        "host": ("host shop.example is not x.example or *.y.example", False),
        "path": ("path /a does not match =/b", False),
        "method": ("method GET is not PUT or POST", False),
        "missing": ("header x-beta is missing", False),
        "different": ("query parameter v is not 2", False),
        "absent": ("header accept is there", False),
        "chosen": ("", True),
        "later": ("", False),
    }


_SEGMENTS = st.sampled_from(["a", "b", "{x}", "{y}", "c"])
_STATIC = st.sampled_from(["a", "b", "c", ""])


@st.composite
def _paths(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["prefix", "exact", "template", "tail", "regex"]))
    if kind == "regex":
        return draw(st.sampled_from(["~/a.*", "~.*", "~/b/(?P<n>[^/]+)", "~/a/b/?"]))
    if kind in {"prefix", "exact"}:
        path = "/" + "/".join(draw(st.lists(st.sampled_from(["a", "b", "c"]), max_size=3)))
        path += draw(st.sampled_from(["", "/"])) if path != "/" else ""
        return "=" + path if kind == "exact" else path
    segments = draw(st.lists(_SEGMENTS, min_size=1, max_size=3))
    segments = [f"{{n{index}}}" if segment[0] == "{" else segment for index, segment in enumerate(segments)]
    return "/" + "/".join([*segments, "{rest*}"] if kind == "tail" else segments)


_RULES = st.lists(
    st.fixed_dictionaries(
        {
            "path": _paths(),
            "hosts": st.lists(st.sampled_from(["x.example", "*.example", "*.x.example"]), max_size=2),
            "methods": st.lists(st.sampled_from(["GET", "HEAD", "POST"]), max_size=2, unique=True),
            "priority": st.sampled_from([0, 0, 0, 1, -1]),
            "headers": st.dictionaries(st.sampled_from(["X-A", "X-B"]), st.sampled_from(["1", "*", "!", "~1|2"])),
            "query": st.dictionaries(st.just("q"), st.sampled_from(["1", "*", "!"])),
        }
    ),
    max_size=8,
)


@settings(max_examples=400)
@given(
    _RULES,
    st.sampled_from([b"x.example", b"w.x.example:80", b"example", b"[::1]"]),
    st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT"]),
    st.lists(_STATIC, min_size=1, max_size=4).map(lambda segments: "/" + "/".join(segments)),
    st.sampled_from([None, b"q=1", b"q=2"]),
    st.lists(st.tuples(st.sampled_from([b"x-a", b"X-B"]), st.sampled_from([b"1", b"2"])), max_size=2),
)
def test_the_compiled_table_and_the_trace_choose_the_same(
    descriptions: list[dict[str, Any]],
    host: bytes,
    method: bytes,
    path: str,
    query: bytes | None,
    fields: list[tuple[bytes, bytes]],
) -> None:
    table = rules(*({**each, "name": f"r{index}"} for index, each in enumerate(descriptions)))
    request = Request(method, path.encode(), query, Headers(fields), host=host)
    found = RouteTable(table).lookup(host, method, request.path, query, request.headers)
    traced = [each.rule for each in trace(table, request) if each.chosen]
    if isinstance(found, Match):
        assert traced == [found.rule]
        assert found.captures.keys() <= found.rule.pattern.captures
    else:
        assert traced == []
        fitting = {
            other
            for other in ("GET", "HEAD", "POST")
            for each in trace(table, Request(other.encode(), request.path, query, Headers(fields), host=host))
            if each.chosen
        }
        assert set(found.allow) == fitting
