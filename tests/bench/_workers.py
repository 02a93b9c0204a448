"""Section `workers`: what an item costs, against a nursery and memory channels written by hand, and what many leave in memory."""

from __future__ import annotations

import gc
import random
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

import trioresil

from ._measure import Plan, frozen_heap
from ._report_shapes import Table, Target, at_most

WORKERS = 10
Run = Callable[[int], Awaitable[None]]


def workers(plan: Plan) -> dict[str, Any]:
    """Measure µs for an item, and peaks of traced memory in KiB, by contender."""
    samples: dict[str, list[float]] = {key: [] for key in CONTENDERS}
    order = list(CONTENDERS)
    shuffle = random.Random(plan.seed).shuffle
    with frozen_heap():
        for _ in range(plan.repeats(plan.worker_items)):
            shuffle(order)
            for key in order:
                samples[key].append(_seconds(CONTENDERS[key], plan.worker_items) / plan.worker_items * 1e6)
    return {
        "µs": {key: statistics.median(found) for key, found in samples.items()},
        "KiB": {
            key: {str(count): _peak(CONTENDERS[key], count) / 1024 for count in plan.memory_items}
            for key in ("open_workers, results", "map_concurrently", "map_concurrently, ordered")
        },
    }


def _seconds(run: Run, count: int) -> float:
    began = time.thread_time()
    trio.run(run, count)
    return time.thread_time() - began


def _peak(run: Run, count: int) -> int:
    """Return the most memory that was in use at once, above what there was before."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        trio.run(run, count)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


async def _work(item: int) -> int:
    return item


async def _by_hand(count: int) -> None:
    sender, receiver = trio.open_memory_channel[int](0)

    async def worker() -> None:
        async for item in receiver:
            await _work(item)

    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(worker)
        async with sender:
            for item in range(count):
                await sender.send(item)


async def _by_hand_with_results(count: int) -> None:
    sender, receiver = trio.open_memory_channel[int](0)
    result_sender, results = trio.open_memory_channel[tuple[int, int]](2 * WORKERS)

    async def worker(sender: trio.MemorySendChannel[tuple[int, int]]) -> None:
        async with sender:
            async for item in receiver:
                await sender.send((item, await _work(item)))

    async def feed() -> None:
        async with sender:
            for item in range(count):
                await sender.send(item)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed)
        async with result_sender:
            for _ in range(WORKERS):
                nursery.start_soon(worker, result_sender.clone())
        async for _ in results:
            pass


async def _open_workers(count: int) -> None:
    async with trioresil.open_workers(_work, workers=WORKERS) as pool:
        for item in range(count):
            await pool.send(item)


async def _open_workers_with_results(count: int) -> None:
    async def feed() -> None:
        for item in range(count):
            await pool.send(item)
        pool.close_admission()

    async with (
        trioresil.open_workers(_work, workers=WORKERS, results=2 * WORKERS) as pool,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(feed)
        async for _ in pool.results:
            pass


async def _map(count: int) -> None:
    async with trioresil.map_concurrently(_work, range(count), workers=WORKERS) as outcomes:
        async for _ in outcomes:
            pass


async def _map_in_order(count: int) -> None:
    async with trioresil.map_concurrently(_work, range(count), workers=WORKERS, ordered=True) as outcomes:
        async for _ in outcomes:
            pass


CONTENDERS: dict[str, Run] = {
    "by hand: nursery, channel": _by_hand,
    "open_workers": _open_workers,
    "by hand: nursery, two channels": _by_hand_with_results,
    "open_workers, results": _open_workers_with_results,
    "map_concurrently": _map,
    "map_concurrently, ordered": _map_in_order,
}


def worker_tables(measured: Mapping[str, Any]) -> list[Table]:
    """Return the tables of `workers`."""
    rows = [
        (key, f"{cost:.2f}", f"{1e6 / cost:,.0f}", f"{cost / measured['µs'][_rival(key)]:.2f}")
        for key, cost in measured["µs"].items()
    ]
    peaks = [
        (key, f"{int(count):,}", f"{peak:.0f}")
        for key, found in measured["KiB"].items()
        for count, peak in found.items()
    ]
    return [
        Table(f"Items through {WORKERS} workers", ("", "CPU µs an item", "items a second", "× by hand"), rows),
        Table("Memory while items pass", ("", "items", "KiB at most"), peaks),
    ]


def worker_targets(measured: Mapping[str, Any]) -> list[Target]:
    """Return the promise that memory doesn't grow with the number of items."""
    found = []
    for key, peaks in measured["KiB"].items():
        few, many = next(iter(peaks.items())), list(peaks.items())[-1]
        found.append(at_most(f"{key}: memory for {int(many[0]):,} items / for {int(few[0]):,}", many[1] / few[1], 1.2))
    return found


def _rival(key: str) -> str:
    return "by hand: nursery, channel" if key in {"by hand: nursery, channel", "open_workers"} else _TWO


_TWO = "by hand: nursery, two channels"
