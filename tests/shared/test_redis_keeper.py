"""The keeper of a connection, on the virtual clock and over connections that do what a test says."""

from __future__ import annotations

import random
from collections.abc import Generator
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trioresil._services._tasks import Tasks
from trioresil._shared.engine import EngineDownError
from trioresil._shared.redis_connections import AwayError, UnfitError
from trioresil._shared.redis_keeper import LATE, LONGEST_PAUSE, PATIENCE, Keeper


class Request:
    def __init__(self) -> None:
        self.answered = trio.Event()

    @property
    def complete(self) -> bool:
        return self.answered.is_set()

    def __await__(self) -> Generator[Any, None, object]:
        return self.answered.wait().__await__()


class Connection:
    """Usable until it breaks; answers a PING when told to."""

    def __init__(self, closed: trio.Event) -> None:
        self.closed = closed
        self.usable = True
        self.requests: list[Request] = []
        self.reasons: list[str] = []

    def ask(self, *words: object) -> Request:
        self.requests.append(Request())
        return self.requests[-1]

    def answer(self) -> None:
        for request in self.requests:
            request.answered.set()

    def invalidate(self, reason: str) -> None:
        self.reasons.append(reason)
        self.lose()

    def lose(self) -> None:
        self.usable = False
        self.closed.set()


class Rig:
    """A keeper, what it has told, when it tried, and how the next attempts go."""

    def __init__(self) -> None:
        self.tried_at: list[float] = []
        self.told: list[tuple[float, bool]] = []
        self.connections: list[Connection] = []
        self.error: Exception | None = None
        self.takes = 0.0
        self.check_takes = 0.0
        self.keeper = Keeper(
            "server",
            find=self._find,
            open=self._open,  # type: ignore[arg-type]
            check=self._check,
            changed=lambda keeper, up: self.told.append((trio.current_time(), up)),
            rng=Highest(),
        )

    async def _find(self) -> tuple[str, int]:
        return "host", 1

    async def _open(self, address: object, closed: trio.Event) -> Connection:
        self.tried_at.append(trio.current_time())
        await trio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        self.connections.append(Connection(closed))
        return self.connections[-1]

    async def _check(self, connection: object, address: object) -> None:
        await trio.sleep(self.check_takes)

    @property
    def last(self) -> Any:
        return self.connections[-1]


class Highest(random.Random):
    """Chance that makes every pause as long as it may be."""

    def random(self) -> float:
        return 0.0


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_who_asks_while_it_is_tried_waits_for_the_connection(
    autojump_clock: MockClock, nursery: trio.Nursery, rig: Rig
) -> None:
    rig.takes = 0.3
    nursery.start_soon(rig.keeper.run)
    assert await rig.keeper.wait(0.5) is rig.last
    assert trio.current_time() == 0.3
    assert rig.keeper.is_up
    assert rig.keeper.name == "host:1"
    assert rig.told == []


async def test_who_has_waited_in_vain_finds_it_down_for_all(
    autojump_clock: MockClock, nursery: trio.Nursery, rig: Rig
) -> None:
    rig.takes = 0.9
    nursery.start_soon(rig.keeper.run)
    with pytest.raises(EngineDownError, match=r"no connection within 0\.05 s"):
        await rig.keeper.wait(0.05)
    assert trio.current_time() == 0.05
    with pytest.raises(EngineDownError, match=r"no connection within 0\.05 s"):
        await rig.keeper.wait(5)
    assert trio.current_time() == 0.05
    await trio.sleep_until(0.91)
    assert await rig.keeper.wait(0) is rig.last
    assert rig.told == [(0.05, False), (0.9, True)]


async def test_pauses_between_attempts_double_up_to_half_a_second(
    autojump_clock: MockClock, nursery: trio.Nursery, rig: Rig
) -> None:
    rig.error = AwayError("refused")
    nursery.start_soon(rig.keeper.run)
    await trio.sleep(3)
    pauses = [round(b - a, 9) for a, b in pairwise(rig.tried_at)]
    assert pauses[:6] == [0.02, 0.04, 0.08, 0.16, 0.32, 0.5]
    assert set(pauses[6:]) == {LONGEST_PAUSE}
    assert rig.told == [(0, False)]
    rig.error = UnfitError("wrong password")
    await trio.sleep(1)
    assert str(rig.keeper.error) == "wrong password"
    rig.error = None
    await trio.sleep(0.5)
    assert rig.keeper.is_up
    assert len(rig.told) == 2


async def test_connection_that_breaks_is_made_anew_at_once_unless_it_was_young(
    autojump_clock: MockClock, nursery: trio.Nursery, rig: Rig
) -> None:
    nursery.start_soon(rig.keeper.run)
    await trio.sleep(1)
    rig.last.lose()
    await wait_all_tasks_blocked()
    rig.last.lose()
    await trio.sleep(0.1)
    rig.last.lose()
    await trio.sleep(0.3)
    assert rig.tried_at == pytest.approx([0, 1, 1.02, 1.14])
    assert rig.told == []


async def test_broken_connection_is_not_given_out(autojump_clock: MockClock, nursery: trio.Nursery, rig: Rig) -> None:
    nursery.start_soon(rig.keeper.run)
    await trio.sleep(1)
    first = rig.last
    rig.takes = 0.1
    first.usable = False
    rig.keeper.forget(first)
    rig.keeper.forget(first)
    first.lose()
    assert await rig.keeper.wait(1) is rig.last is not first
    assert trio.current_time() == 1.1


async def test_server_that_owes_an_answer_is_down_until_it_comes(
    autojump_clock: MockClock, nursery: trio.Nursery, rig: Rig
) -> None:
    nursery.start_soon(rig.keeper.run)
    await trio.sleep(1)
    async with Tasks("test") as tasks:
        for _ in range(3):  # three callers notice
            rig.keeper.suspect(rig.last, tasks, within=0.05, late_by=0)
        assert not rig.keeper.is_up
        await trio.sleep(0.7)
        assert len(rig.last.requests) == 1
        rig.last.answer()
        await wait_all_tasks_blocked()
        assert rig.keeper.is_up
        assert await rig.keeper.wait(0) is rig.last
    assert rig.told == [(1, False), (1.7, True)]
    assert rig.last.reasons == []


async def test_connection_that_goes_on_owing_is_given_up(
    autojump_clock: MockClock, nursery: trio.Nursery, rig: Rig
) -> None:
    nursery.start_soon(rig.keeper.run)
    await trio.sleep(1)
    first = rig.last
    async with Tasks("test") as tasks:
        rig.keeper.suspect(first, tasks, within=0.05, late_by=LATE)
        await trio.sleep(PATIENCE + 0.01)
        assert first.reasons == ["it owes an answer"]
        assert rig.keeper.is_up
        assert rig.last is not first
        rig.keeper.suspect(first, tasks, within=0.05, late_by=0)  # by one who had waited on the old one
        assert rig.keeper.is_up
    assert rig.told == [(1, False), (1 + PATIENCE, True)]


async def test_loop_that_was_held_up_asks_first(autojump_clock: MockClock, nursery: trio.Nursery, rig: Rig) -> None:
    nursery.start_soon(rig.keeper.run)
    await trio.sleep(1)
    async with Tasks("test") as tasks:
        rig.keeper.suspect(rig.last, tasks, within=0.05, late_by=0.02)
        await trio.sleep(0.04)
        rig.last.answer()
        await trio.sleep(2)
        assert rig.told == []
        rig.keeper.suspect(rig.last, tasks, within=0.05, late_by=0.02)
        await trio.sleep(0.06)
        assert str(rig.keeper.error) == "host:1 did not answer within 0.05 s"
        assert rig.told == [(pytest.approx(3.09), False)]


async def test_check_that_takes_too_long_gives_the_connection_up(
    autojump_clock: MockClock, nursery: trio.Nursery, rig: Rig
) -> None:
    rig.check_takes = 5
    nursery.start_soon(rig.keeper.run)
    await trio.sleep(PATIENCE + 0.01)
    assert rig.last.reasons == ["it owes an answer"]
    assert not rig.keeper.is_up
    assert rig.told == [(PATIENCE, False)]


async def test_keeper_that_is_no_longer_needed_ends(autojump_clock: MockClock, rig: Rig) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.keeper.run)
        await trio.sleep(1)
        rig.keeper.find_down(AwayError("away"))
        rig.keeper.stop()
    with pytest.raises(EngineDownError, match="is no longer part of it"):
        await rig.keeper.wait(5)
    assert rig.last.reasons == ["no longer needed"]
    assert rig.told == [(1, False), (1, True)]  # who was told of an outage hears its end


async def test_waiting_for_the_first_attempt_can_be_given_up(autojump_clock: MockClock, rig: Rig) -> None:
    rig.keeper.give_up(1)
    assert str(rig.keeper.error) == "server: no connection within 1 s"
    rig.keeper.give_up(2)
    assert str(rig.keeper.error) == "server: no connection within 1 s"
    assert rig.told == [(0, False)]
