"""Ctrl-C at any moment of a breaker: no probe's slot is lost, nobody stays inside, and no isolation stays on."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from tests._circuit_breaker import CLOSED, fail, half_open, open_circuit, succeed
from tests._interrupts import interrupted
from trioresil import CircuitBreaker, CircuitOpenError, ConsecutiveFailures, FailureRatio, Fallback, Pipeline

Visit = Callable[[CircuitBreaker], Awaitable[None]]


def check_all_moments(make: Callable[[], CircuitBreaker], prepare: Visit, visit: Visit) -> int:
    """Interrupt a visit at each of its moments in turn; return how many there are."""
    at, more = 0, True
    while more:
        at += 1
        breaker = make()

        async def main(start: Callable[[], None], breaker: CircuitBreaker = breaker) -> None:
            await prepare(breaker)
            start()
            try:
                await visit(breaker)
            finally:
                sys.setprofile(None)
            await trio.lowlevel.checkpoint()  # where a Ctrl-C that was held back arrives

        more = interrupted(main, at)
        statistics = breaker.statistics()
        assert (statistics.probes_out, statistics.inside, statistics.isolations) == (0, 0, 0), f"moment {at}"
    return at


async def call(breaker: CircuitBreaker) -> None:
    await breaker.call(succeed)


async def failing_call(breaker: CircuitBreaker) -> None:
    with contextlib.suppress(OSError):
        await breaker.call(fail)


async def cancelled_call(breaker: CircuitBreaker) -> None:
    with trio.move_on_after(1):
        await breaker.call(trio.sleep_forever)


async def decorated(breaker: CircuitBreaker) -> None:
    await breaker(succeed)(1)


async def in_pipeline(breaker: CircuitBreaker) -> None:
    await Pipeline(Fallback(default=None, on=CircuitOpenError), breaker).call(succeed)


async def block(breaker: CircuitBreaker) -> None:
    async with breaker:
        await trio.sleep(1)


async def admitted(breaker: CircuitBreaker) -> None:
    with breaker.admit() as admission:
        admission.fail()


async def isolated(breaker: CircuitBreaker) -> None:
    with breaker.isolated():
        pass


async def unprepared(breaker: CircuitBreaker) -> None:
    pass


async def prepare_half_open(breaker: CircuitBreaker) -> None:
    await half_open(breaker)


@pytest.mark.slow
@pytest.mark.parametrize(
    "visit", [call, failing_call, cancelled_call, decorated, in_pipeline, block, admitted], ids=lambda v: v.__name__
)
def test_no_slot_of_a_probe_is_lost(visit: Visit) -> None:
    def make() -> CircuitBreaker:
        return CircuitBreaker(trip=ConsecutiveFailures(1), on_result=bool)

    assert check_all_moments(make, prepare_half_open, visit) > 10


@pytest.mark.slow
@pytest.mark.parametrize("visit", [call, failing_call, block], ids=lambda v: v.__name__)
def test_nobody_stays_inside_a_closed_circuit(visit: Visit) -> None:
    def make() -> CircuitBreaker:
        return CircuitBreaker(trip=FailureRatio(0.5, min_calls=1))

    assert check_all_moments(make, unprepared, visit) > 5


def test_no_isolation_stays_on_after_its_block() -> None:
    assert check_all_moments(CircuitBreaker, unprepared, isolated) > 5


def test_a_function_that_a_probe_calls_can_be_interrupted() -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1))
    reached = False

    async def interrupt() -> None:
        nonlocal reached
        signal.raise_signal(signal.SIGINT)
        reached = True

    async def main() -> None:
        await open_circuit(breaker)
        await breaker.wait_admittable()
        await breaker.call(interrupt)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not reached
    assert (breaker.statistics().probes_out, breaker.statistics().inside) == (0, 0)
    assert breaker.state is not CLOSED
