"""
Mistakes that only several rooms together can see: asked for at each load, with the sections that are right so far.

Not here: mistakes of one option (its type finds them), and of names (``apigw.config.resolving``).
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from twisted.web.resource import IResource

from apigw.config import files
from apigw.config.configuration import Configuration
from apigw.config.problems import Problem
from apigw.gateway.aggregates import wrong_aggregates
from apigw.gateway.effects import EFFECTS
from apigw.gateway.effects.paths import meant
from apigw.gateway.environment import Shared
from apigw.gateway.policies import build_policies
from apigw.gateway.rules import ANSWERING, answering, rules_of, table_of
from apigw.net.certificate_files import CertificateError
from apigw.net.certificates import CIPHERS
from apigw.net.certificates import check as check_certificates
from apigw.net.slices import at_once
from apigw.net.sockets import impossible
from apigw.net.tls_client import ClientTLS
from apigw.policies.policy import depends_on_order, order_warnings
from apigw.routing.patterns import condition, host_pattern, path_pattern
from apigw.routing.rule import ambiguities
from apigw.routing.target_path import compile_target
from apigw.upstream.target_spec import SourceSpec, TargetSpec


def wrong_patterns(configuration: Configuration) -> Iterator[Problem]:
    """Paths, hosts, conditions and target paths that don't mean anything."""
    right = rules_of(configuration)
    for kind in ANSWERING:
        for name, settings in configuration.seen(kind).items():
            if (kind, name) in right:
                continue
            for option, what in _wrong(settings):
                guess = meant(settings.path) if option == "path" else ""
                hint = f"did you mean {guess}?" if guess else ""
                yield configuration.problem(kind, name, option, what, hint=hint)


def _wrong(settings: Any) -> Iterator[tuple[str, str]]:
    if what := _refused(lambda: path_pattern(settings.path)):
        yield "path", what
    for host in getattr(settings, "hosts", ()):
        if what := _refused(lambda host=host: host_pattern(host)):
            yield "hosts", what
    for group in ("header", "query"):
        for name, text in getattr(settings, group, {}).items():
            if what := _refused(lambda name=name, text=text: condition(name, text)):
                yield f"{group}.{name}", what
    if _refused(lambda: path_pattern(settings.path)):
        return
    pattern = path_pattern(settings.path)
    slashes = getattr(settings, "allow_encoded_slashes", False)
    for option in ("strip_prefix", "add_prefix", "rewrite"):
        value = getattr(settings, option, None)
        if value is not None and (
            what := _refused(
                lambda option=option, value=value: compile_target(
                    pattern=pattern, encoded_slashes=slashes, **{option: value}
                )
            )
        ):
            yield option, what


def _refused(parse: Any) -> str:
    try:
        parse()
    except ValueError as error:
        return str(error)
    return ""


def ambiguous_routes(configuration: Configuration) -> Iterator[Problem]:
    """Two routes that match the same requests with equal rank; each pair is told once, at the later one."""
    rules = rules_of(configuration).values()
    for first, second in ambiguities(rules):
        kind, name = first.value
        yield configuration.problem(
            *second.value,
            "path",
            f"{first.path} takes the same requests as [{' '.join(filter(None, (kind, name)))}]"
            f" at {configuration.origin(kind, name, 'path')}, with equal rank",
            expected="another path, host, method or condition",
            hint="or give one of them a priority",
        )
    try:
        table_of(configuration)
    except ValueError as error:
        yield Problem(configuration.path, 0, "", "", str(error))


def certificates(configuration: Configuration) -> Iterator[Problem]:
    """Every pair of every listener is opened: does it match, is it valid, does it name the hosts that routes want?"""
    hosts = sorted({host for _, settings in answering(configuration) for host in getattr(settings, "hosts", ())})
    for name, listen in configuration.seen("listen").items():
        if listen.tls is None:
            continue
        found = check_certificates(
            listen.tls.certificates, minimum=listen.tls.minimum, ciphers=listen.tls.ciphers or CIPHERS, hosts=hosts
        )
        for severity, text in found:
            yield configuration.problem("listen", name, "tls.certificates", text, warning=severity == "warning")


def processes(configuration: Configuration) -> Iterator[Problem]:
    """What this version can't do yet must not look as if it did it."""
    for settings in configuration.seen("gateway").values():
        if settings.workers != 1:
            what = f"{settings.workers} is not possible: this version serves with one process"
            yield configuration.problem("gateway", "", "workers", what, expected="1")


def upstreams(configuration: Configuration) -> Iterator[Problem]:
    """Splits of splits, targets that are there twice, and upstreams that fall back on themselves."""
    splits = configuration.of("split")
    for name, split in splits.items():
        for inner in split.upstreams:
            if inner in splits:
                what = f"{inner} is a split itself"
                yield configuration.problem("split", name, "upstreams", what, expected="names of upstreams")
    for name, upstream in configuration.seen("upstream").items():
        addresses = Counter(target.name for target in upstream.targets if isinstance(target, TargetSpec))
        for address in (each for each, times in addresses.items() if times > 1):
            what, hint = f"{address} is here twice", "a weight=2 gives it twice as many requests"
            yield configuration.problem("upstream", name, "targets", what, expected="each target once", hint=hint)
        for source in upstream.targets:
            if isinstance(source, SourceSpec) and source.kind == "file" and (what := _unreadable(source.where)):
                yield configuration.problem("upstream", name, "targets", what, expected="a file that can be read")
    for name, upstream in configuration.upstreams.items():
        other = upstream.breaker.fallback_upstream
        if other == name or (other in splits and name in splits[other].upstreams):
            what = f"{other} is no other upstream: it leads back here"
            yield configuration.problem(
                "upstream", name, "breaker.fallback_upstream", what, expected="another upstream"
            )


def _unreadable(path: str) -> str:
    """Why not; a file that is not there may come later."""
    try:
        files.read(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path} can't be read: {error.strerror}"
    return ""


def access_log(configuration: Configuration) -> Iterator[Problem]:
    """The folder of the access log is there, and its path is no folder."""
    for settings in configuration.seen("gateway").values():
        path = settings.access_log
        if path in {"-", "off"}:
            continue
        try:
            folder, is_folder = files.is_folder(os.path.dirname(path)), files.is_folder(path)
        except TimeoutError as error:
            yield configuration.problem("gateway", "", "access_log", f"{path}: {error.strerror}")
            continue
        if not folder:
            yield configuration.problem("gateway", "", "access_log", f"there is no folder {os.path.dirname(path)}")
        elif is_folder:
            what = f"{path} is a folder"
            yield configuration.problem("gateway", "", "access_log", what, expected="the path of a file")


def sockets(configuration: Configuration) -> Iterator[Problem]:
    """A UNIX socket can be made where it is wanted."""
    for kind in ("listen", "admin"):
        for name, settings in configuration.seen(kind).items():
            endpoint = settings.endpoint
            if endpoint.kind == "unix" and (what := impossible(str(endpoint.path))):
                yield configuration.problem(kind, name, "endpoint", what)


def upstream_tls(configuration: Configuration) -> Iterator[Problem]:
    """The files by which upstreams are verified, and by which we show who we are, are what they should be."""
    for name, upstream in configuration.seen("upstream").items():
        for option in ("ca", "certificate"):
            path = getattr(upstream.tls, option)
            try:
                if path is not None:
                    ClientTLS(ca=str(path)) if option == "ca" else ClientTLS(certificate=path)
            except CertificateError as error:
                yield configuration.problem("upstream", name, f"tls.{option}", str(error))
        if all(isinstance(target, TargetSpec) and target.scheme == "http" for target in upstream.targets):
            for option in ("ca", "certificate", "server_name") if upstream.targets else ():
                if getattr(upstream.tls, option):
                    what = "no target is https://, so this does nothing"
                    yield configuration.problem("upstream", name, f"tls.{option}", what, warning=True)


def resources(configuration: Configuration) -> Iterator[Problem]:
    """What makes a resource can be called without arguments. What it gives is seen when it is mounted."""
    for name, settings in configuration.seen("resource").items():
        what = ""
        if not callable(settings.class_):
            what = "this can't be called"
        elif isinstance(settings.class_, type) and not IResource.implementedBy(settings.class_):
            what = "this class makes no IResource of twisted.web"
        else:
            with contextlib.suppress(ValueError):  # what is written in C has no signature
                try:
                    inspect.signature(settings.class_).bind()
                except TypeError as error:
                    what = f"this can't be called without arguments: {error}"
        if what:
            yield configuration.problem("resource", name, "class", what)


def policies(configuration: Configuration) -> Iterator[Problem]:
    """Each policy is made, and each route's order looked at: a limit by consumer before anybody is authenticated."""
    made: dict[tuple[str, str], Any] = {}
    kept: Shared | None = configuration.worked_out.get("shared")
    steps = build_policies(configuration, kept or Shared(), {}, made)
    failures = {failure.section: str(failure) for failure in at_once(steps)}
    for policy, why in failures.items():
        if policy in configuration.written:
            yield configuration.problem(*policy, "", why)
    for policy, built in made.items():
        for option, what in getattr(built.policy, "warnings", ()):
            if policy in configuration.written:
                yield configuration.problem(*policy, option, what, warning=True)
    ordered = any(depends_on_order(built.policy) for built in made.values())
    for section, settings in answering(configuration) if ordered or failures else ():
        listed = configuration.policies_of(settings)
        known = [(str(item), made[item.kind, item.name].policy) for item in listed if (item.kind, item.name) in made]
        for warning in order_warnings(known):
            yield configuration.problem(*section, "policies", warning, warning=True)
        for item in listed if failures else ():
            why = failures.get((item.kind, item.name), "")
            if why and (item.kind, item.name) not in configuration.written and "there is no" not in why:  # that is told
                option = "auth" if item == getattr(settings, "auth", None) else "policies"
                yield configuration.problem(*section, option, why.removeprefix("any: "))
    for section, settings in (*answering(configuration), (("defaults", ""), configuration.defaults)):
        auth = getattr(settings, "auth", None)
        built = made.get((auth.kind, auth.name)) if auth is not None else None
        if built is not None and not getattr(built.policy, "authenticates", False):
            yield configuration.problem(*section, "auth", f"`{auth}` does not authenticate anybody")
    if kept is not None:
        configuration.worked_out["policies"] = made
        return
    while made:  # to let go of all of them at once would hold up a gateway that loads this meanwhile
        made.popitem()


CHECKS = (
    wrong_patterns,
    ambiguous_routes,
    wrong_aggregates,
    upstreams,
    upstream_tls,
    certificates,
    processes,
    access_log,
    sockets,
    resources,
    policies,
    *EFFECTS,
)
"""All of them, for ``load``."""
