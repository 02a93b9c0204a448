"""The nursery inside a service: whatever body and workers do, each error leaves as the object that it was."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trioresil._services._tasks import Tasks
from trioresil.testing import Sweep, cancellation_sweep

colour: ContextVar[str] = ContextVar("colour")


class Passing:
    """Remembers what passes through its block."""

    error: BaseException | None = None

    def __enter__(self) -> Passing:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.error = error


async def fail(error: BaseException) -> None:
    raise error


async def fail_when_cancelled(error: BaseException) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise error


def caused(error: BaseException) -> tuple[BaseException, BaseException, BaseException]:
    """Give an error a cause and a context that it must keep."""
    cause, context = KeyError("cause"), LookupError("context")
    error.__cause__, error.__context__ = cause, context
    return error, cause, context


# --- the body alone --------------------------------------------------------------------------------------------------


async def test_clean_body_cancels_its_workers_and_waits_for_them() -> None:
    ended = []

    async def worker() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            ended.append("worker")

    async with Tasks("db") as tasks:
        tasks.start_soon(worker)
        await wait_all_tasks_blocked()
        assert not ended
    assert ended == ["worker"]


async def test_body_is_told_why_when_it_is_cancelled() -> None:
    reasons = []
    async with Tasks("db") as tasks:
        tasks.cancel("db: enough")
        try:
            await trio.sleep_forever()
        except trio.Cancelled as exc:
            reasons.append(exc.reason)
            raise
    assert reasons == ["db: enough"]


@pytest.mark.parametrize("error", [ValueError(), ExceptionGroup("two", [ValueError(), OSError()]), KeyboardInterrupt()])
async def test_error_of_the_body_leaves_as_the_object_it_was(error: BaseException) -> None:
    error, cause, context = caused(error)
    with pytest.raises(type(error)) as caught:
        async with Tasks("db") as tasks:
            tasks.start_soon(trio.sleep_forever)
            raise error
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (cause, context)


async def test_cancelled_body_leaves_with_its_own_cancellation() -> None:
    with trio.CancelScope() as scope, Passing() as out:
        async with Tasks("db") as tasks:
            tasks.start_soon(trio.sleep_forever)
            scope.cancel()
            with Passing() as inside:
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert out.error is inside.error
    assert type(out.error) is trio.Cancelled


async def test_body_cancelled_in_a_nursery_of_its_own_leaves_with_the_same_group() -> None:
    with trio.CancelScope() as scope, Passing() as out:
        async with Tasks("db") as tasks:
            tasks.start_soon(trio.sleep_forever)
            with Passing() as inside:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    scope.cancel()
    assert scope.cancelled_caught
    assert out.error is inside.error
    assert isinstance(out.error, BaseExceptionGroup)


async def test_outer_cancellation_while_workers_end_does_not_hide_the_error_of_the_body() -> None:
    error = ValueError()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        with trio.CancelScope() as scope:
            async with Tasks("db") as tasks:
                tasks.start_soon(slow_to_end, scope)
                await wait_all_tasks_blocked()
                raise error
    assert caught.value is error


async def slow_to_end(outer: trio.CancelScope) -> None:
    try:
        await trio.sleep_forever()
    finally:
        outer.cancel()


async def test_outer_cancellation_while_workers_end_leaves_bare() -> None:
    with trio.CancelScope() as scope, Passing() as out:
        async with Tasks("db") as tasks:
            tasks.start_soon(slow_to_end, scope)
            tasks.start_soon(trio.sleep_forever)
            await wait_all_tasks_blocked()
    assert scope.cancelled_caught
    assert type(out.error) is trio.Cancelled


# --- workers that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError(), ExceptionGroup("two", [ValueError(), OSError()])])
@pytest.mark.parametrize("by", ["start_soon", "start"])
async def test_error_of_one_worker_cancels_the_rest_and_leaves_bare(error: Exception, by: str) -> None:
    error_, cause, context = caused(error)
    failed = trio.Event()

    async def started(*, task_status: trio.TaskStatus[str]) -> None:
        task_status.started("value")
        await failed.wait()
        raise error

    async def failing() -> None:
        await failed.wait()
        raise error

    with pytest.raises(type(error)) as caught:
        async with Tasks("db") as tasks:
            if by == "start":
                assert await tasks.start(started) == "value"
            else:
                tasks.start_soon(failing)
            tasks.start_soon(trio.sleep_forever)
            failed.set()
            await trio.sleep_forever()
    assert caught.value is error_
    assert (error.__cause__, error.__context__) == (cause, context)


async def test_error_of_a_worker_leaves_a_body_that_never_waited() -> None:
    error = ValueError()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        async with Tasks("db") as tasks:
            tasks.start_soon(fail, error)
            await trio.lowlevel.checkpoint_if_cancelled()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
    assert caught.value is error


async def test_error_of_a_worker_and_of_the_body_leave_in_one_group() -> None:
    (of_worker, worker_cause, worker_context), (of_body, body_cause, body_context) = (
        caused(OSError()),
        caused(KeyError()),
    )
    with pytest.raises(ExceptionGroup) as caught:
        async with Tasks("db") as tasks:
            tasks.start_soon(fail_when_cancelled, of_worker)
            await wait_all_tasks_blocked()
            raise of_body
    assert str(caught.value) == "db: more than one error (2 sub-exceptions)"
    assert [each is wanted for each, wanted in zip(caught.value.exceptions, [of_body, of_worker], strict=True)] == [
        True
    ] * 2
    assert (of_body.__cause__, of_body.__context__) == (body_cause, body_context)
    assert of_worker.__cause__ is worker_cause
    assert caught.value.__context__ is None
    assert worker_context is not None


async def test_errors_of_two_workers_leave_in_one_group() -> None:
    first, second = OSError(), KeyError()
    with pytest.raises(ExceptionGroup) as caught:
        async with Tasks("db") as tasks:
            tasks.start_soon(fail_when_cancelled, second)
            await wait_all_tasks_blocked()
            tasks.start_soon(fail, first)
            await trio.sleep_forever()
    assert caught.value.exceptions == (first, second)


async def test_group_that_the_body_got_from_a_failed_worker_keeps_only_its_own_errors() -> None:
    of_worker, of_child = OSError(), KeyError()
    with pytest.raises(ExceptionGroup) as caught:
        async with Tasks("db") as tasks:
            tasks.start_soon(fail, of_worker)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail_when_cancelled, of_child)
    [of_body, worker] = caught.value.exceptions
    assert worker is of_worker
    assert isinstance(of_body, ExceptionGroup)
    assert of_body.exceptions == (of_child,)


async def test_group_of_a_body_that_the_service_cancelled_leaves_without_the_cancellations() -> None:
    error = KeyError()
    with pytest.raises(ExceptionGroup) as caught:
        async with Tasks("db") as tasks:
            tasks.cancel("enough")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail_when_cancelled, error)
    assert caught.value.exceptions == (error,)


async def test_group_of_cancellation_and_error_of_the_body_leaves_as_it_was() -> None:
    error = KeyError()
    with pytest.raises(ExceptionGroup) as caught:
        with trio.CancelScope() as scope, Passing() as out:
            async with Tasks("db") as tasks:
                tasks.start_soon(trio.sleep_forever)
                with Passing() as inside:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(trio.sleep_forever)
                        nursery.start_soon(fail_when_cancelled, error)
                        scope.cancel()
    assert out.error is inside.error
    assert caught.value.exceptions == (error,)


async def test_error_of_a_worker_beside_an_outer_cancellation_is_not_lost() -> None:
    error = OSError()
    with pytest.raises(ExceptionGroup) as caught:
        with trio.CancelScope() as scope:
            async with Tasks("db") as tasks:
                tasks.start_soon(fail_when_cancelled, error)
                await wait_all_tasks_blocked()
                scope.cancel()
                await trio.sleep_forever()
    assert caught.value.exceptions == (error,)
    assert scope.cancelled_caught


async def test_error_of_a_worker_wins_over_a_cancellation_that_only_workers_saw() -> None:
    error = OSError()
    with pytest.raises(OSError) as caught:  # noqa: PT011
        with trio.CancelScope() as scope:
            async with Tasks("db") as tasks:
                tasks.start_soon(fail_when_cancelled, error)
                tasks.start_soon(slow_to_end, scope)
                await wait_all_tasks_blocked()
    assert caught.value is error


async def test_keyboard_interrupt_of_a_worker_comes_out() -> None:
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        async with Tasks("db") as tasks:
            tasks.start_soon(fail, error)
            await trio.sleep_forever()
    assert caught.value is error


async def test_worker_that_fails_before_it_has_started_fails_the_start_alone() -> None:
    error = OSError()

    async def failing(*, task_status: trio.TaskStatus[None]) -> None:
        raise error

    async with Tasks("db") as tasks:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            await tasks.start(failing)
        assert caught.value is error
        tasks.start_soon(trio.sleep_forever)
        await wait_all_tasks_blocked()


# --- use -------------------------------------------------------------------------------------------------------------


async def test_left_in_another_task_is_refused_and_changes_nothing() -> None:
    tasks = Tasks("db")
    await tasks.__aenter__()

    async def leave() -> None:
        with pytest.raises(RuntimeError, match="db must be left in the task that opened it"):
            await tasks.__aexit__(None, None, None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
    ended = trio.Event()
    tasks.start_soon(ended.wait)
    ended.set()
    await wait_all_tasks_blocked()
    await tasks.__aexit__(None, None, None)


async def test_opened_twice_is_refused() -> None:
    tasks = Tasks("db")
    async with tasks:
        with pytest.raises(RuntimeError, match="db was opened already"):
            await tasks.__aenter__()
    with pytest.raises(RuntimeError, match="db was opened already"):
        await tasks.__aenter__()


async def test_workers_run_in_the_context_of_the_opener_whoever_starts_them() -> None:
    seen = []

    async def worker() -> None:
        seen.append((colour.get(), trio.lowlevel.current_task().name))

    async def other(tasks: Tasks) -> None:
        colour.set("red")
        tasks.start_soon(worker, name="painter")
        tasks.start_soon(worker)

    colour.set("blue")
    async with Tasks("db") as tasks:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other, tasks)
        await wait_all_tasks_blocked()
    assert sorted(seen)[0] == ("blue", "painter")
    assert [each for each, _ in seen] == ["blue", "blue"]
    assert "worker" in sorted(seen)[1][1]


Body = Callable[[Tasks], Awaitable[object]]


async def waits(tasks: Tasks) -> None:
    await trio.sleep(1)


async def nests(tasks: Tasks) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 1)


async def starts(tasks: Tasks) -> None:
    async def slow(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(0.5)
        task_status.started()
        await trio.sleep_forever()

    await tasks.start(slow)


async def sweep_scenario(body: Body, sweep: Sweep) -> None:
    living = 0

    async def worker() -> None:
        nonlocal living
        living += 1
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.25)
            living -= 1

    with sweep.victim(), Passing() as out:
        async with Tasks("db") as tasks:
            tasks.start_soon(worker)
            await body(tasks)
    assert living == 0
    if sweep.victim_cancelled:
        assert out.error is not None
        leaves = out.error.exceptions if isinstance(out.error, BaseExceptionGroup) else [out.error]
        assert {type(each) for each in leaves} == {trio.Cancelled}
        assert body is nests or out.error is leaves[0]


@pytest.mark.parametrize("body", [waits, nests, starts])
def test_cancelled_at_any_moment_leaves_no_worker_behind(body: Body) -> None:
    assert cancellation_sweep(functools.partial(sweep_scenario, body)).cancelled > 0


# --- starts ----------------------------------------------------------------------------------------------------------


async def never_up(*, task_status: object) -> None:
    await trio.sleep_forever()


async def test_group_raised_before_started_leaves_start_as_the_object_it_was() -> None:
    error, cause, context = caused(ExceptionGroup("of the worker", [ValueError(), ExceptionGroup("", [OSError()])]))

    async def worker(*, task_status: object) -> None:
        raise error

    async with Tasks("service") as tasks:
        with pytest.raises(ExceptionGroup) as caught:
            await tasks.start(worker)
        assert caught.value is error
    assert (error.__cause__, error.__context__) == (cause, context)


async def test_start_under_way_when_the_body_ends_is_told_and_holds_up_nobody(nursery: trio.Nursery) -> None:
    seen: list[str] = []

    async def ask(tasks: Tasks) -> None:
        with pytest.raises(RuntimeError) as caught:
            await tasks.start(never_up)
        seen.append(str(caught.value))

    with trio.fail_after(5):
        async with Tasks("service") as tasks:
            nursery.start_soon(ask, tasks)
            await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
    assert seen == ["service was closed before never_up had started"]


async def test_start_under_way_when_a_worker_fails_is_told_too(nursery: trio.Nursery) -> None:
    seen: list[str] = []
    error = LookupError()

    async def ask(tasks: Tasks) -> None:
        for _ in range(2):  # also by whoever asks later, while the service ends
            with pytest.raises(RuntimeError) as caught:
                await tasks.start(never_up)
            seen.append(str(caught.value))

    with trio.fail_after(5), pytest.raises(LookupError) as caught:
        async with Tasks("service") as tasks:
            nursery.start_soon(ask, tasks)
            await wait_all_tasks_blocked()
            tasks.start_soon(fail, error)
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
            assert seen == ["service was closed before never_up had started"] * 2
    assert caught.value is error
