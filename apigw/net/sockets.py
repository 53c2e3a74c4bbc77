"""
Sockets to listen on: made from an endpoint, or taken from systemd.

    endpoint = tcp:8080:interface=127.0.0.1     ; without an interface: every IPv4 one
    endpoint = unix:/run/apigw/http.sock:mode=660
    endpoint = systemd:public                   ; FileDescriptorName= of the socket unit; or its number, from 0

They are bound and listening when ``open_socket`` returns: what can go wrong does so before anything is served, and
before privileges are dropped. Not here: accepting (``listeners``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Iterable

from twisted.internet.endpoints import _SystemdParser
from twisted.logger import Logger

from apigw.config.addresses import EndpointAddress

log = Logger()

LONGEST_PATH = 107
"""Bytes of a UNIX socket's path: a NUL ends the 108 of sockaddr_un."""
BACKLOG = 1024
"""
Connections that may wait to be accepted; the kernel's net.core.somaxconn limits it further. All of them are accepted in
one turn of the loop, which takes 20 us each.
"""


_made: dict[str, tuple[int, int, int]] = {}
"""The UNIX sockets' paths that were bound here: by which process, and which file that was."""


class CannotListen(Exception):
    """An endpoint can't be listened on; the words are for whoever wrote it."""

    # twistd tells the first 100 bytes of what ended a daemon, this name before the words.
    __module__ = "builtins"


def open_socket(endpoint: EndpointAddress, beside: Iterable[socket.socket] = ()) -> socket.socket:
    """
    Give a socket that listens, non-blocking and not inherited by programs that are started.

    :param beside: ours, on the same port of other interfaces, soon to be closed: they are not in the way.
    :raises CannotListen: with the endpoint and the system's reason.
    """
    try:
        if endpoint.kind == "tcp":
            return _open_tcp(endpoint.host, endpoint.port, list(beside))
        if endpoint.kind == "unix":
            return _open_unix(str(endpoint.path), endpoint.mode)
        return _take_systemd(endpoint.name)
    except OSError as error:
        why = error.strerror or str(error)
        raise CannotListen(f"cannot listen on {endpoint}: {why[:1].lower()}{why[1:]}") from error


def _open_tcp(host: str, port: int, beside: list[socket.socket]) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(
        host,
        port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )[0]
    sock = socket.socket(family, kind, proto)
    try:
        # A restart need not wait until the connections of the last run are forgotten.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Only while it is bound: another process of ours must find the port taken.
        for each in (sock, *beside) if beside else ():
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        for each in (sock, *beside) if beside else ():
            if each.fileno() >= 0:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    sock.setblocking(False)
    return sock


def impossible(path: str) -> str:
    """Why there can't be a UNIX socket of this path, whoever asks for it; else empty."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        return f"the path has more than {LONGEST_PATH} bytes"
    if not os.path.isdir(os.path.dirname(path)):
        return f"there is no folder {os.path.dirname(path)}"
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        return "the path is there already, and is no socket"
    return ""


def _open_unix(path: str, mode: int) -> socket.socket:
    if why := impossible(path):
        raise OSError(why)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # By the umask, and not by a chmod afterwards: nobody can connect in between.
    umask = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(umask)
    _made[path] = _identity(path)
    sock.setblocking(False)
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket that a process left behind which ended without removing it."""
    if not os.path.lexists(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)  # a listener with a full queue must not hold us up
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def remove_path(sock: socket.socket) -> None:
    """
    Remove the file of a UNIX socket that this process made, unless another has put its own there since.

    Who has dropped his privileges may not be allowed to: then it stays, and the next start replaces it.
    """
    path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
    if path in _made:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if _made.pop(path) == _identity(path):
                os.unlink(path)


def use_mode(sock: socket.socket, mode: int) -> None:
    """
    Give the file of a UNIX socket that this process made these permissions; other sockets have none.

    :raises OSError: it isn't ours any more.
    """
    path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
    if path in _made and _made[path] == _identity(path) and stat.S_IMODE(os.stat(path).st_mode) != mode:
        os.chmod(path, mode)


def _identity(path: str) -> tuple[int, int, int]:
    found = os.stat(path, follow_symlinks=False)
    return os.getpid(), found.st_dev, found.st_ino


def _take_systemd(name: str) -> socket.socket:
    descriptor = _systemd_descriptor(name)
    # A copy: the endpoint may be dropped by one reload and come back with the next.
    sock = socket.socket(fileno=os.dup(descriptor))
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise OSError(errno.EINVAL, "it is not a stream socket that listens")
    os.set_inheritable(descriptor, False)
    sock.setblocking(False)
    return sock


def _systemd_descriptor(name: str) -> int:
    # Twisted reads LISTEN_FDS and the others when its endpoints are imported, and removes them from the environment.
    passed = _SystemdParser._sddaemon
    descriptors, names = passed._descriptors, passed._names
    if not descriptors:
        if os.environ.get("LISTEN_FDS"):
            raise OSError(errno.ENOTCONN, "systemd passed its sockets to another process")
        raise OSError(errno.ENOTCONN, "systemd passed no sockets; is this started by a socket unit?")
    if name.isdigit() and int(name) < len(descriptors):
        return descriptors[int(name)]
    found = [number for number, each in enumerate(names) if each == name]
    if not found:
        raise OSError(
            errno.ENOENT, f"systemd passed {len(descriptors)} sockets ({', '.join(names)}), none is called {name}"
        )
    if len(found) > 1:
        numbers = ", ".join(f"systemd:{number}" for number in found)
        raise OSError(errno.EINVAL, f"systemd passed {len(found)} sockets of this name: say which ({numbers})")
    return descriptors[found[0]]


class Descriptors:
    """
    The process' open files, of which every connection is one.

    When there are no more, uvloop accepts and closes what comes, so that nothing hangs and nothing spins; ``check``
    is what says so in the log.

    :ivar limit: how many there may be.
    """

    def __init__(self) -> None:
        self._short = False
        self.limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    def raise_limit(self) -> int:
        """Allow as many as the system lets this process have; that many."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            except (OSError, ValueError):  # a sandbox that forbids it
                hard = soft
        self.limit = hard
        return hard

    @property
    def spare(self) -> int:
        """Those that are kept for files, administrators, and what comes in one turn of the loop."""
        return min(max(32, self.limit // 8), BACKLOG)

    def clients(self) -> int:
        """How many clients there is room for: each may need a connection to a service, too."""
        return max(1, (self.limit - _open_files() - self.spare) // 2)

    def check(self) -> None:
        """Log when there are none left, and when there are some again. Call it every second or so."""
        try:
            os.close(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if not self._short and error.errno in (errno.EMFILE, errno.ENFILE):
                self._short = True
                limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
                log.error("no file descriptors are left (limit {limit}): new connections are closed", limit=limit)
        else:
            if self._short:
                self._short = False
                log.info("file descriptors are free again: new connections are served")


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))
    except OSError:
        return 32
