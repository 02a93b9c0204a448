"""Progress: how far a number of items has come, and how long the rest may take.

The rate is the mean since the beginning, which one can check by hand and which no burst upsets. Rejected: a moving average,
whose memory would be one more number to choose, and wrong for somebody.
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Progress:
    """How far the work has come."""

    done: int
    """Items that are finished, with a value or an error."""
    total: int | None
    """Items in all, as far as is known: those sent so far, or the length of what is mapped. None: nobody knows yet."""
    rate: float
    """Items finished in a second, on average since the beginning. 0 while no time has passed."""
    eta: float | None
    """Seconds until all of `total` are finished, at this rate. None: nobody can tell."""


def measure(done: int, total: int | None, seconds: float) -> Progress:
    """Return the progress of `done` items after so many seconds."""
    rate = done / seconds if seconds > 0 else 0.0
    return Progress(done=done, total=total, rate=rate, eta=_remaining(done, total, rate))


def _remaining(done: int, total: int | None, rate: float) -> float | None:
    if total is None:
        return None
    if done >= total:
        return 0.0
    return (total - done) / rate if rate > 0 else None
