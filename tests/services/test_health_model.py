"""A health monitor against an exact model: random services, and random use of the monitor, in one run each."""

from __future__ import annotations

import functools
import math
from typing import Any

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.kernel.test_health import expected
from tests.services._health import at_once
from trioresil import CircuitBreaker, HealthState, open_health_monitor

UNIT = 1 / 4096  # what is done by hand is done so much beside the instants of checks
INTERVAL, TIMEOUT, SLOW = 8.0, 2.0, 0.75
prove = settings(derandomize=True, database=None, deadline=None, max_examples=150)


@attrs.define
class Course:
    """What one check must do, from the answers that its service gives: (instant, seconds, passes), newest last."""

    began_at: float
    rise: int
    fall: int
    answers: list[tuple[float, float, bool]]
    row: str = ""
    state: HealthState = HealthState.UNKNOWN
    since: float = 0.0
    starts: list[float] = attrs.Factory(list)
    changes: list[tuple[float, HealthState]] = attrs.Factory(list)
    next_at: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.since = self.next_at = self.began_at

    def run_until(self, now: float) -> None:
        """Do everything that ends before an instant."""
        while True:
            start = self.next_at
            _, takes, passes = next(each for each in reversed(self.answers) if each[0] <= start)
            end = start + min(takes, TIMEOUT)
            if end >= now:
                return
            self.starts.append(start)
            failed = takes > TIMEOUT or not passes
            self.row += "f" if failed else "s" if takes > SLOW else "q"
            before = self.state
            self.state = expected(self.row, before, self.rise, self.fall)
            if self.state is not before:
                self.since = end
                self.changes.append((end, self.state))
            self.next_at = max(end, start + (INTERVAL / 4 if self.is_unsure() else INTERVAL))

    def run_length(self) -> int:
        last = self.row[-1:]
        alike = "f" if last == "f" else "qs"
        return len(self.row) - len(self.row.rstrip(alike)) if self.row else 0

    def is_unsure(self) -> bool:
        speaks_for = {"q": HealthState.HEALTHY, "s": HealthState.DEGRADED, "f": HealthState.UNHEALTHY}[self.row[-1]]
        threshold = self.fall if self.row[-1] == "f" else self.rise
        return self.run_length() < threshold or speaks_for is not self.state


class Interpreter:
    """Does everything twice: to a monitor, and to the model."""

    def __init__(self, health: Any) -> None:
        self.health = health
        self.breaker = CircuitBreaker()
        self.answers: dict[str, list[tuple[float, float, bool]]] = {name: [(-1.0, 0.0, True)] for name in "abc"}
        self.courses: dict[str, Course] = {}
        self.past: list[tuple[str, Course]] = []
        self.seen_starts: dict[int, list[float]] = {}

    async def serve(self, name: str, starts: list[float]) -> None:
        starts.append(trio.current_time())
        _, takes, passes = self.answers[name][-1]
        await trio.sleep(takes)
        if not passes:
            raise OSError

    async def do(self, operation: tuple[Any, ...]) -> None:
        match operation:
            case ("watch", name, rise, fall) if name not in self.courses:
                course = Course(trio.current_time(), rise, fall, self.answers[name])
                self.courses[name] = course
                starts = self.seen_starts[id(course)] = []
                check = functools.partial(self.serve, name, starts)
                self.health.watch(name, check, rise=rise, fall=fall, degraded_above=SLOW, breaker=self.breaker)
            case ("unwatch", name) if name in self.courses:
                self.courses[name].run_until(trio.current_time())
                self.health.unwatch(name)
                self.past.append((name, self.courses.pop(name)))
            case ("answer", name, takes, passes):
                self.answers[name].append((trio.current_time(), takes, passes))
            case ("wait", seconds):
                await trio.sleep(seconds)
        self.compare()

    def compare(self) -> None:
        now = trio.current_time()
        assert list(self.health) == list(self.courses)
        for name, course in self.courses.items():
            course.run_until(now)
            status = self.health[name]
            assert (status.state, status.since) == (course.state, course.since)
            assert status.consecutive == course.run_length()
            assert status.healthy == course.state.is_healthy
            starts = self.seen_starts[id(course)]
            assert starts[: len(course.starts)] == course.starts
            assert len(starts) <= len(course.starts) + 1
        sick = sum(each.state is HealthState.UNHEALTHY for each in self.courses.values())
        assert self.breaker.statistics().isolations == sick
        assert self.health.healthy == all(each.state.is_healthy for each in self.courses.values())


names = st.sampled_from("aabc")
operations = st.one_of(
    st.tuples(st.just("watch"), names, st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.just("unwatch"), names),
    st.tuples(st.just("answer"), names, st.sampled_from([0.0, 0.5, 1.0, 1.5, math.inf]), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 2.0, 4.0, 8.0, 16.0, 64.0])),
)


@prove
@given(st.lists(operations, min_size=1, max_size=40))
def test_the_monitor_is_its_model(todo: list[tuple[Any, ...]]) -> None:
    async def main() -> None:
        async with open_health_monitor(interval=INTERVAL, timeout=TIMEOUT, rng=at_once()) as health:
            changes = health.subscribe(buffer=10_000)
            interpreter = Interpreter(health)
            for name in "abc":  # so that each begins at once, and chance is then in the middle
                health._options._rng = at_once()
                await interpreter.do(("watch", name, 2, 2))
            await trio.sleep(UNIT)
            for operation in todo:
                health._options._rng = at_once() if operation[0] == "watch" else health._options._rng
                await interpreter.do(operation)
                await trio.sleep(UNIT)
            await trio.sleep(30)
            interpreter.compare()
        seen = [(each.status.since, each.name, each.status.state) async for each in changes]
        courses = [*interpreter.past, *interpreter.courses.items()]
        told = [(at, name, state) for name, course in courses for at, state in course.changes]
        assert sorted(seen, key=str) == sorted(told, key=str)
        assert interpreter.breaker.statistics().isolations == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
