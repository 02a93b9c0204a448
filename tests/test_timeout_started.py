"""TimedOutError.started: whether the innermost function was entered, through every composition; and the notes beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

import trioresil
from tests._scripts import FORMS, After, Script, refuse


class Passing(Exception):
    """Worth another attempt in these tests."""


async def full_bulkhead() -> trioresil.Bulkhead:
    bulkhead = trioresil.Bulkhead(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bulkhead.acquire)
    return bulkhead


async def empty_bucket() -> trioresil.TokenBucket:
    bucket = trioresil.TokenBucket(rate=0.001)
    bucket.acquire_nowait()
    return bucket


QUEUES = {"bulkhead": full_bulkhead, "bucket": empty_bucket}


@pytest.fixture(params=QUEUES)
async def queue(request: pytest.FixtureRequest) -> Any:
    return await QUEUES[request.param]()


def retry_with(**configuration: Any) -> trioresil.Retry:
    defaults = {"on": (Passing, trioresil.TrioresilError), "backoff": [1], "max_attempts": 9, "name": "search"}
    return trioresil.Retry(**{**defaults, **configuration})


async def timed_out(*policies: Any, work: Callable[..., Awaitable[Any]] = trio.sleep_forever) -> Any:
    """Return what a Timeout of 10 s around these policies raises."""
    pipeline = trioresil.Pipeline(trioresil.Timeout(10, name="total"), *policies)
    with pytest.raises(trioresil.TimedOutError) as caught:
        await pipeline.call(work)
    assert caught.value.policy == "total"
    assert trio.current_time() == 10
    return caught.value


# --- a function


async def test_running_function_has_started(autojump_clock: trio.testing.MockClock) -> None:
    error = await timed_out()
    assert error.started is True
    assert str(error) == "total: timed out after 10 s"
    assert not hasattr(error, "__notes__")


async def test_function_with_a_nursery_has_started(autojump_clock: trio.testing.MockClock, queue: Any) -> None:
    """Even if all that its tasks do is to queue: the function itself is user code."""

    async def work() -> None:
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as inner:
                inner.start_soon(queue.call, trio.sleep_forever)
                outer.start_soon(queue.call, trio.sleep_forever)

    assert (await timed_out(work=work)).started is True


async def test_function_that_queues_by_itself_has_started(autojump_clock: trio.testing.MockClock, queue: Any) -> None:
    async def work() -> None:
        await queue.call(trio.sleep_forever)

    assert (await timed_out(work=work)).started is True


# --- a queue in front


async def test_call_in_a_queue_has_not_started(autojump_clock: trio.testing.MockClock, queue: Any) -> None:
    error = await timed_out(queue)
    assert error.started is False
    assert str(error) == "total: timed out after 10 s before the call was started"


async def test_call_behind_the_queue_has_started(autojump_clock: trio.testing.MockClock) -> None:
    assert (await timed_out(trioresil.Bulkhead(1), trioresil.TokenBucket(rate=1))).started is True


async def test_partial_of_a_policys_call_is_looked_through(autojump_clock: trio.testing.MockClock, queue: Any) -> None:
    with pytest.raises(trioresil.TimedOutError) as caught:
        await trioresil.Timeout(10).call(partial(queue.call, trio.sleep_forever))
    assert caught.value.started is False


@pytest.mark.parametrize("around", [trioresil.Timeout(99), trioresil.CircuitBreaker(), trioresil.Bulkhead(5)])
async def test_policy_around_the_queue_changes_nothing(
    around: Any, autojump_clock: trio.testing.MockClock, queue: Any
) -> None:
    with pytest.raises(trioresil.TimedOutError) as caught:
        await trioresil.Timeout(10).call(around(queue(trio.sleep_forever)))
    assert caught.value.started is False


async def test_timeout_in_a_queue_is_no_verdict(autojump_clock: trio.testing.MockClock, queue: Any) -> None:
    breaker = trioresil.CircuitBreaker(trip=trioresil.ConsecutiveFailures(1))
    guarded = trioresil.Pipeline(breaker, trioresil.Timeout(10), queue)
    with pytest.raises(trioresil.TimedOutError):
        await guarded.call(trio.sleep_forever)
    assert breaker.state is trioresil.CircuitState.CLOSED
    with pytest.raises(trioresil.TimedOutError):
        await trioresil.Pipeline(breaker, trioresil.Timeout(10)).call(trio.sleep_forever)
    assert breaker.state is trioresil.CircuitState.OPEN


# --- retries


async def test_first_attempt_in_flight_has_started(autojump_clock: trio.testing.MockClock) -> None:
    error = await timed_out(retry_with())
    assert error.started is True
    assert error.__notes__ == ["trioresil: attempt 1 of retry 'search' was in flight"]


async def test_first_attempt_in_a_queue_has_not(autojump_clock: trio.testing.MockClock, queue: Any) -> None:
    error = await timed_out(retry_with(), queue)
    assert error.started is False
    assert error.__notes__ == ["trioresil: attempt 1 of retry 'search' was in flight"]


async def test_attempts_that_all_queued_have_not(autojump_clock: trio.testing.MockClock, queue: Any) -> None:
    error = await timed_out(retry_with(), trioresil.Timeout(3.5, name="attempt"), queue)
    assert error.started is False
    assert error.__notes__ == [
        "trioresil: attempt 3 of retry 'search' was in flight; the last error was "
        "TimedOutError('attempt: timed out after 3.5 s before the call was started')"
    ]


async def test_second_attempt_in_a_queue_after_a_started_first_has_started(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    bulkhead = trioresil.Bulkhead(1)

    async def fails_once() -> None:
        nursery.start_soon(bulkhead.acquire)  # gets the permit that this attempt is about to give back
        await trio.testing.wait_all_tasks_blocked()
        raise Passing("first")

    error = await timed_out(retry_with(), bulkhead, work=fails_once)
    assert error.started is True
    assert error.__notes__ == [
        "trioresil: attempt 2 of retry 'search' was in flight; the last error was Passing('first')"
    ]


async def test_running_attempt_after_a_refused_one_has_started(autojump_clock: trio.testing.MockClock) -> None:
    error = await timed_out(retry_with(), work=Script(refuse(name="first"), After(99, "value")).run)
    assert error.started is True
    assert error.__notes__ == [
        "trioresil: attempt 2 of retry 'search' was in flight; the last error was RejectedError('first: rejected')"
    ]


async def test_failing_result_has_started(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    bulkhead = trioresil.Bulkhead(1)

    async def poor() -> str:
        nursery.start_soon(bulkhead.acquire)
        await trio.testing.wait_all_tasks_blocked()
        return "poor"

    error = await timed_out(retry_with(on_result=lambda result: True), bulkhead, work=poor)
    assert error.started is True
    assert error.__notes__ == ["trioresil: attempt 2 of retry 'search' was in flight"]


@pytest.mark.parametrize("form", ["call", "loop"])
@pytest.mark.parametrize(("first", "started"), [(Passing("first"), True), (refuse(name="first"), False)])
async def test_wait_for_an_attempt_is_as_started_as_what_came_before(
    first: Any, started: bool, form: str, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """A Retry waits for nothing that comes too late; but the program may stall while it waits."""

    async def stall() -> None:
        await trio.sleep(5)
        autojump_clock.jump(5)

    nursery.start_soon(stall)
    script = Script(first)
    retry = retry_with(backoff=[9], delay_hint=lambda error: None)
    timeout = trioresil.Timeout(10)
    with pytest.raises(trioresil.TimedOutError) as caught:
        if form == "call":
            await timeout.call(retry(script.run))
        else:
            await timeout.call(FORMS[form], retry, script.run)
    assert len(script.began_at) == 1
    assert caught.value.started is (started or form == "loop")  # the loop is in a function of the user's own
    (note,) = caught.value.__notes__
    last = "Passing('first')" if started else "RejectedError('first: rejected')"
    assert note == f"trioresil: attempt 2 of retry 'search' was being waited for; the last error was {last}"


async def test_notes_of_nested_retries_come_innermost_first(autojump_clock: trio.testing.MockClock) -> None:
    inner, outer = retry_with(name="inner"), retry_with(name="outer")
    script = Script(Passing(1), After(99, "value"))
    error = await timed_out(outer, inner, work=script.run)
    assert error.__notes__ == [
        "trioresil: attempt 2 of retry 'inner' was in flight; the last error was Passing(1)",
        "trioresil: attempt 1 of retry 'outer' was in flight",
    ]


# --- fallbacks


async def test_alternative_in_a_queue_after_a_started_call_has_started(
    autojump_clock: trio.testing.MockClock, queue: Any
) -> None:
    async def fails() -> None:
        raise Passing("primary")

    async def other() -> None: ...

    queued = queue(other)
    error = await timed_out(trioresil.Fallback(queued, on=Passing, name="degrade"), work=fails)
    assert error.started is True
    (note,) = error.__notes__
    assert note.startswith("trioresil: alternative test_alternative_in_a_queue")
    assert note.endswith("other of fallback 'degrade' was in flight; the last error was Passing('primary')")


async def test_note_names_the_last_error_of_several(autojump_clock: trio.testing.MockClock) -> None:
    async def fails_too() -> None:
        raise Passing("secondary")

    async def poor() -> str:
        return "poor"

    fallback = trioresil.Fallback(
        fails_too, poor, trio.sleep_forever, on=Passing, on_result=lambda result: result == "poor"
    )
    error = await timed_out(fallback, work=Script(Passing("primary")).run)
    assert error.__notes__ == [
        "trioresil: alternative sleep_forever of fallback 'fallback' was in flight; "
        "the last error was Passing('secondary')"
    ]


async def test_alternative_in_a_queue_after_a_refused_call_has_not(
    autojump_clock: trio.testing.MockClock, queue: Any
) -> None:
    async def other() -> None: ...

    fallback = trioresil.Fallback(queue(other), on=trioresil.RejectedError)
    assert (await timed_out(fallback, work=Script(refuse()).run)).started is False


async def test_running_alternative_has_started(autojump_clock: trio.testing.MockClock) -> None:
    fallback = trioresil.Fallback(trio.sleep_forever, on=trioresil.RejectedError)
    assert (await timed_out(fallback, work=Script(refuse()).run)).started is True


async def test_wrapped_call_in_a_queue_has_not_started(autojump_clock: trio.testing.MockClock, queue: Any) -> None:
    assert (await timed_out(trioresil.Fallback(on=Exception, default=1), queue)).started is False


# --- policies of the user's own


class Both(trioresil.abc.Policy):
    """Makes a call twice at once, as a hedge would: from tasks of its own, around which there is no user code."""

    name = "both"

    def __init__(self, *others: Any) -> None:
        self.others = others

    def link(self, inner: Any) -> Any:
        async def link(args: Any, kwargs: Any) -> Any:
            async with trio.open_nursery() as nursery:
                for other in self.others:
                    nursery.start_soon(other)
                nursery.start_soon(inner, args, kwargs)

        return link

    def statistics(self) -> None:
        return None


async def test_group_of_calls_of_which_one_has_started_has_started(
    autojump_clock: trio.testing.MockClock, queue: Any
) -> None:
    assert (await timed_out(Both(queue(trio.sleep_forever)))).started is True
    assert trio.current_time() == 10


async def test_group_of_calls_that_all_queue_has_not_started(
    autojump_clock: trio.testing.MockClock, queue: Any
) -> None:
    assert (await timed_out(Both(queue(trio.sleep_forever)), queue)).started is False


async def test_group_with_a_task_that_nobody_knows_of_is_unknown(
    autojump_clock: trio.testing.MockClock, queue: Any
) -> None:
    assert (await timed_out(Both(trio.sleep_forever), queue)).started is None


async def test_started_attempt_outweighs_a_group_that_queues(
    autojump_clock: trio.testing.MockClock, queue: Any
) -> None:
    class FailsFirst(Both):
        failed = False

        def link(self, inner: Any) -> Any:
            both = super().link(inner)

            async def link(args: Any, kwargs: Any) -> Any:
                if not self.failed:
                    self.failed = True
                    raise Passing
                return await both(args, kwargs)

            return link

    assert (await timed_out(retry_with(), FailsFirst(queue(trio.sleep_forever)), queue)).started is True


async def test_nested_groups_are_looked_into(autojump_clock: trio.testing.MockClock, queue: Any) -> None:
    queued = queue(trio.sleep_forever)
    assert (await timed_out(Both(queued), Both(queued), queue)).started is False
    with pytest.raises(trioresil.TimedOutError) as caught:
        await trioresil.Pipeline(trioresil.Timeout(10), Both(queued), Both(queued)).call(trio.sleep_forever)
    assert caught.value.started is True


async def test_notes_from_tasks_are_gathered_once_each(autojump_clock: trio.testing.MockClock) -> None:
    async def work() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(retry_with(name=f"client-{number // 50}").call, trio.sleep_forever)

    error = await timed_out(retry_with(name="all"), work=work)
    *inner, outer = error.__notes__
    assert sorted(inner) == [f"trioresil: attempt 1 of retry 'client-{number}' was in flight" for number in (0, 1)]
    assert outer == "trioresil: attempt 1 of retry 'all' was in flight"


async def test_notes_from_tasks_are_at_most_ten(autojump_clock: trio.testing.MockClock) -> None:
    async def work() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(retry_with(name=f"client-{number}").call, trio.sleep_forever)

    assert len((await timed_out(work=work)).__notes__) == 10


# --- blocks, whose body is user code


async def block(work: Callable[[], Awaitable[Any]]) -> bool | None:
    with pytest.raises(trioresil.TimedOutError) as caught:
        async with trioresil.Timeout(10):
            await work()
    return caught.value.started


async def test_nobody_knows_of_a_block(autojump_clock: trio.testing.MockClock, queue: Any) -> None:
    assert await block(trio.sleep_forever) is None
    assert await block(lambda: queue.call(trio.sleep_forever)) is None  # something may have been done before


async def test_block_with_a_started_call_has_started(autojump_clock: trio.testing.MockClock) -> None:
    assert await block(lambda: trioresil.Bulkhead(1).call(trio.sleep_forever)) is True


async def test_block_with_started_calls_in_a_nursery_has_started(autojump_clock: trio.testing.MockClock) -> None:
    async def tasks() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trioresil.Bulkhead(1).call, trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    assert await block(tasks) is True


async def test_blocks_notes_come_from_the_calls_inside(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(trioresil.TimedOutError) as caught:
        async with trioresil.Timeout(10):
            await retry_with().call(trio.sleep_forever)
    assert caught.value.__notes__ == ["trioresil: attempt 1 of retry 'search' was in flight"]


async def test_time_out_that_leaves_user_code_has_started(autojump_clock: trio.testing.MockClock, queue: Any) -> None:
    """Whatever a Timeout in there says of its own call: the function around it has been entered."""

    async def work() -> None:
        await trioresil.Timeout(1).call(partial(queue.call, trio.sleep_forever))

    with pytest.raises(trioresil.TimedOutError) as caught:
        await trioresil.Bulkhead(1).call(work)
    assert caught.value.started is True
