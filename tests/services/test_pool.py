"""open_pool: what it lends, when it closes, whom it turns away; to the second."""

from __future__ import annotations

import functools
import gc
import math
import random
import threading
import weakref
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trioresil
from tests._limits import notices_cancellation, schedule_points, start_in_order
from tests.services._connections import Connection, Peer
from trioresil import (
    CallRejected,
    ConnectFailed,
    ConnectionClosed,
    ConnectionOpened,
    Pool,
    PoolClosedError,
    PoolFullError,
    TimedOutError,
    open_pool,
    serve_pool,
)
from trioresil._links import passage
from trioresil.testing import Recorder


async def use(pool: Pool[Any], seconds: float = 0.0) -> int:
    async with pool.connection() as connection:
        with connection:
            await trio.sleep(seconds)
            return int(connection.number)


async def fail_in(pool: Pool[Any], error: BaseException) -> None:
    async with pool.connection():
        raise error


async def cancel_in(pool: Pool[Any]) -> None:
    with trio.CancelScope() as scope:
        async with pool.connection():
            scope.cancel()
            await trio.sleep_forever()


# --- lending ---------------------------------------------------------------------------------------------------------


async def test_connection_is_made_once_and_lent_again(autojump_clock: MockClock) -> None:
    peer = Peer(connect=1)
    async with open_pool(peer.connect) as pool:
        assert [await use(pool), await use(pool)] == [0, 0]
        assert trio.current_time() == 1
        statistics = pool.statistics()
    assert (statistics.opened, statistics.reused, statistics.idle, statistics.leased) == (1, 1, 1, 0)


async def test_newest_idle_connection_is_lent_first(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with open_pool(peer.connect) as pool:
        async with pool.connection() as first, pool.connection() as second:
            assert (first.number, second.number) == (0, 1)
        assert await use(pool) == 0  # given back last


@pytest.mark.parametrize("shared", [False, True])
async def test_callers_are_served_in_the_order_of_arrival(autojump_clock: MockClock, shared: bool) -> None:
    peer, served = Peer(), []

    async def visit(name: str) -> None:
        async with pool.connection() as connection:
            served.append((name, connection.number, trio.current_time()))
            await trio.sleep(1)

    limiter = trio.CapacityLimiter(1) if shared else None
    async with open_pool(peer.connect, max_size=5 if shared else 1, limiter=limiter) as pool:
        async with trio.open_nursery() as nursery:
            await start_in_order(nursery, *(functools.partial(visit, name) for name in "abcd"))
            assert pool.statistics().waiting == 3
    assert served == [("a", 0, 0), ("b", 0, 1), ("c", 0, 2), ("d", 0, 3)]


async def test_newcomer_does_not_overtake_a_caller_who_has_just_been_let_in(autojump_clock: MockClock) -> None:
    peer, served = Peer(), []

    async def visit(name: str) -> None:
        async with pool.connection():
            served.append(name)

    async with open_pool(peer.connect, max_size=1) as pool, trio.open_nursery() as nursery:
        async with pool.connection():
            await start_in_order(nursery, functools.partial(visit, "first"))
        await visit("second")
    assert served == ["first", "second"]


async def test_synchronous_functions_are_as_good_as_async_ones(autojump_clock: MockClock) -> None:
    log = []

    def connect() -> Connection:
        log.append("connect")
        return Connection(0)

    def check(connection: Connection) -> bool:
        log.append("check")
        return True

    def reset(connection: Connection) -> None:
        log.append("reset")

    def close(connection: Connection) -> None:
        log.append("close")

    async with open_pool(connect, check=check, reset=reset, close=close) as pool:
        with pytest.raises(ValueError, match="mine"):
            await fail_in(pool, ValueError("mine"))
        await use(pool)
    assert log == ["connect", "reset", "check", "close"]


@pytest.mark.parametrize("methods", [["aclose"], ["close"], ["aclose", "close"], []])
async def test_without_close_a_connection_is_closed_by_its_own_method(
    autojump_clock: MockClock, methods: list[str]
) -> None:
    closed = []

    async def aclose() -> None:
        closed.append("aclose")

    class Own:
        pass

    own = Own()
    for name in methods:
        setattr(own, name, aclose if name == "aclose" else lambda: closed.append("close"))
    async with open_pool(lambda: own) as pool, pool.connection():
        pass
    assert closed == methods[:1]


# --- what becomes of a connection ------------------------------------------------------------------------------------


async def test_block_that_raised_loses_its_connection_and_keeps_its_error(autojump_clock: MockClock) -> None:
    peer, error = Peer(close=0.5), ValueError()
    async with open_pool(peer.connect, close=peer.close, max_size=1) as pool:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            await fail_in(pool, error)
        assert caught.value is error
        assert error.__context__ is None
        assert (trio.current_time(), peer.open) == (0.5, 0)
        assert await use(pool) == 1


async def test_cancelled_block_loses_its_connection_even_with_reset(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with open_pool(peer.connect, reset=peer.reset, close=peer.close) as pool:
        await cancel_in(pool)
        assert peer.open == 0
        assert await use(pool) == 1
        assert not peer.times("reset")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError()])])
async def test_what_is_no_exception_is_not_asked_for_a_reset(autojump_clock: MockClock, error: BaseException) -> None:
    peer = Peer()
    async with open_pool(peer.connect, reset=peer.reset, close=peer.close) as pool:
        with pytest.raises(type(error)):
            await fail_in(pool, error)
        assert peer.open == 0


async def test_reset_runs_before_the_next_use_and_before_check(autojump_clock: MockClock) -> None:
    peer = Peer(reset=1, check=2)
    async with open_pool(peer.connect, reset=peer.reset, check=peer.check, close=peer.close) as pool:
        with pytest.raises(ValueError):  # noqa: PT011
            await fail_in(pool, ValueError())
        await trio.sleep(5)
        assert not peer.times("reset")
        assert await use(pool) == 0
        assert peer.log[1:] == [("reset", 0, 5), ("check", 0, 6)]
        assert await use(pool) == 0  # reset once only
        assert peer.log[3:] == [("check", 0, 8)]


async def test_connection_that_was_reset_and_failed_again_is_reset_again(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with open_pool(peer.connect, reset=peer.reset) as pool:
        for _ in range(3):
            with pytest.raises(ValueError):  # noqa: PT011
                await fail_in(pool, ValueError())
        await use(pool)
        await use(pool)
    assert [number for number, _ in peer.times("reset")] == [0, 0, 0]


@pytest.mark.parametrize("step", ["reset", "check"])
@pytest.mark.parametrize("how", ["error", "time-out", "False"])
async def test_connection_that_fails_reset_or_check_is_closed_and_the_next_is_tried(
    autojump_clock: MockClock, step: str, how: str
) -> None:
    if (step, how) == ("reset", "False"):
        return  # what reset returns says nothing: see below
    peer, recorder = Peer(), Recorder()
    options: dict[str, Any] = {step: getattr(peer, step)}
    async with open_pool(peer.connect, close=peer.close, connect_timeout=3, **options) as pool:
        async with pool.connection(), pool.connection():
            pass
        if step == "reset":
            with pytest.raises(ValueError):  # noqa: PT011
                await fail_in(pool, ValueError())
        error = OSError()
        if how == "error":
            peer.errors[step] = [error]
        elif how == "False":
            peer.answers = [False]
        else:
            peer.seconds[step] = math.inf
        with trioresil.instrument(recorder):
            assert await use(pool) == (2 if how == "time-out" and step == "check" else 1)
        assert [(event.reason, event.age) for event in recorder.of(ConnectionClosed)][:1] == [
            ("discarded" if step == "reset" else "stale", 3 if how == "time-out" else 0)
        ]
        assert pool.statistics().last_error is (error if how == "error" else None)
        if how != "time-out":
            assert peer.open == 1


async def test_what_reset_returns_says_nothing_and_a_check_may_return_none(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with open_pool(peer.connect, reset=lambda _: False, check=lambda _: None, close=peer.close) as pool:
        with pytest.raises(ValueError):  # noqa: PT011
            await fail_in(pool, ValueError())
        assert await use(pool) == 0


async def test_when_no_idle_connection_is_sound_a_new_one_is_made_and_not_checked(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with open_pool(peer.connect, check=peer.check, close=peer.close) as pool:
        async with pool.connection(), pool.connection():
            pass
        peer.answers = [False, False, False]
        assert await use(pool) == 2
        assert [number for number, _ in peer.times("check")] == [0, 1]
        assert peer.open == 1


@pytest.mark.parametrize("step", ["reset", "check"])
async def test_what_is_no_exception_comes_out_of_reset_and_check_and_the_connection_is_closed(
    autojump_clock: MockClock, step: str
) -> None:
    peer = Peer()
    options: dict[str, Any] = {step: getattr(peer, step)}
    async with open_pool(peer.connect, close=peer.close, max_size=1, **options) as pool:
        await use(pool)
        if step == "reset":
            with pytest.raises(ValueError):  # noqa: PT011
                await fail_in(pool, ValueError()) if "reset" in options else None
        peer.errors[step] = [KeyboardInterrupt()]
        with pytest.raises(KeyboardInterrupt):
            await use(pool)
        assert peer.open == 0
        assert await use(pool) == 1


async def test_close_that_fails_is_told_in_statistics_alone(autojump_clock: MockClock) -> None:
    peer, error = Peer(), OSError()
    peer.errors["close"] = [error]
    async with open_pool(peer.connect, close=peer.close) as pool:
        await cancel_in(pool)
        assert pool.statistics().last_error is error
        assert pool.statistics().closing == 0


async def test_close_that_hangs_is_left_after_its_time(autojump_clock: MockClock) -> None:
    peer = Peer(close=math.inf)
    async with open_pool(peer.connect, close=peer.close, close_timeout=2) as pool:
        await cancel_in(pool)
        assert trio.current_time() == 2
        assert pool.statistics().closing == 0


async def test_slot_is_given_back_after_the_close(autojump_clock: MockClock) -> None:
    peer = Peer(close=0.5)
    async with open_pool(peer.connect, close=peer.close, max_size=1) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(cancel_in, pool)
        await wait_all_tasks_blocked(0.25)
        assert pool.statistics().closing == 1
        await use(pool)
        assert trio.current_time() == 0.5
    assert peer.most == 1


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_open_connections_never_exceed_max_size(autojump_clock: MockClock) -> None:
    peer, rng = Peer(connect=1, close=0.7), random.Random(3)

    async def visit() -> None:
        await trio.sleep(rng.randrange(40))
        with trio.move_on_after(rng.choice([0.5, 2, 9])):
            async with pool.connection() as connection:
                with connection:
                    await trio.sleep(rng.randrange(3))

    def check() -> None:
        statistics = pool.statistics()
        assert statistics.leased + statistics.idle + statistics.connecting + statistics.closing <= 3

    async with open_pool(
        peer.connect, close=peer.close, max_size=3, min_idle=2, max_idle_time=2, max_lifetime=9, rng=rng
    ) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(visit)
            for _ in range(50):
                await trio.sleep(1)
                check()
    assert peer.most == 3
    assert peer.open == 0


async def test_shared_limiter_caps_leases_and_not_idle_connections(autojump_clock: MockClock) -> None:
    limiter, peers = trio.CapacityLimiter(2), [Peer(), Peer()]
    async with (
        open_pool(peers[0].connect, limiter=limiter) as first,
        open_pool(peers[1].connect, limiter=limiter) as second,
    ):
        async with first.connection(), first.connection():
            with pytest.raises(trio.TooSlowError):
                with trio.fail_after(1):
                    await use(second)
        assert await use(second) == 0
        assert (first.statistics().idle, second.statistics().idle) == (2, 1)
        assert limiter.borrowed_tokens == 0


async def test_own_slot_is_taken_before_the_shared_one(autojump_clock: MockClock) -> None:
    limiter, peer = trio.CapacityLimiter(1), Peer()
    async with open_pool(peer.connect, max_size=1, limiter=limiter) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(use, pool, 1)
        await wait_all_tasks_blocked()
        nursery.start_soon(use, pool, 1)  # waits for its own slot, and takes nothing of the others'
        await wait_all_tasks_blocked()
        assert limiter.statistics().tasks_waiting == 0
        assert pool.statistics().waiting == 1


@pytest.mark.parametrize("shared", [False, True])
async def test_longest_wait_covers_both_limits_and_not_the_connect(autojump_clock: MockClock, shared: bool) -> None:
    peer, limiter = Peer(connect=5), trio.CapacityLimiter(1)
    recorder = Recorder()
    async with open_pool(peer.connect, max_size=2 if shared else 1, max_wait=3, limiter=limiter, name="db") as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, pool, 2)
            await wait_all_tasks_blocked()
            with trioresil.instrument(recorder), pytest.raises(PoolFullError) as caught:
                await use(pool)
            assert trio.current_time() == 3
        error = caught.value
        assert (error.policy, error.max_wait, error.retry_after, error.started) == ("db", 3, None, False)
        assert str(error) == "db: every connection is in use, and none came free within max_wait=3"
        assert [event.error for event in recorder.of(CallRejected)] == [error]
        assert pool.statistics().rejected == 1
        assert limiter.borrowed_tokens == 0


async def test_who_is_let_in_as_the_longest_wait_ends_is_in(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with open_pool(peer.connect, max_size=1, max_wait=1) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(use, pool, 1)
        await wait_all_tasks_blocked()
        try:
            assert await use(pool) == 0
        except PoolFullError:
            assert pool.statistics().leased == 0
        assert trio.current_time() == 1


async def test_without_a_wait_a_full_pool_rejects_at_once(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with open_pool(peer.connect, max_size=1, max_wait=0) as pool:
        async with pool.connection():
            assert await schedule_points(functools.partial(rejected, pool, PoolFullError)) == 1
        assert await use(pool) == 0


async def rejected(pool: Pool[Any], by: type[Exception]) -> None:
    with pytest.raises(by):
        await use(pool)


async def test_task_that_holds_everything_is_told_that_it_would_wait_for_itself(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with open_pool(peer.connect, max_size=2, name="db") as pool:
        async with pool.connection(), pool.connection():
            with pytest.raises(RuntimeError, match="db: this task holds all 2 connections itself"):
                await use(pool)
        async with pool.connection(), trio.open_nursery() as nursery:
            nursery.start_soon(use, pool, 1)
            await wait_all_tasks_blocked()
            await use(pool)  # somebody else holds one
        assert pool.statistics().idle == 2


# --- connecting ------------------------------------------------------------------------------------------------------


async def test_error_of_connect_comes_out_and_gives_the_slot_back(autojump_clock: MockClock) -> None:
    peer, error, recorder = Peer(), OSError(), Recorder()
    peer.errors["connect"] = [error]
    async with open_pool(peer.connect, max_size=1) as pool:
        with trioresil.instrument(recorder), pytest.raises(OSError) as caught:  # noqa: PT011
            await use(pool)
        assert caught.value is error
        assert [(event.policy, event.origin, event.error) for event in recorder.of(ConnectFailed)] == [
            (pool, None, error)
        ]
        assert pool.statistics().connect_failed == 1
        assert pool.statistics().last_error is None  # the caller has seen it
        assert await use(pool) == 0


async def test_connect_that_takes_too_long_is_a_time_out_that_has_not_started(autojump_clock: MockClock) -> None:
    peer, recorder = Peer(connect=math.inf), Recorder()
    async with open_pool(peer.connect, max_size=1, connect_timeout=4, name="db") as pool:
        with trioresil.instrument(recorder), pytest.raises(TimedOutError) as caught:
            await use(pool)
        assert (trio.current_time(), caught.value.seconds, caught.value.started) == (4, 4, False)
        assert caught.value.policy == "db"
        assert [event.error for event in recorder.of(ConnectFailed)] == [caught.value]
        statistics = pool.statistics()
        assert (statistics.connecting, statistics.connect_failed) == (0, 1)


@pytest.mark.parametrize("wait", ["entrance", "queue", "connect", "check"])
async def test_cancellation_that_passes_out_of_a_wait_says_that_nothing_was_started(
    autojump_clock: MockClock, wait: str
) -> None:
    peer, passed = Peer(), []

    class Passing:
        def __enter__(self) -> None: ...

        def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
            passed.append(error)

    async with open_pool(peer.connect, check=peer.check, max_size=1) as pool, trio.open_nursery() as nursery:
        if wait == "check":
            await use(pool)
        if wait == "queue":
            nursery.start_soon(use, pool, 2)
            await wait_all_tasks_blocked()
        peer.seconds = {wait: math.inf}
        with trio.move_on_after(0 if wait == "entrance" else 1), Passing():
            await use(pool)
    [error] = passed
    assert isinstance(error, trio.Cancelled)
    assert passage(error).started is False


async def test_functions_of_the_user_may_be_interrupted(autojump_clock: MockClock) -> None:
    protected = []

    async def connect() -> Connection:
        protected.append(trio.lowlevel.currently_ki_protected())
        return Connection(0)

    async with open_pool(connect) as pool:
        await use(pool)
    assert protected == [False]


def test_outside_of_trio_it_says_what_to_do() -> None:
    pools: list[Pool[Any]] = []

    async def main() -> None:
        async with open_pool(Peer().connect) as pool:
            pools.append(pool)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    with pytest.raises(RuntimeError, match=r"trioresil runs on Trio: start the program with trio\.run"):
        pools[0].connection().__aenter__().send(None)  # type: ignore[attr-defined]


# --- lifetime and idle time ------------------------------------------------------------------------------------------


async def test_unused_connection_is_closed_after_the_idle_time(autojump_clock: MockClock) -> None:
    peer, recorder = Peer(close=0.5), Recorder()
    with trioresil.instrument(recorder):
        async with open_pool(peer.connect, close=peer.close, max_idle_time=10) as pool:
            for _ in range(3):
                await use(pool, 4)
                await trio.sleep(9)
            assert peer.open == 1
            await trio.sleep(5)
            assert peer.times("close") == [(0, 40)]
            [event] = recorder.of(ConnectionClosed)
            assert (event.policy, event.origin, event.reason, event.age) == (pool, None, "idle", 40)


async def test_idle_time_closes_the_longest_unused_first_and_leaves_the_minimum(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with open_pool(peer.connect, close=peer.close, max_idle_time=10, min_idle=1) as pool:
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for seconds in (1, 2, 3):
                nursery.start_soon(use, pool, seconds)
        await trio.sleep(30)
        assert peer.open == 1
        ends = [at for _, at in peer.times("close")]
        assert ends == [10, 11, 12]
        async with pool.connection():
            await wait_all_tasks_blocked()  # the minimum is kept beside the one that is lent
            before = peer.open
        assert before == 2
        await trio.sleep(10)
        await wait_all_tasks_blocked()
        assert peer.open == 1


async def test_lifetimes_end_exactly_and_are_spread_by_chance(autojump_clock: MockClock) -> None:
    peer, recorder, rng = Peer(), Recorder(), random.Random(5)
    with trioresil.instrument(recorder):
        async with open_pool(peer.connect, close=peer.close, max_lifetime=100, max_idle_time=math.inf, rng=rng) as pool:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(use, pool, 1)
            await trio.sleep(100)
            assert peer.open == 0
    chance = random.Random(5)
    lifetimes = [100 * (1 - 0.1 * chance.random()) for _ in range(5)]
    assert sorted(at for _, at in peer.times("close")) == sorted(lifetimes)
    assert all(90 < lifetime <= 100 for lifetime in lifetimes)
    assert {(event.reason, event.age) for event in recorder.of(ConnectionClosed)} == {
        ("expired", at) for at in lifetimes
    }


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


async def test_lent_connection_outlives_its_lifetime_and_is_closed_when_given_back(autojump_clock: MockClock) -> None:
    peer = Peer(close=0.5)
    async with open_pool(peer.connect, close=peer.close, max_lifetime=10, max_size=1, rng=NoJitter()) as pool:
        async with pool.connection():
            await trio.sleep(25)
            assert peer.open == 1
        assert trio.current_time() == 25  # giving back doesn't wait
        assert await use(pool) == 1
        assert peer.times("close") == [(0, 25)]
        assert trio.current_time() == 25.5
    assert peer.most == 1


async def test_expired_connection_is_not_lent_even_in_the_instant_in_which_it_expires(
    autojump_clock: MockClock,
) -> None:
    peer = Peer()
    async with open_pool(peer.connect, close=peer.close, max_lifetime=10, rng=NoJitter()) as pool:
        await use(pool)
        autojump_clock.jump(10)
        assert await use(pool) == 1
        assert peer.times("close") == [(0, 10)]


async def test_connection_that_expires_while_every_slot_is_taken_is_closed_when_one_is_free(
    autojump_clock: MockClock,
) -> None:
    peer, limiter = Peer(), trio.CapacityLimiter(1)
    async with open_pool(
        peer.connect, close=peer.close, max_size=1, max_lifetime=10, limiter=limiter, rng=NoJitter()
    ) as pool:
        await use(pool)
        async with limiter, trio.open_nursery() as nursery:
            nursery.start_soon(cancelled_after, 20, pool)
            await trio.sleep(30)
        assert peer.times("close") == [(0, 20)]
        assert peer.open == 0


async def cancelled_after(seconds: float, pool: Pool[Any]) -> None:
    with trio.move_on_after(seconds):
        await use(pool)


async def test_nothing_runs_while_nothing_is_due(autojump_clock: MockClock) -> None:
    steps = 0

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += "clears up" in task.name or "fills up" in task.name

    peer = Peer()
    async with open_pool(peer.connect, min_idle=1, max_idle_time=10, name="db") as pool:
        await trio.sleep(1)
        trio.lowlevel.add_instrument(Steps())
        for _ in range(100):
            await use(pool, 0.01)
        quiet, steps = steps, 0
        await trio.sleep(1000)
    assert quiet <= 12
    assert steps <= 4


# --- the minimum -----------------------------------------------------------------------------------------------------


async def test_minimum_is_connected_ahead_and_again_after_each_loss(autojump_clock: MockClock) -> None:
    peer = Peer(connect=1)
    async with open_pool(peer.connect, close=peer.close, min_idle=2, max_size=3) as pool:
        await trio.sleep(2)
        await wait_all_tasks_blocked()
        assert pool.statistics().idle == 2
        await cancel_in(pool)
        await trio.sleep(1)
        await wait_all_tasks_blocked()
        assert (pool.statistics().idle, pool.statistics().reused) == (2, 1)
        async with pool.connection(), pool.connection():
            await trio.sleep(5)
            assert (pool.statistics().idle, peer.open) == (1, 3)  # there is no room for more


async def test_connect_that_fails_for_the_minimum_is_tried_again_with_backoff(autojump_clock: MockClock) -> None:
    peer, rng, errors = Peer(), random.Random(7), [OSError(number) for number in range(4)]
    peer.errors["connect"] = list(errors)
    recorder = Recorder()
    with trioresil.instrument(recorder):
        async with open_pool(peer.connect, min_idle=1, rng=rng) as pool:
            await trio.sleep(0.001)
            assert pool.statistics().last_error is errors[0]
            await trio.sleep(60)
            assert pool.statistics().idle == 1
            assert pool.statistics().connect_failed == 4
            assert pool.statistics().last_error is errors[3]
    chance = random.Random(7)
    delays = trioresil.exponential().delays(chance)
    at, wanted = 0.0, [0.0]
    for _ in range(4):
        at += next(delays)
        wanted.append(at)
    assert [at for _, at in peer.times("connect")] == wanted
    assert [event.error for event in recorder.of(ConnectFailed)] == errors


async def test_minimum_is_connected_again_where_connections_are_checked(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with open_pool(peer.connect, check=peer.check, min_idle=1) as pool:
        await trio.sleep(1)
        async with pool.connection():
            await trio.sleep(1)
            assert pool.statistics().idle == 1


async def test_minimum_is_connected_when_a_close_makes_room(autojump_clock: MockClock) -> None:
    peer = Peer(close=0.5)
    async with open_pool(peer.connect, close=peer.close, min_idle=1, max_size=1) as pool:
        await trio.sleep(1)
        await cancel_in(pool)
        await wait_all_tasks_blocked()
        assert pool.statistics().idle == 1
    assert peer.most == 1


async def test_minimum_is_connected_when_a_failed_connect_makes_room(autojump_clock: MockClock) -> None:
    peer = Peer(connect=0.5)
    peer.fail("connect", OSError())
    async with open_pool(peer.connect, min_idle=1, max_size=1) as pool:
        with pytest.raises(OSError):  # noqa: PT011
            await use(pool)
        await trio.sleep(1)
        assert pool.statistics().idle == 1


async def test_backoff_starts_afresh_after_a_success(autojump_clock: MockClock) -> None:
    peer = Peer()
    peer.errors["connect"] = [OSError(number) for number in range(6)]

    class Half(random.Random):
        def random(self) -> float:
            return 0.5

    async with open_pool(peer.connect, close=peer.close, min_idle=1, rng=Half()) as pool:
        await trio.sleep(20)
        assert pool.statistics().idle == 1
        peer.errors["connect"] = [OSError()]
        before = len(peer.times("connect"))
        await cancel_in(pool)
        await trio.sleep(1)
        [first, second] = [at for _, at in peer.times("connect")[before:]]
        assert second - first == pytest.approx(0.05)


async def test_borrower_whose_connect_fails_leaves_room_for_the_minimum(autojump_clock: MockClock) -> None:
    peer = Peer()
    peer.errors["connect"] = [OSError(), OSError()]
    async with open_pool(peer.connect, min_idle=1, max_size=1) as pool:
        await trio.sleep(30)
        async with pool.connection():
            pass
        assert pool.statistics().idle == 1


# --- closing ---------------------------------------------------------------------------------------------------------


async def test_leaving_closes_what_is_idle_all_at_once_within_the_bound(autojump_clock: MockClock) -> None:
    peer = Peer(close=math.inf)
    async with open_pool(peer.connect, close=peer.close, close_timeout=2) as pool:
        async with pool.connection(), pool.connection(), pool.connection():
            pass
    assert trio.current_time() == 2
    assert peer.open == 0
    assert pool.statistics().idle == pool.statistics().closing == 0


async def test_leaving_does_not_wait_for_leases_and_they_are_closed_when_given_back(autojump_clock: MockClock) -> None:
    peer, recorder = Peer(close=0.5), Recorder()
    async with trio.open_nursery() as nursery:
        with trioresil.instrument(recorder):
            async with open_pool(peer.connect, close=peer.close) as pool:
                nursery.start_soon(use, pool, 10)
                await wait_all_tasks_blocked()
            assert trio.current_time() == 0
            assert pool.statistics().leased == 1
            await pool.wait_drained()
            assert (trio.current_time(), peer.open) == (10.5, 0)
    assert [event.reason for event in recorder.of(ConnectionClosed)] == ["closed"]


async def test_whoever_comes_after_the_end_is_rejected(autojump_clock: MockClock) -> None:
    async with open_pool(Peer().connect, name="db") as pool:
        pass
    assert await schedule_points(functools.partial(rejected, pool, PoolClosedError)) == 1
    with pytest.raises(PoolClosedError, match="db: admission is closed") as caught:
        await use(pool)
    assert (caught.value.retry_after, caught.value.started) == (None, False)


@pytest.mark.parametrize("wait", ["queue", "shared", "connect", "check", "reset"])
async def test_whoever_waits_is_rejected_when_the_pool_ends(autojump_clock: MockClock, wait: str) -> None:
    peer, outcomes = Peer(), []
    limiter = trio.CapacityLimiter(1) if wait == "shared" else None
    options: dict[str, Any] = {"check": peer.check} if wait == "check" else {}
    options |= {"reset": peer.reset} if wait == "reset" else {}

    async def visit() -> None:
        with pytest.raises(PoolClosedError):
            await use(pool)
        outcomes.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        async with open_pool(peer.connect, close=peer.close, max_size=1, limiter=limiter, **options) as pool:
            if wait == "queue":
                nursery.start_soon(use, pool, 9)
            elif limiter is not None:
                limiter.acquire_on_behalf_of_nowait(nursery)
            elif wait == "check":
                await use(pool)
            elif wait == "reset":
                with pytest.raises(ValueError):  # noqa: PT011
                    await fail_in(pool, ValueError())
            peer.seconds = {wait: math.inf}
            await wait_all_tasks_blocked()
            nursery.start_soon(visit)
            await trio.sleep(1)
        assert pool.statistics().waiting == 0
    assert outcomes == [1]
    assert pool.statistics().leased == pool.statistics().connecting == 0
    assert peer.open == 0


@pytest.mark.parametrize("step", ["check", "connect"])
async def test_whoever_gets_a_connection_as_the_pool_ends_is_rejected(autojump_clock: MockClock, step: str) -> None:
    peer, answer, outcomes = Peer(), trio.Event(), []

    async def connect() -> Connection:
        if step == "connect":
            await answer.wait()
        return await peer.connect()

    async def check(connection: Connection) -> bool:
        await answer.wait()
        return True

    async def visit() -> None:
        with pytest.raises(PoolClosedError):
            await use(pool)
        outcomes.append("rejected")

    async with trio.open_nursery() as nursery:
        async with open_pool(connect, close=peer.close, check=check if step == "check" else None) as pool:
            if step == "check":
                await use(pool)
            nursery.start_soon(visit)
            await wait_all_tasks_blocked()
            answer.set()
    assert outcomes == ["rejected"]
    assert peer.open == 0


async def test_closed_admission_rejects_newcomers_and_serves_the_queue(autojump_clock: MockClock) -> None:
    peer, served = Peer(), []

    async def visit() -> None:
        await use(pool, 1)
        served.append(trio.current_time())

    async with open_pool(peer.connect, max_size=1) as pool:
        await use(pool)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(visit)
            nursery.start_soon(visit)
            await wait_all_tasks_blocked()
            pool.close_admission()
            with pytest.raises(PoolClosedError):
                await use(pool)
            await pool.wait_drained()
            assert served == [1, 2]
        with pytest.raises(PoolClosedError):  # although a connection is idle
            await use(pool)
        assert pool.statistics().closed


async def test_closed_admission_makes_no_more_connections_ahead(autojump_clock: MockClock) -> None:
    peer = Peer(connect=1)
    async with open_pool(peer.connect, min_idle=3) as pool:
        await trio.sleep(0.5)
        pool.close_admission()
        await trio.sleep(9)
        assert len(peer.connections) == 1


async def test_drained_waits_for_the_queue_too_and_whoever_gives_up_counts_as_gone(autojump_clock: MockClock) -> None:
    peer, limiter = Peer(), trio.CapacityLimiter(1)
    async with open_pool(peer.connect, limiter=limiter) as pool:
        limiter.acquire_on_behalf_of_nowait(pool)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancelled_after, 3, pool)
            await wait_all_tasks_blocked()
            await pool.wait_drained()
            assert trio.current_time() == 3


async def test_drained_waits_on_if_somebody_comes_as_the_last_one_goes(autojump_clock: MockClock) -> None:
    drained_at = []

    async def drain() -> None:
        await pool.wait_drained()
        drained_at.append(trio.current_time())

    async with open_pool(Peer().connect) as pool, trio.open_nursery() as nursery:
        async with pool.connection():
            nursery.start_soon(drain)
            await trio.sleep(1)
        async with pool.connection():
            await trio.sleep(1)
    assert drained_at == [2]


async def test_drained_waits_for_whoever_waits_for_a_close(autojump_clock: MockClock) -> None:
    peer = Peer(close=0.5, connect=0.25)
    async with open_pool(peer.connect, close=peer.close, max_size=1, max_idle_time=1) as pool:
        await use(pool)
        await trio.sleep(1.25)
        assert pool.statistics().closing == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, pool, 1)
            await wait_all_tasks_blocked()
            await pool.wait_drained()
            assert trio.current_time() == 3


async def test_whoever_has_been_let_in_waits_no_more(autojump_clock: MockClock) -> None:
    async with open_pool(Peer().connect, max_size=1) as pool, trio.open_nursery() as nursery:
        async with pool.connection():
            nursery.start_soon(use, pool)
            await wait_all_tasks_blocked()
            assert pool.statistics().waiting == 1
        assert pool.statistics().waiting == 0


async def test_error_of_the_body_leaves_bare_and_closes_the_pool(autojump_clock: MockClock) -> None:
    peer, error = Peer(), ValueError()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        async with open_pool(peer.connect, close=peer.close, min_idle=1) as pool:
            await use(pool)
            raise error
    assert caught.value is error
    assert peer.open == 0


async def test_left_in_another_task_is_refused_and_the_pool_goes_on(autojump_clock: MockClock) -> None:
    manager = open_pool(Peer().connect, name="db")
    pool = await manager.__aenter__()

    async def leave() -> None:
        with pytest.raises(RuntimeError, match="db must be left in the task that opened it"):
            await manager.__aexit__(None, None, None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
    assert await use(pool) == 0
    await manager.__aexit__(None, None, None)


async def test_opened_twice_is_refused(autojump_clock: MockClock) -> None:
    manager = open_pool(Peer().connect, name="db")
    async with manager:
        pass
    with pytest.raises(RuntimeError, match="db: this pool was opened already"):
        await manager.__aenter__()


async def test_serve_pool_keeps_a_pool_open_until_it_is_cancelled(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with trio.open_nursery() as nursery:
        pool: Pool[Any] = await nursery.start(functools.partial(serve_pool, peer.connect, close=peer.close, name="db"))
        assert (pool.name, await use(pool)) == ("db", 0)
        nursery.cancel_scope.cancel()
    assert peer.open == 0


# --- checkpoints, events, statistics ---------------------------------------------------------------------------------


async def test_uncontended_lease_checks_for_cancellation_and_lets_nobody_else_run(autojump_clock: MockClock) -> None:
    async with open_pool(Peer().connect) as pool:
        await use(pool)

        async def lease() -> None:
            async with pool.connection():
                pass

        assert await schedule_points(lease) == 0
        assert await notices_cancellation(lease)
        assert pool.statistics().idle == 1


async def test_drained_pool_that_is_waited_for_is_a_checkpoint(autojump_clock: MockClock) -> None:
    async with open_pool(Peer().connect) as pool:
        assert await schedule_points(pool.wait_drained) == 1
        assert await notices_cancellation(pool.wait_drained)


async def test_listeners_hear_the_pool(autojump_clock: MockClock) -> None:
    peer, recorder = Peer(connect=1.5), Recorder()
    await trio.sleep(1)
    with trioresil.instrument(recorder):
        async with open_pool(peer.connect) as pool:
            await use(pool)
    assert next(iter(recorder.of(trioresil.PolicySeen))).policy is pool
    [opened] = recorder.of(ConnectionOpened)
    assert (opened.policy, opened.name, opened.origin, opened.seconds) == (pool, "pool", None, 1.5)


async def test_own_tasks_of_the_pool_report_to_the_listeners_of_its_opener(autojump_clock: MockClock) -> None:
    peer, opener, caller = Peer(), Recorder(), Recorder()

    async def call() -> None:
        await trio.sleep(1)
        with trioresil.instrument(caller):
            await use(pool)
            await trio.sleep(5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)  # before anybody listens
        with trioresil.instrument(opener):
            async with open_pool(peer.connect, close=peer.close, max_idle_time=1) as pool:
                await trio.sleep(9)
    assert [type(event) for event in caller.events] == [trioresil.PolicySeen, ConnectionOpened]
    assert [type(event) for event in opener.events] == [ConnectionClosed]


async def test_repr_is_a_status_line(autojump_clock: MockClock) -> None:
    peer = Peer(connect=1, close=1)
    async with open_pool(peer.connect, close=peer.close, max_size=2, name="db") as pool:
        assert repr(pool) == "<trioresil.Pool 'db' 0/2 leased, 0 idle, 0 waiting>"
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(use, pool, 1)
            await trio.sleep(0.5)
            assert repr(pool) == "<trioresil.Pool 'db' 0/2 leased, 0 idle, 2 connecting, 1 waiting>"
            await trio.sleep(1)
            assert repr(pool) == "<trioresil.Pool 'db' 2/2 leased, 0 idle, 1 waiting>"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_in, pool)
            await trio.sleep(0.5)
            assert repr(pool) == "<trioresil.Pool 'db' 0/2 leased, 1 idle, 1 closing, 0 waiting>"
        pool.close_admission()
    assert repr(pool) == "<trioresil.Pool 'db' 0/2 leased, 0 idle, 0 waiting, closed>"


def test_statistics_and_repr_work_after_the_run() -> None:
    pools = []

    async def main() -> None:
        async with open_pool(Peer().connect, name="db") as pool:
            await use(pool)
            pools.append(pool)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    statistics = pools[0].statistics()
    assert (statistics.name, statistics.max_size, statistics.opened, statistics.closed) == ("db", 10, 1, True)
    assert "closed" in repr(pools[0])


def test_pool_of_another_run_is_refused() -> None:
    pools: list[Any] = []
    refused, done = [], threading.Event()

    async def other() -> None:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"'db' is in use in another trio\.run"):
                await use(pools[0])
            refused.append(pools[0].statistics().leased)

    async def main() -> None:
        async with open_pool(Peer().connect, name="db") as pool:
            pools.append(pool)
            await use(pool)
            thread = threading.Thread(target=trio.run, args=(other,))
            thread.start()
            thread.join()
            done.set()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert done.is_set()
    assert refused == [0, 0]


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_size": 0}, ValueError, "max_size must be a whole number >= 1 or math.inf, not 0"),
        ({"max_size": 2.5}, TypeError, "max_size"),
        ({"min_idle": -1}, ValueError, "min_idle must be a whole number >= 0, not -1"),
        ({"min_idle": 11}, ValueError, "min_idle must be at most max_size, 10, not 11"),
        ({"max_idle_time": 0}, ValueError, "max_idle_time must be a number of seconds > 0"),
        ({"max_lifetime": math.nan}, ValueError, "max_lifetime must be"),
        ({"connect_timeout": 0}, ValueError, "connect_timeout must be"),
        ({"max_wait": -1}, ValueError, "max_wait must be"),
        ({"close_timeout": math.inf}, ValueError, "close_timeout must be a finite number"),
        ({"check": 5}, TypeError, "check must be a function, sync or async, not 5"),
        ({"reset": "x"}, TypeError, "reset must be"),
        ({"close": 5}, TypeError, "close must be"),
        ({"limiter": 5}, TypeError, "limiter must be a trio.CapacityLimiter, not 5"),
        ({"rng": 5}, TypeError, "rng must be"),
        ({"name": ""}, ValueError, "name must be"),
    ],
)
def test_wrong_argument_is_refused_at_once(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        open_pool(Peer().connect, **options)


def test_connect_must_be_a_function() -> None:
    with pytest.raises(TypeError, match="connect must be a function"):
        open_pool(5)  # type: ignore[arg-type]


async def test_rejection_leaves_nothing_for_the_garbage_collector(autojump_clock: MockClock) -> None:
    """An error that its own traceback holds keeps what the caller had in hand until the collector comes."""
    async with open_pool(Peer().connect, max_size=1, max_wait=0) as pool, pool.connection():
        caught: list[weakref.ref[PoolFullError]] = []
        gc.disable()
        try:
            try:
                await use(pool)
            except PoolFullError as exc:
                caught.append(weakref.ref(exc))
            assert caught[0]() is None
        finally:
            gc.enable()
