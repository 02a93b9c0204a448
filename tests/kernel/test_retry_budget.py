"""The retry budget against an exact model."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel._prove import prove
from trioresil._kernel.retry_budget import Budget


def withdrawals(budget: Budget, now: float, limit: int = 1000) -> int:
    """Withdraw until the budget refuses, and return how often it did not."""
    return next((n for n in range(limit) if not budget.withdraw(now)), limit)


@prove
@given(
    percent=st.integers(1, 100),
    tenths=st.integers(0, 30),
    script=st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=80),
)
def test_a_retry_is_allowed_exactly_while_the_account_holds_one(
    percent: int, tenths: int, script: list[tuple[int, bool]]
) -> None:
    # Slots of one second, from the first call on; time goes on in quarters.
    budget, now = Budget(percent / 100, tenths / 10, 10.0), 50.0
    budget.balance(now)
    kept: list[tuple[int, Fraction]] = []
    for quarters, deposits in script:
        now += quarters / 4
        slot = math.floor(now) - 50
        balance = tenths + sum(amount for at, amount in kept if at > slot - 10)
        assert budget.balance(now) == pytest.approx(max(0, float(balance)), abs=1e-9)
        if deposits:
            budget.deposit(now)
            kept.append((slot, Fraction(percent, 100)))
        else:
            assert budget.withdraw(now) == (balance >= 1)
            kept.append((slot, Fraction(-1 if balance >= 1 else 0)))


@pytest.mark.parametrize(
    ("ratio", "calls", "retries"), [(0.2, 10, 2), (0.2, 9, 1), (1, 3, 3), (0.1, 9, 0), (0.1, 10, 1)]
)
def test_retries_are_a_share_of_calls(ratio: float, calls: int, retries: int) -> None:
    budget = Budget(ratio, 0, 10)
    for _ in range(calls):
        budget.deposit(5.0)
    assert withdrawals(budget, 5.0) == retries


@pytest.mark.parametrize("percent", range(1, 101))
def test_rounding_costs_no_retry_and_gives_none(percent: int) -> None:
    budget = Budget(percent / 100, 0, 10)
    for _ in range(99):
        budget.deposit(0.0)
    before = withdrawals(budget, 0.0)
    budget.deposit(0.0)
    assert before + withdrawals(budget, 0.0) == percent
    assert before == percent * 99 // 100


def test_a_third_pays_for_one_retry_in_three_calls() -> None:
    budget = Budget(1 / 3, 0, 10)
    for _ in range(300):
        budget.deposit(0.0)
    assert withdrawals(budget, 0.0) == 100


def test_the_reserve_is_there_from_the_start_and_comes_back_after_the_window() -> None:
    budget = Budget(0.2, 0.5, 10.0)
    assert budget.balance(3.0) == 5.0
    assert withdrawals(budget, 3.0) == 5
    assert budget.balance(3.0) == 0.0
    assert withdrawals(budget, 12.9) == 0
    assert withdrawals(budget, 13.0) == 5


def test_the_reserve_is_not_off_by_rounding() -> None:
    assert 0.29 * 100 < 29
    assert withdrawals(Budget(0.2, 0.29, 100.0), 0.0) == 29


def test_a_refused_retry_costs_nothing() -> None:
    budget = Budget(0.5, 0, 10.0)
    budget.deposit(0.0)
    assert not budget.withdraw(0.0)
    budget.deposit(0.0)
    assert budget.balance(0.0) == 1.0
    assert budget.withdraw(0.0)


def test_the_balance_shows_what_is_saved_up_and_never_a_debt() -> None:
    budget = Budget(0.5, 0, 10.0)
    budget.deposit(0.0)
    assert budget.balance(0.0) == 0.5
    budget.deposit(0.0)
    assert budget.withdraw(9.5)
    assert budget.balance(9.5) == 0.0
    assert budget.balance(10.0) == 0.0
    budget.deposit(10.0)
    budget.deposit(10.0)
    assert not budget.withdraw(10.0)


def test_deposits_are_forgotten_after_the_window() -> None:
    budget = Budget(1, 0, 10.0)
    budget.deposit(0.0)
    budget.deposit(4.0)
    assert budget.balance(9.9) == 2.0
    assert budget.balance(10.0) == 1.0
    assert budget.balance(14.0) == 0.0


def test_shift_keeps_the_account() -> None:
    budget = Budget(1, 0, 10.0)
    budget.deposit(0.0)
    budget.shift(500.0)
    assert budget.balance(509.0) == 1.0
    assert budget.balance(510.0) == 0.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 1, 1), ValueError, "ratio must be a number > 0 and <= 1, not 0"),
        ((1.5, 1, 1), ValueError, "ratio must be a number > 0 and <= 1, not 1.5"),
        ((0.2, -1, 1), ValueError, "min_per_second must be a finite number >= 0, not -1"),
        ((0.2, math.inf, 1), ValueError, "min_per_second must be a finite number >= 0, not inf"),
        ((0.2, None, 1), TypeError, "min_per_second must be a finite number >= 0, not None"),
        ((0.2, 1, 0), ValueError, "window must be a finite number of seconds > 0, not 0"),
        ((0.2, 1, math.inf), ValueError, "window must be a finite number of seconds > 0, not inf"),
    ],
)
def test_wrong_arguments_are_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        Budget(*arguments)
    assert str(caught.value) == message
