"""
What the admin site shows, as the gateway hands it in.

Every view may return its value or an awaitable of it: with several workers, one has to ask the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypedDict, TypeVar

from apigw.observability.metrics import Snapshot

T = TypeVar("T")
View: TypeAlias = T | Awaitable[T]

Action = Callable[[Mapping[str, Any]], object]
"""
A lever: gets its parameters, does it, and returns (or awaits) what the answer is to show. It raises
``exchange.errors.ClientFault`` for parameters that it can't use.
"""


class ConfigStatus(TypedDict):
    """
    Which configuration is in force, and whether the file on disk is another.

    Hashes are hex; ``applied_at`` is RFC 3339; ``last_error`` is None after a good load, else the time of the attempt
    and all problems, each as ``file:line: [section] option: ...``.
    """

    file: str
    running_hash: str
    disk_hash: str | None
    applied_at: str
    last_error: ConfigError | None


class ConfigError(TypedDict):
    """Why the file was not taken."""

    at: str
    problems: list[str]


class Views(Protocol):
    """What there is to see. None of it may hold a secret."""

    def routes(self) -> View[Sequence[Mapping[str, Any]]]:
        """Every route in the order in which they are tried, JSON-able."""

    def upstreams(self) -> View[Sequence[Mapping[str, Any]]]:
        """Every upstream with its targets, their state and pools, JSON-able."""

    def config_status(self) -> View[ConfigStatus]:
        """Which configuration is in force."""

    def ready(self) -> bool:
        """False before the listeners are open and while the gateway drains."""

    def metrics(self) -> View[Sequence[Snapshot]]:
        """The metrics of each worker."""
