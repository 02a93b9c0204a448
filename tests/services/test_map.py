"""map_concurrently: what is taken when, in which order outcomes come, and where each item is afterwards."""

from __future__ import annotations

import gc
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

import trioresil
from tests.services._items import Book
from trioresil import ConcurrentMap, Outcome, PolicySeen, Progress, Retry, map_concurrently
from trioresil.testing import Recorder


async def sleep(seconds: float) -> float:
    await trio.sleep(seconds)
    return 10 * seconds


async def double(item: int) -> int:
    return 2 * item


class Source:
    """Items from an iterator of either kind, which notes how many were taken and may end with an error."""

    def __init__(self, count: float, error: Exception | None = None) -> None:
        self.count = count
        self.error = error
        self.taken = 0

    def items(self) -> Iterator[int]:
        while self.taken < self.count:
            self.taken += 1
            yield self.taken - 1
        if self.error is not None:
            raise self.error

    async def items_async(self) -> AsyncIterator[int]:
        for item in self.items():
            await trio.sleep(0.25)
            yield item


# --- outcomes out ----------------------------------------------------------------------------------------------------


async def test_outcomes_come_as_they_end(autojump_clock: MockClock) -> None:
    async with map_concurrently(sleep, [3, 1, 2, 4], workers=3) as outcomes:
        found = [(outcome.item, outcome.value, trio.current_time()) async for outcome in outcomes]
    assert found == [(1, 10, 1), (2, 20, 2), (3, 30, 3), (4, 40, 5)]


async def test_outcomes_come_in_the_order_of_the_items_if_asked(autojump_clock: MockClock) -> None:
    async with map_concurrently(sleep, [3, 1, 2, 4, 1], workers=3, ordered=True) as outcomes:
        found = [(outcome.item, outcome.value, trio.current_time()) async for outcome in outcomes]
    assert found == [(3, 30, 3), (1, 10, 3), (2, 20, 3), (4, 40, 5), (1, 10, 5)]


@pytest.mark.parametrize("ordered", [False, True])
async def test_every_item_is_run_once(autojump_clock: MockClock, ordered: bool) -> None:
    book = Book()
    async with map_concurrently(book.run, range(100), workers=7, ordered=ordered) as outcomes:
        found = [outcome.item async for outcome in outcomes]
    assert sorted(book.entered) == sorted(found) == list(range(100))
    assert ordered is False or found == list(range(100))
    assert book.most == 7
    assert trio.current_time() == 15


@pytest.mark.parametrize("ordered", [False, True])
async def test_at_most_twice_as_many_items_as_workers_are_taken_ahead_of_the_reader(
    autojump_clock: MockClock, ordered: bool
) -> None:
    source = Source(math.inf)
    async with map_concurrently(double, source.items(), workers=3, ordered=ordered) as outcomes:
        for read in range(20):
            await wait_all_tasks_blocked()
            assert source.taken == 6 + read
            await anext(outcomes)


async def test_a_slow_item_holds_up_the_others_only_at_the_limit_if_the_order_is_kept(
    autojump_clock: MockClock,
) -> None:
    source = Source(math.inf)

    async def first_is_slow(item: int) -> int:
        await trio.sleep(0 if item else 10)
        return item

    async with map_concurrently(first_is_slow, source.items(), workers=2, ordered=True) as outcomes:
        assert (await anext(outcomes)).item == 0
        assert trio.current_time() == 10
        assert source.taken == 4
        assert [(await anext(outcomes)).item for _ in range(3)] == [1, 2, 3]
        assert trio.current_time() == 10


@pytest.mark.parametrize("ordered", [False, True])
async def test_items_may_be_async(autojump_clock: MockClock, ordered: bool) -> None:
    async with map_concurrently(Book().run, Source(6).items_async(), workers=2, ordered=ordered) as outcomes:
        found = [(outcome.item, trio.current_time()) async for outcome in outcomes]
    assert found == [(0, 1.25), (1, 1.5), (2, 2.25), (3, 2.5), (4, 3.25), (5, 3.5)]


async def test_an_async_iterable_that_is_less_than_an_iterator_is_enough(autojump_clock: MockClock) -> None:
    class Next:
        left = 3

        async def __anext__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return self.left

    class Items:
        def __aiter__(self) -> Any:
            return Next()

    async with map_concurrently(double, Items(), workers=1) as outcomes:
        assert [outcome.value async for outcome in outcomes] == [4, 2, 0]


@pytest.mark.parametrize("items", [[], iter(()), Source(0).items_async()])
async def test_no_items_are_no_outcomes(autojump_clock: MockClock, items: Any) -> None:
    async with map_concurrently(double, items) as outcomes:
        assert [outcome async for outcome in outcomes] == []
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)


async def test_several_tasks_may_read(autojump_clock: MockClock) -> None:
    found: list[int] = []

    async def read() -> None:
        async for outcome in outcomes:
            found.append(outcome.item)
            await trio.sleep(1)

    async with map_concurrently(double, range(20), workers=3) as outcomes, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read)
    assert sorted(found) == list(range(20))


async def test_a_cancelled_read_has_read_nothing(autojump_clock: MockClock) -> None:
    async with map_concurrently(sleep, [1, 2], workers=1) as outcomes:
        with trio.move_on_after(0.5):
            await anext(outcomes)
        assert [outcome.item async for outcome in outcomes] == [1, 2]


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [False, True])
async def test_leaving_early_cancels_the_rest_and_accounts_for_every_item(
    autojump_clock: MockClock, ordered: bool
) -> None:
    source = Source(math.inf)
    items = source.items()
    async with map_concurrently(sleep, (each + 1 for each in items), workers=3, ordered=ordered) as outcomes:
        read = [(await anext(outcomes)).item, (await anext(outcomes)).item]
        await trio.sleep(1.5)
    assert trio.current_time() == 3.5
    assert read == [1, 2]
    assert sorted(outcome.item for outcome in outcomes.undelivered) == [3]
    assert outcomes.unfinished == [4, 5, 6, 7, 8]
    assert next(items) == 8  # the rest is still there
    statistics = outcomes.statistics()
    assert (statistics.taken, statistics.succeeded, statistics.unfinished, statistics.read) == (8, 3, 5, 2)
    with pytest.raises(trio.ClosedResourceError):
        await anext(outcomes)


async def test_outcomes_that_came_too_early_are_undelivered(autojump_clock: MockClock) -> None:
    async with map_concurrently(sleep, [9, 1, 2], ordered=True):
        await trio.sleep(5)
    assert trio.current_time() == 5


async def test_unread_outcomes_are_undelivered_in_order(autojump_clock: MockClock) -> None:
    async with map_concurrently(sleep, [1, 9, 2, 3], ordered=True) as outcomes:
        await trio.sleep(5)
        assert outcomes.statistics().unread == 3
    assert [outcome.item for outcome in outcomes.undelivered] == [1, 2, 3]
    assert outcomes.unfinished == [9]


async def test_an_error_of_the_block_leaves_bare_and_at_once(autojump_clock: MockClock) -> None:
    error = KeyError("body")
    with pytest.raises(KeyError) as caught:
        async with map_concurrently(sleep, [1, 2, 3]) as outcomes:
            async for _ in outcomes:
                raise error
    assert caught.value is error
    assert trio.current_time() == 1
    assert outcomes.unfinished == [2, 3]


async def test_a_cancelled_block_cancels_at_once(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1.5) as scope:
        async with map_concurrently(sleep, [1, 2, 3]) as outcomes:
            async for _ in outcomes:
                pass
    assert scope.cancelled_caught
    assert trio.current_time() == 1.5
    assert outcomes.unfinished == [2, 3]


# --- errors ----------------------------------------------------------------------------------------------------------


async def test_errors_are_outcomes(autojump_clock: MockClock) -> None:
    error = ValueError(1)
    async with map_concurrently(Book(errors={1: error}).run, range(3), ordered=True) as outcomes:
        found = [outcome async for outcome in outcomes]
    assert found == [Outcome(0, "0!", None, 1), Outcome(1, None, error, 1), Outcome(2, "2!", None, 1)]
    assert outcomes.statistics().last_error is error
    assert outcomes.statistics().failed == 1


@pytest.mark.parametrize("ordered", [False, True])
async def test_the_first_error_leaves_bare_if_asked(autojump_clock: MockClock, ordered: bool) -> None:
    async def fail(seconds: float) -> float:
        await trio.sleep(seconds)
        if seconds == 2:
            raise error
        return seconds

    error = ValueError("first")
    with pytest.raises(ValueError, match="first") as caught:
        async with map_concurrently(fail, [2, 1, 3], ordered=ordered, on_error="raise") as outcomes:
            async for outcome in outcomes:
                assert outcome.item == 1
    assert caught.value is error
    assert trio.current_time() == 2
    assert outcomes.unfinished == [3]
    assert [outcome.item for outcome in outcomes.undelivered] == ([1] if ordered else [])


async def test_a_mistake_is_raised_even_if_errors_are_collected(autojump_clock: MockClock) -> None:
    def wrong(item: int) -> int:
        return item

    with pytest.raises(TypeError, match="wrong must return something to await"):
        async with map_concurrently(wrong, range(9)) as outcomes:  # type: ignore[arg-type, var-annotated]
            async for _ in outcomes:
                raise AssertionError


@pytest.mark.parametrize("kind", [Source.items, Source.items_async])
@pytest.mark.parametrize("ordered", [False, True])
async def test_an_error_of_the_items_comes_after_the_outcomes_bare(
    autojump_clock: MockClock, kind: Callable[[Source], Any], ordered: bool
) -> None:
    cause, error = KeyError("cause"), OSError("the file is broken")
    error.__cause__ = cause
    found = []
    with pytest.raises(OSError, match="broken") as caught:
        async with map_concurrently(Book().run, kind(Source(5, error)), workers=2, ordered=ordered) as outcomes:
            async for outcome in outcomes:
                found.append(outcome.item)  # noqa: PERF401 - an error ends it
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is None
    assert outcomes.unfinished == outcomes.undelivered == []


async def test_an_error_of_the_items_is_met_once(autojump_clock: MockClock) -> None:
    error = OSError("broken")
    async with map_concurrently(double, Source(1, error).items()) as outcomes:
        assert (await anext(outcomes)).item == 0
        with pytest.raises(OSError, match="broken"):
            await anext(outcomes)
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)


async def test_an_error_of_the_items_that_the_block_has_not_met_comes_out_of_it(autojump_clock: MockClock) -> None:
    error = OSError("broken")
    with pytest.raises(OSError, match="broken") as caught:
        async with map_concurrently(double, Source(1, error).items()) as outcomes:
            await anext(outcomes)
    assert caught.value is error
    assert error.__context__ is None


async def test_an_error_of_the_block_and_an_unmet_one_of_the_items_are_a_group(autojump_clock: MockClock) -> None:
    of_body, of_items = KeyError("body"), OSError("broken")
    with pytest.raises(ExceptionGroup) as caught:
        async with map_concurrently(double, Source(1, of_items).items()) as outcomes:
            await anext(outcomes)
            raise of_body
    assert caught.value.exceptions == (of_body, of_items)


async def test_an_error_that_the_items_raise_when_they_are_cancelled_comes_out(autojump_clock: MockClock) -> None:
    error = OSError("could not close the file")

    async def items() -> AsyncIterator[int]:
        yield 1
        try:
            await trio.sleep_forever()
        finally:
            raise error

    with pytest.raises(OSError, match="could not close") as caught:
        async with map_concurrently(double, items()) as outcomes:
            await anext(outcomes)
    assert caught.value is error


async def test_no_worker_is_made_for_an_item_that_comes_when_another_has_failed(autojump_clock: MockClock) -> None:
    class Spawned(trio.abc.Instrument):
        def __init__(self) -> None:
            self.workers = 0

        def task_spawned(self, task: trio.lowlevel.Task) -> None:
            self.workers += task.name == "map: worker"

    async def items() -> AsyncIterator[int]:
        yield 1
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        yield 2

    async def fail(item: int) -> None:
        raise OSError(item)

    spawned = Spawned()
    trio.lowlevel.add_instrument(spawned)
    with pytest.raises(OSError, match="1"):
        async with map_concurrently(fail, items(), workers=2, on_error="raise") as outcomes:
            await trio.sleep_forever()
    trio.lowlevel.remove_instrument(spawned)
    assert spawned.workers == 1
    assert outcomes.unfinished == [2]


async def test_nothing_is_taken_after_the_cancellation(autojump_clock: MockClock) -> None:
    items = iter(range(9))
    async with map_concurrently(double, items) as outcomes:
        pass
    assert next(items) == 0
    assert outcomes.unfinished == []


async def test_items_without_end_can_be_cancelled_between_any_two(autojump_clock: MockClock) -> None:
    def items() -> Iterator[int]:
        for item in range(20):
            if item == 3:
                scope.cancel()
            yield item

    with trio.CancelScope() as scope:
        async with map_concurrently(double, items(), workers=10) as outcomes:
            await trio.sleep_forever()
    assert outcomes.unfinished == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [1, 5])
async def test_the_outcomes_of_workers_that_were_cancelled_end_though_the_body_goes_on(
    autojump_clock: MockClock, workers: int
) -> None:
    with trio.move_on_after(0.5):
        async with map_concurrently(Book().run, range(3), workers=workers) as outcomes:
            with trio.move_on_after(50, shield=True):
                assert [outcome async for outcome in outcomes] == []
    assert trio.current_time() == 0.5
    assert outcomes.unfinished == [*range(min(3, 2 * workers))]


async def test_outcomes_end_if_no_item_had_come_before_the_cancellation(autojump_clock: MockClock) -> None:
    async def items() -> AsyncIterator[int]:
        await trio.sleep_forever()
        yield 1

    with trio.move_on_after(0.5):
        async with map_concurrently(double, items()) as outcomes:
            with trio.move_on_after(50, shield=True):
                assert [outcome async for outcome in outcomes] == []
    assert trio.current_time() == 0.5


async def test_a_reader_whom_a_failing_function_cancels_does_not_see_an_end(autojump_clock: MockClock) -> None:
    error = OSError("no route")

    async def fail(item: int) -> None:
        await trio.sleep(1)
        raise error

    with pytest.raises(OSError, match="no route") as caught:
        async with map_concurrently(fail, [1], on_error="raise") as outcomes:
            async for _ in outcomes:
                raise AssertionError
            raise AssertionError
    assert caught.value is error
    assert error.__context__ is None


# --- resizing ----------------------------------------------------------------------------------------------------------


async def test_more_workers_begin_at_once(autojump_clock: MockClock) -> None:
    async with map_concurrently(Book().run, range(8), workers=1) as outcomes:
        await trio.sleep(0.5)
        outcomes.resize(4)
        await wait_all_tasks_blocked()
        assert outcomes.statistics().workers == outcomes.statistics().busy == 4
        assert outcomes.statistics().taken == 8
        ended = [(outcome.item, trio.current_time()) async for outcome in outcomes]
    assert sorted(ended) == [(0, 1), (1, 1.5), (2, 1.5), (3, 1.5), (4, 2), (5, 2.5), (6, 2.5), (7, 2.5)]


async def test_a_worker_too_many_finishes_its_item(autojump_clock: MockClock) -> None:
    async with map_concurrently(Book().run, range(6), workers=4, ordered=True) as outcomes:
        await trio.sleep(0.5)
        outcomes.resize(1)
        ended = [(outcome.item, trio.current_time()) async for outcome in outcomes]
    assert ended == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 3)]


async def test_fewer_workers_take_fewer_items_ahead(autojump_clock: MockClock) -> None:
    async with map_concurrently(Book().run, range(100), workers=10) as outcomes:
        await trio.sleep(5)
        assert outcomes.statistics().taken == 20
        outcomes.resize(1)
        for _ in range(18):
            await anext(outcomes)
        await trio.sleep(5)
        assert outcomes.statistics().taken == 20
        await anext(outcomes)
        await trio.sleep(5)
        assert outcomes.statistics().taken == 21


async def test_resize_refuses_what_is_no_size(autojump_clock: MockClock) -> None:
    async with map_concurrently(double, [1]) as outcomes:
        with pytest.raises(ValueError, match="workers must be a whole number >= 1, not 0"):
            outcomes.resize(0)
        assert outcomes.statistics().workers == 10


def test_another_run_cannot_resize() -> None:
    async def opened() -> ConcurrentMap[int, int]:
        async with map_concurrently(double, [1]) as outcomes:
            return outcomes

    async def resize(outcomes: ConcurrentMap[int, int]) -> None:
        with pytest.raises(RuntimeError, match="'map'"):
            outcomes.resize(2)

    trio.run(resize, trio.run(opened))


async def test_an_unmet_error_of_the_items_and_one_of_a_function_are_a_group(autojump_clock: MockClock) -> None:
    of_items, of_item = OSError("items"), ValueError("item")

    async def stubborn(item: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise of_item

    with pytest.raises(ExceptionGroup) as caught:
        async with map_concurrently(stubborn, Source(1, of_items).items(), on_error="raise"):
            await trio.sleep(1)
    assert set(caught.value.exceptions) == {of_items, of_item}


async def test_items_that_cannot_be_begun_leave_no_task(autojump_clock: MockClock) -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise ValueError("cannot begin")

    tasks = trio.lowlevel.current_statistics().tasks_living
    with pytest.raises(ValueError, match="cannot begin"):
        async with map_concurrently(double, Broken()):
            raise AssertionError
    assert trio.lowlevel.current_statistics().tasks_living == tasks


# --- around it -------------------------------------------------------------------------------------------------------


async def test_policies_go_around_each_item(autojump_clock: MockClock) -> None:
    failures = {1: 2}

    async def flaky(item: int) -> int:
        await trio.lowlevel.checkpoint()
        if failures.get(item, 0):
            failures[item] -= 1
            raise OSError
        return item

    retry = Retry(on=OSError, backoff=[1])
    async with map_concurrently(flaky, range(3), policy=retry, ordered=True) as outcomes:
        assert [(outcome.value, outcome.attempts) async for outcome in outcomes] == [(0, 1), (1, 3), (2, 1)]


async def test_an_async_generator_runs_in_one_task_and_is_not_closed(autojump_clock: MockClock) -> None:
    tasks, closed = set(), []

    async def generate() -> AsyncIterator[int]:
        try:
            for item in range(100):
                tasks.add(trio.lowlevel.current_task())
                yield item
        finally:
            closed.append(True)

    items = generate()
    async with map_concurrently(double, items, workers=4) as outcomes:
        for _ in range(10):
            await anext(outcomes)
    assert len(tasks) == 1
    assert not closed
    assert await anext(items) == outcomes.statistics().taken
    await items.aclose()  # type: ignore[attr-defined]


async def test_the_total_is_known_where_the_items_know_it(autojump_clock: MockClock) -> None:
    told: list[Progress] = []
    async with map_concurrently(Book().run, range(3), workers=1, progress=told.append) as outcomes:
        async for _ in outcomes:
            pass
    assert told == [
        Progress(done=1, total=3, rate=1.0, eta=2.0),
        Progress(done=2, total=3, rate=1.0, eta=1.0),
        Progress(done=3, total=3, rate=1.0, eta=0.0),
    ]


async def test_the_total_is_known_at_the_latest_when_there_is_no_further_item(autojump_clock: MockClock) -> None:
    told: list[Progress] = []
    async with map_concurrently(Book().run, Source(4).items(), workers=1, progress=told.append) as outcomes:
        assert repr(outcomes) == "<trioresil.ConcurrentMap 'map' 0/1 busy, 0/? read, 0 unread>"
        async for _ in outcomes:
            pass
    assert [(each.done, each.total) for each in told] == [(1, None), (2, None), (3, None), (3, 4), (4, 4)]


async def test_that_there_are_no_more_items_is_progress_too(autojump_clock: MockClock) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        await trio.sleep(5)

    told: list[Progress] = []
    async with map_concurrently(double, items(), progress=told.append) as outcomes:
        async for _ in outcomes:
            pass
    assert [(each.done, each.total) for each in told] == [(1, None), (1, 1)]


async def test_the_last_progress_is_told_at_the_end(autojump_clock: MockClock) -> None:
    told: list[Progress] = []
    async with map_concurrently(Book(1 / 64).run, range(4), workers=1, progress=told.append) as outcomes:
        async for _ in outcomes:
            pass
    assert [each.done for each in told] == [1, 4]


async def test_reading_is_a_checkpoint(autojump_clock: MockClock) -> None:
    manager = map_concurrently(double, range(3))
    with assert_no_checkpoints():
        outcomes = await manager.__aenter__()
    await wait_all_tasks_blocked()
    for _ in range(3):
        with assert_checkpoints():
            await anext(outcomes)
    with assert_checkpoints():
        await manager.__aexit__(None, None, None)


async def test_an_instrument_is_told_of_it(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with map_concurrently(double, range(3), name="doubled") as outcomes:
            pass
    assert [(event.policy, event.name) for event in recorder.of(PolicySeen)] == [(outcomes, "doubled")]


async def test_statistics_and_repr_tell_how_it_stands(autojump_clock: MockClock) -> None:
    async with map_concurrently(sleep, [1, 2, 3, 4, 5], workers=2, name="naps") as outcomes:
        await trio.sleep(1.5)
        assert outcomes.statistics() == trioresil.ConcurrentMapStatistics(
            name="naps",
            workers=2,
            busy=2,
            taken=4,
            succeeded=1,
            failed=0,
            unfinished=3,
            unread=1,
            read=0,
            last_error=None,
        )
        assert outcomes.unfinished == [2, 3, 4]
        assert repr(outcomes) == "<trioresil.ConcurrentMap 'naps' 2/2 busy, 0/5 read, 1 unread>"
        await anext(outcomes)
        assert (outcomes.statistics().unread, outcomes.statistics().read) == (0, 1)


async def test_a_map_is_opened_once_and_left_where_it_was_opened(autojump_clock: MockClock) -> None:
    manager = map_concurrently(double, range(3))
    async with manager, trio.open_nursery() as nursery:
        with pytest.raises(RuntimeError, match="map was opened already"):
            await manager.__aenter__()

        async def leave() -> None:
            with pytest.raises(RuntimeError, match="map must be left in the task that opened it"):
                await manager.__aexit__(None, None, None)

        nursery.start_soon(leave)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"items": 5}, TypeError, "items must be an iterable or an async iterable, not 5"),
        ({"workers": 0}, ValueError, "workers must be a whole number >= 1, not 0"),
        ({"ordered": 1}, TypeError, "ordered must be True or False, not 1"),
        ({"policy": 5}, TypeError, "policy must be a policy"),
        ({"on_error": None}, ValueError, "on_error must be 'collect' or 'raise', not None"),
        ({"progress": 5}, TypeError, "progress must be a function"),
        ({"name": 5}, TypeError, "name must be a string"),
        ({"async_fn": 5}, TypeError, "an async function is wanted, not 5"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        map_concurrently(**{"async_fn": double, "items": [], **options})


@pytest.mark.parametrize("on_error", ["collect", "raise"])
async def test_errors_leave_no_garbage_in_cycles(autojump_clock: MockClock, on_error: Any) -> None:
    async def fail(item: int) -> None:
        raise ValueError(item)

    async def main() -> None:
        try:
            async with map_concurrently(fail, range(20), workers=2, on_error=on_error) as outcomes:
                async for _ in outcomes:
                    pass
        except ValueError:
            pass

    await main()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            await main()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [each for each in gc.garbage if isinstance(each, ValueError)]
        assert len(found) <= 3  # the last_error of each
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
