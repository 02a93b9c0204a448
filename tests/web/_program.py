"""A program with one of each policy and service, some of them in trouble, for the live page's tests and pictures."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio

import trioresil


class Weather:
    """A service that fails a share of its calls."""

    def __init__(self, share: float = 0.0, takes: float = 0.01) -> None:
        self.share = share
        self.takes = takes
        self._chance = random.Random(7)

    async def __call__(self, *args: object) -> str:
        await trio.sleep(self.takes * (0.5 + self._chance.random()))
        if self._chance.random() < self.share:
            raise ConnectionError("refused by https://user:hunter2@search.internal/v1?key=sesame")
        return "fine"


async def _load(pipeline: Any, service: Any, pause: float) -> None:
    while True:
        with suppress(trioresil.TrioresilError, ConnectionError):
            await pipeline.call(service)
        await trio.sleep(pause)


async def _child(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    task_status.started()
    await trio.sleep_forever()


async def _flapping() -> None:
    await trio.sleep(2)
    raise ConnectionError("the feed was closed")


async def _below() -> None:
    async with trioresil.open_supervisor(name="ingest") as inner:
        inner.start_soon(trio.sleep_forever, name="parser")
        inner.start_soon(trio.sleep_forever, name="writer")
        await trio.sleep_forever()


@asynccontextmanager
async def a_program() -> AsyncIterator[None]:
    """Keep it running while the block lasts; open the page around it."""
    search, payments, mail = Weather(0.85, 0.02), Weather(0.02, 0.03), Weather(0.25, 0.05)
    budget = trioresil.RetryBudget(ratio=0.2, min_per_second=2)
    ratio = trioresil.FailureRatio(0.5, window=10, min_calls=10)
    pipelines = [
        (search, 0.05, trioresil.CircuitBreaker(trip=ratio, open_for=6, name="search"), 20, "search"),
        (payments, 0.03, trioresil.CircuitBreaker(trip=ratio, name="payments"), 8, "payments"),
        (mail, 0.1, trioresil.CircuitBreaker(name="mail"), 3, "mail"),
    ]
    async with AsyncExitStack() as stack:
        health = await stack.enter_async_context(trioresil.open_health_monitor(interval=1, name="dependencies"))
        health.watch("database", Weather(0, 0.004), critical=True)
        health.watch("search", Weather(0.95, 0.02))
        health.watch("mail", Weather(0, 0.3), degraded_above=0.2)
        await stack.enter_async_context(trioresil.open_shutdown(signals=(), name="shutdown"))
        supervisor = await stack.enter_async_context(trioresil.open_supervisor(name="app", max_restarts=1000))
        supervisor.start_soon(_below, name="ingest")
        supervisor.start_soon(_flapping, name="price-feed")
        crew = trioresil.open_workers(mail, workers=4, buffer=50, on_error="collect", name="thumbnails")
        workers = await stack.enter_async_context(crew)
        nursery = await stack.enter_async_context(trio.open_nursery())
        for service, pause, breaker, limit, name in pipelines:
            retry = trioresil.Retry(
                on=ConnectionError, max_attempts=3, backoff=[0.05, 0.1], budget=budget, name=f"{name} retry"
            )
            policies = (
                trioresil.Timeout(2, name=f"{name} timeout"), retry, breaker, trioresil.Bulkhead(limit, name=f"{name} slots")
            )  # fmt: skip
            pipeline = trioresil.Pipeline(*policies, name=f"{name} call")
            for _ in range(limit // 2 + 1):
                nursery.start_soon(_load, pipeline, service, pause)
        nursery.start_soon(_throttled)
        nursery.start_soon(_feed, workers)
        yield
        nursery.cancel_scope.cancel()


async def _throttled() -> None:
    bucket = trioresil.TokenBucket(rate=12, capacity=20, name="billing rate")
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(partial(_load, bucket, Weather(0, 0.01), 0.1))


async def _feed(workers: Any) -> None:
    number = 0
    while True:
        await workers.send(number)
        number += 1
        await trio.sleep(0.02)
