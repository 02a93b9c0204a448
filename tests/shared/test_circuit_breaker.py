"""SharedCircuitBreaker over an engine in memory: exact on the virtual clock. Several objects stand for several processes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioresil
from trioresil import (
    CircuitIsolatedError,
    CircuitOpenError,
    CircuitState,
    ConsecutiveFailures,
    FailureRatio,
    FailuresOf,
    Pipeline,
    SharedStateError,
    SharedStateUnavailableError,
    SlowRatio,
)
from trioresil.redis import FailClosed, FailLocal, FailOpen, MemoryEngine, ScriptRefusedError, SharedCircuitBreaker
from trioresil.testing import Recorder, Sweep, cancellation_sweep

KEY = "trioresil:{api}:circuit"
EVERY = 0.1
OPEN_FOR = 10.0


def breaker(engine: MemoryEngine, **options: Any) -> SharedCircuitBreaker:
    options = {"trip": ConsecutiveFailures(3), "open_for": OPEN_FOR, "on_unavailable": FailClosed(), **options}
    return SharedCircuitBreaker(engine, options.pop("name", "api"), **options)


async def good() -> str:
    return "good"


async def bad() -> None:
    raise OSError("bad")


async def fail(circuit: SharedCircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with contextlib.suppress(OSError):
            await circuit.call(bad)


async def succeed(circuit: SharedCircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        await circuit.call(good)


async def opened(engine: MemoryEngine, **options: Any) -> tuple[SharedCircuitBreaker, SharedCircuitBreaker]:
    """Two processes that know of an open circuit."""
    here, there = breaker(engine, **options), breaker(engine, **options)
    await succeed(there)
    await fail(here, 3)
    await wait_all_tasks_blocked()
    assert here.state is there.state is CircuitState.OPEN
    return here, there


# --- one verdict --------------------------------------------------------------------------------------------------------------


async def test_one_process_alone_opens_it_at_once_for_all(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = breaker(engine), breaker(engine)
        await succeed(there)
        await fail(here, 2)
        await wait_all_tasks_blocked()
        assert here.state is CircuitState.CLOSED
        await fail(here)
        await wait_all_tasks_blocked()
        assert trio.current_time() == 0
        for circuit in (here, there):
            with pytest.raises(CircuitOpenError) as caught:
                await circuit.call(good)
            assert caught.value.retry_after == OPEN_FOR
            assert caught.value.started is False
            assert circuit.statistics().opened == 1


async def test_failures_of_several_processes_open_it_together(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        processes = [breaker(engine) for _ in range(3)]
        for circuit in processes:
            await fail(circuit)
        assert all(circuit.state is CircuitState.CLOSED for circuit in processes)
        await trio.sleep(EVERY + 0.001)
        assert all(circuit.state is CircuitState.OPEN for circuit in processes)


async def test_a_success_in_another_process_breaks_the_row(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = breaker(engine), breaker(engine)
        await fail(here, 2)
        await trio.sleep(2 * EVERY)
        await succeed(there)
        await trio.sleep(2 * EVERY)
        await fail(here, 2)
        await trio.sleep(2 * EVERY)
        assert here.state is CircuitState.CLOSED
        await fail(there)
        await trio.sleep(2 * EVERY)
        assert here.state is CircuitState.OPEN


@pytest.mark.parametrize(
    ("trip", "first", "second"),
    [
        (FailuresOf(2, of=4), "bgg", "b"),
        (FailureRatio(0.5, window=30, min_calls=4), "bg", "gb"),
        (ConsecutiveFailures(9) | FailureRatio(0.5, window=30, min_calls=4), "bg", "gb"),
    ],
)
async def test_each_rule_counts_over_all_processes(
    trip: trioresil.abc.TripRule, first: str, second: str, autojump_clock: MockClock
) -> None:
    async with MemoryEngine() as engine:
        here, there = breaker(engine, trip=trip), breaker(engine, trip=trip)
        for circuit, outcomes in ((here, first), (there, second[:-1])):
            for each in outcomes:
                await (fail if each == "b" else succeed)(circuit)
            await trio.sleep(2 * EVERY)
        assert here.state is CircuitState.CLOSED
        await (fail if second[-1] == "b" else succeed)(there)
        await trio.sleep(2 * EVERY)
        assert here.state is there.state is CircuitState.OPEN


async def test_slow_calls_of_all_processes_open_it(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        trip = SlowRatio(0.5, slower_than=1, min_calls=2)
        here, there = breaker(engine, trip=trip), breaker(engine, trip=trip)
        await succeed(here)
        await there.call(trio.sleep, 1.5)
        await trio.sleep(2 * EVERY)
        assert here.state is CircuitState.OPEN


async def test_old_outcomes_are_forgotten(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        trip = FailureRatio(0.5, window=10, min_calls=2)
        here, there = breaker(engine, trip=trip), breaker(engine, trip=trip)
        await fail(here)
        await trio.sleep(10.5)
        await fail(there)
        await trio.sleep(1)
        assert here.state is CircuitState.CLOSED
        await fail(here)
        await trio.sleep(1)
        assert here.state is CircuitState.OPEN


async def test_closed_it_asks_nobody(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        circuit = breaker(engine)
        await succeed(circuit)
        await trio.sleep(1)
        before = engine.statistics().evaluations
        await succeed(circuit, 1000)
        assert engine.statistics().evaluations == before
        assert circuit.statistics().unreported == 1000
        await trio.sleep(1)
        assert engine.statistics().evaluations == before + 1
        assert circuit.statistics().unreported == 0
        await trio.sleep(100)
        assert engine.statistics().evaluations == before + 1


async def test_many_different_outcomes_are_told_before_they_are_too_many(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        circuit = breaker(engine, trip=ConsecutiveFailures(3))
        await succeed(circuit)
        for _ in range(1100):
            await fail(circuit)
            await succeed(circuit)
            await trio.lowlevel.checkpoint()
        assert len(circuit._runs) <= 1100


async def test_a_call_from_before_the_opening_says_nothing_after_it(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = breaker(engine, open_for=1.0), breaker(engine, open_for=1.0)
        await succeed(here)
        async with trio.open_nursery() as nursery:

            async def late() -> None:
                await trio.sleep(1.5)
                raise OSError("late")

            async def call_late() -> None:
                with pytest.raises(OSError, match="late"):
                    await here.call(late)

            for _ in range(5):
                nursery.start_soon(call_late)
            await trio.sleep(0.1)
            await fail(there, 3)
            await trio.sleep(1.1)
            await succeed(there)  # the probe
            await wait_all_tasks_blocked()
            assert here.state is CircuitState.CLOSED
        await trio.sleep(1)
        assert here.state is CircuitState.CLOSED


async def test_a_report_of_an_earlier_epoch_is_dropped_by_the_server(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = breaker(engine), breaker(engine)
        await succeed(here)
        await trio.sleep(1)
        stale = here._epoch
        await fail(there, 3)
        await wait_all_tasks_blocked()
        there.reset()
        await wait_all_tasks_blocked()
        assert there.state is CircuitState.CLOSED
        await here._tell("report", stale, 1, 3)
        assert here.state is CircuitState.CLOSED
        await here._tell("report", here._epoch, 1, 3)
        assert here.state is CircuitState.OPEN


async def test_verdicts_of_calls_from_before_count_neither_for_it_nor_against_it(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        circuit = breaker(engine)
        await succeed(circuit)

        async def good_later() -> None:
            await trio.sleep(1)

        async def block(fails: bool) -> None:
            with contextlib.suppress(OSError):
                async with circuit:
                    await trio.sleep(2)
                    if fails:
                        raise OSError("late")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(circuit.call, good_later)
            for _ in range(3):
                nursery.start_soon(block, True)
            await trio.sleep(0.5)
            circuit.reset()
            await wait_all_tasks_blocked()
            await fail(circuit, 2)
            await trio.sleep(1)
            assert circuit.state is CircuitState.CLOSED
            await fail(circuit)
            await wait_all_tasks_blocked()
            assert circuit.state is CircuitState.OPEN  # the success did not break the row
            circuit.reset()
        await trio.sleep(1)
        assert circuit.state is CircuitState.CLOSED  # and the failures did not make one


async def test_what_was_not_told_yet_is_dropped_when_the_circuit_moves_on(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = breaker(engine), breaker(engine)
        await succeed(here)
        await succeed(there)
        await trio.sleep(1)
        await fail(here, 2)
        assert here.statistics().unreported == 2
        there.reset()
        await wait_all_tasks_blocked()
        assert here.statistics().unreported == 0
        await trio.sleep(1)
        before = engine.statistics().evaluations
        await fail(here)
        await wait_all_tasks_blocked()
        assert engine.statistics().evaluations == before  # one failure alone is in no hurry
        await trio.sleep(1)
        assert here.state is CircuitState.CLOSED


async def test_a_process_that_ends_tells_what_it_has_seen_last(autojump_clock: MockClock) -> None:
    async with MemoryEngine(latency=0.01) as engine:
        circuit = breaker(engine, trip=ConsecutiveFailures(4))
        await succeed(circuit)
        await trio.sleep(1)
        await fail(circuit, 2)
        before = engine.statistics().evaluations
    assert engine.statistics().evaluations == before + 1
    assert circuit.statistics().unreported == 0


async def test_the_event_tells_whose_failure_it_was(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with MemoryEngine() as engine:
            here, there = await opened(engine)
            await trio.sleep(OPEN_FOR)
            await fail(there)
            await wait_all_tasks_blocked()
            there.open(100)
            await wait_all_tasks_blocked()
    events = [each for each in recorder.events if isinstance(each, trioresil.CircuitOpened)]
    told = {(each.policy is here, repr(each.error), each.by_hand, each.elsewhere) for each in events}
    assert told == {
        (True, "OSError('bad')", False, False),
        (False, "None", False, True),
        (False, "OSError('bad')", False, False),
        (True, "None", False, True),
        (True, "None", True, False),
        (False, "None", True, False),
    }


async def test_who_waits_until_it_may_be_let_in_hears_of_a_reset(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = await opened(engine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.wait_admittable)
            await trio.sleep(1)
            there.reset()
        assert trio.current_time() == 1


# --- one probe ----------------------------------------------------------------------------------------------------------------


async def test_there_is_one_probe_in_the_whole_fleet(autojump_clock: MockClock) -> None:
    probes = refused = 0
    retry_after: set[float | None] = set()

    async def probe() -> None:
        nonlocal probes
        probes += 1
        await trio.sleep(1)

    async def come(circuit: SharedCircuitBreaker) -> None:
        nonlocal refused
        try:
            await circuit.call(probe)
        except CircuitOpenError as exc:
            retry_after.add(exc.retry_after)
            refused += 1

    async with MemoryEngine(latency=0.001) as engine:
        processes = [*await opened(engine), breaker(engine), breaker(engine)]
        await trio.sleep(OPEN_FOR + 0.01)
        before = engine.statistics().evaluations
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(come, processes[number % 4])
        assert (probes, refused) == (1, 199)
        assert retry_after == {None}
        assert engine.statistics().evaluations - before <= 12  # not one for each
        await wait_all_tasks_blocked()
        assert all(circuit.state is CircuitState.CLOSED for circuit in processes)


async def test_a_failed_probe_opens_it_for_longer_in_all_processes(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = await opened(engine, open_for=[1, 5])
        await trio.sleep(1)
        await fail(there)
        await wait_all_tasks_blocked()
        for circuit in (here, there):
            with pytest.raises(CircuitOpenError) as caught:
                await circuit.call(good)
            assert caught.value.retry_after == 5
            assert circuit.statistics().level == 1


async def test_it_closes_after_as_many_successes_as_are_wanted(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = await opened(engine, probes=2, successes_to_close=3)
        await trio.sleep(OPEN_FOR)
        for circuit, state in ((here, "half-open"), (there, "half-open"), (here, "closed")):
            await succeed(circuit)
            await wait_all_tasks_blocked()
            assert there.state.value == state


async def test_a_cancelled_probe_gives_its_slot_back_without_a_verdict(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = await opened(engine)
        await trio.sleep(OPEN_FOR)
        with trio.move_on_after(1):
            await here.call(trio.sleep_forever)
        await wait_all_tasks_blocked()
        assert there.state is CircuitState.HALF_OPEN
        await succeed(there)
        await wait_all_tasks_blocked()
        assert here.state is CircuitState.CLOSED


async def test_the_probe_of_a_process_that_died_is_replaced_once_its_lease_ends(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = await opened(engine, probe_lease=5)
        await trio.sleep(OPEN_FOR)
        assert await here._eval("admit", "dead.1")
        began_at = trio.current_time()
        with pytest.raises(CircuitOpenError):
            await there.call(good)
        with trio.fail_after(5.01):
            await there.wait_admittable()
        assert trio.current_time() - began_at == pytest.approx(5)
        await here._tell("judge", "dead.1", "failed")
        async with there.admit(), trio.open_nursery() as nursery:
            nursery.start_soon(_expect_open, here)
        await wait_all_tasks_blocked()
        assert here.state is CircuitState.CLOSED
        await here._tell("judge", "dead.1", "failed")
        assert here.state is CircuitState.CLOSED


async def _expect_open(circuit: SharedCircuitBreaker) -> None:
    with pytest.raises(CircuitOpenError):
        await circuit.call(good)


@pytest.mark.parametrize("latency", [0.0, 0.01])
@pytest.mark.parametrize("form", ["call", "block", "admit"])
def test_cancelled_at_any_moment_no_probe_is_lost(form: str, latency: float) -> None:
    async def use(circuit: SharedCircuitBreaker) -> None:
        if form == "call":
            await circuit.call(trio.sleep, 1)
        elif form == "block":
            async with circuit:
                await trio.sleep(1)
        else:
            async with circuit.admit():
                await trio.sleep(1)

    async def scenario(sweep: Sweep) -> None:
        async with MemoryEngine(latency=latency) as engine:
            here, there = breaker(engine), breaker(engine)
            await fail(here, 3)
            await trio.sleep(OPEN_FOR + 1)
            with sweep.victim():
                await use(here)
            await trio.sleep(0.1)
            await use(there)
            await trio.sleep(0.1)
            assert here.state is there.state is CircuitState.CLOSED
            assert here.statistics().inside == 0

    assert cancellation_sweep(scenario).cancelled > 1


# --- messages -----------------------------------------------------------------------------------------------------------------


async def test_what_was_missed_is_asked_for_when_the_subscription_begins_anew(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = breaker(engine), breaker(engine)
        await succeed(there)
        await wait_all_tasks_blocked()
        subscriptions, engine._subscriptions = engine._subscriptions, type(engine._subscriptions)(list)
        await fail(here, 3)
        await wait_all_tasks_blocked()
        engine._subscriptions = subscriptions
        assert there.state is CircuitState.CLOSED
        there._hear(None)
        await wait_all_tasks_blocked()
        assert there.state is CircuitState.OPEN


async def test_a_process_that_missed_a_message_learns_of_it_from_its_next_report(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = breaker(engine), breaker(engine)
        await succeed(there)
        await trio.sleep(1)
        engine._subscriptions.clear()
        await fail(here, 3)
        await succeed(there)
        await trio.sleep(2 * EVERY)
        assert there.state is CircuitState.OPEN


async def test_what_was_said_earlier_and_comes_later_changes_nothing(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = breaker(engine), breaker(engine)
        await succeed(there)
        old = there._told
        assert old is not None
        await fail(here, 3)
        await wait_all_tasks_blocked()
        there._learn(old)
        assert there.state is CircuitState.OPEN
        await trio.sleep(OPEN_FOR)
        assert await here._eval("admit", "me")
        refused = here._told
        await here._tell("judge", "me", "none")
        await wait_all_tasks_blocked()
        assert refused is not None
        there._learn(refused)  # its probe's slot is free again
        await succeed(there)


# --- by hand ------------------------------------------------------------------------------------------------------------------


async def test_opening_and_resetting_by_hand_is_for_all(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with MemoryEngine() as engine:
            here, there = breaker(engine), breaker(engine)
            await succeed(here)
            await succeed(there)
            here.open(60)
            await wait_all_tasks_blocked()
            assert there.state is CircuitState.OPEN
            here.open(5)  # never shorter
            await wait_all_tasks_blocked()
            assert there.statistics().remaining == 60
            there.reset()
            await wait_all_tasks_blocked()
            assert here.state is CircuitState.CLOSED
            await succeed(here)
    told = [(type(each).__name__, each.by_hand) for each in recorder.events if hasattr(each, "by_hand")]
    assert told == [("CircuitOpened", True)] * 2 + [("CircuitClosed", True)] * 2


async def test_isolation_is_for_this_process(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = breaker(engine), breaker(engine)
        await succeed(here)
        isolation = here.isolate()
        with here.isolated():
            with pytest.raises(CircuitIsolatedError):
                await here.call(good)
            await succeed(there)
        assert here.state is CircuitState.ISOLATED
        isolation.release()
        isolation.release()
        assert here.state is CircuitState.CLOSED
        await succeed(here)


async def test_not_enforced_it_lets_pass_and_says_what_it_would_do(autojump_clock: MockClock) -> None:
    recorder = Recorder()
    async with MemoryEngine() as engine:
        here, _ = await opened(engine)
        here.enforce = False
        with trioresil.instrument(recorder):
            await succeed(here)
        rejected = [each for each in recorder.events if type(each).__name__ == "CallRejected"]
        assert [each.enforced for each in rejected] == [False]
        assert "not enforced" in repr(here)


# --- verdicts and forms -------------------------------------------------------------------------------------------------------


async def test_forms(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        circuit = breaker(engine, trip=ConsecutiveFailures(1), on=OSError, on_result=lambda result: result == "worse")

        @circuit
        async def echo(word: str) -> str:
            return word

        assert await echo("fine") == "fine"
        assert await Pipeline(trioresil.Timeout(1), circuit).call(good) == "good"
        with pytest.raises(LookupError):  # not matched by `on`: the other side has answered
            async with circuit:
                raise LookupError
        async with circuit.admit() as admission:
            admission.ignore()
        await wait_all_tasks_blocked()
        assert circuit.state is CircuitState.CLOSED

        async def by_result() -> None:
            await echo("worse")

        async def by_block() -> None:
            async with circuit:
                raise OSError

        async def by_hand() -> None:
            async with circuit.admit() as admission:
                admission.fail()

        for failing in (by_result, by_block, by_hand):
            with contextlib.suppress(OSError):
                await failing()
            await wait_all_tasks_blocked()
            assert circuit.state is CircuitState.OPEN
            await trio.sleep(OPEN_FOR)
            with contextlib.suppress(OSError):
                await failing()  # as a probe
            await wait_all_tasks_blocked()
            assert circuit.state is CircuitState.OPEN
            circuit.reset()
            await wait_all_tasks_blocked()
        assert circuit.statistics().inside == 0


async def test_misuse_is_named(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        circuit = breaker(engine)
        admission = circuit.admit()
        with pytest.raises(RuntimeError, match="belong inside"):
            admission.fail()
        async with admission:
            pass
        with pytest.raises(RuntimeError, match="for one block"):
            async with admission:
                pass
        with pytest.raises(RuntimeError, match="in the task that entered it"):
            await circuit.__aexit__(None, None, None)


# --- the server is away -------------------------------------------------------------------------------------------------------


async def test_fail_closed_refuses(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        circuit = breaker(engine)
        await succeed(circuit)
        engine.kill()
        with pytest.raises(SharedStateUnavailableError):
            await circuit.call(good)
        engine.resume()
        await succeed(circuit)
        assert circuit.statistics().unavailable == 1


async def test_fail_open_lets_all_pass(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        circuit = breaker(engine, on_unavailable=FailOpen())
        engine.kill()
        await fail(circuit, 10)
        await succeed(circuit)
        assert circuit.statistics().unavailable == 11


@pytest.mark.parametrize("was_open", [False, True])
async def test_fail_local_goes_by_a_circuit_of_its_own(was_open: bool, autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        circuit = breaker(engine, on_unavailable=FailLocal())
        await fail(circuit, 3 if was_open else 2)
        await wait_all_tasks_blocked()
        engine.kill()
        if not was_open:
            await fail(circuit, 3)
        with pytest.raises(CircuitOpenError) as caught:
            await circuit.call(good)
        assert caught.value.retry_after == OPEN_FOR
        await trio.sleep(OPEN_FOR)
        await succeed(circuit, 2)
        engine.resume()
        await trio.sleep(1)
        await succeed(circuit)


async def test_a_server_that_lost_its_memory_begins_closed(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = await opened(engine)
        await trio.sleep(1)
        engine.kill()
        engine.flush()
        engine.resume()
        await trio.sleep(0.1)
        await succeed(here)
        await succeed(there)
        await fail(here, 3)
        await wait_all_tasks_blocked()
        assert there.state is CircuitState.OPEN


async def test_back_again_it_believes_nothing_from_before(autojump_clock: MockClock) -> None:
    async with MemoryEngine(latency=0.01) as engine:
        here = breaker(engine)
        await succeed(here)
        await fail(here, 3)
        await trio.sleep(1)
        engine.kill()
        engine.flush()
        engine.resume()
        await wait_all_tasks_blocked(0)
        await succeed(here)
        assert trio.current_time() < 1.1


@pytest.mark.parametrize("outage", [True, False])
async def test_a_server_that_forgot_and_whose_clock_is_behind_is_believed(
    outage: bool, autojump_clock: MockClock
) -> None:
    recorder = Recorder()
    async with MemoryEngine(latency=0.001) as engine:
        here, there = breaker(engine), breaker(engine)
        await succeed(here)
        await succeed(there)
        if outage:
            engine.kill()
        engine.flush()
        engine.step_clock(-3600)
        if outage:
            engine.resume()
        with trioresil.instrument(recorder), trio.fail_after(1):
            for _ in range(2):  # what is reported first is of an epoch that the server knows nothing of
                with contextlib.suppress(CircuitOpenError):
                    await fail(here, 3)
                await trio.sleep(2 * EVERY)
        assert here.state is there.state is CircuitState.OPEN
        assert not any(isinstance(each, trioresil.CircuitClosed) for each in recorder.events)  # it never was not


async def test_each_outage_has_a_circuit_of_its_own(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        circuit = breaker(engine, on_unavailable=FailLocal())
        await succeed(circuit)
        engine.kill()
        await fail(circuit, 3)
        with pytest.raises(CircuitOpenError):
            await circuit.call(good)
        engine.resume()
        await wait_all_tasks_blocked()
        await succeed(circuit)
        engine.kill()
        await succeed(circuit)


async def test_a_cancelled_probe_of_the_local_circuit_gives_no_verdict(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        circuit = breaker(engine, on_unavailable=FailLocal())
        await succeed(circuit)
        engine.kill()
        await fail(circuit, 3)
        await trio.sleep(OPEN_FOR)
        with trio.move_on_after(1):
            await circuit.call(trio.sleep_forever)
        await fail(circuit)  # the next probe
        with pytest.raises(CircuitOpenError):
            await circuit.call(good)


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
async def test_a_clock_that_is_set_blocks_nobody(step: float, autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, there = await opened(engine)
        engine.step_clock(step)
        await trio.sleep(OPEN_FOR)
        with contextlib.suppress(
            CircuitOpenError
        ):  # the server can't tell how long it was not asked: all of it may remain
            await succeed(there)
        await trio.sleep(OPEN_FOR)
        await succeed(there)
        await wait_all_tasks_blocked()
        assert here.state is CircuitState.CLOSED


class Refusing(MemoryEngine):
    async def eval(self, *args: Any, **options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise ScriptRefusedError("WRONGTYPE")


async def test_what_the_server_refuses_is_named_with_its_key(autojump_clock: MockClock) -> None:
    async with Refusing() as engine:
        with pytest.raises(SharedStateError, match=r"api: key 'trioresil:\{api\}:circuit': WRONGTYPE"):
            await breaker(engine, on_unavailable=FailOpen()).call(good)


# --- arguments ----------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Mine(trioresil.abc.TripRule):
    def counter(self) -> Any:
        return ConsecutiveFailures(1).counter()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trip": Mine()}, "trip must be made of"),
        ({"trip": ConsecutiveFailures(1) | Mine()}, "trip must be made of"),
        ({"trip": 5}, "trip must be a rule"),
        ({"open_for": 0}, "open_for must be"),
        ({"open_for": math.inf}, "open_for must be"),
        ({"probes": 0}, "probes must be"),
        ({"successes_to_close": 0}, "successes_to_close must be"),
        ({"probe_lease": math.inf}, "probe_lease must be"),
        ({"report_every": 0}, "report_every must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"on_unavailable": None}, "on_unavailable must be"),
        ({"name": "{}"}, "name must be"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    make: Callable[..., SharedCircuitBreaker] = breaker
    with pytest.raises((TypeError, ValueError), match=message):
        make(MemoryEngine(), **options)


async def test_repr_and_statistics_tell_the_state(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        here, _ = await opened(engine)
        assert repr(here) == "<trioresil.redis.SharedCircuitBreaker 'api' open>"
        statistics = here.statistics()
        assert (statistics.state, statistics.remaining, statistics.opened) == (CircuitState.OPEN, OPEN_FOR, 1)
        engine.kill()
        assert "server is away" in repr(here)
