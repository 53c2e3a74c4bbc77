"""
What operators may do to tokens and sessions by the admin listener, with its token, if there is a ``[revocation]``:

    POST /revocations/revoke     {"jti": "4f1c"}, or {"sub": "anna"}; {"until": "2027-01-31T12:00:00Z"} if that is known
    POST /revocations/restore    {"jti": "4f1c"}, or {"sub": "anna"}
    POST /revocations/list       nothing

Not here: who may (``apigw.admin.access``), the list itself (``apigw.policies.revocation``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from apigw.admin.views import Action
from apigw.exchange.errors import ClientFault
from apigw.policies.revocation import Revocations


def revoking(in_force: Callable[[], Revocations | None]) -> dict[str, Action]:
    """
    The actions, by path.

    :param in_force: gives the list that is asked, or None.
    """

    def the_list() -> Revocations:
        revocations = in_force()
        if revocations is None:
            raise ClientFault("there is no [revocation] in the configuration", reason="admin_bad_parameters")
        return revocations

    async def revoke(parameters: Mapping[str, Any]) -> object:
        revocations = the_list()
        kind, value = _who(parameters)
        until = _until(parameters)
        if kind == "jti":
            await revocations.revoke_token(value, until)
        else:
            await revocations.revoke_subject(value, until)
        return {"revocations": await revocations.entries()}

    async def restore(parameters: Mapping[str, Any]) -> object:
        revocations = the_list()
        kind, value = _who(parameters)
        restored = revocations.restore(jti=value) if kind == "jti" else revocations.restore(subject=value)
        if not await restored:
            raise ClientFault(f"no such {kind} is revoked", status=404, reason="not_found")
        return {"revocations": await revocations.entries()}

    async def entries(_: Mapping[str, Any]) -> object:
        return {"revocations": await the_list().entries()}

    return {"revocations/revoke": revoke, "revocations/restore": restore, "revocations/list": entries}


def _who(parameters: Mapping[str, Any]) -> tuple[str, str]:
    named = [(kind, parameters[kind]) for kind in ("jti", "sub") if kind in parameters]
    if len(named) != 1 or not isinstance(named[0][1], str) or not named[0][1]:
        raise ClientFault("either `jti` or `sub` has to be a text", reason="admin_bad_parameters")
    if unknown := set(parameters) - {"jti", "sub", "until"}:
        raise ClientFault(f"there is no parameter {min(unknown)!r}", reason="admin_bad_parameters")
    return named[0]


def _until(parameters: Mapping[str, Any]) -> float | None:
    if "until" not in parameters:
        return None
    try:
        moment = datetime.fromisoformat(parameters["until"])
    except (TypeError, ValueError):
        raise ClientFault("`until` is a time like 2027-01-31T12:00:00Z", reason="admin_bad_parameters") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
