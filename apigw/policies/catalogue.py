"""
Which policies there are: the kind of section, its settings, its class. One line a policy.

``SECTIONS`` are sections that policies ask, and that no route lists.
"""

from __future__ import annotations

from typing import Any

from apigw.config.kinds import Kind
from apigw.config.model import Settings
from apigw.policies import (
    acl,
    api_key,
    auth,
    basic,
    body_limit,
    compress,
    concurrency,
    cors,
    csrf,
    decompress,
    error_pages,
    fault,
    forward_auth,
    introspection,
    ip_filter,
    json_schema,
    jwt,
    oidc,
    openapi,
    python,
    rate_limit,
    redirect,
    request_headers,
    respond,
    response_headers,
    security_headers,
    transform,
)
from apigw.policies.consumers import ConsumerSettings
from apigw.policies.policy import Policy, PolicySettings
from apigw.policies.revocation import RevocationSettings

POLICIES: dict[str, tuple[type[PolicySettings], type[Policy[Any]]]] = {
    # who may come in
    "acl": (acl.Settings, acl.ACL),
    "api_key": (api_key.Settings, api_key.APIKey),
    "auth": (auth.Settings, auth.Auth),
    "basic": (basic.Settings, basic.Basic),
    "cors": (cors.Settings, cors.CORS),
    "csrf": (csrf.Settings, csrf.CSRF),
    "forward_auth": (forward_auth.Settings, forward_auth.ForwardAuth),
    "introspection": (introspection.Settings, introspection.Introspection),
    "ip_filter": (ip_filter.Settings, ip_filter.IPFilter),
    "jwt": (jwt.Settings, jwt.JWT),
    "oidc": (oidc.Settings, oidc.OIDC),
    # how much of it
    "concurrency": (concurrency.Settings, concurrency.Concurrency),
    "rate_limit": (rate_limit.Settings, rate_limit.RateLimit),
    # what is changed on the way
    "body_limit": (body_limit.Settings, body_limit.BodyLimit),
    "compress": (compress.Settings, compress.Compress),
    "decompress": (decompress.Settings, decompress.Decompress),
    "error_pages": (error_pages.Settings, error_pages.ErrorPages),
    "fault": (fault.Settings, fault.Fault),
    "json_schema": (json_schema.Settings, json_schema.JSONSchema),
    "openapi": (openapi.Settings, openapi.OpenAPI),
    "redirect": (redirect.Settings, redirect.Redirect),
    "request_headers": (request_headers.Settings, request_headers.RequestHeaders),
    "respond": (respond.Settings, respond.Respond),
    "response_headers": (response_headers.Settings, response_headers.ResponseHeaders),
    "security_headers": (security_headers.Settings, security_headers.SecurityHeaders),
    "transform": (transform.Settings, transform.Transform),
    # one's own
    "python": (python.Settings, python.Python),
}

SECTIONS: dict[str, type[Settings]] = {
    "consumer": ConsumerSettings,
    "revocation": RevocationSettings,
}

KINDS: dict[str, Kind] = {
    **{kind: Kind(settings, "either", policy=True) for kind, (settings, _) in POLICIES.items()},
    "python": Kind(python.Settings, "named", policy=True, refine=python.settings_of),
    **{kind: Kind(settings, "single" if kind == "revocation" else "named") for kind, settings in SECTIONS.items()},
}
"""The same, as the configuration is read by it."""
