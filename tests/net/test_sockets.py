"""Sockets to listen on: made, taken from systemd, or refused with a line that says why."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from apigw.config.addresses import EndpointAddress, parse_endpoint
from apigw.config.text import written
from apigw.net.sockets import CannotListen, open_socket, remove_path


def to(endpoint: str) -> EndpointAddress:
    return parse_endpoint(written(endpoint))


def talks(sock: socket.socket, address: object, family: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.connect(address)  # type: ignore[arg-type]
        sock.setblocking(True)
        sock.accept()[0].close()
    return True


def test_an_interface_is_listened_on_alone() -> None:
    with open_socket(to("tcp:0:interface=127.0.0.1")) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert talks(sock, sock.getsockname(), socket.AF_INET)


def test_without_an_interface_it_is_every_ipv4_one() -> None:
    with open_socket(to("tcp:0")) as sock:
        assert sock.getsockname()[0] == "0.0.0.0"


def test_an_ipv6_interface() -> None:
    with open_socket(to(r"tcp:0:interface=\:\:1")) as sock:
        assert talks(sock, sock.getsockname(), socket.AF_INET6)


def test_every_ipv6_interface_is_every_ipv4_one_too() -> None:
    with open_socket(to(r"tcp:0:interface=\:\:")) as sock:
        assert talks(sock, ("127.0.0.1", sock.getsockname()[1]), socket.AF_INET)


def test_a_port_in_use_is_said_in_one_line() -> None:
    with open_socket(to("tcp:0:interface=127.0.0.1")) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(CannotListen) as failed:
            open_socket(to(f"tcp:{port}:interface=127.0.0.1"))
    assert str(failed.value) == f"cannot listen on tcp:{port}:interface=127.0.0.1: address already in use"


def test_an_interface_that_is_not_here_is_said() -> None:
    with pytest.raises(CannotListen, match=r"^cannot listen on tcp:1:interface=192\.0\.2\.1: cannot assign"):
        open_socket(to("tcp:1:interface=192.0.2.1"))


def test_a_unix_socket_has_its_mode_from_the_start_and_goes_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    umask = os.umask(0o077)
    try:
        with open_socket(to(f"unix:{path}:mode=660")) as sock:
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert talks(sock, str(path), socket.AF_UNIX)
            remove_path(sock)
            assert not path.exists()
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(umask)


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    open_socket(to(f"unix:{path}")).close()
    assert path.exists()
    with open_socket(to(f"unix:{path}")) as sock:
        assert talks(sock, str(path), socket.AF_UNIX)


def test_a_unix_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with open_socket(to(f"unix:{path}")) as sock:
        with pytest.raises(CannotListen, match="address already in use"):
            open_socket(to(f"unix:{path}"))
        assert talks(sock, str(path), socket.AF_UNIX)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    path.write_text("precious")
    with pytest.raises(CannotListen, match="is no socket"):
        open_socket(to(f"unix:{path}"))
    assert path.read_text() == "precious"


def test_the_socket_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    with open_socket(to(f"unix:{path}")) as sock:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            remove_path(sock)
            assert path.exists()


def test_a_socket_that_may_not_be_removed_any_more_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str) -> None:
        raise PermissionError(path)

    path = tmp_path / "sock"
    with open_socket(to(f"unix:{path}")) as sock:
        monkeypatch.setattr(os, "unlink", refused)
        remove_path(sock)
        monkeypatch.undo()
    assert path.exists()
    with open_socket(to(f"unix:{path}")):
        pass


def test_a_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="more than 107 bytes"):
        open_socket(to(f"unix:{tmp_path}/{'x' * 100}"))


SYSTEMD = """
import os, socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0)), socket.socket(type=2)]
sockets = [os.dup2(os.dup(each.fileno()), 100 + at) for at, each in enumerate(sockets)]
for at, each in enumerate(sockets):
    os.dup2(each, 3 + at)
os.environ.update(LISTEN_FDS="3", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="public:twice:twice")
os.environ.update(pair.split("=") for pair in sys.argv[2:])
from apigw.net.sockets import CannotListen, open_socket
from tests.net.test_sockets import to
for _ in range(2):  # a reload may take it again
    try:
        with open_socket(to("systemd:" + sys.argv[1])) as sock:
            number = [os.fstat(3 + at).st_ino for at in range(3)].index(os.fstat(sock.fileno()).st_ino)
            print(number, sock.getblocking(), sock.get_inheritable(), os.get_inheritable(3 + number))
    except CannotListen as error:
        print(error)
"""


def from_systemd(name: str, *environment: str) -> str:
    """What a process gets that systemd passed three sockets: ``public``, ``twice`` and a datagram one, ``twice``."""
    done = subprocess.run(
        [sys.executable, "-c", SYSTEMD, name, *environment],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    first, second = done.stdout.splitlines()
    assert first == second
    return first


@pytest.mark.parametrize(("name", "number"), [("public", 0), ("0", 0), ("1", 1)])
def test_a_socket_of_systemd_is_taken_by_name_or_number(name: str, number: int) -> None:
    assert from_systemd(name) == f"{number} False False False"


@pytest.mark.parametrize(
    ("name", "environment", "why"),
    [
        ("2", [], "it is not a stream socket that listens"),
        ("3", [], "systemd passed 3 sockets (public, twice, twice), none is called 3"),
        ("other", [], "systemd passed 3 sockets (public, twice, twice), none is called other"),
        ("twice", [], "systemd passed 2 sockets of this name: say which (systemd:1, systemd:2)"),
        ("public", ["LISTEN_FDS="], "systemd passed no sockets; is this started by a socket unit?"),
        ("public", ["LISTEN_PID=1"], "systemd passed its sockets to another process"),
    ],
)
def test_a_socket_that_systemd_did_not_pass_is_said(name: str, environment: list[str], why: str) -> None:
    assert from_systemd(name, *environment) == f"cannot listen on systemd:{name}: {why}"


SHORTAGE = """
import os, resource
from twisted.logger import globalLogPublisher, formatEvent
from apigw.net.sockets import Descriptors
globalLogPublisher.addObserver(lambda event: print(event["log_level"].name, formatEvent(event)))
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 64))
descriptors = Descriptors()
print(descriptors.raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))
taken = []
descriptors.check()
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    descriptors.check()
    descriptors.check()
os.close(taken.pop())
descriptors.check()
descriptors.check()
"""


def test_a_shortage_of_file_descriptors_is_said_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORTAGE],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.splitlines() == [
        "64 (64, 64)",
        "error no file descriptors are left (limit 64): new connections are closed",
        "info file descriptors are free again: new connections are served",
    ]
