"""``make run``: starts all, says what to try, and leaves nothing behind."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jwt
import pytest

from examples.shop.__main__ import SECRET, endpoints, main, taken, to_try, token

ROOT = Path(__file__).parent.parent.parent

INI = """
[gateway]
access_log = -

[listen public]
endpoint = tcp:{gateway}:interface=127.0.0.1

[admin]
endpoint = tcp:{admin}:interface=127.0.0.1

[upstream users]
targets = http://127.0.0.1:{users}

[upstream products]
targets = http://127.0.0.1:{products}

[route users]
path = /api/users
strip_prefix = /api
upstream = users

[route products]
path = /api/products
strip_prefix = /api
upstream = products
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def test_the_token_is_what_the_configuration_asks_for() -> None:
    made = token("2", now=time.time())  # noqa: TID251  # PyJWT looks at the wall clock
    claims = jwt.decode(made, SECRET, algorithms=["HS256"], audience="shop", issuer="https://auth.shop.example")
    assert claims["sub"] == "2"


def test_only_what_is_configured_is_offered() -> None:
    text = INI.format(gateway=8080, admin=9090, users=1, products=2)
    assert endpoints(text, "listen") == [8080]
    assert endpoints(text, "admin") == [9090]
    plain = "\n".join(to_try(text, "TOKEN"))
    assert "curl http://127.0.0.1:8080/api/users\n" in plain
    assert "http://127.0.0.1:9090/metrics" in plain
    assert "dashboard" not in plain
    assert "graphql" not in plain
    more = "\n".join(to_try(text + "\n[aggregate dashboard]\n[graphql shop]\n[health]\npath = /health\n", "TOKEN"))
    assert "/api/dashboard" in more
    assert "8080/graphql" in more
    assert "8080/health" in more


def test_a_port_that_is_taken_is_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        busy = sock.getsockname()[1]
        gateway, admin, products = free_ports(3)
        config = tmp_path / "gw.ini"
        config.write_text(INI.format(gateway=gateway, admin=admin, users=busy, products=products))
        ran = subprocess.run(
            [sys.executable, "-m", "examples.shop", "--config", config, f"users={busy}", f"products={products}"],
            cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert ran.returncode == 1
        assert f"port {busy}: something listens there already" in ran.stderr
        assert "Traceback" not in ran.stderr
        assert taken([busy, products]) == [busy]


def test_a_configuration_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--config", "/nowhere/gw.ini"])
    assert "there is no file /nowhere/gw.ini" in capsys.readouterr().err


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_all_is_started_and_all_is_ended(tmp_path: Path, end: signal.Signals) -> None:
    gateway, admin, users, products = ports = free_ports(4)
    config = tmp_path / "gw.ini"
    config.write_text(INI.format(gateway=gateway, admin=admin, users=users, products=products))
    with subprocess.Popen(
        [sys.executable, "-m", "examples.shop", "--config", config, f"users={users}", f"products={products}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as shop:  # fmt: skip
        assert shop.stdout is not None
        seen = []
        try:
            for line in shop.stdout:
                seen.append(line)
                if "Ctrl-C ends all of it" in line:
                    break
            text = "".join(seen)
            url = re.search(r"curl (http://\S+/api/users)\n", text)
            assert url is not None, text
            with urllib.request.urlopen(url[1], timeout=10) as response:
                assert b"Ada Lovelace" in response.read()
        finally:
            shop.send_signal(end)
            rest = shop.communicate(timeout=40)[0]
    assert shop.returncode == 0, "".join(seen) + rest
    assert "users | GET /users 200" in text + rest
    assert taken(ports) == []


def test_a_gateway_that_cannot_start_ends_the_services(tmp_path: Path) -> None:
    gateway, admin, users, products = ports = free_ports(4)
    config = tmp_path / "gw.ini"
    text = INI.format(gateway=gateway, admin=admin, users=users, products=products)
    config.write_text(text + "[nonsense x]\n")
    ran = subprocess.run(
        [sys.executable, "-m", "examples.shop", "--config", config, f"users={users}", f"products={products}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "gateway ended by itself" in ran.stderr
    assert "nonsense" in ran.stdout, "the gateway's own words are shown"
    assert taken(ports) == []
