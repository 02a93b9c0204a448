"""Workers against an exact model: random sends, reads, sizes and cancellations, compared after every one of them."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trioresil import OutcomeChannel, PoolClosedError, Workers, open_workers


class Model:
    """What workers do, as a simulation of events without any tasks."""

    def __init__(self, size: int, buffer: int, capacity: int) -> None:
        self.size, self.buffer, self.capacity = size, buffer, capacity
        self.now = 0.0
        self.seconds: dict[int, float] = {}
        self.queued: deque[int] = deque()
        self.senders: list[int] = []
        self.running: dict[int, float] = {}
        self.delivering: deque[int] = deque()
        self.channel: deque[int] = deque()
        self.entered: list[tuple[int, float]] = []
        self.ended: list[int] = []
        self.rejected: list[int] = []
        self.given_up: list[int] = []
        self.accepted = 0
        self.closed = False

    def advance(self, now: float) -> None:
        while self.running and (item := min(self.running, key=self.running.__getitem__)) is not None:
            end = self.running[item]
            if end > now:
                break
            self.now = end
            del self.running[item]
            self.ended.append(item)
            self.delivering.append(item)
            self._settle()
        self.now = now

    def send(self, item: int, seconds: float) -> None:
        if self.closed:
            self.rejected.append(item)
            return
        self.seconds[item] = seconds
        self.senders.append(item)
        self._settle()

    def give_up(self, item: int) -> None:
        if item in self.senders:
            self.senders.remove(item)
            self.given_up.append(item)

    def read(self) -> int | None:
        """Take an outcome: a blocked worker's moves up in the same step, and the worker goes on."""
        found = self.channel.popleft() if self.channel else self.delivering.popleft() if self.delivering else None
        self._settle()
        return found

    def resize(self, size: int) -> None:
        self.size = size
        self._settle()

    def close(self) -> None:
        self.closed = True

    def counts(self) -> tuple[int, ...]:
        busy = len(self.running) + len(self.delivering)
        done = len(self.ended)
        return busy, len(self.delivering), len(self.queued), len(self.senders), self.accepted, done, len(self.rejected)

    def _settle(self) -> None:
        while self.delivering and len(self.channel) < self.capacity:
            self.channel.append(self.delivering.popleft())
        moved = True
        while moved:
            moved = False
            if self.queued and len(self.running) + len(self.delivering) < self.size:
                self._enter(self.queued.popleft())
                moved = True
            if self.senders and len(self.queued) < self.buffer:
                self.queued.append(self.senders.pop(0))
                self.accepted += 1
                moved = True
            elif self.senders and not self.queued and len(self.running) + len(self.delivering) < self.size:
                self._enter(self.senders.pop(0))
                self.accepted += 1
                moved = True

    def _enter(self, item: int) -> None:
        self.entered.append((item, self.now))
        self.running[item] = self.now + self.seconds[item]


class Real:
    """The workers themselves, driven by the same operations."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.seconds: dict[int, float] = {}
        self.entered: list[tuple[int, float]] = []
        self.ended: list[int] = []
        self.rejected: list[int] = []
        self.given_up: list[int] = []
        self.scopes: dict[int, trio.CancelScope] = {}
        self.workers: Workers[int, None]
        self.results: OutcomeChannel[int, None]

    async def run(self, item: int) -> None:
        self.entered.append((item, trio.current_time()))
        await trio.sleep(self.seconds[item])
        self.ended.append(item)
        if item % 3 == 0:
            raise ValueError(item)

    def send(self, item: int, seconds: float) -> None:
        self.seconds[item] = seconds
        self.nursery.start_soon(self._send, item)

    async def _send(self, item: int) -> None:
        with trio.CancelScope() as scope:
            self.scopes[item] = scope
            try:
                await self.workers.send(item)
            except PoolClosedError:
                self.rejected.append(item)
        if scope.cancelled_caught:
            self.given_up.append(item)

    def give_up(self, item: int) -> None:
        self.scopes[item].cancel()

    def read(self) -> int | None:
        try:
            return self.results.receive_nowait().item
        except (trio.WouldBlock, trio.EndOfChannel):
            return None

    def resize(self, size: int) -> None:
        self.workers.resize(size)

    def close(self) -> None:
        self.workers.close_admission()

    def counts(self) -> tuple[int, ...]:
        now = self.workers.statistics()
        done = now.succeeded + now.failed
        return now.busy, now.delivering, now.queued, now.sending, now.accepted, done, now.rejected


def operations(rng: random.Random, count: int) -> list[tuple[float, str, tuple[Any, ...]]]:
    now, item, made = 0.0, 0, []
    for _ in range(count):
        now += rng.expovariate(2)
        kind = rng.choices(["send", "read", "give_up", "resize", "close"], [12, 8, 3, 2, 0.1])[0]
        arguments: tuple[Any, ...] = ()
        if kind == "send":
            arguments = (item, rng.expovariate(0.7))
            item += 1
        elif kind == "give_up":
            if not item:
                continue
            arguments = (rng.randrange(max(0, item - 6), item),)
        elif kind == "resize":
            arguments = (rng.randint(1, 4),)
        made.append((now, kind, arguments))
    return made


def by_time(entry: tuple[int, float]) -> tuple[float, int]:
    """Return a key: workers that begin in the same instant do so in any order."""
    return entry[1], entry[0]


async def compare(seed: int) -> None:
    rng = random.Random(seed)
    size, buffer, capacity = rng.randint(1, 3), rng.choice([0, 0, 1, 3]), rng.choice([0, 1, 4])
    model = Model(size, buffer, capacity)
    async with trio.open_nursery() as nursery:
        real = Real(nursery)
        async with open_workers(real.run, workers=size, buffer=buffer, results=capacity) as real.workers:
            real.results = real.workers.results.clone()
            for when, kind, arguments in operations(rng, 60):
                await trio.sleep_until(when)
                model.advance(when)
                assert getattr(real, kind)(*arguments) == getattr(model, kind)(*arguments)
                await wait_all_tasks_blocked()
                assert real.counts() == model.counts(), (when, kind, arguments)
                assert real.workers.unfinished == [
                    *(item for item, _ in model.entered if item in model.running),
                    *model.queued,
                ]
            assert sorted(real.entered, key=by_time) == sorted(model.entered, key=by_time)
            assert real.ended == model.ended
            assert real.rejected == model.rejected
            assert real.given_up == model.given_up
            nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_workers_do_what_the_model_does(seed: int) -> None:
    trio.run(compare, seed, clock=MockClock(autojump_threshold=0))
