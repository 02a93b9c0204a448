"""How things are timed: interleaved rounds, CPU time of the thread, medians.

Each round measures every contender once, in an order that a seed shuffles, so that a slow minute of the machine hits all of
them alike; numbers of different runs aren't comparable, ratios within one are. The thread's CPU time leaves out what other
programs take. The garbage collector stays on, as in a program, so that who makes reference cycles pays for them; what exists
when the rounds begin is frozen out of its sight.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

Call = Callable[[int], Awaitable[object]]


@dataclass(frozen=True)
class HttpPlan:
    """How much to measure of HTTP."""

    rounds: int = 3
    cells: tuple[tuple[int, int], ...] = (
        (1, 100),
        (100, 10),
        (100, 100),
        (200, 4),
        (1_000, 100),
        (1_000, 1_000),
        (5_000, 1_000),
    )
    """Pairs of tasks and connections."""
    schemes: tuple[str, ...] = ("http", "https")
    contenders: tuple[str, ...] = ()
    """Who takes part; empty: everybody."""
    window: float = 2.0
    """Seconds that are measured in each cell."""
    box: float = 14.0
    """Seconds after which a cell is given up."""
    gc_threshold: int = 0
    """The garbage collector's first threshold in the clients; 0: as Python has it."""


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    rounds: int = 61
    seed: int = 0
    batch_seconds: float = 0.003
    """CPU time of one contender in one round, for calls."""
    waiters: tuple[int, ...] = (10, 1_000, 10_000, 100_000)
    """Lengths of the queues."""
    drain_seconds: float = 1.0
    """How long a queue takes to drain at its rate; five times that for more than 10,000 waiters."""
    grants: int = 2_000
    """Grants at 4 kHz."""
    worker_items: int = 20_000
    """Items through workers in one round."""
    memory_items: tuple[int, ...] = (10_000, 1_000_000)
    """Numbers of items for which memory is traced."""
    shared_rounds: int = 5
    """Rounds of section shared."""
    shared_seconds: float = 1.0
    """How long one measurement of it takes."""
    shared_processes: tuple[int, ...] = (1, 4)
    shared_tasks: tuple[int, ...] = (1, 10, 100)
    """How many processes, and tasks in each."""
    shared_contenders: tuple[str, ...] = ()
    """Who is measured; empty: everybody."""
    http: HttpPlan = field(default_factory=HttpPlan)

    def repeats(self, work: int) -> int:
        """Return how many rounds a long measurement gets: fewer, the more work one is."""
        return max(1, min(self.rounds, 100_000 // work))


@dataclass(frozen=True)
class Contender:
    """Something whose calls are timed."""

    key: str
    call: Call
    around: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)
    """A context in which its batches run."""


async def per_call(contenders: Sequence[Contender], plan: Plan) -> dict[str, float]:
    """Return each contender's CPU time for a call, in µs: the median of the rounds."""
    sizes = {each.key: await _batch_size(each, plan) for each in contenders}
    samples: dict[str, list[float]] = {each.key: [] for each in contenders}
    order = list(contenders)
    shuffle = random.Random(plan.seed).shuffle
    with frozen_heap():
        for _ in range(plan.rounds):
            shuffle(order)
            for each in order:
                size = sizes[each.key]
                samples[each.key].append(await _batch(each, size) / size * 1e6)
    return {key: statistics.median(values) for key, values in samples.items()}


async def _batch(contender: Contender, size: int) -> float:
    call = contender.call
    with contender.around():
        began = time.thread_time()
        for _ in range(size):
            await call(1)
        return time.thread_time() - began


async def _batch_size(contender: Contender, plan: Plan) -> int:
    """Find how many calls fill a batch, by the best of three trials; this warms up as well."""
    size = 16
    while (seconds := min([await _batch(contender, size) for _ in range(3)])) < plan.batch_seconds / 4:
        size *= 2
    return max(16, int(size * plan.batch_seconds / max(seconds, 1e-9)))


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Keep the collector on, but away from what exists already."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the collector off: with 100,000 tasks alive, what it costs depends on when it happens to look at them."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
