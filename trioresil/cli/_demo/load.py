"""Sends the same requests through both clients at the same instants, at a fixed rate, whatever becomes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from .clients import Call
from .timeline import Outcome, Side, Slice, Tally, Timeline

ITEMS: Final = 10
DRAIN_SECONDS: Final = 6.0
"""How long the last requests may take: more than httpx's own time-outs."""


@attrs.frozen
class Lane:
    """One side: its call, and where its figures go."""

    call: Call
    side: Side
    tally_of: Callable[[Slice], Tally]


async def drive(lanes: Sequence[Lane], timeline: Timeline, rate: float, began_at: float) -> None:
    """Start a request in every lane each 1/rate s until the time is over, then wait for the last ones, up to DRAIN_SECONDS."""
    async with trio.open_nursery() as nursery:
        for number in range(max(1, math.floor(round(rate * timeline.seconds, 6)))):
            at = number / rate
            await trio.sleep_until(began_at + at)
            for lane in lanes:
                tally = lane.tally_of(timeline.slice_at(at))
                nursery.start_soon(_request, lane, tally, f"item-{number % ITEMS}")
        nursery.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS


async def _request(lane: Lane, tally: Tally, item: str) -> None:
    side = lane.side
    side.total.begun += 1
    tally.begun += 1
    began_at = trio.current_time()
    outcome: Outcome = "failed"
    try:
        answer = await lane.call(item)
    except Exception as exc:
        side.errors[type(exc).__name__] += 1
    else:
        outcome = "fresh" if answer.fresh else "cached"
        side.oldest = max(side.oldest, answer.age)
    took = trio.current_time() - began_at
    side.finish(took)
    tally.waits.append(took)
    side.total.add(outcome)
    tally.add(outcome)
