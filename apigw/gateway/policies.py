"""
The policies that routes list, built: one instance a section, shared by its routes.

Not here: what a policy is and does (``apigw.policies``).
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from apigw.config import files as files_on_disk
from apigw.config.configuration import Configuration
from apigw.gateway.environment import Shared
from apigw.observability.instruments import POLICY_EVENTS
from apigw.observability.metrics import Metrics
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


def _count(metrics: Metrics, policy: str, event: str) -> None:
    metrics.counter(POLICY_EVENTS, policy, event).value += 1


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
        elif value and isinstance(value, dict):
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
    policies: list[Any] = list(configuration.policies.values())
    kinds = {kind for kind in {type(each) for each in policies} if "query" in kind.model_fields}
    named = [each.query for each in policies if type(each) in kinds]
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
) -> Generator[None, None, list[UnusablePolicy]]:
    """
    Make all policies of the configuration. One whose settings and files did not change stays what it was, with its
    counters; and if it asks for them, as long as the consumers and the list of revoked tokens are the same.

    It is work in steps, for ``apigw.net.slices``.

    :param built: gets them, by kind and name. Those that it has already stay.
    :return: those that can't be made.
    """
    maker = _Maker(configuration, shared, before, built)
    unusable: dict[tuple[str, str], UnusablePolicy] = {}
    for reference in configuration.policies:
        if reference[0] in POLICIES:
            try:
                maker.made(*reference)
            except UnusablePolicy as error:
                unusable.setdefault(error.section, error)
        yield
    shared.asked = (maker.consumers, maker.revocations)
    maker.end()
    return list(unusable.values())


class _Maker:
    """
    Makes the policies of one configuration. Policies hold on to it by ``Environment.policy``, so it lets go of
    everything at its end: one that stays over many reloads must not keep all that there was before.
    """

    def __init__(
        self,
        configuration: Configuration,
        shared: Shared,
        before: Mapping[tuple[str, str], BuiltPolicy],
        built: dict[tuple[str, str], BuiltPolicy],
    ) -> None:
        self._wanted = configuration.policies
        self._before = before
        self._built: dict[tuple[str, str], BuiltPolicy] = built
        self._shared = shared
        self._loggers: dict[str, Logger] = {}
        self.consumers = dict(configuration.of("consumer"))
        self.revocations = shared.revocations(configuration.of("revocation").get(""))
        self._unchanged = shared.asked == (self.consumers, self.revocations)

    def end(self) -> None:
        self._wanted = {}
        self._before = self._built = {}

    def policy(self, kind: str, name: str) -> Any:
        """:raises LookupError: there is none; or all are made, and it is too late to ask."""
        return self.made(kind, name).policy

    def made(self, kind: str, name: str) -> BuiltPolicy:
        reference = (kind, name)
        found = self._built.get(reference)
        if found is None:
            found = self._built[reference] = self._make(kind, name, self._wanted[reference])
        return found

    def _make(self, kind: str, name: str, settings: Any) -> BuiltPolicy:
        former = self._before.get((kind, name))
        if former is not None and former.settings == settings and former.files == _states(former.files):
            # `auth` has no state of its own, and holds on to others that may have changed.
            asks = former.policy.authenticates or kind == "python"
            if kind != "auth" and (self._unchanged or not asks):
                return former
        shared = self._shared
        logger = self._loggers.get(kind)
        if logger is None:
            logger = self._loggers[kind] = Logger(namespace=f"apigw.policies.{kind}")
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
            call_in_thread=shared.in_thread,
            beside=shared.side_work,
            policy=self.policy,
            log=logger,
            count=functools.partial(_count, shared.metrics, f"{kind} {name}".rstrip()),
            consumers=self.consumers,
            revocations=self.revocations,
        )
        try:
            made = POLICIES[kind][1](settings, environment)
        except UnusablePolicy:
            raise
        except (ValueError, OSError, LookupError) as error:
            raise UnusablePolicy((kind, name), str(error)) from error
        if former is not None and hasattr(made, "take_over"):
            made.take_over(former.policy)
        files = {*_files(vars(settings)), *getattr(made, "files", ())}
        return BuiltPolicy(settings, made, layer(made, settings, environment), _states(files))
