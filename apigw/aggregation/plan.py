"""
From settings to a plan: what each call needs, in what order calls can run, and every mistake in that.

A call needs the calls that its templates and expressions name. Several that write run one after the other, so each
needs the one before it. What needs nothing starts at once.

Not here: running it (``run``).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from apigw.aggregation.expressions import Expression
from apigw.aggregation.settings import NAME, OF_ANSWERS, OF_CALLS, AggregateSettings, CallSettings, UndoSettings
from apigw.aggregation.templates import REQUEST_ROOTS, BodyTemplate, HeaderTemplate, PathTemplate, Reference
from apigw.config.problems import did_you_mean
from apigw.exchange.headers import Pair
from apigw.http.fields import serialise

SAFE = frozenset(("GET", "HEAD", "OPTIONS", "QUERY"))
_ITEM = "item"


class Mistake(NamedTuple):
    """Something that only the whole section shows: at which option, and what is wrong."""

    option: str
    what: str
    expected: str = ""
    hint: str = ""
    warning: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """
    A request to a service, ready to be filled in.

    :ivar pairs: fields that are the same each time. :ivar lines: these, ready to be sent. :ivar fields: the others.
    :ivar names: of all fields that the call has by itself, in lower case.
    :ivar select: what is taken out of the answer.
    :ivar passed: statuses outside of ``expect`` that the client gets as they are.
    """

    name: str
    upstream: str
    method: bytes
    path: PathTemplate
    pairs: tuple[Pair, ...]
    lines: bytes
    fields: tuple[tuple[bytes, HeaderTemplate], ...]
    names: frozenset[bytes]
    body: BodyTemplate | None
    expect: frozenset[int]
    text: bool = False
    passed: frozenset[int] = frozenset()
    select: Expression | None = None


@dataclass(slots=True, eq=False)
class Call:
    """
    One call of an aggregate.

    :ivar needs: indexes of the calls that come before it. :ivar dependents: of those that come after it.
    """

    index: int
    name: str
    asking: Asking
    settings: CallSettings
    writes: bool
    needs: tuple[int, ...]
    dependents: list[int] = field(default_factory=list)
    undo: Asking | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """
    All calls of an aggregate, as written.

    :ivar roots: what of the client's request is asked for anywhere.
    :ivar vary: fields of the client's request that the answer depends on.
    :ivar early: what calls ask of the client's request, with their indexes, where something is written: a value that is
        missing is to be found out before anything was done.
    """

    calls: tuple[Call, ...]
    roots: frozenset[str]
    vary: tuple[str, ...]
    early: tuple[tuple[int, Reference], ...]

    @property
    def private(self) -> bool:
        """Whether the answer is for one caller alone."""
        return bool(self.roots & {"jwt", "consumer"})


def plan(settings: AggregateSettings) -> Plan:
    """The plan of an aggregate that has no mistakes."""
    needs = _needs(settings)
    names = list(settings.call)
    calls = []
    roots: set[str] = set()
    vary = dict.fromkeys(settings.forward_headers)
    for index, (name, call) in enumerate(settings.call.items()):
        undo = settings.undo.get(name)
        calls.append(
            Call(
                index,
                name,
                _asking(name, call, call.answer == "text"),
                call,
                call.request.method not in SAFE,
                tuple(names.index(each) for each in needs[name]),
                undo=_asking(name, undo) if undo is not None else None,
            )
        )
        for reference in [*_references(call), *(_references(undo) if undo is not None else ())]:
            roots.add(reference.root)
            if reference.root == "header":
                vary.setdefault(reference.first)
    for expression in [*(each for call in settings.call.values() for _, each in _expressions(call)), settings.response]:
        if expression is None:
            continue
        roots |= set(REQUEST_ROOTS) if expression.roots is None else expression.roots
        if expression.roots is None or ("header", None) in expression.members:
            vary["*"] = None
        for root, behind in sorted(expression.members, key=str):
            if root == "header" and behind is not None:
                vary.setdefault(behind)
    for made in calls:
        for before in made.needs:
            calls[before].dependents.append(made.index)
    return Plan(
        tuple(calls),
        frozenset(roots & set(REQUEST_ROOTS)),
        ("*",) if "*" in vary else _once(vary),
        tuple(_early(settings)) if any(call.writes for call in calls) else (),
    )


def _early(settings: AggregateSettings) -> Iterator[tuple[int, Reference]]:
    for index, (name, call) in enumerate(settings.call.items()):
        if call.optional or call.when is not None or call.foreach is not None:  # it may do without, or not be made
            continue
        undo = settings.undo.get(name)
        for reference in [*_references(call), *(_references(undo) if undo is not None else ())]:
            if reference.root in REQUEST_ROOTS:
                yield index, reference


def _once(names: Iterable[str]) -> tuple[str, ...]:
    """Names of fields without those that differ from another only by capitals."""
    return tuple({name.lower(): name for name in reversed([*names])}.values())[::-1]


def _asking(name: str, settings: CallSettings | UndoSettings, text: bool = False) -> Asking:
    fixed: list[tuple[bytes, bytes]] = []
    filled: list[tuple[bytes, HeaderTemplate]] = []
    for field_name, template in settings.headers.items():
        if template.fixed is not None:
            fixed.append((field_name.encode(), template.fixed))
        else:
            filled.append((field_name.encode(), template))
    given = {field_name.lower() for field_name in settings.headers}
    if "accept" not in given:
        fixed.append((b"Accept", b"*/*" if text else b"application/json"))
    if "accept-encoding" not in given:
        fixed.append((b"Accept-Encoding", b"gzip"))
    if settings.body is not None and "content-type" not in given:
        fixed.append((b"Content-Type", settings.body.content_type))
    line = settings.request
    return Asking(
        name,
        line.upstream,
        line.method.encode(),
        line.path,
        tuple(fixed),
        serialise(fixed),
        tuple(filled),
        frozenset(name.lower().encode() for name in settings.headers),
        settings.body,
        settings.expect,
        text,
        settings.pass_statuses if isinstance(settings, CallSettings) and not settings.optional else frozenset(),
        settings.select if isinstance(settings, CallSettings) else None,
    )


def mistakes(settings: AggregateSettings, captures: Container[str], *, anybody: bool = True) -> Iterator[Mistake]:
    """
    What is wrong with an aggregate whose options are right by themselves.

    :param captures: names in its ``path``. :param anybody: policies may find out who the caller is.
    """
    names = list(settings.call)
    for name, call in settings.call.items():
        option = f"call.{name}"
        if name in REQUEST_ROOTS or name == _ITEM:
            yield Mistake(option, f"`{name}` stands for something else in templates", "another name")
        elif not NAME.fullmatch(name):
            yield Mistake(option, f"`{name}` can't be a call's name", "letters, digits and _")
        yield from _unknown(option, _placed(call), names, item=call.foreach is not None)
        for member, expression in _expressions(call):
            if member != "select":
                yield from _unread(f"{option}.{member}", expression, names)
        if "default" in call.model_fields_set and not call.optional and call.when is None:
            yield Mistake(
                f"{option}.default",
                "the call is not optional, so its default is never taken",
                f"{option}.optional = yes",
            )
        if "pass_statuses" in call.model_fields_set and call.pass_statuses:
            if call.optional:
                what = "the call is optional: when it fails, its default is taken, and no status is passed on"
                yield Mistake(f"{option}.pass_statuses", what, warning=True)
            elif call.pass_statuses <= call.expect:
                what = "`expect` has all of these statuses, so they are answers and not passed on"
                yield Mistake(f"{option}.pass_statuses", what, warning=True)
        if call.foreach is None and "concurrency" in call.model_fields_set:
            yield Mistake(f"{option}.concurrency", "only calls with foreach run more than once")
        if call.cache is not None and call.request.method not in {"GET", "HEAD", "QUERY"}:
            yield Mistake(f"{option}.cache", f"the answer to {call.request.method} can't be kept")
    for name, undo in settings.undo.items():
        option = f"undo.{name}"
        if name not in names:
            yield Mistake(option, f"there is no call {name}", hint=did_you_mean(name, names))
        else:
            if settings.call[name].request.method in SAFE:
                yield Mistake(option, f"{settings.call[name].request.method} does nothing that could be undone")
            if settings.call[name].foreach is not None:
                yield Mistake(option, "a call with foreach can't be undone")
            yield from _unknown(option, _placed(undo), names, item=False)
    if settings.response is not None:
        yield from _unread("response", settings.response, names)
    for option, own in (("forward_headers", OF_CALLS), ("pass_headers", OF_ANSWERS)):
        for field_name in getattr(settings, option):
            if field_name.lower() in own:
                yield Mistake(option, f"{field_name} can't go on: it is set anew", "other fields")
    for option, root, behind in _asked_for(settings):
        if root == "path" and behind is not None and behind not in captures:
            yield Mistake(option, f"`path` has no {{{behind}}}", f"path = .../{{{behind}}}")
        elif root in {"jwt", "consumer"} and not anybody:
            what = f"no policy says who the caller is, so `{root}` has no values"
            yield Mistake(option, what, "a policy that does", warning=True)
        elif root == "header" and behind is not None and behind != behind.lower():
            yield Mistake(option, f"{behind} finds nothing: here names of fields are in small letters", behind.lower())
    if settings.merge in {"shallow", "deep"}:
        yield from _unmergeable(settings)
    if len(names) > settings.max_calls:
        yield Mistake("max_calls", f"there are {len(names)} calls", "at least as many")
    circle = _circle(_needs(settings))
    if circle:
        yield Mistake(
            f"call.{circle[0]}",
            f"the calls wait for each other: {' -> '.join(circle)}",
            "an order in which they can run",
        )


def _asked_for(settings: AggregateSettings) -> Iterator[tuple[str, str, str | None]]:
    """Each option that asks for something, with that something's root and, where it is one, the name behind it."""
    for kind, sections in (("call", settings.call), ("undo", settings.undo)):
        for name, section in sections.items():
            for member, reference in _placed(section):
                first = reference.first.lower() if reference.root == "header" else reference.first
                yield f"{kind}.{name}.{member}".rstrip("."), reference.root, first or None
    expressions = [
        (f"call.{name}.{member}", each) for name, call in settings.call.items() for member, each in _expressions(call)
    ]
    if settings.response is not None:
        expressions.append(("response", settings.response))
    for option, expression in expressions:
        for root, behind in sorted(expression.members, key=str):
            yield option, root, behind


def _unmergeable(settings: AggregateSettings) -> Iterator[Mistake]:
    for name, call in settings.call.items():
        what = ""
        if call.foreach is not None:
            what = "foreach gives a list"
        elif call.answer == "text":
            what = "text is no object"
        elif call.default is not None and not isinstance(call.default, dict):
            what = "its default is no object"
        if what:
            option = f"call.{name}" + (
                ".foreach" if call.foreach else ".answer" if call.answer == "text" else ".default"
            )
            yield Mistake(option, f"merge = {settings.merge} takes objects alone, and {what}", "merge = namespace")


def _unknown(
    option: str, placed: Iterable[tuple[str, Reference]], names: list[str], *, item: bool
) -> Iterator[Mistake]:
    known = [*names, *REQUEST_ROOTS, *((_ITEM,) if item else ())]
    for member, reference in placed:
        at = f"{option}.{member}" if member else option
        if reference.root == _ITEM and not item:
            yield Mistake(at, "{item} stands for an item of foreach, and there is none", f"{option}.foreach = JMESPath")
        elif reference.root not in known:
            hint = did_you_mean(reference.root, known)
            yield Mistake(
                at, f"{{{reference.text}}} refers to nothing", "" if hint else "one of " + ", ".join(known), hint
            )
        elif reference.root == "consumer" and reference.text != "consumer.name":
            yield Mistake(at, f"{{{reference.text}}} refers to nothing", "{consumer.name}")
        elif reference.root in {"jwt", "path", "query", "header"} and not reference.first:
            yield Mistake(at, f"{{{reference.text}}} names no value", f"{{{reference.root}.NAME}}")


def _unread(option: str, expression: Expression, names: list[str]) -> Iterator[Mistake]:
    known = [*names, *REQUEST_ROOTS]
    for root in sorted(expression.roots or ()):
        if root not in known:
            hint = did_you_mean(root, known)
            expected = "" if hint else "one of " + ", ".join(known)
            yield Mistake(option, f"`{root}` is neither a call nor part of the request", expected, hint)


def _placed(settings: CallSettings | UndoSettings) -> Iterator[tuple[str, Reference]]:
    """All references, each with the option that it stands in, below the call's own."""
    for reference in settings.request.path.references:
        yield "", reference
    for template in settings.headers.values():
        for reference in template.references:
            yield "headers", reference
    if settings.body is not None:
        for reference in settings.body.references:
            yield "body", reference


def _references(settings: CallSettings | UndoSettings) -> list[Reference]:
    return [reference for _, reference in _placed(settings)]


def _expressions(call: CallSettings) -> list[tuple[str, Expression]]:
    """Those over all answers; ``select`` sees its own answer alone."""
    return [(name, each) for name in ("when", "foreach") if (each := getattr(call, name)) is not None]


def _needs(settings: AggregateSettings) -> dict[str, list[str]]:
    """For each call the calls that must be answered before it, in written order."""
    names = list(settings.call)
    found: dict[str, list[str]] = {}
    writing = ""
    for name, call in settings.call.items():
        wanted = {reference.root for reference in _references(call)}
        for _, expression in _expressions(call):
            wanted |= set(names) - {name} if expression.roots is None else expression.roots
        if call.request.method not in SAFE:
            if writing:
                wanted.add(writing)
            writing = name
        found[name] = [each for each in names if each in wanted]
    return found


def _circle(needs: dict[str, list[str]]) -> list[str]:
    """The calls of a circle, the first again at the end; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for each in needs[name]:
            if found := visit(each, (*way, name)):
                return found
        done.add(name)
        return []

    for name in needs:
        if found := visit(name, ()):
            return found
    return []
