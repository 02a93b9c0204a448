"""Sections `calls` and `failure`: what a call through a policy costs, on the happy path and with one failure."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context

import trio

import trioresil

from . import _by_hand, _rivals
from ._measure import Contender, Plan, per_call

BARE = "bare call"
CHECKPOINT = "checkpoint"


async def fetch(value: int) -> object:
    """Do nothing: what is measured stands around it."""
    return value


async def checkpoint(value: int) -> object:
    """Be a checkpoint: the unit of the targets."""
    await trio.lowlevel.checkpoint()
    return value


class Deaf:
    """A listener that throws events away."""

    def record(self, event: trioresil.abc.Event, /) -> None:
        """Take no note."""


def happy(plan: Plan) -> dict[str, float]:
    """Measure the happy path of everything; µs for a call, by contender."""
    return trio.run(_happy, plan)


def failure(plan: Plan) -> dict[str, float]:
    """Measure one failure and one retry without a delay; µs for a call, by contender."""
    return trio.run(_failure, plan)


async def _happy(plan: Plan) -> dict[str, float]:
    limiter = trio.CapacityLimiter(10)
    calls = {BARE: fetch, CHECKPOINT: checkpoint, **_ours(limiter), **_hand_written(limiter)}
    calls |= _rivals.happy(fetch, limiter)
    contenders = [Contender(key, call) for key, call in calls.items()]
    pipeline = _pipeline(limiter)(fetch)
    contenders.append(Contender("five: trioresil, a listener elsewhere", pipeline, _listening_elsewhere))
    contenders.append(Contender("five: trioresil, a listener here", pipeline, lambda: trioresil.instrument(Deaf())))
    return await per_call(contenders, plan)


def _pipeline(limiter: trio.CapacityLimiter, *, timed: bool = True) -> trioresil.Pipeline:
    return trioresil.Pipeline(
        trioresil.Fallback(on=(OSError, trio.TooSlowError, trioresil.RejectedError), default=None),
        trioresil.Retry(on=(OSError, trio.TooSlowError)),
        trioresil.Bulkhead(limiter),
        trioresil.CircuitBreaker(),
        *([trioresil.Timeout(2)] if timed else []),
    )


def _ours(limiter: trio.CapacityLimiter) -> dict[str, _by_hand.Fetch]:
    retry = trioresil.Retry(on=OSError)

    async def loop(value: int) -> object:
        async for attempt in retry:
            with attempt:
                return await fetch(value)
        return None

    ratio = trioresil.FailureRatio(0.5, window=30)
    pipeline = _pipeline(limiter)
    return {
        "retry: trioresil": retry(fetch),
        "call: trioresil": lambda value: retry.call(fetch, value),
        "loop: trioresil": loop,
        "timeout: trioresil": trioresil.Timeout(2)(fetch),
        "breaker: trioresil": trioresil.CircuitBreaker()(fetch),
        "ratio: trioresil": trioresil.CircuitBreaker(trip=ratio)(fetch),
        "bulkhead: trioresil": trioresil.Bulkhead(limiter)(fetch),
        "bucket: trioresil": trioresil.TokenBucket(rate=1e9, capacity=1e6)(fetch),
        "fallback: trioresil": trioresil.Fallback(on=OSError, default=None)(fetch),
        "five: trioresil": pipeline(fetch),
        "four: trioresil": _pipeline(limiter, timed=False)(fetch),
        "five call: trioresil": lambda value: pipeline.call(fetch, value),
    }


def _hand_written(limiter: trio.CapacityLimiter) -> dict[str, _by_hand.Fetch]:
    async def limited(value: int) -> object:
        async with limiter:
            return await fetch(value)

    return {
        "retry: by hand": _by_hand.retry(fetch),
        "timeout: trio.fail_after": _by_hand.timeout(fetch),
        "breaker: by hand": _by_hand.breaker(fetch, _by_hand.Circuit()),
        "bulkhead: by hand": _by_hand.bulkhead(fetch, limiter),
        "bulkhead: async with CapacityLimiter": limited,
        "bucket: by hand, no queue": _by_hand.token_bucket(fetch, 1e9, 1e6),
        "fallback: by hand": _by_hand.fallback(fetch),
        "five: by hand": _by_hand.five(fetch, limiter, _by_hand.Circuit()),
        "four: by hand": _by_hand.four(fetch, limiter, _by_hand.Circuit()),
    }


@contextmanager
def _listening_elsewhere() -> Iterator[None]:
    """Let somebody listen whom this task's events don't concern."""
    context = copy_context()
    listening = trioresil.instrument(Deaf())
    context.run(listening.__enter__)
    try:
        yield
    finally:
        context.run(listening.__exit__, None, None, None)


async def _failure(plan: Plan) -> dict[str, float]:
    calls = {
        "bare call": fetch,
        "trioresil": trioresil.Retry(on=OSError, backoff=[0])(_flaky()),
        "by hand": _by_hand.retry(_flaky(), base=0),
    }
    calls |= _rivals.flaky(_flaky, OSError)
    with _logs_kept_off_the_terminal():
        return await per_call([Contender(key, call) for key, call in calls.items()], plan)


def _flaky() -> _by_hand.Fetch:
    """Return a function that fails each second time, the first time first."""
    fails = False

    async def flaky(value: int) -> object:
        nonlocal fails
        fails = not fails
        if fails:
            raise ConnectionResetError
        return value

    return flaky


@contextmanager
def _logs_kept_off_the_terminal() -> Iterator[None]:
    """Let libraries log their retries as they do in a program, into a handler that writes nothing."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        with _structlog_kept_off_the_terminal():
            yield
    finally:
        logging.getLogger().removeHandler(handler)


@contextmanager
def _structlog_kept_off_the_terminal() -> Iterator[None]:
    """stamina logs with structlog if that is there, which prints by default."""
    try:
        import structlog
    except ImportError:
        yield
        return
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        yield
    finally:
        structlog.configure(**before)
