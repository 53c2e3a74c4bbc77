"""
Changes the header fields of requests on their way to the service.

    [request_headers for-users]
    remove = X-Debug, X-User-Id
    rename = X-Old-Tenant: X-Tenant
    add.X-User-Id = {jwt.sub}
    append.Via-Region = eu-1

They are made in the order remove, rename, replace, set, add, append. ``add`` leaves alone what the client sent: a field
that the service trusts is ``set``, or removed first.

Not here: the changes themselves (``header_edits``) and what may stand in their values (``templates``).
"""

from __future__ import annotations

from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.http.fields import serialise
from apigw.policies.header_edits import Edits, EditSettings, Values
from apigw.policies.policy import Environment, Policy


class Settings(EditSettings):
    """Header fields of requests are changed on their way to the service."""


class RequestHeaders(Policy[Settings]):
    """
    The policy ``request_headers``.

    The last result is remembered for the head that it was made for: connections share equal heads, and then a change
    with the same values costs two assignments.
    """

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._edits = Edits(settings)
        self.needs_identity = self._edits.needs_identity
        self._source: Headers | None = None
        self._values: Values = ()
        self._headers = Headers()
        self._lines = b""

    def on_request(self, request: Request) -> Response | None:
        values = self._edits.values(request)
        if self.in_shadow:
            return None
        headers = request.headers
        if request.lines is None:
            request.headers = Headers(self._edits.edited(headers.pairs, values))
            return None
        if headers is not self._source or values != self._values:
            edited = Headers(self._edits.edited(headers.pairs, values))
            self._lines = serialise(edited.pairs)
            self._source, self._values, self._headers = headers, values, edited
        request.headers = self._headers
        request.lines = self._lines
        return None
