"""How many retries a client may add to its own traffic.

The law, over the last `window` seconds:

    retries <= reserve + ratio * original calls        where reserve = min_per_second * window

- Each original call deposits; each retry withdraws 1/ratio deposits, if they are there, and nothing otherwise.
- Deposits and withdrawals are forgotten after the window, in ten slots. Deposits may be forgotten before the retry that
  they paid for: the balance is then below zero, and is reported as 0.
- The reserve lets a client with little traffic retry at all. It is there from the first moment, for any ratio.
- The balance is worked out from two whole numbers each time, so nothing adds up; what the one multiplication is off by is
  forgiven (a millionth of a retry): 0.29 * 100 calls pay for 29 retries.

Rejected: limits on retries in flight, which say nothing about slow retries, and a limit per call alone, which
multiplies the load on a service by the number of attempts just when all its calls fail.

Source: Finagle's and tower's retry budgets.
"""

from __future__ import annotations

from typing import Final

from .._checks import number
from .._checks import ratio as check_ratio
from .._checks import seconds as check_seconds
from .windows import TimeWindow

FORGIVEN: Final = 1e-6  # of a retry: far above the rounding of ratio * calls, far below a retry


class Budget:
    """The account: deposits by calls, withdrawals by retries, and a reserve."""

    __slots__ = ("_history", "ratio", "reserve")

    def __init__(self, ratio: float, min_per_second: float, window: float) -> None:
        self.ratio = check_ratio("ratio", ratio)
        rate = number("min_per_second", min_per_second, least=0, finite=True)
        self.reserve = rate * check_seconds("window", window, zero=False, finite=True)
        # Of this history the "failed" calls are the withdrawals, the others the deposits.
        self._history = TimeWindow(window)

    def deposit(self, now: float) -> None:
        """Count an original call: the first attempt of something, never a retry."""
        self._history.record(now, False)

    def withdraw(self, now: float) -> bool:
        """Take one retry out of the budget and return True; return False, and take nothing, if there is none."""
        if self._balance(now) + FORGIVEN < 1:
            return False
        self._history.record(now, True)
        return True

    def balance(self, now: float) -> float:
        """Return the retries that could be withdrawn now, >= 0, with the fraction that is saved up."""
        return max(0.0, self._balance(now))

    def shift(self, seconds: float) -> None:
        """Move every instant: the clock now reads `seconds` more than it would have."""
        self._history.shift(seconds)

    def _balance(self, now: float) -> float:
        self._history.advance(now)
        retries = self._history.failed
        return self.reserve + self.ratio * (self._history.calls - retries) - retries
