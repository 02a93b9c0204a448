"""TokenBucket: one object through many runs, out of any run, and not in two at once."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

import trioresil
from tests._limits import start_in_order
from trioresil import TokenBucket

shared = TokenBucket(rate=2, capacity=4, name="shared")


@shared
async def guarded() -> float:
    return trio.current_time()


def run(main: Callable[[], Awaitable[object]], start: float = 0) -> None:
    clock = MockClock(autojump_threshold=0)
    clock.jump(start)
    trio.run(main, clock=clock)


def test_level_and_pause_go_through_three_runs_as_if_no_time_had_passed_between() -> None:
    bucket = TokenBucket(rate=2, capacity=4)

    async def first() -> None:
        await bucket.acquire(4)
        await trio.sleep(1.5)
        await bucket.acquire(1)
        await trio.sleep(1)
        assert bucket.statistics().tokens == 4

    async def second() -> None:
        start = trio.current_time()
        await bucket.acquire(3)
        assert trio.current_time() - start == 0.5
        bucket.pause(3)
        await trio.sleep(1)
        bucket.adjust(0)  # the last use

    async def third() -> None:
        start = trio.current_time()
        assert bucket.statistics().paused_for == 2
        await bucket.acquire(1)
        assert trio.current_time() - start == 2.5

    run(first, start=512)
    assert bucket.statistics().tokens == 2  # as of the last use: looking is none
    run(functools.partial(_idle, bucket, tokens=2))
    run(second, start=1)
    assert bucket.statistics().paused_for == 2
    run(third, start=90000)
    assert bucket.statistics().tokens == 0


async def _idle(bucket: TokenBucket, tokens: float) -> None:
    await trio.sleep(1000)
    assert bucket.statistics().tokens == tokens


def test_module_level_function_works_in_three_runs_and_keeps_its_bucket() -> None:
    times: list[float] = []

    async def main() -> None:
        start = trio.current_time()
        times.extend([await guarded() - start for _ in range(3)])

    for start in (7, 3000, 0):
        run(main, start)
    assert times == [0, 0, 0, 0, 0.5, 1, 0.5, 1, 1.5]


def test_works_in_three_runs_on_the_system_clock() -> None:
    bucket = TokenBucket(rate=1e-6, capacity=6)

    async def main() -> None:
        with trio.fail_after(5):
            await bucket.acquire()
            await trioresil.acquire_all((bucket, 1))

    for _ in range(3):
        trio.run(main)
    assert bucket.statistics().tokens == pytest.approx(0, abs=1e-3)
    assert bucket.statistics().granted == 6


def test_statistics_repr_and_rate_work_outside_of_a_run() -> None:
    bucket = TokenBucket(rate=2, capacity=4, name="search")
    assert repr(bucket) == "<trioresil.TokenBucket 'search' 4/4 tokens, 0 waiting>"

    async def first() -> None:
        await bucket.acquire(3)

    async def second() -> None:
        start = trio.current_time()
        await bucket.acquire(3)
        assert trio.current_time() - start == 4

    run(first, start=5)
    assert bucket.statistics().tokens == 1
    bucket.rate = 0.5
    assert bucket.statistics().tokens == 1
    assert bucket.statistics().rate == 0.5
    run(second, start=77)


@pytest.mark.parametrize("form", ["acquire", "call", "acquire_all", "rate", "pause"])
def test_second_run_at_the_same_time_is_refused(form: str) -> None:
    bucket = TokenBucket(rate=1e-6, name="search")

    async def elsewhere() -> None:
        with trio.fail_after(2):
            if form == "acquire":
                await bucket.acquire()
            elif form == "call":
                await bucket.call(trio.lowlevel.checkpoint)
            elif form == "acquire_all":
                await trioresil.acquire_all((TokenBucket(rate=1), 1), (bucket, 1))
            elif form == "rate":
                bucket.rate = 5
            else:
                bucket.pause(5)

    async def main() -> None:
        with trio.fail_after(20):
            bucket.acquire_nowait()
            async with trio.open_nursery() as nursery:
                await start_in_order(nursery, bucket.acquire)
                with pytest.raises(RuntimeError, match=r"'search' is in use in another trio\.run"):
                    await trio.to_thread.run_sync(functools.partial(trio.run, elsewhere))
                assert bucket.statistics().waiting == 1
                assert bucket.statistics().granted == 1
                assert bucket.rate == 1e-6
                nursery.cancel_scope.cancel()
        assert bucket.statistics().waiting == 0

    trio.run(main)


def test_outside_of_trio_the_error_says_what_to_do() -> None:
    bucket = TokenBucket(rate=1)
    for call in (bucket.acquire, functools.partial(bucket.call, trio.lowlevel.checkpoint), bucket.__aenter__):
        with pytest.raises(RuntimeError, match=r"start the program with trio\.run"):
            call().send(None)
    assert bucket.statistics().tokens == 1
