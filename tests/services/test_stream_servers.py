"""open_stream against servers that are killed: each item exactly once and in order, or accounted for."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketRequest, serve_websocket, wrap_client_stream

from trioresil import StreamLink, TokenBucket, exponential, open_stream

BROKEN = (OSError, trio.BrokenResourceError)
LAST, FEW = 10_000, 30
Dial = Callable[[], Awaitable[trio.abc.Stream]]


async def send_lines(stream: trio.abc.Stream, rng: random.Random) -> None:
    """Told "after n", send the lines behind n, in chunks that end anywhere."""
    async with stream:
        request = await stream.receive_some(100)
        after = int(request.split()[1])
        data = b"".join(b"%d\n" % number for number in range(after + 1, LAST + 1))
        while data:
            size = rng.randint(1, 400)
            await stream.send_all(data[:size])
            data = data[size:]
            await trio.sleep(0.0005)
        await trio.sleep_forever()


class MemoryServer:
    """A server on memory streams that is killed at certain lines, or in the middle of them, and then is down for a time."""

    def __init__(self, nursery: trio.Nursery, rng: random.Random, kills: int) -> None:
        self.nursery = nursery
        self.rng = rng
        self.kill_at = sorted(rng.sample(range(1, LAST), kills), reverse=True)
        self.is_up = True

    async def dial(self) -> trio.abc.Stream:
        await trio.sleep(0.001)
        if not self.is_up:
            raise ConnectionRefusedError
        here, there = memory_stream_pair()
        self.nursery.start_soon(self.serve, there)
        return here

    async def serve(self, stream: trio.abc.Stream) -> None:
        async with stream:
            request = await stream.receive_some(100)
            number = int(request.split()[1])
            while number < LAST:
                first, number = number + 1, min(number + self.rng.randint(1, 40), LAST)
                is_killed = bool(self.kill_at) and number >= self.kill_at[-1]
                if is_killed:
                    number = max(first, self.kill_at.pop())
                data = b"".join(b"%d\n" % each for each in range(first, number + 1))
                await stream.send_all(data[: -self.rng.randint(0, 3)] if is_killed else data)
                if is_killed:
                    self.nursery.start_soon(self.stay_down)
                    return
                await trio.sleep(0.0005)
            await trio.sleep_forever()

    async def stay_down(self) -> None:
        self.is_up = False
        await trio.sleep(self.rng.random() / 100)
        self.is_up = True


class ManyServer:
    """A server that sends a line each second, and loses all its connections at once."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.dialled_at: list[float] = []
        self.scopes: set[trio.CancelScope] = set()
        self.is_up = True
        self.refused = 0

    async def dial(self) -> trio.abc.Stream:
        self.dialled_at.append(trio.current_time())
        if not self.is_up:
            self.refused += 1
            raise ConnectionRefusedError
        here, there = memory_stream_pair()
        self.nursery.start_soon(self.serve, there)
        await trio.sleep(0.001)
        return here

    async def serve(self, stream: trio.abc.Stream) -> None:
        with trio.CancelScope() as scope:
            self.scopes.add(scope)
            await send_few(stream)

    def cut_all(self) -> None:
        scopes, self.scopes = self.scopes, set()
        for scope in scopes:
            scope.cancel()


async def send_few(stream: trio.abc.Stream) -> None:
    """Told "after n", send a line behind n each second, up to FEW."""
    async with stream:
        request = await stream.receive_some(100)
        for number in range(int(request.split()[1]) + 1, FEW + 1):
            await stream.send_all(b"%d\n" % number)
            await trio.sleep(1)
        await trio.sleep_forever()


def follow(dial: Dial, last: int = LAST) -> Callable[[StreamLink[int]], Awaitable[None]]:
    async def session(link: StreamLink[int]) -> None:
        async with await dial() as connection:
            link.alive()
            await connection.send_all(b"after %d\n" % link.resume)
            received = b""
            async for chunk in connection:
                *lines, received = (received + bytes(chunk)).split(b"\n")
                for line in lines:
                    await link.send_item(int(line), resume=int(line))
                    if int(line) == last:
                        link.finish()
                        return

    return session


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("buffer", [0, 1, 100])
def test_each_item_once_and_in_order_while_the_server_is_killed_50_times(buffer: int, seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        received: list[int] = []
        async with trio.open_nursery() as nursery:
            server = MemoryServer(nursery, rng, kills=50)
            async with open_stream(
                follow(server.dial), on=BROKEN, backoff=exponential(0.001), buffer=buffer, resume=0, rng=rng
            ) as stream:
                async for item in stream:
                    received.append(item)
                    if rng.random() < 0.01:
                        await trio.sleep(rng.random() / 100)
                statistics = stream.statistics()
            nursery.cancel_scope.cancel()
        assert received == [*range(1, LAST + 1)]
        assert server.kill_at == []
        assert statistics.sessions > 50
        assert (statistics.received, statistics.delivered, statistics.dropped) == (LAST, LAST, 0)

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.slow
@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest"])
@pytest.mark.parametrize("seed", range(3))
def test_every_missing_item_is_a_dropped_one_while_the_server_is_killed_50_times(when_full: Any, seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        received: list[int] = []
        async with trio.open_nursery() as nursery:
            server = MemoryServer(nursery, rng, kills=50)
            async with open_stream(
                follow(server.dial),
                on=BROKEN,
                backoff=exponential(0.001),
                buffer=50,
                when_full=when_full,
                resume=0,
                rng=rng,
            ) as stream:
                async for item in stream:
                    received.append(item)
                    if rng.random() < 0.02:
                        await trio.sleep(rng.random() / 50)
                statistics = stream.statistics()
            nursery.cancel_scope.cancel()
        assert received == sorted(set(received))
        assert server.kill_at == []
        assert statistics.sessions > 50
        assert statistics.dropped > 0
        assert statistics.dropped == LAST - len(received)
        assert statistics.received == LAST
        if when_full == "drop_oldest":
            assert received[-1] == LAST

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.slow
def test_500_streams_to_a_server_that_restarts_share_their_dials_and_all_resume() -> None:
    """The bucket lets 50 dials a second through, after a first 20, whatever 500 back-offs want."""

    async def main() -> None:
        start = trio.current_time()
        dials = TokenBucket(rate=50, capacity=20)
        received: list[list[int]] = [[] for _ in range(500)]
        sessions: list[int] = [0] * 500

        async def run_one(number: int) -> None:
            async with open_stream(
                follow(server.dial, last=FEW),
                on=BROKEN,
                limit=dials,
                heartbeat_timeout=5,
                resume=0,
                rng=random.Random(number),
            ) as stream:
                async for item in stream:
                    received[number].append(item)
                sessions[number] = stream.statistics().sessions

        async with trio.open_nursery() as nursery:
            server = ManyServer(nursery)
            async with trio.open_nursery() as streams:
                for number in range(500):
                    streams.start_soon(run_one, number)
                await trio.sleep(15)
                assert len(server.dialled_at) == 500
                server.cut_all()
            nursery.cancel_scope.cancel()
        assert received == [[*range(1, FEW + 1)]] * 500
        assert sessions == [2] * 500
        assert len(server.dialled_at) == 1000
        for dialled_at in (server.dialled_at[:500], server.dialled_at[500:]):
            for number, at in enumerate(dialled_at[20:]):  # never more than the first 20 and 50 for each second
                assert at - dialled_at[number] >= 20 / 50 - 1e-9 or number < 20
            assert dialled_at[-1] - dialled_at[0] == pytest.approx((500 - 20) / 50, abs=0.05)
        assert server.dialled_at[500] - start >= 15

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.slow
def test_500_streams_to_a_server_that_stays_down_for_a_time_dial_no_faster_and_all_resume() -> None:
    """Refused dials take tokens like any others."""

    async def main() -> None:
        dials = TokenBucket(rate=50, capacity=20)
        received: list[list[int]] = [[] for _ in range(500)]

        async def run_one(number: int) -> None:
            options: Any = {"on": BROKEN, "limit": dials, "resume": 0, "rng": random.Random(number)}
            async with open_stream(follow(server.dial, last=FEW), **options) as stream:
                async for item in stream:
                    received[number].append(item)

        async with trio.open_nursery() as nursery:
            server = ManyServer(nursery)
            async with trio.open_nursery() as streams:
                for number in range(500):
                    streams.start_soon(run_one, number)
                await trio.sleep(15)
                server.is_up = False
                server.cut_all()
                await trio.sleep(10)
                assert server.refused > 400
                server.is_up = True
            nursery.cancel_scope.cancel()
        assert received == [[*range(1, FEW + 1)]] * 500
        at = server.dialled_at
        assert len(at) == 1000 + server.refused
        assert all(at[later] - at[later - 120] >= (120 - 20) / 50 - 1e-6 for later in range(120, len(at)))

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.slow
async def test_each_item_once_and_in_order_over_real_sockets() -> None:
    rng = random.Random(2)
    received: list[int] = []
    [probe] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = probe.socket.getsockname()[1]
    await probe.aclose()

    async def serve_and_be_killed() -> None:
        while True:
            listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
            with trio.move_on_after(rng.uniform(0.01, 0.04)):
                await trio.serve_listeners(lambda stream: send_lines(stream, rng), listeners)
            for listener in listeners:
                await listener.aclose()
            await trio.sleep(rng.random() / 100)

    async def dial() -> trio.abc.Stream:
        return await trio.open_tcp_stream("127.0.0.1", port)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_and_be_killed)
            async with open_stream(
                follow(dial), on=BROKEN, backoff=exponential(0.005, max=0.02), heartbeat_timeout=5, resume=0
            ) as stream:
                received += [item async for item in stream]
                assert stream.statistics().sessions > 1
            nursery.cancel_scope.cancel()
    assert received == [*range(1, LAST + 1)]


# --- a real WebSocket ------------------------------------------------------------------------------------------------


class WebSocketServer:
    """A server of trio-websocket: told a name, it sends numbers; wrong tokens get a 401, and one time a 503."""

    def __init__(self) -> None:
        self.statuses: list[int] = []

    async def handle(self, request: WebSocketRequest) -> None:
        if (b"token", b"right") not in request.headers:
            await self.reject(request, 401)
        elif not self.statuses:
            await self.reject(request, 503)
        else:
            self.statuses.append(101)
            with contextlib.suppress(ConnectionClosed):
                ws = await request.accept()
                after = int(await ws.get_message())
                for number in range(after + 1, after + 4):  # then it hangs up
                    await ws.send_message(str(number))
                await ws.aclose()

    async def reject(self, request: WebSocketRequest, status: int) -> None:
        self.statuses.append(status)
        await request.reject(status)


def is_passing(error: Exception) -> bool:
    if isinstance(error, ConnectionRejected):
        return bool(error.status_code >= 500)
    return isinstance(error, (OSError, ConnectionClosed))


def listen(port: int, token: bytes) -> Callable[[StreamLink[int]], Awaitable[None]]:
    async def session(link: StreamLink[int]) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as tcp, trio.open_nursery() as nursery:
            ws = await wrap_client_stream(nursery, tcp, "127.0.0.1", "/", extra_headers=[(b"token", token)])
            await ws.send_message(str(link.resume))
            while True:
                number = int(await ws.get_message())
                await link.send_item(number, resume=number)

    return session


@pytest.mark.parametrize(("token", "statuses"), [(b"wrong", [401]), (b"right", [503, 101, 101, 101, 101])])
async def test_a_web_socket_goes_on_after_503_and_hanging_up_and_ends_after_one_401(
    token: bytes, statuses: list[int]
) -> None:
    server = WebSocketServer()
    received: list[int] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            listening = await nursery.start(serve_websocket, server.handle, "127.0.0.1", 0, None)
            manager = open_stream(listen(listening.port, token), on=is_passing, backoff=exponential(0.01), resume=0)
            async with manager as stream:
                if token == b"right":
                    received += [await anext(stream) for _ in range(11)]
                else:
                    with pytest.RaisesGroup(ConnectionRejected) as caught:
                        await anext(stream)
                    assert caught.value is stream.statistics().last_error  # the session's own nursery made it a group
                assert stream.statistics().sessions == len(statuses)
            nursery.cancel_scope.cancel()
    assert server.statuses == statuses
    assert received == ([*range(1, 12)] if token == b"right" else [])
