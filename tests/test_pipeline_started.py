"""The truth of `started` through every composition: a table of all stacks of two and of three layers.

What leaves a chain is compared with what really happened: a trioresil error says `started` exactly if some function of the
user's was entered. A Cancelled says nothing. Each stack is also a test that no cancellation, permit or verdict is left behind.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trioresil
from trioresil import (
    Bulkhead,
    CircuitBreaker,
    ConsecutiveFailures,
    Fallback,
    Keyed,
    Pipeline,
    RejectedError,
    Retry,
    TimedOutError,
    Timeout,
    TokenBucket,
    TrioresilError,
)
from trioresil.testing import Recorder

Fn = Callable[..., Awaitable[Any]]


@attrs.define
class World:
    """What one call met: how often a function of the user's was entered."""

    entered: int = 0


# --- the layers ----------------------------------------------------------------------------------------------------------


def retry(world: World, depth: int) -> Retry:
    return Retry(on=Exception, max_attempts=2, backoff=[0.5])


def timeout(world: World, depth: int) -> Timeout:
    return Timeout(8 / 2**depth)


def breaker(world: World, depth: int) -> CircuitBreaker:
    return CircuitBreaker(trip=ConsecutiveFailures(100))


def open_breaker(world: World, depth: int) -> CircuitBreaker:
    made = CircuitBreaker()
    made.open(1000)
    return made


def bulkhead(world: World, depth: int) -> Bulkhead:
    return Bulkhead(1)


def full_bulkhead(world: World, depth: int) -> Bulkhead:
    return Bulkhead(0, max_wait=0)


def slow_bulkhead(world: World, depth: int) -> Bulkhead:
    return Bulkhead(0, max_wait=0.75)


def stuck_bulkhead(world: World, depth: int) -> Bulkhead:
    return Bulkhead(0)


def bucket_for_one(world: World, depth: int) -> TokenBucket:
    return TokenBucket(rate=0.001, max_wait=0)


def bucket_for_one_then_stuck(world: World, depth: int) -> TokenBucket:
    return TokenBucket(rate=0.001)


def empty_bucket(world: World, depth: int) -> TokenBucket:
    made = TokenBucket(rate=0.001)
    made.acquire_nowait()
    return made


def fallback(world: World, depth: int) -> Fallback[Any]:
    async def alternative(*args: Any, **kwargs: Any) -> None:
        world.entered += 1
        raise KeyError("alternative")

    return Fallback(alternative, on=Exception)


def fallback_to_rejection(world: World, depth: int) -> Fallback[Any]:
    return Fallback(open_breaker(world, depth)(fail), on=Exception)


def keyed(world: World, depth: int) -> Keyed[str, Pipeline]:
    return Keyed(lambda key: Pipeline(Bulkhead(1), CircuitBreaker(name=key)), key=lambda *args, **kwargs: "key")


async def fail() -> None:
    raise AssertionError("must not be called")  # pragma: no cover


LAYERS = [
    retry,
    timeout,
    breaker,
    open_breaker,
    bulkhead,
    full_bulkhead,
    slow_bulkhead,
    stuck_bulkhead,
    bucket_for_one,
    bucket_for_one_then_stuck,
    empty_bucket,
    fallback,
    fallback_to_rejection,
    keyed,
]

# --- the functions -------------------------------------------------------------------------------------------------------


async def succeeds(attempt: int) -> str:
    return "done"


async def raises(attempt: int) -> None:
    raise OSError


async def lets_out_a_rejection(attempt: int) -> None:
    raise RejectedError("elsewhere", 0.25)


async def lets_out_a_group_of_rejections(attempt: int) -> None:
    raise ExceptionGroup(
        "two", [RejectedError("elsewhere"), ExceptionGroup("inner", [TimedOutError("x", started=False)])]
    )


async def hangs(attempt: int) -> None:
    await trio.sleep(500)


async def hangs_in_a_nursery(attempt: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 500)
        await trio.sleep(500)


async def rejects_then_hangs(attempt: int) -> None:
    if attempt == 1:
        raise RejectedError("elsewhere")
    await trio.sleep(500)


FUNCTIONS = [
    succeeds,
    raises,
    lets_out_a_rejection,
    lets_out_a_group_of_rejections,
    hangs,
    hangs_in_a_nursery,
    rejects_then_hangs,
]

# --- the ways to compose -------------------------------------------------------------------------------------------------

Compose = Callable[[list[Any], Fn, World], Callable[[], Awaitable[Any]]]


def as_pipeline(layers: list[Any], fn: Fn, world: World) -> Callable[[], Awaitable[Any]]:
    return functools.partial(Pipeline(*layers).call, fn, "x")


def as_nested_pipelines(layers: list[Any], fn: Fn, world: World) -> Callable[[], Awaitable[Any]]:
    pipeline = Pipeline()
    for layer in reversed(layers):
        pipeline = Pipeline(layer, pipeline)
    return functools.partial(pipeline(fn), "x")


def as_calls(layers: list[Any], fn: Fn, world: World) -> Callable[[], Awaitable[Any]]:
    for layer in reversed(layers):
        fn = functools.partial(layer.call, fn)
    return functools.partial(fn, "x")


def as_decorators(layers: list[Any], fn: Fn, world: World) -> Callable[[], Awaitable[Any]]:
    for layer in reversed(layers):
        fn = layer(fn)
    return functools.partial(fn, "x")


def as_partials_of_bound_functions(layers: list[Any], fn: Fn, world: World) -> Callable[[], Awaitable[Any]]:
    fn = functools.partial(fn, "x")
    for layer in reversed(layers):
        fn = functools.partial(functools.partial(layer.bind(fn)))
    return fn


def as_methods(layers: list[Any], fn: Fn, world: World) -> Callable[[], Awaitable[Any]]:
    async def method(self: object, x: str) -> Any:
        return await fn(x)

    class Client:
        fetch: Any = layers[-1](method)

    bound = Client().fetch
    for layer in reversed(layers[:-1]):
        bound = functools.partial(layer.call, bound)
    return functools.partial(bound, "x")


def with_user_decorators_between(layers: list[Any], fn: Fn, world: World) -> Callable[[], Awaitable[Any]]:
    def users_decorator(inner: Fn) -> Fn:
        @functools.wraps(inner)  # copies the attributes of our wrapper too: it must not be taken for it, and be skipped
        async def users_wrapper(*args: Any) -> Any:
            world.entered += 1
            return await inner(*args)

        return users_wrapper

    for layer in reversed(layers):
        fn = layer(users_decorator(fn))
    return functools.partial(fn, "x")


def with_lambdas_between(layers: list[Any], fn: Fn, world: World) -> Callable[[], Awaitable[Any]]:
    def enter(inner: Fn) -> Awaitable[Any]:
        world.entered += 1
        return inner()

    composed: Fn = functools.partial(fn, "x")
    for layer in reversed(layers):
        composed = functools.partial(layer.call, lambda inner=composed: enter(inner))
    return composed


WAYS: list[Compose] = [
    as_pipeline,
    as_nested_pipelines,
    as_calls,
    as_decorators,
    as_partials_of_bound_functions,
    as_methods,
    with_user_decorators_between,
    with_lambdas_between,
]

# --- the table -----------------------------------------------------------------------------------------------------------


def leaves(error: Exception) -> list[Exception]:
    if not isinstance(error, ExceptionGroup):
        return [error]
    return list(itertools.chain.from_iterable(leaves(each) for each in error.exceptions))


async def check(kinds: tuple[Any, ...], function: Any, way: Compose) -> str:
    """Make one call through one stack and return how it ended."""
    world = World()
    layers = [kind(world, depth) for depth, kind in enumerate(kinds)]
    calls = itertools.count(1)

    async def fn(*args: Any) -> Any:
        assert args == ("x",)
        world.entered += 1
        return await function(next(calls))

    composed = way(layers, fn, world)
    error: Exception | None = None
    with trio.move_on_after(100) as scope:
        try:
            assert await composed() == "done"
        except Exception as exc:
            error = exc
    ended = "cancelled" if scope.cancelled_caught else "done" if error is None else type(error).__name__
    told = f"{[kind.__name__ for kind in kinds]} {function.__name__} {way.__name__}: {world.entered} entered, {error!r}"
    if error is not None:
        for each in leaves(error):
            if isinstance(each, TrioresilError):
                assert each.started is (world.entered > 0), told
            else:
                assert world.entered, told
            assert not isinstance(each, AssertionError), told
    if ended == "done":
        assert world.entered, told
    _check_nothing_is_left(layers, told)
    if kinds[0] is breaker:
        verdicts = layers[0].statistics().trip
        assert verdicts == f"{int(error is not None and world.entered > 0)}/100 consecutive failures", told
    return ended


def _check_nothing_is_left(layers: list[Any], told: str) -> None:
    for layer in layers:
        statistics = layer.statistics()
        for field in ("inside", "waiting", "borrowed", "probes_out"):
            assert not getattr(statistics, field, 0), f"{told}: {layer!r}"


def check_all(stacks: list[tuple[Any, ...]], functions: list[Any], way: Compose) -> dict[str, int]:
    endings: dict[str, int] = {}

    async def main() -> None:
        for kinds, function in itertools.product(stacks, functions):
            ended = await check(kinds, function, way)
            endings[ended] = endings.get(ended, 0) + 1

    recorder = Recorder()  # keeps the log quiet
    with trioresil.instrument(recorder):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return endings


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_started_is_true_exactly_if_a_function_was_entered_in_every_stack_of_two(way: Compose) -> None:
    endings = check_all([(kind,) for kind in LAYERS] + list(itertools.product(LAYERS, repeat=2)), FUNCTIONS, way)
    assert sum(endings.values()) == (14 + 14**2) * len(FUNCTIONS)
    every = {"done", "cancelled", "OSError", "RejectedError", "ExceptionGroup", "TimedOutError", "CircuitOpenError"}
    assert endings.keys() >= every | {"BulkheadFullError"}


@pytest.mark.slow
@pytest.mark.parametrize("outer", LAYERS, ids=lambda kind: kind.__name__)
def test_started_is_true_exactly_if_a_function_was_entered_in_every_stack_of_three(outer: Any) -> None:
    stacks = [(outer, *inner) for inner in itertools.product(LAYERS, repeat=2)]
    endings = check_all(stacks, [lets_out_a_rejection, hangs, rejects_then_hangs], as_pipeline)
    assert sum(endings.values()) == 14**2 * 3


# --- and by hand, what the table can't tell --------------------------------------------------------------------------------


async def test_a_users_wrapper_around_ours_is_run_and_not_skipped() -> None:
    seen: list[str] = []

    def logged(fn: Fn) -> Fn:
        @functools.wraps(fn)
        async def wrapper(*args: Any) -> Any:
            seen.append(fn.__name__)
            return await fn(*args)

        return wrapper

    @Bulkhead(1)
    @logged
    @Timeout(5)
    async def fetch(x: int) -> int:
        return x

    assert await fetch(3) == 3
    assert await Retry(on=OSError).call(fetch, 4) == 4
    assert await Pipeline(Retry(on=OSError))(functools.partial(fetch, 5))() == 5
    assert seen == ["fetch"] * 3


async def test_a_rejection_caught_by_user_code_and_raised_later_has_started() -> None:
    breaker = open_breaker(World(), 0)
    kept: list[RejectedError] = []
    before: list[bool] = []

    async def inner() -> None:
        try:
            await breaker.call(fail)
        except RejectedError as exc:
            kept.append(exc)
            before.append(exc.started)
            raise

    with pytest.raises(RejectedError) as caught:
        await Timeout(5).call(inner)
    assert caught.value is kept[0]
    assert before == [False]
    assert caught.value.started is True


async def test_the_same_rejection_through_a_bound_method_has_not_started() -> None:
    bucket = TokenBucket(rate=1, max_wait=0)
    await Retry(on=OSError).call(bucket.acquire)
    with pytest.raises(trioresil.RateLimitedError) as caught:
        await Retry(on=OSError).call(bucket.acquire)
    assert caught.value.started is False
    with pytest.raises(trioresil.RateLimitedError) as caught:
        await Retry(on=OSError).call(functools.partial(functools.partial(bucket.acquire), 1))
    assert caught.value.started is False
    with pytest.raises(trioresil.RateLimitedError) as caught:
        await Retry(on=OSError).call(lambda: bucket.acquire())
    assert caught.value.started is True


async def test_a_retry_ends_with_the_attempt_that_ran_not_with_the_rejections_after_it(autojump_clock: Any) -> None:
    breaker = CircuitBreaker(trip=ConsecutiveFailures(1), open_for=1000)
    ran: list[OSError] = []

    async def fetch() -> None:
        ran.append(OSError(len(ran)))
        raise ran[-1]

    with pytest.raises(OSError, match="0") as caught:
        await Pipeline(Retry(on=Exception), breaker).call(fetch)
    assert caught.value is ran[0]
    assert len(ran) == 1
