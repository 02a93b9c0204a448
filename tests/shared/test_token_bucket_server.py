"""SharedTokenBucket over real servers: the scripts do what their twins do, and many processes stay below one rate."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.shared._processes import run_processes
from tests.shared._servers import Server
from tests.shared._windows import excess
from trioresil import RateLimitedError, SharedStateError, acquire_all
from trioresil._kernel import gcra
from trioresil._shared import token_bucket_scripts as scripts
from trioresil._shared.engine import Script, ScriptEngine
from trioresil.redis import Combine, Exact, FailClosed, Lease, SharedTokenBucket, open_redis

ROUNDING = Fraction(1, 1000)  # microseconds, of floats
KEY = "trioresil:{limit}:bucket"


class Frozen:
    """A Store whose clock stands where the server's did."""

    def __init__(self, states: dict[str, Any], now: float) -> None:
        self.states, self.now = states, now

    def load(self, key: str) -> Any:
        return self.states.get(key)

    def save(self, key: str, value: object, *, ttl: float) -> None:
        assert ttl >= 1
        self.states[key] = value


def stored(server: Server, key: str = KEY) -> gcra.State | None:
    kept = server.command("GET", key)
    if kept is None:
        return None
    seen, lead = kept.decode().split()
    return float(seen), float(lead)


# --- scripts ------------------------------------------------------------------------------------------------------------------

sizes = st.lists(st.sampled_from([0.5, 1.0, 2.0, 1 / 3]), min_size=1, max_size=4)
rates = st.sampled_from([1e6 / 3, 10.0, 1e5, 0.0])
operations = st.one_of(
    st.tuples(st.just("reserve"), sizes, st.sampled_from([-1.0, 0.0, 5e5]), st.sampled_from([0.0, 2.0, 7.5])),
    st.tuples(st.just("give back"), st.integers(1, 3)),
    st.tuples(st.just("settle"), st.sampled_from([-2.0, 0.25, 3.0])),
    st.tuples(st.just("pause"), st.sampled_from([0.0, 1e6])),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(operations, min_size=1, max_size=8), token_time=rates)
@example(plan=[("reserve", [2.0, 2.0], 0.0, 7.5)], token_time=1e5)  # nothing beside somebody who was refused
@example(plan=[("reserve", [1.0], -1.0, 0.0), ("give back", 1)], token_time=1e5)
@example(plan=[("reserve", [2.0] * 4, -1.0, 0.0)], token_time=1e6)  # remembered for longer than a second
def test_each_script_does_what_its_twin_does(server: Server, plan: list[Any], token_time: float) -> None:
    async def main() -> None:
        server.command("DEL", KEY)
        burst = 3 * token_time
        slots: list[scripts.Slot] = []
        async with open_redis(server.url) as engine:
            for name, *numbers in plan:
                before = stored(server)
                script, args = _asked(name, numbers, token_time, burst, slots)
                reply = await engine.eval(script, [KEY], args, within=5)
                after = stored(server)
                now = float(reply[0]) if script is scripts.RESERVE else after[0] if after is not None else 0.0
                if after is None:
                    assert before is None
                    continue
                twin = Frozen({KEY: before}, now)
                expected = script.local(twin, [KEY], [repr(float(each)) for each in args])
                if script is scripts.RESERVE:
                    assert [float(each) for each in reply] == [float(each) for each in expected]
                    made = scripts.slots_of(reply, numbers[0], token_time=token_time, burst=burst, received_at=0).made
                    slots.extend(made)
                else:
                    assert reply == expected
                assert stored(server) == twin.states[KEY]
                lives, needed = server.command("PTTL", KEY), gcra.lead_at(after, now) / 1000 + 1000
                seconds, rest = map(int, server.command("TIME"))
                assert lives <= needed + 2
                if after != before:
                    assert lives >= needed - (seconds * 1e6 + rest - now) / 1000 - 2

    trio.run(main)


def _asked(
    name: str, numbers: list[Any], token_time: float, burst: float, slots: list[scripts.Slot]
) -> tuple[Script, list[float]]:
    if name == "reserve":
        return scripts.RESERVE, [token_time, burst, numbers[1], numbers[2], *numbers[0]]
    if name == "give back":
        tail = [slots.pop() for _ in range(min(len(slots), numbers[0]))]
        return scripts.GIVE_BACK, [part for slot in tail for part in scripts.back(slot.end, slot.start)] or [
            1.0,
            0.0,
            0.0,
            0.0,
        ]
    if name == "settle":
        return scripts.SETTLE, [token_time, numbers[0]]
    return scripts.PAUSE, [burst, numbers[0]]


async def test_a_server_clock_that_was_set_back_blocks_nobody(server: Server) -> None:
    hour = 3_600_000_000
    async with open_redis(server.url) as engine:
        limit = bucket(engine, rate=100, capacity=2)
        await limit.acquire()
        seen, lead = stored(server) or (0.0, 0.0)
        server.command("SET", KEY, f"{seen + hour!r} {lead!r}")  # as it would be, had the clock been an hour ahead
        with trio.fail_after(5):
            for _ in range(5):
                await limit.acquire()


async def test_several_buckets_are_charged_for_one_instant(server: Server) -> None:
    async with open_redis(server.url) as engine:
        slow, fast = (
            SharedTokenBucket(engine, name, rate=rate, capacity=1, on_unavailable=FailClosed(), timeout=5, group="both")
            for name, rate in (("slow", 10), ("fast", 100))
        )
        for _ in range(2):
            await acquire_all((slow, 1), (fast, 1))
        states = [stored(server, limit._key) for limit in (slow, fast)]
        assert None not in states
        (slow_seen, slow_lead), (fast_seen, fast_lead) = states  # type: ignore[misc]
        assert (
            slow_seen == fast_seen
        )  # both were charged in one step, and for the instant at which the slow one was ready
        assert slow_lead - 1e5 == pytest.approx(fast_lead - 1e4)
        assert slow_lead > 1e5
        assert server.command("KEYS", "trioresil:{both}:*") is not None


@pytest.mark.parametrize("max_wait", [0, 0.5, 0.999])
async def test_a_bucket_whose_wait_would_be_too_long_refuses_for_all(server: Server, max_wait: float) -> None:
    async with open_redis(server.url) as engine:
        free = SharedTokenBucket(engine, "free", rate=1, capacity=9, on_unavailable=FailClosed(), timeout=5, group="g")
        strict = SharedTokenBucket(
            engine, "strict", rate=0.1, max_wait=10 * max_wait, on_unavailable=FailClosed(), timeout=5, group="g"
        )
        await acquire_all((free, 1), (strict, 1))
        before = stored(server, free._key), stored(server, strict._key)
        with pytest.raises(RateLimitedError, match="strict") as caught:
            await acquire_all((free, 1), (strict, 1))
        assert 9.99 < (caught.value.retry_after or 0) <= 10
        assert (stored(server, free._key), stored(server, strict._key)) == before


def bucket(engine: ScriptEngine, **options: Any) -> SharedTokenBucket:
    options = {"rate": 1000, "capacity": 5, "on_unavailable": FailClosed(), "timeout": 5, **options}
    return SharedTokenBucket(engine, "limit", **options)


@pytest.mark.parametrize("mode", [Exact(), Combine(), Lease()], ids=lambda mode: type(mode).__name__)
async def test_something_else_at_the_key_is_named(server: Server, mode: Any) -> None:
    server.command("LPUSH", KEY, "a list")
    async with open_redis(server.url) as engine:
        limit = bucket(engine, mode=mode)
        with pytest.raises(SharedStateError, match=r"limit: key 'trioresil:\{limit\}:bucket': .*WRONGTYPE|wrong kind"):
            await limit.acquire()
        server.command("DEL", KEY)
        await limit.acquire()


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Exact(), Combine()], ids=lambda mode: type(mode).__name__)
async def test_scripts_that_are_forgotten_are_sent_again(server: Server, mode: Any) -> None:
    taken = 0

    async def take(limit: SharedTokenBucket) -> None:
        nonlocal taken
        while taken < 400:
            await limit.acquire()
            taken += 1

    async with open_redis(server.url) as engine, trio.open_nursery() as nursery:
        limit = bucket(engine, mode=mode)
        for _ in range(10):
            nursery.start_soon(take, limit)
        for _ in range(20):
            await trio.sleep(0.015)
            await trio.to_thread.run_sync(server.command, "SCRIPT", "FLUSH")
    assert taken >= 400


# --- processes ----------------------------------------------------------------------------------------------------------------


def run(server: Server, **plan: Any) -> list[dict[str, Any]]:
    """Run four processes at the same time; return what each printed.

    Where waiters are impatient the server forgets its scripts, too, 20 times meanwhile.
    """
    plan = {"url": server.url, "impatient": False, "hoard": False, "tasks": 25, **plan}
    over = threading.Event()

    def forget_scripts() -> None:
        for _ in range(20 if plan["impatient"] else 0):
            if over.wait(plan["seconds"] / 20):
                break
            server.command("SCRIPT", "FLUSH")

    forgetting = threading.Thread(target=forget_scripts)
    forgetting.start()
    try:
        return run_processes("_bucket_process", 4, plan, timeout=60)
    finally:
        over.set()
        forgetting.join()


def assert_apart(found: Sequence[dict[str, Any]], *, rate: float) -> None:
    """What was granted lies 1 / rate apart on the server, so no window of its clock holds more than it may: exactly."""
    ends = sorted(Fraction(seen) + Fraction(lead) for each in found for seen, lead in each["used"])
    assert ends
    assert all(later - earlier >= Fraction(1_000_000, rate) - ROUNDING for earlier, later in pairwise(ends))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "combine"])
@pytest.mark.parametrize("impatient", [False, True], ids=["patient", "impatient, and scripts forgotten"])
def test_four_processes_keep_one_rate(valkey: Server, mode: str, impatient: bool) -> None:
    seconds = 2.0
    found = run(valkey, mode=mode, rate=200, capacity=10, seconds=seconds, impatient=impatient)
    assert_apart(found, rate=200)
    woke = [at for each in found for at in each["woke"]]
    assert excess([(at, 1) for at in woke], rate=200, burst=10) <= 200 * 0.1
    goodput = len(woke) / (10 + 200 * seconds)
    assert goodput >= (0.7 if impatient else 0.85)


@pytest.mark.slow
def test_leases_that_are_hoarded_and_fired_at_once_stay_within_the_documented_burst(valkey: Server) -> None:
    found = run(valkey, mode="lease", rate=10, capacity=20, seconds=1.0, hoard=True, tasks=5)
    woke = [at for each in found for at in each["woke"]]
    assert len(woke) > 20
    assert excess([(at, 1) for at in woke], rate=10, burst=20 + 4 * 5) <= 10 * 0.1


@pytest.mark.long
@pytest.mark.parametrize("mode", ["exact", "combine"])
@pytest.mark.parametrize("impatient", [False, True], ids=["patient", "impatient, and scripts forgotten"])
def test_four_processes_reach_the_rate(valkey: Server, mode: str, impatient: bool) -> None:
    seconds = 20.0
    found = run(valkey, mode=mode, rate=400, capacity=20, seconds=seconds, impatient=impatient)
    assert_apart(found, rate=400)
    woke = [at for each in found for at in each["woke"]]
    late = excess([(at, 1) for at in woke], rate=400, burst=20) / 400
    goodput = len(woke) / (20 + 400 * seconds)
    how = "half cancelled, scripts forgotten" if impatient else "patient"
    print(f"{mode}, {how}: {goodput:.4f} of the rate, wake-ups {late * 1000:.2f} ms late")
    assert goodput >= (0.95 if impatient else 0.98)
