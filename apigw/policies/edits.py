"""
Changes of header fields that keep what the fast path needs: fields that are shared between messages stay as they are,
and the lines that are ready to be sent stay ready.

Not here: what is changed, and why.
"""

from __future__ import annotations

from functools import lru_cache

from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.responder import Done
from apigw.exchange.response import Amended, Response
from apigw.http.fields import FOLD, folded, serialise


@lru_cache(maxsize=1024)
def _all_folded(names: frozenset[bytes]) -> frozenset[bytes]:
    return frozenset(map(folded, names))


class FieldEdit:
    """
    Fields to take out of a request and fields to put in, the same for everybody who shows the same credential.

    Taken out is also what is only spelt like them (``folded``): it must not be able to pass for what we put in.

    The result is remembered for the last head that it was made for: a client repeats its head, connections share equal
    ones, and then it costs two assignments, and no new lines have to be written for the service either.
    """

    __slots__ = ("_add", "_headers", "_lines", "_remove", "_source")

    def __init__(self, remove: frozenset[bytes], add: tuple[Pair, ...] = ()) -> None:
        self._remove = _all_folded(remove)
        self._add = add
        self._source: Headers | None = None
        self._headers = Headers()
        self._lines = b""

    def apply(self, request: Request) -> None:
        headers = request.headers
        if headers is self._source and request.lines is not None:
            request.headers = self._headers
            request.lines = self._lines
            return
        self._apply(request, headers)

    def _apply(self, request: Request, headers: Headers) -> None:
        remove = self._remove
        kept = [pair for pair in headers.pairs if pair[0].translate(FOLD) not in remove] if remove else headers.pairs
        whole = len(kept) == len(headers.pairs)
        if whole and not self._add:
            return
        edited = Headers(kept)
        edited.pairs += self._add
        if whole and headers._index is not None:
            # What is indexed need not be indexed again, by the access log at the latest.
            index = edited._index = headers._index.copy()
            for name, value in self._add:
                lower = name.lower()
                index[lower] = [*index.get(lower, ()), value]
        lines = request.lines
        if lines is None:
            # Somebody else's copy already: it may change again.
            headers.pairs = edited.pairs
            headers._index = None
            return
        self._source = headers
        self._headers = request.headers = edited
        self._lines = request.lines = lines + serialise(self._add) if whole else serialise(edited.pairs)


class FieldAddition:
    """
    Fields to append to responses. Services' heads repeat, and equal ones are shared: the last result is remembered, and
    then it costs a few assignments, and what is ready to be sent stays ready.

    :ivar source: the fields that it was last applied to, if they were ready to be sent.
    """

    __slots__ = ("_amended", "_from", "_headers", "_lines", "_to", "pairs", "source")

    def __init__(self, *pairs: Pair) -> None:
        self.pairs = pairs
        self.source: Headers | None = None
        self._headers = Headers()
        self._lines = serialise(pairs)
        self._from = b"?"  # the lines of the head that it was last applied to: they are its own
        self._to = b""
        self._amended: Amended | None = None

    def apply(self, response: Response) -> None:
        headers = response.headers
        lines = response.lines
        if lines is None:
            headers.pairs += self.pairs
            headers._index = None
            return
        if headers is not self.source:
            self.source = headers
            self._headers = Headers(headers.pairs)
            self._headers.pairs += self.pairs
        response.headers = self._headers
        origin = response.origin
        if origin is None or lines is not origin.lines:
            response.lines = lines + self._lines
            return
        if lines is not self._from:
            self._from = lines
            self._amended = Amended(origin, self._lines)
            self._to = self._amended.lines
        response.origin = self._amended
        response.lines = self._to


def applied(addition: FieldAddition, done: Done, response: Response) -> None:
    """``done`` with the addition before it, as ``partial(applied, addition, done)``."""
    if response.lines is addition._from and response.headers is addition.source:
        # As `apply` does it for the head that it was applied to last, without the call.
        response.headers = addition._headers
        response.origin = addition._amended
        response.lines = addition._to
    else:
        addition.apply(response)
    done(response)
