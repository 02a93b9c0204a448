"""PoolTransport on the virtual clock, over connections in memory: limits, queues, idle connections, what is sent again."""

from __future__ import annotations

import functools
import gc
import math
import warnings
from random import Random
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from trio import Nursery
from trio.testing import MockClock

import trioresil
from tests.http._memory_server import OK, Peer, Server, answers
from trioresil import PoolClosedError
from trioresil._links import passage
from trioresil.httpx import PoolTransport
from trioresil.testing import Recorder

URL = "http://one.example/"
OTHER = "http://two.example/"


def limits(connections: int | None, idle: int | None = None, expiry: float | None = None) -> httpx.Limits:
    return httpx.Limits(max_connections=connections, max_keepalive_connections=idle, keepalive_expiry=expiry)


def client(transport: PoolTransport, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, **{"timeout": None, **options})


def at_rest(transport: PoolTransport) -> bool:
    ledger = transport._ledger
    assert ledger is not None
    seen = transport.statistics()
    return not any((ledger.inside, ledger.limiter.borrowed_tokens, ledger.dialling, seen.in_use, seen.waiting))


class Slow:
    """Answers after some seconds, and knows how many it answers at once."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.now = self.most = 0

    async def __call__(self, peer: Peer) -> None:
        while await peer.request():
            self.now += 1
            self.most = max(self.most, self.now)
            await trio.sleep(self.seconds)
            self.now -= 1
            await peer.send(OK)


# limits and queues


async def test_no_more_connections_than_allowed_are_open(autojump_clock: MockClock, nursery: Nursery) -> None:
    script = Slow()
    server = Server(nursery, script)
    transport = server.serve(PoolTransport(limits=limits(3), max_connections_per_origin=3))
    async with client(transport) as http:
        async with trio.open_nursery() as tasks:
            for number in range(9):
                tasks.start_soon(http.get, (URL, OTHER, URL)[number % 3])
            await trio.testing.wait_all_tasks_blocked()
            assert transport.statistics().waiting == 6
        assert script.most == 3
        assert server.open <= 3
        assert at_rest(transport)
        assert trio.current_time() == 3


async def test_waiters_are_served_in_the_order_of_arrival(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery, Slow())
    transport = server.serve(PoolTransport(limits=limits(1)))
    async with client(transport) as http, trio.open_nursery() as tasks:
        for number in range(5):
            tasks.start_soon(http.get, f"{URL}{number}")
            await trio.testing.wait_all_tasks_blocked()
    assert server.requests == [f"GET /{number}" for number in range(5)]


async def test_an_origin_that_hangs_leaves_a_tenth_to_the_others(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery, Slow(100))
    transport = server.serve(PoolTransport(limits=limits(10)))
    async with client(transport) as http, trio.open_nursery() as tasks:
        for _ in range(20):
            tasks.start_soon(http.get, URL)
        await trio.testing.wait_all_tasks_blocked()
        server.script = answers
        before = trio.current_time()
        await http.get(OTHER)
        assert trio.current_time() == before
        assert transport.statistics().origins["http://one.example"].in_use == 9
        tasks.cancel_scope.cancel()


async def test_the_longest_idle_connection_of_any_origin_makes_room(
    autojump_clock: MockClock, nursery: Nursery
) -> None:
    server = Server(nursery)
    transport = server.serve(PoolTransport(limits=limits(2), max_connections_per_origin=2))
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with client(transport) as http:
            for url in (URL, OTHER, "http://three.example/"):
                await http.get(url)
                await trio.sleep(1)
            assert set(transport.statistics().origins) == {
                "http://one.example",
                "http://two.example",
                "http://three.example",
            }
            assert [peer.wire.closed for peer in server.peers] == [True, False, False]
    closed = [event for event in recorder.events if isinstance(event, trioresil.ConnectionClosed)]
    assert (closed[0].origin, closed[0].reason, closed[0].age) == ("http://one.example", "evicted", 2.0)


async def test_the_pool_timeout_bounds_both_waits_together(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery, Slow(100))
    transport = server.serve(PoolTransport(limits=limits(2), max_connections_per_origin=1))
    async with client(transport, timeout=httpx.Timeout(None, pool=5)) as http, trio.open_nursery() as tasks:
        tasks.start_soon(http.get, URL)
        tasks.start_soon(http.get, OTHER)
        await trio.testing.wait_all_tasks_blocked()
        for url in (URL, "http://three.example/"):
            before = trio.current_time()
            with pytest.raises(httpx.PoolTimeout, match="within 5 s"):
                await http.get(url)
            assert trio.current_time() - before == 5
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("where", ["queue", "dial", "exchange"])
async def test_a_cancelled_request_tells_whether_it_was_sent(
    autojump_clock: MockClock, nursery: Nursery, where: str
) -> None:
    server = Server(nursery, Slow(100))
    transport = server.serve(PoolTransport(limits=limits(1)))
    started: list[bool | None] = []

    async def get() -> None:
        try:
            await http.get(URL)
        except BaseException as exc:
            started.append(passage(exc).started)
            raise

    async with client(transport) as http, trio.open_nursery() as tasks:
        if where == "queue":
            tasks.start_soon(http.get, URL)
            await trio.testing.wait_all_tasks_blocked()
        server.dial_seconds = 50 if where == "dial" else 0
        with trio.move_on_after(10):
            await get()
        tasks.cancel_scope.cancel()
    assert started == [where == "exchange"]


# idle connections


async def test_the_newest_idle_connection_is_used_first(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery, Slow())
    transport = server.serve(PoolTransport(limits=limits(5)))
    async with client(transport) as http:
        async with trio.open_nursery() as tasks:
            for _ in range(3):
                tasks.start_soon(http.get, URL)
        response = await http.get(URL)
        assert response.extensions["trioresil"].reused is True
        ledger = transport._ledger
        assert ledger is not None
        assert max(ledger.idle, key=lambda connection: connection.uses) is next(reversed(ledger.idle))


async def test_an_idle_connection_expires_by_trios_clock(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery)
    transport = server.serve(PoolTransport(limits=limits(5, expiry=10)))
    async with client(transport) as http:
        for pause, opened in ((0, 1), (9.9, 1), (10, 2)):
            await trio.sleep(pause)
            await http.get(URL)
            assert len(server.peers) == opened


async def test_a_connection_is_not_used_beyond_its_lifetime(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery)
    transport = server.serve(PoolTransport(limits=limits(5), max_lifetime=100, rng=Random(7)))
    lifetime = 100 * (1 - 0.1 * Random(7).random())
    async with client(transport) as http:
        await http.get(URL)
        await trio.sleep(lifetime - 0.1)
        await http.get(URL)
        assert len(server.peers) == 1
        await trio.sleep(0.1)
        await http.get(URL)
        assert len(server.peers) == 2


async def test_no_more_connections_are_idle_than_allowed(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery, Slow())
    transport = server.serve(PoolTransport(limits=limits(10, idle=2)))
    async with client(transport) as http:
        async with trio.open_nursery() as tasks:
            for _ in range(5):
                tasks.start_soon(http.get, URL)
        assert transport.statistics().idle == server.open == 2


async def test_few_idle_connections_are_enough_for_many_waiters(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery, Slow())
    transport = server.serve(PoolTransport(limits=limits(10, idle=1), max_connections_per_origin=10))
    async with client(transport) as http:
        async with trio.open_nursery() as tasks:
            for _ in range(100):
                tasks.start_soon(http.get, URL)
        assert len(server.peers) <= 20  # each is handed on; none is closed while somebody waits for it
        assert transport.statistics().idle == 1


async def test_a_connection_that_the_server_closed_is_not_used(autojump_clock: MockClock, nursery: Nursery) -> None:
    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await trio.sleep(1)
        peer.hang_up()

    server = Server(nursery, once)
    async with client(server.serve(PoolTransport())) as http:
        for _ in range(3):
            assert (await http.post(URL, content=b"x")).status_code == 200
            await trio.sleep(2)
    assert len(server.peers) == 3


# what is sent again


class Leaves:
    """Closes each connection while its second request is on the way: the client could not see it before."""

    def __init__(self, *, half: bytes = b"") -> None:
        self.half = half

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(self.half)
        peer.hang_up_unseen()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_an_idempotent_request_is_sent_again_on_a_new_connection(
    autojump_clock: MockClock, nursery: Nursery, method: str
) -> None:
    server = Server(nursery, Leaves())
    async with client(server.serve(PoolTransport(limits=limits(1)))) as http:
        await http.get(URL)
        response = await http.request(method, URL, content=b"body" if method == "PUT" else None)
        assert response.status_code == 200
        assert response.extensions["trioresil"].reused is False
    assert server.requests == ["GET /", f"{method} /", f"{method} /"]


async def test_a_post_is_not_sent_again(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery, Leaves())
    transport = server.serve(PoolTransport())
    async with client(transport) as http:
        await http.get(URL)
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            await http.post(URL, content=b"body")
        assert at_rest(transport)
    assert server.requests == ["GET /", "POST /"]


async def test_a_post_of_which_no_byte_was_sent_is_sent_on_a_new_connection(
    autojump_clock: MockClock, nursery: Nursery
) -> None:
    server = Server(nursery)
    async with client(server.serve(PoolTransport())) as http:
        await http.get(URL)
        server.peers[0].wire.breaks_writes = True
        server.peers[0].hang_up_unseen()
        assert (await http.post(URL, content=b"body")).status_code == 200
    assert server.requests == ["GET /", "POST /"]


async def test_nothing_is_sent_again_once_a_byte_of_the_response_was_seen(
    autojump_clock: MockClock, nursery: Nursery
) -> None:
    server = Server(nursery, Leaves(half=b"HTTP/1.1 200 OK\r\n"))
    async with client(server.serve(PoolTransport())) as http:
        await http.get(URL)
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(URL)
    assert server.requests == ["GET /", "GET /"]


async def test_a_new_connection_that_breaks_is_not_replaced(autojump_clock: MockClock, nursery: Nursery) -> None:
    async def leaves_at_once(peer: Peer) -> None:
        await peer.request()
        peer.hang_up_unseen()

    server = Server(nursery, leaves_at_once)
    async with client(server.serve(PoolTransport())) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(URL)
    assert len(server.peers) == 1


async def test_a_stream_that_was_read_is_not_sent_again(autojump_clock: MockClock, nursery: Nursery) -> None:
    async def body() -> Any:
        yield b"once"

    server = Server(nursery, Leaves())
    async with client(server.serve(PoolTransport())) as http:
        await http.get(URL)
        with pytest.raises(httpx.RemoteProtocolError):
            await http.put(URL, content=body(), headers={"Content-Length": "4"})
    assert server.requests == ["GET /", "PUT /"]


# responses


async def test_a_response_never_closed_gives_its_slot_back_when_collected(
    autojump_clock: MockClock, nursery: Nursery
) -> None:
    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
        await trio.sleep_forever()

    server = Server(nursery, endless)
    transport = server.serve(PoolTransport(limits=limits(2)))
    recorder = Recorder()
    with trioresil.instrument(recorder), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        async with client(transport) as http:
            for _ in range(
                10
            ):  # a response is part of a cycle; the pool looks for lost ones before anybody waits in vain
                await http.send(http.build_request("GET", URL), stream=True)
            gc.collect()
            await trio.testing.wait_all_tasks_blocked()
            assert transport.statistics().origins["http://one.example"].reclaimed == 10
            assert at_rest(transport)
    assert {event.reason for event in recorder.events if isinstance(event, trioresil.ConnectionClosed)} == {"reclaimed"}


async def test_an_unread_body_that_has_arrived_keeps_its_connection(
    autojump_clock: MockClock, nursery: Nursery
) -> None:
    server = Server(nursery)
    async with client(server.serve(PoolTransport())) as http:
        for _ in range(3):
            async with http.stream("GET", URL):
                pass
    assert len(server.peers) == 1


async def test_a_body_broken_off_gives_the_slot_back_at_once(autojump_clock: MockClock, nursery: Nursery) -> None:
    async def drips(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        while True:
            await peer.send(b"x")
            await trio.sleep(1)

    server = Server(nursery, drips)
    transport = server.serve(PoolTransport(limits=limits(1)))
    async with client(transport) as http:
        response = await transport.handle_async_request(http.build_request("GET", URL))
        assert transport.statistics().in_use == 1
        async for _ in response.stream:
            break
        with trio.CancelScope() as scope:
            scope.cancel()
            await response.aclose()
        assert at_rest(transport)
        assert server.open == 0


async def test_a_dripping_head_meets_the_head_timeout(autojump_clock: MockClock, nursery: Nursery) -> None:
    async def drips(peer: Peer) -> None:
        await peer.request()
        while True:
            await peer.send(b"H")
            await trio.sleep(1)

    server = Server(nursery, drips)
    server.dial_seconds = 20  # doesn't count
    transport = server.serve(PoolTransport(head_timeout=10))
    async with client(transport, timeout=httpx.Timeout(None, read=5)) as http:
        with pytest.raises(httpx.ReadTimeout, match="head_timeout=10"):
            await http.get(URL)
        assert trio.current_time() == 30
        assert at_rest(transport)


# opening, closing, runs


async def test_a_dial_that_fails_is_told_and_counted(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery)
    server.refuses = True
    transport = server.serve(PoolTransport(limits=limits(1)))
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with client(transport, timeout=httpx.Timeout(None, connect=5)) as http:
            with pytest.raises(httpx.ConnectError, match="refused"):
                await http.get(URL)
            server.dial_seconds = 10
            with pytest.raises(httpx.ConnectTimeout, match="within 5 s"):
                await http.get(URL)
            assert at_rest(transport)
            assert transport.statistics().origins["http://one.example"].failed == 2
    failed = [event.error for event in recorder.events if isinstance(event, trioresil.ConnectFailed)]
    assert [type(error) for error in failed] == [httpx.ConnectError, httpx.ConnectTimeout]


async def test_closing_ends_every_request_and_every_wait_at_once(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery, Slow(100))
    transport = server.serve(PoolTransport(limits=limits(1)))
    errors: list[PoolClosedError] = []

    async def get(url: str) -> None:
        try:
            await http.get(url)
        except PoolClosedError as exc:
            errors.append(exc)

    http = client(transport)
    async with trio.open_nursery() as tasks:
        tasks.start_soon(get, URL)
        await trio.testing.wait_all_tasks_blocked()
        tasks.start_soon(get, URL)
        await trio.testing.wait_all_tasks_blocked()
        ledger = transport._ledger
        assert ledger is not None
        await http.aclose()
    assert trio.current_time() == 0
    assert sorted(type(error).__name__ for error in errors) == ["PoolClosedError", "PoolClosedError"]
    assert sorted(error.started for error in errors) == [False, True]
    assert (ledger.inside, ledger.limiter.borrowed_tokens, server.open) == (0, 0, 0)
    with pytest.raises(PoolClosedError):
        await transport.handle_async_request(httpx.Request("GET", URL))
    assert "closed" in repr(transport)


async def test_draining_lets_open_responses_end_and_nobody_in(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery)
    transport = server.serve(PoolTransport())
    async with client(transport) as http:
        async with http.stream("GET", URL) as response:
            transport.close_admission()
            with pytest.raises(PoolClosedError):
                await http.get(URL)
            with trio.move_on_after(1) as scope:
                await transport.wait_drained()
            assert scope.cancelled_caught
            await response.aread()
        await transport.wait_drained()


def test_a_second_run_gets_connections_of_its_own() -> None:
    transport = PoolTransport(limits=limits(1))
    wires: list[Any] = []

    async def run(*, close: bool) -> None:
        async with trio.open_nursery() as nursery:
            server = Server(nursery)
            http = client(server.serve(transport))
            await http.get(URL)
            if not close:
                await http.send(http.build_request("GET", URL), stream=True)
            wires.extend(peer.wire for peer in server.peers)
            nursery.cancel_scope.cancel()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for close in (True, False, True):
            trio.run(functools.partial(run, close=close), clock=MockClock())
            gc.collect()
    assert [wire.closed for wire in wires] == [True, True, False]


# the maintenance task


async def test_the_maintenance_task_closes_idle_connections_in_time(
    autojump_clock: MockClock, nursery: Nursery
) -> None:
    server = Server(nursery)
    transport = server.serve(PoolTransport(limits=limits(5, expiry=10)))
    async with client(transport) as http:
        await nursery.start(transport.serve)
        await http.get(URL)
        await trio.sleep(9.9)
        assert server.open == 1
        await trio.sleep(0.2)
        assert server.open == 0
        with pytest.raises(RuntimeError, match="running already"):
            await transport.serve()


async def test_the_maintenance_task_keeps_connections_warm(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery, Slow())
    transport = server.serve(PoolTransport(limits=limits(5), min_idle=2))
    async with client(transport) as http:
        with pytest.raises(RuntimeError, match=r"nursery\.start\(transport\.serve\)"):
            await http.get(URL)
        await nursery.start(transport.serve)
        await http.get(URL)
        await trio.testing.wait_all_tasks_blocked()
        assert transport.statistics().idle >= 2
        server.peers[-1].hang_up()
        async with trio.open_nursery() as tasks:
            for _ in range(5):
                tasks.start_soon(http.get, URL)
            await trio.testing.wait_all_tasks_blocked()
            assert server.open <= 5
        assert at_rest(transport)


async def test_an_origin_that_cannot_be_reached_is_tried_with_backoff(
    autojump_clock: MockClock, nursery: Nursery
) -> None:
    server = Server(nursery)
    transport = server.serve(PoolTransport(min_idle=1, limits=limits(5, expiry=1)))
    async with client(transport) as http:
        await nursery.start(transport.serve)
        await http.get(URL)
        await trio.testing.wait_all_tasks_blocked()
        server.refuses = True
        for peer in server.peers:
            peer.hang_up()
        await trio.sleep(600)
        assert 5 < transport.statistics().origins["http://one.example"].failed < 100
        server.refuses = False
        await trio.sleep(70)
        assert transport.statistics().idle == 1


# arguments


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"retries": 1}, TypeError, "Retry"),
        ({"http1": False}, ValueError, "http1 and http2"),
        ({"max_connections_per_origin": 0}, ValueError, "max_connections_per_origin"),
        ({"max_lifetime": 0}, ValueError, "max_lifetime"),
        ({"min_idle": -1}, ValueError, "min_idle"),
        ({"head_timeout": "soon"}, TypeError, "head_timeout"),
        ({"name": ""}, ValueError, "name"),
        ({"proxy": "http://p.example", "uds": "/tmp/x"}, ValueError, "uds and proxy"),
        ({"proxy": "ftp://p.example"}, ValueError, "roxy"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        PoolTransport(**options)


@pytest.mark.parametrize(("connections", "share"), [(None, math.inf), (1, 1), (2, 1), (10, 9), (100, 90)])
def test_one_origin_may_use_nine_tenths(connections: int | None, share: float) -> None:
    assert PoolTransport(limits=limits(connections))._max_per_origin == share


async def test_other_schemes_are_refused_in_the_librarys_words(autojump_clock: MockClock, nursery: Nursery) -> None:
    async with client(PoolTransport()) as http:
        with pytest.raises(httpx.UnsupportedProtocol, match="unsupported protocol 'ftp://'"):
            await http.get("ftp://example.com/")


async def test_another_server_name_is_another_origin(autojump_clock: MockClock, nursery: Nursery) -> None:
    server = Server(nursery)
    transport = server.serve(PoolTransport())
    async with client(transport) as http:
        await http.get(URL)
        await http.get(URL, extensions={"sni_hostname": "other"})
    assert len(server.peers) == 2
