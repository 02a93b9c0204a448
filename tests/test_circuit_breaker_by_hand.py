"""isolate, open, reset, enforce and wait_admittable: the breaker in somebody's hands."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
import trio.testing

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
from trioresil import CircuitBreaker, CircuitIsolatedError, ConsecutiveFailures


async def admittable_at(breaker: CircuitBreaker) -> float:
    with trio.fail_after(70_000):  # rather than to hang
        await breaker.wait_admittable()
    return trio.current_time()


# --- isolation ------------------------------------------------------------------------------------------------------


async def test_isolated_it_rejects_everything_until_the_last_token_is_released(autojump_clock: Any) -> None:
    breaker = one_failure()
    first, second = breaker.isolate(), breaker.isolate()
    error = await rejection(breaker)
    assert type(error) is CircuitIsolatedError
    assert (error.retry_after, error.policy) == (None, "search")
    assert str(error) == "search: the circuit is isolated, until it is released"
    with pytest.raises(CircuitIsolatedError):
        async with breaker:
            pytest.fail("it was let in")
    first.release()
    first.release()  # releases nothing that is somebody else's
    assert (breaker.state, breaker.statistics().isolations) == (ISOLATED, 1)
    second.release()
    assert breaker.state is CLOSED
    await breaker.call(succeed)
    assert breaker.statistics().rejected == 2


async def test_isolated_is_a_block_that_nests_and_lets_go_on_an_error(autojump_clock: Any) -> None:
    breaker = one_failure()
    block = breaker.isolated()
    assert breaker.state is CLOSED
    with pytest.raises(OSError, match="maintenance"):
        with block:
            with breaker.isolated():
                assert breaker.statistics().isolations == 2
            assert breaker.state is ISOLATED
            with pytest.raises(RuntimeError, match="held already"):
                block.__enter__()
            assert breaker.statistics().isolations == 1
            raise OSError("maintenance")
    assert breaker.state is CLOSED
    with block:
        assert breaker.state is ISOLATED
    assert breaker.state is CLOSED


async def test_a_token_released_in_its_block_is_not_released_again(autojump_clock: Any) -> None:
    breaker = one_failure()
    other = breaker.isolate()
    with breaker.isolated() as token:
        token.release()
        assert breaker.statistics().isolations == 1
    assert breaker.statistics().isolations == 1
    other.release()
    assert breaker.state is CLOSED


async def test_the_state_underneath_an_isolation_goes_on(autojump_clock: Any) -> None:
    breaker = one_failure()
    with breaker.admit() as admission:
        token = breaker.isolate()
        admission.fail()
    assert (breaker.state, breaker.statistics().remaining) == (ISOLATED, 8.0)
    await trio.sleep(5)
    token.release()
    assert (await rejection(breaker)).retry_after == 3.0
    token = breaker.isolate()
    await trio.sleep(3)
    token.release()
    assert breaker.state is HALF_OPEN
    with breaker.admit():
        token = breaker.isolate()
    token.release()
    assert breaker.state is CLOSED


def test_isolation_needs_no_run() -> None:
    breaker = one_failure()
    with breaker.isolated():
        assert breaker.state is ISOLATED
    assert breaker.state is CLOSED


# --- open and reset -------------------------------------------------------------------------------------------------


async def test_open_rejects_for_exactly_that_long(autojump_clock: Any) -> None:
    breaker = one_failure()
    breaker.open(2.5)
    assert (breaker.state, (await rejection(breaker)).retry_after) == (OPEN, 2.5)
    assert breaker.statistics().level == 0
    assert await admittable_at(breaker) == 2.5
    await breaker.call(succeed)
    assert breaker.state is CLOSED


async def test_open_prolongs_and_never_shortens(autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure())
    breaker.open(2)
    assert breaker.statistics().remaining == 8.0
    breaker.open(20)
    assert breaker.statistics().remaining == 20.0
    await trio.sleep(20)
    assert breaker.state is HALF_OPEN
    breaker.open(1)
    assert (breaker.state, breaker.statistics().remaining) == (OPEN, 1.0)
    breaker.open(math.inf)
    assert breaker.statistics().remaining == math.inf


async def test_open_makes_calls_under_way_stale_probes_too(autojump_clock: Any) -> None:
    breaker = await half_open(one_failure())
    with breaker.admit():
        breaker.open(1)
        assert breaker.statistics().probes_out == 0
    assert breaker.state is OPEN


@pytest.mark.parametrize("seconds", [0, -1, math.nan, True, "5", None])
async def test_open_wants_a_number_of_seconds(seconds: Any, autojump_clock: Any) -> None:
    breaker = one_failure()
    with pytest.raises((TypeError, ValueError), match=f"seconds must be a number of seconds > 0, not {seconds!r}"):
        breaker.open(seconds)
    assert breaker.state is CLOSED


async def test_reset_closes_and_forgets_counts_and_levels(autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2), open_for=[1, 100])
    await half_open(breaker)
    await fail_times(breaker)
    assert (breaker.statistics().level, breaker.statistics().remaining) == (1, 100.0)
    breaker.reset()
    assert (breaker.state, breaker.statistics().level, breaker.statistics().remaining) == (CLOSED, 0, 0.0)
    await fail_times(breaker)
    breaker.reset()
    await fail_times(breaker)
    assert breaker.state is CLOSED
    await fail_times(breaker)
    assert (breaker.state, breaker.statistics().remaining) == (OPEN, 1.0)


async def test_reset_makes_calls_under_way_stale(autojump_clock: Any) -> None:
    breaker = one_failure()
    with breaker.admit() as admission:
        breaker.reset()
        admission.fail()
    assert breaker.state is CLOSED


async def test_reset_leaves_isolations(autojump_clock: Any) -> None:
    breaker = one_failure()
    with breaker.isolated():
        breaker.reset()
        assert breaker.state is ISOLATED


# --- not enforced ---------------------------------------------------------------------------------------------------


async def test_not_enforced_it_counts_opens_and_closes_and_rejects_nothing(autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure(enforce=False))
    assert breaker.state is OPEN
    for _ in range(5):
        assert await breaker.call(succeed, 1) == 1
        async with breaker:
            assert breaker.statistics().inside == 1
        with breaker.admit():
            pass
    assert (breaker.state, breaker.statistics().rejected) == (OPEN, 0)
    assert breaker.statistics().enforced is False
    await trio.sleep(8)
    assert breaker.state is HALF_OPEN
    await breaker.call(succeed)
    assert breaker.state is CLOSED


async def test_what_would_have_been_rejected_gives_no_verdict(autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure(enforce=False))
    await trio.sleep(8)
    with breaker.admit():  # the probe
        await fail_times(breaker)
        with pytest.raises(OSError, match="down"):
            async with breaker:
                await fail()
        with breaker.admit() as extra:
            extra.fail()
        for _ in range(3):
            await breaker.call(succeed)
        assert (breaker.state, breaker.statistics().probes_out) == (HALF_OPEN, 1)
    assert breaker.state is CLOSED
    with breaker.isolated():
        await fail_times(breaker, 3)
    assert breaker.state is CLOSED


async def test_enforce_is_settable_live_both_ways(autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure())
    await rejection(breaker)
    breaker.enforce = False
    assert breaker.enforce is False
    await breaker.call(succeed)
    breaker.enforce = True
    await rejection(breaker)
    with pytest.raises(TypeError, match="enforce must be True or False, not 0"):
        breaker.enforce = 0  # type: ignore[assignment]
    assert breaker.enforce is True


# --- wait_admittable ------------------------------------------------------------------------------------------------


async def test_closed_nobody_waits_but_it_is_a_checkpoint(autojump_clock: Any) -> None:
    breaker = one_failure()
    with trio.testing.assert_checkpoints():
        assert await admittable_at(breaker) == 0.0
    breaker = await half_open(breaker)
    with trio.testing.assert_checkpoints():
        assert await admittable_at(breaker) == 8.0
    with trio.CancelScope() as scope:
        scope.cancel()
        await breaker.wait_admittable()
    assert scope.cancelled_caught


async def test_open_it_waits_for_the_end_of_the_open_time(autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure())
    with trio.testing.assert_checkpoints():
        assert await admittable_at(breaker) == 8.0


async def test_half_open_with_its_probes_out_it_waits_for_an_outcome(autojump_clock: Any) -> None:
    for outcome, until in ((succeed, 10.0), (fail, 10.0 + 8.0)):
        breaker = await half_open(one_failure())
        begun_at = trio.current_time()

        async def probe(breaker: CircuitBreaker = breaker, outcome: Any = outcome) -> None:
            try:
                await breaker.call(lambda: outcome(after=10))
            except OSError:
                assert outcome is fail

        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe)
            await trio.testing.wait_all_tasks_blocked()
            assert await admittable_at(breaker) - begun_at == until


async def test_half_open_it_waits_for_a_cancelled_probe_or_a_lease(autojump_clock: Any) -> None:
    breaker = await half_open(one_failure(probes=2, probe_lease=30))

    async def probe(seconds: float) -> None:
        with trio.move_on_after(seconds):
            await breaker.call(trio.sleep_forever)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe, 3)
        nursery.start_soon(probe, 100)
        await trio.testing.wait_all_tasks_blocked()
        assert await admittable_at(breaker) == 11.0
        await trio.sleep(1)
        nursery.start_soon(probe, 200)
        await trio.testing.wait_all_tasks_blocked()
        assert await admittable_at(breaker) == 38.0
        nursery.cancel_scope.cancel()


async def test_isolated_it_waits_for_the_release(autojump_clock: Any) -> None:
    breaker = one_failure()
    tokens = [breaker.isolate(), breaker.isolate()]
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            assert await admittable_at(breaker) == 50_000.0

        await trio.sleep(20_000)
        tokens.pop().release()
        await trio.sleep(30_000)
        tokens.pop().release()


@pytest.mark.parametrize(
    ("how", "at"),
    [("reset", 3.0), ("disarm", 3.0), ("prolong", 23.0), ("isolate", 6.0)],
)
async def test_a_wait_follows_what_is_done_by_hand(how: str, at: float, autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure())
    reached: list[float] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            reached.append(await admittable_at(breaker))

        await trio.sleep(3)
        if how == "reset":
            breaker.reset()
        elif how == "disarm":
            breaker.enforce = False
        elif how == "prolong":
            breaker.open(20)
        else:
            with breaker.isolated():
                breaker.reset()
                await trio.sleep(3)
    assert reached == [at]


async def test_a_wait_begun_while_disarmed_is_none(autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure(enforce=False))
    with trio.testing.assert_checkpoints():
        assert await admittable_at(breaker) == 0.0


async def test_everybody_who_waits_is_told_and_only_the_probes_pass(autojump_clock: Any) -> None:
    breaker = await open_circuit(one_failure(probes=2, successes_to_close=2))
    woken: list[float] = []
    passed: list[float] = []

    async def wait_and_call() -> None:
        while True:
            woken.append(await admittable_at(breaker))
            try:
                with breaker.admit():
                    passed.append(trio.current_time())
                    await trio.sleep(1)
                return
            except Exception:
                assert breaker.state is HALF_OPEN

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(wait_and_call)
    assert woken == [8.0] * 2 + [9.0] * 8
    assert passed == [8.0] * 2 + [9.0] * 8
