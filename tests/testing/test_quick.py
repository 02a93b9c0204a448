"""quick: retries neither sleep nor go on for longer than allowed, and everything else is as always."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import trioresil
from tests._scripts import FORMS, Form, Script
from trioresil.testing import Recorder, quick


class Passing(Exception):
    """Worth another attempt in these tests."""


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


def retry_with(**configuration: Any) -> trioresil.Retry:
    return trioresil.Retry(**{"on": Passing, "backoff": [8], **configuration})


async def attempts_of(form: Form, retry: trioresil.Retry) -> int:
    script = Script(Passing())
    with pytest.raises(Passing):
        await form(retry, script.run)
    return len(script.began_at)


async def test_retries_dont_sleep(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    with quick():
        assert await attempts_of(form, retry_with()) == 5
        assert await attempts_of(form, retry_with(max_attempts=50)) == 50
    assert trio.current_time() == 0


async def test_they_sleep_again_behind_the_block(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    with quick():
        pass
    await attempts_of(form, retry_with(max_attempts=2))
    assert trio.current_time() == 8


@pytest.mark.parametrize(("limit", "attempts"), [(1, 1), (2, 2), (3, 3), (9, 3), (None, 3)])
async def test_limit_on_attempts_only_lowers(
    limit: int | None, attempts: int, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    with quick(max_attempts=limit):
        assert await attempts_of(form, retry_with(max_attempts=3)) == attempts


async def test_first_error_comes_out_with_its_note(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    error = Passing()
    with quick(max_attempts=1), pytest.raises(Passing) as caught:
        await form(retry_with(), Script(error).run)
    assert caught.value is error
    assert error.__notes__ == ["trioresil: retry 'retry' gave up after 1 attempt and 0 s of waiting"]


async def test_hints_dont_sleep_either_but_keep_their_bound(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    with quick():
        assert await attempts_of(form, retry_with(delay_hint=lambda error: 60)) == 5
        assert await attempts_of(form, retry_with(delay_hint=lambda error: 61)) == 1
    assert trio.current_time() == 0


async def test_budget_and_deadline_count_as_always(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    with quick():
        assert await attempts_of(form, retry_with(budget=trioresil.RetryBudget(ratio=0.1, min_per_second=0))) == 1
        with trio.CancelScope(deadline=0.5):
            assert await attempts_of(form, retry_with()) == 5  # nothing is waited for, so all of it fits
        with trio.CancelScope(deadline=0):
            assert await attempts_of(form, retry_with()) == 1


async def test_events_tell_the_wait_of_zero(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    recorder = Recorder()
    with quick(), trioresil.instrument(recorder):
        await attempts_of(form, retry_with(max_attempts=3))
    assert [event.delay for event in recorder.of(trioresil.RetryScheduled)] == [0, 0]
    assert [event.waited for event in recorder.of(trioresil.RetryGaveUp)] == [0]


async def test_wait_of_zero_is_a_checkpoint(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    with quick(), trio.move_on_after(100) as scope:

        async def fails() -> None:
            if trio.current_time() == 50:
                scope.cancel()
            await trio.sleep(25)
            raise Passing

        await form(retry_with(max_attempts=9), fails)
    assert trio.current_time() == 50


async def test_tasks_started_inside_are_quick_and_others_are_not(
    form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    ended_at: dict[str, float] = {}

    async def work(name: str) -> None:
        await attempts_of(form, retry_with(max_attempts=2))
        ended_at[name] = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, "outside")
        with quick():
            nursery.start_soon(work, "inside")
        await trio.sleep(1)
    assert ended_at == {"inside": 0, "outside": 8}


async def test_blocks_nest_and_one_object_serves_again(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    retry = retry_with(backoff=[0])
    once, twice = quick(1), quick(2)
    with twice:
        assert await attempts_of(form, retry) == 2
        with once, twice:
            assert await attempts_of(form, retry) == 2
        with once:
            assert await attempts_of(form, retry) == 1
        assert await attempts_of(form, retry) == 2
    assert await attempts_of(form, retry) == 5


async def test_block_that_raises_ends_as_well(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(Passing), quick(1):
        raise Passing
    assert await attempts_of(form, retry_with(backoff=[0])) == 5


@pytest.mark.parametrize("limit", [0, -1, True, 2.5, "1", float("inf")])
def test_wrong_limit_is_refused(limit: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_attempts must be a whole number >= 1, not"):
        quick(limit)


def test_it_works_outside_of_a_run_too() -> None:
    script = Script(Passing(), "value")
    with quick():
        assert trio.run(retry_with(backoff=[1e6]).call, script.run) == "value"
