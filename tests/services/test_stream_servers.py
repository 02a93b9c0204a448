"""open_stream against servers that are killed: each item exactly once and in order, or accounted for."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

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

    async def dial(self) -> trio.abc.Stream:
        self.dialled_at.append(trio.current_time())
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
