"""
``Connecting``: one TCP connection to whichever of several addresses answers first (RFC 8305 5).

Addresses are tried in turn, the next one when one fails or is silent for ``ATTEMPT_DELAY``; more may be added while it
goes on. It is made of call-backs: a thousand connections that begin at once are a thousand sockets, not tasks.

Not here: names (``resolver``), TLS, time-outs of the whole.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

ATTEMPT_DELAY = 0.25
"""Seconds; what RFC 8305 8 recommends."""

OUT_OF_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))
"""Failures of this machine: no descriptor, memory or local port is left."""

SocketAddress = tuple[int, Any]
"""Family, and the address as ``socket.connect`` takes it."""


class Connecting:
    """
    One connection that is being made.

    :ivar passed_over: the addresses that failed, or were silent until another answered.
    """

    __slots__ = (
        "_connected", "_error", "_failed", "_last", "_loop", "_next_at", "_running", "_timer", "_to_try", "_tried",
        "passed_over",
    )  # fmt: skip

    def __init__(self, connected: Callable[[socket.socket, Any], None], failed: Callable[[OSError], None]) -> None:
        """
        :param connected: gets the socket, non-blocking, and the address. :param failed: gets the last address' error.
        """
        self._loop = asyncio.get_running_loop()
        self._connected = connected
        self._failed = failed
        self._to_try: deque[SocketAddress] = deque()
        self._tried: set[SocketAddress] = set()
        self._running: dict[socket.socket, Any] = {}
        self._next_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._last = False
        self._error: OSError | None = None
        self.passed_over: list[Any] = []

    def add(self, addresses: Iterable[SocketAddress], *, last: bool) -> None:
        """
        Try these as well, in this order; those that were given before are ignored.

        :param last: no more will be added.
        """
        new = [address for address in addresses if address not in self._tried]
        self._tried.update(new)
        self._to_try.extend(new)
        self._last = last
        self._go_on()

    def cancel(self) -> None:
        """Let go of everything; nobody is called any more."""
        self._to_try.clear()
        self._last = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for sock in self._running:
            self._loop.remove_writer(sock)
            sock.close()
        self._running.clear()

    def _go_on(self) -> None:
        """Begin with the next address if it is time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._to_try:
            if self._running and (left := self._next_at - self._loop.time()) > 0:
                self._timer = self._loop.call_later(left, self._go_on)
                return
            if self._begin(*self._to_try.popleft()):
                return
        if self._last and not self._running:
            self._last = False
            self._failed(self._error or OSError("there is no address"))

    def _begin(self, family: int, address: Any) -> bool:
        """Try an address; whether all is over."""
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self._error = error
            if error.errno in OUT_OF_DESCRIPTORS:  # for the other addresses as well
                self._to_try.clear()
            return False
        try:
            code = sock.connect_ex(address)
        except (OSError, UnicodeError) as error:
            sock.close()
            self._note(address, OSError(str(error)))
            return False
        if code == 0:
            self._running[sock] = address
            self._won(sock)
            return True
        if code != errno.EINPROGRESS:
            sock.close()
            if code == errno.EADDRNOTAVAIL and family == socket.AF_INET6:
                code = errno.ENETUNREACH  # there is no IPv6 here; with IPv4, no port is left
            self._note(address, OSError(code, os.strerror(code)))
            return False
        self._running[sock] = address
        self._next_at = self._loop.time() + ATTEMPT_DELAY
        self._loop.add_writer(sock, self._writable, sock)
        return False

    def _writable(self, sock: socket.socket) -> None:
        self._loop.remove_writer(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            self._won(sock)
            return
        address = self._running.pop(sock)
        sock.close()
        self._note(address, OSError(code, os.strerror(code)))
        self._next_at = 0.0
        self._go_on()

    def _note(self, address: Any, error: OSError) -> None:
        if self._error is None or error.errno != errno.ENETUNREACH:  # which says least of the service
            self._error = error
        self.passed_over.append(address)

    def _won(self, sock: socket.socket) -> None:
        for each, address in self._running.items():
            if each is sock:
                break
            self.passed_over.append(address)  # it began sooner
        del self._running[sock]
        self.cancel()
        self._connected(sock, address)
