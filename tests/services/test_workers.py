"""open_workers: what is run when, who waits, what is refused, and where each item and each outcome is afterwards."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

import trioresil
from tests._limits import schedule_points, start_in_order
from tests.services._items import Book
from trioresil import (
    CallRejected,
    CircuitBreaker,
    CircuitOpenError,
    Fallback,
    Keyed,
    Outcome,
    Pipeline,
    PolicySeen,
    PoolClosedError,
    Retry,
    Timeout,
    TokenBucket,
    Workers,
    open_workers,
    serve_workers,
)
from trioresil._links import passage
from trioresil._services._crew import OnError
from trioresil.testing import Recorder


async def double(item: int) -> int:
    await trio.lowlevel.checkpoint()
    return 2 * item


async def send_all(workers: Workers[Any, Any], items: Any) -> None:
    for item in items:
        await workers.send(item)
    workers.close_admission()


async def read_all(workers: Workers[Any, Any]) -> list[Outcome[Any, Any]]:
    return [outcome async for outcome in workers.results]


# --- items in --------------------------------------------------------------------------------------------------------


async def test_each_item_is_run_once_in_order_and_the_end_of_the_block_waits_for_all(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_workers(book.run, workers=2) as workers:
        for item in range(5):
            await workers.send(item)
        assert trio.current_time() == 2  # the fifth was taken when the second pair was done
    assert trio.current_time() == 3
    assert book.entered == sorted(book.ended) == [0, 1, 2, 3, 4]
    assert book.most == 2
    assert workers.unfinished == []


async def test_send_waits_while_all_workers_are_busy_and_the_buffer_is_full(autojump_clock: MockClock) -> None:
    sent = []
    async with open_workers(Book().run, workers=1, buffer=2) as workers:
        for item in range(5):
            await workers.send(item)
            sent.append((item, trio.current_time()))
    assert sent == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 2)]


async def test_a_buffer_without_bounds_never_waits(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=1, buffer=math.inf) as workers:
        for item in range(100):
            await workers.send(item)
        assert trio.current_time() == 0
    assert trio.current_time() == 100


async def test_senders_are_let_in_in_the_order_of_arrival(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_workers(book.run, workers=1, buffer=1) as workers, trio.open_nursery() as nursery:
        await start_in_order(nursery, *(functools.partial(workers.send, item) for item in range(6)))
        assert workers.statistics().sending == 4
    assert book.entered == list(range(6))


async def test_nobody_passes_who_waits_to_send(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_workers(book.run, workers=1) as workers, trio.open_nursery() as nursery:
        await start_in_order(nursery, *(functools.partial(workers.send, item) for item in range(3)))
        with pytest.raises(trio.WouldBlock):
            workers.send_nowait("too early")
        await trio.sleep(1)  # 1 was let in when 0 was done; there is no room between the two
        with pytest.raises(trio.WouldBlock):
            workers.send_nowait("too early")
    assert book.entered == [0, 1, 2]


async def test_send_nowait_takes_what_room_there_is(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_workers(book.run, workers=2, buffer=1) as workers:
        for item in range(3):
            workers.send_nowait(item)  # also before any worker has run
        with pytest.raises(trio.WouldBlock):
            workers.send_nowait(3)
        await trio.sleep(1.5)
        workers.send_nowait(4)
    assert sorted(book.entered) == [0, 1, 2, 4]
    assert workers.statistics().accepted == 4


async def test_a_cancelled_send_has_sent_nothing(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_workers(book.run, workers=1) as workers:
        await workers.send(0)
        with trio.move_on_after(0.5) as scope:
            await workers.send(1)
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await workers.send(2)
        seen: bool | None = True
        with trio.move_on_after(0.25):
            try:
                await workers.send(3)
            except BaseException as exc:
                seen = passage(exc).started  # a Timeout further out tells it
                raise
        assert seen is False
        assert workers.statistics().sending == 0
        await workers.send(3)
    assert book.entered == [0, 3]
    assert workers.statistics().accepted == 2


async def test_workers_are_made_as_they_are_needed(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=1000) as workers:
        tasks = trio.lowlevel.current_statistics().tasks_living
        await workers.send(0)
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 1
        await trio.sleep(1.5)
        await workers.send(1)
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 1


async def test_none_is_an_item_like_others(autojump_clock: MockClock) -> None:
    async def same(item: None) -> None:
        return item

    async with open_workers(same, results=2) as workers:
        await workers.send(None)
        await workers.send(None)
        workers.close_admission()
        assert await read_all(workers) == [Outcome(None, None, None, 1)] * 2


# --- closing admission -----------------------------------------------------------------------------------------------


async def test_closed_admission_rejects_new_items_and_finishes_those_that_wait(autojump_clock: MockClock) -> None:
    book, recorder = Book(), Recorder()
    with trioresil.instrument(recorder):
        async with open_workers(book.run, workers=1, buffer=1, name="store") as workers, trio.open_nursery() as nursery:
            await start_in_order(nursery, *(functools.partial(workers.send, item) for item in range(4)))
            workers.close_admission()
            with pytest.raises(PoolClosedError, match=r"^store: admission is closed$") as caught:
                await workers.send(4)
            assert (caught.value.started, caught.value.retry_after) == (False, None)
            with pytest.raises(PoolClosedError):
                workers.send_nowait(5)
            await workers.wait_drained()
            assert trio.current_time() == 4
    assert book.ended == [0, 1, 2, 3]
    assert [event.error for event in recorder.of(CallRejected)] == [caught.value]
    assert workers.statistics().rejected == 2
    assert [event.policy for event in recorder.of(PolicySeen)] == [workers]


async def test_the_end_of_the_block_lets_in_who_waits_to_send(autojump_clock: MockClock) -> None:
    book = Book()
    async with trio.open_nursery() as nursery:
        async with open_workers(book.run, workers=1) as workers:
            await start_in_order(nursery, *(functools.partial(workers.send, item) for item in range(3)))
        assert trio.current_time() == 3
    assert book.ended == [0, 1, 2]


async def test_the_end_of_the_block_takes_no_more(autojump_clock: MockClock) -> None:
    refused: list[float] = []

    async def late() -> None:
        await trio.sleep(0.5)
        with pytest.raises(PoolClosedError):
            await workers.send("late")
        refused.append(trio.current_time())

    book = Book()
    async with trio.open_nursery() as nursery:
        async with open_workers(book.run) as workers:
            await workers.send(0)
            nursery.start_soon(late)
        with pytest.raises(PoolClosedError):
            await workers.send("later")
    assert refused == [0.5]
    assert book.ended == [0]


async def test_wait_drained_waits_for_items_that_functions_send(autojump_clock: MockClock) -> None:
    async def visit(depth: int) -> None:
        await trio.sleep(1)
        if depth:
            await workers.send(depth - 1)
            await workers.send(depth - 1)

    async with open_workers(visit, workers=100, buffer=math.inf) as workers:
        await workers.send(4)
        await workers.wait_drained()
        assert trio.current_time() == 5
        assert workers.statistics().succeeded == 31
        assert not workers.statistics().closed


async def test_wait_drained_waits_for_those_who_wait_to_send(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=1) as workers, trio.open_nursery() as nursery:
        await start_in_order(nursery, *(functools.partial(workers.send, item) for item in range(3)))
        await workers.wait_drained()
        assert trio.current_time() == 3
        await start_in_order(nursery, functools.partial(workers.send, 3))
        scopes = trio.CancelScope()

        async def gives_up() -> None:
            with scopes:
                await workers.send(4)

        await start_in_order(nursery, gives_up)
        await trio.sleep(0.5)
        scopes.cancel()
        await workers.wait_drained()
        assert trio.current_time() == 4


async def test_wait_drained_ends_with_the_workers(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="body"):
            async with open_workers(Book().run, workers=1, buffer=1) as workers:
                await workers.send(0)
                await workers.send(1)
                nursery.start_soon(workers.wait_drained)
                await wait_all_tasks_blocked()
                raise ValueError("body")
        await workers.wait_drained()
    assert trio.current_time() == 0


# --- results ---------------------------------------------------------------------------------------------------------


async def test_results_come_as_items_end_and_end_with_them(autojump_clock: MockClock) -> None:
    async def sleep(seconds: float) -> float:
        await trio.sleep(seconds)
        return 10 * seconds

    async with open_workers(sleep, results=0) as workers, trio.open_nursery() as nursery:
        nursery.start_soon(send_all, workers, [3, 1, 2])
        found = [(outcome, trio.current_time()) async for outcome in workers.results]
        assert [(outcome.item, outcome.value, when) for outcome, when in found] == [(1, 10, 1), (2, 20, 2), (3, 30, 3)]
        with pytest.raises(trio.EndOfChannel):
            await workers.results.receive()
    assert workers.undelivered == []


async def test_results_end_at_once_if_admission_is_closed_when_all_is_done(autojump_clock: MockClock) -> None:
    async with open_workers(double, results=5) as workers:
        await workers.send(1)
        await workers.wait_drained()
        with pytest.raises(trio.WouldBlock):
            assert (await workers.results.receive()).value == 2
            workers.results.receive_nowait()
        workers.close_admission()
        with pytest.raises(trio.EndOfChannel):
            workers.results.receive_nowait()


async def test_results_end_only_after_a_send_that_waits_was_let_in_or_gave_up(autojump_clock: MockClock) -> None:
    async def gives_up() -> None:
        with trio.move_on_after(1.5):
            await workers.send("given up")

    async with open_workers(Book().run, workers=1, results=0) as workers, trio.open_nursery() as nursery:
        await start_in_order(nursery, functools.partial(workers.send, 0), functools.partial(workers.send, 1), gives_up)
        workers.close_admission()
        found = [outcome.item async for outcome in workers.results]
    assert found == [0, 1]
    assert trio.current_time() == 2


async def test_workers_wait_while_the_results_are_full(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_workers(book.run, workers=2, results=1, buffer=9) as workers:
        for item in range(9):
            await workers.send(item)
        await trio.sleep(10)
        assert sorted(book.ended) == [0, 1, 2]  # one is in the channel, two with the workers
        assert (workers.statistics().busy, workers.statistics().delivering) == (2, 2)
        await workers.results.receive()
        await trio.sleep(10)
        assert len(book.ended) == 4


async def test_outcomes_say_what_became_of_an_item(autojump_clock: MockClock) -> None:
    error = ValueError("no")
    async with open_workers(Book(errors={1: error}).run, workers=1, results=5) as workers:
        await workers.send(0)
        await workers.send(1)
        workers.close_admission()
        good, bad = await read_all(workers)
    assert (good.item, good.value, good.error, good.attempts) == (0, "0!", None, 1)
    assert (bad.item, bad.value, bad.error, bad.attempts) == (1, None, error, 1)
    assert good.unwrap() == "0!"
    with pytest.raises(ValueError, match="no") as caught:
        bad.unwrap()
    assert caught.value is error
    assert error.__context__ is None
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        bad.value = 1  # type: ignore[misc]


async def test_without_results_values_are_dropped_and_counted(autojump_clock: MockClock) -> None:
    async with open_workers(double, name="nothing kept") as workers:
        await workers.send(1)
        with pytest.raises(RuntimeError, match="nothing kept: to have results, open the workers with results="):
            _ = workers.results
    assert workers.statistics().succeeded == 1
    assert workers.undelivered == []


async def test_what_is_not_read_in_the_block_is_undelivered(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=2, results=1, buffer=9) as workers:
        for item in range(6):
            await workers.send(item)
        await trio.sleep(5)
        read = await workers.results.receive()
    assert sorted(outcome.item for outcome in [read, *workers.undelivered]) == [0, 1, 2, 3, 4, 5]
    assert workers.unfinished == []
    assert workers.statistics().undelivered == 5
    with pytest.raises(trio.ClosedResourceError):
        await workers.results.receive()


async def test_a_clone_reads_on_when_the_block_has_ended(autojump_clock: MockClock) -> None:
    found = []

    async def read(receiver: trioresil.OutcomeChannel[int, str]) -> None:
        async with receiver:
            found.extend([outcome.item async for outcome in receiver])

    async with trio.open_nursery() as nursery:
        async with open_workers(Book().run, workers=1, results=0, buffer=9) as workers:
            nursery.start_soon(read, workers.results.clone())
            for item in range(4):
                await workers.send(item)
    assert found == [0, 1, 2, 3]
    assert workers.undelivered == []
    assert trio.current_time() == 4


async def test_a_clone_reads_what_is_left_in_the_channel_of_closed_workers(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=1, results=9) as workers:
        clone = workers.results.clone()
        for item in range(3):
            await workers.send(item)
    assert clone.receive_nowait().item == 0
    assert workers.undelivered == []
    clone.close()
    assert [outcome.item for outcome in workers.undelivered] == [1, 2]
    clone.close()


async def test_closing_the_last_receiver_frees_the_workers(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_workers(book.run, workers=2, results=1, buffer=9) as workers:
        for item in range(6):
            await workers.send(item)
        await trio.sleep(5)
        async with workers.results as results:
            assert results.statistics().tasks_waiting_send == 2
        assert sorted(outcome.item for outcome in workers.undelivered) == [0, 1, 2]
        await trio.sleep(5)
        assert len(book.ended) == 6
    assert len(workers.undelivered) == 6


# --- what would wait for ever ----------------------------------------------------------------------------------------


async def test_sending_everything_before_reading_is_an_error_instead_of_a_deadlock(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=2, results=1, name="fetch") as workers:
        for item in range(3):
            await workers.send(item)
        with pytest.raises(
            RuntimeError, match=r"^fetch: every worker waits for room among the results, and nobody has"
        ):
            await workers.send(3)
        assert trio.current_time() == 2
        with pytest.raises(RuntimeError, match="nobody has ever read one"):
            await workers.send(4)  # also when it is so already
        assert workers.statistics().accepted == 3
        assert workers.statistics().sending == 0
        first = await workers.results.receive()
        await workers.send(5)
        workers.close_admission()
        assert sorted(outcome.item for outcome in [first, *await read_all(workers)]) == [0, 1, 2, 5]
    assert workers.undelivered == []


async def test_sending_more_than_results_can_hold_is_an_error_at_the_exact_item(autojump_clock: MockClock) -> None:
    async with open_workers(double, workers=3, buffer=4, results=5) as workers:
        sent = 0
        with pytest.raises(RuntimeError):
            while True:
                await workers.send(sent)
                sent += 1
        assert sent == 5 + 3 + 4


async def test_waiting_for_unread_results_is_an_error_instead_of_a_deadlock(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=3, results=1) as workers:
        await workers.send(0)
        await workers.send(1)
        with pytest.raises(RuntimeError, match="nobody has ever read one"):
            await workers.wait_drained()
        assert trio.current_time() == 1
        with pytest.raises(RuntimeError, match="nobody has ever read one"):
            await workers.wait_drained()


async def test_another_task_may_wait_for_a_reader_to_come(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=1, results=0) as workers, trio.open_nursery() as nursery:
        nursery.start_soon(send_all, workers, range(4))
        nursery.start_soon(workers.wait_drained)
        await trio.sleep(10)
        assert [outcome.item for outcome in await read_all(workers)] == [0, 1, 2, 3]


async def test_a_slow_reader_is_no_error(autojump_clock: MockClock) -> None:
    async def read() -> None:
        async for _ in workers.results:
            await trio.sleep(5)

    async with open_workers(Book().run, workers=1, results=0) as workers, trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await send_all(workers, range(5))
        await workers.wait_drained()
    assert workers.statistics().succeeded == 5


@pytest.mark.parametrize("schedule", range(20))
async def test_a_reader_that_waits_counts_from_the_moment_in_which_it_is_given_something(
    autojump_clock: MockClock, schedule: int
) -> None:
    async def at_once(item: int) -> int:
        return item

    async with open_workers(at_once, workers=1, results=0) as workers, trio.open_nursery() as nursery:
        nursery.start_soon(read_all, workers)
        await wait_all_tasks_blocked()
        await send_all(workers, range(20))


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_workers_that_would_all_wait_for_one_another_are_an_error(autojump_clock: MockClock, size: int) -> None:
    async def visit(item: int) -> None:
        await trio.sleep(1)
        await workers.send(item + 1)

    with pytest.raises(RuntimeError, match=f"^crawl: all {size} workers would wait in send.. for one of themselves"):
        async with open_workers(visit, workers=size, name="crawl") as workers:
            for item in range(size):
                await workers.send(item)
            await workers.wait_drained()
    assert trio.current_time() == 1
    assert workers.statistics().accepted == size


async def test_a_worker_that_gave_up_sending_does_not_count_as_waiting(autojump_clock: MockClock) -> None:
    async def visit(item: int) -> None:
        if item == 1:
            with trio.move_on_after(1):
                await workers.send(8)
            await trio.sleep(5)
        if item == 2:
            await trio.sleep(2)
            await workers.send(9)

    async with open_workers(visit, workers=2) as workers:
        workers.send_nowait(1)
        workers.send_nowait(2)
        await workers.wait_drained()
    assert trio.current_time() == 6
    assert workers.statistics().accepted == 3


async def test_workers_that_wait_for_one_another_once_there_are_fewer_are_an_error(autojump_clock: MockClock) -> None:
    async def visit(item: int) -> None:
        await trio.sleep(item)
        if item == 1:
            await workers.send(5)

    with pytest.raises(RuntimeError, match="all 1 workers would wait in send"):
        async with open_workers(visit, workers=2) as workers:
            await workers.send(1)
            await workers.send(2)
            await trio.sleep(1.5)
            workers.resize(1)
            await workers.wait_drained()
    assert trio.current_time() == 2


@pytest.mark.parametrize("schedule", range(20))
async def test_a_worker_that_was_let_in_waits_no_longer_even_if_it_has_yet_to_run(
    autojump_clock: MockClock, schedule: int
) -> None:
    async def visit(item: int) -> None:
        await trio.sleep(item)
        if item == 1:
            await workers.send(0)
        if item == 0:
            await workers.send(3)

    async with open_workers(visit, workers=2) as workers:
        await workers.send(1)
        await workers.send(2)
        await workers.wait_drained()
    assert trio.current_time() == 5


@pytest.mark.parametrize("schedule", range(20))
async def test_workers_that_nobody_has_to_read_any_more_are_not_waited_for(
    autojump_clock: MockClock, schedule: int
) -> None:
    async with open_workers(Book().run, workers=1, results=0) as workers:
        await workers.send(0)
        await trio.sleep(2)
        workers.results.close()
        await workers.send(1)
        await workers.wait_drained()
    assert [outcome.item for outcome in workers.undelivered] == [0, 1]


async def test_a_worker_may_wait_to_send_to_others(autojump_clock: MockClock) -> None:
    book = Book()

    async def hand_on(item: int) -> None:
        await second.send(item)

    async with open_workers(book.run, workers=1) as second, open_workers(hand_on, workers=1) as first:
        for item in range(4):
            await first.send(item)
    assert book.ended == [0, 1, 2, 3]


async def test_reading_counts_in_the_step_in_which_an_outcome_is_taken(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=1, results=0) as workers:
        await workers.send(0)
        await trio.sleep(2)
        assert workers.results.receive_nowait().item == 0
        await workers.send(1)  # the worker has yet to notice


async def test_a_task_that_a_function_has_started_may_wait_to_send(autojump_clock: MockClock) -> None:
    book = Book()

    async def visit(item: int) -> None:
        if item < 3:
            nursery.start_soon(workers.send, item + 1)  # in the context of the worker, but not in its task
        await book.run(item)

    async with open_workers(visit, workers=1) as workers, trio.open_nursery() as nursery:
        await workers.send(0)
        await trio.sleep(4)
    assert book.ended == [0, 1, 2, 3]


async def test_a_worker_may_wait_to_send_while_another_works(autojump_clock: MockClock) -> None:
    entered = []

    async def visit(item: float) -> None:
        entered.append((item, trio.current_time()))
        await trio.sleep(item)
        if item == 1:
            await workers.send(0.5)

    async with open_workers(visit, workers=2) as workers:
        await workers.send(1)
        await workers.send(3)
        await workers.wait_drained()
    assert entered == [(1, 0), (3, 0), (0.5, 3)]


async def test_workers_that_wait_to_deliver_and_to_send_are_an_error_where_they_were_opened(
    autojump_clock: MockClock,
) -> None:
    async def visit(item: int) -> None:
        await trio.sleep(item)
        if item == 2:
            await workers.send(9)

    async with open_workers(visit, workers=2, results=0) as workers:
        await workers.send(1)
        await workers.send(2)
        with pytest.raises(RuntimeError, match="nobody has ever read one"):
            await workers.wait_drained()
        assert trio.current_time() == 2
        assert (await workers.results.receive()).item == 1


# --- errors ----------------------------------------------------------------------------------------------------------


async def test_the_first_error_leaves_bare_and_cancels_the_rest(autojump_clock: MockClock) -> None:
    cause = KeyError("cause")
    error = ValueError("first")
    error.__cause__ = cause
    book = Book(errors={1: error})
    with pytest.raises(ValueError, match="first") as caught:
        async with open_workers(book.run, workers=3, buffer=3) as workers:
            for item in range(6):
                await workers.send(item)
                await trio.sleep(0.3)
            raise AssertionError
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is None
    assert trio.current_time() == 1.3
    assert workers.unfinished == [2, 3, 4]
    assert sorted(book.broken_off) == [2, 3]
    statistics = workers.statistics()
    assert (statistics.accepted, statistics.succeeded, statistics.failed, statistics.unfinished) == (5, 1, 1, 3)
    assert statistics.last_error is error


async def test_of_errors_in_the_same_instant_the_first_leaves_and_the_others_are_undelivered(
    autojump_clock: MockClock,
) -> None:
    errors = {item: ValueError(item) for item in range(3)}
    together = trio.Event()

    async def fail(item: int) -> None:
        await together.wait()
        raise errors[item]

    with pytest.raises(ValueError, match=r"^[012]$") as caught:
        async with open_workers(fail) as workers:
            for item in range(3):
                await workers.send(item)
            await wait_all_tasks_blocked()
            together.set()
    others = {outcome.item: outcome.error for outcome in workers.undelivered}
    assert others == {item: error for item, error in errors.items() if error is not caught.value}
    assert workers.unfinished == []
    assert workers.statistics().failed == 3


async def test_an_error_raised_while_leaving_the_block_leaves_bare(autojump_clock: MockClock) -> None:
    error = ValueError(0)
    with pytest.raises(ValueError, match="0") as caught:
        async with open_workers(Book(errors={0: error}).run, workers=1, buffer=2) as workers:
            for item in range(3):
                await workers.send(item)
    assert caught.value is error
    assert workers.unfinished == [1, 2]


async def test_an_error_of_the_block_leaves_bare_and_cancels_at_once(autojump_clock: MockClock) -> None:
    error = KeyError("body")
    book = Book()
    with pytest.raises(KeyError) as caught:
        async with open_workers(book.run, workers=1, buffer=5, results=1) as workers:
            for item in range(4):
                await workers.send(item)
            await trio.sleep(1.5)
            raise error
    assert caught.value is error
    assert trio.current_time() == 1.5
    assert workers.unfinished == [1, 2, 3]
    assert [outcome.item for outcome in workers.undelivered] == [0]


async def test_an_error_of_a_worker_and_one_of_the_block_are_a_group_of_both(autojump_clock: MockClock) -> None:
    error, of_body = ValueError("worker"), KeyError("body")
    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_workers(Book(errors={0: error}).run) as workers:
            await workers.send(0)
            try:
                await trio.sleep_forever()
            finally:
                raise of_body
    assert caught.value.exceptions == (of_body, error)


async def test_a_cancelled_block_cancels_its_workers_at_once(autojump_clock: MockClock) -> None:
    book = Book()
    with trio.move_on_after(1.5) as scope:
        async with open_workers(book.run, workers=2) as workers:
            for item in range(9):
                await workers.send(item)
    assert scope.cancelled_caught
    assert trio.current_time() == 1.5
    assert workers.unfinished == [2, 3] == sorted(book.broken_off)


async def test_a_cancellation_while_the_rest_is_finished_cancels_the_workers(autojump_clock: MockClock) -> None:
    book = Book()
    with trio.move_on_after(2.5) as scope:
        async with open_workers(book.run, workers=1, buffer=9) as workers:
            for item in range(5):
                await workers.send(item)
    assert scope.cancelled_caught
    assert trio.current_time() == 2.5
    assert workers.unfinished == [2, 3, 4]


async def test_a_worker_that_is_cancelled_with_an_outcome_leaves_it_undelivered(autojump_clock: MockClock) -> None:
    with trio.move_on_after(5):
        async with open_workers(Book().run, workers=2, results=0, buffer=9) as workers:
            for item in range(5):
                await workers.send(item)
            await trio.sleep_forever()
    assert sorted(outcome.item for outcome in workers.undelivered) == [0, 1]
    assert workers.unfinished == [2, 3, 4]
    assert workers.statistics().delivering == 0


async def test_who_waits_to_send_is_rejected_when_the_workers_end_by_an_error(autojump_clock: MockClock) -> None:
    rejected: list[tuple[str, bool]] = []

    async def send(item: str) -> None:
        try:
            await workers.send(item)
        except PoolClosedError as exc:
            rejected.append((item, exc.started))

    book = Book(errors={0: ValueError(0)})
    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="0"):
            async with open_workers(book.run, workers=1) as workers:
                await workers.send(0)
                nursery.start_soon(send, "a")
                nursery.start_soon(send, "b")
                await trio.sleep_forever()
    assert sorted(rejected) == [("a", False), ("b", False)]
    assert book.entered == [0]
    assert workers.statistics().accepted == 1
    assert workers.statistics().rejected == 2


async def test_who_waits_to_send_is_rejected_in_the_instant_of_the_error(autojump_clock: MockClock) -> None:
    rejected: list[float] = []

    async def send(item: str) -> None:
        with pytest.raises(PoolClosedError):
            await workers.send(item)
        rejected.append(trio.current_time())
        with pytest.raises(PoolClosedError):
            workers.send_nowait(item)

    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="0"):
            async with open_workers(Book(errors={0: ValueError(0)}).run, workers=1) as workers:
                await workers.send(0)
                nursery.start_soon(send, "a")
                with trio.CancelScope(shield=True):
                    await trio.sleep(5)
    assert rejected == [1]


async def test_who_waits_to_send_is_rejected_when_the_block_is_cancelled(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            async with open_workers(Book().run, workers=1) as workers:
                await workers.send(0)

                async def rejected() -> None:
                    with pytest.raises(PoolClosedError):
                        await workers.send(1)

                nursery.start_soon(rejected)
                await trio.sleep_forever()
    assert workers.unfinished == [0]


async def test_collected_errors_are_outcomes_and_the_others_go_on(autojump_clock: MockClock) -> None:
    errors: dict[Any, BaseException] = {0: ValueError(0), 2: KeyError(2), 3: ExceptionGroup("3", [ValueError(3)])}
    async with open_workers(Book(errors=errors).run, workers=2, results=math.inf) as workers:
        for item in range(5):
            await workers.send(item)
        workers.close_admission()
        found = {outcome.item: outcome.error for outcome in await read_all(workers)}
    assert found == {0: errors[0], 1: None, 2: errors[2], 3: errors[3], 4: None}
    assert workers.statistics().failed == 3


async def test_workers_without_results_may_collect_and_count(autojump_clock: MockClock) -> None:
    error = ValueError(0)
    async with open_workers(Book(errors={0: error}).run, on_error="collect") as workers:
        await workers.send(0)
        await workers.send(1)
    statistics = workers.statistics()
    assert (statistics.succeeded, statistics.failed, statistics.last_error) == (1, 1, error)
    assert workers.undelivered == []


async def test_workers_with_results_may_raise(autojump_clock: MockClock) -> None:
    error = ValueError(1)
    with pytest.raises(ValueError, match="1") as caught:
        async with open_workers(Book(errors={1: error}).run, workers=1, results=5, on_error="raise") as workers:
            await workers.send(0)
            await workers.send(1)
            async for outcome in workers.results:
                assert outcome.item == 0
    assert caught.value is error
    assert workers.undelivered == []


@pytest.mark.parametrize("on_error", ["collect", "raise"])
async def test_a_function_that_is_not_async_is_raised_in_any_case(autojump_clock: MockClock, on_error: OnError) -> None:
    def wrong(item: int) -> int:
        return item

    with pytest.raises(TypeError, match="wrong must return something to await"):
        async with open_workers(wrong, on_error=on_error, results=1) as workers:  # type: ignore[arg-type, var-annotated]
            await workers.send(1)
            await trio.sleep_forever()


async def test_an_interrupt_ends_the_workers_and_its_item_is_unfinished(autojump_clock: MockClock) -> None:
    with pytest.raises(KeyboardInterrupt):
        async with open_workers(Book(errors={0: KeyboardInterrupt()}).run, results=3) as workers:
            await workers.send(0)
            await workers.wait_drained()
    assert workers.unfinished == [0]
    assert workers.undelivered == []


async def test_a_function_that_fails_when_cancelled_has_finished_its_item(autojump_clock: MockClock) -> None:
    async def stubborn(item: int) -> None:
        try:
            await trio.sleep_forever()
        except BaseException:
            raise OSError(item) from None

    with trio.move_on_after(1):
        async with open_workers(stubborn, results=5) as workers:
            await workers.send(1)
            await trio.sleep_forever()
    assert [str(outcome.error) for outcome in workers.undelivered] == ["1"]
    assert workers.unfinished == []


# --- policies --------------------------------------------------------------------------------------------------------


class Flaky:
    def __init__(self, failures: dict[Any, int]) -> None:
        self.failures = dict(failures)

    async def run(self, item: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if self.failures.get(item, 0):
            self.failures[item] -= 1
            raise OSError(item)
        return item


async def test_attempts_count_how_often_the_function_was_entered(autojump_clock: MockClock) -> None:
    retry = Retry(on=OSError, max_attempts=3, backoff=[0.5])
    async with open_workers(Flaky({1: 2, 2: 9}).run, workers=1, results=9, policy=retry) as workers:
        await send_all(workers, range(4))
        found = [(outcome.item, outcome.error is None, outcome.attempts) for outcome in await read_all(workers)]
    assert found == [(0, True, 1), (1, True, 3), (2, False, 3), (3, True, 1)]


async def test_an_item_that_a_policy_rejects_has_no_attempt_and_was_not_started(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(trip=trioresil.ConsecutiveFailures(1))
    async with open_workers(Flaky({0: 1}).run, workers=1, results=9, policy=breaker) as workers:
        await send_all(workers, range(2))
        first, second = await read_all(workers)
    assert (type(first.error), first.attempts) == (OSError, 1)
    assert isinstance(second.error, CircuitOpenError)
    assert (second.error.started, second.attempts) == (False, 0)


async def test_a_policy_sees_through_to_one_around_the_function(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker()
    breaker.isolate()
    retry = Retry(on=OSError, max_attempts=3)
    async with open_workers(breaker(Flaky({}).run), results=1, policy=retry) as workers:
        await workers.send(0)
        outcome = await workers.results.receive()
    assert isinstance(outcome.error, CircuitOpenError)
    assert outcome.error.started is False
    assert outcome.attempts == 1


async def test_items_reach_policies_as_they_are(autojump_clock: MockClock) -> None:
    made = []

    def make(key: str) -> TokenBucket:
        made.append(key)
        return TokenBucket(rate=1, capacity=1)

    async def other(item: str) -> str:
        return f"other {item}"

    pipeline = Pipeline(
        Fallback(other, on=OSError), Keyed(make, key=lambda item: item[0]), TokenBucket(rate=100, cost=len, capacity=9)
    )
    async with open_workers(Flaky({"b1": 1}).run, results=9, policy=pipeline) as workers:
        await send_all(workers, ["a1", "a2", "b1", "b2"])
        found = {outcome.item: (outcome.value, outcome.attempts) for outcome in await read_all(workers)}
    assert found == {"a1": ("a1", 1), "a2": ("a2", 1), "b1": ("other b1", 1), "b2": ("b2", 1)}
    assert made == ["a", "b"]
    assert trio.current_time() >= 1


async def test_a_chain_of_policies_is_built_once(autojump_clock: MockClock) -> None:
    class Counting(trioresil.abc.Policy):
        name = "counting"
        built = 0

        def link(self, inner: trioresil.abc.Link) -> trioresil.abc.Link:
            self.built += 1
            return inner

        def statistics(self) -> object:
            return None

    policy = Counting()
    async with open_workers(double, policy=policy) as workers:
        for item in range(30):
            await workers.send(item)
        workers.resize(20)
    assert policy.built == 1


async def test_workers_inside_of_workers_count_their_own_attempts(autojump_clock: MockClock) -> None:
    async def outer(item: int) -> list[int]:
        async with open_workers(Flaky({0: 1}).run, results=5, policy=retry) as inner:
            await send_all(inner, range(2))
            return sorted(outcome.attempts for outcome in await read_all(inner))

    retry = Retry(on=OSError, backoff=[0])
    async with open_workers(outer, results=5, policy=retry) as workers:
        await send_all(workers, range(2))
        assert [(outcome.value, outcome.attempts) for outcome in await read_all(workers)] == [([1, 2], 1)] * 2


async def test_a_time_out_bounds_each_item(autojump_clock: MockClock) -> None:
    async def sleep(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    async with open_workers(sleep, workers=1, results=5, policy=Timeout(2)) as workers:
        await send_all(workers, [1, 5, 1])
        found = [(outcome.value, type(outcome.error)) for outcome in await read_all(workers)]
    assert found == [(1, type(None)), (None, trioresil.TimedOutError), (1, type(None))]


# --- how many --------------------------------------------------------------------------------------------------------


async def test_more_workers_begin_at_once_on_what_waits(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_workers(book.run, workers=1, buffer=2) as workers, trio.open_nursery() as nursery:
        await start_in_order(nursery, *(functools.partial(workers.send, item) for item in range(6)))
        workers.resize(4)
        statistics = workers.statistics()
        assert (statistics.workers, statistics.busy, statistics.queued, statistics.sending) == (4, 4, 2, 0)
    assert trio.current_time() == 2
    assert book.entered[:1] == [0]
    assert sorted(book.entered[1:4]) == [1, 2, 3]


async def test_a_worker_too_many_finishes_its_item_and_retires(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_workers(book.run, workers=3, buffer=9) as workers:
        for item in range(9):
            await workers.send(item)
        await trio.sleep(0.5)
        workers.resize(1)
        assert (workers.statistics().workers, workers.statistics().busy) == (1, 3)
        await trio.sleep(1)
        assert workers.statistics().busy == 1
    assert book.broken_off == []
    assert len(book.ended) == 9
    assert trio.current_time() == 1 + 6


async def test_idle_workers_retire_at_once(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=3) as workers:
        tasks = trio.lowlevel.current_statistics().tasks_living
        for item in range(3):
            await workers.send(item)
        await trio.sleep(2)
        workers.resize(1)
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == tasks + 1
        await workers.send(3)
        with pytest.raises(trio.WouldBlock):
            workers.send_nowait(4)


async def test_a_retirement_is_undone_if_nobody_has_retired_yet(autojump_clock: MockClock) -> None:
    book = Book()
    async with open_workers(book.run, workers=2, buffer=9) as workers:
        for item in range(6):
            await workers.send(item)
        workers.resize(1)
        workers.resize(2)
    assert trio.current_time() == 3


async def test_retiring_the_last_that_worked_is_noticed_by_who_waits(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=2, results=1) as workers:
        await workers.send(0)
        await trio.sleep(0.5)
        await workers.send(1)
        workers.resize(1)
        with pytest.raises(RuntimeError, match="nobody has ever read one"):
            await workers.send(2)


async def test_workers_that_are_being_cancelled_lose_no_item_to_others(autojump_clock: MockClock) -> None:
    with trio.CancelScope() as scope:
        async with open_workers(Book().run, workers=1, buffer=5) as workers:
            for item in range(4):
                await workers.send(item)
            scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
            workers.resize(5)
            with pytest.raises(PoolClosedError):
                workers.send_nowait(4)
    assert workers.unfinished == [0, 1, 2, 3]


@asynccontextmanager
async def _shielded_in_cancelled(workers: open_workers[int, Any]) -> AsyncIterator[Workers[int, Any]]:
    """Open workers and give them an item, have them cancelled at 0.5, and let the body go on, shielded, for 50 s."""
    with trio.move_on_after(0.5) as outer:
        async with workers as opened:
            await opened.send(0)
            with trio.move_on_after(50, shield=True):
                yield opened
    assert outer.cancelled_caught
    assert trio.current_time() == 0.5
    assert opened.unfinished == [0]


async def test_who_waits_to_send_to_workers_that_were_cancelled_is_rejected_though_the_body_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with _shielded_in_cancelled(open_workers(Book().run, workers=1)) as workers:
        with pytest.raises(PoolClosedError):
            await workers.send(1)
        assert trio.current_time() == 0.5
        with pytest.raises(PoolClosedError):
            workers.send_nowait(2)


async def test_who_waits_for_workers_that_were_cancelled_goes_on_though_the_body_does(
    autojump_clock: MockClock,
) -> None:
    async with _shielded_in_cancelled(open_workers(Book().run, workers=1)) as workers:
        await workers.wait_drained()


async def test_the_results_of_workers_that_were_cancelled_end_though_the_body_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with _shielded_in_cancelled(open_workers(Book().run, workers=1, results=5)) as workers:
        assert [outcome async for outcome in workers.results] == []


@pytest.mark.parametrize("waits", ["reads", "drains", "sends"])
async def test_a_body_that_a_failing_worker_cancels_does_not_take_its_end_for_a_good_one(
    autojump_clock: MockClock, waits: str
) -> None:
    error = OSError("no route")

    async def fail(item: int) -> None:
        await trio.sleep(1)
        raise error

    with pytest.raises(OSError, match="no route") as caught:
        async with open_workers(fail, workers=1, results=5, on_error="raise") as workers:
            await workers.send(0)
            if waits == "reads":
                async for _ in workers.results:
                    raise AssertionError
            elif waits == "drains":
                await workers.wait_drained()
            else:
                await workers.send(1)
            raise AssertionError
    assert caught.value is error
    assert error.__context__ is None


async def test_a_function_that_waits_until_all_are_drained_is_an_error_instead_of_a_deadlock(
    autojump_clock: MockClock,
) -> None:
    async def wait(item: int) -> None:
        await workers.wait_drained()

    with pytest.raises(RuntimeError, match="would wait for itself to end"):
        async with open_workers(wait, on_error="collect") as workers:
            await workers.send(0)


async def test_leaving_results_to_a_clone_that_nobody_reads_is_an_error_instead_of_a_deadlock(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(RuntimeError, match="nobody has ever read one"):
        async with open_workers(Book().run, workers=1, results=1) as workers:
            clone = workers.results.clone()
            for item in range(2):
                await workers.send(item)
    assert trio.current_time() == 2
    assert [outcome.item for outcome in workers.undelivered] == [1]
    assert [outcome.item async for outcome in clone] == [0]


async def test_closing_a_receiver_twice_is_closing_it_once(autojump_clock: MockClock) -> None:
    with pytest.raises(RuntimeError, match="nobody has ever read one"):
        async with open_workers(Book().run, workers=1, results=1) as workers:
            clone = workers.results.clone()
            for _ in range(2):
                clone.close()
            for item in range(5):
                await workers.send(item)
    assert [outcome.item for outcome in workers.undelivered] == [0, 1]


# --- progress --------------------------------------------------------------------------------------------------------


async def test_progress_is_told_at_once_then_at_most_ten_times_a_second_and_at_the_end(
    autojump_clock: MockClock,
) -> None:
    told: list[tuple[float, trioresil.Progress]] = []
    await trio.sleep(4)
    async with open_workers(
        Book(1 / 32).run, workers=1, progress=lambda progress: told.append((trio.current_time(), progress))
    ) as workers:
        for item in range(8):
            await workers.send(item)
        assert trio.current_time() == 4 + 7 / 32
        await trio.sleep(1)
    assert [(when, progress.done, progress.total) for when, progress in told] == [
        (4 + 1 / 32, 1, 2),
        (4 + 1 / 32 + 0.1, 4, 5),
        (4 + 1 / 32 + 0.1 + 0.1, 7, 8),
        (4 + 1 / 32 + 0.1 + 0.1 + 0.1, 8, 8),
    ]
    assert told[0][1].rate == 32
    assert told[0][1].eta == 1 / 32


async def test_the_last_progress_is_told_when_the_block_has_ended(autojump_clock: MockClock) -> None:
    told: list[int] = []
    async with open_workers(Book(0.01).run, workers=1, progress=lambda progress: told.append(progress.done)) as workers:
        for item in range(5):
            await workers.send(item)
    assert told == [1, 5]


async def test_no_progress_is_told_twice(autojump_clock: MockClock) -> None:
    told: list[int] = []
    async with open_workers(Book().run, workers=1, progress=lambda progress: told.append(progress.done)) as workers:
        await workers.send(0)
        await trio.sleep(5)
        assert told == [1]
        await workers.send(1)
        await trio.sleep(5)
    assert told == [1, 2]


async def test_progress_that_raises_is_logged_once_and_stops_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def raises(progress: trioresil.Progress) -> None:
        raise ValueError("no terminal")

    book = Book()
    async with open_workers(book.run, workers=1, progress=raises) as workers:
        for item in range(3):
            await workers.send(item)
    assert book.ended == [0, 1, 2]
    assert len(caplog.records) == 1
    assert "the progress callback" in caplog.text
    assert "no terminal" in caplog.text


# --- around it -------------------------------------------------------------------------------------------------------


async def test_which_forms_are_checkpoints(autojump_clock: MockClock) -> None:
    async with open_workers(double, results=9, buffer=1) as workers:
        with assert_checkpoints():
            await workers.send(1)
        with assert_no_checkpoints():
            workers.send_nowait(2)
            workers.resize(3)
        with assert_checkpoints():
            await workers.wait_drained()
        with assert_checkpoints():
            await workers.wait_drained()
        with assert_checkpoints():
            await workers.results.receive()
        workers.close_admission()
        with pytest.raises(PoolClosedError), assert_checkpoints():
            await workers.send(1)
        with assert_checkpoints():
            await workers.results.aclose()


async def test_opening_is_no_checkpoint() -> None:
    manager = open_workers(double)
    with assert_no_checkpoints():
        workers = await manager.__aenter__()
    assert workers.statistics().workers == 10
    await manager.__aexit__(None, None, None)


async def test_a_function_without_checkpoints_lets_others_run(autojump_clock: MockClock) -> None:
    async def at_once(item: int) -> int:
        return item

    async with open_workers(at_once, workers=1, buffer=math.inf) as workers:
        for item in range(100):
            workers.send_nowait(item)
        before = workers.statistics().succeeded
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert workers.statistics().succeeded - before <= 2


async def test_nothing_is_entered_after_the_cancellation(autojump_clock: MockClock) -> None:
    entered = []

    async def at_once(item: int) -> None:
        entered.append(item)

    with trio.CancelScope() as scope:
        async with open_workers(at_once, workers=2, buffer=9) as workers:
            for item in range(5):
                workers.send_nowait(item)
            scope.cancel()
    assert entered == []
    assert workers.unfinished == [0, 1, 2, 3, 4]


async def test_functions_run_in_the_context_of_the_opener(autojump_clock: MockClock) -> None:
    who: ContextVar[str] = ContextVar("who")
    found = []

    async def look(item: int) -> None:
        found.append(who.get())

    async def send_from_elsewhere() -> None:
        who.set("sender")
        await workers.send(1)

    who.set("opener")
    async with open_workers(look) as workers, trio.open_nursery() as nursery:
        who.set("body")
        nursery.start_soon(send_from_elsewhere)
    assert found == ["opener"]


async def test_workers_must_be_left_in_the_task_that_opened_them(autojump_clock: MockClock) -> None:
    manager = open_workers(double, name="mine")
    await manager.__aenter__()
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            with pytest.raises(RuntimeError, match="mine must be left in the task that opened it"):
                await manager.__aexit__(None, None, None)

        nursery.start_soon(leave)
    await manager.__aexit__(None, None, None)


async def test_workers_are_opened_once(autojump_clock: MockClock) -> None:
    manager = open_workers(double, name="mine")
    async with manager as workers:
        with pytest.raises(RuntimeError, match="mine was opened already"):
            async with manager:
                pass
        await workers.send(1)
    with pytest.raises(RuntimeError, match="mine was opened already"):
        async with manager:
            pass


async def test_another_run_is_refused(autojump_clock: MockClock) -> None:
    problems: list[BaseException] = []

    async def elsewhere(workers: Workers[int, int]) -> None:
        for call in (workers.send, workers.send_nowait, workers.resize):
            try:
                result = call(1)
                if result is not None:
                    await result
            except RuntimeError as exc:
                problems.append(exc)

    async with open_workers(double) as workers:
        thread = threading.Thread(target=trio.run, args=(elsewhere, workers))
        thread.start()
        thread.join()
    assert len(problems) == 3
    assert all("in use in another trio.run" in str(problem) for problem in problems)


async def test_serve_workers_keeps_them_until_it_is_cancelled(autojump_clock: MockClock) -> None:
    book = Book()
    async with trio.open_nursery() as nursery:
        workers = await nursery.start(functools.partial(serve_workers, book.run, workers=2, name="served"))
        assert workers.name == "served"
        await workers.send(0)
        await trio.sleep(2)
        await workers.send(1)
        await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    assert book.ended == [0]
    assert workers.unfinished == [1]


async def test_serve_workers_raises_the_first_error_bare(autojump_clock: MockClock) -> None:
    error = ValueError(0)

    async def serve(task_status: Any) -> None:
        with pytest.raises(ValueError, match="0") as caught:
            await serve_workers(Book(errors={0: error}).run, task_status=task_status)
        assert caught.value is error

    async with trio.open_nursery() as nursery:
        workers = await nursery.start(serve)
        await workers.send(0)


async def test_repr_is_a_status_line(autojump_clock: MockClock) -> None:
    async with open_workers(Book().run, workers=2, buffer=1, name="store") as workers, trio.open_nursery() as nursery:
        assert repr(workers) == "<trioresil.Workers 'store' 0/2 busy, 0 queued, 0 sending>"
        await start_in_order(nursery, *(functools.partial(workers.send, item) for item in range(5)))
        assert repr(workers) == "<trioresil.Workers 'store' 2/2 busy, 1 queued, 2 sending>"
        workers.close_admission()
        assert repr(workers) == "<trioresil.Workers 'store' 2/2 busy, 1 queued, 2 sending, closed>"


async def test_the_repr_of_cancelled_workers_tells_what_is_unfinished(autojump_clock: MockClock) -> None:
    with trio.move_on_after(0.5):
        async with open_workers(Book().run, workers=2, buffer=3, name="store") as workers:
            for item in range(4):
                workers.send_nowait(item)
            await trio.sleep_forever()
    assert repr(workers) == "<trioresil.Workers 'store' 0/2 busy, 4 unfinished, closed>"


def test_statistics_and_repr_work_outside_of_a_run() -> None:
    async def main() -> Workers[int, int]:
        async with open_workers(double) as workers:
            await workers.send(1)
        return workers

    workers = trio.run(main)
    assert repr(workers) == "<trioresil.Workers 'workers' 0/10 busy, 0 queued, 0 sending, closed>"
    assert workers.statistics() == trioresil.WorkersStatistics(
        name="workers",
        workers=10,
        busy=0,
        delivering=0,
        queued=0,
        sending=0,
        accepted=1,
        succeeded=1,
        failed=0,
        unfinished=0,
        undelivered=0,
        rejected=0,
        last_error=None,
        closed=True,
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"workers": 0}, ValueError, "workers must be a whole number >= 1, not 0"),
        ({"workers": math.inf}, TypeError, "workers must be a whole number >= 1, not inf"),
        ({"buffer": -1}, ValueError, "buffer must be a whole number >= 0 or math.inf, not -1"),
        ({"results": -1}, ValueError, "results must be a whole number >= 0 or math.inf, not -1"),
        ({"results": True}, TypeError, "results must be a whole number >= 0 or math.inf, not True"),
        ({"policy": "retry"}, TypeError, "policy must be a policy .*, or None, not 'retry'"),
        ({"on_error": "ignore"}, ValueError, "on_error must be 'collect' or 'raise', not 'ignore'"),
        ({"progress": 5}, TypeError, r"progress must be a function \(Progress\) -> None, not 5"),
        ({"progress": double}, TypeError, "progress must be a plain function"),
        ({"name": ""}, ValueError, "name must be a string with at least one character"),
        ({"async_fn": None}, TypeError, "an async function is wanted, not None"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_workers(**{"async_fn": double, **options})


async def test_resize_refuses_what_is_no_size(autojump_clock: MockClock) -> None:
    async with open_workers(double) as workers:
        with pytest.raises(ValueError, match="workers must be a whole number >= 1, not 0"):
            workers.resize(0)


async def test_a_send_that_has_room_is_one_schedule_point(autojump_clock: MockClock) -> None:
    async with open_workers(double, results=9) as workers:
        assert await schedule_points(functools.partial(workers.send, 1)) == 1
