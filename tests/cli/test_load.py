"""The load: the same instants for every lane, whatever becomes of the requests."""

from __future__ import annotations

import trio

from trioresil.cli._demo.clients import Answer
from trioresil.cli._demo.load import DRAIN_SECONDS, Lane, drive
from trioresil.cli._demo.timeline import Side, Tally, Timeline
from trioresil.cli._demo.weather import Weather


class Lanes:
    """Two lanes whose calls note when they were made."""

    def __init__(self, left, right) -> None:
        self.calls: list[list[tuple[float, str]]] = [[], []]
        self.sides = [Side("left"), Side("right")]
        self.timeline = Timeline(Weather(1, 2.0))
        self.began_at = trio.current_time()
        self.lanes = [
            Lane(self._noting(0, left), self.sides[0], lambda each: each.bare),
            Lane(self._noting(1, right), self.sides[1], lambda each: each.resilient),
        ]

    def _noting(self, index, call):
        async def noted(item: str) -> Answer:
            self.calls[index].append((trio.current_time() - self.began_at, item))
            return await call(item)

        return noted

    async def drive(self, rate: float) -> float:
        await drive(self.lanes, self.timeline, rate, self.began_at)
        return trio.current_time() - self.began_at


async def answer(item: str) -> Answer:
    return Answer(item)


async def hang(item: str) -> Answer:
    await trio.sleep_forever()
    raise AssertionError


async def test_both_lanes_get_the_same_requests_at_the_same_instants(autojump_clock) -> None:
    async def slow(item: str) -> Answer:
        await trio.sleep(3)
        return Answer(item)

    lanes = Lanes(answer, slow)
    assert await lanes.drive(4) == 1.75 + 3
    assert lanes.calls[0] == lanes.calls[1] == [(number / 4, f"item-{number}") for number in range(8)]


async def test_a_request_is_counted_where_it_began(autojump_clock) -> None:
    async def slow(item: str) -> Answer:
        await trio.sleep(0.75)
        return Answer(item)

    lanes = Lanes(answer, slow)
    await lanes.drive(1)
    began = [each.at for each in lanes.timeline.slices if each.resilient == Tally(begun=1, fresh=1)]
    assert began == [0.0, 1.0]
    assert lanes.sides[1].total == Tally(begun=2, fresh=2)
    assert lanes.sides[1].waits == [0.75, 0.75]
    assert [each.resilient.waits for each in lanes.timeline.slices if each.resilient.waits] == [[0.75], [0.75]]


async def test_what_hangs_is_cut_off_in_the_end_and_counts_neither_way(autojump_clock) -> None:
    lanes = Lanes(answer, hang)
    assert await lanes.drive(4) == 1.75 + DRAIN_SECONDS
    assert lanes.sides[1].total == Tally(begun=8)
    assert lanes.sides[1].total.pending == 8
    assert lanes.sides[1].waits == []
    assert lanes.sides[0].total == Tally(begun=8, fresh=8)


async def test_failures_and_cached_answers_are_told_apart(autojump_clock) -> None:
    async def fail(item: str) -> Answer:
        raise OSError("no")

    async def from_cache(item: str) -> Answer:
        return Answer(item, age=2.5, fresh=False)

    lanes = Lanes(fail, from_cache)
    await lanes.drive(4)
    assert lanes.sides[0].total == Tally(begun=8, failed=8)
    assert lanes.sides[0].errors == {"OSError": 8}
    assert lanes.sides[1].total == Tally(begun=8, cached=8)
    assert lanes.sides[1].oldest == 2.5
    assert lanes.sides[0].answered_ratio() == 0.0
    assert lanes.sides[1].answered_ratio() == 1.0
