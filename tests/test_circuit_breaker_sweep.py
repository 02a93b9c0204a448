"""The breaker under the cancellation sweep: whoever is cancelled, whenever, no slot is lost and no verdict invented."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

from tests._circuit_breaker import CLOSED, HALF_OPEN, ISOLATED, OPEN, fail, fail_times, one_failure, succeed
from trioresil import Bulkhead, CircuitBreaker, CircuitOpenError, ConsecutiveFailures, Pipeline, SlowRatio
from trioresil._kernel.circuit import Ticket
from trioresil.testing import Sweep as Sweep
from trioresil.testing import SweepFailure, cancellation_sweep

Form = Callable[[CircuitBreaker, Callable[[], Awaitable[Any]]], Awaitable[Any]]


async def by_call(breaker: CircuitBreaker, fn: Callable[[], Awaitable[Any]]) -> Any:
    return await breaker.call(fn)


async def by_decorator(breaker: CircuitBreaker, fn: Callable[[], Awaitable[Any]]) -> Any:
    return await breaker(fn)()


async def by_block(breaker: CircuitBreaker, fn: Callable[[], Awaitable[Any]]) -> Any:
    async with breaker:
        return await fn()


async def by_admit(breaker: CircuitBreaker, fn: Callable[[], Awaitable[Any]]) -> Any:
    await trio.lowlevel.checkpoint()  # admit() itself is none
    with breaker.admit() as admission:
        try:
            return await fn()
        except OSError as exc:
            admission.fail(exc)


async def by_pipeline(breaker: CircuitBreaker, fn: Callable[[], Awaitable[Any]]) -> Any:
    return await Pipeline(breaker, Bulkhead(1)).call(fn)


every_form = pytest.mark.parametrize("form", [by_call, by_decorator, by_block, by_admit, by_pipeline])


class Watched:
    """A breaker, and how many are inside of it, as the tasks themselves count."""

    def __init__(self, breaker: CircuitBreaker, sweep: Sweep) -> None:
        self.breaker = breaker
        self.inside = 0
        sweep.when_quiet(self.check)

    def check(self) -> None:
        statistics = self.breaker.statistics()
        assert statistics.inside == self.inside
        assert statistics.probes_out <= 2
        if statistics.state is HALF_OPEN:
            assert statistics.probes_out == self.inside
        elif statistics.state is not ISOLATED:
            assert statistics.probes_out == 0

    async def work(self, seconds: float = 1.0, error: Exception | None = None) -> str:
        self.inside += 1
        try:
            await trio.sleep(seconds)
            if error is not None:
                raise error
            return "done"
        finally:
            self.inside -= 1

    def settle(self) -> None:
        """At the end: nobody is inside, and no slot is out."""
        statistics = self.breaker.statistics()
        assert (statistics.inside, statistics.probes_out, self.inside) == (0, 0, 0)


async def tripped(**configuration: Any) -> CircuitBreaker:
    """Return a breaker in the second before it is half-open."""
    breaker = one_failure(open_for=2.0, probes=2, successes_to_close=3, **configuration)
    await fail_times(breaker)
    await trio.sleep(1)
    return breaker


# --- calls in each state --------------------------------------------------------------------------------------------


async def closed_scenario(form: Form, sweep: Sweep) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(2) | SlowRatio(1.0, slower_than=50, min_calls=1), open_for=8)
    watched = Watched(breaker, sweep)
    await fail_times(breaker)
    finished = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(form, breaker, partial(watched.work, 3.0))
        with sweep.victim():
            await form(breaker, watched.work)
            finished = True
        assert breaker.statistics().trip.startswith("0/2" if finished else "1/2")  # cancelled, it resets no count
    assert finished is not sweep.victim_cancelled
    watched.settle()
    assert breaker.state is CLOSED
    await fail_times(breaker)


async def failing_scenario(form: Form, sweep: Sweep) -> None:
    breaker = one_failure(open_for=2.0)
    watched = Watched(breaker, sweep)
    failed = False
    with sweep.victim():
        try:
            await form(breaker, partial(watched.work, 1.0, OSError("down")))
        except OSError:
            failed = True
        failed = failed or form is by_admit
    assert breaker.state is (OPEN if failed else CLOSED)
    assert failed is not sweep.victim_cancelled
    watched.settle()


async def probing_scenario(form: Form, sweep: Sweep) -> None:
    """The victim and another probe in half-open; two more come as soon as there is room, and close it."""
    breaker = await tripped()
    watched = Watched(breaker, sweep)
    successes = 0

    async def probe(seconds: float) -> None:
        nonlocal successes
        while True:
            await breaker.wait_admittable()
            try:
                await form(breaker, partial(watched.work, seconds))
            except CircuitOpenError:
                continue
            successes += 1
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe, 3.0)
        with sweep.victim():
            await breaker.wait_admittable()
            await form(breaker, watched.work)
            successes += 1
        with trio.fail_after(10):
            while breaker.state is not CLOSED:
                await probe(0.5)
    assert successes >= 3
    watched.settle()


async def failing_probe_scenario(form: Form, sweep: Sweep) -> None:
    breaker = await tripped()
    watched = Watched(breaker, sweep)
    await breaker.wait_admittable()
    failed = False
    with sweep.victim():
        try:
            await form(breaker, partial(watched.work, 1.0, OSError("down")))
        except OSError:
            failed = True
        failed = failed or form is by_admit
    assert breaker.state is (OPEN if failed else HALF_OPEN)
    assert breaker.statistics().level == int(failed)
    watched.settle()
    await breaker.wait_admittable()
    for _ in range(3):
        await form(breaker, watched.work)
    assert breaker.state is CLOSED


async def rejected_scenario(form: Form, isolated: bool, sweep: Sweep) -> None:
    breaker = await tripped()
    watched = Watched(breaker, sweep)
    token = breaker.isolate() if isolated else None
    rejected = False
    with sweep.victim():
        try:
            await form(breaker, watched.work)
        except CircuitOpenError as exc:
            rejected = exc.started is False
    assert rejected is not sweep.victim_cancelled
    assert breaker.state is (ISOLATED if isolated else OPEN)
    if token is not None:
        token.release()
    assert breaker.statistics().remaining == 1.0
    watched.settle()


async def crowd_scenario(form: Form, sweep: Sweep) -> None:
    """Five arrive together in half-open, the victim among them: two pass at a time, whoever is cancelled."""
    breaker = await tripped()
    watched = Watched(breaker, sweep)
    await trio.sleep(1)
    outcomes: list[str] = []

    async def arrive() -> None:
        try:
            outcomes.append(await form(breaker, watched.work))
        except CircuitOpenError:
            outcomes.append("rejected")

    async def victim() -> None:
        with sweep.victim():
            await arrive()

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(arrive)
        nursery.start_soon(victim)
        for _ in range(2):
            nursery.start_soon(arrive)
    assert 4 <= len(outcomes) <= 5
    assert outcomes.count("done") <= 2
    assert outcomes.count("done") >= (1 if sweep.victim_cancelled else 2)
    watched.settle()


async def disarmed_scenario(form: Form, sweep: Sweep) -> None:
    breaker = await tripped(enforce=False)
    watched = Watched(breaker, sweep)
    with sweep.victim():
        assert await form(breaker, partial(succeed, "passed")) == "passed"
    assert breaker.state is OPEN
    assert breaker.statistics().rejected == 0
    watched.settle()


SCENARIOS = [
    closed_scenario,
    failing_scenario,
    probing_scenario,
    failing_probe_scenario,
    crowd_scenario,
    disarmed_scenario,
]


@every_form
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cancelled_at_any_moment_no_slot_is_lost_and_no_verdict_given(scenario: Any, form: Form) -> None:
    report = cancellation_sweep(partial(scenario, form), seeds=range(2))
    assert report.cancelled > 0


@every_form
@pytest.mark.parametrize("isolated", [False, True])
def test_a_rejection_cancelled_at_any_moment_is_one_or_the_other(form: Form, isolated: bool) -> None:
    report = cancellation_sweep(partial(rejected_scenario, form, isolated))
    assert report.cancelled > 0


# --- nested and interleaved blocks ----------------------------------------------------------------------------------


async def nested_scenario(sweep: Sweep) -> None:
    breaker = await tripped()
    watched = Watched(breaker, sweep)
    await breaker.wait_admittable()
    with sweep.victim():
        async with breaker:
            watched.inside += 1
            try:
                await trio.sleep(1)
                async with breaker:
                    await watched.work()
            finally:
                watched.inside -= 1
    watched.settle()
    assert breaker.state is HALF_OPEN


def test_nested_blocks_give_both_slots_back() -> None:
    cancellation_sweep(nested_scenario)


async def generator_scenario(form: str, sweep: Sweep) -> None:
    breaker = await tripped()
    await breaker.wait_admittable()

    async def stream() -> Any:
        if form == "block":
            async with breaker:
                for number in range(3):
                    await trio.sleep(1)
                    yield number
        else:
            with breaker.admit():
                for number in range(3):
                    await trio.sleep(1)
                    yield number

    generator = stream()
    with sweep.victim():
        async for _ in generator:
            pass
    await generator.aclose()
    assert breaker.state is HALF_OPEN
    assert (breaker.statistics().probes_out, breaker.statistics().inside) == (0, 0)


@pytest.mark.parametrize("form", ["block", "admit"])
def test_a_stream_gives_its_slot_back(form: str) -> None:
    cancellation_sweep(partial(generator_scenario, form))


# --- wait_admittable in each state ----------------------------------------------------------------------------------


async def wait_scenario(state: str, sweep: Sweep) -> None:
    breaker = await tripped(enforce=state != "disarmed")
    if state == "closed":
        breaker.reset()
    elif state == "half-open":
        await trio.sleep(1)
    waited: list[float] = []
    waiters = 0

    async def wait() -> None:
        nonlocal waiters
        waiters += 1
        try:
            await breaker.wait_admittable()
            waited.append(trio.current_time())
        finally:
            waiters -= 1

    async def two_probes() -> None:
        async with trio.open_nursery() as probes:
            for _ in range(2):
                probes.start_soon(breaker.call, trio.sleep, 4)

    def nobody_waits_in_vain() -> None:
        may_pass = breaker.state is CLOSED or (breaker.state is HALF_OPEN and breaker.statistics().probes_out < 2)
        assert not (waiters and may_pass)

    sweep.when_quiet(nobody_waits_in_vain)
    token = breaker.isolate() if state == "isolated" else None
    async with trio.open_nursery() as nursery:
        if state == "probes out":
            await trio.sleep(1)
            nursery.start_soon(two_probes)
            await trio.sleep(1)
        begun_at = trio.current_time()
        nursery.start_soon(wait)

        @nursery.start_soon
        async def victim() -> None:
            with sweep.victim():
                await wait()

        nursery.start_soon(wait)
        if token is not None:
            await trio.sleep(5)
            token.release()
    delay = {"open": 1.0, "isolated": 5.0, "probes out": 3.0}.get(state, 0.0)
    assert waited == [begun_at + delay] * (2 if sweep.victim_cancelled else 3)
    assert waiters == len(breaker._changes) == 0
    assert breaker.statistics().inside == 0


@pytest.mark.parametrize("state", ["closed", "open", "half-open", "probes out", "isolated", "disarmed"])
def test_a_cancelled_wait_leaves_nothing_behind_and_delays_nobody(state: str) -> None:
    report = cancellation_sweep(partial(wait_scenario, state))
    assert report.cancelled > 0


# --- the net itself -------------------------------------------------------------------------------------------------


class Leaking(CircuitBreaker):
    """Gives a probe's slot back only with a verdict, which is how half of all breakers are written."""

    def _report(self, ticket: Ticket, failed: bool | None, error: BaseException | None) -> None:
        if failed is not None:
            super()._report(ticket, failed, error)


class Optimistic(CircuitBreaker):
    """Takes a cancellation for a success."""

    def _verdict(self, error: BaseException | None) -> bool | None:
        return bool(super()._verdict(error))


@pytest.mark.parametrize("kind", [Leaking, Optimistic])
def test_the_sweep_sees_a_leaked_slot_and_an_invented_verdict(kind: type[CircuitBreaker]) -> None:
    async def scenario(sweep: Sweep) -> None:
        breaker = kind(trip=ConsecutiveFailures(1), open_for=1.0)
        with pytest.raises(OSError, match="down"):
            await breaker.call(fail)
        await breaker.wait_admittable()
        with sweep.victim():
            await breaker.call(trio.sleep, 1)
        assert breaker.state is (HALF_OPEN if sweep.victim_cancelled else CLOSED)
        await breaker.call(succeed)

    with pytest.raises(SweepFailure):
        cancellation_sweep(scenario)
