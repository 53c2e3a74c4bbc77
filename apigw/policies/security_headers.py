"""
Adds the header fields that make browsers careful.

    [security_headers]
    frame_options = DENY
    content_security_policy = default-src 'self'
    permissions_policy = off

What the service says itself stays, unless ``override = yes``. ``off`` leaves a field out.

Not here: any other field (``response_headers``).
"""

from __future__ import annotations

from typing import Annotated

from apigw.config.text import Text, Wrong
from apigw.config.values import Flag, Form, one_line, or_off
from apigw.exchange.headers import Headers, Pair
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.http.fields import is_field_value, serialise
from apigw.policies.edits import FieldAddition
from apigw.policies.policy import Environment, Policy, PolicySettings


def parse_field_value(text: Text) -> str:
    """What may stand in a field."""
    value = one_line(text)
    if not is_field_value(value.encode()):
        raise Wrong("{shown} can't stand in a header")
    return value


Value = Annotated[
    str | None,
    Form("text or off", "a header's value, or off", or_off(parse_field_value), lambda value: value or "off"),
]


class Settings(PolicySettings):
    """The header fields that make browsers careful are added to responses."""

    strict_transport_security: Value = "max-age=31536000; includeSubDomains"
    """Only over https (RFC 6797): come back over https only, for a year."""
    content_type_options: Value = "nosniff"
    """``X-Content-Type-Options``: a response is what its Content-Type says."""
    frame_options: Value = "SAMEORIGIN"
    """``X-Frame-Options``: who may show it in a frame."""
    referrer_policy: Value = "strict-origin-when-cross-origin"
    """What other sites learn of where a reader came from."""
    permissions_policy: Value = "camera=(), geolocation=(), microphone=()"
    """What a page may use."""
    cross_origin_opener_policy: Value = "same-origin"
    """Which windows a page shares its group with."""
    cross_origin_resource_policy: Value = None
    """Who may embed it."""
    content_security_policy: Value = None
    """What a page may load; it depends on the pages, so there is none by default."""
    content_security_policy_report_only: Value = None
    """The same, only told and not enforced."""
    override: Flag = False
    """Whether these take the place of what the service says."""


_NAMES = {"content_type_options": b"X-Content-Type-Options", "frame_options": b"X-Frame-Options"}


class SecurityHeaders(Policy[Settings]):
    """The policy ``security_headers``."""

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        pairs: list[Pair] = []
        for option in Settings.model_fields:
            value = getattr(settings, option)
            if option not in {"mode", "override"} and value is not None:
                name = _NAMES.get(option, option.replace("_", "-").title().encode())
                pairs.append((name, value.encode()))
        self._secure = _Set(pairs)
        self._plain = _Set([pair for pair in pairs if pair[0] != b"Strict-Transport-Security"])
        self._override = settings.override

    def on_response(self, request: Request, response: Response) -> Response:
        if self.in_shadow:
            return response
        fields = self._secure if request.scheme == b"https" else self._plain
        if response.headers is fields.addition.source and response.lines is not None:
            fields.addition.apply(response)
            return response
        present = response.headers._lookup()
        if fields.names.isdisjoint(present):
            fields.addition.apply(response)
        elif self._override:
            kept = [pair for pair in response.headers.pairs if pair[0].lower() not in fields.names]
            response.headers = Headers([*kept, *fields.pairs])
            response.lines = None
        else:
            missing = tuple(pair for pair in fields.pairs if pair[0].lower() not in present)
            response.add_fields(missing, serialise(missing))
        return response


class _Set:
    """Fields, in all the forms in which they are needed."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = tuple(pairs)
        self.names = frozenset(name.lower() for name, _ in pairs)
        self.addition = FieldAddition(*pairs)
