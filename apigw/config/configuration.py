"""
A whole configuration that was found to be right.

Not here: how it was found to be (``load``).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from apigw.config.files import Contents
from apigw.config.gateway import AdminSettings, DefaultsSettings, GatewaySettings, HealthSettings
from apigw.config.kinds import Kinds
from apigw.config.listen import ListenSettings
from apigw.config.model import Settings
from apigw.config.problems import Place, Problem
from apigw.config.reader import Section
from apigw.config.references import ANYBODY, PolicyReference
from apigw.config.route import ResourceSettings, RouteSettings


@dataclass(frozen=True, slots=True)
class Configuration:
    """
    All sections, typed.

    :ivar path: the main file, as it was named.
    :ivar kinds: the kinds of sections that were known.
    :ivar sections: settings by kind and name; the name is empty for kinds without one.
    :ivar order: kind and name of every section, as they stand in the files.
    :ivar policies: settings of policies by kind and name; kinds that routes list without any section have their
        defaults here, under an empty name.
    :ivar files: every file that was read, those that only a ``${file:…}`` names included.
    :ivar digest: SHA-256 of all that was read, environment included.
    :ivar warnings: what doesn't hinder, but is hardly meant.
    :ivar contents: of the files that were read, for building: what was checked is what is used.
    :ivar named: names that sections name, by the role of what they name (``policy``, ``upstream``).
    :ivar drafts: while mistakes are sought: sections with some, without the options at fault.
    :ivar worked_out: what checks were given or worked out, for others and for those who use the configuration.
    """

    path: str
    kinds: Kinds
    sections: Mapping[str, Mapping[str, Settings]]
    order: tuple[tuple[str, str], ...]
    policies: Mapping[tuple[str, str], Settings]
    files: tuple[str, ...]
    digest: str
    warnings: tuple[Problem, ...] = ()
    written: Mapping[tuple[str, str], Section] = field(default_factory=dict, repr=False)
    named: Mapping[str, frozenset[str]] = field(default_factory=dict, repr=False)
    drafts: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict, repr=False)
    contents: Contents = field(default_factory=Contents, repr=False, compare=False)
    worked_out: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def of(self, kind: str) -> Mapping[str, Any]:
        """All sections of a kind by name, in file order."""
        return self.sections.get(kind, {})

    def seen(self, kind: str) -> Mapping[str, Any]:
        """The same, and what is right of those with mistakes: for checks that look at options one by one."""
        return {**self.of(kind), **self.drafts.get(kind, {})}

    @property
    def gateway(self) -> GatewaySettings:
        """``[gateway]``, or its defaults."""
        return cast("GatewaySettings", self.of("gateway").get("") or _default(self.kinds["gateway"].settings))

    @property
    def admin(self) -> AdminSettings | None:
        """``[admin]``, if there is one."""
        return self.of("admin").get("")

    @property
    def health(self) -> HealthSettings | None:
        """``[health]``, if there is one."""
        return self.of("health").get("")

    @property
    def defaults(self) -> DefaultsSettings:
        """``[defaults]``, or an empty one."""
        return cast("DefaultsSettings", self.of("defaults").get("") or _default(DefaultsSettings))

    @property
    def listens(self) -> Mapping[str, ListenSettings]:
        """``[listen NAME]`` by name."""
        return self.of("listen")

    @property
    def upstreams(self) -> Mapping[str, Any]:
        """``[upstream NAME]`` by name, of the settings class that the table of kinds has for them."""
        return self.of("upstream")

    @property
    def routes(self) -> Mapping[str, RouteSettings]:
        """``[route NAME]`` by name."""
        return self.of("route")

    @property
    def resources(self) -> Mapping[str, ResourceSettings]:
        """``[resource NAME]`` by name."""
        return self.of("resource")

    def policies_of(self, settings: Any) -> tuple[PolicyReference, ...]:
        """
        What runs on a route, in order: of its ``policies`` the defaults that it doesn't take out, then its own; and
        ``auth``, its own or that of the defaults, behind ``cors``, whose preflights carry no credentials.

        Each is a key of ``policies`` by its first two fields.

        :param settings: of the route, or of whatever else answers; it may have neither option.
        """
        listed: tuple[PolicyReference, ...] = getattr(settings, "policies", ())
        defaults = self.defaults
        auth = getattr(settings, "auth", None) or defaults.auth
        removed = [item for item in listed if item.removed]
        if not (removed or defaults.policies or auth):
            return listed
        run = [item for item in defaults.policies if not any(takes_out(each, item) for each in removed)]
        run += [item for item in listed if not item.removed]
        if auth is not None and auth != ANYBODY:
            run.insert(1 + max((at for at, item in enumerate(run) if item.kind == "cors"), default=-1), auth)
        return tuple(run)

    def place(self, kind: str, name: str = "", option: str | None = None) -> Place:
        """Where a section or one of its options stands; the section, if the option isn't written anywhere."""
        section = self.written.get((kind, name))
        if section is None:
            return Place(self.path, 0)
        return section.options[option].place if option in section.options else section.place

    def origin(self, kind: str, name: str = "", option: str | None = None) -> str:
        """The same as ``file:line``."""
        return str(self.place(kind, name, option))

    def problem(
        self, kind: str, name: str, option: str, what: str, *, expected: str = "", hint: str = "", warning: bool = False
    ) -> Problem:
        """
        Make a problem of a section or of one of its options, for check functions.

        If the option's value came from the environment or a file and the words hold a part of it, they are left out.
        """
        title = f"{kind} {name}" if name else kind
        section = self.written.get((kind, name))
        if section and option in section.options and section.options[option].value.tells(what + expected + hint):
            what, expected, hint = f"`{section.options[option].value.shown}` has a value that can't be taken", "", ""
        severity: Literal["error", "warning"] = "warning" if warning else "error"
        return Problem(*self.place(kind, name, option or None), title, option, what, expected, hint, severity)


@functools.cache
def _default(settings: type[Settings]) -> Settings:
    """What holds where there is no such section; nothing changes it, so one is enough."""
    return settings()


def takes_out(removal: PolicyReference, default: PolicyReference) -> bool:
    """Whether ``-NAME``, ``-KIND`` or ``-KIND NAME`` means this one of the defaults."""
    if removal.kind:
        return (removal.kind, removal.name) == (default.kind, default.name)
    return removal.name == (default.name or default.kind)
