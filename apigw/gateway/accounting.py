"""
``Accounting``: every exchange, whatever became of it, into the metrics and the access log.

The end of an exchange is only noted. Counting and formatting are done for ``BATCH`` of them in one go, while their code
is warm in the processor's caches: in between the rest of the data path it takes longer. Whoever looks at the
metrics or at the log has all of them settled first, and a timer does it once a second.

Not here: the cells (``apigw.observability.metrics``), the lines (``apigw.observability.access_log``).
"""

from __future__ import annotations

from collections.abc import Callable

from apigw.config.configuration import Configuration
from apigw.exchange.request import Request
from apigw.gateway.policies import secret_parameters
from apigw.observability.access_log import AccessLog, open_access_log
from apigw.observability.metrics import Metrics

BATCH = 64
"""Exchanges that are settled in one go: about 0.2 ms of work."""
LONG = 1024
"""Bytes of a target that is settled at once, so that the work of many is not done in one go."""


class Accounting:
    """
    Counts and logs.

    :ivar access_log: None while there is none.
    """

    def __init__(self, metrics: Metrics, standard_output: str) -> None:
        """:param standard_output: the file that an access log to ``-`` goes to."""
        self.access_log: AccessLog | None = None
        self._standard_output = standard_output
        self._record: Callable[[Request, int, int, float], None] | None = None
        self._unmatched = metrics.route("")
        self._pending: list[tuple[Request, int, int, float]] = []
        metrics.settle = self.settle

    def finished(self, request: Request, status: int, sent: int, now: float) -> None:
        """
        An exchange ended. Connections call this.

        :param status: the final status, 0 if nothing was sent. :param sent: bytes of content. :param now: monotonic.
        """
        pending = self._pending
        pending.append((request, status, sent, now))
        if len(pending) >= BATCH or len(request.target) > LONG:
            self.settle()

    def settle(self) -> None:
        """Count and log all that ended."""
        pending, self._pending = self._pending, []
        record = self._record
        for request, status, sent, now in pending:
            route = request.route
            cells = route.cells if route is not None else self._unmatched  # type: ignore[attr-defined]
            cells.observe(request.method, status, now - request.started)
            if request.reason:
                cells.ended_by_gateway(request.reason)
            if record is not None:
                record(request, status, sent, now)

    def opened(self, configuration: Configuration) -> AccessLog | None:
        """
        The access log that a configuration asks for; None if that is off.

        :raises OSError: it can't be opened; the words name the place of the option.
        """
        settings = configuration.gateway
        path = self._standard_output if settings.access_log == "-" else settings.access_log
        try:
            return open_access_log(path, settings.access_log_format, redact=secret_parameters(configuration))
        except OSError as error:
            where = configuration.origin("gateway", "", "access_log")
            why = f"{path} can't be opened: {error.strerror}"
            raise OSError(f"{where}: [gateway] access_log: {why}") from error

    def use(self, access_log: AccessLog | None) -> None:
        """Log into that from now on."""
        self.settle()
        if self.access_log is not None:
            self.access_log.close()
        self.access_log = access_log
        self._record = None if access_log is None else access_log.record

    def flush(self) -> None:
        """Settle, and write the lines. Called once a second."""
        self.settle()
        if self.access_log is not None:
            self.access_log.flush()

    def reopen(self) -> None:
        """Go on in a new file of the same name."""
        self.settle()
        if self.access_log is not None:
            self.access_log.reopen()

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self.access_log.lost if self.access_log is not None else 0


def log_options(configuration: Configuration) -> tuple[object, ...]:
    """What of a configuration the access log depends on."""
    settings = configuration.gateway
    return settings.access_log, settings.access_log_format, secret_parameters(configuration)
