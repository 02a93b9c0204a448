"""RetryBudget: what several retries may do together."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio

import trioresil
from tests._scripts import FORMS, Form, Script


class Passing(Exception):
    """Worth another attempt in these tests."""


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


def retry_with(budget: trioresil.RetryBudget, **configuration: Any) -> trioresil.Retry:
    return trioresil.Retry(**{"on": Passing, "backoff": [0.5], "budget": budget, **configuration})


async def attempts_of(form: Form, retry: trioresil.Retry) -> int:
    script = Script(Passing())
    with pytest.raises(Passing):
        await form(retry, script.run)
    return len(script.began_at)


async def test_retries_are_a_share_of_the_calls(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    budget = trioresil.RetryBudget(ratio=0.25, min_per_second=0, window=1000)
    retry = retry_with(budget)
    assert [await attempts_of(form, retry) for _ in range(8)] == [1, 1, 1, 2, 1, 1, 1, 2]
    assert budget.statistics() == trioresil.RetryBudgetStatistics(available=0, withdrawn=2, refused=8)


async def test_quiet_client_may_retry_all_the_same(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    budget = trioresil.RetryBudget(ratio=0.001, min_per_second=0.5, window=4)  # 2 at any time
    assert [await attempts_of(form, retry_with(budget)) for _ in range(2)] == [3, 1]


async def test_budget_is_shared_by_several_retries(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    budget = trioresil.RetryBudget(ratio=0.001, min_per_second=0.75, window=4)  # 3
    reads, writes = retry_with(budget, name="reads"), retry_with(budget, name="writes", max_attempts=3)
    assert await attempts_of(form, writes) == 3
    assert await attempts_of(form, reads) == 2
    assert await attempts_of(form, writes) == 1


async def test_spent_budget_gives_the_real_error_at_once(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    error = Passing()
    budget = trioresil.RetryBudget(ratio=0.1, min_per_second=0)
    with pytest.raises(Passing) as caught:
        await form(retry_with(budget), Script(error).run)
    assert caught.value is error
    assert error.__notes__ == [
        "trioresil: retry 'retry' gave up after 1 attempt and 0 s of waiting: the retry budget is spent"
    ]
    assert trio.current_time() == 0


async def test_success_costs_nothing_and_earns_its_share(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    budget = trioresil.RetryBudget(ratio=0.5, min_per_second=0, window=1000)
    for calls in range(1, 9):
        await form(retry_with(budget), Script("value").run)
        assert budget.statistics().available == calls / 2


@pytest.mark.parametrize(
    "changes",
    [
        {"max_attempts": 1},
        {"on": KeyError},
        {"delay_hint": lambda error: 61},
        {"backoff": [1000]},
    ],
)
async def test_retry_that_isnt_made_is_not_withdrawn(
    changes: Any, form: Form, autojump_clock: trio.testing.MockClock
) -> None:
    budget = trioresil.RetryBudget()
    with pytest.raises(Passing):
        with trio.fail_after(100):
            await form(retry_with(budget, **changes), Script(Passing()).run)
    assert budget.statistics() == trioresil.RetryBudgetStatistics(available=100.2, withdrawn=0, refused=0)


async def test_attempts_earn_nothing_only_calls_do(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    budget = trioresil.RetryBudget(ratio=0.5, min_per_second=1, window=1000)
    await form(retry_with(budget), Script(Passing(), Passing(), "value").run)
    assert budget.statistics().available == 1000 + 0.5 - 2


async def test_nested_retry_pays_for_itself(form: Form, autojump_clock: trio.testing.MockClock) -> None:
    budget = trioresil.RetryBudget(ratio=0.5, min_per_second=1, window=1000)
    inner, outer = retry_with(budget, max_attempts=2), retry_with(budget, max_attempts=2)
    with pytest.raises(Passing):
        await form(outer, inner(Script(Passing()).run))
    assert budget.statistics() == trioresil.RetryBudgetStatistics(available=1000 + 3 * 0.5 - 3, withdrawn=3, refused=0)


async def test_calls_are_forgotten_after_the_window(autojump_clock: trio.testing.MockClock) -> None:
    budget = trioresil.RetryBudget(ratio=1, min_per_second=0, window=10)
    budget.deposit()
    await trio.sleep(9)
    assert budget.statistics().available == 1
    await trio.sleep(1)
    assert budget.statistics().available == 0
    assert not budget.withdraw()


async def test_withdraw_tells_and_counts(autojump_clock: trio.testing.MockClock) -> None:
    budget = trioresil.RetryBudget(ratio=0.5, min_per_second=0)
    for _ in range(4):
        budget.deposit()
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
    assert budget.statistics() == trioresil.RetryBudgetStatistics(available=0, withdrawn=2, refused=1)
    assert repr(budget) == "<trioresil.RetryBudget 0 retries left, ratio 0.5>"


def test_defaults_and_what_it_says_outside_of_a_run() -> None:
    budget = trioresil.RetryBudget()
    assert repr(budget) == "<trioresil.RetryBudget 100 retries left, ratio 0.2>"
    assert budget.statistics() == trioresil.RetryBudgetStatistics(available=100, withdrawn=0, refused=0)


@pytest.mark.parametrize("clocks", ["mock", "system", "mixed"])
def test_budget_lives_through_three_runs(clocks: str) -> None:
    """Each run's clock begins anywhere; what lies between two runs takes no time."""
    budget = trioresil.RetryBudget(ratio=1, min_per_second=0, window=1000)

    async def deposit_and_withdraw(expected: float) -> None:
        assert budget.statistics().available == expected
        budget.deposit()
        budget.deposit()
        assert budget.withdraw()

    for run in range(3):
        mock = clocks == "mock" or (clocks == "mixed" and run % 2 == 0)
        trio.run(deposit_and_withdraw, run, clock=trio.testing.MockClock() if mock else None)
        assert budget.statistics().available == run + 1
    assert budget.statistics().withdrawn == 3


def test_age_of_calls_goes_on_in_the_next_run() -> None:
    budget = trioresil.RetryBudget(ratio=1, min_per_second=0, window=10)

    async def first() -> None:
        await trio.sleep(1000)
        budget.deposit()
        await trio.sleep(6)
        budget.deposit()

    async def second() -> None:
        assert budget.statistics().available == 2
        budget.deposit()  # the clock goes on from here
        await trio.sleep(3)
        assert budget.statistics().available == 3
        await trio.sleep(1)
        assert budget.statistics().available == 2  # 10 s after the first deposit

    trio.run(first, clock=trio.testing.MockClock(autojump_threshold=0))
    trio.run(second, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0}, "ratio must be a number > 0 and <= 1, not 0"),
        ({"ratio": 1.5}, "ratio must be .* not 1.5"),
        ({"ratio": math.nan}, "ratio must be .* not nan"),
        ({"ratio": True}, "ratio must be .* not True"),
        ({"min_per_second": -1}, "min_per_second must be a finite number >= 0, not -1"),
        ({"min_per_second": math.inf}, "min_per_second must be .* not inf"),
        ({"window": 0}, "window must be a finite number of seconds > 0, not 0"),
        ({"window": math.inf}, "window must be .* not inf"),
        ({"window": "10"}, "window must be .* not '10'"),
    ],
)
def test_wrong_argument_is_refused_by_name(arguments: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        trioresil.RetryBudget(**arguments)
