"""
``twistd apigw --config FILE``: what twistd calls.

twistd makes ``Options``, then ``makeService``, then forks, and only then starts the service. So a configuration with a
mistake ends the command before anything is bound or forked, with the mistakes and nothing else.

Not here: the service (``apigw.gateway.service``).
"""

# ruff: noqa: E402, T201  there is no log yet, and the reactor is chosen before anything else of Twisted can choose one
from apigw.net.reactor import ensure

ensure()

import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import NoReturn

from twisted.application.service import IService
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.python import usage

from apigw.config.problems import ConfigurationError
from apigw.net.sockets import CannotListen


class Options(usage.Options):
    """The command line behind ``twistd apigw``."""

    synopsis = "[--config FILE]"
    longdesc = "Run the API gateway that FILE describes. `apigw check FILE` says whether it is well."
    optParameters = (("config", "c", "gw.ini", "The configuration."),)

    def postOptions(self) -> None:
        """
        Read the configuration.

        :raises SystemExit: 1, with the mistakes on standard error: twistd would bury a UsageError under its usage.
        """
        from twisted.internet import reactor

        if not isinstance(reactor, AsyncioSelectorReactor):
            _end(f"apigw runs on the uvloop reactor, not on {type(reactor).__name__}: use twistd without --reactor")
        from apigw.gateway.catalogue import load
        from apigw.gateway.environment import Shared
        from apigw.net.slices import uncollected

        # twistd changes the folder before the service starts.
        self["config"] = os.path.abspath(self["config"])
        try:
            with uncollected():
                self.configuration = load(self["config"], shared=Shared())
        except ConfigurationError as error:
            _end(str(error))
        if not self.configuration.listens and self.configuration.admin is None:
            _end(f"{self['config']} asks for no listener: there is nothing to serve")


def makeService(options: Options) -> IService:
    """Give the gateway as a service that is not started: there is no loop yet, and a fork may come."""
    from apigw.gateway.service import make_service
    from apigw.net.slices import uncollected

    sys.excepthook = _say_what_is_in_the_way
    twistd: Mapping[str, object] = options.parent or {}
    messages = _messages(twistd)
    daemon = not twistd.get("nodaemon", True)
    if daemon and messages is None and options.configuration.gateway.access_log == "-":
        print("requests are not logged: this daemon has no standard output; set [gateway] access_log", file=sys.stderr)
    try:
        with uncollected():
            return make_service(options.configuration, messages, daemon=daemon)
    except OSError as error:
        _end(f"the log {messages} can't be opened: {error.strerror}")
    except ValueError as error:
        _end(str(error))


def _messages(twistd: Mapping[str, object]) -> str | None:
    """Where twistd was told to log to; None when that is syslog, or an observer of the user's own."""
    if twistd.get("syslog") or twistd.get("logger"):
        return None
    name = twistd.get("logfile") or ("-" if twistd.get("nodaemon", True) else "twistd.log")
    return "-" if name == "-" else os.path.join(os.path.abspath(str(twistd.get("rundir") or ".")), str(name))


def _end(words: str) -> NoReturn:
    print(words, file=sys.stderr)
    raise SystemExit(1)


def _say_what_is_in_the_way(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """One line is enough for a port in use; twistd lets what its service raises at start go up to the interpreter."""
    from apigw.gateway.service import CannotStart

    if isinstance(error, CannotListen | CannotStart):
        print(error, file=sys.__stderr__)  # sys.stderr is the log by now
    else:
        sys.__excepthook__(kind, error, traceback)
