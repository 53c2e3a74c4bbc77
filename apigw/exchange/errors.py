"""
Every way an exchange can fail: whose fault it was, the status it gets, and a stable reason code.

The reason code is what an operator greps for: it stands in the problem document, in the access log and in the
metrics, and docs/errors.md lists all of them.

    GatewayError
      ClientFault     the request was wrong                     4xx
      UpstreamFault   the service failed us                     502, 503, 504
      GatewayFault    we failed, or are not able at the moment  500, 503
      ClientGone      nobody is left to answer                  499, only ever in the log (nginx's code)

Not here: how an error is shown (``apigw.exchange.problem``).
"""

from __future__ import annotations

from apigw.exchange.headers import Pair


class GatewayError(Exception):
    """
    An exchange failed.

    :ivar status: the status that the client gets.
    :ivar reason: the stable reason code, like ``upstream_refused``.
    :ivar detail: one sentence for a person. It must hold nothing secret: clients see it.
    :ivar headers: fields for the response, like ``Retry-After``.
    """

    status = 500
    reason = "gateway_error"

    def __init__(
        self, detail: str = "", *, status: int | None = None, reason: str | None = None, headers: tuple[Pair, ...] = ()
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers
        if status is not None:
            self.status = status
        if reason is not None:
            self.reason = reason


class ClientFault(GatewayError):
    """The request can't be taken as it is."""

    status = 400
    reason = "bad_request"


class BodyTooLarge(ClientFault):
    """The request's content is longer than what is allowed (RFC 9110 15.5.14)."""

    status = 413
    reason = "body_too_large"


class JSONTooLarge(BodyTooLarge):
    """The request's JSON has more values than are taken."""

    reason = "json_too_large"


class UpstreamFault(GatewayError):
    """The service did not answer as it should."""

    status = 502
    reason = "upstream_failed"


class GatewayFault(GatewayError):
    """The gateway itself is at fault, or has no room."""

    status = 500
    reason = "internal_error"


class ClientGone(GatewayError):
    """The client went away before it was answered."""

    status = 499
    reason = "client_gone"
