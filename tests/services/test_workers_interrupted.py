"""Ctrl-C at any moment of workers and maps: nobody stays busy, no item is lost, nobody waits for those who are gone."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests._interrupts import interrupted
from tests.services._items import Book
from trioresil import ConcurrentMap, Workers, map_concurrently, open_workers

Start = Callable[[], None]


def check_all_moments(make_main: Callable[[], tuple[Callable[[Start], Awaitable[None]], Callable[[], None]]]) -> int:
    """Interrupt a run at each of its moments in turn, and check what is left; return how many there are."""
    at, more = 0, True
    while more:
        at += 1
        main, check = make_main()

        async def stopping(start: Start, main: Callable[[Start], Awaitable[None]] = main) -> None:
            try:
                await main(start)
            finally:
                sys.setprofile(None)
            await trio.lowlevel.checkpoint()  # where a Ctrl-C that was held back arrives

        more = interrupted(stopping, at)
        try:
            check()
        except AssertionError as exc:
            exc.add_note(f"at moment {at}")
            raise
    return at


def interrupt_workers() -> tuple[Callable[[Start], Awaitable[None]], Callable[[], None]]:
    book = Book()
    manager = open_workers(book.run, workers=2, buffer=1, results=1)
    kept: list[Workers[Any, Any]] = []
    read: list[Any] = []

    async def main(start: Start) -> None:
        start()
        async with manager as workers:
            kept.append(workers)
            receiver = workers.results
            for item in range(4):
                await workers.send(item)
                while receiver.statistics().current_buffer_used:
                    read.append((await receiver.receive()).item)

    def check() -> None:
        for workers in kept:
            now = workers.statistics()
            assert (now.busy, now.delivering, now.sending) == (0, 0, 0)
            assert now.accepted == now.succeeded + now.failed + now.unfinished
            assert now.unfinished == len(workers.unfinished)
            assert sorted(book.ended) == sorted([*read, *(each.item for each in workers.undelivered)])

    return main, check


def interrupt_map() -> tuple[Callable[[Start], Awaitable[None]], Callable[[], None]]:
    book = Book()
    manager = map_concurrently(book.run, range(4), workers=2)
    kept: list[ConcurrentMap[Any, Any]] = []

    async def main(start: Start) -> None:
        start()
        async with manager as outcomes:
            kept.append(outcomes)
            async for _ in outcomes:
                pass

    def check() -> None:
        for outcomes in kept:
            now = outcomes.statistics()
            assert now.busy == 0
            assert now.taken == now.succeeded + now.failed + now.unfinished
            assert now.unfinished == len(outcomes.unfinished)
            assert now.succeeded == now.read + len(outcomes.undelivered)

    return main, check


@pytest.mark.slow
# where the interrupt strikes in a frame around it, the function's coroutine is left to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine 'Book.run' was never awaited:RuntimeWarning")
@pytest.mark.parametrize("make_main", [interrupt_workers, interrupt_map])
def test_nobody_stays_busy_and_every_item_is_accounted_for(make_main: Any) -> None:
    assert check_all_moments(make_main) > 50
    gc.collect()  # what was abandoned, while the warning is expected


@pytest.mark.parametrize("opened", [lambda fn: open_workers(fn), lambda fn: map_concurrently(fn, ["a"])])
def test_a_function_can_be_interrupted(opened: Callable[[Any], Any]) -> None:
    reached = False

    async def interrupt(item: str) -> None:
        nonlocal reached
        signal.raise_signal(signal.SIGINT)
        reached = True

    async def main() -> None:
        async with opened(interrupt) as opened_one:
            if isinstance(opened_one, Workers):
                await opened_one.send("a")
            await trio.sleep_forever()

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not reached
