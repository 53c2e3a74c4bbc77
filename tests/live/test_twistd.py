"""``twistd apigw --config FILE`` as an operator meets it: start, stop, reload, and what is said when it can't be."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.live.processes import TWISTD, daemon, foreground, free_port, gone, takes_connections, twistd
from tests.origins import Origin, RawClient, RawResponse, reply

GET = b"GET /users/1 HTTP/1.1\r\nHost: shop.example\r\n\r\n"


class Setting:
    """A folder with a configuration, and the origin that it names."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        self.folder = folder
        self.origin = origin
        self.port = free_port()
        self.admin = free_port()
        self.endpoint = f"tcp:{self.port}:interface=127.0.0.1"
        self.clients: list[RawClient] = []
        self.write()

    async def connect(self, port: int = 0, path: str = "") -> RawClient:
        client = await RawClient.connect(port, path=path)
        self.clients.append(client)
        return client

    def write(self, path: str = "/users", gateway: str = "", more: str = "") -> Path:
        file = self.folder / "gw.ini"
        file.write_text(
            f"""
[gateway]
access_log = -
drain_timeout = 10s
{gateway}

[listen public]
endpoint = {self.endpoint}

[admin]
endpoint = tcp:{self.admin}:interface=127.0.0.1

[upstream users]
targets = http://127.0.0.1:{self.origin.port}

[route users]
path = {path}
upstream = users

{more}
"""
        )
        return file

    def break_it(self) -> list[str]:
        """Two mistakes; the lines that tell of them begin with these."""
        file = self.write(more="[route more]\npath = /more\nupstrem = users\nupstream = nobody\n")
        lines = file.read_text().split("\n")
        return [f"{file}:{lines.index(line) + 1}: [route more] " for line in ("upstrem = users", "upstream = nobody")]

    async def get(self, path: bytes = b"/users/1", port: int = 0) -> RawResponse:
        client = await self.connect(port or self.port)
        host = b"localhost" if port == self.admin else b"shop.example"
        client.send(b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, host))
        response = await client.read_response()
        client.close()
        return response


@pytest_twisted.async_yield_fixture()
async def setting(tmp_path: Path) -> AsyncIterator[Setting]:
    origin = await Origin([reply(200, b"hello")]).start()
    setting = Setting(tmp_path, origin)
    yield setting
    for client in setting.clients:
        client.transport.abort()
    await origin.stop()


RUN = ("apigw", "--config", "gw.ini")


async def test_in_the_foreground_it_serves_on_uvloop_until_it_is_told_to_end(setting: Setting) -> None:
    with foreground(setting.folder, *RUN) as process:
        await process.listens(setting.port)
        assert (await setting.get()).body == b"hello"
        await process.said('"/users/1"')
        assert "UvloopReactor" in process.out
        assert (setting.folder / "twistd.pid").exists()
        process.signal(signal.SIGTERM)
        assert await process.ended() == -signal.SIGTERM  # twistd ends by the signal itself
        assert process.err == ""
        assert "Traceback" not in process.out
        assert not (setting.folder / "twistd.pid").exists()


async def test_an_interrupt_ends_it_too(setting: Setting) -> None:
    with foreground(setting.folder, *RUN) as process:
        await process.listens(setting.port)
        process.signal(signal.SIGINT)
        assert await process.ended() == -signal.SIGINT


async def test_an_interrupt_ends_it_where_a_script_runs_it_in_the_background(setting: Setting) -> None:
    command = ("sh", "-c", f'trap "" INT; exec {TWISTD} -n {" ".join(RUN)}')
    with foreground(setting.folder, command=command) as process:
        await process.listens(setting.port)
        process.signal(signal.SIGINT)
        assert await process.ended() == -signal.SIGINT


async def test_the_standard_asyncio_loop_serves_as_well(setting: Setting) -> None:
    with foreground(setting.folder, "--reactor=asyncio", *RUN) as process:
        await process.listens(setting.port)
        assert (await setting.get()).body == b"hello"


async def test_as_a_daemon_it_has_a_pid_file_and_logs_that_rotate(setting: Setting) -> None:
    setting.write(gateway="")
    with daemon(setting.folder, *RUN) as pid:
        assert takes_connections(setting.port)  # it listens when the command returns
        assert (await setting.get()).body == b"hello"
        log = setting.folder / "twistd.log"
        assert "UvloopReactor" in log.read_text()
        log.rename(setting.folder / "twistd.log.1")  # as logrotate does
        os.kill(pid, signal.SIGUSR1)
        while not log.exists():
            await asyncio.sleep(0.01)
        assert (await setting.get()).body == b"hello"
        os.kill(pid, signal.SIGTERM)
        await gone(setting.folder / "twistd.pid")
        assert not takes_connections(setting.port)
        assert "Traceback" not in log.read_text() + (setting.folder / "twistd.log.1").read_text()


@pytest.mark.parametrize("mode", [("-n",), ()], ids=["foreground", "daemon"])
def test_a_configuration_with_mistakes_is_told_line_by_line_and_starts_nothing(
    setting: Setting, mode: tuple[str, ...]
) -> None:
    mistakes = setting.break_it()
    done = twistd(setting.folder, *mode, *RUN)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == len(mistakes), done.stderr
    assert all(line.startswith(mistake) for line, mistake in zip(lines, mistakes, strict=True)), done.stderr
    assert sorted(path.name for path in setting.folder.iterdir()) == ["gw.ini"]


def test_a_configuration_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = twistd(tmp_path, "-n", *RUN)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"{tmp_path}/gw.ini: ")


async def test_a_port_in_use_is_said_in_one_line(setting: Setting) -> None:
    with socket.create_server(("127.0.0.1", setting.port)):
        done = twistd(setting.folder, "-n", *RUN)
        assert done.returncode == 1
        said = f"cannot listen on tcp:{setting.port}:interface=127.0.0.1: address already in use"
        assert done.stderr == said + "\n"
        assert "Traceback" not in done.stdout
        done = twistd(setting.folder, *RUN)
        assert done.returncode == 1
        assert said in done.stderr  # twistd's own words around it
        assert said in (setting.folder / "twistd.log").read_text()  # to which those words send people
        await gone(setting.folder / "twistd.pid")
    assert not takes_connections(setting.admin)


def test_a_reactor_that_can_not_serve_is_refused(setting: Setting) -> None:
    done = twistd(setting.folder, "-n", "--reactor=epoll", *RUN)
    assert (done.returncode, done.stdout) == (1, "")
    said = "apigw runs on the uvloop reactor, not on EPollReactor: use twistd without --reactor\n"
    assert done.stderr == said


async def test_a_daemon_logs_requests_to_its_log_as_it_has_no_standard_output(setting: Setting) -> None:
    with daemon(setting.folder, *RUN):
        assert (await setting.get()).body == b"hello"
        while '"path":"/users/1"' not in (setting.folder / "twistd.log").read_text():
            await asyncio.sleep(0.01)


async def test_a_reload_changes_routes_and_keeps_connections(setting: Setting) -> None:
    with foreground(setting.folder, *RUN) as process:
        await process.listens(setting.port)
        client = await setting.connect(setting.port)
        client.send(GET)
        assert (await client.read_response()).status == 200
        setting.write(path="/people")
        process.signal(signal.SIGHUP)
        while (await setting.get(b"/people/1")).status != 200:
            await asyncio.sleep(0.01)
        client.send(GET)
        assert (await client.read_response()).status == 404
        client.send(GET.replace(b"/users", b"/people"))
        assert (await client.read_response()).body == b"hello"
        assert len(setting.origin.connections) == 1  # the pool stayed as well


async def test_a_reload_adds_and_removes_listeners(setting: Setting) -> None:
    other = free_port()
    with foreground(setting.folder, *RUN) as process:
        await process.listens(setting.port)
        kept = await setting.connect(setting.port)
        kept.send(GET)
        assert (await kept.read_response()).status == 200
        added = f"tcp:{other}:interface=127.0.0.1"
        setting.write(more=f"[listen other]\nendpoint = {added}\n")
        process.signal(signal.SIGHUP)
        await process.listens(other)
        assert (await setting.get(port=other)).status == 200
        file = setting.write()
        file.write_text(file.read_text().replace("[listen public]", "[listen other]").replace(setting.endpoint, added))
        process.signal(signal.SIGHUP)
        while takes_connections(setting.port):
            await asyncio.sleep(0.01)
        assert (await setting.get(port=other)).status == 200


async def test_a_reload_of_a_bad_file_changes_nothing_and_tells_all_mistakes(setting: Setting) -> None:
    with foreground(setting.folder, *RUN) as process:
        await process.listens(setting.port)
        mistakes = setting.break_it()
        process.signal(signal.SIGHUP)
        for mistake in mistakes:
            await process.said(mistake)
        assert (await setting.get()).body == b"hello"
        status = await setting.get(b"/config/status", port=setting.admin)
        assert mistakes[0].encode() in status.body
        setting.write(path="/people")
        process.signal(signal.SIGHUP)
        while (await setting.get(b"/people/1")).status != 200:
            await asyncio.sleep(0.01)


async def test_a_reload_whose_port_is_taken_changes_nothing(setting: Setting) -> None:
    with foreground(setting.folder, *RUN) as process, socket.create_server(("127.0.0.1", 0)) as taken:
        await process.listens(setting.port)
        port = taken.getsockname()[1]
        setting.write(path="/people", more=f"[listen other]\nendpoint = tcp:{port}:interface=127.0.0.1\n")
        process.signal(signal.SIGHUP)
        await process.said(f"cannot listen on tcp:{port}:interface=127.0.0.1: address already in use")
        assert (await setting.get()).body == b"hello"


async def test_requests_in_flight_are_answered_when_it_ends(setting: Setting) -> None:
    go_on: Deferred[None] = Deferred()
    setting.origin.script = [[go_on, reply(200, b"late")]]
    with foreground(setting.folder, *RUN) as process:
        await process.listens(setting.port)
        idle = await setting.connect(setting.port)
        idle.send(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await idle.read_response()).status == 404
        client = await setting.connect(setting.port)
        client.send(GET)
        await setting.origin.request()
        process.signal(signal.SIGTERM)
        await idle.until_closed()
        while takes_connections(setting.port):
            await asyncio.sleep(0.01)
        assert (await setting.get(b"/health/ready", port=setting.admin)).status == 503
        go_on.callback(None)
        response = await client.read_response()
        assert (response.body, response.value(b"connection")) == (b"late", b"close")
        await client.until_closed()
        assert await process.ended() == -signal.SIGTERM


async def test_a_second_signal_ends_it_at_once(setting: Setting) -> None:
    setting.origin.script = [[Deferred()]]
    with foreground(setting.folder, *RUN) as process:
        await process.listens(setting.port)
        client = await setting.connect(setting.port)
        client.send(GET)
        await setting.origin.request()
        process.signal(signal.SIGTERM)
        while takes_connections(setting.port):
            await asyncio.sleep(0.01)
        process.signal(signal.SIGTERM)
        assert await process.ended() == -signal.SIGTERM
        await client.until_closed()


async def test_drain_timeout_ends_what_does_not_end_itself(setting: Setting) -> None:
    setting.origin.script = [[Deferred()]]
    setting.write()
    file = setting.folder / "gw.ini"
    file.write_text(file.read_text().replace("drain_timeout = 10s", "drain_timeout = 200ms"))
    with foreground(setting.folder, *RUN) as process:
        await process.listens(setting.port)
        client = await setting.connect(setting.port)
        client.send(GET)
        await setting.origin.request()
        process.signal(signal.SIGTERM)
        assert await process.ended() == -signal.SIGTERM
        await client.until_closed()
        assert '"status":503' in process.out
        assert '"reason":"gateway_stopped"' in process.out


async def test_a_unix_socket_is_removed_at_the_end(setting: Setting) -> None:
    path = setting.folder / "http.sock"
    setting.endpoint = f"unix:{path}:mode=600"
    setting.write()
    with foreground(setting.folder, *RUN) as process:
        await process.listens(setting.admin)
        client = await setting.connect(path=str(path))
        client.send(GET)
        assert (await client.read_response()).body == b"hello"
        process.signal(signal.SIGTERM)
        await process.ended()
        assert not path.exists()


async def test_the_proxy_protocol_tells_the_origin_who_the_client_is(setting: Setting) -> None:
    file = setting.write(gateway="trusted_proxies = 127.0.0.1/32")
    file.write_text(file.read_text().replace("[listen public]", "[listen public]\nproxy_protocol = yes"))
    with foreground(setting.folder, *RUN) as process:
        await process.listens(setting.port)
        client = await setting.connect(setting.port)
        client.send(b"PROXY TCP4 192.0.2.7 198.51.100.2 40000 80\r\n" + GET)
        assert (await client.read_response()).body == b"hello"
        assert (await setting.origin.request()).values(b"x-forwarded-for") == [b"192.0.2.7"]


async def test_while_it_drains_a_kept_connection_hears_that_it_is_not_ready(setting: Setting) -> None:
    go_on: Deferred[None] = Deferred()
    setting.origin.script = [[go_on, reply(200, b"late")]]
    setting.write(more="[health]\n")
    with foreground(setting.folder, *RUN) as process:
        await process.listens(setting.port)
        busy, kept = await setting.connect(setting.port), await setting.connect(setting.port)
        kept.send(GET.replace(b"/users/1", b"/health/ready"))
        assert (await kept.read_response()).status == 200
        busy.send(GET)
        await setting.origin.request()
        process.signal(signal.SIGTERM)
        while takes_connections(setting.port):
            await asyncio.sleep(0.01)
        kept.send(GET.replace(b"/users/1", b"/health/ready"))
        response = await kept.read_response()
        assert (response.status, response.value(b"connection")) == (503, b"close")
        assert (await setting.get(b"/config/status", port=setting.admin)).status == 200
        go_on.callback(None)
        assert (await busy.read_response()).body == b"late"
        assert await process.ended() == -signal.SIGTERM


async def test_the_log_goes_where_twistd_says(setting: Setting) -> None:
    with foreground(setting.folder, "--logfile=people.log", *RUN) as process:
        await process.listens(setting.port)
        assert (await setting.get()).body == b"hello"
        process.signal(signal.SIGTERM)
        await process.ended()
        assert "apigw serves 1 routes" in (setting.folder / "people.log").read_text()
        assert "apigw serves" not in process.out
        assert '"/users/1"' in process.out  # the access log is elsewhere


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_privileges_are_dropped_when_all_is_bound(setting: Setting) -> None:
    setting.folder.chmod(0o755)
    with foreground(setting.folder, "--uid=65534", "--gid=65534", "--pidfile=", *RUN) as process:
        await process.listens(setting.port)
        assert (await setting.get()).body == b"hello"  # bound is not yet serving
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        assert "Uid:\t65534\t65534" in status
        process.signal(signal.SIGTERM)
        assert await process.ended() == -signal.SIGTERM
        assert "Traceback" not in process.out


UNUSABLE = [
    ("workers = 4", "[gateway] workers: "),
    ("workers = auto", "[gateway] workers: "),
    ("access_log = /nowhere/at/all/access.log", "[gateway] access_log: "),
]


@pytest.mark.parametrize(("option", "said"), UNUSABLE)
def test_what_can_not_be_is_said_with_its_line(setting: Setting, option: str, said: str) -> None:
    file = setting.write()
    file.write_text(file.read_text().replace("access_log = -", option))
    done = twistd(setting.folder, "-n", *RUN)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{file}:3: {said}")
    assert len(done.stderr.splitlines()) == 1


def test_a_log_that_can_not_be_opened_is_said(setting: Setting) -> None:
    done = twistd(setting.folder, "-n", "--logfile=nowhere/people.log", *RUN)
    assert done.returncode == 1
    assert "nowhere/people.log can't be opened" in done.stderr
    assert "Traceback" not in done.stderr


ACTIVATED = """
import os, socket, sys
sock = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(os.dup(sock.fileno()), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="public")
os.execv(sys.executable, [sys.executable, sys.argv[2], "-n", *sys.argv[3:]])
"""


async def test_systemd_passes_the_socket_and_hears_of_each_step(setting: Setting) -> None:
    setting.endpoint = "systemd:public"
    setting.write()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(setting.folder / "notify"))
        manager.setblocking(False)
        loop = asyncio.get_running_loop()

        async def hears(start: bytes) -> None:
            while not (told := await loop.sock_recv(manager, 1000)).startswith(start):
                assert told.startswith((b"WATCHDOG=1", b"STATUS=")), told

        twistd_file = str(Path(sys.executable).with_name("twistd"))
        command = (sys.executable, "-c", ACTIVATED, str(setting.port), twistd_file)
        environ = {"NOTIFY_SOCKET": str(setting.folder / "notify"), "WATCHDOG_USEC": "400000"}
        with foreground(setting.folder, *RUN, environ=environ, command=command) as process:
            await hears(b"READY=1\nMAINPID=%d" % process.process.pid)
            assert (await setting.get()).body == b"hello"
            assert (await loop.sock_recv(manager, 1000)).startswith(b"WATCHDOG=1")
            process.signal(signal.SIGHUP)
            await hears(b"RELOADING=1\nMONOTONIC_USEC=")
            await hears(b"READY=1\n")
            assert (await setting.get()).body == b"hello"
            process.signal(signal.SIGTERM)
            await hears(b"STOPPING=1")
            assert await process.ended() == -signal.SIGTERM


def test_twistd_lists_the_command() -> None:
    listing = subprocess.run([twistd_path(), "--help"], capture_output=True, text=True, timeout=30, check=True).stdout
    assert "apigw            API gateway" in listing


def twistd_path() -> Path:
    return Path(sys.executable).with_name("twistd")
