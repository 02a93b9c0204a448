"""The public types, pinned: this file is never run; mypy --strict and pyright must accept it as it is.

What must *not* be accepted carries a `type: ignore`. Both checkers report one that is not needed, so each is a claim.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, assert_type

import trio

import trioresil
import trioresil.testing
from trioresil import (
    Admission,
    Bulkhead,
    BulkheadStatistics,
    CircuitBreaker,
    CircuitBreakerStatistics,
    CircuitState,
    Fallback,
    Keyed,
    Pipeline,
    Retry,
    RetryBudget,
    Timeout,
    TokenBucket,
)


class Page:
    """What the functions return."""


async def fetch(url: str, wait: float = 3.0, *, retries: int = 0) -> Page:
    return Page()


async def no_arguments() -> None: ...


def plain(url: str) -> int:
    return len(url)


def returns_awaitable(url: str) -> Awaitable[Page]:
    return fetch(url)


def host_of(url: str) -> str:
    return url


retry = Retry(on=OSError)
timeout = Timeout(5)
breaker = CircuitBreaker()
bulkhead = Bulkhead(10)
bucket = TokenBucket(rate=5)
pipeline = Pipeline(timeout, retry, breaker, bucket, bulkhead)
keyed = Keyed(lambda host: CircuitBreaker(name=host), key=host_of)


async def every_call_returns_what_its_function_returns() -> None:
    for policy in (retry, timeout, breaker, bulkhead, bucket, pipeline):
        assert_type(await policy.call(no_arguments), None)
    assert_type(await retry.call(fetch, "/"), Page)
    assert_type(await timeout.call(fetch, "/", 3.0), Page)
    assert_type(await breaker.call(returns_awaitable, "/"), Page)
    assert_type(await bulkhead.call(functools.partial(fetch, retries=3), "/"), Page)
    assert_type(await bucket.call(lambda: fetch("/")), Page)
    assert_type(await pipeline.call(fetch, "/"), Page)
    assert_type(await keyed.call(fetch, "/"), Page)
    assert_type(await Pipeline(Timeout(3)).call(trio.sleep, 3), None)


@retry
async def with_retry(url: str, wait: float = 3.0, *, retries: int = 0) -> Page:
    return Page()


@timeout
async def with_timeout(url: str) -> Page:
    return Page()


@breaker
async def with_breaker(url: str) -> Page:
    return Page()


@bulkhead
async def with_bulkhead(url: str) -> Page:
    return Page()


@bucket
async def with_bucket(url: str) -> Page:
    return Page()


@pipeline
async def with_pipeline(url: str) -> Page:
    return Page()


@keyed
async def with_keyed(url: str) -> Page:
    return Page()


@retry
@breaker
@bulkhead
async def with_three(url: str) -> Page:
    return Page()


async def decorators_keep_the_signature() -> None:
    assert_type(await with_retry("/"), Page)
    assert_type(await with_retry("/", 2.0, retries=3), Page)
    assert_type(await with_retry(url="/", wait=2.0), Page)
    for each in (with_timeout, with_breaker, with_bulkhead, with_bucket, with_pipeline, with_keyed, with_three):
        accepted: Callable[[str], Coroutine[Any, Any, Page]] = each
        assert_type(await accepted("/"), Page)
        assert_type(await each("/"), Page)
    assert_type(await retry(fetch)("/", retries=3), Page)
    assert_type(await retry.bind(fetch)("/", retries=3), Page)
    assert_type(await retry(returns_awaitable)("/"), Page)


class Client:
    @pipeline
    async def method(self, url: str, *, retries: int = 0) -> Page:
        return Page()

    @staticmethod
    @retry
    async def static(url: str) -> Page:
        return Page()

    @classmethod
    @breaker
    async def of_class(cls, url: str) -> Page:
        return Page()

    @Fallback(on=OSError, default=None)
    async def or_none(self, url: str) -> Page:
        return Page()


async def decorated_methods_are_methods() -> None:
    client = Client()
    assert_type(await client.method("/"), Page)
    assert_type(await client.method("/", retries=3), Page)
    assert_type(await Client.method(client, "/"), Page)
    assert_type(await Client.static("/"), Page)
    assert_type(await client.static("/"), Page)
    assert_type(await Client.of_class("/"), Page)
    assert_type(await client.or_none("/"), Page | None)
    assert_type(await retry.call(client.method, "/"), Page)


async def wrong_arguments_are_seen() -> None:
    await with_retry(5)  # type: ignore[arg-type]
    await with_retry()  # type: ignore[call-arg]
    await with_retry("/", nothing=3)  # type: ignore[call-arg]
    await Client().method(5)  # type: ignore[arg-type]
    await retry.call(fetch, 5)  # type: ignore[arg-type]
    await retry.call(plain, "/")  # type: ignore[arg-type]
    retry(plain)  # type: ignore[arg-type]
    Retry()  # type: ignore[call-arg]
    Retry(on=BaseException)  # type: ignore[arg-type]
    Retry(on=OSError, max_attempts="3")  # type: ignore[arg-type]
    Pipeline(Timeout)  # type: ignore[arg-type]


# --- Fallback: a default is one more type that may come out --------------------------------------------------------------


async def a_fallback_adds_the_type_of_its_default() -> None:
    to_none = Fallback(on=OSError, default=None)
    to_text = Fallback(fetch, on=OSError, default="nothing")
    without = Fallback(fetch, on=OSError)
    assert_type(await to_none.call(fetch, "/"), Page | None)
    assert_type(await to_text.call(fetch, "/"), Page | str)
    assert_type(await without.call(fetch, "/"), Page)
    assert_type(await to_none(fetch)("/", retries=1), Page | None)
    assert_type(await to_text(fetch)("/"), Page | str)
    assert_type(await without(fetch)("/"), Page)
    assert_type(to_none, Fallback[None])
    assert_type(to_text, Fallback[str])


# --- the loop, the blocks, and what is read ---------------------------------------------------------------------------------


async def loops_and_blocks() -> None:
    async for attempt in retry:
        with attempt:
            assert_type(attempt.number, int)
            assert_type(attempt.previous, Exception | None)
            attempt.result = await fetch("/")
    async with timeout, breaker, bulkhead, bucket, pipeline:
        pass
    with breaker.admit() as admission:
        assert_type(admission, Admission)
        admission.fail(OSError())
        admission.ignore()
    with breaker.isolated():
        breaker.isolate().release()
    await trioresil.acquire_all((bucket, 1), (TokenBucket(rate=1), 0.5))


async def a_block_swallows_nothing() -> int:
    async with bulkhead, bucket, breaker, timeout, pipeline:
        return 3  # or a checker would say that a return is missing


def statistics_are_frozen_snapshots() -> None:
    assert_type(breaker.statistics(), CircuitBreakerStatistics)
    assert_type(breaker.statistics().state, CircuitState)
    assert_type(bulkhead.statistics(), BulkheadStatistics)
    assert_type(retry.statistics().max_attempts, float)
    assert_type(timeout.statistics().seconds, float)
    assert_type(bucket.statistics().tokens, float)
    assert_type(pipeline.statistics().parts, tuple[Any, ...])
    assert_type(keyed.statistics().keys, int)
    assert_type(RetryBudget().statistics().available, float)
    assert_type(retry.replace(max_attempts=3), Retry)
    assert_type(timeout.replace(seconds=3), Timeout)
    assert_type(breaker.state, CircuitState)
    assert_type(breaker.snapshot(), dict[str, Any])
    assert_type(CircuitBreaker.restore(breaker.snapshot(), name="x"), CircuitBreaker)
    assert_type(bulkhead.limit, float)
    assert_type(bucket.rate, float)


def errors_carry_numbers() -> None:
    try:
        pass
    except trioresil.RejectedError as exc:
        assert_type(exc.policy, str)
        assert_type(exc.retry_after, float | None)
        assert_type(exc.started, bool)
    except trioresil.TimedOutError as exc:
        assert_type(exc.seconds, float)
        assert_type(exc.started, bool | None)
    except trio.TooSlowError:
        pass


# --- configuration -----------------------------------------------------------------------------------------------------------


def price_of(prompt: str) -> float:
    return len(prompt) / 4


def configuration() -> None:
    Retry(on=(OSError, ValueError), backoff=[0.1, 0.2], rng=random.Random(1), budget=RetryBudget(ratio=0.1))
    Retry(on=lambda exc: True, backoff=trioresil.exponential(jitter="equal"), delay_hint=lambda outcome: None)
    Retry(on=Exception, backoff=trioresil.constant(1), max_attempts=float("inf"), on_result=lambda result: False)
    CircuitBreaker(trip=trioresil.ConsecutiveFailures(5) | trioresil.FailureRatio(0.5, window=30))
    CircuitBreaker(open_for=trioresil.exponential(initial=5, max=60))
    Bulkhead(trio.CapacityLimiter(3), max_waiting=5, max_wait=1)
    TokenBucket(rate=5, capacity=10, cost=price_of)


# --- Keyed ---------------------------------------------------------------------------------------------------------------------


def bulkhead_of(customer: int) -> Bulkhead:
    return Bulkhead(customer)


async def a_keyed_knows_its_key_and_its_policy() -> None:
    by_customer = Keyed(bulkhead_of)
    assert_type(by_customer, Keyed[int, Bulkhead])
    assert_type(by_customer[3], Bulkhead)
    assert_type(await by_customer[3].call(fetch, "/"), Page)
    assert_type(list(by_customer), list[int])
    assert_type(len(by_customer), int)
    by_customer["3"]  # type: ignore[index]
    async with by_customer[3]:
        pass


# --- what a user writes ------------------------------------------------------------------------------------------


class Logged(trioresil.abc.Policy):
    name = "logged"

    def link(self, inner: trioresil.abc.Link) -> trioresil.abc.Link:
        async def link(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            return await inner(args, kwargs)

        return link

    def statistics(self) -> int:
        return 3


class Listening:
    def record(self, event: trioresil.Event, /) -> None:
        if isinstance(event, trioresil.RetryScheduled):
            assert_type(event.delay, float)
        assert_type(event.name, str)


async def what_a_user_writes_fits() -> None:
    assert_type(await Pipeline(Logged(), Timeout(3)).call(fetch, "/"), Page)
    assert_type(await Logged()(fetch)("/", retries=3), Page)
    recorder = trioresil.testing.Recorder()
    with trioresil.instrument(Listening(), recorder):
        trioresil.instrument_run(Listening())
    assert_type(recorder.of(trioresil.CallFinished), list[trioresil.CallFinished])
    drainable: trioresil.abc.Drainable = bulkhead
    await drainable.wait_drained()
    trioresil.instrument(object())  # type: ignore[arg-type]


async def what_checks_return() -> None:
    assert_type(await trioresil.check_tls("a.example")(), float)
    assert_type(await trioresil.check_tcp("a.example", 80)(), None)


class Steps:
    def delays(self, rng: trioresil.abc.Chance, /) -> Iterator[float]:
        yield rng.random()


backoff: trioresil.abc.Backoff = Steps()
