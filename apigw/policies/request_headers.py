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

MOST_KNOWN = 256
LONGEST = 4096
"""Results that are remembered, and bytes of one."""


class Settings(EditSettings):
    """Header fields of requests are changed on their way to the service."""


class RequestHeaders(Policy[Settings]):
    """
    The policy ``request_headers``.

    Results are remembered for the heads that they were made for: connections share equal heads, and then a change with
    the same values costs two assignments.
    """

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._edits = Edits(settings)
        self.needs_identity = self._edits.needs_identity
        self._known: dict[Headers, tuple[Values, Headers, bytes]] = {}

    def on_request(self, request: Request) -> Response | None:
        values = self._edits.values(request)
        if self.in_shadow:
            return None
        headers = request.headers
        if request.lines is None:
            request.headers = Headers(self._edits.edited(headers.pairs, values))
            return None
        known = self._known.get(headers)
        if known is None or known[0] != values:
            edited = Headers(self._edits.edited(headers.pairs, values))
            known = (values, edited, serialise(edited.pairs))
            if len(known[2]) <= LONGEST:
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                self._known[headers] = known
        _, request.headers, request.lines = known
        return None
