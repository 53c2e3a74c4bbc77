"""
The policies that routes list, built: one instance a section, shared by its routes.

Not here: what a policy is and does (``apigw.policies``).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from apigw.config import files as files_on_disk
from apigw.config.configuration import Configuration
from apigw.gateway.environment import Shared
from apigw.observability.instruments import POLICY_EVENTS
from apigw.policies.catalogue import POLICIES
from apigw.policies.policy import Environment, layer


@dataclass(slots=True)
class BuiltPolicy:
    """
    A policy that routes may list.

    :ivar layer: what goes into the route's onion: the policy, or its shadow.
    :ivar files: the state of the files that it read when it was made.
    """

    settings: Any
    policy: Any
    layer: Any
    files: Mapping[Path, object]

    @property
    def answers_preflights(self) -> bool:
        """Whether CORS preflights are for it."""
        return bool(getattr(self.policy, "answers_preflights", False))

    @property
    def gives_cookies(self) -> bool:
        """Whether it gives clients cookies."""
        return bool(getattr(self.policy, "gives_cookies", False))

    async def start(self) -> None:
        """Let it begin."""
        await _called(self.policy, "start")

    async def stop(self) -> None:
        """Let it end."""
        await _called(self.policy, "stop")


def _count(shared: Shared, policy: str, event: str) -> None:
    shared.metrics.counter(POLICY_EVENTS, policy, event).value += 1


async def _called(policy: Any, name: str) -> None:
    method = getattr(policy, name, None)
    if method is not None:
        result = method()
        if inspect.isawaitable(result):
            await result


def _files(values: Mapping[str, Any]) -> Iterator[Path]:
    for value in values.values():
        if isinstance(value, Path):
            yield value
        elif isinstance(value, Mapping):
            yield from _files(value)


def _states(files: Iterable[Path]) -> dict[Path, object]:
    """By which a file shows that it is another than it was."""
    states: dict[Path, object] = {}
    for file in files:
        try:
            about = files_on_disk.status(file)
            states[file] = (about.st_mtime_ns, about.st_size, about.st_ino)
        except OSError:
            states[file] = None
    return states


def secret_parameters(configuration: Configuration) -> frozenset[str]:
    """
    The query parameters in which policies look for credentials. They are hidden in the log on all routes, and also
    where somebody else refuses the request first.
    """
    named = (getattr(settings, "query", None) for settings in configuration.policies.values())
    return frozenset(name for name in named if isinstance(name, str) and name)


class UnusablePolicy(ValueError):
    """
    A policy that its settings don't allow to be made.

    :ivar section: kind and name.
    """

    def __init__(self, section: tuple[str, str], why: str) -> None:
        super().__init__(why)
        self.section = section


def build_policies(
    configuration: Configuration,
    shared: Shared,
    before: Mapping[tuple[str, str], BuiltPolicy],
    built: dict[tuple[str, str], BuiltPolicy],
) -> list[UnusablePolicy]:
    """
    Make all policies of the configuration. One whose settings and files did not change stays what it was, with its
    counters; and if it asks for them, as long as the consumers and the list of revoked tokens are the same.

    :param built: gets them, by kind and name.
    :return: those that can't be made.
    """
    consumers = dict(configuration.of("consumer"))
    revocations = shared.revocations(configuration.of("revocation").get(""))
    unchanged = shared.asked == (consumers, revocations)

    def policy(kind: str, name: str) -> Any:
        reference = (kind, name)
        if reference not in built:
            built[reference] = make(kind, name, configuration.policies[reference])
        return built[reference].policy

    def make(kind: str, name: str, settings: Any) -> BuiltPolicy:
        former = before.get((kind, name))
        if former is not None and former.settings == settings and former.files == _states(former.files):
            # `auth` has no state of its own, and holds on to others that may have changed.
            asks = former.policy.authenticates or kind == "python"
            if kind != "auth" and (unchanged or not asks):
                return former
        environment = Environment(
            kind=kind,
            name=name,
            clock=shared.clock,
            now=time.time,  # noqa: TID251 - tokens tell the time of day
            later=shared.later,
            fetch=shared.outside.fetch,
            store=shared.store,
            limits=shared.limits,
            files=shared.files,
            call_in_thread=deferToThread,
            policy=policy,
            log=Logger(namespace=f"apigw.policies.{kind}"),
            count=lambda event: _count(shared, f"{kind} {name}".rstrip(), event),
            consumers=consumers,
            revocations=revocations,
        )
        try:
            made = POLICIES[kind][1](settings, environment)
        except UnusablePolicy:
            raise
        except (ValueError, OSError, LookupError) as error:
            raise UnusablePolicy((kind, name), str(error)) from error
        if former is not None and hasattr(made, "take_over"):
            made.take_over(former.policy)
        files = {*_files(dict(settings)), *getattr(made, "files", ())}
        return BuiltPolicy(settings, made, layer(made, settings, environment), _states(files))

    unusable: dict[tuple[str, str], UnusablePolicy] = {}
    for (kind, name), settings in configuration.policies.items():
        if kind not in POLICIES:
            continue
        try:
            if (kind, name) not in built:
                built[kind, name] = make(kind, name, settings)
        except UnusablePolicy as error:
            unusable.setdefault(error.section, error)
    shared.asked = (consumers, revocations)
    return list(unusable.values())
