"""
The one place where an error becomes a response: ``application/problem+json`` (RFC 9457).

``type`` is ``urn:apigw:problem:REASON``: a name to compare; docs/errors.md says what each one means.
"""

from __future__ import annotations

from http import HTTPStatus

from apigw.exchange.errors import GatewayError
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.json_text import show

_TITLES = {status.value: status.phrase for status in HTTPStatus}


def problem(request: Request, error: GatewayError, **members: object) -> Response:
    """
    The response for ``error``; the request's ``reason`` is set for log and metrics.

    :param members: further members of the document (RFC 9457 3.2), JSON-able.
    """
    request.reason = error.reason
    document = {
        "type": f"urn:apigw:problem:{error.reason}",
        "title": _TITLES.get(error.status, "Error"),
        "status": error.status,
        "detail": error.detail,
        "reason": error.reason,
        "request_id": request.id.decode("latin-1"),
        **members,
    }
    headers = Headers([(b"Content-Type", b"application/problem+json"), *error.headers])
    return Response(error.status, headers, show(document).encode(), error=error)
