"""Bulkhead: its forms, its queue and refusals, nesting, shared limiters, live limits, draining."""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

import trioresil
from tests._limits import notices_cancellation, schedule_points, start_in_order
from trioresil import Bulkhead, BulkheadFullError, Pipeline, Timeout
from trioresil.testing import Recorder

Work = Callable[[], Awaitable[Any]]


async def nothing() -> None:
    pass


async def acquire(bulkhead: Bulkhead, work: Work = nothing) -> None:
    await bulkhead.acquire()
    try:
        await work()
    finally:
        bulkhead.release()


async def acquire_nowait(bulkhead: Bulkhead, work: Work = nothing) -> None:
    bulkhead.acquire_nowait()
    try:
        await work()
    finally:
        bulkhead.release()


async def block(bulkhead: Bulkhead, work: Work = nothing) -> None:
    async with bulkhead:
        await work()


async def call(bulkhead: Bulkhead, work: Work = nothing) -> None:
    await bulkhead.call(work)


async def decorated(bulkhead: Bulkhead, work: Work = nothing) -> None:
    await bulkhead(work)()


async def bound(bulkhead: Bulkhead, work: Work = nothing) -> None:
    await bulkhead.bind(work)()


async def piped(bulkhead: Bulkhead, work: Work = nothing) -> None:
    await Pipeline(bulkhead).call(work)


async def piped_block(bulkhead: Bulkhead, work: Work = nothing) -> None:
    async with Pipeline(bulkhead):
        await work()


Form = Callable[[Bulkhead, Work], Awaitable[None]]
FULL: list[Any] = [acquire, block, piped_block]
CALLS: list[Any] = [call, decorated, piped]
WAITING: list[Any] = [*FULL, *CALLS, bound]
FORMS: list[Any] = [*WAITING, acquire_nowait]


class Log:
    """Who was let in, and when."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, float]] = []

    def visit(self, bulkhead: Bulkhead, name: str, seconds: float = 1, form: Any = call) -> Work:
        async def work() -> None:
            self.entries.append((name, trio.current_time()))
            await trio.sleep(seconds)

        return functools.partial(form, bulkhead, work)


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_holds_one_permit_while_the_work_runs(form: Form, autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(2)
    seen: list[tuple[int, int]] = []

    async def work() -> None:
        statistics = bulkhead.statistics()
        seen.append((statistics.inside, statistics.borrowed))

    await form(bulkhead, work)
    assert seen == [(1, 1)]
    assert (bulkhead.statistics().inside, bulkhead.statistics().borrowed) == (0, 0)


@pytest.mark.parametrize("form", FORMS)
async def test_error_of_the_work_gives_the_permit_back_and_comes_out_as_it_is(
    form: Form, autojump_clock: MockClock
) -> None:
    bulkhead = Bulkhead(1)
    error = ValueError("mine")

    async def fail() -> None:
        raise error

    with pytest.raises(ValueError, match="mine") as caught:
        await form(bulkhead, fail)
    assert caught.value is error
    assert bulkhead.statistics().borrowed == 0


async def test_result_and_arguments_pass(autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(1)

    async def add(a: int, *, b: int) -> int:
        return a + b

    assert await bulkhead(add)(1, b=2) == 3
    assert await bulkhead.bind(add)(1, b=2) == 3
    assert await bulkhead.call(functools.partial(add, b=2), 1) == 3


@pytest.mark.parametrize("form", WAITING)
async def test_limit_is_kept_and_the_queue_served_in_order(form: Form, autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(2), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(
            nursery,
            *[log.visit(bulkhead, name, seconds, form) for name, seconds in zip("abcde", (4, 1, 2, 9, 1), strict=True)],
        )
        assert bulkhead.statistics().waiting == 3
    assert log.entries == [("a", 0), ("b", 0), ("c", 1), ("d", 3), ("e", 4)]


@pytest.mark.parametrize("form", FORMS)
async def test_newcomer_does_not_pass_the_queue_in_the_step_of_a_release(form: Form, autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1), Log()
    async with trio.open_nursery() as nursery:
        await bulkhead.acquire()
        await start_in_order(nursery, log.visit(bulkhead, "waiter"))
        bulkhead.release()
        if form is acquire_nowait:
            with pytest.raises(trio.WouldBlock):
                await form(bulkhead, nothing)
        else:
            await log.visit(bulkhead, "newcomer", 0, form)()
            assert log.entries == [("waiter", 0), ("newcomer", 1)]


async def test_acquire_nowait_takes_a_free_permit_only(autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(1)
    bulkhead.acquire_nowait()
    with pytest.raises(trio.WouldBlock):
        bulkhead.acquire_nowait()
    assert bulkhead.statistics().rejected == 0
    bulkhead.release()
    bulkhead.acquire_nowait()
    bulkhead.release()


async def test_release_without_acquire_is_refused(autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(1, name="db")

    async def inside() -> None:
        with pytest.raises(RuntimeError, match=r"db: release\(\) without acquire\(\)"):
            bulkhead.release()

    await inside()
    await bulkhead.call(inside)  # the permit of a call is not release()'s to give
    await bulkhead.acquire()
    bulkhead.release()
    await inside()
    assert bulkhead.statistics().borrowed == 0


@pytest.mark.parametrize("limit", [-1, 1.5, math.nan, True, "1", None])
def test_wrong_limit_is_refused_by_name(limit: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"limit must be a whole number >= 0 or math\.inf, not "):
        Bulkhead(limit)
    bulkhead = Bulkhead(3)
    with pytest.raises((ValueError, TypeError), match=r"limit must be a whole number >= 0 or math\.inf, not "):
        bulkhead.limit = limit
    assert bulkhead.limit == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_waiting": -1}, "max_waiting must be"),
        ({"max_waiting": 1.5}, "max_waiting must be"),
        ({"max_waiting": True}, "max_waiting must be"),
        ({"max_wait": -1}, "max_wait must be"),
        ({"max_wait": math.nan}, "max_wait must be"),
        ({"max_wait": None}, "max_wait must be"),
        ({"name": ""}, "name must be"),
    ],
)
def test_wrong_configuration_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Bulkhead(1, **options)


async def test_infinite_limit_lets_everybody_in(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(math.inf), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *[log.visit(bulkhead, "x") for _ in range(50)])
        assert bulkhead.statistics().inside == 50
        assert repr(bulkhead) == "<trioresil.Bulkhead 'bulkhead' 50/inf taken, 0 waiting>"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WAITING)
async def test_full_queue_rejects_at_once(form: Form, autojump_clock: MockClock) -> None:
    bulkhead, log, recorder = Bulkhead(1, max_waiting=2, name="db"), Log(), Recorder()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *[log.visit(bulkhead, name) for name in "abc"])
        with trioresil.instrument(recorder):
            with pytest.raises(BulkheadFullError, match="db: every permit is taken and 2 wait already") as caught:
                with assert_checkpoints():
                    await log.visit(bulkhead, "rejected", 0, form)()
        assert trio.current_time() == 0
        assert caught.value.started is False
        assert caught.value.retry_after is None
        assert [event.error for event in recorder.of(trioresil.CallRejected)] == [caught.value]
        assert bulkhead.statistics().rejected == 1
        assert bulkhead.statistics().waiting == 2
    assert [name for name, _ in log.entries] == ["a", "b", "c"]


async def test_without_a_queue_a_taken_permit_rejects(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1, max_waiting=0), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(bulkhead, "a"))
        with pytest.raises(BulkheadFullError, match="every permit is taken and nobody may wait"):
            await bulkhead.call(nothing)


async def test_who_has_his_permit_and_has_yet_to_run_is_in_nobodys_way(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1, max_waiting=1), Log()
    async with trio.open_nursery() as nursery:
        await bulkhead.acquire()
        await start_in_order(nursery, log.visit(bulkhead, "a"))
        bulkhead.release()
        assert (bulkhead.statistics().inside, bulkhead.statistics().waiting) == (1, 0)
        assert repr(bulkhead) == "<trioresil.Bulkhead 'bulkhead' 1/1 taken, 0 waiting>"
        await log.visit(bulkhead, "b")()
    assert log.entries == [("a", 0), ("b", 1)]


@pytest.mark.parametrize("form", WAITING)
async def test_wait_longer_than_max_wait_is_rejected_then(form: Form, autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1, max_wait=0.75, name="db"), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(bulkhead, "a"))
        with pytest.raises(BulkheadFullError, match=r"db: no permit became free within max_wait=0\.75 s") as caught:
            await log.visit(bulkhead, "late", 0, form)()
        assert trio.current_time() == 0.75
        assert caught.value.started is False
        assert bulkhead.statistics().rejected == 1
        assert bulkhead.statistics().waiting == 0
        await log.visit(bulkhead, "b", 0, form)()
        assert trio.current_time() == 1
    assert log.entries == [("a", 0), ("b", 1)]


async def test_max_wait_of_zero_never_queues(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1, max_wait=0), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(bulkhead, "a"))
        with pytest.raises(BulkheadFullError, match="every permit is taken and nobody may wait"):
            await bulkhead.call(nothing)
        assert trio.current_time() == 0
    await bulkhead.call(nothing)


@pytest.mark.parametrize("seed", range(20))  # Trio shuffles who of the two runs first
async def test_permit_in_the_instant_of_the_deadline_is_kept_or_never_taken(
    seed: int, autojump_clock: MockClock
) -> None:
    bulkhead, log = Bulkhead(1, max_wait=1), Log()
    rejections = []

    async def second() -> None:
        try:
            await log.visit(bulkhead, "b", 1)()
        except BulkheadFullError as error:
            rejections.append(error)

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(bulkhead, "a", 1), second)
    assert len(log.entries) == 2 - len(rejections)
    assert bulkhead.statistics().borrowed == 0
    assert bulkhead.statistics().rejected == len(rejections)


async def test_release_before_the_deadline_is_noticed_wins(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1, max_wait=1), Log()
    async with trio.open_nursery() as nursery:
        await bulkhead.acquire()
        await start_in_order(nursery, log.visit(bulkhead, "b", 1))
        await trio.sleep(0.5)
        autojump_clock.jump(2)  # the deadline passes, and the loop has not seen it yet
        bulkhead.release()
    assert log.entries == [("b", 2.5)]
    assert bulkhead.statistics().rejected == 0


async def test_time_out_in_the_queue_says_that_nothing_was_started(autojump_clock: MockClock) -> None:
    for max_wait in (math.inf, 1000):
        bulkhead = Bulkhead(1, max_wait=max_wait)
        async with trio.open_nursery() as nursery:
            await start_in_order(nursery, functools.partial(bulkhead.call, trio.sleep, 5))
            with pytest.raises(trioresil.TimedOutError) as caught:
                await Pipeline(Timeout(1), bulkhead).call(nothing)
            assert caught.value.started is False
        with pytest.raises(trioresil.TimedOutError) as caught:
            await Pipeline(Timeout(1), bulkhead).call(trio.sleep, 5)
        assert caught.value.started is True


async def test_loop_over_rejections_lets_other_tasks_run(autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(1)
    bulkhead.close_admission()
    rejections = 0
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def other() -> None:
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(other)
            while rejections < 1000:
                with pytest.raises(BulkheadFullError):
                    await bulkhead.call(nothing)
                rejections += 1
    assert rejections < 10


# --- nesting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", FORMS)
@pytest.mark.parametrize("outer", FORMS)
async def test_one_task_may_nest(outer: Form, inner: Form, autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(2)
    seen = []

    async def look() -> None:
        seen.append(bulkhead.statistics().inside)

    await outer(bulkhead, functools.partial(inner, bulkhead, look))
    assert seen == [2]
    assert bulkhead.statistics().inside == 0


@pytest.mark.parametrize("inner", WAITING)
@pytest.mark.parametrize("outer", FORMS)
@pytest.mark.parametrize("limit", [1, 2])
async def test_nesting_that_could_only_hang_is_refused(
    limit: int, outer: Form, inner: Form, autojump_clock: MockClock
) -> None:
    bulkhead = Bulkhead(limit, name="db")
    work: Work = functools.partial(inner, bulkhead, nothing)
    for _ in range(limit - 1):
        work = functools.partial(outer, bulkhead, work)
    with pytest.raises(RuntimeError, match=f"db: this task holds all {limit} permits itself"):
        await outer(bulkhead, work)
    assert bulkhead.statistics().borrowed == 0
    assert bulkhead.statistics().waiting == 0
    assert trio.current_time() == 0


async def test_hopeless_nesting_passes_every_policy(autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(1)
    attempts = 0

    async def nested() -> None:
        nonlocal attempts
        attempts += 1
        await bulkhead.call(nothing)

    with pytest.raises(RuntimeError, match="use separate bulkheads"):
        await Pipeline(trioresil.Retry(on=Exception), bulkhead).call(nested)
    assert attempts == 1


async def test_nested_wait_for_another_task_is_no_hang(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(2), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(bulkhead, "other", 3))
        await bulkhead.call(log.visit(bulkhead, "inner", 0))
    assert log.entries == [("other", 0), ("inner", 3)]


@pytest.mark.parametrize("form", WAITING)
async def test_shared_limiter_that_this_task_borrowed_all_of_is_a_hopeless_nesting(
    form: Form, autojump_clock: MockClock
) -> None:
    limiter = trio.CapacityLimiter(2)
    one, two = Bulkhead(limiter), Bulkhead(limiter)
    async with limiter:
        await form(one, nothing)
        async with one:
            with pytest.raises(RuntimeError, match="this task holds all 2 permits itself"):
                await form(two, nothing)
    assert limiter.borrowed_tokens == 0


async def test_waiting_while_paused_is_no_hopeless_nesting(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1), Log()
    async with trio.open_nursery() as nursery:
        bulkhead.limit = 0
        await start_in_order(nursery, log.visit(bulkhead, "a", 0))
        bulkhead.limit = 1
        async with bulkhead:
            bulkhead.limit = 0

            async def raise_limit() -> None:
                await trio.sleep(2)
                bulkhead.limit = 2

            nursery.start_soon(raise_limit)
            await log.visit(bulkhead, "b", 0)()
    assert log.entries == [("a", 0), ("b", 2)]


# --- permits are interchangeable --------------------------------------------------------------------------------------------


async def test_blocks_may_be_left_in_any_order_and_by_any_task(autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(3)

    async def leave() -> None:
        await bulkhead.__aexit__(None, None, None)

    for _ in range(3):
        await bulkhead.__aenter__()
    assert bulkhead.statistics().inside == 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        nursery.start_soon(leave)
    assert bulkhead.statistics().inside == 1
    await leave()
    assert bulkhead.statistics().inside == 0
    with pytest.raises(RuntimeError, match="without acquire"):
        bulkhead.release()


async def test_release_gives_back_a_permit_of_the_own_task_first(autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(2)
    async with trio.open_nursery() as nursery:

        async def other() -> None:
            async with bulkhead:
                await trio.sleep(5)

        await start_in_order(nursery, other)
        await bulkhead.acquire()
        bulkhead.release()
        await bulkhead.acquire()
        # Had other's permit gone, this task would hold both by now, and waiting would be hopeless.
        async with bulkhead:
            assert trio.current_time() == 5
        bulkhead.release()
    assert bulkhead.statistics().inside == 0


async def test_permit_given_back_by_another_task_counts_for_its_taker_until_then(autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(1)
    await bulkhead.acquire()

    async def give_back() -> None:
        bulkhead.release()

    with pytest.raises(RuntimeError, match="holds all 1 permits"):
        await bulkhead.acquire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_back)
    await bulkhead.acquire()
    bulkhead.release()


# --- a shared limiter -----------------------------------------------------------------------------------------------------


async def test_shared_limiter_counts_across_policies_and_user_code(autojump_clock: MockClock) -> None:
    limiter, log = trio.CapacityLimiter(2), Log()
    one, two = Bulkhead(limiter), Bulkhead(limiter, max_waiting=3)
    assert one.limit == 2

    async def user_code() -> None:
        async with limiter:
            log.entries.append(("user", trio.current_time()))
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        await start_in_order(
            nursery, user_code, log.visit(one, "a", 2.5), log.visit(two, "b"), user_code, log.visit(one, "c")
        )
        assert limiter.borrowed_tokens == 2
        assert (one.statistics().inside, one.statistics().waiting, one.statistics().borrowed) == (1, 1, 2)
        assert (two.statistics().inside, two.statistics().waiting, two.statistics().borrowed) == (0, 1, 2)
    assert log.entries == [("user", 0), ("a", 0), ("b", 1), ("user", 2), ("c", 2.5)]


async def test_shared_limiter_counts_threads_too() -> None:
    limiter = trio.CapacityLimiter(1)
    bulkhead = Bulkhead(limiter, max_waiting=0)
    borrowed = []
    with trio.fail_after(20):
        await trio.to_thread.run_sync(lambda: borrowed.append(bulkhead.statistics().borrowed), limiter=limiter)

        def in_thread() -> None:
            with pytest.raises(BulkheadFullError):
                trio.from_thread.run(bulkhead.call, nothing)

        await trio.to_thread.run_sync(in_thread, limiter=limiter)
        async with bulkhead:
            with trio.move_on_after(0) as scope:
                await trio.to_thread.run_sync(lambda: None, limiter=limiter)
            assert scope.cancelled_caught
    assert borrowed == [1]


async def test_limit_of_a_shared_limiter_is_that_of_all_its_users(autojump_clock: MockClock) -> None:
    limiter = trio.CapacityLimiter(1)
    one, two = Bulkhead(limiter), Bulkhead(limiter)
    one.limit = 5
    assert limiter.total_tokens == two.limit == 5


# --- the limit, live --------------------------------------------------------------------------------------------------------


async def test_higher_limit_lets_the_first_in_the_queue_in_at_once(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *[log.visit(bulkhead, name, 4) for name in "abcd"])
        await trio.sleep(1)
        bulkhead.limit = 3
        assert bulkhead.limit == 3
    assert log.entries == [("a", 0), ("b", 1), ("c", 1), ("d", 4)] or log.entries == [
        ("a", 0),
        ("c", 1),
        ("b", 1),
        ("d", 4),
    ]  # b and c are let in by the same step, and Trio shuffles who of them runs first


async def test_lower_limit_disturbs_nobody_inside(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(3), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *[log.visit(bulkhead, name, 2 + number) for number, name in enumerate("abcd")])
        bulkhead.limit = 1
        assert repr(bulkhead) == "<trioresil.Bulkhead 'bulkhead' 3/1 taken, 1 waiting>"
    assert log.entries[3] == ("d", 4)


async def test_limit_of_zero_pauses(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(0), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(bulkhead, "a"), log.visit(bulkhead, "b"))
        with pytest.raises(trio.WouldBlock):
            bulkhead.acquire_nowait()
        await trio.sleep(7)
        assert log.entries == []
        assert bulkhead.statistics().waiting == 2
        bulkhead.limit = 1
    assert log.entries == [("a", 7), ("b", 8)]


# --- draining ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WAITING)
async def test_closed_bulkhead_rejects_newcomers_and_finishes_the_others(form: Form, autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1, name="db"), Log()
    assert isinstance(bulkhead, trioresil.abc.Drainable)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(bulkhead, "a", 1, form), log.visit(bulkhead, "b", 2, form))
        bulkhead.close_admission()
        assert bulkhead.statistics().closed
        assert repr(bulkhead) == "<trioresil.Bulkhead 'db' 1/1 taken, 1 waiting, closed>"
        with pytest.raises(BulkheadFullError, match="db: admission is closed") as caught:
            with assert_checkpoints():
                await form(bulkhead, nothing)
        assert caught.value.retry_after is None
        with assert_checkpoints():
            await bulkhead.wait_drained()
        assert trio.current_time() == 3
        with pytest.raises(BulkheadFullError):
            await form(bulkhead, nothing)
        with pytest.raises(trio.WouldBlock):
            bulkhead.acquire_nowait()
    assert log.entries == [("a", 0), ("b", 1)]
    assert bulkhead.statistics().rejected == 2


async def test_drain_waits_for_a_permit_whose_taker_has_yet_to_run(autojump_clock: MockClock) -> None:
    for queued in (False, True):
        bulkhead = Bulkhead(1)
        events: list[str] = []

        async def visit(bulkhead: Bulkhead, events: list[str]) -> None:
            async with bulkhead:  # a full checkpoint, with the permit in the hand
                events.append("in")
                await trio.sleep(1)
            events.append("out")

        async def drain(bulkhead: Bulkhead, events: list[str]) -> None:
            bulkhead.close_admission()
            await bulkhead.wait_drained()
            events.append("drained")

        async with trio.open_nursery() as nursery:
            if queued:
                await bulkhead.acquire()
            nursery.start_soon(visit, bulkhead, events)
            if queued:
                await wait_all_tasks_blocked()
                bulkhead.release()
                assert bulkhead.statistics().inside == 1
            else:
                while not bulkhead.statistics().inside:
                    await trio.lowlevel.checkpoint()
            await drain(bulkhead, events)
        assert events == ["in", "out", "drained"] or events == ["in", "drained", "out"]


async def test_several_may_wait_for_the_drain_and_none_of_them_is_forgotten(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(2), Log()
    drained: list[float] = []

    async def drain() -> None:
        await bulkhead.wait_drained()
        drained.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(bulkhead, "a", 1), log.visit(bulkhead, "b", 2), drain, drain)
    assert drained == [2, 2]
    with assert_checkpoints():
        await drain()
    assert drained == [2, 2, 2]


async def test_open_bulkhead_is_drained_when_it_is_empty_for_once(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(bulkhead, "a", 1), log.visit(bulkhead, "b", 1))
        await bulkhead.wait_drained()
        assert trio.current_time() == 2


async def test_visitor_who_leaves_and_comes_again_at_once_is_waited_for(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1), Log()

    async def twice() -> None:
        await log.visit(bulkhead, "a", 1)()
        await log.visit(bulkhead, "again", 1)()  # in the step in which the drain was woken up

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, twice)
        await bulkhead.wait_drained()
        assert trio.current_time() == 2


async def test_drain_is_woken_up_once(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(3), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *[log.visit(bulkhead, "x", seconds) for seconds in (1, 2, 3, 1, 1)])
        assert bulkhead.statistics().waiting == 2

        async def pause() -> None:
            await trio.sleep(0.5)
            bulkhead.limit = 0
            await trio.sleep(5)
            assert bulkhead.statistics().inside == 0
            bulkhead.limit = 1

        nursery.start_soon(pause)
        assert await schedule_points(bulkhead.wait_drained) == 1
        assert trio.current_time() == 7.5
        await start_in_order(nursery, log.visit(bulkhead, "y", 1))
        bulkhead.limit = 2
        await start_in_order(nursery, log.visit(bulkhead, "y", 2))
        assert await schedule_points(bulkhead.wait_drained) == 1
        assert trio.current_time() == 9.5


async def test_cancelled_drain_changes_nothing(autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(2), Log()
    assert await notices_cancellation(bulkhead.wait_drained)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(bulkhead, "a", 5), log.visit(bulkhead, "b", 2))
        with trio.move_on_after(1) as scope:
            await bulkhead.wait_drained()
        assert scope.cancelled_caught
        await trio.sleep(2)
        assert not bulkhead._draining  # else every release to come would count who is inside
        await bulkhead.wait_drained()
        assert trio.current_time() == 5


@pytest.mark.parametrize("max_wait", [math.inf, 100])
async def test_cancelled_waiter_ends_the_drain_of_a_shared_limiter(max_wait: float, autojump_clock: MockClock) -> None:
    limiter, log = trio.CapacityLimiter(1), Log()
    bulkhead, other = Bulkhead(limiter, max_wait=max_wait), Bulkhead(limiter)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(other, "other", 5))

        async def impatient() -> None:
            with trio.move_on_after(2):
                await bulkhead.call(nothing)

        await start_in_order(nursery, impatient)
        bulkhead.close_admission()
        await bulkhead.wait_drained()  # only its own, not other's
        assert trio.current_time() == 2
        await other.wait_drained()
        assert trio.current_time() == 5


async def test_rejected_waiter_ends_the_drain(autojump_clock: MockClock) -> None:
    limiter = trio.CapacityLimiter(1)
    bulkhead = Bulkhead(limiter, max_wait=2)
    async with trio.open_nursery() as nursery:

        async def late() -> None:
            with pytest.raises(BulkheadFullError):
                await bulkhead.call(nothing)

        async with limiter:
            await start_in_order(nursery, late)
            await bulkhead.wait_drained()
            assert trio.current_time() == 2


# --- checkpoints, statistics, instruments, runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FULL)
async def test_acquire_and_block_are_full_checkpoints(form: Form, autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(1)
    assert await schedule_points(functools.partial(form, bulkhead)) == 1
    with assert_checkpoints():
        await form(bulkhead, nothing)
    assert await notices_cancellation(functools.partial(form, bulkhead))
    assert bulkhead.statistics().borrowed == 0


@pytest.mark.parametrize("form", CALLS)
async def test_calls_check_for_cancellation_and_leave_the_schedule_point_to_the_function(
    form: Form, autojump_clock: MockClock
) -> None:
    bulkhead = Bulkhead(1)
    assert await schedule_points(functools.partial(form, bulkhead)) == 0
    assert await notices_cancellation(functools.partial(form, bulkhead))
    assert bulkhead.statistics().borrowed == 0


@pytest.mark.parametrize("form", [bound, acquire_nowait])
async def test_bound_function_and_acquire_nowait_are_no_checkpoints(form: Form, autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(1)
    with assert_no_checkpoints():
        await form(bulkhead, nothing)
    assert not await notices_cancellation(functools.partial(form, bulkhead))


@pytest.mark.parametrize("form", WAITING)
async def test_waiting_is_a_full_checkpoint_in_every_form(form: Form, autojump_clock: MockClock) -> None:
    bulkhead, log = Bulkhead(1), Log()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, log.visit(bulkhead, "a"))
        assert await notices_cancellation(functools.partial(form, bulkhead))
        assert bulkhead.statistics().waiting == 0
        with assert_checkpoints():
            await form(bulkhead, nothing)


@pytest.mark.parametrize("form", WAITING)
async def test_waiter_needs_one_step(form: Form, autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(1)
    steps = []

    async def counted() -> None:
        steps.append(await schedule_points(functools.partial(form, bulkhead)))

    async with trio.open_nursery() as nursery:
        await bulkhead.acquire()
        await start_in_order(nursery, counted, counted)
        bulkhead.release()
    assert steps == [1, 1]


async def test_release_and_the_end_of_a_block_are_no_checkpoints(autojump_clock: MockClock) -> None:
    bulkhead = Bulkhead(2)
    await bulkhead.acquire()
    async with bulkhead:
        with assert_no_checkpoints():
            bulkhead.release()
            await bulkhead.__aexit__(None, None, None)
        await bulkhead.acquire()


@pytest.mark.parametrize("form", FORMS)
async def test_first_use_is_announced_once_and_an_admission_is_silent(form: Form, autojump_clock: MockClock) -> None:
    bulkhead, recorder = Bulkhead(2), Recorder()
    with trioresil.instrument(recorder):
        await form(bulkhead, nothing)
        await form(bulkhead, nothing)
    assert [event for event in recorder.events if event.policy is bulkhead] == [trioresil.PolicySeen(policy=bulkhead)]


shared = Bulkhead(1, name="shared")
shared_log: list[float] = []


@shared
async def guarded() -> None:
    shared_log.append(trio.current_time())
    await trio.sleep(1)


def test_module_level_function_works_in_three_runs_and_statistics_outside_of_them() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guarded)
            nursery.start_soon(guarded)

    for _ in range(3):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert shared_log == [0, 1] * 3
    assert shared.statistics() == trioresil.BulkheadStatistics(
        name="shared", limit=1, inside=0, borrowed=0, waiting=0, rejected=0, closed=False
    )
    assert repr(shared) == "<trioresil.Bulkhead 'shared' 0/1 taken, 0 waiting>"


def test_works_in_three_runs_on_the_system_clock() -> None:
    bulkhead = Bulkhead(1, max_wait=5)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(bulkhead.call, trio.lowlevel.checkpoint)

    for _ in range(3):
        trio.run(main)
    assert bulkhead.statistics().rejected == 0


def test_outside_of_trio_the_error_says_what_to_do() -> None:
    bulkhead = Bulkhead(1)
    for call_ in (bulkhead.acquire, functools.partial(bulkhead.call, nothing), bulkhead.__aenter__):
        with pytest.raises(RuntimeError, match=r"start the program with trio\.run"):
            call_().send(None)
    assert bulkhead.statistics().borrowed == 0


async def test_permit_that_another_run_holds_is_not_waited_for() -> None:
    """Whoever gives it back would wake the waiter up from its own thread, which Trio can't survive."""
    bulkhead = Bulkhead(1, name="shared")

    async def other() -> None:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"'shared' is in use in another trio\.run"):
                await bulkhead.call(trio.sleep, 0)
        assert bulkhead.statistics().waiting == 0

    async with bulkhead:
        await trio.to_thread.run_sync(trio.run, other)

    async def later() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(bulkhead.call, trio.sleep, 0)

    await trio.to_thread.run_sync(trio.run, later)
    await later()
    assert bulkhead.statistics().inside == 0


async def test_task_that_holds_every_permit_is_rejected_where_nobody_may_wait(autojump_clock: MockClock) -> None:
    for bulkhead in (Bulkhead(1, max_wait=0), Bulkhead(1, max_waiting=0)):
        async with bulkhead:
            with pytest.raises(BulkheadFullError, match="nobody may wait"):
                await bulkhead.call(nothing)
