"""A reload: what changes, what stays, and that nobody notices; a bad one changes nothing."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource

from apigw.exchange.request import Request
from apigw.exchange.response import Response
from apigw.policies.policy import Policy, PolicySettings
from tests.certificates import Authority
from tests.gateway.running import Gateway, request, route, running, upstream
from tests.gateway.test_routes import Counting
from tests.live.processes import free_port, takes_connections
from tests.origins import Origin, RawClient, reply

GET = request("/")
ADMIN = "\n[admin]\nendpoint = tcp:0:interface=127.0.0.1\n"


@pytest_twisted.async_yield_fixture()
async def origin() -> AsyncIterator[Origin]:
    origin = await Origin([reply(200, b"hello")]).start()
    yield origin
    await origin.stop()


def listen(port: int, *options: str, name: str = "public") -> str:
    return "\n".join(["", f"[listen {name}]", f"endpoint = tcp:{port}:interface=127.0.0.1", *options, ""])


async def metric(gateway: Gateway, start: str) -> list[str]:
    text = (await gateway.admin("/metrics")).body.decode()
    return [line for line in text.splitlines() if line.startswith(start)]


async def test_routes_come_and_go_and_counters_stay(tmp_path: Path, origin: Origin) -> None:
    base = upstream(origin.port) + ADMIN
    async with running(tmp_path, base + route("/a") + route("/b", name="b")) as gateway:
        client = await gateway.connect()
        for path in ("/a", "/b"):
            client.send(request(path))
            assert (await client.read_response()).status == 200
        await gateway.reload(base + route("/a") + route("/c", name="c"))
        for path, status in (("/a", 200), ("/b", 404), ("/c", 200)):
            client.send(request(path))
            assert (await client.read_response()).status == status
        lines = await metric(gateway, "apigw_requests_total")
        assert 'apigw_requests_total{route="a",method="GET",status="200"} 2' in "\n".join(lines).replace(".0", "")
        assert not any('route="b"' in line for line in lines)
        assert len(origin.connections) == 1  # the pool stayed


async def test_requests_in_flight_end_where_they_began(tmp_path: Path, origin: Origin) -> None:
    late: Deferred[None] = Deferred()
    origin.script = [
        [late, reply(200, b"late")],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"half", late, b"other"],
    ]
    other = await Origin([reply(200, b"other")]).start()
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        clients = [await gateway.connect() for _ in range(2)]
        for number, client in enumerate(clients):
            client.send(GET)
            await origin.request(number)
        await clients[1].read_head()
        await gateway.reload(upstream(other.port) + route("/"))
        assert (await gateway.get("/")).body == b"other"
        late.callback(None)
        assert (await clients[0].read_response()).body == b"late"
        assert await clients[1].read_exactly(9) == b"halfother"
        clients[0].send(GET)
        assert (await clients[0].read_response()).body == b"other"
        for connection in origin.connections:
            await connection.until_closed()  # the old pool keeps nothing
        assert {line["status"] for line in gateway.logged()} == {200}
    await other.stop()


async def test_an_upload_in_flight_goes_on_while_its_route_disappears(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/")) as gateway:
        client = await gateway.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        await origin.request()
        await gateway.reload("[health]\n")
        client.send(b"67890")
        assert (await client.read_response()).body == b"hello"
        assert origin.requests[0].body == b"1234567890"


async def test_listeners_come_and_go_and_move_to_other_names(tmp_path: Path, origin: Origin) -> None:
    one, two = free_port(), free_port()
    base = upstream(origin.port) + route("/")
    async with running(tmp_path, base + listen(one)) as gateway:
        client = await gateway.connect()
        client.send(GET)
        assert (await client.read_response()).status == 200
        await gateway.reload(base + listen(one) + listen(two, name="second"))
        assert (await gateway.get("/", port=two)).status == 200
        client.send(GET)
        assert (await client.read_response()).values(b"connection") == []
        await gateway.reload(base + listen(one, name="renamed") + listen(two, name="second"))
        client.send(GET)  # its listener is gone: one more answer, and then a new connection
        assert (await client.read_response()).value(b"connection") == b"close"
        assert (await gateway.get("/", port=one)).status == 200
        await gateway.reload(base + listen(one, name="second") + listen(two, name="renamed"))
        assert (await gateway.get("/", port=one)).status == 200
        assert (await gateway.get("/", port=two)).status == 200
        await gateway.reload(base + listen(one))
        assert not takes_connections(two)
        assert (await gateway.get("/", port=one)).status == 200


async def test_what_a_removed_listener_still_serves_is_waited_for_at_the_end(tmp_path: Path, origin: Origin) -> None:
    late: Deferred[None] = Deferred()
    origin.script = [[late, reply(200, b"late")]]
    one, two = free_port(), free_port()
    base = upstream(origin.port) + route("/")
    async with running(tmp_path, base + listen(one) + listen(two, name="second")) as gateway:
        client = await gateway.connect("second")
        client.send(GET)
        await origin.request()
        await gateway.reload(base + listen(one))
        ended = gateway.service.stopService()
        await asyncio.sleep(0.05)
        assert not ended.called
        late.callback(None)
        assert (await client.read_response()).body == b"late"
        await client.until_closed()
        await ended


async def test_a_port_turns_into_tls_and_back(tmp_path: Path, origin: Origin) -> None:
    authority = Authority()
    authority.issue("shop.example").write(tmp_path / "shop.pem")
    authority.write(tmp_path / "ca.pem")
    trust = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    port = free_port()
    base = upstream(origin.port) + route("/")
    async with running(tmp_path, base + listen(port)) as gateway:
        plain = await gateway.connect()
        plain.send(GET)
        assert (await plain.read_response()).status == 200
        await gateway.reload(base + listen(port, "tls.certificates = shop.pem"))
        secure = await gateway.connect(tls=trust)
        secure.send(GET)
        assert (await secure.read_response()).status == 200
        plain.send(GET)
        assert (await plain.read_response()).status == 200
        await plain.until_closed()
        await gateway.reload(base + listen(port))
        assert (await gateway.get("/")).status == 200


async def test_the_admin_listener_comes_goes_and_changes_its_token(tmp_path: Path, origin: Origin) -> None:
    port = free_port()
    base = upstream(origin.port) + route("/")
    admin = f"\n[admin]\nendpoint = tcp:{port}:interface=127.0.0.1\n"
    async with running(tmp_path, base) as gateway:
        await gateway.reload(base + admin)
        assert (await gateway.admin("/routes")).status == 200
        await gateway.reload(base + admin + "token = first\n")
        assert gateway.service.last_error is None
        wrong = ("Authorization", "Bearer wrong")
        assert (await gateway.get("/routes", wrong, host="localhost", port=port)).status == 401
        first = ("Authorization", "Bearer first")
        assert (await gateway.get("/routes", first, host="localhost", port=port)).status == 200
        await gateway.reload(base + listen(port))  # what was the admin's port is a listener's
        assert gateway.service.last_error is None
        assert (await gateway.get("/routes", port=port)).body == b"hello"
        await gateway.reload(base + admin)
        assert (await gateway.admin("/health/ready")).status == 200
        await gateway.reload(base)
        assert not takes_connections(port)


async def test_the_admin_listener_on_a_unix_socket_leaves_no_file(tmp_path: Path, origin: Origin) -> None:
    base = upstream(origin.port) + route("/")
    admin = f"\n[admin]\nendpoint = unix:{tmp_path}/admin.sock:mode=600\n"

    async with running(tmp_path, base + admin) as gateway:

        async def asked() -> int:
            client = await RawClient.connect(path=f"{tmp_path}/admin.sock")
            client.send(request("/routes", host="localhost"))
            status = (await client.read_response()).status
            client.close()
            return status

        assert await asked() == 200
        await gateway.reload(base + admin + "token = new\n")
        assert gateway.service.last_error is None
        assert await asked() == 200
        assert (tmp_path / "admin.sock").stat().st_mode & 0o777 == 0o600
        await gateway.reload(base)
        assert not (tmp_path / "admin.sock").exists()
        await gateway.reload(base + admin)
        assert await asked() == 200
    assert not (tmp_path / "admin.sock").exists()


async def test_permissions_of_unix_sockets_change_and_connections_stay(tmp_path: Path, origin: Origin) -> None:
    def configuration(mode: str, *options: str) -> str:
        return upstream(origin.port) + route("/") + "\n".join(
            ["", "[listen public]", f"endpoint = unix:{tmp_path}/http.sock:mode={mode}", *options,
             "[admin]", f"endpoint = unix:{tmp_path}/admin.sock:mode={mode}", ""]
        )  # fmt: skip

    def modes() -> list[str]:
        return [f"{(tmp_path / name).stat().st_mode & 0o777:o}" for name in ("http.sock", "admin.sock")]

    async with running(tmp_path, configuration("600")) as gateway:
        client = await RawClient.connect(path=f"{tmp_path}/http.sock")
        listening = gateway.service.listening["public"]
        await gateway.reload(configuration("666"))
        assert (gateway.service.last_error, modes()) == (None, ["666", "666"])
        assert gateway.service.listening["public"] is listening
        client.send(GET)
        assert (await client.read_response()).status == 200
        client.close()
        # With an option that asks for another listener, the file stays where it is.
        await gateway.reload(configuration("640", "proxy_protocol = yes"))
        assert (gateway.service.last_error, modes()) == (None, ["640", "640"])
        await gateway.reload(configuration("600", "[upstream b]", "targets = nonsense"))
        assert modes() == ["640", "640"]


@pytest.mark.parametrize("admin", [False, True])
@pytest.mark.parametrize(("before", "after"), [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "::")])
async def test_the_same_port_on_other_interfaces(
    tmp_path: Path, origin: Origin, before: str, after: str, admin: bool
) -> None:
    port = free_port()
    base = upstream(origin.port) + route("/") + listen(free_port(), name="other")

    def endpoint(interface: str) -> str:
        return f"[{'admin' if admin else 'listen public'}]\nendpoint = tcp:{port}:interface={interface}\n"

    async with running(tmp_path, base + endpoint(before)) as gateway:
        await gateway.reload(base + endpoint(after))
        assert gateway.service.last_error is None
        answer = await gateway.get("/routes", port=port, host="localhost")
        assert answer.status == 200
        with pytest.raises(OSError, match="in use"), socket.create_server(("127.0.0.1", port)):
            pass
        await gateway.reload(base)
        assert not takes_connections(port)


async def test_a_bad_file_changes_nothing_and_is_shown_everywhere(tmp_path: Path, origin: Origin) -> None:
    good = upstream(origin.port) + route("/") + ADMIN
    async with running(tmp_path, good) as gateway:
        before = (await gateway.admin("/config/status")).body
        assert b'"last_error": null' in before
        generation = gateway.service.generation
        await gateway.reload(good + "[route b]\npath = nonsense\nupstream = nobody\n")
        assert gateway.service.generation is generation
        status = (await gateway.admin("/config/status")).body
        assert b"[route b] path" in status
        assert b"[route b] upstream" in status
        assert await metric(gateway, "apigw_config_last_reload_success") == ["apigw_config_last_reload_success 0.0"]
        assert (await gateway.get("/")).status == 200
        await gateway.reload(good)
        assert b'"last_error": null' in (await gateway.admin("/config/status")).body
        assert await metric(gateway, "apigw_config_last_reload_success") == ["apigw_config_last_reload_success 1.0"]


class Failing(Resource):
    """A resource's class that can't make one."""

    def __init__(self) -> None:
        raise RuntimeError("no database")


async def test_a_file_that_lost_its_listeners_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, route("/", "respond = 200")) as gateway:
        gateway.file.write_text(route("/", "respond = 204"))  # as when an editor is not done yet
        await gateway.reload()
        assert gateway.service.last_error is not None
        assert "no listener" in gateway.service.last_error[1][0]
        assert (await gateway.get("/")).status == 200


async def test_a_reload_that_fails_half_way_leaves_no_trace(tmp_path: Path, origin: Origin) -> None:
    other = await Origin([reply(200, b"other")]).start()
    port = free_port()
    good = upstream(origin.port, more="health.path = /\nhealth.interval = 50ms\n") + route("/") + listen(port)
    async with running(tmp_path, good) as gateway:
        service = gateway.service
        with socket.create_server(("127.0.0.1", 0)) as taken:
            bad = upstream(other.port, more="health.path = /\nhealth.interval = 50ms\n") + route("/")
            second = listen(free_port(), name="second")
            await gateway.reload(
                bad
                + listen(port, name="renamed")
                + second
                + listen(taken.getsockname()[1], name="taken")
                + route("/b", name="b")
            )
        assert service.last_error is not None
        assert "address already in use" in service.last_error[1][0]
        assert [*service.listening] == ["public"]
        assert (await gateway.get("/", port=port)).body == b"hello"
        asked = len(other.requests)
        await asyncio.sleep(0.15)
        assert len(other.requests) == asked  # nobody goes on to check the new target's health
        assert 'route="b"' not in str(service.shared.metrics.snapshot())
        assert service.shared.outside.upstreams == service.generation.upstreams.clients
        await gateway.reload(good + f"[resource r]\npath = /r\nclass = {__name__}:Failing\n")
        assert service.last_error is not None
        assert "RuntimeError: no database" in service.last_error[1][0]
        assert (await gateway.get("/", port=port)).body == b"hello"
        await gateway.reload(bad + listen(port))
        assert service.last_error is None
        assert (await gateway.get("/", port=port)).body == b"other"
    await other.stop()


async def test_the_access_log_moves(tmp_path: Path, origin: Origin) -> None:
    base = upstream(origin.port) + route("/")
    async with running(tmp_path, base) as gateway:
        assert (await gateway.get("/")).status == 200
        moved = tmp_path / "moved.log"
        await gateway.reload(base + f"[gateway]\naccess_log = {moved}\naccess_log_format = combined\n")
        assert (await gateway.get("/")).status == 200
        assert len(gateway.log.read_text().splitlines()) == 1
        await gateway.reload(base + "[gateway]\naccess_log = off\n")
        assert (await gateway.get("/")).status == 200
        (line,) = moved.read_text().splitlines()
        assert '"GET / HTTP/1.1" 200' in line
        gone = tmp_path / "gone"
        gone.mkdir(mode=0o000)
        await gateway.reload(base + f"[gateway]\naccess_log = {gone}/x/access.log\n")
        assert gateway.service.last_error is not None
        assert "access_log" in gateway.service.last_error[1][0]
        assert (await gateway.get("/")).status == 200


async def test_reloads_asked_for_during_a_reload_come_after_it(tmp_path: Path, origin: Origin) -> None:
    async with running(tmp_path, upstream(origin.port) + route("/a")) as gateway:
        gateway.service.reload()
        gateway.write(upstream(origin.port) + route("/b"))
        gateway.service.reload()
        gateway.service.reload()
        await gateway.reload()
        assert (await gateway.get("/b")).status == 200
        assert (await gateway.get("/a")).status == 404


@pytest.mark.parametrize("count", [200])
async def test_many_reloads_leave_nothing_behind(tmp_path: Path, origin: Origin, count: int) -> None:
    import gc
    import os

    text = upstream(origin.port) + route("/") + f"[resource c]\npath = /c\nclass = {Counting.__module__}:Counting\n"
    async with running(tmp_path, text) as gateway:
        client = await gateway.connect()
        for number in range(count):
            await gateway.reload(text + f"[route r]\npath = /r\nrespond = 200 {number}\n")
            client.send(request("/r"))
            assert (await client.read_response()).body == b"%d" % number
            if number == 20:
                gc.collect()
                descriptors, objects = len(os.listdir("/proc/self/fd")), len(gc.get_objects())
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= descriptors
        assert len(gc.get_objects()) - objects < 50 * count


async def test_a_limit_keeps_what_it_counted_while_others_are_changed(tmp_path: Path, origin: Origin) -> None:
    base = upstream(origin.port) + route("/", "policies = rate_limit one") + "[rate_limit one]\nrate = 2/h\n"
    consumer = f"[consumer new]\nkeys = sha256:{'0' * 64}\n"
    async with running(tmp_path, base) as gateway:
        assert (await gateway.get("/")).status == 200
        await gateway.reload(base + consumer)
        assert (await gateway.get("/")).status == 200
        assert (await gateway.get("/")).status == 429


async def test_files_that_policies_read_are_read_again_when_they_changed(tmp_path: Path, origin: Origin) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    text = upstream(origin.port) + route("/", "policies = json_schema s") + f"[json_schema s]\nrequest = {schema}\n"
    content = ("Content-Type", "application/json")
    async with running(tmp_path, text) as gateway:
        assert (await gateway.get("/", content, method="POST", body=b"[]")).status == 400
        schema.write_text('{"type": "array"}')
        await gateway.reload(text)
        assert (await gateway.get("/", content, method="POST", body=b"[]")).status == 200


async def test_the_routes_are_shown_in_the_order_of_choice_with_the_policies_that_run(tmp_path: Path) -> None:
    text = (
        "[defaults]\npolicies = cors\n[cors]\norigins = *\n[ip_filter here]\nallow = 127.0.0.1\n"
        + route("/", "respond = 200", name="last")
        + route("/a", "respond = 503 closed", "policies = ip_filter here", "header.X-Key = hidden", name="third")
        + route("=/a/b", "redirect = 308 https://b.example/", "policies = -cors", name="second")
        + route("/", "respond = 200", "priority = 1", "query.x = 1", name="first")
    )
    async with running(tmp_path, text + ADMIN) as gateway:
        shown = json.loads((await gateway.admin("/routes")).body)["routes"]
    assert [one["name"] for one in shown] == ["first", "second", "third", "last"]
    assert [one.get("policies") for one in shown] == [["cors"], None, ["cors", "ip_filter here"], ["cors"]]
    assert (shown[0]["priority"], shown[0]["query"]) == (1, ["x"])
    assert shown[1]["redirect"] == "308 https://b.example/"
    assert (shown[2]["respond"], shown[2]["header"]) == ("503 closed", ["X-Key"])


async def test_a_reload_by_the_admin_listener_is_over_when_it_is_answered(tmp_path: Path) -> None:
    admin = ADMIN + "token = secret\n"
    token = ("Authorization", "Bearer secret")
    async with running(tmp_path, route("/", "respond = 200") + admin) as gateway:

        async def reload(text: str) -> dict[str, Any]:
            gateway.write(text)
            port = gateway.admin_port
            answer = await gateway.get("/config/reload", token, method="POST", host="localhost", port=port)
            status: dict[str, Any] = json.loads(answer.body)
            return status

        before = gateway.service.configuration.digest
        status = await reload("[route a]\npath = nonsense\n" + admin)
        assert status["running_hash"] == before != status["disk_hash"]
        assert status["last_error"]["problems"]
        status = await reload(route("/", "respond = 204") + admin)
        assert status["running_hash"] == status["disk_hash"] != before
        assert status["last_error"] is None
        assert (await gateway.get("/")).status == 204
        gateway.file.unlink()
        assert json.loads((await gateway.admin("/config/status")).body)["disk_hash"] is None


class Stubborn(Policy[PolicySettings]):
    """A policy of a user's own whose ``stop()`` fails."""

    Settings = PolicySettings

    async def respond(self, request: Request, next: Callable[[Request], Awaitable[Response]]) -> Response:  # noqa: A002
        return await next(request)

    async def stop(self) -> None:
        raise RuntimeError("not I")


async def test_a_policy_that_fails_to_stop_holds_up_neither_a_reload_nor_the_end(tmp_path: Path) -> None:
    policy = f"[python own]\nclass = {__name__}:Stubborn\n"
    with_it = policy + route("/", "respond = 200", "policies = python own")
    async with running(tmp_path, with_it) as gateway:
        await gateway.reload(route("/", "respond = 204"))
        assert gateway.service.last_error is None
        assert (await gateway.get("/")).status == 204
        await gateway.reload(with_it)
        assert (await gateway.get("/")).status == 200
        await gateway.service.stopService()
