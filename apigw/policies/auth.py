"""
Lets in whom any of several ways to authenticate lets in.

    [auth any]
    any = jwt main | api_key partners

A route can say it without a section, by its option ``auth = jwt main | api_key partners``.

They are tried in this order until one succeeds. If none does, the client gets a plain 401 with every challenge; the
access log has each one's reason.

Not here: the ways to authenticate.
"""

from __future__ import annotations

from typing import Annotated, Any

from apigw.config.references import PolicyReference, parse_alternatives
from apigw.config.values import Form
from apigw.exchange.errors import ClientFault, GatewayError
from apigw.exchange.request import Given, Request
from apigw.exchange.response import Response
from apigw.policies.edits import FieldEdit
from apigw.policies.policy import Environment, Policy, PolicySettings
from apigw.policies.tokens import Refused


def show_alternatives(alternatives: tuple[PolicyReference, ...]) -> str:
    """As they are written."""
    return " | ".join(map(str, alternatives))


Alternatives = Annotated[
    tuple[PolicyReference, ...],
    Form("policies", "policies such as `jwt main | api_key partners`", parse_alternatives, show_alternatives),
]


class Settings(PolicySettings):
    """Whom any of several policies lets in comes in."""

    any: Alternatives
    """``KIND NAME | KIND NAME``: the policies to try, in this order."""


_Refusal = tuple[GatewayError | Response, Given | None]
"""A refusal, and the cookies that go with it."""


class Auth(Policy[Settings]):
    """The policy ``auth``."""

    authenticates = True

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self._alternatives: list[Any] = []
        headers: frozenset[bytes] = frozenset()
        credentials: frozenset[bytes] = frozenset()
        for each in settings.any:
            try:
                policy = environment.policy(each.kind, each.name)
            except LookupError:
                raise ValueError(f"any: there is no `{each}`") from None
            if not getattr(policy, "authenticates", False) or not hasattr(policy, "on_request"):
                raise ValueError(f"any: `{each}` does not authenticate")
            headers |= getattr(policy, "identity_headers", frozenset())
            credentials |= getattr(policy, "credential_headers", frozenset())
            self._alternatives.append(policy)
        self.gives_cookies = any(getattr(policy, "gives_cookies", False) for policy in self._alternatives)
        self.identity_headers = headers
        self.credential_headers = credentials
        self._stripped = FieldEdit(headers) if headers else None
        self._strips = [policy.strip for policy in self._alternatives if hasattr(policy, "strip")]
        if any(hasattr(policy, "on_response") for policy in self._alternatives):
            self.on_response = self._on_response

    def on_request(self, request: Request) -> object:
        if self._stripped is not None:
            # Also what only an alternative sets that is never asked.
            self._stripped.apply(request)
        for strip in self._strips:
            strip(request)
        return self._from(request, 0, [])

    def _from(self, request: Request, start: int, refusals: list[_Refusal]) -> object:
        """Try the alternatives from one on: None if one lets in, the refusal, or an awaitable of either."""
        for position in range(start, len(self._alternatives)):
            given = request.given
            try:
                outcome = self._alternatives[position].on_request(request)
            except GatewayError as error:
                outcome = error
            if outcome is None:
                return None
            if type(outcome) is not Response and not isinstance(outcome, GatewayError):
                return self._after(request, outcome, position + 1, refusals)
            _note(request, outcome, given, refusals)
        return self._refused(request, refusals)

    async def _after(self, request: Request, awaited: Any, position: int, refusals: list[_Refusal]) -> Response | None:
        given = request.given
        outcome: Response | GatewayError | None
        try:
            outcome = await awaited
        except GatewayError as error:
            outcome = error
        if outcome is None:
            return None
        _note(request, outcome, given, refusals)
        rest: Any = self._from(request, position, refusals)
        return rest if rest is None or type(rest) is Response else await rest

    def _refused(self, request: Request, refusals: list[_Refusal]) -> Response:
        """What none of them let in hears, with the cookies that go with it."""
        outcome = _chosen([each for each, _ in refusals])
        request.given = next((given for each, given in refusals if each is outcome), request.given)
        if isinstance(outcome, GatewayError):
            raise outcome
        return outcome

    async def _on_response(self, request: Request, response: Response) -> Response:
        for policy in self._alternatives:
            if hasattr(policy, "on_response"):
                changed = policy.on_response(request, response)
                response = changed if type(changed) is Response else await changed
        return response


def _note(request: Request, outcome: GatewayError | Response, given: Given | None, refusals: list[_Refusal]) -> None:
    """Keep a refusal with the cookies that it gives, which another outcome must not have."""
    refusals.append((outcome, request.given))
    request.given = given


def _chosen(refusals: list[GatewayError | Response]) -> GatewayError | Response:
    """
    The page of one that asks to log in; or that the caller is known but may not; or that the gateway could not find
    out; or else 401 with every challenge.
    """
    pages = [each for each in refusals if type(each) is Response]
    for page in pages:
        if page.status < 400:
            return page
    errors = [each for each in refusals if isinstance(each, GatewayError)]
    for status in (403, 503):
        for error in errors:
            if error.status == status:
                return error
    for page in pages:
        if page.status != 401:
            return page
    challenges = [pair for error in errors for pair in error.headers if pair[0].lower() == b"www-authenticate"]
    challenges += [pair for page in pages for pair in page.headers if pair[0].lower() == b"www-authenticate"]
    other = [error for error in errors if error.status != 401 and not isinstance(error, ClientFault)]
    if other:
        return other[0]
    return Refused("none of the ways to authenticate succeeded", headers=tuple(dict.fromkeys(challenges)))
