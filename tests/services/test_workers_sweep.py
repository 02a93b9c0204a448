"""Workers and maps: cancelled at any moment, no item is lost or run twice, no outcome is lost, nobody waits for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.services._items import Book
from trioresil import PoolClosedError, Retry, Workers, map_concurrently, open_workers
from trioresil._services import _crew, _outcomes
from trioresil._services import workers as workers_module
from trioresil.testing import Sweep, SweepFailure, cancellation_sweep


class House:
    """Workers, those who send and read, and the invariants."""

    def __init__(
        self, sweep: Sweep, *, seconds: float = 1, errors: dict[Any, BaseException] | None = None, **options: Any
    ):
        self.sweep = sweep
        self.book = Book(seconds, errors)
        self.manager = open_workers(self.book.run, **options)
        self.workers: Workers[Any, Any] | None = None
        self.size, self.buffer = options.get("workers", 10), options.get("buffer", 0)
        self.has_results = "results" in options
        self.sent: list[Any] = []
        self.read: list[Any] = []
        sweep.when_quiet(self.check)

    def check(self) -> None:
        if self.workers is None:
            return
        now = self.workers.statistics()
        assert now.accepted == now.succeeded + now.failed + now.unfinished == len(self.sent)
        assert now.unfinished == len(self.workers.unfinished)
        assert now.queued <= self.buffer
        assert now.busy <= self.size
        assert not (now.sending and now.queued < self.buffer)
        assert not (now.sending or now.queued) or now.busy >= now.workers or self.workers._crew.is_over
        assert self.book.inside == now.busy - now.delivering

    async def send(self, item: Any) -> None:
        assert self.workers is not None
        try:
            await self.workers.send(item)
        except PoolClosedError:
            return
        self.sent.append(item)

    async def victim(self, *items: Any) -> None:
        with self.sweep.victim():
            for item in items:
                await self.send(item)

    async def read_all(self, receiver: Any) -> None:
        async with receiver:
            async for outcome in receiver:
                self.read.append(outcome.item)

    async def __aenter__(self) -> House:
        self.workers = await self.manager.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> bool | None:
        return await self.manager.__aexit__(*exc)

    def finish(self) -> None:
        workers, book = self.workers, self.book
        if workers is None:
            return
        now = workers.statistics()
        assert (now.busy, now.delivering, now.sending, book.inside) == (0, 0, 0, 0)
        assert Counter(book.entered).most_common(1)[0][1] == 1 if book.entered else True
        assert Counter(self.sent) == Counter(book.ended) + Counter(workers.unfinished)
        assert set(book.broken_off) <= set(workers.unfinished)
        assert now.accepted == now.succeeded + now.failed + len(workers.unfinished)
        if self.has_results:
            found = [*self.read, *(outcome.item for outcome in workers.undelivered)]
            assert Counter(found) == Counter(book.ended)


async def senders(sweep: Sweep) -> None:
    house = House(sweep, workers=2, buffer=1)
    async with house, trio.open_nursery() as nursery:
        for item in "abcd":
            nursery.start_soon(house.send, item)
        nursery.start_soon(house.victim, "v", "w")
        nursery.start_soon(house.send, "e")
    assert {*house.book.ended} >= {*"abcde"}
    house.finish()


async def unbuffered(sweep: Sweep) -> None:
    house = House(sweep, workers=1, seconds=0)
    async with house, trio.open_nursery() as nursery:
        nursery.start_soon(house.send, "a")
        nursery.start_soon(house.victim, "v", "w", "x")
        nursery.start_soon(house.send, "b")
    assert {*house.book.ended} >= {*"ab"}
    house.finish()


async def body(sweep: Sweep) -> None:
    """The victim is who opened the workers; others send meanwhile."""
    house = House(sweep, workers=2, buffer=1)

    async def guest(*items: str) -> None:
        await trio.sleep(0.5)
        if house.workers is not None:
            for item in items:
                await house.send(item)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(guest, "a", "b", "c")
        nursery.start_soon(guest, "d", "e")
        with sweep.victim():
            async with house:
                for item in "vwx":
                    await house.send(item)
    house.finish()


async def body_with_results(sweep: Sweep) -> None:
    house = House(sweep, workers=2, buffer=1, results=1, errors={"c": ValueError("c")})

    async def feed(workers: Workers[Any, Any]) -> None:
        for item in "abcdef":
            await house.send(item)
        workers.close_admission()

    with sweep.victim():
        async with house:
            assert house.workers is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed, house.workers)
                async for outcome in house.workers.results:
                    house.read.append(outcome.item)
                    await trio.sleep(0.25)
    house.finish()


async def body_unread(sweep: Sweep) -> None:
    """Nobody reads: all that ends is undelivered."""
    house = House(sweep, workers=2, buffer=5, results=1)
    with sweep.victim():
        async with house:
            for item in "abcde":
                await house.send(item)
            await trio.sleep(3)
    house.finish()


async def reader(sweep: Sweep) -> None:
    house = House(sweep, workers=2, buffer=1, results=0)

    async def victim(receiver: Any) -> None:
        with sweep.victim():
            await house.read_all(receiver)

    async with trio.open_nursery() as nursery:
        async with house:
            assert house.workers is not None
            nursery.start_soon(victim, house.workers.results.clone())
            nursery.start_soon(house.read_all, house.workers.results.clone())
            for item in "abcdef":
                await house.send(item)
    assert house.workers.unfinished == []
    house.finish()


async def raising(sweep: Sweep) -> None:
    error, raised = ValueError("b"), None
    house = House(sweep, workers=2, buffer=2, errors={"b": error})
    try:
        async with house:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.victim, "v", "w")
                for item in "abc":
                    await house.send(item)
            await trio.sleep(9)
    except ValueError as exc:
        raised = exc
    assert raised is error
    house.finish()


async def resized(sweep: Sweep) -> None:
    house = House(sweep, workers=3, buffer=1)

    async def victim() -> None:
        assert house.workers is not None
        with sweep.victim():
            for size in (1, 3, 2):
                await trio.sleep(0.5)
                house.size = max(house.size, size)
                house.workers.resize(size)
                await house.send(size)

    async with house, trio.open_nursery() as nursery:
        nursery.start_soon(victim)
        for item in "abcdefg":
            nursery.start_soon(house.send, item)
    assert {*house.book.ended} >= {*"abcdefg"}
    house.finish()


async def drained(sweep: Sweep) -> None:
    house, done = House(sweep, workers=1, buffer=1), []

    async def victim() -> None:
        assert house.workers is not None
        with sweep.victim():
            await house.workers.wait_drained()

    async def other() -> None:
        assert house.workers is not None
        await house.workers.wait_drained()
        done.append(trio.current_time())

    async with house, trio.open_nursery() as nursery:
        for item in "abc":
            nursery.start_soon(house.send, item)
        await trio.sleep(0.5)
        nursery.start_soon(victim)
        nursery.start_soon(other)
    assert len(done) == 1
    house.finish()


async def unread_opener(sweep: Sweep) -> None:
    """The opener is told that it waits in vain while a guest who waits to send is cancelled."""
    house, told = House(sweep, workers=1, results=1), 0
    async with house, trio.open_nursery() as nursery:
        for item in "ab":
            await house.send(item)
        nursery.start_soon(house.victim, "v")
        try:
            await house.send("c")
        except RuntimeError:
            told += 1
        async for outcome in house.workers.results if house.workers else ():  # type: ignore[union-attr]
            house.read.append(outcome.item)
            if not house.workers.statistics().unfinished:  # type: ignore[union-attr]
                break
    assert told == 1 or "c" in house.book.ended
    house.finish()


async def themselves(sweep: Sweep) -> None:
    """Functions send to the workers that run them; the victim opened those."""
    house = House(sweep, workers=2, buffer=9)
    plain = house.book.run

    async def visit(item: str) -> str:
        if len(item) < 3:
            await house.send(item + "l")
            await house.send(item + "r")
        return await plain(item)

    house.manager = open_workers(visit, workers=2, buffer=99)
    house.buffer = 99
    house.book.run = visit  # type: ignore[method-assign]
    with sweep.victim():
        async with house:
            await house.send("x")
            assert house.workers is not None
            await house.workers.wait_drained()
    house.finish()


SCENARIOS = [
    senders,
    unbuffered,
    body,
    body_with_results,
    body_unread,
    reader,
    raising,
    resized,
    drained,
    unread_opener,
    themselves,
]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.__name__))
def test_a_cancellation_loses_nothing(scenario: Callable[[Sweep], Awaitable[None]]) -> None:
    report = cancellation_sweep(scenario)
    assert report.cancelled > 10


# --- maps ----------------------------------------------------------------------------------------------------------------


class Source:
    """Items, from an iterator of either kind."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken: list[int] = []

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> int:
        if len(self.taken) == self.count:
            raise StopIteration
        self.taken.append(len(self.taken))
        return self.taken[-1]

    async def items(self) -> AsyncIterator[int]:
        while len(self.taken) < self.count:
            await trio.sleep(0.25)
            yield next(self)


def mapped(*, is_async: bool, ordered: bool, pause: float) -> Callable[[Sweep], Awaitable[None]]:
    async def scenario(sweep: Sweep) -> None:
        source, book = Source(8), Book(errors={3: ValueError(3)})
        read = []
        items: Any = source.items() if is_async else source
        manager = map_concurrently(book.run, items, workers=2, ordered=ordered, policy=Retry(on=OSError))
        outcomes = None
        with sweep.victim():
            async with manager as outcomes:
                async for outcome in outcomes:
                    read.append(outcome.item)
                    assert len(source.taken) - len(read) <= 4
                    await trio.sleep(pause)
        if outcomes is not None:
            undelivered = [outcome.item for outcome in outcomes.undelivered]
            assert sorted([*read, *undelivered]) == sorted(book.ended)
            assert sorted([*book.ended, *outcomes.unfinished]) == source.taken
            assert outcomes.unfinished == sorted(outcomes.unfinished)
            assert book.inside == 0
            assert len({*book.entered}) == len(book.entered)
            if ordered:
                assert [*read, *undelivered] == sorted([*read, *undelivered])
                assert read == list(range(len(read)))
        if is_async:
            await items.aclose()

    return scenario


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.75])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_cancelled_map_loses_nothing(is_async: bool, ordered: bool, pause: float) -> None:
    report = cancellation_sweep(mapped(is_async=is_async, ordered=ordered, pause=pause))
    assert report.cancelled > 50


# --- the sweep would notice -------------------------------------------------------------------------------------------------


def forget_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled sender stays in the queue."""
    monkeypatch.setattr(
        workers_module, "wait_task_rescheduled", lambda abort: WAIT(lambda _: trio.lowlevel.Abort.SUCCEEDED)
    )


def forget_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is gone is still handed items."""
    monkeypatch.setattr(_crew, "wait_task_rescheduled", lambda abort: WAIT(lambda _: trio.lowlevel.Abort.SUCCEEDED))


WAIT = trio.lowlevel.wait_task_rescheduled


def forget_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cancelled worker has in hand is forgotten."""
    monkeypatch.setattr(_crew.Crew, "in_hand", lambda self: [])


def lose_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the channel at the end is forgotten."""
    monkeypatch.setattr(_outcomes.OutcomeChannel, "close", lambda self: self._receiver.close())


def accept_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint between the decision that there is room and the step that takes it."""
    accept = Workers._accept
    wait = Workers._wait_to_send

    async def late(self: Any, item: Any) -> None:
        await trio.lowlevel.checkpoint()
        await wait(self, item)

    def never(self: Any, item: Any) -> bool:
        return bool(self._items) and accept(self, item)

    monkeypatch.setattr(Workers, "_wait_to_send", late)
    monkeypatch.setattr(Workers, "_accept", never)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "scenario"),
    [
        (forget_sender, senders),
        (forget_idle, body),
        (forget_left, body),
        (lose_outcome, body_unread),
        (accept_late, senders),
    ],
)
def test_a_planted_bug_is_noticed(
    plant: Callable[[pytest.MonkeyPatch], None],
    scenario: Callable[[Sweep], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises(SweepFailure):
        cancellation_sweep(scenario)
