"""open_pool against a model without tasks: the same people have the same connections, and the same connections are open."""

from __future__ import annotations

import functools
import math
import random
from typing import Any, TypeAlias

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.services._connections import Connection, Peer
from trioresil import Pool, PoolClosedError, PoolFullError, open_pool

Operation: TypeAlias = tuple[str, int]

operations = st.one_of(
    st.tuples(st.sampled_from(["arrive", "arrive", "arrive", "leave", "leave"]), st.integers(0, 9)),
    st.tuples(st.sampled_from(["fail", "cancel", "unsound"]), st.integers(0, 9)),
    st.tuples(st.just("sleep"), st.integers(1, 8)),
    st.tuples(st.sampled_from(["close"] + ["arrive"] * 9), st.just(0)),
)


@attrs.define
class Model:
    """Who has which connection, what is idle, longest first, and who waits, oldest first, as (who, when it gives up)."""

    max_size: int
    max_wait: float
    max_idle_time: float
    max_lifetime: float
    resets: bool
    now: float = 0.0
    closed: bool = False
    opened_at: dict[int, float] = attrs.field(factory=dict)  # of every connection so far
    open: set[int] = attrs.field(factory=set)
    dirty: set[int] = attrs.field(factory=set)
    unsound: set[int] = attrs.field(factory=set)
    inside: dict[int, int] = attrs.field(factory=dict)
    idle: list[tuple[int, float]] = attrs.field(factory=list)
    queue: list[tuple[int, float]] = attrs.field(factory=list)
    rejected: set[int] = attrs.field(factory=set)
    resets_done: int = 0

    def arrive(self, who: int) -> None:
        if self.closed:
            self.rejected.add(who)
        elif len(self.inside) < self.max_size and not self.queue:
            self.lend(who)
        elif self.max_wait == 0:
            self.rejected.add(who)
        else:
            self.queue.append((who, self.now + self.max_wait))

    def lend(self, who: int) -> None:
        while self.idle:
            number, _ = self.idle.pop()
            self.resets_done += number in self.dirty and not self.is_expired(number)
            self.dirty.discard(number)
            if not self.is_expired(number) and number not in self.unsound:
                self.inside[who] = number
                return
            self.open.remove(number)
        number = len(self.opened_at)
        self.opened_at[number] = self.now
        self.open.add(number)
        self.inside[who] = number

    def leave(self, who: int, *, ok: bool = False, failed: bool = False) -> None:
        self.queue = [each for each in self.queue if each[0] != who]
        number = self.inside.pop(who, None)
        if number is not None:
            if ok or (failed and self.resets):
                self.idle.append((number, self.now))
                if failed:
                    self.dirty.add(number)
            else:
                self.open.remove(number)
        while self.queue and len(self.inside) < self.max_size:
            self.lend(self.queue.pop(0)[0])
        self.clear_up()

    def is_expired(self, number: int) -> bool:
        return self.opened_at[number] + self.max_lifetime <= self.now

    def clear_up(self) -> None:
        due = {
            number for number, since in self.idle if since + self.max_idle_time <= self.now or self.is_expired(number)
        }
        self.open -= due
        self.dirty -= due
        self.idle = [each for each in self.idle if each[0] not in due]

    def advance(self, now: float) -> None:
        self.now = now
        late = {who for who, gives_up in self.queue if gives_up <= now}
        self.rejected |= late
        self.queue = [each for each in self.queue if each[0] not in late]
        self.clear_up()


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


class Interpreter:
    """Does each operation to the pool and to the model, and compares them."""

    def __init__(self, model: Model, nursery: trio.Nursery) -> None:
        self.model = model
        self.nursery = nursery
        self.peer = Peer()
        self.pool: Pool[Connection]
        self.inside: dict[int, int] = {}
        self.rejected: set[int] = set()
        self.exits: dict[int, trio.Event] = {}
        self.fails: set[int] = set()
        self.scopes: dict[int, trio.CancelScope] = {}
        self.resets_done = 0

    async def _visit(self, who: int) -> None:
        with self.scopes[who]:
            try:
                async with self.pool.connection() as connection:
                    with connection:
                        self.inside[who] = connection.number
                        try:
                            await self.exits[who].wait()
                        finally:
                            del self.inside[who]
                        if who in self.fails:
                            raise ValueError
            except (PoolFullError, PoolClosedError):
                self.rejected.add(who)
            except ValueError:
                pass

    def reset(self, connection: Connection) -> None:
        assert connection.is_open
        self.resets_done += 1

    def check(self, connection: Connection) -> bool:
        assert connection.is_open
        return connection.number not in self.model.unsound

    async def do(self, operation: str, value: int) -> None:
        model = self.model
        everybody = sorted([*model.inside, *(who for who, _ in model.queue)])
        if operation == "arrive":
            who = len(self.exits)
            self.exits[who], self.scopes[who] = trio.Event(), trio.CancelScope()
            self.nursery.start_soon(self._visit, who)
            model.arrive(who)
        elif operation in ("leave", "fail") and model.inside:
            who = sorted(model.inside)[value % len(model.inside)]
            if operation == "fail":
                self.fails.add(who)
            self.exits[who].set()
            model.leave(who, ok=operation == "leave", failed=operation == "fail")
        elif operation == "cancel" and everybody:
            who = everybody[value % len(everybody)]
            self.scopes[who].cancel()
            model.leave(who)
        elif operation == "unsound" and model.open:
            model.unsound.add(sorted(model.open)[value % len(model.open)])
        elif operation == "sleep":
            await trio.sleep(value)
        elif operation == "close":
            self.pool.close_admission()
            model.closed = True
        await wait_all_tasks_blocked()
        model.advance(trio.current_time())
        self.compare()

    def compare(self) -> None:
        model, statistics = self.model, self.pool.statistics()
        assert self.inside == model.inside
        assert self.rejected == model.rejected
        assert {each.number for each in self.peer.connections if each.is_open} == model.open
        assert self.resets_done == model.resets_done
        assert (statistics.leased, statistics.idle) == (len(model.inside), len(model.idle))
        assert (statistics.waiting, statistics.rejected) == (len(model.queue), len(model.rejected))
        assert statistics.opened == len(model.opened_at)
        assert statistics.connecting == statistics.closing == 0
        assert self.pool._own.borrowed_tokens == len(model.inside)


async def interpret(model: Model, checks: bool, script: list[Operation]) -> None:
    async with trio.open_nursery() as nursery:
        interpreter = Interpreter(model, nursery)
        if not checks:
            script = [each for each in script if each[0] != "unsound"]
        async with open_pool(
            interpreter.peer.connect,
            close=interpreter.peer.close,
            max_size=model.max_size,
            max_wait=model.max_wait,
            max_idle_time=model.max_idle_time,
            max_lifetime=model.max_lifetime,
            reset=interpreter.reset if model.resets else None,
            check=interpreter.check if checks else None,
            rng=NoJitter(),
        ) as pool:
            interpreter.pool = pool
            for operation, value in script:
                await interpreter.do(operation, value)
            while model.inside:
                await interpreter.do("leave", 0)
            await pool.wait_drained()
    assert interpreter.peer.open == 0


maybe: Any = st.sampled_from([math.inf, 3, 5])


@pytest.mark.slow
@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(
    max_size=st.integers(1, 3),
    max_wait=st.sampled_from([math.inf, math.inf, 0, 2, 4]),
    max_idle_time=maybe,
    max_lifetime=st.sampled_from([math.inf, 6, 9]),
    resets=st.booleans(),
    checks=st.booleans(),
    script=st.lists(operations, max_size=50),
)
def test_pool_does_what_the_model_does(
    max_size: int,
    max_wait: float,
    max_idle_time: float,
    max_lifetime: float,
    resets: bool,
    checks: bool,
    script: list[Operation],
) -> None:
    model = Model(max_size, max_wait, max_idle_time, max_lifetime, resets)
    trio.run(functools.partial(interpret, model, checks, script), clock=MockClock(autojump_threshold=0))
