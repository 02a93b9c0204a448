"""One breaker in many runs, threads and processes: its clock is whichever runs it, its state is its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import trioresil
from tests._circuit_breaker import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    fail,
    fail_times,
    half_open,
    one_failure,
    open_circuit,
    rejection,
    succeed,
)
from trioresil import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, FailureRatio, SlowRatio
from trioresil.testing import Recorder

Run = Callable[[Callable[[], Awaitable[None]]], None]


def on_mock_clock(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def on_system_clock(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main)


every_clock = pytest.mark.parametrize("run", [on_mock_clock, on_system_clock])
every_rule = pytest.mark.parametrize("trip", [ConsecutiveFailures(2), FailureRatio(1.0, window=1e4, min_calls=2)])


# --- runs in turn ---------------------------------------------------------------------------------------------------


@every_clock
@every_rule
def test_what_was_counted_lives_through_three_runs(run: Run, trip: trioresil.abc.TripRule) -> None:
    breaker = CircuitBreaker(trip=trip, open_for=1000.0)

    async def one_call() -> None:
        await fail_times(breaker)

    async def rejected() -> None:
        assert (await rejection(breaker)).retry_after == pytest.approx(1000.0, abs=100)

    run(one_call)
    assert breaker.state is CLOSED
    run(one_call)
    assert breaker.state is OPEN
    run(rejected)


@every_clock
def test_the_remaining_open_time_is_kept_and_the_time_between_two_runs_is_none(run: Run) -> None:
    breaker = one_failure(open_for=1000.0)
    left: list[float] = []

    async def trip() -> None:
        await open_circuit(breaker)

    async def look() -> None:
        error = await rejection(breaker)
        assert error.retry_after is not None
        left.append(error.retry_after)

    run(trip)
    for _ in range(3):
        run(look)
        assert (breaker.state, breaker.statistics().remaining) == (OPEN, pytest.approx(left[-1], abs=100))
    assert 900 < left[2] <= left[1] + 1e-6 <= left[0] + 2e-6 <= 1000.00001  # instants are rounded when they are moved


def test_on_the_virtual_clock_it_is_exact_over_three_runs() -> None:
    breaker = one_failure(open_for=[4, 16])

    async def first() -> None:
        await trio.sleep(100)
        await open_circuit(breaker)
        await trio.sleep(1)
        await rejection(breaker)

    async def second() -> None:
        assert breaker.statistics().remaining == 3.0
        assert (await rejection(breaker)).retry_after == 3.0
        await trio.sleep(3)
        await fail_times(breaker)
        await trio.sleep(12)
        await rejection(breaker)

    async def third() -> None:
        await trio.sleep(50)  # nobody uses it: its time stands still
        assert (breaker.state, breaker.statistics().remaining) == (OPEN, 4.0)
        await breaker.wait_admittable()
        assert trio.current_time() == 54.0
        await breaker.call(succeed)
        assert (breaker.state, breaker.statistics().level) == (CLOSED, 1)

    for main in (first, second, third):
        on_mock_clock(main)
    assert repr(breaker) == "<trioresil.CircuitBreaker 'search' closed, 0/1 consecutive failures>"


@every_clock
@every_rule
def test_it_may_trip_in_its_second_run_with_many_calls_inside(run: Run, trip: trioresil.abc.TripRule) -> None:
    breaker = CircuitBreaker(trip=trip, open_for=1000.0)

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        await fail()

    async def first() -> None:
        await open_circuit(breaker)
        breaker.reset()

    async def second() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):

                @nursery.start_soon
                async def call() -> None:
                    with pytest.raises(OSError, match="the service is down"):
                        await breaker.call(work)

        assert breaker.state is OPEN

    run(first)
    run(second)
    assert breaker.statistics().opened == 2


def test_a_decorated_function_at_module_level_works_in_three_runs() -> None:
    async def main() -> None:
        assert await module_level(1) == 2
        with pytest.raises(TypeError):
            await module_level("x")  # type: ignore[arg-type]

    for _ in range(3):
        on_mock_clock(main)
    assert MODULE_BREAKER.statistics().trip == "3/5 failures in the last 6 of 10 calls"


MODULE_BREAKER = CircuitBreaker(trip=trioresil.FailuresOf(5, of=10))


@MODULE_BREAKER
async def module_level(number: int) -> int:
    return number + 1


def generator_inside(breaker: CircuitBreaker) -> Any:
    with breaker.admit() as admission:
        yield admission


def test_an_admission_left_behind_by_a_run_keeps_no_slot_and_gives_no_verdict() -> None:
    breaker = one_failure(trip=SlowRatio(1.0, slower_than=2, min_calls=1) | ConsecutiveFailures(1))
    left: list[Any] = []

    async def leave_one() -> None:
        left.append(generator_inside(breaker))
        next(left[-1])

    async def probe() -> None:
        await half_open(breaker)
        await leave_one()
        assert breaker.statistics().probes_out == 1

    async def next_run() -> None:
        await breaker.wait_admittable()
        assert (breaker.statistics().probes_out, breaker.statistics().inside) == (0, 0)
        with pytest.raises(OSError, match="late"):
            left[-1].throw(OSError("late"))

    on_mock_clock(leave_one)
    on_mock_clock(next_run)
    assert breaker.state is CLOSED
    on_mock_clock(probe)
    assert (breaker.state, breaker.statistics().inside) == (HALF_OPEN, 1)
    on_mock_clock(next_run)
    assert breaker.state is HALF_OPEN


def test_an_admission_left_behind_gives_no_verdict_as_the_first_thing_in_the_next_run_either() -> None:
    breaker = one_failure()
    left: list[Any] = []

    async def leave_one() -> None:
        left.append(generator_inside(breaker))
        next(left[-1])

    async def fail_it() -> None:
        with pytest.raises(OSError, match="late"):
            left[-1].throw(OSError("late"))

    on_mock_clock(leave_one)
    on_mock_clock(fail_it)
    assert (breaker.state, breaker.statistics().inside) == (CLOSED, 0)


@pytest.mark.parametrize("verdict", [None, "ignore", "fail", "throw"])
def test_a_generator_that_ends_after_the_run_gives_its_slot_back(verdict: str | None) -> None:
    breaker = one_failure()
    left: list[Any] = []

    async def probe() -> None:
        await half_open(breaker)
        left.append(generator_inside(breaker))
        admission = next(left[-1])
        if verdict in ("ignore", "fail"):
            getattr(admission, verdict)()

    on_mock_clock(probe)
    if verdict == "throw":
        with pytest.raises(OSError, match="late"):
            left[0].throw(OSError("late"))
    else:
        left[0].close()
    assert breaker.statistics().probes_out == 0
    assert breaker.state is (OPEN if verdict in ("fail", "throw") else HALF_OPEN)


def test_an_async_generator_that_a_run_leaves_behind_keeps_no_slot() -> None:
    breaker = one_failure()

    async def stream() -> Any:
        async with breaker:
            yield 1

    async def probe() -> None:
        await half_open(breaker)
        streams.append(stream())
        await anext(streams[-1])
        assert breaker.statistics().probes_out == 1

    streams: list[Any] = []
    on_mock_clock(probe)
    assert (breaker.statistics().probes_out, breaker.statistics().inside) == (0, 0)

    async def next_run() -> None:
        await breaker.call(succeed)

    on_mock_clock(next_run)
    assert breaker.state is CLOSED


def test_a_block_that_was_never_left_is_forgotten_in_the_next_run() -> None:
    breaker = one_failure()

    async def enter() -> None:
        await half_open(breaker)
        await breaker.__aenter__()

    async def use() -> None:
        async with breaker:
            assert breaker.statistics().inside == 1
        await breaker.__aexit__(None, None, None)

    on_mock_clock(enter)
    assert breaker.statistics().inside == 1
    on_mock_clock(use)
    assert (breaker.state, breaker.statistics().inside) == (CLOSED, 0)


# --- outside of a run -----------------------------------------------------------------------------------------------


def test_outside_of_a_run_it_can_be_looked_at_and_reset() -> None:
    breaker = one_failure()
    assert (breaker.state, breaker.snapshot()["state"]) == (CLOSED, "closed")

    async def trip() -> None:
        await trio.sleep(77)
        await open_circuit(breaker)
        await trio.sleep(2)
        await rejection(breaker)
        await trio.sleep(1)

    on_mock_clock(trip)
    assert (breaker.state, breaker.statistics().remaining) == (OPEN, 6.0)  # as of its last use
    assert repr(breaker) == "<trioresil.CircuitBreaker 'search' open, next probe in 6 s>"
    assert breaker.snapshot()["remaining"] == 6.0
    recorder = Recorder()
    with trioresil.instrument(recorder):
        breaker.reset()
    assert breaker.state is CLOSED
    assert recorder.events == [trioresil.CircuitClosed(policy=breaker, by_hand=True)]
    on_mock_clock(trip)
    breaker.reset()  # nobody listens: it is logged
    assert breaker.state is CLOSED


def test_outside_of_a_run_nothing_else_is_done() -> None:
    breaker = one_failure()
    with pytest.raises(RuntimeError, match="trio"):
        breaker.open(5)
    with pytest.raises(RuntimeError, match="trio"):
        with breaker.admit():
            pytest.fail("it was let in")
    assert (breaker.state, breaker.statistics().inside) == (CLOSED, 0)


# --- threads --------------------------------------------------------------------------------------------------------


def in_thread_while_inside(breaker: CircuitBreaker, stay: Callable[[], Awaitable[None]], other: Any) -> list[Any]:
    """Run `other` in a trio.run of a second thread while `stay` has begun in this one; return what came of it."""
    begun, done = threading.Event(), threading.Event()
    results: list[Any] = []

    def second() -> None:
        assert begun.wait(30)
        try:
            results.append(trio.run(other))
        except BaseException as exc:
            results.append(exc)
        finally:
            done.set()

    async def first() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay)
            await trio.testing.wait_all_tasks_blocked()
            begun.set()
            with trio.fail_after(30):
                await trio.to_thread.run_sync(done.wait, 30)
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=second)
    thread.start()
    trio.run(first)
    thread.join(30)
    assert not thread.is_alive()
    return results


@pytest.mark.parametrize("form", ["call", "block", "admit", "wait"])
def test_a_second_thread_is_refused_while_somebody_is_inside_and_welcome_afterwards(form: str) -> None:
    breaker = CircuitBreaker(trip=FailureRatio(0.5), name="search", open_for=1000.0)

    async def stay() -> None:
        if form == "call":
            await breaker.call(trio.sleep_forever)
        elif form == "block":
            async with breaker:
                await trio.sleep_forever()
        elif form == "admit":
            with breaker.admit():
                await trio.sleep_forever()
        else:
            breaker.open(1000)
            await breaker.wait_admittable()

    async def other() -> str:
        await breaker.call(succeed)
        return "welcome"

    [refused] = in_thread_while_inside(breaker, stay, other)
    assert type(refused) is RuntimeError
    assert "'search' is in use in another trio.run" in str(refused)
    breaker.reset()
    assert trio.run(other) == "welcome"


@pytest.mark.parametrize("method", ["reset", "open"])
def test_a_second_thread_is_refused_by_what_is_done_by_hand_too(method: str) -> None:
    breaker = CircuitBreaker(trip=FailureRatio(0.5))

    async def stay() -> None:
        await breaker.call(trio.sleep_forever)

    async def other() -> None:
        getattr(breaker, method)(*((5,) if method == "open" else ()))

    [refused] = in_thread_while_inside(breaker, stay, other)
    assert "is in use in another trio.run" in str(refused)
    assert breaker.state is CLOSED


def test_a_second_thread_is_welcome_while_nobody_is_inside() -> None:
    breaker = one_failure(open_for=1000.0)

    async def stay() -> None:
        await open_circuit(breaker)
        await trio.sleep_forever()

    async def other() -> float | None:
        return (await rejection(breaker)).retry_after

    [left] = in_thread_while_inside(breaker, stay, other)
    assert left == pytest.approx(1000.0, abs=60)


# --- snapshots ------------------------------------------------------------------------------------------------------


def through_json(snapshot: dict[str, Any]) -> dict[str, Any]:
    again = json.loads(json.dumps(snapshot, allow_nan=False))
    assert again == snapshot
    return dict(again)


SETTINGS: dict[str, Any] = {"trip": ConsecutiveFailures(1), "open_for": [4, 16, 64]}


async def test_restored_it_goes_on_with_the_remaining_open_time_and_its_level(autojump_clock: Any) -> None:
    breaker = await half_open(CircuitBreaker(**SETTINGS))
    await fail_times(breaker)
    await trio.sleep(5)
    snapshot = through_json(breaker.snapshot())
    assert snapshot == {"state": "open", "level": 1, "open_for": 16.0, "remaining": 11.0, "closed_for": 0.0}
    again = CircuitBreaker.restore(snapshot, **SETTINGS)
    assert (again.state, again.statistics().remaining, again.statistics().level) == (OPEN, 11.0, 1)
    await trio.sleep(1)
    assert (await rejection(again)).retry_after == 10.0  # it goes on from the restoration, not from the first use
    await again.wait_admittable()
    await fail_times(again)
    assert again.statistics().remaining == 64.0


async def test_restored_half_open_it_lets_a_probe_in_at_once(autojump_clock: Any) -> None:
    breaker = await half_open(CircuitBreaker(**SETTINGS))
    with breaker.admit():
        snapshot = through_json(breaker.snapshot())
    again = CircuitBreaker.restore(snapshot, **SETTINGS)
    assert (snapshot["state"], again.state, again.statistics().probes_out) == ("half-open", HALF_OPEN, 0)
    await again.call(succeed)
    assert again.state is CLOSED


async def test_restored_closed_its_level_goes_on_to_shrink(autojump_clock: Any) -> None:
    breaker = await half_open(CircuitBreaker(**SETTINGS))
    for _ in range(2):
        await fail_times(breaker)
        await breaker.wait_admittable()
    await breaker.call(succeed)
    await trio.sleep(100)
    snapshot = through_json(breaker.snapshot())
    assert snapshot == {"state": "closed", "level": 2, "open_for": 64.0, "remaining": 0.0, "closed_for": 100.0}
    again = CircuitBreaker.restore(snapshot, **SETTINGS)
    await trio.sleep(27)
    await fail_times(again)
    assert again.statistics().level == 1
    once_more = CircuitBreaker.restore(snapshot, **SETTINGS)
    await trio.sleep(28)
    await fail_times(once_more)
    assert once_more.statistics().level == 0


async def test_an_endless_open_time_and_isolation_in_a_snapshot(autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure(open_for=math.inf))
    with breaker.isolated():
        snapshot = through_json(breaker.snapshot())
    assert snapshot == {"state": "open", "level": 0, "open_for": None, "remaining": None, "closed_for": 0.0}
    again = CircuitBreaker.restore(snapshot, trip=ConsecutiveFailures(1))
    assert (again.state, again.statistics().remaining, again.statistics().isolations) == (OPEN, math.inf, 0)
    assert again.snapshot() == snapshot


def test_a_snapshot_goes_from_one_run_to_another() -> None:
    taken: list[dict[str, Any]] = []

    async def first() -> None:
        await trio.sleep(123)
        breaker = await open_circuit(CircuitBreaker(**SETTINGS))
        await trio.sleep(1)
        taken.append(through_json(breaker.snapshot()))

    async def second() -> None:
        again = restored[0]
        await trio.sleep(50)
        assert again.statistics().remaining == 3.0
        assert (await rejection(again)).retry_after == 3.0
        await again.wait_admittable()
        assert trio.current_time() == 53.0

    on_mock_clock(first)
    restored = [CircuitBreaker.restore(taken[0], **SETTINGS)]
    assert restored[0].state is OPEN
    on_mock_clock(second)


def test_a_snapshot_goes_from_one_process_to_another() -> None:
    program = """
import json, sys, trio, trio.testing, trioresil
snapshot = json.load(sys.stdin)
breaker = trioresil.CircuitBreaker.restore(snapshot, open_for=[4, 16])
async def main():
    await trio.sleep(1)
    try:
        await breaker.call(trio.sleep, 0)
    except trioresil.CircuitOpenError as exc:
        print(json.dumps([exc.retry_after, breaker.statistics().level]))
trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
"""
    snapshot = {"state": "open", "level": 1, "open_for": 16.0, "remaining": 11.5, "closed_for": 0.0}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(snapshot),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == [11.5, 1]


GOOD = {"state": "closed", "level": 0, "open_for": 0.0, "remaining": 0.0, "closed_for": 3.0}


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        {"state": "closed"},
        {**GOOD, "state": "ajar"},
        {**GOOD, "state": "isolated"},
        {**GOOD, "level": 1.5},
        {**GOOD, "level": -1},
        {**GOOD, "level": None},
        {**GOOD, "level": True},
        {**GOOD, "closed_for": None},
        {**GOOD, "open_for": "4"},
        {**GOOD, "remaining": -1.0},
        {**GOOD, "remaining": math.nan},
        {**GOOD, "remaining": math.inf},
    ],
)
def test_a_snapshot_of_another_form_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"snapshot must be what CircuitBreaker.snapshot\(\) returned, not "):
        CircuitBreaker.restore(wrong)


def test_restoring_takes_the_configuration_of_the_constructor() -> None:
    breaker = CircuitBreaker.restore(GOOD, name="search", enforce=False)
    assert (breaker.name, breaker.enforce, breaker.state) == ("search", False, CLOSED)
    with pytest.raises(TypeError):
        CircuitBreaker.restore(GOOD, nonsense=1)

    async def still_closed() -> None:
        assert await breaker.call(succeed, 1) == 1
        with pytest.raises(CircuitOpenError):
            raise CircuitOpenError("search")

    on_mock_clock(still_closed)
