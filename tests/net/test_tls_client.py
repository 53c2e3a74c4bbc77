from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import capturedLogs

from apigw.net.certificate_files import CertificateError
from apigw.net.tls_client import ClientTLS, TLSFailure
from apigw.net.tls_transport import TLSTruncated
from tests.certificates import Authority, Issued
from tests.net.tls_ends import Recorder, in_thread, read_exactly

authority = Authority()
LEAF = authority.issue("orders.internal", "127.0.0.1")
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])


@pytest.fixture
def ca(tmp_path: Path) -> str:
    return authority.write(tmp_path / "authority.pem")


class Upstream:
    """A blocking TLS server in a thread, by the standard library: another TLS than the one under test."""

    def __init__(
        self, tmp_path: Path, leaf: Issued, talk: Callable[[ssl.SSLSocket], Any], version: str = "1.3", ca: str = ""
    ) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(leaf.write(tmp_path / "upstream.pem"))
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.minimum_version = self.context.maximum_version = {
            "1.2": ssl.TLSVersion.TLSv1_2,
            "1.3": ssl.TLSVersion.TLSv1_3,
        }[version]
        if ca:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(ca)
        self.names: list[str | None] = []
        self.context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self.talk = talk
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(10)
        self.port = self.listener.getsockname()[1]

    def serve(self) -> Any:
        """One connection; what was raised is an answer as well."""
        plain, _ = self.listener.accept()
        plain.settimeout(10)
        try:
            with self.context.wrap_socket(plain, server_side=True) as client:
                return self.talk(client)
        except OSError as error:
            plain.close()
            return error

    def close(self) -> None:
        self.listener.close()


class Silent(Recorder):
    echo = False


async def dial(tls: ClientTLS, port: int, name: str = "orders.internal") -> Recorder | TLSFailure:
    """The protocol inside when it is connected, or what failed."""
    outcome: asyncio.Future[Recorder | TLSFailure] = asyncio.get_running_loop().create_future()

    class Dialled(Silent):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            outcome.set_result(self)

    await asyncio.get_running_loop().create_connection(
        lambda: tls.protocol(Dialled, name, outcome.set_result), "127.0.0.1", port
    )
    return await outcome


async def failure_of(tls: ClientTLS, upstream: Upstream, name: str = "orders.internal") -> tuple[str, str]:
    serving = asyncio.ensure_future(in_thread(upstream.serve))
    failure = await dial(tls, upstream.port, name)
    assert isinstance(failure, TLSFailure)
    said = await serving
    upstream.close()
    assert isinstance(said, OSError) or said == b"", "the upstream saw a usable connection"
    return failure.reason, failure.detail


def echo(client: ssl.SSLSocket) -> bytes:
    data = client.recv(65536)
    if data:
        client.sendall(data)
    return data


@VERSIONS
@pytest.mark.parametrize("name", ["orders.internal", "127.0.0.1"])
async def test_an_upstream_that_is_who_we_mean_is_connected(tmp_path: Path, ca: str, version: str, name: str) -> None:
    upstream = Upstream(tmp_path, LEAF, echo, version)
    serving = asyncio.ensure_future(in_thread(upstream.serve))
    inside = await dial(ClientTLS(ca=ca), upstream.port, name)
    assert isinstance(inside, Recorder)
    assert inside.transport.get_extra_info("alpn") == "http/1.1"
    inside.transport.write(b"hello")
    await inside.has(5)
    inside.transport.close()
    assert await inside.lost is None
    assert await serving == b"hello"
    assert upstream.names == [name if name == "orders.internal" else None]  # addresses are not asked for
    upstream.close()


@pytest.mark.parametrize("name", ["products.internal", "127.0.0.2", "a.orders.internal"])
@VERSIONS
async def test_a_certificate_for_another_name_is_refused(tmp_path: Path, ca: str, version: str, name: str) -> None:
    upstream = Upstream(tmp_path, LEAF, lambda client: client.recv(10), version)
    assert await failure_of(ClientTLS(ca=ca), upstream, name) == (
        "name_mismatch",
        f"the certificate is not for {name}",
    )


@pytest.mark.parametrize(
    ("leaf", "detail"),
    [
        (Authority("Other").issue("orders.internal"), "is of an authority that we don't know"),
        (
            authority.issue("orders.internal", begins=timedelta(days=-9), ends=timedelta(days=-1)),
            "the certificate has expired",
        ),
        (authority.issue("orders.internal", begins=timedelta(days=1)), "the certificate is not valid yet"),
        (authority.issue("orders.internal", client=True), "the certificate is not for servers"),
    ],
    ids=["another authority", "expired", "not yet", "for clients"],
)
async def test_a_certificate_that_proves_nothing_is_refused(tmp_path: Path, ca: str, leaf: Issued, detail: str) -> None:
    upstream = Upstream(tmp_path, leaf, lambda client: client.recv(10))
    reason, said = await failure_of(ClientTLS(ca=ca), upstream)
    assert reason == "certificate_unverified"
    assert detail in said


async def test_without_an_authority_of_our_own_the_systems_decide(
    tmp_path: Path, ca: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Upstream(tmp_path, LEAF, echo)
    assert (await failure_of(ClientTLS(), upstream))[0] == "certificate_unverified"
    monkeypatch.setenv("SSL_CERT_FILE", ca)  # OpenSSL's own way to name the system's authorities
    upstream = Upstream(tmp_path, LEAF, lambda client: client.recv(10))
    serving = asyncio.ensure_future(in_thread(upstream.serve))
    inside = await dial(ClientTLS(), upstream.port)
    assert isinstance(inside, Recorder)
    inside.transport.close()
    await serving
    upstream.close()


async def test_server_name_is_asked_for_and_verified_in_place_of_the_dialled_one(tmp_path: Path, ca: str) -> None:
    upstream = Upstream(tmp_path, LEAF, lambda client: client.recv(10))
    serving = asyncio.ensure_future(in_thread(upstream.serve))
    inside = await dial(ClientTLS(ca=ca, server_name="orders.internal"), upstream.port, "10.0.0.7")
    assert isinstance(inside, Recorder)
    inside.transport.close()
    await serving
    assert upstream.names == ["orders.internal"]
    upstream.close()


@VERSIONS
async def test_our_own_certificate_is_shown_to_who_asks_for_it(tmp_path: Path, ca: str, version: str) -> None:
    ours = authority.issue("gateway.internal", client=True)
    for certificate in (ours.write(tmp_path / "one.pem"), " ".join(ours.write_pair(tmp_path, "two"))):
        upstream = Upstream(
            tmp_path, LEAF, lambda client: (client.recv(1), client.getpeercert(binary_form=True)), version, ca
        )
        serving = asyncio.ensure_future(in_thread(upstream.serve))
        inside = await dial(ClientTLS(ca=ca, certificate=certificate), upstream.port)
        assert isinstance(inside, Recorder)
        inside.transport.write(b"x")
        _, shown = await serving
        assert ours.certificate.tbs_certificate_bytes in shown
        inside.transport.close()
        upstream.close()


async def test_a_refused_client_certificate_ends_the_connection_as_what_it_is(tmp_path: Path, ca: str) -> None:
    upstream = Upstream(tmp_path, LEAF, echo, "1.2", ca)
    serving = asyncio.ensure_future(in_thread(upstream.serve))
    failure = await dial(ClientTLS(ca=ca), upstream.port)
    assert isinstance(failure, TLSFailure)
    assert failure.reason == "handshake_failed"
    assert "alert handshake failure" in failure.detail
    await serving
    upstream.close()


@VERSIONS
async def test_sessions_are_resumed(tmp_path: Path, ca: str, version: str) -> None:
    def talk(client: ssl.SSLSocket) -> bool | None:
        echo(client)
        client.recv(10)
        return client.session_reused

    upstream = Upstream(tmp_path, LEAF, talk, version)
    tls = ClientTLS(ca=ca)
    reused = []
    for _ in range(3):
        serving = asyncio.ensure_future(in_thread(upstream.serve))
        inside = await dial(tls, upstream.port)
        assert isinstance(inside, Recorder)
        inside.transport.write(b"x")
        await inside.has(1)
        inside.transport.close()
        await inside.lost
        reused.append(await serving)
    assert reused == [False, True, True]
    upstream.close()


async def test_a_resumed_session_of_one_name_is_not_taken_for_another(tmp_path: Path, ca: str) -> None:
    upstream = Upstream(tmp_path, LEAF, lambda client: (echo(client), client.recv(10)))
    tls = ClientTLS(ca=ca)
    serving = asyncio.ensure_future(in_thread(upstream.serve))
    inside = await dial(tls, upstream.port)
    assert isinstance(inside, Recorder)
    inside.transport.write(b"x")
    await inside.has(1)
    inside.transport.close()
    await inside.lost
    await serving
    upstream.talk = lambda client: client.recv(10)
    assert (await failure_of(tls, upstream, "products.internal"))[0] == "name_mismatch"


async def test_a_handshake_that_does_not_end_times_out(ca: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        failure = await dial(ClientTLS(ca=ca, timeout=0.1), silent.getsockname()[1])
    assert isinstance(failure, TLSFailure)
    assert (failure.reason, failure.detail) == ("timeout", "no handshake within 0.1 s")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["plain HTTP", "closes"])
async def test_an_upstream_that_speaks_no_tls_is_told_apart(ca: str, answer: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as plain:
            plain.recv(65536)
            plain.sendall(answer)

    serving = asyncio.ensure_future(in_thread(serve))
    failure = await dial(ClientTLS(ca=ca), listener.getsockname()[1])
    await serving
    assert isinstance(failure, TLSFailure)
    assert failure.reason == "handshake_failed"
    assert ("wrong version number" if answer else "closed the connection") in failure.detail


@VERSIONS
async def test_megabytes_pass_both_ways_unharmed(tmp_path: Path, ca: str, version: str) -> None:
    body = os.urandom(5_000_000)

    def both_ways(client: ssl.SSLSocket) -> bytes:
        received = read_exactly(client, len(body))
        client.sendall(received)
        client.unwrap()
        return received

    upstream = Upstream(tmp_path, LEAF, both_ways, version)
    serving = asyncio.ensure_future(in_thread(upstream.serve))
    inside = await dial(ClientTLS(ca=ca), upstream.port)
    assert isinstance(inside, Recorder)
    inside.transport.write(body)
    await inside.has(len(body))
    assert inside.received == body
    assert await inside.lost is None
    assert inside.calls[-2:] == ["eof", "lost"]
    assert await serving == body
    upstream.close()


async def test_an_answer_that_is_cut_is_told_from_one_that_ended(tmp_path: Path, ca: str) -> None:
    def cut(client: ssl.SSLSocket) -> None:
        client.sendall(b"half of an ans")
        socket.socket(fileno=client.detach()).close()

    upstream = Upstream(tmp_path, LEAF, cut)
    serving = asyncio.ensure_future(in_thread(upstream.serve))
    inside = await dial(ClientTLS(ca=ca), upstream.port)
    assert isinstance(inside, Recorder)
    assert isinstance(await inside.lost, TLSTruncated)
    assert inside.received == b"half of an ans"
    await serving
    upstream.close()


async def test_an_upstream_that_does_not_read_holds_its_writer_back(tmp_path: Path, ca: str) -> None:
    go_on = threading.Event()
    size = 20_000_000

    def late(client: ssl.SSLSocket) -> int:
        go_on.wait(10)
        return len(read_exactly(client, size))

    upstream = Upstream(tmp_path, LEAF, late)
    serving = asyncio.ensure_future(in_thread(upstream.serve))
    inside = await dial(ClientTLS(ca=ca), upstream.port)
    assert isinstance(inside, Recorder)
    inside.transport.write(bytes(size))
    assert inside.calls == ["made", "pause"]
    go_on.set()
    assert await serving == size
    await inside.lost
    assert "resume" in inside.calls
    upstream.close()


async def test_whom_to_trust_can_be_left_open_only_by_name_and_with_a_warning(tmp_path: Path) -> None:
    with capturedLogs() as events:
        tls = ClientTLS(verify=False)
    assert ["tls.verify = no" in str(event["log_format"]) for event in events] == [True]
    upstream = Upstream(tmp_path, Authority("Other").issue("elsewhere.internal"), lambda client: client.recv(10))
    serving = asyncio.ensure_future(in_thread(upstream.serve))
    inside = await dial(tls, upstream.port)
    assert isinstance(inside, Recorder)
    inside.transport.close()
    await serving
    upstream.close()


def test_files_that_can_not_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"nowhere.pem: No such file"):
        ClientTLS(ca=str(tmp_path / "nowhere.pem"))
    (tmp_path / "empty.pem").write_bytes(b"")
    with pytest.raises(CertificateError, match=r"empty.pem: no certificate in it"):
        ClientTLS(ca=str(tmp_path / "empty.pem"))
    with pytest.raises(CertificateError, match=r"gone.pem: No such file"):
        ClientTLS(certificate=str(tmp_path / "gone.pem"))
