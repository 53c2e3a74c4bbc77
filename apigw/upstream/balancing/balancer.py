"""
``Balancer``: what every way of choosing has to be able to do.

Not here: which ways there are (``apigw.upstream.balancing.kinds``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from apigw.exchange.request import Request
from apigw.upstream.target import Target


class Balancer:
    """
    One way to choose a target.

    :cvar always_asked: whether ``choose`` must be called even when only one target is eligible.
    :cvar sets_cookie: whether ``set_cookie`` may have something to say.
    :ivar draining: gives the targets that get no new clients, but keep those they have; the target set fills it in.
    """

    always_asked = False
    sets_cookie = False

    def __init__(self) -> None:
        self.draining: Callable[[], Sequence[Target]] = tuple

    def use(self, targets: list[Target], now: float) -> None:
        """The eligible targets are these from now on, at least one; called too when their shares change."""
        raise NotImplementedError

    def choose(self, request: Request, now: float) -> Target:
        """One of the targets, for a request's first try."""
        raise NotImplementedError

    def choose_among(self, targets: Sequence[Target], request: Request, now: float) -> Target:
        """One of ``targets``, when what ``choose`` gives can't be taken: it was tried already, or is full."""
        return min(targets, key=lambda target: target.active / target.share)

    def may_try(self, request: Request, target: Target) -> bool:
        """Whether this request may be the one that finds out how ``target`` is, although it was not chosen for it."""
        return True

    def set_cookie(self, request: Request, target: Target) -> bytes | None:
        """The value of a Set-Cookie field for the response, or None."""
        return None
