"""open_supervisor, one child at a time: when it is run again, when no more, how it is started and stopped; to the second."""

from __future__ import annotations

import functools
import gc
import math
import weakref
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioresil
from tests._limits import notices_cancellation, schedule_points
from tests.services._children import Stage, fail
from trioresil import ChildFailed, ChildRestarted, RestartLimitError, open_supervisor, stop_requested
from trioresil.testing import Recorder

colour: ContextVar[str] = ContextVar("colour", default="none")
exactly = functools.partial(open_supervisor, backoff=[1.0], grace=5.0)


# --- run again -------------------------------------------------------------------------------------------------------


async def test_child_that_fails_is_run_again_after_the_back_off(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly() as supervisor:
        await supervisor.start(stage.child("a", (2, OSError()), (2, OSError()), up=0.5))
        await trio.sleep(5)
    assert stage.log == ["a+ 0", "a! 0.5", "a- 2.5", "a+ 3.5", "a! 4", "a- 5.5"]


async def test_start_returns_the_first_value_and_later_ones_are_dropped(autojump_clock: MockClock) -> None:
    values = iter(["first", "second"])

    async def child(*, task_status: trio.TaskStatus[str]) -> None:
        await trio.sleep(1)
        task_status.started(next(values))
        await trio.sleep(1)

    async with exactly() as supervisor:
        assert await supervisor.start(child) == "first"
        assert trio.current_time() == 1
        await trio.sleep(3.5)
        assert next(values, None) is None
        assert supervisor.statistics().children[0].restarts == 1


@pytest.mark.parametrize("by", ["start", "start_soon"])
@pytest.mark.parametrize("outcome", [None, OSError()])
@pytest.mark.parametrize("restart", ["always", "on_failure", "never"])
async def test_restart_says_after_which_end_a_child_is_run_again(
    autojump_clock: MockClock, by: str, outcome: Exception | None, restart: Any
) -> None:
    stage = Stage()
    async with exactly() as supervisor:
        child = stage.child("a", (1, outcome))
        if by == "start":
            await supervisor.start(child, restart=restart)
        else:
            supervisor.start_soon(child, restart=restart)
        await trio.sleep(5)
        statistics = supervisor.statistics()
    again = restart == "always" or (restart == "on_failure" and outcome is not None)
    assert stage.log[:3] == ["a+ 0", "a! 0", "a- 1"]
    assert stage.log[3:] == (["a+ 2", "a! 2", "a- 5"] if again else [])
    assert (statistics.restarts, statistics.ended, len(statistics.children)) == ((1, 0, 1) if again else (0, 1, 0))
    assert statistics.last_error is outcome


async def test_start_restarts_always_and_start_soon_after_failures_if_nothing_is_said(
    autojump_clock: MockClock,
) -> None:
    stage = Stage()
    async with exactly() as supervisor:
        await supervisor.start(stage.child("a"))
        supervisor.start_soon(stage.child("b"))
        assert [child.restart for child in supervisor.statistics().children] == ["always", "on_failure"]


async def test_child_that_is_never_restarted_fails_as_an_event_and_nothing_else(autojump_clock: MockClock) -> None:
    stage, error, recorder = Stage(), OSError(), Recorder()
    with trioresil.instrument(recorder):
        async with exactly(max_restarts=0) as supervisor:
            supervisor.start_soon(stage.child("other"))
            supervisor.start_soon(stage.child("a", (1, error)), restart="never")
            await trio.sleep(5)
            assert supervisor.statistics().last_error is error
    [event] = recorder.of(ChildFailed)
    assert (event.policy, event.child, event.error, event.outcome) == (supervisor, "a", error, "ends")
    assert stage.take()[-1] == "other- 5"


async def test_back_off_grows_and_starts_afresh_after_a_stable_life(autojump_clock: MockClock) -> None:
    stage, error = Stage(), OSError()
    lives = [(0.0, error), (29.75, error), (0.0, error), (30.0, error), (0.0, error)]
    async with open_supervisor(backoff=[1, 2, 4], max_restarts=math.inf) as supervisor:
        await supervisor.start(stage.child("a", *lives, up=0.5))  # the life is counted from started() on
        await trio.sleep(200)
    began = [float(each[3:]) for each in stage.log if each[1] == "+"]
    ended = [float(each[3:]) for each in stage.log if each[1] == "-"]
    assert [after - before for after, before in zip(began[1:], ended[:-1], strict=True)] == [1, 2, 4, 1, 2]


async def test_stable_after_may_be_zero_or_infinite(autojump_clock: MockClock) -> None:
    for stable_after, waits in {0: [1, 1, 1], math.inf: [1, 2, 4]}.items():
        recorder, lives = Recorder(), [(1e3, OSError())] * 3
        with trioresil.instrument(recorder):
            async with open_supervisor(
                backoff=[1, 2, 4], max_restarts=math.inf, stable_after=stable_after
            ) as supervisor:
                supervisor.start_soon(Stage().child("a", *lives))
                await trio.sleep(4e3)
        assert [event.delay for event in recorder.of(ChildRestarted)] == waits


async def test_back_off_is_exponential_unless_told_otherwise_and_draws_from_rng(
    autojump_clock: MockClock, rng: Any
) -> None:
    recorder, delays = Recorder(), trioresil.exponential().delays(type(rng)(20))
    with trioresil.instrument(recorder):
        async with open_supervisor(rng=rng) as supervisor:
            supervisor.start_soon(Stage().child("a", *[(0, OSError())] * 3))
            await trio.sleep(20)
    assert [event.delay for event in recorder.of(ChildRestarted)] == [next(delays) for _ in range(3)]


async def test_children_wait_out_their_own_back_offs(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with open_supervisor(backoff=[1, 2]) as supervisor:
        supervisor.start_soon(stage.child("a", (0, OSError()), (0, OSError())))
        await trio.sleep(1.5)
        stage.take()
        supervisor.start_soon(stage.child("b", (0, OSError())))
        await trio.sleep(2)
    assert stage.log[:6] == ["b+ 1.5", "b! 1.5", "b- 1.5", "b+ 2.5", "b! 2.5", "a+ 3"]


async def test_500_children_that_fail_in_the_same_second_are_each_run_again_once(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with open_supervisor(max_restarts=1) as supervisor:
        for number in range(500):
            supervisor.start_soon(stage.child(f"{number}", (number / 500, OSError())))
        await trio.sleep(30)
        statistics = supervisor.statistics()
        assert [child.restarts for child in statistics.children] == [1] * 500
        assert (statistics.restarts, len(stage.living)) == (500, 500)


# --- the limit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("last", "restarts"), [(69.75, 3), (70.0, 4)])
async def test_restart_that_is_as_old_as_the_window_counts_no_more(
    autojump_clock: MockClock, last: float, restarts: int
) -> None:
    stage, error, recorder = Stage(), OSError(), Recorder()
    lives = [(10.0, error), (9.0, error), (9.0, error), (last - 31, error)]  # fails at 10, 20, 30 and `last`
    escalated = False
    with trioresil.instrument(recorder), trio.move_on_after(80):
        try:
            async with exactly(max_restarts=3, within=60) as supervisor:
                supervisor.start_soon(stage.child("a", *lives))
                await trio.sleep_forever()
        except RestartLimitError:
            escalated = True
            assert trio.current_time() == last
    assert escalated is (restarts == 3)
    assert len(recorder.of(ChildRestarted)) == restarts


async def test_failure_beyond_the_limit_leaves_bare_at_once_with_its_cause(autojump_clock: MockClock) -> None:
    errors = [OSError(number) for number in range(3)]
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder), pytest.raises(RestartLimitError) as caught:
        async with exactly(max_restarts=2, within=9, name="sup") as supervisor:
            supervisor.start_soon(stage.child("other", ends=3))
            await supervisor.start(stage.child("a", *[(1, error) for error in errors]))
            await trio.sleep_forever()
    assert stage.log[-2:] == ["a- 5", "other- 8"]  # 3 lives of 1 s, 2 back-offs of 1 s
    error = caught.value
    assert (error.supervisor, error.child, error.restarts, error.within) == ("sup", "a", 2, 9)
    assert (error.policy, error.started) == ("sup", None)
    assert error.__cause__ is errors[2]
    assert error.__cause__.__cause__ is error.__cause__.__context__ is None
    assert str(error) == "sup: child 'a' ended again after 2 restarts within 9 s"
    assert [event.outcome for event in recorder.of(ChildFailed)] == ["restarts", "restarts", "escalates"]


async def test_clean_return_that_is_run_again_counts(autojump_clock: MockClock) -> None:
    with pytest.raises(RestartLimitError) as caught:
        async with exactly(max_restarts=1) as supervisor:
            supervisor.start_soon(Stage().child("a", (1, None), (1, None)), restart="always")
            await trio.sleep_forever()
    assert trio.current_time() == 3
    assert caught.value.__cause__ is None


async def test_each_child_has_a_limit_of_its_own(autojump_clock: MockClock) -> None:
    async with exactly(max_restarts=1) as supervisor:
        for number in range(5):
            supervisor.start_soon(Stage().child(f"{number}", (1, OSError())))
        await trio.sleep(9)
        assert supervisor.statistics().restarts == 5


async def test_without_a_limit_it_goes_on_for_ever(autojump_clock: MockClock) -> None:
    async with exactly(max_restarts=math.inf) as supervisor:
        supervisor.start_soon(Stage().child("a", *[(0, OSError())] * 1000))
        await trio.sleep(2000)
        assert supervisor.statistics().restarts == 1000


async def test_loop_of_failures_without_a_back_off_lets_others_run(autojump_clock: MockClock) -> None:
    async def child() -> None:
        raise OSError

    async with open_supervisor(max_restarts=math.inf, backoff=[0]) as supervisor:
        supervisor.start_soon(child)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert supervisor.statistics().restarts > 5


async def test_two_that_go_beyond_the_limit_at_once_are_one_error(autojump_clock: MockClock) -> None:
    with pytest.raises(RestartLimitError):
        async with exactly(max_restarts=0) as supervisor:
            supervisor.start_soon(Stage().child("a", (1, OSError())))
            supervisor.start_soon(Stage().child("b", (1, OSError())))
            await trio.sleep_forever()


# --- start() ---------------------------------------------------------------------------------------------------------


async def test_failure_before_started_leaves_start_bare_and_the_others_alone(autojump_clock: MockClock) -> None:
    stage, recorder = Stage(), Recorder()
    error = ExceptionGroup("mine", [OSError()])
    cause = error.__cause__ = KeyError()

    async def child(*, task_status: Any) -> None:
        await trio.sleep(1)
        raise error

    with trioresil.instrument(recorder):
        async with exactly(max_restarts=0) as supervisor:
            supervisor.start_soon(stage.child("other"))
            with pytest.raises(ExceptionGroup) as caught:
                await supervisor.start(child, name="a")
            assert caught.value is error
            assert error.__cause__ is cause
            assert error.__context__ is None
            assert trio.current_time() == 1
            assert [each.name for each in supervisor.statistics().children] == ["other"]
            assert supervisor.statistics().ended == 0
            assert stage.living == ["other"]
            supervisor.start_soon(stage.child("a"), name="a")  # the name is free
    assert not recorder.of(ChildFailed)


async def test_return_without_started_is_an_error_as_in_trio(autojump_clock: MockClock) -> None:
    async def child(*, task_status: Any) -> None:
        pass

    async with exactly() as supervisor:
        with pytest.raises(RuntimeError, match=r"child exited without calling task_status.started\(\)"):
            await supervisor.start(child)
        assert not supervisor.statistics().children


async def test_started_twice_is_an_error_in_each_run(autojump_clock: MockClock) -> None:
    seen = []

    async def child(*, task_status: Any) -> None:
        task_status.started()
        await trio.sleep(1)
        with pytest.raises(RuntimeError, match="called 'started' twice"):
            task_status.started()
        seen.append(trio.current_time())

    async with exactly() as supervisor:
        await supervisor.start(child)
        await trio.sleep(3.5)
    assert seen == [1, 3]


async def test_started_may_be_called_by_a_task_of_the_child(autojump_clock: MockClock) -> None:
    async def inner(task_status: Any) -> None:
        await trio.sleep(1)
        task_status.started("value")
        await trio.sleep(1)
        raise OSError

    async def child(*, task_status: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inner, task_status)

    async with exactly() as supervisor:
        assert await supervisor.start(child) == "value"
        await trio.sleep(2.5)
        assert supervisor.statistics().children[0].state == "starting"
        assert isinstance(supervisor.statistics().last_error, ExceptionGroup)


async def test_cancelled_start_leaves_no_child_and_waits_until_it_is_gone(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly() as supervisor:
        with trio.move_on_after(1):
            await supervisor.start(stage.child("a", up=2, ends=3))
        assert stage.log == ["a+ 0", "a- 4"]
        assert trio.current_time() == 4
        assert not supervisor.statistics().children
        await trio.sleep(5)
        assert len(stage.log) == 2


@pytest.mark.parametrize("outcome", [None, OSError()])
async def test_started_after_start_was_cancelled_leaves_no_child(
    autojump_clock: MockClock, outcome: Exception | None
) -> None:
    runs, recorder = [], Recorder()

    async def child(*, task_status: Any) -> None:
        runs.append(trio.current_time())
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2)
            task_status.started("too late")
            if outcome is not None:
                raise outcome

    with trioresil.instrument(recorder):
        async with exactly(max_restarts=0) as supervisor:
            try:
                with trio.move_on_after(1):
                    await supervisor.start(child)
            except OSError as exc:
                assert exc is outcome  # noqa: PT017
            else:
                assert outcome is None
            assert trio.current_time() == 3
            assert not supervisor.statistics().children
            await trio.sleep(5)
    assert runs == [0]
    assert not recorder.of(ChildFailed)


async def test_cancelled_start_whose_child_fails_too_leaves_with_both(autojump_clock: MockClock) -> None:
    error = OSError()

    async def child(*, task_status: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(Stage().child("a", failing=error))

    passed: list[BaseException] = []
    async with exactly() as supervisor:
        with pytest.raises(ExceptionGroup) as caught, trio.move_on_after(1):
            try:
                await supervisor.start(child)
            except BaseException as exc:
                passed.append(exc)
                raise
    assert caught.value.exceptions == (error,)
    assert isinstance(passed[0], BaseExceptionGroup)
    assert {type(each) for each in passed[0].exceptions} == {trio.Cancelled, OSError}


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_start_that_is_interrupted_after_started_leaves_no_child(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    stage = Stage()
    async with exactly() as supervisor:
        start = supervisor._tasks.start

        async def interrupted(*args: Any, **kwargs: Any) -> None:
            await start(*args, **kwargs)
            if is_cancelled:
                scope.cancel()
            raise KeyboardInterrupt

        monkeypatch.setattr(
            type(supervisor._tasks), "start", lambda self, *args, **kwargs: interrupted(*args, **kwargs)
        )
        with pytest.raises(KeyboardInterrupt), trio.CancelScope() as scope:
            await supervisor.start(stage.child("a", ends=2))
        assert stage.log == ["a+ 0", "a! 0", "a- 2"]
        assert not supervisor.statistics().children


async def test_start_that_never_came_to_the_child_gives_its_name_back(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with exactly() as supervisor:
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(type(supervisor._tasks), "start", lambda self, *args, **kwargs: fail(MemoryError()))
            await supervisor.start(Stage().child("a"), name="a")
        await supervisor.start(Stage().child("a"), name="a")
        assert supervisor.statistics().ended == 0


async def test_child_that_fails_as_soon_as_it_is_up_is_run_again(autojump_clock: MockClock) -> None:
    async def child(*, task_status: Any) -> None:
        task_status.started(5)
        raise OSError

    async with exactly() as supervisor:
        assert await supervisor.start(child) == 5
        assert supervisor.statistics().children[0].state == "waiting"
        await trio.sleep(1.5)
        assert supervisor.statistics().children[0].restarts == 2 - 1


# --- stop and restart ------------------------------------------------------------------------------------------------


async def test_stop_waits_until_the_child_has_ended_and_it_is_not_run_again(autojump_clock: MockClock) -> None:
    stage, recorder, error = Stage(), Recorder(), OSError()
    with trioresil.instrument(recorder):
        async with exactly(max_restarts=0, name="sup") as supervisor:
            await supervisor.start(stage.child("a", ends=2, failing=error), name="a")
            await trio.sleep(1)
            await supervisor.stop("a")
            assert stage.take() == ["a+ 0", "a! 0", "a- 3"]
            assert stage.reasons == ["sup: stop('a') was called"]
            statistics = supervisor.statistics()
            assert (statistics.children, statistics.ended, statistics.last_error) == ((), 1, error)
            await trio.sleep(5)
    assert not stage.log
    assert [event.outcome for event in recorder.of(ChildFailed)] == ["stops"]


async def test_stop_of_a_child_that_waits_for_its_back_off_takes_no_time(autojump_clock: MockClock) -> None:
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder):
        async with exactly() as supervisor:
            supervisor.start_soon(stage.child("a", (1, OSError())))
            await trio.sleep(1.5)
            await supervisor.stop("a")
            assert trio.current_time() == 1.5
            await trio.sleep(5)
            assert supervisor.statistics().restarts == 0
    assert not recorder.of(ChildRestarted)
    assert stage.log == ["a+ 0", "a! 0", "a- 1"]


async def test_stop_of_a_child_that_has_not_begun_keeps_it_from_beginning(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly() as supervisor:
        supervisor.start_soon(stage.child("a"))
        await supervisor.stop("a")
        assert not supervisor.statistics().children
    assert stage.log == []


async def test_cancelled_stop_stops_the_child_all_the_same(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly() as supervisor:
        supervisor.start_soon(stage.child("a", obeys=9))
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await supervisor.stop("a")
        assert (trio.current_time(), stage.living) == (1, ["a"])
        await trio.sleep(9)
    assert stage.log == ["a+ 0", "a! 0", "a- 5"]


@pytest.mark.parametrize("restart", ["always", "on_failure", "never"])
async def test_restart_by_hand_runs_a_child_again_at_once_and_counts_for_nothing(
    autojump_clock: MockClock, restart: Any
) -> None:
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder):
        async with exactly(max_restarts=0, name="sup") as supervisor:
            await supervisor.start(stage.child("a", up=0.5, ends=2, failing=OSError()), restart=restart)
            for _ in range(2):
                await supervisor.restart("a")
    assert stage.log == ["a+ 0", "a! 0.5", "a- 2.5", "a+ 2.5", "a! 3", "a- 5", "a+ 5", "a! 5.5", "a- 7.5"]
    assert stage.reasons[0] == "sup: restart('a') was called"
    assert [(event.reason, event.delay, event.restarts) for event in recorder.of(ChildRestarted)] == [
        ("by hand", 0, 1),
        ("by hand", 0, 2),
    ]


async def test_restart_by_hand_ends_the_back_off_and_the_next_goes_on_from_there(autojump_clock: MockClock) -> None:
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder):
        async with open_supervisor(backoff=[4, 8]) as supervisor:
            supervisor.start_soon(stage.child("a", (1, OSError()), (1, OSError())))
            await trio.sleep(2)
            await supervisor.restart("a")
            assert trio.current_time() == 2
            await trio.sleep(20)
    assert [event.delay for event in recorder.of(ChildRestarted)] == [1, 8]
    assert stage.log == ["a+ 0", "a! 0", "a- 1", "a+ 2", "a! 2", "a- 3", "a+ 11", "a! 11", "a- 22"]


async def test_restart_by_hand_of_what_has_not_begun_begins_once(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly() as supervisor:
        supervisor.start_soon(stage.child("a"))
        await supervisor.restart("a")
        await wait_all_tasks_blocked()
        assert stage.log == ["a+ 0", "a! 0"]


async def test_restart_returns_when_its_run_has_failed_too(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly() as supervisor:
        await supervisor.start(stage.child("a", up=1))
        child = supervisor._children["a"]
        child._fn = functools.partial(fail, OSError())
        await supervisor.restart("a")
        assert supervisor.statistics().children[0].state == "waiting"


async def test_stop_during_a_restart_by_hand_ends_both(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly() as supervisor, trio.open_nursery() as nursery:
        await supervisor.start(stage.child("a", ends=2))
        nursery.start_soon(supervisor.restart, "a")
        await wait_all_tasks_blocked()
        await supervisor.stop("a")
        assert trio.current_time() == 2
    assert stage.log == ["a+ 0", "a! 0", "a- 2"]


async def test_child_may_stop_and_restart_itself(autojump_clock: MockClock) -> None:
    runs = []

    async def child() -> None:
        runs.append(trio.current_time())
        await trio.sleep(1)
        await (supervisor.restart if len(runs) < 3 else supervisor.stop)("me")

    async with exactly(max_restarts=0) as supervisor:
        supervisor.start_soon(child, name="me")
        await trio.sleep(9)
    assert runs == [0, 1, 2]


async def test_unknown_name_is_a_key_error(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly(name="sup") as supervisor, trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start, stage.child("a", up=1))
        await wait_all_tasks_blocked()
        for name in ("b", "a"):  # that one is not up yet
            with pytest.raises(KeyError, match=f"sup has no child '{name}'"):
                await supervisor.stop(name)
            with pytest.raises(KeyError, match=f"sup has no child '{name}'"):
                await supervisor.restart(name)
        assert supervisor.statistics().children == ()


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_clean_end_waits_for_those_that_listen_up_to_the_grace(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly(name="sup") as supervisor:
        await supervisor.start(stage.child("deaf"))
        await supervisor.start(stage.child("quick", obeys=1))
        await supervisor.start(stage.child("slow", obeys=3))
        stage.take()
    assert stage.log == ["quick- 1", "slow- 3", "deaf- 3"]
    assert stage.reasons == ["sup: the body has ended"]


async def test_grace_ends_for_those_that_listen_and_do_not_stop(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly(name="sup") as supervisor:
        await supervisor.start(stage.child("slow", obeys=9))
        await supervisor.start(stage.child("quick", obeys=1))
        stage.take()
    assert stage.log == ["quick- 1", "slow- 5"]
    assert stage.reasons == ["sup: the body has ended"]


@pytest.mark.parametrize(("grace", "ends_at"), [(0, 0), (0.5, 0.5), (math.inf, 9)])
async def test_grace_may_be_zero_or_infinite(autojump_clock: MockClock, grace: float, ends_at: float) -> None:
    for by_hand in (False, True):
        stage, began = Stage(), trio.current_time()
        async with open_supervisor(grace=grace) as supervisor:
            await supervisor.start(stage.child("a", obeys=9))
            if by_hand:
                await supervisor.stop("a")
        assert trio.current_time() - began == ends_at


async def test_without_listeners_a_clean_end_takes_no_time(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly() as supervisor:
        await supervisor.start(stage.child("a"))
        supervisor.start_soon(stage.child("b", (0, OSError())))
        await wait_all_tasks_blocked()  # b waits for its back-off
    assert (trio.current_time(), stage.living) == (0, [])


@pytest.mark.parametrize("restart", ["always", "on_failure"])
async def test_what_ends_or_fails_during_the_grace_is_not_run_again(autojump_clock: MockClock, restart: Any) -> None:
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder):
        async with exactly(max_restarts=0) as supervisor:
            supervisor.start_soon(stage.child("slow", obeys=4))
            supervisor.start_soon(stage.child("fails", (1, OSError())), restart=restart)
            supervisor.start_soon(stage.child("returns", (2, None)), restart=restart)
            await wait_all_tasks_blocked()
    assert stage.log[-3:] == ["fails- 1", "returns- 2", "slow- 4"]
    assert [event.outcome for event in recorder.of(ChildFailed)] == ["stops"]
    assert not recorder.of(ChildRestarted)


async def test_back_off_that_would_end_during_the_grace_is_not_waited_out(autojump_clock: MockClock) -> None:
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder):
        async with exactly() as supervisor:
            supervisor.start_soon(stage.child("slow", obeys=4))
            supervisor.start_soon(stage.child("a", (0, OSError())))
            await wait_all_tasks_blocked()
            stage.take()
    assert stage.log == ["slow- 4"]
    assert len(recorder.of(ChildFailed)) == 1


async def test_child_may_not_be_started_during_the_grace(autojump_clock: MockClock) -> None:
    seen: list[bool] = []

    async def child() -> None:
        await stop_requested().wait()
        with pytest.raises(RuntimeError, match="sup: the supervisor is closed"):
            supervisor.start_soon(trio.sleep, 1)
        with pytest.raises(RuntimeError, match="sup: the supervisor is closed"):
            await supervisor.start(trio.sleep, 1)
        seen.append(supervisor.statistics().closed)

    async with exactly(name="sup") as supervisor:
        supervisor.start_soon(child)
        await wait_all_tasks_blocked()
    assert seen == [True]


async def test_stop_and_restart_during_the_grace_end_a_child(autojump_clock: MockClock) -> None:
    for strategy in ("one_for_one", "one_for_all"):
        stage, began = Stage(), trio.current_time()

        async def child() -> None:
            await stop_requested().wait()
            await trio.sleep(1)
            await supervisor.stop("a")
            await supervisor.restart("b")

        async with exactly(strategy) as supervisor:
            supervisor.start_soon(stage.child("a"))
            supervisor.start_soon(stage.child("b"))
            supervisor.start_soon(child)
            await wait_all_tasks_blocked()
        assert not stage.living
        assert trio.current_time() - began == 1
        assert [each[:2] for each in stage.log if each[1] != "!"].count("b+") == 1


@pytest.mark.parametrize("error", [ValueError(), ExceptionGroup("two", [ValueError(), OSError()]), KeyboardInterrupt()])
async def test_error_of_the_body_leaves_bare_and_cancels_at_once(
    autojump_clock: MockClock, error: BaseException
) -> None:
    stage = Stage()
    cause = error.__cause__ = KeyError()
    with pytest.raises(type(error)) as caught:
        async with exactly(max_restarts=0) as supervisor:
            await supervisor.start(stage.child("listens", obeys=1))
            await supervisor.start(stage.child("fails", failing=OSError()))
            raise error
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (cause, None)
    assert (trio.current_time(), stage.living) == (0, [])


async def test_cancelled_body_cancels_at_once(autojump_clock: MockClock) -> None:
    stage = Stage()
    with trio.move_on_after(1):
        async with exactly() as supervisor:
            await supervisor.start(stage.child("listens", obeys=1))
            await trio.sleep_forever()
    assert (trio.current_time(), stage.living) == (1, [])


async def test_cancellation_during_the_grace_ends_it(autojump_clock: MockClock) -> None:
    stage, passed = Stage(), []
    with trio.move_on_after(1) as scope:
        try:
            async with exactly() as supervisor:
                await supervisor.start(stage.child("listens", obeys=4))
        except BaseException as exc:
            passed.append(exc)
            raise
    assert scope.cancelled_caught
    assert (trio.current_time(), stage.living, type(passed[0])) == (1, [], trio.Cancelled)


async def test_cancelled_child_that_fails_instead_counts_for_nothing(autojump_clock: MockClock) -> None:
    stage, recorder = Stage(), Recorder()
    with trioresil.instrument(recorder), trio.move_on_after(1) as scope:
        async with exactly(max_restarts=0) as supervisor:
            await supervisor.start(stage.child("a", failing=OSError()))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert [event.outcome for event in recorder.of(ChildFailed)] == ["stops"]


async def test_cancelled_child_whose_task_fails_instead_counts_for_nothing_either(autojump_clock: MockClock) -> None:
    recorder = Recorder()

    async def child() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(Stage().child("a", failing=OSError()))

    with trioresil.instrument(recorder), trio.move_on_after(1) as scope:
        async with exactly(max_restarts=0) as supervisor:
            supervisor.start_soon(child)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    [event] = recorder.of(ChildFailed)
    assert event.outcome == "stops"
    assert isinstance(event.error, ExceptionGroup)
    assert [type(each) for each in event.error.exceptions] == [OSError]


async def test_interrupt_beside_a_cancellation_comes_out(autojump_clock: MockClock) -> None:
    async def child() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught, trio.move_on_after(1):
        async with exactly() as supervisor:
            supervisor.start_soon(child)
            await trio.sleep_forever()
    assert caught.value.subgroup(KeyboardInterrupt) is not None


async def test_limit_met_by_a_body_that_has_ended_comes_out(autojump_clock: MockClock) -> None:
    with pytest.raises(RestartLimitError):
        async with exactly(max_restarts=0) as supervisor:
            supervisor.start_soon(fail, OSError())
            supervisor.start_soon(Stage().child("listens", obeys=1))
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()


async def test_limit_and_error_of_the_body_leave_in_one_group(autojump_clock: MockClock) -> None:
    error = KeyError()
    with pytest.raises(ExceptionGroup) as caught:
        async with exactly(max_restarts=0) as supervisor:
            supervisor.start_soon(fail, OSError())
            try:
                await trio.sleep_forever()
            finally:
                raise error
    [of_body, limit] = caught.value.exceptions
    assert of_body is error
    assert type(limit) is RestartLimitError


# --- stop_requested --------------------------------------------------------------------------------------------------


async def test_outside_of_a_supervisor_nobody_requests_a_stop() -> None:
    assert not stop_requested().is_set()
    assert stop_requested() is not stop_requested()
    async with open_supervisor():
        assert not stop_requested().is_set()
    assert not stop_requested().is_set()


async def test_stop_is_requested_of_the_whole_run_and_not_of_the_next(autojump_clock: MockClock) -> None:
    seen: list[Any] = []

    async def task() -> None:
        seen.append(stop_requested())
        await seen[-1].wait()

    async def child() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)

    async with exactly() as supervisor:
        supervisor.start_soon(child)
        await wait_all_tasks_blocked()
        await supervisor.restart("child")
        await wait_all_tasks_blocked()
        assert [event.is_set() for event in seen] == [True, False]
        assert seen[0] is not seen[1]


# --- nested ----------------------------------------------------------------------------------------------------------


async def test_limit_of_a_supervisor_below_is_a_failure_of_the_child_it_is_in(autojump_clock: MockClock) -> None:
    runs = []

    async def below() -> None:
        async with exactly(max_restarts=1, name="below") as inner:
            runs.append(trio.current_time())
            inner.start_soon(fail, OSError())
            await trio.sleep_forever()

    with pytest.raises(RestartLimitError) as caught:
        async with exactly(max_restarts=2, name="above") as supervisor:
            supervisor.start_soon(below, name="branch")
            await trio.sleep_forever()
    assert runs == [0, 2, 4]
    assert (caught.value.supervisor, caught.value.child) == ("above", "branch")
    cause = caught.value.__cause__
    assert isinstance(cause, RestartLimitError)
    assert (cause.supervisor, type(cause.__cause__)) == ("below", OSError)


async def test_statistics_are_a_tree(autojump_clock: MockClock) -> None:
    async def below(*, task_status: Any) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(functools.partial(trioresil.serve_supervisor, name="second"))
            async with exactly(name="first") as inner:
                inner.start_soon(trio.sleep_forever, name="leaf")
                task_status.started()
                await trio.sleep(1)
            await trio.sleep_forever()

    async with exactly("rest_for_one", name="above") as supervisor:
        await supervisor.start(below, name="branch", restart="on_failure")
        await wait_all_tasks_blocked()
        statistics = supervisor.statistics()
        [branch] = statistics.children
        assert [each.name for each in branch.supervisors] == ["second", "first"]
        assert [each.name for each in branch.supervisors[1].children] == ["leaf"]
        assert (statistics.strategy, branch.supervisors[1].strategy) == ("rest_for_one", "one_for_one")
        assert (branch.name, branch.restart, branch.state, branch.restarts) == ("branch", "on_failure", "running", 0)
        await trio.sleep(2)
        assert [each.name for each in supervisor.statistics().children[0].supervisors] == ["second"]
        assert supervisor.statistics().children[0].uptime == 2


async def test_served_supervisor_below_ends_softly_when_it_is_asked_to(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with exactly(name="above") as supervisor:
        inner = await supervisor.start(functools.partial(trioresil.serve_supervisor, grace=3, name="below"), name="b")
        assert isinstance(inner, trioresil.Supervisor)
        await inner.start(stage.child("a", obeys=2))
        await inner.start(stage.child("deaf"))
        stage.take()
    assert stage.log == ["a- 2", "deaf- 2"]


async def test_serve_supervisor_keeps_one_open_until_it_is_cancelled(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        supervisor = await nursery.start(functools.partial(trioresil.serve_supervisor, "one_for_all", name="sup"))
        assert supervisor.statistics().strategy == "one_for_all"
        await supervisor.start(stage.child("a"))
        await trio.sleep(9)
        assert stage.living == ["a"]
        nursery.cancel_scope.cancel()
    assert stage.living == []
    assert supervisor.statistics().closed


# --- what is wrong ---------------------------------------------------------------------------------------------------


async def test_error_in_the_supervisors_own_code_leaves_bare(autojump_clock: MockClock) -> None:
    class Broken:
        def delays(self, rng: Any) -> Any:
            raise error

    error, stage = ZeroDivisionError(), Stage()
    with pytest.raises(ZeroDivisionError) as caught:
        async with open_supervisor(backoff=Broken()) as supervisor:
            supervisor.start_soon(stage.child("other"))
            supervisor.start_soon(fail, OSError())
            await trio.sleep_forever()
    assert caught.value is error
    assert stage.living == []


async def test_mistake_in_the_program_is_not_tried_again(autojump_clock: MockClock) -> None:
    def synchronous() -> int:
        return 5

    with pytest.raises(TypeError, match=r"synchronous must be an async function, but it returned 5"):
        async with exactly() as supervisor:
            supervisor.start_soon(synchronous)  # type: ignore[arg-type]
            await trio.sleep_forever()
    assert trio.current_time() == 0


async def test_keyboard_interrupt_of_a_child_comes_out(autojump_clock: MockClock) -> None:
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        async with exactly() as supervisor:
            supervisor.start_soon(fail, error)
            await trio.sleep_forever()
    assert caught.value is error


async def test_child_may_be_interrupted_and_the_supervisor_between_its_runs_not(autojump_clock: MockClock) -> None:
    protected = []

    async def child() -> None:
        protected.append(trio.lowlevel.currently_ki_protected())

    class Backoff:
        def delays(self, rng: Any) -> Any:
            protected.append(trio.lowlevel.currently_ki_protected())
            return iter([9])

    async with open_supervisor(backoff=Backoff()) as supervisor:
        supervisor.start_soon(child, restart="always")
        await wait_all_tasks_blocked()
    assert protected == [False, True]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"strategy": "all"}, ValueError, "strategy must be one of 'one_for_one', 'one_for_all', 'rest_for_one', not"),
        ({"strategy": 1}, TypeError, "strategy must be one of"),
        ({"max_restarts": -1}, ValueError, "max_restarts must be a whole number >= 0 or math.inf, not -1"),
        ({"max_restarts": 1.5}, TypeError, "max_restarts"),
        ({"within": 0}, ValueError, "within must be a number of seconds > 0, not 0"),
        ({"within": math.nan}, ValueError, "within"),
        ({"backoff": 1}, TypeError, "backoff"),
        ({"backoff": []}, ValueError, "backoff"),
        ({"stable_after": -1}, ValueError, "stable_after must be a number of seconds >= 0, not -1"),
        ({"grace": -1}, ValueError, "grace must be a number of seconds >= 0, not -1"),
        ({"rng": 5}, TypeError, "rng"),
        ({"name": ""}, ValueError, "name"),
    ],
)
def test_wrong_argument_is_refused_at_once(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        open_supervisor(**options)


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        ([5], {}, TypeError, "fn must be an async function"),
        (
            [trio.sleep, 1],
            {"restart": "sometimes"},
            ValueError,
            "restart must be one of 'always', 'on_failure', 'never'",
        ),
        ([trio.sleep, 1], {"restart": True}, TypeError, "restart must be one of"),
        ([trio.sleep, 1], {"name": ""}, ValueError, "name must be a string"),
        (
            [trio.sleep, 1],
            {"name": "taken"},
            ValueError,
            "name must be unlike that of any other child of sup, not 'taken'",
        ),
    ],
)
async def test_wrong_child_is_refused_at_once(
    args: list[Any], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    async with exactly(name="sup") as supervisor:
        supervisor.start_soon(trio.sleep_forever, name="taken")
        with pytest.raises(error, match=words):
            supervisor.start_soon(*args, **options)
        with pytest.raises(error, match=words):
            await supervisor.start(*args, **options)
        assert [child.name for child in supervisor.statistics().children] == ["taken"]


async def test_name_is_the_functions_and_unlike_any_other(autojump_clock: MockClock) -> None:
    async with exactly() as supervisor:
        for _ in range(3):
            supervisor.start_soon(trio.sleep_forever)
        supervisor.start_soon(functools.partial(functools.partial(trio.sleep), 5))
        supervisor.start_soon(trio.sleep_forever, name="sleep-6")
        supervisor.start_soon(trio.sleep, 1)
        names = [child.name for child in supervisor.statistics().children]
        assert names == ["sleep_forever", "sleep_forever-2", "sleep_forever-3", "sleep", "sleep-6", "sleep-7"]


async def test_closed_supervisor_takes_in_nobody(autojump_clock: MockClock) -> None:
    async with exactly(name="sup") as supervisor:
        pass
    with pytest.raises(RuntimeError, match="sup: the supervisor is closed"):
        supervisor.start_soon(trio.sleep, 1)
    with pytest.raises(RuntimeError, match="sup: the supervisor is closed"):
        await supervisor.start(trio.sleep, 1)
    assert supervisor._begun == 0


async def test_opened_twice_and_left_in_another_task_is_refused(autojump_clock: MockClock) -> None:
    manager = exactly(name="sup")
    supervisor = await manager.__aenter__()
    with pytest.raises(RuntimeError, match="sup was opened already"):
        await manager.__aenter__()

    async def leave() -> None:
        with pytest.raises(RuntimeError, match="sup must be left in the task that opened it"):
            await manager.__aexit__(None, None, None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
    assert not supervisor.statistics().closed
    await manager.__aexit__(None, None, None)


async def test_supervisor_of_another_run_is_refused(autojump_clock: MockClock) -> None:
    async def elsewhere() -> None:
        for ask in (
            functools.partial(supervisor.stop, "a"),
            functools.partial(supervisor.restart, "a"),
            functools.partial(supervisor.start, trio.sleep),
        ):
            with pytest.raises(RuntimeError, match=r"'sup' is in use in another trio.run"):
                await ask()
        with pytest.raises(RuntimeError, match=r"'sup' is in use in another trio.run"):
            supervisor.start_soon(trio.sleep, 1)

    async with exactly(name="sup") as supervisor:
        supervisor.start_soon(trio.sleep_forever, name="a")
        await trio.to_thread.run_sync(trio.run, elsewhere)


# --- what others see -------------------------------------------------------------------------------------------------


async def test_children_run_in_the_context_of_who_starts_them_and_events_go_to_the_openers_listeners(
    autojump_clock: MockClock,
) -> None:
    seen, of_opener, of_starter = [], Recorder(), Recorder()

    async def child(*, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        seen.append(colour.get())
        colour.set("grey")
        task_status.started()
        raise OSError

    async def starter() -> None:
        colour.set("red")
        with trioresil.instrument(of_starter):
            await supervisor.start(child)
            supervisor.start_soon(child)
            await trio.sleep(0.5)

    colour.set("blue")
    with trioresil.instrument(of_opener):
        async with exactly() as supervisor:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(starter)
            assert len(of_opener.of(ChildFailed)) == 2
            assert len(of_opener.of(trioresil.PolicySeen)) == 1
    assert seen == ["red", "red"]
    assert of_starter.events == []
    assert colour.get() == "blue"


async def test_listener_may_use_the_supervisor(autojump_clock: MockClock) -> None:
    class Replaces:
        def record(self, event: Any) -> None:
            if isinstance(event, ChildFailed):
                event.policy.start_soon(trio.sleep_forever, name="substitute")

    with trioresil.instrument(Replaces()):
        async with exactly() as supervisor:
            supervisor.start_soon(fail, OSError(), restart="never")
            await wait_all_tasks_blocked()
            assert [child.name for child in supervisor.statistics().children] == ["substitute"]


async def test_events_tell_of_failures_and_restarts(autojump_clock: MockClock) -> None:
    recorder, error = Recorder(), OSError()
    with trioresil.instrument(recorder):
        async with exactly(name="sup") as supervisor:
            await supervisor.start(Stage().child("a", (1, error), (1, None)))
            await trio.sleep(4.5)
    assert [(event.child, event.error, event.outcome) for event in recorder.of(ChildFailed)] == [
        ("a", error, "restarts")
    ]
    assert [(e.child, e.reason, e.error, e.delay, e.restarts) for e in recorder.of(ChildRestarted)] == [
        ("a", "failed", error, 1, 1),
        ("a", "returned", None, 1, 2),
    ]
    assert {event.policy for event in recorder.events} == {supervisor}
    assert {event.name for event in recorder.events} == {"sup"}


async def test_without_listeners_failures_and_restarts_are_warnings(autojump_clock: MockClock, caplog: Any) -> None:
    async with exactly(name="sup") as supervisor:
        supervisor.start_soon(Stage().child("a", (1, OSError("gone"))))
        await trio.sleep(3)
    assert [record.getMessage() for record in caplog.records] == [
        "sup: child 'a' failed, and restarts: OSError('gone')",
        "sup: child 'a' is run again after 1 s (failed)",
    ]


async def test_statistics_say_what_a_child_is_doing(autojump_clock: MockClock) -> None:
    async with exactly(name="sup") as supervisor, trio.open_nursery() as nursery:
        error = OSError()
        await supervisor.start(Stage().child("a", (2, error), up=0.5, ends=1))
        seen = []
        for instant in (1.5, 3, 3.75, 5, 6, 6.5):
            await trio.sleep_until(instant)
            [child] = supervisor.statistics().children
            seen.append((child.state, child.uptime, child.restarts, child.last_error))
            if instant == 6:
                nursery.start_soon(supervisor.stop, "a")
    assert seen == [
        ("running", 1, 0, None),
        ("waiting", 0, 0, error),
        ("starting", 0, 1, error),
        ("running", 1, 1, error),
        ("running", 2, 1, error),
        ("stopping", 2.5, 1, error),
    ]


async def test_repr_is_a_status_line(autojump_clock: MockClock) -> None:
    async with exactly(name="sup") as supervisor:
        assert repr(supervisor) == "<trioresil.Supervisor 'sup' one_for_one, 0 children, 0 restarts>"
        supervisor.start_soon(Stage().child("a", (0, OSError())))
        await wait_all_tasks_blocked()
        assert repr(supervisor) == "<trioresil.Supervisor 'sup' one_for_one, 1 child, 1 waiting, 0 restarts>"
        await supervisor.start(Stage().child("b"))
        await trio.sleep(2)
        assert repr(supervisor) == "<trioresil.Supervisor 'sup' one_for_one, 2 children, 2 running, 1 restarts>"
    assert repr(supervisor) == "<trioresil.Supervisor 'sup' one_for_one, 0 children, 1 restarts, closed>"


def test_statistics_and_repr_work_after_the_run() -> None:
    async def main() -> trioresil.Supervisor:
        async with exactly() as supervisor:
            supervisor.start_soon(fail, OSError("gone"), restart="never")
            await wait_all_tasks_blocked()
        return supervisor

    supervisor = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert str(supervisor.statistics().last_error) == "gone"
    assert "closed" in repr(supervisor)


async def test_which_form_is_a_checkpoint(autojump_clock: MockClock) -> None:
    stage = Stage()

    async def opens() -> None:
        async with exactly():
            counts.append(await schedule_points(trio.lowlevel.checkpoint))

    counts: list[int] = []
    await opens()
    async with exactly() as supervisor:
        assert await schedule_points(functools.partial(supervisor.start, stage.child("a"))) >= 1
        supervisor.start_soon(stage.child("b"))
        assert await schedule_points(functools.partial(supervisor.restart, "b")) >= 1
        assert await notices_cancellation(functools.partial(supervisor.restart, "b"))
        await trio.sleep(1)
        assert await notices_cancellation(functools.partial(supervisor.stop, "b"))
        await trio.sleep(1)
        assert [child.name for child in supervisor.statistics().children] == ["a"]


async def test_child_that_has_ended_is_forgotten(autojump_clock: MockClock) -> None:
    class Big:
        async def run(self) -> None:
            pass

    async with exactly() as supervisor:
        big = Big()
        gone = weakref.ref(big)
        supervisor.start_soon(big.run)
        del big
        await trio.sleep(1)
        gc.collect()
        assert gone() is None
        assert not supervisor._children


# --- starts and listeners that meet the end --------------------------------------------------------------------------


async def test_start_under_way_when_the_supervisor_is_left_is_an_error_at_once(autojump_clock: MockClock) -> None:
    stage = Stage()
    seen = []

    async def ask(supervisor: trioresil.Supervisor) -> None:
        with pytest.raises(RuntimeError, match="supervisor was closed before late had started"):
            await supervisor.start(stage.child("late", up=100))
        seen.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        async with exactly() as supervisor:
            supervisor.start_soon(stage.child("soft", obeys=3))
            nursery.start_soon(ask, supervisor)
            await trio.sleep(1)
        assert trio.current_time() == 4
    assert seen == [1]  # what comes up while all is being stopped would be stopped itself
    assert not stage.living
    assert not supervisor.statistics().children


async def test_child_that_begins_to_listen_during_the_grace_of_others_is_asked_too(autojump_clock: MockClock) -> None:
    stage = Stage()
    seen = []

    async def late() -> None:
        await trio.sleep(2)
        seen.append(stop_requested().is_set())

    async with exactly() as supervisor:
        supervisor.start_soon(stage.child("soft", obeys=3))
        supervisor.start_soon(late)
        await trio.sleep(1)
    assert seen == [True]


async def test_function_that_can_not_be_called_so_is_refused_at_once(autojump_clock: MockClock) -> None:
    async def plain(number: int) -> None: ...

    async def serving(*, task_status: trio.TaskStatus[None]) -> None: ...

    async with exactly() as supervisor:
        with pytest.raises(
            TypeError, match=r"plain\(number.*can't be called .*takes no task_status, so use start_soon$"
        ):
            await supervisor.start(plain, 1)
        with pytest.raises(TypeError, match=r"takes a task_status, so use start$"):
            supervisor.start_soon(serving)
        with pytest.raises(TypeError, match=r"missing a required argument: 'number'\)$"):
            supervisor.start_soon(plain)
        assert supervisor.statistics().children == ()
