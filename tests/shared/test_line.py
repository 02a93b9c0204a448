"""The line of waiters: which slot goes to whom, and that none is lost."""

from __future__ import annotations

import trio

from trioresil._shared.line import LATE, Line, Waiter
from trioresil._shared.token_bucket_scripts import Slot


def slot(after: float, tokens: float = 1) -> Slot:
    """One that is ready so many seconds from now."""
    at = trio.current_time() + after
    return Slot(at, tokens, (0.0, at * 1e6), (0.0, at * 1e6 - 1))


def seconds(found: list[Slot]) -> list[int]:
    return [round(each.ready_at - trio.current_time()) for each in found]


async def test_newcomer_gets_the_last_slot_that_fits_and_is_soon_enough() -> None:
    line = Line()
    for each in (slot(1), slot(2), slot(3), slot(2.2, tokens=0.5)):
        line.free(each)
    now = trio.current_time()
    assert line.take_freed(1, now, now + 0.5) is None
    first = line.take_freed(1, now, now + 2.5)
    assert first is not None
    assert seconds([first]) == [2]
    assert line.freed == 3


async def test_missed_slot_is_for_nobody() -> None:
    line = Line()
    line.free(slot(-2 * LATE))
    now = trio.current_time()
    assert line.take_freed(1, now, now + 1) is None
    assert line.freed == 0


async def test_what_is_behind_everybody_comes_out_with_the_latest_first() -> None:
    line = Line()
    line.join(Waiter(1), slot(2))
    for after in (3, 5, 4):
        line.free(slot(after))
    line.free(slot(2.5, tokens=0.5))
    assert seconds(line.take_tail()) == [5, 4, 3, 2]
    assert line.freed == 0


async def test_what_is_before_somebody_stays() -> None:
    line = Line()
    line.join(Waiter(2), slot(2, tokens=2))
    line.free(slot(1, tokens=1))
    line.free(slot(3))
    assert seconds(line.take_tail()) == [3]
    assert line.freed == 1


async def test_head_that_moves_up_leaves_its_own_slot() -> None:
    line = Line()
    head = Waiter(1)
    line.join(head, slot(9))
    line.free(slot(1))
    assert head.slot is not None
    assert seconds([head.slot]) == [1]
    assert line.freed == 1


async def test_head_that_wants_much_passes_over_what_is_too_small_and_leaves_its_own_slot() -> None:
    line = Line()
    head = Waiter(2)
    line.join(head, slot(9, tokens=2))
    line.free(slot(1, tokens=1))
    line.free(slot(2, tokens=2))
    assert head.slot is not None
    assert seconds([head.slot]) == [2]
    assert line.freed == 2
    now = trio.current_time()
    last = line.take_freed(2, now, now + 10)
    assert last is not None
    assert seconds([last]) == [9]
