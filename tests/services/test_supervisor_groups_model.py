"""open_supervisor with groups against an exact model: children that fail or return at random, who is restarted, and when."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from trioresil import open_supervisor
from trioresil._kernel.intensity import Restart, Strategy

DELAYS = (1.0, 2.0, 4.0)
STABLE = 8.0
END = 500.0

Lives = list[tuple[float, bool]]
lives = st.lists(st.tuples(st.sampled_from([0.5, 1.0, 3.0, 8.0, 20.0]), st.booleans()), max_size=5)
children = st.lists(st.tuples(st.sampled_from(["always", "on_failure", "never"]), lives), min_size=1, max_size=4)

# Child i lives for halves and a 7**i-th of 1/1024 more, and has at most 5 lives that end: no two end at the same instant.


def life(number: int, script: Iterator[tuple[float, bool]]) -> tuple[float, bool]:
    seconds, fails = next(script, (math.inf, False))
    return seconds + 7**number / 1024, fails


class Model:
    """A group whose children stop at once and are up at once: what happens in it, worked out beforehand."""

    def __init__(self, strategy: Strategy, script: list[tuple[Restart, Lives]]) -> None:
        self.log: list[tuple[float, str, int]] = []
        self._strategy = strategy
        self._restart = [restart for restart, _ in script]
        self._scripts = [iter(each) for _, each in script]
        self._ends: dict[int, tuple[float, bool]] = {}  # of those that run
        self._pending: list[int] = []  # who is to be started
        self._stable_since = self._delay = 0.0
        self._delays = itertools.chain(DELAYS, itertools.repeat(DELAYS[-1]))
        self._start(0.0, list(range(len(script))))
        while True:
            starts_at = self._delay if self._pending else math.inf
            number = min(self._ends, key=lambda each: self._ends[each][0], default=None)
            ends_at = math.inf if number is None else self._ends[number][0]
            if min(starts_at, ends_at) >= END:
                break
            if starts_at <= ends_at:
                members, self._pending = self._pending, []
                self._start(starts_at, members)
                self._stable_since = starts_at
            else:
                assert number is not None
                self._end(ends_at, number)
        self.living = sorted(self._ends)

    def _start(self, now: float, members: list[int]) -> None:
        for number in members:
            seconds, fails = life(number, self._scripts[number])
            self._ends[number] = now + seconds, fails
            self.log.append((now, "+", number))

    def _end(self, now: float, number: int) -> None:
        _, fails = self._ends.pop(number)
        self.log.append((now, "-", number))
        if self._restart[number] == "never" or (self._restart[number] == "on_failure" and not fails):
            return
        if not self._pending and now - self._stable_since >= STABLE:
            self._delays = itertools.chain(DELAYS, itertools.repeat(DELAYS[-1]))
        self._delay = now + next(self._delays)
        first = 0 if self._strategy == "one_for_all" else min([number, *self._pending])
        stopped = sorted((each for each in self._ends if each >= first), reverse=True)
        for each in stopped:
            del self._ends[each]
            self.log.append((now, "-", each))
        again = [each for each in stopped if self._restart[each] != "never"]
        self._pending = sorted({number, *self._pending, *again})


async def play(strategy: Strategy, script: list[tuple[Restart, Lives]]) -> None:
    log: list[tuple[float, str, int]] = []
    scripts = [iter(each) for _, each in script]

    async def child(number: int) -> None:
        log.append((trio.current_time(), "+", number))
        seconds, fails = life(number, scripts[number])
        try:
            await trio.sleep(seconds)
            if fails:
                raise OSError(number)
        finally:
            log.append((trio.current_time(), "-", number))

    with trio.CancelScope(deadline=END):
        async with open_supervisor(
            strategy, backoff=list(DELAYS), max_restarts=1000, within=1e4, stable_after=STABLE
        ) as supervisor:
            for number, (restart, _) in enumerate(script):
                supervisor.start_soon(child, number, restart=restart, name=f"{number}")
                await trio.testing.wait_all_tasks_blocked()  # Trio begins tasks in any order
            await trio.sleep_forever()
    model = Model(strategy, script)
    assert [each for each in log if each[0] < END] == model.log
    assert sorted(number for at, _, number in log if at == END) == model.living


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(strategy=st.sampled_from(["one_for_all", "rest_for_one"]), script=children)
@example(  # the first fails while the second waits: that is no end of a stable life
    strategy="rest_for_one", script=[("always", [(8.5, True)]), ("always", [(8.0, True)])]
)
def test_groups_are_restarted_as_the_model_says(strategy: Any, script: Any) -> None:
    trio.run(play, strategy, script, clock=MockClock(autojump_threshold=0))
