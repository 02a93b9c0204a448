"""Ctrl-C at any line of a bulkhead or a token bucket: no permit, token or turnstile is lost."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trioresil
from trioresil import Bulkhead, TokenBucket

FILES = ("_policies/bulkhead.py", "_policies/token_bucket.py")


class Interrupt:
    """Sends SIGINT as a given line of the two files is about to run."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.lines = 0

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        # The links of a chain are left out: they can't be protected, as the user's function runs inside of them. There
        # Python itself looks for signals only where nothing has been taken.
        if frame.f_code.co_filename.endswith(FILES) and frame.f_code.co_name != "link":
            return self.trace_line
        return None

    def trace_line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                signal.raise_signal(signal.SIGINT)
        return self.trace_line


def interrupted(main: Callable[[], Awaitable[None]], at: int) -> bool:
    """Run main with a Ctrl-C at one line; False if it ended before that line."""
    interrupt = Interrupt(at)
    raised = False
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a background job
    tracer = sys.gettrace()
    sys.settrace(interrupt.trace)
    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    except KeyboardInterrupt:
        raised = True
    except BaseExceptionGroup as group:
        raised = True
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
    finally:
        sys.settrace(tracer)
        signal.signal(signal.SIGINT, handler)
    assert raised is (interrupt.lines >= at)
    return raised


async def visit_block(bulkhead: Bulkhead) -> None:
    async with bulkhead:
        await trio.sleep(1)


async def visit_by_hand(bulkhead: Bulkhead) -> None:
    await bulkhead.acquire()
    try:
        await trio.sleep(1)
    finally:
        bulkhead.release()


async def visit_call(bulkhead: Bulkhead) -> None:
    await bulkhead.call(trio.sleep, 1)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"max_wait": 1000}])
@pytest.mark.parametrize("visit", [visit_block, visit_by_hand, visit_call])
def test_no_permit_is_lost(visit: Callable[[Bulkhead], Awaitable[None]], options: dict[str, float]) -> None:
    at, more = 0, True
    while more:
        at += 1
        bulkhead = Bulkhead(1, **options)

        async def main(bulkhead: Bulkhead = bulkhead) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(visit, bulkhead)
                await trio.sleep(0.5)
                await visit(bulkhead)

        more = interrupted(main, at)
        assert bulkhead.statistics().borrowed == 0
        assert bulkhead.statistics().waiting == 0
        assert not bulkhead._block_permits
    assert at > 10


async def nothing() -> None:
    pass


async def take(bucket: TokenBucket, other: TokenBucket) -> None:
    await bucket.acquire()


async def take_call(bucket: TokenBucket, other: TokenBucket) -> None:
    await bucket.call(nothing)


async def take_all(bucket: TokenBucket, other: TokenBucket) -> None:
    await trioresil.acquire_all((other, 1), (bucket, 1))


@pytest.mark.slow
@pytest.mark.parametrize("form", [take, take_call, take_all])
def test_no_token_and_no_turnstile_is_lost(form: Callable[[TokenBucket, TokenBucket], Awaitable[None]]) -> None:
    at, more = 0, True
    while more:
        at += 1
        buckets = TokenBucket(rate=1), TokenBucket(rate=4)

        done: list[None] = []

        async def take_one(buckets: tuple[TokenBucket, TokenBucket] = buckets, done: list[None] = done) -> None:
            await form(*buckets)
            done.append(None)

        async def main(take_one: Callable[[], Awaitable[None]] = take_one) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(take_one)
                await take_one()

        more = interrupted(main, at)
        for bucket in buckets:
            assert bucket.statistics().waiting == 0
            assert not bucket._turnstile.borrowed_tokens
            assert bucket._head is None
        assert buckets[0].statistics().granted == len(done)  # what raised took nothing
    assert at > 10
