from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from apigw.net.certificates import CertificateStore
from apigw.net.proxy_protocol import ProxyRules
from apigw.net.tls_transport import MOST_RECORDS, Framing, TLSBroken, TLSTruncated
from tests.certificates import Authority
from tests.net.test_client_hello import real_hello
from tests.net.tls_ends import Listening, Recorder, ask, connected, in_thread, read_exactly, trusting

authority = Authority()
LEAVES = {name: authority.issue(name) for name in ("first.example", "*.shop.example", "pay.shop.example")}
VERSIONS = pytest.mark.parametrize("version", ["1.2", "1.3"])


@pytest.fixture
def ca(tmp_path: Path) -> str:
    return authority.write(tmp_path / "authority.pem")


@pytest.fixture
def store(tmp_path: Path) -> CertificateStore:
    return CertificateStore([leaf.write(tmp_path / f"{n}.pem") for n, leaf in enumerate(LEAVES.values())])


@pytest.fixture
def listening(store: CertificateStore) -> Iterator[Listening]:
    """Not yet started: that is the test's first line."""
    listening = Listening(store)
    yield listening
    listening.abort()


@VERSIONS
@pytest.mark.parametrize("name", ["pay.shop.example", "www.shop.example", "first.example"])
async def test_the_certificate_of_the_name_asked_for_is_served(
    listening: Listening, ca: str, version: str, name: str
) -> None:
    await listening.start()
    assert await in_thread(ask, listening.port, trusting(ca, version), name) == b"hello"
    transport = listening.accepted[0].transport
    assert transport.get_extra_info("server_name") == name
    assert transport.get_extra_info("ssl_object").version() == f"TLSv{version}"
    assert transport.get_extra_info("peername")[0] == "127.0.0.1"
    assert transport.get_extra_info("sockname")[1] == listening.port
    assert await listening.accepted[0].lost is None
    assert listening.accepted[0].calls == ["made", "eof", "lost"]


async def test_a_client_that_names_nobody_gets_the_first(listening: Listening) -> None:
    await listening.start()

    def common_name() -> bytes | None:
        with connected(listening.port, trusting(None)) as client:
            return client.getpeercert(binary_form=True)

    der = await in_thread(common_name)
    assert der is not None
    assert b"first.example" in der


async def test_an_older_version_than_the_minimum_is_refused(tmp_path: Path, ca: str) -> None:
    path = LEAVES["first.example"].write(tmp_path / "0.pem")
    listening = await Listening(CertificateStore([path], minimum="1.3")).start()
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        await in_thread(ask, listening.port, trusting(ca, "1.2"), "first.example")
    assert await in_thread(ask, listening.port, trusting(ca, "1.3"), "first.example") == b"hello"
    assert [failure.reason for failure in listening.failures] == ["handshake_failed"]
    await listening.stop()


async def test_http_1_1_is_agreed_and_a_client_that_speaks_nothing_of_ours_is_told(
    listening: Listening, ca: str
) -> None:
    await listening.start()
    context = trusting(ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    await in_thread(ask, listening.port, context, "first.example")
    assert listening.accepted[0].transport.get_extra_info("alpn") == "http/1.1"
    await in_thread(ask, listening.port, trusting(ca), "first.example")
    assert listening.accepted[1].transport.get_extra_info("alpn") is None
    context.set_alpn_protocols(["h3", "gopher"])
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        await in_thread(ask, listening.port, context, "first.example")
    assert (listening.failures[0].reason, listening.failures[0].detail) == (
        "no_application_protocol",
        "the client offers only h3, gopher",
    )


@VERSIONS
async def test_sessions_are_resumed_before_and_after_a_reload_of_other_certificates(
    listening: Listening, ca: str, tmp_path: Path, version: str
) -> None:
    await listening.start()
    context = trusting(ca, version)

    def session_of() -> ssl.SSLSession:
        with connected(listening.port, context, "first.example") as client:
            client.sendall(b"x")
            client.recv(1)
            assert not client.session_reused
            assert client.session is not None
            return client.session

    def resumed(session: ssl.SSLSession) -> bool | None:
        with connected(listening.port, context, "first.example", session) as client:
            client.sendall(b"x")
            client.recv(1)
            return client.session_reused

    assert await in_thread(resumed, await in_thread(session_of))
    session = await in_thread(session_of)
    authority.issue("pay.shop.example").write(tmp_path / "2.pem")
    assert listening.store.reload_if_changed()
    assert await in_thread(resumed, session)


async def test_a_first_message_that_comes_byte_by_byte_is_served(listening: Listening, ca: str) -> None:
    await listening.start()

    def slowly() -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting(ca).wrap_bio(incoming, outgoing, server_hostname="pay.shop.example")
        with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    for byte in outgoing.read():
                        plain.send(bytes((byte,)))
                    incoming.write(plain.recv(65536))
            tls.write(b"hello")
            for byte in outgoing.read():
                plain.send(bytes((byte,)))
            while True:
                try:
                    return tls.read(100)
                except ssl.SSLWantReadError:
                    incoming.write(plain.recv(65536))

    assert await in_thread(slowly) == b"hello"
    assert listening.accepted[0].transport.get_extra_info("server_name") == "pay.shop.example"


@pytest.mark.parametrize("sent", [b"", b"\x16", real_hello("first.example")], ids=["nothing", "a byte", "a hello"])
async def test_a_handshake_that_does_not_end_is_ended(store: CertificateStore, sent: bytes) -> None:
    listening = await Listening(store, handshake_timeout=0.2).start()

    def hang() -> None:
        with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as plain:
            plain.sendall(sent)
            while plain.recv(65536):
                pass

    await in_thread(hang)
    assert [failure.reason for failure in listening.failures] == ["handshake_timeout"]
    assert listening.failures[0].detail == "no handshake within 0.2 s"
    await listening.stop()


@pytest.mark.parametrize("body", [b"", b"x" * 3_000_000], ids=["no body", "a long body"])
async def test_plain_http_gets_a_400_that_says_so(listening: Listening, body: bytes) -> None:
    await listening.start()
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)

    def plain_http() -> bytes:
        with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as plain:
            plain.sendall(request + body)
            return read_exactly(plain, 1_000_000)

    head, _, content = (await in_thread(plain_http)).partition(b"\r\n\r\n")
    start, kind, date, *framing = head.split(b"\r\n")
    assert (start, kind) == (b"HTTP/1.1 400 Bad Request", b"Content-Type: application/problem+json")
    assert date.startswith(b"Date: ")
    assert date.endswith(b" GMT")
    assert framing == [b"Content-Length: %d" % len(content), b"Connection: close"]
    problem = json.loads(content)
    assert (problem["status"], problem["reason"]) == (400, "plain_http_on_tls_port")
    assert "https://" in problem["detail"]
    assert [failure.reason for failure in listening.failures] == ["plain_http_on_tls_port"]
    assert listening.failures[0].peer[0] == "127.0.0.1"  # type: ignore[index]


@pytest.mark.parametrize(
    ("sent", "reason", "answer"),
    [
        (b"\0\0\0\0", "not_tls", b""),
        (b"\x16\x03\x01\0\x04\x02\0\0\0", "client_hello_invalid", b"\x15\x03\x03\0\x02\x02\x32"),
        (real_hello()[:50], "closed_early", b""),
    ],
)
async def test_what_is_no_first_message_is_reported(
    listening: Listening, sent: bytes, reason: str, answer: bytes
) -> None:
    await listening.start()

    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            return read_exactly(plain, 100)

    assert await in_thread(talk) == answer
    await listening.news(lambda: listening.failures)
    assert [failure.reason for failure in listening.failures] == [reason]


async def test_a_look_in_without_a_byte_is_no_failure(listening: Listening, ca: str) -> None:
    await listening.start()
    await in_thread(lambda: socket.create_connection(("127.0.0.1", listening.port)).close())
    await in_thread(ask, listening.port, trusting(ca), "first.example")
    assert listening.failures == []


async def test_a_client_that_does_not_trust_us_is_reported_with_its_own_words(listening: Listening) -> None:
    await listening.start()
    untrusting = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        await in_thread(ask, listening.port, untrusting, "first.example")
    await listening.news(lambda: listening.failures)
    assert [(one.reason, one.detail) for one in listening.failures] == [("handshake_failed", "tlsv1 alert unknown ca")]


@VERSIONS
async def test_a_cut_connection_is_told_from_one_that_ended(listening: Listening, ca: str, version: str) -> None:
    await listening.start()

    def cut() -> None:
        client = connected(listening.port, trusting(ca, version), "first.example")
        client.sendall(b"half of a mess")
        read_exactly(client, 14)
        socket.socket(fileno=client.detach()).close()  # FIN, without TLS's end mark

    await in_thread(cut)
    lost = await listening.accepted[0].lost
    assert isinstance(lost, TLSTruncated)
    assert listening.accepted[0].calls == ["made", "lost"]


async def test_a_reset_arrives_as_what_it_is(listening: Listening, ca: str) -> None:
    await listening.start()

    def reset() -> None:
        client = connected(listening.port, trusting(ca), "first.example")
        client.sendall(b"x")
        client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket(fileno=client.detach()).close()

    await in_thread(reset)
    assert isinstance(await listening.accepted[0].lost, ConnectionError)


async def test_damaged_records_end_the_connection_with_an_alert(listening: Listening, ca: str) -> None:
    await listening.start()

    def damage() -> bytes:
        client = connected(listening.port, trusting(ca), "first.example")
        client.sendall(b"x")
        client.recv(1)
        with socket.socket(fileno=client.detach()) as plain:
            plain.settimeout(10)
            plain.sendall(b"\x17\x03\x03\0\x20" + bytes(32))
            return read_exactly(plain, 10_000)

    assert (await in_thread(damage))[:1] == b"\x17"  # an alert, encrypted like everything in TLS 1.3
    lost = await listening.accepted[0].lost
    assert str(lost) == "decryption failed or bad record mac"


@VERSIONS
async def test_close_sends_the_end_mark_after_all_that_was_written(listening: Listening, ca: str, version: str) -> None:
    await listening.start()
    size = 5_000_000

    def fetch() -> tuple[bytes, bytes]:
        with connected(listening.port, trusting(ca, version), "first.example") as client:
            client.sendall(b"?")
            answer = read_exactly(client, size + 1)
            return answer, client.recv(1)

    fetched = asyncio.ensure_future(in_thread(fetch))
    await listening.news(lambda: listening.accepted)
    server = listening.accepted[0]
    await server.has(1)
    body = os.urandom(size)
    server.transport.write(body)
    server.transport.close()
    assert server.transport.is_closing()
    server.transport.write(b"after the end")
    assert await fetched == (b"?" + body, b"")
    assert await server.lost is None


class Silent(Recorder):
    echo = False
    keep_after_eof = True


@VERSIONS
async def test_writing_ends_and_reading_goes_on(store: CertificateStore, ca: str, version: str) -> None:
    """What a lingering close needs: the client sees our end, and what it still sends is taken."""
    listening = await Listening(store, Silent).start()

    def talk() -> bytes:
        with connected(listening.port, trusting(ca, version), "first.example") as client:
            client.sendall(b"first")
            answer = read_exactly(client, 100)
            if version == "1.3":  # OpenSSL's TLS 1.2 refuses to send after the other side's end
                client.sendall(b"second")
            client.unwrap()
            return answer

    talking = asyncio.ensure_future(in_thread(talk))
    await listening.news(lambda: listening.accepted)
    server = listening.accepted[0]
    await server.has(5)
    assert server.transport.can_write_eof()
    server.transport.write(b"answer")
    server.transport.write_eof()
    assert await talking == b"answer"
    if version == "1.3":
        await server.has(11)
        assert server.received == b"firstsecond"
    server.transport.close()
    assert await server.lost is None
    await listening.stop()


async def test_a_client_that_ends_its_side_still_gets_its_answer(store: CertificateStore, ca: str) -> None:
    listening = await Listening(store, Silent).start()
    ended = threading.Event()

    def half_close() -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting(ca, "1.3").wrap_bio(incoming, outgoing, server_hostname="first.example")
        with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as plain:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65536))
            tls.write(b"?")
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()  # sends the mark
            plain.sendall(outgoing.read())
            plain.shutdown(socket.SHUT_WR)
            ended.set()
            received = b""
            while piece := plain.recv(65536):
                received += piece
            incoming.write(received)
            return tls.read(100)

    talking = asyncio.ensure_future(in_thread(half_close))
    await listening.news(lambda: listening.accepted)
    server = listening.accepted[0]
    await server.has(1)
    await in_thread(ended.wait)
    server.transport.write(b"the answer")
    server.transport.close()
    assert await talking == b"the answer"
    assert server.calls == ["made", "eof", "lost"]
    assert await server.lost is None
    await listening.stop()


async def test_a_client_that_does_not_read_holds_its_writer_back(listening: Listening, ca: str) -> None:
    await listening.start()
    go_on = threading.Event()
    size = 20_000_000

    def fetch() -> int:
        with connected(listening.port, trusting(ca), "first.example") as client:
            client.sendall(b"?")
            go_on.wait(10)
            return len(read_exactly(client, size + 1))

    fetched = asyncio.ensure_future(in_thread(fetch))
    await listening.news(lambda: listening.accepted)
    server = listening.accepted[0]
    await server.has(1)
    server.transport.write(bytes(size))
    assert server.calls == ["made", "pause"]
    waiting = server.transport.get_write_buffer_size()
    assert waiting > 10_000_000  # as plain text: no second copy was made
    assert server.transport.get_extra_info("ssl_object") is not None
    outer = server.transport._outer  # type: ignore[attr-defined]
    assert outer.get_write_buffer_size() < 500_000
    server.transport.write(b"")
    go_on.set()
    assert await fetched == size + 1
    assert server.calls[:3] == ["made", "pause", "resume"]


async def test_what_is_written_keeps_its_order_however_it_is_written(store: CertificateStore, ca: str) -> None:
    listening = await Listening(store, Silent).start()
    pieces = [os.urandom(size) for size in (10, 200_000, 5, 1_000_000, 70_000, 1, 65_536, 65_537)]

    def fetch() -> bytes:
        with connected(listening.port, trusting(ca), "first.example") as client:
            client.sendall(b"?")
            return read_exactly(client, 10_000_000)

    fetched = asyncio.ensure_future(in_thread(fetch))
    await listening.news(lambda: listening.accepted)
    server = listening.accepted[0]
    await server.has(1)
    server.transport.writelines(pieces[:2])
    changing = bytearray(pieces[2])
    for piece in pieces[3:]:
        server.transport.write(piece)
    server.transport.write(changing)
    changing[:] = b"xxxxx"
    server.transport.close()
    assert await fetched == b"".join(pieces[:2] + pieces[3:] + pieces[2:3])
    await listening.stop()


class Unready(Silent):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()


async def test_an_inside_that_does_not_read_yet_gets_nothing_yet(store: CertificateStore, ca: str) -> None:
    """Also not what came in one piece with the end of the handshake, nor the end mark before it."""
    listening = await Listening(store, Unready).start()

    def send() -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting(ca, "1.3").wrap_bio(incoming, outgoing, server_hostname="first.example")
        with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as plain:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65536))
            tls.write(b"hello")
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()
            plain.sendall(outgoing.read())  # our Finished, "hello" and the end mark at once
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(65536):
                pass

    sending = asyncio.ensure_future(in_thread(send))
    await listening.news(lambda: listening.accepted)
    server = listening.accepted[0]
    await server.made
    assert not server.transport.is_reading()
    ticks = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.05, ticks.set_result, None)
    await ticks
    assert server.received == b""
    assert server.calls == ["made"]
    server.transport.resume_reading()
    assert server.received == b""  # not from within the call
    await server.has(5)
    assert server.calls == ["made", "eof"]
    server.transport.close()
    await sending
    await listening.stop()


async def test_an_upload_is_held_back_while_the_inside_does_not_read(store: CertificateStore, ca: str) -> None:
    listening = await Listening(store, Silent).start()
    size = 30_000_000

    def upload() -> None:
        with connected(listening.port, trusting(ca), "first.example") as client:
            client.sendall(bytes(size))
            client.unwrap()

    sending = asyncio.ensure_future(in_thread(upload))
    await listening.news(lambda: listening.accepted)
    server = listening.accepted[0]
    await server.has(1)
    server.transport.pause_reading()
    seen = len(server.received)
    ticks = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.1, ticks.set_result, None)
    await ticks
    assert len(server.received) == seen < size
    server.transport.resume_reading()
    await server.has(size)
    server.transport.close()
    await sending
    await listening.stop()


async def test_handshakes_that_are_not_over_are_counted_and_can_be_cut(listening: Listening, ca: str) -> None:
    await listening.start()
    await in_thread(ask, listening.port, trusting(ca), "first.example")
    assert len(listening.tls.waiting) == 0
    reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
    writer.write(b"\x16")
    await in_thread(ask, listening.port, trusting(ca), "first.example")
    assert len(listening.tls.waiting) == 1
    listening.tls.abort()
    assert await reader.read() == b""
    writer.close()
    assert len(listening.tls.waiting) == 0
    assert listening.failures == []


async def test_tls_begins_after_a_proxy_protocol_header(listening: Listening, ca: str) -> None:
    listening.outermost = ProxyRules(lambda peer: True).wrap
    await listening.start()

    def through_a_balancer() -> bytes:
        with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as plain:
            plain.sendall(b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n")
            with trusting(ca).wrap_socket(plain, server_hostname="first.example") as client:
                client.sendall(b"hello")
                return read_exactly(client, 5)

    assert await in_thread(through_a_balancer) == b"hello"
    assert listening.accepted[0].transport.get_extra_info("peername")[:2] == ("203.0.113.9", 4711)


async def test_renegotiation_is_refused(listening: Listening, ca: str) -> None:
    """The flag stands on every context; testssl.sh tries it on the wire."""
    await listening.start()
    await in_thread(ask, listening.port, trusting(ca, "1.2"), "first.example")
    context = listening.accepted[0].transport.get_extra_info("ssl_object").context
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert all("GCM" in one["name"] or "CHACHA20" in one["name"] for one in context.get_ciphers())


def more_than(things: list[Recorder], count: int) -> bool:
    return len(things) > count


@VERSIONS
async def test_certificates_are_replaced_under_handshakes_without_one_failure(
    listening: Listening, ca: str, tmp_path: Path, version: str
) -> None:
    await listening.start()
    stop = threading.Event()
    done = [0]

    def clients() -> list[str]:
        faults = []
        while not stop.is_set():
            try:
                if ask(listening.port, trusting(ca, version), "first.example") != b"hello":
                    faults.append("another answer")
            except OSError as error:
                faults.append(repr(error))
            done[0] += 1
        return faults

    running = [asyncio.ensure_future(in_thread(clients)) for _ in range(3)]
    replaced = 0
    while replaced < 20 or done[0] < 100:
        await listening.news(functools.partial(more_than, listening.accepted, len(listening.accepted) + 2))
        authority.issue("first.example").write(tmp_path / "0.pem")
        assert listening.store.reload_if_changed()
        replaced += 1
    stop.set()
    assert [await one for one in running] == [[], [], []]
    assert listening.failures == []


def record(content: bytes) -> bytes:
    return b"\x17\x03\x03" + len(content).to_bytes(2, "big") + content


@pytest.mark.parametrize("split", [1, 2, 3, 7, 64, 10_000])
def test_records_are_counted_at_any_split(split: int) -> None:
    records = [record(b"x" * (number % 40)) for number in range(100)]
    data = b"".join(records)
    framing = Framing()
    pieces = [data[at : at + split] for at in range(0, len(data), split)]
    given = b""
    while pieces:
        piece = pieces.pop(0)
        cut = framing.cut(piece)
        given += piece[:cut]
        if cut < len(piece):
            assert sum(len(given) == len(b"".join(records[:count])) for count in range(101)) == 1
            pieces.insert(0, piece[cut:])
    assert given == data


def test_no_more_than_a_few_records_are_taken_at_once() -> None:
    framing = Framing()
    data = record(b"x") * 100
    assert framing.cut(data[:3]) == 3
    assert framing.cut(data[3:]) == len(record(b"x")) * MOST_RECORDS - 3
    assert framing.cut(record(b"x" * 100)) == len(record(b"x" * 100))


async def test_many_small_records_are_all_received(listening: Listening, ca: str) -> None:
    await listening.start()

    def talk() -> bytes:
        with connected(listening.port, trusting(ca), "first.example") as client:
            for _ in range(500):
                client.sendall(b"x")
            return read_exactly(client, 500)

    assert await in_thread(talk) == b"x" * 500


async def test_a_damaged_record_after_our_end_cuts_the_connection(store: CertificateStore, ca: str) -> None:
    listening = await Listening(store, Silent).start()

    def talk() -> bytes:
        with connected(listening.port, trusting(ca, "1.3"), "first.example") as client:
            client.sendall(b"first")
            answer = read_exactly(client, 100)
            os.write(client.fileno(), record(b"x" * 40))
            return answer

    talking = asyncio.ensure_future(in_thread(talk))
    await listening.news(lambda: listening.accepted)
    server = listening.accepted[0]
    await server.has(5)
    server.transport.write(b"answer")
    server.transport.write_eof()
    assert await talking == b"answer"
    assert isinstance(await server.lost, TLSBroken)
    await listening.stop()
