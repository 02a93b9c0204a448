"""What a breaker tells: events once each, errors fresh each time, statistics and a status line."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import trio
import trio.testing

import trioresil
from tests._circuit_breaker import (
    CLOSED,
    HALF_OPEN,
    ISOLATED,
    OPEN,
    fail,
    fail_times,
    half_open,
    one_failure,
    open_circuit,
    rejection,
    succeed,
)
from trioresil import (
    CallRejected,
    CircuitBreaker,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitIsolatedError,
    CircuitOpened,
    CircuitOpenError,
    ConsecutiveFailures,
    FailureRatio,
    PolicySeen,
    SlowRatio,
)
from trioresil.testing import Recorder

# --- events ---------------------------------------------------------------------------------------------------------


async def test_a_life_in_events_each_once_with_its_facts(autojump_clock: Any) -> None:
    breaker = one_failure(open_for=[8, 16])
    recorder = Recorder()
    first, second = OSError("first"), OSError("second")
    with trioresil.instrument(recorder):
        await breaker.call(succeed)
        with pytest.raises(OSError, match="first"):
            await breaker.call(lambda: fail(first))
        rejected = await rejection(breaker)
        await breaker.wait_admittable()
        with pytest.raises(OSError, match="second"):
            await breaker.call(lambda: fail(second))
        await breaker.wait_admittable()
        await breaker.call(succeed)
        await breaker.call(succeed)
    assert recorder.events == [
        PolicySeen(policy=breaker),
        CircuitOpened(policy=breaker, open_for=8.0, level=0, error=first),
        CallRejected(policy=breaker, error=rejected),
        CircuitHalfOpened(policy=breaker),
        CircuitOpened(policy=breaker, open_for=16.0, level=1, error=second),
        CircuitHalfOpened(policy=breaker),
        CircuitClosed(policy=breaker),
    ]


async def test_by_hand_it_says_so_and_says_nothing_where_nothing_changed(autojump_clock: Any) -> None:
    breaker = one_failure()
    recorder = Recorder()
    with trioresil.instrument(recorder):
        breaker.reset()
        breaker.open(4)
        breaker.open(2)
        breaker.open(4)
        await trio.sleep(1)
        breaker.open(5)
        breaker.reset()
        breaker.reset()
        with breaker.isolated():
            pass
    assert recorder.events == [
        CircuitOpened(policy=breaker, open_for=4.0, level=0, error=None, by_hand=True),
        CircuitOpened(policy=breaker, open_for=5.0, level=0, error=None, by_hand=True),
        CircuitClosed(policy=breaker, by_hand=True),
    ]
    assert breaker.statistics().opened == 2


@pytest.mark.parametrize("form", ["call", "block", "admit"])
async def test_each_form_tells_of_its_rejection_and_of_the_error_that_tipped(form: str, autojump_clock: Any) -> None:
    breaker = one_failure()
    recorder = Recorder()
    errors: list[BaseException] = []
    with trioresil.instrument(recorder):
        for _ in range(2):
            try:
                if form == "call":
                    await breaker.call(fail)
                elif form == "block":
                    async with breaker:
                        await fail()
                else:
                    with breaker.admit():
                        await fail()
            except Exception as exc:
                errors.append(exc)
    opened, rejected = recorder.of(CircuitOpened), recorder.of(CallRejected)
    assert [event.error for event in opened] == errors[:1]
    assert [event.error for event in rejected] == errors[1:]
    assert isinstance(errors[1], CircuitOpenError)
    assert rejected[0].enforced is True
    assert len(recorder.of(PolicySeen)) == 1
    assert len(recorder.events) == 3


@pytest.mark.parametrize("error", [None, OSError("503")])
async def test_the_error_given_by_hand_is_in_the_event(error: OSError | None, autojump_clock: Any) -> None:
    breaker = one_failure()
    recorder = Recorder()
    with trioresil.instrument(recorder):
        with pytest.raises(KeyError):
            with breaker.admit() as admission:
                admission.fail(error)
                raise KeyError
    assert [event.error for event in recorder.of(CircuitOpened)] == [error]


async def test_a_success_or_a_result_that_tips_leaves_no_error(autojump_clock: Any) -> None:
    for breaker, result in (
        (CircuitBreaker(trip=SlowRatio(1.0, slower_than=1, min_calls=1)), 200),
        (one_failure(on_result=lambda status: status >= 500), 503),
    ):
        recorder = Recorder()
        with trioresil.instrument(recorder):
            await breaker.call(lambda result=result: succeed(result, after=2))
        assert [event.error for event in recorder.of(CircuitOpened)] == [None]


async def test_not_enforced_it_tells_of_each_rejection_that_would_have_been(autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure(enforce=False))
    recorder = Recorder()
    with trioresil.instrument(recorder):
        await breaker.call(succeed)
        async with breaker:
            pass
        with breaker.admit():
            pass
        with breaker.isolated():
            await breaker.call(succeed)
    events = recorder.of(CallRejected)
    assert [(type(event.error), event.enforced) for event in events] == [
        (CircuitOpenError, False),
        (CircuitOpenError, False),
        (CircuitOpenError, False),
        (CircuitIsolatedError, False),
    ]
    assert len(recorder.events) == 5


async def test_who_listens_sees_the_new_state(autojump_clock: Any) -> None:
    breaker = one_failure()
    seen: list[tuple[str, str, float]] = []

    class Looking:
        def record(self, event: trioresil.Event) -> None:
            statistics = breaker.statistics()
            seen.append((type(event).__name__, statistics.state.value, statistics.remaining))

    with trioresil.instrument(Looking()):
        await half_open(breaker)
        await breaker.call(succeed)
    assert seen == [
        ("PolicySeen", "closed", 0.0),
        ("CircuitOpened", "open", 8.0),
        ("CircuitHalfOpened", "half-open", 0.0),
        ("CircuitClosed", "closed", 0.0),
    ]


async def test_who_listens_may_object_and_the_probe_is_rejected(autojump_clock: Any) -> None:
    breaker = one_failure()

    class Objecting:
        def record(self, event: trioresil.Event) -> None:
            if isinstance(event, CircuitHalfOpened):
                breaker.open(4)

    await half_open(breaker)
    with trioresil.instrument(Objecting()):
        assert (await rejection(breaker)).retry_after == 4.0


async def test_nobody_listening_opening_and_closing_are_warnings(
    caplog: pytest.LogCaptureFixture, autojump_clock: Any
) -> None:
    breaker = await half_open(one_failure())
    await breaker.call(succeed)
    assert [(record.name, record.levelname) for record in caplog.records] == [("trioresil", "WARNING")] * 2
    opened, closed = caplog.messages
    assert "search" in opened
    assert "opened for 8 s" in opened
    assert "the service is down" in opened
    assert closed == "search: the circuit closed"


# --- rejections -----------------------------------------------------------------------------------------------------


async def test_each_rejection_is_a_fresh_error_with_a_traceback_of_its_own(autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure())
    lengths, errors = set(), []
    for _ in range(10_000):
        try:
            await breaker.call(succeed)
        except CircuitOpenError as exc:
            traceback, length = exc.__traceback__, 0
            while traceback is not None:
                traceback, length = traceback.tb_next, length + 1
            lengths.add(length)
            errors.append(exc)
    assert len(lengths) == 1
    assert len(set(map(id, errors))) == 10_000
    assert all(error.__context__ is None for error in errors)
    assert breaker.statistics().rejected == 10_000


async def test_a_rejection_says_what_and_until_when_and_survives_pickling(autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure(open_for=12.5))
    error = await rejection(breaker)
    assert str(error) == "search: the circuit is open, next probe in 12.5 s"
    assert (error.policy, error.retry_after, error.started) == ("search", 12.5, False)
    await breaker.wait_admittable()
    with breaker.admit():
        probing = await rejection(breaker)
    assert str(probing) == "search: the circuit is half-open and its probes are out; their outcome decides"
    assert (probing.retry_after, type(probing)) == (None, CircuitOpenError)
    for each in (error, probing):
        again = pickle.loads(pickle.dumps(each))
        assert (str(again), again.retry_after, type(again)) == (str(each), each.retry_after, type(each))


@pytest.mark.parametrize("form", ["call", "decorator", "block"])
async def test_a_loop_over_rejections_does_not_stop_the_program(form: str, autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure())
    decorated = breaker(succeed)
    steps = 0

    async def other() -> None:
        nonlocal steps
        for _ in range(100):
            await trio.lowlevel.checkpoint()
            steps += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(500):
            if steps == 100:
                break
            with trio.testing.assert_checkpoints():
                with pytest.raises(CircuitOpenError):
                    if form == "call":
                        await breaker.call(succeed)
                    elif form == "decorator":
                        await decorated()
                    else:
                        async with breaker:
                            pytest.fail("it was let in")
    assert steps == 100


@pytest.mark.parametrize("form", ["call", "decorator", "block"])
async def test_each_form_checks_for_cancellation_on_entry_and_does_no_more(form: str, autojump_clock: Any) -> None:
    breaker = await half_open(one_failure())
    entered = False

    async def enter() -> None:
        nonlocal entered
        entered = True

    async def use() -> None:
        if form == "call":
            await breaker.call(enter)
        elif form == "decorator":
            await breaker(enter)()
        else:
            async with breaker:
                await enter()

    with trio.CancelScope() as scope:
        scope.cancel()
        await use()
    assert scope.cancelled_caught
    assert not entered
    assert breaker._circuit.state is OPEN  # nobody was admitted, not even as a probe
    others: list[str] = []

    async def other() -> None:
        others.append("ran")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await use()
        assert entered
        assert not others  # to let them run is left to what is called


async def test_an_error_that_was_let_out_is_not_kept(autojump_clock: Any) -> None:
    breaker = one_failure()
    for probing in (False, True):
        if probing:
            await breaker.wait_admittable()
        with breaker.admit() as admission:
            admission.fail(OSError())
        with pytest.raises(OSError, match="kept"):
            breaker.reset()
            await breaker.call(lambda: fail(OSError("kept")))
        assert breaker._cause is None
        assert admission._error is None


# --- statistics and repr --------------------------------------------------------------------------------------------


async def test_statistics_are_a_frozen_snapshot(autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2) | FailureRatio(0.5), open_for=8, name="search", probes=2)
    await fail_times(breaker)
    statistics = breaker.statistics()
    assert statistics == trioresil.CircuitBreakerStatistics(
        name="search",
        state=CLOSED,
        enforced=True,
        isolations=0,
        remaining=0.0,
        level=0,
        probes_out=0,
        inside=0,
        opened=0,
        rejected=0,
        trip="1/2 consecutive failures, failure ratio 1 of 0.5 over 1 of 20 calls",
        gauges=(
            trioresil.abc.TripGauge("consecutive failures", 1, 2),
            trioresil.abc.TripGauge("failure ratio", 1.0, 0.5, calls=1, min_calls=20),
        ),
    )
    with pytest.raises(AttributeError):
        statistics.level = 3  # type: ignore[misc]
    await half_open(breaker)
    with breaker.admit(), breaker.isolated():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(succeed)
            statistics = breaker.statistics()
    assert (statistics.state, statistics.isolations, statistics.probes_out) == (ISOLATED, 1, 1)
    assert (statistics.inside, statistics.opened) == (1, 1)


async def test_inside_counts_calls_blocks_and_admissions_in_every_state(autojump_clock: Any) -> None:
    for probing in (False, True):
        breaker = one_failure(probes=3, successes_to_close=3)
        if probing:
            await half_open(breaker)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaker.call, trio.sleep, 1)
            async with breaker:
                with breaker.admit():
                    await trio.testing.wait_all_tasks_blocked()
                    assert breaker.statistics().inside == 3
                    assert breaker.statistics().probes_out == (3 if probing else 0)
        assert breaker.statistics().inside == 0


async def test_the_repr_is_a_status_line(autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2), open_for=12.5, name="search")
    assert repr(breaker) == "<trioresil.CircuitBreaker 'search' closed, 0/2 consecutive failures>"
    await open_circuit(breaker)
    assert repr(breaker) == "<trioresil.CircuitBreaker 'search' open, next probe in 12.5 s>"
    breaker.enforce = False
    assert repr(breaker) == "<trioresil.CircuitBreaker 'search' open, next probe in 12.5 s, not enforced>"
    breaker.enforce = True
    await trio.sleep(12.5)
    assert repr(breaker) == "<trioresil.CircuitBreaker 'search' half-open, 0 probes out>"
    with breaker.admit(), breaker.isolated():
        assert repr(breaker) == "<trioresil.CircuitBreaker 'search' isolated, by 1>"
    assert breaker.state is CLOSED


class AnyFailure(trioresil.abc.TripRule):
    uses_clock = False

    def counter(self) -> trioresil.abc.TripCounter:
        return AnyFailureCounter()


class AnyFailureCounter(trioresil.abc.TripCounter):
    def record(self, now: float, failed: bool, duration: float) -> bool:
        return failed

    def clear(self) -> None:
        pass


async def test_a_rule_of_ones_own_serves_and_may_have_nothing_to_say(autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=AnyFailure(), name="own")
    assert repr(breaker) == "<trioresil.CircuitBreaker 'own' closed>"
    assert (breaker.statistics().trip, breaker.statistics().gauges) == ("", ())
    await breaker.call(succeed)
    await fail_times(breaker)
    assert breaker.state is OPEN
    assert HALF_OPEN is not breaker.state
