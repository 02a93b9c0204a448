"""quick: retries that don't sleep, for tests of code that retries."""

from __future__ import annotations

import math
from contextvars import Token
from types import TracebackType

from .._checks import count
from .._policies.retry import quickened


class quick:
    """Within this block, and in tasks started in it, retries don't sleep; or don't retry.

    Everything else stays as it is: budgets, hints beyond `max_hint`, deadlines, events. The delay of each retry is 0, which
    still is a checkpoint. Not needed on a virtual clock, where waiting costs nothing.

    Synopsis::

        with trioresil.testing.quick():
            await client.fetch()                   # all attempts, at once

        with trioresil.testing.quick(max_attempts=1):
            await client.fetch()                   # the first error comes out

    Args:
      max_attempts (int, >= 1, or None): make at most so many attempts. Default: None, as many as the Retry says.
    """

    def __init__(self, max_attempts: int | None = None) -> None:
        self._limit = math.inf if max_attempts is None else count("max_attempts", max_attempts)
        self._tokens: list[Token[float | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(quickened.set(self._limit))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        quickened.reset(self._tokens.pop())
