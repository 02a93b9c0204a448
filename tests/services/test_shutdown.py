"""open_shutdown: what happens when, who is cancelled and who isn't; to the second."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioresil
import trioresil.httpx
from tests._limits import notices_cancellation, schedule_points
from tests.services._drainables import Door, Jammed, Readiness
from trioresil import (
    AdmissionClosed,
    Bulkhead,
    BulkheadFullError,
    PolicySeen,
    Shutdown,
    ShutdownCancelled,
    ShutdownRequested,
    open_shutdown,
)
from trioresil.testing import Recorder


def quiet(**options: Any) -> open_shutdown:
    """Return a shutdown without signals."""
    return open_shutdown(signals=(), **options)


class ReadOnly:
    """A monitor that can't be told."""

    @property
    def draining(self) -> bool:
        return False


async def why_cancelled(wait: Callable[[], Awaitable[object]] = trio.sleep_forever) -> tuple[str | None, float]:
    """Wait until this is cancelled, and say why and when."""
    passing: list[trio.Cancelled] = []

    class Look:
        def __enter__(self) -> None: ...

        def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
            assert isinstance(error, trio.Cancelled)
            passing.append(error)
            return True  # the test ends its body cleanly

    with Look():
        await wait()
    return passing[0].reason, trio.current_time()


# --- the course ------------------------------------------------------------------------------------------------------


async def test_phases_follow_each_other_at_exact_instants(autojump_clock: MockClock) -> None:
    readiness, door, seen = Readiness(), Door(seconds=math.inf), []

    def look(shutdown: Shutdown) -> None:
        seen.append((trio.current_time(), shutdown.phase, readiness.draining, list(door.closed_at)))

    async with quiet(lead=5, grace=20, health=readiness) as shutdown:
        shutdown.register(door)
        await trio.sleep(1)
        look(shutdown)
        shutdown.request("tests")
        look(shutdown)
        await trio.sleep(4.5)
        look(shutdown)
        await shutdown.wait()
        look(shutdown)
        await trio.sleep(19.5)
        look(shutdown)
        reason, at = await why_cancelled()
        look(shutdown)
    assert seen == [
        (1, "serving", False, []),
        (1, "lead", True, []),
        (5.5, "lead", True, []),
        (6, "draining", True, [6]),
        (25.5, "draining", True, [6]),
        (26, "cancelled", True, [6]),
    ]
    assert (reason, at) == ("shutdown: tests, and its grace of 20 s is over", 26)
    assert shutdown.phase == "ended"


async def test_admission_is_open_until_the_lead_is_over(autojump_clock: MockClock) -> None:
    bulkhead, served, refused = Bulkhead(10), [], []

    async def call() -> None:
        try:
            async with bulkhead:
                served.append(trio.current_time())
                await trio.sleep(3)
        except BulkheadFullError:
            refused.append(trio.current_time())

    async with quiet(lead=5, grace=20) as shutdown, trio.open_nursery() as nursery:
        shutdown.register(bulkhead)
        shutdown.request()
        for _ in range(8):
            nursery.start_soon(call)
            await trio.sleep(0.75)
    assert served == [0, 0.75, 1.5, 2.25, 3, 3.75, 4.5]
    assert refused == [5.25]
    assert trio.current_time() == 7.5  # when the last that was let in was done
    assert shutdown.report.clean


async def test_cancels_nothing_if_nobody_asks(autojump_clock: MockClock) -> None:
    door = Door()
    async with quiet() as shutdown:
        shutdown.register(door)
        await trio.sleep(1000)
    assert (door.closed_at, shutdown.requested, shutdown.report.clean) == ([], False, True)
    assert [each.outcome for each in shutdown.report.drainables] == ["open"]


async def test_lead_of_zero_closes_admission_in_the_same_step(autojump_clock: MockClock) -> None:
    door = Door()
    async with quiet(lead=0) as shutdown:
        shutdown.register(door)
        shutdown.request()
        assert (door.closed_at, shutdown.phase) == ([0], "draining")


async def test_request_may_bring_a_lead_of_its_own(autojump_clock: MockClock) -> None:
    door = Door(seconds=math.inf)
    async with quiet(lead=5, grace=2) as shutdown:
        shutdown.register(door)
        shutdown.request(lead=1)
        assert (await why_cancelled())[1] == 3
    assert door.closed_at == [1]


async def test_grace_of_zero_cancels_when_admission_closes(autojump_clock: MockClock) -> None:
    async with quiet(lead=5, grace=0) as shutdown:
        shutdown.request()
        assert (await why_cancelled())[1] == 5


async def test_endless_grace_never_cancels(autojump_clock: MockClock) -> None:
    async with quiet(lead=5, grace=math.inf) as shutdown:
        shutdown.request()
        await trio.sleep(80_000)
    assert shutdown.report.clean


async def test_drained_early_the_body_may_end_and_is_not_cancelled_before(autojump_clock: MockClock) -> None:
    door = Door(seconds=2)
    async with quiet(lead=5, grace=20) as shutdown:
        shutdown.register(door)
        shutdown.request()
        await shutdown.wait_drained()
        assert trio.current_time() == 7
        await trio.sleep(17.5)  # what the body still wants to do
    assert trio.current_time() == 24.5
    assert shutdown.report.clean


async def test_drained_early_a_body_that_goes_on_is_cancelled_when_grace_is_over(autojump_clock: MockClock) -> None:
    async with quiet(lead=5, grace=20) as shutdown:
        shutdown.request()
        assert (await why_cancelled())[1] == 25
    assert not shutdown.report.clean


async def test_body_that_ends_early_ends_it_without_waiting_for_drains(autojump_clock: MockClock) -> None:
    door = Door(seconds=10)
    async with quiet(lead=5, grace=20) as shutdown:
        shutdown.register(door)
        shutdown.request()
        await trio.sleep(7)
    assert trio.current_time() == 7
    report = shutdown.report
    assert [(each.outcome, each.seconds) for each in report.running] == [("running", 2)]
    assert (report.clean, report.cancelled, report.seconds) == (False, None, 7)


async def test_body_that_ends_during_the_lead_closes_nothing(autojump_clock: MockClock) -> None:
    door = Door()
    async with quiet(lead=5) as shutdown:
        shutdown.register(door)
        shutdown.request()
        await trio.sleep(1)
    await trio.sleep(10)
    assert (door.closed_at, shutdown.report.clean, shutdown.phase) == ([], True, "ended")


async def test_program_that_was_frozen_still_drains_before_it_is_cancelled(mock_clock: MockClock) -> None:
    door = Door()
    async with quiet(lead=5, grace=20) as shutdown:
        shutdown.register(door)
        shutdown.request()
        await wait_all_tasks_blocked()
        mock_clock.jump(1000)
        await why_cancelled()
    [report] = shutdown.report.drainables
    assert (door.closed_at, report.outcome) == ([1000], "drained")


# --- the body --------------------------------------------------------------------------------------------------------


async def test_exit_swallows_the_cancellation_that_it_made(autojump_clock: MockClock) -> None:
    with trio.CancelScope() as outer:
        async with quiet(lead=0, grace=1) as shutdown:
            shutdown.request()
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
    assert not outer.cancelled_caught
    assert trio.current_time() == 1


async def test_exit_swallows_it_out_of_a_nursery_of_the_body_as_well(autojump_clock: MockClock) -> None:
    async with quiet(lead=0, grace=1) as shutdown:
        shutdown.request()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)
    assert trio.current_time() == 1


async def test_body_cancelled_from_outside_ends_at_once_and_stays_cancelled(autojump_clock: MockClock) -> None:
    door = Door(seconds=math.inf)
    with trio.move_on_after(3) as outer:
        async with quiet(lead=0, grace=20) as shutdown:
            shutdown.register(door)
            shutdown.request()
            await trio.sleep_forever()
        raise AssertionError("the cancellation was swallowed")
    assert outer.cancelled_caught
    assert trio.current_time() == 3
    assert (shutdown.report.cancelled, shutdown.phase) == (None, "ended")


async def test_cancelled_from_outside_and_by_the_shutdown_at_once_stays_cancelled(autojump_clock: MockClock) -> None:
    with trio.move_on_after(20) as outer:
        async with quiet(lead=0, grace=20) as shutdown:
            shutdown.request()
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        raise AssertionError("the cancellation was swallowed")
    assert outer.cancelled_caught


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), ExceptionGroup("two", [OSError(), ValueError()])])
@pytest.mark.parametrize("asked", [False, True])
async def test_error_of_the_body_leaves_at_once_as_the_object_it_was(
    autojump_clock: MockClock, error: BaseException, asked: bool
) -> None:
    door = Door(seconds=10)
    with pytest.raises(type(error)) as caught:
        async with quiet(lead=0) as shutdown:
            shutdown.register(door)
            if asked:
                shutdown.request()
            raise error
    assert caught.value is error
    assert trio.current_time() == 0


async def test_error_that_the_cancelled_body_raises_leaves_bare(autojump_clock: MockClock) -> None:
    error = ValueError()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        async with quiet(lead=0, grace=1) as shutdown:
            shutdown.request()
            try:
                await trio.sleep_forever()
            finally:
                raise error
    assert caught.value is error
    assert shutdown.report.cancelled is not None


async def test_is_opened_once() -> None:
    manager = quiet(name="web")
    async with manager:
        pass
    with pytest.raises(RuntimeError, match="web: this shutdown was opened already"):
        await manager.__aenter__()


async def test_is_left_by_the_task_that_opened_it() -> None:
    errors = []

    async def leave() -> None:
        with pytest.raises(RuntimeError, match="in the task that opened it") as caught:
            await manager.__aexit__(None, None, None)
        errors.append(caught.value)

    manager = quiet()
    async with manager as shutdown, trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await wait_all_tasks_blocked()
        assert shutdown.phase == "serving"
    assert len(errors) == 1


# --- what is registered ----------------------------------------------------------------------------------------------


async def test_all_are_closed_in_one_step_in_the_order_of_registration(autojump_clock: MockClock) -> None:
    order = []

    class Noted(Door):
        def close_admission(self) -> None:
            order.append((self.name, trio.current_time(), shutdown.phase))

    async with quiet(lead=1) as shutdown:
        shutdown.register(Noted("b"), Noted("a"))
        shutdown.register(Noted("c"))
        shutdown.request()
        await shutdown.wait()
    assert order == [("b", 1, "draining"), ("a", 1, "draining"), ("c", 1, "draining")]


async def test_report_says_what_was_still_running(autojump_clock: MockClock) -> None:
    stuck = ValueError("stuck")
    async with quiet(lead=1, grace=20, name="web") as shutdown:
        shutdown.register(Door("idle"), Door("quick", 2), Door("slow", math.inf), Door("broken", 3, error=stuck))
        shutdown.request("tests")
        await trio.sleep_forever()
    report = shutdown.report
    assert [(each.name, each.outcome, each.seconds, each.error) for each in report.drainables] == [
        ("idle", "drained", 0, None),
        ("quick", "drained", 2, None),
        ("slow", "running", 20, None),
        ("broken", "failed", 3, stuck),
    ]
    assert [each.name for each in report.running] == ["slow"]
    assert (report.name, report.reason, report.seconds) == ("web", "tests", 21)
    assert report.cancelled == "tests, and its grace of 20 s is over"
    assert not report.clean


async def test_report_is_live_until_the_end_and_then_stays(autojump_clock: MockClock) -> None:
    async with quiet(lead=1) as shutdown:
        shutdown.register(Door("slow", 4.5))
        assert (shutdown.report.reason, shutdown.report.seconds) == (None, 0)
        shutdown.request()
        seen = []
        for _ in range(4):
            await trio.sleep(2)
            [door] = shutdown.report.drainables
            seen.append((shutdown.report.seconds, door.outcome, door.seconds))
        assert seen == [(2, "running", 1), (4, "running", 3), (6, "drained", 4.5), (8, "drained", 4.5)]
    await trio.sleep(10)
    assert shutdown.report.seconds == 8


async def test_seconds_of_what_was_running_end_with_the_cancellation(autojump_clock: MockClock) -> None:
    async with quiet(lead=0, grace=1) as shutdown:
        shutdown.register(Door(seconds=math.inf))
        shutdown.request()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)  # the body cleans up
    assert ([each.seconds for each in shutdown.report.running], shutdown.report.seconds) == ([1], 6)


async def test_what_fails_to_close_keeps_no_other_open(autojump_clock: MockClock) -> None:
    jammed, door = Jammed(OSError("jammed")), Door()
    async with quiet(lead=0) as shutdown:
        shutdown.register(jammed, door)
        shutdown.request()
        await shutdown.wait_drained()
    first, second = shutdown.report.drainables
    assert (first.name, first.outcome, first.seconds, first.error) == ("Jammed", "failed", 0, jammed.error)
    assert trio.current_time() == 0
    assert (second.outcome, door.closed_at) == ("drained", [0])
    assert not shutdown.report.clean


async def test_same_thing_is_registered_once(autojump_clock: MockClock) -> None:
    class Equal(Door):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = Door.__hash__

    one, other = Equal("one"), Equal("other")
    async with quiet(lead=0) as shutdown:
        shutdown.register(one, one)
        shutdown.register(one)
        shutdown.register(other)
        shutdown.request()
        await wait_all_tasks_blocked()
        assert (one.closed_at, one.watched, other.closed_at) == ([0], 1, [0])


async def test_what_is_registered_after_the_closing_is_closed_at_once(autojump_clock: MockClock) -> None:
    late = Door("late", 3)
    async with quiet(lead=1) as shutdown:
        shutdown.request()
        await trio.sleep(2)
        shutdown.register(late)
        assert late.closed_at == [2]
        await shutdown.wait_drained()
        assert trio.current_time() == 5
    [report] = shutdown.report.drainables
    assert (report.outcome, report.seconds) == ("drained", 3)


async def test_what_registers_another_while_it_is_closed_has_that_closed_too(autojump_clock: MockClock) -> None:
    inner = Door("inner")

    class Outer(Door):
        def close_admission(self) -> None:
            shutdown.register(inner)
            shutdown.request("again")

    async with quiet(lead=0) as shutdown:
        shutdown.register(Outer("outer"))
        shutdown.request("tests")
        assert inner.closed_at == [0]
        await wait_all_tasks_blocked()
    assert [(each.name, each.outcome) for each in shutdown.report.drainables] == [
        ("outer", "drained"),
        ("inner", "drained"),
    ]
    assert inner.watched == 1


@pytest.mark.parametrize("wrong", [5, None, "door", Door, trio.Event()])
async def test_what_is_not_drainable_is_refused_and_nothing_registered(wrong: Any) -> None:
    async with quiet() as shutdown:
        with pytest.raises(TypeError, match=r"close_admission\(\) and wait_drained\(\)"):
            shutdown.register(Door(), wrong)
        assert shutdown.statistics().registered == 0


async def test_nothing_is_registered_after_the_end() -> None:
    async with quiet(name="web") as shutdown:
        pass
    with pytest.raises(RuntimeError, match="web: this shutdown has ended"):
        shutdown.register(Door())


async def test_idle_things_are_not_called_running_when_the_body_ends_at_once(autojump_clock: MockClock) -> None:
    async with (
        trioresil.open_pool(trio.Event) as pool,
        trioresil.httpx.PoolTransport() as connections,
        quiet(lead=1) as shutdown,
    ):
        shutdown.register(Bulkhead(1), pool, trioresil.httpx.ResilientTransport(connections), connections)
        shutdown.request()
        await shutdown.wait()
    assert [each.outcome for each in shutdown.report.drainables] == ["drained"] * 4
    assert shutdown.report.clean


async def test_drains_of_a_real_pool_are_waited_for(autojump_clock: MockClock) -> None:
    async def use() -> None:
        async with pool.connection():
            await trio.sleep(4)

    async with trioresil.open_pool(trio.Event) as pool, quiet(lead=1) as shutdown, trio.open_nursery() as nursery:
        shutdown.register(pool)
        nursery.start_soon(use)
        shutdown.request()
        await shutdown.wait()
        with pytest.raises(trioresil.PoolClosedError):
            async with pool.connection():
                raise AssertionError
        await shutdown.wait_drained()
        assert trio.current_time() == 4


# --- waiting ---------------------------------------------------------------------------------------------------------


async def test_wait_returns_when_admission_is_closed(autojump_clock: MockClock) -> None:
    door, times = Door(), []

    async def wait() -> None:
        await shutdown.wait()
        times.append((trio.current_time(), door.closed_at))

    async with quiet(lead=5) as shutdown, trio.open_nursery() as nursery:
        shutdown.register(door)
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.sleep(1)
        shutdown.request()
    assert times == [(6, [6]), (6, [6])]


async def test_waits_outside_of_the_block_end_when_it_is_left(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with quiet() as shutdown:
            shutdown.register(Door(seconds=math.inf))
            nursery.start_soon(shutdown.wait)
            nursery.start_soon(shutdown.wait_drained)
            await trio.sleep(1)
        async with quiet(lead=0) as shutdown:
            shutdown.register(Door(seconds=math.inf))
            shutdown.request()
            nursery.start_soon(shutdown.wait_drained)
            await trio.sleep(1)
    assert trio.current_time() == 2


async def test_wait_drained_waits_for_the_last_also_for_one_that_came_late(autojump_clock: MockClock) -> None:
    async with quiet(lead=1) as shutdown, trio.open_nursery() as nursery:
        shutdown.register(Door(seconds=2), Door(seconds=4))

        async def register_later() -> None:
            await trio.sleep(4.5)
            shutdown.register(Door(seconds=3))

        nursery.start_soon(register_later)
        shutdown.request()
        await shutdown.wait_drained()
        assert trio.current_time() == 7.5


async def test_waits_are_full_checkpoints(autojump_clock: MockClock) -> None:
    async with quiet(lead=0) as shutdown:
        shutdown.request()
        for wait in (shutdown.wait, shutdown.wait_drained):
            assert await schedule_points(wait) == 1
            assert await notices_cancellation(wait)


async def test_opening_is_no_checkpoint() -> None:
    manager = quiet()
    assert await schedule_points(manager.__aenter__) == 0
    await manager.__aexit__(None, None, None)


async def test_request_and_register_are_no_checkpoints(autojump_clock: MockClock) -> None:
    with trio.CancelScope() as scope:
        async with quiet(lead=0) as shutdown:
            scope.cancel()
            shutdown.register(Door())
            shutdown.request()
            assert shutdown.phase == "draining"
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


# --- requests --------------------------------------------------------------------------------------------------------


async def test_later_requests_change_nothing(autojump_clock: MockClock) -> None:
    async with quiet(lead=5, grace=2) as shutdown:
        shutdown.request("first")
        await trio.sleep(1)
        shutdown.request("second", lead=0)
        assert shutdown.phase == "lead"
        assert await why_cancelled() == ("shutdown: first, and its grace of 2 s is over", 7)
        shutdown.request("third")
    shutdown.request("fourth")
    assert shutdown.report.reason == "first"


async def test_request_after_the_block_does_nothing(autojump_clock: MockClock) -> None:
    readiness = Readiness()
    async with quiet(health=readiness) as shutdown:
        pass
    shutdown.request()
    assert (shutdown.requested, shutdown.phase, readiness.draining) == (False, "ended", False)


def test_outside_of_a_run_it_says_so() -> None:
    async def main() -> Shutdown:
        async with quiet() as shutdown:
            return shutdown

    shutdown = trio.run(main)
    with pytest.raises(RuntimeError, match=r"trioresil runs on Trio"):
        shutdown.request()
    with pytest.raises(RuntimeError, match=r"trioresil runs on Trio"):
        quiet().__aenter__().send(None)


def test_another_run_is_refused() -> None:
    errors: list[BaseException] = []

    async def request(shutdown: Shutdown) -> None:
        for use in (shutdown.request, lambda: shutdown.register(Door())):
            with pytest.raises(RuntimeError, match=r"'web' is in use in another trio\.run") as caught:
                use()
            errors.append(caught.value)
        with pytest.raises(RuntimeError, match=r"'web' is in use in another trio\.run") as caught:
            await shutdown.wait()
        errors.append(caught.value)

    async def main() -> None:
        async with quiet(name="web") as shutdown:
            thread = threading.Thread(target=trio.run, args=(request, shutdown))
            thread.start()
            thread.join()
            assert not shutdown.requested

    trio.run(main)
    assert len(errors) == 3


# --- signals ---------------------------------------------------------------------------------------------------------


async def test_signal_asks_for_it(autojump_clock: MockClock) -> None:
    async with open_shutdown(signals={signal.SIGUSR1}, lead=5, grace=20) as shutdown:
        await trio.sleep(1)
        signal.raise_signal(signal.SIGUSR1)
        assert await why_cancelled() == ("shutdown: SIGUSR1, and its grace of 20 s is over", 26)
    assert shutdown.report.reason == "SIGUSR1"


async def test_signal_that_came_before_the_first_checkpoint_is_not_lost(autojump_clock: MockClock) -> None:
    async with open_shutdown(signals=[signal.SIGUSR1], lead=5) as shutdown:
        signal.raise_signal(signal.SIGUSR1)
        await shutdown.wait()
    assert trio.current_time() == 5


async def test_interrupt_leaves_no_lead(autojump_clock: MockClock) -> None:
    door = Door()
    async with open_shutdown(lead=5, grace=20) as shutdown:
        shutdown.register(door)
        await trio.sleep(1)
        signal.raise_signal(signal.SIGINT)
        assert (await why_cancelled())[1] == 21
    assert door.closed_at == [1]


@pytest.mark.parametrize(("second", "at"), [(2, 2.0), (8, 8.0)])
async def test_second_signal_cancels_at_once(autojump_clock: MockClock, second: float, at: float) -> None:
    door = Door(seconds=math.inf)
    async with open_shutdown(lead=5, grace=20) as shutdown, trio.open_nursery() as nursery:
        shutdown.register(door)

        async def ask() -> None:
            signal.raise_signal(signal.SIGTERM)
            await trio.sleep(second)
            signal.raise_signal(signal.SIGINT)

        nursery.start_soon(ask)
        assert await why_cancelled() == ("shutdown: SIGTERM, then SIGINT", at)
        nursery.cancel_scope.cancel()
    assert door.closed_at == [min(at, 5)]
    assert shutdown.report.cancelled == "SIGTERM, then SIGINT"
    assert shutdown.statistics().signals == 2


async def test_second_signal_during_the_lead_calls_only_the_busy_running(autojump_clock: MockClock) -> None:
    async with open_shutdown(signals={signal.SIGUSR1}) as shutdown:
        shutdown.register(Bulkhead(1, name="idle"), Door("busy", math.inf))
        for _ in range(2):
            signal.raise_signal(signal.SIGUSR1)
            await trio.sleep(1)
    assert [(each.name, each.outcome) for each in shutdown.report.drainables] == [
        ("idle", "drained"),
        ("busy", "running"),
    ]
    assert trio.current_time() == 1


async def test_second_signal_frees_those_who_wait_outside_of_the_block(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with open_shutdown(signals={signal.SIGUSR1}) as shutdown:
            nursery.start_soon(shutdown.wait)
            for _ in range(2):
                signal.raise_signal(signal.SIGUSR1)
                await trio.sleep(1)
    assert trio.current_time() == 1


async def test_first_signal_after_a_request_does_not_cancel(autojump_clock: MockClock) -> None:
    async with open_shutdown(signals={signal.SIGUSR1}, lead=5, grace=20) as shutdown:
        shutdown.request("ourselves")
        await trio.sleep(1)
        signal.raise_signal(signal.SIGUSR1)
        assert await why_cancelled() == ("shutdown: ourselves, and its grace of 20 s is over", 25)


async def test_interrupt_after_a_request_ends_the_lead(autojump_clock: MockClock) -> None:
    async with open_shutdown(lead=5, grace=20) as shutdown:
        shutdown.request()
        await trio.sleep(1)
        signal.raise_signal(signal.SIGINT)
        await shutdown.wait()
        assert trio.current_time() == 1
        assert (await why_cancelled())[1] == 21


async def test_signals_do_what_they_did_before_once_the_body_is_cancelled(autojump_clock: MockClock) -> None:
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        async with open_shutdown(signals={signal.SIGUSR1}, lead=0, grace=1) as shutdown:
            shutdown.request()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                    assert not heard
                    signal.raise_signal(signal.SIGUSR1)
                    assert heard == [signal.SIGUSR1]
        signal.raise_signal(signal.SIGUSR1)
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("how", ["clean", "error", "cancelled"])
async def test_handlers_are_put_back_however_the_block_ends(how: str) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with trio.CancelScope() as scope:
        try:
            async with open_shutdown():
                assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] != before
                if how == "error":
                    raise ValueError
                if how == "cancelled":
                    scope.cancel()
                    await trio.sleep_forever()
        except ValueError:
            pass
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


async def test_signal_is_caught_by_one_open_shutdown_only() -> None:
    async with open_shutdown(signals={signal.SIGTERM, signal.SIGUSR1}, name="outer"):
        with pytest.raises(RuntimeError, match="inner: SIGUSR1 is caught by 'outer' already"):
            await open_shutdown(signals={signal.SIGUSR1}, name="inner").__aenter__()
        async with open_shutdown(signals={signal.SIGUSR2}), quiet():
            pass
    async with open_shutdown(signals={signal.SIGTERM, signal.SIGUSR1}):
        pass


async def test_shutdown_inside_of_another_ends_with_it(autojump_clock: MockClock) -> None:
    async with quiet(lead=0, grace=1, name="outer") as outer:
        async with quiet(name="inner") as inner:
            outer.request()
            await trio.sleep_forever()
        raise AssertionError("the inner one swallowed what the outer one made")
    assert (trio.current_time(), inner.report.cancelled) == (1, None)


def test_signals_in_another_thread_are_refused_with_advice() -> None:
    errors = []

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"web: signals reach the main thread only.*signals=\(\)") as caught:
            await open_shutdown(name="web").__aenter__()
        errors.append(caught.value)
        async with quiet(lead=0, grace=0) as shutdown:
            shutdown.request()
            await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    thread.join()
    assert len(errors) == 1


@pytest.mark.parametrize("error", [None, ValueError()])
async def test_body_that_ends_just_before_it_would_be_cancelled_was_not(
    autojump_clock: MockClock, error: Exception | None
) -> None:
    recorder = Recorder()
    with contextlib.suppress(ValueError), trioresil.instrument(recorder):
        async with open_shutdown(signals={signal.SIGUSR1}) as shutdown:
            shutdown.register(Door(seconds=math.inf))
            signal.raise_signal(signal.SIGUSR1)
            await trio.sleep(1)
            signal.raise_signal(signal.SIGUSR1)
            while shutdown.phase != "cancelled":
                await trio.lowlevel.checkpoint()
            if error is not None:
                raise error
    assert shutdown.report.cancelled is None
    assert recorder.of(ShutdownCancelled) == []


# --- what it says ----------------------------------------------------------------------------------------------------


async def test_events_tell_the_course(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with quiet(lead=5, grace=20, name="web") as shutdown:
            shutdown.register(Door("a"), Door("b", math.inf))
            shutdown.request("tests")
            await trio.sleep_forever()
    assert recorder.events == [
        PolicySeen(policy=shutdown),
        ShutdownRequested(policy=shutdown, reason="tests", lead=5, grace=20),
        AdmissionClosed(policy=shutdown, drainables=("a", "b")),
        ShutdownCancelled(policy=shutdown, reason="web: tests, and its grace of 20 s is over", running=("b",)),
    ]


async def test_cancellation_is_told_once_also_if_its_grace_ends_in_the_step_of_the_second_signal() -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with open_shutdown(signals=(), lead=0, grace=10) as shutdown, trio.open_nursery() as nursery:
            for _ in range(2):
                shutdown._course.signal(trio.current_time(), "SIGTERM", hasty=False)
            for _ in range(2):  # as the task that keeps the time and the one that listens
                nursery.start_soon(shutdown._carry_out)
    assert sum(isinstance(each, ShutdownCancelled) for each in recorder.events) == 1


async def test_events_go_to_the_instruments_of_who_opened_it_whoever_asks(autojump_clock: MockClock) -> None:
    mine, others = Recorder(), Recorder()
    with trioresil.instrument(mine):
        async with quiet(lead=0) as shutdown:
            with trioresil.instrument(others):
                shutdown.request()
    assert [type(each) for each in mine.events] == [PolicySeen, ShutdownRequested, AdmissionClosed]
    assert others.events == []


async def test_event_says_the_lead_that_there_is(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with open_shutdown():
            signal.raise_signal(signal.SIGINT)
            await trio.sleep(1)
        async with quiet() as shutdown:
            shutdown.request(lead=2)
    assert [(each.reason, each.lead) for each in recorder.of(ShutdownRequested)] == [("SIGINT", 0), ("requested", 2)]


async def test_without_an_instrument_only_the_cancellation_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="trioresil"):
        async with quiet(lead=5, grace=20, name="web") as shutdown:
            shutdown.register(Door("orders", math.inf))
            shutdown.request()
            await trio.sleep_forever()
    assert [each.message for each in caplog.records] == ["web: the body is cancelled; still running: ('orders',)"]


async def test_statistics_at_each_stage(autojump_clock: MockClock) -> None:
    async with quiet(lead=5, grace=20, name="web") as shutdown:
        shutdown.register(Door("a", 2), Door("b", math.inf))
        await trio.sleep(1)
        assert shutdown.statistics() == trioresil.ShutdownStatistics(
            name="web", phase="serving", reason=None, signals=0, registered=2, running=0,
            closes_at=math.inf, cancels_at=math.inf,
        )  # fmt: skip
        shutdown.request("tests")
        await trio.sleep(6)
        assert shutdown.statistics() == trioresil.ShutdownStatistics(
            name="web", phase="draining", reason="tests", signals=0, registered=2, running=2, closes_at=6, cancels_at=26,
        )  # fmt: skip
        await trio.sleep(2)
        assert shutdown.statistics().running == 1


async def test_repr_is_a_status_line(autojump_clock: MockClock) -> None:
    lines = []
    async with open_shutdown(signals={signal.SIGUSR1}, name="web") as shutdown:
        shutdown.register(Door("a", 2), Door("b", 30))
        lines.append(repr(shutdown))
        signal.raise_signal(signal.SIGUSR1)
        for seconds in (1, 4.5, 2):
            await trio.sleep(seconds)
            lines.append(repr(shutdown))
    lines.append(repr(shutdown))
    assert lines == [
        "<trioresil.Shutdown 'web' serving>",
        "<trioresil.Shutdown 'web' lead (SIGUSR1)>",
        "<trioresil.Shutdown 'web' draining (SIGUSR1), 2/2 running>",
        "<trioresil.Shutdown 'web' draining (SIGUSR1), 1/2 running>",
        "<trioresil.Shutdown 'web' ended (SIGUSR1), 1/2 running>",
    ]


def test_report_statistics_and_repr_work_outside_of_a_run() -> None:
    async def main() -> Shutdown:
        async with quiet(lead=0, grace=1) as shutdown:
            shutdown.register(Door("slow", math.inf))
            shutdown.request()
            await trio.sleep_forever()
        return shutdown

    shutdown = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert (shutdown.report.seconds, shutdown.statistics().running) == (1, 1)
    assert repr(shutdown) == "<trioresil.Shutdown 'shutdown' ended (requested), 1/1 running>"


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("lead", -1, ValueError),
        ("lead", math.inf, ValueError),
        ("lead", math.nan, ValueError),
        ("lead", "5", TypeError),
        ("grace", -1, ValueError),
        ("grace", None, TypeError),
        ("name", "", ValueError),
        ("health", 5, TypeError),
        ("health", ReadOnly(), TypeError),
        ("signals", signal.SIGTERM, TypeError),
        ("signals", "SIGTERM", TypeError),
        ("signals", None, TypeError),
        ("signals", ["SIGTERM"], TypeError),
        ("signals", [True], TypeError),
        ("signals", [9999], ValueError),
        ("signals", [signal.SIGKILL], ValueError),
        ("signals", [signal.SIGTERM, signal.SIGSTOP], ValueError),
    ],
)
def test_wrong_arguments_are_refused_at_once(argument: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{argument} must be"):
        open_shutdown(**{argument: value})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"reason": ""}, ValueError),
        ({"reason": 5}, TypeError),
        ({"lead": -1}, ValueError),
        ({"lead": math.inf}, ValueError),
    ],
)
async def test_wrong_arguments_of_a_request_are_refused_and_nothing_begins(
    options: dict[str, Any], error: type[Exception]
) -> None:
    async with quiet() as shutdown:
        with pytest.raises(error, match="must be"):
            shutdown.request(**options)
        assert not shutdown.requested


def test_defaults_stay_below_the_thirty_seconds_of_kubernetes() -> None:
    manager = open_shutdown()
    assert manager._signals == {signal.SIGTERM, signal.SIGINT}
    assert (manager._lead, manager._grace) == (5, 20)


def test_numbers_of_signals_are_as_good_as_their_names() -> None:
    assert open_shutdown(signals=[15])._signals == {signal.SIGTERM}
