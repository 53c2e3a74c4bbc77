"""
``apigw explain``: what would become of a request, and why. Nothing is started, bound or asked.

    explain(configuration, "GET", "https://shop.example/api/users/7", [("Accept", "*/*")])

The look-up, the target path and the head that is sent are made by the very code that serves requests. What policies do
to a request is told as what is configured, since most of it depends on what they find out.

Not here: the command (``apigw.cli``).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast, get_args
from urllib.parse import urlsplit

from apigw.aggregation.plan import Asking, plan
from apigw.aggregation.scope import scope
from apigw.config.addresses import CLIENT_HOST, TARGET_HOST
from apigw.config.configuration import Configuration
from apigw.config.model import find
from apigw.config.values import Secret
from apigw.exchange.errors import GatewayError
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.gateway.environment import trusted
from apigw.gateway.routes import redirect_location
from apigw.gateway.rules import Section, answering, rule_of, takes_parameters, target_path
from apigw.http.fields import is_token, serialise
from apigw.http.forwarded import Forwarding
from apigw.http.h1_heads import RequestHead
from apigw.http.targets import split_target, valid_host
from apigw.observability.redaction import query_redactor, url_redactor
from apigw.routing.rule import Rule
from apigw.routing.target_path import strip_bytes
from apigw.routing.trace import trace
from apigw.routing.tree import GatewayResource, PrefixResource
from apigw.upstream.authority import host_field, tls_name
from apigw.upstream.forward import Forward
from apigw.upstream.target_spec import TargetSpec

PEER = "127.0.0.1"
"""Where the request is taken to come from."""


def explain(
    configuration: Configuration, method: str, url: str, headers: Iterable[tuple[str, str]] = (), peer: str = PEER
) -> dict[str, Any]:
    """
    Say what would become of a request.

    :param url: ``https://host/path?query``; a path alone means http://localhost.
    :param headers: Host among them overrides that of the URL.
    :param peer: the address that the request comes from; if it is one of ``trusted_proxies``, X-Forwarded-* count.
    :return: JSON-able. ``request``; ``refused`` (status, reason, detail, allow) or ``route`` (kind, name, origin,
        captures), with ``policies``, and ``answer``: ``upstream``, ``redirect``, ``respond`` or what else answers;
        of an aggregate, its ``calls`` with the paths that can be told from the request alone;
        and ``considered``: all routes in the order of choice, with the first condition that failed.
    """
    result: dict[str, Any] = {"request": {"method": method, "url": url}, "considered": []}
    root = _tree(configuration)
    try:
        request = _request(configuration, method, url, headers, peer)
        if request.path != b"*":
            request.path = root.normalise(request.path)
    except GatewayError as error:
        result["refused"] = {"status": error.status, "reason": error.reason, "detail": error.detail}
        return result
    result["request"].update(
        host=_text(request.host),
        path=_text(request.path),
        query=None if request.query is None else _text(request.query),
        client=request.client,
        scheme=_text(request.scheme),
    )
    found = root.find(request)
    for each in trace(root.table.rules, request):
        facts = cast("_Facts", each.rule.value.route)
        result["considered"].append(
            {**facts.described(configuration), "path": each.rule.path, "failed": each.failed}
            | {"chosen": found is each.rule.value}
        )
    if isinstance(found, Response):
        fault = found.error
        result["refused"] = {
            "status": found.status,
            "reason": request.reason,
            "detail": fault.detail if fault is not None else "answered by the gateway itself",
        }
        if allow := found.headers.get(b"allow"):
            result["refused"]["allow"] = _text(allow)
        return result
    facts = cast("_Facts", found.route)
    result["route"] = {**facts.described(configuration), "captures": dict(request.captures)}
    result["policies"] = [_policy(configuration, item) for item in _listed(configuration, facts.settings)]
    result["answer"] = _answer(configuration, facts, request)
    return result


class _Facts:
    """What a route is known by, in place of what answers it."""

    def __init__(self, section: Section, settings: Any) -> None:
        self.section = section
        self.settings = settings
        self.name = section[1] or section[0]

    def described(self, configuration: Configuration) -> dict[str, Any]:
        kind, name = self.section
        return {"kind": kind, "name": name, "origin": configuration.origin(kind, name)}


def _tree(configuration: Configuration) -> GatewayResource:
    rules: list[Rule[PrefixResource]] = []
    for order, (section, settings) in enumerate(answering(configuration)):
        resource = PrefixResource(
            _Facts(section, settings),
            lambda request, done: None,
            preflights=any(kind == "cors" for kind, _ in _listed(configuration, settings)),
            encoded_slashes=getattr(settings, "allow_encoded_slashes", False),
            parameters=takes_parameters(settings, configuration),
        )
        rules.append(rule_of(settings, section, order, resource))
    return GatewayResource(rules)


def _request(
    configuration: Configuration, method: str, url: str, headers: Iterable[tuple[str, str]], peer: str
) -> Request:
    if not is_token(method.encode()):
        raise ValueError(f"{method!r} is no method")
    scheme = urlsplit(url).scheme.lower() or "http"
    target = split_target(method.encode(), url.encode())
    pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]
    head = RequestHead(serialise(pairs))
    host = valid_host(head.host) if head.host is not None else target.authority or b"localhost"
    gateway = configuration.gateway
    believed = trusted(gateway)
    if head.stripped is not None and (gateway.forwarded_by == "forwarded" or not believed(peer)):
        head = head.stripped
    facts = Forwarding(head, peer, scheme=scheme.encode(), host=host, trusted=believed, family=gateway.forwarded_by)
    request = Request(method.encode(), target.path, target.query, head.headers, host=host, client=facts.client)
    request.lines = head.lines
    request.peer = peer
    request.scheme = facts.scheme
    request.host = facts.host
    request.forwarding = facts
    request.id = facts.request_id or b"(made)"
    return request


def _listed(configuration: Configuration, settings: Any) -> list[Section]:
    return [(item.kind, item.name) for item in configuration.policies_of(settings)]


def _policy(configuration: Configuration, section: Section) -> dict[str, Any]:
    kind, name = section
    return {
        "kind": kind,
        "name": name,
        "origin": configuration.origin(kind, name) if section in configuration.written else "built in",
        "settings": _written(configuration, section),
    }


def _written(configuration: Configuration, section: Section) -> dict[str, str]:
    """A section's options as they are written, without what is secret."""
    written = configuration.written.get(section)
    settings = configuration.policies.get(section)
    options = {}
    for name, option in (written.options if written is not None else {}).items():
        known = find(type(settings), name) if settings is not None else None
        hidden = known is not None and _is_secret(known[0].info.annotation)
        shown = option.value.shown
        options[name] = "(secret)" if hidden else _redacted(shown) if "://" in shown else shown
    return options


def _redacted(url: str) -> str:
    return url_redactor(query_redactor())(url.encode()).decode()


def _is_secret(annotation: Any) -> bool:
    return annotation is Secret or any(map(_is_secret, get_args(annotation)))


def _answer(configuration: Configuration, facts: _Facts, request: Request) -> dict[str, Any]:
    settings = facts.settings
    kind, name = facts.section
    if kind == "aggregate":
        return _aggregate(configuration, name, settings, request)
    if kind == "batch":
        return {"by": kind, "settings": _own(configuration, facts.section)}
    if kind != "route":
        return {"by": kind, "class": _named(settings.class_)} if kind == "resource" else {"by": kind}
    if settings.redirect is not None:
        location = _text(redirect_location(settings.redirect)(request))
        return {"by": "redirect", "status": settings.redirect.status, "location": location}
    if settings.respond is not None:
        return {"by": "respond", "status": settings.respond.status, "text": settings.respond.text}
    split, targets = _targets(configuration, settings.upstream)
    answer: dict[str, Any] = {
        "by": "upstream",
        "upstream": settings.upstream,
        "origin": configuration.origin("split" if split is not None else "upstream", settings.upstream),
        "targets": [str(target) for target in targets],
    }
    if split is not None:
        answer["split"] = {name: f"{share * 100:g}%" for name, share in split.upstreams.items()}
    if (mirror := getattr(settings, "mirror", None)) is not None:
        answer["mirror"] = str(mirror)
    upstream, first = _first_target(configuration, settings.upstream)
    forward = Forward(
        cast("Any", None),  # the head is made without it
        target_path=target_path(settings),
        prefix=strip_bytes(settings.strip_prefix),
        preserve_host=settings.preserve_host or upstream.host == CLIENT_HOST,
    )
    try:
        head = forward.head(request, _host(upstream, first), first.base_path.encode() if first else b"")
    except GatewayError as error:
        answer["refused"] = {"status": error.status, "reason": error.reason, "detail": error.detail}
        return answer
    line, *fields = _text(head).split("\r\n")[:-1]
    answer["target_path"] = line.split(" ")[1]
    answer["headers"] = [field.split(": ", 1) for field in fields]
    if first is not None and first.scheme == "https":
        answer["tls_name"] = upstream.tls.server_name or tls_name(first, upstream.host)
    return answer


def _first_target(configuration: Configuration, name: str) -> tuple[Any, TargetSpec | None]:
    """
    An upstream's settings (of a split: those of its first), and its first target whose address or name is written down.
    """
    split = configuration.of("split").get(name)
    upstream = configuration.upstreams[next(iter(split.upstreams)) if split is not None else name]
    for target in upstream.targets:
        if isinstance(target, TargetSpec):
            return upstream, target
        if target.kind == "dns":
            return upstream, TargetSpec(target.scheme, target.where, target.port)
    return upstream, None


def _host(upstream: Any, target: TargetSpec | None) -> bytes:
    """Host of requests that don't have the client's."""
    if target is None:
        return upstream.host.encode() if upstream.host not in {TARGET_HOST, CLIENT_HOST} else b"(the target's)"
    return host_field(target, upstream.host)


def _targets(configuration: Configuration, upstream: str) -> tuple[Any, list[Any]]:
    """The split of that name, if there is one; and all targets behind the name."""
    split = configuration.of("split").get(upstream)
    names = list(split.upstreams) if split is not None else [upstream]
    return split, [target for name in names for target in getattr(configuration.upstreams.get(name), "targets", ())]


def _aggregate(configuration: Configuration, name: str, settings: Any, request: Request) -> dict[str, Any]:
    own = _own(configuration, ("aggregate", name))
    if settings.class_ is not None:
        return {"by": "aggregate", "class": _named(settings.class_), "settings": own}
    made = plan(settings)
    values = scope(request, made.roots, None)
    calls = []
    for call in made.calls:
        asked = _asked(configuration, name, "call", call.asking, values, client=request.host)
        asked["after"] = [made.calls[index].name for index in call.needs]
        if call.undo is not None:
            asked["undo"] = _asked(configuration, name, "undo", call.undo, values, client=request.host)
        calls.append(asked)
    return {"by": "aggregate", "settings": own, "calls": calls}


def _asked(
    configuration: Configuration,
    aggregate: str,
    group: str,
    asking: Asking,
    values: dict[str, Any],
    *,
    client: bytes,
) -> dict[str, Any]:
    """
    A call, or what takes one back; with its path, if the request has all that stands in it.

    :param client: the client's host.
    """
    section, option = ("aggregate", aggregate), f"{group}.{asking.name}"
    upstream, target = _first_target(configuration, asking.upstream)
    found: dict[str, Any] = {
        "name": asking.name,
        "origin": configuration.origin(*section, option),
        "upstream": asking.upstream,
        "targets": [str(target) for target in _targets(configuration, asking.upstream)[1]],
        "host": _text(client if upstream.host == CLIENT_HOST else _host(upstream, target)),
        "method": _text(asking.method),
        "template": str(asking.path),
    }
    with suppress(GatewayError):
        path, query = asking.path.fill(values)
        found["target_path"] = _text(path if query is None else b"%b?%b" % (path, query))
    written = _written(configuration, section)
    found["settings"] = {
        each.removeprefix(f"{option}."): value for each, value in written.items() if each.startswith(f"{option}.")
    }
    return found


def _own(configuration: Configuration, section: Section) -> dict[str, str]:
    """What a section says of itself, beside which requests it is for and what it calls."""
    elsewhere = ("path", "hosts", "methods", "header.", "query.", "priority", "policies", "call.", "undo.", "class")
    return {name: value for name, value in _written(configuration, section).items() if not name.startswith(elsewhere)}


def _named(factory: Any) -> str:
    return f"{getattr(factory, '__module__', '?')}:{getattr(factory, '__qualname__', repr(factory))}"


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def render(explained: dict[str, Any]) -> str:
    """The same for a person."""
    request = explained["request"]
    lines = [f"{request['method']} {request['url']}"]
    if "path" in request:
        query = "" if request["query"] is None else f"?{request['query']}"
        lines.append(f"  host {request['host']}, path {request['path']}{query}, from {request['client']}")
    if explained["considered"]:
        lines += ["", "routes, in the order of choice"]
        lines += _table(
            [
                "->" if each["chosen"] else "",
                " ".join(filter(None, (each["kind"], each["name"]))),
                each["path"],
                each["origin"],
                "chosen" if each["chosen"] else each["failed"] or "fits, but another goes first",
            ]
            for each in explained["considered"]
        )
    if "refused" in explained:
        lines += ["", _refusal(explained["refused"])]
    if "route" in explained:
        lines += _rendered_route(explained)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _rendered_route(explained: dict[str, Any]) -> list[str]:
    route, answer = explained["route"], explained["answer"]
    lines = []
    if route["captures"]:
        lines += ["", "captured", *_table([name, value] for name, value in route["captures"].items())]
    lines += ["", "policies, in order" if explained["policies"] else "no policies"]
    for policy in explained["policies"]:
        lines.append(f"  {' '.join(filter(None, (policy['kind'], policy['name'])))}  ({policy['origin']})")
        lines += [f"  {line}" for line in _table([name, value] for name, value in policy["settings"].items())]
    lines.append("")
    if answer["by"] == "upstream":
        if "split" in answer:
            lines.append(f"sent to one of split {answer['upstream']}  ({answer['origin']})")
            lines += [f"  {share} {name}" for name, share in answer["split"].items()]
        else:
            lines.append(f"sent to upstream {answer['upstream']}  ({answer['origin']})")
        lines += [f"  {target}" for target in answer["targets"]]
        if "mirror" in answer:
            lines.append(f"  copies to {answer['mirror']}")
        if "refused" in answer:
            return [*lines, "", _refusal(answer["refused"])]
        lines += ["", f"  {explained['request']['method']} {answer['target_path']}"]
        lines += [f"  {name}: {value}" for name, value in answer["headers"]]
        if "tls_name" in answer:
            lines += ["", f"  in TLS, {answer['tls_name']} is asked for and verified"]
    elif answer["by"] == "redirect":
        lines.append(f"redirected: {answer['status']} {answer['location']}")
    elif answer["by"] == "respond":
        lines.append(f"answered: {answer['status']} {answer['text']}".rstrip())
    elif answer["by"] == "aggregate" and "calls" in answer:
        lines.append(f"answered by aggregate {route['name']}, which calls")
        for call in answer["calls"]:
            when = f"after {', '.join(call['after'])}" if call["after"] else "at once"
            lines += ["", f"  {call['name']}, {when}  ({call['origin']})", *_rendered_call(call)]
            if "undo" in call:
                lines += [f"    taken back by  ({call['undo']['origin']})", *_rendered_call(call["undo"])]
        lines += ["", *_table([name, value] for name, value in answer["settings"].items())]
    elif answer["by"] == "batch":
        lines.append(f"answered by batch {route['name']}: each of its requests goes the way of a request of its own")
        lines += _table([name, value] for name, value in answer["settings"].items())
    else:
        lines.append(f"answered by {answer['by']} {answer.get('class', '')}")
        lines += _table([name, value] for name, value in answer.get("settings", {}).items())
    return lines


def _rendered_call(call: dict[str, Any]) -> list[str]:
    lines = [f"    {call['method']} {call.get('target_path', call['template'])}"]
    lines += [f"    to upstream {call['upstream']}: {', '.join(call['targets'])}", f"    Host: {call['host']}"]
    return lines + [f"  {line}" for line in _table([name, value] for name, value in call["settings"].items())]


def _refusal(refused: dict[str, Any]) -> str:
    allow = f"; Allow: {refused['allow']}" if "allow" in refused else ""
    reason = f" {refused['reason']}" if refused["reason"] else ""
    return f"answered: {refused['status']}{reason}: {refused['detail']}{allow}"


def _table(rows: Iterable[Iterable[str]]) -> list[str]:
    """Columns aligned; the last one is as long as it is. A value's further lines stand below its first."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in cells), strict=True)]
    lines = []
    for row in cells:
        start = "  " + "".join(cell.ljust(width) + "  " for cell, width in zip(row, widths, strict=False))
        first, *rest = row[-1].split("\n")
        lines.append(start + first)
        lines += [" " * len(start) + more for more in rest]
    return lines
