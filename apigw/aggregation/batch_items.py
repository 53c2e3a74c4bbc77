"""
What a batch holds: its requests, read and checked, and which fields each of them gets.

**Fields.** An item says what any client may say of one request (``Accept``, ``Content-Type``, ``X-Tenant``). It can't
say what only a browser, a proxy or the gateway can vouch for: the request headers that the Fetch standard forbids to
pages (https://fetch.spec.whatwg.org/#forbidden-request-header: ``Cookie``, ``Origin``, ``Referer``, ``Sec-*``, ...),
forwarding and hop-by-hop fields, ``Host``, credentials, and the identity fields that policies set. These are the
batch's own, as the policies of its section left them; only a credential that such a policy took out is there again, for
the policies of the item's route.

Not here: how items run and what is answered (``batch``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from apigw.aggregation.templates import (
    BATCH_REFERENCE,
    MOST_REFERENCES,
    HeaderTemplate,
    PathTemplate,
    Reference,
    filling,
)
from apigw.exchange.errors import BodyTooLarge, ClientFault
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.http.fields import CLAIMS, FORWARDING, HOP_BY_HOP, folded, is_token

SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"QUERY"))
CREDENTIALS = frozenset((b"authorization", b"cookie"))
_OWN = frozenset(
    map(
        folded,
        FORWARDING
        | CLAIMS
        | HOP_BY_HOP
        | CREDENTIALS
        | {b"host", b"content-length", b"expect", b"max-forwards"}
        | {b"accept-charset", b"accept-encoding", b"cookie2", b"date", b"dnt", b"origin", b"referer", b"set-cookie"}
        | {b"trailer"},
    )
)
_OWN_PREFIXES = (b"sec-", b"proxy-", b"x-forwarded-", b"access-control-request-")
_OF_THE_BATCH = (
    FORWARDING
    | HOP_BY_HOP
    | {b"host", b"expect", b"accept-encoding"}
    | {b"content-type", b"content-encoding", b"content-length", b"content-language"}
    | {b"if-none-match", b"if-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range"}
    | {b"access-control-request-headers", b"access-control-request-method", b"access-control-request-private-network"}
)
"""Fields that say something of the batch itself, so that its items don't have them."""
_MEMBERS = frozenset(("id", "method", "path", "query", "headers", "body", "version", "ssl_verify"))
"""``version`` and ``ssl_verify`` are APISIX's; here the upstream's settings decide about both."""
_SHARED = frozenset(("pipeline", "query", "headers", "timeout"))
_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Limits(NamedTuple):
    """
    What one request may have at most, as at the listeners: bytes of its target, fields of its own, and bytes of these.
    """

    target: int = 8 * 1024
    fields: int = 100
    head: int = 32 * 1024

    def check(self, target: int, fields: Sequence[Pair]) -> None:
        """
        See that a request is within the limits.

        :param target: bytes of its target.
        :raises ClientFault: it is not.
        """
        if target > self.target:
            raise ClientFault(f"the target has more than {self.target} bytes", status=414, reason="target_too_long")
        if len(fields) > self.fields:
            raise ClientFault(f"there are more than {self.fields} fields", status=431, reason="too_many_headers")
        if sum(len(name) + len(value) + 4 for name, value in fields) > self.head:
            raise ClientFault(f"the head has more than {self.head} bytes", status=431, reason="head_too_large")


class Callers:
    """
    Which request fields say who a caller is.

    :param identity: those that policies set for services, in lower case.
    :param credentials: those that policies read credentials from.
    """

    def __init__(self, identity: frozenset[bytes] = frozenset(), credentials: frozenset[bytes] = frozenset()) -> None:
        self._credentials = CREDENTIALS | credentials
        self._own = _OWN | frozenset(map(folded, identity | credentials))

    def owns(self, name: bytes) -> bool:
        """Whether an item can't have this field."""
        name = folded(name)
        return name in self._own or name.startswith(_OWN_PREFIXES)

    def fields(self, outer: Request) -> list[Pair]:
        """The fields of the batch that each of its items has, if it does not have its own."""
        pairs = outer.headers.pairs
        if outer.received is not None and outer.received != tuple(pairs):
            received, headers = Headers(outer.received), outer.headers
            for name in self._credentials:
                came, left = received.get_all(name), headers.get_all(name)
                if came != left and (name == b"cookie" or set(left) <= set(came)):
                    pairs = [pair for pair in pairs if pair[0].lower() != name]
                    pairs += [pair for pair in outer.received if pair[0].lower() == name]
        return [pair for pair in pairs if pair[0].lower() not in _OF_THE_BATCH]


@dataclass(slots=True, eq=False)
class Item:
    """
    One request of a batch, not yet filled in.

    :ivar query: parameters beside those of the path. :ivar content: makes the content's value, or None without.
    :ivar needs: places of those that come before it. :ivar answer: what stands for it in the batch's answer.
    """

    place: int
    method: bytes
    path: PathTemplate
    query: list[tuple[str, HeaderTemplate]]
    fields: list[tuple[bytes, HeaderTemplate]]
    content: Callable[[Any], Any] | None
    references: list[Reference]
    needs: set[int] = field(default_factory=set)
    names: tuple[str, ...] = ()
    request: Request | None = None
    answer: dict[str, Any] | None = None


def invalid(what: str, place: int | None = None) -> ClientFault:
    """The fault of a batch, or of the item at ``place``."""
    where = "" if place is None else f"request {place}: "
    return ClientFault(where + what, reason="batch_invalid")


def read(whole: Any, most: int, callers: Callers, limits: Limits) -> tuple[list[Item], float]:
    """
    The requests of a batch, and the seconds that it wants to take at most (0.0: it doesn't say).

    :param whole: its content. :param most: how many requests it may have. :param limits: those of each request.
    :raises ClientFault: it is no batch.
    """
    shared: dict[str, Any] = {}
    listed = whole
    seconds = 0.0
    if isinstance(whole, dict):
        listed = whole.get("pipeline")
        if unknown := sorted(whole.keys() - _SHARED):
            raise invalid(f"a batch has no member {unknown[0][:64]!r}")
        shared = {name: value for name, value in whole.items() if name in ("query", "headers")}
        milliseconds = whole.get("timeout")
        if milliseconds is not None:
            if type(milliseconds) is not int or milliseconds <= 0:
                raise invalid("`timeout` must be a whole number of milliseconds")
            seconds = milliseconds / 1000
    if not isinstance(listed, list) or not listed:
        raise invalid("a batch must be an array of requests, or an object with one in `pipeline`")
    if len(listed) > most:
        detail = f"a batch has at most {most} requests; this one has {len(listed)}"
        raise BodyTooLarge(detail, reason="batch_too_many")
    return _items(listed, shared, callers, limits), seconds


def _items(listed: list[Any], shared: Mapping[str, Any], callers: Callers, limits: Limits) -> list[Item]:
    names: dict[str, int] = {}
    items: list[Item] = []
    barrier: set[int] = set()
    last = found = 0
    for place, given in enumerate(listed):
        try:
            item = _item(place, given, shared, callers, limits)
            found += len(item.references)
            if found > MOST_REFERENCES:
                raise ValueError(f"a batch has at most {MOST_REFERENCES} references")
            item.needs = {_before(reference, names, place) for reference in item.references}
            name = given.get("id")
            if name is not None:
                if not isinstance(name, str) or not _ID.fullmatch(name) or name in names:
                    raise ValueError("`id` is a name of letters, digits and _ that no other has")
                names[name] = place
                item.names += (f"${name}",)
        except UnicodeEncodeError:
            raise invalid("text must be valid Unicode, without lone surrogates", place) from None
        except ValueError as error:
            raise invalid(str(error), place) from None
        if item.method not in SAFE:
            item.needs |= barrier | set(range(last, place))  # those before need that barrier themselves
            barrier, last = {place}, place + 1
        else:
            item.needs |= barrier
        items.append(item)
    return items


def _before(reference: Reference, names: Mapping[str, int], place: int) -> int:
    name = reference.root[1:]
    before = int(name) if name.isascii() and name.isdigit() and len(name) < 6 else names.get(name, place)
    if before >= place:
        raise ValueError(f"{{{reference.text}}} is the answer of no request before it")
    return before


def _item(place: int, given: Any, shared: Mapping[str, Any], callers: Callers, limits: Limits) -> Item:
    if not isinstance(given, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - the client's mistake
    if unknown := sorted(given.keys() - _MEMBERS):
        raise ValueError(f"it has no member {unknown[0][:64]!r}")
    method, path = given.get("method", "GET"), given.get("path")
    if not isinstance(method, str) or not is_token(method.encode()) or method != method.upper():
        raise ValueError("`method` is none in capitals")
    if method in {"CONNECT", "TRACE"}:
        raise ValueError(f"{method} is of no use in a batch")
    if not isinstance(path, str):
        raise ValueError("`path` is missing")  # noqa: TRY004 - the client's mistake
    parameters = {**_object(shared, "query"), **_object(given, "query")}
    query = [(name, _template(value)) for name, value in parameters.items()]
    fields: dict[bytes, tuple[bytes, HeaderTemplate]] = {}
    said = [*_object(shared, "headers").items(), *_object(given, "headers").items()]
    if len(said) > 2 * limits.fields:  # some may be there twice; what is left is counted once all is filled in
        raise ValueError(f"it has more than {limits.fields} fields")
    for name, value in said:
        key = name.encode()
        if not is_token(key):
            raise ValueError(f"{name[:64]!r} is not a field name")
        if callers.owns(key):
            raise ValueError(f"it can't have the field {name[:64]!r}: that is taken from the batch itself")
        fields[key.lower()] = (key, _template(value))
    template = PathTemplate(path, BATCH_REFERENCE)
    references = [*template.references, *(each for _, value in query for each in value.references)]
    references += [each for _, value in fields.values() for each in value.references]
    content = filling(given["body"], references, BATCH_REFERENCE) if given.get("body") is not None else None
    item = Item(place, method.encode(), template, query, list(fields.values()), content, references)
    item.names = (f"${place}",)
    return item


def _object(holder: Mapping[str, Any], member: str) -> dict[str, Any]:
    value = holder.get(member)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"`{member}` is no object")  # noqa: TRY004 - the client's mistake
    return value


def _template(value: Any) -> HeaderTemplate:
    if isinstance(value, bool):
        value = "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise ValueError("values of `query` and `headers` are text and numbers")  # noqa: TRY004 - the client's mistake
    return HeaderTemplate(str(value), BATCH_REFERENCE)
