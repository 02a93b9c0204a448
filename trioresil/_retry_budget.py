"""RetryBudget: the object that several retries share so that together they stay a fraction of the traffic."""

from __future__ import annotations

import attrs

from ._checks import number, seconds
from ._checks import ratio as check_ratio
from ._clock import RunClock
from ._kernel.retry_budget import Budget


@attrs.frozen(kw_only=True)
class RetryBudgetStatistics:
    """Snapshot of a RetryBudget."""

    available: float
    """How many retries could be made now."""
    withdrawn: int
    """How many were made, in all."""
    refused: int
    """How many were refused, in all."""


class RetryBudget:
    """Limits retries to a share of the calls, over all policies that are given this object.

    A backoff spaces the retries of one call; it does nothing about a thousand calls that all fail and all retry, which
    multiplies the load on a service that is already down. With a budget the retries of all of them together are at most
    `ratio` of the calls of the last `window` seconds, plus a small allowance so that a quiet client can retry at all. When it is
    spent, a failing call ends with its own error, and a note that says so.

    Synopsis::

        budget = trioresil.RetryBudget(ratio=0.1)
        reads = trioresil.Retry(on=OSError, budget=budget)
        writes = trioresil.Retry(on=ConnectionError, budget=budget)

    Args:
      ratio (float, > 0, <= 1): retries allowed for each call. Default: 0.2.
      min_per_second (float, a second, >= 0): retries that are always allowed. Default: 10.
      window (float, seconds, > 0): how far back calls and retries count. Default: 10.

    Cancellation: nothing here waits. A retry is withdrawn only when it is really about to be made.

    Source: the retry budgets of Finagle and tower.
    """

    def __init__(self, *, ratio: float = 0.2, min_per_second: float = 10.0, window: float = 10.0) -> None:
        self._ratio = check_ratio("ratio", ratio)
        self._min_per_second = number("min_per_second", min_per_second, least=0, finite=True)
        self._window = seconds("window", window, zero=False, finite=True)
        self._budget = Budget(self._ratio, self._min_per_second, self._window)
        self._clock = RunClock(self._budget.shift, occupied=lambda: False, owner="a RetryBudget")
        self._withdrawn = 0
        self._refused = 0

    def deposit(self) -> None:
        """Note an original call. Retry does this."""
        self._budget.deposit(self._clock.read())

    def withdraw(self) -> bool:
        """Ask for one retry; True if it may be made. Retry does this."""
        granted = self._budget.withdraw(self._clock.read())
        if granted:
            self._withdrawn += 1
        else:
            self._refused += 1
        return granted

    def statistics(self) -> RetryBudgetStatistics:
        """Return a snapshot; works outside of a run, as of the last use."""
        available = self._budget.balance(self._clock.peek())
        return RetryBudgetStatistics(available=available, withdrawn=self._withdrawn, refused=self._refused)

    def __repr__(self) -> str:
        available = self._budget.balance(self._clock.peek())
        return f"<trioresil.RetryBudget {available:.4g} retries left, ratio {self._ratio:g}>"
