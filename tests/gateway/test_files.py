"""Files that turn into something that blocks, while the gateway runs and at a reload: it goes on with what it had."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from apigw.config import files
from apigw.config.problems import ConfigurationError
from apigw.gateway.catalogue import load
from tests.certificates import Authority
from tests.gateway.running import Gateway, running
from tests.origins import Origin, reply

KEY = ec.generate_private_key(ec.SECP256R1())
USER = ("Authorization", "Basic " + base64.b64encode(b"anna:secret").decode())
BEARER = ("Authorization", "Bearer " + jwt.encode({"sub": "anna"}, KEY, "ES256"))
WATCHED = ("targets", "users", "keys.json", "key.pem", "shop.pem")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "users").write_text("anna:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode() + "\n")
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)]}))
    (tmp_path / "key.pem").write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    authority = Authority()
    authority.write(tmp_path / "ca.pem")
    authority.issue("shop.example").write(tmp_path / "shop.pem")
    return tmp_path


def configuration(folder: Path, origin: Origin) -> str:
    (folder / "targets").write_text(f"http://127.0.0.1:{origin.port}\n")
    return """
        [gateway]
        file_timeout = 400ms
        [listen public]
        endpoint = tcp:0:interface=127.0.0.1
        [listen safe]
        endpoint = tcp:0:interface=127.0.0.1
        tls.certificates = shop.pem
        [admin]
        endpoint = tcp:0:interface=127.0.0.1
        [upstream a]
        targets = file:targets
        discover_interval = 20ms
        [basic staff]
        file = users
        [jwt set]
        jwks = keys.json
        algorithms = ES256
        [jwt key]
        public_key = key.pem
        algorithms = ES256
        [route a]
        path = /
        upstream = a
        [route staff]
        path = /staff
        respond = 200 hello
        auth = basic staff
        [route set]
        path = /set
        respond = 200 hello
        auth = jwt set
        [route key]
        path = /key
        respond = 200 hello
        auth = jwt key
    """


async def works(gateway: Gateway, folder: Path) -> None:
    """All that depends on a file does."""
    assert (await gateway.get("/")).body == b"the service"
    assert (await gateway.get("/staff", USER)).body == b"hello"
    assert (await gateway.get("/set", BEARER)).body == b"hello"
    assert (await gateway.get("/key", BEARER)).body == b"hello"
    client = await gateway.connect("safe", tls=ssl.create_default_context(cafile=folder / "ca.pem"))
    client.close()


async def failed(gateway: Gateway, folder: Path, names: tuple[str, ...]) -> None:
    """Wait until the gateway has seen that these files can't be used."""
    while True:
        told = (await gateway.admin("/metrics")).body.decode()
        if all(f'apigw_file_stale{{file="{folder / name}"}} 1' in told for name in names):
            break
        await asyncio.sleep(0.05)
    assert all(f'apigw_file_failures_total{{file="{folder / name}"}}' in told for name in names)


async def beats(gateway: Gateway) -> float:
    """The longest time in which the loop did nothing, in half a second."""
    longest = 0.0
    last = began = time.monotonic()
    while last - began < 0.5:
        await asyncio.sleep(0)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


def fifo(path: Path) -> None:
    os.mkfifo(f"{path}.new")
    os.replace(f"{path}.new", path)


async def test_files_that_become_fifos_stop_nothing_and_their_last_content_stays(folder: Path) -> None:
    origin = await Origin([reply(200, b"the service")]).start()
    async with running(folder, configuration(folder, origin)) as gateway:
        await works(gateway, folder)
        kept = {name: (folder / name).read_bytes() for name in WATCHED}
        for name in WATCHED:
            fifo(folder / name)
        await failed(gateway, folder, WATCHED)
        await works(gateway, folder)
        for name, content in kept.items():
            (folder / "new").write_bytes(content)
            os.replace(folder / "new", folder / name)
        while "apigw_file_stale{" in (await gateway.admin("/metrics")).body.decode():
            await asyncio.sleep(0.05)
        await works(gateway, folder)
    await origin.stop()


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """From its call on, no file answers, as on a network mount that is gone."""
    back = threading.Event()
    gone = threading.Event()
    for name in ("_read", "_read_any"):
        real = getattr(files, name)

        def read(path: str, real: Callable[[str], Any] = real) -> Any:
            if gone.is_set() and not path.endswith(".ini"):
                back.wait(30)
            return real(path)

        monkeypatch.setattr(files, name, read)
    stat = os.stat

    def status(path: str) -> os.stat_result:
        if gone.is_set():
            back.wait(30)
        return stat(path)

    monkeypatch.setattr(files, "_status", status)
    yield gone.set
    back.set()


async def test_a_mount_that_is_gone_stops_nothing_and_the_gateway_ends_when_told(
    folder: Path, hang: Callable[[], None]
) -> None:
    origin = await Origin([reply(200, b"the service")]).start()
    async with running(folder, configuration(folder, origin)) as gateway:
        await works(gateway, folder)
        hang()
        await failed(gateway, folder, WATCHED)
        await works(gateway, folder)
        service = gateway.service
        service.reload()
        await works(gateway, folder)
        while service.reloading:
            await asyncio.sleep(0.01)
        assert service.last_error is not None
        assert any("gw.ini:" in line and "no answer" in line for line in service.last_error[1]), service.last_error
        await works(gateway, folder)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    await origin.stop()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("targets", "[upstream a] targets: "),
        ("users", "[basic staff] file: "),
        ("keys.json", "[jwt set] jwks: "),
        ("key.pem", "[jwt key] public_key: "),
        ("shop.pem", "[listen safe] tls.certificates: "),
    ],
)
async def test_a_fifo_is_a_mistake_with_its_line_and_a_reload_of_it_changes_nothing(
    folder: Path, name: str, line: str
) -> None:
    origin = await Origin([reply(200, b"the service")]).start()
    async with running(folder, configuration(folder, origin)) as gateway:
        fifo(folder / name)
        await gateway.reload()
        assert gateway.service.last_error is not None
        told = [each for each in gateway.service.last_error[1] if line in each]
        assert told
        assert f"{folder}/gw.ini:" in told[0]
        assert "not a regular file" in told[0]
        await works(gateway, folder)
    await origin.stop()


@pytest.mark.parametrize(
    "text",
    [
        "[gateway]\ninclude = pipe\n",
        "[admin]\nendpoint = tcp:1\ntoken = ${file:pipe}\n",
        "[respond a]\nfile = pipe\n",
        "[error_pages a]\nhtml = pipe\n",
        "[error_pages a]\npage.404 = pipe\n",
        "[json_schema a]\nrequest = pipe\n",
        "[openapi a]\nfile = pipe\n",
        "[jwt a]\npublic_key = pipe\n",
        "[upstream a]\ntls.ca = pipe\ntargets = https://127.0.0.1:1\n",
        "[upstream a]\ntls.certificate = pipe\ntargets = https://127.0.0.1:1\n",
        "[upstream a]\nbreaker.fallback_file = pipe\ntargets = http://127.0.0.1:1\n",
        "[upstream a]\ntargets = file:pipe\n",
        "[listen a]\nendpoint = tcp:2\ntls.certificates = pipe\n",
        "[listen a]\nendpoint = tcp:2\ntls.certificates = pipe pipe\n",
    ],
)
def test_wherever_a_file_is_named_a_fifo_is_refused(tmp_path: Path, text: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gw.ini").write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load(str(tmp_path / "gw.ini"))
    assert "gw.ini:" in str(raised.value)
    assert "not a regular file" in str(raised.value)


async def test_looking_at_large_files_does_not_hold_up_the_loop(folder: Path) -> None:
    origin = await Origin([reply(200, b"the service")]).start()
    async with running(folder, configuration(folder, origin)) as gateway:
        hashed = (folder / "users").read_text().partition(":")[2]
        (folder / "new").write_text("".join(f"user{number}:{hashed}" for number in range(20_000)))
        os.replace(folder / "new", folder / "users")
        await asyncio.sleep(1.6)
        assert await beats(gateway) < 0.2
    await origin.stop()


async def test_a_reload_waits_for_no_file_in_the_thread_that_serves(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = await Origin([reply(200, b"the service")]).start()
    (folder / "page.html").write_text("<p>{status}")
    (folder / "part.json").write_text("{}")
    (folder / "schema.json").write_text('{"$ref": "part.json"}')
    (folder / "api.yaml").write_text("openapi: 3.0.0\npaths: {}\n")
    Authority().issue("client.internal").write(folder / "client.pem")
    more = """
        [upstream b]
        targets = https://127.0.0.1:1
        tls.ca = ca.pem
        tls.certificate = client.pem
        breaker.error_threshold = 50%
        breaker.fallback_file = page.html
        [error_pages nice]
        html = page.html
        page.404 = page.html
        [json_schema body]
        request = schema.json
        [openapi api]
        file = api.yaml
        [respond page]
        file = page.html
        [route more]
        path = /more
        upstream = b
        policies = error_pages nice, json_schema body, openapi api, respond page
    """
    async with running(folder, configuration(folder, origin)) as gateway:
        waited: list[str] = []
        real = files._waited_for

        def noted(path: str, work: Callable[[], Any], timeout: float) -> Any:
            if threading.current_thread() is threading.main_thread():
                waited.append(path)
            return real(path, work, timeout)

        monkeypatch.setattr(files, "_waited_for", noted)
        text = configuration(folder, origin).replace("[listen safe]", "[listen other]") + more
        await gateway.reload(text)
        assert gateway.service.last_error is None
        assert waited == []
    await origin.stop()
