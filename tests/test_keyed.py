"""Keyed: one policy for each key, the last used held, those in use never split in two, and no link left behind."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

import trioresil
from trioresil import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    ConsecutiveFailures,
    Keyed,
    Pipeline,
    Retry,
    Timeout,
    TokenBucket,
)
from trioresil.testing import Recorder, Sweep, cancellation_sweep


def breaker(key: str) -> CircuitBreaker:
    return CircuitBreaker(trip=ConsecutiveFailures(1), name=key)


def first(host: str, *args: Any, **kwargs: Any) -> str:
    return host


async def fetch(host: str, *, path: str = "/") -> str:
    await trio.lowlevel.checkpoint()
    if host.startswith("bad"):
        raise ConnectionError(host)
    return host + path


class Linked(trioresil.abc.Policy):
    """Counts its links, and which of them are alive."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.links: weakref.WeakSet[Any] = weakref.WeakSet()
        self.made = 0

    def link(self, inner: Any) -> Any:
        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            return await inner(args, kwargs)

        self.made += 1
        self.links.add(link)
        return link

    def statistics(self) -> None:
        """Nothing."""


# --- as a mapping --------------------------------------------------------------------------------------------------------


def test_each_key_has_one_policy_which_the_factory_makes_when_it_is_first_asked_for() -> None:
    made: list[str] = []

    def make(key: str) -> CircuitBreaker:
        made.append(key)
        return breaker(key)

    breakers = Keyed(make)
    assert made == []
    assert breakers["a"] is breakers["a"]
    assert breakers["b"] is not breakers["a"]
    assert made == ["a", "b"]
    assert breakers["a"].name == "a"
    assert (len(breakers), list(breakers), "a" in breakers, "c" in breakers) == (2, ["a", "b"], True, False)
    assert made == ["a", "b"]  # asking whether it is there makes none


async def test_the_policies_of_two_keys_know_nothing_of_each_other() -> None:
    breakers = Keyed(breaker, key=first)
    with pytest.raises(ConnectionError):
        await breakers.call(fetch, "bad")
    with pytest.raises(CircuitOpenError) as caught:
        await breakers.call(fetch, "bad")
    assert caught.value.policy == "bad"
    assert await breakers.call(fetch, "good") == "good/"
    assert breakers["bad"].state is CircuitState.OPEN
    assert await breakers["good"].call(fetch, "good") == "good/"


@pytest.mark.parametrize("key", [None, 0, "", (), ("a", 1), 1.5, frozenset({1}), True], ids=repr)
async def test_any_hashable_is_a_key(key: Any) -> None:
    keyed: Keyed[Any, CircuitBreaker] = Keyed(lambda key: CircuitBreaker(name="x"), key=lambda: key)
    assert await keyed.call(trio.lowlevel.checkpoint) is None
    assert key in keyed
    assert keyed[key] is keyed[key]


async def test_what_is_not_hashable_is_a_type_error_and_nothing_is_made() -> None:
    keyed: Keyed[Any, CircuitBreaker] = Keyed(lambda key: CircuitBreaker(), key=lambda host: [host])
    with pytest.raises(TypeError, match="unhashable"):
        keyed[[]]  # type: ignore[index]
    with pytest.raises(TypeError, match="unhashable"):
        await keyed.call(fetch, "a")
    assert len(keyed) == 0


def test_a_factory_that_fails_or_returns_no_policy_leaves_nothing() -> None:
    results: list[Any] = [None, 5, CircuitBreaker, KeyError("x"), breaker("k")]

    def make(key: str) -> Any:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    keyed = Keyed(make, name="hosts")
    for shown in ("None", "5", repr(CircuitBreaker)):
        with pytest.raises(TypeError) as caught:
            keyed["k"]
        assert str(caught.value) == f"hosts: factory must return a policy, but it returned {shown} for 'k'"
    with pytest.raises(KeyError):
        keyed["k"]
    assert (len(keyed), keyed.statistics().made) == (0, 0)
    assert keyed["k"].name == "k"
    assert keyed.statistics().made == 1


def test_statistics_and_repr() -> None:
    keyed = Keyed(breaker, name="hosts", max_keys=1)
    kept = keyed["a"]
    keyed["b"]
    statistics = keyed.statistics()
    assert (statistics.name, statistics.keys, statistics.made) == ("hosts", 2, 2)
    assert repr(keyed) == "<trioresil.Keyed 'hosts' 2 keys>"
    assert kept.name == "a"


# --- who is held -----------------------------------------------------------------------------------------------------------


def test_the_last_used_are_held_and_older_ones_go_when_nobody_uses_them() -> None:
    keyed = Keyed(breaker, max_keys=2)
    references = {}
    for key in ("a", "b"):
        references[key] = weakref.ref(keyed[key])
    keyed["a"]  # used again: now b is the older one
    keyed["c"]
    gc.collect()
    assert references["a"]() is keyed["a"]
    assert references["b"]() is None
    assert sorted(keyed) == ["a", "c"]


def test_a_policy_that_was_let_go_starts_afresh() -> None:
    keyed = Keyed(breaker, max_keys=1)
    number = keyed["a"].statistics().opened
    keyed["a"].isolate()
    keyed["b"]
    gc.collect()
    assert keyed["a"].state is CircuitState.CLOSED
    assert keyed["a"].statistics().opened == number
    assert keyed.statistics().made == 3


def test_a_policy_in_somebodys_hands_is_never_split_in_two() -> None:
    keyed = Keyed(breaker, max_keys=1)
    mine = keyed["a"]
    for key in ("b", "c", "d"):
        keyed[key]
    gc.collect()
    assert "a" in keyed
    assert (len(keyed), sorted(keyed)) == (2, ["a", "d"])
    assert keyed["a"] is mine
    assert keyed.statistics().made == 4
    keyed["b"]
    reference = weakref.ref(mine)
    del mine
    gc.collect()
    assert reference() is None
    assert "a" not in keyed


async def held_by_call(keyed: Keyed[str, Any], work: Any) -> None:
    await keyed.call(work, "a")


async def held_by_decorator(keyed: Keyed[str, Any], work: Any) -> None:
    await keyed(work)("a")


async def held_by_policys_call(keyed: Keyed[str, Any], work: Any) -> None:
    await keyed["a"].call(work, "a")


async def held_by_policys_decorator(keyed: Keyed[str, Any], work: Any) -> None:
    await keyed["a"](work)("a")


async def held_by_block(keyed: Keyed[str, Any], work: Any) -> None:
    async with keyed["a"]:
        await work("a")


@pytest.mark.parametrize(
    "hold",
    [held_by_call, held_by_decorator, held_by_policys_call, held_by_policys_decorator, held_by_block],
    ids=lambda hold: hold.__name__,
)
@pytest.mark.parametrize(
    "make", [lambda key: Bulkhead(1), lambda key: Pipeline(Timeout(9), Bulkhead(1))], ids=["bulkhead", "pipeline"]
)
async def test_a_policy_with_a_call_inside_is_never_split_in_two(autojump_clock: Any, make: Any, hold: Any) -> None:
    keyed = Keyed(make, key=first, max_keys=1)
    inside = most = 0

    async def work(host: str) -> None:
        nonlocal inside, most
        inside += host == "a"
        most = max(most, inside)
        await trio.sleep(1)
        inside -= host == "a"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, keyed, work)
        await trio.testing.wait_all_tasks_blocked()
        keyed["b"]
        keyed["c"]
        gc.collect()
        nursery.start_soon(hold, keyed, work)
    assert most == 1
    assert trio.current_time() == 2


# --- as a policy -----------------------------------------------------------------------------------------------------------


async def test_without_a_key_function_it_is_no_policy_and_says_how_to_use_it() -> None:
    keyed = Keyed(breaker, name="hosts")
    sentence = "hosts: to guard calls, a Keyed needs key=(*args) -> hashable; or pick a policy: keyed[key].call(...)"
    with pytest.raises(TypeError) as caught:
        await keyed.call(fetch, "a")
    assert str(caught.value) == sentence
    with pytest.raises(TypeError) as caught:
        keyed(fetch)
    assert str(caught.value) == sentence
    with pytest.raises(TypeError) as caught:
        Pipeline(Timeout(5), keyed)(fetch)
    assert str(caught.value) == sentence


async def test_the_key_is_found_in_all_arguments_of_each_call() -> None:
    seen: list[Any] = []

    def key(*args: Any, **kwargs: Any) -> str:
        seen.append((args, kwargs))
        return str(args[0])

    keyed = Keyed(breaker, key=key)
    decorated = keyed(fetch)
    assert await decorated("a", path="/x") == "a/x"
    assert await keyed.call(functools.partial(fetch, path="/y"), "b") == "b/y"
    assert seen == [(("a",), {"path": "/x"}), (("b",), {})]
    assert list(keyed) == ["a", "b"]


async def test_keyed_policies_nest_and_fit_into_a_pipeline() -> None:
    hosts = Keyed(lambda host: Keyed(breaker, key=lambda host: host + "!"), key=first)
    pipeline = Pipeline(Retry(on=ConnectionError, max_attempts=3, backoff=[0]), hosts)
    assert await pipeline.call(fetch, "a") == "a/"
    assert list(hosts["a"]) == ["a!"]
    with pytest.raises(ConnectionError):
        await pipeline.call(fetch, "bad")
    assert hosts["bad"]["bad!"].state is CircuitState.OPEN


async def test_a_chain_has_one_link_for_each_key_however_many_calls() -> None:
    keyed = Keyed(Linked, key=first)
    one, two = keyed(fetch), Pipeline(keyed)(fetch)
    for _ in range(3):
        for host in ("a", "b"):
            await one(host)
    assert (keyed["a"].made, keyed["b"].made) == (1, 1)
    await two("a")
    await two("a")
    assert keyed["a"].made == 2
    for _ in range(3):
        await keyed.call(fetch, "a")
    assert keyed["a"].made == 5
    gc.collect()
    assert len(keyed["a"].links) == 2


async def test_links_go_with_their_chain_and_with_their_policy() -> None:
    keyed = Keyed(Linked, key=first, max_keys=2)
    decorated = keyed(fetch)
    for host in ("a", "b"):
        await decorated(host)
    a = keyed["a"]
    assert len(a.links) == 1
    await decorated("c")
    await decorated("b")  # a was the oldest
    gc.collect()
    assert len(a.links) == 0  # nothing of a policy that is not held is kept by the chain
    await decorated("a")
    assert a.made == 2
    assert keyed["a"] is a
    del decorated
    gc.collect()
    assert len(a.links) == 0


async def test_a_flood_of_keys_holds_bounded_memory() -> None:
    keyed = Keyed(Linked, key=first, max_keys=10)
    decorated = keyed(fetch)
    for number in range(500):
        await decorated(str(number))
    gc.collect()
    assert (len(keyed), keyed.statistics().made) == (10, 500)
    assert list(keyed) == [str(number) for number in range(490, 500)]
    alive = sum(type(each) is Linked for each in gc.get_objects())
    assert alive == 10


async def test_a_policy_let_go_while_its_call_runs_gets_a_new_link_and_the_same_state(autojump_clock: Any) -> None:
    keyed = Keyed(lambda key: TokenBucket(rate=1, name=key), key=first, max_keys=1)
    granted: list[float] = []

    async def note(host: str) -> None:
        granted.append(trio.current_time())
        await trio.sleep(0.5)

    decorated = keyed(note)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(decorated, "a")
            await trio.testing.wait_all_tasks_blocked()
            keyed["b"]
            gc.collect()
    assert granted == [0, 1, 2]


async def test_instruments_hear_of_the_keyed_and_of_the_policy(autojump_clock: Any) -> None:
    keyed = Keyed(breaker, key=first)
    recorder = Recorder()
    with trioresil.instrument(recorder):
        for host in ("a", "b", "a"):
            await keyed.call(fetch, host)
    assert [each.policy for each in recorder.of(trioresil.PolicySeen)] == [keyed, keyed["a"], keyed["b"]]


def test_a_call_through_it_cancelled_at_any_moment_leaves_nothing_behind() -> None:
    async def scenario(sweep: Sweep) -> None:
        keyed = Keyed(lambda key: Pipeline(CircuitBreaker(), Bulkhead(1), name=key), key=first, max_keys=1)
        done: list[str] = []

        async def work(host: str) -> None:
            await trio.sleep(1)
            done.append(host)

        decorated = keyed(work)

        async def victim() -> None:
            with sweep.victim():
                await decorated("a")

        async with trio.open_nursery() as nursery:
            for host in ("a", "b"):
                nursery.start_soon(decorated, host)
            nursery.start_soon(victim)
            nursery.start_soon(decorated, "a")
        assert len(done) >= 3
        for pipeline in (keyed["a"], keyed["b"]):
            for part in pipeline.statistics().parts:
                assert part.inside == 0

    report = cancellation_sweep(scenario)
    assert report.cancelled > 10
