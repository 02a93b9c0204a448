"""TokenBucket against a model without tasks: the same operations, the same grants in the same order at the same instants."""

from __future__ import annotations

import functools
import math
from typing import Any, TypeAlias

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import trioresil
from tests._limits import ModelQueue
from trioresil import TokenBucket
from trioresil._kernel.token_bucket import Bucket

CAPACITY = 4
Operation: TypeAlias = tuple[str, float]

# Multiples of powers of two throughout, so that the clock and the levels are exact.
tokens = st.integers(1, 4 * CAPACITY).map(lambda quarters: quarters / 4)
operations = st.one_of(
    st.tuples(st.just("acquire"), tokens),
    st.tuples(st.just("acquire"), tokens),
    st.tuples(st.just("call"), tokens),
    st.tuples(st.just("nowait"), tokens),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("sleep"), st.integers(1, 256).map(lambda part: part / 32)),
    st.tuples(st.just("rate"), st.sampled_from([0.25, 0.5, 1, 2, 8])),
    st.tuples(st.just("pause"), st.integers(0, 32).map(lambda part: part / 8)),
    st.tuples(st.just("charge"), tokens),
    st.tuples(st.just("credit"), tokens),
)


class Interpreter:
    """Does each operation to the bucket and to the model, and compares them."""

    def __init__(self, max_wait: float, nursery: trio.Nursery) -> None:
        self.bucket = TokenBucket(rate=2, capacity=CAPACITY, cost=lambda who, tokens: tokens, max_wait=max_wait)
        self.model = ModelQueue(Bucket(2, CAPACITY), max_wait)
        self.nursery = nursery
        self.grants: list[tuple[Any, float]] = []
        self.rejections: list[tuple[Any, float | None]] = []
        self.scopes: dict[int, trio.CancelScope] = {}
        self.newest = 0

    async def _customer(self, who: int, tokens: float, form: str) -> None:
        async def work(who: int, tokens: float) -> None:
            self.grants.append((who, trio.current_time()))

        with self.scopes[who]:
            try:
                if form == "call":
                    await self.bucket.call(work, who, tokens)
                else:
                    await self.bucket.acquire(tokens)
                    await work(who, tokens)
            except trioresil.RateLimitedError as error:
                self.rejections.append((who, error.retry_after))

    async def do(self, operation: str, value: float) -> None:
        bucket, model = self.bucket, self.model
        if operation in ("acquire", "call"):
            self.newest += 1
            self.scopes[self.newest] = trio.CancelScope()
            self.nursery.start_soon(self._customer, self.newest, value, operation)
            model.arrive(self.newest, value)
        elif operation == "nowait":
            self._nowait(value)
        elif operation == "cancel":
            if model.queue:
                who = model.queue[int(value) % len(model.queue)][0]
                self.scopes[who].cancel()
                model.leave(who)
        elif operation == "sleep":
            await trio.sleep(value)
        elif operation == "rate":
            bucket.rate = value
            model.level.set_rate(value, model.now)
        elif operation == "pause":
            bucket.pause(value)
            model.level.pause(value, model.now)
        else:
            amount = value if operation == "charge" else max(-value, model.level.level(model.now) - CAPACITY)
            bucket.adjust(amount)
            model.level.adjust(amount, model.now, bool(model.queue))
        await wait_all_tasks_blocked()
        model.advance(trio.current_time())
        self.compare()

    def _nowait(self, value: float) -> None:
        model = self.model
        there = not model.queue and model.level.ready_at(value, model.now, False) <= model.now
        try:
            self.bucket.acquire_nowait(value)
        except trio.WouldBlock:
            assert not there
        else:
            assert there
            self.grants.append(("nowait", trio.current_time()))
            model.arrive("nowait", value)

    def compare(self) -> None:
        now, bucket, model = trio.current_time(), self.bucket.statistics(), self.model
        assert self.grants == model.grants
        assert self.rejections == model.rejections
        assert bucket.granted == len(model.grants)
        assert bucket.rejected == len(model.rejections)
        assert bucket.waiting == len(model.queue)
        assert bucket.waiting_tokens == sum(tokens for _, tokens in model.queue)
        assert bucket.tokens == model.level.level(now)
        assert bucket.paused_for == model.level.paused_for(now)


async def interpret(max_wait: float, script: list[Operation]) -> None:
    async with trio.open_nursery() as nursery:
        interpreter = Interpreter(max_wait, nursery)
        for operation, value in script:
            await interpreter.do(operation, value)
        await interpreter.do("sleep", 4096)
        assert interpreter.bucket.statistics().waiting == 0


@settings(derandomize=True, database=None, deadline=None, max_examples=150)
@given(max_wait=st.sampled_from([math.inf, math.inf, 2, 0]), script=st.lists(operations, min_size=5, max_size=40))
def test_bucket_does_what_the_model_does(max_wait: float, script: list[Operation]) -> None:
    trio.run(functools.partial(interpret, max_wait, script), clock=MockClock(autojump_threshold=0))
