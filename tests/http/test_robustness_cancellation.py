"""Requests that are cancelled, at random and at every step: no slot, connection or descriptor is ever lost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias

import attrs
import pytest
import trio
import trio.testing

import trioresil
from tests.http._clients import Edge, assert_at_rest, descriptors
from tests.http._h2_server import H2Server
from tests.http._proxy_servers import ForwardProxy, SocksProxy
from tests.http._raw_server import Connection, RawServer, close_after
from tests.http._servers import Authority

# A request body that is a plain ByteStream is a generator of the client library's, left behind when its upload is cancelled.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

CONNECTIONS = 6
Act: TypeAlias = Callable[[Any, str], Awaitable[None]]


async def page(connection: Connection) -> None:
    """Answers in pieces, with pauses, so that there are many places to be cancelled in."""
    while (request := await connection.request()) is not None:
        await trio.lowlevel.checkpoint()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n")
        await trio.lowlevel.checkpoint()
        await connection.send(b"X-Path: " + request.target.encode() + b"\r\n\r\nhello")
        await trio.lowlevel.checkpoint()
        await connection.send(b"world")


@attrs.define
class Storm:
    """Many tasks, each of which makes requests that are cancelled at random moments."""

    client: Any
    url: str
    rng: random.Random
    left: int = 0
    cancelled: int = 0
    served: int = 0
    longest: float = 0.0
    """The latest moment of a cancellation, in seconds after the start of its request."""

    async def task(self) -> None:
        while self.left > 0:
            self.left -= 1
            with trio.move_on_after(self.rng.uniform(0, self.longest)) as scope:
                await self.request(self.rng.randrange(5))
                self.served += 1
            self.cancelled += scope.cancelled_caught

    async def request(self, kind: int) -> None:
        if kind == 0:
            response = await self.client.post(self.url, content=b"x" * 20_000)
        elif kind == 1:
            async with self.client.stream("GET", self.url) as response:
                await trio.lowlevel.checkpoint()  # and is left with its body unread
        else:
            response = await self.client.get(self.url)
        assert response.status_code == 200

    async def run(self, tasks: int, requests: int) -> None:
        self.left = requests
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(self.task)

    async def calibrate(self, tasks: int) -> None:
        """Finds how long requests take when so many tasks make them, so that about half of them are cancelled."""
        self.longest = 60.0
        start = trio.current_time()
        await self.run(tasks, 5 * tasks)
        self.longest = 2 * (trio.current_time() - start) / 5
        self.served = 0


async def weather(storm: Storm, pool: Any, server: Any, *, tasks: int, requests: int) -> None:
    """Storms of 250 requests; after each, all is back and the pool still serves."""
    await storm.calibrate(tasks)
    before = descriptors()
    for _ in range(requests // 250):
        cancelled = storm.cancelled
        await storm.run(tasks, 250)
        storm.longest *= 0.7 if storm.cancelled - cancelled < 125 else 1.4  # the machine's pace changes
        assert_at_rest(pool)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for _ in range(2 * CONNECTIONS):
                    nursery.start_soon(storm.client.get, storm.url)
            assert_at_rest(pool)
            await server.wait(lambda server: server.open <= CONNECTIONS)
        assert descriptors() <= before + 4 * CONNECTIONS
    assert storm.cancelled > requests / 25
    assert storm.served > requests / 25


async def storm_over(
    edge: Edge, authority: Authority, kind: str, tasks: int, requests: int, nursery: trio.Nursery
) -> None:
    options: dict[str, Any] = {"limits": edge.lib.Limits(max_connections=CONNECTIONS)}
    server: Any
    if kind == "http2":
        server = await H2Server(tls=authority.server_context("h2")).start(nursery)
        options["http2"] = True
    else:
        tls = authority.server_context() if kind == "https" else None
        server = await RawServer(page, tls=tls).start(nursery)
    pool = edge.pool(verify=authority.client_context, **options)
    bulkhead = trioresil.Bulkhead(10)
    transport = edge.face.ResilientTransport(pool, bulkhead=lambda origin: bulkhead) if kind == "resilient" else pool
    async with edge.lib.AsyncClient(transport=transport, trust_env=False, timeout=10) as client:
        storm = Storm(client, server.url, random.Random(tasks))
        await weather(storm, pool, server, tasks=tasks, requests=requests)
        assert bulkhead.statistics().borrowed == 0
    await server.wait(lambda server: server.open == 0)


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [12, 40])
@pytest.mark.parametrize("kind", ["http", "https", "http2", "resilient"])
async def test_random_cancellations_lose_nothing(
    edge: Edge, authority: Authority, nursery: trio.Nursery, kind: str, tasks: int
) -> None:
    await storm_over(edge, authority, kind, tasks, 500, nursery)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("tasks", [12, 40])
@pytest.mark.parametrize("kind", ["http", "https", "http2", "resilient"])
async def test_ten_thousand_random_cancellations_lose_nothing(
    edge: Edge, authority: Authority, nursery: trio.Nursery, kind: str, tasks: int
) -> None:
    await storm_over(edge, authority, kind, tasks, 10_000, nursery)


# Every step


class CancelAt(trio.abc.Instrument):
    """Cancels a scope before or after the nth step that any task of the run takes from now on."""

    def __init__(self, scope: trio.CancelScope, when: str, step: int) -> None:
        self.scope = scope
        self.left = step
        self.when = when

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.when == "before":
            self._count()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.when == "after":
            self._count()

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel(reason="this is the step")


@attrs.frozen
class Bench:
    """Everything that a scenario of the sweep needs."""

    edge: Edge
    authority: Authority
    http: RawServer
    https: RawServer
    http2: H2Server
    forgetful: RawServer
    forward: ForwardProxy
    socks: SocksProxy

    def pool(self, **options: Any) -> Any:
        limits = self.edge.lib.Limits(max_connections=1)
        return self.edge.pool(verify=self.authority.client_context, limits=limits, **options)


@pytest.fixture
async def bench(edge: Edge, authority: Authority, nursery: trio.Nursery) -> Bench:
    return Bench(
        edge,
        authority,
        await RawServer(page).start(nursery),
        await RawServer(page, tls=authority.server_context()).start(nursery),
        await H2Server(tls=authority.server_context("h2")).start(nursery),
        await RawServer(close_after(2)).start(nursery),
        await ForwardProxy().start(nursery),
        await SocksProxy().start(nursery),
    )


async def _get(client: Any, url: str) -> None:
    assert (await client.get(url)).status_code == 200


async def _upload(client: Any, url: str) -> None:
    async def body() -> Any:
        yield b"x" * 10
        yield b"y" * 10

    assert (await client.post(url, content=body())).status_code == 200


async def _stream(client: Any, url: str) -> None:
    async with client.stream("GET", url) as response:
        async for _ in response.aiter_raw():
            pass


async def _crowd(client: Any, url: str, nursery: trio.Nursery) -> None:
    """Takes the only connection, sets two more tasks to wait for it, and lets go when nobody can go on."""
    response = await client.send(client.build_request("GET", url), stream=True)

    async def let_go() -> None:
        await trio.testing.wait_all_tasks_blocked()
        await response.aclose()

    for task in [let_go, partial(_get, client, url), partial(_get, client, url)]:
        nursery.start_soon(task)


async def _one_run(client: Any, pool: Any, act: Act, url: str, moment: tuple[str, int], crowded: bool) -> bool:
    """Cancels ``act`` at one moment and asserts that nothing is lost. True if it ended before its moment came."""
    async with trio.open_nursery() as others:
        if crowded:
            await _crowd(client, url, others)
        with trio.CancelScope() as scope:
            instrument = CancelAt(scope, *moment)
            trio.lowlevel.add_instrument(instrument)
            try:
                await act(client, url)
            finally:
                trio.lowlevel.remove_instrument(instrument)
    assert_at_rest(pool)
    with trio.fail_after(5):
        await _get(client, url)
    assert_at_rest(pool)
    return not scope.cancel_called


async def _sweep(lib: Any, make: Callable[[], Any], act: Act, url: str, *, warm: int, crowded: bool = False) -> int:
    """Runs ``act`` on a fresh pool for each moment, until it ends before its moment comes. Returns the steps."""
    step = 0
    for when in ["before", "after"]:
        for step in itertools.count(1):
            assert step < 2000, "the request has no end"
            pool = make()
            async with lib.AsyncClient(transport=pool, trust_env=False, timeout=5) as client:
                for _ in range(warm):
                    await _get(client, url)
                if await _one_run(client, pool, act, url, (when, step), crowded):
                    break
    return step


SCENARIOS: dict[str, tuple[Callable[[Bench], Any], Act, str, int]] = {
    "first request": (lambda bench: bench.pool(), _get, "http", 0),
    "reused connection": (lambda bench: bench.pool(), _get, "http", 1),
    "stale connection": (lambda bench: bench.pool(), _get, "forgetful", 2),
    "upload": (lambda bench: bench.pool(), _upload, "http", 0),
    "stream": (lambda bench: bench.pool(), _stream, "http", 1),
    "tls": (lambda bench: bench.pool(), _get, "https", 0),
    "tls reused": (lambda bench: bench.pool(), _get, "https", 1),
    "http2": (lambda bench: bench.pool(http2=True), _get, "http2", 0),
    "http2 reused": (lambda bench: bench.pool(http2=True), _get, "http2", 1),
    "http2 upload": (lambda bench: bench.pool(http2=True), _upload, "http2", 1),
    "forward proxy": (lambda bench: bench.pool(proxy=bench.forward.url), _get, "http", 0),
    "tunnel": (lambda bench: bench.pool(proxy=bench.forward.url), _get, "https", 0),
    "socks": (lambda bench: bench.pool(proxy=bench.socks.url), _get, "https", 0),
    "no idle connections": (lambda bench: bench.pool(max_lifetime=1e-9), _get, "http", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_cancellation_at_any_step_loses_nothing(bench: Bench, scenario: str) -> None:
    make, act, server, warm = SCENARIOS[scenario]
    before = descriptors()
    steps = await _sweep(bench.edge.lib, lambda: make(bench), act, getattr(bench, server).url, warm=warm)
    assert steps > 5
    for origin in [bench.http, bench.https, bench.http2, bench.forgetful, bench.forward, bench.socks]:
        with trio.fail_after(5):
            await origin.wait(lambda origin: origin.open == 0)
    await trio.testing.wait_all_tasks_blocked()
    assert descriptors() == before


@pytest.mark.slow
@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
async def test_a_cancellation_at_any_step_spares_the_others_in_the_queue(bench: Bench, http2: bool) -> None:
    server = bench.http2 if http2 else bench.http
    steps = await _sweep(bench.edge.lib, lambda: bench.pool(http2=http2), _get, server.url, warm=1, crowded=True)
    assert steps > 5


async def test_the_sweep_sees_a_slot_that_is_lost(edge: Edge, nursery: trio.Nursery) -> None:
    """A transport with the classic bug, a checkpoint between taking the slot and the `try` that gives it back."""

    class Leaky(edge.lib.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.inner = edge.lib.AsyncHTTPTransport()
            self.slots = trio.CapacityLimiter(1)

        async def handle_async_request(self, request: Any) -> Any:
            await self.slots.acquire_on_behalf_of(request)
            await trio.lowlevel.checkpoint()
            try:
                return await self.inner.handle_async_request(request)
            finally:
                self.slots.release_on_behalf_of(request)

        async def aclose(self) -> None:
            await self.inner.aclose()

        def statistics(self) -> Any:
            return SimpleNamespace(in_use=self.slots.borrowed_tokens, waiting=0, origins={})

    server = await RawServer(page).start(nursery)
    with pytest.raises(AssertionError):
        await _sweep(edge.lib, Leaky, _get, server.url, warm=0)
