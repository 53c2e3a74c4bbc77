"""
Changes the header fields of responses on their way to the client.

    [response_headers plain]
    remove = Server, X-Powered-By
    set.Cache-Control = no-store
    add.X-Request-Id = {request.id}

They are made in the order remove, rename, replace, set, add, append; to every response that comes from behind this
policy, errors of the gateway included. Places such as ``{header.X}`` are filled from the request.

Not here: the changes themselves (``header_edits``) and what may stand in their values (``templates``).
"""

from __future__ import annotations

from apigw.exchange.errors import ClientFault
from apigw.exchange.headers import Headers
from apigw.exchange.problem import problem
from apigw.exchange.request import Request
from apigw.exchange.responder import Done, Responder
from apigw.exchange.response import Response
from apigw.http.fields import serialise
from apigw.policies.edits import FieldAddition
from apigw.policies.header_edits import Edits, EditSettings, Values
from apigw.policies.policy import Environment, Policy


class Settings(EditSettings):
    """Header fields of responses are changed on their way to the client."""


class ResponseHeaders(Policy[Settings]):
    """The policy ``response_headers``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._edits = Edits(settings)
        self._source: Headers | None = None
        self._values: Values = ()
        self._headers = Headers()
        self._lines = b""
        # What is put in when nothing of it is there, which is the same for all responses if no template is filled.
        self._plain: FieldAddition | None = None
        if self._edits.static is not None:
            self._plain = FieldAddition(*self._edits.additions(self._edits.static, ()))

    def wrap(self, inner: Responder) -> Responder:
        edits = self._edits
        plain = self._plain

        def respond(request: Request, done: Done) -> None:
            try:
                # Before the service is asked: a value that can't be made is the request's fault.
                values = edits.values(request)
            except ClientFault as fault:
                done(problem(request, fault))
                return
            if self.in_shadow:
                inner(request, done)
                return

            def outward(response: Response) -> None:
                if plain is not None and response.headers is plain.source and response.lines is not None:
                    plain.apply(response)
                    done(response)
                    return
                present = response.headers._lookup()
                if plain is not None and edits.looked_at.isdisjoint(present):
                    plain.apply(response)
                elif edits.touched.isdisjoint(present):
                    added = edits.additions(values, present)
                    response.add_fields(added, serialise(added))
                else:
                    self._edit(response, values)
                done(response)

            inner(request, outward)

        return respond

    def _edit(self, response: Response, values: Values) -> None:
        """Services' heads repeat, and equal ones are shared: the last result is remembered."""
        headers = response.headers
        if headers is self._source and values == self._values and response.lines is not None:
            response.headers = self._headers
            response.lines = self._lines
            return
        edited = Headers(self._edits.edited(headers.pairs, values))
        if response.lines is not None and b"date" in edited:
            self._source, self._values, self._headers = headers, values, edited
            response.lines = self._lines = serialise(edited.pairs)
        else:
            response.lines = None  # whoever writes it adds the date
        response.headers = edited
