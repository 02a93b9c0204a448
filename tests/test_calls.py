"""`call`: one chain for all the calls of a policy, whatever functions they call."""

from __future__ import annotations

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
    CircuitState,
    ConsecutiveFailures,
    Fallback,
    Keyed,
    Pipeline,
    RateLimitedError,
    Retry,
    TimedOutError,
    Timeout,
    TokenBucket,
)
from trioresil._links import Link, passage


async def test_calls_of_different_functions_at_once_each_get_their_own(autojump_clock: trio.testing.MockClock) -> None:
    results: dict[int, list[int]] = {}
    pipeline = Pipeline(
        Fallback(on=LookupError, default=-1),
        Timeout(50),
        Retry(on=(OSError, TimedOutError), backoff=[1]),
        TokenBucket(rate=8, capacity=4, cost=lambda number: 1),
        Bulkhead(3),
    )

    def numbered(own: int) -> Any:
        attempts: list[int] = []

        async def work(number: int) -> int:
            attempts.append(number)
            await trio.sleep(own % 3)
            if len(attempts) < 2:
                raise OSError
            return own

        async def use() -> None:
            results[own] = [await pipeline.call(work, own), *attempts]

        return use

    async with trio.open_nursery() as nursery:
        for own in range(20):
            nursery.start_soon(numbered(own))
    assert results == {own: [own, own, own] for own in range(20)}


async def test_the_chain_is_built_once_for_all_calls_of_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Retry] = []
    original = Retry.link

    def link(self: Retry, inner: Link) -> Link:
        built.append(self)
        return original(self, inner)

    monkeypatch.setattr(Retry, "link", link)
    retry = Retry(on=OSError)
    pipeline = Pipeline(retry)
    for _ in range(3):
        await pipeline.call(trio.sleep, 0)
        await pipeline.call(trio.lowlevel.checkpoint)
    assert built == [retry]


class Tagging(trioresil.abc.Policy):
    """A user's policy that changes the arguments."""

    name = "tagging"

    def link(self, inner: Link) -> Link:
        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            return await inner(args, {**kwargs, "tag": "added"})

        return link

    def statistics(self) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    "make",
    [
        Tagging,
        lambda: Pipeline(Timeout(5), Tagging()),
        lambda: Pipeline(Timeout(5), Pipeline(Tagging())),
        lambda: Pipeline(Keyed(lambda key: Tagging(), key=lambda *args, **kwargs: args)),
    ],
)
async def test_a_policy_of_ones_own_may_change_the_arguments_of_a_call(make: Any) -> None:
    async def work(number: int, *, tag: str) -> tuple[int, str]:
        return number, tag

    policy = make()
    assert await policy.call(work, 1) == (1, "added")
    assert await policy(work)(2) == (2, "added")


async def test_a_subclass_of_ours_may_change_the_arguments_too() -> None:
    async def work(number: int, *, tag: str) -> tuple[int, str]:
        return number, tag

    class Changed(Timeout):
        def link(self, inner: Link) -> Link:
            return Tagging().link(inner)

    class ChangedPipeline(Pipeline):
        def link(self, inner: Link) -> Link:
            return Tagging().link(inner)

    for policy in (Changed(5), ChangedPipeline(Timeout(5))):
        assert await policy.call(work, 1) == (1, "added")


async def test_a_link_that_promised_to_hand_the_arguments_on_and_does_not_is_told_so() -> None:
    class Promising(Tagging):
        _one_chain = True

    with pytest.raises(TypeError, match="a link must hand on the arguments that it was given"):
        await Promising().call(trio.sleep, 0)


async def test_a_function_that_fails_is_not_kept_by_the_policy() -> None:
    retry = Retry(on=OSError)

    def make() -> Any:
        async def work() -> None:
            raise ValueError("no")

        return work

    work = make()
    seen = weakref.ref(work)
    with pytest.raises(ValueError, match="no"):
        await retry.call(work)
    del work
    gc.collect()
    assert seen() is None


async def test_a_call_that_is_cancelled_at_an_inner_entrance_was_not_started() -> None:
    entered: list[str] = []

    async def work() -> None:
        entered.append("work")

    inner = Retry(on=OSError)
    for form in (lambda: inner.call(work), inner(work)):
        with trio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(trio.Cancelled) as caught:
                await form()
            assert passage(caught.value).started is False
            await trio.lowlevel.checkpoint()
    assert entered == []


async def test_acquire_all_is_looked_through_like_a_method_of_a_bucket(autojump_clock: trio.testing.MockClock) -> None:
    bucket = TokenBucket(rate=1, max_wait=2)
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1))
    await bucket.acquire()
    bucket.adjust(5)
    for _ in range(3):
        with pytest.raises(RateLimitedError) as caught:
            await breaker.call(trioresil.acquire_all, (bucket, 1))
        assert caught.value.started is False
    assert breaker.state is CircuitState.CLOSED
    await Retry(on=RateLimitedError, backoff=[0.1]).call(trioresil.acquire_all, (bucket, 1))  # by its hint
    assert trio.current_time() == 6.0


async def test_a_mixin_that_changes_the_arguments_takes_the_shared_chain_away() -> None:
    class Extra:
        def link(self, inner: Link) -> Link:
            return Tagging().link(inner)

    class Mixed(Extra, Timeout):
        pass

    class Plain(Timeout):
        pass

    async def work(number: int, *, tag: str) -> tuple[int, str]:
        return number, tag

    assert await Mixed(5).call(work, 1) == (1, "added")
    assert Plain._one_chain


async def test_a_mistake_inside_of_a_nursery_is_no_failure_either() -> None:
    attempts: list[int] = []
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1))

    async def work() -> None:
        attempts.append(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Timeout(5).call, lambda: None)  # type: ignore[arg-type]

    with pytest.raises(ExceptionGroup):
        await Pipeline(Retry(on=Exception), breaker).call(work)
    assert attempts == [1]
    assert breaker.state is CircuitState.CLOSED


async def test_a_factory_that_makes_no_policy_is_a_mistake_and_not_retried() -> None:
    made: list[str] = []

    def factory(key: str) -> Any:
        made.append(key)

    keyed = Keyed(factory, key=lambda key: str(key))
    with pytest.raises(TypeError, match="factory must return a policy, but it returned None"):
        await Pipeline(Retry(on=Exception), keyed).call(trio.sleep, 0)
    assert len(made) == 1
    with pytest.raises(TypeError, match="factory must be a function"):
        Keyed(CircuitBreaker())  # type: ignore[arg-type]


@pytest.mark.parametrize("limited", ["bulkhead", "bucket", "breaker"])
@pytest.mark.parametrize("form", ["call", "block"])
async def test_a_rejection_is_freed_without_the_collector(form: str, limited: str) -> None:
    breaker = CircuitBreaker()
    breaker.open(5)
    bucket = TokenBucket(rate=1, max_wait=0)
    bucket.acquire_nowait()
    bulkhead = Bulkhead(1, max_wait=0)
    bulkhead.acquire_nowait()
    policy: Any = {"bulkhead": bulkhead, "bucket": bucket, "breaker": breaker}[limited]

    async def rejected() -> weakref.ref[BaseException]:
        try:
            if form == "call":
                await policy.call(trio.sleep, 0)
            else:
                async with policy:
                    raise AssertionError("let in")
        except trioresil.RejectedError as exc:
            return weakref.ref(exc)
        raise AssertionError("not rejected")

    gc.collect()
    gc.disable()
    try:
        seen = await rejected()
        assert seen() is None
    finally:
        gc.enable()
        bulkhead.release()
