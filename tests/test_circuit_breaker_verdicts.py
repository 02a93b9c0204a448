"""What is a verdict on the other side, what is none, and whose verdict it is."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import trioresil
from tests._circuit_breaker import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    NotFoundError,
    Use,
    by_admit,
    by_block,
    by_call,
    by_decorator,
    every_form,
    fail,
    fail_times,
    half_open,
    one_failure,
    open_circuit,
    rejection,
    succeed,
)
from trioresil import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    ConsecutiveFailures,
    Pipeline,
    SlowRatio,
    Timeout,
    TokenBucket,
)

# --- cancellation ---------------------------------------------------------------------------------------------------


@every_form
async def test_a_cancelled_call_is_no_verdict_and_resets_no_count(use: Use, autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2))
    await fail_times(breaker)
    for _ in range(5):
        with trio.move_on_after(1):
            await use(breaker, trio.sleep_forever)
    assert (breaker.state, breaker.statistics().trip) == (CLOSED, "1/2 consecutive failures")
    await fail_times(breaker)
    assert breaker.state is OPEN


@every_form
async def test_a_cancelled_probe_neither_closes_nor_opens_and_its_slot_is_free_in_the_same_step(
    use: Use, autojump_clock: Any
) -> None:
    breaker = await half_open(one_failure())
    for _ in range(3):
        with trio.move_on_after(1):
            try:
                await use(breaker, trio.sleep_forever)
            finally:  # still the step in which the cancellation came
                assert (breaker.state, breaker.statistics().probes_out) == (HALF_OPEN, 0)
                assert breaker.statistics().inside == 0
                with breaker.admit() as admission:
                    admission.ignore()
    await use(breaker, succeed)
    assert breaker.state is CLOSED


@every_form
async def test_cancellation_comes_out_as_itself_and_matches_no_predicate(use: Use, autojump_clock: Any) -> None:
    asked: list[BaseException] = []
    breaker = one_failure(on=lambda exc: asked.append(exc) or True)
    with trio.CancelScope() as scope:
        scope.cancel()
        await use(breaker, trio.sleep_forever)
    assert scope.cancelled_caught
    assert (breaker.state, asked) == (CLOSED, [])


@every_form
@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), BaseExceptionGroup("", [KeyboardInterrupt()])])
async def test_what_is_no_exception_is_no_verdict(use: Use, error: BaseException, autojump_clock: Any) -> None:
    breaker = await half_open(one_failure())
    with pytest.raises(type(error)) as caught:
        await use(breaker, lambda: fail(error))
    assert caught.value is error
    assert (breaker.state, breaker.statistics().probes_out) == (HALF_OPEN, 0)


async def test_a_cancelled_nursery_inside_is_no_verdict(autojump_clock: Any) -> None:
    breaker = await half_open(one_failure())

    async def many() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(trio.sleep_forever)

    with trio.move_on_after(1):
        await breaker.call(many)
    assert (breaker.state, breaker.statistics().probes_out) == (HALF_OPEN, 0)


# --- what never started ---------------------------------------------------------------------------------------------


async def held(bulkhead: Bulkhead) -> None:
    async with bulkhead:
        await trio.sleep_forever()


async def test_an_inner_rejection_is_no_verdict(autojump_clock: Any) -> None:
    bucket = TokenBucket(rate=0.001, max_wait=0)
    await bucket.acquire()
    bulkhead = Bulkhead(1, max_waiting=0)
    queue = Bulkhead(1)
    other = await open_circuit(one_failure(open_for=1000.0))
    refusing: dict[type[Exception], trioresil.abc.Policy] = {
        trioresil.RateLimitedError: bucket,
        trioresil.BulkheadFullError: bulkhead,
        CircuitOpenError: other,
        trioresil.TimedOutError: Pipeline(Timeout(1), queue),
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(held, bulkhead)
        nursery.start_soon(held, queue)
        await trio.testing.wait_all_tasks_blocked()
        for error, policy in refusing.items():
            breaker = CircuitBreaker(trip=ConsecutiveFailures(2), open_for=8.0)
            await fail_times(breaker)
            for _ in range(3):
                with pytest.raises(error):
                    await Pipeline(breaker, policy).call(succeed)
            assert (breaker.state, breaker.statistics().trip) == (CLOSED, "1/2 consecutive failures")
            await half_open(breaker)
            with pytest.raises(error):
                await Pipeline(breaker, policy).call(succeed)
            assert (breaker.state, breaker.statistics().probes_out) == (HALF_OPEN, 0)
        nursery.cancel_scope.cancel()


async def test_a_timeout_of_what_had_started_is_a_failure(autojump_clock: Any) -> None:
    breaker = one_failure()
    with pytest.raises(trioresil.TimedOutError):
        await Pipeline(breaker, Timeout(1)).call(trio.sleep, 5)
    assert breaker.state is OPEN


async def test_a_circuit_open_error_that_user_code_lets_out_is_a_failure(autojump_clock: Any) -> None:
    other = await open_circuit(one_failure(open_for=1000.0, name="inner"))
    breaker = one_failure()

    async def use_other() -> None:
        await other.call(succeed)

    with pytest.raises(CircuitOpenError) as caught:
        await breaker.call(use_other)
    assert caught.value.policy == "inner"
    assert caught.value.started is True
    assert breaker.state is OPEN
    own = await rejection(breaker)
    assert (own.policy, own.started) == ("search", False)


async def test_a_block_can_not_see_inside_so_a_rejection_in_it_is_no_verdict(autojump_clock: Any) -> None:
    other = await open_circuit(one_failure(open_for=1000.0))
    breaker = await half_open(one_failure())
    with pytest.raises(CircuitOpenError):
        async with breaker:
            await other.call(succeed)
    assert (breaker.state, breaker.statistics().probes_out) == (HALF_OPEN, 0)


@pytest.mark.parametrize("probing", [False, True])
async def test_a_result_that_can_not_be_awaited_is_no_verdict(probing: bool, autojump_clock: Any) -> None:
    breaker = one_failure()
    if probing:
        await half_open(breaker)
    with pytest.raises(TypeError, match="must return something to await"):
        await breaker.call(lambda: 5)  # type: ignore[arg-type,return-value]
    assert breaker.state is (HALF_OPEN if probing else CLOSED)
    assert (breaker.statistics().probes_out, breaker.statistics().inside) == (0, 0)


# --- good and bad verdicts ------------------------------------------------------------------------------------------


@every_form
async def test_an_error_that_on_does_not_match_is_a_good_verdict(use: Use, autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2), on=OSError)
    missing = NotFoundError()
    await fail_times(breaker)
    with pytest.raises(NotFoundError) as caught:
        await use(breaker, lambda: fail(missing))
    assert caught.value is missing
    await fail_times(breaker)
    assert breaker.state is CLOSED  # it had reset the count
    await half_open(breaker)
    with pytest.raises(NotFoundError):
        await use(breaker, lambda: fail(missing))
    assert breaker.state is CLOSED  # it closes a half-open circuit


@pytest.mark.parametrize(
    ("on", "error", "state"),
    [
        (OSError, ConnectionError(), OPEN),
        ((KeyError, OSError), ConnectionError(), OPEN),
        (lambda exc: "503" in str(exc), RuntimeError("503"), OPEN),
        (lambda exc: "503" in str(exc), RuntimeError("404"), CLOSED),
        (OSError, ExceptionGroup("", [OSError(), OSError()]), OPEN),
        (OSError, ExceptionGroup("", [OSError(), KeyError()]), CLOSED),
    ],
)
async def test_on_says_which_errors_are_failures(on: Any, error: Exception, state: Any, autojump_clock: Any) -> None:
    breaker = one_failure(on=on)
    with pytest.raises(type(error)) as caught:
        await breaker.call(lambda: fail(error))
    assert caught.value is error
    assert breaker.state is state


@pytest.mark.parametrize("probing", [False, True])
async def test_on_result_says_which_results_are_failures(probing: bool, autojump_clock: Any) -> None:
    breaker = one_failure(on_result=lambda status: status >= 500)
    if probing:
        await half_open(breaker)
    assert await breaker.call(succeed, 200) == 200
    assert breaker.state is CLOSED
    if probing:
        await half_open(breaker)
    assert await breaker.call(succeed, 503) == 503
    assert breaker.state is OPEN
    assert breaker.statistics().remaining == 8.0


@pytest.mark.parametrize("probing", [False, True])
@pytest.mark.parametrize(
    ("use", "argument"),
    [*((use, "on") for use in (by_call, by_decorator, by_block, by_admit)), (by_call, "on_result")],
)
async def test_a_test_that_raises_gives_no_verdict_and_keeps_no_slot(
    use: Use, argument: str, probing: bool, autojump_clock: Any
) -> None:
    faulty = False

    def test(_: object) -> bool:
        return 1 / (not faulty) > 2 or argument == "on"

    breaker = one_failure(**{argument: test})
    if probing:
        await half_open(breaker)
    faulty = True
    with pytest.raises(ZeroDivisionError):
        await use(breaker, (lambda: fail()) if argument == "on" else succeed)
    faulty = False
    assert breaker.state is (HALF_OPEN if probing else CLOSED)
    assert (breaker.statistics().probes_out, breaker.statistics().inside) == (0, 0)
    assert breaker._cause is None


async def test_a_predicate_may_open_the_circuit_itself(autojump_clock: Any) -> None:
    def unavailable(exc: BaseException) -> bool:
        breaker.open(3)
        return True

    breaker = one_failure(on=unavailable)
    error = OSError("503")
    with pytest.raises(OSError, match="503") as caught:
        await breaker.call(lambda: fail(error))
    assert caught.value is error
    assert (breaker.state, breaker.statistics().remaining) == (OPEN, 3.0)
    await trio.sleep(3)
    with pytest.raises(OSError, match="503"):
        await breaker.call(lambda: fail(error))
    assert (breaker.state, breaker.statistics().remaining) == (OPEN, 3.0)


# --- verdicts of earlier generations --------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("good", [True, False])
async def test_a_call_begun_before_the_trip_changes_nothing_when_it_ends(
    use: Use, good: bool, autojump_clock: Any
) -> None:
    breaker = one_failure(probes=1, successes_to_close=1)

    async def late(seconds: float) -> None:
        outcome = succeed(after=seconds) if good else fail(after=seconds)
        try:
            await use(breaker, lambda: outcome)
        except OSError:
            assert not good

    async def check(at: float, state: Any) -> None:
        await trio.sleep_until(at)
        assert breaker.state is state

    async with trio.open_nursery() as nursery:
        for ends_at in (2.0, 9.0, 12.0):  # while it is open, half-open, and closed again
            nursery.start_soon(late, ends_at)
        await trio.sleep(1)
        await fail_times(breaker)
        await check(2.5, OPEN)
        assert breaker.statistics().remaining == 6.5
        await check(9.5, HALF_OPEN)
        with breaker.admit():
            assert breaker.statistics().probes_out == 1
            await trio.sleep(1)
        await check(10.5, CLOSED)
        await check(12.5, CLOSED)
    assert breaker.statistics().opened == 1


@every_form
@pytest.mark.parametrize("good", [True, False])
async def test_a_verdict_of_an_earlier_generation_touches_no_count_of_this_one(
    use: Use, good: bool, autojump_clock: Any
) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2) | SlowRatio(1.0, slower_than=15, min_calls=1), open_for=8.0)

    async def late() -> None:
        try:
            await use(breaker, lambda: succeed(after=20) if good else fail(after=20))
        except OSError:
            assert not good

    async with trio.open_nursery() as nursery:
        nursery.start_soon(late)
        await trio.testing.wait_all_tasks_blocked()
        await half_open(breaker)
        await breaker.call(succeed)
        await fail_times(breaker)
        before = breaker.statistics().trip
    assert before.startswith("1/2 consecutive failures, slow ratio 0 of 1 over 1")
    assert (breaker.state, breaker.statistics().trip) == (CLOSED, before)


@every_form
async def test_a_probe_of_an_earlier_half_open_time_changes_nothing(use: Use, autojump_clock: Any) -> None:
    breaker = await half_open(one_failure(probes=2, successes_to_close=2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, breaker, lambda: succeed(after=20))
        await trio.testing.wait_all_tasks_blocked()
        await fail_times(breaker)
        await trio.sleep(8)
        await breaker.call(succeed)
        assert breaker.state is HALF_OPEN
        with trio.fail_after(20):
            await trio.sleep(13)
    assert breaker.state is HALF_OPEN
    await breaker.call(succeed)
    assert breaker.state is CLOSED


# --- identity -------------------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("probing", [False, True])
async def test_the_error_comes_out_as_the_same_object(use: Use, probing: bool, autojump_clock: Any) -> None:
    breaker = one_failure()
    if probing:
        await half_open(breaker)
    error = ValueError("the caller's own")
    cause = error.__cause__ = KeyError("why")
    with pytest.raises(ValueError, match="own") as caught:
        await use(breaker, lambda: fail(error))
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (cause, None)
