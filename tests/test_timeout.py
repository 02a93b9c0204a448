"""Timeout: whose deadline it was, in the call and in the block."""

from __future__ import annotations

import asyncio
import gc
import math
import pickle
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

import trioresil
from trioresil.testing import Recorder


async def in_call(policy: trioresil.Timeout, work: Callable[[], Awaitable[Any]]) -> Any:
    return await policy.call(work)


async def in_decorator(policy: trioresil.Timeout, work: Callable[[], Awaitable[Any]]) -> Any:
    return await policy(work)()


async def in_bind(policy: trioresil.Timeout, work: Callable[[], Awaitable[Any]]) -> Any:
    return await policy.bind(work)()


async def in_block(policy: trioresil.Timeout, work: Callable[[], Awaitable[Any]]) -> Any:
    async with policy:
        return await work()


Form = Callable[[trioresil.Timeout, Callable[[], Awaitable[Any]]], Awaitable[Any]]
FORMS: dict[str, Form] = {"call": in_call, "decorator": in_decorator, "bind": in_bind, "block": in_block}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


async def test_work_in_time_returns_its_value(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    async def work() -> str:
        await trio.sleep(1.5)
        return "value"

    assert await form(trioresil.Timeout(2), work) == "value"
    assert trio.current_time() == 1.5


async def test_work_out_of_time_is_cancelled_and_told(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    cancelled_at: list[float] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at.append(trio.current_time())

    with pytest.raises(trioresil.TimedOutError, match=r"^fetch: timed out after 2 s$") as caught:
        await form(trioresil.Timeout(2, name="fetch"), work)
    error = caught.value
    assert isinstance(error, trio.TooSlowError)
    assert isinstance(error, trioresil.TrioresilError)
    assert (error.policy, error.seconds) == ("fetch", 2)
    assert cancelled_at == [2]
    assert trio.current_time() == 2


async def test_time_counts_from_entering(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    timeout = trioresil.Timeout(2)
    for ends_at in (7, 14):
        await trio.sleep(5)
        with pytest.raises(trioresil.TimedOutError):
            await form(timeout, trio.sleep_forever)
        assert trio.current_time() == ends_at


async def test_no_limit(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    async def work() -> float:
        await trio.sleep(80000)
        return trio.current_effective_deadline()

    assert await form(trioresil.Timeout(math.inf), work) == math.inf


async def test_deadline_is_seen_inside(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    async def work() -> float:
        return trio.current_effective_deadline()

    assert await form(trioresil.Timeout(2), work) == 2


@pytest.mark.parametrize("error", [ValueError(), ExceptionGroup("", [ValueError()]), KeyboardInterrupt(), SystemExit()])
async def test_error_in_time_comes_out_as_the_same_object(
    error: BaseException, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    async def work() -> None:
        await trio.sleep(1)
        raise error

    with pytest.raises(type(error)) as caught:
        await form(trioresil.Timeout(2), work)
    assert caught.value is error
    assert error.__context__ is error.__cause__ is None
    if isinstance(error, Exception):
        assert vars(error) == {}  # only what is no exception carries what the policies know


# --- late ends


async def test_late_success_without_a_checkpoint_is_returned(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    async def work() -> str:
        autojump_clock.jump(5)
        return "value"

    assert await form(trioresil.Timeout(2), work) == "value"


async def test_late_success_behind_a_shield_is_returned(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    async def work() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        return "value"

    assert await form(trioresil.Timeout(2), work) == "value"
    assert trio.current_time() == 5


async def test_late_error_is_the_real_one(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    error = KeyError()

    async def work() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        raise error

    with pytest.raises(KeyError) as caught:
        await form(trioresil.Timeout(2), work)
    assert caught.value is error


async def test_error_on_the_way_out_is_the_real_one(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while cleaning up")

    with pytest.raises(ValueError, match="while cleaning up"):
        await form(trioresil.Timeout(2), work)


async def test_error_beside_the_cancellation_comes_out(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    """One task of a nursery is cancelled, the other fails on its way out: the error is not lost."""
    error = ValueError()

    async def fails_late() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)
        raise error

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fails_late)

    with pytest.raises(ExceptionGroup) as caught:
        await form(trioresil.Timeout(2), work)
    assert caught.value.exceptions == (error,)


# --- other people's deadlines


async def test_inner_fail_after_is_not_claimed(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    async def work() -> None:
        with trio.fail_after(1):
            await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError) as caught:
        await form(trioresil.Timeout(2), work)
    assert type(caught.value) is trio.TooSlowError
    assert trio.current_time() == 1


async def test_inner_move_on_after_is_nobodys_time_out(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    async def work() -> str:
        with trio.move_on_after(1):
            await trio.sleep_forever()
        return "value"

    assert await form(trioresil.Timeout(2), work) == "value"


async def test_outer_cancellation_passes(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await form(trioresil.Timeout(2), trio.sleep_forever)
    assert scope.cancelled_caught


async def test_outer_fail_after_is_not_claimed_even_if_due_together(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(trio.TooSlowError) as caught:
        with trio.fail_after(2):
            await form(trioresil.Timeout(2), trio.sleep_forever)
    assert type(caught.value) is trio.TooSlowError


@pytest.mark.parametrize(("outer", "inner", "named"), [(2, 1, "inner"), (1, 2, "outer"), (2, 2, "outer")])
@pytest.mark.parametrize("inner_form", FORMS.values())
async def test_nested_timeouts_name_the_first_and_the_outer_if_both_are_due(
    outer: float, inner: float, named: str, inner_form: Form, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    async def nested() -> None:
        await inner_form(trioresil.Timeout(inner, name="inner"), trio.sleep_forever)

    with pytest.raises(trioresil.TimedOutError) as caught:
        await form(trioresil.Timeout(outer, name="outer"), nested)
    assert caught.value.policy == named
    assert trio.current_time() == min(outer, inner)


async def test_due_together_though_entered_apart(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    async def nested() -> None:
        await trio.sleep(3)
        await form(trioresil.Timeout(2, name="inner"), trio.sleep_forever)

    with pytest.raises(trioresil.TimedOutError) as caught:
        await form(trioresil.Timeout(5, name="outer"), nested)
    assert caught.value.policy == "outer"


async def test_due_together_behind_a_stalled_loop(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    """Both deadlines have passed when the task is looked at: it is the outer one's."""

    async def stalls() -> None:
        autojump_clock.jump(10)
        await trio.lowlevel.checkpoint()

    async def nested() -> None:
        await form(trioresil.Timeout(1, name="inner"), stalls)

    with pytest.raises(trioresil.TimedOutError) as caught:
        await form(trioresil.Timeout(5, name="outer"), nested)
    assert caught.value.policy == "outer"


# --- nurseries, sharing, nesting


async def test_cancelled_nursery_gives_a_bare_time_out_error(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    with pytest.raises(trioresil.TimedOutError):
        await form(trioresil.Timeout(2), work)


async def test_timeout_in_a_child_task_comes_out_of_its_nursery(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(form, trioresil.Timeout(1), trio.sleep_forever)
            nursery.start_soon(trio.sleep, 5)
    (error,) = caught.value.exceptions
    assert isinstance(error, trioresil.TimedOutError)
    assert trio.current_time() == 1


async def test_one_object_serves_many_tasks_at_once(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    timeout = trioresil.Timeout(2)
    ended: dict[int, tuple[float, str]] = {}

    async def client(number: int) -> None:
        await trio.sleep(number * 0.25)
        try:
            await form(timeout, partial(trio.sleep, number))
        except trioresil.TimedOutError:
            ended[number] = (trio.current_time(), "late")
        else:
            ended[number] = (trio.current_time(), "in time")

    async with trio.open_nursery() as nursery:
        for number in (0, 1, 3, 4):
            nursery.start_soon(client, number)
    assert ended == {0: (0, "in time"), 1: (1.25, "in time"), 3: (2.75, "late"), 4: (3, "late")}


async def test_one_object_nests_in_a_task(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    timeout = trioresil.Timeout(2)

    async def nested() -> None:
        await trio.sleep(1)
        await form(timeout, partial(trio.sleep, 0.5))
        await trio.sleep_forever()

    with pytest.raises(trioresil.TimedOutError):
        await form(timeout, nested)
    assert trio.current_time() == 2
    assert timeout._open == {}


async def test_block_left_in_another_task_is_a_runtime_error(autojump_clock: trio.testing.MockClock) -> None:
    timeout = trioresil.Timeout(2, name="fetch")
    with pytest.raises(RuntimeError, match="fetch: a Timeout block must be left in the task that entered it"):
        await timeout.__aexit__(None, None, None)


# --- checkpoints


async def test_entering_checks_for_cancellation_and_lets_nobody_run(
    form: Form, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    ran: list[str] = []

    async def work() -> None:
        ran.append("work")

    async def other() -> None:
        ran.append("other")

    nursery.start_soon(other)
    await form(trioresil.Timeout(2), work)
    assert ran == ["work"]
    if form is in_bind:
        return  # which leaves the check to what stands around it
    with trio.CancelScope() as scope:
        scope.cancel()
        await form(trioresil.Timeout(2), work)
    assert scope.cancelled_caught
    assert ran.count("work") == 1


# --- what it tells


async def test_event_tells_the_time_and_whether_it_started(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    timeout = trioresil.Timeout(2)
    recorder = Recorder()
    with trioresil.instrument(recorder):
        await form(timeout, trio.lowlevel.checkpoint)
        with pytest.raises(trioresil.TimedOutError) as caught:
            await form(timeout, trio.sleep_forever)
    assert recorder.events == [
        trioresil.PolicySeen(policy=timeout),
        trioresil.TimedOut(policy=timeout, seconds=2, started=caught.value.started),
    ]


async def test_error_has_no_context_of_the_cancellation(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(trioresil.TimedOutError) as caught:
        await form(trioresil.Timeout(2), trio.sleep_forever)
    assert caught.value.__context__ is caught.value.__cause__ is None


async def test_error_pickles(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(trioresil.TimedOutError) as caught:
        await form(trioresil.Timeout(2, name="fetch"), trio.sleep_forever)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (copied.policy, copied.seconds, copied.started, str(copied)) == (
        "fetch",
        2,
        caught.value.started,
        str(caught.value),
    )


async def test_error_is_freed_without_the_collector(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    refs: list[weakref.ref[Any]] = []

    class Held:
        pass

    async def work() -> None:
        held = Held()
        refs.append(weakref.ref(held))
        await trio.sleep_forever()

    gc.collect()
    gc.disable()
    try:
        try:
            await form(trioresil.Timeout(2), work)
        except trioresil.TimedOutError as exc:
            refs.append(weakref.ref(exc))
        await trio.lowlevel.checkpoint()  # until then Trio itself holds the last thing it raised
        assert [ref() for ref in refs] == [None, None]
    finally:
        gc.enable()


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": 0}, "seconds must be a number of seconds > 0, not 0"),
        ({"seconds": -1}, "seconds must be .* not -1"),
        ({"seconds": math.nan}, "seconds must be .* not nan"),
        ({"seconds": True}, "seconds must be .* not True"),
        ({"seconds": "5"}, "seconds must be .* not '5'"),
        ({"seconds": None}, "seconds must be .* not None"),
        ({"seconds": 1, "name": ""}, "name must be a string with at least one character"),
        ({"seconds": 1, "name": 3}, "name must be a string, not 3"),
    ],
)
def test_wrong_argument_is_refused_by_name(arguments: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        trioresil.Timeout(**arguments)


async def test_result_that_cant_be_awaited_is_a_type_error(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(TypeError, match="must return something to await"):
        await trioresil.Timeout(1).call(lambda: 5)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("form", [in_call, in_decorator, in_block])
def test_asyncio_is_told_what_to_do(form: Form) -> None:
    async def work() -> None: ...

    with pytest.raises(RuntimeError, match=r"trioresil runs on Trio: start the program with trio.run\(\.\.\.\)"):
        asyncio.run(form(trioresil.Timeout(1), work))  # type: ignore[arg-type]


def test_what_it_says_of_itself() -> None:
    timeout = trioresil.Timeout(2.5, name="fetch")
    assert repr(timeout) == "<trioresil.Timeout 'fetch' 2.5 s>"
    assert timeout.statistics() == trioresil.TimeoutStatistics(name="fetch", seconds=2.5)
    assert (timeout.seconds, timeout.name, timeout.stateful) == (2.5, "fetch", False)
    assert trioresil.Timeout(1).name == "timeout"


def test_replace_gives_a_changed_copy() -> None:
    timeout = trioresil.Timeout(2, name="fetch")
    assert repr(timeout.replace(seconds=5)) == "<trioresil.Timeout 'fetch' 5 s>"
    assert repr(timeout.replace(name="other")) == "<trioresil.Timeout 'other' 2 s>"
    assert timeout.seconds == 2
    with pytest.raises(ValueError, match="seconds must be"):
        timeout.replace(seconds=0)


def test_attribute_cant_be_set() -> None:
    timeout = trioresil.Timeout(2, name="fetch")
    for name in ("seconds", "name", "second"):
        with pytest.raises(AttributeError, match=rf"'fetch' 2 s> can't be changed: \.replace\({name}=\.\.\.\) returns"):
            setattr(timeout, name, 5)
