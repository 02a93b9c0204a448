"""check_http: a health check through the program's own client, and the circuit that it heals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests.http._clients import Edge
from tests.http._raw_server import Connection, RawServer
from tests.services._health import at_once
from trioresil import CheckFailedError, CircuitState, open_health_monitor

Check = Callable[[], Awaitable[None]]


def client_of(edge: Edge, answer: Callable[[Any], Any], **options: Any) -> Any:
    async def handle(request: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return answer(request)

    return edge.lib.AsyncClient(transport=edge.lib.MockTransport(handle), **options)


async def test_a_get_is_made_of_the_url_and_200_is_well(edge: Edge) -> None:
    asked = []

    def answer(request: Any) -> Any:
        asked.append((request.method, str(request.url)))
        return edge.lib.Response(200)

    async with client_of(edge, answer, base_url="https://api.example/v1/") as client:
        await edge.face.check_http(client, "health?deep=1")()
        await edge.face.check_http(client, edge.lib.URL("https://other.example/"))()
    assert asked == [("GET", "https://api.example/v1/health?deep=1"), ("GET", "https://other.example/")]


@pytest.mark.parametrize(
    ("expected", "status", "wanted"),
    [
        (200, 204, "200"),
        (204, 200, "204"),
        (range(200, 300), 300, r"in range\(200, 300\)"),
        ({401, 403}, 200, r"in \{.*\}"),
        (200, 503, "200"),
    ],
)
async def test_another_status_is_a_failure(edge: Edge, expected: Any, status: int, wanted: str) -> None:
    async with client_of(edge, lambda request: edge.lib.Response(status)) as client:
        check = edge.face.check_http(
            client, "https://user:secret@api.example/health?key=secret", expect_status=expected
        )
        with pytest.raises(CheckFailedError, match=f"the status is {status}, not {wanted}") as caught:
            await check()
    assert str(caught.value).startswith("check_http(https://api.example/health): ")


@pytest.mark.parametrize(("expected", "status"), [(204, 204), (range(200, 300), 299), ({401, 403}, 403), ([503], 503)])
async def test_an_expected_status_is_well(edge: Edge, expected: Any, status: int) -> None:
    async with client_of(edge, lambda request: edge.lib.Response(status)) as client:
        await edge.face.check_http(client, "https://api.example/", expect_status=expected)()


async def test_a_predicate_judges_the_body(edge: Edge) -> None:
    body = b'{"ok": true}'
    async with client_of(edge, lambda request: edge.lib.Response(200, content=body)) as client:
        seen = []
        await edge.face.check_http(client, "https://api.example/", body=lambda body: seen.append(body) or True)()
        assert seen == [body]
        with pytest.raises(CheckFailedError, match="the body is not as it should be"):
            await edge.face.check_http(client, "https://api.example/", body=lambda body: b"false" in body)()
        with pytest.raises(ZeroDivisionError):
            await edge.face.check_http(client, "https://api.example/", body=lambda body: 1 // 0)()


async def test_no_answer_is_the_clients_error(edge: Edge) -> None:
    def answer(request: Any) -> Any:
        raise edge.lib.ConnectError("refused")

    async with client_of(edge, answer) as client:
        with pytest.raises(edge.lib.ConnectError):
            await edge.face.check_http(client, "https://api.example/")()


async def test_wrong_arguments_are_refused(edge: Edge) -> None:
    check_http = edge.face.check_http
    with pytest.raises(TypeError, match="client must be"):
        check_http(object(), "https://api.example/")
    async with client_of(edge, lambda request: edge.lib.Response(200)) as client:
        for wrong in (True, "200", 200.0, None):
            with pytest.raises(TypeError, match="expect_status"):
                check_http(client, "https://api.example/", expect_status=wrong)
        with pytest.raises(ValueError, match="expect_status"):
            check_http(client, "https://api.example/", expect_status=20)
        with pytest.raises(TypeError, match="body"):
            check_http(client, "https://api.example/", body=b"ok")


class Server:
    """Answers as its status says, and counts."""

    def __init__(self) -> None:
        self.status = 200
        self.requests = 0
        self.extra = ""

    async def __call__(self, connection: Connection) -> None:
        while await connection.request() is not None:
            self.requests += 1
            await connection.send(f"HTTP/1.1 {self.status} X\r\n{self.extra}Content-Length: 2\r\n\r\nok".encode())


async def test_a_check_makes_one_attempt_over_a_kept_connection(edge: Edge, nursery: trio.Nursery) -> None:
    site = Server()
    server = await RawServer(site).start(nursery)
    async with edge.face.open_client(base_url=server.url) as client:
        check = edge.face.check_http(client, "/health")
        await check()
        site.status = 503
        with pytest.raises(CheckFailedError, match="503"):
            await check()
        site.status = 200
        await check()
        assert site.requests == 3  # none of them was tried again
    nursery.cancel_scope.cancel()


async def test_a_check_through_the_guarded_client_heals_its_isolated_circuit(edge: Edge, nursery: trio.Nursery) -> None:
    site = Server()
    server = await RawServer(site).start(nursery)
    breakers = trioresil.Keyed(
        lambda origin: trioresil.CircuitBreaker(name=origin, trip=trioresil.ConsecutiveFailures(99))
    )
    breaker = breakers[server.url]
    with trio.fail_after(10):
        async with (
            edge.face.open_client(base_url=server.url, breaker=breakers, retry=None) as client,
            open_health_monitor(interval=0.02, timeout=1) as health,
            health.subscribe() as changes,
        ):
            health.watch("api", edge.face.check_http(client, "/health"), breaker=breaker)
            await changes.receive()
            site.status = 500
            assert (await changes.receive()).status.state is trioresil.HealthState.UNHEALTHY
            assert breaker.state is CircuitState.ISOLATED
            with pytest.raises(edge.face.CircuitIsolatedError):
                await client.get("/")
            site.status = 200
            assert (await changes.receive()).status.healthy
            assert breaker.state is CircuitState.CLOSED
            assert (await client.get("/")).status_code == 200
    nursery.cancel_scope.cancel()


async def test_a_check_in_an_open_circuit_gives_no_verdict(edge: Edge, autojump_clock: MockClock) -> None:
    class Answering(edge.lib.AsyncBaseTransport):  # type: ignore[name-defined, misc]
        status = 500

        async def handle_async_request(self, request: Any) -> Any:
            await trio.lowlevel.checkpoint()
            return edge.lib.Response(self.status, request=request)

    transport = Answering()
    breakers = trioresil.Keyed(
        lambda origin: trioresil.CircuitBreaker(name=origin, trip=trioresil.ConsecutiveFailures(2), open_for=100)
    )
    breaker = breakers["https://api.example"]
    resilient = edge.face.ResilientTransport(transport, breaker=breakers, retry=None)
    async with (
        edge.lib.AsyncClient(transport=resilient) as client,
        open_health_monitor(interval=8, rng=at_once()) as health,
    ):
        health.watch("api", edge.face.check_http(client, "https://api.example/"), breaker=breaker, fall=5)
        await trio.sleep(3)
        assert breaker.state is CircuitState.OPEN  # closed, both counted
        transport.status = 200
        await health.wait_healthy("api")
        assert (breaker.state, breaker.statistics().remaining) == (CircuitState.OPEN, 96)
