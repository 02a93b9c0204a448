"""Bulkhead against a model without tasks: the same operations, the same people inside and in the queue."""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trioresil import Bulkhead, BulkheadFullError

Operation: TypeAlias = tuple[str, int]

operations = st.one_of(
    st.tuples(st.sampled_from(["call", "call", "block", "user", "nowait"]), st.just(0)),
    st.tuples(st.sampled_from(["call", "leave", "leave"]), st.integers(0, 9)),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("sleep"), st.integers(1, 12)),
    st.tuples(st.just("limit"), st.integers(0, 4)),
    st.tuples(st.sampled_from(["close"] + ["call"] * 5), st.just(0)),
)


@attrs.define
class Model:
    """Who is inside and who waits, oldest first, as (who, when it gives up)."""

    limit: float
    max_waiting: float
    max_wait: float
    now: float = 0.0
    closed: bool = False
    inside: set[int] = attrs.field(factory=set)
    users: set[int] = attrs.field(factory=set)
    queue: list[tuple[int, float]] = attrs.field(factory=list)
    rejected: set[int] = attrs.field(factory=set)

    def arrive(self, who: int, *, is_user: bool = False) -> None:
        if is_user:
            self.users.add(who)
        elif self.closed:
            self.rejected.add(who)
            return
        if len(self.inside) < self.limit and not self.queue:
            self.inside.add(who)
        elif is_user:
            self.queue.append((who, math.inf))
        elif self.max_wait == 0 or sum(each not in self.users for each, _ in self.queue) >= self.max_waiting:
            self.rejected.add(who)
        else:
            self.queue.append((who, self.now + self.max_wait))

    def leave(self, who: int) -> None:
        self.inside.discard(who)
        self.queue = [each for each in self.queue if each[0] != who]
        self.admit()

    def admit(self) -> None:
        while self.queue and len(self.inside) < self.limit:
            self.inside.add(self.queue.pop(0)[0])

    def advance(self, now: float) -> None:
        self.now = now
        late = {who for who, gives_up in self.queue if gives_up <= now}
        self.rejected |= late
        self.queue = [each for each in self.queue if each[0] not in late]


class Interpreter:
    """Does each operation to the bulkhead and to the model, and compares them."""

    def __init__(self, model: Model, nursery: trio.Nursery) -> None:
        self.model = model
        self.nursery = nursery
        self.limiter = trio.CapacityLimiter(2)
        self.bulkhead = Bulkhead(self.limiter, max_waiting=model.max_waiting, max_wait=model.max_wait)
        self.inside: set[int] = set()
        self.rejected: set[int] = set()
        self.exits: dict[int, trio.Event] = {}
        self.scopes: dict[int, trio.CancelScope] = {}
        self.newest = 0

    async def _stay(self, who: int) -> None:
        self.inside.add(who)
        try:
            await self.exits[who].wait()
        finally:
            self.inside.remove(who)

    async def _visit(self, who: int, form: str) -> None:
        with self.scopes[who]:
            try:
                if form == "call":
                    await self.bulkhead.call(self._stay, who)
                else:
                    async with self.bulkhead if form == "block" else self.limiter:
                        await self._stay(who)
            except BulkheadFullError:
                self.rejected.add(who)

    async def do(self, operation: str, value: int) -> None:
        model = self.model
        everybody = sorted([*model.inside, *(who for who, _ in model.queue)])
        if operation in ("call", "block", "user"):
            self.newest += 1
            self.exits[self.newest], self.scopes[self.newest] = trio.Event(), trio.CancelScope()
            self.nursery.start_soon(self._visit, self.newest, operation)
            model.arrive(self.newest, is_user=operation == "user")
        elif operation == "nowait":
            self._nowait()
        elif operation == "leave" and model.inside:
            who = sorted(model.inside)[value % len(model.inside)]
            self.exits[who].set()
            model.leave(who)
        elif operation == "cancel" and everybody:
            who = everybody[value % len(everybody)]
            self.scopes[who].cancel()
            model.leave(who)
        elif operation == "sleep":
            await trio.sleep(value)
        elif operation == "limit":
            self.bulkhead.limit = model.limit = value
            model.admit()
        elif operation == "close":
            self.bulkhead.close_admission()
            model.closed = True
        await wait_all_tasks_blocked()
        model.advance(trio.current_time())
        self.compare()

    def _nowait(self) -> None:
        model = self.model
        free = len(model.inside) < model.limit and not model.queue and not model.closed
        try:
            self.bulkhead.acquire_nowait()
        except trio.WouldBlock:
            assert not free
        else:
            assert free
            self.bulkhead.release()

    def compare(self) -> None:
        model, statistics = self.model, self.bulkhead.statistics()
        assert self.inside == model.inside
        assert self.rejected == model.rejected
        assert statistics.borrowed == len(model.inside)
        assert statistics.inside == len(model.inside - model.users)
        assert statistics.waiting == sum(who not in model.users for who, _ in model.queue)
        assert statistics.rejected == len(model.rejected)
        assert statistics.limit == model.limit


async def interpret(max_waiting: float, max_wait: float, script: list[Operation]) -> None:
    async with trio.open_nursery() as nursery:
        interpreter = Interpreter(Model(2, max_waiting, max_wait), nursery)
        for operation, value in script:
            await interpreter.do(operation, value)
        drained = trio.Event()

        async def drain() -> None:
            await interpreter.bulkhead.wait_drained()
            drained.set()

        interpreter.nursery.start_soon(drain)
        await interpreter.do("limit", 1)
        while interpreter.model.inside:
            await interpreter.do("leave", 0)
        await wait_all_tasks_blocked()
        assert drained.is_set()


maybe: Any = st.sampled_from([math.inf, math.inf, 0, 1, 3])


@settings(derandomize=True, database=None, deadline=None, max_examples=150)
@given(
    max_waiting=maybe, max_wait=st.sampled_from([math.inf, math.inf, 0, 2, 5]), script=st.lists(operations, max_size=40)
)
def test_bulkhead_does_what_the_model_does(max_waiting: float, max_wait: float, script: list[Operation]) -> None:
    trio.run(functools.partial(interpret, max_waiting, max_wait, script), clock=MockClock(autojump_threshold=0))
