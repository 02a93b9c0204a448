"""SharedCircuitBreaker over real servers: the script does what its twin does, and many processes send one probe."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.shared._processes import processes, read_line, run_processes
from tests.shared._servers import Server
from trioresil import CircuitOpenError, CircuitState, ConsecutiveFailures, SharedStateError
from trioresil._kernel.fleet import FleetRules, SharedRule
from trioresil._shared.circuit_breaker_scripts import CIRCUIT, config_words
from trioresil.redis import FailClosed, FailOpen, ScriptEngine, SharedCircuitBreaker, open_redis

KEY = "trioresil:{api}:circuit"
SECOND = 1_000_000
LIVES = 60_000
ALL = [SharedRule("row", 3, 0, 0), SharedRule("of", 3, 5, 0), SharedRule("ratio", 0.5, 30 * SECOND, 4)]


def breaker(engine: ScriptEngine, **options: Any) -> SharedCircuitBreaker:
    options = {"trip": ConsecutiveFailures(3), "on_unavailable": FailClosed(), "timeout": 5, **options}
    return SharedCircuitBreaker(engine, "api", **options)


class Shelf:
    """A Store whose clock stands where the server's did."""

    def __init__(self) -> None:
        self.now = 0
        self.kept: Any = None
        self.messages: list[str] = []

    def load(self, key: str) -> Any:
        return self.kept

    def save(self, key: str, value: object, *, ttl: float) -> None:
        assert ttl == LIVES / 1000
        self.kept = value

    def delete(self, key: str) -> None:
        raise NotImplementedError

    def publish(self, channel: str, message: str) -> None:
        self.messages.append(message)


def stored(server: Server) -> dict[str, str]:
    words = [word.decode() for word in server.command("HGETALL", KEY)]
    return dict(zip(words[::2], words[1::2], strict=True))


def as_stored(fleet: Any, rules: list[SharedRule]) -> dict[str, str]:
    """The twin's state, as the script writes it."""
    numbers = ("seen", "epoch", "version", "open_until", "open_for", "level", "successes", "closed_at")
    found = {name: str(getattr(fleet, name)) for name in numbers}
    found |= {"state": fleet.state, "by_hand": str(int(fleet.by_hand))}
    found["probes"] = _sorted(f"{expiry}={who}" for who, expiry in fleet.probes.items())
    for number, (rule, counter) in enumerate(zip(rules, fleet.counters, strict=False), 1):
        text = (
            _sorted(f"{slot}:{calls}:{bad}" for slot, (calls, bad) in counter.items())
            if isinstance(counter, dict)
            else str(counter)
        )
        found |= {f"rule{number}": rule.kind, f"counter{number}": text}
    return found


def _sorted(parts: Any) -> str:
    return " ".join(sorted(parts))


def shift(server: Server, shelf: Shelf, by: int) -> None:
    """Make the state, here and there, look as if the clock had been set by so many microseconds."""
    fleet = shelf.kept
    if fleet is None:
        return
    fleet.seen -= by
    fleet.open_until -= by
    fleet.closed_at -= by
    fleet.probes = {who: expiry - by for who, expiry in fleet.probes.items()}
    written = as_stored(fleet, [])
    server.command("HSET", KEY, *(word for pair in written.items() for word in pair))


ids = st.sampled_from(["p.1", "p.2", "p.3"])
runs = st.lists(st.tuples(st.integers(0, 7), st.sampled_from([1, 1, 2, 3, 6])), max_size=4)
steps = st.one_of(
    st.tuples(st.just("report"), runs, st.sampled_from([True, True, True, False])),
    st.tuples(st.just("admit"), ids),
    st.tuples(st.just("judge"), ids, st.sampled_from(["failed", "passed", "none"])),
    st.tuples(st.just("open"), st.sampled_from([1, 5 * SECOND])),
    st.tuples(st.just("reset")),
    st.tuples(st.just("look")),
    st.tuples(st.just("set the clock"), st.sampled_from([-3600, -1, 1, 4, 31, 3600])),
)


OPEN_IT: list[Any] = [("report", [(1, 3)], True)]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(
    plan=[("look",), ("report", [(1, 2), (0, 6)], True)], rules=ALL[2:], probes=1, needed=1
)  # the fourth call trips
@example(  # well for an hour, it has forgotten that its first probe failed
    plan=[
        *[("look",), *OPEN_IT],
        *[("set the clock", 31), ("admit", "p.1"), ("judge", "p.1", "failed")],
        *[("set the clock", 31), ("admit", "p.2"), ("judge", "p.2", "passed")],
        *[("set the clock", 3600), *OPEN_IT],
    ],
    rules=ALL[:1],
    probes=1,
    needed=1,
)
@given(
    plan=st.lists(steps, min_size=1, max_size=15),
    rules=st.sampled_from([ALL, ALL[:1], ALL[1:2], ALL[2:]]),
    probes=st.integers(1, 2),
    needed=st.integers(1, 2),
)
def test_the_script_does_what_its_twin_does(
    server: Server, plan: list[Any], rules: list[SharedRule], probes: int, needed: int
) -> None:
    config = FleetRules(probes, needed, 2 * SECOND, [SECOND, 3 * SECOND], rules)
    words = config_words(config, "changes", LIVES)

    async def main() -> None:
        server.command("DEL", KEY)
        shelf = Shelf()
        heard: list[str | None] = []
        async with open_redis(server.url) as engine:
            engine.subscribe("changes", heard.append)
            await _until(lambda: heard)
            for name, *numbers in plan:
                if name == "set the clock":
                    shift(server, shelf, numbers[0] * SECOND)
                    continue
                if name == "report":
                    epoch = shelf.kept.epoch if shelf.kept is not None and numbers[1] else 1
                    numbers = [epoch, *(number for run in numbers[0] for number in run)]
                args = [*words, name, *numbers]
                reply = await engine.eval(CIRCUIT, [KEY], args, within=5)
                found = stored(server)
                shelf.now = int(found["seen"])
                expected = CIRCUIT.local(shelf, [KEY], [str(each) for each in args])
                assert [reply[0], *(word.decode() for word in reply[1:])] == expected
                for field, text in found.items():
                    found[field] = _sorted(text.split()) if field == "probes" or ":" in text else text
                assert found == as_stored(shelf.kept, rules)
                assert LIVES - 2000 <= server.command("PTTL", KEY) <= LIVES
            await _until(lambda: len(heard) > len(shelf.messages))
            assert heard == [None, *shelf.messages]

    trio.run(main)


async def _until(check: Any) -> None:
    with trio.fail_after(5):
        while not check():  # noqa: ASYNC110 -- what is waited for is in another process
            await trio.sleep(0.001)


async def test_something_else_at_the_key_is_named(server: Server) -> None:
    server.command("SET", KEY, "text")
    async with open_redis(server.url) as engine:
        with pytest.raises(SharedStateError, match=r"api: key 'trioresil:\{api\}:circuit': .*(WRONGTYPE|wrong kind)"):
            await breaker(engine, on_unavailable=FailOpen()).call(trio.sleep, 0)


async def test_all_processes_learn_of_the_opening(server: Server) -> None:
    async with open_redis(server.url, name="a") as one, open_redis(server.url, name="b") as two:
        here, there = breaker(one), breaker(two)
        await there.call(trio.sleep, 0)
        for _ in range(3):
            async with here.admit() as admission:
                admission.fail()
        await _until(lambda: there.state is CircuitState.OPEN)
        with pytest.raises(CircuitOpenError):
            await there.call(trio.sleep, 0)


PLAN = {"open_for": 2.0, "lease": 30, "hang": False, "tasks": 50}


@pytest.mark.slow
def test_four_processes_send_one_probe(valkey: Server) -> None:
    found = run_processes("_breaker_process", 4, {**PLAN, "url": valkey.url})
    calls = sorted(tuple(call) for each in found for call in each)
    first = calls[0]
    assert all(
        began >= first[1] for began, _ in calls[1:]
    )  # those that came when it had closed, and before they heard of it


@pytest.mark.slow
def test_the_probe_of_a_killed_process_is_replaced_once_after_its_lease(valkey: Server) -> None:
    plan = {**PLAN, "url": valkey.url, "open_for": 0.3, "lease": 1.5, "tasks": 5}
    with processes("_breaker_process", 1, {**plan, "hang": True}) as (victim,):
        began_at = json.loads(read_line(victim))
        with processes("_breaker_process", 1, plan) as (heir,):
            victim.kill()
            calls = sorted(json.loads(heir.communicate(timeout=30)[0]))
    assert 1.5 <= calls[0][0] - began_at <= 3
    assert all(began >= calls[0][1] for began, _ in calls[1:])
    assert time.monotonic() - began_at < 20
