"""The types of workers and maps, pinned: an outcome knows its item and its value. Never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

import trio

import trioresil
from trioresil.abc import Drainable


async def fetch(url: str) -> bytes:
    return url.encode()


async def urls() -> AsyncIterator[str]:
    yield "http://a.example"


def show(progress: trioresil.Progress) -> None:
    assert_type(progress.eta, float | None)


async def returns_from_inside() -> int:
    async with trioresil.open_workers(fetch):
        return 1


async def workers_know_items_and_values() -> None:
    async with trioresil.open_workers(fetch, results=10, progress=show, policy=trioresil.Timeout(1)) as workers:
        assert_type(workers, trioresil.Workers[str, bytes])
        drainable: Drainable = workers
        drainable.close_admission()
        receiver: trio.abc.ReceiveChannel[trioresil.Outcome[str, bytes]] = workers.results
        await receiver.aclose()
        await workers.send("http://a.example")
        workers.send_nowait("http://a.example")
        async for outcome in workers.results:
            assert_type(outcome, trioresil.Outcome[str, bytes])
            assert_type(outcome.item, str)
            assert_type(outcome.value, bytes | None)
            assert_type(outcome.error, Exception | None)
            assert_type(outcome.unwrap(), bytes)
        assert_type(workers.unfinished, list[str])
        assert_type(workers.undelivered, list[trioresil.Outcome[str, bytes]])
        assert_type(workers.statistics(), trioresil.WorkersStatistics)
        await workers.send(5)  # type: ignore[arg-type]


async def maps_know_items_and_values() -> None:
    async with trioresil.map_concurrently(fetch, ["http://a.example"], workers=5, on_error="raise") as outcomes:
        assert_type(outcomes, trioresil.ConcurrentMap[str, bytes])
        async for outcome in outcomes:
            assert_type(outcome, trioresil.Outcome[str, bytes])
        assert_type(outcomes.unfinished, list[str])
        outcomes.resize(5)
        outcomes.resize("5")  # type: ignore[arg-type]
    async with trioresil.map_concurrently(fetch, urls(), ordered=True) as outcomes:
        assert_type(outcomes, trioresil.ConcurrentMap[str, bytes])


async def refuses_what_it_does_not_know() -> None:
    trioresil.open_workers(fetch, on_error="ignore")  # type: ignore[arg-type]
    trioresil.open_workers(fetch, size=5)  # type: ignore[call-arg]
    trioresil.map_concurrently(fetch, 5)  # type: ignore[arg-type]
