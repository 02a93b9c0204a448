"""SharedSemaphore over an engine in memory: exact on the virtual clock. Several objects stand for several processes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import trioresil
from trioresil import (
    BulkheadFullError,
    LeaseLostError,
    Pipeline,
    SharedStateError,
    SharedStateUnavailableError,
)
from trioresil._shared.semaphore_scripts import ACQUIRE, PARTS
from trioresil.redis import EngineDownError, FailClosed, FailLocal, FailOpen, Hold, MemoryEngine, SharedSemaphore
from trioresil.testing import Recorder, Sweep, cancellation_sweep

KEYS = [f"trioresil:{{db}}:permits:{part}" for part in PARTS]
LEASE = 3.0


def semaphore(engine: MemoryEngine, limit: int = 1, **options: Any) -> SharedSemaphore:
    options = {"lease": LEASE, "on_unavailable": FailClosed(), **options}
    return SharedSemaphore(engine, options.pop("name", "db"), limit=limit, **options)


async def occupy(engine: MemoryEngine, *, lease: float = LEASE, limit: int = 1, who: str = "dead.1") -> int:
    """Take a permit, as a process that dies then; return its fence."""
    args = [limit, round(lease * 1e6), "nobody:", who, 9]
    fence, _ = await engine.eval(ACQUIRE, KEYS, args, within=1)
    return int(fence)


async def hold_for(
    permits: SharedSemaphore, seconds: float, seen: list[tuple[float, int | None]] | None = None
) -> None:
    async with permits as hold:
        if seen is not None:
            seen.append((trio.current_time(), hold.fence))
        await trio.sleep(seconds)


class Inside:
    """How many are inside, and the most that ever were."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def use(self, permits: SharedSemaphore, seconds: float) -> None:
        async with permits:
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await trio.sleep(seconds)
            finally:
                self.now -= 1


# --- the limit ----------------------------------------------------------------------------------------------------------------


async def test_processes_together_stay_below_the_limit_and_use_all_of_it(autojump_clock: MockClock) -> None:
    inside = Inside()
    async with MemoryEngine() as engine:
        processes = [semaphore(engine, 3) for _ in range(4)]
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(inside.use, processes[number % 4], 1)
        assert inside.most == 3
        assert trio.current_time() - began_at == 4
        assert [each.statistics().granted for each in processes] == [3, 3, 3, 3]
        assert [each.statistics().inside for each in processes] == [0, 0, 0, 0]


async def test_who_comes_first_is_served_first_over_all_processes(autojump_clock: MockClock) -> None:
    order: list[int] = []

    async def use(permits: SharedSemaphore, number: int) -> None:
        await trio.sleep(number / 100)
        async with permits:
            order.append(number)
            await trio.sleep(1)

    async with MemoryEngine(latency=0.001) as engine:
        processes = [semaphore(engine) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for number in range(9):
                nursery.start_soon(use, processes[number % 3], number)
    assert order == list(range(9))


async def test_a_newcomer_does_not_overtake_who_waits(autojump_clock: MockClock) -> None:
    order: list[str] = []

    async def use(permits: SharedSemaphore, name: str) -> None:
        async with permits:
            order.append(name)

    async with MemoryEngine(latency=0.01) as engine:
        here, there = semaphore(engine), semaphore(engine)
        async with trio.open_nursery() as nursery:
            async with here:
                nursery.start_soon(use, there, "waits")
                await trio.sleep(0.1)
            nursery.start_soon(use, here, "comes")
    assert order == ["waits", "comes"]


async def test_every_hold_has_a_larger_number(autojump_clock: MockClock) -> None:
    seen: list[tuple[float, int | None]] = []
    async with MemoryEngine() as engine:
        processes = [semaphore(engine), semaphore(engine)]
        for number in range(6):
            await hold_for(processes[number % 2], 0, seen)
        engine.flush()
        await trio.sleep(0.001)  # it takes longer than that to lose one's memory
        await hold_for(processes[0], 0, seen)
        await hold_for(processes[0], 0, seen)
    fences = [fence for _, fence in seen]
    assert None not in fences
    assert fences == sorted(set(fences))  # type: ignore[type-var]


async def test_a_limit_that_is_raised_lets_in_who_waits(autojump_clock: MockClock) -> None:
    inside = Inside()
    async with MemoryEngine() as engine:
        permits = semaphore(engine, 0)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(inside.use, permits, 5)
            await trio.sleep(1)
            assert inside.now == 0
            permits.limit = 2
            await trio.sleep(0.1)
            assert inside.now == 2
            permits.limit = 1
            await trio.sleep(4.95)
            assert inside.now == 1
    assert inside.most == 2


# --- waiting ------------------------------------------------------------------------------------------------------------------


async def test_a_wait_that_is_too_long_is_refused_and_leaves_no_place_in_the_queue(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits, other = semaphore(engine, max_wait=2), semaphore(engine)
        async with other:
            began_at = trio.current_time()
            with pytest.raises(BulkheadFullError, match=r"db: .*max_wait=2 s") as caught:
                async with permits:
                    raise AssertionError
            assert trio.current_time() - began_at == 2
            assert caught.value.started is False
        async with other:
            pass
        assert permits.statistics().rejected == 1
        async with permits:
            pass


@pytest.mark.parametrize("options", [{"max_wait": 0}, {"max_waiting": 0}])
async def test_nobody_waits_where_nobody_may(options: dict[str, float], autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine, **options)
        async with permits:
            began_at = trio.current_time()
            with pytest.raises(BulkheadFullError, match="nobody may wait"):
                await permits.call(trio.sleep, 1)
            assert trio.current_time() == began_at
        await permits.call(trio.sleep, 1)


async def test_the_queue_of_all_processes_has_one_length(autojump_clock: MockClock) -> None:
    inside = Inside()
    async with MemoryEngine() as engine, trio.open_nursery() as nursery:
        processes = [semaphore(engine, max_waiting=2) for _ in range(3)]
        for permits in processes:
            nursery.start_soon(inside.use, permits, 1)
        await wait_all_tasks_blocked()
        with pytest.raises(BulkheadFullError, match="2 wait already"):
            await processes[0].call(trio.sleep, 1)
    assert inside.most == 1


async def test_a_cancelled_waiter_passes_the_permit_on(autojump_clock: MockClock) -> None:
    seen: list[tuple[float, int | None]] = []
    async with MemoryEngine() as engine:
        permits, other = semaphore(engine), semaphore(engine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_for, permits, 1)
            await trio.sleep(0.1)
            with trio.move_on_after(0.5):
                await hold_for(permits, 1)
            nursery.start_soon(hold_for, other, 1, seen)
        assert [at for at, _ in seen] == [1]


# --- leases -------------------------------------------------------------------------------------------------------------------


async def test_a_permit_is_kept_as_long_as_its_block_runs(autojump_clock: MockClock) -> None:
    seen: list[tuple[float, int | None]] = []
    async with MemoryEngine() as engine:
        permits, other = semaphore(engine), semaphore(engine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_for, permits, 50)
            await trio.sleep(1)
            nursery.start_soon(hold_for, other, 1, seen)
        assert [at for at, _ in seen] == [50]
        assert engine.statistics().evaluations <= 110  # one a second from each of them, and a few


async def test_the_permit_of_a_process_that_died_is_free_when_its_lease_ends(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine, lease=30)
        dead = await occupy(engine)
        began_at = trio.current_time()
        async with permits as hold:
            assert LEASE <= trio.current_time() - began_at <= LEASE + 0.01
            assert hold.fence is not None
            assert hold.fence > dead


async def test_a_process_that_died_while_it_waited_is_passed_over(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits, other = semaphore(engine), semaphore(engine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_for, permits, 10)
            await wait_all_tasks_blocked()
            assert await occupy(engine) == 0
            nursery.start_soon(hold_for, other, 1)
            await trio.sleep(9)
            with trio.fail_after(1.001):
                while not other.statistics().inside:  # noqa: ASYNC110 -- nothing tells
                    await trio.sleep(0.001)


async def test_a_block_is_cancelled_before_its_permit_can_go_to_another(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine)
        with pytest.raises(LeaseLostError, match=r"db: key 'trioresil:\{db\}:permits:expiries': the lease") as caught:
            async with permits as hold:
                began_at = trio.current_time()
                engine.freeze()
                await trio.sleep_forever()
        assert trio.current_time() - began_at == pytest.approx(0.9 * LEASE)
        assert caught.value.fence == hold.fence
        assert caught.value.started is True
        assert caught.value.__context__ is None
        assert permits.statistics().lost == 1
        engine.resume()
        await trio.sleep(1)
        async with permits:
            pass


async def test_a_lease_that_is_renewed_late_counts_from_then(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine)
        with pytest.raises(LeaseLostError):
            async with permits:
                await trio.sleep(0.5)
                engine.freeze()
                await trio.sleep(1.5)
                engine.resume()  # two thirds of the lease are over, and it is renewed at once
                await trio.sleep(0.1)
                began_at = trio.current_time() - 0.1
                engine.kill()
                await trio.sleep_forever()
        assert trio.current_time() - began_at == pytest.approx(0.9 * LEASE, abs=0.01)


async def test_a_call_that_lost_its_permit_has_no_result(autojump_clock: MockClock) -> None:
    async def work(clean_up: float) -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(clean_up)
        return "done"

    async with MemoryEngine() as engine:
        permits = semaphore(engine)

        async def while_frozen(seconds: float) -> str:
            engine.freeze()
            return await work(seconds)

        assert await permits.call(while_frozen, 0.95 * LEASE) == "done"  # it was its own until the end
        engine.resume()
        await trio.sleep(LEASE)
        with pytest.raises(LeaseLostError):
            await permits.call(while_frozen, LEASE)
        engine.resume()
        await trio.sleep(LEASE)
        with pytest.raises(LeaseLostError):
            async with permits as hold:
                assert not hold.lost
                await while_frozen(LEASE)
                assert hold.lost
        assert permits.statistics().lost == 2


async def test_an_error_of_the_block_goes_before_the_loss(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine)
        with pytest.raises(LookupError):
            async with permits:
                engine.freeze()
                try:
                    await trio.sleep_forever()
                finally:
                    raise LookupError


async def test_a_cancellation_from_outside_is_not_taken_for_a_loss(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine)
        with trio.move_on_after(1) as scope:
            async with permits:
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert permits.statistics().lost == 0


async def test_a_server_that_forgot_all_learns_of_the_holders_again(autojump_clock: MockClock) -> None:
    seen: list[tuple[float, int | None]] = []
    async with MemoryEngine() as engine:
        permits, other = semaphore(engine, 2), semaphore(engine, 2)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(hold_for, permits, 10)
            await trio.sleep(0.1)
            engine.kill()
            engine.flush()
            engine.resume()
            await trio.sleep(0.1)
            nursery.start_soon(hold_for, other, 1, seen)
        assert [at for at, _ in seen] == [10]
        assert permits.statistics().lost == 0


async def test_a_holder_that_was_forgotten_and_replaced_has_lost_its_permit(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine)
        with pytest.raises(LeaseLostError, match="forgotten") as caught:
            async with permits as hold:
                await trio.sleep(0.1)
                engine.flush()
                newer = await occupy(engine)
                await trio.sleep_forever()
        assert trio.current_time() == LEASE / 3
        assert caught.value.fence == hold.fence
        assert hold.fence is not None
        assert newer > hold.fence


async def test_a_waiter_that_was_forgotten_waits_on(autojump_clock: MockClock) -> None:
    seen: list[tuple[float, int | None]] = []
    async with MemoryEngine() as engine:
        permits = semaphore(engine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_for, permits, 5)
            await wait_all_tasks_blocked()
            nursery.start_soon(hold_for, permits, 1, seen)
            await trio.sleep(0.1)
            engine.flush()
        assert [at for at, _ in seen] == [5]


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
async def test_a_clock_that_is_set_blocks_nobody(step: float, autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine)
        await occupy(engine)
        engine.step_clock(step)
        began_at = trio.current_time()
        async with permits:
            pass
        assert trio.current_time() - began_at <= LEASE + 0.01


class Deaf(MemoryEngine):
    """An engine whose messages get lost."""

    def _run(self, request: Any) -> None:
        subscriptions, self._subscriptions = self._subscriptions, type(self._subscriptions)(list)
        super()._run(request)
        self._subscriptions = subscriptions


async def test_a_grant_whose_message_was_lost_is_found(autojump_clock: MockClock) -> None:
    async with Deaf() as engine:
        permits, other = semaphore(engine), semaphore(engine)
        seen: list[tuple[float, int | None]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_for, permits, 1.5)
            await trio.sleep(0.1)
            nursery.start_soon(hold_for, other, 1, seen)
        assert 1.5 <= seen[0][0] <= 1.5 + LEASE / 3


async def test_messages_that_may_have_been_missed_are_asked_for_at_once(autojump_clock: MockClock) -> None:
    async with Deaf() as engine:
        permits, other = semaphore(engine), semaphore(engine)
        seen: list[tuple[float, int | None]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_for, permits, 1.5)
            await trio.sleep(0.1)
            nursery.start_soon(hold_for, other, 1, seen)
            await trio.sleep(1.45)
            assert seen == []
            for subscriptions in engine._subscriptions.values():
                for each in subscriptions:
                    each.receive(None)
            await wait_all_tasks_blocked()
            assert len(seen) == 1


async def test_a_message_may_come_before_the_answer(autojump_clock: MockClock) -> None:
    async with MemoryEngine(latency=0.04) as engine:
        permits, other = semaphore(engine), semaphore(engine)
        seen: list[tuple[float, int | None]] = []
        async with trio.open_nursery() as nursery:
            async with permits:
                began_at = trio.current_time()
                nursery.start_soon(hold_for, other, 1, seen)
                await trio.sleep(0.01)
        assert seen[0][0] - began_at == pytest.approx(0.04)


# --- cancelled anywhere -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["block", "call"])
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("latency", [0.0, 0.01])
def test_cancelled_at_any_moment_no_permit_is_lost(form: str, busy: bool, latency: float) -> None:
    async def scenario(sweep: Sweep) -> None:
        inside = Inside()
        async with MemoryEngine(latency=latency) as engine:
            permits, other = semaphore(engine, lease=1000), semaphore(engine, lease=1000)
            async with trio.open_nursery() as nursery:
                if busy:
                    nursery.start_soon(inside.use, other, 1)
                    await trio.sleep(0.1)
                with sweep.victim():
                    await (permits.call(trio.sleep, 1) if form == "call" else inside.use(permits, 1))
                nursery.start_soon(inside.use, other, 1)
            with trio.fail_after(100):
                await inside.use(other, 1)
            assert inside.most == 1
            assert permits.statistics().waiting == permits.statistics().inside == 0
            await trio.sleep(1)
            assert not permits._released

    assert cancellation_sweep(scenario).cancelled > 2


steps = st.lists(
    st.tuples(
        st.integers(0, 2),  # process
        st.sampled_from([0.0, 0.001, 0.5, 1.0, 2.5]),  # comes at
        st.sampled_from([0.0, 0.2, 1.0, 4.0]),  # holds for
        st.sampled_from([0.0005, 0.3, 1.0, 99.0, 99.0]),  # patience
    ),
    min_size=1,
    max_size=20,
)
troubles = st.lists(
    st.tuples(st.sampled_from([0.1, 0.7, 1.3, 3.0]), st.sampled_from(["freeze", "kill", "resume", "deaf"])), max_size=4
)


@settings(max_examples=60, deadline=None)
@given(plan=steps, limit=st.integers(1, 3), latency=st.sampled_from([0.0, 0.002]), troubles=troubles)
def test_whatever_happens_the_limit_holds_and_all_permits_come_back(
    plan: list[tuple[int, float, float, float]], limit: int, latency: float, troubles: list[tuple[float, str]]
) -> None:
    async def main() -> None:
        inside = Inside()

        async def come(permits: SharedSemaphore, at: float, seconds: float, patience: float) -> None:
            await trio.sleep(at)
            with trio.move_on_after(patience):
                with contextlib.suppress(SharedStateUnavailableError, LeaseLostError):
                    await inside.use(permits, seconds)

        async with MemoryEngine(latency=latency) as engine:
            processes = [semaphore(engine, limit) for _ in range(3)]
            async with trio.open_nursery() as nursery:
                for process, at, seconds, patience in plan:
                    nursery.start_soon(come, processes[process], at, seconds, patience)
                for at, trouble in sorted(troubles):
                    await trio.sleep_until(at)
                    if trouble == "deaf":
                        for subscriptions in engine._subscriptions.values():
                            for each in subscriptions:
                                each._receive = _ignore
                    else:
                        getattr(engine, trouble)()
                await trio.sleep(1)
                engine.resume()
            assert inside.most <= limit
            await trio.sleep(LEASE + 0.1)
            with trio.fail_after(0.01):
                async with trio.open_nursery() as nursery:
                    for _ in range(limit):
                        nursery.start_soon(inside.use, processes[0], 0.0)

    trio.run(main, clock=MockClock(autojump_threshold=0))


def _ignore(message: str | None) -> None:
    pass


# --- the server is away -------------------------------------------------------------------------------------------------------


async def test_fail_closed_refuses_at_once_and_recovers_by_itself(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine)
        engine.kill()
        began_at = trio.current_time()
        with pytest.raises(SharedStateUnavailableError, match="db: ") as caught:
            await permits.call(trio.sleep, 1)
        assert trio.current_time() == began_at
        assert caught.value.started is False
        assert "server is away" in repr(permits)
        engine.resume()
        await permits.call(trio.sleep, 1)
        statistics = permits.statistics()
        assert (statistics.unavailable, statistics.rejected, statistics.granted) == (1, 1, 1)


async def test_a_frozen_server_is_waited_for_as_long_as_was_said(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine, timeout=0.2)
        engine.freeze()
        began_at = trio.current_time()
        with pytest.raises(SharedStateUnavailableError):
            await permits.call(trio.sleep, 1)
        assert trio.current_time() - began_at == pytest.approx(0.2)


async def test_who_waits_when_the_server_goes_away_is_told(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits, other = semaphore(engine), semaphore(engine)
        async with other, trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(SharedStateUnavailableError):
                    await permits.call(trio.sleep, 1)

            nursery.start_soon(wait)
            await trio.sleep(0.1)
            engine.kill()
            await wait_all_tasks_blocked()
            assert permits.statistics().waiting == 0
            engine.resume()
        await permits.call(trio.sleep, 1)  # its place in the queue was given back, too


async def test_fail_open_lets_all_pass_without_a_number(autojump_clock: MockClock) -> None:
    inside = Inside()
    async with MemoryEngine() as engine:
        permits = semaphore(engine, on_unavailable=FailOpen())
        engine.kill()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(inside.use, permits, 1)
        assert inside.most == 5
        async with permits as hold:
            assert hold.fence is None
            assert not hold.lost
            engine.resume()
            await trio.sleep(2 * LEASE)
        assert permits.statistics().unavailable == 6


@pytest.mark.parametrize(("share", "most"), [(0.5, 2), (0.1, 1)])
async def test_fail_local_limits_this_process(share: float, most: int, autojump_clock: MockClock) -> None:
    inside = Inside()
    async with MemoryEngine() as engine:
        permits = semaphore(engine, 4, on_unavailable=FailLocal(share=share), max_wait=100)
        engine.kill()
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(inside.use, permits, 1)
        assert inside.most == most
        permits.limit = 20
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(inside.use, permits, 1)
        assert inside.most == 20 * share
        assert permits.statistics().inside == 0


class Refusing(MemoryEngine):
    async def eval(self, script: Any, *args: Any, **options: Any) -> Any:
        from trioresil.redis import ScriptRefusedError

        await trio.lowlevel.checkpoint()
        raise ScriptRefusedError("NOPERM this user has no permissions")


async def test_what_the_server_refuses_is_named_with_its_key(autojump_clock: MockClock) -> None:
    async with Refusing() as engine:
        permits = semaphore(engine, on_unavailable=FailOpen())
        with pytest.raises(SharedStateError, match=r"db: key 'trioresil:\{db\}:permits:expiries': NOPERM"):
            await permits.call(trio.sleep, 1)


# --- forms --------------------------------------------------------------------------------------------------------------------


async def test_forms(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine)

        @permits
        async def double(n: int) -> int:
            assert permits.statistics().inside == 1
            return 2 * n

        assert await double(2) == 4
        assert await permits.call(double.__wrapped__, 3) == 6
        assert await Pipeline(trioresil.Timeout(1), permits).call(double.__wrapped__, 4) == 8
        with pytest.raises(LookupError):
            async with permits:
                raise LookupError
        assert permits.statistics().inside == 0
        assert permits.statistics().granted == 4


async def test_blocks_of_one_task_may_be_nested(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine, 2)
        async with permits as outer:
            async with permits as inner:
                assert inner.fence is not None
                assert outer.fence is not None
                assert inner.fence > outer.fence
                assert permits.statistics().inside == 2
            assert permits.statistics().inside == 1
        with pytest.raises(RuntimeError, match="in the task that entered it"):
            await permits.__aexit__(None, None, None)


async def test_closing_the_engine_ends_the_waiting(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(RuntimeError, match="its engine 'memory' was closed"):
                await hold_for(permits, 1)

        async with MemoryEngine() as engine:
            permits = semaphore(engine)
            await occupy(engine, lease=100)
            nursery.start_soon(wait)
            await trio.sleep(1)


async def test_it_is_announced_and_its_rejections_are_events(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine, max_wait=0)
        recorder = Recorder()
        with trioresil.instrument(recorder):
            async with permits:
                with pytest.raises(BulkheadFullError):
                    await permits.call(trio.sleep, 1)
        assert [type(event).__name__ for event in recorder.events].count("CallRejected") == 1


async def test_repr_tells_the_state(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine, 2)
        async with permits as hold:
            assert repr(permits) == (
                "<trioresil.redis.SharedSemaphore 'db' limit 2, 1 inside and 0 waiting in this process>"
            )
            assert repr(hold) == f"<trioresil.redis.Hold fence {hold.fence}>"
        assert repr(Hold("")) == "<trioresil.redis.Hold without the server>"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": -1}, "limit must be"),
        ({"limit": 1.5}, "limit must be"),
        ({"limit": math.inf}, "limit must be"),
        ({"lease": 0.2}, "lease must be"),
        ({"lease": math.inf}, "lease must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"max_wait": -1}, "max_wait must be"),
        ({"max_waiting": -1}, "max_waiting must be"),
        ({"on_unavailable": FailOpen}, "on_unavailable must be"),
        ({"name": "a{b}"}, "name must be"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    make: Callable[..., SharedSemaphore] = semaphore
    with pytest.raises((TypeError, ValueError), match=message):
        make(MemoryEngine(), **{"limit": 1, **options})


def test_an_engine_is_wanted() -> None:
    with pytest.raises(TypeError, match="engine must be what"):
        SharedSemaphore("redis://", "db", limit=1, on_unavailable=FailOpen())  # type: ignore[arg-type]


# --- what goes wrong in between -----------------------------------------------------------------------------------------------


async def test_a_grant_that_comes_when_its_lease_is_over_is_given_back_and_asked_for_anew(
    mock_clock: MockClock,
) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine)
        await occupy(engine)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                async with permits as hold:
                    assert not hold.lost

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            next(iter(permits._holds.values()))._grant(99)
            mock_clock.jump(LEASE)  # as if this program had been stopped before it could go on
        assert permits.statistics().granted == 1


async def test_a_waiter_looks_when_the_next_lease_ends_also_if_its_agent_runs_already(
    autojump_clock: MockClock,
) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine, lease=300)
        async with permits:
            pass
        await trio.sleep(1)
        await occupy(engine)
        began_at = trio.current_time()
        async with permits:
            assert trio.current_time() - began_at <= LEASE + 0.02


@pytest.mark.parametrize("again", [False, True])
async def test_what_was_given_back_in_an_outage_is_told_afterwards(again: bool, autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits, other = semaphore(engine, lease=1000), semaphore(engine, lease=1000)
        async with permits:
            engine.freeze()
        if again:  # the request carries the news, and gets no answer
            with pytest.raises(SharedStateUnavailableError):
                await permits.call(trio.sleep, 0)
        engine.kill()
        await trio.sleep(1)
        engine.resume()
        await trio.sleep(1)
        assert not permits._released
        with trio.fail_after(1):
            await other.call(trio.sleep, 0)


async def test_what_was_given_back_is_forgotten_when_its_lease_is_over_anyway(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine, 2)
        with pytest.raises(LeaseLostError):
            async with permits:
                async with permits:
                    engine.kill()
                await trio.sleep(1)
                assert len(permits._released) == 1
                await trio.sleep(LEASE)
        await trio.sleep(1)
        with pytest.raises(SharedStateUnavailableError):
            await permits.call(trio.sleep, 0)
        assert len(permits._released) == 1  # this last one


class Stumbling(MemoryEngine):
    """An engine that now and then gives no answer, and is not away for all that; or is slow to send."""

    stumbles = 0
    delay = 0.0

    async def eval(self, script: Any, *args: Any, **options: Any) -> Any:
        if script.name == "renew leases":
            if self.stumbles:
                self.stumbles -= 1
                raise EngineDownError("no answer")
            await trio.sleep(self.delay)
        return await super().eval(script, *args, **options)


async def test_a_renewal_that_failed_is_tried_again_soon(autojump_clock: MockClock) -> None:
    async with Stumbling() as engine:
        permits = semaphore(engine)
        async with permits as hold:
            await trio.sleep(0.5)
            engine.stumbles = 3
            await trio.sleep(0.6 + LEASE / 30 * 3)
            assert engine.stumbles == 0
            assert hold._until >= 1 + LEASE


async def test_a_renewal_that_overtakes_a_release_takes_nothing_back(autojump_clock: MockClock) -> None:
    async with Stumbling() as engine:
        permits, other = semaphore(engine, lease=300), semaphore(engine, lease=300)
        async with permits:
            await trio.sleep(50)
            engine.delay = 0.01
            await trio.sleep_until(100.005)  # the renewal is about to be sent, and names this hold
        await trio.sleep(1)
        with trio.fail_after(1):
            await other.call(trio.sleep, 0)


async def test_the_limit_may_be_set_when_the_engine_is_closed(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine:
        permits = semaphore(engine)
        await permits.call(trio.sleep, 0)
    permits.limit = 2
    assert permits.limit == 2


async def test_what_is_granted_to_the_process_that_released_comes_with_the_answer(autojump_clock: MockClock) -> None:
    async with MemoryEngine() as engine, trio.open_nursery() as nursery:
        semaphore = SharedSemaphore(engine, "jobs", limit=1, on_unavailable=FailClosed())
        await semaphore.call(trio.sleep, 0)
        engine._subscriptions.clear()  # so that no message arrives
        for _ in range(3):
            nursery.start_soon(semaphore.call, trio.sleep, 1)
        await trio.sleep(2.5)
        assert (semaphore.statistics().inside, semaphore.statistics().waiting) == (1, 0)
