"""The block form and admit(): whose verdict an exit gives, wherever and whenever it comes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from tests._circuit_breaker import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    NotFoundError,
    fail,
    half_open,
    one_failure,
    open_circuit,
)
from trioresil import CircuitBreaker, CircuitOpenError, ConsecutiveFailures

# --- blocks ---------------------------------------------------------------------------------------------------------


async def test_one_task_may_nest_a_block(autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2))
    with pytest.raises(OSError, match="down"):
        async with breaker:
            async with breaker:
                assert breaker.statistics().inside == 2
                await fail()
    assert (breaker.state, breaker.statistics().inside) == (OPEN, 0)


async def streamed(breaker: CircuitBreaker) -> Any:
    async with breaker:
        yield 1
        yield 2


async def streamed_by_admit(breaker: CircuitBreaker) -> Any:
    with breaker.admit():
        yield 1
        yield 2


@pytest.mark.parametrize("stream", [streamed, streamed_by_admit])
async def test_interleaved_generators_of_two_generations_give_no_wrong_verdict(
    stream: Callable[[CircuitBreaker], Any], autojump_clock: Any
) -> None:
    breaker = one_failure()
    early = stream(breaker)
    await anext(early)
    await half_open(breaker)
    probe = stream(breaker)
    await anext(probe)
    assert breaker.statistics().inside == 2
    with pytest.raises(OSError, match="down"):
        await early.athrow(OSError("the early one is down"))
    assert breaker.state is HALF_OPEN
    with pytest.raises(OSError, match="down"):
        await probe.athrow(OSError("the probe is down"))
    # By admit() each verdict is its own; a block can't tell which was left, and says nothing.
    assert breaker.state is (OPEN if stream is streamed_by_admit else HALF_OPEN)
    assert (breaker.statistics().probes_out, breaker.statistics().inside) == (0, 0)


async def test_a_block_left_in_another_task_is_no_verdict_and_gives_its_slot_back(autojump_clock: Any) -> None:
    breaker = await half_open(one_failure())
    stream = streamed(breaker)

    async def begin() -> None:
        await anext(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(begin)
    assert breaker.statistics().probes_out == 1
    with pytest.raises(OSError, match="down"):
        await stream.athrow(OSError("down"))
    assert (breaker.state, breaker.statistics().probes_out) == (HALF_OPEN, 0)
    assert breaker.statistics().inside == 0


async def test_of_several_blocks_left_elsewhere_the_oldest_goes_first(autojump_clock: Any) -> None:
    breaker = await half_open(one_failure(probes=3, successes_to_close=3, probe_lease=1000.0))
    streams = [streamed(breaker) for _ in range(3)]

    async def begin(stream: Any) -> None:
        await anext(stream)
        await trio.sleep(100)

    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(begin, stream)
            await trio.sleep(1)
        for left, stream in enumerate(reversed(streams)):
            assert breaker.statistics().probes_out == 3 - left
            await stream.aclose()
        assert (breaker.statistics().probes_out, breaker.statistics().inside) == (0, 0)
        nursery.cancel_scope.cancel()
    assert breaker.state is HALF_OPEN


async def test_an_exit_that_nobody_entered_is_nothing(autojump_clock: Any) -> None:
    breaker = await half_open(one_failure())
    await breaker.__aexit__(None, None, None)
    assert breaker.state is HALF_OPEN


async def test_blocks_older_than_the_lease_are_dropped_on_the_way(autojump_clock: Any) -> None:
    breaker = one_failure(probe_lease=4.0)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(breaker)
        await trio.sleep(4)
        with pytest.raises(OSError, match="down"):
            async with AsyncExitStack() as inner:
                await inner.enter_async_context(breaker)
                assert breaker.statistics().inside == 1
                stack.pop_all()  # its exit is lost
                await fail()
    assert breaker.state is OPEN


async def test_the_exit_of_a_dropped_block_finds_nobody_elses(autojump_clock: Any) -> None:
    breaker = await half_open(one_failure(probe_lease=4.0))

    async def probe_elsewhere(*, task_status: trio.TaskStatus[None]) -> None:
        async with breaker:
            task_status.started()
            await trio.sleep(2)

    async with trio.open_nursery() as nursery:
        async with breaker:
            await trio.sleep(4)
            async with breaker:
                await trio.sleep(4)
            assert breaker.state is HALF_OPEN  # it had become late by then
            await nursery.start(probe_elsewhere)
        assert breaker.statistics().probes_out == 1
    assert breaker.state is CLOSED


# --- admissions -----------------------------------------------------------------------------------------------------


async def test_an_admission_is_no_checkpoint(autojump_clock: Any) -> None:
    breaker = one_failure()
    with trio.testing.assert_no_checkpoints():
        with breaker.admit():
            assert breaker.statistics().inside == 1
        with pytest.raises(OSError, match="down"):
            with breaker.admit():
                raise OSError("down")
        with pytest.raises(CircuitOpenError) as caught:
            with breaker.admit():
                pytest.fail("it was let in")
    assert caught.value.retry_after == 8.0
    assert (breaker.statistics().rejected, breaker.statistics().inside) == (1, 0)


async def test_an_admission_is_taken_at_the_entry_of_its_block(autojump_clock: Any) -> None:
    breaker = one_failure()
    admission = breaker.admit()
    await open_circuit(breaker)
    with pytest.raises(CircuitOpenError):
        admission.__enter__()
    await breaker.wait_admittable()
    with admission:  # one that was rejected may be tried again
        pass
    assert breaker.state is CLOSED


@pytest.mark.parametrize("raises", [False, True])
async def test_a_verdict_by_hand_stands_however_the_block_ends(raises: bool, autojump_clock: Any) -> None:
    def leave() -> None:
        if raises:
            raise NotFoundError

    for verdict, state in (("ignore", HALF_OPEN), ("fail", OPEN)):
        breaker = await half_open(one_failure())
        try:
            with breaker.admit() as admission:
                getattr(admission, verdict)()
                leave()
        except NotFoundError:
            assert raises
        assert (breaker.state, breaker.statistics().probes_out) == (state, 0)


async def test_the_last_verdict_by_hand_counts(autojump_clock: Any) -> None:
    breaker = one_failure()
    with breaker.admit() as admission:
        admission.fail()
        admission.ignore()
    assert breaker.state is CLOSED
    with breaker.admit() as admission:
        admission.ignore()
        admission.fail()
    assert breaker.state is OPEN


async def test_an_admission_ignores_even_a_failure_that_is_raised(autojump_clock: Any) -> None:
    breaker = one_failure()
    with pytest.raises(OSError, match="down"):
        with breaker.admit() as admission:
            admission.ignore()
            await fail()
    assert breaker.state is CLOSED


async def test_each_admission_is_for_one_block_and_its_verdict_for_inside_of_it(autojump_clock: Any) -> None:
    breaker = one_failure()
    admission = breaker.admit()
    for method in (admission.fail, admission.ignore):
        with pytest.raises(RuntimeError, match="inside of the admission's block"):
            method()
    with pytest.raises(RuntimeError, match="was not entered"):
        admission.__exit__(None, None, None)
    with admission:
        with pytest.raises(RuntimeError, match=r"call breaker.admit\(\) again"):
            admission.__enter__()
    with pytest.raises(RuntimeError, match="inside of the admission's block"):
        admission.fail()
    with pytest.raises(RuntimeError, match="left already"):
        admission.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match=r"call breaker.admit\(\) again"):
        with admission:
            pass
    assert (breaker.state, breaker.statistics().inside) == (CLOSED, 0)


def numbers(breaker: CircuitBreaker) -> Any:
    with breaker.admit() as admission:
        yield admission
        yield 2


async def test_an_admission_in_a_plain_generator_is_no_verdict_if_it_is_dropped(autojump_clock: Any) -> None:
    breaker = await half_open(one_failure())
    generator = numbers(breaker)
    next(generator)
    assert breaker.statistics().probes_out == 1
    generator.close()
    assert (breaker.state, breaker.statistics().probes_out) == (HALF_OPEN, 0)
    for _ in numbers(breaker):
        assert breaker.statistics().probes_out == 1
    assert breaker.state is CLOSED
    generator = numbers(breaker)
    next(generator).fail()
    generator.close()
    assert (breaker.state, breaker.statistics().inside) == (OPEN, 0)
