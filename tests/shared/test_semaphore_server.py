"""SharedSemaphore over real servers: the scripts do what their twins do, and many processes stay below one limit."""

from __future__ import annotations

import itertools
import json
import operator
import time
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.shared._processes import processes, read_line, run_processes
from tests.shared._servers import Server, Servers
from trioresil import LeaseLostError, SharedStateError, SharedStateUnavailableError
from trioresil._kernel.permits import Permits
from trioresil._shared.semaphore_scripts import ACQUIRE, PARTS, RELEASE, RENEW
from trioresil.redis import FailClosed, ScriptEngine, SharedSemaphore, open_redis

KEYS = [f"trioresil:{{db}}:permits:{part}" for part in PARTS]
SECOND = 1_000_000


def semaphore(engine: ScriptEngine, limit: int = 1, **options: Any) -> SharedSemaphore:
    options = {"lease": 30, "timeout": 5, "on_unavailable": FailClosed(), **options}
    return SharedSemaphore(engine, "db", limit=limit, **options)


# --- scripts ------------------------------------------------------------------------------------------------------------------


class Shelf:
    """A Store whose clock stands where the server's did."""

    def __init__(self) -> None:
        self.now = 0
        self.kept: Any = None
        self.messages: list[tuple[str, str]] = []

    def load(self, key: str) -> Any:
        return self.kept

    def save(self, key: str, value: object, *, ttl: float) -> None:
        self.kept = value

    def delete(self, key: str) -> None:
        raise NotImplementedError

    def publish(self, channel: str, message: str) -> None:
        self.messages.append((channel, message))


def stored(server: Server) -> Permits:
    """What the server has, in the form of the kernel."""
    pairs = [
        server.command("ZRANGE", KEYS[0], 0, -1, "WITHSCORES"),
        server.command("HGETALL", KEYS[1]),
    ]
    expiries, fences = (
        {who.decode(): int(value) for who, value in zip(each[::2], each[1::2], strict=True)} for each in pairs
    )
    queue = {who.decode(): None for who in server.command("ZRANGE", KEYS[2], 0, -1)}
    seen, last = server.command("HMGET", KEYS[3], "seen", "last")
    return Permits(int(seen), int(last), expiries, fences, queue)


def shift(server: Server, by: int) -> None:
    """Make the server's state look as if its clock had been set by so many microseconds."""
    seen = int(server.command("HGET", KEYS[3], "seen") or 0)
    if seen:
        server.command("HSET", KEYS[3], "seen", seen - by)
    expiries = server.command("ZRANGE", KEYS[0], 0, -1)
    for who in expiries:
        server.command("ZINCRBY", KEYS[0], -by, who.decode())


people = st.sampled_from(["a.1", "a.2", "b.1", "b.2", "c.1"])
fences = st.sampled_from([0, 7, -1])  # none, one that the server doesn't know, its own
operations = st.one_of(
    st.tuples(st.just("acquire"), people, st.sampled_from([0, 1, 2, 9])),
    st.tuples(st.just("release"), st.lists(people, max_size=3)),
    st.tuples(st.just("renew"), st.lists(st.tuples(people, fences), max_size=4, unique_by=operator.itemgetter(0))),
    st.tuples(st.just("set the clock"), st.sampled_from([-3600, -1, 1, 2, 3600])),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(operations, min_size=1, max_size=12), limits=st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_each_script_does_what_its_twin_does(server: Server, plan: list[Any], limits: list[int]) -> None:
    async def main() -> None:
        server.command("DEL", *KEYS)
        shelf = Shelf()
        heard: list[tuple[str, str]] = []
        async with open_redis(server.url) as engine:
            for process in "abc":
                engine.subscribe(f"to:{process}", lambda message, process=process: _hear(heard, process, message))
            await _until(lambda: len(heard) == 3)
            heard.clear()
            for (name, *numbers), limit in zip(plan, limits, strict=False):
                if name == "set the clock":
                    shift(server, numbers[0] * SECOND)
                    if shelf.kept is not None:
                        shelf.kept.seen -= numbers[0] * SECOND
                        shelf.kept.expiries = {k: v - numbers[0] * SECOND for k, v in shelf.kept.expiries.items()}
                    continue
                script, args = _asked(name, numbers, shelf)
                args = [limit, 2 * SECOND, "to:", *args]
                reply = await engine.eval(script, KEYS, args, within=5)
                found = stored(server)
                shelf.now = found.seen
                expected = script.local(shelf, KEYS, [str(each) for each in args])
                assert [each.decode() if isinstance(each, bytes) else each for each in reply] == expected
                assert found == shelf.kept
                assert list(found.queue) == list(shelf.kept.queue)
                for key in KEYS:
                    assert server.command("PTTL", key) in (-2, *range(2900, 3001))
            await _until(lambda: len(heard) >= len(shelf.messages))
            assert sorted(heard) == sorted(shelf.messages)

    trio.run(main)


def _asked(name: str, numbers: list[Any], shelf: Shelf) -> tuple[Any, list[Any]]:
    if name == "acquire":
        who, most_waiting = numbers
        known = shelf.kept is not None and (who in shelf.kept.expiries)
        return (RELEASE, [who]) if known else (ACQUIRE, [who, most_waiting])
    if name == "release":
        return RELEASE, numbers[0]
    ids = [
        (who, shelf.kept.fences.get(who, 0) if shelf.kept and fence < 0 else max(fence, 0)) for who, fence in numbers[0]
    ]
    return RENEW, [part for each in ids for part in each]


def _hear(heard: list[tuple[str, str]], process: str, message: str | None) -> None:
    heard.append((f"to:{process}", message or ""))


async def _until(check: Any) -> None:
    with trio.fail_after(5):
        while not check():  # noqa: ASYNC110 -- what is waited for is in another process
            await trio.sleep(0.001)


# --- one process --------------------------------------------------------------------------------------------------------------


async def test_something_else_at_the_key_is_named(server: Server) -> None:
    server.command("SET", KEYS[1], "text")
    async with open_redis(server.url) as engine:
        permits = semaphore(engine)
        with pytest.raises(
            SharedStateError, match=r"db: key 'trioresil:\{db\}:permits:expiries': .*(WRONGTYPE|wrong kind)"
        ):
            await permits.call(trio.sleep, 0)
        server.command("DEL", *KEYS)
        await permits.call(trio.sleep, 0)


async def test_a_permit_left_in_the_last_moment_is_free(server: Server) -> None:
    for _ in range(5):
        async with open_redis(server.url) as engine:
            with trio.fail_after(5):
                await semaphore(engine).call(trio.sleep, 0)
    assert server.command("HLEN", KEYS[1]) == 0


async def test_who_waits_is_woken_by_a_message(server: Server) -> None:
    async with (
        open_redis(server.url, name="a") as one,
        open_redis(server.url, name="b") as two,
        trio.open_nursery() as nursery,
    ):
        here, there = semaphore(one), semaphore(two)
        for _ in range(20):
            async with here:
                nursery.start_soon(there.call, trio.sleep, 0)
                await _until(lambda: there.statistics().waiting)
                await trio.sleep(0.005)
            with trio.fail_after(2):  # a tenth of when it would look by itself
                await _until(lambda: not there.statistics().waiting)


@pytest.mark.slow
async def test_a_server_that_comes_back_empty_learns_of_the_holders(servers: Servers) -> None:
    server = servers.new("valkey")
    async with open_redis(server.url) as engine:
        permits = semaphore(engine, lease=3, timeout=0.5)
        async with permits:
            await trio.to_thread.run_sync(server.restart)
            await _until(lambda: server.command("HLEN", KEYS[1]) == 1)
        await _until(lambda: server.command("HLEN", KEYS[1]) == 0)


@pytest.mark.slow
async def test_a_holder_that_reaches_no_server_is_cancelled_within_its_lease(servers: Servers) -> None:
    server = servers.new("valkey")
    async with open_redis(server.url) as engine:
        permits = semaphore(engine, lease=1, timeout=0.1)
        with pytest.raises(LeaseLostError):
            async with permits:
                server.freeze()
                frozen_at = trio.current_time()
                await trio.sleep_forever()
        assert 0.5 <= trio.current_time() - frozen_at <= 1
        with pytest.raises(SharedStateUnavailableError):
            await permits.call(trio.sleep, 0)
        server.thaw()
        with trio.fail_after(5):
            while True:
                try:
                    await permits.call(trio.sleep, 0)
                    break
                except SharedStateUnavailableError:
                    await trio.sleep(0.01)


# --- processes ----------------------------------------------------------------------------------------------------------------

PLAN = {
    "limit": 3, "lease": 10, "timeout": 2, "hang": False, "impatient": False, "hold_for": 0.005,
    "seconds": 60, "tasks": 5, "holds": 100,
}  # fmt: skip


def overlap(holds: list[tuple[int, float, float]]) -> int:
    """How many were inside at once, at most."""
    changes = sorted([(began, 1) for _, began, _ in holds] + [(ended, -1) for _, _, ended in holds])
    return max(itertools.accumulate(change for _, change in changes))


def hold_many(server: Server, **plan: Any) -> tuple[list[tuple[int, float, float]], float]:
    """Let four processes hold permits; return the holds, and how many there were in a second."""
    found = run_processes("_semaphore_process", 4, {**PLAN, "url": server.url, **plan})
    holds = [tuple(hold) for each in found for hold in each]
    began, ended = min(hold[1] for hold in holds), max(hold[2] for hold in holds)
    return holds, len(holds) / (ended - began)


@pytest.mark.slow
@pytest.mark.parametrize("impatient", [False, True], ids=["patient", "impatient"])
def test_four_processes_stay_below_one_limit(valkey: Server, impatient: bool) -> None:
    holds, rate = hold_many(valkey, impatient=impatient)
    assert len(holds) >= 400
    assert overlap(holds) <= 3
    in_order = sorted(holds, key=lambda hold: hold[0])
    assert len({fence for fence, _, _ in holds}) == len(holds)
    assert all(later[1] > earlier[1] - 0.05 for earlier, later in itertools.pairwise(in_order))
    assert rate >= 0.3 * 3 / 0.005 * (0.1 if impatient else 1)
    assert valkey.command("HLEN", KEYS[1]) == valkey.command("ZCARD", KEYS[2]) == 0


@pytest.mark.slow
def test_the_permit_of_a_killed_process_is_free_within_its_lease(valkey: Server) -> None:
    plan = {**PLAN, "url": valkey.url, "limit": 1, "lease": 1.0, "timeout": 0.2, "hang": True}
    with processes("_semaphore_process", 1, plan) as (victim,):
        fence = json.loads(read_line(victim))
        with processes("_semaphore_process", 1, plan) as (heir,):
            time.sleep(0.5)
            victim.kill()
            killed_at = time.monotonic()
            assert json.loads(read_line(heir)) > fence
            assert time.monotonic() - killed_at <= 1.0 + 0.5


@pytest.mark.long
def test_ten_thousand_holds(valkey: Server) -> None:
    for limit, tasks in (5, 10), (3, 5), (1, 5):
        holds, rate = hold_many(valkey, limit=limit, tasks=tasks, holds=2500, seconds=100)
        print(f"limit {limit}, 4 × {tasks} tasks: {rate / (limit / 0.005):.3f} of the ideal holds a second")
        assert len(holds) >= 10_000
        assert overlap(holds) <= limit
        assert len({fence for fence, _, _ in holds}) == len(holds)
        in_order = [fence for fence, _, _ in sorted(holds, key=operator.itemgetter(1))]
        assert limit > 1 or in_order == sorted(in_order)
