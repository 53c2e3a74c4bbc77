"""
Sends clients to another place.

    [redirect to-https]
    scheme = http
    location = https://{request.host}{request.target}

Without ``scheme`` all requests are redirected. The places that a location may have are those of all templates; what
they bring is percent-encoded, and can't be another host.

Not here: a route that is nothing but a redirect (its own ``redirect``).
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import model_validator

from apigw.config.text import Wrong
from apigw.exchange.errors import ClientFault
from apigw.exchange.headers import Headers
from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.policies.policy import Policy, PolicySettings
from apigw.policies.templates import TemplateText

_STATUSES = Literal["301", "302", "303", "307", "308"]


_OF_TARGET = re.compile(r"\{request\.(?:target|path)\}")
_HOST_ENDS = re.compile(rf"[/?#]|{_OF_TARGET.pattern}")


def _is_open(location: str) -> bool:
    """Whether its host ends in a place that anybody can fill."""
    host = _HOST_ENDS.split(location.partition("://")[2])[0]
    return host.endswith("}") and not host.endswith(("{request.host}", "{request.hostname}"))


_PLACE = re.compile(r"\{[^{}]*\}")


def _is_url(location: str) -> bool:
    """Whether it is a path or a URL with a host and a possible port, whatever its places bring."""
    if location.startswith("/"):
        return True
    try:
        url = _OF_TARGET.sub("/", location.replace("{request.scheme}", "http"))
        parts = urlsplit(_PLACE.sub("0", url))
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class Settings(PolicySettings):
    """Clients are sent to another place."""

    location: TemplateText
    """Where to: a URL, or a path of the same host."""
    status: _STATUSES = "308"
    """301 and 302 let a client turn POST into GET, 303 makes it; 307 and 308 don't. 301 and 308 are for ever."""
    scheme: Literal["http", "https"] | None = None
    """Only requests that came by this scheme."""

    @model_validator(mode="after")
    def _safe(self) -> Settings:
        if not self.location.source.startswith(("http://", "https://", "/", "{request.scheme}://")):
            raise Wrong("this is neither a URL nor a path", "https://host/path or /path", option="location")
        if self.location.source.startswith(("//", "/{", "/\\")):
            wrong = "a client could make this the address of another host"
            raise Wrong(wrong, "a host, or a fixed beginning of a path", option="location")
        if _is_open(self.location.source):
            wrong = "a client could make this the address of another host"
            raise Wrong(wrong, "a host that ends in fixed text or {request.host}", option="location")
        if not _is_url(self.location.source):
            raise Wrong("the result is not a URL", "https://host:port/path or /path", option="location")
        return self


class Redirect(Policy[Settings]):
    """The policy ``redirect``."""

    def on_request(self, request: Request) -> Response | None:
        scheme = self.settings.scheme
        if scheme is not None and request.scheme != scheme.encode():
            return None
        location = self.settings.location.render_url(request)
        if location is None:
            raise ClientFault("the request has not what the redirect is made from", reason="redirect_incomplete")
        return Response(int(self.settings.status), Headers([(b"Location", location)]))
