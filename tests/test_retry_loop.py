"""What only the loop form of Retry has: its attempts, the scopes around them, the code between them, and its misuse."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import trio

import trioresil
from tests._scripts import Script, refuse
from trioresil.testing import Recorder


class Passing(Exception):
    """Worth another attempt in these tests."""


def retry_with(**configuration: Any) -> trioresil.Retry:
    return trioresil.Retry(**{"on": Passing, "backoff": [1, 2, 4], "name": "search", **configuration})


async def test_attempts_are_numbered_and_know_the_last_error(autojump_clock: trio.testing.MockClock) -> None:
    errors = [Passing(1), Passing(2)]
    seen = []
    async for attempt in retry_with(on_result=lambda result: result == "poor"):
        with attempt:
            seen.append((attempt.number, attempt.previous))
            match attempt.number:
                case 1 | 3:
                    raise errors[attempt.number // 2]
                case 2:
                    attempt.result = "poor"
    assert seen == [(1, None), (2, errors[0]), (3, errors[0]), (4, errors[1])]


async def test_with_gives_the_attempt_itself(autojump_clock: trio.testing.MockClock) -> None:
    async for attempt in retry_with():
        with attempt as entered:
            assert entered is attempt


async def test_result_that_isnt_given_is_not_judged(autojump_clock: trio.testing.MockClock) -> None:
    turns = 0
    async for attempt in retry_with(on_result=lambda result: True):
        with attempt:
            turns += 1
    assert turns == 1


async def test_none_is_a_result(autojump_clock: trio.testing.MockClock) -> None:
    turns = 0
    async for attempt in retry_with(on_result=lambda result: result is None, max_attempts=3):
        with attempt:
            turns += 1
            attempt.result = None
    assert turns == 3


async def test_error_outweighs_a_result(autojump_clock: trio.testing.MockClock) -> None:
    judged: list[object] = []
    async for attempt in retry_with(on_result=lambda result: judged.append(result)):
        with attempt:
            attempt.result = attempt.number
            if attempt.number == 1:
                raise Passing
    assert judged == [2]


async def test_result_without_on_result_is_a_success(autojump_clock: trio.testing.MockClock) -> None:
    turns = 0
    async for attempt in retry_with():
        with attempt:
            turns += 1
            attempt.result = None
    assert turns == 1


# --- the code between the attempts


async def test_statements_after_the_block_run_after_every_failed_attempt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    after: list[tuple[int, float]] = []
    async for attempt in retry_with():
        with attempt:
            if attempt.number < 3:
                raise Passing
        after.append((attempt.number, trio.current_time()))
    assert after == [(1, 0), (2, 1), (3, 3)]


async def test_statements_after_the_block_run_before_the_iterator_gives_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Budget, hint and deadline are decided by the iterator; and so is an end with an older error than the last."""
    started = Passing("started")
    gate = Script(started, refuse())
    after: list[int] = []

    async def exhaust(retry: trioresil.Retry, work: Any) -> None:
        async for attempt in retry:
            with attempt:
                await work()
            after.append(attempt.number)

    for retry, work in (
        (retry_with(delay_hint=lambda error: 61), Script(started).run),
        (retry_with(budget=trioresil.RetryBudget(min_per_second=0)), Script(started).run),
        (retry_with(on=(Passing, trioresil.RejectedError), max_attempts=2), gate.run),
        (retry_with(), Script(started, refuse()).run),
    ):
        with pytest.raises(Passing) as caught:
            await exhaust(retry, work)
        assert caught.value is started
    assert after == [1, 1, 1, 2, 1, 2]


async def test_last_attempts_own_error_leaves_its_block(autojump_clock: trio.testing.MockClock) -> None:
    error, after = Passing(), []
    with pytest.raises(Passing) as caught:
        async for attempt in retry_with(max_attempts=2):
            with attempt:
                raise error if attempt.number == 2 else Passing()
            after.append(attempt.number)
    assert caught.value is error
    assert after == [1]


async def test_break_in_a_block_ends_the_loop_as_a_success(autojump_clock: trio.testing.MockClock) -> None:
    recorder = Recorder()
    turns = 0
    with trioresil.instrument(recorder):
        async for attempt in retry_with():
            with attempt:
                turns += 1
                if turns == 1:
                    raise Passing
                break
    assert turns == 2
    assert not recorder.of(trioresil.RetryGaveUp)


async def test_break_after_a_failed_block_gives_the_error_up(autojump_clock: trio.testing.MockClock) -> None:
    turns = 0
    async for attempt in retry_with():
        with attempt:
            turns += 1
            raise Passing
        break
    assert turns == 1
    assert trio.current_time() == 0


async def test_return_and_continue_in_a_block_work(autojump_clock: trio.testing.MockClock) -> None:
    async def fetch(turns: list[int]) -> str:
        async for attempt in retry_with():
            with attempt:
                turns.append(attempt.number)
                if len(turns) == 1:
                    raise Passing
                return "value"
        raise AssertionError("the loop came to its end")

    turns: list[int] = []
    assert await fetch(turns) == "value"
    assert turns == [1, 2]

    turns = []
    async for attempt in retry_with():
        with attempt:
            turns.append(attempt.number)
            if len(turns) == 1:
                raise Passing
            continue
    assert turns == [1, 2]


async def test_error_between_the_blocks_is_not_retried(autojump_clock: trio.testing.MockClock) -> None:
    turns = 0
    with pytest.raises(Passing, match="between"):
        async for attempt in retry_with():
            turns += 1
            with attempt:
                raise Passing("inside")
            raise Passing("between")
    assert turns == 1


async def test_loops_nest(autojump_clock: trio.testing.MockClock) -> None:
    retry = retry_with(max_attempts=2)
    seen: list[tuple[int, int]] = []
    with pytest.raises(Passing):
        async for outer in retry:
            with outer:
                async for inner in retry:
                    with inner:
                        seen.append((outer.number, inner.number))
                        raise Passing
    assert seen == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert trio.current_time() == 3


async def test_loop_inside_a_generator_is_retried(autojump_clock: trio.testing.MockClock) -> None:
    async def pages() -> Any:
        async for attempt in retry_with():
            with attempt:
                if attempt.number == 1:
                    raise Passing
                yield attempt.number

    assert [number async for number in pages()] == [2]


ENDS_OF_ITERATION = [StopIteration, StopAsyncIteration]


@pytest.mark.parametrize("kind", ENDS_OF_ITERATION)
@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"delay_hint": lambda error: 61},
        {"budget": trioresil.RetryBudget(min_per_second=0)},
        {"max_attempts": 1},
    ],
    ids=["attempts are left", "hint", "budget", "attempts"],
)
async def test_end_of_an_iteration_leaves_its_block_at_once(
    configuration: dict[str, Any], kind: type[Exception], autojump_clock: trio.testing.MockClock
) -> None:
    """The iterator can't raise it: that would end the loop as a success."""
    error, turns, caught = kind("no more"), 0, None
    async for attempt in retry_with(on=Exception, **configuration):
        turns += 1
        try:
            with attempt:
                raise error
        except kind as exc:
            caught = exc
    assert caught is error
    assert turns == 1


async def test_end_of_an_iteration_is_noted_as_the_last_of_several_attempts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    error, recorder = StopAsyncIteration(), Recorder()
    with pytest.raises(StopAsyncIteration) as caught, trioresil.instrument(recorder):
        async for attempt in retry_with(on=Exception):
            with attempt:
                raise Passing if attempt.number == 1 else error
    assert caught.value is error
    assert "  attempt 1: Passing()" in error.__notes__[0]
    assert [event.reason for event in recorder.of(trioresil.RetryGaveUp)] == ["unmatched"]


@pytest.mark.parametrize("kind", ENDS_OF_ITERATION)
async def test_rejection_that_ends_an_iteration_is_not_lost_either(
    kind: type[Exception], autojump_clock: trio.testing.MockClock
) -> None:
    both: Any = type("Both", (trioresil.RejectedError, kind), {})
    with pytest.raises(both):
        async for attempt in retry_with(on=Exception):
            with attempt:
                raise Passing if attempt.number == 1 else both("gate")


# --- scopes around an attempt


async def test_scope_around_the_attempt_ends_with_it(autojump_clock: trio.testing.MockClock) -> None:
    """The wait of 1 s, 2 s doesn't fit into the scope of the attempt before it, and need not."""
    began_at = []
    async for attempt in retry_with():
        with trio.fail_after(0.5), attempt:
            await trio.lowlevel.checkpoint()
            began_at.append(trio.current_time())
            if attempt.number < 3:
                raise Passing
    assert began_at == [0, 1, 3]


async def test_time_out_inside_the_attempt_is_an_error_like_any(autojump_clock: trio.testing.MockClock) -> None:
    began_at = []
    async for attempt in retry_with(on=trio.TooSlowError):
        with attempt, trio.fail_after(0.5):
            began_at.append(trio.current_time())
            if attempt.number < 3:
                await trio.sleep_forever()
    assert began_at == [0, 1.5, 4]


async def test_cancelled_attempt_is_never_repeated(autojump_clock: trio.testing.MockClock) -> None:
    """A scope between loop and attempt: the attempt sees a cancellation, and the loop is over."""
    turns = 0
    async for attempt in retry_with(on=lambda error: True):
        with trio.move_on_after(0.5), attempt:
            turns += 1
            if turns == 1:
                raise Passing
            await trio.sleep_forever()
    assert turns == 2
    assert trio.current_time() == 1.5


async def test_deadline_around_the_loop_is_looked_at_after_each_attempt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with pytest.raises(Passing):
        with trio.fail_after(3):
            async for attempt in retry_with():
                with attempt:
                    raise Passing
    assert trio.current_time() == 1


async def test_block_leaves_rejections_as_they_are(autojump_clock: trio.testing.MockClock) -> None:
    """It can't see where in its body an error comes from."""
    refused = trioresil.RejectedError("elsewhere", 0.25)
    began_at = []
    async for attempt in retry_with(on=trioresil.RejectedError):
        with attempt:
            began_at.append(trio.current_time())
            if attempt.number == 1:
                raise refused
    assert began_at == [0, 0.25]
    assert refused.started is False


async def test_result_that_cant_be_awaited_ends_the_loop(autojump_clock: trio.testing.MockClock) -> None:
    turns = 0
    with pytest.raises(TypeError, match="must return something to await"):
        async for attempt in retry_with(on=Exception):
            with attempt:
                turns += 1
                await trioresil.Timeout(1).call(lambda: 5)  # type: ignore[arg-type,return-value]
    assert turns == 1


# --- checkpoints


async def test_first_turn_checks_for_cancellation_and_lets_nobody_run(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    ran: list[None] = []

    async def other() -> None:
        ran.append(None)

    nursery.start_soon(other)
    async for attempt in retry_with():
        with attempt:
            pass
    assert ran == []
    with trio.CancelScope() as scope:
        scope.cancel()
        async for _ in retry_with():
            raise AssertionError("a cancelled task got an attempt")
    assert scope.cancelled_caught


async def test_block_is_no_checkpoint(autojump_clock: trio.testing.MockClock) -> None:
    async for attempt in retry_with():
        with trio.testing.assert_no_checkpoints(), attempt:
            pass


# --- misuse


async def test_attempt_that_was_not_entered_is_a_runtime_error(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(
        RuntimeError, match=r"retry 'search': attempt 1 was not entered: write `with attempt:` around the work"
    ):
        async for _ in retry_with():
            pass


async def test_later_attempt_that_was_not_entered_is_a_runtime_error(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(RuntimeError, match="attempt 2 was not entered"):
        async for attempt in retry_with():
            if attempt.number == 1:
                with attempt:
                    raise Passing


async def test_attempt_that_was_not_left_is_a_runtime_error(autojump_clock: trio.testing.MockClock) -> None:
    attempts = aiter(retry_with())
    with await anext(attempts):
        with pytest.raises(RuntimeError, match="attempt 1 was not left"):
            await anext(attempts)


async def test_attempt_is_entered_once(autojump_clock: trio.testing.MockClock) -> None:
    attempts = aiter(retry_with())
    attempt = await anext(attempts)
    with attempt:
        with pytest.raises(RuntimeError, match="attempt 1 was already entered: one `with attempt:` for each turn"):
            with attempt:
                pass
    with pytest.raises(RuntimeError, match="attempt 1 was already entered"):
        with attempt:
            pass


async def test_loop_that_is_over_stays_over(autojump_clock: trio.testing.MockClock) -> None:
    attempts = aiter(retry_with(max_attempts=1))
    assert aiter(attempts) is attempts
    attempt = await anext(attempts)
    with pytest.raises(Passing):
        with attempt:
            raise Passing
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await anext(attempts)


async def test_loop_that_was_given_up_stays_over(autojump_clock: trio.testing.MockClock) -> None:
    attempts = aiter(retry_with(delay_hint=lambda error: 61))
    with await anext(attempts):
        raise Passing
    with pytest.raises(Passing):
        await anext(attempts)
    with pytest.raises(StopAsyncIteration):
        await anext(attempts)


async def test_loop_whose_hint_went_wrong_stays_over(autojump_clock: trio.testing.MockClock) -> None:
    def hint(error: Exception) -> float:
        raise ZeroDivisionError

    attempts = aiter(retry_with(delay_hint=hint))
    with await anext(attempts):
        raise Passing
    with pytest.raises(ZeroDivisionError):
        await anext(attempts)
    with pytest.raises(StopAsyncIteration):
        await anext(attempts)


async def test_attempts_repr_tells_its_state(autojump_clock: trio.testing.MockClock) -> None:
    async for attempt in retry_with():
        assert repr(attempt) == "<attempt 1 of retry 'search', new>"
        with attempt:
            assert repr(attempt) == "<attempt 1 of retry 'search', entered>"
        assert repr(attempt) == "<attempt 1 of retry 'search', left>"


async def test_previous_error_is_let_go_when_the_loop_is_over(autojump_clock: trio.testing.MockClock) -> None:
    ref = None
    async for attempt in retry_with():
        with attempt:
            if attempt.number == 1:
                error = Passing()
                ref = weakref.ref(error)
                raise error
            assert attempt.previous is error
            del error
    assert attempt.previous is None
    assert ref is not None
    assert ref() is None


# --- what a time-out around the loop learns


async def timed_out(work: Any) -> trioresil.TimedOutError:
    with pytest.raises(trioresil.TimedOutError) as caught:
        async with trioresil.Timeout(10):
            await work()
    return caught.value


async def test_timeout_names_the_attempt_in_flight(autojump_clock: trio.testing.MockClock) -> None:
    async def loop(failures: int) -> None:
        async for attempt in retry_with():
            with attempt:
                if attempt.number <= failures:
                    raise Passing(attempt.number)
                await trio.sleep_forever()

    assert (await timed_out(lambda: loop(0))).__notes__ == ["trioresil: attempt 1 of retry 'search' was in flight"]
    assert (await timed_out(lambda: loop(2))).__notes__ == [
        "trioresil: attempt 3 of retry 'search' was in flight; the last error was Passing(2)"
    ]
