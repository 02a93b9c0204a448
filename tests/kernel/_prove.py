"""How the kernel's properties are run: the same examples each time, no time limit on one of them."""

from __future__ import annotations

from hypothesis import settings

prove = settings(derandomize=True, database=None, deadline=None, max_examples=200)
prove_briefly = settings(prove, max_examples=100)


class FixedChance:
    """Chance that always falls the same, or as listed, the last value for ever."""

    def __init__(self, *values: float) -> None:
        self._values = list(values)

    def random(self) -> float:
        return self._values.pop(0) if len(self._values) > 1 else self._values[0]
